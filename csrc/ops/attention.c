/* attention.c: multi-head self-attention over packed sentences.
 *
 * One sentence and head at a time, queries in blocks of a panel's width nr. The scores are kept transposed, S^T[T][nr]:
 * a query is a column, so the softmax runs down columns without horizontal sums or masks, and S^T is what the second
 * product reads by columns. Scratch is T x nr floats however long the sentence is.
 *     S^T = K Q^T          (the queries packed as a panel [d][nr])
 *     S^T = softmax down the columns of S^T / sqrt d
 *     context = S V / sums (the values are read in place)
 * Dropout sets exponentials to zero while the sums stay those of all of them: it is probabilities that are dropped.
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
	if (count < nr)
		memset(s.queries, 0, (size_t)(head.d * nr) * sizeof(float));
	runtime->kernels->pack(s.queries, 0, queries, head.ld, count, head.d);
	runtime->kernels->gemm(s.scores, nr, (struct sp_panel_a){head.k, head.ld, 0},
	                       (struct sp_panel_b){s.queries, head.d * nr, nr}, NULL, head.T, nr, head.d);
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
	int64_t nr = sp_runtime()->kernels->nr, H = heads * d, first, end;
	struct scratch s = {scratch + nr, scratch + nr + d * nr, scratch};
	while (sp_team_take(team, chunk->n * heads, 1, &first, &end)) {
		for (int64_t unit = first; unit < end; unit++) {
			int64_t sentence = unit / heads, number = unit % heads;
			int64_t row = chunk->offsets[sentence], T = chunk->offsets[sentence + 1] - row;
			const float *q = qkv + row * ld + number * d;
			struct sp_draws draws =
				sp_dropout_draws(dropout, SP_SITE_ATTENTION, layer, chunk->first + sentence);
			struct head head = {q, q + H, q + 2 * H, ld, T, d, draws, number * ((T + 3) / 4)};
			head_forward(context + row * ldc + number * d, ldc, head, s);
		}
		if (sp_runtime()->engine == SP_PANEL)
			sp_count_panel_calls(2 * (end - first));
	}
}
