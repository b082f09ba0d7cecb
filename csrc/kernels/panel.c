/* panel.c: matrix products against packed panels, the kernel under the encoder.
 *
 * The contract of every product in the project (the BLIS engine keeps it too): C[i,j] is a sum over blocks of
 * SP_KC values of k, in order; inside a block one chain of fused multiply-adds in ascending k, starting from 0;
 * the first block is stored, later ones are added with one rounding each; the bias is added last.
 * Tile height, vector width and threads therefore never change a bit.
 *
 * A weight [out, in] is packed once into panels of NR outputs, each [in][NR]; a tile of up to MR x NR sums
 * stays in registers while k runs. The same tile serves attention, with other strides (ops/attention.c).
 */
#include "kernels/kernels.h"
#include "kernels/vec.h"

/* Where a panel's row is one cache line, rounds are so short that the loop's own instructions would be felt: four are
 * one. */
#if VL == 16
#define UNROLL_DEPTH
#elif defined(__clang__)
#define UNROLL_DEPTH _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL_DEPTH _Pragma("GCC unroll 4")
#endif

/* Rows of A that share one pass over a panel: they must stay in the level-2 cache. */
#define ROW_BLOCK 256

/* What a tile's sums begin with, and what is added after the last block of k. */
struct tile_end {
	int accumulate;    /* add to what C holds */
	const float *bias; /* NULL: none */
};

/* Panels are read once per block of rows, first from main memory, so they are fetched ahead; but past the level-2 cache
 * where A is one tile and no panel is read a second time (`once`). */
INLINE void panel_fetch(const float *row, const int once)
{
#if VL == 16
	if (once) {
		__builtin_prefetch(row + 3072, 0, 0);
		__builtin_prefetch(row + 3072 + VL, 0, 0);
	} else {
		__builtin_prefetch(row + 3072, 0, 3);
		__builtin_prefetch(row + 3072 + VL, 0, 3);
	}
#else
	(void)once;
	__builtin_prefetch(row + 512, 0, 3);
#endif
}

/* Add a block's sums to C, or store them where it is the first; the bias after the last. */
INLINE void tile_store(const int rows, const int vectors, float *c, int64_t ldc, vf sum[MR][2], int accumulate,
                       const float *bias)
{
	UNROLL
	for (int r = 0; r < rows; r++)
		for (int j = 0; j < vectors; j++) {
			float *out = c + r * ldc + j * VL;
			if (accumulate)
				sum[r][j] = v_load(out) + sum[r][j];
			if (bias)
				sum[r][j] = sum[r][j] + v_load(bias + j * VL);
			v_store(out, sum[r][j]);
		}
}

/* `rows` rows of C for the first of a panel's vectors or for both, block after block of k: its sums are in the level-1
 * cache from one block to the next. `by_column` picks the layout of A: a[r * lda + p] or a[p * lda + r]. It, `rows`,
 * `vectors` and `once` are compile-time constants in every caller, so the sums of a block live in registers. */
INLINE void tile_forward(const int rows, const int vectors, const int by_column, const int once, float *c, int64_t ldc,
                         const float *a, int64_t lda, const float *b, int64_t ldb, int64_t k, struct tile_end end)
{
	const float *a_rows[MR];
	if (!by_column)
		SHARE_POINTERS(a_rows, rows, a, lda);
	UNROLL
	for (int r = 0; r < rows; r++) {
		__builtin_prefetch(c + r * ldc, 1);
		__builtin_prefetch(c + r * ldc + vectors * VL - 1, 1);
	}

	int64_t start = 0, stop;
	do { /* k = 0 still stores zeros plus the bias */
		vf sum[MR][2];
		UNROLL
		for (int r = 0; r < rows; r++)
			for (int j = 0; j < vectors; j++)
				sum[r][j] = (vf){0};
		stop = k - start < SP_KC ? k : start + SP_KC;
		UNROLL_DEPTH
		for (int64_t p = start; p < stop; p++) {
			const float *row = b + p * ldb;
			panel_fetch(row, once);
			vf columns[] = {v_load(row), v_load(row + (vectors - 1) * VL)};
			UNROLL
			for (int r = 0; r < rows; r++) {
				vf x = v_set(by_column ? a[p * lda + r] : a_rows[r / 3 * 3][r % 3 * lda + p]);
				for (int j = 0; j < vectors; j++)
					sum[r][j] = v_fma(x, columns[j], sum[r][j]);
			}
		}
		tile_store(rows, vectors, c, ldc, sum, end.accumulate || start > 0, stop == k ? end.bias : NULL);
		start = stop;
	} while (start < k);
}

/* One instance of tile_forward per height, so that each is straight-line code. */
#define HEIGHT(n)                                                                                                      \
	case n: tile_forward(n, vectors, by_column, once, c, ldc, a, lda, b, ldb, k, end); break;

/* clang-format off */
#if MR == 14
#define HEIGHTS \
	HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(5) HEIGHT(6) HEIGHT(7) \
	HEIGHT(8) HEIGHT(9) HEIGHT(10) HEIGHT(11) HEIGHT(12) HEIGHT(13) HEIGHT(14)
