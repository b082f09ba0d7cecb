/* rrelu.c: the slopes of RReLU in training, drawn by place as dropout's masks are: 1 above zero, below it uniform in
 * [1/8, 1/3), of which a draw's upper 24 bits choose one value.
 */
#include "kernels/vec_philox.h"

INLINE vf slope(vf x, vu draw)
{
	vf part = __builtin_convertvector((vi)(draw >> 8), vf) * 0x1p-24f;
	return v_select(x > 0.0f, v_set(1.0f), part * (5.0f / 24.0f) + 0.125f);
}

INLINE void store_slopes(float *slopes, const float *x, int64_t n, vu draw)
{
	if (n >= VL)
		v_store(slopes, slope(v_load(x), draw));
	else if (n > 0)
		v_store_part(slopes, slope(v_load_part(x, n), draw), n);
}

void SP_ISA_NAME(sp_rrelu_slopes)(float *slopes, const float *x, const struct sp_draws *draws, int64_t token,
                                  int64_t rows, int64_t cols)
{
	const struct sp_draws d = *draws; /* a copy that no store can reach */
	for (int64_t r = 0; r < rows; r++, x += cols, slopes += cols)
		for (int64_t i = 0; i < cols; i += 2 * VL) {
			vw blocks = w_column_blocks() + w_set((uint64_t)i / 4);
			vu draw[2];
			w_columns(draw, w_philox(&d, w_set((uint64_t)(token + r)), blocks));
			store_slopes(slopes + i, x + i, cols - i, draw[0]);
			store_slopes(slopes + i + VL, x + i + VL, cols - i - VL, draw[1]);
		}
}
