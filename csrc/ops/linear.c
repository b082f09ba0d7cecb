/* linear.c: y = f(x W^T + b), by packed panels or by BLIS, with the same bits. */
#include "sentpool.h"

/* Columns computed before the activation passes over them: few enough to be still in the cache. */
enum { ACTIVATION_COLUMNS = 128 };

static void product(float *y, int64_t ldy, const float *x, int64_t ldx, const struct sp_matrix *weight,
                    const float *bias, int64_t N, int64_t first, int64_t end)
{
	const struct sp_runtime *runtime = sp_runtime();
	int64_t in = weight->cols, nr = runtime->kernels->nr;
	if (runtime->engine == SP_PANEL) {
		struct sp_panel_b panels = {weight->data + first * in, in * nr, nr};
		runtime->kernels->gemm(y + first, ldy, (struct sp_panel_a){x, ldx, 0}, panels,
		                       bias ? bias + first : NULL, N, end - first, in);
		return;
	}
	struct sp_strided a = {x, ldx, 1}, b = {weight->data + first * in, 1, in};
	sp_blis_gemm(y + first, ldy, a, b, N, end - first, in);
	for (int64_t r = 0; bias && r < N; r++)
		for (int64_t j = first; j < end; j++)
			y[r * ldy + j] = y[r * ldy + j] + bias[j];
}

static void columns_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const struct sp_matrix *weight,
                            const float *bias, enum sp_activation f, int64_t N, int64_t first, int64_t end)
{
	const struct sp_runtime *runtime = sp_runtime();
	int64_t step = f == SP_IDENTITY ? end - first : ACTIVATION_COLUMNS;
	for (int64_t col = first; col < end; col += step) {
		int64_t stop = col + step < end ? col + step : end;
		product(y, ldy, x, ldx, weight, bias, N, col, stop);
		if (f != SP_IDENTITY)
			runtime->kernels->activation(y + col, ldy, y + col, ldy, f, N, stop - col);
	}
	if (runtime->engine == SP_PANEL)
		sp_count_panel_calls(1);
}

void sp_linear_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const struct sp_matrix *weight,
                       const float *bias, enum sp_activation f, int64_t N, struct sp_team *team)
{
	int64_t nr = sp_runtime()->kernels->nr, out = weight->rows, first, end;
	while (sp_team_take(team, (out + nr - 1) / nr, 1, &first, &end))
		columns_forward(y, ldy, x, ldx, weight, bias, f, N, first * nr, end * nr < out ? end * nr : out);
}
