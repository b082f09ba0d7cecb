/* training.h: what an encoder in training is made of. */
#ifndef SP_TRAINING_H
#define SP_TRAINING_H

#include "model/layer.h"

struct sp_buffer {
	float *memory;
	int64_t capacity;
};

struct sp_training {
	struct sp_model *model;               /* the caller's */
	struct sp_model *masters, *gradients; /* not packed */
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

/* Make room on the tape for N tokens; in the buffers of the gradient for N tokens, `ranks` ranks, chunks of up to `most`
 * tokens and sentences of up to `longest`, and set the ranks' own. */
enum sp_status sp_tape_reserve(struct sp_training *training, int64_t N);
enum sp_status sp_gradients_reserve(struct sp_training *training, int64_t N, struct sp_layer_gradients *of_rank,
                                    int ranks, int64_t most, int64_t longest);

#endif
