/* scalar.c: the twins. Every kernel once more in plain C, one value at a time, written to be read.
 *
 * They define the bits: tests hold each vector kernel against its twin with ==, and the committed golden hashes come
 * from SENTPOOL_ISA=scalar. Slow on purpose; nothing here is shared with vec.h.
 */
#include "kernels/kernels.h"
#include "kernels/philox.h"

#include <math.h>
#include <string.h>

enum { NR = 16, LANES = 16 };

/* C[i,j]: blocks of SP_KC, in each a chain of fmaf from 0; see panel.c. */
static float chain(struct sp_panel_a a, struct sp_panel_b b, int64_t i, int64_t j, int64_t start, int64_t k)
{
	float sum = 0;
	for (int64_t p = start; p < k && p < start + SP_KC; p++) {
		float x = a.by_column ? a.data[p * a.ld + i] : a.data[i * a.ld + p];
		float w = b.data[j / NR * b.panel_stride + p * b.row_stride + j % NR];
		sum = fmaf(x, w, sum);
	}
	return sum;
}

static void gemm(float *c, int64_t ldc, struct sp_panel_a a, struct sp_panel_b b, const float *bias, int64_t m,
                 int64_t n, int64_t k)
{
	for (int64_t i = 0; i < m; i++)
		for (int64_t j = 0; j < n; j++) {
			float total = 0;
			for (int64_t start = 0; start < k; start += SP_KC)
				total = start == 0 ? chain(a, b, i, j, 0, k) : total + chain(a, b, i, j, start, k);
			c[i * ldc + j] = bias ? total + bias[j] : total;
		}
}

static void gemm_add(float *c, int64_t ldc, struct sp_panel_a a, struct sp_panel_b b, const float *bias, int64_t m,
                     int64_t n, int64_t k)
{
	for (int64_t i = 0; i < m; i++)
		for (int64_t j = 0; j < n; j++) {
			float total = c[i * ldc + j];
			for (int64_t start = 0; start < k; start += SP_KC)
				total = total + chain(a, b, i, j, start, k);
			c[i * ldc + j] = bias ? total + bias[j] : total;
		}
}

static void pack(float *panel, int64_t first, const float *source, int64_t ld, int64_t count, int64_t k)
{
	for (int64_t j = 0; j < count; j++)
		for (int64_t p = 0; p < k; p++)
			panel[p * NR + first + j] = source[j * ld + p];
}

static void pack_rows(float *panel, const float *rows, int64_t ld, int64_t count, int64_t columns, int64_t k)
{
	for (int64_t j = 0; j < columns; j++)
		for (int64_t p = 0; p < k; p++)
			panel[p * NR + j] = j < count ? rows[j * ld + p] : 0.0f;
}

static void transpose(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t c = 0; c < cols; c++)
			y[c * ldy + r] = x[r * ldx + c];
}

static float horner(const float *coefficient, int degree, float x)
{
	float y = coefficient[degree];
	for (int i = degree - 1; i >= 0; i--)
		y = fmaf(y, x, coefficient[i]);
	return y;
}

static float power_of_two(int32_t n)
{
	uint32_t bits = (uint32_t)(n + 127) << 23;
	float y;
	memcpy(&y, &bits, sizeof y);
	return y;
}

static float exponential(float x)
{
	static const float tail[] = {0.4999999403953552f, 0.1666652113199234f, 0.04166838899254799f,
	                             0.00836874544620514f, 0.0013814539415761828f};
	if (isnan(x))
		return x;
	x = x < -104.0f ? -104.0f : x;
	x = x > 89.0f ? 89.0f : x;
	float n = fmaf(x, 1.44269504f, 12582912.0f) - 12582912.0f;
	float r = fmaf(n, -0.693359375f, x);
	r = fmaf(n, 2.12194440e-4f, r);
	float p = fmaf(horner(tail, 4, r), r * r, r) + 1.0f;
	int32_t e = (int32_t)n, half = (e - (e & 1)) / 2;
	return p * power_of_two(half) * power_of_two(e - half);
}

