/* encoder.c: a request for sentences becomes chunks, chunks go through the network, layers go to the sink.
 *
 * Two ways to use threads, same bits: many sentences are cut into chunks of some 256 tokens and each rank takes whole
 * chunks through the whole network; a few sentences are computed by all ranks together, splitting columns and heads.
 */
#include "model/layer.h"

#include <stdatomic.h>

enum {
	CHUNK_TOKENS = 256,    /* activations of a chunk stay in the level-2 cache; longer chunks gain nothing */
	MIN_CHUNK_TOKENS = 32, /* shorter ones lose speed */
	CHUNKS_PER_THREAD = 8, /* enough for the last chunks not to leave threads idle */
	MAX_TEAM_SHARING = 4,  /* up to this many threads gain from sharing every chunk of a small request */
	ROW_ALIGN = 16         /* floats; one more such step keeps rows out of the same cache set */
};

/* What a rank needs of its own; the buffers of `memory` may be those of the rank that it works with. */
struct workspace {
	int64_t *offsets;
	float *memory;
	float *h;        /* [N, H] the state between layers */
	float *embedded; /* [N, E] before the projection to H; h where there is none */
	int64_t ld_embedded;
	float *kept; /* [N, floats_per_token] the sink's */
	struct sp_layer_acts acts;
};

struct run {
	const struct sp_encode_job *job;
	struct workspace *workspace; /* one per rank */
	int64_t chunk_tokens;        /* a chunk has more only if it is one long sentence */
	int64_t longest;             /* tokens of the longest sentence */
	int64_t most;                /* tokens of the largest chunk */
	int64_t threads;
	int together;
	struct sp_positions positions;
	_Atomic int64_t next; /* the first sentence nobody has taken */
	_Atomic int stopped;
};

static int64_t within(int64_t low, int64_t value, int64_t high)
{
	return value < low ? low : value > high ? high : value;
}

