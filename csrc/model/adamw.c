/* adamw.c: the optimiser (Loshchilov & Hutter 2019), over blocks of parameters: what is frozen is in no block.
 *
 * The norm of the gradients is summed block by block in float64, blocks in ascending order.
 */
#include "training.h"

struct norm_job {
	double *partial;
	const float *gradients;
	const struct sp_block *blocks;
	int64_t count;
};

static void squares(void *arg, struct sp_team *team)
{
	struct norm_job *job = arg;
	int64_t first, end;
	while (sp_team_take(team, job->count, 1, &first, &end))
		for (int64_t b = first; b < end; b++) {
			const float *g = job->gradients + job->blocks[b].start;
			int64_t n = job->blocks[b].end - job->blocks[b].start;
			sp_runtime()->kernels->dots(job->partial + b, g, g, n, 1, n);
		}
}

enum sp_status sp_gradient_squares(double *sum, const float *gradients, const struct sp_block *blocks, int64_t count,
                                   int threads)
{
	struct norm_job job = {sp_bytes((size_t)count * sizeof(double)), gradients, blocks, count};
	if (!job.partial)
		return SP_NO_MEMORY;
	sp_threads_run(threads, squares, &job);
	*sum = 0;
	for (int64_t b = 0; b < count; b++)
		*sum = *sum + job.partial[b];
	sp_free(job.partial);
	return SP_OK;
}

static void update(void *arg, struct sp_team *team)
{
	const struct sp_adamw_job *job = arg;
	struct sp_adamw decayed = job->step, plain = job->step;
	plain.decay = 1;
	int64_t first, end;
	while (sp_team_take(team, job->count, 1, &first, &end))
		for (int64_t b = first; b < end; b++) {
			const struct sp_block *block = job->blocks + b;
			sp_runtime()->kernels->adamw(job->masters + block->start, job->first + block->moment,
			                             job->second + block->moment, job->gradients + block->start,
			                             block->decayed ? &decayed : &plain, block->end - block->start);
		}
}

void sp_adamw_update(const struct sp_adamw_job *job, int threads)
{
	struct sp_adamw_job copy = *job;
	sp_threads_run(threads, update, &copy);
}
