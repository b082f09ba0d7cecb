/* infonce.c: the contrastive loss over cosines, and its gradient.
 *
 * Row i of the first role is compared with every row of the others: l_ij = scale * cos(z0_i, c_j), where candidates c are
 * the rows of role 1, then those of role 2 (hard negatives), and l_i(n+i), its own hard negative's, gets + log alpha.
 *     loss = mean over i of (log sum_j exp l_ij - l_ii)
 * Symmetric: the mean of that and of the same with roles 0 and 1 exchanged, without hard negatives.
 * Cosines and gradients are products by the contract of panel.c; a row's sums are chains in float64, ascending.
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
	float *g;      /* [n, m]: cosines, then their gradient */
	float *h;      /* [n, n]: those of the exchanged roles; NULL unless symmetric */
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

/* c[count, width] = a b, in row blocks */
static void product(struct infonce_job *job, float *c, struct sp_strided a, struct sp_strided b, int64_t count,
                    int64_t width, int64_t k, struct sp_team *team)
{
	int64_t first, end;
	while (sp_team_take(team, count, SP_ROW_GRAIN, &first, &end))
		for (int64_t row = first; row < end && !over(job, team); row += ROWS) {
			struct sp_strided rows = {a.data + row * a.rs, a.rs, a.cs};
			int64_t n = end - row < ROWS ? end - row : ROWS;
			if (sp_gemm(c + row * width, width, rows, b, n, width, k) != SP_OK)
				atomic_store(&job->failed, 1);
		}
}

/* One row's cross-entropy against the candidate `target`, times weight. Its cosines become their gradient; own >= 0 is the
 * own hard negative. */
static double row_loss(float *cosines, double *values, int64_t count, int64_t target, int64_t own,
                       const struct sp_infonce *loss, double weight)
{
	double max = -INFINITY, sum = 0;
	for (int64_t j = 0; j < count; j++) {
		values[j] = (double)cosines[j] * loss->scale + (j == own ? loss->log_alpha : 0);
		max = values[j] > max ? values[j] : max;
	}
	double logit = values[target];
	for (int64_t j = 0; j < count; j++) {
		values[j] = sp_exp64(values[j] - max);
		sum = sum + values[j];
	}
	for (int64_t j = 0; j < count; j++)
		cosines[j] = (float)((values[j] / sum - (j == target)) * loss->scale * weight);
	return (sp_log64(sum) + max - logit) * weight;
}

/* Losses of the rows; the cosines in job->g become their gradient. */
static void rows_forward(struct infonce_job *job, double *values, struct sp_team *team)
{
	const struct sp_infonce *loss = job->loss;
	int64_t n = loss->n, m = job->m, first, end;
	double weight = (job->h ? 0.5 : 1) / (double)n;
	while (job->h && sp_team_take(team, n, SP_ROW_GRAIN, &first, &end))
		for (int64_t j = first; j < end && !over(job, team); j++)
			for (int64_t i = 0; i < n; i++)
				job->h[j * n + i] = job->g[i * m + j];
	while (sp_team_take(team, n, 1, &first, &end))
		for (int64_t i = first; i < end && !over(job, team); i++)
			job->parts[i] =
				row_loss(job->g + i * m, values, m, i, loss->roles == 3 ? n + i : -1, loss, weight);
	while (job->h && sp_team_take(team, n, 1, &first, &end))
		for (int64_t j = first; j < end && !over(job, team); j++)
			job->parts[n + j] = row_loss(job->h + j * n, values, n, j, -1, loss, weight);
	while (job->h && sp_team_take(team, n, SP_ROW_GRAIN, &first, &end))
		for (int64_t i = first; i < end && !over(job, team); i++)
			for (int64_t j = 0; j < n; j++)
				job->g[i * m + j] = job->g[i * m + j] + job->h[j * n + i];
}

static void work(void *arg, struct sp_team *team)
{
	struct infonce_job *job = arg;
	const struct sp_infonce *loss = job->loss;
	int64_t n = loss->n, d = loss->d, m = job->m, first, end;
	double *values = sp_bytes((size_t)m * sizeof *values);
	if (!values)
		atomic_store(&job->failed, 1); /* and the steps below do nothing */
	while (sp_team_take(team, n + m, SP_ROW_GRAIN, &first, &end))
		for (int64_t r = first; r < end && !over(job, team); r++)
			sp_unit_row_forward(job->u + r * d, job->norms + r, loss->z + r * d, d);
	struct sp_strided rows = {job->u, d, 1}, candidates = {job->u + n * d, d, 1};
	product(job, job->g, rows, (struct sp_strided){candidates.data, 1, d}, n, m, d, team);
	rows_forward(job, values, team);
	product(job, job->du, (struct sp_strided){job->g, m, 1}, candidates, n, d, m, team);
	product(job, job->du + n * d, (struct sp_strided){job->g, 1, m}, rows, m, d, n, team);
	while (sp_team_take(team, n + m, SP_ROW_GRAIN, &first, &end))
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
