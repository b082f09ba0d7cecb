/* arrays.c: NumPy arrays in and out. Nothing that comes in is ever written to. */
#include "python/binding.h"

#include <string.h>

/* Whether integers of any type fit into 32 bits; sets the exception where not. */
static int fits_int32(PyArrayObject *any, const char *name)
{
	if (PyArray_TYPE(any) == NPY_INT32 || PyArray_SIZE(any) == 0)
		return 1;
	PyArrayObject *wide = (PyArrayObject *)PyArray_FROM_OTF((PyObject *)any, NPY_INT64, NPY_ARRAY_IN_ARRAY);
	if (!wide)
		return 0; /* uint64 is not cast safely, and says so */
	npy_intp wrong = 0, n = PyArray_SIZE(wide);
	const int64_t *x = PyArray_DATA(wide);
	while (wrong < n && x[wrong] >= INT32_MIN && x[wrong] <= INT32_MAX)
		wrong++;
	if (wrong < n)
		PyErr_Format(PyExc_ValueError, "%s[%lld] is %lld, which needs more than 32 bits", name,
		             (long long)wrong, (long long)x[wrong]);
	Py_DECREF(wide);
	return wrong == n;
}

PyArrayObject *sp_array_in(PyObject *object, int type, int ndim, const char *name)
{
	PyArrayObject *any = (PyArrayObject *)PyArray_FROM_O(object);
	if (!any)
		return NULL;
	int integers_only = type != NPY_FLOAT32;
	if (!(PyArray_ISINTEGER(any) || (PyArray_ISFLOAT(any) && !integers_only))) {
		/* an empty list becomes float64; it is as good as an empty array of integers */
		if (!(PyArray_SIZE(any) == 0 && PyArray_ISFLOAT(any))) {
			PyErr_Format(PyExc_TypeError, "%s must be an array of %s, not of dtype %R", name,
			             integers_only ? "integers" : "real numbers", (PyObject *)PyArray_DESCR(any));
			Py_DECREF(any);
			return NULL;
		}
	}
	if (PyArray_NDIM(any) != ndim) {
		PyErr_Format(PyExc_ValueError, "%s must have %d dimension%s, not %d", name, ndim, ndim == 1 ? "" : "s",
		             PyArray_NDIM(any));
		Py_DECREF(any);
		return NULL;
	}
	if (type == NPY_INT32 && !fits_int32(any, name)) {
		Py_DECREF(any);
		return NULL;
	}
	PyArray_Descr *descr = PyArray_DescrFromType(type);
	PyObject *array =
		PyArray_FromArray(any, descr, NPY_ARRAY_IN_ARRAY | NPY_ARRAY_NOTSWAPPED | NPY_ARRAY_FORCECAST);
	Py_DECREF(any);
	return (PyArrayObject *)array;
}

PyArrayObject *sp_rows_in(PyObject *object, int ndim, const char *name)
{
	if (PyArray_Check(object)) {
		PyArrayObject *array = (PyArrayObject *)object;
		int apart = PyArray_TYPE(array) == NPY_FLOAT32 && PyArray_NDIM(array) == ndim &&
		            PyArray_ISBEHAVED_RO(array) && PyArray_STRIDE(array, ndim - 1) == sizeof(float);
		for (int axis = 0; apart && axis < ndim - 1; axis++)
			apart = PyArray_STRIDE(array, axis) % (npy_intp)sizeof(float) == 0;
		if (apart)
			return (PyArrayObject *)Py_NewRef(object);
	}
	return sp_array_in(object, NPY_FLOAT32, ndim, name);
}

const char *const sp_activation_names[] = {"identity", "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", NULL};

PyArrayObject *sp_array_new(int ndim, const npy_intp *shape, int type)
{
	return (PyArrayObject *)PyArray_SimpleNew(ndim, shape, type);
}

int sp_name_index(const char *name, const char *const *names, const char *argument)
{
	for (int i = 0; names[i]; i++)
		if (strcmp(name, names[i]) == 0)
			return i;
	PyErr_Format(PyExc_ValueError, "%s is '%s', which is not known", argument, name);
	return -1;
}
