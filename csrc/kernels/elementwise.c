/* elementwise.c: kernels in which every element stands alone: activations, sums, rotations, division, embeddings. */
#include "kernels/kernels.h"
#include "kernels/vec_math.h"

/* GELU with the exact erf: x/2 (1 + erf(x / sqrt 2)), one rounding at the end. */
INLINE vf gelu(vf x)
{
	vf half = x * 0.5f;
	return v_fma(half, v_erf(x * 0.70710678f), half);
}

/* GELU's tanh form ("gelu_new"): x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). */
INLINE vf gelu_tanh(vf x)
{
	vf half = x * 0.5f;
	vf cubic = v_fma(x * x * x, v_set(0.044715f), x);
	return v_fma(half, v_tanh(cubic * 0.79788456f), half);
}

INLINE vf sigmoid(vf x)
{
	return 1.0f / (v_exp(-x) + 1.0f);
}

/* max(x, 0), NaN kept */
INLINE vf relu(vf x)
{
	return v_max(v_set(0.0f), x);
}

/* GELU to 1.6e-5 min(|x|, 1), without a division: max(x, 0) + d P(d), d = min(|x|, 4.5), where -P(d) is near the
 * normal distribution's part beyond d; P is written in powers of d - 2.25. */
INLINE vf gelu_low(vf x)
{
	static const float P[] = {-0.012221305631101131f, 0.03170669823884964f,   -0.03573436662554741f,
	                          0.021640527993440628f,  -0.006112282630056143f, -0.0006461992161348462f,
	                          0.0009988639503717422f, -0.000172130050486885f, -4.541294038062915e-05f,
	                          1.3317209777596872e-05f};
	vf distance = v_min(v_set(4.5f), (vf)((vi)x & 0x7fffffff));
	return v_fma(distance, v_horner(P, 9, distance - 2.25f), relu(x));
}

INLINE vf apply(const enum sp_activation f, vf x)
{
	switch (f) {
	case SP_GELU: return gelu(x);
	case SP_GELU_TANH: return gelu_tanh(x);
	case SP_RELU: return relu(x);
	case SP_SILU: return x * sigmoid(x);
	case SP_TANH: return v_tanh(x);
	case SP_SIGMOID: return sigmoid(x);
	case SP_GELU_LOW: return gelu_low(x);
	case SP_IDENTITY: break;
	}
	return x;
}

/* f is a constant in every caller, so the loop holds one formula. */
INLINE void map(const enum sp_activation f, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows,
                int64_t cols)
{
	for (int64_t r = 0; r < rows; r++, x += ldx, y += ldy) {
		int64_t i = 0;
		for (; i + VL <= cols; i += VL)
			v_store(y + i, apply(f, v_load(x + i)));
		if (i < cols)
			v_store_part(y + i, apply(f, v_load_part(x + i, cols - i)), cols - i);
	}
}

void SP_ISA_NAME(sp_activation)(float *y, int64_t ldy, const float *x, int64_t ldx, enum sp_activation f, int64_t rows,
                                int64_t cols)
{
#define MAP(name)                                                                                                      \
	case name: map(name, y, ldy, x, ldx, rows, cols); break;
	switch (f) {
		MAP(SP_IDENTITY)
		MAP(SP_GELU)
		MAP(SP_GELU_TANH)
		MAP(SP_RELU)
		MAP(SP_SILU)
		MAP(SP_TANH)
		MAP(SP_SIGMOID)
		MAP(SP_GELU_LOW)
	}
#undef MAP
}

/* f(x) as apply gives it, and the derivative there. */
struct tangent {
	vf value, slope;
};

INLINE struct tangent tangent(const enum sp_activation f, vf x)
{
	vf half = x * 0.5f, t, s;
	switch (f) {
	case SP_GELU:
		t = v_erf(x * 0.70710678f);
		s = v_exp(half * -x) * 0.39894228f;
		return (struct tangent){v_fma(half, t, half), v_fma(x, s, v_fma(v_set(0.5f), t, v_set(0.5f)))};
	case SP_GELU_TANH:
		t = v_tanh(v_fma(x * x * x, v_set(0.044715f), x) * 0.79788456f);
		s = v_fma(x * x, v_set(0.134145f), v_set(1.0f)) * 0.79788456f;
		return (struct tangent){v_fma(half, t, half),
		                        v_fma(half * ((1.0f - t) * (1.0f + t)), s, v_fma(v_set(0.5f), t, v_set(0.5f)))};
	case SP_RELU: return (struct tangent){relu(x), v_select(x > 0.0f, v_set(1.0f), v_set(0.0f))};
	case SP_SILU: s = sigmoid(x); return (struct tangent){x * s, v_fma(x * s, 1.0f - s, s)};
	case SP_TANH: t = v_tanh(x); return (struct tangent){t, (1.0f - t) * (1.0f + t)};
	case SP_SIGMOID: s = sigmoid(x); return (struct tangent){s, s * (1.0f - s)};
	case SP_GELU_LOW:
	case SP_IDENTITY: break;
	}
	return (struct tangent){x, v_set(1.0f)};
}

