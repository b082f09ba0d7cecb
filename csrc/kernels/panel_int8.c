/* panel_int8.c: activations to digits, and matrix products of digits with int8 weights.
 *
 * One file serves every instruction set and the units for such products (unit_int8.c and amx_int8.c include it): they
 * differ in how a tile adds integers, which is exact, and in how bytes lie. Everything in float32 is one sequence of
 * operations.
 *   with a unit     digits are bytes, the upper before the lower; a panel is [k filled up / 4][NR][4] bytes
 *   without one     one digit or two are one int16; a panel is [k filled up / 2][NR][2] bytes, two products are added at
 *                   a time
 */
#include "kernels/kernels.h"
#include "kernels/low_precision.h"
#include "kernels/vec_low.h"

#if defined(SP_INT8_AMX)
#define SP_INT8_UNIT
#endif

#if !defined(SP_INT8_UNIT) || defined(SP_ISA_AVX512) || (defined(SP_ISA_AVX2) && !defined(SP_INT8_AMX))

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
/* In how many numbers of that type so many digits of a value lie. */
#define PARTS(digits) (GROUP == 4 ? (digits) : 1)
#define PREFETCH_BYTES 12288 /* with AVX-512 as far ahead as panel.c's */
#define ROW_BLOCK 256

#define VECTORS (SP_LOW_STEP / VL)

/* The largest whole number of so many digits: 7 bits are in the upper of two, so that both fit in an int16. */
#define LARGEST(digits) ((digits) == 2 ? 32767.0f : 255.0f)

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

/* Rows whose ranges are found side by side, for a chain of minima waits for itself. */
enum { ROWS = 4 };

/* The least of the values and of their negatives so far, and bits that only NaN and infinities set. */
struct extremes {
	vf low, high;
	vi poison;
};

INLINE void take_extremes(struct extremes *e, vf v)
{
	e->poison |= (vi)(v - v);
	e->low = v_min(v, e->low);
	e->high = v_min(-v, e->high);
}

/* The last values of a row, n < VL of them, and the first of them again: zeros would count. */
INLINE vf last_values(const float *x, const float *smooth, int64_t i, int64_t n)
{
	float lane[VL];
	vf v = smoothed(x, smooth, i, n);
	memcpy(lane, &v, sizeof v);
	for (int64_t j = n; j < VL; j++)
		lane[j] = lane[0];
	return v_load(lane);
}

/* The range of a row and the factor that takes it to the digits. */
INLINE struct sp_row_range range_of(float *factor, struct extremes e, float largest)
{
	/* + 0: which of -0 and 0 is less is no kernel's to say */
	float low = least(e.low) + 0.0f, width = -least(e.high) - low + 0.0f;
	*factor = width > 0 ? largest / width : 0;
	return (struct sp_row_range){low, v_mask(e.poison != 0) ? NAN : width / largest};
}

/* The ranges of `rows` rows, a constant in every caller; minima and maxima have no order to keep. */
INLINE void find_ranges(const int rows, struct sp_row_range *range, float *factor, const float *x, int64_t ldx,
                        const float *smooth, float largest, int64_t k)
{
	struct extremes e[ROWS];
	int64_t i = 0;
	for (int r = 0; r < rows; r++)
		e[r] = (struct extremes){v_set(HUGE_VALF), v_set(HUGE_VALF), {0}};
	for (; i + VL <= k; i += VL) {
		UNROLL
		for (int r = 0; r < rows; r++)
			take_extremes(&e[r], smoothed(x + r * ldx, smooth, i, VL));
	}
	for (int r = 0; r < rows; r++) {
		if (i < k)
			take_extremes(&e[r], last_values(x + r * ldx, smooth, i, k - i));
		range[r] = range_of(&factor[r], e[r], largest);
	}
}

/* x in digits: whole numbers 0 … largest, to nearest even; largest for NaN. Bits above the 16 lowest are not clean. */
INLINE vi whole(vf x, float low, float factor, float largest)
{
	/* 1.5 * 2^23: what is added to it is rounded to a whole number, which is then its lowest bits */
	return (vi)(v_min((x - low) * factor, v_set(largest)) + 12582912.0f);
}

