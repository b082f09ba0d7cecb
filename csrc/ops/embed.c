/* embed.c: token ids to states: word + token type + position, as far as the encoder has them, then layer norm. */
#include "sentpool.h"

int64_t sp_position_row(const struct sp_config *config, const int32_t *ids, int64_t t)
{
	int64_t row = config->position_offset + t;
	if (config->padding_id < 0)
		return row;
	if (ids[t] == config->padding_id)
		return config->position_offset - 1;
	for (int64_t i = 0; i < t; i++)
		row -= ids[i] == config->padding_id;
	return row;
}

/* A row of the table of words; of a table in bfloat16 widened into y. */
static const float *word_row(float *y, const struct sp_matrix *words, int64_t id)
{
	if (words->format == SP_FLOAT32)
		return words->data + id * words->cols;
	sp_low_runtime()->bf16->widen(y, (const uint16_t *)(const void *)words->data + id * words->cols, words->cols);
	return y;
}

/* The sums of rows [first, end) of the chunk. */
static void embed_rows(float *y, int64_t ld, const struct sp_model *model, const struct sp_chunk *chunk, int64_t first,
                       int64_t end)
{
	const struct sp_config *config = &model->config;
	int64_t E = config->embedding;
	for (int64_t row = first, sentence = 0; row < end; row++) {
		while (row >= chunk->offsets[sentence + 1])
			sentence++;
		int64_t start = chunk->offsets[sentence];
		const float *position = model->positions.data;
		if (position)
			position += sp_position_row(config, chunk->ids + start, row - start) * E;
		const float *word = word_row(y + row * ld, &model->words, chunk->ids[row]);
		sp_runtime()->kernels->embed_row(y + row * ld, word, model->types.data, position, E);
	}
}

void sp_embed_forward(float *y, int64_t ld, const struct sp_model *model, const struct sp_chunk *chunk,
                      struct sp_team *team)
{
	const struct sp_config *config = &model->config;
	int64_t first, end;
	while (sp_team_take(team, chunk->offsets[chunk->n], SP_ROW_GRAIN, &first, &end)) {
		float *mine = y + first * ld;
		embed_rows(y, ld, model, chunk, first, end);
		sp_runtime()->kernels->add_layernorm(mine, ld, mine, ld, NULL, 0, model->embedding_norm,
		                                     model->embedding_norm_bias, config->layer.norm_eps, end - first,
		                                     config->embedding);
	}
}

void sp_embed_backward(float *dz, float *normed, const float *dy, int64_t ld, const struct sp_model *model,
                       const struct sp_chunk *chunk, struct sp_team *team)
{
	const struct sp_config *config = &model->config;
	int64_t first, end;
	while (sp_team_take(team, chunk->offsets[chunk->n], SP_ROW_GRAIN, &first, &end)) {
		int64_t at = first * ld;
		embed_rows(normed, ld, model, chunk, first, end);
		sp_runtime()->kernels->layernorm_backward(dz + at, ld, normed + at, ld, dy + at, ld, normed + at, ld,
		                                          NULL, 0, model->embedding_norm, config->layer.norm_eps,
		                                          end - first, config->embedding);
	}
}

void sp_embed_backward_weight(const struct sp_model *gradients, const float *dz, int64_t ld,
                              const struct sp_chunk *chunk, struct sp_team *team)
{
	enum { GRAIN = 64 }; /* columns */
	const struct sp_config *config = &gradients->config;
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t E = config->embedding, first, end;
	while (sp_team_take(team, E, GRAIN, &first, &end))
		for (int64_t row = 0, sentence = 0; row < chunk->offsets[chunk->n]; row++) {
			while (row >= chunk->offsets[sentence + 1])
				sentence++;
			int64_t start = chunk->offsets[sentence], cols = end - first;
			const float *mine = dz + row * ld + first;
			float *word = gradients->words.data + chunk->ids[row] * E + first;
			float *type = gradients->types.data, *position = gradients->positions.data;
			kernels->add(word, E, word, E, mine, ld, 1, cols);
			if (type)
				kernels->add(type + first, E, type + first, E, mine, ld, 1, cols);
			if (position) {
				position += sp_position_row(config, chunk->ids + start, row - start) * E;
				kernels->add(position + first, E, position + first, E, mine, ld, 1, cols);
			}
		}
}