/* x P(x^2) / Q(x^2) on [-limit, limit], cut to [-1, 1] */
static float odd_rational(float x, float limit, const float *P, int p_degree, const float *Q, int q_degree)
{
	if (isnan(x))
		return x;
	x = x < -limit ? -limit : x > limit ? limit : x;
	float t = x * x;
	float y = x * horner(P, p_degree, t) / horner(Q, q_degree, t);
	return y < -1.0f ? -1.0f : y > 1.0f ? 1.0f : y;
}

static float error_function(float x)
{
	static const float P[] = {1.1283791065216064f,   0.19039103388786316f,    0.05274670571088791f,
	                          0.003764969063922763f, 0.00028487041709013283f, 2.0502288862189744e-06f};
	static const float Q[] = {1.0f,
	                          0.5020623803138733f,
	                          0.11410275846719742f,
	                          0.014967908151447773f,
	                          0.0011623832397162914f,
	                          3.809255576925352e-05f};
	return odd_rational(x, 3.92f, P, 5, Q, 5);
}

static float hyperbolic_tangent(float x)
{
	static const float P[] = {1.0f,
	                          0.13680873811244965f,
	                          0.0038695286493748426f,
	                          2.8031716283294372e-05f,
	                          3.0643447668433404e-08f,
	                          -1.2246874521448792e-11f};
	static const float Q[] = {1.0f, 0.47014206647872925f, 0.02725023217499256f, 0.00039407494477927685f,
	                          1.2890627658634912e-06f};
	return odd_rational(x, 9.0f, P, 5, Q, 4);
}

static float sigmoid(float x)
{
	return 1.0f / (exponential(-x) + 1.0f);
}

static float gelu_low(float x)
{
	static const float P[] = {-0.012221305631101131f, 0.03170669823884964f,   -0.03573436662554741f,
	                          0.021640527993440628f,  -0.006112282630056143f, -0.0006461992161348462f,
	                          0.0009988639503717422f, -0.000172130050486885f, -4.541294038062915e-05f,
	                          1.3317209777596872e-05f};
	float distance = fabsf(x);
	distance = distance > 4.5f ? 4.5f : distance;
	return fmaf(distance, horner(P, 9, distance - 2.25f), 0.0f > x ? 0.0f : x);
}

static float activate(enum sp_activation f, float x)
{
	float half = x * 0.5f;
	switch (f) {
	case SP_GELU: return fmaf(half, error_function(x * 0.70710678f), half);
	case SP_GELU_TANH: return fmaf(half, hyperbolic_tangent(fmaf(x * x * x, 0.044715f, x) * 0.79788456f), half);
	case SP_RELU: return 0.0f > x ? 0.0f : x;
	case SP_SILU: return x * sigmoid(x);
	case SP_TANH: return hyperbolic_tangent(x);
	case SP_SIGMOID: return sigmoid(x);
	case SP_GELU_LOW: return gelu_low(x);
	case SP_IDENTITY: break;
	}
	return x;
}

static void activation(float *y, int64_t ldy, const float *x, int64_t ldx, enum sp_activation f, int64_t rows,
                       int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++)
			y[r * ldy + i] = activate(f, x[r * ldx + i]);
}

