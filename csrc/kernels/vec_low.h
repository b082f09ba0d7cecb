/* vec_low.h: bfloat16 and int8 on the vectors of vec.h. */
#ifndef SP_VEC_LOW_H
#define SP_VEC_LOW_H

#include "kernels/vec.h"

typedef uint16_t vh __attribute__((vector_size(2 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));

INLINE vf v_load_bf16(const uint16_t *p)
{
	vh halves;
	memcpy(&halves, p, sizeof halves);
	return (vf)(__builtin_convertvector(halves, vu) << 16);
}

INLINE vi v_load_int(const int32_t *p)
{
	vi v;
	memcpy(&v, p, sizeof v);
	return v;
}

/* to[NR] = the `count` numbers at `from`, one for each column of a panel, and zeros. A memcpy of so few, but not always as
 * many, takes longer. */
INLINE void take_numbers(float *to, const float *from, int64_t count)
{
	for (int64_t j = 0; j < NR; j += VL, count -= VL)
		v_store(to + j, count > 0 ? v_load_up_to(from + j, count) : (vf){0});
}

#endif
