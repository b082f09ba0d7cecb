/* ops.h: the operations of csrc/ops, one per file; each rank of the team computes its share of the outputs. Part of
 * sentpool.h, which includes it where the types that it names are known.
 */
#ifndef SP_OPS_H
#define SP_OPS_H

/* How a weight is kept; low_precision.h says how its products are computed. */
enum sp_format { SP_FLOAT32, SP_BFLOAT16, SP_INT8 };

/* A weight [rows = out, cols = in]: in panels for the panel engine, else row-major with ld = cols. In low precision data
 * holds whole panels of that format (a table: rows of bfloat16), whatever the engine. */
struct sp_matrix {
	float *data;
	int64_t rows, cols;
	enum sp_format format;
	/* int8: */
	int digits;            /* of an input: one or two */
	float *scale, *offset; /* by output, see sp_int8_panels */
	float *smooth;         /* by input: what inputs are multiplied by */
	float *factors;        /* by input: what weights are multiplied by while they are loaded */
	float *ranges;         /* of a float32 weight whose inputs are watched: their least, their largest [2][cols] */
};

/* The rows of an input as products with a weight read them. */
struct sp_rows {
	const void *data;                 /* float32, bfloat16 or digits */
	int64_t ld;                       /* of digits in bytes */
	const struct sp_row_range *range; /* of digits */
};
/* Floats per row that sp_rows_for needs for inputs of up to `width` values in a format. */
int64_t sp_rows_floats(enum sp_format format, int64_t width);
/* x[N, in] for this weight, converted into `low` where its format asks for that; ranks split the rows. */
struct sp_rows sp_rows_for(const struct sp_matrix *weight, const float *x, int64_t ldx, int64_t N, float *low,
                           struct sp_team *team);

struct sp_chunk;
struct sp_config;
struct sp_layer_kind;
struct sp_layer_weights;
struct sp_model;

/* The row of the position table for token t of a sentence: they are counted from position_offset on, padding tokens not. */
int64_t sp_position_row(const struct sp_config *config, const int32_t *ids, int64_t t);
/* y[N, E] = LayerNorm(words[id] + types[0] + positions[row]) for the packed sentences of a chunk, without the tables that
 * the encoder has not. */
void sp_embed_forward(float *y, int64_t ld, const struct sp_model *model, const struct sp_chunk *chunk,
                      struct sp_team *team);

/* dz[N, E], the gradient of the sums, from dy[N, E]; and the normed sums. Ranks split the rows. */
void sp_embed_backward(float *dz, float *normed, const float *dy, int64_t ld, const struct sp_model *model,
                       const struct sp_chunk *chunk, struct sp_team *team);
/* Add dz to the rows of the tables that made it, token after token; ranks split the columns. */
void sp_embed_backward_weight(const struct sp_model *gradients, const float *dz, int64_t ld,
                              const struct sp_chunk *chunk, struct sp_team *team);

/* y[N, out] = x[N, in] W^T + bias; bias may be NULL; `low` is memory for sp_rows_for, NULL if the weight is float32. Ranks
 * split the columns. */
void sp_linear_forward(float *y, int64_t ldy, const float *x, int64_t ldx, const struct sp_matrix *weight,
                       const float *bias, int64_t N, float *low, struct sp_team *team);
/* Columns [first, end) of the same; first begins a panel. */
void sp_linear_columns(float *y, int64_t ldy, struct sp_rows x, const struct sp_matrix *weight, const float *bias,
                       int64_t N, int64_t first, int64_t end);
/* Count products of sp_linear_columns as panel calls, where they are: once per rank and layer, for two threads that keep
 * adding to one counter wait for each other. */
void sp_linear_count(const struct sp_matrix *weight, int64_t products);

/* Consecutive rows whose gradients are summed together: group g is rows [cuts[g], cuts[g + 1]), up to SP_KC of them. */
struct sp_groups {
	int64_t n;
	const int64_t *cuts;
};

/* dx[N, in] = dy[N, out] W; transposed is W^T [in, out] in panels, whatever the engine; ranks split the columns. */
void sp_linear_backward(float *dx, int64_t lddx, const float *dy, int64_t lddy, const struct sp_matrix *transposed,
                        int64_t N, struct sp_team *team);
/* dweight[out, in] += dy^T x and dbias[out] += sum of dy, dbias may be NULL: group after group, in each a chain from 0;
 * ranks split the outputs. `scratch` is a rank's own, sp_linear_backward_scratch floats. */
void sp_linear_backward_weight(const struct sp_matrix *dweight, float *dbias, const float *dy, int64_t lddy,
                               const float *x, int64_t ldx, const struct sp_groups *groups, float *scratch,
                               struct sp_team *team);
int64_t sp_linear_backward_scratch(void);
/* W^T of a row-major weight [out, in] as sp_linear_backward wants it: sp_transposed_floats of them. */
int64_t sp_transposed_floats(int64_t out, int64_t in);
void sp_linear_transpose(const struct sp_matrix *transposed, const float *weight, struct sp_team *team);

/* The wide states inside a feed-forward block, each [N, F], rows ld apart. */
struct sp_inner {
	float *activated; /* what the block's second product reads */
	float *raw;       /* what the activation reads: the same memory in inference */
	float *gate;      /* the factors of a gated block */
	int64_t ld;
};
/* activated = f(raw), times gate where there is one, from x[N, H]; ranks split the columns. */
void sp_expand_forward(const struct sp_inner *inner, const float *x, int64_t ldx, const struct sp_layer_weights *w,
                       enum sp_activation f, int64_t N, float *low, struct sp_team *team);

