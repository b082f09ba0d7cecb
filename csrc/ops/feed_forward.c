/* feed_forward.c: the first half of a feed-forward block: inner = f(x W^T + b), times x G^T + c where it is gated. */
#include "sentpool.h"

/* Columns computed before the activation passes over them: few enough to be still in the cache. */
enum { COLUMNS = 128 };

void sp_expand_forward(const struct sp_inner *inner, const float *x, int64_t ldx, const struct sp_layer_weights *w,
                       enum sp_activation f, int64_t N, float *low, struct sp_team *team)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr, F = w->intermediate.rows, ld = inner->ld, products = 0, first, end;
	int gated = w->gate.data != NULL;
	if (f == SP_GELU && sp_rows_floats(w->output.format, F)) /* where `output` rounds what it reads */
		f = SP_GELU_LOW;
	struct sp_rows input = sp_rows_for(&w->intermediate, x, ldx, N, low, team);
	/* In low precision the two weights read rows of their own, one after the other. */
	struct sp_rows gate_input = input;
	if (gated)
		gate_input =
			sp_rows_for(&w->gate, x, ldx, N, low + N * sp_rows_floats(w->gate.format, w->gate.cols), team);
	while (sp_team_take(team, (F + nr - 1) / nr, 1, &first, &end)) {
		int64_t last = end * nr < F ? end * nr : F;
		for (int64_t col = first * nr, stop; col < last; col = stop, products++) {
			stop = col + COLUMNS < last ? col + COLUMNS : last;
			float *y = inner->activated + col, *raw = inner->raw + col;
			sp_linear_columns(inner->raw, ld, input, &w->intermediate, w->intermediate_bias, N, col, stop);
			if (!gated) {
				kernels->activation(y, ld, raw, ld, f, N, stop - col);
				continue;
			}
			sp_linear_columns(inner->gate, ld, gate_input, &w->gate, w->gate_bias, N, col, stop);
			kernels->gated_activation(y, ld, raw, ld, inner->gate + col, ld, f, N, stop - col);
		}
	}
	sp_linear_count(&w->intermediate, products);
	if (gated)
		sp_linear_count(&w->gate, products);
}

void sp_expand_backward(float *draw, float *dgate, const struct sp_inner *inner, const float *dactivated,
                        enum sp_activation f, int64_t N, int64_t F, struct sp_team *team)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t ld = inner->ld, first, end;
	while (sp_team_take(team, N, SP_ROW_GRAIN, &first, &end)) {
		int64_t at = first * ld, rows = end - first;
		float *y = inner->activated + at, *dx = draw + at;
		kernels->activation_backward(dx, ld, y, ld, dactivated + at, ld, inner->raw + at, ld, f, rows, F);
		if (!dgate)
			continue;
		kernels->multiply(dgate + at, ld, dactivated + at, ld, y, ld, rows, F);
		kernels->multiply(dx, ld, dx, ld, inner->gate + at, ld, rows, F);
		kernels->multiply(y, ld, y, ld, inner->gate + at, ld, rows, F);
	}
}
