/* residual.c: y = a + b, split by rows: the residual sum where no layer norm follows it. */
#include "sentpool.h"

void sp_residual_forward(float *y, const float *a, const float *b, int64_t ld, int64_t N, int64_t H,
                         struct sp_team *team)
{
	int64_t first, end;
	while (sp_team_take(team, N, SP_ROW_GRAIN, &first, &end))
		sp_runtime()->kernels->add(y + first * ld, ld, a + first * ld, ld, b + first * ld, ld, end - first, H);
}
