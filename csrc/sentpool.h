/* sentpool.h: the core as its callers see it. No Python here; csrc/python/ is the only binding.
 *
 * Sizes, everywhere:
 *   B  sentences     N  tokens of a chunk or batch, sentences one after the other (packed, no padding)
 *   T  tokens of one sentence     H  hidden     A  attention heads     d  H / A     F  feed-forward     L  layers
 *   P  token poolings     E  width of the embedding tables
 * Arrays are row-major float32; ld is the number of floats from one row to the next.
 * Ownership: who allocates frees; a sp_model owns its weights, a workspace its scratch, results belong to the caller.
 * Errors: functions that can fail return enum sp_status; nothing prints, exits or aborts.
 */
#ifndef SENTPOOL_H
#define SENTPOOL_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "kernels/low_precision.h"

enum sp_status { SP_OK, SP_NO_MEMORY, SP_CANCELLED, SP_INVALID };

/* ---- base/arena.c: the only allocator ---------------------------------------------------------------------- */

/* `count` floats at a multiple of 64 bytes, uninitialised; NULL when memory is out or count overflows. Large blocks lie
 * in huge pages where the system offers them: weights are streamed through, and small pages cost some 5 % then. */
float *sp_floats(int64_t count);
/* The same, zeroed. */
float *sp_zeros(int64_t count);
/* `bytes` of plain memory, or NULL. */
void *sp_bytes(size_t bytes);
void sp_free(void *p);
/* Freed memory goes back to the system, where the C library can do that. */
void sp_release_freed(void);
/* Tests only: let the n-th allocation from now on fail (1 = the next one; 0 = none). */
void sp_fail_allocation(int64_t n);

/* ---- base/cpu.c: what this CPU and operating system can run ---------------------------------------------------- */

int sp_cpu_has_avx2(void);     /* AVX2, FMA, BMI1, BMI2 and ymm state */
int sp_cpu_has_avx512(void);   /* besides: AVX-512 F, CD, BW, DQ, VL and zmm state */
int sp_cpu_has_avx_vnni(void); /* besides AVX2: AVX-VNNI, the unit for int8 of many CPUs that have no AVX-512 */
/* Of an AVX-512 CPU: units for products in low precision. That for bfloat16 counts only where it is faster than float32:
 * Intel's runs at half the speed of its multiply-add. */
int sp_cpu_has_bf16_unit(void); /* AVX512_BF16 */
int sp_cpu_has_int8_unit(void); /* AVX512_VNNI */
int sp_cpu_has_amx(void);       /* AMX with bfloat16 and int8, which the system lets this process use from now on */
int sp_cpu_count(void);         /* logical CPUs this process may use */

/* The arithmetic of our promises is IEEE's default: round to nearest, subnormals, no traps. Other libraries leave other
 * modes on, so every computation runs between these two; enter returns what leave restores. */
unsigned sp_float_mode_enter(void);
void sp_float_mode_leave(unsigned saved);

/* ---- base/threads.c: our own threads ------------------------------------------------------------------------- */

/* The ranks that work on one thing together, step by step: every op splits its outputs among them, never a sum. */
struct sp_team {
	int rank, size;
	struct sp_progress *progress; /* of all ranks; NULL for a team of one */
	int64_t step;                 /* that this rank has come to */
	int64_t held;                 /* outputs that this rank took and is computing */
};

enum {
	SP_MAX_THREADS = 256, /* of one job */
	SP_ROW_GRAIN = 4      /* rows of a cheap row by row operation worth a rank's while */
};

/* Once, before any thread: lets the child of a fork start afresh. */
enum sp_status sp_threads_start(void);
/* Run work(arg, team) on up to `threads` ranks, the caller being rank 0; returns when all have ended. Fewer ranks run
 * where threads cannot be had or the process already has twice as many workers as CPUs. */
void sp_threads_run(int threads, void (*work)(void *arg, struct sp_team *team), void *arg);
/* One step of the team's work: `count` outputs (fewer than 2^32), handed out at least `grain` at a time.
 *     while (sp_team_take(team, count, grain, &first, &end))
 *             compute outputs [first, end);
 * Every rank goes through the same steps in the same order. The loop ends when all outputs are there, whoever computed
 * them; a rank that is not running holds nothing, so nobody waits for it. Whoever took a range must come back. */
