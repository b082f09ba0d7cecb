/* rotary.c: rotary positions (Su et al. 2021): queries and keys turn with their position in the sentence.
 *
 * Values i and i + r/2 of a head's first r turn by position * base^(-2i/r), the angle rounded to float32 as transformers
 * does; its sine and cosine are computed in double and rounded once.
 */
#include "sentpool.h"

#include <math.h>

/* Sine and cosine of x >= 0 by the nearest multiple n of pi/2 and two polynomials on [-pi/4, pi/4]: the splitting of
 * pi/2 and the coefficients are fdlibm's. The libm's own differ in bits from one CPU to the next. */
static void sine_and_cosine(double x, double *sine, double *cosine)
{
	const double high = 1.57079632673412561417e+00, low = 6.07710050650619224932e-11;
	double n = floor(x * 6.36619772367581382433e-01 + 0.5);
	double r = x - n * high - n * low, z = r * r;
	double s = -2.50507602534068634195e-08 + z * 1.58969099521155010221e-10;
	s = -1.98412698298579493134e-04 + z * (2.75573137070700676789e-06 + z * s);
	s = r + r * z * (-1.66666666666666324348e-01 + z * (8.33333333332248946124e-03 + z * s));
	double c = 2.08757232129817482790e-09 + z * -1.13596475577881948265e-11;
	c = 2.48015872894767294178e-05 + z * (-2.75573143513906633035e-07 + z * c);
	c = 1 - 0.5 * z + z * z * (4.16666666666666019037e-02 + z * (-1.38888888888741095749e-03 + z * c));
	int quarter = (int)fmod(n, 4);
	*sine = quarter % 2 ? c : s;
	*cosine = quarter % 2 ? s : c;
	*sine = quarter >= 2 ? -*sine : *sine;
	*cosine = quarter == 1 || quarter == 2 ? -*cosine : *cosine;
}

void sp_rotary_table(float *table, int64_t rotary, double base, int64_t positions)
{
	int64_t half = rotary / 2;
	for (int64_t i = 0; i < half; i++) {
		double exponent = (double)((float)(2 * i) / (float)rotary);
		float frequency = 1.0f / (float)sp_exp64(exponent * sp_log64(base));
		for (int64_t p = 0; p < positions; p++) {
			double sine, cosine;
			sine_and_cosine((float)p * frequency, &sine, &cosine);
			table[p * rotary + i] = (float)cosine;
			table[p * rotary + half + i] = (float)sine;
		}
	}
}

void sp_rotary_forward(float *qkv, int64_t ld, const float *table, const struct sp_layer_kind *kind,
                       const struct sp_chunk *chunk, struct sp_team *team)
{
	int64_t half = kind->rotary / 2, d = kind->hidden / kind->heads, first, end;
	while (sp_team_take(team, chunk->offsets[chunk->n], SP_ROW_GRAIN, &first, &end))
		for (int64_t row = first, sentence = 0; row < end; row++) {
			while (row >= chunk->offsets[sentence + 1])
				sentence++;
			const float *cosine = table + (row - chunk->offsets[sentence]) * kind->rotary;
			sp_runtime()->kernels->rotate(qkv + row * ld, cosine, cosine + half, 2 * kind->heads, d, half);
		}
}

void sp_rotary_backward(float *dqkv, int64_t ld, const float *table, const struct sp_layer_kind *kind,
                        const struct sp_chunk *chunk, float *line, struct sp_team *team)
{
	int64_t half = kind->rotary / 2, d = kind->hidden / kind->heads, first, end;
	while (sp_team_take(team, chunk->offsets[chunk->n], SP_ROW_GRAIN, &first, &end))
		for (int64_t row = first, sentence = 0; row < end; row++) {
			while (row >= chunk->offsets[sentence + 1])
				sentence++;
			const float *cosine = table + (row - chunk->offsets[sentence]) * kind->rotary;
			for (int64_t i = 0; i < half; i++) {
				line[i] = cosine[i];
				line[half + i] = -cosine[half + i];
			}
			sp_runtime()->kernels->rotate(dqkv + row * ld, line, line + half, 2 * kind->heads, d, half);
		}
}
