/* dropout.c: kernels that drop values at random: along rows of hidden states, and down columns of attention's
 * transposed scores, where the four words of a lane are four keys of one query and need not be moved.
 */
#include "kernels/vec_philox.h"

INLINE vf kept(vf x, vu draw, vu threshold, vf scale)
{
	return (vf)((vi)(x * scale) & (vi)(draw >= threshold));
}

INLINE void drop(float *y, int64_t n, vu draw, vu threshold, vf scale)
{
	if (n >= VL)
		v_store(y, kept(v_load(y), draw, threshold, scale));
	else if (n > 0)
		v_store_part(y, kept(v_load_part(y, n), draw, threshold, scale), n);
}

void SP_ISA_NAME(sp_dropout)(float *y, int64_t ld, const struct sp_draws *draws, int64_t token, int64_t rows,
                             int64_t cols)
{
	const struct sp_draws d = *draws; /* a copy that no store can reach */
	vu threshold = d.threshold - (vu){0};
	vf scale = v_set(d.scale);
	for (int64_t r = 0; r < rows; r++, y += ld)
		for (int64_t i = 0; i < cols; i += 2 * VL) {
			vw blocks = w_column_blocks() + w_set((uint64_t)i / 4);
			vu draw[2];
			w_columns(draw, w_philox(&d, w_set((uint64_t)(token + r)), blocks));
			drop(y + i, cols - i, draw[0], threshold, scale);
			drop(y + i + VL, cols - i - VL, draw[1], threshold, scale);
		}
}

void SP_ISA_NAME(sp_dropout_columns)(float *scores, const struct sp_draws *draws, int64_t query, int64_t queries,
                                     int64_t block, int64_t keys)
{
	const struct sp_draws d = *draws;
	vu threshold = d.threshold - (vu){0};
	vf scale = v_set(d.scale);
	for (int64_t first = 0; first < queries; first += VL) {
		vw even = w_even() + w_set((uint64_t)(query + first));
		for (int64_t k = 0; k < keys; k += 4) {
			vw blocks = w_set((uint64_t)(block + k / 4));
			struct words a = w_philox(&d, even, blocks), b = w_philox(&d, even + w_set(1), blocks);
			UNROLL
			for (int j = 0; j < 4; j++)
				if (k + j < keys)
					drop(scores + (k + j) * NR + first, VL, w_interleave(a.w[j], b.w[j]), threshold,
					     scale);
		}
	}
}
