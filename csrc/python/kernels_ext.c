/* kernels_ext.c: the extension `sentpool._kernels`, for tests only: the addresses of every kernel of every instruction
 * set, so that tests can call them through ctypes on memory of their own making (guard pages, odd strides), and what else of
 * the core has no other way in.
 */
#define SP_IMPORT_ARRAY
#include "python/binding.h"

#include "kernels/philox.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const struct sp_kernels *find(const char *isa)
{
	static const struct sp_kernels *const all[] = {
#if defined(__x86_64__)
		&sp_kernels_avx512, &sp_kernels_avx2,
#endif
		&sp_kernels_generic, &sp_kernels_scalar};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (strcmp(all[i]->isa, isa) == 0)
			return all[i];
	return NULL;
}

/* The kernels for low precision of one instruction set, or of the CPU's units for them ("unit": AVX-512's). */
static int find_low(const char *isa, const struct sp_bf16_kernels **bf16, const struct sp_int8_kernels **int8)
{
	static const struct {
		const char *isa;
		const struct sp_bf16_kernels *bf16;
		const struct sp_int8_kernels *int8;
	} all[] = {
#if defined(__x86_64__)
		{"amx", &sp_bf16_kernels_amx, &sp_int8_kernels_amx},
		{"unit", &sp_bf16_kernels_unit, &sp_int8_kernels_unit_avx512},
		{"avx_vnni", &sp_bf16_kernels_avx2, &sp_int8_kernels_unit_avx2},
		{"avx512", &sp_bf16_kernels_avx512, &sp_int8_kernels_avx512},
		{"avx2", &sp_bf16_kernels_avx2, &sp_int8_kernels_avx2},
#endif
		{"generic", &sp_bf16_kernels_generic, &sp_int8_kernels_generic},
		{"scalar", &sp_bf16_kernels_scalar, &sp_int8_kernels_scalar}};
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (strcmp(all[i].isa, isa) == 0) {
			*bf16 = all[i].bf16;
			*int8 = all[i].int8;
			return 1;
		}
	return 0;
}

#define FIELD(name) {#name, offsetof(struct sp_kernels, name)}
static const struct {
	const char *name;
	size_t offset;
} fields[] = {FIELD(gemm),
              FIELD(pack),
              FIELD(pack_rows),
              FIELD(transpose),
              FIELD(activation),
              FIELD(softmax_columns),
              FIELD(divide_rows),
              FIELD(add_layernorm),
              FIELD(embed_row),
              FIELD(pool_sum),
              FIELD(pool_weighted),
              FIELD(pool_max),
              FIELD(sum_of_squares),
              FIELD(dots),
              FIELD(squares),
              FIELD(hamming),
              FIELD(screen),
              FIELD(dropout),
              FIELD(dropout_columns),
              FIELD(gemm_add),
              FIELD(activation_backward),
              FIELD(softmax_columns_backward),
              FIELD(layernorm_backward),
              FIELD(pool_sum_backward),
              FIELD(pool_weighted_backward),
              FIELD(pool_max_backward),
              FIELD(columns_add),
              FIELD(gated_activation),
              FIELD(add),
              FIELD(multiply),
              FIELD(rotate),
              FIELD(add_diagonals),
              FIELD(softmax_row),
              FIELD(adamw),
              FIELD(rrelu_slopes)};
#undef FIELD

static int add(PyObject *dict, const char *name, uintptr_t value)
{
	PyObject *number = PyLong_FromUnsignedLongLong(value);
	int status = number ? PyDict_SetItemString(dict, name, number) : -1;
	Py_XDECREF(number);
	return status;
}

static PyObject *kernels(PyObject *Py_UNUSED(module), PyObject *name)
{
	const char *isa = PyUnicode_AsUTF8AndSize(name, NULL);
	const struct sp_kernels *k = isa ? find(isa) : NULL;
	if (!k)
		return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "no kernels named %R", name);
	PyObject *dict = PyDict_New();
	int status = dict ? add(dict, "nr", (uintptr_t)k->nr) : -1;
	for (size_t i = 0; status == 0 && i < sizeof fields / sizeof fields[0]; i++) {
		uintptr_t address;
		memcpy(&address, (const char *)k + fields[i].offset, sizeof address);
		status = add(dict, fields[i].name, address);
	}
	if (status != 0)
		Py_CLEAR(dict);
	return dict;
}

