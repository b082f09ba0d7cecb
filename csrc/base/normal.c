/* normal.c: numbers of a normal distribution by Philox: parameters that no file holds start from the same bits everywhere.
 *
 * A draw becomes the probability (draw + 1/2) / 2^32, and the quantile of that is the number: Wichura's algorithm AS 241
 * (Applied Statistics 37, 1988), which is exact to 16 digits.
 */
#include "sentpool.h"

#include "kernels/philox.h"

#include <math.h>

/* ((c[7] x + c[6]) x + …) x + c[0] */
static double horner(const double c[8], double x)
{
	double y = c[7];
	for (int i = 6; i >= 0; i--)
		y = y * x + c[i];
	return y;
}

static double centre(double q)
{
	static const double P[] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
	                           1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
	                           3.3430575583588128105e4, 2.5090809287301226727e3};
	static const double Q[] = {1.0,
	                           4.2313330701600911252e1,
	                           6.8718700749205790830e2,
	                           5.3941960214247511077e3,
	                           2.1213794301586595867e4,
	                           3.9307895800092710610e4,
	                           2.8729085735721942674e4,
	                           5.2264952788528545610e3};
	double r = 0.180625 - q * q;
	return q * horner(P, r) / horner(Q, r);
}

/* r = sqrt(-log p) of a tail */
static double middle(double r)
{
	static const double P[] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
	                           3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
	                           2.27238449892691845833e-2, 7.74545014278341407640e-4};
	static const double Q[] = {1.0,
	                           2.05319162663775882187e0,
	                           1.67638483018380384940e0,
	                           6.89767334985100004550e-1,
	                           1.48103976427480074590e-1,
	                           1.51986665636164571966e-2,
	                           5.47593808499534494600e-4,
	                           1.05075007164441684324e-9};
	return horner(P, r - 1.6) / horner(Q, r - 1.6);
}

/* Quantile of (draw + 1/2) / 2^32. Of tails only those down to 2^-33 can come, where r < 5: AS 241 has a third part for
 * what lies beyond. */
static double quantile(uint32_t draw)
{
	double p = ((double)draw + 0.5) / 4294967296.0, q = p - 0.5;
	if (fabs(q) <= 0.425)
		return centre(q);
	double x = middle(sqrt(-sp_log64(q < 0 ? p : 1 - p)));
	return q < 0 ? -x : x;
}

void sp_fresh_normal(float *out, int64_t n, double deviation, uint64_t seed, uint32_t stream)
{
	unsigned mode = sp_float_mode_enter();
	for (int64_t first = 0; first < n; first += 4) {
		uint32_t block = (uint32_t)(first / 4), words[4];
		uint32_t counter[] = {stream, SP_SITE_PARAMETERS | block >> 16 << 4, 0, block & 0xffff};
		sp_philox(words, counter, seed);
		for (int64_t i = 0; i < 4 && first + i < n; i++)
			out[first + i] = (float)(deviation * quantile(words[i]));
	}
	sp_float_mode_leave(mode);
}
