/* groups.c: which tokens' gradients are summed together, by the lengths of sentences alone.
 *
 * A group is as many consecutive sentences as have up to SP_KC tokens in all; a longer sentence is alone, and cut every
 * SP_KC tokens. A chunk that begins and ends with groups has the groups of the batch that it is cut from, so the sums do
 * not depend on how a batch is cut.
 */
#include "model/encoder_training.h"

/* The sentence after the group that begins with sentence `first`. */
static int64_t group_end(const int64_t *offsets, int64_t first, int64_t B)
{
	int64_t end = first + 1;
	while (end < B && offsets[end + 1] - offsets[first] <= SP_KC)
		end++;
	return end;
}

int64_t sp_sentence_groups(int64_t *sentences, const int64_t *offsets, int64_t B)
{
	int64_t n = 0;
	for (int64_t first = 0; first < B; first = group_end(offsets, first, B))
		sentences[n++] = first;
	sentences[n] = B;
	return n;
}

int64_t sp_token_groups(int64_t *cuts, const int64_t *offsets, int64_t B)
{
	int64_t n = 0;
	for (int64_t first = 0, end; first < B; first = end) {
		end = group_end(offsets, first, B);
		for (int64_t row = offsets[first]; row < offsets[end]; row += SP_KC)
			cuts[n++] = row;
	}
	cuts[n] = B ? offsets[B] : 0;
	return n;
}
