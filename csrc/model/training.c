/* training.c: an encoder in training: float32 parameters of its own, a forward pass that remembers, and the way of the
 * parameters back into the model. The gradients are in backward.c.
 */
#include "model/encoder_training.h"

#include <string.h>

static int64_t stored(struct sp_matrix weight)
{
	return weight.data ? sp_transposed_floats(weight.rows, weight.cols) : 0;
}

/* The weights of a set of layers, and where their transposes are: walked by everything below. */
struct pair {
	const struct sp_matrix *weight;
	struct sp_matrix *transposed;
};
enum { PAIRS = 5 };

static void pairs_of_group(struct pair pairs[PAIRS], const struct sp_training *t, int64_t group)
{
	const struct sp_layer_weights *w = &t->masters->group[group];
	struct sp_layer_transposed *to = &t->layer_transposed[group];
	pairs[0] = (struct pair){&w->qkv, &to->qkv};
	pairs[1] = (struct pair){&w->attention_output, &to->attention_output};
	pairs[2] = (struct pair){&w->intermediate, &to->intermediate};
	pairs[3] = (struct pair){&w->gate, &to->gate};
	pairs[4] = (struct pair){&w->output, &to->output};
}

static float *place(struct sp_matrix *transposed, const struct sp_matrix *weight, float *memory)
{
	*transposed =
		(struct sp_matrix){.data = weight->data ? memory : NULL, .rows = weight->cols, .cols = weight->rows};
	return memory + stored(*weight);
}

static enum sp_status allocate_transposed(struct sp_training *t)
{
	int64_t groups = t->model->config.groups, floats = stored(t->masters->projection);
	struct pair pairs[PAIRS];
	for (int64_t group = 0; group < groups; group++) {
		pairs_of_group(pairs, t, group);
		for (int i = 0; i < PAIRS; i++)
			floats += stored(*pairs[i].weight);
	}
	float *memory = t->transposed = sp_floats(floats);
	if (!memory)
		return SP_NO_MEMORY;
	memory = place(&t->projection_transposed, &t->masters->projection, memory);
	for (int64_t group = 0; group < groups; group++) {
		pairs_of_group(pairs, t, group);
		for (int i = 0; i < PAIRS; i++)
			memory = place(pairs[i].transposed, pairs[i].weight, memory);
	}
	return SP_OK;
}

static void transpose(void *arg, struct sp_team *team)
{
	struct sp_training *t = arg;
	struct pair pairs[PAIRS];
	if (t->masters->projection.data)
		sp_linear_transpose(&t->projection_transposed, t->masters->projection.data, team);
	for (int64_t group = 0; group < t->model->config.groups; group++) {
		pairs_of_group(pairs, t, group);
		for (int i = 0; i < PAIRS; i++)
			if (pairs[i].weight->data)
				sp_linear_transpose(pairs[i].transposed, pairs[i].weight->data, team);
	}
}

static void pack_and_transpose(void *arg, struct sp_team *team)
{
	struct sp_training *t = arg;
	sp_model_pack(t->model, t->masters, team);
	transpose(arg, team);
}

enum sp_status sp_training_create(struct sp_training **out, struct sp_model *model, struct sp_dropout dropout,
                                  int threads)
{
	const struct sp_config *config = &model->config;
	size_t layers = (size_t)config->layers;
	struct sp_training *t = sp_bytes(sizeof *t);
	*out = t;
	if (!t)
		return SP_NO_MEMORY;
	*t = (struct sp_training){.model = model, .dropout = dropout};
	enum sp_status status = sp_model_create(&t->masters, config, 0);
	if (status == SP_OK)
		status = sp_model_create(&t->gradients, config, 0);
	t->layer_transposed = sp_bytes((size_t)config->groups * sizeof *t->layer_transposed);
	t->tape.layer = sp_bytes(layers * sizeof *t->tape.layer);
	t->tape.h = sp_bytes((layers + 1) * sizeof *t->tape.h);
	if (status == SP_OK && t->layer_transposed && t->tape.layer && t->tape.h)
		status = allocate_transposed(t);
	else
		status = SP_NO_MEMORY;
	if (status == SP_OK) {
		sp_model_unpack(t->masters, model);
		sp_threads_run(threads, transpose, t);
		return SP_OK;
	}
	sp_training_free(t);
	*out = NULL;
	return status;
}

void sp_training_free(struct sp_training *t)
{
	if (!t)
		return;
	sp_model_free(t->masters);
	sp_model_free(t->gradients);
	sp_free(t->transposed);
	sp_free(t->layer_transposed);
	sp_free(t->tape.layer);
	sp_free(t->tape.h);
	sp_free(t->tape_memory.memory);
	sp_free(t->gradient_memory.memory);
	sp_free(t);
}

void sp_training_update(struct sp_training *t, int threads)
{
	sp_threads_run(threads, pack_and_transpose, t);
}

/* ---- forward ------------------------------------------------------------------------------------------------------- */

/* Poolings of the wanted layers, and token states of the last layer. */
struct request {
	const struct sp_training_batch *batch;
	struct sp_sink pooling;
	int64_t layers;
};

static void take(const struct sp_sink *sink, struct sp_team *team, const struct sp_chunk *chunk, int64_t layer,
                 const float *h, int64_t ld)
{
	const struct request *request = sink->request;
	const struct sp_training_batch *batch = request->batch;
	request->pooling.take(&request->pooling, team, chunk, layer, h, ld);
	if (layer < request->layers || !batch->n_positions)
		return;
	int64_t first, end;
	while (sp_team_take(team, batch->n_positions, batch->n_positions, &first, &end))
		for (int64_t i = first; i < end; i++) {
			int64_t row = batch->positions[i] - chunk->token;
			if (row >= 0 && row < chunk->offsets[chunk->n])
				memcpy(batch->rows + i * sink->H, h + row * ld, (size_t)sink->H * sizeof(float));
		}
}

enum sp_status sp_training_forward(struct sp_training *t, const struct sp_training_batch *batch, uint32_t step,
                                   int64_t first_row, int keep, int threads, int (*poll)(void *), void *poll_arg)
{
	const struct sp_config *config = &t->model->config;
	struct request request = {batch, sp_pool_tokens_sink(&batch->pool, config->layer.hidden), config->layers};
	struct sp_sink sink = request.pooling;
	sink.take = take;
	sink.request = &request;
	sink.last_layer = batch->n_positions ? config->layers : sink.last_layer;
	t->has_tape = 0;
	t->batch = *batch;
	t->batch.last_layer = sink.last_layer;
	t->dropout.step = step;
	t->dropout.first_row = first_row;
	enum sp_status status = keep ? sp_tape_reserve(t, batch->offsets[batch->B]) : SP_OK;
	if (status != SP_OK)
		return status;
	struct sp_encode_job job = {
		.model = t->model,
		.ids = batch->ids,
		.offsets = batch->offsets,
		.B = batch->B,
		.batch_size = batch->B,
		.threads = threads,
		.dropout = &t->dropout,
		.tape = keep ? &t->tape : NULL,
		.sink = sink,
		.poll = poll,
		.poll_arg = poll_arg,
	};
	status = sp_encode(&job);
	t->has_tape = keep && status == SP_OK;
	return status;
}
