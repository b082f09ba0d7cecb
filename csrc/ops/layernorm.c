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

void sp_layernorm_backward(float *dz, int64_t lddz, float *normed, int64_t ldn, const float *dy, int64_t lddy,
                           const float *a, int64_t lda, const float *b, int64_t ldb, const float *gamma, float eps,
                           int64_t N, int64_t H, struct sp_team *team)
{
	int64_t first, end;
	while (sp_team_take(team, N, SP_ROW_GRAIN, &first, &end))
		sp_runtime()->kernels->layernorm_backward(dz + first * lddz, lddz, normed + first * ldn, ldn,
		                                          dy + first * lddy, lddy, a + first * lda, lda,
		                                          b ? b + first * ldb : NULL, ldb, gamma, eps, end - first, H);
}

void sp_layernorm_backward_weight(float *dgamma, float *dbeta, const float *dy, int64_t lddy, const float *normed,
                                  int64_t ldn, const struct sp_groups *groups, int64_t H, struct sp_team *team)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	enum { GRAIN = 64 }; /* columns */
	int64_t first, end;
	while (sp_team_take(team, H, GRAIN, &first, &end))
		for (int64_t g = 0; g < groups->n; g++) {
			int64_t start = groups->cuts[g], T = groups->cuts[g + 1] - start;
			const float *d = dy + start * lddy + first, *x = normed + start * ldn + first;
			kernels->columns_add(dgamma + first, d, lddy, x, ldn, T, end - first);
			if (dbeta)
				kernels->columns_add(dbeta + first, d, lddy, NULL, 0, T, end - first);
		}
}
