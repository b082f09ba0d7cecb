/* backward.c: the gradients of a whole encoder, from those of its pooled states and token states.
 *
 * Layer after layer, from the last one down to the embeddings, in two steps of the team: first ranks take chunks of
 * sentences through the layer backwards; then, when the gradients of all tokens are there, they split the outputs of the
 * weights' gradients, whose sums run over the groups of tokens in order. Where there are fewer chunks than ranks, all of
 * them go through each chunk together.
 */
#include "model/encoder_training.h"

#include <stdatomic.h>
#include <string.h>

enum { CHUNK_TOKENS = 256, MIN_CHUNK_TOKENS = 32, CHUNKS_PER_THREAD = 8 };

struct run {
	struct sp_training *t;
	const float *drows;
	struct sp_pool_request dstates;
	struct sp_chunk *chunk;
	int64_t chunks, most, longest;
	int together;
	struct sp_positions positions;
	struct sp_groups groups;
	int64_t *sentence_groups;
	struct sp_layer_gradients *of_rank;
	int64_t *numbers; /* the memory of offsets and cuts */
	int (*poll)(void *);
	void *poll_arg;
	_Atomic int stopped;
};

static int stop(struct run *run, const struct sp_team *team)
{
	if (team->rank == 0 && run->poll && run->poll(run->poll_arg))
		atomic_store(&run->stopped, 1);
	return atomic_load(&run->stopped);
}

/* ---- from outside -------------------------------------------------------------------------------------------------- */

/* Complete dout of a chunk: what comes from the layer above, for the topmost zero, plus what callers gave for this one. */
static void receive(const struct run *run, float *all, const struct sp_chunk *chunk, int64_t layer,
                    struct sp_team *team)
{
	const struct sp_training_batch *batch = &run->t->batch;
	const struct sp_config *config = &run->t->model->config;
	int64_t H = config->layer.hidden, ld = sp_row_stride(H), N = chunk->offsets[chunk->n], first, end;
	float *dout = all + chunk->token * ld;
	if (layer == batch->last_layer) {
		while (sp_team_take(team, 1, 1, &first, &end)) {
			memset(dout, 0, (size_t)(N * ld) * sizeof(float));
			for (int64_t i = 0; i < batch->n_positions; i++) {
				int64_t row = batch->positions[i] - chunk->token;
				if (row >= 0 && row < N)
					memcpy(dout + row * ld, run->drows + i * H, (size_t)H * sizeof(float));
			}
		}
	}
	sp_pool_tokens_backward(dout, ld, &run->dstates, chunk, layer, run->t->tape.h[layer] + chunk->token * ld, ld, H,
	                        team);
}

/* ---- one step for a chunk, then one for the weights ------------------------------------------------------------------ */

typedef void chunk_step(const struct run *run, int64_t layer, const struct sp_chunk *chunk,
                        const struct sp_layer_gradients *own, struct sp_team *team);

/* All chunks go through a step; returns whether the run goes on. */
static int for_all_chunks(struct run *run, int64_t layer, chunk_step *step, const struct sp_layer_gradients *own,
                          struct sp_team *team)
{
	int64_t first, end;
	if (run->together) {
		for (int64_t c = 0; c < run->chunks && !stop(run, team); c++)
			step(run, layer, &run->chunk[c], own, team);
		return !stop(run, team);
	}
	while (sp_team_take(team, run->chunks, 1, &first, &end))
		for (int64_t c = first; c < end && !stop(run, team); c++) {
			struct sp_team alone = {.size = 1};
			step(run, layer, &run->chunk[c], own, &alone);
		}
	return !stop(run, team);
}

