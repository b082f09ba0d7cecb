/* training_functions.c: the functions of `_core` for training that need no encoder: losses of embeddings, the optimiser. */
#include "python/binding.h"

#include "training.h"

/* Embeddings (roles, n, d) that a loss can be computed of. */
static PyArrayObject *embeddings_in(PyObject *object, npy_intp least_roles, npy_intp most_roles)
{
	PyArrayObject *z = sp_array_in(object, NPY_FLOAT32, 3, "embeddings");
	if (z && PyArray_DIM(z, 0) >= least_roles && PyArray_DIM(z, 0) <= most_roles && PyArray_DIM(z, 1) > 0 &&
	    PyArray_DIM(z, 2) > 0)
		return z;
	if (z)
		PyErr_Format(
			PyExc_ValueError,
			"embeddings has shape (%lld, %lld, %lld); it must be (roles, n, d), with %s roles and n and d "
			"above 0",
			(long long)PyArray_DIM(z, 0), (long long)PyArray_DIM(z, 1), (long long)PyArray_DIM(z, 2),
			least_roles == most_roles ? "2" : "2 or 3");
	Py_XDECREF(z);
	return NULL;
}

/* (value, gradient), taking over the reference to gradient; or NULL with the exception of status. */
static PyObject *loss_result(enum sp_status status, double value, PyArrayObject *gradient)
{
	if (status == SP_OK)
		return Py_BuildValue("(dN)", value, gradient);
	Py_DECREF(gradient);
	return sp_raise(status);
}

static PyObject *infonce(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *z_in, *result = NULL;
	struct sp_infonce loss = {.poll = sp_poll_signals};
	int threads = 1;
	if (!PyArg_ParseTuple(args, "Oddp|i:infonce", &z_in, &loss.scale, &loss.log_alpha, &loss.symmetric, &threads))
		return NULL;
	PyArrayObject *z = embeddings_in(z_in, 2, 3);
	PyArrayObject *gradient = z ? sp_array_new(3, PyArray_DIMS(z), NPY_FLOAT32) : NULL;
	if (gradient) {
		struct sp_poll poll;
		double value = 0;
		loss.z = SP_FLOATS(z);
		loss.roles = PyArray_DIM(z, 0);
		loss.n = PyArray_DIM(z, 1);
		loss.d = PyArray_DIM(z, 2);
		loss.poll_arg = &poll;
		sp_poll_start(&poll);
		enum sp_status status = sp_infonce(&value, SP_FLOATS(gradient), &loss, threads);
		sp_poll_end(&poll);
		result = loss_result(status, value, gradient);
	}
	Py_XDECREF(z);
	return result;
}

/* float64 (n,) for the n pairs of embeddings */
static PyArrayObject *scores_in(PyObject *object, npy_intp n)
{
	PyArrayObject *scores =
		(PyArrayObject *)PyArray_FROMANY(object, NPY_FLOAT64, 1, 1, NPY_ARRAY_IN_ARRAY | NPY_ARRAY_NOTSWAPPED);
	if (scores && PyArray_DIM(scores, 0) != n) {
		PyErr_Format(PyExc_ValueError, "scores has %lld values for %lld pairs; expected one for each",
		             (long long)PyArray_DIM(scores, 0), (long long)n);
		Py_CLEAR(scores);
	}
	return scores;
}

static PyObject *cosent(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *z_in, *scores_object, *result = NULL;
	struct sp_cosent loss = {.poll = sp_poll_signals};
	int threads = 1;
	if (!PyArg_ParseTuple(args, "OOd|i:cosent", &z_in, &scores_object, &loss.scale, &threads))
		return NULL;
	PyArrayObject *z = embeddings_in(z_in, 2, 2);
	PyArrayObject *scores = z ? scores_in(scores_object, PyArray_DIM(z, 1)) : NULL;
	PyArrayObject *gradient = scores ? sp_array_new(3, PyArray_DIMS(z), NPY_FLOAT32) : NULL;
	if (gradient) {
		struct sp_poll poll;
		double value = 0;
		loss.z = SP_FLOATS(z);
		loss.scores = PyArray_DATA(scores);
		loss.n = PyArray_DIM(z, 1);
		loss.d = PyArray_DIM(z, 2);
		loss.poll_arg = &poll;
		sp_poll_start(&poll);
		enum sp_status status = sp_cosent(&value, SP_FLOATS(gradient), &loss, threads);
		sp_poll_end(&poll);
		result = loss_result(status, value, gradient);
	}
	Py_XDECREF(scores);
	Py_XDECREF(z);
	return result;
}

/* Blocks (count, 4) of start, end, moment, decayed, inside `parameters` values and `moments` moments. */
static PyArrayObject *blocks_in(PyObject *object, npy_intp parameters, npy_intp moments)
{
	PyArrayObject *blocks = sp_array_in(object, NPY_INT64, 2, "blocks");
	if (!blocks)
		return NULL;
	int fits = PyArray_DIM(blocks, 1) == 4;
	const struct sp_block *block = PyArray_DATA(blocks);
	for (npy_intp i = 0; fits && i < PyArray_DIM(blocks, 0); i++) {
		const struct sp_block b = block[i];
		fits = 0 <= b.start && b.start <= b.end && b.end <= parameters && b.moment >= 0 &&
		       b.end - b.start <= moments && b.moment <= moments - (b.end - b.start);
	}
	if (!fits) {
		PyErr_SetString(PyExc_ValueError,
		                "blocks must have rows (start, end, moment, decayed) inside the arrays");
		Py_CLEAR(blocks);
	}
	return blocks;
}

