/* timing.c: the two loops that Python is too slow for. peak.py compiles this file on the fly.
 *
 * fma_peak(): what the cores can compute at most. Every thread runs chains of fused multiply-adds that stay in
 * registers, enough of them to hide the latency of the units; all lanes end in the result, so that no compiler may
 * drop one. gemm_seconds(): one kernel of csrc/kernels/, called again and again.
 */
#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { MAX_THREADS = 256 };

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Rows lie `padding` floats further apart than they are long, as the encoder keeps them: powers of two collide. */
double gemm_seconds(void (*gemm)(float *, int64_t, struct sp_panel_a, struct sp_panel_b, const float *, int64_t,
                                 int64_t, int64_t),
                    float *c, const float *a, const float *b, const float *bias, int64_t m, int64_t n, int64_t k,
                    int64_t nr, int64_t padding, int64_t calls)
{
	double start = now();
	for (int64_t i = 0; i < calls; i++)
		gemm(c, n + padding, (struct sp_panel_a){a, k + padding, 0}, (struct sp_panel_b){b, k * nr, nr}, bias, m, n, k);
	return now() - start;
}

#if defined(__x86_64__)

#define TWELVE(DO, type, op)                                                                                           \
	DO(0, type, op)                                                                                                \
	DO(1, type, op) DO(2, type, op) DO(3, type, op) DO(4, type, op) DO(5, type, op) DO(6, type, op)                \
		DO(7, type, op) DO(8, type, op) DO(9, type, op) DO(10, type, op) DO(11, type, op)
#define TWELVE_MORE(DO, type, op)                                                                                      \
	DO(12, type, op)                                                                                               \
	DO(13, type, op) DO(14, type, op) DO(15, type, op) DO(16, type, op) DO(17, type, op) DO(18, type, op)          \
		DO(19, type, op) DO(20, type, op) DO(21, type, op) DO(22, type, op) DO(23, type, op)
#define START(i, type, set) type chain##i = set(1.0f + i);
#define STEP(i, type, fmadd) chain##i = fmadd(chain##i, factor, term);
#define ADD(i, type, add) sum = add(sum, chain##i);

/* 16 registers: 12 chains and two constants. */
__attribute__((target("avx2,fma"))) static float burst_avx2(int64_t steps)
{
	const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(0.001f);
	__m256 sum = _mm256_setzero_ps();
	TWELVE(START, __m256, _mm256_set1_ps)
	for (int64_t i = 0; i < steps; i++) {
		TWELVE(STEP, __m256, _mm256_fmadd_ps)
	}
	TWELVE(ADD, __m256, _mm256_add_ps)
	float lanes[8], total = 0.0f;
	_mm256_storeu_ps(lanes, sum);
	for (int i = 0; i < 8; i++)
		total += lanes[i];
	return total;
}

/* 32 registers: 24 chains. */
__attribute__((target("avx512f"))) static float burst_avx512(int64_t steps)
{
	const __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(0.001f);
	__m512 sum = _mm512_setzero_ps();
	TWELVE(START, __m512, _mm512_set1_ps)
	TWELVE_MORE(START, __m512, _mm512_set1_ps) for (int64_t i = 0; i < steps; i++){
		TWELVE(STEP, __m512, _mm512_fmadd_ps)
			TWELVE_MORE(STEP, __m512, _mm512_fmadd_ps)} TWELVE(ADD, __m512, _mm512_add_ps)
		TWELVE_MORE(ADD, __m512, _mm512_add_ps) float lanes[16],
		total = 0.0f;
	_mm512_storeu_ps(lanes, sum);
	for (int i = 0; i < 16; i++)
		total += lanes[i];
	return total;
}

struct crew {
	float (*burst)(int64_t steps);
	int64_t steps;
	int bursts;
	pthread_barrier_t together;
};

struct member {
	struct crew *crew;
	double *start, *end; /* of every burst */
	volatile float sink;
};

static void *work(void *arg)
{
	struct member *me = arg;
	for (int i = 0; i < me->crew->bursts; i++) {
		pthread_barrier_wait(&me->crew->together);
		me->start[i] = now();
		me->sink = me->crew->burst(me->crew->steps);
		me->end[i] = now();
	}
	return NULL;
}

/* Floating-point operations per second of all threads together in the best of `bursts` bursts of about `seconds`,
 * from the first start to the last end; lanes 8 = AVX2, 16 = AVX-512. `times` holds 2 * threads * bursts doubles.
 * Negative: not to be had. */
double fma_peak(int lanes, int threads, int bursts, double seconds, double *times)
{
	struct crew crew = {lanes == 16 ? burst_avx512 : burst_avx2, 100000, bursts, {{0}}};
	struct member member[MAX_THREADS];
	pthread_t thread[MAX_THREADS];
	if (threads > MAX_THREADS || pthread_barrier_init(&crew.together, NULL, (unsigned)threads))
		return -1;

	crew.burst(crew.steps); /* the first use of wide registers may wake them up */
	double start = now();
	volatile float sink = crew.burst(crew.steps);
	crew.steps = (int64_t)((double)crew.steps * seconds / (now() - start)) + 1;
	(void)sink;

	for (int t = 0; t < threads; t++) {
		member[t] = (struct member){&crew, times + 2 * t * bursts, times + (2 * t + 1) * bursts, 0.0f};
		if (t > 0 && pthread_create(&thread[t], NULL, work, &member[t]))
			return -1;
	}
	work(&member[0]);
	for (int t = 1; t < threads; t++)
		pthread_join(thread[t], NULL);
	pthread_barrier_destroy(&crew.together);

	double shortest = 1e30;
	for (int i = 0; i < bursts; i++) {
		double first = member[0].start[i], last = member[0].end[i];
		for (int t = 1; t < threads; t++) {
			first = member[t].start[i] < first ? member[t].start[i] : first;
			last = member[t].end[i] > last ? member[t].end[i] : last;
		}
		shortest = last - first < shortest ? last - first : shortest;
	}
	double chains = lanes == 16 ? 24 : 12;
	return 2.0 * lanes * chains * (double)crew.steps * threads / shortest;
}

#else

double fma_peak(int lanes, int threads, int bursts, double seconds, double *times)
{
	(void)lanes, (void)threads, (void)bursts, (void)seconds, (void)times;
	return -1;
}

#endif
