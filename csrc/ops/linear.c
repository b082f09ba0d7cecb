/* linear.c: y = x W^T + b, by packed panels or by BLIS, with the same bits. */
#include "sentpool.h"

void sp_linear_columns(float *y, int64_t ldy, const float *x, int64_t ldx, const struct sp_matrix *weight,
                       const float *bias, int64_t N, int64_t first, int64_t end)
{
	const struct sp_runtime *runtime = sp_runtime();
	int64_t in = weight->cols, nr = runtime->kernels->nr;
	if (runtime->engine == SP_PANEL) {
		struct sp_panel_b panels = {weight->data + first * in, in * nr, nr};
		runtime->kernels->gemm(y + first, ldy, (struct sp_panel_a){x, ldx, 0}, panels,
		                       bias ? bias + first : NULL, N, end - first, in);
		sp_count_panel_calls(1);
		return;
	}
	struct sp_strided a = {x, ldx, 1}, b = {weight->data + first * in, 1, in};
	sp_blis_gemm(y + first, ldy, a, b, N, end - first, in);
	for (int64_t r = 0; bias && r < N; r++)
		for (int64_t j = first; j < end; j++)
			y[r * ldy + j] = y[r * ldy + j] + bias[j];
}

void sp_linear_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const struct sp_matrix *weight,
                       const float *bias, int64_t N, struct sp_team *team)
{
	int64_t nr = sp_runtime()->kernels->nr, out = weight->rows, first, end;
	while (sp_team_take(team, (out + nr - 1) / nr, 1, &first, &end))
		sp_linear_columns(y, ldy, x, ldx, weight, bias, N, first * nr, end * nr < out ? end * nr : out);
}
