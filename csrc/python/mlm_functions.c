/* mlm_functions.c: the functions of `_core` for masked language modelling. */
#include "python/binding.h"

#include "training.h"

#include <string.h>

/* offsets of sentences in n tokens: ascending from 0 to n */
static int check_offsets(PyArrayObject *offsets, npy_intp n)
{
	npy_intp count = PyArray_DIM(offsets, 0);
	const int64_t *offset = PyArray_DATA(offsets);
	int fits = count > 0 && offset[0] == 0 && offset[count - 1] == n;
	for (npy_intp i = 1; fits && i < count; i++)
		fits = offset[i - 1] <= offset[i];
	if (!fits)
		PyErr_Format(PyExc_ValueError, "offsets must ascend from 0 to %lld, the number of ids", (long long)n);
	return fits;
}

/* Whether all values are from 0 to V - 1. */
static int check_ids(PyArrayObject *ids, npy_intp V, const char *name)
{
	const int32_t *id = PyArray_DATA(ids);
	for (npy_intp i = 0; i < PyArray_DIM(ids, 0); i++)
		if (id[i] < 0 || id[i] >= V) {
			PyErr_Format(PyExc_ValueError, "%s[%lld] is %d; it must be from 0 to %lld", name, (long long)i,
			             (int)id[i], (long long)V - 1);
			return 0;
		}
	return 1;
}

/* The first `count` values of an array of one dimension, as an array of their own. */
static PyObject *head_of(PyArrayObject *array, npy_intp count)
{
	PyArrayObject *head = sp_array_new(1, &count, PyArray_TYPE(array));
	if (head)
		memcpy(PyArray_DATA(head), PyArray_DATA(array), (size_t)PyArray_NBYTES(head));
	return (PyObject *)head;
}

static PyObject *choose(PyArrayObject *ids_in, PyArrayObject *offsets, struct sp_mlm_choice *choice)
{
	npy_intp n = PyArray_DIM(ids_in, 0);
	PyObject *result = NULL;
	PyArrayObject *ids = (PyArrayObject *)PyArray_NewCopy(ids_in, NPY_CORDER);
	PyArrayObject *positions = sp_array_new(1, &n, NPY_INT64), *labels = sp_array_new(1, &n, NPY_INT32);
	if (ids && positions && labels) {
		int64_t count;
		Py_BEGIN_ALLOW_THREADS
		count = sp_mlm_choice(PyArray_DATA(ids), SP_INT64S(positions), PyArray_DATA(labels), SP_INT64S(offsets),
		                      PyArray_DIM(offsets, 0) - 1, choice);
		Py_END_ALLOW_THREADS
		result = Py_BuildValue("(ONN)", ids, head_of(positions, count), head_of(labels, count));
	}
	Py_XDECREF(ids);
	Py_XDECREF(positions);
	Py_XDECREF(labels);
	return result;
}

static PyObject *mlm_choice(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *ids_in, *offsets_in, *special_in, *result = NULL;
	struct sp_mlm_choice choice = {0};
	unsigned long long seed;
	long long first_row;
	if (!PyArg_ParseTuple(args, "OOOiKIL:mlm_choice", &ids_in, &offsets_in, &special_in, &choice.mask_id, &seed,
	                      &choice.step, &first_row))
		return NULL;
	PyArrayObject *ids = sp_array_in(ids_in, NPY_INT32, 1, "ids"), *special = NULL;
	PyArrayObject *offsets = ids ? sp_array_in(offsets_in, NPY_INT64, 1, "offsets") : NULL;
	if (offsets && check_offsets(offsets, PyArray_DIM(ids, 0)))
		special = sp_array_in(special_in, NPY_UINT8, 1, "special");
	if (special && check_ids(ids, PyArray_DIM(special, 0), "ids")) {
		choice.seed = seed;
		choice.first_row = first_row;
		choice.special = PyArray_DATA(special);
		choice.vocab_size = PyArray_DIM(special, 0);
		if (choice.mask_id < 0 || choice.mask_id >= choice.vocab_size)
			PyErr_Format(PyExc_ValueError, "mask_id is %d; it must be from 0 to %lld", (int)choice.mask_id,
			             (long long)choice.vocab_size - 1);
		else
			result = choose(ids, offsets, &choice);
	}
	Py_XDECREF(special);
	Py_XDECREF(offsets);
	Py_XDECREF(ids);
	return result;
}