/* The address of an operation of csrc/ops or csrc/model. */
static PyObject *op(PyObject *Py_UNUSED(module), PyObject *name)
{
#define OP(name)                                                                                                       \
	{                                                                                                              \
		#name, (void (*)(void))sp_##name                                                                       \
	}
	static const struct {
		const char *name;
		void (*function)(void);
	} ops[] = {
		OP(expand_forward),
		OP(linear_backward),
		OP(linear_backward_weight),
		OP(linear_backward_scratch),
		OP(linear_transpose),
		OP(layernorm_backward),
		OP(layernorm_backward_weight),
		OP(dropout_forward),
		OP(attention_backward),
		OP(attention_backward_scratch),
		OP(pool_tokens_backward),
	};
#undef OP
	for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
		if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, ops[i].name) == 0)
			return PyLong_FromUnsignedLongLong((uintptr_t)ops[i].function);
	return PyErr_Format(PyExc_ValueError, "no operation named %R", name);
}

static int runs_here(const char *isa, int has_unit)
{
	if (strcmp(isa, "amx") == 0)
		return sp_cpu_has_amx();
	if (strcmp(isa, "unit") == 0)
		return has_unit;
	if (strcmp(isa, "avx_vnni") == 0)
		return sp_cpu_has_avx_vnni();
	for (const char *const *name = sp_isas(); *name; name++)
		if (strcmp(*name, isa) == 0)
			return 1;
	return 0;
}

/* Addresses of the kernels for low precision, and whether this CPU has their unit. */
static PyObject *low_kernels(PyObject *Py_UNUSED(module), PyObject *name)
{
	const struct sp_bf16_kernels *bf16;
	const struct sp_int8_kernels *int8;
	const char *isa = PyUnicode_AsUTF8AndSize(name, NULL);
	if (!isa || !find_low(isa, &bf16, &int8))
		return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "no kernels named %R", name);
	return Py_BuildValue(
		"{s:i,s:K,s:K,s:K,s:K,s:(LL),s:K,s:K,s:K,s:O,s:O}", "rounds", bf16->rounds, "pack_bf16",
		(unsigned long long)(uintptr_t)bf16->pack, "round_bf16", (unsigned long long)(uintptr_t)bf16->round,
		"widen", (unsigned long long)(uintptr_t)bf16->widen, "gemm_bf16",
		(unsigned long long)(uintptr_t)bf16->gemm, "value_bytes", (long long)int8->value_bytes[0],
		(long long)int8->value_bytes[1], "pack_int8", (unsigned long long)(uintptr_t)int8->pack, "quantize",
		(unsigned long long)(uintptr_t)int8->quantize, "gemm_int8", (unsigned long long)(uintptr_t)int8->gemm,
		"runs_bf16", runs_here(isa, sp_cpu_has_bf16_unit()) ? Py_True : Py_False, "runs_int8",
		runs_here(isa, sp_cpu_has_int8_unit()) ? Py_True : Py_False);
}

/* a @ b by sp_gemm, for float32 matrices of any strides */
static PyObject *gemm(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyArrayObject *a, *b;
	if (!PyArg_ParseTuple(args, "O!O!:gemm", &PyArray_Type, &a, &PyArray_Type, &b))
		return NULL;
	if (PyArray_TYPE(a) != NPY_FLOAT32 || PyArray_TYPE(b) != NPY_FLOAT32 || PyArray_NDIM(a) != 2 ||
	    PyArray_NDIM(b) != 2 || PyArray_DIM(a, 1) != PyArray_DIM(b, 0)) {
		PyErr_SetString(PyExc_ValueError, "gemm takes two float32 matrices that fit");
		return NULL;
	}
	npy_intp shape[] = {PyArray_DIM(a, 0), PyArray_DIM(b, 1)};
	PyArrayObject *c = sp_array_new(2, shape, NPY_FLOAT32);
	if (!c)
		return NULL;
	const npy_intp item = sizeof(float);
	struct sp_strided x = {SP_FLOATS(a), PyArray_STRIDE(a, 0) / item, PyArray_STRIDE(a, 1) / item};
	struct sp_strided y = {SP_FLOATS(b), PyArray_STRIDE(b, 0) / item, PyArray_STRIDE(b, 1) / item};
	enum sp_status status = sp_gemm(SP_FLOATS(c), shape[1], x, y, shape[0], shape[1], PyArray_DIM(a, 1));
	if (status != SP_OK) {
		Py_DECREF(c);
		return sp_raise(status);
	}
	return (PyObject *)c;
}

