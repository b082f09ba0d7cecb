/* encoder.c: a request for sentences becomes chunks, chunks go through the network, layers go to the sink.
 *
 * Two ways to use threads, same bits: many sentences are cut into chunks of some 256 tokens and each rank takes whole
 * chunks through the whole network; a few sentences are computed by all ranks together, splitting columns and heads.
 */
#include "model/layer.h"

#include <stdatomic.h>

enum {
	CHUNK_TOKENS = 256,     /* activations of a chunk stay in the level-2 cache; longer chunks gain nothing */
	MIN_CHUNK_TOKENS = 32,  /* shorter ones lose speed */
	CHUNKS_PER_THREAD = 8,  /* enough for the last chunks not to leave threads idle */
	MAX_TEAM_SHARING = 4,   /* up to this many threads gain from sharing every chunk of a small request */
	ROW_ALIGN = 16          /* floats; one more such step keeps rows out of the same cache set */
};

struct workspace {
	float *memory;
	int64_t *offsets;
	float *h; /* [N, H] the state between layers */
	struct sp_layer_acts acts;
};

struct run {
	const struct sp_encode_job *job;
	struct workspace *workspace; /* one per rank; ranks that work together share the first one's buffers */
	float *scratch;
	int64_t scratch_size;
	int64_t chunk_tokens, longest;
	int together;
	_Atomic int64_t next; /* the first sentence nobody has taken */
	_Atomic int stopped;
};

