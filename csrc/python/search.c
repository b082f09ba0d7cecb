/* search.c: the functions of `_core` that search. The corpus is read where it is, whatever its strides. */
#include "python/binding.h"

#include <math.h>

/* A float32 matrix as it lies; NULL and an exception for anything else, which the caller has to convert. */
static PyArrayObject *corpus_in(PyObject *object)
{
	PyArrayObject *array = (PyArrayObject *)object;
	const npy_intp item = sizeof(float);
	if (PyArray_Check(object) && PyArray_TYPE(array) == NPY_FLOAT32 && PyArray_NDIM(array) == 2 &&
	    PyArray_ISBEHAVED_RO(array) && PyArray_STRIDE(array, 0) % item == 0 && PyArray_STRIDE(array, 1) % item == 0)
		return (PyArrayObject *)Py_NewRef(object);
	PyErr_SetString(PyExc_TypeError, "corpus must be an aligned float32 matrix");
	return NULL;
}

/* The exception for a vector that cannot be compared: row `row` of `name`, counted from `first` on. */
static void raise_bad(const char *name, int64_t first, struct sp_strided rows, int64_t row, int64_t d)
{
	int finite = 1;
	for (int64_t p = 0; p < d; p++)
		finite &= isfinite(rows.data[row * rows.rs + p * rows.cs]) != 0;
	PyErr_Format(PyExc_ValueError, "%s[%lld] %s", name, (long long)(first + row),
	             finite ? "is so long that products leave the range of float32; scale the vectors"
	                    : "holds NaN or infinity; leave it out, or find out where it comes from");
}

static PyObject *run_search(struct sp_search_job *job, int64_t first)
{
	npy_intp shape[] = {job->n_queries, job->k};
	PyArrayObject *ids = sp_array_new(2, shape, NPY_INT64), *scores = sp_array_new(2, shape, NPY_FLOAT32);
	PyObject *result = ids && scores ? PyTuple_Pack(2, ids, scores) : NULL;
	if (result) {
		struct sp_poll poll;
		job->ids = SP_INT64S(ids);
		job->scores = SP_FLOATS(scores);
		job->poll_arg = &poll;
		sp_poll_start(&poll);
		enum sp_status status = sp_search(job);
		for (npy_intp i = 0; status == SP_OK && i < shape[0] * shape[1]; i++)
			job->ids[i] += first;
		sp_poll_end(&poll);
		if (status != SP_OK)
			Py_CLEAR(result);
		if (status == SP_INVALID && job->bad_query >= 0)
			raise_bad("queries", 0, (struct sp_strided){job->queries, job->d, 1}, job->bad_query, job->d);
		else if (status == SP_INVALID)
			raise_bad("corpus", first, job->corpus, job->bad_row, job->d);
		else if (status != SP_OK)
			sp_raise(status);
	}
	Py_XDECREF(ids);
	Py_XDECREF(scores);
	return result;
}

static PyObject *search(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *queries_in, *corpus_object;
	const char *metric_name;
	long long k, first = 0;
	int threads = 1;
	if (!PyArg_ParseTuple(args, "OOLs|iL:search", &queries_in, &corpus_object, &k, &metric_name, &threads, &first))
		return NULL;
	int metric = sp_name_index(metric_name, sp_metric_names, "metric");
	PyArrayObject *queries = metric < 0 ? NULL : sp_array_in(queries_in, NPY_FLOAT32, 2, "queries");
	PyArrayObject *corpus = queries ? corpus_in(corpus_object) : NULL;
	PyObject *result = NULL;
	if (corpus && metric == SP_MANHATTAN)
		PyErr_SetString(PyExc_ValueError, "metric is 'manhattan', by which there is no search");
	else if (corpus && PyArray_DIM(corpus, 1) != PyArray_DIM(queries, 1))
		PyErr_Format(PyExc_ValueError, "queries has rows of %lld values and corpus of %lld; they must be equal",
		             (long long)PyArray_DIM(queries, 1), (long long)PyArray_DIM(corpus, 1));
	else if (corpus && (k < 1 || k > PyArray_DIM(corpus, 0)))
		PyErr_Format(PyExc_ValueError, "k is %lld; it must be between 1 and the corpus' rows", k);
	else if (corpus) {
		struct sp_search_job job = {
			.queries = SP_FLOATS(queries),
			.corpus = {SP_FLOATS(corpus), SP_STRIDE(corpus, 0), SP_STRIDE(corpus, 1)},
			.n_queries = PyArray_DIM(queries, 0),
			.n = PyArray_DIM(corpus, 0),
			.d = PyArray_DIM(queries, 1),
			.k = k,
			.metric = (enum sp_metric)metric,
			.threads = threads,
			.poll = sp_poll_signals,
		};
		result = run_search(&job, first);
	}
	Py_XDECREF(corpus);
	Py_XDECREF(queries);
	return result;
}

PyMethodDef sp_search_functions[] = {
	{"search", search, METH_VARARGS,
         "search(queries, corpus, k, metric, threads=1, first=0)\n--\n\nThe rows of a float32 corpus most similar to each "
         "query, counted from first on, and their scores: int64 and float32 (n, k)."},
	{NULL, NULL, 0, NULL}};
