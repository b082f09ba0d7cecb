/* linear.c: y = x W^T + b, by packed panels or by BLIS, with the same bits, in low precision by panels of their own; its
 * gradients, always by panels.
 */
#include "sentpool.h"

#include <string.h>

static void float_columns(float *y, int64_t ldy, const float *x, int64_t ldx, const struct sp_matrix *weight,
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

void sp_linear_columns(float *y, int64_t ldy, struct sp_rows x, const struct sp_matrix *weight, const float *bias,
                       int64_t N, int64_t first, int64_t end)
{
	const struct sp_low_runtime *low;
	int64_t in = weight->cols, place = first * sp_low_depth(in);
	const float *biases = bias ? bias + first : NULL;
	switch (weight->format) {
	case SP_FLOAT32: float_columns(y, ldy, x.data, x.ld, weight, bias, N, first, end); return;
	case SP_BFLOAT16:
		low = sp_low_runtime();
		low->bf16->gemm(y + first, ldy, x.data, x.ld, (const uint16_t *)(const void *)weight->data + place,
		                biases, N, end - first, in);
		return;
	case SP_INT8:
		low = sp_low_runtime();
		low->int8->gemm(y + first, ldy, x.data, x.ld, x.range,
		                (struct sp_int8_panels){(const int8_t *)(const void *)weight->data + place,
		                                        weight->scale + first, weight->offset + first},
		                biases, weight->digits, N, end - first, in);
	}
}

void sp_linear_count(const struct sp_matrix *weight, int64_t products)
{
	if (products && weight->format == SP_FLOAT32 && sp_runtime()->engine == SP_PANEL)
		sp_count_panel_calls(products);
}

void sp_linear_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const struct sp_matrix *weight,
                       const float *bias, int64_t N, float *low, struct sp_team *team)
{
	int64_t nr = sp_runtime()->kernels->nr, out = weight->rows, products = 0, first, end;
	struct sp_rows input = sp_rows_for(weight, x, ldx, N, low, team);
	for (; sp_team_take(team, (out + nr - 1) / nr, 1, &first, &end); products++)
		sp_linear_columns(y, ldy, input, weight, bias, N, first * nr, end * nr < out ? end * nr : out);
	sp_linear_count(weight, products);
}

int64_t sp_transposed_floats(int64_t out, int64_t in)
{
	int64_t nr = sp_runtime()->kernels->nr;
	return (in + nr - 1) / nr * nr * out;
}

void sp_linear_transpose(const struct sp_matrix *transposed, const float *weight, struct sp_team *team)
{
	int64_t nr = sp_runtime()->kernels->nr, in = transposed->rows, out = transposed->cols, first, end;
	while (sp_team_take(team, (in + nr - 1) / nr, 1, &first, &end))
		for (int64_t panel = first; panel < end; panel++) {
			int64_t count = in - panel * nr < nr ? in - panel * nr : nr;
			float *row = transposed->data + panel * nr * out;
			for (int64_t o = 0; o < out; o++, row += nr) {
				memcpy(row, weight + o * in + panel * nr, (size_t)count * sizeof(float));
				memset(row + count, 0, (size_t)(nr - count) * sizeof(float));
			}
		}
}

void sp_linear_backward(float *dx, int64_t lddx, const float *dy, int64_t lddy, const struct sp_matrix *transposed,
                        int64_t N, struct sp_team *team)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr, in = transposed->rows, out = transposed->cols, first, end;
	while (sp_team_take(team, (in + nr - 1) / nr, 1, &first, &end)) {
		struct sp_panel_b panels = {transposed->data + first * nr * out, out * nr, nr};
		int64_t cols = end * nr < in ? (end - first) * nr : in - first * nr;
		kernels->gemm(dx + first * nr, lddx, (struct sp_panel_a){dy, lddy, 0}, panels, NULL, N, cols, out);
	}
}

/* Outputs of a weight that a rank takes at least, and at most goes through at once: multiples of every tile height. */
enum { WEIGHT_ROWS = 84, BLOCK_ROWS = 3 * WEIGHT_ROWS, LD_BLOCK = SP_KC + 16 };

int64_t sp_linear_backward_scratch(void)
{
	return BLOCK_ROWS * LD_BLOCK + SP_KC * sp_runtime()->kernels->nr;
}

/* dweight[rows, in] += dy[T, rows]^T x[T, in], T up to SP_KC: dy is turned and x packed, so that both are read in order. */
static void add_group(float *dweight, const float *dy, int64_t lddy, const float *x, int64_t ldx, int64_t rows,
                      int64_t in, int64_t T, float *scratch)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	float *turned = scratch, *panel = scratch + BLOCK_ROWS * LD_BLOCK;
	int64_t nr = kernels->nr;
	kernels->transpose(turned, LD_BLOCK, dy, lddy, T, rows);
	for (int64_t column = 0; column < in; column += nr) {
		int64_t cols = in - column < nr ? in - column : nr;
		kernels->activation(panel, nr, x + column, ldx, SP_IDENTITY, T, cols); /* a copy, by vectors */
		kernels->gemm_add(dweight + column, in, (struct sp_panel_a){turned, LD_BLOCK, 0},
		                  (struct sp_panel_b){panel, 0, nr}, NULL, rows, cols, T);
	}
}

void sp_linear_backward_weight(const struct sp_matrix *dweight, float *dbias, const float *dy, int64_t lddy,
                               const float *x, int64_t ldx, const struct sp_groups *groups, float *scratch,
                               struct sp_team *team)
{
	int64_t out = dweight->rows, in = dweight->cols, first, end;
	while (sp_team_take(team, (out + WEIGHT_ROWS - 1) / WEIGHT_ROWS, 1, &first, &end)) {
		int64_t last = end * WEIGHT_ROWS < out ? end * WEIGHT_ROWS : out;
		for (int64_t row = first * WEIGHT_ROWS, rows; row < last; row += rows) {
			rows = last - row < BLOCK_ROWS ? last - row : BLOCK_ROWS;
			for (int64_t g = 0; g < groups->n; g++) {
				int64_t start = groups->cuts[g], T = groups->cuts[g + 1] - start;
				const float *mine = dy + start * lddy + row;
				add_group(dweight->data + row * in, mine, lddy, x + start * ldx, ldx, rows, in, T,
				          scratch);
				if (dbias)
					sp_runtime()->kernels->columns_add(dbias + row, mine, lddy, NULL, 0, T, rows);
			}
		}
	}
}