int sp_team_take(struct sp_team *team, int64_t count, int64_t grain, int64_t *first, int64_t *end);

/* ---- kernels/dispatch.c and gemm.c: which arithmetic runs; equal bits whichever it is ------------------------------ */

enum sp_engine { SP_PANEL, SP_BLIS };

struct sp_runtime {
	const struct sp_kernels *kernels;
	enum sp_engine engine;    /* of the encoder's products */
	const char *blis_arch;    /* BLIS's sub-configuration, "none" where BLIS is not used */
	const char *blis_version; /* "" where BLIS is not used */
};

/* Choose kernels and engines; NULL means: the best for this CPU. Called once, at import, in one thread. On SP_INVALID
 * *variable names the offending environment variable and *allowed what it may hold here. */
enum sp_status sp_runtime_start(const char *isa, const char *gemm, const char *blis_arch, const char **variable,
                                const char **allowed);
const struct sp_runtime *sp_runtime(void);

/* kernels/dispatch_low.c: which kernels compute in low precision. Chosen when first asked for, since the system must be
 * asked to let this process use AMX; panels and kernels always belong together. */
struct sp_low_runtime {
	const struct sp_bf16_kernels *bf16;
	const struct sp_int8_kernels *int8;
	const char *bf16_unit, *int8_unit; /* "amx", "avx512_bf16", "avx512_vnni", "avx_vnni", or "none" */
};
const struct sp_low_runtime *sp_low_runtime(void);
/* Names of the instruction sets that run on this CPU, NULL-terminated. */
const char *const *sp_isas(void);

/* A strided operand: element (i, j) is data[i * rs + j * cs]. */
struct sp_strided {
	const float *data;
	int64_t rs, cs;
};

/* C[m,n] = A[m,k] B[k,n], by BLIS where it runs, else by our kernels; C row-major, not overlapping A or B. Operands are
 * strided as they come. Fails only for lack of memory. */
enum sp_status sp_gemm(float *c, int64_t ldc, struct sp_strided a, struct sp_strided b, int64_t m, int64_t n,
                       int64_t k);
/* The same for callers between sp_gemm_enter and sp_gemm_leave, m, n, k > 0, where BLIS is the engine: cannot fail. */
void sp_blis_gemm(float *c, int64_t ldc, struct sp_strided a, struct sp_strided b, int64_t m, int64_t n, int64_t k);
/* Announce that up to `threads` threads will be in sp_blis_gemm, so that BLIS's pools can be filled for them: it would
 * abort if it ran out of memory in the middle. Paired with sp_gemm_leave unless it fails. */
enum sp_status sp_gemm_enter(int threads);
void sp_gemm_leave(int threads);
enum sp_status sp_blis_start(const char *arch, const char **chosen, const char **version);

/* Products computed so far by each engine; tests ask which one ran. */
struct sp_gemm_calls {
	int64_t panel, blis;
};
struct sp_gemm_calls sp_gemm_calls(void);
void sp_count_panel_calls(int64_t n);

#include "ops/ops.h"

/* ---- model/model.c: an encoder's weights --------------------------------------------------------------------------- */

/* Layer norm after each residual sum, as in BERT, or before attention and feed-forward, as in ModernBERT, where one more
 * follows the last layer. */
enum sp_norm_place { SP_POST_NORM, SP_PRE_NORM };

/* The descriptor of a layer: all that model/layer.c knows of it besides weights. What a further family of encoders does
 * differently inside a layer becomes a field here. */
struct sp_layer_kind {
	int64_t hidden, heads, intermediate;
	float norm_eps;
	enum sp_activation activation; /* of the feed-forward; of its first half where that is gated */
	enum sp_norm_place norm;
	int64_t rotary;     /* leading values of each head that turn with the position; 0: none */
	double rotary_base; /* see ops/rotary.c */
	int64_t window;     /* local attention: keys at most so far away; 0: all */
};

