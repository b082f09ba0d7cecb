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

/* Rows whose sums run side by side: each is one chain of additions, which waits for itself. */
enum { ROWS = 4 };

/* y = a + b (b NULL: a); sums[r] = the sum of row r, of which there are up to ROWS, a constant in every caller. */
INLINE void add_rows(const int rows, float *sums, float *y, int64_t ldy, const float *a, int64_t lda, const float *b,
                     int64_t ldb, int64_t H)
{
	struct lanes sum[ROWS] = {0};
	for (int64_t i = 0; i < H; i += LANES) {
		UNROLL
		for (int r = 0; r < rows; r++) {
			struct lanes z = lanes_load(a + r * lda + i, H - i);
			if (b) {
				struct lanes other = lanes_load(b + r * ldb + i, H - i);
				for (int j = 0; j < LANE_VECS; j++)
					z.v[j] = z.v[j] + other.v[j];
			}
			for (int j = 0; j < LANE_VECS; j++)
				sum[r].v[j] = sum[r].v[j] + z.v[j];
			lanes_store(y + r * ldy + i, z, H - i);
		}
	}
	for (int r = 0; r < rows; r++)
		sums[r] = lanes_fold(sum[r]);
}

/* sums[r] = the sum of (x - mean[r])^2 over row r */
INLINE void squared_deviations(const int rows, float *sums, const float *x, int64_t ldx, const float *mean, int64_t H)
{
	struct lanes sum[ROWS] = {0};
	for (int64_t i = 0; i < H; i += LANES) {
		UNROLL
		for (int r = 0; r < rows; r++) {
			struct lanes d = lanes_load(x + r * ldx + i, H - i);
			for (int j = 0; j < LANE_VECS; j++)
				d.v[j] = d.v[j] - mean[r];
			d = lanes_keep(d, H - i);
			for (int j = 0; j < LANE_VECS; j++)
				sum[r].v[j] = v_fma(d.v[j], d.v[j], sum[r].v[j]);
		}
	}
	for (int r = 0; r < rows; r++)
		sums[r] = lanes_fold(sum[r]);
}

/* y = a + b, and of each row the mean and 1 / its standard deviation. */
INLINE void add_and_measure(const int rows, float *mean, float *rstd, float *y, int64_t ldy, const float *a,
                            int64_t lda, const float *b, int64_t ldb, float eps, int64_t H)
{
	add_rows(rows, mean, y, ldy, a, lda, b, ldb, H);
	for (int r = 0; r < rows; r++)
		mean[r] = mean[r] / (float)H;
	squared_deviations(rows, rstd, y, ldy, mean, H);
	for (int r = 0; r < rows; r++)
		rstd[r] = 1.0f / sqrtf(rstd[r] / (float)H + eps);
}

INLINE void add_layernorm(const int rows, float *y, int64_t ldy, const float *a, int64_t lda, const float *b,
                          int64_t ldb, const float *gamma, const float *beta, float eps, int64_t H)
{
	float mean[ROWS], rstd[ROWS];
	add_and_measure(rows, mean, rstd, y, ldy, a, lda, b, ldb, eps, H);
	for (int64_t i = 0; i < H; i += LANES) {
		struct lanes g = lanes_load(gamma + i, H - i), shift = {0};
		if (beta)
			shift = lanes_load(beta + i, H - i);
		UNROLL
		for (int r = 0; r < rows; r++) {
			struct lanes z = lanes_load(y + r * ldy + i, H - i);
			for (int j = 0; j < LANE_VECS; j++)
				z.v[j] = v_fma((z.v[j] - mean[r]) * rstd[r], g.v[j], shift.v[j]);
			lanes_store(y + r * ldy + i, z, H - i);
		}
	}
}

void SP_ISA_NAME(sp_add_layernorm)(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,
                                   const float *gamma, const float *beta, float eps, int64_t rows, int64_t H)
{
	int64_t r = 0;
	for (; r + ROWS <= rows; r += ROWS, y += ROWS * ldy, a += ROWS * lda, b = b ? b + ROWS * ldb : NULL)
		add_layernorm(ROWS, y, ldy, a, lda, b, ldb, gamma, beta, eps, H);
	for (; r < rows; r++, y += ldy, a += lda, b = b ? b + ldb : NULL)
		add_layernorm(1, y, ldy, a, lda, b, ldb, gamma, beta, eps, H);
}

