/* amx_bf16.c: matrix products in bfloat16 by AMX (tdpbf16ps), laid out as for the smaller unit (unit_bf16.c).
 *
 * The bits are this unit's own, as there; every value is one chain over k, whatever rows stand beside it.
 */
#include "kernels/kernels.h"
#include "kernels/low_precision.h"
#include "kernels/vec_low.h"

#if defined(SP_ISA_AVX512)

#include "kernels/amx.h"

#define ROW_BLOCK 256

static void block_end(float *c, int64_t ldc, const float *sums, const float *bias, int rows, int64_t cols)
{
	vf bias0 = v_load(bias), bias1 = v_load(bias + VL);
	for (int r = 0; r < rows; r++, c += ldc, sums += NR) {
		vf y0 = v_load(sums) + bias0, y1 = v_load(sums + VL) + bias1;
		if (cols == NR) {
			v_store(c, y0);
			v_store(c + VL, y1);
		} else {
			v_store_part(c, y0, cols < VL ? cols : VL);
			if (cols > VL)
				v_store_part(c + VL, y1, cols - VL);
		}
	}
}

/* Rows [0, m) of all panels; m is a multiple of AMX_ROWS or below it. */
static void rows_forward(float *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *panels,
                         const float *bias, int64_t m, int64_t n, int64_t depth)
{
	_Alignas(64) float sums[AMX_ROWS * NR];
	int rows = m < AMX_ROWS ? (int)m : AMX_ROWS;
	amx_enter(rows);
	for (int64_t col = 0; col < n; col += NR) {
		int64_t cols = n - col < NR ? n - col : NR;
		float biases[NR] = {0};
		if (bias)
			memcpy(biases, bias + col, (size_t)cols * sizeof(float));
		for (int64_t row = 0; row < m; row += rows) {
			AMX_BLOCK("tdpbf16ps", rows, sums, a + row * lda, 2 * lda, panels + col * depth, 2 * depth);
			block_end(c + row * ldc + col, ldc, sums, biases, rows, cols);
		}
	}
	amx_leave();
}

static void gemm(float *c, int64_t ldc, const void *a, int64_t lda, const uint16_t *panels, const float *bias,
                 int64_t m, int64_t n, int64_t k)
{
	for (int64_t row = 0, rows; row < m; row += rows) {
		rows = m - row < ROW_BLOCK ? m - row : ROW_BLOCK;
		rows = rows > AMX_ROWS ? rows / AMX_ROWS * AMX_ROWS : rows;
		rows_forward(c + row * ldc, ldc, (const uint16_t *)a + row * lda, lda, panels, bias, rows, n,
		             sp_low_depth(k));
	}
}

const struct sp_bf16_kernels sp_bf16_kernels_amx = {.rounds = 1,
                                                    .pack = sp_bf16_pack_pairs,
                                                    .round = sp_bf16_round_rows,
                                                    .widen = sp_bf16_widen_avx512,
                                                    .gemm = gemm};

#endif