/* Weights that only some encoders have, besides those whose size may be 0. */
enum sp_part {
	SP_ALWAYS = 0,
	SP_POSITION_TABLE = 1,
	SP_PROJECTION = 2, /* of the embeddings, to the hidden size */
	SP_NORM_BIAS = 4,
	SP_ATTENTION_BIAS = 8,
	SP_FEED_FORWARD_BIAS = 16,
	SP_GATE = 32,
	SP_FIRST_NORM = 64, /* the first layer's norm before attention */
	SP_FINAL_NORM = 128
};

enum { SP_MAX_LAYERS = 1024 };

struct sp_config {
	int64_t vocab_size, max_positions, type_vocab_size; /* type_vocab_size 0: no token types */
	int64_t position_offset;                            /* the first token's row of the position table */
	int64_t padding_id;       /* a token that gets the row before that one and is not counted; -1: none */
	int64_t embedding;        /* E: width of the embedding tables */
	int64_t relative_buckets; /* of the bias by relative position that all layers share; 0: none */
	int64_t layers;
	enum sp_format format;      /* of linear layers' weights and of the table of words */
	int64_t groups;             /* sets of weights; consecutive layers share one */
	unsigned parts;             /* of enum sp_part */
	struct sp_layer_kind layer; /* of layers that attend to all keys; window 0 */
	int64_t local_window;       /* the window of the others, and their base */
	double local_rotary_base;
	unsigned char is_local[SP_MAX_LAYERS];
};

/* What layer l (from 0) is. */
struct sp_layer_kind sp_kind_of_layer(const struct sp_config *config, int64_t l);

struct sp_layer_weights {
	struct sp_matrix qkv; /* query, key, value stacked: [3H, H] */
	struct sp_matrix attention_output, intermediate, gate, output;
	float *qkv_bias, *attention_output_bias, *intermediate_bias, *gate_bias, *output_bias;
	/* post-norm: after attention and after the feed-forward; pre-norm: before them */
	float *attention_norm, *attention_norm_bias, *output_norm, *output_norm_bias;
}; /* NULL: the encoder has not got it */

struct sp_model {
	struct sp_config config;
	struct sp_matrix words, positions, types, relative_bias; /* row-major tables */
	struct sp_matrix projection;
	float *projection_bias, *embedding_norm, *embedding_norm_bias, *final_norm, *final_norm_bias;
	struct sp_layer_weights *group; /* one per set of weights */
	float *weights;                 /* the memory of all of them */
	float *ranges;                  /* the memory of all matrices' ranges */
	int64_t floats;                 /* of that memory */
	int packed;                     /* weights of linear layers lie in panels, else row-major like all others */
	struct sp_slot *slots;          /* one per tensor that this encoder has */
	int64_t n_tensors;
};

/* A tensor as a weight file names it. */
struct sp_tensor {
	char name[96];
	int64_t rows, cols; /* a vector has cols = 0 */
	int64_t loaded;     /* rows received so far */
};

/* Panels are for the panel engine; without them a model serves as parameters or gradients of another, tensor by tensor,
 * all zero. */
enum sp_status sp_model_create(struct sp_model **model, const struct sp_config *config, int packed);
void sp_model_free(struct sp_model *model);
/* The weights of layer l (from 0). */
const struct sp_layer_weights *sp_model_layer(const struct sp_model *model, int64_t l);
/* The i-th expected tensor, i < n_tensors. */
struct sp_tensor sp_model_tensor(const struct sp_model *model, int64_t i);
/* Take `count` rows of tensor i, in order from row 0 on: each call continues where the last one ended. */
enum sp_status sp_model_load(struct sp_model *model, int64_t i, const float *rows, int64_t count);

/* Let sp_matrix.ranges of every linear layer be there (and empty), or no longer. Nothing else may use the model
 * meanwhile, and inputs are watched by calls of one thread. */
enum sp_status sp_model_watch(struct sp_model *model, int on);
/* The matrix of tensor i where it is the first or only one in a linear layer's weight, else NULL. */
const struct sp_matrix *sp_model_linear(const struct sp_model *model, int64_t i);
/* Let that linear layer, in int8, read its input in so many digits, 1 (as it does at first) or 2. Nothing else may use the
 * model meanwhile. */
void sp_model_set_digits(struct sp_model *model, int64_t i, int digits);

/* ---- model/quantize.c: weights in low precision -------------------------------------------------------------------- */

