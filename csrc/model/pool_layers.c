/* pool_layers.c: from one vector per layer to one vector by a weighted sum of layers, and its gradient. */
#include "sentpool.h"

void sp_mix_layers_forward(float *y, struct sp_layer_rows states, const int64_t *index, const float *weights,
                           int64_t count, float divisor, int64_t n, int64_t H)
{
	unsigned mode = sp_float_mode_enter();
	for (int64_t i = 0; i < n; i++, y += H) {
		for (int64_t l = 0; l < count; l++) {
			const float *row = states.data + i * states.ld_sentence + index[l] * states.ld_layer;
			for (int64_t c = 0; c < H; c++)
				y[c] = l ? y[c] + weights[l] * row[c] : weights[l] * row[c];
		}
		sp_runtime()->kernels->divide_rows(y, H, &divisor, 1, H);
	}
	sp_float_mode_leave(mode);
}

void sp_mix_layers_backward(float *d_states, struct sp_layer_rows d_layout, double *d_weights, const float *dy,
                            int64_t ld, struct sp_layer_rows states, const float *weights, int64_t count, float divisor,
                            int64_t n, int64_t H)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	unsigned mode = sp_float_mode_enter();
	for (int64_t i = 0; i < n; i++, dy += ld)
		for (int64_t l = 0; l < count; l++) {
			const float *state = states.data + i * states.ld_sentence + l * states.ld_layer;
			float *d_state = d_states + i * d_layout.ld_sentence + l * d_layout.ld_layer;
			double product;
			kernels->dots(&product, dy, state, H, 1, H);
			d_weights[l] = d_weights[l] + product / (double)divisor;
			for (int64_t c = 0; c < H; c++)
				d_state[c] = weights[l] * (dy[c] / divisor);
		}
	sp_float_mode_leave(mode);
}
