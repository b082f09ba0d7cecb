/* infonce.c: the contrastive loss over cosines, and its gradient.
 *
 * Row i of the first role is compared with every row of the others: l_ij = scale * cos(z0_i, c_j), where candidates c are
 * the rows of role 1, then those of role 2 (hard negatives), and l_i(n+i), its own hard negative's, gets + log alpha.
 *     loss = mean over i of (log sum_j exp l_ij - l_ii)
 * Symmetric: the mean of that and of the same with roles 0 and 1 exchanged, without hard negatives.
 * A row's sums are chains in float64, ascending; the gradients by rows are products by the contract of panel.c.
 */
#include "training.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { ROWS = 256 /* of one product, between two looks at signals */ };

struct infonce_job {
	const struct sp_infonce *loss;
	int64_t m;     /* candidates */
	float *u;      /* [roles * n, d]: rows of length one */
	float *du;     /* their gradient; the caller's dz, which it becomes in place */
	float *g;      /* [n, m]: gradient of the cosines */
	float *h;      /* [n, n]: that of the exchanged roles; NULL unless symmetric */
	double *norms; /* [roles * n] */
	double *parts; /* [2n]: each row's share of the loss, then the exchanged roles' */
	_Atomic int failed, stopped;
};

static int over(struct infonce_job *job, const struct sp_team *team)
{
	const struct sp_infonce *loss = job->loss;
	if (team->rank == 0 && loss->poll && loss->poll(loss->poll_arg))
		atomic_store(&job->stopped, 1);
	return atomic_load(&job->stopped) || atomic_load(&job->failed);
}

/* One row's cross-entropy against the candidate `target`. The values of g become the gradient of the cosines, times
 * weight; own >= 0 is the own hard negative. Logits are in values[count]. */
static double row_loss(float *g, double *values, const float *query, const float *candidates, int64_t count, int64_t d,
                       int64_t target, int64_t own, const struct sp_infonce *loss, double weight)
{
	double max = -INFINITY, sum = 0;
	sp_runtime()->kernels->dots(values, query, candidates, d, count, d);
	for (int64_t j = 0; j < count; j++) {
		values[j] = values[j] * loss->scale + (j == own ? loss->log_alpha : 0);
		max = values[j] > max ? values[j] : max;
	}
	double logit = values[target];
	for (int64_t j = 0; j < count; j++) {
		values[j] = sp_exp64(values[j] - max);
		sum = sum + values[j];
	}
	for (int64_t j = 0; j < count; j++)
		g[j] = (float)((values[j] / sum - (j == target)) * loss->scale * weight);
	return (sp_log64(sum) + max - logit) * weight;
}

/* Losses of the rows, and the gradient of all cosines in job->g. */
static void cosines(struct infonce_job *job, double *values, struct sp_team *team)
{
	const struct sp_infonce *loss = job->loss;
	int64_t n = loss->n, d = loss->d, m = job->m, first, end;
	const float *candidates = job->u + n * d;
	double weight = (job->h ? 0.5 : 1) / (double)n;
	while (sp_team_take(team, n, 1, &first, &end))
		for (int64_t i = first; i < end && !over(job, team); i++)
			job->parts[i] = row_loss(job->g + i * m, values, job->u + i * d, candidates, m, d, i,
			                         loss->roles == 3 ? n + i : -1, loss, weight);
	if (!job->h)
		return;
	while (sp_team_take(team, n, 1, &first, &end))
		for (int64_t j = first; j < end && !over(job, team); j++)
			job->parts[n + j] =
				row_loss(job->h + j * n, values, candidates + j * d, job->u, n, d, j, -1, loss, weight);
	while (sp_team_take(team, n, 1, &first, &end))
		for (int64_t i = first; i < end && !over(job, team); i++)
			for (int64_t j = 0; j < n; j++)
				job->g[i * m + j] = job->g[i * m + j] + job->h[j * n + i];
}

/* du of rows [from, from + count) = a times rows b of u, in row blocks */
static void products(struct infonce_job *job, int64_t from, int64_t count, struct sp_strided a, const float *b,
                     int64_t k, struct sp_team *team)
{
	int64_t d = job->loss->d, first, end;
	struct sp_strided right = {b, d, 1};
	while (sp_team_take(team, count, SP_ROW_GRAIN, &first, &end))
		for (int64_t row = first; row < end && !over(job, team); row += ROWS) {
			struct sp_strided left = {a.data + row * a.rs, a.rs, a.cs};
			if (sp_gemm(job->du + (from + row) * d, d, left, right, end - row < ROWS ? end - row : ROWS, d,
			            k) != SP_OK)
				atomic_store(&job->failed, 1);
		}
}

static void work(void *arg, struct sp_team *team)
{
	struct infonce_job *job = arg;
	const struct sp_infonce *loss = job->loss;
	int64_t n = loss->n, d = loss->d, m = job->m, rows = n + m, first, end;
	double *values = sp_bytes((size_t)m * sizeof *values);
	if (!values)
		atomic_store(&job->failed, 1); /* and the steps below do nothing */
	while (sp_team_take(team, rows, SP_ROW_GRAIN, &first, &end))
		for (int64_t r = first; r < end && !over(job, team); r++)
			sp_unit_row_forward(job->u + r * d, job->norms + r, loss->z + r * d, d);
	cosines(job, values, team);
	products(job, 0, n, (struct sp_strided){job->g, m, 1}, job->u + n * d, m, team);
	products(job, n, m, (struct sp_strided){job->g, 1, m}, job->u, n, team);
	while (sp_team_take(team, rows, SP_ROW_GRAIN, &first, &end))
		for (int64_t r = first; r < end && !over(job, team); r++)
			sp_unit_row_backward(job->du + r * d, job->du + r * d, job->u + r * d, job->norms[r], d);
	sp_free(values);
}

enum sp_status sp_infonce(double *value, float *dz, const struct sp_infonce *loss, int threads)
{
	int64_t n = loss->n, rows = loss->roles * n, m = rows - n;
	struct infonce_job job = {.loss = loss, .m = m, .du = dz};
	job.u = sp_floats(rows * loss->d);
	job.g = sp_floats(n * m);
	job.h = loss->symmetric ? sp_floats(n * n) : NULL;
	job.norms = sp_bytes((size_t)(rows + 2 * n) * sizeof(double));
	enum sp_status status = SP_NO_MEMORY;
	if (job.u && job.g && job.norms && (job.h || !loss->symmetric)) {
		job.parts = job.norms + rows;
		sp_threads_run(threads, work, &job);
		*value = 0;
		for (int64_t i = 0; i < (job.h ? 2 * n : n); i++)
			*value = *value + job.parts[i];
		status = atomic_load(&job.failed) ? SP_NO_MEMORY : atomic_load(&job.stopped) ? SP_CANCELLED : SP_OK;
	}
	sp_free(job.u);
	sp_free(job.g);
	sp_free(job.h);
	sp_free(job.norms);
	return status;
}
