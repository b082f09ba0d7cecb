/* encoder_training.h: an encoder in training, as its callers see it and what it is made of. */
#ifndef SP_ENCODER_TRAINING_H
#define SP_ENCODER_TRAINING_H

#include "model/layer.h"

/* Groups of sentences, and groups of tokens (see model/groups.c): where each begins, and at last where they end. They
 * return how many; there are up to B, and up to B + N / SP_KC. */
int64_t sp_sentence_groups(int64_t *sentences, const int64_t *offsets, int64_t B);
int64_t sp_token_groups(int64_t *cuts, const int64_t *offsets, int64_t B);

/* Sentences, and what is wanted of them; the arrays stay the caller's until the tape is used up. */
struct sp_training_batch {
	const int32_t *ids;
	const int64_t *offsets; /* B + 1, as in sp_encode_job */
	int64_t B;
	struct sp_pool_request pool;
	const int64_t *positions; /* ascending numbers of tokens … */
	int64_t n_positions;
	float *rows;        /* … whose states of the last layer go here [n_positions, H] */
	int64_t last_layer; /* that is computed; set by sp_training_forward */
};

struct sp_training;
/* model stays the caller's; its weights change with sp_training_update alone. Of dropout, step and row are set later. */
enum sp_status sp_training_create(struct sp_training **training, struct sp_model *model, struct sp_dropout dropout,
                                  int threads);
void sp_training_free(struct sp_training *training);
/* The parameters become the model's weights. */
void sp_training_update(struct sp_training *training, int threads);
/* states and rows of a batch, with dropout of `step` and of rows from first_row on; keep: with a tape for one backward
 * pass. The results do not depend on threads, nor on where a larger batch was cut. */
enum sp_status sp_training_forward(struct sp_training *training, const struct sp_training_batch *batch, uint32_t step,
                                   int64_t first_row, int keep, int threads, int (*poll)(void *), void *poll_arg);
/* Add the gradients of all parameters, given those of states and rows. SP_INVALID without a tape, which is used up. */
enum sp_status sp_training_backward(struct sp_training *training, const float *dstates, const float *drows, int threads,
                                    int (*poll)(void *), void *poll_arg);

struct sp_buffer {
	float *memory;
	int64_t capacity;
};

struct sp_training {
	struct sp_model *model;               /* the caller's */
	struct sp_model *masters, *gradients; /* the parameters and what is summed for them; not packed */
	struct sp_dropout dropout;            /* with the step and first row of the last forward pass */

	float *transposed; /* the memory of the next two */
	struct sp_matrix projection_transposed;
	struct sp_layer_transposed *layer_transposed; /* one per set of weights */

	struct sp_training_batch batch; /* of the tape */
	int has_tape;
	struct sp_tape tape;
	struct sp_buffer tape_memory, gradient_memory;
	struct sp_layer_gradients gradients_of_layer; /* without the scratch of ranks */
	float *dembedded, *dsums, *normed_sums;       /* [N, E] for the embeddings */
};

/* Floats of the table of biases by relative position, which every sentence sums gradients for. */
int64_t sp_relative_floats(const struct sp_config *config);
/* Make room on the tape for N tokens; in the buffers of the gradient for N tokens, `ranks` ranks, chunks of up to `most`
 * tokens and sentences of up to `longest`, and set the ranks' own. */
enum sp_status sp_tape_reserve(struct sp_training *training, int64_t N);
enum sp_status sp_gradients_reserve(struct sp_training *training, int64_t N, struct sp_layer_gradients *of_rank,
                                    int ranks, int64_t most, int64_t longest);

#endif
