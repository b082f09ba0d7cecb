/* functions.c: the functions of `_core` for similarity, and what this build runs on. */
#include "python/binding.h"

#include <string.h>

/* Two float32 matrices with rows of equal length; on failure both are NULL. */
static int two_matrices(PyObject *a_in, PyObject *b_in, PyArrayObject **a, PyArrayObject **b)
{
	*a = sp_array_in(a_in, NPY_FLOAT32, 2, "a");
	*b = *a ? sp_array_in(b_in, NPY_FLOAT32, 2, "b") : NULL;
	if (*b && PyArray_DIM(*a, 1) != PyArray_DIM(*b, 1)) {
		PyErr_Format(PyExc_ValueError, "a has rows of %lld values and b of %lld; they must be equal",
		             (long long)PyArray_DIM(*a, 1), (long long)PyArray_DIM(*b, 1));
		Py_CLEAR(*b);
	}
	if (*b)
		return 1;
	Py_CLEAR(*a);
	return 0;
}

const char *const sp_metric_names[] = {"cosine", "dot", "euclidean", "manhattan", NULL};

static PyObject *similarity_pairwise(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *a_in, *b_in;
	const char *metric_name = "cosine";
	PyArrayObject *a, *b, *out = NULL;
	if (!PyArg_ParseTuple(args, "OO|s:similarity_pairwise", &a_in, &b_in, &metric_name))
		return NULL;
	int metric = sp_name_index(metric_name, sp_metric_names, "metric");
	if (metric < 0 || !two_matrices(a_in, b_in, &a, &b))
		return NULL;
	npy_intp n = PyArray_DIM(a, 0);
	if (PyArray_DIM(b, 0) != n)
		PyErr_Format(PyExc_ValueError, "a has %lld rows and b %lld; they must be equal", (long long)n,
		             (long long)PyArray_DIM(b, 0));
	else
		out = sp_array_new(1, &n, NPY_FLOAT64);
	if (out) {
		double *values = PyArray_DATA(out);
		Py_BEGIN_ALLOW_THREADS
		sp_similarity_pairwise(values, SP_FLOATS(a), SP_FLOATS(b), n, PyArray_DIM(a, 1),
		                       (enum sp_metric)metric);
		Py_END_ALLOW_THREADS
	}
	Py_DECREF(a);
	Py_DECREF(b);
	return (PyObject *)out;
}

static PyObject *similarity(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *a_in, *b_in;
	const char *metric_name = "cosine";
	int threads = 1;
	PyArrayObject *a, *b;
	if (!PyArg_ParseTuple(args, "OO|si:similarity", &a_in, &b_in, &metric_name, &threads))
		return NULL;
	int metric = sp_name_index(metric_name, sp_metric_names, "metric");
	if (metric < 0 || !two_matrices(a_in, b_in, &a, &b))
		return NULL;
	npy_intp shape[] = {PyArray_DIM(a, 0), PyArray_DIM(b, 0)};
	PyArrayObject *out = sp_array_new(2, shape, NPY_FLOAT32);
	if (out) {
		struct sp_poll poll;
		sp_poll_start(&poll);
		enum sp_status status = sp_similarity_matrix(SP_FLOATS(out), SP_FLOATS(a), shape[0], SP_FLOATS(b),
		                                             shape[1], PyArray_DIM(a, 1), (enum sp_metric)metric,
		                                             threads, sp_poll_signals, &poll);
		sp_poll_end(&poll);
		if (status != SP_OK) {
			Py_CLEAR(out);
			sp_raise(status);
		}
	}
	Py_DECREF(a);
	Py_DECREF(b);
	return (PyObject *)out;
}

static PyObject *config(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
	const struct sp_runtime *runtime = sp_runtime();
	return Py_BuildValue("{s:s,s:s,s:s,s:s,s:i}", "isa", runtime->kernels->isa, "gemm",
	                     runtime->engine == SP_BLIS ? "blis" : "panel", "blis_arch", runtime->blis_arch,
	                     "blis_version", runtime->blis_version, "cpus", sp_cpu_count());
}

static PyObject *low_precision_units(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
	const struct sp_low_runtime *low = sp_low_runtime();
	return Py_BuildValue("{s:s,s:s}", "bfloat16", low->bf16_unit, "int8", low->int8_unit);
}

static PyObject *isas(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
	PyObject *list = PyList_New(0);
	for (const char *const *name = sp_isas(); list && *name; name++) {
		PyObject *text = PyUnicode_FromString(*name);
		if (!text || PyList_Append(list, text) < 0)
			Py_CLEAR(list);
		Py_XDECREF(text);
	}
	return list;
}

static PyObject *gemm_calls(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
	struct sp_gemm_calls calls = sp_gemm_calls();
	return Py_BuildValue("{s:L,s:L}", "panel", (long long)calls.panel, "blis", (long long)calls.blis);
}

static PyObject *release_freed_memory(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
	sp_release_freed();
	Py_RETURN_NONE;
}

static PyObject *fail_allocation(PyObject *Py_UNUSED(module), PyObject *args)
{
	long long n;
	if (!PyArg_ParseTuple(args, "L:fail_allocation", &n))
		return NULL;
	sp_fail_allocation(n);
	Py_RETURN_NONE;
}

PyMethodDef sp_functions[] = {
	{"similarity_pairwise", similarity_pairwise, METH_VARARGS,
         "similarity_pairwise(a, b, metric='cosine')\n--\n\nRow by row, computed and returned in float64 (n,)."},
	{"similarity", similarity, METH_VARARGS,
         "similarity(a, b, metric='cosine', threads=1)\n--\n\nEvery row of a against every row of b, computed in float64, returned "
         "as float32 (n, m)."},
	{"config", config, METH_NOARGS, "config()\n--\n\nThe kernels and engines in use, as a dict."},
	{"low_precision_units", low_precision_units, METH_NOARGS,
         "low_precision_units()\n--\n\nThe units of this CPU that compute in bfloat16 and int8: 'amx', 'avx512_bf16', 'avx512_vnni', "
         "'avx_vnni' or 'none'."},
	{"isas", isas, METH_NOARGS, "isas()\n--\n\nThe instruction sets that run on this CPU, best first."},
	{"gemm_calls", gemm_calls, METH_NOARGS,
         "gemm_calls()\n--\n\nProducts computed so far by each engine, as a dict."},
	{"release_freed_memory", release_freed_memory, METH_NOARGS,
         "release_freed_memory()\n--\n\nMemory that was freed goes back to the system, where the C library can do that."},
	{"fail_allocation", fail_allocation, METH_VARARGS,
         "fail_allocation(n)\n--\n\nFor tests: the n-th allocation of the core from now on fails; 0 switches it off."},
	{NULL, NULL, 0, NULL}};
