/* layernorm.c: residual and layer norm in one pass, split by rows. */
#include "sentpool.h"

void sp_layernorm_forward(float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,
                          const float *gamma, const float *beta, float eps, int64_t N, int64_t H, struct sp_team *team)
{
	int64_t first, end;
	while (sp_team_take(team, N, SP_ROW_GRAIN, &first, &end))
		sp_runtime()->kernels->add_layernorm(y + first * ldy, ldy, a + first * lda, lda,
		                                     b ? b + first * ldb : NULL, ldb, gamma, beta, eps, end - first, H);
}
