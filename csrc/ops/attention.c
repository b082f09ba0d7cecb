/* attention.c: multi-head self-attention over packed sentences.
 *
 * One sentence and head at a time, queries in blocks of a panel's width nr. The scores are kept transposed, S^T[T][nr]:
 * a query is a column, so the softmax runs down columns without horizontal sums or masks, and S^T is what the second
 * product reads by columns. Scratch is T x nr floats however long the sentence is.
 *     S^T = K Q^T          (the queries packed as a panel [d][nr])
 *     S^T = softmax down the columns of S^T / sqrt d
 *     context = S V / sums (the values are read in place)
 * Dropout sets exponentials to zero while the sums stay those of all of them: it is probabilities that are dropped.
 *
 * What depends on the distance between query and key (a bias, or -inf outside a window) is added along the diagonals of
 * S^T. Of local attention only the keys are computed that a block of SP_QUERY_BLOCK queries can see: a range that does
 * not depend on nr, for it says where the second product's sums are cut.
 *
 * The gradient computes S^T again. P' and dS of a block of queries are kept, a row per key, for the sums over queries:
 * blocks of SP_KC queries, of SP_QUERY_BLOCK where attention is local, and their sums are added one after the other.
 *     P = softmax(S / sqrt d), dropped: P'         dP' = V dcontext^T, dropped: dP       (transposed, as S^T)
 *     dS = P (dP - sum over keys of P dP) / sqrt d
 *     dQ = dS K     dK = dS^T Q     dV = P'^T dcontext
 * The gradient of a bias by distance is the sum of dS along a diagonal, key after key.
 */
#include "sentpool.h"

#include <math.h>
#include <string.h>

/* One head of one sentence; q, k and v are columns of qkv, `ld` apart from row to row. */
struct head {
	const float *q, *k, *v;
	int64_t ld, T, d;
	const float *relative, *line; /* added by query - key: to all scores, and to those at the window's edges */
	int64_t window;               /* 0: none */
	struct sp_draws draws;
	int64_t block; /* of the draws of key 0 */
};

static struct head make_head(const float *qkv, int64_t ld, const struct sp_chunk *chunk, int64_t sentence,
                             int64_t number, const struct sp_layer_kind *kind, const struct sp_dropout *dropout,
                             int64_t layer)
{
	const struct sp_positions *positions = chunk->positions;
	int64_t row = chunk->offsets[sentence], T = chunk->offsets[sentence + 1] - row, d = kind->hidden / kind->heads;
	const float *q = qkv + row * ld + number * d, *relative = positions->relative;
	return (struct head){
		.q = q,
		.k = q + kind->hidden,
		.v = q + 2 * kind->hidden,
		.ld = ld,
		.T = T,
		.d = d,
		.relative = relative ? relative + number * positions->ld_relative : NULL,
		.line = positions->window,
		.window = kind->window < T ? kind->window : 0,
		.draws = sp_dropout_draws(dropout, SP_SITE_ATTENTION, layer, chunk->first + sentence),
		.block = number * ((T + 3) / 4),
	};
}

/* Keys [first, end) of a block of queries. */
struct keys {
	int64_t first, end;
};

struct scratch {
	float *queries; /* [d][nr] */
	float *scores;  /* [T][nr] */
	float *sums;    /* [nr] */
};

int64_t sp_attention_scratch(int64_t T, int64_t d)
{
	int64_t nr = sp_runtime()->kernels->nr;
	return (d + T + 1) * nr;
}

/* The keys that queries of the block around `query` can see; the draws of four keys stay together. */
static struct keys visible(const struct head *head, int64_t query)
{
	int64_t block = query / SP_QUERY_BLOCK * SP_QUERY_BLOCK;
	int64_t first = (block - head->window) / 4 * 4, end = block + SP_QUERY_BLOCK + head->window;
	if (!head->window)
		return (struct keys){0, head->T};
	return (struct keys){first > 0 ? first : 0, end < head->T ? end : head->T};
}

/* Columns of a panel that a product of `count` of them computes: half of them, if that is enough. */
static int64_t columns_for(int64_t count)
{
	int64_t nr = sp_runtime()->kernels->nr;
	return count <= nr / 2 ? nr / 2 : nr;
}

