/* threads.c: plain threads, made for one job and joined at its end.
 *
 * Starting two threads costs tens of microseconds, which a job of a millisecond can afford; in return there is no pool
 * to lose in a fork, no runtime to clash with, and nothing left running between calls.
 */
#include "sentpool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { SPINS_BEFORE_YIELD = 2000 };

/* Ranks count themselves in; the last one opens the next phase. */
struct sp_barrier {
	_Atomic int arrived, phase;
};

struct job {
	void (*work)(void *arg, struct sp_team team);
	void *arg;
	struct sp_barrier barrier;
	_Atomic int size; /* 0 until it is known how many threads started */
};

struct worker {
	struct job *job;
	int rank;
	pthread_t thread;
};

static _Atomic int workers_alive;

static void relax(int *spins)
{
	if (++*spins > SPINS_BEFORE_YIELD)
		sched_yield();
#if defined(__x86_64__)
	else
		_mm_pause();
#endif
}

void sp_team_wait(struct sp_team team)
{
	if (team.size == 1)
		return;
	struct sp_barrier *barrier = team.barrier;
	int phase = atomic_load_explicit(&barrier->phase, memory_order_relaxed), spins = 0;
	if (atomic_fetch_add(&barrier->arrived, 1) == team.size - 1) {
		atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
		atomic_store(&barrier->phase, phase + 1);
		return;
	}
	while (atomic_load(&barrier->phase) == phase)
		relax(&spins);
}

void sp_team_range(struct sp_team team, int64_t count, int64_t *first, int64_t *end)
{
	*first = count * team.rank / team.size;
	*end = count * (team.rank + 1) / team.size;
}

static void work_as(struct job *job, int rank)
{
	struct sp_team team = {rank, atomic_load(&job->size), &job->barrier};
	unsigned saved = sp_float_mode_enter();
	job->work(job->arg, team);
	sp_float_mode_leave(saved);
}

static void *worker_main(void *p)
{
	struct worker *worker = p;
	int spins = 0;
	while (atomic_load(&worker->job->size) == 0)
		relax(&spins);
	work_as(worker->job, worker->rank);
	return NULL;
}

/* How many of `wanted` extra workers may start now: the process never has more than twice its CPUs. */
static int reserve_workers(int wanted)
{
	int limit = 2 * sp_cpu_count(), alive = atomic_load(&workers_alive), granted;
	do {
		granted = alive + wanted > limit ? limit - alive : wanted;
		if (granted <= 0)
			return 0;
	} while (!atomic_compare_exchange_weak(&workers_alive, &alive, alive + granted));
	return granted;
}

/* In the child of a fork the workers of the parent do not exist. */
static void forget_workers(void)
{
	atomic_store(&workers_alive, 0);
}

enum sp_status sp_threads_start(void)
{
	return pthread_atfork(NULL, NULL, forget_workers) == 0 ? SP_OK : SP_NO_MEMORY;
}

void sp_threads_run(int threads, void (*work)(void *arg, struct sp_team team), void *arg)
{
	struct job job = {.work = work, .arg = arg};
	int granted = reserve_workers(threads > SP_MAX_THREADS ? SP_MAX_THREADS - 1 : threads - 1), started = 0;
	struct worker *workers = granted ? sp_bytes((size_t)granted * sizeof *workers) : NULL;
	for (; workers && started < granted; started++) {
		workers[started].job = &job;
		workers[started].rank = started + 1;
		if (pthread_create(&workers[started].thread, NULL, worker_main, &workers[started]) != 0)
			break; /* the ranks that did start do the work */
	}
	atomic_store(&job.size, started + 1);
	work_as(&job, 0);
	for (int i = 0; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	atomic_fetch_sub(&workers_alive, granted);
	sp_free(workers);
}
