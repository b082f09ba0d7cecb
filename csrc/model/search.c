/* search.c: the k rows of a corpus that are most similar to each query: exact, and never more than a tile of scores.
 *
 * Queries are packed once, as the panels of a product whose left operand the corpus is; the corpus streams past in blocks
 * of rows that stay in the cache while every panel meets them. A score is what similarity.c says, in float64 and
 * rounded, but few pairs need it: the product in float32 is off by at most
 *     g |q| |c| + A,   g = (min(d, 256) + ceil(d / 256)) 2^-24,   A = d 2^-149
 * (one rounding for each step of its chains, by Cauchy-Schwarz; A for products too small to be normal numbers), so a
 * kernel passes on the pairs whose product can still mean a score above the k-th best so far, and no others. With t this
 * score and 2^-20 more for what the bound's own arithmetic rounds, the product must exceed
 *     cosine     (t - g) |q| |c| - A                        q scaled by a power of two to a length below 1
 *     dot        t - g |q| |c| - A
 *     euclidean  (|q|^2 + |c|^2 - t^2) / 2 - g |q| |c| - A
 * Rows in 8 bits become floats block by block. Packed bits are compared by Hamming distance, query by query.
 * Each rank keeps the best of the rows that it took in heaps, merged at the end. The order of hits is total (score, then
 * row), so which rank saw which row changes nothing.
 */
#include "sentpool.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum {
	ROWS = 256,             /* of the corpus in a block, */
	BLOCK_FLOATS = 1 << 17, /* fewer where these are more than so many floats */
	SCREENED = 32,          /* rows between two looks at the k-th best scores */
	QUERIES = 2048,         /* that meet a block, */
	FEW_QUERIES = 4,        /* that are compared without panels */
	HEAP_BYTES = 32 << 20,  /* fewer where the hits of a rank would need more than so much */
	ALIASING_FLOATS = 1024, /* rows this far apart share few lines of the level-1 cache */
	PADDING = 16
};

struct hit {
	float score;
	int64_t id;
};

/* One rank's own. */
struct finder {
	struct hit *best;             /* [queries][k]: heaps, the worst at the root */
	int64_t *held;                /* [queries] */
	float *limit;                 /* [panels * nr]: what the k-th best scores demand of a product */
	float *tile;                  /* [ROWS][nr] */
	float *rows;                  /* [ROWS][ld]: a block whose rows cannot be used where they are; else NULL */
	double *squares;              /* [ROWS]: of the block's rows */
	int32_t *hits;                /* [SCREENED * nr]; of bits [ROWS]: distances */
	struct sp_screen_row *bounds; /* [ROWS] */
};

/* A block of queries against the whole corpus. */
struct search {
	struct sp_search_job *job;
	const struct sp_kernels *kernels;
	int64_t first, count, panels, block_rows;
	float *packed, *slack;     /* the queries in panels; g |q| of each, where the metric wants it */
	double *squares, *lengths; /* of the queries; of them as packed */
	double g, tiny, longest;   /* g and A of the bound; the longest row that cannot overflow */
	struct finder *finders;
	int ranks;
	_Atomic int stopped;
	_Atomic int64_t bad_row; /* one that is not finite or too long; INT64_MAX: none */
};

static int is_better(struct hit a, struct hit b)
{
	return a.score > b.score || (a.score == b.score && a.id < b.id);
}

