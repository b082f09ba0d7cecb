/* sbert_wk.c: SBERT-WK (Wang & Kuo 2020): every token's path through the layers becomes a vector, those become one.
 *
 * f_0 … f_{n-1} are a token's states at the layers kept, layer_start … L. Around layer k lies a window: the w layers
 * below it, or none of them where fewer exist, as in the published code; and up to w layers above it. Its m - 1 states
 * and then f_k are the columns of a matrix Q R, and r is R's last column, r' = r without its last entry.
 *     alignment a_k = 1 / (2 m c),  c = <mean of the columns of R without its last row and column, each of length 1; r'>
 *                                       / |r'|
 *     novelty   v_k = |last entry of r| / |r|
 *     alpha     = half of a / sum a plus half of v / sum v;  token vector = sum of alpha_k f_k
 *     sentence  = sum of token vectors weighted by the variance of cos(f_k, f_{k+1}) over k, divided by the weights' sum
 * The last token ([SEP]) is left out.
 *
 * Only the products of states enter: R transposed is the Cholesky factor of the window's Gram matrix, and a column of R
 * times r' is a state times f_k. All of it in float64 and one fixed order.
 *
 * What the published code leaves open: a window empty, or without any direction in common with f_k, has no alignment;
 * then, as where a sum is 0, a (or v) is the same for all layers. A zero state has no novelty and cosines 0. Weights
 * that are all 0 are replaced by 1. A sentence of one token keeps it; one of none (all skipped) gets zeros.
 */
#include "sentpool.h"

#include <math.h>
#include <string.h>

/* What counts as none, relative to the whole: more than float64 rounds in a sum of products. As the square of a length
 * it is about what rounding to float32 leaves where there should be nothing. */
static const double NOTHING = 1e-13;

/* The task of one chunk, and one rank's scratch. */
struct paths {
	const float *states; /* [N, n, H] */
	int64_t n, H, window;
	double *gram;    /* [n, n] f_i . f_j for i <= j <= i + 2 window, the rest undefined */
	double *factor;  /* [m, m] of one window: row j is column j of R */
	double *alpha;   /* [n] */
	double *novelty; /* [n] */
	double *sum;     /* [H] */
};

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t scratch_doubles(int64_t n, int64_t H)
{
	return 2 * n * n + 2 * n + H;
}

static struct paths paths_of(const struct sp_sbert_wk_request *request, const struct sp_chunk *chunk, int64_t n,
                             int64_t H)
{
	double *p = chunk->scratch;
	return (struct paths){
		.states = chunk->kept,
		.n = n,
		.H = H,
		.window = least(request->window, n),
		.gram = p,
		.factor = p + n * n,
		.alpha = p + 2 * n * n,
		.novelty = p + 2 * n * n + n,
		.sum = p + 2 * n * n + 2 * n,
	};
}

static void gram_of_token(const struct paths *p, const float *token)
{
	for (int64_t i = 0; i < p->n; i++)
		sp_runtime()->kernels->dots(p->gram + i * p->n + i, token + i * p->H, token + i * p->H, p->H,
		                            least(p->n - i, 2 * p->window + 1), p->H);
}

static double gram(const struct paths *p, int64_t i, int64_t j)
{
	return i < j ? p->gram[i * p->n + j] : p->gram[j * p->n + i];
}

static double cosine(const struct paths *p, int64_t i, int64_t j)
{
	double xx = gram(p, i, i), yy = gram(p, j, j);
	return xx == 0 || yy == 0 ? 0 : gram(p, i, j) / sqrt(xx * yy);
}

/* The layer of column j of the window around layer k, which has `left` layers below it and m columns with k. */
static int64_t layer_of(int64_t j, int64_t k, int64_t left, int64_t m)
{
	return j == m - 1 ? k : j < left ? k - left + j : k - left + j + 1;
}

/* The Cholesky factor of a window. A state that the ones before it span but for rounding has no column of its own. */
static void factorise(const struct paths *p, int64_t k, int64_t left, int64_t m)
{
	for (int64_t i = 0; i < m; i++) {
		double *row = p->factor + i * m;
		int64_t layer = layer_of(i, k, left, m);
		double rest = gram(p, layer, layer);
		for (int64_t j = 0; j < i; j++) {
			const double *other = p->factor + j * m;
			double product = gram(p, layer, layer_of(j, k, left, m));
			for (int64_t q = 0; q < j; q++)
				product = product - row[q] * other[q];
			row[j] = other[j] == 0 ? 0 : product / other[j];
			rest = rest - row[j] * row[j];
		}
		row[i] = rest <= NOTHING * gram(p, layer, layer) ? 0 : sqrt(rest);
	}
}

