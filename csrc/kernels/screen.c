/* screen.c: which scores of a tile a search must look at more closely; distances of packed bits. */
#include "kernels/kernels.h"
#include "kernels/vec.h"

int64_t SP_ISA_NAME(sp_screen)(int32_t *hits, const float *scores, const float *limit, const float *slack,
                               const struct sp_screen_row *row, int64_t rows)
{
	vf limit0 = v_load(limit), limit1 = v_load(limit + VL), slack0 = v_load(slack), slack1 = v_load(slack + VL);
	int64_t count = 0;
	for (int64_t r = 0; r < rows; r++, scores += NR) {
		vf bound0 = limit0 * row[r].factor + (row[r].shift - slack0 * row[r].length);
		vf bound1 = limit1 * row[r].factor + (row[r].shift - slack1 * row[r].length);
		uint32_t above = v_mask(v_load(scores) > bound0) | v_mask(v_load(scores + VL) > bound1) << VL;
		for (; above; above &= above - 1)
			hits[count++] = (int32_t)(r * NR + __builtin_ctz(above));
	}
	return count;
}

/* 8 bytes, the ones beyond `bytes` zero */
INLINE uint64_t load_bits(const uint8_t *x, int64_t bytes)
{
	uint64_t bits = 0;
	memcpy(&bits, x, bytes < 8 ? (size_t)bytes : 8);
	return bits;
}

void SP_ISA_NAME(sp_hamming)(int32_t *out, const uint8_t *x, const uint8_t *y, int64_t ldy, int64_t rows, int64_t bytes)
{
	for (int64_t j = 0; j < rows; j++, y += ldy) {
		int32_t count = 0;
		int64_t i = 0;
		for (; i + 8 <= bytes; i += 8)
			count += __builtin_popcountll(load_bits(x + i, 8) ^ load_bits(y + i, 8));
		if (i < bytes)
			count += __builtin_popcountll(load_bits(x + i, bytes - i) ^ load_bits(y + i, bytes - i));
		out[j] = count;
	}
}
