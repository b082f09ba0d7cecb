/* requests.c: what is asked of an encoder, checked: packed sentences, layers, token poolings, dropout. */
#include "python/binding.h"

int sp_check_sentences(const struct sp_config *config, PyArrayObject *ids, PyArrayObject *offsets)
{
	const int32_t *id = PyArray_DATA(ids);
	const int64_t *offset = SP_INT64S(offsets);
	int64_t N = PyArray_DIM(ids, 0), B = PyArray_DIM(offsets, 0) - 1,
		most = config->max_positions - config->position_offset;
	if (B < 0 || offset[0] != 0 || offset[B] != N) {
		PyErr_Format(PyExc_ValueError, "offsets must start with 0 and end with the number of ids (%lld)",
		             (long long)N);
		return 0;
	}
	for (int64_t i = 0; i < B; i++) {
		/* offsets may be anything: compare before subtracting */
		if (offset[i] < 0 || offset[i] >= offset[i + 1] || offset[i + 1] > N ||
		    offset[i + 1] - offset[i] > most) {
			PyErr_Format(PyExc_ValueError, "offsets: sentence %lld must have from 1 to %lld tokens",
			             (long long)i, (long long)most);
			return 0;
		}
	}
	for (int64_t i = 0; i < N; i++)
		if (id[i] < 0 || id[i] >= config->vocab_size) {
			PyErr_Format(PyExc_ValueError, "ids[%lld] is %d; it must be from 0 to %lld", (long long)i,
			             id[i], (long long)config->vocab_size - 1);
			return 0;
		}
	return 1;
}

static int pooling_from_name(PyObject *name, enum sp_pooling *pooling)
{
	static const char *const names[] = {"cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token"};
	for (int i = 0; PyUnicode_Check(name) && i < (int)(sizeof names / sizeof names[0]); i++)
		if (PyUnicode_CompareWithASCIIString(name, names[i]) == 0) {
			*pooling = (enum sp_pooling)i;
			return 1;
		}
	PyErr_Format(
		PyExc_ValueError,
		"tokens: %R is no token pooling; it must be cls, mean, max, mean_sqrt_len, weighted_mean or last_token",
		name);
	return 0;
}

int sp_poolings_in(PyObject *tokens, enum sp_pooling *poolings)
{
	for (Py_ssize_t i = 0; i < PyTuple_Size(tokens); i++)
		if (!pooling_from_name(PyTuple_GetItem(tokens, i), &poolings[i]))
			return 0;
	return 1;
}

int sp_check_layers(PyArrayObject *layers, int64_t L)
{
	for (int64_t i = 0; i < PyArray_DIM(layers, 0); i++)
		if (SP_INT64S(layers)[i] < 0 || SP_INT64S(layers)[i] > L) {
			PyErr_Format(PyExc_ValueError, "layers[%lld] is %lld; it must be from 0 to %lld", (long long)i,
			             (long long)SP_INT64S(layers)[i], (long long)L);
			return 0;
		}
	return 1;
}

int sp_rates_in(PyObject *object, struct sp_dropout *dropout)
{
	static const enum sp_site sites[] = {SP_SITE_EMBEDDING, SP_SITE_ATTENTION, SP_SITE_ATTENTION_OUTPUT,
	                                     SP_SITE_INNER, SP_SITE_FEED_FORWARD};
	double p[sizeof sites / sizeof sites[0]];
	if (!PyTuple_Check(object)) {
		PyErr_Format(PyExc_TypeError, "the rates of dropout must be a tuple, not %R", object);
		return 0;
	}
	if (!PyArg_ParseTuple(object, "ddddd;the rates of dropout must be five probabilities", &p[0], &p[1], &p[2],
	                      &p[3], &p[4]))
		return 0;
	for (size_t i = 0; i < sizeof sites / sizeof sites[0]; i++) {
		if (!(p[i] >= 0 && p[i] < 1)) {
			PyErr_Format(PyExc_ValueError, "the rates of dropout are %R; they must be from 0 to below 1",
			             object);
			return 0;
		}
		dropout->rate[sites[i]] = p[i];
	}
	return 1;
}
