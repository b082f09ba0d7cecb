/* vec_math.h: exp, erf and tanh of a vector, the same sequence of operations at every width.
 *
 * The coefficients are our own minimax fits in float64, rounded to float32. What is built on them stays within 4e-7
 * of float64, relative to the result (GELU and SiLU: 3e-7, relative to x), as tests/test_kernels.py checks.
 * NaN stays NaN; exp(-inf) = 0, exp(+inf) = inf, erf and tanh of +-inf are +-1.
 * scalar.c holds the same functions in plain C; a change here must be made there too.
 */
#ifndef SP_VEC_MATH_H
#define SP_VEC_MATH_H

#include "kernels/vec.h"

/* c[0] + c[1] x + … + c[degree] x^degree; the coefficients are constants and end up in the code. */
INLINE vf v_horner(const float *c, const int degree, vf x)
{
	vf y = v_set(c[degree]);
	UNROLL
	for (int i = degree - 1; i >= 0; i--)
		y = v_fma(y, x, v_set(c[i]));
	return y;
}

/* p 2^n with one rounding, p in [0.5, 2]; n is in the low bits of t = n + shift. */
INLINE vf v_scale(vf p, vf t, vf shift)
{
#if VL == 16
	return (vf)_mm512_scalef_ps((__m512)p, (__m512)(t - shift));
#else
	/* In two factors, so that neither over- nor underflows before the product does. */
	vi n = (vi)t - (vi)shift, half = n >> 1;
	return p * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
#endif
}

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, exp(r) = 1 + r + r^2 P(r). */
INLINE vf v_exp(vf x)
{
	static const float P[] = {0.4999999403953552f, 0.1666652113199234f, 0.04166838899254799f, 0.00836874544620514f,
	                          0.0013814539415761828f};
	const vf shift = v_set(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
	x = v_max(v_set(-104.0f), x);        /* exp(-104) rounds to 0 */
	x = v_min(v_set(89.0f), x);          /* exp(89) is beyond FLT_MAX */
	vf t = v_fma(x, v_set(1.44269504f), shift);
	vf n = t - shift;
	vf r = v_fma(n, v_set(-0.693359375f), x);
	r = v_fma(n, v_set(2.12194440e-4f), r);
	vf p = v_fma(v_horner(P, 4, r), r * r, r) + 1.0f;
	return v_scale(p, t, shift);
}

/* x P(x^2) / Q(x^2) on [-limit, limit], cut to [-1, 1] */
INLINE vf v_odd_rational(vf x, float limit, const float *P, const int p_degree, const float *Q, const int q_degree)
{
	x = v_min(v_set(limit), v_max(v_set(-limit), x));
	vf t = x * x;
	vf y = x * v_horner(P, p_degree, t) / v_horner(Q, q_degree, t);
	return v_min(v_set(1.0f), v_max(v_set(-1.0f), y));
}

/* float32 has reached 1 at 3.92 */
INLINE vf v_erf(vf x)
{
	static const float P[] = {1.1283791065216064f,   0.19039103388786316f,    0.05274670571088791f,
	                          0.003764969063922763f, 0.00028487041709013283f, 2.0502288862189744e-06f};
	static const float Q[] = {1.0f,
	                          0.5020623803138733f,
	                          0.11410275846719742f,
	                          0.014967908151447773f,
	                          0.0011623832397162914f,
	                          3.809255576925352e-05f};
	return v_odd_rational(x, 3.92f, P, 5, Q, 5);
}

/* float32 has reached 1 at 9 */
INLINE vf v_tanh(vf x)
{
	static const float P[] = {1.0f,
	                          0.13680873811244965f,
	                          0.0038695286493748426f,
	                          2.8031716283294372e-05f,
	                          3.0643447668433404e-08f,
	                          -1.2246874521448792e-11f};
	static const float Q[] = {1.0f, 0.47014206647872925f, 0.02725023217499256f, 0.00039407494477927685f,
	                          1.2890627658634912e-06f};
	return v_odd_rational(x, 9.0f, P, 5, Q, 4);
}

#endif
