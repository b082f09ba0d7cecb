/* mlm_head.c: the head of a masked language model, its loss, and their gradients.
 *
 * Of the last layer's states x at masked tokens:
 *     t = LayerNorm(f(x W^T + b)),  logits = t words^T + bias,  loss = sum of scale * (log sum exp logits - logit of label)
 * The decoder is the word table. Logits of all rows would be the largest array of a training step, so they are computed
 * for a block of rows at a time and become their own gradient in place. A block is whole groups, and parameters' gradients
 * are chains inside a group (ops/linear.c): how rows are cut into blocks or calls does not show in the bits.
 */
#include "training.h"

#include <stdatomic.h>
#include <string.h>

enum {
	LOGITS = 1 << 23,       /* of a block, unless a single group has more */
	VOCABULARY_GRAIN = 512, /* columns of logits that a rank takes at least */
	COLUMN_GRAIN = 64
};

struct block {
	int64_t row, rows;
	struct sp_groups groups; /* cuts counted from the block's first row */
};

struct mlm_run {
	const struct sp_mlm_job *job;
	float *x;              /* [m, H], with room behind it */
	float *y, *a, *t;      /* [m, E]: before and after the activation, after the layer norm with room behind it */
	float *dt, *dz, *norm; /* [m, E]; norm = t before gamma and beta */
	float *logits;         /* of a block */
	float *scratch;        /* of all ranks, for weights' gradients */
	float *last_words;     /* the end of the word table, from a multiple of SP_KC on, with room behind it */
	struct block *blocks;
	int64_t *cuts;
	int64_t n_blocks;
	_Atomic int failed, stopped;
};

static int over(struct mlm_run *run, const struct sp_team *team)
{
	const struct sp_mlm_job *job = run->job;
	if (team->rank == 0 && job->poll && job->poll(job->poll_arg))
		atomic_store(&run->stopped, 1);
	return atomic_load(&run->stopped) || atomic_load(&run->failed);
}

static float *scratch_of(const struct mlm_run *run, const struct sp_team *team)
{
	return run->scratch + team->rank * sp_linear_backward_scratch();
}

/* c[m, n] = a b; ranks split the columns */
static void product(struct mlm_run *run, float *c, struct sp_strided a, struct sp_strided b, int64_t m, int64_t n,
                    int64_t k, int64_t grain, struct sp_team *team)
{
	int64_t first, end;
	while (sp_team_take(team, n, grain, &first, &end)) {
		struct sp_strided columns = {b.data + first * b.cs, b.rs, b.cs};
		if (!over(run, team) && sp_gemm(c + first, n, a, columns, m, end - first, k) != SP_OK)
			atomic_store(&run->failed, 1);
	}
}

static void transform_forward(struct mlm_run *run, struct sp_team *team)
{
	const struct sp_mlm_job *job = run->job;
	const struct sp_mlm_head *head = job->head;
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t m = job->m, H = head->H, E = head->E, first, end;
	product(run, run->y, (struct sp_strided){run->x, H, 1}, (struct sp_strided){head->dense, 1, H}, m, E, H,
	        COLUMN_GRAIN, team);
	while (sp_team_take(team, m, SP_ROW_GRAIN, &first, &end)) {
		int64_t rows = end - first, at = first * E;
		kernels->add(run->y + at, E, run->y + at, E, head->dense_bias, 0, rows, E);
		kernels->activation(run->a + at, E, run->y + at, E, head->activation, rows, E);
		kernels->add_layernorm(run->t + at, E, run->a + at, E, NULL, 0, head->gamma, head->beta, head->eps,
		                       rows, E);
	}
}

/* One row's loss; its logits become their gradient. */
static double row_loss(float *logits, const struct sp_mlm_job *job, int32_t label)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t V = job->head->V;
	float max, logit, sum, divisor;
	kernels->add(logits, V, logits, V, job->head->bias, 0, 1, V);
	logit = logits[label];
	sum = kernels->softmax_row(logits, &max, V);
	divisor = (float)((double)sum / job->scale);
	kernels->divide_rows(logits, V, &divisor, 1, V);
	logits[label] = logits[label] - (float)job->scale;
	return sp_log64((double)sum) + (double)max - (double)logit;
}

/* dt = dlogits words, by the contract of panel.c with the word table as it lies: a block of k is in the cache for all rows.
 * Ranks split the columns. */
static void states_backward(struct mlm_run *run, const struct block *block, struct sp_team *team)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	const struct sp_mlm_head *head = run->job->head;
	int64_t V = head->V, E = head->E, nr = kernels->nr, first, end;
	while (sp_team_take(team, (E + nr - 1) / nr, 1, &first, &end)) {
		int64_t column = first * nr, columns = (end * nr < E ? end * nr : E) - column;
		float *dt = run->dt + block->row * E + column;
		for (int64_t v = 0; v < V && !over(run, team); v += SP_KC) {
			int64_t k = V - v < SP_KC ? V - v : SP_KC;
			const float *words = v + k < V ? head->words + v * E : run->last_words;
			struct sp_panel_a a = {run->logits + v, V, 0};
			struct sp_panel_b b = {words + column, nr, E};
			if (v == 0)
				kernels->gemm(dt, E, a, b, NULL, block->rows, columns, k);
			else
				kernels->gemm_add(dt, E, a, b, NULL, block->rows, columns, k);
		}
		sp_count_panel_calls(1);
	}
}