static int64_t row_stride(int64_t n)
{
	return (n + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN + ROW_ALIGN;
}

static int64_t max_chunk_sentences(const struct run *run)
{
	return run->job->batch_size < run->chunk_tokens ? run->job->batch_size : run->chunk_tokens;
}

static enum sp_status workspace_create(struct workspace *w, const struct run *run)
{
	const struct sp_config *config = &run->job->model->config;
	int64_t N = run->longest > run->chunk_tokens ? run->longest : run->chunk_tokens;
	struct sp_layer_acts acts = {.ld_qkv = row_stride(3 * config->hidden),
	                             .ld_hidden = row_stride(config->hidden),
	                             .ld_inner = row_stride(config->intermediate)};
	int64_t slack = sp_runtime()->kernels->nr; /* attention reads values one panel wide */
	int64_t size = N * (acts.ld_qkv + acts.ld_inner + 5 * acts.ld_hidden) + slack;
	w->memory = sp_zeros(size);
	w->offsets = sp_bytes((size_t)(max_chunk_sentences(run) + 1) * sizeof *w->offsets);
	if (!w->memory || !w->offsets)
		return SP_NO_MEMORY;
	float *p = w->memory;
	acts.qkv = p, p += N * acts.ld_qkv + slack;
	acts.inner = p, p += N * acts.ld_inner;
	acts.context = p, p += N * acts.ld_hidden;
	acts.attended = p, p += N * acts.ld_hidden;
	acts.middle = p, p += N * acts.ld_hidden;
	acts.expanded = p, p += N * acts.ld_hidden;
	w->h = p;
	w->acts = acts;
	return SP_OK;
}

/* The sentence after the chunk that starts at `first`. */
static int64_t chunk_end(const struct run *run, int64_t first)
{
	const struct sp_encode_job *job = run->job;
	int64_t end = first + 1, most = first + max_chunk_sentences(run);
	while (end < job->B && end < most && job->offsets[end + 1] - job->offsets[first] <= run->chunk_tokens)
		end++;
	return end;
}

static struct sp_chunk make_chunk(const struct run *run, int64_t *offsets, int64_t first, int64_t end)
{
	const struct sp_encode_job *job = run->job;
	int64_t token = job->offsets[first];
	for (int64_t i = first; i <= end; i++)
		offsets[i - first] = job->offsets[i] - token;
	return (struct sp_chunk){job->ids + token, offsets, end - first, first, token};
}

/* Only the calling thread polls; its team mates learn of it behind the barrier, so that all leave at the same layer. */
static int stop(struct run *run, struct sp_team team, int is_caller)
{
	if (is_caller && run->job->poll && run->job->poll(run->job->poll_arg))
		atomic_store(&run->stopped, 1);
	sp_team_wait(team);
	return atomic_load(&run->stopped);
}

static void encode_chunk(struct run *run, const struct workspace *w, float *scratch, const struct sp_chunk *chunk,
                         struct sp_team team, int is_caller)
{
	const struct sp_encode_job *job = run->job;
	const struct sp_model *model = job->model;
	struct sp_layer_acts acts = w->acts;
	acts.scratch = scratch;

	sp_embed_forward(w->h, acts.ld_hidden, model, chunk, team);
	sp_team_wait(team);
	job->sink.take(&job->sink, team, chunk, 0, w->h, acts.ld_hidden);
	for (int64_t l = 0; l < job->sink.last_layer; l++) {
		if (stop(run, team, is_caller))
			return;
		sp_layer_forward(w->h, &acts, w->h, &model->layer[l], &model->config, chunk, team);
		job->sink.take(&job->sink, team, chunk, l + 1, w->h, acts.ld_hidden);
	}
}

static void work(void *arg, struct sp_team team)
{
	struct run *run = arg;
	struct workspace *own = &run->workspace[team.rank];
	float *scratch = run->scratch + team.rank * run->scratch_size;
	if (run->together) {
		for (int64_t first = 0, end; first < run->job->B && !stop(run, team, team.rank == 0); first = end) {
			end = chunk_end(run, first);
			struct sp_chunk chunk = make_chunk(run, own->offsets, first, end);
			encode_chunk(run, &run->workspace[0], scratch, &chunk, team, team.rank == 0);
			sp_team_wait(team);
		}
		return;
	}
	struct sp_team alone = {0, 1, NULL};
	int64_t first = atomic_load(&run->next);
	while (first < run->job->B && !stop(run, alone, team.rank == 0)) {
		int64_t end = chunk_end(run, first);
		if (!atomic_compare_exchange_weak(&run->next, &first, end))
			continue; /* another rank took it; `first` now says where to go on */
		struct sp_chunk chunk = make_chunk(run, own->offsets, first, end);
		encode_chunk(run, own, scratch, &chunk, alone, team.rank == 0);
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
	run->chunk_tokens = share < MIN_CHUNK_TOKENS ? MIN_CHUNK_TOKENS : share > CHUNK_TOKENS ? CHUNK_TOKENS : share;
	int64_t chunks = tokens / run->chunk_tokens < job->B ? tokens / run->chunk_tokens : job->B;
	run->together = threads > 1 &&
	                (chunks < threads || (threads <= MAX_TEAM_SHARING && chunks < threads * CHUNKS_PER_THREAD));
	if (run->together) {
		int64_t nr = sp_runtime()->kernels->nr, panels = (job->model->config.hidden + nr - 1) / nr;
		run->chunk_tokens = CHUNK_TOKENS;
		threads = threads < panels ? threads : panels; /* more ranks than panels would idle */
	}
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

	enum sp_status status = SP_OK;
	const struct sp_config *config = &job->model->config;
	run.scratch_size = sp_attention_scratch(run.longest, config->hidden / config->heads);
	run.scratch = sp_zeros(threads * run.scratch_size);
	run.workspace = sp_bytes((size_t)threads * sizeof *run.workspace);
	if (!run.scratch || !run.workspace)
		status = SP_NO_MEMORY;
	for (int i = 0; run.workspace && i < threads; i++) {
		run.workspace[i] = (struct workspace){0};
		if (status == SP_OK)
			status = workspace_create(&run.workspace[i], &run);
	}
	if (status == SP_OK) {
		sp_threads_run(threads, work, &run);
		if (atomic_load(&run.stopped))
			status = SP_CANCELLED;
	}
	for (int i = 0; run.workspace && i < threads; i++) {
		sp_free(run.workspace[i].memory);
		sp_free(run.workspace[i].offsets);
	}
	sp_free(run.workspace);
	sp_free(run.scratch);
	if (blis)
		sp_gemm_leave(threads);
	return status;
}
