/* amx.h: the CPU's unit for products of small matrices (AMX): up to 32 rows of bytes or bfloat16 times a panel.
 *
 * Tile registers: tmm0 … tmm3 hold sums (two by two tiles of 16 x 16), tmm4 and tmm5 rows of A, tmm6 and tmm7 the two
 * halves of a panel. Every register holds rows of up to 64 bytes; a step takes 64 bytes of each row of A and 16 rows of
 * the panel [k / group][32][group], which are 128 bytes apart. In AT&T syntax the target comes last.
 */
#ifndef SP_AMX_H
#define SP_AMX_H

#include "kernels/vec.h"

enum { AMX_ROWS = 32, AMX_STEP = 64, AMX_PANEL_ROW = 128 };

/* For blocks of `rows` rows; the registers stay so until amx_leave. */
INLINE void amx_enter(int rows)
{
	struct {
		uint8_t palette, start, reserved[14];
		uint16_t bytes[16];
		uint8_t rows[16];
	} shape = {.palette = 1};
	int upper = rows < 16 ? rows : 16, lower = rows - upper;
	const int height[] = {upper, upper, lower, lower, upper, lower, 16, 16};
	for (int i = 0; i < 8; i++) {
		shape.rows[i] = (uint8_t)height[i];
		shape.bytes[i] = height[i] ? AMX_STEP : 0;
	}
	__asm__ volatile("ldtilecfg %0" ::"m"(shape));
}

INLINE void amx_leave(void)
{
	__asm__ volatile("tilerelease" ::: "memory");
}

/* sums[rows][32], 32 bits each: `product` of rows of A, lda bytes apart, and a panel; `bytes` of each row, whole steps. */
#define AMX_BLOCK(product, rows, sums, a, lda, panel, bytes)                                                           \
	do {                                                                                                           \
		const char *a_ = (const char *)(a), *b_ = (const char *)(panel);                                       \
		int64_t lda_ = (lda), ldb_ = AMX_PANEL_ROW;                                                            \
		if ((rows) > 16) {                                                                                     \
			__asm__ volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" :: \
			                         : "memory");                                                          \
			for (int64_t p_ = 0; p_ < (bytes); p_ += AMX_STEP, a_ += AMX_STEP, b_ += 16 * AMX_PANEL_ROW)   \
				__asm__ volatile(                                                                      \
					"tileloadd (%0,%2,1), %%tmm4\n\t"                                              \
					"tileloadd (%1,%3,1), %%tmm6\n\t" product " %%tmm6, %%tmm4, %%tmm0\n\t"        \
					"tileloadd 64(%1,%3,1), %%tmm7\n\t" product " %%tmm7, %%tmm4, %%tmm1\n\t"      \
					"tileloadd (%4,%2,1), %%tmm5\n\t" product                                      \
					" %%tmm6, %%tmm5, %%tmm2\n\t" product " %%tmm7, %%tmm5, %%tmm3" ::"r"(a_),     \
					"r"(b_), "r"(lda_), "r"(ldb_), "r"(a_ + 16 * lda_)                             \
					: "memory");                                                                   \
			__asm__ volatile("tilestored %%tmm2, (%0,%1,1)\n\ttilestored %%tmm3, 64(%0,%1,1)" ::"r"(       \
						 (char *)(sums) + 16 * AMX_PANEL_ROW),                                 \
			                 "r"(ldb_)                                                                     \
			                 : "memory");                                                                  \
		} else {                                                                                               \
			__asm__ volatile("tilezero %%tmm0\n\ttilezero %%tmm1" ::: "memory");                           \
			for (int64_t p_ = 0; p_ < (bytes); p_ += AMX_STEP, a_ += AMX_STEP, b_ += 16 * AMX_PANEL_ROW)   \
				__asm__ volatile("tileloadd (%0,%2,1), %%tmm4\n\t"                                     \
				                 "tileloadd (%1,%3,1), %%tmm6\n\t" product                             \
				                 " %%tmm6, %%tmm4, %%tmm0\n\t"                                         \
				                 "tileloadd 64(%1,%3,1), %%tmm7\n\t" product                           \
				                 " %%tmm7, %%tmm4, %%tmm1" ::"r"(a_),                                  \
				                 "r"(b_), "r"(lda_), "r"(ldb_)                                         \
				                 : "memory");                                                          \
		}                                                                                                      \
		__asm__ volatile("tilestored %%tmm0, (%0,%1,1)\n\ttilestored %%tmm1, 64(%0,%1,1)" ::"r"(sums),         \
		                 "r"(ldb_)                                                                             \
		                 : "memory");                                                                          \
	} while (0)

#endif
