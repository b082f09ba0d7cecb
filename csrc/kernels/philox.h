/* philox.h: Philox4x32-10, from which every random draw comes, and the counters by which it is asked.
 *
 * A generator without state (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011): seed and
 * counter give four words. Whoever knows where a value is knows its draw: masks need no memory, no order of computation
 * changes them, and backward replays them. The counter says where a value is:
 *     word 0   step
 *     word 1   site | layer << 16          besides, above 16 bits:  block >> 16 << 4 | token >> 16 << 27
 *     word 2   row of the sentence in the flattened batch
 *     word 3   (token & 0xffff) << 16 | (block & 0xffff)
 * A block is four values side by side, one for each word that comes out: four columns of a token's hidden state; of
 * attention probabilities four keys, token being the query and block = head * ceil(T / 4) + key / 4.
 * No field reaches the next one, so no two values share a draw: 16 sites, 2^28 blocks, 2^11 layers, 2^21 tokens.
 */
#ifndef SP_PHILOX_H
#define SP_PHILOX_H

#include <stdint.h>

#define SP_PHILOX_M0 0xD2511F53u /* factors of the rounds */
#define SP_PHILOX_M1 0xCD9E8D57u
#define SP_PHILOX_W0 0x9E3779B9u /* what the key grows by from round to round */
#define SP_PHILOX_W1 0xBB67AE85u

enum { SP_PHILOX_ROUNDS = 10, SP_DRAW_TOKENS = 1 << 21, SP_DRAW_BLOCKS = 1 << 28 };

/* The four words of one counter. */
static inline void sp_philox(uint32_t words[4], const uint32_t counter[4], uint64_t seed)
{
	uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
	for (int round = 0; round < SP_PHILOX_ROUNDS; round++) {
		uint64_t p0 = (uint64_t)SP_PHILOX_M0 * c0, p1 = (uint64_t)SP_PHILOX_M1 * c2;
		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += SP_PHILOX_W0;
		k1 += SP_PHILOX_W1;
	}
	words[0] = c0;
	words[1] = c1;
	words[2] = c2;
	words[3] = c3;
}

#endif
