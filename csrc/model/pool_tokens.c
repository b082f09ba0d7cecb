/* pool_tokens.c: one vector per sentence, layer and pooling, taken while the layer is in the cache; and the sink that
 * keeps every token instead. Ranks split sentences.
 *
 *   cls          the first token               last_token     the last one
 *   mean         sum of tokens / T             mean_sqrt_len  sum of tokens / sqrt T
 *   max          the largest, column by column weighted_mean  sum of w_t h_t / sum of w_t, w_t = t + 1 in the sentence
 * [CLS] and [SEP] count as tokens, as in sentence-transformers. T counts what `skip` leaves; with nothing left, zeros.
 */
#include "sentpool.h"

#include <math.h>
#include <string.h>

static void pool(float *y, enum sp_pooling pooling, const float *h, int64_t ld, int64_t skip, int64_t T, int64_t cols)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	size_t bytes = (size_t)cols * sizeof(float);
	if (T <= 0) {
		memset(y, 0, bytes);
		return;
	}
	switch (pooling) {
	case SP_CLS: memcpy(y, h, bytes); break;
	case SP_LAST_TOKEN: memcpy(y, h + (T - 1) * ld, bytes); break;
	case SP_MEAN: kernels->pool_sum(y, h, ld, (float)T, T, cols); break;
	case SP_MEAN_SQRT_LEN: kernels->pool_sum(y, h, ld, sqrtf((float)T), T, cols); break;
	case SP_WEIGHTED_MEAN: kernels->pool_weighted(y, h, ld, skip + 1, T, cols); break;
	case SP_MAX: kernels->pool_max(y, h, ld, T, cols); break;
	}
}

static void pool_layer(const struct sp_pool_request *request, int64_t slot, struct sp_team *team,
                       const struct sp_chunk *chunk, const float *h, int64_t ld, int64_t H)
{
	int64_t first, end;
	while (sp_team_take(team, chunk->n, 1, &first, &end))
		for (int64_t i = first; i < end; i++) {
			int64_t start = chunk->offsets[i] + request->skip, T = chunk->offsets[i + 1] - start;
			int64_t row = ((chunk->first + i) * request->n_layers + slot) * request->n_poolings;
			for (int64_t p = 0; p < request->n_poolings; p++)
				pool(request->states + (row + p) * H, request->poolings[p], h + start * ld, ld,
				     request->skip, T, H);
		}
}

static void pool_take(const struct sp_sink *sink, struct sp_team *team, const struct sp_chunk *chunk, int64_t layer,
                      const float *h, int64_t ld)
{
	const struct sp_pool_request *request = sink->request;
	for (int64_t slot = 0; slot < request->n_layers; slot++)
		if (request->layers[slot] == layer)
			pool_layer(request, slot, team, chunk, h, ld, sink->H);
}

struct sp_sink sp_pool_tokens_sink(const struct sp_pool_request *request, int64_t H)
{
	int64_t last = 0;
	for (int64_t slot = 0; slot < request->n_layers; slot++)
		last = request->layers[slot] > last ? request->layers[slot] : last;
	return (struct sp_sink){.take = pool_take, .request = request, .last_layer = last, .H = H};
}

static void pool_backward(float *dh, int64_t lddh, const float *dy, enum sp_pooling pooling, const float *h,
                          int64_t ldh, int64_t skip, int64_t T, int64_t cols)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	if (T <= 0)
		return;
	switch (pooling) {
	case SP_CLS: kernels->add(dh, lddh, dh, lddh, dy, cols, 1, cols); break;
	case SP_LAST_TOKEN: dh += (T - 1) * lddh, kernels->add(dh, lddh, dh, lddh, dy, cols, 1, cols); break;
	case SP_MEAN: kernels->pool_sum_backward(dh, lddh, dy, (float)T, T, cols); break;
	case SP_MEAN_SQRT_LEN: kernels->pool_sum_backward(dh, lddh, dy, sqrtf((float)T), T, cols); break;
	case SP_WEIGHTED_MEAN: kernels->pool_weighted_backward(dh, lddh, dy, skip + 1, T, cols); break;
	case SP_MAX: kernels->pool_max_backward(dh, lddh, dy, h, ldh, T, cols); break;
	}
}

void sp_pool_tokens_backward(float *dh, int64_t lddh, const struct sp_pool_request *request,
                             const struct sp_chunk *chunk, int64_t layer, const float *h, int64_t ldh, int64_t H,
                             struct sp_team *team)
{
	int64_t first, end;
	while (sp_team_take(team, chunk->n, 1, &first, &end))
		for (int64_t i = first; i < end; i++)
			for (int64_t slot = 0; slot < request->n_layers; slot++) {
				if (request->layers[slot] != layer)
					continue;
				int64_t start = chunk->offsets[i] + request->skip, T = chunk->offsets[i + 1] - start;
				int64_t row = ((chunk->first + i) * request->n_layers + slot) * request->n_poolings;
				for (int64_t p = 0; p < request->n_poolings; p++)
					pool_backward(dh + start * lddh, lddh, request->states + (row + p) * H,
					              request->poolings[p], h + start * ldh, ldh, request->skip, T, H);
			}
}

static void hidden_take(const struct sp_sink *sink, struct sp_team *team, const struct sp_chunk *chunk, int64_t layer,
                        const float *h, int64_t ld)
{
	const struct sp_hidden_request *request = sink->request;
	int64_t slot = layer - request->first_layer, first, end;
	if (slot < 0)
		return;
	while (sp_team_take(team, chunk->offsets[chunk->n], SP_ROW_GRAIN, &first, &end))
		for (int64_t t = first; t < end; t++)
			memcpy(request->hidden + (slot * request->N + chunk->token + t) * sink->H, h + t * ld,
			       (size_t)sink->H * sizeof(float));
}

struct sp_sink sp_hidden_states_sink(const struct sp_hidden_request *request, int64_t layers, int64_t H)
{
	return (struct sp_sink){.take = hidden_take, .request = request, .last_layer = layers, .H = H};
}