/* The derivative of f at x. */
static float slope(enum sp_activation f, float x)
{
	float half = x * 0.5f, t, s;
	switch (f) {
	case SP_GELU:
		t = exponential(half * -x) * 0.39894228f;
		return fmaf(x, t, fmaf(0.5f, error_function(x * 0.70710678f), 0.5f));
	case SP_GELU_TANH:
		t = hyperbolic_tangent(fmaf(x * x * x, 0.044715f, x) * 0.79788456f);
		s = fmaf(x * x, 0.134145f, 1.0f) * 0.79788456f;
		return fmaf(half * ((1.0f - t) * (1.0f + t)), s, fmaf(0.5f, t, 0.5f));
	case SP_RELU: return x > 0.0f ? 1.0f : 0.0f;
	case SP_SILU: s = sigmoid(x); return fmaf(x * s, 1.0f - s, s);
	case SP_TANH: t = hyperbolic_tangent(x); return (1.0f - t) * (1.0f + t);
	case SP_SIGMOID: s = sigmoid(x); return s * (1.0f - s);
	case SP_GELU_LOW: /* has none */
	case SP_IDENTITY: break;
	}
	return 1.0f;
}

static void activation_backward(float *dx, int64_t lddx, float *y, int64_t ldy, const float *dy, int64_t lddy,
                                const float *x, int64_t ldx, enum sp_activation f, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++) {
			dx[r * lddx + i] = dy[r * lddy + i] * slope(f, x[r * ldx + i]);
			y[r * ldy + i] = activate(f, x[r * ldx + i]);
		}
}

static void gated_activation(float *y, int64_t ldy, const float *x, int64_t ldx, const float *gate, int64_t ldg,
                             enum sp_activation f, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++)
			y[r * ldy + i] = activate(f, x[r * ldx + i]) * gate[r * ldg + i];
}

static void add(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t rows,
                int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++)
			y[r * ldy + i] = a[r * lda + i] + b[r * ldb + i];
}

static void multiply(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t rows,
                     int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++)
			y[r * ldy + i] = a[r * lda + i] * b[r * ldb + i];
}

static void rotate(float *x, const float *cosine, const float *sine, int64_t heads, int64_t d, int64_t half)
{
	for (int64_t head = 0; head < heads; head++)
		for (int64_t i = 0; i < half; i++) {
			float *low = x + head * d + i, *high = low + half, a = *low, b = *high;
			*low = a * cosine[i] - b * sine[i];
			*high = b * cosine[i] + a * sine[i];
		}
}

static void add_diagonals(float *scores, const float *line, int64_t keys)
{
	for (int64_t k = 0; k < keys; k++)
		for (int64_t j = 0; j < NR; j++)
			scores[k * NR + j] = scores[k * NR + j] + line[j - k];
}

static void softmax_columns(float *scores, float *sums, float scale, int64_t keys, int64_t columns)
{
	for (int64_t j = 0; j < columns; j++) {
		float max = -INFINITY, sum = 0;
		for (int64_t k = 0; k < keys; k++)
			max = scores[k * NR + j] > max ? scores[k * NR + j] : max;
		for (int64_t k = 0; k < keys; k++) {
			float e = exponential((scores[k * NR + j] - max) * scale);
			scores[k * NR + j] = e;
			sum = sum + e;
		}
		sums[j] = sum;
	}
}

static void softmax_columns_backward(float *dscores, int64_t ld, float *scores, const float *sums,
                                     const float *dweights, float scale, int64_t keys)
{
	for (int64_t j = 0; j < NR; j++) {
		float dot = 0;
		for (int64_t k = 0; k < keys; k++) {
			float p = scores[k * NR + j] / sums[j];
			scores[k * NR + j] = p;
			dot = fmaf(p, dweights[k * NR + j], dot);
		}
		for (int64_t k = 0; k < keys; k++)
			dscores[k * ld + j] = (dweights[k * NR + j] - dot) * scores[k * NR + j] * scale;
	}
}

/* The draw of a place: word `word` of a block, with the counter that philox.h lays out. */
static uint32_t draw(const struct sp_draws *draws, int64_t token, int64_t block, int64_t word)
{
	uint32_t t = (uint32_t)token, b = (uint32_t)block, words[4];
	uint32_t counter[] = {draws->step, draws->site | b >> 16 << 4 | draws->layer << 16 | t >> 16 << 27, draws->row,
	                      t << 16 | (b & 0xffff)};
	sp_philox(words, counter, draws->seed);
	return words[word];
}

