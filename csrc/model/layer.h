/* layer.h: one encoder layer and what it leaves behind. */
#ifndef SP_LAYER_H
#define SP_LAYER_H

#include "sentpool.h"

/* The intermediate results of a layer for one chunk of N tokens. Inference points every layer at the same buffers, and
 * some of them at one; training gives each layer its own, and they are the tape. Row strides are shared by all: hidden
 * for [N, H]. */
struct sp_layer_acts {
	float *normed;         /* [N, H]   pre-norm: what queries, keys and values are made of */
	float *qkv;            /* [N, 3H]  queries, keys, values; turned where positions are rotary */
	float *context;        /* [N, H]   attention's weighted values */
	float *attended;       /* [N, H]   after the attention output's projection */
	float *middle;         /* [N, H]   after the first residual, and its layer norm in post-norm */
	float *middle_normed;  /* [N, H]   pre-norm: what the feed-forward reads */
	struct sp_inner inner; /* [N, F]   inside the feed-forward */
	float *expanded;       /* [N, H]   after the feed-forward's second projection */
	float *low;            /* memory for sp_rows_for, of inputs in low precision */
	float *scratch;        /* this rank's, for attention */
	int64_t ld_qkv, ld_hidden;
};

/* out[N, H] = layer(x[N, H]). out may be x in inference. Every rank of the team calls it; it ends with all ranks done.
 * dropout is NULL in inference; `layer` counts from 1. */
void sp_layer_forward(float *out, const struct sp_layer_acts *acts, const float *x, const struct sp_layer_weights *w,
                      const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                      const struct sp_chunk *chunk, struct sp_team *team);

#endif