/* ---- the head: six parameters, in the order of struct sp_mlm_head, and their gradients --------------------------------- */

enum { DENSE, DENSE_BIAS, GAMMA, BETA, WORDS, BIAS, PARAMETERS };

static const char *const names[PARAMETERS] = {"dense", "dense_bias", "norm", "norm_bias", "words", "bias"};

/* parameters for states of H numbers; their widths and lengths agree */
static int check_parameters(PyArrayObject *const p[PARAMETERS], npy_intp H)
{
	npy_intp V = PyArray_DIM(p[WORDS], 0), E = PyArray_DIM(p[WORDS], 1);
	if (PyArray_DIM(p[DENSE], 0) == E && PyArray_DIM(p[DENSE], 1) == H && PyArray_DIM(p[DENSE_BIAS], 0) == E &&
	    PyArray_DIM(p[GAMMA], 0) == E && PyArray_DIM(p[BETA], 0) == E && PyArray_DIM(p[BIAS], 0) == V)
		return 1;
	PyErr_Format(
		PyExc_ValueError,
		"with words (%lld, %lld) and rows of %lld values, dense must be (%lld, %lld), bias (%lld,) and the "
		"others (%lld,)",
		(long long)V, (long long)E, (long long)H, (long long)E, (long long)H, (long long)V, (long long)E);
	return 0;
}

/* The data of the gradient of p: writable float32 without gaps, of p's shape. */
static float *gradient_of(PyObject *object, PyArrayObject *p, const char *name)
{
	PyArrayObject *array = (PyArrayObject *)object;
	if (PyArray_Check(object) && PyArray_TYPE(array) == NPY_FLOAT32 && PyArray_ISCARRAY(array) &&
	    PyArray_SAMESHAPE(array, p))
		return SP_FLOATS(array);
	PyErr_Format(PyExc_TypeError, "the gradient of %s must be a writable float32 array of its shape, without gaps",
	             name);
	return NULL;
}

/* Cuts ascend from 0 to m, at most SP_KC apart. */
static int check_cuts(PyArrayObject *cuts, npy_intp m)
{
	npy_intp count = PyArray_DIM(cuts, 0);
	const int64_t *cut = PyArray_DATA(cuts);
	int fits = m > 0 && count > 1 && cut[0] == 0 && cut[count - 1] == m;
	for (npy_intp i = 1; fits && i < count; i++)
		fits = cut[i - 1] < cut[i] && cut[i] - cut[i - 1] <= SP_KC;
	if (!fits)
		PyErr_Format(PyExc_ValueError,
		             "cuts must ascend from 0 to %lld, the number of rows, by 1 to %d at a time", (long long)m,
		             SP_KC);
	return fits;
}

static PyObject *run_head(struct sp_mlm_job *job, PyArrayObject *rows, int threads)
{
	npy_intp m = PyArray_DIM(rows, 0);
	PyObject *result = NULL;
	PyArrayObject *losses = sp_array_new(1, &m, NPY_FLOAT64);
	PyArrayObject *dx = losses ? sp_array_new(2, PyArray_DIMS(rows), NPY_FLOAT32) : NULL;
	if (dx) {
		struct sp_poll poll;
		job->x = SP_FLOATS(rows);
		job->m = m;
		job->losses = PyArray_DATA(losses);
		job->dx = SP_FLOATS(dx);
		job->poll = sp_poll_signals;
		job->poll_arg = &poll;
		sp_poll_start(&poll);
		enum sp_status status = sp_mlm_head(job, threads);
		sp_poll_end(&poll);
		result = status == SP_OK ? PyTuple_Pack(2, losses, dx) : sp_raise(status);
	}
	Py_XDECREF(losses);
	Py_XDECREF(dx);
	return result;
}

