/* unit_rows.c: rows brought to length one, whose products are cosines, and the gradient back through the division.
 *
 * u = z / |z|, dz = (du - (du . u) u) / |z|. A row of zeros has no direction: its u and its gradient are zeros.
 */
#include "training.h"

#include <math.h>

void sp_unit_row_forward(float *u, double *norm, const float *z, int64_t d)
{
	double square;
	sp_runtime()->kernels->dots(&square, z, z, d, 1, d);
	*norm = sqrt(square);
	for (int64_t c = 0; c < d; c++)
		u[c] = *norm == 0 ? 0 : (float)((double)z[c] / *norm);
}

void sp_unit_row_backward(float *dz, const float *du, const float *u, double norm, int64_t d)
{
	double along;
	sp_runtime()->kernels->dots(&along, du, u, d, 1, d);
	for (int64_t c = 0; c < d; c++)
		dz[c] = norm == 0 ? 0 : (float)(((double)du[c] - along * (double)u[c]) / norm);
}
