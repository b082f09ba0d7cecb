/* layer_attention.c: the attention over layers of Oh et al. 2022, and its gradient.
 *
 *   K = f(t Wk^T), V = f(t Wv^T), Q = f(s Wq^T)      f(x) = x for x > 0, slope * x below: RReLU
 *   a_ij = softmax over j of K_j . Q_i / layers      i, j run over the layers; s the sources (cls), t the targets (mean)
 *   u = mean over i of sum_j a_ij V_j
 * With one slope, u = sum_j w_j V_j, w_j = mean over i of a_ij. Training draws slopes (kernels/rrelu.c): K and V have
 * others for every i. The draws of a value are those of its sentence, of source i (the counter's layer), of the layer
 * whose state it comes from (the counter's token) and of its column.
 * Sums over layers are chains in ascending order, so a sentence's result does not depend on the others. Gradients of
 * weights are products over all rows of a call, sentence by sentence: their sums have the order of kernels/panel.c.
 */
#include "sentpool.h"

#include <stdatomic.h>
#include <string.h>

enum {
	SENTENCES = 16,       /* whose projections a rank computes at a time */
	FEWEST_SENTENCES = 4, /* worth a rank's while */
	WEIGHT_ROWS = 32      /* rows of a weight's gradient worth a rank's while */
};

enum { KEY, QUERY, VALUE, PARTS };

struct job {
	const struct sp_layer_attention *attention;
	struct sp_attention_states states;
	float *u, *weights;      /* of the forward pass */
	float *kept;             /* projections [PARTS, n, layers, H], before RReLU; NULL where nobody wants them */
	const float *du, *given; /* of the backward pass, as what follows: gradient of u, projections */
	float *gradients;        /* of the projections */
	float *d_states, *d_weight[PARTS];
	_Atomic int failed;
};

/* A rank's, for one sentence unless it says otherwise. */
struct scratch {
	double *products;         /* [layers] */
	float *block;             /* [PARTS, SENTENCES, layers, H] */
	float *value[PARTS];      /* [layers, H] after RReLU; of a query [1, H] */
	float *slopes[PARTS];     /* of the same shape: what RReLU multiplied by */
	float *scores, *sums;     /* [layers][nr], [nr]: a query is a column, the first one */
	float *weights, *dscores; /* [layers]: a_i, the gradient of what its softmax is of */
	float *context;           /* [H]: the gradient of sum_j a_ij V_j */
};

static int scratch_create(struct scratch *s, int64_t layers, int64_t H)
{
	int64_t nr = sp_runtime()->kernels->nr, states = layers * H;
	struct part {
		float **data;
		int64_t count;
	} parts[] = {{&s->block, PARTS * SENTENCES * states},
	             {&s->value[KEY], states},
	             {&s->value[QUERY], H},
	             {&s->value[VALUE], states},
	             {&s->slopes[KEY], states},
	             {&s->slopes[QUERY], H},
	             {&s->slopes[VALUE], states},
	             {&s->scores, layers * nr},
	             {&s->sums, nr},
	             {&s->weights, layers},
	             {&s->dscores, layers},
	             {&s->context, H}};
	int64_t total = 2 * layers;
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		total += parts[i].count;
	float *next = sp_floats(total);
	s->products = (void *)next;
	if (!next)
		return 0;
	next += 2 * layers;
	for (size_t i = 0; i < sizeof parts / sizeof *parts; next += parts[i].count, i++)
		*parts[i].data = next;
	return 1;
}

static const float *weight_of(const struct job *job, int part)
{
	const struct sp_layer_attention *attention = job->attention;
	return part == KEY ? attention->key : part == QUERY ? attention->query : attention->value;
}

/* The states that a part projects, from a sentence on. */
static struct sp_strided states_of(const struct job *job, int part, int64_t sentence)
{
	const struct sp_attention_states *states = &job->states;
	const float *data = part == QUERY ? states->sources : states->targets;
	int64_t ld = part == QUERY ? states->ld_sources : states->ld_targets;
	return (struct sp_strided){data + sentence * states->layers * ld, ld, 1};
}

