/* layer_backward.c: the gradient of one transformer layer, in two parts.
 *
 * First that of the layer's input, sentence by sentence like the forward pass: every op of layer.c backwards, last op
 * first. Then those of its weights, from what the first part and the tape hold of all tokens: sums over tokens, which have
 * one order whoever computes them (groups, see sentpool.h).
 */
#include "model/layer.h"

#include <string.h>

/* What the parts below have in common. */
struct backward {
	const struct sp_layer_gradients *g;
	const struct sp_layer_acts *acts;
	const float *x;
	const struct sp_layer_weights *w;
	const struct sp_layer_transposed *t;
	const struct sp_layer_kind *kind;
	const struct sp_dropout *dropout;
	int64_t layer;
	const struct sp_chunk *chunk;
	struct sp_team *team;
	int64_t N, ld;
};

/* to = from, dropped as the forward pass did at the site. */
static void through_dropout(const struct backward *b, float *to, const float *from, enum sp_site site)
{
	int64_t first, end;
	while (sp_team_take(b->team, b->N, SP_ROW_GRAIN, &first, &end))
		memcpy(to + first * b->ld, from + first * b->ld, (size_t)((end - first) * b->ld) * sizeof(float));
	sp_dropout_forward(to, b->ld, b->dropout, site, b->layer, b->chunk, b->kind->hidden, b->team);
}

/* The same in place, inside the feed-forward. */
static void drop_inner(const struct backward *b, float *inner)
{
	sp_dropout_forward(inner, b->acts->inner.ld, b->dropout, SP_SITE_INNER, b->layer, b->chunk,
	                   b->kind->intermediate, b->team);
}

static void layernorm(const struct backward *b, float *dz, float *normed, const float *dy, const float *first,
                      const float *second, const float *gamma)
{
	sp_layernorm_backward(dz, b->ld, normed, b->ld, dy, b->ld, first, b->ld, second, b->ld, gamma,
	                      b->kind->norm_eps, b->N, b->kind->hidden, b->team);
}

static void add(const struct backward *b, float *y, const float *first, const float *second)
{
	sp_residual_forward(y, first, second, b->ld, b->N, b->kind->hidden, b->team);
}

/* dx of the feed-forward block from dexpanded */
static void feed_forward_backward(const struct backward *b, float *dx)
{
	const struct sp_layer_gradients *g = b->g;
	struct sp_inner inner = {g->activated, b->acts->inner.raw, b->acts->inner.gate, b->acts->inner.ld};
	float *dgate = b->w->gate.data ? g->dgate : NULL;
	sp_linear_backward(g->wide, inner.ld, g->dexpanded, b->ld, &b->t->output, b->N, b->team);
	drop_inner(b, g->wide);
	sp_expand_backward(g->draw, dgate, &inner, g->wide, b->kind->activation, b->N, b->kind->intermediate, b->team);
	drop_inner(b, g->activated);
	sp_linear_backward(dx, b->ld, g->draw, inner.ld, &b->t->intermediate, b->N, b->team);
	if (dgate) {
		sp_linear_backward(g->other, b->ld, dgate, inner.ld, &b->t->gate, b->N, b->team);
		add(b, dx, dx, g->other);
	}
}

/* dx of attention and its projection from dattended */
static void attend_backward(const struct backward *b, float *dx)
{
	const struct sp_layer_gradients *g = b->g;
	int64_t ld_qkv = b->acts->ld_qkv;
	sp_linear_backward(g->other, b->ld, g->dattended, b->ld, &b->t->attention_output, b->N, b->team);
	sp_attention_backward(g->dqkv, ld_qkv, &g->relative, g->other, b->ld, b->acts->qkv, ld_qkv, b->chunk, b->kind,
	                      b->dropout, b->layer, g->scratch, b->team);
	if (b->kind->rotary)
		sp_rotary_backward(g->dqkv, ld_qkv, b->chunk->positions->rotary[b->kind->window > 0], b->kind, b->chunk,
		                   g->scratch, b->team);
	sp_linear_backward(dx, b->ld, g->dqkv, ld_qkv, &b->t->qkv, b->N, b->team);
}

