/* search.c: the functions of `_core` that search. The corpus is read where it is, whatever its strides. */
#include "python/binding.h"

#include <math.h>

/* A matrix of float32, or of 8 bits with rows in one piece, as it lies; NULL and an exception for anything else, which
 * the caller has to convert. */
static PyArrayObject *corpus_in(PyObject *object)
{
	PyArrayObject *array = (PyArrayObject *)object;
	const npy_intp item = sizeof(float);
	if (PyArray_Check(object) && PyArray_NDIM(array) == 2 && PyArray_ISBEHAVED_RO(array)) {
		int type = PyArray_TYPE(array);
		npy_intp apart = PyArray_STRIDE(array, 0), next = PyArray_STRIDE(array, 1);
		if ((type == NPY_FLOAT32 && apart % item == 0 && next % item == 0) ||
		    ((type == NPY_INT8 || type == NPY_UINT8) && next == 1))
			return (PyArrayObject *)Py_NewRef(object);
	}
	PyErr_SetString(PyExc_TypeError, "corpus must be an aligned matrix of float32, or of int8 or uint8 by rows");
	return NULL;
}

/* The corpus as a job has it. */
static void put_corpus(struct sp_search_job *job, PyArrayObject *corpus)
{
	int type = PyArray_TYPE(corpus);
	job->code = type == NPY_FLOAT32 ? SP_CODE_FLOAT32 : type == NPY_INT8 ? SP_CODE_INT8 : SP_CODE_UINT8;
	if (type == NPY_FLOAT32)
		job->corpus = (struct sp_strided){SP_FLOATS(corpus), SP_STRIDE(corpus, 0), SP_STRIDE(corpus, 1)};
	job->codes = PyArray_DATA(corpus);
	job->code_ld = PyArray_STRIDE(corpus, 0);
	job->n = PyArray_DIM(corpus, 0);
	job->d = PyArray_DIM(corpus, 1);
}

/* Whether queries [n, d] can be compared with the corpus; sets the exception where not. */
static int fits(PyArrayObject *queries, PyArrayObject *corpus, int64_t k)
{
	if (PyArray_DIM(corpus, 1) != PyArray_DIM(queries, 1))
		PyErr_Format(PyExc_ValueError, "queries has rows of %lld values and corpus of %lld; they must be equal",
		             (long long)PyArray_DIM(queries, 1), (long long)PyArray_DIM(corpus, 1));
	else if (k < 1 || k > PyArray_DIM(corpus, 0))
		PyErr_Format(PyExc_ValueError, "k is %lld; it must be between 1 and the corpus' rows", (long long)k);
	return !PyErr_Occurred();
}

/* The exception for a vector that cannot be compared: row `row` of `name`, counted from `first` on. */
static void raise_bad(const char *name, int64_t first, struct sp_strided rows, int64_t row, int64_t d)
{
	int finite = 1;
	for (int64_t p = 0; rows.data && p < d; p++) /* bytes are finite */
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
	else if (corpus && fits(queries, corpus, k)) {
		struct sp_search_job job = {
			.queries = SP_FLOATS(queries),
			.n_queries = PyArray_DIM(queries, 0),
			.k = k,
			.metric = (enum sp_metric)metric,
			.threads = threads,
			.poll = sp_poll_signals,
		};
		put_corpus(&job, corpus);
		result = run_search(&job, first);
	}
	Py_XDECREF(corpus);
	Py_XDECREF(queries);
	return result;
}

static PyObject *search_bits(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *queries_object, *corpus_object;
	long long k, first = 0;
	int threads = 1;
	if (!PyArg_ParseTuple(args, "OOL|iL:search_bits", &queries_object, &corpus_object, &k, &threads, &first))
		return NULL;
	PyArrayObject *queries = corpus_in(queries_object), *corpus = queries ? corpus_in(corpus_object) : NULL;
	PyObject *result = NULL;
	if (corpus && (PyArray_TYPE(queries) != NPY_UINT8 || PyArray_TYPE(corpus) != NPY_UINT8 ||
	               !PyArray_IS_C_CONTIGUOUS(queries)))
		PyErr_SetString(PyExc_TypeError, "queries and corpus must be uint8");
	else if (corpus && fits(queries, corpus, k)) {
		struct sp_search_job job = {
			.bits = PyArray_DATA(queries),
			.n_queries = PyArray_DIM(queries, 0),
			.k = k,
			.metric = SP_HAMMING,
			.threads = threads,
			.poll = sp_poll_signals,
		};
		put_corpus(&job, corpus);
		job.code = SP_CODE_BITS;
		result = run_search(&job, first);
	}
	Py_XDECREF(corpus);
	Py_XDECREF(queries);
	return result;
}

PyMethodDef sp_search_functions[] = {
	{"search_bits", search_bits, METH_VARARGS,
         "search_bits(queries, corpus, k, threads=1, first=0)\n--\n\nAs search, for packed bits, uint8: the scores are "
         "negated Hamming distances."},
	{"search", search, METH_VARARGS,
         "search(queries, corpus, k, metric, threads=1, first=0)\n--\n\nThe rows of a float32, int8 or uint8 corpus most similar to each "
         "query, counted from first on, and their scores: int64 and float32 (n, k)."},
	{NULL, NULL, 0, NULL}};