/* The slopes of RReLU at the projections x[rows, H] of a sentence's states from `layer` on, for one source. */
static void slopes_at(float *slopes, const float *x, const struct job *job, int part, int64_t sentence, int64_t source,
                      int64_t layer, int64_t rows)
{
	static const enum sp_site sites[] = {SP_SITE_RRELU_KEY, SP_SITE_RRELU_QUERY, SP_SITE_RRELU_VALUE};
	const struct sp_rrelu *drawn = job->attention->drawn;
	int64_t H = job->attention->H;
	float slope = job->attention->slope;
	if (!drawn) {
		for (int64_t c = 0; c < rows * H; c++)
			slopes[c] = x[c] > 0 ? 1.0f : slope;
		return;
	}
	struct sp_draws draws = {.seed = drawn->seed,
	                         .step = drawn->step,
	                         .row = (uint32_t)(drawn->first_row + sentence),
	                         .layer = (uint32_t)source,
	                         .site = sites[part]};
	sp_runtime()->kernels->rrelu_slopes(slopes, x, &draws, layer, rows, H);
}

/* s->value[part] = f(x): all layers, of a query one. Without draws keys and values are the same for every source. */
static void activate(struct scratch *s, const float *x, const struct job *job, int part, int64_t sentence,
                     int64_t source)
{
	int64_t H = job->attention->H, rows = part == QUERY ? 1 : job->states.layers;
	if (part != QUERY && source > 0 && !job->attention->drawn)
		return;
	slopes_at(s->slopes[part], x, job, part, sentence, source, part == QUERY ? source : 0, rows);
	for (int64_t c = 0; c < rows * H; c++)
		s->value[part][c] = x[c] * s->slopes[part][c];
}

/* s->weights = a_i of one source. z: a sentence's projections, whose parts are `stride` floats apart. */
static void attend(struct scratch *s, const float *z, int64_t stride, const struct job *job, int64_t sentence,
                   int64_t source)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr, layers = job->states.layers, H = job->attention->H;
	activate(s, z + KEY * stride, job, KEY, sentence, source);
	activate(s, z + QUERY * stride + source * H, job, QUERY, sentence, source);
	kernels->dots(s->products, s->value[QUERY], s->value[KEY], H, layers, H);
	memset(s->scores, 0, (size_t)(layers * nr) * sizeof(float));
	for (int64_t j = 0; j < layers; j++)
		s->scores[j * nr] = (float)(s->products[j] / (double)layers);
	kernels->softmax_columns(s->scores, s->sums, 1.0f, layers, 1);
	for (int64_t j = 0; j < layers; j++)
		s->weights[j] = s->scores[j * nr] / s->sums[0];
}

/* y[H] = the weighted sum of rows x[layers, H]; where told so, added to y. */
static void add_rows(float *y, const float *x, const float *weights, int64_t layers, int64_t H, int add)
{
	for (int64_t j = 0; j < layers; j++, x += H)
		for (int64_t c = 0; c < H; c++)
			y[c] = j || add ? y[c] + weights[j] * x[c] : weights[j] * x[c];
}

static void sentence_forward(struct scratch *s, const float *z, int64_t stride, const struct job *job, int64_t sentence)
{
	int64_t layers = job->states.layers, H = job->attention->H;
	float *u = job->u ? job->u + sentence * H : NULL, *mean = job->weights + sentence * layers;
	float divisor = (float)layers;
	int drawn = job->attention->drawn != NULL;
	memset(mean, 0, (size_t)layers * sizeof(float));
	for (int64_t i = 0; i < layers; i++) {
		attend(s, z, stride, job, sentence, i);
		for (int64_t j = 0; j < layers; j++)
			mean[j] = mean[j] + s->weights[j];
		if (u)
			activate(s, z + VALUE * stride, job, VALUE, sentence, i);
		if (u && drawn)
			add_rows(u, s->value[VALUE], s->weights, layers, H, i > 0);
	}
	for (int64_t j = 0; j < layers; j++)
		mean[j] = mean[j] / divisor;
	if (u && drawn)
		sp_runtime()->kernels->divide_rows(u, H, &divisor, 1, H);
	else if (u)
		add_rows(u, s->value[VALUE], mean, layers, H, 0);
}