/* Floats that a matrix of whole panels takes, or a table (always in bfloat16). */
int64_t sp_low_matrix_floats(enum sp_format format, int64_t rows, int64_t cols);
int64_t sp_low_table_floats(int64_t rows, int64_t cols);
/* Lay a matrix out in that memory; its shape, format and digits are set. */
void sp_low_matrix_place(struct sp_matrix *matrix, float *memory, int64_t panel_rows);
/* Let inputs of an int8 matrix be divided by 2^(power / 8), column by column, powers from -64 to 64; before loading. */
void sp_low_matrix_smooth(struct sp_matrix *matrix, const int8_t *powers);
/* Take `count` rows from row `first` on. */
enum sp_status sp_low_matrix_load(struct sp_matrix *matrix, int64_t first, const float *rows, int64_t count);
void sp_low_table_load(struct sp_matrix *table, int64_t first, const float *rows, int64_t count);
/* Of a float32 matrix: the largest absolute weight of every column. */
void sp_column_maxima(float *largest, const struct sp_matrix *matrix);
/* Where tensor i begins in the weights of a model that is not packed. */
int64_t sp_model_offset(const struct sp_model *model, int64_t i);
/* All weights of a model to one that is not packed, and back; ranks split the tensors' rows. */
void sp_model_unpack(struct sp_model *rows, const struct sp_model *model);
void sp_model_pack(struct sp_model *model, const struct sp_model *rows, struct sp_team *team);

/* ---- model/positions.c: what attention knows of positions --------------------------------------------------------- */

struct sp_positions {
	float *memory;
	const float *rotary[2]; /* angles in layers that attend to all keys, and in local ones; see sp_rotary_table */
	const float *relative;  /* of head 0, by query - key; the heads' are ld_relative apart; NULL: none */
	int64_t ld_relative;
	const float *window; /* by query - key: 0 within the window, -inf beyond; NULL: none */
};
/* The row of the table of biases for query - key, T5's buckets of relative positions. */
int64_t sp_relative_bucket(int64_t distance, int64_t buckets);
/* Tables for sentences of up to `longest` tokens; free them also after a failure. */
enum sp_status sp_positions_create(struct sp_positions *positions, const struct sp_model *model, int64_t longest);
void sp_positions_free(struct sp_positions *positions);

/* ---- model/encoder.c: sentences in, every layer's states out ---------------------------------------------------------- */

/* Consecutive sentences that go through the network together. offsets has n + 1 entries counted from the chunk's first
 * token; `first` is the index of its first sentence and `token` of its first token in the whole request. */
struct sp_chunk {
	const int32_t *ids;
	int64_t *offsets;
	int64_t n, first, token;
	const struct sp_positions *positions;
	float *kept;   /* the sink's floats_per_token for each token: the same memory at every layer */
	void *scratch; /* the sink's floats_per_rank, this rank's alone; other things use it between the layers */
};

/* Whatever wants the layers gets each one as it is computed: h[N, H] with row stride ld, layer 0 = embedding output. */
struct sp_sink {
	void (*take)(const struct sp_sink *sink, struct sp_team *team, const struct sp_chunk *chunk, int64_t layer,
	             const float *h, int64_t ld);
	const void *request;
	int64_t last_layer; /* nothing above it is computed */
	int64_t H;
	int64_t floats_per_token, floats_per_rank; /* of memory that it needs, see sp_chunk */
};

struct sp_tape; /* model/layer.h */

struct sp_encode_job {
	const struct sp_model *model;
	const int32_t *ids;     /* all tokens, every id < vocab_size */
	const int64_t *offsets; /* B + 1, ascending, every sentence 1 … max_positions - position_offset tokens */
	int64_t B;
	int64_t batch_size; /* most sentences in a chunk */
	int threads;
	const struct sp_dropout *dropout; /* NULL in inference; else no sentence is longer than sp_dropout_longest */
	const struct sp_tape *tape;       /* NULL in inference; else what a backward pass needs is left there */
	struct sp_sink sink;
	int (*poll)(void *); /* called now and then by the calling thread; non-zero stops the job */
	void *poll_arg;
};

/* Run the job. The results do not depend on batch_size or threads, bit for bit. */
enum sp_status sp_encode(const struct sp_encode_job *job);

/* ---- model/pool_tokens.c: two sinks ------------------------------------------------------------------------------- */

