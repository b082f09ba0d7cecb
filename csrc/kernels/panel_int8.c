/* panel_int8.c: activations to digits, and matrix products of digits with int8 weights.
 *
 * One file serves every instruction set and the units for such products (unit_int8.c and amx_int8.c include it): they
 * differ in how a tile adds integers, which is exact, and in how bytes lie. Everything in float32 is one sequence of
 * operations.
 *   without a unit  digits are int16, a panel is [k filled up / 2][NR][2] bytes, two products are added at a time
 *   with one        digits are bytes, a panel is [k filled up / 4][NR][4] bytes
 */
#include "kernels/kernels.h"
#include "kernels/low_precision.h"
#include "kernels/vec_low.h"

#if defined(SP_INT8_AMX)
#define SP_INT8_UNIT
#endif

#if !defined(SP_INT8_UNIT) || defined(SP_ISA_AVX512)

#if defined(SP_INT8_AMX)
#include "kernels/amx.h"
#define TILE_ROWS AMX_ROWS
#else
#define TILE_ROWS MR
#endif

#if defined(SP_INT8_UNIT)
#define GROUP 4
typedef uint8_t digit;
#else
#define GROUP 2
typedef int16_t digit;
#endif
#define PREFETCH_BYTES 12288 /* with AVX-512 as far ahead as panel.c's */
#define ROW_BLOCK 256

typedef digit vd __attribute__((vector_size(VL * sizeof(digit))));

static void pack(int8_t *panel, int64_t first, const int8_t *source, int64_t ld, int64_t count, int64_t k)
{
	for (int64_t p = 0; p < k; p++)
		for (int64_t j = 0; j < count; j++)
			panel[p / GROUP * GROUP * NR + (first + j) * GROUP + p % GROUP] = source[j * ld + p];
}

/* ---- activations --------------------------------------------------------------------------------------------------- */

INLINE vf smoothed(const float *x, const float *smooth, int64_t i, int64_t n)
{
	vf v = n >= VL ? v_load(x + i) : v_load_part(x + i, n);
	if (!smooth)
		return v;
	return v * (n >= VL ? v_load(smooth + i) : v_load_part(smooth + i, n));
}

INLINE float least(vf v)
{
#if defined(SP_ISA_AVX512)
	return _mm512_reduce_min_ps((__m512)v);
#else
	float lane[VL];
	memcpy(lane, &v, sizeof v);
	for (int half = VL / 2; half; half /= 2)
		for (int i = 0; i < half; i++)
			lane[i] = lane[i + half] < lane[i] ? lane[i + half] : lane[i];
	return lane[0];
#endif
}

/* The range of a row and the factor that takes it to the digits; minima and maxima have no order to keep. */
static struct sp_row_range find_range(float *factor, const float *x, const float *smooth, float largest, int64_t k)
{
	vf low = v_set(HUGE_VALF), high = low; /* `high` is the least of -x */
	vi poison = {0};
	int64_t i = 0;
	for (; i + VL <= k; i += VL) {
		vf v = smoothed(x, smooth, i, VL);
		poison |= (vi)(v - v); /* zero, but for NaN and Inf */
		low = v_min(v, low);
		high = v_min(-v, high);
	}
	if (i < k) { /* the last, partly filled vector: its zeros do not count */
		float lane[VL];
		vf v = smoothed(x, smooth, i, k - i);
		memcpy(lane, &v, sizeof v);
		for (int64_t j = k - i; j < VL; j++)
			lane[j] = lane[0];
		v = v_load(lane);
		poison |= (vi)(v - v);
		low = v_min(v, low);
		high = v_min(-v, high);
	}
	/* + 0: which of -0 and 0 is less is no kernel's to say */
	float first = least(low) + 0.0f, width = -least(high) - first + 0.0f;
	*factor = width > 0 ? largest / width : 0;
	return (struct sp_row_range){first, v_mask(poison != 0) ? NAN : width / largest};
}

