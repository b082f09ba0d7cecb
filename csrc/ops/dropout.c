/* dropout.c: dropout by draws that depend on seed, step and place alone, so that any chunks and ranks give equal bits.
 *
 * A value is dropped where its draw is below floor(p * 2^32), and multiplied by 1 / (1 - p) otherwise. The gradient of
 * what is dropped takes the same call.
 */
#include "sentpool.h"

#include "kernels/philox.h"

int64_t sp_dropout_longest(int64_t heads)
{
	int64_t tokens = SP_DRAW_BLOCKS / heads * 4;
	return tokens < SP_DRAW_TOKENS ? tokens : SP_DRAW_TOKENS;
}

struct sp_draws sp_dropout_draws(const struct sp_dropout *dropout, enum sp_site site, int64_t layer, int64_t sentence)
{
	if (!dropout)
		return (struct sp_draws){.scale = 1};
	double p = dropout->rate[site];
	return (struct sp_draws){
		.seed = dropout->seed,
		.step = dropout->step,
		.row = (uint32_t)(dropout->first_row + sentence),
		.site = site,
		.layer = (uint32_t)layer,
		.threshold = (uint32_t)(p * 4294967296.0),
		.scale = (float)(1 / (1 - p)),
	};
}

void sp_dropout_forward(float *y, int64_t ld, const struct sp_dropout *dropout, enum sp_site site, int64_t layer,
                        const struct sp_chunk *chunk, int64_t H, struct sp_team *team)
{
	if (!sp_dropout_draws(dropout, site, layer, 0).threshold)
		return;
	int64_t first, end;
	while (sp_team_take(team, chunk->offsets[chunk->n], SP_ROW_GRAIN, &first, &end))
		for (int64_t row = first, sentence = 0, stop; row < end; row = stop) {
			while (row >= chunk->offsets[sentence + 1])
				sentence++;
			stop = chunk->offsets[sentence + 1] < end ? chunk->offsets[sentence + 1] : end;
			struct sp_draws draws = sp_dropout_draws(dropout, site, layer, chunk->first + sentence);
			sp_runtime()->kernels->dropout(y + row * ld, ld, &draws, row - chunk->offsets[sentence],
			                               stop - row, H);
		}
}