enum sp_pooling { SP_CLS, SP_MEAN, SP_MAX, SP_MEAN_SQRT_LEN, SP_WEIGHTED_MEAN, SP_LAST_TOKEN };

/* states[B, n_layers, P, H]: every pooling of every wanted layer. */
struct sp_pool_request {
	float *states;
	const int64_t *layers;
	int64_t n_layers;
	const enum sp_pooling *poolings;
	int64_t n_poolings;
	int64_t skip; /* leading tokens that pooling leaves out (an unwanted prompt) */
};
struct sp_sink sp_pool_tokens_sink(const struct sp_pool_request *request, int64_t H);
/* Add to dh[N, H] what the poolings of `layer` give to its tokens; request->states are gradients here, and h the layer's
 * states. Ranks split sentences. */
void sp_pool_tokens_backward(float *dh, int64_t lddh, const struct sp_pool_request *request,
                             const struct sp_chunk *chunk, int64_t layer, const float *h, int64_t ldh, int64_t H,
                             struct sp_team *team);

/* hidden[L + 1 - first_layer, N, H]: every token's state at every layer from first_layer on. */
struct sp_hidden_request {
	float *hidden;
	int64_t N, first_layer;
};
struct sp_sink sp_hidden_states_sink(const struct sp_hidden_request *request, int64_t layers, int64_t H);

/* ---- model/pool_layers.c, model/layer_attention.c: one vector per layer becomes one vector ---------------------------- */

/* One vector per sentence and layer: state (i, l) begins at data[i * ld_sentence + l * ld_layer]. */
struct sp_layer_rows {
	const float *data;
	int64_t ld_sentence, ld_layer;
};

/* y[n, H] = sum over l < count of weights[l] * state (i, index[l]), divided by divisor. */
void sp_mix_layers_forward(float *y, struct sp_layer_rows states, const int64_t *index, const float *weights,
                           int64_t count, float divisor, int64_t n, int64_t H);
/* Of the first `count` layers: d_states, laid out as `d_layout` says, is stored; the weights' gradient with a fixed
 * divisor is added to d_weights[count], row after row. dy has rows ld apart. */
void sp_mix_layers_backward(float *d_states, struct sp_layer_rows d_layout, double *d_weights, const float *dy,
                            int64_t ld, struct sp_layer_rows states, const float *weights, int64_t count, float divisor,
                            int64_t n, int64_t H);

/* Where RReLU's slopes are drawn; sentence i of a call is row first_row + i, below 2^32. */
struct sp_rrelu {
	uint64_t seed;
	uint32_t step;
	int64_t first_row;
};

/* Layer-wise attention (Oh et al. 2022, equations in layer_attention.c). The weights are [H, H], rows are outputs. */
struct sp_layer_attention {
	const float *query, *key, *value;
	float slope;                  /* of RReLU below zero where none is drawn; 11/48 at inference */
	const struct sp_rrelu *drawn; /* training's slopes; NULL: `slope` */
	int64_t H;
};

/* Sources and targets of n sentences, `layers` rows of H values each for every sentence, all rows ld apart. */
struct sp_attention_states {
	const float *sources, *targets;
	int64_t ld_sources, ld_targets, n, layers;
};

/* u[n, H]; weights[n, layers], the mean attention that each layer gets; and projections[3, n, layers, H], which the
 * backward pass takes. u and projections may be NULL. */
enum sp_status sp_layer_attention_forward(float *u, float *weights, float *projections,
                                          const struct sp_layer_attention *attention, struct sp_attention_states states,
                                          int threads);
/* All gradients are stored: d_states[n, layers, 2, H], of a layer's source, then of its target; d_query and so on
 * [H, H]. */
enum sp_status sp_layer_attention_backward(float *d_states, float *d_query, float *d_key, float *d_value,
                                           const float *du, const float *projections,
                                           const struct sp_layer_attention *attention,
                                           struct sp_attention_states states, int threads);

/* ---- model/sbert_wk.c: a sink that looks at all layers of a token at once ---------------------------------------- */

