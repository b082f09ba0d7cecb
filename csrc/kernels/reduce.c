/* reduce.c: kernels that sum: layer norm and norms along rows, softmax and token pooling down columns.
 *
 * Along a row: 16 virtual lanes, tails filled with zeros, folded in one order (vec.h).
 * Down columns: one chain per column, rows in ascending order.
 */
#include "kernels/kernels.h"
#include "kernels/vec_math.h"

INLINE struct lanes lanes_load(const float *x, int64_t n)
{
	struct lanes s;
	if (n >= LANES) {
		for (int j = 0; j < LANE_VECS; j++)
			s.v[j] = v_load(x + j * VL);
	} else {
		float part[LANES] = {0};
		memcpy(part, x, (size_t)n * sizeof(float));
		memcpy(s.v, part, sizeof part);
	}
	return s;
}

INLINE void lanes_store(float *y, struct lanes s, int64_t n)
{
	if (n >= LANES) {
		for (int j = 0; j < LANE_VECS; j++)
			v_store(y + j * VL, s.v[j]);
	} else {
		memcpy(y, s.v, (size_t)n * sizeof(float));
	}
}

/* Lanes from n on become zero, so that they leave a sum alone. */
INLINE struct lanes lanes_keep(struct lanes s, int64_t n)
{
	if (n < LANES) {
		float part[LANES] = {0};
		memcpy(part, s.v, (size_t)n * sizeof(float));
		memcpy(s.v, part, sizeof part);
	}
	return s;
}

/* y = a + b (b NULL: a); returns the sum of the row */
INLINE float add_row(float *y, const float *a, const float *b, int64_t H)
{
	struct lanes sum = {0};
	for (int64_t i = 0; i < H; i += LANES) {
		struct lanes z = lanes_load(a + i, H - i);
		if (b) {
			struct lanes other = lanes_load(b + i, H - i);
			for (int j = 0; j < LANE_VECS; j++)
				z.v[j] = z.v[j] + other.v[j];
		}
		for (int j = 0; j < LANE_VECS; j++)
			sum.v[j] = sum.v[j] + z.v[j];
		lanes_store(y + i, z, H - i);
	}
	return lanes_fold(sum);
}

/* sum of (x - mean)^2 */
INLINE float squared_deviations(const float *x, float mean, int64_t H)
{
	struct lanes sum = {0};
	for (int64_t i = 0; i < H; i += LANES) {
		struct lanes d = lanes_load(x + i, H - i);
		for (int j = 0; j < LANE_VECS; j++)
			d.v[j] = d.v[j] - mean;
		d = lanes_keep(d, H - i);
		for (int j = 0; j < LANE_VECS; j++)
			sum.v[j] = v_fma(d.v[j], d.v[j], sum.v[j]);
	}
	return lanes_fold(sum);
}

void SP_ISA_NAME(sp_add_layernorm)(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,
                                   const float *gamma, const float *beta, float eps, int64_t rows, int64_t H)
{
	for (int64_t r = 0; r < rows; r++, y += ldy, a += lda, b = b ? b + ldb : NULL) {
		float mean = add_row(y, a, b, H) / (float)H;
		float rstd = 1.0f / sqrtf(squared_deviations(y, mean, H) / (float)H + eps);
		for (int64_t i = 0; i < H; i += LANES) {
			struct lanes z = lanes_load(y + i, H - i);
			struct lanes g = lanes_load(gamma + i, H - i), shift = lanes_load(beta + i, H - i);
			for (int j = 0; j < LANE_VECS; j++)
				z.v[j] = v_fma((z.v[j] - mean) * rstd, g.v[j], shift.v[j]);
			lanes_store(y + i, z, H - i);
		}
	}
}

float SP_ISA_NAME(sp_sum_of_squares)(const float *x, int64_t H)
{
	return squared_deviations(x, 0.0f, H);
}

void SP_ISA_NAME(sp_softmax_columns)(float *scores, float *sums, float scale, int64_t keys)
{
	for (int half = 0; half < 2; half++) {
		float *column = scores + half * VL;
		vf max = v_set(-INFINITY), sum = {0};
		for (int64_t k = 0; k < keys; k++)
			max = v_max(v_load(column + k * NR), max);
		for (int64_t k = 0; k < keys; k++) {
			vf e = v_exp((v_load(column + k * NR) - max) * scale);
			v_store(column + k * NR, e);
			sum = sum + e;
		}
		v_store(sums + half * VL, sum);
	}
}

/* Token pooling: `step` folds one more row into the column's value, `finish` ends it. */
#define POOL_COLUMNS(first, step, finish)                                                                              \
	for (int64_t i = 0; i < cols; i += VL) {                                                                       \
		int64_t width = cols - i < VL ? cols - i : VL;                                                         \
		vf acc = first;                                                                                        \
		for (int64_t t = 0; t < T; t++) {                                                                      \
			const float *row = h + t * ld + i;                                                             \
			vf x = width == VL ? v_load(row) : v_load_part(row, width);                                    \
			acc = step;                                                                                    \
		}                                                                                                      \
		v_store_part(y + i, finish, width);                                                                    \
	}

void SP_ISA_NAME(sp_pool_sum)(float *y, const float *h, int64_t ld, float divisor, int64_t T, int64_t cols)
{
	POOL_COLUMNS((vf){0}, acc + x, acc / divisor)
}

void SP_ISA_NAME(sp_pool_weighted)(float *y, const float *h, int64_t ld, int64_t first_weight, int64_t T, int64_t cols)
{
	float total = (float)(T * first_weight + T * (T - 1) / 2);
	POOL_COLUMNS((vf){0}, v_fma(v_set((float)(first_weight + t)), x, acc), acc / total)
}

void SP_ISA_NAME(sp_pool_max)(float *y, const float *h, int64_t ld, int64_t T, int64_t cols)
{
	POOL_COLUMNS(v_set(-INFINITY), v_select((x > acc) | (x != x), x, acc), acc)
}
