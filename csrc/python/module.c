/* module.c: the extension module `sentpool._core`: starts the core once, then offers its type and functions. */
#define SP_IMPORT_ARRAY
#include "python/binding.h"

#include <stdlib.h>

/* An unset or empty variable leaves the choice to the CPU. */
static const char *environment(const char *name)
{
	const char *value = getenv(name);
	return value && *value ? value : NULL;
}

static int start_core(void)
{
	const char *variable = NULL, *allowed = NULL;
	enum sp_status status = sp_runtime_start(environment("SENTPOOL_ISA"), environment("SENTPOOL_GEMM"),
	                                         environment("SENTPOOL_BLIS_ARCH"), &variable, &allowed);
	if (status == SP_OK)
		return 0;
	if (status != SP_INVALID) {
		sp_raise(status);
		return -1;
	}
	PyErr_Format(PyExc_ValueError, "%s is '%s'; on this CPU it may be %s, or unset", variable, getenv(variable),
	             allowed);
	return -1;
}

static int add_type(PyObject *module, const char *name, PyType_Spec *spec, PyTypeObject **kept)
{
	PyObject *type = PyType_FromSpec(spec);
	int status = type ? PyModule_AddObjectRef(module, name, type) : -1;
	if (kept && status == 0)
		*kept = (PyTypeObject *)Py_NewRef(type);
	Py_XDECREF(type);
	return status;
}

static int module_exec(PyObject *module)
{
	if (PyArray_ImportNumPyAPI() < 0 || start_core() < 0)
		return -1;
	if (add_type(module, "Training", &sp_training_spec, NULL) < 0 ||
	    add_type(module, "Model", &sp_model_spec, &sp_model_type) < 0)
		return -1;
	int status = PyModule_AddFunctions(module, sp_pooling_functions);
	status = status == 0 ? PyModule_AddFunctions(module, sp_search_functions) : status;
	status = status == 0 ? PyModule_AddFunctions(module, sp_training_functions) : status;
	return status == 0 ? PyModule_AddFunctions(module, sp_mlm_functions) : status;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_def = {.m_base = PyModuleDef_HEAD_INIT,
                                        .m_name = "sentpool._core",
                                        .m_doc = "The C core of sentpool; use it through the package.",
                                        .m_size = 0,
                                        .m_methods = sp_functions,
                                        .m_slots = module_slots};

PyMODINIT_FUNC PyInit__core(void)
{
	return PyModuleDef_Init(&module_def);
}
