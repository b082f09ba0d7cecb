/* unit_int8.c: panel_int8.c with the CPU's own instruction for sums of products of bytes, vpdpbusd; there is one in the
 * AVX-512 build alone.
 */
#define SP_INT8_UNIT
#include "kernels/panel_int8.c" /* NOLINT(bugprone-suspicious-include) */