static float drop(float x, const struct sp_draws *draws, int64_t token, int64_t block, int64_t word)
{
	return draw(draws, token, block, word) < draws->threshold ? 0.0f : x * draws->scale;
}

static void dropout(float *y, int64_t ld, const struct sp_draws *draws, int64_t token, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++)
			y[r * ld + i] = drop(y[r * ld + i], draws, token + r, i / 4, i % 4);
}

static void dropout_columns(float *scores, const struct sp_draws *draws, int64_t query, int64_t queries, int64_t block,
                            int64_t keys)
{
	for (int64_t k = 0; k < keys; k++)
		for (int64_t j = 0; j < queries; j++)
			scores[k * NR + j] = drop(scores[k * NR + j], draws, query + j, block + k / 4, k % 4);
}

static void rrelu_slopes(float *slopes, const float *x, const struct sp_draws *draws, int64_t token, int64_t rows,
                         int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++) {
			float part = (float)(draw(draws, token + r, i / 4, i % 4) >> 8) * 0x1p-24f;
			slopes[r * cols + i] = x[r * cols + i] > 0.0f ? 1.0f : part * (5.0f / 24.0f) + 0.125f;
		}
}

static void divide_rows(float *y, int64_t ld, const float *divisor, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < cols; i++)
			y[r * ld + i] = y[r * ld + i] / divisor[r];
}

/* Element i goes to virtual lane i % 16; lanes fold as i with i + 8, + 4, + 2, + 1. */
static float fold(float lane[LANES])
{
	for (int half = LANES / 2; half > 0; half /= 2)
		for (int i = 0; i < half; i++)
			lane[i] = lane[i] + lane[i + half];
	return lane[0];
}

static void add_layernorm(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,
                          const float *gamma, const float *beta, float eps, int64_t rows, int64_t H)
{
	for (int64_t r = 0; r < rows; r++) {
		float *z = y + r * ldy;
		float sum[LANES] = {0}, squares[LANES] = {0};
		for (int64_t i = 0; i < H; i++) {
			z[i] = b ? a[r * lda + i] + b[r * ldb + i] : a[r * lda + i];
			sum[i % LANES] = sum[i % LANES] + z[i];
		}
		float mean = fold(sum) / (float)H;
		for (int64_t i = 0; i < H; i++)
			squares[i % LANES] = fmaf(z[i] - mean, z[i] - mean, squares[i % LANES]);
		float rstd = 1.0f / sqrtf(fold(squares) / (float)H + eps);
		for (int64_t i = 0; i < H; i++)
			z[i] = fmaf((z[i] - mean) * rstd, gamma[i], beta ? beta[i] : 0.0f);
	}
}

static void layernorm_backward(float *dz, int64_t lddz, float *normed, int64_t ldn, const float *dy, int64_t lddy,
                               const float *a, int64_t lda, const float *b, int64_t ldb, const float *gamma, float eps,
                               int64_t rows, int64_t H)
{
	for (int64_t r = 0; r < rows; r++) {
		float *z = normed + r * ldn;
		const float *d = dy + r * lddy;
		float sum[LANES] = {0}, squares[LANES] = {0}, plain[LANES] = {0}, along[LANES] = {0};
		for (int64_t i = 0; i < H; i++) {
			z[i] = b ? a[r * lda + i] + b[r * ldb + i] : a[r * lda + i];
			sum[i % LANES] = sum[i % LANES] + z[i];
		}
		float mean = fold(sum) / (float)H;
		for (int64_t i = 0; i < H; i++)
			squares[i % LANES] = fmaf(z[i] - mean, z[i] - mean, squares[i % LANES]);
		float rstd = 1.0f / sqrtf(fold(squares) / (float)H + eps);
		for (int64_t i = 0; i < H; i++) {
			z[i] = (z[i] - mean) * rstd;
			plain[i % LANES] = plain[i % LANES] + d[i] * gamma[i];
			along[i % LANES] = fmaf(d[i] * gamma[i], z[i], along[i % LANES]);
		}
		float shift = fold(plain) / (float)H, tilt = fold(along) / (float)H;
		for (int64_t i = 0; i < H; i++)
			dz[r * lddz + i] = (d[i] * gamma[i] - shift - z[i] * tilt) * rstd;
	}
}

