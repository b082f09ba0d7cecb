/* quantize.c: weights in low precision, as a model takes them.
 *
 * int8: inputs are divided by a factor per column, and weights multiplied by it, so that columns of large values do not
 * use up the digits of all others ("smoothing": Xiao et al., "SmoothQuant", ICML 2023). A row of weights w then becomes
 * whole numbers q, 127 for its largest, and its scale is the one of least squares, (w . q) / (q . q): sums in float64
 * and in ascending order, so that every CPU finds the same.
 */
#include "sentpool.h"

#include <math.h>
#include <string.h>

enum { FLOAT = sizeof(float), HALF = 2, LINE = 16 /* floats of a cache line */ };

static int64_t lines(int64_t floats)
{
	return (floats + LINE - 1) / LINE * LINE;
}

static int64_t panel_floats(enum sp_format format, int64_t rows, int64_t cols)
{
	return lines(rows * sp_low_depth(cols) / (format == SP_INT8 ? FLOAT : HALF));
}

int64_t sp_low_matrix_floats(enum sp_format format, int64_t rows, int64_t cols)
{
	return panel_floats(format, rows, cols) + (format == SP_INT8 ? 2 * lines(rows) + 2 * lines(cols) : 0);
}

int64_t sp_low_table_floats(int64_t rows, int64_t cols)
{
	return lines((rows * cols + 1) / (FLOAT / HALF));
}

void sp_low_table_load(struct sp_matrix *table, int64_t first, const float *rows, int64_t count)
{
	uint16_t *halves = (uint16_t *)(void *)table->data + first * table->cols;
	for (int64_t i = 0; i < count * table->cols; i++)
		halves[i] = sp_bf16_from_float(rows[i]);
}

void sp_low_matrix_place(struct sp_matrix *matrix, float *memory, int64_t panel_rows)
{
	int64_t cols = matrix->cols;
	memset(memory, 0, (size_t)sp_low_matrix_floats(matrix->format, panel_rows, cols) * sizeof(float));
	matrix->data = memory;
	if (matrix->format != SP_INT8)
		return;
	matrix->scale = memory + panel_floats(SP_INT8, panel_rows, cols);
	matrix->offset = matrix->scale + lines(panel_rows);
	matrix->smooth = matrix->offset + lines(panel_rows);
	matrix->factors = matrix->smooth + lines(cols);
	for (int64_t i = 0; i < cols; i++)
		matrix->smooth[i] = matrix->factors[i] = 1;
}

void sp_low_matrix_smooth(struct sp_matrix *matrix, const int8_t *powers)
{
	/* 2^(i/8), and 2^(-i/8) */
	static const double up[8] = {1,
	                             1.0905077326652577,
	                             1.189207115002721,
	                             1.2968395546510096,
	                             1.4142135623730951,
	                             1.5422108254079407,
	                             1.681792830507429,
	                             1.8340080864093424};
	static const double down[8] = {1,
	                               0.9170040432046712,
	                               0.8408964152537145,
	                               0.7711054127039704,
	                               0.7071067811865476,
	                               0.6484197773255048,
	                               0.5946035575013605,
	                               0.5452538663326288};
	for (int64_t i = 0; i < matrix->cols; i++) {
		int eighths = (powers[i] + 64) % 8, whole = (powers[i] + 64) / 8 - 8;
		matrix->factors[i] = (float)ldexp(up[eighths], whole);
		matrix->smooth[i] = (float)ldexp(down[eighths], -whole);
	}
}

static void quantize_row(int8_t *q, float *scale, float *offset, const float *w, const float *factors, int64_t k)
{
	double largest = 0, products = 0, squares = 0, sum = 0;
	for (int64_t i = 0; i < k; i++) {
		double value = fabs((double)w[i] * (double)factors[i]);
		largest = value > largest ? value : largest;
	}
	double step = largest / 127;
	for (int64_t i = 0; i < k; i++) {
		double value = (double)w[i] * (double)factors[i];
		double number = step > 0 ? nearbyint(value / step) : 0;
		q[i] = (int8_t)number;
		products = products + value * number;
		squares = squares + number * number;
		sum = sum + number;
	}
	*scale = squares > 0 ? (float)(products / squares) : 0;
	*offset = (float)((double)*scale * sum);
}

static enum sp_status load_int8(struct sp_matrix *matrix, int64_t first, const float *rows, int64_t count)
{
	int64_t k = matrix->cols, depth = sp_low_depth(k), nr = sp_runtime()->kernels->nr;
	int8_t *q = sp_bytes((size_t)k);
	if (!q)
		return SP_NO_MEMORY;
	for (int64_t row = first; row < first + count; row++, rows += k) {
		quantize_row(q, &matrix->scale[row], &matrix->offset[row], rows, matrix->factors, k);
		int8_t *panel = (int8_t *)(void *)matrix->data + row / nr * nr * depth;
		sp_low_runtime()->int8->pack(panel, row % nr, q, k, 1, k);
	}
	sp_free(q);
	return SP_OK;
}

static void load_bf16(struct sp_matrix *matrix, int64_t first, const float *rows, int64_t count)
{
	int64_t k = matrix->cols, depth = sp_low_depth(k), nr = sp_runtime()->kernels->nr;
	while (count > 0) {
		int64_t column = first % nr, n = nr - column < count ? nr - column : count;
		uint16_t *panel = (uint16_t *)(void *)matrix->data + first / nr * nr * depth;
		sp_low_runtime()->bf16->pack(panel, column, rows, k, n, k);
		first += n;
		rows += n * k;
		count -= n;
	}
}

enum sp_status sp_low_matrix_load(struct sp_matrix *matrix, int64_t first, const float *rows, int64_t count)
{
	if (matrix->format == SP_INT8)
		return load_int8(matrix, first, rows, count);
	load_bf16(matrix, first, rows, count);
	return SP_OK;
}

void sp_column_maxima(float *largest, const struct sp_matrix *matrix)
{
	int64_t k = matrix->cols, nr = sp_runtime()->kernels->nr;
	int panels = sp_runtime()->engine == SP_PANEL;
	memset(largest, 0, (size_t)k * sizeof *largest);
	for (int64_t row = 0; row < matrix->rows; row++)
		for (int64_t i = 0; i < k; i++) {
			int64_t place = panels ? row / nr * nr * k + i * nr + row % nr : row * k + i;
			float value = fabsf(matrix->data[place]);
			largest[i] = value > largest[i] ? value : largest[i];
		}
}
