/* similarity.c: how close vectors are, in float64 and one fixed order of sums.
 *
 * Products of float32 values are exact in float64. For equal vectors x.y, x.x and y.y are the same number s, and
 * s / sqrt(s * s) is exactly 1, for the square root is correctly rounded.
 */
#include "sentpool.h"

#include <math.h>
#include <stdatomic.h>

enum {
	COLUMNS = 256, /* rows of b that one pass compares with a row of a: they stay in the cache for the next one */
	ROWS = 16      /* rows of a that a rank takes at least */
};

static double dot(const float *x, const float *y, int64_t d)
{
	double value;
	sp_runtime()->kernels->dots(&value, x, y, d, 1, d);
	return value;
}

double sp_cosine(double xy, double xx, double yy)
{
	return xx == 0 || yy == 0 ? 0 : xy / sqrt(xx * yy);
}

/* Negated Euclidean or Manhattan distance: one chain from the first element on. */
static double negated_distance(const float *x, const float *y, int64_t d, enum sp_metric metric)
{
	double sum = 0;
	for (int64_t i = 0; i < d; i++) {
		double difference = (double)x[i] - (double)y[i];
		sum = sum + (metric == SP_EUCLIDEAN ? difference * difference : fabs(difference));
	}
	return metric == SP_EUCLIDEAN ? -sqrt(sum) : -sum;
}

double sp_similarity(const float *x, const float *y, double xx, double yy, int64_t d, enum sp_metric metric)
{
	if (metric == SP_COSINE)
		return sp_cosine(dot(x, y, d), xx, yy);
	return metric == SP_DOT ? dot(x, y, d) : negated_distance(x, y, d, metric);
}

void sp_similarity_pairwise(double *out, const float *a, const float *b, int64_t n, int64_t d, enum sp_metric metric)
{
	unsigned mode = sp_float_mode_enter();
	for (int64_t i = 0; i < n; i++) {
		const float *x = a + i * d, *y = b + i * d;
		double xx = metric == SP_COSINE ? dot(x, x, d) : 0, yy = metric == SP_COSINE ? dot(y, y, d) : 0;
		out[i] = sp_similarity(x, y, xx, yy, d, metric);
	}
	sp_float_mode_leave(mode);
}

struct comparison {
	float *out;
	const float *a, *b;
	const double *a_norms, *b_norms; /* squared; of cosines only */
	int64_t n, m, d;
	enum sp_metric metric;
	int (*poll)(void *);
	void *poll_arg;
	_Atomic int stopped;
};

/* Row i of a against rows [first, first + count) of b. */
static void compare_row(const struct comparison *c, int64_t i, int64_t first, int64_t count)
{
	const float *x = c->a + i * c->d, *y = c->b + first * c->d;
	float *out = c->out + i * c->m + first;
	double values[COLUMNS];
	if (c->metric == SP_COSINE || c->metric == SP_DOT)
		sp_runtime()->kernels->dots(values, x, y, c->d, count, c->d);
	for (int64_t j = 0; j < count; j++) {
		if (c->metric == SP_COSINE)
			values[j] = sp_cosine(values[j], c->a_norms[i], c->b_norms[first + j]);
		else if (c->metric != SP_DOT)
			values[j] = negated_distance(x, y + j * c->d, c->d, c->metric);
		out[j] = (float)values[j];
	}
}

static int stop(struct comparison *c, const struct sp_team *team)
{
	if (team->rank == 0 && c->poll && c->poll(c->poll_arg))
		atomic_store(&c->stopped, 1);
	return atomic_load(&c->stopped);
}

/* Ranks split the rows of a; the calling thread polls. */
static void compare(void *arg, struct sp_team *team)
{
	struct comparison *c = arg;
	int64_t start, end;
	while (sp_team_take(team, c->n, ROWS, &start, &end))
		for (int64_t first = 0; first < c->m; first += COLUMNS) {
			int64_t count = c->m - first < COLUMNS ? c->m - first : COLUMNS;
			for (int64_t i = start; i < end && !stop(c, team); i++)
				compare_row(c, i, first, count);
		}
}

static double *squared_norms(const float *x, int64_t n, int64_t d)
{
	double *norms = sp_bytes((size_t)n * sizeof *norms);
	unsigned mode = sp_float_mode_enter();
	if (norms)
		sp_runtime()->kernels->squares(norms, x, d, n, d);
	sp_float_mode_leave(mode);
	return norms;
}

enum sp_status sp_similarity_matrix(float *out, const float *a, int64_t n, const float *b, int64_t m, int64_t d,
                                    enum sp_metric metric, int threads, int (*poll)(void *), void *poll_arg)
{
	double *a_norms = squared_norms(a, n, d), *b_norms = squared_norms(b, m, d);
	struct comparison c = {out, a, b, a_norms, b_norms, n, m, d, metric, poll, poll_arg, 0};
	enum sp_status status = a_norms && b_norms ? SP_OK : SP_NO_MEMORY;
	if (status == SP_OK) {
		sp_threads_run(threads, compare, &c);
		status = atomic_load(&c.stopped) ? SP_CANCELLED : SP_OK;
	}
	sp_free(a_norms);
	sp_free(b_norms);
	return status;
}
