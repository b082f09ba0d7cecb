/* cosent.c: CoSENT (Su 2022), the loss of pairs that have scores: a pair's cosine should exceed that of every pair with a
 * lower score.
 *     s_i = scale * cos(a_i, b_i),  loss = log(1 + sum over all i, j with score_i < score_j of exp(s_i - s_j))
 * A pair's sums are chains in float64 in ascending order of the others, and so is the sum of these sums.
 */
#include "training.h"

#include <math.h>
#include <stdatomic.h>

struct cosent_job {
	const struct sp_cosent *loss;
	float *u, *dz;     /* [2n, d] */
	double *norms, *s; /* [2n], [n] */
	double *largest;   /* [n]: each pair's largest exponent */
	double *above; /* [n]: sum over the pairs that should be above it, times exp(-max), max being the largest of all */
	double *below; /* [n]: the same of those that should be below */
	_Atomic int stopped;
};

static int over(struct cosent_job *job, const struct sp_team *team)
{
	const struct sp_cosent *loss = job->loss;
	if (team->rank == 0 && loss->poll && loss->poll(loss->poll_arg))
		atomic_store(&job->stopped, 1);
	return atomic_load(&job->stopped);
}

static double largest_exponent(const struct cosent_job *job, int64_t i)
{
	const double *scores = job->loss->scores;
	double largest = 0; /* of the 1 in the formula */
	for (int64_t j = 0; j < job->loss->n; j++) {
		double exponent = job->s[i] - job->s[j];
		largest = scores[i] < scores[j] && exponent > largest ? exponent : largest;
	}
	return largest;
}

static double max_of_all(const struct cosent_job *job)
{
	double max = 0;
	for (int64_t i = 0; i < job->loss->n; i++)
		max = job->largest[i] > max ? job->largest[i] : max;
	return max;
}

static void sums(struct cosent_job *job, int64_t i, double max)
{
	const double *scores = job->loss->scores;
	double above = 0, below = 0;
	for (int64_t j = 0; j < job->loss->n; j++) {
		if (scores[i] < scores[j])
			above = above + sp_exp64(job->s[i] - job->s[j] - max);
		else if (scores[i] > scores[j])
			below = below + sp_exp64(job->s[j] - job->s[i] - max);
	}
	job->above[i] = above;
	job->below[i] = below;
}

static void compare(void *arg, struct sp_team *team)
{
	struct cosent_job *job = arg;
	int64_t n = job->loss->n, first, end;
	while (sp_team_take(team, n, 1, &first, &end))
		for (int64_t i = first; i < end && !over(job, team); i++)
			job->largest[i] = largest_exponent(job, i);
	double max = max_of_all(job);
	while (sp_team_take(team, n, 1, &first, &end))
		for (int64_t i = first; i < end && !over(job, team); i++)
			sums(job, i, max);
}

static void pair_backward(struct cosent_job *job, int64_t i, double total)
{
	const struct sp_cosent *loss = job->loss;
	int64_t n = loss->n, d = loss->d;
	double weight = (job->above[i] - job->below[i]) / total * loss->scale;
	for (int side = 0; side < 2; side++) {
		int64_t row = side * n + i, other = (1 - side) * n + i;
		float *dz = job->dz + row * d;
		for (int64_t c = 0; c < d; c++)
			dz[c] = (float)(weight * (double)job->u[other * d + c]);
		sp_unit_row_backward(dz, dz, job->u + row * d, job->norms[row], d);
	}
}

static void cosines(struct cosent_job *job)
{
	const struct sp_cosent *loss = job->loss;
	int64_t n = loss->n, d = loss->d;
	for (int64_t r = 0; r < 2 * n; r++)
		sp_unit_row_forward(job->u + r * d, job->norms + r, loss->z + r * d, d);
	for (int64_t i = 0; i < n; i++) {
		sp_runtime()->kernels->dots(job->s + i, job->u + i * d, job->u + (n + i) * d, d, 1, d);
		job->s[i] = job->s[i] * loss->scale;
	}
}

static void backward(double *value, struct cosent_job *job)
{
	double max = max_of_all(job), total = sp_exp64(-max);
	for (int64_t i = 0; i < job->loss->n; i++)
		total = total + job->above[i];
	*value = sp_log64(total) + max;
	for (int64_t i = 0; i < job->loss->n; i++)
		pair_backward(job, i, total);
}

enum sp_status sp_cosent(double *value, float *dz, const struct sp_cosent *loss, int threads)
{
	int64_t n = loss->n;
	struct cosent_job job = {.loss = loss, .dz = dz};
	job.u = sp_floats(2 * n * loss->d);
	job.norms = sp_bytes((size_t)(6 * n) * sizeof(double));
	enum sp_status status = SP_NO_MEMORY;
	if (job.u && job.norms) {
		unsigned mode = sp_float_mode_enter();
		job.s = job.norms + 2 * n;
		job.largest = job.s + n;
		job.above = job.largest + n;
		job.below = job.above + n;
		cosines(&job);
		sp_threads_run(threads, compare, &job);
		status = atomic_load(&job.stopped) ? SP_CANCELLED : SP_OK;
		if (status == SP_OK)
			backward(value, &job);
		sp_float_mode_leave(mode);
	}
	sp_free(job.u);
	sp_free(job.norms);
	return status;
}