/* Let `hit` sink from the root of a heap of n hits to its place. */
static void sink(struct hit *heap, int64_t n, struct hit hit)
{
	int64_t at = 0, child;
	while ((child = 2 * at + 1) < n) {
		child += child + 1 < n && is_better(heap[child], heap[child + 1]);
		if (!is_better(hit, heap[child]))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = hit;
}

/* Take a hit among the k best, if it is one. Returns whether the k-th best changed. */
static int offer(struct hit *heap, int64_t *held, int64_t k, struct hit hit)
{
	if (*held == k) {
		if (!is_better(hit, heap[0]))
			return 0;
		sink(heap, k, hit);
		return 1;
	}
	int64_t at = (*held)++;
	for (; at > 0 && is_better(heap[(at - 1) / 2], hit); at = (at - 1) / 2)
		heap[at] = heap[(at - 1) / 2];
	heap[at] = hit;
	return *held == k;
}

/* What a product of query q must exceed for a score above t, before the corpus row is looked at. */
static float limit_for(const struct search *s, int64_t q, float t)
{
	if (s->job->metric == SP_COSINE)
		return (float)((t - s->g) * s->lengths[q]);
	if (s->job->metric == SP_EUCLIDEAN)
		return (float)((s->squares[q] * (1 - 0x1p-20) - (double)t * t) / 2);
	return t;
}

static struct sp_screen_row bounds_of(const struct search *s, double square)
{
	float length = (float)sqrt(square), tiny = (float)s->tiny;
	if (s->job->metric == SP_COSINE)
		return (struct sp_screen_row){length, -tiny, 0};
	if (s->job->metric == SP_EUCLIDEAN)
		return (struct sp_screen_row){1, (float)(square * (1 - 0x1p-20) / 2) - tiny, length};
	return (struct sp_screen_row){1, -tiny, length};
}

/* Take a score of a query among its best, if it is one; rows come in ascending order. */
static inline void take(const struct search *s, struct finder *f, int64_t q, float score, int64_t id)
{
	struct hit *heap = f->best + q * s->job->k;
	if (f->held[q] < s->job->k || score > heap[0].score)
		offer(heap, f->held + q, s->job->k, (struct hit){score + 0.0f, id});
}

/* Compute the scores of the pairs that a tile's screening let through. */
static void look_closer(const struct search *s, struct finder *f, int64_t panel, int64_t n_hits, const float *rows,
                        int64_t ld, const double *squares, int64_t first_id)
{
	const struct sp_search_job *job = s->job;
	int64_t nr = s->kernels->nr, k = job->k, d = job->d;
	for (int64_t i = 0; i < n_hits; i++) {
		int64_t q = panel * nr + f->hits[i] % nr, row = f->hits[i] / nr;
		if (q >= s->count)
			continue;
		const float *query = job->queries + (s->first + q) * d;
		double score = sp_similarity(query, rows + row * ld, s->squares[q], squares[row], d, job->metric);
		struct hit hit = {(float)score + 0.0f, first_id + row};
		if (offer(f->best + q * k, f->held + q, k, hit))
			f->limit[q] = limit_for(s, q, f->best[q * k].score);
	}
}

static void meet_panel(const struct search *s, struct finder *f, int64_t panel, const float *rows, int64_t ld,
                       int64_t count, int64_t first_id)
{
	int64_t nr = s->kernels->nr, d = s->job->d;
	struct sp_panel_b queries = {s->packed + panel * nr * d, nr * d, nr};
	s->kernels->gemm(f->tile, nr, (struct sp_panel_a){rows, ld, 0}, queries, NULL, count, nr, d);
	for (int64_t row = 0; row < count; row += SCREENED) {
		int64_t screened = count - row < SCREENED ? count - row : SCREENED;
		int64_t n_hits = s->kernels->screen(f->hits, f->tile + row * nr, f->limit + panel * nr,
		                                    s->slack + panel * nr, f->bounds + row, screened);
		look_closer(s, f, panel, n_hits, rows + row * ld, ld, f->squares + row, first_id + row);
	}
}

/* Rows in 8 bits as floats. */
static void widen(float *rows, int64_t ld, const struct sp_search_job *job, int64_t first, int64_t count)
{
	for (int64_t i = 0; i < count; i++) {
		const uint8_t *source = job->codes + (first + i) * job->code_ld;
		for (int64_t p = 0; p < job->d; p++)
			rows[i * ld + p] = job->code == SP_CODE_INT8 ? (float)(int8_t)source[p] : (float)source[p];
	}
}

/* Rows [first, first + count) of the corpus where they are, or copied to where they can be used. */
static const float *rows_of(const struct search *s, struct finder *f, int64_t first, int64_t count, int64_t *ld)
{
	const struct sp_strided *corpus = &s->job->corpus;
	int64_t d = s->job->d;
	*ld = f->rows ? d + PADDING : corpus->rs;
	if (s->job->code != SP_CODE_FLOAT32) {
		widen(f->rows, *ld, s->job, first, count);
		return f->rows;
	}
	const float *source = corpus->data + first * corpus->rs;
	if (!f->rows)
		return source;
	for (int64_t i = 0; i < count; i++) {
		if (corpus->cs == 1)
			memcpy(f->rows + i * *ld, source + i * corpus->rs, (size_t)d * sizeof(float));
		else
			for (int64_t p = 0; p < d; p++)
				f->rows[i * *ld + p] = source[i * corpus->rs + p * corpus->cs];
	}
	return f->rows;
}

/* Whether every row can be compared; else the search remembers one that cannot. */
static int check_rows(struct search *s, const double *squares, int64_t first, int64_t count)
{
	for (int64_t i = 0; i < count; i++)
		if (!(squares[i] <= s->longest * s->longest)) {
			int64_t known = atomic_load(&s->bad_row);
			while (first + i < known && !atomic_compare_exchange_weak(&s->bad_row, &known, first + i))
				;
			return 0;
		}
	return 1;
}

/* A few queries: what a panel would cost them is more than the scores themselves. */
static void meet_few(const struct search *s, struct finder *f, const float *rows, int64_t ld, int64_t count,
                     int64_t first_id)
{
	const struct sp_search_job *job = s->job;
	double products[ROWS];
	for (int64_t q = 0; q < s->count; q++) {
		s->kernels->dots(products, job->queries + (s->first + q) * job->d, rows, ld, count, job->d);
		for (int64_t i = 0; i < count; i++) {
			if (job->metric == SP_COSINE)
				products[i] = sp_cosine(products[i], s->squares[q], f->squares[i]);
			take(s, f, q, (float)products[i], first_id + i);
		}
	}
}

static void meet_block(struct search *s, struct finder *f, int64_t first, int64_t count)
{
	int64_t ld;
	const float *rows = rows_of(s, f, first, count, &ld);
	s->kernels->squares(f->squares, rows, ld, count, s->job->d);
	if (!check_rows(s, f->squares, first, count) || atomic_load(&s->bad_row) < INT64_MAX)
		return;
	if (s->count <= FEW_QUERIES && s->job->metric != SP_EUCLIDEAN) {
		meet_few(s, f, rows, ld, count, first);
		return;
	}
	for (int64_t i = 0; i < count; i++)
		f->bounds[i] = bounds_of(s, f->squares[i]);
	for (int64_t panel = 0; panel < s->panels; panel++)
		meet_panel(s, f, panel, rows, ld, count, first);
}

/* Every query against the packed bits of rows [first, first + count). */
static void meet_bits(struct search *s, struct finder *f, int64_t first, int64_t count)
{
	const struct sp_search_job *job = s->job;
	for (int64_t q = 0; q < s->count; q++) {
		s->kernels->hamming(f->hits, job->bits + (s->first + q) * job->d, job->codes + first * job->code_ld,
		                    job->code_ld, count, job->d);
		for (int64_t i = 0; i < count; i++)
			take(s, f, q, -(float)f->hits[i], first + i);
	}
}

static int stop(struct search *s, const struct sp_team *team)
{
	if (team->rank == 0 && s->job->poll && s->job->poll(s->job->poll_arg))
		atomic_store(&s->stopped, 1);
	return atomic_load(&s->stopped);
}

/* Merge what the ranks found for query q, best first. */
static void collect(struct search *s, int64_t q)
{
	int64_t k = s->job->k;
	struct finder *all = &s->finders[0];
	struct hit *heap = all->best + q * k;
	for (int rank = 1; rank < s->ranks; rank++)
		for (int64_t i = 0; i < s->finders[rank].held[q]; i++)
			offer(heap, all->held + q, k, s->finders[rank].best[q * k + i]);
	int64_t *ids = s->job->ids + (s->first + q) * k;
	float *scores = s->job->scores + (s->first + q) * k;
	for (int64_t n = all->held[q]; n > 0; n--) {
		ids[n - 1] = heap[0].id;
		scores[n - 1] = heap[0].score;
		sink(heap, n - 1, heap[n - 1]);
	}
}

/* Ranks split the blocks of the corpus, then the queries. */
static void find(void *arg, struct sp_team *team)
{
	struct search *s = arg;
	int64_t n = s->job->n, rows = s->block_rows, first, end;
	while (sp_team_take(team, (n + rows - 1) / rows, 1, &first, &end))
		for (int64_t block = first; block < end && !stop(s, team); block++) {
			int64_t row = block * rows, count = n - row < rows ? n - row : rows;
			(s->job->code == SP_CODE_BITS ? meet_bits : meet_block)(s, &s->finders[team->rank], row, count);
		}
	while (sp_team_take(team, s->count, 1, &first, &end))
		for (int64_t q = first; q < end && !atomic_load(&s->stopped); q++)
			if (atomic_load(&s->bad_row) == INT64_MAX)
				collect(s, q);
}

/* ---- before and after ------------------------------------------------------------------------------------------------ */

/* 1 / 2^e with which x 2^-e lies in [0.5, 1); 1 for zero. */
static float scale_to_one(double length)
{
	int e;
	if (length == 0)
		return 1;
	frexp(length, &e);
	return (float)ldexp(1, -e < 127 ? -e : 127);
}

/* Lengths and slacks of the block's queries, and the queries in panels. */
static enum sp_status pack_queries(struct search *s)
{
	struct sp_search_job *job = s->job;
	int64_t d = job->d, nr = s->kernels->nr;
	float *scaled = sp_floats(d);
	if (!scaled)
		return SP_NO_MEMORY;
	double most = job->metric == SP_EUCLIDEAN ? 0x1p61 : FLT_MAX / 4, longest = 0;
	s->kernels->squares(s->squares, job->queries + s->first * d, d, s->count, d);
	for (int64_t q = 0; q < s->count && job->bad_query < 0; q++) {
		const float *query = job->queries + (s->first + q) * d;
		double length = sqrt(s->squares[q]);
		float scale = job->metric == SP_COSINE && length <= most ? scale_to_one(length) : 1;
		if (!(length <= most))
			job->bad_query = s->first + q;
		for (int64_t p = 0; p < d; p++)
			scaled[p] = query[p] * scale;
		s->kernels->pack(s->packed + q / nr * nr * d, q % nr, scaled, d, 1, d);
		s->lengths[q] = length * scale;
		s->slack[q] = job->metric == SP_COSINE ? 0 : (float)(s->g * s->lengths[q]);
		longest = s->lengths[q] > longest ? s->lengths[q] : longest;
	}
	s->longest = job->metric == SP_DOT && longest > 1 ? most / longest : most;
	sp_free(scaled);
	return job->bad_query < 0 ? SP_OK : SP_INVALID;
}

static void free_finder(struct finder *f)
{
	sp_free(f->best);
	sp_free(f->held);
	sp_free(f->limit);
	sp_free(f->tile);
	sp_free(f->rows);
	sp_free(f->squares);
	sp_free(f->hits);
	sp_free(f->bounds);
}

static int make_finder(struct finder *f, const struct search *s)
{
	const struct sp_search_job *job = s->job;
	int64_t nr = s->kernels->nr, columns = s->panels * nr;
	int copied = job->code != SP_CODE_FLOAT32 || job->corpus.cs != 1 || job->corpus.rs % ALIASING_FLOATS == 0;
	*f = (struct finder){
		.best = sp_bytes((size_t)(s->count * job->k) * sizeof *f->best),
		.held = sp_bytes((size_t)s->count * sizeof *f->held),
		.limit = sp_floats(columns),
		.tile = sp_floats(ROWS * nr),
		.rows = copied ? sp_floats(ROWS * (job->d + PADDING)) : NULL,
		.squares = sp_bytes(ROWS * sizeof *f->squares),
		.hits = sp_bytes((size_t)(SCREENED * nr) * sizeof *f->hits),
		.bounds = sp_bytes(ROWS * sizeof *f->bounds),
	};
	if (!f->best || !f->held || !f->limit || !f->tile || (copied && !f->rows) || !f->squares || !f->hits ||
	    !f->bounds)
		return 0;
	memset(f->held, 0, (size_t)s->count * sizeof *f->held);
	for (int64_t i = 0; i < columns; i++)
		f->limit[i] = i < s->count ? -FLT_MAX : FLT_MAX;
	return 1;
}

/* Search for the queries [first, first + count). */
static enum sp_status search_block(struct search *s)
{
	int64_t nr = s->kernels->nr, d = s->job->d;
	s->panels = (s->count + nr - 1) / nr;
	s->packed = sp_zeros(s->panels * nr * d);
	s->slack = sp_zeros(s->panels * nr);
	s->squares = sp_bytes((size_t)s->count * sizeof *s->squares);
	s->lengths = sp_bytes((size_t)s->count * sizeof *s->lengths);
	s->finders = sp_bytes((size_t)s->ranks * sizeof *s->finders);
	int ready = 0;
	enum sp_status status = s->packed && s->slack && s->squares && s->lengths && s->finders ? SP_OK : SP_NO_MEMORY;
	if (status == SP_OK && s->job->code != SP_CODE_BITS)
		status = pack_queries(s);
	for (; status == SP_OK && ready < s->ranks; ready++)
		if (!make_finder(&s->finders[ready], s))
			status = SP_NO_MEMORY;
	if (status == SP_OK)
		sp_threads_run(s->ranks, find, s);
	while (ready > 0)
		free_finder(&s->finders[--ready]);
	sp_free(s->finders);
	sp_free(s->lengths);
	sp_free(s->squares);
	sp_free(s->slack);
	sp_free(s->packed);
	if (status == SP_OK && atomic_load(&s->stopped))
		return SP_CANCELLED;
	return status == SP_OK && atomic_load(&s->bad_row) < INT64_MAX ? SP_INVALID : status;
}

static int64_t within(int64_t least, int64_t value, int64_t most)
{
	return value < least ? least : value > most ? most : value;
}

enum sp_status sp_search(struct sp_search_job *job)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	struct search s = {.job = job, .kernels = kernels, .bad_row = INT64_MAX};
	int64_t d = job->d, wanted = within(kernels->nr, HEAP_BYTES / (job->k * (int64_t)sizeof(struct hit)), QUERIES);
	s.block_rows = within(kernels->nr, d > 0 ? BLOCK_FLOATS / d : ROWS, ROWS);
	s.ranks = (int)within(1, job->n / s.block_rows, within(1, job->threads, SP_MAX_THREADS));
	s.g = (double)(within(0, d, SP_KC) + (d + SP_KC - 1) / SP_KC) * 0x1p-24 + 0x1p-20;
	s.tiny = (double)(d + 8) * 0x1p-149;
	job->bad_query = job->bad_row = -1;
	enum sp_status status = SP_OK;
	unsigned mode = sp_float_mode_enter();
	for (; status == SP_OK && s.first < job->n_queries; s.first += s.count) {
		s.count = within(0, wanted, job->n_queries - s.first);
		status = search_block(&s);
	}
	sp_float_mode_leave(mode);
	if (atomic_load(&s.bad_row) < INT64_MAX)
		job->bad_row = atomic_load(&s.bad_row);
	return status;
}