/* y[H] = y + factor * a * b */
static void add_product(float *restrict y, float factor, const float *restrict a, const float *restrict b, int64_t H)
{
	for (int64_t c = 0; c < H; c++)
		y[c] = y[c] + factor * a[c] * b[c];
}

/* What one source gives to the gradient dz of its sentence's projections. s->context: the gradient of the source's
 * weighted sum. */
static void source_backward(struct scratch *s, float *dz, const float *z, int64_t stride, const struct job *job,
                            int64_t sentence, int64_t source)
{
	int64_t layers = job->states.layers, H = job->attention->H;
	float *dquery = dz + QUERY * stride + source * H;
	attend(s, z, stride, job, sentence, source);
	activate(s, z + VALUE * stride, job, VALUE, sentence, source);
	sp_runtime()->kernels->dots(s->products, s->context, s->value[VALUE], H, layers, H);
	double mean = 0;
	for (int64_t j = 0; j < layers; j++)
		mean = mean + (double)s->weights[j] * s->products[j];
	for (int64_t j = 0; j < layers; j++) {
		double dscore = (double)s->weights[j] * (s->products[j] - mean);
		s->dscores[j] = (float)(dscore / (double)layers);
		add_product(dz + VALUE * stride + j * H, s->weights[j], s->context, s->slopes[VALUE] + j * H, H);
		add_product(dz + KEY * stride + j * H, s->dscores[j], s->value[QUERY], s->slopes[KEY] + j * H, H);
	}
	add_rows(dquery, s->value[KEY], s->dscores, layers, H, 0);
	for (int64_t c = 0; c < H; c++)
		dquery[c] = dquery[c] * s->slopes[QUERY][c];
}

static void sentence_backward(struct scratch *s, float *dz, const float *z, int64_t stride, const struct job *job,
                              int64_t sentence)
{
	int64_t layers = job->states.layers, H = job->attention->H;
	memset(dz + KEY * stride, 0, (size_t)(layers * H) * sizeof(float));
	memset(dz + VALUE * stride, 0, (size_t)(layers * H) * sizeof(float));
	for (int64_t c = 0; c < H; c++)
		s->context[c] = job->du[sentence * H + c] / (float)layers;
	for (int64_t i = 0; i < layers; i++)
		source_backward(s, dz, z, stride, job, sentence, i);
}

static enum sp_status block_forward(struct scratch *s, const struct job *job, int64_t first, int64_t count)
{
	int64_t H = job->attention->H, size = job->states.layers * H;
	int64_t stride = (job->kept ? job->states.n : SENTENCES) * size;
	float *z = job->kept ? job->kept + first * size : s->block;
	for (int part = 0; part < (job->u ? PARTS : VALUE); part++) {
		struct sp_strided transposed = {weight_of(job, part), 1, H};
		enum sp_status status = sp_gemm(z + part * stride, H, states_of(job, part, first), transposed,
		                                count * job->states.layers, H, H);
		if (status != SP_OK)
			return status;
	}
	for (int64_t i = 0; i < count; i++)
		sentence_forward(s, z + i * size, stride, job, first + i);
	return SP_OK;
}

