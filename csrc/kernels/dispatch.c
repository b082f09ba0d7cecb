/* dispatch.c: picks the kernels once, at start. Which ones run is a question of speed only: all give the same bits. */
#include "sentpool.h"

#include <string.h>

enum { SET_COUNT = 4 };

static const struct sp_kernels *available[SET_COUNT + 1]; /* best first */
static const char *names[SET_COUNT + 1];
static struct sp_runtime runtime;

static void find_available(void)
{
	int n = 0;
#if defined(__x86_64__)
	if (sp_cpu_has_avx512())
		available[n++] = &sp_kernels_avx512;
	if (sp_cpu_has_avx2())
		available[n++] = &sp_kernels_avx2;
#endif
	available[n++] = &sp_kernels_generic;
	available[n++] = &sp_kernels_scalar;
	for (int i = 0; i < n; i++)
		names[i] = available[i]->isa;
}

static const struct sp_kernels *find(const char *isa)
{
	if (!isa)
		return available[0];
	for (int i = 0; available[i]; i++)
		if (strcmp(isa, available[i]->isa) == 0)
			return available[i];
	return NULL;
}

const char *const *sp_isas(void)
{
	return names;
}

const struct sp_runtime *sp_runtime(void)
{
	return &runtime;
}

static enum sp_status invalid(const char *name, const char *choices, const char **variable, const char **allowed)
{
	*variable = name;
	*allowed = choices;
	return SP_INVALID;
}

enum sp_status sp_runtime_start(const char *isa, const char *gemm, const char *blis_arch, const char **variable,
                                const char **allowed)
{
	if (sp_threads_start() != SP_OK)
		return SP_NO_MEMORY;
	find_available();
	runtime.kernels = find(isa);
	if (!runtime.kernels)
		return invalid("SENTPOOL_ISA",
		               sp_cpu_has_avx512() ? "avx512, avx2, generic or scalar"
		               : sp_cpu_has_avx2() ? "avx2, generic or scalar"
		                                   : "generic or scalar",
		               variable, allowed);
	enum sp_status status = sp_blis_start(blis_arch, &runtime.blis_arch, &runtime.blis_version);
	if (status == SP_INVALID)
		return invalid("SENTPOOL_BLIS_ARCH",
		               sp_cpu_has_avx512() ? "skx or haswell"
		               : sp_cpu_has_avx2() ? "haswell"
		                                   : "nothing (this CPU has no AVX2)",
		               variable, allowed);
	if (status != SP_OK)
		return status;
	int has_blis = strcmp(runtime.blis_arch, "none") != 0;
	if (gemm && strcmp(gemm, "panel") != 0 && !(has_blis && strcmp(gemm, "blis") == 0))
		return invalid("SENTPOOL_GEMM", has_blis ? "panel or blis" : "panel", variable, allowed);
	runtime.engine = gemm && strcmp(gemm, "blis") == 0 ? SP_BLIS : SP_PANEL;
	return SP_OK;
}