/* x in digits: whole numbers 0 … largest, to nearest even; largest for NaN. Bits above the 16 lowest are not clean. */
INLINE vi whole(vf x, float low, float factor, float largest)
{
	/* 1.5 * 2^23: what is added to it is rounded to a whole number, which is then its lowest bits */
	return (vi)(v_min((x - low) * factor, v_set(largest)) + 12582912.0f);
}

INLINE void put(digit *q, vi whole_numbers, int64_t n)
{
	vd digits = __builtin_convertvector(whole_numbers, vd);
	if (n >= VL)
		memcpy(q, &digits, sizeof digits);
	else
		memcpy(q, &digits, (size_t)n * sizeof(digit));
}

/* Values [i, i + n) of a row in digits, n <= VL. */
INLINE void put_digits(const int digits, digit *upper, digit *lower, const float *x, const float *smooth, int64_t i,
                       int64_t n, float low, float factor)
{
	vi numbers = whole(smoothed(x, smooth, i, n), low, factor, digits == 2 ? 65535.0f : 255.0f);
	if (digits == 2)
		put(lower + i, numbers & 255, n);
	put(upper + i, digits == 2 ? numbers >> 8 & 255 : numbers & 255, n);
}

INLINE void quantize_row(const int digits, digit *upper, struct sp_row_range *range, const float *x,
                         const float *smooth, int64_t k)
{
	int64_t depth = sp_low_depth(k), i = 0;
	digit *lower = upper + depth;
	float factor;
	struct sp_row_range found = find_range(&factor, x, smooth, digits == 2 ? 65535.0f : 255.0f, k);
	*range = found;
	for (; i + VL <= k; i += VL)
		put_digits(digits, upper, lower, x, smooth, i, VL, found.low, factor);
	if (i < k)
		put_digits(digits, upper, lower, x, smooth, i, k - i, found.low, factor);
	for (i = k; i < depth; i++) {
		upper[i] = 0;
		if (digits == 2)
			lower[i] = 0;
	}
}

static void quantize(void *q, int64_t ldq, struct sp_row_range *range, const float *x, int64_t ldx, const float *smooth,
                     int digits, int64_t rows, int64_t k)
{
	digit *row = q;
	for (int64_t r = 0; r < rows; r++, row += ldq, x += ldx)
		if (digits == 2)
			quantize_row(2, row, range + r, x, smooth, k);
		else
			quantize_row(1, row, range + r, x, smooth, k);
}

/* ---- products ------------------------------------------------------------------------------------------------------ */

/* What a panel's sums need to become numbers; zeros for columns that there are not. A bias of -0 leaves all as they are. */
struct columns {
	_Alignas(64) float scale[NR], offset[NR], bias[NR];
};

static struct columns take_columns(struct sp_int8_panels b, const float *bias, int64_t first, int64_t count)
{
	struct columns c;
	take_numbers(c.scale, b.scale + first, count);
	take_numbers(c.offset, b.offset + first, count);
	if (bias)
		take_numbers(c.bias, bias + first, count);
	else
		for (int j = 0; j < NR; j++)
			c.bias[j] = -0.0f;
	return c;
}

/* VL values of C from the sums of one digit, or of two, the upper of which counts 256 times. */
INLINE vf dequantized(const int digits, vi upper, vi lower, struct sp_row_range range, vf scale, vf offset, vf bias)
{
	vf total = __builtin_convertvector(upper, vf);
	if (digits == 2)
		total = v_fma(total, v_set(256.0f), __builtin_convertvector(lower, vf));
	return v_fma(total * range.step, scale, offset * range.low) + bias;
}

#if defined(SP_INT8_AMX)

