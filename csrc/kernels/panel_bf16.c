/* panel_bf16.c: matrix products against weights in bfloat16 where the CPU has no unit for them.
 *
 * Weights are widened to float32 block by block, on their way from memory at half the traffic, and multiplied by the
 * float32 kernel: the result is, bit for bit, that of a float32 product with rounded weights. A panel is
 * [k filled up][NR] halves.
 */
#include "kernels/kernels.h"
#include "kernels/low_precision.h"
#include "kernels/vec_low.h"

/* Rows between two prefetches, whole tiles of them, and halves in a cache line. */
enum { PIECE = 8 * MR, LINE = 32 };

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

/* Where a product goes on: one block of a panel's k against all rows. */
struct block {
	const float *a; /* its columns of A */
	int64_t lda, depth;
	const uint16_t *halves;
	int accumulate;
	const float *bias; /* NULL but for the last */
};

/* C[m, cols] = or += a block's share. While it is computed, weights of a whole block ahead come from memory piece by
 * piece. */
static void block_forward(float *c, int64_t ldc, struct block block, int64_t m, int64_t cols)
{
	_Alignas(64) float wide[SP_KC * NR];
	int64_t size = block.depth * NR, pieces = (m + PIECE - 1) / PIECE;
	SP_ISA_NAME(sp_bf16_widen)(wide, block.halves, size);
	for (int64_t row = 0, piece = 0; row < m; row += PIECE, piece++) {
		for (int64_t i = size * piece / pieces; i < size * (piece + 1) / pieces; i += LINE)
			__builtin_prefetch(block.halves + SP_KC * NR + i, 0, 2);
		struct sp_panel_a a = {block.a + row * block.lda, block.lda, 0};
		struct sp_panel_b b = {wide, 0, NR};
		int64_t rows = m - row < PIECE ? m - row : PIECE;
		if (block.accumulate)
			SP_ISA_NAME(sp_panel_gemm_add)(c + row * ldc, ldc, a, b, block.bias, rows, cols, block.depth);
		else
			SP_ISA_NAME(sp_panel_gemm)(c + row * ldc, ldc, a, b, block.bias, rows, cols, block.depth);
	}
}

static void gemm(float *c, int64_t ldc, const void *a, int64_t lda, const uint16_t *panels, const float *bias,
                 int64_t m, int64_t n, int64_t k)
{
	for (int64_t col = 0; col < n; col += NR)
		for (int64_t p = 0; p < k; p += SP_KC) {
			int last = k - p <= SP_KC;
			struct block block = {(const float *)a + p,
			                      lda,
			                      last ? k - p : SP_KC,
			                      panels + col * sp_low_depth(k) + p * NR,
			                      p > 0,
			                      bias && last ? bias + col : NULL};
			block_forward(c + col, ldc, block, m, n - col < NR ? n - col : NR);
		}
}

const struct sp_bf16_kernels SP_ISA_NAME(sp_bf16_kernels) = {
	.pack = pack, .widen = SP_ISA_NAME(sp_bf16_widen), .gemm = gemm};
