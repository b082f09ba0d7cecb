/* rows.c: the input of a linear layer as its weight's format reads it: as it is, rounded to bfloat16, or in digits. */
#include "sentpool.h"

static int rounds_to_bf16(enum sp_format format)
{
	return format == SP_BFLOAT16 && sp_low_runtime()->bf16->rounds;
}

int64_t sp_rows_floats(enum sp_format format, int64_t width)
{
	int64_t depth = sp_low_depth(width), size = sizeof(float);
	if (rounds_to_bf16(format))
		return depth * 2 / size;
	if (format != SP_INT8)
		return 0;
	return (depth * sp_low_runtime()->int8->value_bytes[1] + (int64_t)sizeof(struct sp_row_range)) / size;
}

/* What `ranges` of a watched weight keeps. */
static void watch(float *low, float *high, const float *x, int64_t ld, int64_t N, int64_t cols)
{
	for (int64_t r = 0; r < N; r++, x += ld)
		for (int64_t j = 0; j < cols; j++) {
			low[j] = x[j] < low[j] ? x[j] : low[j];
			high[j] = x[j] > high[j] ? x[j] : high[j];
		}
}

struct sp_rows sp_rows_for(const struct sp_matrix *weight, const float *x, int64_t ldx, int64_t N, float *low,
                           struct sp_team *team)
{
	int64_t k = weight->cols, ld = sp_low_depth(k), first, end;
	if (weight->ranges)
		watch(weight->ranges, weight->ranges + k, x, ldx, N, k);
	if (rounds_to_bf16(weight->format)) {
		uint16_t *rounded = (uint16_t *)(void *)low;
		while (sp_team_take(team, N, SP_ROW_GRAIN, &first, &end))
			sp_low_runtime()->bf16->round(rounded + first * ld, ld, x + first * ldx, ldx, end - first, k);
		return (struct sp_rows){rounded, ld, NULL};
	}
	if (weight->format != SP_INT8)
		return (struct sp_rows){x, ldx, NULL};

	const struct sp_int8_kernels *int8 = sp_low_runtime()->int8;
	ld *= int8->value_bytes[weight->digits - 1];
	char *digits = (char *)low;
	struct sp_row_range *range = (struct sp_row_range *)(void *)(digits + N * ld);
	while (sp_team_take(team, N, SP_ROW_GRAIN, &first, &end))
		int8->quantize(digits + first * ld, ld, range + first, x + first * ldx, ldx, weight->smooth,
		               weight->digits, end - first, k);
	return (struct sp_rows){digits, ld, range};
}
