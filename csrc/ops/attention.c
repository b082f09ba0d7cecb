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
 * The gradient computes S^T again. Sums over keys are as above; those over queries are cut every SP_KC queries, so S^T and
 * its gradient are kept for as many: rows of `wide` hold the queries of a key.
 *     P = softmax(S / sqrt d), dropped: P'         dP' = V dcontext^T, dropped: dP       (transposed, as S^T)
 *     dS = P (dP - sum over keys of P dP) / sqrt d
 *     dQ = dS K     dK = dS^T Q     dV = P'^T dcontext
 */
#include "sentpool.h"

#include <math.h>
#include <string.h>

/* One head of one sentence; q, k and v are columns of qkv, `ld` apart from row to row. */
struct head {
	const float *q, *k, *v;
	int64_t ld, T, d;
	struct sp_draws draws;
	int64_t block; /* of the draws of key 0 */
};

static struct head make_head(const float *qkv, int64_t ld, const struct sp_chunk *chunk, int64_t sentence,
                             int64_t number, int64_t heads, int64_t d, const struct sp_dropout *dropout, int64_t layer)
{
	int64_t row = chunk->offsets[sentence], T = chunk->offsets[sentence + 1] - row, H = heads * d;
	const float *q = qkv + row * ld + number * d;
	struct sp_draws draws = sp_dropout_draws(dropout, SP_SITE_ATTENTION, layer, chunk->first + sentence);
	return (struct head){q, q + H, q + 2 * H, ld, T, d, draws, number * ((T + 3) / 4)};
}

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

/* products[T][nr] = x[T, d] times rows[count, d] transposed, by way of a panel [d][nr]; columns beyond count are zero. */
static void against_rows(float *products, const float *x, int64_t ldx, float *panel, const float *rows, int64_t ld,
                         int64_t count, int64_t T, int64_t d)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr;
	if (count < nr)
		memset(panel, 0, (size_t)(d * nr) * sizeof(float));
	kernels->pack(panel, 0, rows, ld, count, d);
	kernels->gemm(products, nr, (struct sp_panel_a){x, ldx, 0}, (struct sp_panel_b){panel, d * nr, nr}, NULL, T, nr,
	              d);
}

/* scores[T][nr] for queries [first, first + count); columns beyond count are zero. */
static void scores_forward(struct scratch s, struct head head, int64_t first, int64_t count)
{
	const struct sp_runtime *runtime = sp_runtime();
	const float *queries = head.q + first * head.ld;
	int64_t nr = runtime->kernels->nr;
	if (runtime->engine == SP_BLIS) {
		memset(s.scores, 0, (size_t)(head.T * nr) * sizeof(float));
		sp_blis_gemm(s.scores, nr, (struct sp_strided){head.k, head.ld, 1},
		             (struct sp_strided){queries, 1, head.ld}, head.T, count, head.d);
		return;
	}
	against_rows(s.scores, head.k, head.ld, s.queries, queries, head.ld, count, head.T, head.d);
}

/* context rows [first, first + count) = weights times values */
static void context_forward(float *context, int64_t ldc, struct scratch s, struct head head, int64_t count)
{
	const struct sp_runtime *runtime = sp_runtime();
	int64_t nr = runtime->kernels->nr;
	if (runtime->engine == SP_BLIS)
		sp_blis_gemm(context, ldc, (struct sp_strided){s.scores, 1, nr},
		             (struct sp_strided){head.v, head.ld, 1}, count, head.d, head.T);
	else
		runtime->kernels->gemm(context, ldc, (struct sp_panel_a){s.scores, nr, 1},
		                       (struct sp_panel_b){head.v, nr, head.ld}, NULL, count, head.d, head.T);
	runtime->kernels->divide_rows(context, ldc, s.sums, count, head.d);
}

static void head_forward(float *context, int64_t ldc, struct head head, struct scratch s)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	float scale = 1.0f / sqrtf((float)head.d);
	for (int64_t first = 0; first < head.T; first += kernels->nr) {
		int64_t count = head.T - first < kernels->nr ? head.T - first : kernels->nr;
		scores_forward(s, head, first, count);
		kernels->softmax_columns(s.scores, s.sums, scale, head.T);
		if (head.draws.threshold)
			kernels->dropout_columns(s.scores, &head.draws, first, count, head.block, head.T);
		context_forward(context + first * ldc, ldc, s, head, count);
	}
}

void sp_attention_forward(float *context, int64_t ldc, const float *qkv, int64_t ld, const struct sp_chunk *chunk,
                          int64_t heads, int64_t d, const struct sp_dropout *dropout, int64_t layer, float *scratch,
                          struct sp_team *team)
{
	int64_t nr = sp_runtime()->kernels->nr, first, end;
	struct scratch s = {scratch + nr, scratch + nr + d * nr, scratch};
	while (sp_team_take(team, chunk->n * heads, 1, &first, &end)) {
		for (int64_t unit = first; unit < end; unit++) {
			int64_t sentence = unit / heads, number = unit % heads;
			struct head head = make_head(qkv, ld, chunk, sentence, number, heads, d, dropout, layer);
			head_forward(context + chunk->offsets[sentence] * ldc + number * d, ldc, head, s);
		}
		if (sp_runtime()->engine == SP_PANEL)
			sp_count_panel_calls(2 * (end - first));
	}
}

