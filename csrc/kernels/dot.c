/* dot.c: dot products in float64, for similarities: exact products, 8 virtual lanes, one fold. */
#include "kernels/kernels.h"
#include "kernels/vec.h"

enum { LANES64 = 8, VL64 = VL / 2, VECS64 = LANES64 / VL64, ROWS = 4 };

typedef double vd __attribute__((vector_size(4 * VL)));
typedef float vf_narrow __attribute__((vector_size(2 * VL)));

/* 8 virtual lanes: lane i takes elements i, i + 8, i + 16, … */
struct lanes64 {
	vd v[VECS64];
};

INLINE struct lanes64 load(const float *x, int64_t n)
{
	float part[LANES64] = {0};
	struct lanes64 s;
	if (n < LANES64) {
		memcpy(part, x, (size_t)n * sizeof(float));
		x = part;
	}
	UNROLL
	for (int j = 0; j < VECS64; j++) {
		vf_narrow v;
		memcpy(&v, x + j * VL64, sizeof v);
		s.v[j] = __builtin_convertvector(v, vd);
	}
	return s;
}

/* Lane i with i + 4, then i + 2, then i + 1. */
INLINE double fold(struct lanes64 s)
{
	double lane[LANES64];
	memcpy(lane, s.v, sizeof lane);
	for (int half = LANES64 / 2; half > 0; half /= 2)
		for (int i = 0; i < half; i++)
			lane[i] = lane[i] + lane[i + half];
	return lane[0];
}

/* Several rows of y at once: their chains of additions hide each other's latency. */
INLINE void dot_rows(const int rows, double *out, const float *x, const float *y, int64_t ldy, int64_t H)
{
	struct lanes64 sum[ROWS] = {0};
	for (int64_t i = 0; i < H; i += LANES64) {
		struct lanes64 a = load(x + i, H - i);
		UNROLL
		for (int r = 0; r < rows; r++) {
			struct lanes64 b = load(y + r * ldy + i, H - i);
			UNROLL
			for (int j = 0; j < VECS64; j++)
				sum[r].v[j] = sum[r].v[j] + a.v[j] * b.v[j];
		}
	}
	for (int r = 0; r < rows; r++)
		out[r] = fold(sum[r]);
}

/* Several rows at once, each with itself. */
INLINE void square_rows(const int rows, double *out, const float *x, int64_t ld, int64_t H)
{
	struct lanes64 sum[ROWS] = {0};
	for (int64_t i = 0; i < H; i += LANES64) {
		UNROLL
		for (int r = 0; r < rows; r++) {
			struct lanes64 a = load(x + r * ld + i, H - i);
			UNROLL
			for (int j = 0; j < VECS64; j++)
				sum[r].v[j] = sum[r].v[j] + a.v[j] * a.v[j];
		}
	}
	for (int r = 0; r < rows; r++)
		out[r] = fold(sum[r]);
}

void SP_ISA_NAME(sp_squares)(double *out, const float *x, int64_t ld, int64_t rows, int64_t H)
{
	int64_t j = 0;
	for (; j + ROWS <= rows; j += ROWS)
		square_rows(ROWS, out + j, x + j * ld, ld, H);
	for (; j < rows; j++)
		square_rows(1, out + j, x + j * ld, ld, H);
}

void SP_ISA_NAME(sp_dots)(double *out, const float *x, const float *y, int64_t ldy, int64_t rows, int64_t H)
{
	int64_t j = 0;
	for (; j + ROWS <= rows; j += ROWS)
		dot_rows(ROWS, out + j, x, y + j * ldy, ldy, H);
	for (; j < rows; j++)
		dot_rows(1, out + j, x, y + j * ldy, ldy, H);
}
