/* unit_bf16.c: matrix products in bfloat16 by the CPU's own instruction, vdpbf16ps.
 *
 * It multiplies pairs of bfloat16 and adds them to a float32 sum, in a way of its own (subnormals are zeros), so these
 * bits are promised for one CPU model only; still each is one chain over k, whatever rows stand beside it.
 * A panel is [k filled up / 2][NR][2] halves. Compiled per instruction set like its neighbours, it holds something only
 * in the AVX-512 build.
 */
#include "kernels/kernels.h"
#include "kernels/low_precision.h"
#include "kernels/vec_low.h"

#if defined(SP_ISA_AVX512)

#define UNIT __attribute__((target("avx512bf16")))
#define PREFETCH_HALVES 6144 /* as far ahead as panel.c's */
#define ROW_BLOCK 256

void sp_bf16_pack_pairs(uint16_t *panel, int64_t first, const float *source, int64_t ld, int64_t count, int64_t k)
{
	for (int64_t p = 0; p < k; p++)
		for (int64_t j = 0; j < count; j++)
			panel[p / 2 * 2 * NR + (first + j) * 2 + p % 2] = sp_bf16_from_float(source[j * ld + p]);
}

UNIT void sp_bf16_round_rows(uint16_t *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, int64_t k)
{
	for (int64_t r = 0; r < rows; r++, y += ldy, x += ldx) {
		int64_t i = 0;
		for (; i + VL <= k; i += VL) {
			__m256bh halves = _mm512_cvtneps_pbh((__m512)v_load(x + i));
			memcpy(y + i, &halves, sizeof halves);
		}
		for (; i < sp_low_depth(k); i++)
			y[i] = i < k ? sp_bf16_from_float(x[i]) : 0;
	}
}

/* `rows` x NR values of C. A constant in every caller, so the sums live in registers. */
UNIT INLINE void tile(const int rows, float *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *b,
                      vf bias0, vf bias1, int64_t k)
{
	const uint16_t *a_rows[MR];
	SHARE_POINTERS(a_rows, rows, a, lda);
	__m512 sum[MR][2];
	UNROLL
	for (int r = 0; r < rows; r++)
		sum[r][0] = sum[r][1] = _mm512_setzero_ps();
	for (int64_t p = 0; p < k; p += 2) {
		const uint16_t *row = b + p * NR;
		__builtin_prefetch(row + PREFETCH_HALVES, 0, 3);
		__builtin_prefetch(row + PREFETCH_HALVES + 32, 0, 3);
		__m512bh b0, b1;
		memcpy(&b0, row, sizeof b0);
		memcpy(&b1, row + NR, sizeof b1);
		UNROLL
		for (int r = 0; r < rows; r++) {
			int32_t pair;
			memcpy(&pair, a_rows[r / 3 * 3] + r % 3 * lda + p, sizeof pair);
			__m512bh x = (__m512bh)_mm512_set1_epi32(pair);
			sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, b0);
			sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, b1);
		}
	}
	UNROLL
	for (int r = 0; r < rows; r++) {
		v_store(c + r * ldc, (vf)sum[r][0] + bias0);
		v_store(c + r * ldc + VL, (vf)sum[r][1] + bias1);
	}
}

/* clang-format off */
#define HEIGHT(n) case n: tile(n, c, ldc, a, lda, b, bias0, bias1, k); break;
UNIT static void tile_of_height(int rows, float *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *b,
                                const float *bias, int64_t k)
{
	vf bias0 = v_load(bias), bias1 = v_load(bias + VL);
	switch (rows) {
		HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(5) HEIGHT(6) HEIGHT(7)
		HEIGHT(8) HEIGHT(9) HEIGHT(10) HEIGHT(11) HEIGHT(12) HEIGHT(13) HEIGHT(14)
	}
}
/* clang-format on */

/* Rows of one panel, split into tiles of nearly equal height. A panel with fewer than NR columns is computed aside. */
static void panel_forward(float *c, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *panel,
                          const float *bias, int64_t rows, int64_t cols, int64_t k)
{
	float aside[MR * NR], biases[NR] = {0};
	if (bias)
		take_numbers(biases, bias, cols);
	int64_t tiles = (rows + MR - 1) / MR, row = 0;
	for (int64_t t = 0; t < tiles; t++) {
		int height = (int)(rows / tiles + (t < rows % tiles));
		if (cols == NR) {
			tile_of_height(height, c + row * ldc, ldc, a + row * lda, lda, panel, biases, k);
		} else {
			tile_of_height(height, aside, NR, a + row * lda, lda, panel, biases, k);
			for (int64_t r = 0; r < height; r++)
				memcpy(c + (row + r) * ldc, aside + r * NR, (size_t)cols * sizeof(float));
		}
		row += height;
	}
}

static void gemm(float *c, int64_t ldc, const void *a, int64_t lda, const uint16_t *panels, const float *bias,
                 int64_t m, int64_t n, int64_t k)
{
	int64_t depth = sp_low_depth(k);
	for (int64_t first = 0; first < m; first += ROW_BLOCK) {
		int64_t rows = m - first < ROW_BLOCK ? m - first : ROW_BLOCK;
		for (int64_t col = 0; col < n; col += NR)
			panel_forward(c + first * ldc + col, ldc, (const uint16_t *)a + first * lda, lda,
			              panels + col * depth, bias ? bias + col : NULL, rows, n - col < NR ? n - col : NR,
			              depth);
	}
}

const struct sp_bf16_kernels sp_bf16_kernels_unit = {.rounds = 1,
                                                     .pack = sp_bf16_pack_pairs,
                                                     .round = sp_bf16_round_rows,
                                                     .widen = sp_bf16_widen_avx512,
                                                     .gemm = gemm};

#endif
