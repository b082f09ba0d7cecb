/* poolings.c: the functions of `_core` behind the token poolings: layers to one vector, heads. Inputs may be views with
 * rows apart, such as one token pooling of stored layer states; they are not copied. */
#include "python/binding.h"

/* weight[out, in] and, unless None, bias[out] for rows of `in` values; on failure both are NULL. */
static int linear_in(PyObject *weight_in, PyObject *bias_in, int64_t in, PyArrayObject **weight, PyArrayObject **bias)
{
	*bias = NULL;
	*weight = sp_array_in(weight_in, NPY_FLOAT32, 2, "weight");
	if (!*weight)
		return 0;
	if (PyArray_DIM(*weight, 1) != in) {
		PyErr_Format(PyExc_ValueError, "x has rows of %lld values and weight of %lld; they must be equal",
		             (long long)in, (long long)PyArray_DIM(*weight, 1));
	} else if (bias_in == Py_None) {
		return 1;
	} else {
		*bias = sp_array_in(bias_in, NPY_FLOAT32, 1, "bias");
		if (*bias && PyArray_DIM(*bias, 0) == PyArray_DIM(*weight, 0))
			return 1;
		if (*bias)
			PyErr_Format(PyExc_ValueError, "bias has %lld values; it must have %lld",
			             (long long)PyArray_DIM(*bias, 0), (long long)PyArray_DIM(*weight, 0));
	}
	Py_CLEAR(*bias);
	Py_CLEAR(*weight);
	return 0;
}

static PyObject *dense(PyObject *Py_UNUSED(module), PyObject *args)
{
	static const char *const names[] = {"identity", "gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", NULL};
	PyObject *x_in, *weight_in, *bias_in;
	const char *activation;
	PyArrayObject *weight, *bias;
	if (!PyArg_ParseTuple(args, "OOOs:dense", &x_in, &weight_in, &bias_in, &activation))
		return NULL;
	int f = sp_name_index(activation, names, "activation");
	PyArrayObject *x = f < 0 ? NULL : sp_rows_in(x_in, 2, "x");
	if (!x)
		return NULL;
	int64_t in = PyArray_DIM(x, 1);
	if (!linear_in(weight_in, bias_in, in, &weight, &bias)) {
		Py_DECREF(x);
		return NULL;
	}
	npy_intp shape[] = {PyArray_DIM(x, 0), PyArray_DIM(weight, 0)};
	PyArrayObject *y = sp_array_new(2, shape, NPY_FLOAT32);
	if (y) {
		struct sp_strided rows = {SP_FLOATS(x), SP_STRIDE(x, 0), 1}, w = {SP_FLOATS(weight), in, 1};
		enum sp_status status;
		Py_BEGIN_ALLOW_THREADS
		status = sp_dense_forward(SP_FLOATS(y), rows, w, bias ? SP_FLOATS(bias) : NULL, (enum sp_activation)f,
		                          shape[0], shape[1], in);
		Py_END_ALLOW_THREADS
		if (status != SP_OK) {
			Py_CLEAR(y);
			sp_raise(status);
		}
	}
	Py_XDECREF(bias);
	Py_DECREF(weight);
	Py_DECREF(x);
	return (PyObject *)y;
}

static PyObject *normalize(PyObject *Py_UNUSED(module), PyObject *x_in)
{
	PyArrayObject *x = sp_array_in(x_in, NPY_FLOAT32, 2, "x");
	if (!x)
		return NULL;
	PyArrayObject *y = sp_array_new(2, PyArray_DIMS(x), NPY_FLOAT32);
	if (y) {
		Py_BEGIN_ALLOW_THREADS
		sp_normalize_forward(SP_FLOATS(y), SP_FLOATS(x), PyArray_DIM(x, 0), PyArray_DIM(x, 1));
		Py_END_ALLOW_THREADS
	}
	Py_DECREF(x);
	return (PyObject *)y;
}

static struct sp_layer_rows layer_rows(PyArrayObject *states)
{
	return (struct sp_layer_rows){SP_FLOATS(states), SP_STRIDE(states, 0), SP_STRIDE(states, 1)};
}

/* One weight per wanted layer, each of which is there. */
static int check_mix(PyArrayObject *states, PyArrayObject *index, PyArrayObject *weights)
{
	int64_t count = PyArray_DIM(index, 0), layers = PyArray_DIM(states, 1);
	if (count < 1 || count != PyArray_DIM(weights, 0)) {
		PyErr_Format(PyExc_ValueError, "weights has %lld values for %lld layers; expected one for each",
		             (long long)PyArray_DIM(weights, 0), (long long)count);
		return 0;
	}
	for (int64_t l = 0; l < count; l++)
		if (SP_INT64S(index)[l] < 0 || SP_INT64S(index)[l] >= layers) {
			PyErr_Format(PyExc_ValueError, "layers[%lld] is %lld; it must be from 0 to %lld", (long long)l,
			             (long long)SP_INT64S(index)[l], (long long)layers - 1);
			return 0;
		}
	return 1;
}

