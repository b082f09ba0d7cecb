/* vec_philox.h: Philox4x32-10 on a vector of counters, and its words where the values are that they decide on.
 *
 * A counter has a lane of 64 bits, for a round needs the whole product of two words of 32. Only lower halves mean
 * something: a product reads nothing else, and what gathers in the upper halves never comes down.
 */
#ifndef SP_VEC_PHILOX_H
#define SP_VEC_PHILOX_H

#include "kernels/kernels.h"
#include "kernels/philox.h"
#include "kernels/vec.h"

#define WIDE (VL / 2) /* lanes of 64 bits */

typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef uint64_t vw __attribute__((vector_size(4 * VL)));

struct words {
	vw w[4];
};

INLINE vw w_set(uint64_t x)
{
	return x - (vw){0};
}

INLINE vw w_load(const uint64_t *p)
{
	vw v;
	memcpy(&v, p, sizeof v);
	return v;
}

/* Lower half of each lane times factor. */
INLINE vw w_multiply(vw a, uint32_t factor)
{
#if defined(SP_ISA_AVX512)
	return (vw)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(factor));
#elif defined(SP_ISA_AVX2)
	return (vw)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(factor));
#else
	return (a & w_set(UINT32_MAX)) * w_set(factor);
#endif
}

/* The draws of blocks, a lane each. */
INLINE struct words w_philox(const struct sp_draws *draws, vw token, vw block)
{
	vw c0 = w_set(draws->step), c2 = w_set(draws->row);
	vw c1 = w_set(draws->site | draws->layer << 16) | block >> 16 << 4 | token >> 16 << 27;
	vw c3 = token << 16 | (block & w_set(0xffff));
	uint32_t k0 = (uint32_t)draws->seed, k1 = (uint32_t)(draws->seed >> 32);
	UNROLL
	for (int round = 0; round < SP_PHILOX_ROUNDS; round++) {
		vw p0 = w_multiply(c0, SP_PHILOX_M0), p1 = w_multiply(c2, SP_PHILOX_M1);
		c0 = p1 >> 32 ^ c1 ^ w_set(k0);
		c1 = p1;
		c2 = p0 >> 32 ^ c3 ^ w_set(k1);
		c3 = p0;
		k0 += SP_PHILOX_W0;
		k1 += SP_PHILOX_W1;
	}
	return (struct words){{c0, c1, c2, c3}};
}

/* even[0], odd[0], even[1], odd[1], …: their lower halves */
INLINE vu w_interleave(vw even, vw odd)
{
#if defined(SP_ISA_GENERIC)
	vu v;
	for (int i = 0; i < WIDE; i++) {
		v[2 * i] = (uint32_t)even[i];
		v[2 * i + 1] = (uint32_t)odd[i];
	}
	return v;
#else
	return (vu)((even & w_set(UINT32_MAX)) | odd << 32);
#endif
}

/* 0, 2, 4, … */
INLINE vw w_even(void)
{
	uint64_t lane[WIDE];
	for (int i = 0; i < WIDE; i++)
		lane[i] = (uint64_t)(2 * i);
	return w_load(lane);
}

/* The blocks of 2 VL columns in the order that w_columns wants: lane 2g + s has block s * VL / 4 + g. */
INLINE vw w_column_blocks(void)
{
	uint64_t lane[WIDE];
	for (int i = 0; i < WIDE; i++)
		lane[i] = (uint64_t)(i % 2 * (VL / 4) + i / 2);
	return w_load(lane);
}

/* The draws of 2 VL columns side by side: a block's words come together without leaving their 128 bits. */
INLINE void w_columns(vu draws[2], struct words words)
{
	vu front = w_interleave(words.w[0], words.w[1]), back = w_interleave(words.w[2], words.w[3]);
#if defined(SP_ISA_AVX512)
	draws[0] = (vu)_mm512_unpacklo_epi64((__m512i)front, (__m512i)back);
	draws[1] = (vu)_mm512_unpackhi_epi64((__m512i)front, (__m512i)back);
#elif defined(SP_ISA_AVX2)
	draws[0] = (vu)_mm256_unpacklo_epi64((__m256i)front, (__m256i)back);
	draws[1] = (vu)_mm256_unpackhi_epi64((__m256i)front, (__m256i)back);
#else
	draws[0] = (vu){front[0], front[1], back[0], back[1]};
	draws[1] = (vu){front[2], front[3], back[2], back[3]};
#endif
}

#endif