void SP_ISA_NAME(sp_layernorm_backward)(float *dz, int64_t lddz, float *normed, int64_t ldn, const float *dy,
                                        int64_t lddy, const float *a, int64_t lda, const float *b, int64_t ldb,
                                        const float *gamma, float eps, int64_t rows, int64_t H)
{
	for (int64_t r = 0; r < rows; r++, dz += lddz, normed += ldn, dy += lddy, a += lda, b = b ? b + ldb : NULL) {
		float mean, rstd;
		add_and_measure(1, &mean, &rstd, normed, ldn, a, lda, b, ldb, eps, H);
		struct lanes plain = {0}, along = {0};
		for (int64_t i = 0; i < H; i += LANES) {
			struct lanes z = lanes_load(normed + i, H - i);
			struct lanes d = lanes_load(dy + i, H - i), g = lanes_load(gamma + i, H - i);
			for (int j = 0; j < LANE_VECS; j++) {
				z.v[j] = (z.v[j] - mean) * rstd;
				d.v[j] = d.v[j] * g.v[j];
				plain.v[j] = plain.v[j] + d.v[j];
				along.v[j] = v_fma(d.v[j], z.v[j], along.v[j]);
			}
			lanes_store(normed + i, z, H - i);
		}
		float shift = lanes_fold(plain) / (float)H, tilt = lanes_fold(along) / (float)H;
		for (int64_t i = 0; i < H; i += LANES) {
			struct lanes z = lanes_load(normed + i, H - i);
			struct lanes d = lanes_load(dy + i, H - i), g = lanes_load(gamma + i, H - i);
			for (int j = 0; j < LANE_VECS; j++)
				d.v[j] = (d.v[j] * g.v[j] - shift - z.v[j] * tilt) * rstd;
			lanes_store(dz + i, d, H - i);
		}
	}
}

float SP_ISA_NAME(sp_sum_of_squares)(const float *x, int64_t H)
{
	float mean = 0, sum;
	squared_deviations(1, &sum, x, 0, &mean, H);
	return sum;
}

/* The largest of a row; NaN is passed over. */
INLINE float row_max(const float *x, int64_t n)
{
	vf max = v_set(-INFINITY);
	float largest = -INFINITY;
	int64_t i = 0;
	for (; i + VL <= n; i += VL)
		max = v_max(v_load(x + i), max);
	for (int lane = 0; lane < VL; lane++)
		largest = max[lane] > largest ? max[lane] : largest;
	for (; i < n; i++)
		largest = x[i] > largest ? x[i] : largest;
	return largest;
}

float SP_ISA_NAME(sp_softmax_row)(float *x, float *max, int64_t n)
{
	struct lanes sum = {0};
	float largest = row_max(x, n);
	*max = largest;
	for (int64_t i = 0; i < n; i += LANES) {
		struct lanes e = lanes_load(x + i, n - i);
		for (int j = 0; j < LANE_VECS; j++)
			e.v[j] = v_exp(e.v[j] - largest);
		lanes_store(x + i, e, n - i);
		e = lanes_keep(e, n - i);
		for (int j = 0; j < LANE_VECS; j++)
			sum.v[j] = sum.v[j] + e.v[j];
	}
	return lanes_fold(sum);
}

/* softmax_columns for the first of a row's vectors or for both, a constant in every caller. */
INLINE void softmax_vectors(const int vectors, float *scores, float *sums, float scale, int64_t keys)
{
	vf max[2] = {v_set(-INFINITY), v_set(-INFINITY)}, sum[2] = {0};
	for (int64_t k = 0; k < keys; k++)
		for (int j = 0; j < vectors; j++)
			max[j] = v_max(v_load(scores + k * NR + j * VL), max[j]);
	for (int64_t k = 0; k < keys; k++)
		for (int j = 0; j < vectors; j++) {
			float *score = scores + k * NR + j * VL;
			vf e = v_exp((v_load(score) - max[j]) * scale);
			v_store(score, e);
			sum[j] = sum[j] + e;
		}
	for (int j = 0; j < vectors; j++)
		v_store(sums + j * VL, sum[j]);
}

void SP_ISA_NAME(sp_softmax_columns)(float *scores, float *sums, float scale, int64_t keys, int64_t columns)
{
	if (columns > VL)
		softmax_vectors(2, scores, sums, scale, keys);
	else
		softmax_vectors(1, scores, sums, scale, keys);
}

