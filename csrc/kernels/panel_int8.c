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
#define PREFETCH_BYTES 8192
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
	float lane[VL];
	memcpy(lane, &v, sizeof v);
	for (int half = VL / 2; half; half /= 2)
		for (int i = 0; i < half; i++)
			lane[i] = lane[i + half] < lane[i] ? lane[i + half] : lane[i];
	return lane[0];
}

/* The range of a row and the factor that takes it to the digits; minima and maxima have no order to keep. */
static struct sp_row_range find_range(float *factor, const float *x, const float *smooth, float largest, int64_t k)
{
	vf low = v_set(HUGE_VALF), high = low, poison = {0}; /* `high` is the least of -x */
	int64_t i = 0;
	for (; i + VL <= k; i += VL) {
		vf v = smoothed(x, smooth, i, VL);
		poison = v_fma(v, v_set(0), poison); /* NaN once a value is NaN or Inf */
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
		poison = v_fma(v, v_set(0), poison);
		low = v_min(v, low);
		high = v_min(-v, high);
	}
	float first = least(low) + 0.0f, width = -least(high) - first;
	*factor = width > 0 ? largest / width : 0;
	return (struct sp_row_range){first, v_mask(poison != poison) ? NAN : width / largest};
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

static void quantize(void *q, int64_t ldq, struct sp_row_range *range, const float *x, int64_t ldx, const float *smooth,
                     int digits, int64_t rows, int64_t k)
{
	float largest = digits == 2 ? 65535.0f : 255.0f;
	int64_t depth = sp_low_depth(k);
	for (int64_t r = 0; r < rows; r++, x += ldx) {
		digit *upper = (digit *)q + r * ldq, *lower = upper + depth;
		float factor;
		range[r] = find_range(&factor, x, smooth, largest, k);
		for (int64_t i = 0; i < k; i += VL) {
			vi numbers = whole(smoothed(x, smooth, i, k - i), range[r].low, factor, largest);
			if (digits == 2)
				put(lower + i, numbers & 255, k - i);
			put(upper + i, digits == 2 ? numbers >> 8 & 255 : numbers & 255, k - i);
		}
		for (int64_t i = k; i < depth; i++) {
			upper[i] = 0;
			if (digits == 2)
				lower[i] = 0;
		}
	}
}

/* ---- products ------------------------------------------------------------------------------------------------------ */

#if defined(SP_INT8_AMX)

static void tile_forward(int rows, int32_t *sums, const digit *a, int64_t lda, const int8_t *b, int64_t k)
{
	AMX_BLOCK("tdpbusd", rows, sums, a, lda, b, k);
}

#else

/* sum += products of a group of digits x with the groups of VL outputs at b */
INLINE vi add_products(vi sum, vi x, const int8_t *b)
{
#if defined(SP_INT8_UNIT)
	vi w;
	memcpy(&w, b, sizeof w);
	/* gcc 12 copies and spills the sums around the intrinsic of this */
	__asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
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

/* Exact sums[rows][NR]. `rows` is a constant in every caller, so they live in registers until the end. */
INLINE void tile(const int rows, int32_t *sums, const digit *a, int64_t lda, const int8_t *b, int64_t k)
{
	vi sum[MR][2];
	UNROLL
	for (int r = 0; r < rows; r++)
		sum[r][0] = sum[r][1] = (vi){0};
	for (int64_t p = 0; p < k; p += GROUP) {
		const int8_t *row = b + p * NR;
		__builtin_prefetch(row + PREFETCH_BYTES, 0, 2);
#if defined(SP_INT8_UNIT)
		__builtin_prefetch(row + PREFETCH_BYTES + 64, 0, 2);
#endif
		UNROLL
		for (int r = 0; r < rows; r++) {
			int32_t group;
			memcpy(&group, a + r * lda + p, sizeof group);
			vi x = group - (vi){0};
			sum[r][0] = add_products(sum[r][0], x, row);
			sum[r][1] = add_products(sum[r][1], x, row + VL * GROUP);
		}
	}
	UNROLL
	for (int r = 0; r < rows; r++) {
		memcpy(sums + r * NR, &sum[r][0], sizeof(vi));
		memcpy(sums + r * NR + VL, &sum[r][1], sizeof(vi));
	}
}

/* clang-format off */
#define HEIGHT(n) case n: tile(n, sums, a, lda, b, k); break;
static void tile_forward(int rows, int32_t *sums, const digit *a, int64_t lda, const int8_t *b, int64_t k)
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

/* What the columns of one panel need to become numbers again. */
struct columns {
	float scale[NR], offset[NR], bias[NR];
	int64_t count;
	int has_bias;
};

static struct columns take_columns(struct sp_int8_panels b, const float *bias, int64_t first, int64_t count)
{
	struct columns c = {.count = count, .has_bias = bias != NULL};
	memcpy(c.scale, b.scale + first, (size_t)count * sizeof(float));
	memcpy(c.offset, b.offset + first, (size_t)count * sizeof(float));
	if (bias)
		memcpy(c.bias, bias + first, (size_t)count * sizeof(float));
	return c;
}

/* c[rows, cols] from the sums of one digit, or of two: the upper counts 256 times. `whole` panels need no parts. */
INLINE void dequantize(const int whole, const int digits, float *c, int64_t ldc, const int32_t *upper,
                       const int32_t *lower, const struct sp_row_range *range, const struct columns *columns, int rows)
{
	for (int r = 0; r < rows; r++, c += ldc, upper += NR, lower += NR)
		for (int64_t j = 0; j < (whole ? NR : columns->count); j += VL) {
			vi sum;
			memcpy(&sum, upper + j, sizeof sum);
			vf total = __builtin_convertvector(sum, vf);
			if (digits == 2) {
				memcpy(&sum, lower + j, sizeof sum);
				total = v_fma(total, v_set(256.0f), __builtin_convertvector(sum, vf));
			}
			vf y = v_fma(total * range[r].step, v_load(columns->scale + j),
			             v_load(columns->offset + j) * range[r].low);
			if (columns->has_bias)
				y = y + v_load(columns->bias + j);
			if (whole || columns->count - j >= VL)
				v_store(c + j, y);
			else
				v_store_part(c + j, y, columns->count - j);
		}
}

static void tile_end(float *c, int64_t ldc, const int32_t *upper, const int32_t *lower, int digits,
                     const struct sp_row_range *range, const struct columns *columns, int rows)
{
	if (columns->count < NR)
		dequantize(0, digits, c, ldc, upper, lower, range, columns, rows);
	else if (digits == 2)
		dequantize(1, 2, c, ldc, upper, lower, range, columns, rows);
	else
		dequantize(1, 1, c, ldc, upper, lower, range, columns, rows);
}

/* m rows of one panel, in tiles of `height` rows (with AMX) or of nearly equal height up to it. */
static void panel_forward(float *c, int64_t ldc, const digit *a, int64_t lda, const struct sp_row_range *range,
                          const int8_t *panel, const struct columns *columns, int digits, int64_t m, int64_t k)
{
	_Alignas(64) int32_t upper[TILE_ROWS * NR], lower[TILE_ROWS * NR];
	int64_t tiles = (m + TILE_ROWS - 1) / TILE_ROWS, row = 0;
	for (int64_t t = 0; t < tiles; t++) {
		int rows = (int)(m / tiles + (t < m % tiles));
		tile_forward(rows, upper, a + row * lda, lda, panel, k);
		if (digits == 2)
			tile_forward(rows, lower, a + row * lda + k, lda, panel, k);
		tile_end(c + row * ldc, ldc, upper, lower, digits, range + row, columns, rows);
		row += rows;
	}
}

/* Rows [0, m) of all panels. */
static void rows_forward(float *c, int64_t ldc, const digit *q, int64_t ldq, const struct sp_row_range *range,
                         struct sp_int8_panels b, const float *bias, int digits, int64_t m, int64_t n, int64_t k)
{
	int64_t depth = sp_low_depth(k);
	for (int64_t col = 0; col < n; col += NR) {
		struct columns columns = take_columns(b, bias, col, n - col < NR ? n - col : NR);
		panel_forward(c + col, ldc, q, ldq, range, b.panels + col * depth, &columns, digits, m, depth);
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
