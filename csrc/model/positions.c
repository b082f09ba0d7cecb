/* positions.c: what attention knows of positions, in tables for all sentences up to some length.
 *
 * Rotary angles, a bias by the distance between query and key (MPNet), and the window of local attention. The last two
 * are lines that ops/attention.c adds to scores along their diagonals: line[center + query - key].
 */
#include "sentpool.h"

#include <math.h>
#include <string.h>

enum { FARTHEST = 128 }; /* all distances from here on share a bucket */

/* transformers computes it in float32. */
int64_t sp_relative_bucket(int64_t distance, int64_t buckets)
{
	int64_t half = buckets / 2, near = half / 2, first = distance < 0 ? half : 0;
	int64_t n = distance < 0 ? -distance : distance;
	if (n < near)
		return first + n;
	float ratio =
		(float)sp_log64((double)((float)n / (float)near)) / (float)sp_log64((double)FARTHEST / (double)near);
	int64_t far = near + (int64_t)(ratio * (float)(half - near));
	return first + (far < half - 1 ? far : half - 1);
}

/* The bias that each head adds, divided by the factor that scores are multiplied with afterwards. */
static void relative_lines(float *lines, const struct sp_model *model, int64_t longest, int64_t ld)
{
	const struct sp_layer_kind *kind = &model->config.layer;
	float scale = 1.0f / sqrtf((float)(kind->hidden / kind->heads));
	for (int64_t i = 0; i < ld; i++) {
		int64_t row = sp_relative_bucket(i - (longest - 1), model->config.relative_buckets) * kind->heads;
		for (int64_t head = 0; head < kind->heads; head++)
			lines[head * ld + i] = model->relative_bias.data[row + head] / scale;
	}
}

enum sp_status sp_positions_create(struct sp_positions *positions, const struct sp_model *model, int64_t longest)
{
	const struct sp_config *config = &model->config;
	int64_t nr = sp_runtime()->kernels->nr, line = 2 * longest - 1 + nr, rotary = config->layer.rotary;
	int64_t reach = config->local_window < longest ? config->local_window : longest;
	int64_t window = reach ? 2 * (reach + SP_QUERY_BLOCK) + nr : 0;
	int64_t relative = config->relative_buckets ? config->layer.heads * line : 0;
	*positions = (struct sp_positions){0};
	if (!rotary && !relative && !window)
		return SP_OK;
	float *p = positions->memory = sp_floats(2 * longest * rotary + relative + window);
	if (!p)
		return SP_NO_MEMORY;
	if (rotary) {
		positions->rotary[0] = p;
		positions->rotary[1] = p + longest * rotary;
		sp_rotary_table(p, rotary, config->layer.rotary_base, longest);
		sp_rotary_table(p + longest * rotary, rotary, config->local_rotary_base, longest);
		p += 2 * longest * rotary;
	}
	if (relative) {
		relative_lines(p, model, longest, line);
		positions->relative = p + longest - 1;
		positions->ld_relative = line;
		p += relative;
	}
	if (window) {
		int64_t center = reach + SP_QUERY_BLOCK;
		for (int64_t i = 0; i < window; i++)
			p[i] = i < center - reach || i > center + reach ? -INFINITY : 0.0f;
		positions->window = p + center;
	}
	return SP_OK;
}

void sp_positions_free(struct sp_positions *positions)
{
	sp_free(positions->memory);
}
