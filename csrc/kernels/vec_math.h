/* vec_math.h: exp, erf and tanh of a vector, the same sequence of operations at every width.
 *
 * The coefficients are our own minimax fits in float64, rounded to float32. Largest relative error against
 * float64 over the whole range, rounding included: exp 1.8e-7, erf 3.2e-7, tanh 3.0e-7 (tests/test_math.py).
 * NaN stays NaN; exp(-inf) = 0, exp(+inf) = inf, erf and tanh of +-inf are +-1.
 * scalar.c holds the same functions in plain C; a change here must be made there too.
 */
#ifndef SP_VEC_MATH_H
#define SP_VEC_MATH_H

#include "kernels/vec.h"

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, exp(r) a polynomial of degree 6. */
INLINE vf v_exp(vf x)
{
	const vf shift = v_set(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
	x = v_max(v_set(-104.0f), x);        /* exp(-104) rounds to 0 */
	x = v_min(v_set(89.0f), x);          /* exp(89) is beyond FLT_MAX */
	vf t = v_fma(x, v_set(1.44269504f), shift);
	vf n = t - shift;
	vf r = v_fma(n, v_set(-0.693359375f), x);
	r = v_fma(n, v_set(2.12194440e-4f), r);
	vf p = v_set(0.0013814539415761828f);
	p = v_fma(p, r, v_set(0.00836874544620514f));
	p = v_fma(p, r, v_set(0.04166838899254799f));
	p = v_fma(p, r, v_set(0.1666652113199234f));
	p = v_fma(p, r, v_set(0.4999999403953552f));
	p = v_fma(p, r * r, r);
	p = p + 1.0f;
	/* 2^n in two factors, so that neither over- nor underflows before the product does */
	vi e = (vi)t - (vi)shift;
	vi half = e >> 1;
	vf scale_half = (vf)((half + 127) << 23);
	vf scale_rest = (vf)((e - half + 127) << 23);
	return p * scale_half * scale_rest;
}

/* erf(x) = x P(x^2) / Q(x^2), both of degree 5, on |x| <= 3.92, where float32 has reached 1. */
INLINE vf v_erf(vf x)
{
	x = v_min(v_set(3.92f), v_max(v_set(-3.92f), x));
	vf t = x * x;
	vf p = v_set(2.0502288862189744e-06f);
	p = v_fma(p, t, v_set(0.00028487041709013283f));
	p = v_fma(p, t, v_set(0.003764969063922763f));
	p = v_fma(p, t, v_set(0.05274670571088791f));
	p = v_fma(p, t, v_set(0.19039103388786316f));
	p = v_fma(p, t, v_set(1.1283791065216064f));
	vf q = v_set(3.809255576925352e-05f);
	q = v_fma(q, t, v_set(0.0011623832397162914f));
	q = v_fma(q, t, v_set(0.014967908151447773f));
	q = v_fma(q, t, v_set(0.11410275846719742f));
	q = v_fma(q, t, v_set(0.5020623803138733f));
	q = v_fma(q, t, v_set(1.0f));
	vf y = x * p / q;
	return v_min(v_set(1.0f), v_max(v_set(-1.0f), y));
}

/* tanh(x) = x P(x^2) / Q(x^2), degrees 5 and 4, on |x| <= 9, where float32 has reached 1. */
INLINE vf v_tanh(vf x)
{
	x = v_min(v_set(9.0f), v_max(v_set(-9.0f), x));
	vf t = x * x;
	vf p = v_set(-1.2246874521448792e-11f);
	p = v_fma(p, t, v_set(3.0643447668433404e-08f));
	p = v_fma(p, t, v_set(2.8031716283294372e-05f));
	p = v_fma(p, t, v_set(0.0038695286493748426f));
	p = v_fma(p, t, v_set(0.13680873811244965f));
	p = v_fma(p, t, v_set(1.0f));
	vf q = v_set(1.2890627658634912e-06f);
	q = v_fma(q, t, v_set(0.00039407494477927685f));
	q = v_fma(q, t, v_set(0.02725023217499256f));
	q = v_fma(q, t, v_set(0.47014206647872925f));
	q = v_fma(q, t, v_set(1.0f));
	vf y = x * p / q;
	return v_min(v_set(1.0f), v_max(v_set(-1.0f), y));
}

#endif