/* vectors[B, H] by SBERT-WK over layers layer_start … L, with `window` layers on each side of a layer. */
struct sp_sbert_wk_request {
	float *vectors;
	int64_t layer_start, window;
	int64_t skip; /* as in sp_pool_request */
};
struct sp_sink sp_sbert_wk_sink(const struct sp_sbert_wk_request *request, int64_t layers, int64_t H);

/* ---- model/head.c, model/similarity.c: after the pooling --------------------------------------------------------------- */

/* y[n, out] = f(x[n, in] W[out, in]^T + bias[out]); bias may be NULL. */
enum sp_status sp_dense_forward(float *y, struct sp_strided x, struct sp_strided weight, const float *bias,
                                enum sp_activation f, int64_t n, int64_t out, int64_t in);
/* dx[n, in], dweight[out, in] and dbias[out] are stored. */
enum sp_status sp_dense_backward(float *dx, float *dweight, float *dbias, const float *dy, struct sp_strided x,
                                 struct sp_strided weight, const float *bias, enum sp_activation f, int64_t n,
                                 int64_t out, int64_t in);
/* y[n, d] = x / max(||x||, 1e-12), row by row. */
void sp_normalize_forward(float *y, const float *x, int64_t n, int64_t d);
/* dx[n, d] is stored. */
void sp_normalize_backward(float *dx, const float *dy, const float *x, int64_t n, int64_t d);

enum sp_metric { SP_COSINE, SP_DOT, SP_EUCLIDEAN, SP_MANHATTAN, SP_HAMMING /* of a search alone */ };
/* Similarities in float64, summed in one fixed order; distances are negated. The cosine of equal vectors is exactly 1,
 * of a zero vector 0. Of x and y, whose products with themselves are xx and yy (cosines need them); out[n] for rows of
 * a and b one by one, out[n, m] for every row of a against every row of b, on
 * `threads` threads and with poll as in sp_encode. */
double sp_cosine(double xy, double xx, double yy); /* from products */
double sp_similarity(const float *x, const float *y, double xx, double yy, int64_t d, enum sp_metric metric);
void sp_similarity_pairwise(double *out, const float *a, const float *b, int64_t n, int64_t d, enum sp_metric metric);
enum sp_status sp_similarity_matrix(float *out, const float *a, int64_t n, const float *b, int64_t m, int64_t d,
                                    enum sp_metric metric, int threads, int (*poll)(void *), void *poll_arg);

/* ---- model/search.c: the most similar rows of a corpus ------------------------------------------------------------- */

/* What the rows of a corpus are made of; by Hamming distance d counts bytes, and queries are bytes too. */
enum sp_code { SP_CODE_FLOAT32, SP_CODE_INT8, SP_CODE_UINT8, SP_CODE_BITS };

struct sp_search_job {
	int64_t *ids;             /* [n_queries, k], best first, equal scores by ascending row */
	float *scores;            /* [n_queries, k], what sp_similarity gives, rounded; distances negated */
	const float *queries;     /* [n_queries, d], without gaps */
	struct sp_strided corpus; /* [n, d], if it is SP_CODE_FLOAT32; else */
	const uint8_t *codes;     /* [n, d], rows code_ld bytes apart */
	const uint8_t *bits;      /* [n_queries, d]: the queries, if it is SP_CODE_BITS */
	int64_t code_ld;
	enum sp_code code;
	int64_t n_queries, n, d, k; /* 0 < k <= n */
	enum sp_metric metric;      /* cosine, dot or euclidean; SP_HAMMING of SP_CODE_BITS */
	int threads;
	int (*poll)(void *); /* as in sp_encode_job */
	void *poll_arg;
	int64_t bad_query, bad_row; /* the first that is not finite or too long for products in float32; else -1 */
};

/* Run the job. The results do not depend on threads, bit for bit. SP_INVALID: see bad_query, bad_row. */
enum sp_status sp_search(struct sp_search_job *job);

/* ---- base/math64.c: float64 functions with the same bits on every machine --------------------------------------------- */

double sp_exp64(double x);
double sp_log64(double x); /* NaN below 0 */

/* ---- base/normal.c -------------------------------------------------------------------------------------------------- */

/* n < 2^30 numbers of N(0, deviation^2); `stream` tells tensors of one seed apart. */
void sp_fresh_normal(float *out, int64_t n, double deviation, uint64_t seed, uint32_t stream);

#endif
