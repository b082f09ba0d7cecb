/* vec.h: the vector layer under every kernel. One source, three widths.
 *
 * A kernel file is compiled once per instruction set with SP_ISA_GENERIC, SP_ISA_AVX2 or SP_ISA_AVX512
 * defined, and sees VL (lanes of a vector), NR (columns of a packed panel) and MR (rows of a tile).
 *
 * Equal bits at every width rest on three rules:
 *   1. v_fma is the only fused operation; -ffp-contract=off keeps the compiler from making others.
 *   2. Sums along a row use LANES = 16 virtual lanes, whatever VL is (struct lanes), folded in one order.
 *   3. Sums down columns are one chain per column, in ascending order of rows.
 */
#ifndef SP_VEC_H
#define SP_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(SP_ISA_AVX512)
#include <immintrin.h>
#define VL 16
#define MR 14
#define SP_ISA_NAME(base) base##_avx512
#elif defined(SP_ISA_AVX2)
#include <immintrin.h>
#define VL 8
#define MR 6
#define SP_ISA_NAME(base) base##_avx2
#elif defined(SP_ISA_GENERIC)
#define VL 4
#define MR 4
#define SP_ISA_NAME(base) base##_generic
#else
#error "define SP_ISA_GENERIC, SP_ISA_AVX2 or SP_ISA_AVX512"
#endif

#define NR (2 * VL) /* a panel is two vectors wide */
#define LANES 16    /* virtual lanes of a sum along a row */
#define LANE_VECS (LANES / VL)

#define INLINE static inline __attribute__((always_inline))

/* Before a loop of at most 16 rounds: no loop at all, so that what it indexes can live in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* In a tile three rows of A share a pointer, a_rows[r] of every third row: that many pointers and multiples of lda fit the
 * registers beside 14 rows. The compiler would rather keep one a row, and some of them in memory. */
#define SHARE_POINTERS(a_rows, rows, a, lda)                                                                           \
	do {                                                                                                           \
		UNROLL                                                                                                 \
		for (int r_ = 0; r_ < (rows); r_ += 3) {                                                               \
			(a_rows)[r_] = (a) + r_ * (lda);                                                               \
			__asm__("" : "+r"((a_rows)[r_]));                                                              \
		}                                                                                                      \
	} while (0)

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));

INLINE vf v_load(const float *p)
{
	vf v;
	memcpy(&v, p, sizeof v);
	return v;
}

INLINE void v_store(float *p, vf v)
{
	memcpy(p, &v, sizeof v);
}

/* The first n < VL floats at p, zeros after them; reads nothing beyond. */
INLINE vf v_load_part(const float *p, int64_t n)
{
	vf v = {0};
	memcpy(&v, p, (size_t)n * sizeof(float));
	return v;
}

INLINE void v_store_part(float *p, vf v, int64_t n)
{
	memcpy(p, &v, (size_t)n * sizeof(float));
}

/* Up to VL of the n > 0 floats at p. */
INLINE vf v_load_up_to(const float *p, int64_t n)
{
	return n >= VL ? v_load(p) : v_load_part(p, n);
}

INLINE void v_store_up_to(float *p, vf v, int64_t n)
{
	if (n >= VL)
		v_store(p, v);
	else
		v_store_part(p, v, n);
}

/* Every lane x. Subtracting zero is exact, keeps -0 and folds to a broadcast. */
INLINE vf v_set(float x)
{
	return x - (vf){0};
}

INLINE vf v_fma(vf a, vf b, vf c)
{
#if defined(SP_ISA_AVX512)
	return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(SP_ISA_AVX2)
	return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
	vf r;
	for (int i = 0; i < VL; i++)
		r[i] = fmaf(a[i], b[i], c[i]);
	return r;
#endif
}

INLINE vf v_sqrt(vf x)
{
#if defined(SP_ISA_AVX512)
	return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(SP_ISA_AVX2)
	return (vf)_mm256_sqrt_ps((__m256)x);
#else
	for (int i = 0; i < VL; i++)
		x[i] = sqrtf(x[i]);
	return x;
#endif
}

INLINE vf v_select(vi mask, vf yes, vf no)
{
	return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

/* Bit i is lane i of a comparison. */
INLINE uint32_t v_mask(vi comparison)
{
#if defined(SP_ISA_AVX512)
	return _mm512_movepi32_mask((__m512i)comparison);
#elif defined(SP_ISA_AVX2)
	return (uint32_t)_mm256_movemask_ps((__m256)comparison);
#else
	uint32_t mask = 0;
	for (int i = 0; i < VL; i++)
		mask |= (uint32_t)(comparison[i] & 1) << i;
	return mask;
#endif
}

/* a > b ? a : b, hence b where either is NaN: as the CPU's own instruction has it. */
INLINE vf v_max(vf a, vf b)
{
#if defined(SP_ISA_AVX512)
	return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(SP_ISA_AVX2)
	return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
	return v_select(a > b, a, b);
#endif
}

/* a < b ? a : b, hence b where either is NaN. */
INLINE vf v_min(vf a, vf b)
{
#if defined(SP_ISA_AVX512)
	return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(SP_ISA_AVX2)
	return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
	return v_select(a < b, a, b);
#endif
}

/* A sum along a row: virtual lane i takes elements i, i + 16, i + 32, … */
struct lanes {
	vf v[LANE_VECS];
};

/* Fold 16 virtual lanes: lane i with i + 8, then i + 4, i + 2, i + 1. */
INLINE float lanes_fold(struct lanes s)
{
#if defined(SP_ISA_GENERIC)
	vf four = (s.v[0] + s.v[2]) + (s.v[1] + s.v[3]);
#else
#if defined(SP_ISA_AVX512)
	__m256 eight = _mm512_castps512_ps256((__m512)s.v[0]) + _mm512_extractf32x8_ps((__m512)s.v[0], 1);
#else
	__m256 eight = (__m256)(s.v[0] + s.v[1]);
#endif
	__m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
#endif
	return (four[0] + four[2]) + (four[1] + four[3]);
}

#endif
