/* kernels.h: the table of kernels of one instruction set, and what each kernel promises.
 *
 * Every kernel exists four times: generic, AVX2 + FMA, AVX-512 (one source, kernels/ compiled thrice) and scalar.c,
 * the twin in plain C that tests hold the others against, bit for bit. dispatch.c picks one table at start.
 * Sizes: m, n, k of a product; H values of a row; T tokens of a sentence. ld = floats from one row to the next.
 */
#ifndef SP_KERNELS_H
#define SP_KERNELS_H

#include <stdint.h>

#define SP_KC 256 /* values of k in one block of a product: part of the contract in panel.c */

/* The left operand of a panel product: element (i, p) is data[i * ld + p], or data[p * ld + i] by column. */
struct sp_panel_a {
	const float *data;
	int64_t ld;
	int by_column;
};

/* The right operand: column j of row p is data[j / nr * panel_stride + p * row_stride + j % nr].
 * Each row of a panel is read nr wide, also where fewer columns are asked for. */
struct sp_panel_b {
	const float *data;
	int64_t panel_stride, row_stride;
};

/* SP_GELU_LOW is near SP_GELU, for what is rounded afterwards; it has no backward. */
enum sp_activation { SP_IDENTITY, SP_GELU, SP_GELU_TANH, SP_RELU, SP_SILU, SP_TANH, SP_SIGMOID, SP_GELU_LOW };

/* What a draw is for: where in the network values are dropped, or something else that is random; part of the counter
 * of the draws (philox.h), hence of the bits. */
enum sp_site {
	SP_SITE_EMBEDDING = 0,        /* the embedding output */
	SP_SITE_ATTENTION = 1,        /* attention probabilities */
	SP_SITE_ATTENTION_OUTPUT = 2, /* after its projection, before the residual */
	SP_SITE_FEED_FORWARD = 3,     /* after its second projection, before the residual */
	SP_SITE_RRELU_KEY = 4,        /* slopes of the attention over layers, see model/layer_attention.c */
	SP_SITE_RRELU_QUERY = 5,
	SP_SITE_RRELU_VALUE = 6,
	SP_SITE_MASKED = 7,     /* which tokens are masked for language modelling, and by what */
	SP_SITE_PARAMETERS = 8, /* parameters that no file holds */
	SP_SITE_INNER = 9       /* inside the feed-forward, before its second projection */
};

/* What decides on the values of one sentence at one place: its draws, and what becomes of a value by them. */
struct sp_draws {
	uint64_t seed;
	uint32_t step, row, layer;
	enum sp_site site;
	uint32_t threshold; /* a draw below it drops; 0 drops nothing and has scale 1 */
	float scale;        /* of what is kept */
};

/* One step of AdamW; the step's constants, rounded once from float64. */
struct sp_adamw {
	float clip;                                  /* what gradients are multiplied by first */
	float first_rate, second_decay, second_rate; /* 1 - beta1, beta2, 1 - beta2 */
	float second_root;                           /* sqrt(1 - beta2^t) */
	float step;                                  /* learning rate / (1 - beta1^t) */
	float decay;                                 /* 1 - learning rate * weight decay; 1 where nothing decays */
	float eps;
};

/* What a score must exceed, as far as the corpus row decides it (see model/search.c). */
struct sp_screen_row {
	float factor, shift, length;
};

struct sp_kernels {
	const char *isa;
	int64_t nr; /* columns of a panel */

	/* C[m,n] = A B (+ bias[n]), by the contract in panel.c. C may not overlap A, B or bias. */
	void (*gemm)(float *c, int64_t ldc, struct sp_panel_a a, struct sp_panel_b b, const float *bias, int64_t m,
	             int64_t n, int64_t k);
	/* C[m,n] += A B, k > 0 (then + bias[n]): the chain of every block of k starts from 0 and is added with one
	 * rounding. */
	void (*gemm_add)(float *c, int64_t ldc, struct sp_panel_a a, struct sp_panel_b b, const float *bias, int64_t m,
	                 int64_t n, int64_t k);
	/* Copy `count` rows [count, k] of source into columns [first, first + count) of a panel [k][nr]. */
	void (*pack)(float *panel, int64_t first, const float *source, int64_t ld, int64_t count, int64_t k);
	/* Copy `count` rows [count, k] into the first columns of a panel [k][nr], and zeros into the others up to
	 * `columns`, which is nr or nr / 2 and at least count. What lies beyond those has no meaning afterwards. */
	void (*pack_rows)(float *panel, const float *rows, int64_t ld, int64_t count, int64_t columns, int64_t k);

