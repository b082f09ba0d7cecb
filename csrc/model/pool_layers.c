/* pool_layers.c: from one vector per layer to one vector: a weighted sum, or the attention over layers of Oh et al. 2022.
 *
 *   K = f(t Wk^T), V = f(t Wv^T), Q = f(s Wq^T)      f(x) = x for x >= 0, slope * x below: RReLU at inference
 *   a_ij = softmax over j of K_j . Q_i / layers      i, j run over the layers; s the sources (cls), t the targets (mean)
 *   u = mean over i of sum_j a_ij V_j = sum_j w_j V_j,  w_j = mean over i of a_ij
 * Sums over layers are chains in ascending order, so a sentence's result does not depend on the others.
 */
#include "sentpool.h"

#include <stdatomic.h>
#include <string.h>

enum { SENTENCES = 16 }; /* whose keys, queries and values a rank holds at a time */

static void mix(float *y, const float *rows, int64_t ld, const int64_t *index, const float *weights, int64_t count,
                int64_t H)
{
	for (int64_t l = 0; l < count; l++) {
		const float *row = rows + (index ? index[l] : l) * ld;
		for (int64_t c = 0; c < H; c++)
			y[c] = l ? y[c] + weights[l] * row[c] : weights[l] * row[c];
	}
}

void sp_mix_layers_forward(float *y, struct sp_layer_rows states, const int64_t *index, const float *weights,
                           int64_t count, float divisor, int64_t n, int64_t H)
{
	unsigned mode = sp_float_mode_enter();
	for (int64_t i = 0; i < n; i++) {
		mix(y + i * H, states.data + i * states.ld_sentence, states.ld_layer, index, weights, count, H);
		sp_runtime()->kernels->divide_rows(y + i * H, H, &divisor, 1, H);
	}
	sp_float_mode_leave(mode);
}

struct attention_job {
	const struct sp_layer_attention *attention;
	float *u, *weights;
	struct sp_layer_rows sources, targets;
	int64_t n, layers;
	_Atomic int failed;
};

struct attention_scratch {
	float *memory;
	float *queries, *keys, *values; /* [SENTENCES * layers, H] */
	float *scores, *sums;           /* [layers][nr], [nr]: a query is a column, as in ops/attention.c */
	float *mean;                    /* [layers] */
};

static int scratch_create(struct attention_scratch *s, int64_t layers, int64_t H)
{
	int64_t nr = sp_runtime()->kernels->nr, rows = SENTENCES * layers;
	s->memory = sp_floats(3 * rows * H + layers * nr + nr + layers);
	if (!s->memory)
		return 0;
	s->queries = s->memory;
	s->keys = s->queries + rows * H;
	s->values = s->keys + rows * H;
	s->scores = s->values + rows * H;
	s->sums = s->scores + layers * nr;
	s->mean = s->sums + nr;
	return 1;
}

/* y[count * layers, H] = f(x W^T) for the sentences [first, first + count) */
static enum sp_status project(float *y, const struct attention_job *job, struct sp_layer_rows x, const float *weight,
                              int64_t first, int64_t count)
{
	int64_t H = job->attention->H;
	float slope = job->attention->slope;
	struct sp_strided w = {weight, 1, H};
	for (int64_t i = 0; i < count; i++) {
		float *rows = y + i * job->layers * H;
		struct sp_strided states = {x.data + (first + i) * x.ld_sentence, x.ld_layer, 1};
		enum sp_status status = sp_gemm(rows, H, states, w, job->layers, H, H);
		if (status != SP_OK)
			return status;
		for (int64_t c = 0; c < job->layers * H; c++)
			rows[c] = rows[c] < 0 ? rows[c] * slope : rows[c];
	}
	return SP_OK;
}

/* mean[j] = the mean over queries i of a_ij, for one sentence; queries in blocks of nr columns. */
static void mean_weights(struct attention_scratch *s, const float *queries, const float *keys, int64_t layers,
                         int64_t H)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr;
	memset(s->mean, 0, (size_t)layers * sizeof(float));
	for (int64_t first = 0; first < layers; first += nr) {
		int64_t count = layers - first < nr ? layers - first : nr;
		memset(s->scores, 0, (size_t)(layers * nr) * sizeof(float));
		for (int64_t j = 0; j < layers; j++)
			for (int64_t i = 0; i < count; i++) {
				double score;
				kernels->dots(&score, keys + j * H, queries + (first + i) * H, H, 1, H);
				s->scores[j * nr + i] = (float)(score / (double)layers);
			}
		kernels->softmax_columns(s->scores, s->sums, 1.0f, layers);
		for (int64_t j = 0; j < layers; j++)
			for (int64_t i = 0; i < count; i++)
				s->mean[j] = s->mean[j] + s->scores[j * nr + i] / s->sums[i];
	}
	for (int64_t j = 0; j < layers; j++)
		s->mean[j] = s->mean[j] / (float)layers;
}

static enum sp_status attend(const struct attention_job *job, struct attention_scratch *s, int64_t first, int64_t count)
{
	const struct sp_layer_attention *attention = job->attention;
	int64_t layers = job->layers, H = attention->H;
	enum sp_status status = project(s->queries, job, job->sources, attention->query, first, count);
	if (status == SP_OK)
		status = project(s->keys, job, job->targets, attention->key, first, count);
	if (status == SP_OK && job->u)
		status = project(s->values, job, job->targets, attention->value, first, count);
	for (int64_t i = 0; status == SP_OK && i < count; i++) {
		mean_weights(s, s->queries + i * layers * H, s->keys + i * layers * H, layers, H);
		memcpy(job->weights + (first + i) * layers, s->mean, (size_t)layers * sizeof(float));
		if (job->u)
			mix(job->u + (first + i) * H, s->values + i * layers * H, H, NULL, s->mean, layers, H);
	}
	return status;
}

static void work(void *arg, struct sp_team *team)
{
	struct attention_job *job = arg;
	struct attention_scratch scratch = {0};
	int ready = scratch_create(&scratch, job->layers, job->attention->H);
	int64_t first, end;
	while (sp_team_take(team, job->n, SENTENCES, &first, &end))
		for (; first < end && !atomic_load(&job->failed); first += SENTENCES) {
			int64_t count = end - first < SENTENCES ? end - first : SENTENCES;
			if (!ready || attend(job, &scratch, first, count) != SP_OK)
				atomic_store(&job->failed, 1);
		}
	if (ready)
		sp_free(scratch.memory);
}

enum sp_status sp_layer_attention_forward(float *u, float *weights, const struct sp_layer_attention *attention,
                                          struct sp_layer_rows sources, struct sp_layer_rows targets, int64_t n,
                                          int64_t layers, int threads)
{
	struct attention_job job = {attention, u, weights, sources, targets, n, layers, 0};
	int64_t useful = (n + SENTENCES - 1) / SENTENCES;
	sp_threads_run(threads < useful ? threads : (int)useful, work, &job);
	return atomic_load(&job.failed) ? SP_NO_MEMORY : SP_OK;
}
