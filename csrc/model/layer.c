/* layer.c: one transformer layer: attention, add, feed-forward, add, with layer norm after the sums or before the blocks.
 * Each op is one step of the team.
 */
#include "model/layer.h"

/* acts->attended from x[N, H] */
static void attend(const struct sp_layer_acts *acts, const float *x, const struct sp_layer_weights *w,
                   const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                   const struct sp_chunk *chunk, struct sp_team *team)
{
	int64_t N = chunk->offsets[chunk->n], ld = acts->ld_hidden;
	sp_linear_forward(acts->qkv, acts->ld_qkv, x, ld, &w->qkv, w->qkv_bias, N, acts->low, team);
	if (kind->rotary)
		sp_rotary_forward(acts->qkv, acts->ld_qkv, chunk->positions->rotary[kind->window > 0], kind, chunk,
		                  team);
	sp_attention_forward(acts->context, ld, acts->qkv, acts->ld_qkv, chunk, kind, dropout, layer, acts->scratch,
	                     team);
	sp_linear_forward(acts->attended, ld, acts->context, ld, &w->attention_output, w->attention_output_bias, N,
	                  acts->low, team);
	sp_dropout_forward(acts->attended, ld, dropout, SP_SITE_ATTENTION_OUTPUT, layer, chunk, kind->hidden, team);
}

/* acts->expanded from x[N, H] */
static void feed_forward(const struct sp_layer_acts *acts, const float *x, const struct sp_layer_weights *w,
                         const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                         const struct sp_chunk *chunk, struct sp_team *team)
{
	int64_t N = chunk->offsets[chunk->n], ld = acts->ld_hidden;
	sp_expand_forward(&acts->inner, x, ld, w, kind->activation, N, acts->low, team);
	sp_dropout_forward(acts->inner.activated, acts->inner.ld, dropout, SP_SITE_INNER, layer, chunk,
	                   kind->intermediate, team);
	sp_linear_forward(acts->expanded, ld, acts->inner.activated, acts->inner.ld, &w->output, w->output_bias, N,
	                  acts->low, team);
	sp_dropout_forward(acts->expanded, ld, dropout, SP_SITE_FEED_FORWARD, layer, chunk, kind->hidden, team);
}

static void post_norm(float *out, const struct sp_layer_acts *acts, const float *x, const struct sp_layer_weights *w,
                      const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                      const struct sp_chunk *chunk, struct sp_team *team)
{
	int64_t N = chunk->offsets[chunk->n], H = kind->hidden, ld = acts->ld_hidden;
	attend(acts, x, w, kind, dropout, layer, chunk, team);
	sp_layernorm_forward(acts->middle, ld, acts->attended, ld, x, ld, w->attention_norm, w->attention_norm_bias,
	                     kind->norm_eps, N, H, team);
	feed_forward(acts, acts->middle, w, kind, dropout, layer, chunk, team);
	sp_layernorm_forward(out, ld, acts->expanded, ld, acts->middle, ld, w->output_norm, w->output_norm_bias,
	                     kind->norm_eps, N, H, team);
}

static void pre_norm(float *out, const struct sp_layer_acts *acts, const float *x, const struct sp_layer_weights *w,
                     const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                     const struct sp_chunk *chunk, struct sp_team *team)
{
	int64_t N = chunk->offsets[chunk->n], H = kind->hidden, ld = acts->ld_hidden;
	if (w->attention_norm)
		sp_layernorm_forward(acts->normed, ld, x, ld, NULL, 0, w->attention_norm, w->attention_norm_bias,
		                     kind->norm_eps, N, H, team);
	attend(acts, w->attention_norm ? acts->normed : x, w, kind, dropout, layer, chunk, team);
	sp_residual_forward(acts->middle, acts->attended, x, ld, N, H, team);
	sp_layernorm_forward(acts->middle_normed, ld, acts->middle, ld, NULL, 0, w->output_norm, w->output_norm_bias,
	                     kind->norm_eps, N, H, team);
	feed_forward(acts, acts->middle_normed, w, kind, dropout, layer, chunk, team);
	sp_residual_forward(out, acts->expanded, acts->middle, ld, N, H, team);
}

void sp_layer_forward(float *out, const struct sp_layer_acts *acts, const float *x, const struct sp_layer_weights *w,
                      const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                      const struct sp_chunk *chunk, struct sp_team *team)
{
	(kind->norm == SP_PRE_NORM ? pre_norm : post_norm)(out, acts, x, w, kind, dropout, layer, chunk, team);
}