INLINE void map_backward(const enum sp_activation f, float *dx, int64_t lddx, float *y, int64_t ldy, const float *dy,
                         int64_t lddy, const float *x, int64_t ldx, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++, dx += lddx, y += ldy, dy += lddy, x += ldx) {
		int64_t i = 0;
		for (; i + VL <= cols; i += VL) {
			struct tangent at = tangent(f, v_load(x + i));
			v_store(dx + i, v_load(dy + i) * at.slope);
			v_store(y + i, at.value);
		}
		if (i < cols) {
			struct tangent at = tangent(f, v_load_part(x + i, cols - i));
			v_store_part(dx + i, v_load_part(dy + i, cols - i) * at.slope, cols - i);
			v_store_part(y + i, at.value, cols - i);
		}
	}
}

void SP_ISA_NAME(sp_activation_backward)(float *dx, int64_t lddx, float *y, int64_t ldy, const float *dy, int64_t lddy,
                                         const float *x, int64_t ldx, enum sp_activation f, int64_t rows, int64_t cols)
{
#define MAP(name)                                                                                                      \
	case name: map_backward(name, dx, lddx, y, ldy, dy, lddy, x, ldx, rows, cols); break;
	switch (f) {
		MAP(SP_IDENTITY)
		MAP(SP_GELU)
		MAP(SP_GELU_TANH)
		MAP(SP_RELU)
		MAP(SP_SILU)
		MAP(SP_TANH)
		MAP(SP_SIGMOID)
	case SP_GELU_LOW: break; /* has none */
	}
#undef MAP
}

/* As map, times the gate. */
INLINE void map_gated(const enum sp_activation f, float *y, int64_t ldy, const float *x, int64_t ldx, const float *gate,
                      int64_t ldg, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++, x += ldx, y += ldy, gate += ldg)
		for (int64_t i = 0, n = cols; i < cols; i += VL, n -= VL)
			v_store_up_to(y + i, apply(f, v_load_up_to(x + i, n)) * v_load_up_to(gate + i, n), n);
}

void SP_ISA_NAME(sp_gated_activation)(float *y, int64_t ldy, const float *x, int64_t ldx, const float *gate,
                                      int64_t ldg, enum sp_activation f, int64_t rows, int64_t cols)
{
#define MAP(name)                                                                                                      \
	case name: map_gated(name, y, ldy, x, ldx, gate, ldg, rows, cols); break;
	switch (f) {
		MAP(SP_IDENTITY)
		MAP(SP_GELU)
		MAP(SP_GELU_TANH)
		MAP(SP_RELU)
		MAP(SP_SILU)
		MAP(SP_TANH)
		MAP(SP_SIGMOID)
		MAP(SP_GELU_LOW)
	}
#undef MAP
}

void SP_ISA_NAME(sp_add)(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t rows,
                         int64_t cols)
{
	for (int64_t r = 0; r < rows; r++, y += ldy, a += lda, b += ldb)
		for (int64_t i = 0, n = cols; i < cols; i += VL, n -= VL)
			v_store_up_to(y + i, v_load_up_to(a + i, n) + v_load_up_to(b + i, n), n);
}

void SP_ISA_NAME(sp_multiply)(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,
                              int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++, y += ldy, a += lda, b += ldb)
		for (int64_t i = 0, n = cols; i < cols; i += VL, n -= VL)
			v_store_up_to(y + i, v_load_up_to(a + i, n) * v_load_up_to(b + i, n), n);
}

void SP_ISA_NAME(sp_rotate)(float *x, const float *cosine, const float *sine, int64_t heads, int64_t d, int64_t half)
{
	for (int64_t head = 0; head < heads; head++, x += d)
		for (int64_t i = 0, n = half; i < half; i += VL, n -= VL) {
			float *low = x + i, *high = low + half;
			vf a = v_load_up_to(low, n), b = v_load_up_to(high, n);
			vf c = v_load_up_to(cosine + i, n), s = v_load_up_to(sine + i, n);
			v_store_up_to(low, a * c - b * s, n);
			v_store_up_to(high, b * c + a * s, n);
		}
}

void SP_ISA_NAME(sp_add_diagonals)(float *scores, const float *line, int64_t keys)
{
	for (int64_t k = 0; k < keys; k++, scores += NR, line--) {
		v_store(scores, v_load(scores) + v_load(line));
		v_store(scores + VL, v_load(scores + VL) + v_load(line + VL));
	}
}

void SP_ISA_NAME(sp_divide_rows)(float *y, int64_t ld, const float *divisor, int64_t rows, int64_t cols)
{
	for (int64_t r = 0; r < rows; r++, y += ld) {
		vf d = v_set(divisor[r]);
		int64_t i = 0;
		for (; i + VL <= cols; i += VL)
			v_store(y + i, v_load(y + i) / d);
		if (i < cols)
			v_store_part(y + i, v_load_part(y + i, cols - i) / d, cols - i);
	}
}

void SP_ISA_NAME(sp_embed_row)(float *y, const float *word, const float *type, const float *position, int64_t H)
{
	for (int64_t i = 0, n = H; i < H; i += VL, n -= VL) {
		vf sum = v_load_up_to(word + i, n);
		if (type)
			sum = sum + v_load_up_to(type + i, n);
		if (position)
			sum = sum + v_load_up_to(position + i, n);
		v_store_up_to(y + i, sum, n);
	}
}