int64_t sp_row_stride(int64_t n)
{
	return (n + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN + ROW_ALIGN;
}

static int64_t max_chunk_sentences(const struct run *run)
{
	return run->job->batch_size < run->chunk_tokens ? run->job->batch_size : run->chunk_tokens;
}

/* Attention reads values one panel wide: behind the last row of qkv must be that much memory. */
static int64_t slack(void)
{
	return sp_runtime()->kernels->nr;
}

static enum sp_status workspace_create(struct workspace *w, const struct run *run, const struct workspace *shared)
{
	const struct sp_config *config = &run->job->model->config;
	int64_t N = run->most;
	*w = (struct workspace){0};
	w->offsets = sp_bytes((size_t)(max_chunk_sentences(run) + 1) * sizeof *w->offsets);
	struct sp_layer_acts *acts = &w->acts;
	int64_t ld = acts->ld_hidden = sp_row_stride(config->layer.hidden);
	int64_t ld_qkv = acts->ld_qkv = sp_row_stride(3 * config->layer.hidden);
	int64_t ld_inner = acts->inner.ld = sp_row_stride(config->layer.intermediate);
	int64_t ld_embedded = w->ld_embedded = sp_row_stride(config->embedding);
	int64_t per_token = run->job->sink.floats_per_token, per_rank = sp_row_stride(run->job->sink.floats_per_rank);
	int64_t scratch = sp_attention_scratch(run->longest, config->layer.hidden / config->layer.heads);
	scratch = scratch > per_rank ? scratch : per_rank;
	/* What shares memory is read no more when the other is written. */
	int64_t widest = ld_qkv > ld_inner ? ld_qkv : ld_inner;
	widest = widest > ld_embedded ? widest : ld_embedded;
	int64_t gate = config->parts & SP_GATE ? ld_inner : 0;
	/* A gated block reads rows for two weights at once. */
	int64_t low = (gate ? 2 : 1) * sp_rows_floats(config->format, config->layer.hidden);
	int64_t low_inner =
		sp_rows_floats(config->format, within(config->embedding, config->layer.intermediate, INT64_MAX));
	low = low > low_inner ? low : low_inner;
	int64_t buffers = N * (widest + gate + 4 * ld + per_token + low) + slack();
	w->memory = sp_floats(scratch + (shared ? 0 : buffers));
	if (!w->offsets || !w->memory)
		return SP_NO_MEMORY;

	float *p = w->memory + scratch;
	if (shared) {
		*acts = shared->acts;
		w->h = shared->h;
		w->embedded = shared->embedded;
		w->kept = shared->kept;
	} else {
		acts->qkv = acts->inner.raw = acts->inner.activated = p;
		w->embedded = p, p += N * widest + slack();
		acts->inner.gate = p, p += N * gate;
		acts->context = acts->expanded = p, p += N * ld;
		acts->attended = acts->middle_normed = p, p += N * ld;
		acts->middle = acts->normed = p, p += N * ld;
		w->h = p, p += N * ld;
		acts->low = p, p += N * low;
		w->kept = p;
	}
	if (!(config->parts & SP_PROJECTION)) {
		w->embedded = w->h;
		w->ld_embedded = ld;
	}
	w->acts.scratch = w->memory;
	return SP_OK;
}

/* The sentence after the chunk that starts at `first`. Where ranks take whole chunks, the last ones are smaller, so that
 * no rank idles long while another finishes. */
static int64_t chunk_end(const struct run *run, int64_t first)
{
	const struct sp_encode_job *job = run->job;
	int64_t end = first + 1, most = first + max_chunk_sentences(run), tokens = run->chunk_tokens;
	if (!run->together)
		tokens = within(MIN_CHUNK_TOKENS, (job->offsets[job->B] - job->offsets[first]) / (2 * run->threads),
		                tokens);
	while (end < job->B && end < most && job->offsets[end + 1] - job->offsets[first] <= tokens)
		end++;
	return end;
}

static struct sp_chunk make_chunk(const struct run *run, const struct workspace *w, int64_t first, int64_t end)
{
	const struct sp_encode_job *job = run->job;
	int64_t token = job->offsets[first];
	for (int64_t i = first; i <= end; i++)
		w->offsets[i - first] = job->offsets[i] - token;
	return (struct sp_chunk){job->ids + token, w->offsets, end - first,    first, token,
	                         &run->positions,  w->kept,    w->acts.scratch};
}

/* Only the calling thread polls. Ranks of a team may leave at different layers: nobody waits for those that left. */
static int stop(struct run *run, int is_caller)
{
	if (is_caller && run->job->poll && run->job->poll(run->job->poll_arg))
		atomic_store(&run->stopped, 1);
	return atomic_load(&run->stopped);
}

/* The rows of a chunk: on the tape, or in the rank's own buffer. */
static float *rows_of_chunk(float *tape, int64_t ld, const struct sp_chunk *chunk, float *own)
{
	return tape ? tape + chunk->token * ld : own;
}

static struct sp_layer_acts acts_of_layer(const struct sp_tape *tape, int64_t l, const struct workspace *w,
                                          const struct sp_chunk *chunk)
{
	struct sp_layer_acts acts = w->acts;
	if (!tape)
		return acts;
	const struct sp_layer_acts *kept = &tape->layer[l];
	int64_t ld = acts.ld_hidden;
	acts.normed = rows_of_chunk(kept->normed, ld, chunk, acts.normed);
	acts.qkv = rows_of_chunk(kept->qkv, acts.ld_qkv, chunk, acts.qkv);
	acts.context = rows_of_chunk(kept->context, ld, chunk, acts.context);
	acts.attended = rows_of_chunk(kept->attended, ld, chunk, acts.attended);
	acts.middle = rows_of_chunk(kept->middle, ld, chunk, acts.middle);
	acts.middle_normed = rows_of_chunk(kept->middle_normed, ld, chunk, acts.middle_normed);
	acts.inner.raw = rows_of_chunk(kept->inner.raw, acts.inner.ld, chunk, acts.inner.raw);
	acts.inner.gate = rows_of_chunk(kept->inner.gate, acts.inner.ld, chunk, acts.inner.gate);
	acts.expanded = rows_of_chunk(kept->expanded, ld, chunk, acts.expanded);
	return acts;
}

static void encode_chunk(struct run *run, const struct workspace *w, const struct sp_chunk *chunk, struct sp_team *team,
                         int is_caller)
{
	const struct sp_encode_job *job = run->job;
	const struct sp_model *model = job->model;
	const struct sp_config *config = &model->config;
	const struct sp_tape *tape = job->tape;
	int64_t ld = w->acts.ld_hidden, N = chunk->offsets[chunk->n];
	float *embedded = rows_of_chunk(tape ? tape->embedded : NULL, w->ld_embedded, chunk, w->embedded);
	float *h = rows_of_chunk(tape ? tape->h[0] : NULL, ld, chunk, w->h);

	sp_embed_forward(embedded, w->ld_embedded, model, chunk, team);
	sp_dropout_forward(embedded, w->ld_embedded, job->dropout, SP_SITE_EMBEDDING, 0, chunk, config->embedding,
	                   team);
	if (model->projection.data)
		sp_linear_forward(h, ld, embedded, w->ld_embedded, &model->projection, model->projection_bias, N,
		                  w->acts.low, team);
	job->sink.take(&job->sink, team, chunk, 0, h, ld);
	for (int64_t l = 0; l < job->sink.last_layer; l++) {
		if (stop(run, is_caller))
			return;
		struct sp_layer_kind kind = sp_kind_of_layer(config, l);
		struct sp_layer_acts acts = acts_of_layer(tape, l, w, chunk);
		int is_normed = l + 1 == config->layers && model->final_norm;
		float *next = rows_of_chunk(tape ? tape->h[l + 1] : NULL, ld, chunk, w->h);
		float *out = is_normed ? rows_of_chunk(tape ? tape->before_final_norm : NULL, ld, chunk, next) : next;
		sp_layer_forward(out, &acts, h, sp_model_layer(model, l), &kind, job->dropout, l + 1, chunk, team);
		if (is_normed)
			sp_layernorm_forward(next, ld, out, ld, NULL, 0, model->final_norm, model->final_norm_bias,
			                     kind.norm_eps, N, config->layer.hidden, team);
		h = next;
		job->sink.take(&job->sink, team, chunk, l + 1, h, ld);
	}
}

static void work(void *arg, struct sp_team *team)
{
	struct run *run = arg;
	const struct workspace *own = &run->workspace[team->rank];
	if (run->together) {
		for (int64_t first = 0, end; first < run->job->B && !stop(run, team->rank == 0); first = end) {
			end = chunk_end(run, first);
			struct sp_chunk chunk = make_chunk(run, own, first, end);
			encode_chunk(run, own, &chunk, team, team->rank == 0);
		}
		return;
	}
	struct sp_team alone = {.size = 1};
	int64_t first = atomic_load(&run->next);
	while (first < run->job->B && !stop(run, team->rank == 0)) {
		int64_t end = chunk_end(run, first);
		if (!atomic_compare_exchange_weak(&run->next, &first, end))
			continue; /* another rank took it; `first` now says where to go on */
		struct sp_chunk chunk = make_chunk(run, own, first, end);
		encode_chunk(run, own, &chunk, &alone, team->rank == 0);
		first = atomic_load(&run->next);
	}
}

/* Choose chunks and the way threads are used. */
static int plan(struct run *run)
{
	const struct sp_encode_job *job = run->job;
	int64_t tokens = job->offsets[job->B] - job->offsets[0], threads = job->threads;
	for (int64_t i = 0; i < job->B; i++)
		if (job->offsets[i + 1] - job->offsets[i] > run->longest)
			run->longest = job->offsets[i + 1] - job->offsets[i];

	int64_t share = tokens / (threads * CHUNKS_PER_THREAD);
	run->chunk_tokens = within(MIN_CHUNK_TOKENS, share, CHUNK_TOKENS);
	int64_t chunks = tokens / run->chunk_tokens < job->B ? tokens / run->chunk_tokens : job->B;
	run->together = threads > 1 &&
	                (chunks < threads || (threads <= MAX_TEAM_SHARING && chunks < threads * CHUNKS_PER_THREAD));
	if (run->together) {
		int64_t nr = sp_runtime()->kernels->nr, panels = (job->model->config.layer.hidden + nr - 1) / nr;
		run->chunk_tokens = CHUNK_TOKENS;
		threads = threads < panels ? threads : panels; /* more ranks than panels would idle */
	}
	run->threads = threads;
	run->most = run->chunk_tokens < tokens ? run->chunk_tokens : tokens;
	run->most = run->most > run->longest ? run->most : run->longest;
	return (int)threads;
}

enum sp_status sp_encode(const struct sp_encode_job *job)
{
	struct run run = {.job = job};
	if (job->B == 0)
		return SP_OK;
	int threads = plan(&run);
	int blis = sp_runtime()->engine == SP_BLIS;
	if (blis && sp_gemm_enter(threads) != SP_OK)
		return SP_NO_MEMORY;

	enum sp_status status = sp_positions_create(&run.positions, job->model, run.longest);
	run.workspace = sp_bytes((size_t)threads * sizeof *run.workspace);
	if (!run.workspace)
		status = SP_NO_MEMORY;
	int ready = 0;
	for (; status == SP_OK && ready < threads; ready++)
		status = workspace_create(&run.workspace[ready], &run, run.together && ready ? run.workspace : NULL);
	if (status == SP_OK) {
		sp_threads_run(threads, work, &run);
		if (atomic_load(&run.stopped))
			status = SP_CANCELLED;
	}
	while (ready-- > 0) {
		sp_free(run.workspace[ready].memory);
		sp_free(run.workspace[ready].offsets);
	}
	sp_free(run.workspace);
	sp_positions_free(&run.positions);
	if (blis)
		sp_gemm_leave(threads);
	return status;
}
