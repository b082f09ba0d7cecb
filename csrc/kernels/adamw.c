/* adamw.c: the kernel of the optimiser, in which every parameter stands alone. */
#include "kernels/kernels.h"
#include "kernels/vec.h"

struct parameters {
	vf p, m, v;
};

INLINE struct parameters adamw(struct parameters x, vf g, const struct sp_adamw *a)
{
	g = g * a->clip;
	x.m = x.m + (g - x.m) * a->first_rate;
	x.v = x.v * a->second_decay + g * g * a->second_rate;
	vf root = v_sqrt(x.v) / a->second_root + a->eps;
	x.p = x.p * a->decay - x.m / root * a->step;
	return x;
}

void SP_ISA_NAME(sp_adamw)(float *p, float *m, float *v, const float *g, const struct sp_adamw *constants, int64_t n)
{
	const struct sp_adamw a = *constants;
	int64_t i = 0;
	for (; i + VL <= n; i += VL) {
		struct parameters x = {v_load(p + i), v_load(m + i), v_load(v + i)};
		x = adamw(x, v_load(g + i), &a);
		v_store(p + i, x.p);
		v_store(m + i, x.m);
		v_store(v + i, x.v);
	}
	if (i < n) {
		struct parameters x = {v_load_part(p + i, n - i), v_load_part(m + i, n - i), v_load_part(v + i, n - i)};
		x = adamw(x, v_load_part(g + i, n - i), &a);
		v_store_part(p + i, x.p, n - i);
		v_store_part(m + i, x.m, n - i);
		v_store_part(v + i, x.v, n - i);
	}
}