static PyObject *mix_layers(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *states_in, *index_in, *weights_in;
	float divisor;
	if (!PyArg_ParseTuple(args, "OOOf:mix_layers", &states_in, &index_in, &weights_in, &divisor))
		return NULL;
	PyArrayObject *states = sp_rows_in(states_in, 3, "states"), *y = NULL;
	PyArrayObject *index = states ? sp_array_in(index_in, NPY_INT64, 1, "layers") : NULL;
	PyArrayObject *weights = index ? sp_array_in(weights_in, NPY_FLOAT32, 1, "weights") : NULL;
	if (weights && check_mix(states, index, weights)) {
		npy_intp shape[] = {PyArray_DIM(states, 0), PyArray_DIM(states, 2)};
		y = sp_array_new(2, shape, NPY_FLOAT32);
	}
	if (y) {
		Py_BEGIN_ALLOW_THREADS
		sp_mix_layers_forward(SP_FLOATS(y), layer_rows(states), SP_INT64S(index), SP_FLOATS(weights),
		                      PyArray_DIM(index, 0), divisor, PyArray_DIM(states, 0), PyArray_DIM(states, 2));
		Py_END_ALLOW_THREADS
	}
	Py_XDECREF(weights);
	Py_XDECREF(index);
	Py_XDECREF(states);
	return (PyObject *)y;
}

/* Sources and targets of one shape (n, layers, H), and three weights [H, H]. */
static int check_attention(PyArrayObject *const array[5])
{
	static const char *const names[] = {"query", "key", "value"};
	int64_t H = PyArray_DIM(array[0], 2);
	if (!PyArray_SAMESHAPE(array[0], array[1]) || PyArray_DIM(array[0], 1) < 1) {
		PyErr_SetString(PyExc_ValueError,
		                "sources and targets must have the same shape (n, layers, H), with at least one layer");
		return 0;
	}
	for (int i = 0; i < 3; i++)
		if (PyArray_DIM(array[2 + i], 0) != H || PyArray_DIM(array[2 + i], 1) != H) {
			PyErr_Format(PyExc_ValueError, "%s has shape (%lld, %lld); it must have (%lld, %lld)", names[i],
			             (long long)PyArray_DIM(array[2 + i], 0), (long long)PyArray_DIM(array[2 + i], 1),
			             (long long)H, (long long)H);
			return 0;
		}
	return 1;
}

static PyObject *layer_attention(PyObject *Py_UNUSED(module), PyObject *args)
{
	static const char *const names[] = {"sources", "targets", "query", "key", "value"};
	PyObject *in[5], *result = NULL;
	PyArrayObject *array[5] = {NULL}, *u = NULL, *weights = NULL;
	float slope;
	int threads = 1, ready = 1;
	if (!PyArg_ParseTuple(args, "OOOOOf|i:layer_attention", &in[0], &in[1], &in[2], &in[3], &in[4], &slope,
	                      &threads))
		return NULL;
	for (int i = 0; ready && i < 5; i++) {
		array[i] = i < 2 ? sp_rows_in(in[i], 3, names[i]) : sp_array_in(in[i], NPY_FLOAT32, 2, names[i]);
		ready = array[i] != NULL;
	}
	if (ready && check_attention(array)) {
		npy_intp shape[] = {PyArray_DIM(array[0], 0), PyArray_DIM(array[0], 2)};
		u = sp_array_new(2, shape, NPY_FLOAT32);
		weights = u ? sp_array_new(2, PyArray_DIMS(array[0]), NPY_FLOAT32) : NULL;
	}
	if (weights) {
		struct sp_layer_attention attention = {SP_FLOATS(array[2]), SP_FLOATS(array[3]), SP_FLOATS(array[4]),
		                                       slope, PyArray_DIM(array[0], 2)};
		enum sp_status status;
		Py_BEGIN_ALLOW_THREADS
		status = sp_layer_attention_forward(SP_FLOATS(u), SP_FLOATS(weights), &attention, layer_rows(array[0]),
		                                    layer_rows(array[1]), PyArray_DIM(array[0], 0),
		                                    PyArray_DIM(array[0], 1), threads);
		Py_END_ALLOW_THREADS
		result = status == SP_OK ? PyTuple_Pack(2, u, weights) : sp_raise(status);
	}
	Py_XDECREF(u);
	Py_XDECREF(weights);
	for (int i = 0; i < 5; i++)
		Py_XDECREF(array[i]);
	return result;
}

PyMethodDef sp_pooling_functions[] = {
	{"dense", dense, METH_VARARGS,
         "dense(x, weight, bias, activation)\n--\n\nactivation(x @ weight.T + bias), float32 (n, out); bias may be None."},
	{"normalize", normalize, METH_O, "normalize(x)\n--\n\nRows of x divided by max(norm, 1e-12), float32."},
	{"mix_layers", mix_layers, METH_VARARGS,
         "mix_layers(states, layers, weights, divisor)\n--\n\nThe weighted sum of some layers of states (n, layers, H), divided: "
         "float32 (n, H)."},
	{"layer_attention", layer_attention, METH_VARARGS,
         "layer_attention(sources, targets, query, key, value, slope, threads=1)\n--\n\nLayer-wise attention of Oh et al. 2022 over "
         "states (n, layers, H): its result (n, H), and the mean attention that each layer gets (n, layers)."},
	{NULL, NULL, 0, NULL}};
