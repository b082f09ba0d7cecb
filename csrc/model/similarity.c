/* similarity.c: how close two vectors are, in float64 and one fixed order of sums.
 *
 * Sums keep 8 lanes, folded as (0+4)+(2+6) + (1+5)+(3+7); products of float32 values are exact in float64. For equal
 * vectors x.y, x.x and y.y are the same number s and s / sqrt(s * s) is exactly 1 (sqrt is correctly rounded).
 */
#include "sentpool.h"

#include <math.h>

enum { LANES = 8 };

struct sums {
	double lane[LANES];
};

static double fold(struct sums s)
{
	for (int half = LANES / 2; half > 0; half /= 2)
		for (int i = 0; i < half; i++)
			s.lane[i] = s.lane[i] + s.lane[i + half];
	return s.lane[0];
}

static double dot(const float *x, const float *y, int64_t d)
{
	struct sums s = {{0}};
	for (int64_t i = 0; i < d; i += LANES)
		for (int64_t j = 0; j < LANES && i + j < d; j++)
			s.lane[j] = s.lane[j] + (double)x[i + j] * (double)y[i + j];
	return fold(s);
}

static double distance(const float *x, const float *y, int64_t d, int squared)
{
	struct sums s = {{0}};
	for (int64_t i = 0; i < d; i += LANES)
		for (int64_t j = 0; j < LANES && i + j < d; j++) {
			double difference = (double)x[i + j] - (double)y[i + j];
			s.lane[j] = s.lane[j] + (squared ? difference * difference : fabs(difference));
		}
	return squared ? sqrt(fold(s)) : fold(s);
}

static double cosine(double xy, double xx, double yy)
{
	return xx == 0 || yy == 0 ? 0 : xy / sqrt(xx * yy);
}

static double negated_distance(const float *x, const float *y, int64_t d, enum sp_metric metric)
{
	return -distance(x, y, d, metric == SP_EUCLIDEAN);
}

void sp_similarity_pairwise(double *out, const float *a, const float *b, int64_t n, int64_t d, enum sp_metric metric)
{
	for (int64_t i = 0; i < n; i++) {
		const float *x = a + i * d, *y = b + i * d;
		if (metric == SP_COSINE)
			out[i] = cosine(dot(x, y, d), dot(x, x, d), dot(y, y, d));
		else
			out[i] = metric == SP_DOT ? dot(x, y, d) : negated_distance(x, y, d, metric);
	}
}

enum sp_status sp_similarity_matrix(float *out, const float *a, int64_t n, const float *b, int64_t m, int64_t d,
                                    enum sp_metric metric)
{
	double *norms = sp_bytes((size_t)m * sizeof *norms);
	if (!norms)
		return SP_NO_MEMORY;
	for (int64_t j = 0; j < m; j++)
		norms[j] = dot(b + j * d, b + j * d, d);
	for (int64_t i = 0; i < n; i++) {
		const float *x = a + i * d;
		double xx = dot(x, x, d);
		for (int64_t j = 0; j < m; j++) {
			const float *y = b + j * d;
			double value;
			if (metric == SP_COSINE)
				value = cosine(dot(x, y, d), xx, norms[j]);
			else
				value = metric == SP_DOT ? dot(x, y, d) : negated_distance(x, y, d, metric);
			out[i * m + j] = (float)value;
		}
	}
	sp_free(norms);
	return SP_OK;
}
