/* scalar_low.c: the twins of low_precision.h in plain C, one value at a time. The unit for bfloat16 has none. */
#include "kernels/kernels.h"
#include "kernels/low_precision.h"

#include <math.h>
#include <string.h>

enum { NR = 16 };

static float float_from_bits(uint32_t bits)
{
	float x;
	memcpy(&x, &bits, sizeof x);
	return x;
}

/* The nearer of the two bfloat16 around x, the even one in the middle between them. */
static uint16_t round_to_bf16(float x)
{
	uint32_t bits;
	memcpy(&bits, &x, sizeof bits);
	uint16_t below = (uint16_t)(bits >> 16);
	if (isnan(x))
		return below | 0x40;
	uint32_t rest = bits & 0xFFFF;
	return (uint16_t)(below + (rest > 0x8000 || (rest == 0x8000 && below % 2)));
}

static void pack_bf16(uint16_t *panel, int64_t first, const float *source, int64_t ld, int64_t count, int64_t k)
{
	for (int64_t j = 0; j < count; j++)
		for (int64_t p = 0; p < k; p++)
			panel[p * NR + first + j] = round_to_bf16(source[j * ld + p]);
}

static void widen(float *y, const uint16_t *x, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		y[i] = float_from_bits((uint32_t)x[i] << 16);
}

static void gemm_bf16(float *c, int64_t ldc, const void *a, int64_t lda, const uint16_t *panels, const float *bias,
                      int64_t m, int64_t n, int64_t k)
{
	for (int64_t i = 0; i < m; i++)
		for (int64_t j = 0; j < n; j++) {
			float total = 0;
			for (int64_t start = 0; start < k; start += SP_KC) {
				float sum = 0;
				for (int64_t p = start; p < k && p < start + SP_KC; p++) {
					uint32_t half = panels[j / NR * NR * sp_low_depth(k) + p * NR + j % NR];
					sum = fmaf(((const float *)a)[i * lda + p], float_from_bits(half << 16), sum);
				}
				total = start == 0 ? sum : total + sum;
			}
			c[i * ldc + j] = bias ? total + bias[j] : total;
		}
}

static void pack_int8(int8_t *panel, int64_t first, const int8_t *source, int64_t ld, int64_t count, int64_t k)
{
	for (int64_t j = 0; j < count; j++)
		for (int64_t p = 0; p < k; p++)
			panel[p * NR + first + j] = source[j * ld + p];
}

static void quantize_row(uint8_t *q, struct sp_row_range *range, const float *x, const float *smooth, int digits,
                         int64_t k)
{
	float largest = digits == 2 ? 32767 : 255, low = INFINITY, high = -INFINITY;
	int finite = 1;
	for (int64_t i = 0; i < k; i++) {
		float v = smooth ? x[i] * smooth[i] : x[i];
		finite = finite && isfinite(v);
		low = v < low ? v : low;
		high = v > high ? v : high;
	}
	low = low + 0.0f; /* no -0 */
	float width = high - low + 0.0f, factor = width > 0 ? largest / width : 0;
	*range = (struct sp_row_range){low, finite ? width / largest : NAN};
	memset(q, 0, (size_t)(digits * sp_low_depth(k)));
	for (int64_t i = 0; i < k; i++) {
		float scaled = ((smooth ? x[i] * smooth[i] : x[i]) - low) * factor;
		int number = (int)nearbyintf(scaled < largest ? scaled : largest);
		q[i] = (uint8_t)(digits == 2 ? number / 256 : number);
		if (digits == 2)
			q[sp_low_depth(k) + i] = (uint8_t)(number % 256);
	}
}

static void quantize(void *q, int64_t ldq, struct sp_row_range *range, const float *x, int64_t ldx, const float *smooth,
                     int digits, int64_t rows, int64_t k)
{
	for (int64_t r = 0; r < rows; r++)
		quantize_row((uint8_t *)q + r * ldq, &range[r], x + r * ldx, smooth, digits, k);
}

static void gemm_int8(float *c, int64_t ldc, const void *q, int64_t ldq, const struct sp_row_range *range,
                      struct sp_int8_panels b, const float *bias, int digits, int64_t m, int64_t n, int64_t k)
{
	for (int64_t i = 0; i < m; i++)
		for (int64_t j = 0; j < n; j++) {
			const uint8_t *row = (const uint8_t *)q + i * ldq;
			int32_t sum[2] = {0, 0};
			for (int digit = 0; digit < digits; digit++)
				for (int64_t p = 0; p < k; p++)
					sum[digit] += row[digit * sp_low_depth(k) + p] *
					              b.panels[j / NR * NR * sp_low_depth(k) + p * NR + j % NR];
			int32_t carry = sum[1] >> 8, rest = sum[1] & 255;
			float total = digits == 2 ? fmaf((float)(sum[0] + carry), 256, (float)rest) : (float)sum[0];
			float y = fmaf(total * range[i].step, b.scale[j], b.offset[j] * range[i].low);
			c[i * ldc + j] = bias ? y + bias[j] : y;
		}
}

const struct sp_bf16_kernels sp_bf16_kernels_scalar = {.pack = pack_bf16, .widen = widen, .gemm = gemm_bf16};
const struct sp_int8_kernels sp_int8_kernels_scalar = {
	.value_bytes = {1, 2}, .pack = pack_int8, .quantize = quantize, .gemm = gemm_int8};