/* Check what belongs together and run; p and gradients are the six parameters. */
static PyObject *checked_head(PyArrayObject *rows, PyArrayObject *labels, PyArrayObject *cuts,
                              PyArrayObject *const p[PARAMETERS], PyObject *const gradient_in[PARAMETERS],
                              struct sp_mlm_head *head, double scale, int threads)
{
	float *d[PARAMETERS];
	if (!check_parameters(p, PyArray_DIM(rows, 1)) || !check_cuts(cuts, PyArray_DIM(rows, 0)))
		return NULL;
	if (PyArray_DIM(labels, 0) != PyArray_DIM(rows, 0))
		return PyErr_Format(PyExc_ValueError, "labels has %lld values for %lld rows; expected one for each",
		                    (long long)PyArray_DIM(labels, 0), (long long)PyArray_DIM(rows, 0));
	if (!check_ids(labels, PyArray_DIM(p[WORDS], 0), "labels"))
		return NULL;
	for (int i = 0; i < PARAMETERS; i++)
		if (!(d[i] = gradient_of(gradient_in[i], p[i], names[i])))
			return NULL;
	head->dense = SP_FLOATS(p[DENSE]);
	head->dense_bias = SP_FLOATS(p[DENSE_BIAS]);
	head->gamma = SP_FLOATS(p[GAMMA]);
	head->beta = SP_FLOATS(p[BETA]);
	head->words = SP_FLOATS(p[WORDS]);
	head->bias = SP_FLOATS(p[BIAS]);
	head->H = PyArray_DIM(rows, 1);
	head->E = PyArray_DIM(p[WORDS], 1);
	head->V = PyArray_DIM(p[WORDS], 0);
	struct sp_mlm_gradients gradients = {d[DENSE], d[DENSE_BIAS], d[GAMMA], d[BETA], d[WORDS], d[BIAS]};
	struct sp_mlm_job job = {.head = head,
	                         .gradients = &gradients,
	                         .labels = PyArray_DATA(labels),
	                         .groups = {PyArray_DIM(cuts, 0) - 1, SP_INT64S(cuts)},
	                         .scale = scale};
	return run_head(&job, rows, threads);
}

static PyObject *mlm_head(PyObject *Py_UNUSED(module), PyObject *args)
{
	static const int dimensions[PARAMETERS] = {2, 1, 1, 1, 2, 1};
	PyObject *rows_in, *labels_in, *cuts_in, *in[PARAMETERS], *gradient_in[PARAMETERS], *result = NULL;
	PyArrayObject *p[PARAMETERS] = {NULL};
	const char *activation;
	struct sp_mlm_head head = {0};
	double scale;
	int threads = 1, ready = 1;
	if (!PyArg_ParseTuple(args, "OOO(OOOOOO)(OOOOOO)fsd|i:mlm_head", &rows_in, &labels_in, &cuts_in, &in[0], &in[1],
	                      &in[2], &in[3], &in[4], &in[5], &gradient_in[0], &gradient_in[1], &gradient_in[2],
	                      &gradient_in[3], &gradient_in[4], &gradient_in[5], &head.eps, &activation, &scale,
	                      &threads))
		return NULL;
	int f = sp_name_index(activation, sp_activation_names, "activation");
	PyArrayObject *rows = f < 0 ? NULL : sp_array_in(rows_in, NPY_FLOAT32, 2, "rows");
	PyArrayObject *labels = rows ? sp_array_in(labels_in, NPY_INT32, 1, "labels") : NULL;
	PyArrayObject *cuts = labels ? sp_array_in(cuts_in, NPY_INT64, 1, "cuts") : NULL;
	ready = cuts != NULL;
	for (int i = 0; ready && i < PARAMETERS; i++) {
		p[i] = sp_array_in(in[i], NPY_FLOAT32, dimensions[i], names[i]);
		ready = p[i] != NULL;
	}
	head.activation = (enum sp_activation)f;
	if (ready)
		result = checked_head(rows, labels, cuts, p, gradient_in, &head, scale, threads);
	for (int i = 0; i < PARAMETERS; i++)
		Py_XDECREF(p[i]);
	Py_XDECREF(cuts);
	Py_XDECREF(labels);
	Py_XDECREF(rows);
	return result;
}

PyMethodDef sp_mlm_functions[] = {
	{"mlm_choice", mlm_choice, METH_VARARGS,
         "mlm_choice(ids, offsets, special, mask_id, seed, step, first_row)\n--\n\nWhat a masked language model sees of packed "
         "sentences, where tokens were chosen, and which they were."},
	{"mlm_head", mlm_head, METH_VARARGS,
         "mlm_head(rows, labels, cuts, parameters, gradients, eps, activation, scale, threads=1)\n--\n\nThe losses of masked "
         "tokens and the gradient of their states; those of parameters are added in place."},
	{NULL, NULL, 0, NULL}};
