/* binding.h: what the files of the Python binding share. The binding is the only place that includes Python.h. */
#ifndef SP_BINDING_H
#define SP_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define PY_ARRAY_UNIQUE_SYMBOL sentpool_array_api
#ifndef SP_IMPORT_ARRAY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include <time.h>

#include "sentpool.h"

/* ---- arrays.c: checked arrays in, new arrays out; every message names the argument ------------------------------ */

/* `object` as a C-contiguous aligned array of `type` with `ndim` dimensions: itself where it is one, else a converted
 * copy. Floating and integer input is taken for floats, integers for integers; anything else is a TypeError. */
PyArrayObject *sp_array_in(PyObject *object, int type, int ndim, const char *name);
/* As sp_array_in for float32, but rows (the last axis) may be apart by any number of floats: views are not copied. */
PyArrayObject *sp_rows_in(PyObject *object, int ndim, const char *name);
PyArrayObject *sp_array_new(int ndim, const npy_intp *shape, int type);

/* Where `name` is in a NULL-terminated list; -1 and an exception that names the argument if it is not. */
int sp_name_index(const char *name, const char *const *names, const char *argument);

/* The names of enum sp_activation but for the last, SP_GELU_LOW, in its order, NULL-terminated. */
extern const char *const sp_activation_names[];

#define SP_FLOATS(array) ((float *)PyArray_DATA(array))
#define SP_STRIDE(array, axis) ((int64_t)(PyArray_STRIDE(array, axis) / (npy_intp)sizeof(float)))
#define SP_INT64S(array) ((int64_t *)PyArray_DATA(array))

/* ---- requests.c: exceptions that name the argument, and 0, where something does not fit ---------------------------- */

/* Packed sentences: every id in the vocabulary, every sentence of a length that has positions. */
int sp_check_sentences(const struct sp_config *config, PyArrayObject *ids, PyArrayObject *offsets);
int sp_check_layers(PyArrayObject *layers, int64_t L);
/* A tuple of names; as many poolings. */
int sp_poolings_in(PyObject *tokens, enum sp_pooling *poolings);
/* A tuple of probabilities: at the embedding output, attention probabilities, attention's output, inside the feed-forward
 * and at its output. */
int sp_rates_in(PyObject *object, struct sp_dropout *dropout);

/* ---- errors.c ------------------------------------------------------------------------------------------------------ */

/* Set the Python exception of a status; returns NULL. SP_CANCELLED keeps the exception that stopped the job. */
PyObject *sp_raise(enum sp_status status);

/* ---- poll.c --------------------------------------------------------------------------------------------------------- */

struct sp_poll {
	PyThreadState *thread;
	struct timespec last;
};

/* Drop the GIL for long work; take it again. Between the two the work calls sp_poll_signals(poll) now and then: non-zero
 * means that a signal handler raised, and the work shall end. */
void sp_poll_start(struct sp_poll *poll);
void sp_poll_end(struct sp_poll *poll);
int sp_poll_signals(void *poll);

/* ---- model_config.c ------------------------------------------------------------------------------------------------ */

/* Whether least <= value <= most; if not, an exception that names the argument. */
int sp_check_size(const char *name, int64_t value, int64_t least, int64_t most);
/* The configuration that the keyword arguments of Model describe; 0 and an exception where it cannot be. */
int sp_config_from_arguments(PyObject *args, PyObject *kwargs, struct sp_config *config);

/* ---- types and methods -------------------------------------------------------------------------------------------- */

extern PyType_Spec sp_model_spec, sp_training_spec;
extern PyTypeObject *sp_model_type; /* set at import */
/* The model of a Model that is finished; NULL and an exception for anything else. */
struct sp_model *sp_finished_model(PyObject *object);
extern PyMethodDef sp_functions[], sp_pooling_functions[], sp_search_functions[], sp_training_functions[];
extern PyMethodDef sp_mlm_functions[];
extern const char *const sp_metric_names[];

#endif
