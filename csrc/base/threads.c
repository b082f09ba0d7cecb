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

/* Where a team is. `at` is the current step << 32 | its outputs handed out so far; whoever completes a step opens the
 * next one. The two are a cache line apart: ranks that wait read `at` all the time. */
struct sp_progress {
	_Alignas(64) _Atomic int64_t at;
	_Alignas(64) _Atomic int64_t done; /* outputs of the current step that are computed */
};

struct job {
	void (*work)(void *arg, struct sp_team *team);
	void *arg;
	struct sp_progress progress;
	cpu_set_t allowed; /* where workers may run */
	int placed;        /* whether they start on a part of it */
	_Atomic int size;  /* 0 until it is known how many threads started */
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

/* Hand in what the rank took; the last one of a step opens the next. */
static void hand_in(struct sp_team *team, int64_t count)
{
	struct sp_progress *progress = team->progress;
	int64_t done = atomic_fetch_add(&progress->done, team->held) + team->held;
	team->held = 0;
	if (done == count) {
		atomic_store_explicit(&progress->done, 0, memory_order_relaxed);
		atomic_store(&progress->at, (team->step + 1) << 32);
	}
}

static int take_alone(struct sp_team *team, int64_t count, int64_t *first, int64_t *end)
{
	*first = team->held;
	*end = count;
	team->held = *first < count ? count : 0;
	return *first < count;
}

int sp_team_take(struct sp_team *team, int64_t count, int64_t grain, int64_t *first, int64_t *end)
{
	if (team->size == 1 || count <= 0)
		return take_alone(team, count, first, end);
	if (team->held)
		hand_in(team, count);
	_Atomic int64_t *at = &team->progress->at;
	int64_t seen = atomic_load(at);
	for (int spins = 0; seen >> 32 == team->step;) {
		int64_t taken = seen & UINT32_MAX, left = count - taken;
		int64_t share = left / (2 * team->size); /* large ones first, small ones to even out the end */
		share = share < grain ? grain : share;
		share = share < left ? share : left;
		if (!share) {
			relax(&spins);
			seen = atomic_load(at);
		} else if (atomic_compare_exchange_weak(at, &seen, seen + share)) {
			*first = taken;
			*end = taken + share;
			team->held = share;
			return 1;
		}
	}
	team->step++;
	return 0;
}

static void work_as(struct job *job, int rank)
{
	struct sp_team team = {.rank = rank, .size = atomic_load(&job->size), .progress = &job->progress};
	unsigned saved = sp_float_mode_enter();
	job->work(job->arg, &team);
	sp_float_mode_leave(saved);
}

static void *worker_main(void *p)
{
	struct worker *worker = p;
	int spins = 0;
	if (worker->job->placed)
		pthread_setaffinity_np(pthread_self(), sizeof worker->job->allowed, &worker->job->allowed);
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

/* Attributes of a thread that starts on any CPU but ours. Left alone, Linux often starts it on ours, where it waits for
 * us for milliseconds while another CPU idles. Returns 0 where there is no other CPU. */
static int start_elsewhere(pthread_attr_t *attributes, cpu_set_t *allowed)
{
	if (sched_getaffinity(0, sizeof *allowed, allowed) != 0 || CPU_COUNT(allowed) < 2)
		return 0;
	cpu_set_t others = *allowed;
	CPU_CLR((size_t)sched_getcpu(), &others);
	if (pthread_attr_init(attributes) != 0)
		return 0;
	if (pthread_attr_setaffinity_np(attributes, sizeof others, &others) == 0)
		return 1;
	pthread_attr_destroy(attributes);
	return 0;
}

/* Start up to `wanted` workers; returns how many run. */
static int start_workers(struct job *job, struct worker *workers, int wanted)
{
	pthread_attr_t attributes;
	int started = 0;
	job->placed = start_elsewhere(&attributes, &job->allowed);
	for (; started < wanted; started++) {
		struct worker *worker = &workers[started];
		*worker = (struct worker){.job = job, .rank = started + 1};
		if (pthread_create(&worker->thread, job->placed ? &attributes : NULL, worker_main, worker) != 0 &&
		    pthread_create(&worker->thread, NULL, worker_main, worker) != 0)
			break; /* the ranks that did start do the work */
	}
	if (job->placed)
		pthread_attr_destroy(&attributes);
	return started;
}

void sp_threads_run(int threads, void (*work)(void *arg, struct sp_team *team), void *arg)
{
	struct job job = {.work = work, .arg = arg};
	int granted = reserve_workers(threads > SP_MAX_THREADS ? SP_MAX_THREADS - 1 : threads - 1);
	struct worker *workers = granted ? sp_bytes((size_t)granted * sizeof *workers) : NULL;
	int started = workers ? start_workers(&job, workers, granted) : 0;
	atomic_store(&job.size, started + 1);
	work_as(&job, 0);
	for (int i = 0; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	atomic_fetch_sub(&workers_alive, granted);
	sp_free(workers);
}