/* The four words of Philox4x32-10 for a counter of four words and a seed. */
static PyObject *philox(PyObject *Py_UNUSED(module), PyObject *args)
{
	uint32_t c[4], words[4];
	unsigned long long seed;
	if (!PyArg_ParseTuple(args, "(IIII)K:philox", &c[0], &c[1], &c[2], &c[3], &seed))
		return NULL;
	sp_philox(words, c, seed);
	return Py_BuildValue("(IIII)", words[0], words[1], words[2], words[3]);
}

/* exp and log of float64 as the core has them, value by value */
static PyObject *math64(PyObject *Py_UNUSED(module), PyObject *args)
{
	double x;
	if (!PyArg_ParseTuple(args, "d:math64", &x))
		return NULL;
	return Py_BuildValue("(dd)", sp_exp64(x), sp_log64(x));
}

struct steps {
	int32_t *computed; /* [steps][count]: how often each output was computed */
	int64_t steps, count, grain;
	int late; /* ranks from this one on begin when rank 0 has ended */
	_Atomic int ended;
};

static void go_through_steps(void *arg, struct sp_team *team)
{
	struct steps *s = arg;
	while (team->rank >= s->late && !atomic_load(&s->ended))
		sched_yield();
	for (int64_t step = 0, first, end; step < s->steps; step++) {
		int32_t *before = step ? s->computed + (step - 1) * s->count : NULL;
		while (sp_team_take(team, s->count, s->grain, &first, &end))
			for (int64_t i = first; i < end; i++) /* only if the step before is complete */
				s->computed[step * s->count + i] += before ? before[s->count - 1 - i] : 1;
	}
	if (team->rank == 0)
		atomic_store(&s->ended, 1);
}

/* A team goes through steps whose outputs are 1 if all went well, ranks from `late` on after all the work is done. */
static PyObject *steps(PyObject *Py_UNUSED(module), PyObject *args)
{
	int threads;
	struct steps s = {0};
	if (!PyArg_ParseTuple(args, "iLLLi:steps", &threads, &s.steps, &s.count, &s.grain, &s.late))
		return NULL;
	npy_intp shape[] = {s.steps, s.count};
	PyArrayObject *computed = (PyArrayObject *)PyArray_ZEROS(2, shape, NPY_INT32, 0);
	if (!computed)
		return NULL;
	s.computed = PyArray_DATA(computed);
	Py_BEGIN_ALLOW_THREADS
	sp_threads_run(threads, go_through_steps, &s);
	Py_END_ALLOW_THREADS
	return (PyObject *)computed;
}

static PyMethodDef methods[] = {
	{"steps", steps, METH_VARARGS, "steps(threads, steps, count, grain, late)\n--\n\nWhat a team computed."},
	{"kernels", kernels, METH_O, "kernels(isa)\n--\n\nAddresses of the kernels of one instruction set, and nr."},
	{"op", op, METH_O, "op(name)\n--\n\nThe address of an operation, sp_<name>."},
	{"low_kernels", low_kernels, METH_O,
         "low_kernels(isa)\n--\n\nAddresses of the kernels for low precision of an instruction set, 'unit', 'amx' or 'avx_vnni'."},
	{"philox", philox, METH_VARARGS, "philox(counter, seed)\n--\n\nPhilox4x32-10 of four words and a seed."},
	{"math64", math64, METH_VARARGS, "math64(x)\n--\n\nexp(x) and log(x) in float64."},
	{"gemm", gemm, METH_VARARGS, "gemm(a, b)\n--\n\na @ b for float32 matrices of any strides."},
	{NULL, NULL, 0, NULL}};

static int module_exec(PyObject *Py_UNUSED(module))
{
	const char *variable, *allowed;
	if (PyArray_ImportNumPyAPI() < 0)
		return -1;
	if (sp_runtime_start(NULL, NULL, getenv("SENTPOOL_BLIS_ARCH"), &variable, &allowed) == SP_OK)
		return 0;
	PyErr_Format(PyExc_ValueError, "%s may be %s", variable, allowed);
	return -1;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef definition = {
	.m_base = PyModuleDef_HEAD_INIT, .m_name = "sentpool._kernels", .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__kernels(void)
{
	return PyModuleDef_Init(&definition);
}