INLINE void tile(const int digits, int rows, float *c, int64_t ldc, const digit *a, int64_t lda,
                 const struct sp_row_range *range, const int8_t *b, int64_t k, const struct columns *columns)
{
	_Alignas(64) int32_t upper[TILE_ROWS * NR], lower[TILE_ROWS * NR];
	AMX_BLOCK("tdpbusd", rows, upper, a, lda, b, k);
	if (digits == 2)
		AMX_BLOCK("tdpbusd", rows, lower, a + k, lda, b, k);
	for (int j = 0; j < NR; j += VL) {
		vf scale = v_load(columns->scale + j), offset = v_load(columns->offset + j);
		vf bias = v_load(columns->bias + j);
		for (int r = 0; r < rows; r++) {
			vi first = v_load_int(upper + r * NR + j);
			vi second = digits == 2 ? v_load_int(lower + r * NR + j) : first;
			v_store(c + r * ldc + j, dequantized(digits, first, second, range[r], scale, offset, bias));
		}
	}
}

static void tile_forward(int digits, int rows, float *c, int64_t ldc, const digit *a, int64_t lda,
                         const struct sp_row_range *range, const int8_t *b, int64_t k, const struct columns *columns)
{
	if (digits == 2)
		tile(2, rows, c, ldc, a, lda, range, b, k, columns);
	else
		tile(1, rows, c, ldc, a, lda, range, b, k, columns);
}

#else

/* sum += products of a group of digits x with the groups of VL outputs at b */
INLINE vi add_products(vi sum, vi x, const int8_t *b)
{
#if defined(SP_INT8_UNIT)
	/* gcc 12 copies and spills the sums around the intrinsic of this */
	__asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(v_load_int((const int32_t *)(const void *)b)));
	return sum;
#elif defined(SP_ISA_AVX512)
	__m256i w;
	memcpy(&w, b, sizeof w);
	return sum + (vi)_mm512_madd_epi16((__m512i)x, _mm512_cvtepi8_epi16(w));
#elif defined(SP_ISA_AVX2)
	__m128i w;
	memcpy(&w, b, sizeof w);
	return sum + (vi)_mm256_madd_epi16((__m256i)x, _mm256_cvtepi8_epi16(w));
#else
	for (int j = 0; j < VL; j++)
		sum[j] += (int16_t)x[j] * b[2 * j] + (x[j] >> 16) * b[2 * j + 1];
	return sum;
#endif
}

/* Exact sums of `rows` x NR products of one digit. `rows` is a constant in every caller, so they live in registers. */
INLINE void tile_sums(const int rows, vi sum[MR][2], const digit *a, int64_t lda, const int8_t *b, int64_t k)
{
	const digit *a_rows[MR];
	SHARE_POINTERS(a_rows, rows, a, lda);
	UNROLL
	for (int r = 0; r < rows; r++)
		sum[r][0] = sum[r][1] = (vi){0};
	for (int64_t p = 0; p < k; p += GROUP) {
		const int8_t *row = b + p * NR;
		__builtin_prefetch(row + PREFETCH_BYTES, 0, 3);
#if defined(SP_INT8_UNIT)
		__builtin_prefetch(row + PREFETCH_BYTES + 64, 0, 3);
#endif
		UNROLL
		for (int r = 0; r < rows; r++) {
			int32_t group;
			memcpy(&group, a_rows[r / 3 * 3] + r % 3 * lda + p, sizeof group);
			vi x = group - (vi){0};
			sum[r][0] = add_products(sum[r][0], x, row);
			sum[r][1] = add_products(sum[r][1], x, row + VL * GROUP);
		}
	}
}

/* `rows` x NR values of C. The sums of the upper of two digits wait in memory for those of the lower. */
INLINE void tile(const int digits, const int rows, float *c, int64_t ldc, const digit *a, int64_t lda,
                 const struct sp_row_range *range, const int8_t *b, int64_t k, const struct columns *columns)
{
	vi upper[MR][2], lower[MR][2];
	tile_sums(rows, upper, a, lda, b, k);
	if (digits == 2)
		tile_sums(rows, lower, a + k, lda, b, k);
	UNROLL
	for (int half = 0; half < 2; half++) {
		int j = half * VL;
		vf scale = v_load(columns->scale + j), offset = v_load(columns->offset + j);
		vf bias = v_load(columns->bias + j);
		UNROLL
		for (int r = 0; r < rows; r++) {
			vi first = upper[r][half], second = digits == 2 ? lower[r][half] : first;
			v_store(c + r * ldc + j, dequantized(digits, first, second, range[r], scale, offset, bias));
		}
	}
}

