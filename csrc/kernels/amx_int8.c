/* amx_int8.c: panel_int8.c with AMX; there is something here in the AVX-512 build alone. */
#define SP_INT8_AMX
#include "kernels/panel_int8.c" /* NOLINT(bugprone-suspicious-include) */
