/* gemm.c: the seam to BLIS, and the only file that includes <blis.h>.
 *
 * BLIS computes the products whose operands are NumPy buffers or change at every call, and the whole encoder when
 * SENTPOOL_GEMM=blis. It keeps the contract of kernels/panel.c under three conditions, arranged here:
 *   - its sub-configuration is haswell, or skx with blocks of k cut at 256 (SP_KC) by a context of our own;
 *   - the path for small matrices ("sup") is off: it rounds differently with the number of rows, and in 0.9 it reads
 *     beyond its operands;
 *   - beta is 0.
 * BLIS aborts the process on negative sizes, NULL operands and failed allocations, so sizes are checked here and its
 * pools are filled beforehand (sp_gemm_enter). It does not know many CPUs and would then run its slow generic code, and
 * it keeps its level of error checking per thread, in memory that the C library takes at a thread's first product and
 * without which it ends the process: the link wraps its CPU query, its reading of the environment and its question
 * whether to check, and all three ask us.
 */
#include "sentpool.h"

#include <blis.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

static arch_t chosen_arch = BLIS_ARCH_GENERIC;
static cntx_t context; /* as the chosen sub-configuration, KC = 256 */
static int usable;
static _Atomic int64_t panel_calls, blis_calls;

struct sp_gemm_calls sp_gemm_calls(void)
{
	return (struct sp_gemm_calls){atomic_load(&panel_calls), atomic_load(&blis_calls)};
}

void sp_count_panel_calls(int64_t n)
{
	atomic_fetch_add_explicit(&panel_calls, n, memory_order_relaxed);
}

/* ---- what BLIS asks of its surroundings (linked with --wrap) --------------------------------------------------- */

arch_t __wrap_bli_cpuid_query_id(void);
gint_t __wrap_bli_env_get_var(const char *name, gint_t fallback);
char *__wrap_bli_env_get_str(const char *name);
bool __wrap_bli_error_checking_is_enabled(void);

arch_t __wrap_bli_cpuid_query_id(void)
{
	return chosen_arch;
}

gint_t __wrap_bli_env_get_var(const char *name, gint_t fallback)
{
	(void)name;
	return fallback;
}

char *__wrap_bli_env_get_str(const char *name)
{
	(void)name;
	return NULL;
}

bool __wrap_bli_error_checking_is_enabled(void)
{
	return false; /* every operand is one of ours */
}

/* ---- versions: blis.h of 1.0 brought BLIS_VA_END and setters that take it, 2.0 a version macro and contexts that
 * must be initialised in place --------------------------------------------------------------------------------- */

#ifndef BLIS_VA_END

static void copy_native_context(cntx_t *to)
{
	*to = *bli_gks_lookup_nat_cntx(chosen_arch);
}

static void set_kc(cntx_t *c)
{
	blksz_t *kc = bli_cntx_get_blksz(BLIS_KC, c);
	bli_blksz_set_def(SP_KC, BLIS_FLOAT, kc);
	bli_blksz_set_max(SP_KC, BLIS_FLOAT, kc);
}

static void set_kernel(cntx_t *c, void_fp kernel)
{
	bli_func_set_dt(kernel, BLIS_FLOAT, bli_cntx_get_l3_nat_ukrs(BLIS_GEMM_UKR, c));
	bli_func_set_dt(kernel, BLIS_FLOAT, bli_cntx_get_l3_vir_ukrs(BLIS_GEMM_UKR, c));
}

#else

static void copy_native_context(cntx_t *to)
{
#ifdef BLIS_VERSION_MAJOR
	bli_cntx_init(to);
#endif
	if (chosen_arch == BLIS_ARCH_SKX)
		bli_cntx_init_skx(to);
	else
		bli_cntx_init_haswell(to);
}