/* The chunk's rows of what belongs to all tokens. */
static struct sp_layer_gradients gradients_of_chunk(const struct sp_layer_gradients *own,
                                                    const struct sp_layer_acts *acts, int64_t relative_floats,
                                                    const struct sp_chunk *chunk)
{
	struct sp_layer_gradients g = *own;
	int64_t hidden = chunk->token * acts->ld_hidden, inner = chunk->token * acts->inner.ld;
	float **of_hidden[] = {&g.dout,    &g.din,     &g.dexpanded,     &g.dattended,
	                       &g.dmiddle, &g.dnormed, &g.output_normed, &g.attention_normed};
	for (size_t i = 0; i < sizeof of_hidden / sizeof of_hidden[0]; i++)
		*of_hidden[i] += hidden;
	g.dqkv += chunk->token * acts->ld_qkv;
	g.draw += inner;
	g.activated += inner;
	g.dgate = g.dgate ? g.dgate + inner : NULL;
	if (g.relative.sums)
		g.relative.sums += chunk->first * relative_floats;
	return g;
}

static struct sp_layer_acts acts_of_chunk(const struct sp_layer_acts *tape, const struct sp_chunk *chunk)
{
	struct sp_layer_acts acts = *tape;
	int64_t hidden = chunk->token * acts.ld_hidden, inner = chunk->token * acts.inner.ld;
	float **of_hidden[] = {&acts.normed, &acts.context,       &acts.attended,
	                       &acts.middle, &acts.middle_normed, &acts.expanded};
	for (size_t i = 0; i < sizeof of_hidden / sizeof of_hidden[0]; i++)
		*of_hidden[i] = *of_hidden[i] ? *of_hidden[i] + hidden : NULL;
	acts.qkv += chunk->token * acts.ld_qkv;
	acts.inner.raw += inner;
	acts.inner.gate = acts.inner.gate ? acts.inner.gate + inner : NULL;
	return acts;
}

/* Whether the topmost states come out of a layer norm of their own. */
static int ends_normed(const struct sp_training *t)
{
	return t->model->final_norm && t->batch.last_layer == t->model->config.layers;
}

/* `layer` counts from 0. */
static void layer_step(const struct run *run, int64_t layer, const struct sp_chunk *chunk,
                       const struct sp_layer_gradients *own, struct sp_team *team)
{
	const struct sp_training *t = run->t;
	const struct sp_layer_weights *w = sp_model_layer(t->model, layer);
	struct sp_layer_kind kind = sp_kind_of_layer(&t->model->config, layer);
	struct sp_layer_acts acts = acts_of_chunk(&t->tape.layer[layer], chunk);
	struct sp_layer_gradients g =
		gradients_of_chunk(own, &t->tape.layer[layer], sp_relative_floats(&t->model->config), chunk);
	if (layer + 1 < t->batch.last_layer || !ends_normed(t))
		receive(run, own->dout, chunk, layer + 1, team);
	sp_layer_backward(&g, &acts, t->tape.h[layer] + chunk->token * acts.ld_hidden, w,
	                  &t->layer_transposed[w - t->model->group], &kind, &t->dropout, layer + 1, chunk, team);
}

static void layer_weights(const struct run *run, int64_t layer, const struct sp_layer_gradients *own,
                          struct sp_team *team)
{
	const struct sp_training *t = run->t;
	struct sp_layer_kind kind = sp_kind_of_layer(&t->model->config, layer);
	sp_layer_backward_weight(sp_model_layer(t->gradients, layer), own, &t->tape.layer[layer], t->tape.h[layer],
	                         &kind, &run->groups, team);
}

static void final_norm_step(const struct run *run, int64_t layer, const struct sp_chunk *chunk,
                            const struct sp_layer_gradients *own, struct sp_team *team)
{
	const struct sp_training *t = run->t;
	const struct sp_layer_kind *kind = &t->model->config.layer;
	int64_t ld = sp_row_stride(kind->hidden), at = chunk->token * ld;
	receive(run, own->dout, chunk, layer, team);
	sp_layernorm_backward(own->din + at, ld, own->output_normed + at, ld, own->dout + at, ld,
	                      t->tape.before_final_norm + at, ld, NULL, 0, t->model->final_norm, kind->norm_eps,
	                      chunk->offsets[chunk->n], kind->hidden, team);
}

