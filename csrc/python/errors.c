/* errors.c: a status of the core becomes a Python exception. */
#include "python/binding.h"

PyObject *sp_raise(enum sp_status status)
{
	switch (status) {
	case SP_NO_MEMORY: return PyErr_NoMemory();
	case SP_CANCELLED: return NULL; /* the signal handler has set it */
	case SP_INVALID: PyErr_SetString(PyExc_ValueError, "sentpool: invalid argument"); return NULL;
	case SP_OK: break;
	}
	PyErr_SetString(PyExc_SystemError, "sentpool: raised without an error");
	return NULL;
}
