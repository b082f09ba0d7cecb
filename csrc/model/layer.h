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

/* What a forward pass leaves for its gradient, the rows of all tokens of the job: each layer's intermediate results, where
 * a backward pass reads them (else NULL), and its states. Row strides as in inference. */
struct sp_tape {
	struct sp_layer_acts *layer;
	float *embedded;          /* [N, E] before the projection; h[0] where there is none */
	float **h;                /* [L + 1][N, H] */
	float *before_final_norm; /* [N, H], where there is one */
};

/* W^T of a layer's weights, see sp_linear_transpose. */
struct sp_layer_transposed {
	struct sp_matrix qkv, attention_output, intermediate, gate, output;
};

/* The gradients inside a layer of N tokens, for those of its weights; all layers use the same memory, one after the other.
 * The last four are scratch of one rank, `other` followed by one panel's width of readable floats. */
struct sp_layer_gradients {
	float *dout, *din;                       /* [N, H]  of the layer's output and input */
	float *dexpanded, *dattended;            /* [N, H]  of the projections' outputs */
	float *dmiddle;                          /* [N, H]  of middle; pre-norm: of middle_normed */
	float *dnormed;                          /* [N, H]  pre-norm: of normed */
	float *dqkv;                             /* [N, 3H] */
	float *draw, *dgate;                     /* [N, F] */
	float *activated;                        /* [N, F]  not a gradient: inner.activated again, dropped as it was */
	float *output_normed, *attention_normed; /* [N, H]  what the layer norms give before scale and shift */
	struct sp_relative_gradient relative;    /* of all layers, for the chunk's sentences */
	float *wide;                             /* [N, F] */
	float *narrow, *other;                   /* [N, H] */
	float *scratch;                          /* for attention, and for sums over tokens */
};

/* din of a chunk from its dout; g and acts are the chunk's rows. */
void sp_layer_backward(const struct sp_layer_gradients *g, const struct sp_layer_acts *acts, const float *x,
                       const struct sp_layer_weights *w, const struct sp_layer_transposed *t,
                       const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                       const struct sp_chunk *chunk, struct sp_team *team);
/* Add the gradients of the layer's weights to dw, when g is complete; g and acts are all rows. */
void sp_layer_backward_weight(const struct sp_layer_weights *dw, const struct sp_layer_gradients *g,
                              const struct sp_layer_acts *acts, const float *x, const struct sp_layer_kind *kind,
                              const struct sp_groups *groups, struct sp_team *team);

/* The distance between rows of n floats. */
int64_t sp_row_stride(int64_t n);

#endif