/* clang-format off */
#define HEIGHT(n) \
	case n: \
		if (digits == 2) \
			tile(2, n, c, ldc, a, lda, range, b, k, columns); \
		else \
			tile(1, n, c, ldc, a, lda, range, b, k, columns); \
		break;
static void tile_forward(int digits, int rows, float *c, int64_t ldc, const digit *a, int64_t lda,
                         const struct sp_row_range *range, const int8_t *b, int64_t k, const struct columns *columns)
{
	switch (rows) {
		HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4)
#if MR > 4
		HEIGHT(5) HEIGHT(6)
#endif
#if MR > 6
		HEIGHT(7) HEIGHT(8) HEIGHT(9) HEIGHT(10) HEIGHT(11) HEIGHT(12) HEIGHT(13) HEIGHT(14)
#endif
	}
}
/* clang-format on */

#endif

/* m rows of one panel, in tiles of nearly equal height. A panel with fewer than NR columns is computed aside. */
static void panel_forward(float *c, int64_t ldc, const digit *a, int64_t lda, const struct sp_row_range *range,
                          const int8_t *panel, const struct columns *columns, int digits, int64_t m, int64_t cols,
                          int64_t k)
{
	float aside[TILE_ROWS * NR];
	int64_t tiles = (m + TILE_ROWS - 1) / TILE_ROWS;
	for (int64_t t = 0; t < tiles; t++) {
		int rows = (int)(m / tiles + (t < m % tiles));
		if (cols == NR) {
			tile_forward(digits, rows, c, ldc, a, lda, range, panel, k, columns);
		} else {
			tile_forward(digits, rows, aside, NR, a, lda, range, panel, k, columns);
			for (int64_t r = 0; r < rows; r++)
				memcpy(c + r * ldc, aside + r * NR, (size_t)cols * sizeof(float));
		}
		c += rows * ldc;
		a += rows * lda;
		range += rows;
	}
}

/* Rows [0, m) of all panels. */
static void rows_forward(float *c, int64_t ldc, const digit *q, int64_t ldq, const struct sp_row_range *range,
                         struct sp_int8_panels b, const float *bias, int digits, int64_t m, int64_t n, int64_t k)
{
	int64_t depth = sp_low_depth(k);
	for (int64_t col = 0; col < n; col += NR) {
		int64_t cols = n - col < NR ? n - col : NR;
		struct columns columns = take_columns(b, bias, col, cols);
		panel_forward(c + col, ldc, q, ldq, range, b.panels + col * depth, &columns, digits, m, cols, depth);
	}
}

static void gemm(float *c, int64_t ldc, const void *q, int64_t ldq, const struct sp_row_range *range,
                 struct sp_int8_panels b, const float *bias, int digits, int64_t m, int64_t n, int64_t k)
{
	for (int64_t row = 0, rows; row < m; row += rows) {
		rows = m - row < ROW_BLOCK ? m - row : ROW_BLOCK;
#if defined(SP_INT8_AMX) /* whole tiles first: the registers are shaped for one height at a time */
		rows = rows > AMX_ROWS ? rows / AMX_ROWS * AMX_ROWS : rows;
		amx_enter(rows < AMX_ROWS ? (int)rows : AMX_ROWS);
#endif
		rows_forward(c + row * ldc, ldc, (const digit *)q + row * ldq, ldq, range + row, b, bias, digits, rows,
		             n, k);
	}
#if defined(SP_INT8_AMX)
	amx_leave();
#endif
}

#if defined(SP_INT8_AMX)
const struct sp_int8_kernels sp_int8_kernels_amx =
#elif defined(SP_INT8_UNIT)
const struct sp_int8_kernels sp_int8_kernels_unit =
#else
const struct sp_int8_kernels SP_ISA_NAME(sp_int8_kernels) =
#endif
	{.digit_bytes = sizeof(digit), .pack = pack, .quantize = quantize, .gemm = gemm};

#endif
