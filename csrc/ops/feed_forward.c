/* feed_forward.c: the first half of a feed-forward block: inner = f(x W^T + b), times x G^T + c where it is gated. */
#include "sentpool.h"

/* Columns computed before the activation passes over them: few enough to be still in the cache. */
enum { COLUMNS = 128 };

void sp_expand_forward(const struct sp_inner *inner, const float *x, int64_t ldx, const struct sp_layer_weights *w,
                       enum sp_activation f, int64_t N, struct sp_team *team)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr, F = w->intermediate.rows, ld = inner->ld, first, end;
	while (sp_team_take(team, (F + nr - 1) / nr, 1, &first, &end)) {
		int64_t last = end * nr < F ? end * nr : F;
		for (int64_t col = first * nr, stop; col < last; col = stop) {
			stop = col + COLUMNS < last ? col + COLUMNS : last;
			float *y = inner->activated + col, *raw = inner->raw + col;
			sp_linear_columns(inner->raw, ld, x, ldx, &w->intermediate, w->intermediate_bias, N, col, stop);
			if (!w->gate.data) {
				kernels->activation(y, ld, raw, ld, f, N, stop - col);
				continue;
			}
			sp_linear_columns(inner->gate, ld, x, ldx, &w->gate, w->gate_bias, N, col, stop);
			kernels->gated_activation(y, ld, raw, ld, inner->gate + col, ld, f, N, stop - col);
		}
	}
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
