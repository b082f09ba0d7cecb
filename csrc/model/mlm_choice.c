/* mlm_choice.c: which tokens a masked language model has to guess, and what it sees in their place (Devlin et al. 2019).
 *
 * A token that is not special is chosen where its first draw is below 15 %. By the second draw it is replaced by the mask
 * in 80 % of cases, by a token of the whole vocabulary, which the third draw picks, in 10 %, and stays in 10 %.
 * A token has a counter of its own (kernels/philox.h), so the choice does not depend on how a batch is cut.
 */
#include "training.h"

#include "kernels/philox.h"

static uint32_t threshold(double probability)
{
	return (uint32_t)(probability * 4294967296.0);
}

int64_t sp_mlm_choice(int32_t *ids, int64_t *positions, int32_t *labels, const int64_t *offsets, int64_t B,
                      const struct sp_mlm_choice *choice)
{
	const uint32_t chosen = threshold(0.15), masked = threshold(0.8), random = threshold(0.9);
	int64_t count = 0;
	for (int64_t sentence = 0; sentence < B; sentence++)
		for (int64_t i = offsets[sentence]; i < offsets[sentence + 1]; i++) {
			uint32_t token = (uint32_t)(i - offsets[sentence]), draw[4];
			uint32_t counter[] = {choice->step, SP_SITE_MASKED | token >> 16 << 27,
			                      (uint32_t)(choice->first_row + sentence), token << 16};
			sp_philox(draw, counter, choice->seed);
			if (choice->special[ids[i]] || draw[0] >= chosen)
				continue;
			positions[count] = i;
			labels[count++] = ids[i];
			if (draw[1] < masked)
				ids[i] = choice->mask_id;
			else if (draw[1] < random)
				ids[i] = (int32_t)((uint64_t)draw[2] * (uint64_t)choice->vocab_size >> 32);
		}
	return count;
}