void SP_ISA_NAME(sp_softmax_columns_backward)(float *dscores, int64_t ld, float *scores, const float *sums,
                                              const float *dweights, float scale, int64_t keys)
{
	for (int half = 0; half < NR; half += VL) {
		vf sum = v_load(sums + half), dot = {0};
		for (int64_t k = 0; k < keys; k++) {
			vf p = v_load(scores + k * NR + half) / sum;
			v_store(scores + k * NR + half, p);
			dot = v_fma(p, v_load(dweights + k * NR + half), dot);
		}
		for (int64_t k = 0; k < keys; k++) {
			vf from_mean = v_load(dweights + k * NR + half) - dot;
			v_store(dscores + k * ld + half, from_mean * v_load(scores + k * NR + half) * scale);
		}
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

void SP_ISA_NAME(sp_pool_max)(float *y, const float *h, int64_t ld, int64_t T,
                              int64_t cols){POOL_COLUMNS(v_set(-INFINITY), v_select((x > acc) | (x != x), x, acc), acc)}

/* What a token pooling adds to the gradient of each of the T rows of h; `x` is the gradient of the pooled column. */
#define POOL_COLUMNS_BACKWARD(prepared, step)                                                                          \
	for (int64_t i = 0; i < cols; i += VL) {                                                                       \
		int64_t width = cols - i < VL ? cols - i : VL;                                                         \
		vf x = v_load_part(dy + i, width);                                                                     \
		x = prepared;                                                                                          \
		for (int64_t t = 0; t < T; t++) {                                                                      \
			float *row = dh + t * lddh + i;                                                                \
			vf acc = width == VL ? v_load(row) : v_load_part(row, width);                                  \
			v_store_part(row, step, width);                                                                \
		}                                                                                                      \
	}

void SP_ISA_NAME(sp_pool_sum_backward)(float *dh, int64_t lddh, const float *dy, float divisor, int64_t T, int64_t cols)
{
	POOL_COLUMNS_BACKWARD(x / divisor, acc + x)
}

void SP_ISA_NAME(sp_pool_weighted_backward)(float *dh, int64_t lddh, const float *dy, int64_t first_weight, int64_t T,
                                            int64_t cols)
{
	float total = (float)(T * first_weight + T * (T - 1) / 2);
	POOL_COLUMNS_BACKWARD(x / total, v_fma(v_set((float)(first_weight + t)), x, acc))
}

/* Which of the T rows of h the largest values of VL columns are in. */
INLINE vi rows_of_max(const float *h, int64_t ldh, int64_t T, int64_t width)
{
	vf max = v_load_part(h, width);
	vi chosen = {0};
	for (int64_t t = 1; t < T; t++) {
		vf x = v_load_part(h + t * ldh, width);
		vi better = (x > max) | (x != x);
		chosen = (better & ((int32_t)t - (vi){0})) | (~better & chosen);
		max = v_select(better, x, max);
	}
	return chosen;
}

void SP_ISA_NAME(sp_pool_max_backward)(float *dh, int64_t lddh, const float *dy, const float *h, int64_t ldh, int64_t T,
                                       int64_t cols)
{
	for (int64_t i = 0; i < cols; i += VL) {
		int64_t width = cols - i < VL ? cols - i : VL;
		vi chosen = rows_of_max(h + i, ldh, T, width);
		vf x = v_load_part(dy + i, width);
		for (int64_t t = 0; t < T; t++) {
			float *row = dh + t * lddh + i;
			vf acc = v_load_part(row, width);
			v_store_part(row, v_select(chosen == (int32_t)t, acc + x, acc), width);
		}
	}
}

/* `vectors` of columns at once, a constant: their chains run side by side. The last may be narrower, n columns in all. */
INLINE void columns_add(const int vectors, float *y, const float *x, int64_t ldx, const float *z, int64_t ldz,
                        int64_t T, int64_t n)
{
	vf sum[4] = {0};
	for (int64_t t = 0; t < T; t++, x += ldx, z = z ? z + ldz : NULL) {
		UNROLL
		for (int j = 0; j < vectors; j++) {
			vf a = v_load_up_to(x + j * VL, n - j * VL);
			sum[j] = z ? v_fma(a, v_load_up_to(z + j * VL, n - j * VL), sum[j]) : sum[j] + a;
		}
	}
	UNROLL
	for (int j = 0; j < vectors; j++)
		v_store_up_to(y + j * VL, v_load_up_to(y + j * VL, n - j * VL) + sum[j], n - j * VL);
}

void SP_ISA_NAME(sp_columns_add)(float *y, const float *x, int64_t ldx, const float *z, int64_t ldz, int64_t T,
                                 int64_t cols)
{
	int64_t i = 0;
	for (; i + 4 * VL <= cols; i += 4 * VL)
		columns_add(4, y + i, x + i, ldx, z ? z + i : NULL, ldz, T, 4 * VL);
	for (; i < cols; i += VL)
		columns_add(1, y + i, x + i, ldx, z ? z + i : NULL, ldz, T, cols - i);
}