/* products[n][nr] = x[n, d] times rows[count, d] transposed, by way of a panel [d][nr]; the columns beyond count are zero up
 * to `columns`, nr or nr / 2, and are not written from there on. */
static void against_rows(float *products, const float *x, int64_t ldx, float *panel, const float *rows, int64_t ld,
                         int64_t count, int64_t n, int64_t d, int64_t columns)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr;
	kernels->pack_rows(panel, rows, ld, count, columns, d);
	kernels->gemm(products, nr, (struct sp_panel_a){x, ldx, 0}, (struct sp_panel_b){panel, d * nr, nr}, NULL, n,
	              columns, d);
}

/* scores[keys][nr] for queries [first, first + count); columns beyond count are zero, or without use beyond `columns`. */
static void scores_forward(struct scratch s, const struct head *head, struct keys keys, int64_t first, int64_t count,
                           int64_t columns)
{
	const struct sp_runtime *runtime = sp_runtime();
	const float *queries = head->q + first * head->ld, *k = head->k + keys.first * head->ld;
	int64_t nr = runtime->kernels->nr, n = keys.end - keys.first;
	if (runtime->engine == SP_BLIS) {
		memset(s.scores, 0, (size_t)(n * nr) * sizeof(float));
		sp_blis_gemm(s.scores, nr, (struct sp_strided){k, head->ld, 1},
		             (struct sp_strided){queries, 1, head->ld}, n, count, head->d);
		return;
	}
	against_rows(s.scores, k, head->ld, s.queries, queries, head->ld, count, n, head->d, columns);
}

/* Add line[query - key] to the scores of keys [first, end). */
static void add_line(struct scratch s, struct keys keys, const float *line, int64_t query, int64_t first, int64_t end)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	if (first < end)
		kernels->add_diagonals(s.scores + (first - keys.first) * kernels->nr, line + query - first,
		                       end - first);
}

/* The relative bias everywhere; the window only where some of the queries see a key and some do not. */
static void bias_forward(struct scratch s, const struct head *head, struct keys keys, int64_t query)
{
	int64_t nr = sp_runtime()->kernels->nr;
	if (head->relative)
		add_line(s, keys, head->relative, query, keys.first, keys.end);
	if (!head->window)
		return;
	int64_t seen_by_all = query + nr - 1 - head->window, still_seen = query + head->window + 1;
	seen_by_all = seen_by_all < keys.end ? seen_by_all : keys.end;
	still_seen = still_seen > seen_by_all ? still_seen : seen_by_all;
	add_line(s, keys, head->line, query, keys.first, seen_by_all);
	add_line(s, keys, head->line, query, still_seen > keys.first ? still_seen : keys.first, keys.end);
}

/* context rows [first, first + count) = weights times values */
static void context_forward(float *context, int64_t ldc, struct scratch s, const struct head *head, struct keys keys,
                            int64_t count)
{
	const struct sp_runtime *runtime = sp_runtime();
	const float *v = head->v + keys.first * head->ld;
	int64_t nr = runtime->kernels->nr, n = keys.end - keys.first;
	if (runtime->engine == SP_BLIS)
		sp_blis_gemm(context, ldc, (struct sp_strided){s.scores, 1, nr}, (struct sp_strided){v, head->ld, 1},
		             count, head->d, n);
	else
		runtime->kernels->gemm(context, ldc, (struct sp_panel_a){s.scores, nr, 1},
		                       (struct sp_panel_b){v, nr, head->ld}, NULL, count, head->d, n);
	runtime->kernels->divide_rows(context, ldc, s.sums, count, head->d);
}

static void head_forward(float *context, int64_t ldc, const struct head *head, struct scratch s)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	float scale = 1.0f / sqrtf((float)head->d);
	for (int64_t first = 0; first < head->T; first += kernels->nr) {
		int64_t count = head->T - first < kernels->nr ? head->T - first : kernels->nr;
		int64_t columns =
			head->relative || head->window ? kernels->nr : columns_for(count); /* diagonals are whole */
		struct keys keys = visible(head, first);
		scores_forward(s, head, keys, first, count, columns);
		bias_forward(s, head, keys, first);
		kernels->softmax_columns(s.scores, s.sums, scale, keys.end - keys.first, columns);
		if (head->draws.threshold)
			kernels->dropout_columns(s.scores, &head->draws, first, count, head->block + keys.first / 4,
			                         keys.end - keys.first);
		context_forward(context + first * ldc, ldc, s, head, keys, count);
	}
}