	/* y[cols, rows] = x[rows, cols] transposed. */
	void (*transpose)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, int64_t cols);

	/* y[rows, cols] = f(x[rows, cols]); y may be x. */
	void (*activation)(float *y, int64_t ldy, const float *x, int64_t ldx, enum sp_activation f, int64_t rows,
	                   int64_t cols);
	/* dx = dy f'(x), and y = f(x) as activation computes it; dx may be dy. */
	void (*activation_backward)(float *dx, int64_t lddx, float *y, int64_t ldy, const float *dy, int64_t lddy,
	                            const float *x, int64_t ldx, enum sp_activation f, int64_t rows, int64_t cols);
	/* y[rows, cols] = f(x) * gate, all [rows, cols]; y may be x. */
	void (*gated_activation)(float *y, int64_t ldy, const float *x, int64_t ldx, const float *gate, int64_t ldg,
	                         enum sp_activation f, int64_t rows, int64_t cols);
	/* y[rows, cols] = a + b; y may be a or b. */
	void (*add)(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t rows,
	            int64_t cols);
	/* y[rows, cols] = a * b; y may be a or b. */
	void (*multiply)(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t rows,
	                 int64_t cols);
	/* Turn `heads` vectors, d apart, in place: values i and i + half of each by the angle whose cosine and sine are
	 * at [i]; i < half. */
	void (*rotate)(float *x, const float *cosine, const float *sine, int64_t heads, int64_t d, int64_t half);
	/* scores [T][nr]: score (k, j) += line[j - k], so that what is added depends on the distance alone. */
	void (*add_diagonals)(float *scores, const float *line, int64_t keys);
	/* scores [T][nr], one query per column: each becomes exp(scale * s - max over the column); sums[nr] gets the
	 * column's sum, one chain in ascending order of keys. Only the first `columns` of the nr are of use afterwards. */
	void (*softmax_columns)(float *scores, float *sums, float scale, int64_t keys, int64_t columns);
	/* From scores and sums as softmax_columns leaves them and the gradients of the weights scores / sums: scores
	 * become these weights p, dscores [T] rows of nr columns get scale * p * (dweights - sum of p * dweights). */
	void (*softmax_columns_backward)(float *dscores, int64_t ld, float *scores, const float *sums,
	                                 const float *dweights, float scale, int64_t keys);
	/* Dropout of y[rows, cols], the states of one sentence from `token` on: a value becomes 0 or scale times itself. */
	void (*dropout)(float *y, int64_t ld, const struct sp_draws *draws, int64_t token, int64_t rows, int64_t cols);
	/* The same of scores [keys][nr], whose first columns are queries [query, query + queries); `block` holds the
	 * draws of keys 0 … 3. Columns beyond may change too. */
	void (*dropout_columns)(float *scores, const struct sp_draws *draws, int64_t query, int64_t queries,
	                        int64_t block, int64_t keys);
	/* RReLU's slopes at x[rows, cols], the states of one sentence from `token` on: 1 where x > 0, else drawn from
	 * [1/8, 1/3]. */
	void (*rrelu_slopes)(float *slopes, const float *x, const struct sp_draws *draws, int64_t token, int64_t rows,
	                     int64_t cols);
	/* Row i of y[rows, cols] divided by divisor[i]. */
	void (*divide_rows)(float *y, int64_t ld, const float *divisor, int64_t rows, int64_t cols);
	/* y = gamma * (z - mean z) / sqrt(var z + eps) + beta for z = a + b, row by row; b NULL: z = a; beta NULL: zeros.
	 * y may be a or b. */
	void (*add_layernorm)(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,
	                      const float *gamma, const float *beta, float eps, int64_t rows, int64_t H);
	/* Its gradient by z, from dy; and normed = (z - mean z) / sqrt(var z + eps). dz may be dy. */
	void (*layernorm_backward)(float *dz, int64_t lddz, float *normed, int64_t ldn, const float *dy, int64_t lddy,
	                           const float *a, int64_t lda, const float *b, int64_t ldb, const float *gamma,
	                           float eps, int64_t rows, int64_t H);
	/* y[H] = (word + type) + position; type and position may be NULL: nothing is added */
	void (*embed_row)(float *y, const float *word, const float *type, const float *position, int64_t H);

	/* Down the T rows of h, for columns [0, cols): sums in one chain per column, from row 0 on. */
	void (*pool_sum)(float *y, const float *h, int64_t ld, float divisor, int64_t T,
	                 int64_t cols); /* sum / divisor */
	/* sum w_t h_t / sum w_t with w_t = first_weight + t */
	void (*pool_weighted)(float *y, const float *h, int64_t ld, int64_t first_weight, int64_t T, int64_t cols);
	void (*pool_max)(float *y, const float *h, int64_t ld, int64_t T, int64_t cols); /* NaN wins */
	/* Their gradients by h, added to dh; of max it goes to the first of equals. */
	void (*pool_sum_backward)(float *dh, int64_t lddh, const float *dy, float divisor, int64_t T, int64_t cols);
	void (*pool_weighted_backward)(float *dh, int64_t lddh, const float *dy, int64_t first_weight, int64_t T,
	                               int64_t cols);
	void (*pool_max_backward)(float *dh, int64_t lddh, const float *dy, const float *h, int64_t ldh, int64_t T,
	                          int64_t cols);
	/* y[cols] += sum over T rows of x * z, or of x where z is NULL: one chain per column from 0, added with one
	 * rounding. */
	void (*columns_add)(float *y, const float *x, int64_t ldx, const float *z, int64_t ldz, int64_t T,
	                    int64_t cols);
	/* sum over a row of x[i] * x[i], 16 virtual lanes */
	float (*sum_of_squares)(const float *x, int64_t H);
	/* out[j] = x_j . x_j for `rows` rows of x: the bits of dots */
	void (*squares)(double *out, const float *x, int64_t ld, int64_t rows, int64_t H);
	/* out[j] = x . y_j for `rows` rows of y, in float64 with 8 virtual lanes; every product is exact */
	void (*dots)(double *out, const float *x, const float *y, int64_t ldy, int64_t rows, int64_t H);
	/* out[j] = bits in which `bytes` bytes of x and of row j of y differ */
	void (*hamming)(int32_t *out, const uint8_t *x, const uint8_t *y, int64_t ldy, int64_t rows, int64_t bytes);
	/* Where in scores[rows][nr] a search must look closer: hits become row * nr + column, ascending, wherever
	 * score > limit[column] * row.factor + (row.shift - slack[column] * row.length). Returns how many. */
	int64_t (*screen)(int32_t *hits, const float *scores, const float *limit, const float *slack,
	                  const struct sp_screen_row *row, int64_t rows);

	/* x[n] becomes exp(x - max over it); *max is that, and the sum of all, in 16 virtual lanes, is returned. */
	float (*softmax_row)(float *x, float *max, int64_t n);

	/* m += (g - m) first_rate, v = v second_decay + g^2 second_rate, p = p decay - step m / (sqrt(v) / second_root +
	 * eps), for n parameters p with moments m and v and gradients g, which are multiplied by clip first. */
	void (*adamw)(float *p, float *m, float *v, const float *g, const struct sp_adamw *constants, int64_t n);
};

