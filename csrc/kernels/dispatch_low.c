/* dispatch_low.c: picks the kernels for low precision, once: the CPU's units before those of the instruction set. */
#include "sentpool.h"

#include <pthread.h>
#include <string.h>

static struct sp_low_runtime chosen;

static void choose_from_instruction_set(const char *isa)
{
	chosen = (struct sp_low_runtime){&sp_bf16_kernels_generic, &sp_int8_kernels_generic, "none", "none"};
	if (strcmp(isa, "scalar") == 0)
		chosen.bf16 = &sp_bf16_kernels_scalar, chosen.int8 = &sp_int8_kernels_scalar;
#if defined(__x86_64__)
	if (strcmp(isa, "avx2") == 0)
		chosen.bf16 = &sp_bf16_kernels_avx2, chosen.int8 = &sp_int8_kernels_avx2;
	if (strcmp(isa, "avx512") == 0)
		chosen.bf16 = &sp_bf16_kernels_avx512, chosen.int8 = &sp_int8_kernels_avx512;
#endif
}

static void choose(void)
{
	const char *isa = sp_runtime()->kernels->isa;
	choose_from_instruction_set(isa);
#if defined(__x86_64__)
	if (strcmp(isa, "avx2") == 0 && sp_cpu_has_avx_vnni())
		chosen.int8 = &sp_int8_kernels_unit_avx2, chosen.int8_unit = "avx_vnni";
	if (strcmp(isa, "avx512") != 0)
		return;
	if (sp_cpu_has_int8_unit())
		chosen.int8 = &sp_int8_kernels_unit_avx512, chosen.int8_unit = "avx512_vnni";
	if (sp_cpu_has_bf16_unit())
		chosen.bf16 = &sp_bf16_kernels_unit, chosen.bf16_unit = "avx512_bf16";
	if (sp_cpu_has_amx())
		chosen = (struct sp_low_runtime){&sp_bf16_kernels_amx, &sp_int8_kernels_amx, "amx", "amx"};
#endif
}

const struct sp_low_runtime *sp_low_runtime(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, choose);
	return &chosen;
}