static void post_norm_backward(const struct backward *b)
{
	const struct sp_layer_gradients *g = b->g;
	const struct sp_layer_acts *acts = b->acts;
	layernorm(b, g->dmiddle, g->output_normed, g->dout, acts->expanded, acts->middle, b->w->output_norm);
	through_dropout(b, g->dexpanded, g->dmiddle, SP_SITE_FEED_FORWARD);
	feed_forward_backward(b, g->narrow);
	add(b, g->dmiddle, g->dmiddle, g->narrow);
	layernorm(b, g->din, g->attention_normed, g->dmiddle, acts->attended, b->x, b->w->attention_norm);
	through_dropout(b, g->dattended, g->din, SP_SITE_ATTENTION_OUTPUT);
	attend_backward(b, g->narrow);
	add(b, g->din, g->din, g->narrow);
}

static void pre_norm_backward(const struct backward *b)
{
	const struct sp_layer_gradients *g = b->g;
	through_dropout(b, g->dexpanded, g->dout, SP_SITE_FEED_FORWARD);
	feed_forward_backward(b, g->dmiddle);
	layernorm(b, g->din, g->output_normed, g->dmiddle, b->acts->middle, NULL, b->w->output_norm);
	add(b, g->din, g->din, g->dout);
	through_dropout(b, g->dattended, g->din, SP_SITE_ATTENTION_OUTPUT);
	attend_backward(b, g->dnormed);
	if (!b->w->attention_norm) {
		add(b, g->din, g->din, g->dnormed);
		return;
	}
	layernorm(b, g->narrow, g->attention_normed, g->dnormed, b->x, NULL, b->w->attention_norm);
	add(b, g->din, g->din, g->narrow);
}

void sp_layer_backward(const struct sp_layer_gradients *g, const struct sp_layer_acts *acts, const float *x,
                       const struct sp_layer_weights *w, const struct sp_layer_transposed *t,
                       const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                       const struct sp_chunk *chunk, struct sp_team *team)
{
	struct backward b = {
		g, acts, x, w, t, kind, dropout, layer, chunk, team, chunk->offsets[chunk->n], acts->ld_hidden};
	(kind->norm == SP_PRE_NORM ? pre_norm_backward : post_norm_backward)(&b);
}

void sp_layer_backward_weight(const struct sp_layer_weights *dw, const struct sp_layer_gradients *g,
                              const struct sp_layer_acts *acts, const float *x, const struct sp_layer_kind *kind,
                              const struct sp_groups *groups, struct sp_team *team)
{
	int64_t ld = acts->ld_hidden, ld_inner = acts->inner.ld, H = kind->hidden;
	int is_pre_norm = kind->norm == SP_PRE_NORM;
	const float *fed = is_pre_norm ? acts->middle_normed : acts->middle;
	const float *attended = is_pre_norm && dw->attention_norm ? acts->normed : x;
	sp_linear_backward_weight(&dw->output, dw->output_bias, g->dexpanded, ld, g->activated, ld_inner, groups,
	                          g->scratch, team);
	sp_linear_backward_weight(&dw->intermediate, dw->intermediate_bias, g->draw, ld_inner, fed, ld, groups,
	                          g->scratch, team);
	if (dw->gate.data)
		sp_linear_backward_weight(&dw->gate, dw->gate_bias, g->dgate, ld_inner, fed, ld, groups, g->scratch,
		                          team);
	sp_linear_backward_weight(&dw->attention_output, dw->attention_output_bias, g->dattended, ld, acts->context, ld,
	                          groups, g->scratch, team);
	sp_linear_backward_weight(&dw->qkv, dw->qkv_bias, g->dqkv, acts->ld_qkv, attended, ld, groups, g->scratch,
	                          team);
	sp_layernorm_backward_weight(dw->output_norm, dw->output_norm_bias, is_pre_norm ? g->dmiddle : g->dout, ld,
	                             g->output_normed, ld, groups, H, team);
	if (dw->attention_norm)
		sp_layernorm_backward_weight(dw->attention_norm, dw->attention_norm_bias,
		                             is_pre_norm ? g->dnormed : g->dmiddle, ld, g->attention_normed, ld, groups,
		                             H, team);
}