/* SP_LOW_STEP digits: the lowest bits, those of the mask, of as many whole numbers. */
INLINE void put(digit *q, const vi *numbers, int32_t mask)
{
#if defined(SP_INT8_UNIT) && defined(SP_ISA_AVX512) /* vpmovdb takes longer */
	__m512i low = _mm512_packus_epi32((__m512i)(numbers[0] & mask), (__m512i)(numbers[1] & mask));
	__m512i high = _mm512_packus_epi32((__m512i)(numbers[2] & mask), (__m512i)(numbers[3] & mask));
	const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
	__m512i digits = _mm512_permutexvar_epi32(in_order, _mm512_packus_epi16(low, high));
	memcpy(q, &digits, sizeof digits);
#elif defined(SP_INT8_UNIT)
	const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
	UNROLL
	for (int j = 0; j < VECTORS; j += 4) {
		__m256i low = _mm256_packus_epi32((__m256i)(numbers[j] & mask), (__m256i)(numbers[j + 1] & mask));
		__m256i high = _mm256_packus_epi32((__m256i)(numbers[j + 2] & mask), (__m256i)(numbers[j + 3] & mask));
		__m256i digits = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), in_order);
		memcpy(q + j * VL, &digits, sizeof digits);
	}
#elif defined(SP_ISA_AVX2)
	UNROLL
	for (int j = 0; j < VECTORS; j += 2) {
		__m256i pairs = _mm256_packus_epi32((__m256i)(numbers[j] & mask), (__m256i)(numbers[j + 1] & mask));
		__m256i digits = _mm256_permute4x64_epi64(pairs, 0xd8);
		memcpy(q + j * VL, &digits, sizeof digits);
	}
#else
	UNROLL
	for (int j = 0; j < VECTORS; j++) {
		typedef digit vd __attribute__((vector_size(VL * sizeof(digit))));
		vd digits = __builtin_convertvector(numbers[j] & mask, vd);
		memcpy(q + j * VL, &digits, sizeof digits);
	}
#endif
}

/* The first SP_LOW_STEP of n values of a row in digits; where there are fewer, the digits behind them have no meaning.
 * `depth` values on lie the lower of two digits that are bytes. */
INLINE void put_digits(const int digits, digit *q, int64_t depth, const float *x, const float *smooth, int64_t n,
                       float low, float factor)
{
	vi numbers[VECTORS];
	UNROLL
	for (int j = 0; j < VECTORS; j++) {
		vf v = n > j * VL ? smoothed(x, smooth, j * VL, n - j * VL) : (vf){0};
		numbers[j] = whole(v, low, factor, LARGEST(digits));
	}
	if (digits == 1) {
		put(q, numbers, 255);
		return;
	}
#if defined(SP_INT8_UNIT)
	put(q + depth, numbers, 255);
	UNROLL
	for (int j = 0; j < VECTORS; j++)
		numbers[j] >>= 8;
	put(q, numbers, 255);
#else
	(void)depth;
	put(q, numbers, 32767);
#endif
}

INLINE void quantize_row(const int digits, digit *q, float low, float factor, const float *x, const float *smooth,
                         int64_t k)
{
	int64_t depth = sp_low_depth(k), i = 0;
	for (; i + SP_LOW_STEP <= k; i += SP_LOW_STEP)
		put_digits(digits, q + i, depth, x + i, smooth ? smooth + i : NULL, SP_LOW_STEP, low, factor);
	if (i < k)
		put_digits(digits, q + i, depth, x + i, smooth ? smooth + i : NULL, k - i, low, factor);
	for (int64_t part = 0; part < PARTS(digits); part++)
		for (i = k; i < depth; i++)
			q[part * depth + i] = 0;
}

INLINE void quantize_rows(const int rows, const int digits, digit *q, int64_t ldq, struct sp_row_range *range,
                          const float *x, int64_t ldx, const float *smooth, int64_t k)
{
	float factor[ROWS];
	find_ranges(rows, range, factor, x, ldx, smooth, LARGEST(digits), k);
	for (int r = 0; r < rows; r++)
		quantize_row(digits, q + r * ldq, range[r].low, factor[r], x + r * ldx, smooth, k);
}

INLINE void quantize_all(const int digits, digit *q, int64_t ldq, struct sp_row_range *range, const float *x,
                         int64_t ldx, const float *smooth, int64_t rows, int64_t k)
{
	int64_t r = 0;
	for (; r + ROWS <= rows; r += ROWS)
		quantize_rows(ROWS, digits, q + r * ldq, ldq, range + r, x + r * ldx, ldx, smooth, k);
	for (; r < rows; r++)
		quantize_rows(1, digits, q + r * ldq, ldq, range + r, x + r * ldx, ldx, smooth, k);
}