/* ---- the gradient -------------------------------------------------------------------------------------------------- */

struct head_gradient {
	float *q, *k, *v; /* columns of dqkv, `ld` apart from row to row */
	int64_t ld;
	const float *context;
	int64_t ldc;
};

struct backward_scratch {
	struct scratch s;
	float *dweights;       /* [T][nr] */
	float *weights, *wide; /* [T][ld]: P' and dS of up to SP_KC queries */
	int64_t ld;
};

static int64_t wide_columns(int64_t T)
{
	int64_t nr = sp_runtime()->kernels->nr, whole = (T + nr - 1) / nr * nr;
	return (whole < SP_KC ? whole : SP_KC) + 16; /* not a power of two: rows lie in different cache sets */
}

int64_t sp_attention_backward_scratch(int64_t T, int64_t d)
{
	return sp_attention_scratch(T, d) + T * sp_runtime()->kernels->nr + 2 * T * wide_columns(T);
}

/* P' and dS of queries [first, first + count), into columns from `column` on. */
static void weights_backward(const struct backward_scratch *b, struct head head, struct head_gradient grad,
                             int64_t first, int64_t count, int64_t column)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr;
	float scale = 1.0f / sqrtf((float)head.d);
	against_rows(b->s.scores, head.k, head.ld, b->s.queries, head.q + first * head.ld, head.ld, count, head.T,
	             head.d);
	kernels->softmax_columns(b->s.scores, b->s.sums, scale, head.T);
	against_rows(b->dweights, head.v, head.ld, b->s.queries, grad.context + first * grad.ldc, grad.ldc, count,
	             head.T, head.d);
	if (head.draws.threshold)
		kernels->dropout_columns(b->dweights, &head.draws, first, count, head.block, head.T);
	kernels->softmax_columns_backward(b->wide + column, b->ld, b->s.scores, b->s.sums, b->dweights, scale, head.T);
	if (head.draws.threshold)
		kernels->dropout_columns(b->s.scores, &head.draws, first, count, head.block, head.T);
	for (int64_t k = 0; k < head.T; k++)
		memcpy(b->weights + k * b->ld + column, b->s.scores + k * nr, (size_t)nr * sizeof(float));
}

static void head_backward(struct head_gradient grad, struct head head, const struct backward_scratch *b)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr;
	for (int64_t start = 0; start < head.T; start += SP_KC) {
		int64_t queries = head.T - start < SP_KC ? head.T - start : SP_KC;
		for (int64_t column = 0; column < queries; column += nr)
			weights_backward(b, head, grad, start + column, queries - column < nr ? queries - column : nr,
			                 column);
		struct sp_panel_a dscores = {b->wide, b->ld, 0}, weights = {b->weights, b->ld, 0};
		struct sp_panel_b q = {head.q + start * head.ld, nr, head.ld}, k = {head.k, nr, head.ld};
		struct sp_panel_b context = {grad.context + start * grad.ldc, nr, grad.ldc};
		kernels->gemm(grad.q + start * grad.ld, grad.ld, (struct sp_panel_a){b->wide, b->ld, 1}, k, NULL,
		              queries, head.d, head.T);
		if (start == 0) {
			kernels->gemm(grad.k, grad.ld, dscores, q, NULL, head.T, head.d, queries);
			kernels->gemm(grad.v, grad.ld, weights, context, NULL, head.T, head.d, queries);
		} else {
			kernels->gemm_add(grad.k, grad.ld, dscores, q, head.T, head.d, queries);
			kernels->gemm_add(grad.v, grad.ld, weights, context, head.T, head.d, queries);
		}
	}
}

void sp_attention_backward(float *dqkv, int64_t lddqkv, const float *dcontext, int64_t ldc, const float *qkv,
                           int64_t ld, const struct sp_chunk *chunk, int64_t heads, int64_t d,
                           const struct sp_dropout *dropout, int64_t layer, float *scratch, struct sp_team *team)
{
	int64_t nr = sp_runtime()->kernels->nr, H = heads * d, first, end;
	while (sp_team_take(team, chunk->n * heads, 1, &first, &end))
		for (int64_t unit = first; unit < end; unit++) {
			int64_t sentence = unit / heads, number = unit % heads;
			int64_t row = chunk->offsets[sentence], T = chunk->offsets[sentence + 1] - row;
			struct backward_scratch b = {.s = {scratch + nr, scratch + nr + d * nr, scratch}};
			b.dweights = scratch + sp_attention_scratch(T, d);
			b.ld = wide_columns(T);
			b.weights = b.dweights + T * nr;
			b.wide = b.weights + T * b.ld;
			struct head head = make_head(qkv, ld, chunk, sentence, number, heads, d, dropout, layer);
			float *dq = dqkv + row * lddqkv + number * d;
			struct head_gradient grad = {dq, dq + H, dq + 2 * H, lddqkv, dcontext + row * ldc + number * d,
			                             ldc};
			head_backward(grad, head, &b);
		}
}
