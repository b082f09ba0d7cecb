/* head.c: what follows the pooling: a dense layer, L2 normalisation; and their gradients. */
#include "sentpool.h"

#include <math.h>
#include <string.h>

/* y = x W^T + bias */
static enum sp_status affine(float *y, struct sp_strided x, struct sp_strided weight, const float *bias, int64_t n,
                             int64_t out, int64_t in)
{
	struct sp_strided transposed = {weight.data, weight.cs, weight.rs};
	enum sp_status status = sp_gemm(y, out, x, transposed, n, out, in);
	for (int64_t r = 0; status == SP_OK && bias && r < n; r++)
		for (int64_t j = 0; j < out; j++)
			y[r * out + j] = y[r * out + j] + bias[j];
	return status;
}

enum sp_status sp_dense_forward(float *y, struct sp_strided x, struct sp_strided weight, const float *bias,
                                enum sp_activation f, int64_t n, int64_t out, int64_t in)
{
	unsigned mode = sp_float_mode_enter();
	enum sp_status status = affine(y, x, weight, bias, n, out, in);
	if (status == SP_OK)
		sp_runtime()->kernels->activation(y, out, y, out, f, n, out);
	sp_float_mode_leave(mode);
	return status;
}

enum sp_status sp_dense_backward(float *dx, float *dweight, float *dbias, const float *dy, struct sp_strided x,
                                 struct sp_strided weight, const float *bias, enum sp_activation f, int64_t n,
                                 int64_t out, int64_t in)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	float *z = sp_floats(3 * n * out);
	if (!z)
		return SP_NO_MEMORY;
	float *y = z + n * out, *dz = y + n * out;
	unsigned mode = sp_float_mode_enter();
	enum sp_status status = affine(z, x, weight, bias, n, out, in);
	if (status == SP_OK) {
		kernels->activation_backward(dz, out, y, out, dy, out, z, out, f, n, out);
		status = sp_gemm(dx, in, (struct sp_strided){dz, out, 1}, weight, n, in, out);
	}
	if (status == SP_OK)
		status = sp_gemm(dweight, in, (struct sp_strided){dz, 1, out}, x, out, in, n);
	if (status == SP_OK)
		kernels->pool_sum(dbias, dz, out, 1.0f, n, out);
	sp_float_mode_leave(mode);
	sp_free(z);
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

void sp_normalize_backward(float *dx, const float *dy, const float *x, int64_t n, int64_t d)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	unsigned mode = sp_float_mode_enter();
	for (int64_t r = 0; r < n; r++, dx += d, dy += d, x += d) {
		float norm = sqrtf(kernels->sum_of_squares(x, d));
		int floored = norm < 1e-12f; /* then a constant divides */
		double product, factor = 0;
		norm = floored ? 1e-12f : norm;
		kernels->dots(&product, x, dy, d, 1, d);
		if (!floored)
			factor = product / ((double)norm * (double)norm);
		for (int64_t c = 0; c < d; c++)
			dx[c] = (dy[c] - (float)factor * x[c]) / norm;
	}
	sp_float_mode_leave(mode);
}