/* Losses of a block's rows; the gradients of t, of the word table and of its bias. */
static void decode(struct mlm_run *run, const struct block *block, struct sp_team *team)
{
	const struct sp_mlm_job *job = run->job;
	const struct sp_mlm_head *head = job->head;
	int64_t V = head->V, E = head->E, first, end;
	const float *t = run->t + block->row * E;
	product(run, run->logits, (struct sp_strided){t, E, 1}, (struct sp_strided){head->words, 1, E}, block->rows, V,
	        E, VOCABULARY_GRAIN, team);
	while (sp_team_take(team, block->rows, 1, &first, &end))
		for (int64_t i = first; i < end && !over(run, team); i++)
			job->losses[block->row + i] = row_loss(run->logits + i * V, job, job->labels[block->row + i]);
	states_backward(run, block, team);
	struct sp_matrix dwords = {.data = job->gradients->words, .rows = V, .cols = E};
	struct sp_groups groups = over(run, team) ? (struct sp_groups){0} : block->groups;
	sp_linear_backward_weight(&dwords, job->gradients->bias, run->logits, V, t, E, &groups, scratch_of(run, team),
	                          team);
}

static void transform_backward(struct mlm_run *run, struct sp_team *team)
{
	const struct sp_mlm_job *job = run->job;
	const struct sp_mlm_head *head = job->head;
	const struct sp_mlm_gradients *d = job->gradients;
	int64_t m = job->m, H = head->H, E = head->E, first, end;
	sp_layernorm_backward(run->dz, E, run->norm, E, run->dt, E, run->a, E, NULL, 0, head->gamma, head->eps, m, E,
	                      team);
	sp_layernorm_backward_weight(d->gamma, d->beta, run->dt, E, run->norm, E, &job->groups, E, team);
	while (sp_team_take(team, m, SP_ROW_GRAIN, &first, &end)) {
		float *dz = run->dz + first * E;
		sp_runtime()->kernels->activation_backward(dz, E, run->a + first * E, E, dz, E, run->y + first * E, E,
		                                           head->activation, end - first, E);
	}
	struct sp_matrix ddense = {.data = d->dense, .rows = E, .cols = H};
	sp_linear_backward_weight(&ddense, d->dense_bias, run->dz, E, run->x, H, &job->groups, scratch_of(run, team),
	                          team);
	product(run, job->dx, (struct sp_strided){run->dz, E, 1}, (struct sp_strided){head->dense, H, 1}, m, H, E,
	        COLUMN_GRAIN, team);
}

static void work(void *arg, struct sp_team *team)
{
	struct mlm_run *run = arg;
	transform_forward(run, team);
	for (int64_t b = 0; b < run->n_blocks; b++)
		decode(run, run->blocks + b, team);
	transform_backward(run, team);
}

/* Cut the groups into blocks; returns the rows of the largest one. */
static int64_t cut_blocks(struct mlm_run *run)
{
	const struct sp_groups *groups = &run->job->groups;
	int64_t most = LOGITS / run->job->head->V, largest = 0, *cuts = run->cuts;
	for (int64_t g = 0; g < groups->n;) {
		struct block *block = run->blocks + run->n_blocks++;
		*block = (struct block){.row = groups->cuts[g], .groups.cuts = cuts};
		*cuts++ = 0;
		do {
			block->rows = groups->cuts[++g] - block->row;
			*cuts++ = block->rows;
			block->groups.n++;
		} while (g < groups->n && groups->cuts[g + 1] - block->row <= most);
		largest = block->rows > largest ? block->rows : largest;
	}
	return largest;
}

/* The memory of a run, in one piece; 0 where there is none. */
static int prepare(struct mlm_run *run, int threads)
{
	const struct sp_mlm_job *job = run->job;
	int64_t m = job->m, H = job->head->H, E = job->head->E, room = sp_runtime()->kernels->nr;
	run->blocks = sp_bytes((size_t)job->groups.n * sizeof *run->blocks);
	run->cuts = sp_bytes((size_t)(2 * job->groups.n) * sizeof *run->cuts);
	if (!run->blocks || !run->cuts)
		return 0;
	int64_t rows = cut_blocks(run);
	int64_t last = (job->head->V - 1) / SP_KC * SP_KC, left = (job->head->V - last) * E;
	run->x = sp_floats(m * H + 6 * m * E + left + 3 * room);
	run->logits = sp_floats(rows * job->head->V);
	run->scratch = sp_floats(threads * sp_linear_backward_scratch());
	if (!run->x || !run->logits || !run->scratch)
		return 0;
	memcpy(run->x, job->x, (size_t)(m * H) * sizeof(float));
	run->t = run->x + m * H + room;
	run->y = run->t + m * E + room;
	run->a = run->y + m * E;
	run->dt = run->a + m * E;
	run->dz = run->dt + m * E;
	run->norm = run->dz + m * E;
	run->last_words = run->norm + m * E;
	memcpy(run->last_words, job->head->words + last * E, (size_t)left * sizeof(float));
	memset(run->last_words + left, 0, (size_t)room * sizeof(float));
	memset(run->x + m * H, 0, (size_t)room * sizeof(float));
	memset(run->t + m * E, 0, (size_t)room * sizeof(float));
	return 1;
}

enum sp_status sp_mlm_head(const struct sp_mlm_job *job, int threads)
{
	struct mlm_run run = {.job = job};
	enum sp_status status = SP_NO_MEMORY;
	threads = threads < SP_MAX_THREADS ? threads : SP_MAX_THREADS;
	if (prepare(&run, threads)) {
		sp_threads_run(threads, work, &run);
		status = atomic_load(&run.failed) ? SP_NO_MEMORY : atomic_load(&run.stopped) ? SP_CANCELLED : SP_OK;
	}
	sp_free(run.blocks);
	sp_free(run.cuts);
	sp_free(run.x);
	sp_free(run.logits);
	sp_free(run.scratch);
	return status;
}
