/* panel_bf16.c: matrix products against weights in bfloat16 where the CPU has no unit for them.
 *
 * Weights are widened to float32 block by block, on their way from memory at half the traffic, and multiplied by the
 * float32 kernel: the result is, bit for bit, that of a float32 product with rounded weights. A panel is
 * [k filled up][NR] halves.
 */
#include "kernels/kernels.h"
#include "kernels/low_precision.h"
#include "kernels/vec_low.h"

#define ROW_BLOCK 128 /* rows whose partial sums lie aside, in the level-1 cache with the widened block */

static void pack(uint16_t *panel, int64_t first, const float *source, int64_t ld, int64_t count, int64_t k)
{
	for (int64_t p = 0; p < k; p++)
		for (int64_t j = 0; j < count; j++)
			panel[p * NR + first + j] = sp_bf16_from_float(source[j * ld + p]);
}

void SP_ISA_NAME(sp_bf16_widen)(float *y, const uint16_t *x, int64_t n);

void SP_ISA_NAME(sp_bf16_widen)(float *y, const uint16_t *x, int64_t n)
{
	int64_t i = 0;
	for (; i + VL <= n; i += VL)
		v_store(y + i, v_load_bf16(x + i));
	if (i < n) {
		uint16_t part[VL] = {0};
		memcpy(part, x + i, (size_t)(n - i) * sizeof *x);
		v_store_part(y + i, v_load_bf16(part), n - i);
	}
}

/* c[rows, cols] = or += sums[rows][NR], and after the last block + bias */
static void take_block(float *c, int64_t ldc, const float *sums, int accumulate, const float *bias, int64_t rows,
                       int64_t cols)
{
	for (int64_t r = 0; r < rows; r++, c += ldc, sums += NR)
		for (int64_t j = 0; j < cols; j++) {
			float total = accumulate ? c[j] + sums[j] : sums[j];
			c[j] = bias ? total + bias[j] : total;
		}
}

static void gemm(float *c, int64_t ldc, const void *a, int64_t lda, const uint16_t *panels, const float *bias,
                 int64_t m, int64_t n, int64_t k)
{
	_Alignas(64) float block[SP_KC * NR], sums[ROW_BLOCK * NR];
	for (int64_t col = 0; col < n; col += NR) {
		const uint16_t *panel = panels + col * sp_low_depth(k);
		int64_t cols = n - col < NR ? n - col : NR;
		for (int64_t p = 0; p < k; p += SP_KC) {
			int64_t depth = k - p < SP_KC ? k - p : SP_KC;
			const float *last_bias = bias && p + depth == k ? bias + col : NULL;
			SP_ISA_NAME(sp_bf16_widen)(block, panel + p * NR, depth * NR);
			for (int64_t row = 0; row < m; row += ROW_BLOCK) {
				int64_t rows = m - row < ROW_BLOCK ? m - row : ROW_BLOCK;
				const float *x = (const float *)a + row * lda + p;
				SP_ISA_NAME(sp_panel_gemm)
				(sums, NR, (struct sp_panel_a){x, lda, 0}, (struct sp_panel_b){block, 0, NR}, NULL,
				 rows, NR, depth);
				take_block(c + row * ldc + col, ldc, sums, p > 0, last_bias, rows, cols);
			}
		}
	}
}

const struct sp_bf16_kernels SP_ISA_NAME(sp_bf16_kernels) = {
	.pack = pack, .widen = SP_ISA_NAME(sp_bf16_widen), .gemm = gemm};
