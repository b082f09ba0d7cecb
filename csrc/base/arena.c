/* arena.c: the only allocator of the core. Every failure is a NULL, and tests can make any allocation fail. */
#include "sentpool.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#define CACHE_LINE ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)

static _Atomic int64_t fail_after; /* 0: never */

void sp_fail_allocation(int64_t n)
{
	atomic_store(&fail_after, n);
}

static int must_fail(void)
{
	return atomic_load(&fail_after) > 0 && atomic_fetch_sub(&fail_after, 1) == 1;
}

void *sp_bytes(size_t bytes)
{
	return must_fail() ? NULL : malloc(bytes ? bytes : 1);
}

float *sp_floats(int64_t count)
{
	if (count < 0 || count > INT64_MAX / 8 || must_fail())
		return NULL;
	size_t bytes = (size_t)count * sizeof(float), align = bytes < HUGE_PAGE ? CACHE_LINE : HUGE_PAGE;
	void *p;
	if (posix_memalign(&p, align, bytes ? bytes : align))
		return NULL;
	if (align == HUGE_PAGE) /* of whole huge pages: the rest shall not take one more */
		madvise(p, bytes / align * align, MADV_HUGEPAGE); /* a wish: where it fails, small pages do */
	return p;
}

float *sp_zeros(int64_t count)
{
	float *p = sp_floats(count);
	if (p)
		memset(p, 0, (size_t)count * sizeof(float));
	return p;
}

void sp_free(void *p)
{
	free(p);
}

void sp_release_freed(void)
{
#if defined(__GLIBC__)
	malloc_trim(0);
#endif
}