#elif MR == 6
#define HEIGHTS HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(5) HEIGHT(6)
#else
#define HEIGHTS HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4)
#endif
/* clang-format on */

#define TILE_ARGS                                                                                                      \
	int rows, float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t k,          \
		struct tile_end end

/* A by rows against a packed panel: linear layers and attention scores. */
static void tile_packed(TILE_ARGS)
{
	enum { vectors = 2, by_column = 0, once = 0 };
	ldb = NR;
	switch (rows) {
		HEIGHTS
	}
}

/* The only tile that there is, against a packed panel. */
static void tile_once(TILE_ARGS)
{
	enum { vectors = 2, by_column = 0, once = 1 };
	ldb = NR;
	switch (rows) {
		HEIGHTS
	}
}

/* A by rows against a packed panel of which the first half is wanted: scores of up to so many queries. */
static void tile_half(TILE_ARGS)
{
	enum { vectors = 1, by_column = 0, once = 0 };
	ldb = NR;
	switch (rows) {
		HEIGHTS
	}
}

/* A by rows, B rows at any stride. */
static void tile_rows(TILE_ARGS)
{
	enum { vectors = 2, by_column = 0, once = 0 };
	switch (rows) {
		HEIGHTS
	}
}

/* A by columns, B rows at any stride: attention's weights times values. */
static void tile_columns(TILE_ARGS)
{
	enum { vectors = 2, by_column = 1, once = 0 };
	switch (rows) {
		HEIGHTS
	}
}

typedef void tile_fn(TILE_ARGS);

/* A tile whose panel has fewer than NR valid columns: computed aside, copied back. */
static void tile_narrow(tile_fn *tile, int64_t cols, TILE_ARGS)
{
	float aside[MR * NR];
	float bias[NR] = {0};
	if (end.bias) {
		memcpy(bias, end.bias, (size_t)cols * sizeof(float));
		end.bias = bias;
	}
	if (end.accumulate)
		for (int r = 0; r < rows; r++)
			memcpy(aside + r * NR, c + r * ldc, (size_t)cols * sizeof(float));
	tile(rows, aside, NR, a, lda, b, ldb, k, end);
	for (int r = 0; r < rows; r++)
		memcpy(c + r * ldc, aside + r * NR, (size_t)cols * sizeof(float));
}

/* Rows [0, m) of one panel, split into tiles of nearly equal height. */
static void panel_forward(tile_fn *tile, float *c, int64_t ldc, const struct sp_panel_a *a, const float *a_rows,
                          const float *b, int64_t ldb, struct tile_end whole, int64_t m, int64_t cols, int64_t k)
{
	int64_t n_tiles = (m + MR - 1) / MR;
	int64_t height = m / n_tiles, taller = m % n_tiles, row = 0;
	for (int64_t t = 0; t < n_tiles; t++) {
		int rows = (int)(height + (t < taller));
		const float *a_tile = a_rows + row * (a->by_column ? 1 : a->ld);
		if (cols == NR || tile == tile_half)
			tile(rows, c + row * ldc, ldc, a_tile, a->ld, b, ldb, k, whole);
		else
			tile_narrow(tile, cols, rows, c + row * ldc, ldc, a_tile, a->ld, b, ldb, k, whole);
		row += rows;
	}
}

INLINE void product(float *c, int64_t ldc, struct sp_panel_a a, struct sp_panel_b b, struct tile_end whole, int64_t m,
                    int64_t n, int64_t k)
{
	tile_fn *packed = n == VL ? tile_half : m > MR ? tile_packed : tile_once;
	tile_fn *tile = a.by_column ? tile_columns : b.row_stride == NR ? packed : tile_rows;
	for (int64_t row = 0; row < m; row += ROW_BLOCK) {
		int64_t rows = m - row < ROW_BLOCK ? m - row : ROW_BLOCK;
		const float *a_rows = a.data + row * (a.by_column ? 1 : a.ld);
		for (int64_t col = 0; col < n; col += NR) {
			int64_t cols = n - col < NR ? n - col : NR;
			const float *panel = b.data + col / NR * b.panel_stride;
			struct tile_end end = {whole.accumulate, whole.bias ? whole.bias + col : NULL};
			panel_forward(tile, c + row * ldc + col, ldc, &a, a_rows, panel, b.row_stride, end, rows, cols,
			              k);
		}
	}
}

/* C[m,n] = A[m,k] B[k,n] (+ bias[n]); see kernels.h for the operands. */
void SP_ISA_NAME(sp_panel_gemm)(float *c, int64_t ldc, struct sp_panel_a a, struct sp_panel_b b, const float *bias,
                                int64_t m, int64_t n, int64_t k)
{
	product(c, ldc, a, b, (struct tile_end){0, bias}, m, n, k);
}

