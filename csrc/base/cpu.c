/* cpu.c: which instruction sets both the CPU and the operating system support, and the mode of its arithmetic.
 *
 * A feature bit is not enough: the kernel must save the wide registers too, which XCR0 tells (and XCR0 may be read only
 * where OSXSAVE is set). The names of CPU families are never looked at, so new families work.
 */
#include "sentpool.h"

#include <sched.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <xmmintrin.h>

struct features {
	unsigned leaf1_ecx, leaf7_ebx, leaf7_ecx, leaf7_edx, leaf7_1_eax, xcr0;
};

static struct features features(void)
{
	struct features f = {0};
	unsigned a, b, c, d;
	if (__get_cpuid(1, &a, &b, &c, &d))
		f.leaf1_ecx = c;
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		f.leaf7_ebx = b, f.leaf7_ecx = c, f.leaf7_edx = d;
		if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) /* a: the last subleaf that there is */
			f.leaf7_1_eax = a;
	}
	if (f.leaf1_ecx & (1u << 27)) { /* OSXSAVE */
		__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
		f.xcr0 = a;
	}
	return f;
}

int sp_cpu_has_avx2(void)
{
	const unsigned avx_fma = 1u << 28 | 1u << 12, bmi1_avx2_bmi2 = 1u << 3 | 1u << 5 | 1u << 8;
	struct features f = features();
	return (f.xcr0 & 0x06) == 0x06 && (f.leaf1_ecx & avx_fma) == avx_fma &&
	       (f.leaf7_ebx & bmi1_avx2_bmi2) == bmi1_avx2_bmi2;
}

int sp_cpu_has_avx512(void)
{
	const unsigned f_dq_cd_bw_vl = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
	struct features f = features();
	return sp_cpu_has_avx2() && (f.xcr0 & 0xE6) == 0xE6 && (f.leaf7_ebx & f_dq_cd_bw_vl) == f_dq_cd_bw_vl;
}

int sp_cpu_has_avx_vnni(void)
{
	return sp_cpu_has_avx2() && features().leaf7_1_eax & (1u << 4);
}

static int is_from_intel(void)
{
	unsigned a, b, c, d;
	return __get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx;
}

int sp_cpu_has_bf16_unit(void)
{
	return sp_cpu_has_avx512() && features().leaf7_1_eax & (1u << 5) && !is_from_intel();
}

int sp_cpu_has_int8_unit(void)
{
	return sp_cpu_has_avx512() && features().leaf7_ecx & (1u << 11);
}

int sp_cpu_has_amx(void)
{
	const unsigned bf16_tile_int8 = 1u << 22 | 1u << 24 | 1u << 25;
	enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* of arch_prctl, since Linux 5.16 */
	struct features f = features();
	return sp_cpu_has_avx512() && (f.xcr0 & 0x60000) == 0x60000 &&
	       (f.leaf7_edx & bf16_tile_int8) == bf16_tile_int8 &&
	       syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

unsigned sp_float_mode_enter(void)
{
	unsigned saved = _mm_getcsr();
	_mm_setcsr(0x1F80);
	return saved;
}

void sp_float_mode_leave(unsigned saved)
{
	_mm_setcsr(saved);
}

#else

int sp_cpu_has_avx2(void)
{
	return 0;
}

int sp_cpu_has_avx512(void)
{
	return 0;
}

int sp_cpu_has_avx_vnni(void)
{
	return 0;
}

int sp_cpu_has_bf16_unit(void)
{
	return 0;
}

int sp_cpu_has_int8_unit(void)
{
	return 0;
}

int sp_cpu_has_amx(void)
{
	return 0;
}

unsigned sp_float_mode_enter(void)
{
	return 0;
}

void sp_float_mode_leave(unsigned saved)
{
	(void)saved;
}

#endif

int sp_cpu_count(void)
{
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof set, &set) == 0)
		return CPU_COUNT(&set);
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	return online > 0 ? (int)online : 1;
}