static void set_kc(cntx_t *c)
{
	blksz_t kc = *bli_cntx_get_blksz(BLIS_KC, c);
	bli_blksz_set_def(SP_KC, BLIS_FLOAT, &kc);
	bli_blksz_set_max(SP_KC, BLIS_FLOAT, &kc);
	bli_cntx_set_blkszs(c, BLIS_KC, &kc, BLIS_KR, BLIS_VA_END);
}

static void set_kernel(cntx_t *c, void_fp kernel)
{
	bli_cntx_set_ukrs(c, BLIS_GEMM_UKR, BLIS_FLOAT, kernel, BLIS_VA_END);
}

#endif

/* 0.9 declares operands without const, and reads them all the same. */
static void sgemm(float *c, int64_t ldc, struct sp_strided a, struct sp_strided b, int64_t m, int64_t n, int64_t k,
                  cntx_t *cntx)
{
	float one = 1.0f, zero = 0.0f;
	rntm_t rntm = BLIS_RNTM_INITIALIZER; /* one thread */
	bli_rntm_disable_l3_sup(&rntm);
	bli_sgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, m, n, k, &one, (float *)(uintptr_t)a.data, a.rs, a.cs,
	             (float *)(uintptr_t)b.data, b.rs, b.cs, &zero, c, ldc, 1, cntx, &rntm);
}

/* A lock that every product holds for reading, and a fork for writing: a child must not inherit BLIS's own locks in the
 * hands of a thread that it does not have. */
static pthread_rwlock_t product_lock = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

/* ---- memory: BLIS takes one block for A and one for B per product under way, from pools that grow by malloc ------ */

enum { MAX_PRODUCTS = SP_MAX_THREADS }; /* at once; more wait */

static pthread_mutex_t reserve_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t room = PTHREAD_COND_INITIALIZER;
static int active, reserved; /* threads that may be in a product now; products that need no new block */

static void before_fork(void)
{
	pthread_mutex_lock(&reserve_lock);
	pthread_rwlock_wrlock(&product_lock);
}

static void after_fork_in_parent(void)
{
	pthread_rwlock_unlock(&product_lock);
	pthread_mutex_unlock(&reserve_lock);
}

/* Only the thread that forked is left, and it was in no product. It has another id than the thread that locked, which a
 * read-write lock notices: the child gets fresh locks. */
static void after_fork_in_child(void)
{
	active = 0;
	product_lock = (pthread_rwlock_t)PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
	reserve_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	room = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

/* What hold_blocks needs, since BLIS calls it without arguments of ours; guarded by reserve_lock. */
static struct {
	cntx_t context;
	float *operand;
	int products;
} hold;

static void hold_product(void)
{
	struct sp_strided row = {hold.operand, SP_KC, 1}, column = {hold.operand, 1, 1};
	sgemm(hold.operand + SP_KC, 1, row, column, 1, 1, SP_KC, &hold.context);
}

/* A "micro-kernel" that computes nothing: while BLIS waits for it with a pair of blocks in use, it starts the next
 * product, which needs another pair. */
static void hold_blocks(void)
{
	if (--hold.products > 0)
		hold_product();
}

/* Fill the pools for `products` at once, after asking malloc for what that can take at most. */
static enum sp_status fill_pools(int products)
{
	const size_t pair = (size_t)(2 + 18) << 20; /* an A and a B block, rounded up */
	hold.operand = sp_zeros(2 * SP_KC);
	void *probe = sp_bytes((size_t)(products - reserved) * pair);
	enum sp_status status = hold.operand && probe ? SP_OK : SP_NO_MEMORY;
	sp_free(probe);
	if (status == SP_OK) {
		pthread_rwlock_rdlock(&product_lock);
		hold.products = products;
		hold_product();
		pthread_rwlock_unlock(&product_lock);
		reserved = products;
	}
	sp_free(hold.operand);
	return status;
}

enum sp_status sp_gemm_enter(int threads)
{
	enum sp_status status = SP_OK;
	if (!usable)
		return SP_OK;
	pthread_mutex_lock(&reserve_lock);
	while (active > 0 && active + threads > MAX_PRODUCTS)
		pthread_cond_wait(&room, &reserve_lock);
	if (active + threads > reserved)
		status = fill_pools(active + threads);
	if (status == SP_OK)
		active += threads;
	pthread_mutex_unlock(&reserve_lock);
	return status;
}

void sp_gemm_leave(int threads)
{
	if (!usable)
		return;
	pthread_mutex_lock(&reserve_lock);
	active -= threads;
	pthread_cond_broadcast(&room);
	pthread_mutex_unlock(&reserve_lock);
}

/* ---- start -------------------------------------------------------------------------------------------------------- */

/* Fill the context of our products, and that of products that only hold memory. */
static void make_contexts(void)
{
	copy_native_context(&context);
	set_kc(&context);
	copy_native_context(&hold.context);
	set_kc(&hold.context);
	set_kernel(&hold.context, (void_fp)hold_blocks);
}

enum sp_status sp_blis_start(const char *arch, const char **chosen, const char **version)
{
	int skx = sp_cpu_has_avx512(), haswell = sp_cpu_has_avx2();
	if (arch && strcmp(arch, "haswell") == 0)
		skx = 0;
	else if (arch && strcmp(arch, "skx") == 0)
		haswell = skx;
	else if (arch)
		return SP_INVALID;
	if (arch && !haswell)
		return SP_INVALID;
	*chosen = skx ? "skx" : haswell ? "haswell" : "none";
	*version = "";
	if (!haswell)
		return SP_OK;
	chosen_arch = skx ? BLIS_ARCH_SKX : BLIS_ARCH_HASWELL;
	if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0)
		return SP_NO_MEMORY;
	bli_init();
	make_contexts();
	usable = 1;
	*version = bli_info_get_version_str();
	return SP_OK;
}