/* draw, and dgate where there is one, from dactivated [N, F], rows all inner->ld apart; inner->raw and inner->gate are read,
 * inner->activated is computed once more. Ranks split the rows. */
void sp_expand_backward(float *draw, float *dgate, const struct sp_inner *inner, const float *dactivated,
                        enum sp_activation f, int64_t N, int64_t F, struct sp_team *team);

/* y = LayerNorm(a + b), b and beta may be NULL; ranks split the rows. */
void sp_layernorm_forward(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,
                          const float *gamma, const float *beta, float eps, int64_t N, int64_t H, struct sp_team *team);

/* dz, the gradient of a + b, and normed = (a + b - mean) / deviation; dz may be dy. Ranks split the rows. */
void sp_layernorm_backward(float *dz, int64_t lddz, float *normed, int64_t ldn, const float *dy, int64_t lddy,
                           const float *a, int64_t lda, const float *b, int64_t ldb, const float *gamma, float eps,
                           int64_t N, int64_t H, struct sp_team *team);
/* dgamma[H] += sum of dy * normed, dbeta[H] += sum of dy, by groups; dbeta may be NULL; ranks split the columns. */
void sp_layernorm_backward_weight(float *dgamma, float *dbeta, const float *dy, int64_t lddy, const float *normed,
                                  int64_t ldn, const struct sp_groups *groups, int64_t H, struct sp_team *team);

/* y = a + b, all [N, H]; ranks split the rows. */
void sp_residual_forward(float *y, const float *a, const float *b, int64_t ld, int64_t N, int64_t H,
                         struct sp_team *team);

/* Dropout, by draws that depend on these and on a value's place alone (kernels/philox.h). */
struct sp_dropout {
	double rate[SP_SITE_INNER + 1]; /* by site: the probability of dropping, in [0, 1) */
	uint64_t seed;
	uint32_t step;
	int64_t first_row; /* sentence i of the job is row first_row + i, below 2^32 */
};

/* The most tokens of a sentence whose values have draws of their own. */
int64_t sp_dropout_longest(int64_t heads);
/* The draws of a sentence of the job at one place; layer 0 is the embedding output. dropout NULL: nothing is dropped. */
struct sp_draws sp_dropout_draws(const struct sp_dropout *dropout, enum sp_site site, int64_t layer, int64_t sentence);
/* Drop values of y[N, H], in place; ranks split the rows. dropout NULL: y stays. */
void sp_dropout_forward(float *y, int64_t ld, const struct sp_dropout *dropout, enum sp_site site, int64_t layer,
                        const struct sp_chunk *chunk, int64_t H, struct sp_team *team);

/* table[positions][rotary]: the cosines, then the sines of each position's angles. */
void sp_rotary_table(float *table, int64_t rotary, double base, int64_t positions);
/* Turn queries and keys of qkv[N, 3H] by their positions, in place; ranks split the rows. */
void sp_rotary_forward(float *qkv, int64_t ld, const float *table, const struct sp_layer_kind *kind,
                       const struct sp_chunk *chunk, struct sp_team *team);

/* Turn their gradients back. `line` is scratch of one rank, kind->rotary floats. */
void sp_rotary_backward(float *dqkv, int64_t ld, const float *table, const struct sp_layer_kind *kind,
                        const struct sp_chunk *chunk, float *line, struct sp_team *team);

/* Queries that share a range of keys in local attention; a multiple of every nr. */
enum { SP_QUERY_BLOCK = 32 };

/* Floats of scratch that one rank needs for sentences of up to T tokens. */
int64_t sp_attention_scratch(int64_t T, int64_t d);
/* context[N, H] = dropout(softmax(Q K^T / sqrt d)) V per sentence and head, from qkv[N, 3H], with the bias and within the
 * window that the layer has; ranks split sentences x heads. Rows of qkv must be followed by one panel's width of readable
 * floats. */
void sp_attention_forward(float *context, int64_t ldc, const float *qkv, int64_t ld, const struct sp_chunk *chunk,
                          const struct sp_layer_kind *kind, const struct sp_dropout *dropout, int64_t layer,
                          float *scratch, struct sp_team *team);

/* Floats of scratch that one rank needs for the gradient. */
int64_t sp_attention_backward_scratch(int64_t T, int64_t d);
/* The gradient of the bias by relative position, sentence by sentence: sums[n, buckets, heads]; NULL: there is none. */
struct sp_relative_gradient {
	float *sums;
	int64_t buckets;
};
/* dqkv[N, 3H] from dcontext[N, H], and what is added to the sums of relative; the weights are computed again and dropped by
 * the same draws. Ranks split sentences x heads. Rows of qkv and of dcontext must be followed by one panel's width of
 * readable floats. */
void sp_attention_backward(float *dqkv, int64_t lddqkv, const struct sp_relative_gradient *relative,
                           const float *dcontext, int64_t ldc, const float *qkv, int64_t ld,
                           const struct sp_chunk *chunk, const struct sp_layer_kind *kind,
                           const struct sp_dropout *dropout, int64_t layer, float *scratch, struct sp_team *team);

#endif