static PyObject *gradient_squares(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *gradients_in, *blocks_object, *result = NULL;
	int threads = 1;
	if (!PyArg_ParseTuple(args, "OO|i:gradient_squares", &gradients_in, &blocks_object, &threads))
		return NULL;
	PyArrayObject *gradients = sp_array_in(gradients_in, NPY_FLOAT32, 1, "gradients");
	PyArrayObject *blocks = gradients ? blocks_in(blocks_object, PyArray_DIM(gradients, 0), NPY_MAX_INTP) : NULL;
	if (blocks) {
		double sum = 0;
		enum sp_status status;
		Py_BEGIN_ALLOW_THREADS
		status = sp_gradient_squares(&sum, SP_FLOATS(gradients), PyArray_DATA(blocks), PyArray_DIM(blocks, 0),
		                             threads);
		Py_END_ALLOW_THREADS
		result = status == SP_OK ? PyFloat_FromDouble(sum) : sp_raise(status);
	}
	Py_XDECREF(blocks);
	Py_XDECREF(gradients);
	return result;
}

/* The data of a writable float32 array (n,) without gaps: what is updated in place is never a copy. */
static float *in_place(PyObject *object, const char *name)
{
	PyArrayObject *array = (PyArrayObject *)object;
	if (PyArray_Check(object) && PyArray_NDIM(array) == 1 && PyArray_TYPE(array) == NPY_FLOAT32 &&
	    PyArray_ISCARRAY(array))
		return SP_FLOATS(array);
	PyErr_Format(PyExc_TypeError, "%s must be a writable float32 array (n,) without gaps", name);
	return NULL;
}

static PyObject *adamw(PyObject *Py_UNUSED(module), PyObject *args)
{
	static const char *const names[] = {"masters", "first", "second"};
	PyObject *in[3], *gradients_in, *blocks_object;
	struct sp_adamw_job job = {0};
	struct sp_adamw *s = &job.step;
	int threads = 1;
	if (!PyArg_ParseTuple(args, "OOOOO(ffffffff)|i:adamw", &in[0], &in[1], &in[2], &gradients_in, &blocks_object,
	                      &s->clip, &s->first_rate, &s->second_decay, &s->second_rate, &s->second_root, &s->step,
	                      &s->decay, &s->eps, &threads))
		return NULL;
	float **data[] = {&job.masters, &job.first, &job.second};
	for (int i = 0; i < 3; i++)
		if (!(*data[i] = in_place(in[i], names[i])))
			return NULL;
	npy_intp n = PyArray_DIM((PyArrayObject *)in[0], 0), moments = PyArray_DIM((PyArrayObject *)in[1], 0);
	PyArrayObject *gradients = sp_array_in(gradients_in, NPY_FLOAT32, 1, "gradients"), *blocks = NULL;
	if (gradients && (PyArray_DIM(gradients, 0) != n || PyArray_DIM((PyArrayObject *)in[2], 0) != moments))
		PyErr_SetString(PyExc_ValueError,
		                "masters and gradients must be equally long, and so first and second");
	else if (gradients)
		blocks = blocks_in(blocks_object, n, moments);
	if (blocks) {
		job.gradients = SP_FLOATS(gradients);
		job.blocks = PyArray_DATA(blocks);
		job.count = PyArray_DIM(blocks, 0);
		Py_BEGIN_ALLOW_THREADS
		sp_adamw_update(&job, threads);
		Py_END_ALLOW_THREADS
	}
	Py_XDECREF(gradients);
	if (!blocks)
		return NULL;
	Py_DECREF(blocks);
	Py_RETURN_NONE;
}

static PyObject *fresh_normal(PyObject *Py_UNUSED(module), PyObject *args)
{
	long long n;
	double deviation;
	unsigned long long seed;
	unsigned int stream;
	if (!PyArg_ParseTuple(args, "LdKI:fresh_normal", &n, &deviation, &seed, &stream))
		return NULL;
	if (n < 0 || n >= 1 << 30)
		return PyErr_Format(PyExc_ValueError, "n is %lld; it must be from 0 to 2**30 - 1", n);
	npy_intp shape = (npy_intp)n;
	PyArrayObject *out = sp_array_new(1, &shape, NPY_FLOAT32);
	if (out) {
		Py_BEGIN_ALLOW_THREADS
		sp_fresh_normal(SP_FLOATS(out), n, deviation, seed, stream);
		Py_END_ALLOW_THREADS
	}
	return (PyObject *)out;
}

PyMethodDef sp_training_functions[] = {
	{"infonce", infonce, METH_VARARGS,
         "infonce(embeddings, scale, log_alpha, symmetric, threads=1)\n--\n\nThe contrastive loss of embeddings (roles, n, d), and "
         "its gradient."},
	{"cosent", cosent, METH_VARARGS,
         "cosent(embeddings, scores, scale, threads=1)\n--\n\nCoSENT of embeddings (2, n, d) of pairs with scores (n,), and its "
         "gradient."},
	{"gradient_squares", gradient_squares, METH_VARARGS,
         "gradient_squares(gradients, blocks, threads=1)\n--\n\nThe sum of the squares of gradients (n,) inside the blocks."},
	{"adamw", adamw, METH_VARARGS,
         "adamw(masters, first, second, gradients, blocks, constants, threads=1)\n--\n\nOne step of AdamW, in place; constants are "
         "those of struct sp_adamw."},
	{"fresh_normal", fresh_normal, METH_VARARGS,
         "fresh_normal(n, deviation, seed, stream)\n--\n\nn numbers of N(0, deviation**2), float32."},
	{NULL, NULL, 0, NULL}};