/* ---- the product --------------------------------------------------------------------------------------------------- */

/* Where BLIS has no kernels for this CPU: pack B into panels and use ours. */
static enum sp_status panel_gemm(float *c, int64_t ldc, struct sp_strided a, struct sp_strided b, int64_t m, int64_t n,
                                 int64_t k)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr, panels = (n + nr - 1) / nr;
	float *rows = sp_floats(m * k), *packed = sp_zeros(panels * nr * k);
	if (rows && packed) {
		for (int64_t i = 0; i < m; i++)
			for (int64_t p = 0; p < k; p++)
				rows[i * k + p] = a.data[i * a.rs + p * a.cs];
		for (int64_t p = 0; p < k; p++)
			for (int64_t j = 0; j < n; j++)
				packed[j / nr * k * nr + p * nr + j % nr] = b.data[p * b.rs + j * b.cs];
		kernels->gemm(c, ldc, (struct sp_panel_a){rows, k, 0}, (struct sp_panel_b){packed, k * nr, nr}, NULL, m,
		              n, k);
		sp_count_panel_calls(1);
	}
	enum sp_status status = rows && packed ? SP_OK : SP_NO_MEMORY;
	sp_free(rows);
	sp_free(packed);
	return status;
}

void sp_blis_gemm(float *c, int64_t ldc, struct sp_strided a, struct sp_strided b, int64_t m, int64_t n, int64_t k)
{
	pthread_rwlock_rdlock(&product_lock);
	sgemm(c, ldc, a, b, m, n, k, &context);
	pthread_rwlock_unlock(&product_lock);
	atomic_fetch_add_explicit(&blis_calls, 1, memory_order_relaxed);
}

enum sp_status sp_gemm(float *c, int64_t ldc, struct sp_strided a, struct sp_strided b, int64_t m, int64_t n, int64_t k)
{
	if (m <= 0 || n <= 0)
		return SP_OK;
	if (!usable || k <= 0)
		return panel_gemm(c, ldc, a, b, m, n, k > 0 ? k : 0);
	enum sp_status status = sp_gemm_enter(1);
	if (status != SP_OK)
		return status;
	sp_blis_gemm(c, ldc, a, b, m, n, k);
	sp_gemm_leave(1);
	return SP_OK;
}
