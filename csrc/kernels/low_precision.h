/* low_precision.h: products against weights in bfloat16 and int8, and what each kernel promises.
 *
 * Like kernels.h, once per instruction set with a twin in scalar_low.c. Where the CPU has a unit for such products
 * (AMX, else AVX512_BF16 and AVX512_VNNI; AVX-VNNI beside AVX2) dispatch_low.c puts its kernels in the place of those of
 * the instruction set.
 *   int8      every product is an exact sum of integers, then a fixed sequence of float32 operations: the same bits
 *             from every kernel and on every CPU.
 *   bfloat16  without the unit: weights are widened, and the product keeps float32's contract (panel.c), so that all
 *             kernels but the unit's give equal bits. The unit rounds activations too and adds pairs in its own way.
 * In every case a row of C depends on that row of A alone.
 */
#ifndef SP_LOW_PRECISION_H
#define SP_LOW_PRECISION_H

#include <stdint.h>
#include <string.h>

/* k is filled up to a multiple of this, in panels and in rows of A; a sum of up to SP_INT8_DEPTH products of a digit
 * (0 … 255) and a weight (-127 … 127) fits in 32 bits. */
enum { SP_LOW_STEP = 64, SP_INT8_DEPTH = 65536 };

/* bfloat16 is the upper half of a float32. */
struct sp_bf16_kernels {
	int rounds; /* A is bfloat16, rounded by `round`, with its stride in halves; else A is float32 as it is */
	/* Copy `count` rows [count, k] of source, rounded to nearest even, into columns [first, first + count) of a
	 * panel of nr columns whose other columns and fill are zero. */
	void (*pack)(uint16_t *panel, int64_t first, const float *source, int64_t ld, int64_t count, int64_t k);
	/* y[rows, k filled up] = x[rows, k] rounded to nearest even; NULL unless `rounds` */
	void (*round)(uint16_t *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, int64_t k);
	/* y[n] = x[n] as float32 */
	void (*widen)(float *y, const uint16_t *x, int64_t n);
	/* C[m, n] = A[m, k] B (+ bias[n]), B in panels [k filled up][nr] one after the other */
	void (*gemm)(float *c, int64_t ldc, const void *a, int64_t lda, const uint16_t *panels, const float *bias,
	             int64_t m, int64_t n, int64_t k);
};

/* A row x of activations in digits: x[i] = low + step * q[i], nearly. */
struct sp_row_range {
	float low, step;
};

/* Weights [n, k] in int8, row j times scale[j]; offset[j] = scale[j] * (sum of row j). */
struct sp_int8_panels {
	const int8_t *panels; /* [k filled up][nr] one after the other */
	const float *scale, *offset;
};

struct sp_int8_kernels {
	int64_t value_bytes[2]; /* of a value in one digit and in two, as `quantize` leaves it */
	/* Copy `count` rows [count, k] of source into columns [first, first + count) of a panel. */
	void (*pack)(int8_t *panel, int64_t first, const int8_t *source, int64_t ld, int64_t count, int64_t k);
	/* Row i of x[rows, k], value by value times smooth[k] (NULL: 1), in one digit of 8 bits or in two of 7 and 8
	 * bits, for products alone to read: rows of q are ldq bytes apart, filled up with zeros. NaN or Inf in a row
	 * makes its step NaN. */
	void (*quantize)(void *q, int64_t ldq, struct sp_row_range *range, const float *x, int64_t ldx,
	                 const float *smooth, int digits, int64_t rows, int64_t k);
	/* C[i, j] = step[i] * scale[j] * (q[i] . w[j]) + low[i] * offset[j] (+ bias[j]) */
	void (*gemm)(float *c, int64_t ldc, const void *q, int64_t ldq, const struct sp_row_range *range,
	             struct sp_int8_panels b, const float *bias, int digits, int64_t m, int64_t n, int64_t k);
};

/* To nearest, ties to even; NaN stays NaN. */
static inline uint16_t sp_bf16_from_float(float x)
{
	uint32_t bits;
	memcpy(&bits, &x, sizeof bits);
	if ((bits & 0x7FFFFFFF) > 0x7F800000)
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline int64_t sp_low_depth(int64_t k)
{
	return (k + SP_LOW_STEP - 1) / SP_LOW_STEP * SP_LOW_STEP;
}

extern const struct sp_bf16_kernels sp_bf16_kernels_scalar, sp_bf16_kernels_generic;
extern const struct sp_int8_kernels sp_int8_kernels_scalar, sp_int8_kernels_generic;
#if defined(__x86_64__)
extern const struct sp_bf16_kernels sp_bf16_kernels_avx2, sp_bf16_kernels_avx512, sp_bf16_kernels_unit,
	sp_bf16_kernels_amx;
extern const struct sp_int8_kernels sp_int8_kernels_avx2, sp_int8_kernels_avx512, sp_int8_kernels_unit_avx2,
	sp_int8_kernels_unit_avx512, sp_int8_kernels_amx;
void sp_bf16_widen_avx512(float *y, const uint16_t *x, int64_t n);
/* What both units for bfloat16 have in common (unit_bf16.c): `pack` and `round`. */
void sp_bf16_pack_pairs(uint16_t *panel, int64_t first, const float *source, int64_t ld, int64_t count, int64_t k);
void sp_bf16_round_rows(uint16_t *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, int64_t k);
#endif

#endif
