/* tape.c: the memory of training: what a forward pass leaves for its gradient, and what the gradient needs besides.
 * It grows to the largest batch and is used again from step to step.
 */
#include "model/encoder_training.h"

/* Hands out parts of one block; with memory NULL it only counts. */
struct parts {
	float *memory;
	int64_t taken;
};

static float *part(struct parts *parts, int64_t floats)
{
	float *p = parts->memory ? parts->memory + parts->taken : NULL;
	parts->taken += floats;
	return p;
}

static enum sp_status reserve(struct sp_buffer *buffer, int64_t floats)
{
	if (floats <= buffer->capacity)
		return SP_OK;
	int64_t with_room = floats + floats / 8; /* for batches a little larger; pages never touched cost nothing */
	sp_free(buffer->memory);
	buffer->capacity = 0;
	buffer->memory = sp_floats(with_room);
	if (!buffer->memory)
		return SP_NO_MEMORY;
	buffer->capacity = with_room;
	return SP_OK;
}

/* Attention reads one panel's width behind the last row. */
static int64_t slack(void)
{
	return sp_runtime()->kernels->nr;
}

static void lay_out_layer(struct sp_layer_acts *acts, const struct sp_config *config, struct parts *parts, int64_t N)
{
	int is_pre_norm = config->layer.norm == SP_PRE_NORM;
	int64_t ld = sp_row_stride(config->layer.hidden);
	*acts = (struct sp_layer_acts){
		.ld_hidden = ld,
		.ld_qkv = sp_row_stride(3 * config->layer.hidden),
		.inner.ld = sp_row_stride(config->layer.intermediate),
	};
	acts->qkv = part(parts, N * acts->ld_qkv + slack());
	acts->context = part(parts, N * ld);
	acts->middle = part(parts, N * ld);
	acts->inner.raw = part(parts, N * acts->inner.ld);
	if (config->parts & SP_GATE)
		acts->inner.gate = part(parts, N * acts->inner.ld);
	if (is_pre_norm) {
		acts->normed = part(parts, N * ld);
		acts->middle_normed = part(parts, N * ld);
	} else {
		acts->attended = part(parts, N * ld);
		acts->expanded = part(parts, N * ld);
	}
}

static void lay_out_tape(struct sp_training *t, struct parts *parts, int64_t N)
{
	const struct sp_config *config = &t->model->config;
	int64_t ld = sp_row_stride(config->layer.hidden);
	struct sp_tape *tape = &t->tape;
	for (int64_t l = 0; l <= config->layers; l++)
		tape->h[l] = part(parts, N * ld);
	for (int64_t l = 0; l < config->layers; l++)
		lay_out_layer(&tape->layer[l], config, parts, N);
	tape->embedded = config->parts & SP_PROJECTION ? part(parts, N * sp_row_stride(config->embedding)) : tape->h[0];
	tape->before_final_norm = t->model->final_norm ? part(parts, N * ld) : NULL;
}

enum sp_status sp_tape_reserve(struct sp_training *t, int64_t N)
{
	struct parts count = {0};
	lay_out_tape(t, &count, N);
	enum sp_status status = reserve(&t->tape_memory, count.taken);
	struct parts parts = {t->tape_memory.memory, 0};
	if (status == SP_OK)
		lay_out_tape(t, &parts, N);
	return status;
}

int64_t sp_relative_floats(const struct sp_config *config)
{
	return config->relative_buckets * config->layer.heads;
}

/* What all ranks fill, the rows of all tokens. */
static void lay_out_shared(struct sp_training *t, struct parts *parts, int64_t N)
{
	const struct sp_config *config = &t->model->config;
	int64_t ld = sp_row_stride(config->layer.hidden), ld_inner = sp_row_stride(config->layer.intermediate);
	int64_t embedded = N * sp_row_stride(config->embedding);
	struct sp_layer_gradients *g = &t->gradients_of_layer;
	float **hidden[] = {&g->dout,    &g->din,     &g->dexpanded,     &g->dattended,
	                    &g->dmiddle, &g->dnormed, &g->output_normed, &g->attention_normed};
	for (size_t i = 0; i < sizeof hidden / sizeof hidden[0]; i++)
		*hidden[i] = part(parts, N * ld);
	g->dqkv = part(parts, N * sp_row_stride(3 * config->layer.hidden));
	g->draw = part(parts, N * ld_inner);
	g->activated = part(parts, N * ld_inner);
	g->dgate = config->parts & SP_GATE ? part(parts, N * ld_inner) : NULL;
	g->relative.buckets = config->relative_buckets;
	g->relative.sums = config->relative_buckets ? part(parts, sp_relative_floats(config) * t->batch.B) : NULL;
	t->dembedded = part(parts, embedded);
	t->dsums = part(parts, embedded);
	t->normed_sums = part(parts, embedded);
}

/* What is one rank's, for chunks of up to `most` tokens. */
static void lay_out_rank(const struct sp_training *t, struct sp_layer_gradients *g, struct parts *parts, int64_t most,
                         int64_t longest)
{
	const struct sp_layer_kind *kind = &t->model->config.layer;
	int64_t ld = sp_row_stride(kind->hidden), d = kind->hidden / kind->heads;
	g->wide = part(parts, most * sp_row_stride(kind->intermediate));
	g->narrow = part(parts, most * ld);
	g->other = part(parts, most * ld + slack());
	int64_t for_attention = sp_attention_backward_scratch(longest, d), for_weights = sp_linear_backward_scratch();
	g->scratch = part(parts, sp_row_stride(for_attention > for_weights ? for_attention : for_weights));
}

enum sp_status sp_gradients_reserve(struct sp_training *t, int64_t N, struct sp_layer_gradients *of_rank, int ranks,
                                    int64_t most, int64_t longest)
{
	struct parts count = {0};
	lay_out_shared(t, &count, N);
	for (int r = 0; r < ranks; r++)
		lay_out_rank(t, &of_rank[r], &count, most, longest);
	enum sp_status status = reserve(&t->gradient_memory, count.taken);
	struct parts parts = {t->gradient_memory.memory, 0};
	if (status != SP_OK)
		return status;
	lay_out_shared(t, &parts, N);
	for (int r = 0; r < ranks; r++) {
		of_rank[r] = t->gradients_of_layer;
		lay_out_rank(t, &of_rank[r], &parts, most, longest);
	}
	return SP_OK;
}
