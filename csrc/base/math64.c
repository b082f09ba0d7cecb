/* math64.c: exp and log of float64 in one order of plain operations, so that losses have the same bits on every machine:
 * a C library may choose among several, by CPU. Both stay within 1e-15 of the true value, relative to it.
 */
#include "sentpool.h"

#include <math.h>
#include <string.h>

/* ln 2 in two parts: the first has so few bits that n times it is exact */
static const double LN2_HIGH = 0x1.62e42feep-1, LN2_LOW = 0x1.a39ef35793c76p-33;

static double power_of_two(int64_t n)
{
	uint64_t bits = (uint64_t)(n + 1023) << 52;
	double y;
	memcpy(&y, &bits, sizeof y);
	return y;
}

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, exp(r) by its Taylor series */
double sp_exp64(double x)
{
	static const double factorial[] = {1,     1,      2,       6,        24,        120,        720,
	                                   5040., 40320., 362880., 3628800., 39916800., 479001600., 6227020800.};
	if (isnan(x))
		return x;
	x = x < -746 ? -746 : x > 710 ? 710 : x; /* 0 below, infinity above */
	const double shift = 0x1.8p52;           /* adding it rounds to an integer */
	double n = (x * 0x1.71547652b82fep0 + shift) - shift;
	double r = (x - n * LN2_HIGH) - n * LN2_LOW, y = 0;
	for (int i = 13; i >= 0; i--)
		y = y * r + 1 / factorial[i];
	/* two factors, so that neither over- nor underflows before the product does */
	int64_t e = (int64_t)n, half = e / 2;
	return y * power_of_two(half) * power_of_two(e - half);
}

/* log(x) = e ln 2 + 2 atanh((m - 1) / (m + 1)) for x = 2^e m, sqrt 1/2 <= m < sqrt 2 */
double sp_log64(double x)
{
	if (!(x > 0) || isinf(x))
		return x == 0 ? -INFINITY : x > 0 ? x : NAN;
	int e;
	double m = frexp(x, &e); /* exact */
	if (m < 0x1.6a09e667f3bcdp-1) {
		m = m * 2;
		e--;
	}
	double s = (m - 1) / (m + 1), square = s * s, series = 0;
	for (int k = 12; k >= 1; k--)
		series = (series + 1 / (double)(2 * k + 1)) * square;
	return e * LN2_HIGH + (2 * s + (2 * s * series + e * LN2_LOW));
}
