/* training.h: what training needs besides the encoder: losses of embeddings, masked language modelling, the optimiser. Sizes,
 * ownership and errors are those of sentpool.h.
 */
#ifndef SP_TRAINING_H
#define SP_TRAINING_H

#include "sentpool.h"

/* ---- model/infonce.c, model/cosent.c: losses of embeddings, and their gradients ---------------------------------------- */

/* u[d] = z / |z|, and back: dz from du, which may be dz. Zeros where |z| is 0. */
void sp_unit_row_forward(float *u, double *norm, const float *z, int64_t d);
void sp_unit_row_backward(float *dz, const float *du, const float *u, double norm, int64_t d);

/* Embeddings z[roles, n, d] of 2 or 3 roles; the formula is in infonce.c. poll as in sp_encode. */
struct sp_infonce {
	const float *z;
	int64_t roles, n, d;
	double scale, log_alpha; /* 1 / temperature; added to the own hard negative's logit */
	int symmetric;
	int (*poll)(void *);
	void *poll_arg;
};
/* *value = the loss, dz[roles, n, d] its gradient; the same bits for any number of threads. */
enum sp_status sp_infonce(double *value, float *dz, const struct sp_infonce *loss, int threads);

/* Embeddings z[2, n, d] of pairs with scores[n]; the formula is in cosent.c. */
struct sp_cosent {
	const float *z;
	const double *scores;
	int64_t n, d;
	double scale;
	int (*poll)(void *);
	void *poll_arg;
};
enum sp_status sp_cosent(double *value, float *dz, const struct sp_cosent *loss, int threads);

/* ---- model/mlm_choice.c, model/mlm_head.c: masked language modelling ---------------------------------------------------- */

struct sp_mlm_choice {
	uint64_t seed;
	uint32_t step;
	int64_t first_row;      /* sentence i is row first_row + i, below 2^32 */
	const uint8_t *special; /* [V]: tokens that are never chosen */
	int64_t vocab_size;
	int32_t mask_id;
};
/* Replace some of the tokens of B sentences. positions and labels, which have room for all tokens, get where they were, in
 * ascending order, and what they were; returns how many. Every id is below vocab_size. */
int64_t sp_mlm_choice(int32_t *ids, int64_t *positions, int32_t *labels, const int64_t *offsets, int64_t B,
                      const struct sp_mlm_choice *choice);

/* E is the width of the word table, V its length. */
struct sp_mlm_head {
	const float *dense, *dense_bias; /* [E, H], [E] */
	const float *gamma, *beta;       /* [E] */
	const float *words, *bias;       /* [V, E], [V] */
	int64_t H, E, V;
	float eps;
	enum sp_activation activation;
};
/* Of the same shapes; added to. */
struct sp_mlm_gradients {
	float *dense, *dense_bias, *gamma, *beta, *words, *bias;
};
struct sp_mlm_job {
	const struct sp_mlm_head *head;
	const struct sp_mlm_gradients *gradients;
	const float *x;        /* [m, H], m > 0 */
	const int32_t *labels; /* [m], below V */
	int64_t m;
	struct sp_groups groups; /* of the rows, none empty */
	double scale;
	double *losses; /* [m]: of each row, without scale */
	float *dx;      /* [m, H]: gradient of scale * the sum of losses, as all others */
	int (*poll)(void *);
	void *poll_arg;
};
/* The same bits for any number of threads; gradients are undefined after a failure. */
enum sp_status sp_mlm_head(const struct sp_mlm_job *job, int threads);

/* ---- model/adamw.c: the optimiser --------------------------------------------------------------------------------------- */

/* Parameters [start, end) that are trained, with their moments from `moment` on. */
struct sp_block {
	int64_t start, end, moment, decayed;
};
/* The sum of the squares of all gradients in the blocks. */
enum sp_status sp_gradient_squares(double *sum, const float *gradients, const struct sp_block *blocks, int64_t count,
                                   int threads);
struct sp_adamw_job {
	float *masters, *first, *second;
	const float *gradients;
	const struct sp_block *blocks;
	int64_t count;
	struct sp_adamw step; /* its decay is that of blocks that decay */
};
void sp_adamw_update(const struct sp_adamw_job *job, int threads);

#endif
