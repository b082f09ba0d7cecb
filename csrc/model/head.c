/* head.c: what follows the pooling: a dense layer, L2 normalisation. */
#include "sentpool.h"

#include <math.h>
#include <string.h>

enum sp_status sp_dense_forward(float *y, struct sp_strided x, struct sp_strided weight, const float *bias,
                                enum sp_activation f, int64_t n, int64_t out, int64_t in)
{
	struct sp_strided transposed = {weight.data, weight.cs, weight.rs};
	unsigned mode = sp_float_mode_enter();
	enum sp_status status = sp_gemm(y, out, x, transposed, n, out, in);
	if (status == SP_OK) {
		for (int64_t r = 0; bias && r < n; r++)
			for (int64_t j = 0; j < out; j++)
				y[r * out + j] = y[r * out + j] + bias[j];
		sp_runtime()->kernels->activation(y, out, y, out, f, n, out);
	}
	sp_float_mode_leave(mode);
	return status;
}

void sp_normalize_forward(float *y, const float *x, int64_t n, int64_t d)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	unsigned mode = sp_float_mode_enter();
	memcpy(y, x, (size_t)(n * d) * sizeof(float));
	for (int64_t r = 0; r < n; r++) {
		float norm = sqrtf(kernels->sum_of_squares(x + r * d, d));
		norm = norm < 1e-12f ? 1e-12f : norm; /* NaN stays */
		kernels->divide_rows(y + r * d, d, &norm, 1, d);
	}
	sp_float_mode_leave(mode);
}