/* Novelty and alignment of layer k; returns 0 where there is no alignment. */
static int measure_layer(const struct paths *p, int64_t k)
{
	int64_t left = k >= p->window ? p->window : 0, m = left + least(p->window, p->n - 1 - k) + 1;
	double squared = gram(p, k, k), length = sqrt(squared), inside = 0, cosines = 0;
	factorise(p, k, left, m);
	const double *r = p->factor + (m - 1) * m;
	for (int64_t j = 0; j < m - 1; j++) {
		inside = inside + r[j] * r[j];
		cosines = cosines + cosine(p, layer_of(j, k, left, m), k);
	}
	p->novelty[k] = squared == 0 ? 0 : r[m - 1] / length;
	double mean = m == 1 ? 0 : cosines / (double)(m - 1);
	if (fabs(mean) <= NOTHING)
		return 0;
	p->alpha[k] = sqrt(inside) / length / (2 * (double)m * mean);
	return 1;
}

/* x / sum x, or the same for all where that is undefined. */
static void divide_by_sum(double *x, int64_t n, int is_defined)
{
	double sum = 0, size = 0;
	for (int64_t k = 0; is_defined && k < n; k++) {
		sum = sum + x[k];
		size = size + fabs(x[k]);
	}
	is_defined = is_defined && !(fabs(sum) <= NOTHING * size);
	for (int64_t k = 0; k < n; k++)
		x[k] = is_defined ? x[k] / sum : 1 / (double)n;
}

/* alpha[n] of the token whose Gram matrix is there. */
static void weigh_layers(const struct paths *p)
{
	int is_aligned = 1;
	for (int64_t k = 0; k < p->n; k++)
		is_aligned &= measure_layer(p, k);
	divide_by_sum(p->alpha, p->n, is_aligned);
	divide_by_sum(p->novelty, p->n, 1);
	for (int64_t k = 0; k < p->n; k++)
		p->alpha[k] = (p->alpha[k] + p->novelty[k]) / 2;
}

/* The variance of the cosines of neighbouring layers. */
static double weight_of_token(const struct paths *p)
{
	int64_t count = p->n - 1;
	double mean = 0, variance = 0;
	for (int64_t k = 0; k < count; k++)
		mean = mean + cosine(p, k, k + 1);
	mean = mean / (double)count;
	for (int64_t k = 0; k < count; k++) {
		double deviation = cosine(p, k, k + 1) - mean;
		variance = variance + deviation * deviation;
	}
	return variance / (double)count;
}

/* sum[H] of T tokens from `first` on, weighted; returns the weights' sum. */
static double add_tokens(const struct paths *p, int64_t first, int64_t T, int weights_are_equal)
{
	double total = 0;
	memset(p->sum, 0, (size_t)p->H * sizeof *p->sum);
	for (int64_t t = first; t < first + T; t++) {
		const float *token = p->states + t * p->n * p->H;
		gram_of_token(p, token);
		double weight = weights_are_equal ? 1 : weight_of_token(p);
		weigh_layers(p);
		for (int64_t k = 0; k < p->n; k++) {
			double share = weight * p->alpha[k];
			for (int64_t i = 0; i < p->H; i++)
				p->sum[i] = p->sum[i] + share * (double)token[k * p->H + i];
		}
		total = total + weight;
	}
	return total;
}

static void pool_sentence(float *y, const struct paths *p, int64_t first, int64_t T)
{
	if (T <= 0) {
		memset(y, 0, (size_t)p->H * sizeof *y);
		return;
	}
	int64_t kept = T == 1 ? 1 : T - 1;
	double total = p->n > 2 ? add_tokens(p, first, kept, 0) : 0; /* one cosine has no variance */
	if (total == 0)
		total = add_tokens(p, first, kept, 1);
	for (int64_t i = 0; i < p->H; i++)
		y[i] = (float)(p->sum[i] / total);
}

/* Ranks split tokens while layers are kept, and sentences once all are there. */
static void take(const struct sp_sink *sink, struct sp_team *team, const struct sp_chunk *chunk, int64_t layer,
                 const float *h, int64_t ld)
{
	const struct sp_sbert_wk_request *request = sink->request;
	int64_t n = sink->last_layer + 1 - request->layer_start, slot = layer - request->layer_start, H = sink->H;
	int64_t first, end;
	if (slot < 0)
		return;
	while (sp_team_take(team, chunk->offsets[chunk->n], SP_ROW_GRAIN, &first, &end))
		for (int64_t t = first; t < end; t++)
			memcpy(chunk->kept + (t * n + slot) * H, h + t * ld, (size_t)H * sizeof *h);
	if (slot < n - 1)
		return;
	struct paths p = paths_of(request, chunk, n, H);
	while (sp_team_take(team, chunk->n, 1, &first, &end))
		for (int64_t i = first; i < end; i++) {
			int64_t start = chunk->offsets[i] + request->skip;
			pool_sentence(request->vectors + (chunk->first + i) * H, &p, start,
			              chunk->offsets[i + 1] - start);
		}
}

struct sp_sink sp_sbert_wk_sink(const struct sp_sbert_wk_request *request, int64_t layers, int64_t H)
{
	int64_t n = layers + 1 - request->layer_start;
	return (struct sp_sink){
		.take = take,
		.request = request,
		.last_layer = layers,
		.H = H,
		.floats_per_token = n * H,
		.floats_per_rank = scratch_doubles(n, H) * (int64_t)(sizeof(double) / sizeof(float)),
	};
}