void sp_attention_forward(float *context, int64_t ldc, const float *qkv, int64_t ld, const struct sp_chunk *chunk,
                          const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                          float *scratch, struct sp_team *team)
{
	int64_t nr = sp_runtime()->kernels->nr, heads = kind->heads, d = kind->hidden / heads, products = 0, first, end;
	struct scratch s = {scratch + nr, scratch + nr + d * nr, scratch};
	while (sp_team_take(team, chunk->n * heads, 1, &first, &end)) {
		for (int64_t unit = first; unit < end; unit++) {
			int64_t sentence = unit / heads, number = unit % heads;
			struct head head = make_head(qkv, ld, chunk, sentence, number, kind, dropout, layer);
			head_forward(context + chunk->offsets[sentence] * ldc + number * d, ldc, &head, s);
		}
		products += 2 * (end - first);
	}
	if (products && sp_runtime()->engine == SP_PANEL)
		sp_count_panel_calls(products);
}

/* ---- the gradient -------------------------------------------------------------------------------------------------- */

struct head_gradient {
	float *q, *k, *v; /* columns of dqkv, `ld` apart from row to row */
	int64_t ld;
	const float *context;
	int64_t ldc;
	float *relative; /* the head's column of the biases' gradient [buckets, heads]; NULL: none */
	int64_t heads, buckets;
};

struct backward_scratch {
	struct scratch s;
	float *dweights;          /* [T][nr] */
	float *weights, *dscores; /* [T][ld]: P' and dS of a block of queries */
	int64_t ld;
	float *diagonals; /* [2T - 1]: sums of dS by query - key, from T - 1 on */
};

static int64_t block_columns(int64_t T)
{
	int64_t nr = sp_runtime()->kernels->nr, whole = (T + nr - 1) / nr * nr;
	return (whole < SP_KC ? whole : SP_KC) + 16; /* not a power of two: rows lie in different cache sets */
}

int64_t sp_attention_backward_scratch(int64_t T, int64_t d)
{
	return sp_attention_scratch(T, d) + T * sp_runtime()->kernels->nr + 2 * T * (block_columns(T) + 1);
}

static struct backward_scratch divide_scratch(float *scratch, int64_t T, int64_t d)
{
	int64_t nr = sp_runtime()->kernels->nr, ld = block_columns(T);
	float *dweights = scratch + sp_attention_scratch(T, d), *weights = dweights + T * nr;
	float *dscores = weights + T * ld;
	return (struct backward_scratch){
		{scratch + nr, scratch + nr + d * nr, scratch}, dweights, weights, dscores, ld, dscores + T * ld};
}

/* P' and dS of queries [first, first + count), into columns from `column` on. */
static void weights_backward(const struct backward_scratch *b, const struct head *head, struct head_gradient grad,
                             struct keys keys, int64_t first, int64_t count, int64_t column)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr, n = keys.end - keys.first, ld = head->ld, block = head->block + keys.first / 4;
	const float *q = head->q + first * ld, *k = head->k + keys.first * ld, *v = head->v + keys.first * ld;
	float scale = 1.0f / sqrtf((float)head->d);
	against_rows(b->s.scores, k, ld, b->s.queries, q, ld, count, n, head->d, nr);
	bias_forward(b->s, head, keys, first);
	kernels->softmax_columns(b->s.scores, b->s.sums, scale, n, nr);
	against_rows(b->dweights, v, ld, b->s.queries, grad.context + first * grad.ldc, grad.ldc, count, n, head->d,
	             nr);
	if (head->draws.threshold)
		kernels->dropout_columns(b->dweights, &head->draws, first, count, block, n);
	kernels->softmax_columns_backward(b->dscores + column, b->ld, b->s.scores, b->s.sums, b->dweights, scale, n);
	if (head->draws.threshold)
		kernels->dropout_columns(b->s.scores, &head->draws, first, count, block, n);
	for (int64_t key = 0; key < n; key++)
		memcpy(b->weights + key * b->ld + column, b->s.scores + key * nr, (size_t)nr * sizeof(float));
}

