/* layer.c: one post-norm transformer layer: attention, add & norm, feed-forward, add & norm.
 * Each op is one step of the team.
 */
#include "model/layer.h"

void sp_layer_forward(float *out, const struct sp_layer_acts *acts, const float *x, const struct sp_layer_weights *w,
                      const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                      const struct sp_chunk *chunk, struct sp_team *team)
{
	int64_t N = chunk->offsets[chunk->n], H = kind->hidden, ld = acts->ld_hidden;

	sp_linear_forward(acts->qkv, acts->ld_qkv, x, ld, &w->qkv, w->qkv_bias, SP_IDENTITY, N, team);
	sp_attention_forward(acts->context, ld, acts->qkv, acts->ld_qkv, chunk, kind->heads, H / kind->heads, dropout,
	                     layer, acts->scratch, team);
	sp_linear_forward(acts->attended, ld, acts->context, ld, &w->attention_output, w->attention_output_bias,
	                  SP_IDENTITY, N, team);
	sp_dropout_forward(acts->attended, ld, dropout, SP_SITE_ATTENTION_OUTPUT, layer, chunk, H, team);
	sp_layernorm_forward(acts->middle, ld, acts->attended, ld, x, ld, w->attention_norm, w->attention_norm_bias,
	                     kind->norm_eps, N, H, team);
	sp_linear_forward(acts->inner, acts->ld_inner, acts->middle, ld, &w->intermediate, w->intermediate_bias,
	                  kind->activation, N, team);
	sp_linear_forward(acts->expanded, ld, acts->inner, acts->ld_inner, &w->output, w->output_bias, SP_IDENTITY, N,
	                  team);
	sp_dropout_forward(acts->expanded, ld, dropout, SP_SITE_FEED_FORWARD, layer, chunk, H, team);
	sp_layernorm_forward(out, ld, acts->expanded, ld, acts->middle, ld, w->output_norm, w->output_norm_bias,
	                     kind->norm_eps, N, H, team);
}