extern const struct sp_kernels sp_kernels_scalar, sp_kernels_generic;
#if defined(__x86_64__)
extern const struct sp_kernels sp_kernels_avx2, sp_kernels_avx512;
#endif

/* The kernels that the files beside this one define once per instruction set; table.c gathers them. */
#define SP_DECLARE_KERNELS(isa)                                                                                        \
	void sp_panel_gemm_##isa(float *c, int64_t ldc, struct sp_panel_a a, struct sp_panel_b b, const float *bias,   \
	                         int64_t m, int64_t n, int64_t k);                                                     \
	void sp_panel_gemm_add_##isa(float *c, int64_t ldc, struct sp_panel_a a, struct sp_panel_b b,                  \
	                             const float *bias, int64_t m, int64_t n, int64_t k);                              \
	void sp_panel_pack_##isa(float *panel, int64_t first, const float *source, int64_t ld, int64_t count,          \
	                         int64_t k);                                                                           \
	void sp_pack_rows_##isa(float *panel, const float *rows, int64_t ld, int64_t count, int64_t columns,           \
	                        int64_t k);                                                                            \
	void sp_transpose_##isa(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t rows, int64_t cols);       \
	void sp_activation_##isa(float *y, int64_t ldy, const float *x, int64_t ldx, enum sp_activation f,             \
	                         int64_t rows, int64_t cols);                                                          \
	void sp_activation_backward_##isa(float *dx, int64_t lddx, float *y, int64_t ldy, const float *dy,             \
	                                  int64_t lddy, const float *x, int64_t ldx, enum sp_activation f,             \
	                                  int64_t rows, int64_t cols);                                                 \
	void sp_gated_activation_##isa(float *y, int64_t ldy, const float *x, int64_t ldx, const float *gate,          \
	                               int64_t ldg, enum sp_activation f, int64_t rows, int64_t cols);                 \
	void sp_add_##isa(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,             \
	                  int64_t rows, int64_t cols);                                                                 \
	void sp_multiply_##isa(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,        \
	                       int64_t rows, int64_t cols);                                                            \
	void sp_rotate_##isa(float *x, const float *cosine, const float *sine, int64_t heads, int64_t d,               \
	                     int64_t half);                                                                            \
	void sp_add_diagonals_##isa(float *scores, const float *line, int64_t keys);                                   \
	void sp_softmax_columns_##isa(float *scores, float *sums, float scale, int64_t keys, int64_t columns);         \
	void sp_softmax_columns_backward_##isa(float *dscores, int64_t ld, float *scores, const float *sums,           \
	                                       const float *dweights, float scale, int64_t keys);                      \
	void sp_dropout_##isa(float *y, int64_t ld, const struct sp_draws *draws, int64_t token, int64_t rows,         \
	                      int64_t cols);                                                                           \
	void sp_dropout_columns_##isa(float *scores, const struct sp_draws *draws, int64_t query, int64_t queries,     \
	                              int64_t block, int64_t keys);                                                    \
	void sp_rrelu_slopes_##isa(float *slopes, const float *x, const struct sp_draws *draws, int64_t token,         \
	                           int64_t rows, int64_t cols);                                                        \
	void sp_divide_rows_##isa(float *y, int64_t ld, const float *divisor, int64_t rows, int64_t cols);             \
	void sp_add_layernorm_##isa(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,   \
	                            const float *gamma, const float *beta, float eps, int64_t rows, int64_t H);        \
	void sp_layernorm_backward_##isa(float *dz, int64_t lddz, float *normed, int64_t ldn, const float *dy,         \
	                                 int64_t lddy, const float *a, int64_t lda, const float *b, int64_t ldb,       \
	                                 const float *gamma, float eps, int64_t rows, int64_t H);                      \
	void sp_embed_row_##isa(float *y, const float *word, const float *type, const float *position, int64_t H);     \
	void sp_pool_sum_##isa(float *y, const float *h, int64_t ld, float divisor, int64_t T, int64_t cols);          \
	void sp_pool_weighted_##isa(float *y, const float *h, int64_t ld, int64_t first_weight, int64_t T,             \
	                            int64_t cols);                                                                     \
	void sp_pool_max_##isa(float *y, const float *h, int64_t ld, int64_t T, int64_t cols);                         \
	void sp_pool_sum_backward_##isa(float *dh, int64_t lddh, const float *dy, float divisor, int64_t T,            \
	                                int64_t cols);                                                                 \
	void sp_pool_weighted_backward_##isa(float *dh, int64_t lddh, const float *dy, int64_t first_weight,           \
	                                     int64_t T, int64_t cols);                                                 \
	void sp_pool_max_backward_##isa(float *dh, int64_t lddh, const float *dy, const float *h, int64_t ldh,         \
	                                int64_t T, int64_t cols);                                                      \
	void sp_columns_add_##isa(float *y, const float *x, int64_t ldx, const float *z, int64_t ldz, int64_t T,       \
	                          int64_t cols);                                                                       \
	float sp_sum_of_squares_##isa(const float *x, int64_t H);                                                      \
	void sp_squares_##isa(double *out, const float *x, int64_t ld, int64_t rows, int64_t H);                       \
	void sp_dots_##isa(double *out, const float *x, const float *y, int64_t ldy, int64_t rows, int64_t H);         \
	void sp_hamming_##isa(int32_t *out, const uint8_t *x, const uint8_t *y, int64_t ldy, int64_t rows,             \
	                      int64_t bytes);                                                                          \
	int64_t sp_screen_##isa(int32_t *hits, const float *scores, const float *limit, const float *slack,            \
	                        const struct sp_screen_row *row, int64_t rows);                                        \
	float sp_softmax_row_##isa(float *x, float *max, int64_t n);                                                   \
	void sp_adamw_##isa(float *p, float *m, float *v, const float *g, const struct sp_adamw *constants, int64_t n);
SP_DECLARE_KERNELS(generic)
SP_DECLARE_KERNELS(avx2)
SP_DECLARE_KERNELS(avx512)

#endif