/* The gradient of projections, then that of states: dQ Wq, and dK Wk + dV Wv. */
static enum sp_status block_backward(struct scratch *s, const struct job *job, int64_t first, int64_t count)
{
	int64_t H = job->attention->H, size = job->states.layers * H, rows = count * job->states.layers;
	int64_t stride = job->states.n * size;
	const float *z = job->given + first * size;
	float *dz = job->gradients + first * size, *product = s->block;
	float *d_sources = job->d_states + first * 2 * size, *d_targets = d_sources + H;
	struct {
		float *data;
		int64_t ld;
	} out[PARTS] = {[KEY] = {d_targets, 2 * H}, [QUERY] = {d_sources, 2 * H}, [VALUE] = {product, H}};
	for (int64_t i = 0; i < count; i++)
		sentence_backward(s, dz + i * size, z + i * size, stride, job, first + i);
	for (int part = 0; part < PARTS; part++) {
		struct sp_strided weight = {weight_of(job, part), H, 1}, gradient = {dz + part * stride, H, 1};
		enum sp_status status = sp_gemm(out[part].data, out[part].ld, gradient, weight, rows, H, H);
		if (status != SP_OK)
			return status;
	}
	for (int64_t row = 0; row < rows; row++, d_targets += 2 * H, product += H)
		for (int64_t c = 0; c < H; c++)
			d_targets[c] = d_targets[c] + product[c];
	return SP_OK;
}

/* Rows [first, end) of the three weights' gradients, one below the other: dW = dz^T states, summed over all rows. */
static enum sp_status weights_backward(const struct job *job, int64_t first, int64_t end)
{
	int64_t H = job->attention->H, rows = job->states.n * job->states.layers;
	for (int64_t row = first, stop; row < end; row = stop) {
		int part = (int)(row / H);
		int64_t local = row % H;
		stop = (part + 1) * H < end ? (part + 1) * H : end;
		struct sp_strided transposed = {job->gradients + part * rows * H + local, 1, H};
		enum sp_status status = sp_gemm(job->d_weight[part] + local * H, H, transposed, states_of(job, part, 0),
		                                stop - row, H, rows);
		if (status != SP_OK)
			return status;
	}
	return SP_OK;
}

static void work(void *arg, struct sp_team *team)
{
	struct job *job = arg;
	struct scratch scratch = {0};
	int ready = scratch_create(&scratch, job->states.layers, job->attention->H);
	int64_t first, end;
	if (!ready)
		atomic_store(&job->failed, 1);
	while (sp_team_take(team, job->states.n, FEWEST_SENTENCES, &first, &end))
		for (; first < end && !atomic_load(&job->failed); first += SENTENCES) {
			int64_t count = end - first < SENTENCES ? end - first : SENTENCES;
			enum sp_status status = job->du ? block_backward(&scratch, job, first, count)
			                                : block_forward(&scratch, job, first, count);
			if (status != SP_OK)
				atomic_store(&job->failed, 1);
		}
	while (job->du && sp_team_take(team, PARTS * job->attention->H, WEIGHT_ROWS, &first, &end))
		if (!atomic_load(&job->failed) && weights_backward(job, first, end) != SP_OK)
			atomic_store(&job->failed, 1);
	sp_free(scratch.products);
}

static enum sp_status run(struct job *job, int threads)
{
	int64_t useful = (job->states.n + FEWEST_SENTENCES - 1) / FEWEST_SENTENCES;
	sp_threads_run(threads < useful ? threads : (int)useful, work, job);
	return atomic_load(&job->failed) ? SP_NO_MEMORY : SP_OK;
}

enum sp_status sp_layer_attention_forward(float *u, float *weights, float *projections,
                                          const struct sp_layer_attention *attention, struct sp_attention_states states,
                                          int threads)
{
	struct job job = {.attention = attention, .states = states, .u = u, .weights = weights, .kept = projections};
	return run(&job, threads);
}

enum sp_status sp_layer_attention_backward(float *d_states, float *d_query, float *d_key, float *d_value,
                                           const float *du, const float *projections,
                                           const struct sp_layer_attention *attention,
                                           struct sp_attention_states states, int threads)
{
	struct job job = {.attention = attention,
	                  .states = states,
	                  .du = du,
	                  .given = projections,
	                  .d_states = d_states,
	                  .d_weight = {[KEY] = d_key, [QUERY] = d_query, [VALUE] = d_value}};
	job.gradients = sp_floats(PARTS * states.n * states.layers * attention->H);
	enum sp_status status = job.gradients ? run(&job, threads) : SP_NO_MEMORY;
	sp_free(job.gradients);
	return status;
}