static void embed_row(float *y, const float *word, const float *type, const float *position, int64_t H)
{
	for (int64_t i = 0; i < H; i++) {
		y[i] = type ? word[i] + type[i] : word[i];
		y[i] = position ? y[i] + position[i] : y[i];
	}
}

static void pool_sum(float *y, const float *h, int64_t ld, float divisor, int64_t T, int64_t cols)
{
	for (int64_t i = 0; i < cols; i++) {
		float sum = 0;
		for (int64_t t = 0; t < T; t++)
			sum = sum + h[t * ld + i];
		y[i] = sum / divisor;
	}
}

static void pool_weighted(float *y, const float *h, int64_t ld, int64_t first_weight, int64_t T, int64_t cols)
{
	float total = (float)(T * first_weight + T * (T - 1) / 2);
	for (int64_t i = 0; i < cols; i++) {
		float sum = 0;
		for (int64_t t = 0; t < T; t++)
			sum = fmaf((float)(first_weight + t), h[t * ld + i], sum);
		y[i] = sum / total;
	}
}

static void pool_max(float *y, const float *h, int64_t ld, int64_t T, int64_t cols)
{
	for (int64_t i = 0; i < cols; i++) {
		float max = -INFINITY;
		for (int64_t t = 0; t < T; t++) {
			float x = h[t * ld + i];
			max = x > max || isnan(x) ? x : max;
		}
		y[i] = max;
	}
}

static void pool_sum_backward(float *dh, int64_t lddh, const float *dy, float divisor, int64_t T, int64_t cols)
{
	for (int64_t t = 0; t < T; t++)
		for (int64_t i = 0; i < cols; i++)
			dh[t * lddh + i] = dh[t * lddh + i] + dy[i] / divisor;
}

static void pool_weighted_backward(float *dh, int64_t lddh, const float *dy, int64_t first_weight, int64_t T,
                                   int64_t cols)
{
	float total = (float)(T * first_weight + T * (T - 1) / 2);
	for (int64_t t = 0; t < T; t++)
		for (int64_t i = 0; i < cols; i++)
			dh[t * lddh + i] = fmaf((float)(first_weight + t), dy[i] / total, dh[t * lddh + i]);
}

static void pool_max_backward(float *dh, int64_t lddh, const float *dy, const float *h, int64_t ldh, int64_t T,
                              int64_t cols)
{
	for (int64_t i = 0; i < cols; i++) {
		int64_t chosen = 0;
		for (int64_t t = 1; t < T; t++)
			if (h[t * ldh + i] > h[chosen * ldh + i] || isnan(h[t * ldh + i]))
				chosen = t;
		dh[chosen * lddh + i] = dh[chosen * lddh + i] + dy[i];
	}
}

static void columns_add(float *y, const float *x, int64_t ldx, const float *z, int64_t ldz, int64_t T, int64_t cols)
{
	for (int64_t i = 0; i < cols; i++) {
		float sum = 0;
		for (int64_t t = 0; t < T; t++)
			sum = z ? fmaf(x[t * ldx + i], z[t * ldz + i], sum) : sum + x[t * ldx + i];
		y[i] = y[i] + sum;
	}
}

static float sum_of_squares(const float *x, int64_t H)
{
	float sum[LANES] = {0};
	for (int64_t i = 0; i < H; i++)
		sum[i % LANES] = fmaf(x[i], x[i], sum[i % LANES]);
	return fold(sum);
}