static void quantize(void *q, int64_t ldq, struct sp_row_range *range, const float *x, int64_t ldx, const float *smooth,
                     int digits, int64_t rows, int64_t k)
{
	int64_t ld = ldq / (int64_t)sizeof(digit);
	if (digits == 2)
		quantize_all(2, q, ld, range, x, ldx, smooth, rows, k);
	else
		quantize_all(1, q, ld, range, x, ldx, smooth, rows, k);
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

/* VL values of C from the sums of one digit, or of two, the upper of which counts 256 times. What the lower ones come to
 * beyond 255 is carried, so that it does not matter how a sum was split. */
INLINE vf dequantized(const int digits, vi upper, vi lower, struct sp_row_range range, vf scale, vf offset, vf bias)
{
	vf total = __builtin_convertvector(digits == 2 ? upper + (lower >> 8) : upper, vf);
	if (digits == 2)
		total = v_fma(total, v_set(256.0f), __builtin_convertvector(lower & 255, vf));
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
	/* gcc 12 copies and spills the sums around the intrinsics of this */
	vi w = v_load_int((const int32_t *)(const void *)b);
#if defined(SP_ISA_AVX512)
	__asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
#else /* without the prefix it would be AVX512_VNNI's with short registers */
	__asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
#endif
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

/* Exact sums of `rows` x NR products of one digit, or of an int16. `rows` is a constant in every caller, so they live in
 * registers. */
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
#if GROUP * NR > 64
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

/* The same of two digits, the upper and the lower. */
INLINE void tile_sums_of_two(const int rows, vi upper[MR][2], vi lower[MR][2], const digit *a, int64_t lda,
                             const int8_t *b, int64_t k)
{
#if defined(SP_INT8_UNIT)
	tile_sums(rows, upper, a, lda, b, k);
	tile_sums(rows, lower, a + k, lda, b, k);
#else
	enum { MOST = 512 }; /* so many products of 32767 and 127 fit in 32 bits */
	memset(upper, 0, (size_t)rows * sizeof *upper);
	memset(lower, 0, (size_t)rows * sizeof *lower);
	for (int64_t p = 0; p < k; p += MOST) {
		vi both[MR][2];
		tile_sums(rows, both, a + p, lda, b + p * NR, k - p < MOST ? k - p : MOST);
		UNROLL
		for (int r = 0; r < rows; r++)
			for (int half = 0; half < 2; half++) {
				upper[r][half] += both[r][half] >> 8;
				lower[r][half] += both[r][half] & 255;
			}
	}
#endif
}

/* `rows` x NR values of C. */
INLINE void tile(const int digits, const int rows, float *c, int64_t ldc, const digit *a, int64_t lda,
                 const struct sp_row_range *range, const int8_t *b, int64_t k, const struct columns *columns)
{
	vi upper[MR][2], lower[MR][2];
	if (digits == 2)
		tile_sums_of_two(rows, upper, lower, a, lda, b, k);
	else
		tile_sums(rows, upper, a, lda, b, k);
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
	int64_t ld = ldq / (int64_t)sizeof(digit);
	for (int64_t row = 0, rows; row < m; row += rows) {
		rows = m - row < ROW_BLOCK ? m - row : ROW_BLOCK;
#if defined(SP_INT8_AMX) /* whole tiles first: the registers are shaped for one height at a time */
		rows = rows > AMX_ROWS ? rows / AMX_ROWS * AMX_ROWS : rows;
		amx_enter(rows < AMX_ROWS ? (int)rows : AMX_ROWS);
#endif
		rows_forward(c + row * ldc, ldc, (const digit *)q + row * ld, ld, range + row, b, bias, digits, rows, n,
		             k);
	}
#if defined(SP_INT8_AMX)
	amx_leave();
#endif
}

#if defined(SP_INT8_AMX)
const struct sp_int8_kernels sp_int8_kernels_amx =
#elif defined(SP_INT8_UNIT)
const struct sp_int8_kernels SP_ISA_NAME(sp_int8_kernels_unit) =
#else
const struct sp_int8_kernels SP_ISA_NAME(sp_int8_kernels) =
#endif
	{.value_bytes = {PARTS(1) * sizeof(digit), PARTS(2) * sizeof(digit)},
         .pack = pack,
         .quantize = quantize,
         .gemm = gemm};

#endif