static void embedding_step(const struct run *run, int64_t layer, const struct sp_chunk *chunk,
                           const struct sp_layer_gradients *own, struct sp_team *team)
{
	const struct sp_training *t = run->t;
	const struct sp_config *config = &t->model->config;
	int64_t ld = sp_row_stride(config->layer.hidden), ld_embedded = sp_row_stride(config->embedding);
	int64_t N = chunk->offsets[chunk->n], at = chunk->token * ld_embedded, first, end;
	const float *dout = own->dout + chunk->token * ld;
	float *dembedded = t->dembedded + at;
	receive(run, own->dout, chunk, layer, team);
	if (t->masters->projection.data)
		sp_linear_backward(dembedded, ld_embedded, dout, ld, &t->projection_transposed, N, team);
	else
		while (sp_team_take(team, N, SP_ROW_GRAIN, &first, &end))
			memcpy(dembedded + first * ld, dout + first * ld, (size_t)((end - first) * ld) * sizeof(float));
	sp_dropout_forward(dembedded, ld_embedded, &t->dropout, SP_SITE_EMBEDDING, 0, chunk, config->embedding, team);
	sp_embed_backward(t->dsums + at, t->normed_sums + at, dembedded, ld_embedded, t->model, chunk, team);
}

/* The sentences' sums, of all layers, to the gradient: group after group, in each a chain over its sentences. */
static void relative_weights(const struct run *run, const float *sums, struct sp_team *team)
{
	const struct sp_training *t = run->t;
	const int64_t *groups = run->sentence_groups;
	int64_t floats = sp_relative_floats(&t->model->config), first, end;
	float *gradient = t->gradients->relative_bias.data;
	while (sp_team_take(team, floats, floats, &first, &end))
		for (int64_t g = 0; groups[g] < t->batch.B; g++)
			sp_runtime()->kernels->columns_add(gradient, sums + groups[g] * floats, floats, NULL, 0,
			                                   groups[g + 1] - groups[g], floats);
}

static void embedding_weights(const struct run *run, const struct sp_layer_gradients *own, struct sp_team *team)
{
	const struct sp_training *t = run->t;
	struct sp_model *d = t->gradients;
	int64_t E = d->config.embedding, ld = sp_row_stride(E), ld_hidden = sp_row_stride(d->config.layer.hidden);
	struct sp_chunk all = {.ids = t->batch.ids, .offsets = run->numbers, .n = t->batch.B};
	if (d->projection.data)
		sp_linear_backward_weight(&d->projection, d->projection_bias, own->dout, ld_hidden, t->tape.embedded,
		                          ld, &run->groups, own->scratch, team);
	sp_layernorm_backward_weight(d->embedding_norm, d->embedding_norm_bias, t->dembedded, ld, t->normed_sums, ld,
	                             &run->groups, E, team);
	sp_embed_backward_weight(d, t->dsums, ld, &all, team);
	if (own->relative.sums)
		relative_weights(run, own->relative.sums, team);
}

/* ---- the run --------------------------------------------------------------------------------------------------------- */

/* The gradient of a layer's input is that of the output of the layer below. */
static void descend(struct sp_layer_gradients *own)
{
	float *above = own->dout;
	own->dout = own->din;
	own->din = above;
}

static void work(void *arg, struct sp_team *team)
{
	struct run *run = arg;
	const struct sp_training *t = run->t;
	int64_t last = t->batch.last_layer, H = t->model->config.layer.hidden, ld = sp_row_stride(H);
	struct sp_layer_gradients own = run->of_rank[run->together ? 0 : team->rank];
	own.scratch = run->of_rank[team->rank].scratch;
	if (ends_normed(t)) {
		if (!for_all_chunks(run, last, final_norm_step, &own, team))
			return;
		sp_layernorm_backward_weight(t->gradients->final_norm, t->gradients->final_norm_bias, own.dout, ld,
		                             own.output_normed, ld, &run->groups, H, team);
		descend(&own);
	}
	for (int64_t layer = last - 1; layer >= 0; layer--) {
		if (!for_all_chunks(run, layer, layer_step, &own, team))
			return;
		layer_weights(run, layer, &own, team);
		descend(&own);
	}
	if (for_all_chunks(run, 0, embedding_step, &own, team))
		embedding_weights(run, &own, team);
}

