/* unit_int8.c: panel_int8.c with the CPU's own instruction for sums of products of bytes, vpdpbusd: AVX512_VNNI's in the
 * AVX-512 build, AVX-VNNI's in the AVX2 build.
 */
#define SP_INT8_UNIT
#include "kernels/panel_int8.c" /* NOLINT(bugprone-suspicious-include) */