static double dot(const float *x, const float *y, int64_t H)
{
	double lane[8] = {0};
	for (int64_t i = 0; i < H; i++)
		lane[i % 8] = lane[i % 8] + (double)x[i] * (double)y[i];
	for (int half = 4; half > 0; half /= 2)
		for (int i = 0; i < half; i++)
			lane[i] = lane[i] + lane[i + half];
	return lane[0];
}

static void squares(double *out, const float *x, int64_t ld, int64_t rows, int64_t H)
{
	for (int64_t j = 0; j < rows; j++)
		out[j] = dot(x + j * ld, x + j * ld, H);
}

static void dots(double *out, const float *x, const float *y, int64_t ldy, int64_t rows, int64_t H)
{
	for (int64_t j = 0; j < rows; j++)
		out[j] = dot(x, y + j * ldy, H);
}

static void hamming(int32_t *out, const uint8_t *x, const uint8_t *y, int64_t ldy, int64_t rows, int64_t bytes)
{
	for (int64_t j = 0; j < rows; j++) {
		out[j] = 0;
		for (int64_t i = 0; i < bytes; i++)
			for (int bit = 0; bit < 8; bit++)
				out[j] += (x[i] ^ y[j * ldy + i]) >> bit & 1;
	}
}

static int64_t screen(int32_t *hits, const float *scores, const float *limit, const float *slack,
                      const struct sp_screen_row *row, int64_t rows)
{
	int64_t count = 0;
	for (int64_t r = 0; r < rows; r++)
		for (int64_t j = 0; j < NR; j++) {
			float bound = limit[j] * row[r].factor + (row[r].shift - slack[j] * row[r].length);
			if (scores[r * NR + j] > bound)
				hits[count++] = (int32_t)(r * NR + j);
		}
	return count;
}

static float softmax_row(float *x, float *max, int64_t n)
{
	float sum[LANES] = {0};
	*max = -INFINITY;
	for (int64_t i = 0; i < n; i++)
		*max = x[i] > *max ? x[i] : *max;
	for (int64_t i = 0; i < n; i++) {
		x[i] = exponential(x[i] - *max);
		sum[i % LANES] = sum[i % LANES] + x[i];
	}
	return fold(sum);
}

static void adamw(float *p, float *m, float *v, const float *gradient, const struct sp_adamw *a, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		float g = gradient[i] * a->clip;
		m[i] = m[i] + (g - m[i]) * a->first_rate;
		v[i] = v[i] * a->second_decay + g * g * a->second_rate;
		p[i] = p[i] * a->decay - m[i] / (sqrtf(v[i]) / a->second_root + a->eps) * a->step;
	}
}

const struct sp_kernels sp_kernels_scalar = {
	.isa = "scalar",
	.nr = NR,
	.gemm = gemm,
	.gemm_add = gemm_add,
	.pack = pack,
	.pack_rows = pack_rows,
	.transpose = transpose,
	.activation = activation,
	.activation_backward = activation_backward,
	.gated_activation = gated_activation,
	.add = add,
	.multiply = multiply,
	.rotate = rotate,
	.add_diagonals = add_diagonals,
	.softmax_columns = softmax_columns,
	.softmax_columns_backward = softmax_columns_backward,
	.dropout = dropout,
	.dropout_columns = dropout_columns,
	.rrelu_slopes = rrelu_slopes,
	.divide_rows = divide_rows,
	.add_layernorm = add_layernorm,
	.layernorm_backward = layernorm_backward,
	.embed_row = embed_row,
	.pool_sum = pool_sum,
	.pool_weighted = pool_weighted,
	.pool_max = pool_max,
	.pool_sum_backward = pool_sum_backward,
	.pool_weighted_backward = pool_weighted_backward,
	.pool_max_backward = pool_max_backward,
	.columns_add = columns_add,
	.sum_of_squares = sum_of_squares,
	.squares = squares,
	.dots = dots,
	.softmax_row = softmax_row,
	.adamw = adamw,
	.hamming = hamming,
	.screen = screen,
};