/* Sum dS of the block's queries [start, start + queries) along diagonals. */
static void add_to_diagonals(const struct backward_scratch *b, struct keys keys, int64_t T, int64_t start,
                             int64_t queries)
{
	for (int64_t key = keys.first; key < keys.end; key++) {
		float *line = b->diagonals + T - 1 + start - key;
		sp_runtime()->kernels->add(line, queries, line, queries, b->dscores + (key - keys.first) * b->ld,
		                           queries, 1, queries);
	}
}

/* Add the diagonals to the buckets of their distances. dS has the factor of the scores, which a bias has not. */
static void relative_backward(struct head_gradient grad, const struct backward_scratch *b, int64_t T, float scale)
{
	for (int64_t i = 0; i < 2 * T - 1; i++) {
		float *sum = grad.relative + sp_relative_bucket(i - (T - 1), grad.buckets) * grad.heads;
		*sum = *sum + b->diagonals[i] / scale;
	}
}

static void head_backward(struct head_gradient grad, const struct head *head, const struct backward_scratch *b)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr, d = head->d, most = head->window ? SP_QUERY_BLOCK : SP_KC;
	for (int64_t row = 0; row < head->T; row++) {
		memset(grad.k + row * grad.ld, 0, (size_t)d * sizeof(float));
		memset(grad.v + row * grad.ld, 0, (size_t)d * sizeof(float));
	}
	if (grad.relative)
		memset(b->diagonals, 0, (size_t)(2 * head->T - 1) * sizeof(float));
	for (int64_t start = 0; start < head->T; start += most) {
		int64_t queries = head->T - start < most ? head->T - start : most;
		struct keys keys = visible(head, start);
		for (int64_t column = 0; column < queries; column += nr)
			weights_backward(b, head, grad, keys, start + column,
			                 queries - column < nr ? queries - column : nr, column);
		int64_t n = keys.end - keys.first, skipped = keys.first * grad.ld;
		struct sp_panel_a weights = {b->weights, b->ld, 0}, dscores = {b->dscores, b->ld, 0},
				  by_query = dscores;
		by_query.by_column = 1;
		struct sp_panel_b q = {head->q + start * head->ld, nr, head->ld};
		struct sp_panel_b k = {head->k + keys.first * head->ld, nr, head->ld};
		struct sp_panel_b context = {grad.context + start * grad.ldc, nr, grad.ldc};
		kernels->gemm(grad.q + start * grad.ld, grad.ld, by_query, k, NULL, queries, d, n);
		kernels->gemm_add(grad.k + skipped, grad.ld, dscores, q, NULL, n, d, queries);
		kernels->gemm_add(grad.v + skipped, grad.ld, weights, context, NULL, n, d, queries);
		if (grad.relative)
			add_to_diagonals(b, keys, head->T, start, queries);
	}
	if (grad.relative)
		relative_backward(grad, b, head->T, 1.0f / sqrtf((float)d));
}

void sp_attention_backward(float *dqkv, int64_t lddqkv, const struct sp_relative_gradient *relative,
                           const float *dcontext, int64_t ldc, const float *qkv, int64_t ld,
                           const struct sp_chunk *chunk, const struct sp_layer_kind *kind,
                           const struct sp_dropout *dropout, int64_t layer, float *scratch, struct sp_team *team)
{
	int64_t H = kind->hidden, heads = kind->heads, d = H / heads, first, end;
	while (sp_team_take(team, chunk->n * heads, 1, &first, &end))
		for (int64_t unit = first; unit < end; unit++) {
			int64_t sentence = unit / heads, number = unit % heads, row = chunk->offsets[sentence];
			struct head head = make_head(qkv, ld, chunk, sentence, number, kind, dropout, layer);
			struct backward_scratch b = divide_scratch(scratch, head.T, d);
			float *dq = dqkv + row * lddqkv + number * d;
			struct head_gradient grad = {
				.q = dq,
				.k = dq + H,
				.v = dq + 2 * H,
				.ld = lddqkv,
				.context = dcontext + row * ldc + number * d,
				.ldc = ldc,
				.heads = heads,
			};
			if (relative->sums) {
				grad.buckets = relative->buckets;
				grad.relative = relative->sums + sentence * grad.buckets * heads + number;
			}
			head_backward(grad, &head, &b);
		}
}
