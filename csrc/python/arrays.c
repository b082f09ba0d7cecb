/* arrays.c: NumPy arrays in and out. Nothing that comes in is ever written to. */
#include "python/binding.h"

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
	PyArray_Descr *descr = PyArray_DescrFromType(type);
	PyObject *array =
		PyArray_FromArray(any, descr, NPY_ARRAY_IN_ARRAY | NPY_ARRAY_NOTSWAPPED | NPY_ARRAY_FORCECAST);
	Py_DECREF(any);
	return (PyArrayObject *)array;
}

PyArrayObject *sp_array_new(int ndim, const npy_intp *shape, int type)
{
	return (PyArrayObject *)PyArray_SimpleNew(ndim, shape, type);
}
