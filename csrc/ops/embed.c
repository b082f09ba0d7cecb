/* embed.c: token ids to the first hidden state: word + token type + position, then layer norm. */
#include "sentpool.h"

void sp_embed_forward(float *y, int64_t ld, const struct sp_model *model, const struct sp_chunk *chunk,
                      struct sp_team *team)
{
	const struct sp_config *config = &model->config;
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t H = config->layer.hidden, first, end;
	while (sp_team_take(team, chunk->offsets[chunk->n], SP_ROW_GRAIN, &first, &end)) {
		for (int64_t row = first, sentence = 0; row < end; row++) {
			while (row >= chunk->offsets[sentence + 1])
				sentence++;
			int64_t position = row - chunk->offsets[sentence] + config->position_offset;
			kernels->embed_row(y + row * ld, model->words.data + chunk->ids[row] * H, model->types.data,
			                   model->positions.data + position * H, H);
		}
		float *mine = y + first * ld;
		kernels->add_layernorm(mine, ld, mine, ld, NULL, 0, model->embedding_norm, model->embedding_norm_bias,
		                       config->layer.norm_eps, end - first, H);
	}
}

void sp_embed_backward(const struct sp_model *gradients, const float *dz, int64_t ld, const struct sp_chunk *chunk,
                       struct sp_team *team)
{
	enum { GRAIN = 64 }; /* columns */
	const struct sp_config *config = &gradients->config;
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t H = config->layer.hidden, first, end;
	while (sp_team_take(team, H, GRAIN, &first, &end))
		for (int64_t row = 0, sentence = 0; row < chunk->offsets[chunk->n]; row++) {
			while (row >= chunk->offsets[sentence + 1])
				sentence++;
			int64_t position = row - chunk->offsets[sentence] + config->position_offset;
			float *rows[] = {gradients->words.data + chunk->ids[row] * H, gradients->types.data,
			                 gradients->positions.data + position * H};
			for (int i = 0; i < 3; i++)
				kernels->rows_add(rows[i] + first, H, dz + row * ld + first, ld, 1, end - first);
		}
}