/* C[m,n] += A[m,k] B[k,n] (then + bias[n]) */
void SP_ISA_NAME(sp_panel_gemm_add)(float *c, int64_t ldc, struct sp_panel_a a, struct sp_panel_b b, const float *bias,
                                    int64_t m, int64_t n, int64_t k)
{
	product(c, ldc, a, b, (struct tile_end){1, bias}, m, n, k);
}

/* y[4][4] = x[4][4] transposed. */
INLINE void transpose_block(float *y, int64_t ldy, const float *x, int64_t ldx)
{
#if VL > 4
	__m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + ldx);
	__m128 c = _mm_loadu_ps(x + 2 * ldx), d = _mm_loadu_ps(x + 3 * ldx);
	_MM_TRANSPOSE4_PS(a, b, c, d);
	_mm_storeu_ps(y, a);
	_mm_storeu_ps(y + ldy, b);
	_mm_storeu_ps(y + 2 * ldy, c);
	_mm_storeu_ps(y + 3 * ldy, d);
#else
	for (int r = 0; r < 4; r++)
		for (int c = 0; c < 4; c++)
			y[c * ldy + r] = x[r * ldx + c];
#endif
}

INLINE void transpose(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, int64_t cols)
{
	int64_t whole_rows = rows / 4 * 4, whole_cols = cols / 4 * 4;
	for (int64_t r = 0; r < whole_rows; r += 4)
		for (int64_t c = 0; c < whole_cols; c += 4)
			transpose_block(y + c * ldy + r, ldy, x + r * ldx + c, ldx);
	for (int64_t r = 0; r < rows; r++)
		for (int64_t c = r < whole_rows ? whole_cols : 0; c < cols; c++)
			y[c * ldy + r] = x[r * ldx + c];
}

/* y[cols, rows] = x[rows, cols] transposed. */
void SP_ISA_NAME(sp_transpose)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, int64_t cols)
{
	transpose(y, ldy, x, ldx, rows, cols);
}

/* Copy `count` rows of `source` into columns [first, first + count) of one panel [k][NR]. */
void SP_ISA_NAME(sp_panel_pack)(float *panel, int64_t first, const float *source, int64_t ld, int64_t count, int64_t k)
{
	transpose(panel + first, NR, source, ld, count, k);
}

#if VL == 16

/* x[16] transposed: within blocks of 4 x 4, then block by block. */
INLINE void transpose_vectors(__m512 x[VL])
{
	__m512 y[VL];
	UNROLL
	for (int i = 0; i < VL; i += 4) {
		__m512d a = (__m512d)_mm512_unpacklo_ps(x[i], x[i + 1]),
			b = (__m512d)_mm512_unpackhi_ps(x[i], x[i + 1]);
		__m512d c = (__m512d)_mm512_unpacklo_ps(x[i + 2], x[i + 3]);
		__m512d d = (__m512d)_mm512_unpackhi_ps(x[i + 2], x[i + 3]);
		y[i] = (__m512)_mm512_unpacklo_pd(a, c);
		y[i + 1] = (__m512)_mm512_unpackhi_pd(a, c);
		y[i + 2] = (__m512)_mm512_unpacklo_pd(b, d);
		y[i + 3] = (__m512)_mm512_unpackhi_pd(b, d);
	}
	UNROLL
	for (int i = 0; i < 4; i++) {
		__m512 a = _mm512_shuffle_f32x4(y[i], y[i + 4], 0x44), b = _mm512_shuffle_f32x4(y[i], y[i + 4], 0xee);
		__m512 c = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0x44);
		__m512 d = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0xee);
		x[i] = _mm512_shuffle_f32x4(a, c, 0x88);
		x[i + 4] = _mm512_shuffle_f32x4(a, c, 0xdd);
		x[i + 8] = _mm512_shuffle_f32x4(b, d, 0x88);
		x[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
	}
}

/* Up to VL values of up to VL rows into as many columns, zeros into the others. */
INLINE void pack_block(float *panel, const float *rows, int64_t ld, int64_t count, int64_t k)
{
	__m512 x[VL];
	UNROLL
	for (int r = 0; r < VL; r++)
		x[r] = r < count ? (__m512)v_load_up_to(rows + r * ld, k) : _mm512_setzero_ps();
	transpose_vectors(x);
	UNROLL
	for (int p = 0; p < VL; p++)
		if (p < k)
			v_store(panel + p * NR, (vf)x[p]);
}

#endif

/* Copy `count` rows into the first of `columns` columns of one panel [k][NR], zeros into the others. */
void SP_ISA_NAME(sp_pack_rows)(float *panel, const float *rows, int64_t ld, int64_t count, int64_t columns, int64_t k)
{
#if VL == 16
	for (int64_t column = 0; column < columns; column += VL)
		for (int64_t p = 0; p < k; p += VL)
			pack_block(panel + p * NR + column, column < count ? rows + column * ld + p : rows, ld,
			           count - column, k - p);
#else
	if (count < columns)
		memset(panel, 0, (size_t)(k * NR) * sizeof(float));
	transpose(panel, NR, rows, ld, count, k);
#endif
}