/* Cut the batch into chunks and groups. */
static enum sp_status plan(struct run *run, int threads)
{
	const struct sp_training_batch *batch = &run->t->batch;
	int64_t B = batch->B, N = batch->offsets[B], tokens = N / (threads * CHUNKS_PER_THREAD);
	tokens = tokens < MIN_CHUNK_TOKENS ? MIN_CHUNK_TOKENS : tokens > CHUNK_TOKENS ? CHUNK_TOKENS : tokens;
	/* the offsets as they are, those of up to B chunks, and as many cuts as there can be groups of tokens and sentences */
	run->numbers = sp_bytes((size_t)(B + 1 + 2 * B + B + N / SP_KC + 1 + B + 1) * sizeof *run->numbers);
	run->chunk = sp_bytes((size_t)B * sizeof *run->chunk);
	if (!run->numbers || !run->chunk)
		return SP_NO_MEMORY;
	memcpy(run->numbers, batch->offsets, (size_t)(B + 1) * sizeof *run->numbers);
	int64_t *offsets = run->numbers + B + 1;
	for (int64_t first = 0, end; first < B; first = end) {
		int64_t token = batch->offsets[first], T = batch->offsets[first + 1] - token;
		run->longest = T > run->longest ? T : run->longest;
		for (end = first + 1; end < B && batch->offsets[end + 1] - token <= tokens; end++) {
			T = batch->offsets[end + 1] - batch->offsets[end];
			run->longest = T > run->longest ? T : run->longest;
		}
		for (int64_t i = first; i <= end; i++)
			offsets[i - first] = batch->offsets[i] - token;
		run->most = offsets[end - first] > run->most ? offsets[end - first] : run->most;
		run->chunk[run->chunks++] = (struct sp_chunk){.ids = batch->ids + token,
		                                              .offsets = offsets,
		                                              .n = end - first,
		                                              .first = first,
		                                              .token = token,
		                                              .positions = &run->positions};
		offsets += end - first + 1;
	}
	run->together = run->chunks < threads;
	run->groups.cuts = offsets;
	run->groups.n = sp_token_groups(offsets, batch->offsets, B);
	run->sentence_groups = offsets + run->groups.n + 1;
	sp_sentence_groups(run->sentence_groups, batch->offsets, B);
	return SP_OK;
}

enum sp_status sp_training_backward(struct sp_training *t, const float *dstates, const float *drows, int threads,
                                    int (*poll)(void *), void *poll_arg)
{
	if (!t->has_tape)
		return SP_INVALID;
	t->has_tape = 0;
	if (t->batch.B == 0)
		return SP_OK;
	struct run run = {.t = t, .drows = drows, .dstates = t->batch.pool, .poll = poll, .poll_arg = poll_arg};
	run.dstates.states = (float *)(uintptr_t)dstates; /* read only */
	enum sp_status status = plan(&run, threads);
	if (status == SP_OK)
		status = sp_positions_create(&run.positions, t->model, run.longest);
	run.of_rank = sp_bytes((size_t)threads * sizeof *run.of_rank);
	if (!run.of_rank)
		status = SP_NO_MEMORY;
	if (status == SP_OK)
		status = sp_gradients_reserve(t, t->batch.offsets[t->batch.B], run.of_rank, threads, run.most,
		                              run.longest);
	if (status == SP_OK) {
		struct sp_relative_gradient *relative = &t->gradients_of_layer.relative;
		if (relative->sums)
			memset(relative->sums, 0,
			       (size_t)(sp_relative_floats(&t->model->config) * t->batch.B) * sizeof(float));
		sp_threads_run(threads, work, &run);
		status = atomic_load(&run.stopped) ? SP_CANCELLED : SP_OK;
	}
	sp_positions_free(&run.positions);
	sp_free(run.of_rank);
	sp_free(run.chunk);
	sp_free(run.numbers);
	return status;
}
