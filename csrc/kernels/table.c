/* table.c: gathers the kernels of one instruction set into its table; compiled once per set like the kernels. */
#include "kernels/kernels.h"
#include "kernels/vec.h"

#if defined(SP_ISA_AVX512)
#define NAME "avx512"
#elif defined(SP_ISA_AVX2)
#define NAME "avx2"
#else
#define NAME "generic"
#endif

const struct sp_kernels SP_ISA_NAME(sp_kernels) = {
	.isa = NAME,
	.nr = NR,
	.gemm = SP_ISA_NAME(sp_panel_gemm),
	.gemm_add = SP_ISA_NAME(sp_panel_gemm_add),
	.pack = SP_ISA_NAME(sp_panel_pack),
	.pack_rows = SP_ISA_NAME(sp_pack_rows),
	.transpose = SP_ISA_NAME(sp_transpose),
	.activation = SP_ISA_NAME(sp_activation),
	.activation_backward = SP_ISA_NAME(sp_activation_backward),
	.gated_activation = SP_ISA_NAME(sp_gated_activation),
	.add = SP_ISA_NAME(sp_add),
	.multiply = SP_ISA_NAME(sp_multiply),
	.rotate = SP_ISA_NAME(sp_rotate),
	.add_diagonals = SP_ISA_NAME(sp_add_diagonals),
	.softmax_columns = SP_ISA_NAME(sp_softmax_columns),
	.softmax_columns_backward = SP_ISA_NAME(sp_softmax_columns_backward),
	.dropout = SP_ISA_NAME(sp_dropout),
	.dropout_columns = SP_ISA_NAME(sp_dropout_columns),
	.rrelu_slopes = SP_ISA_NAME(sp_rrelu_slopes),
	.divide_rows = SP_ISA_NAME(sp_divide_rows),
	.add_layernorm = SP_ISA_NAME(sp_add_layernorm),
	.layernorm_backward = SP_ISA_NAME(sp_layernorm_backward),
	.embed_row = SP_ISA_NAME(sp_embed_row),
	.pool_sum = SP_ISA_NAME(sp_pool_sum),
	.pool_weighted = SP_ISA_NAME(sp_pool_weighted),
	.pool_max = SP_ISA_NAME(sp_pool_max),
	.pool_sum_backward = SP_ISA_NAME(sp_pool_sum_backward),
	.pool_weighted_backward = SP_ISA_NAME(sp_pool_weighted_backward),
	.pool_max_backward = SP_ISA_NAME(sp_pool_max_backward),
	.columns_add = SP_ISA_NAME(sp_columns_add),
	.sum_of_squares = SP_ISA_NAME(sp_sum_of_squares),
	.squares = SP_ISA_NAME(sp_squares),
	.dots = SP_ISA_NAME(sp_dots),
	.softmax_row = SP_ISA_NAME(sp_softmax_row),
	.adamw = SP_ISA_NAME(sp_adamw),
	.hamming = SP_ISA_NAME(sp_hamming),
	.screen = SP_ISA_NAME(sp_screen),
};
