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

/* What dense and its gradient are given. */
struct dense_in {
	PyArrayObject *x, *weight, *bias;
	struct sp_strided rows, w;
	enum sp_activation f;
	int64_t n, out, in;
};

/* On failure nothing is held. */
static int dense_in(struct dense_in *d, PyObject *x, PyObject *weight, PyObject *bias, const char *activation)
{
	int f = sp_name_index(activation, sp_activation_names, "activation");
	d->x = f < 0 ? NULL : sp_rows_in(x, 2, "x");
	if (!d->x)
		return 0;
	if (!linear_in(weight, bias, PyArray_DIM(d->x, 1), &d->weight, &d->bias)) {
		Py_CLEAR(d->x);
		return 0;
	}
	d->f = (enum sp_activation)f;
	d->n = PyArray_DIM(d->x, 0);
	d->out = PyArray_DIM(d->weight, 0);
	d->in = PyArray_DIM(d->x, 1);
	d->rows = (struct sp_strided){SP_FLOATS(d->x), SP_STRIDE(d->x, 0), 1};
	d->w = (struct sp_strided){SP_FLOATS(d->weight), d->in, 1};
	return 1;
}

static void dense_free(struct dense_in *d)
{
	Py_XDECREF(d->bias);
	Py_DECREF(d->weight);
	Py_DECREF(d->x);
}

static PyObject *dense(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *x, *weight, *bias;
	const char *activation;
	struct dense_in d;
	if (!PyArg_ParseTuple(args, "OOOs:dense", &x, &weight, &bias, &activation) ||
	    !dense_in(&d, x, weight, bias, activation))
		return NULL;
	npy_intp shape[] = {d.n, d.out};
	PyArrayObject *y = sp_array_new(2, shape, NPY_FLOAT32);
	if (y) {
		enum sp_status status;
		Py_BEGIN_ALLOW_THREADS
		status = sp_dense_forward(SP_FLOATS(y), d.rows, d.w, d.bias ? SP_FLOATS(d.bias) : NULL, d.f, d.n, d.out,
		                          d.in);
		Py_END_ALLOW_THREADS
		if (status != SP_OK) {
			Py_CLEAR(y);
			sp_raise(status);
		}
	}
	dense_free(&d);
	return (PyObject *)y;
}

/* (dx, dweight, dbias) */
static PyObject *dense_gradients(struct dense_in *d, PyArrayObject *dy)
{
	npy_intp shapes[] = {d->n, d->in, d->out, d->in, d->out};
	PyArrayObject *gradient[3] = {NULL};
	PyObject *result = NULL;
	int ready = 1;
	for (int i = 0; ready && i < 3; i++)
		ready = (gradient[i] = sp_array_new(i < 2 ? 2 : 1, shapes + 2 * i, NPY_FLOAT32)) != NULL;
	if (ready) {
		enum sp_status status;
		Py_BEGIN_ALLOW_THREADS
		status = sp_dense_backward(SP_FLOATS(gradient[0]), SP_FLOATS(gradient[1]), SP_FLOATS(gradient[2]),
		                           SP_FLOATS(dy), d->rows, d->w, d->bias ? SP_FLOATS(d->bias) : NULL, d->f,
		                           d->n, d->out, d->in);
		Py_END_ALLOW_THREADS
		result = status != SP_OK ? sp_raise(status) : PyTuple_Pack(3, gradient[0], gradient[1], gradient[2]);
	}
	for (int i = 0; i < 3; i++)
		Py_XDECREF(gradient[i]);
	return result;
}

static PyObject *dense_backward(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *dy_in, *x, *weight, *bias, *result = NULL;
	const char *activation;
	struct dense_in d;
	if (!PyArg_ParseTuple(args, "OOOOs:dense_backward", &dy_in, &x, &weight, &bias, &activation) ||
	    !dense_in(&d, x, weight, bias, activation))
		return NULL;
	PyArrayObject *dy = sp_array_in(dy_in, NPY_FLOAT32, 2, "d_embeddings");
	if (dy && (PyArray_DIM(dy, 0) != d.n || PyArray_DIM(dy, 1) != d.out))
		PyErr_Format(PyExc_ValueError, "d_embeddings has shape (%lld, %lld); it must have (%lld, %lld)",
		             (long long)PyArray_DIM(dy, 0), (long long)PyArray_DIM(dy, 1), (long long)d.n,
		             (long long)d.out);
	else if (dy)
		result = dense_gradients(&d, dy);
	Py_XDECREF(dy);
	dense_free(&d);
	return result;
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

static PyObject *normalize_backward(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *dy_in, *x_in;
	if (!PyArg_ParseTuple(args, "OO:normalize_backward", &dy_in, &x_in))
		return NULL;
	PyArrayObject *dy = sp_array_in(dy_in, NPY_FLOAT32, 2, "d_embeddings"), *dx = NULL;
	PyArrayObject *x = dy ? sp_array_in(x_in, NPY_FLOAT32, 2, "x") : NULL;
	if (x && !PyArray_SAMESHAPE(x, dy))
		PyErr_SetString(PyExc_ValueError, "d_embeddings and x must have the same shape");
	else if (x)
		dx = sp_array_new(2, PyArray_DIMS(x), NPY_FLOAT32);
	if (dx) {
		Py_BEGIN_ALLOW_THREADS
		sp_normalize_backward(SP_FLOATS(dx), SP_FLOATS(dy), SP_FLOATS(x), PyArray_DIM(x, 0), PyArray_DIM(x, 1));
		Py_END_ALLOW_THREADS
	}
	Py_XDECREF(x);
	Py_XDECREF(dy);
	return (PyObject *)dx;
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

/* d_embeddings [n, P * H] for states [n, k, P, H] mixed with k weights. */
static int check_mix_backward(PyArrayObject *dy, PyArrayObject *states, PyArrayObject *weights)
{
	const npy_intp *shape = PyArray_DIMS(states);
	if (PyArray_DIM(weights, 0) != shape[1]) {
		PyErr_Format(PyExc_ValueError, "weights has %lld values for %lld layers; expected one for each",
		             (long long)PyArray_DIM(weights, 0), (long long)shape[1]);
		return 0;
	}
	if (PyArray_DIM(dy, 0) != shape[0] || PyArray_DIM(dy, 1) != shape[2] * shape[3]) {
		PyErr_Format(PyExc_ValueError, "d_embeddings has shape (%lld, %lld); it must have (%lld, %lld)",
		             (long long)PyArray_DIM(dy, 0), (long long)PyArray_DIM(dy, 1), (long long)shape[0],
		             (long long)(shape[2] * shape[3]));
		return 0;
	}
	return 1;
}

static PyObject *mix_layers_backward(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *dy_in, *states_in, *weights_in, *result = NULL;
	PyArrayObject *d_states = NULL, *d_weights = NULL;
	float divisor;
	if (!PyArg_ParseTuple(args, "OOOf:mix_layers_backward", &dy_in, &states_in, &weights_in, &divisor))
		return NULL;
	PyArrayObject *dy = sp_array_in(dy_in, NPY_FLOAT32, 2, "d_embeddings");
	PyArrayObject *states = dy ? sp_rows_in(states_in, 4, "states") : NULL;
	PyArrayObject *weights = states ? sp_array_in(weights_in, NPY_FLOAT32, 1, "weights") : NULL;
	if (weights && check_mix_backward(dy, states, weights)) {
		d_states = sp_array_new(4, PyArray_DIMS(states), NPY_FLOAT32);
		d_weights = (PyArrayObject *)PyArray_ZEROS(1, PyArray_DIMS(weights), NPY_FLOAT64, 0);
	}
	if (d_states && d_weights) {
		int64_t H = PyArray_DIM(states, 3), P = PyArray_DIM(states, 2);
		struct sp_layer_rows rows = layer_rows(states), d_layout = layer_rows(d_states);
		Py_BEGIN_ALLOW_THREADS
		for (int64_t p = 0; p < P; p++, rows.data += SP_STRIDE(states, 2))
			sp_mix_layers_backward(SP_FLOATS(d_states) + p * H, d_layout, PyArray_DATA(d_weights),
			                       SP_FLOATS(dy) + p * H, P * H, rows, SP_FLOATS(weights),
			                       PyArray_DIM(states, 1), divisor, PyArray_DIM(states, 0), H);
		Py_END_ALLOW_THREADS
		result = PyTuple_Pack(2, d_states, d_weights);
	}
	Py_XDECREF(d_weights);
	Py_XDECREF(d_states);
	Py_XDECREF(weights);
	Py_XDECREF(states);
	Py_XDECREF(dy);
	return result;
}

/* What every call of the attention over layers is given: sources and targets (n, layers, H), three weights [H, H]. */
struct attention_in {
	PyArrayObject *array[5];
	struct sp_layer_attention attention;
	struct sp_attention_states states;
	struct sp_rrelu drawn;
};

static void attention_free(struct attention_in *in)
{
	for (int i = 0; i < 5; i++)
		Py_XDECREF(in->array[i]);
}

/* Rows of states all equally far apart: themselves where they are so, else a copy. */
static PyArrayObject *even_rows_in(PyObject *object, const char *name, int64_t *ld)
{
	PyArrayObject *states = sp_rows_in(object, 3, name);
	if (!states)
		return NULL;
	int64_t n = PyArray_DIM(states, 0), layers = PyArray_DIM(states, 1);
	*ld = layers > 1 ? SP_STRIDE(states, 1) : SP_STRIDE(states, 0);
	if (n * layers <= 1)
		*ld = PyArray_DIM(states, 2);
	else if (n > 1 && layers > 1 && SP_STRIDE(states, 0) != layers * *ld) {
		*ld = PyArray_DIM(states, 2);
		Py_SETREF(states, (PyArrayObject *)PyArray_NewCopy(states, NPY_CORDER));
	}
	return states;
}

/* drawn_in: None, or (seed, step, first row); its first sentence's row and the last one's fit into 32 bits. */
static int draws_in(PyObject *drawn_in, int64_t n, struct sp_rrelu *drawn)
{
	unsigned long long seed, step, first_row;
	if (!PyArg_ParseTuple(drawn_in, "KKK;draws must be None or (seed, step, first_row)", &seed, &step, &first_row))
		return 0;
	if (step > UINT32_MAX || first_row > UINT32_MAX || (unsigned long long)n > UINT32_MAX - first_row + 1) {
		PyErr_SetString(PyExc_ValueError, "step and the row of every sentence must be from 0 to 2**32 - 1");
		return 0;
	}
	*drawn = (struct sp_rrelu){seed, (uint32_t)step, (int64_t)first_row};
	return 1;
}

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

/* On failure, too, `in` must be freed. */
static int attention_in(struct attention_in *in, PyObject *const objects[5], float slope, PyObject *drawn)
{
	static const char *const names[] = {"sources", "targets", "query", "key", "value"};
	int64_t ld[2] = {0};
	for (int i = 0; i < 5; i++) {
		in->array[i] = i < 2 ? even_rows_in(objects[i], names[i], &ld[i])
		                     : sp_array_in(objects[i], NPY_FLOAT32, 2, names[i]);
		if (!in->array[i])
			return 0;
	}
	if (!check_attention(in->array))
		return 0;
	int64_t n = PyArray_DIM(in->array[0], 0);
	if (drawn != Py_None && !draws_in(drawn, n, &in->drawn))
		return 0;
	in->states = (struct sp_attention_states){SP_FLOATS(in->array[0]),     SP_FLOATS(in->array[1]), ld[0], ld[1], n,
	                                          PyArray_DIM(in->array[0], 1)};
	in->attention = (struct sp_layer_attention){SP_FLOATS(in->array[2]),
	                                            SP_FLOATS(in->array[3]),
	                                            SP_FLOATS(in->array[4]),
	                                            slope,
	                                            drawn == Py_None ? NULL : &in->drawn,
	                                            PyArray_DIM(in->array[0], 2)};
	return 1;
}

static PyObject *attention_forward(struct attention_in *in, int keep, int threads)
{
	npy_intp shape[] = {3, in->states.n, in->states.layers, in->attention.H};
	npy_intp u_shape[] = {shape[1], shape[3]};
	PyArrayObject *u = sp_array_new(2, u_shape, NPY_FLOAT32), *weights = sp_array_new(2, shape + 1, NPY_FLOAT32);
	PyArrayObject *kept = keep ? sp_array_new(4, shape, NPY_FLOAT32) : NULL;
	PyObject *result = NULL;
	if (u && weights && (kept || !keep)) {
		enum sp_status status;
		Py_BEGIN_ALLOW_THREADS
		status = sp_layer_attention_forward(SP_FLOATS(u), SP_FLOATS(weights), kept ? SP_FLOATS(kept) : NULL,
		                                    &in->attention, in->states, threads);
		Py_END_ALLOW_THREADS
		result = status != SP_OK ? sp_raise(status) : PyTuple_Pack(2, u, keep ? kept : weights);
	}
	Py_XDECREF(kept);
	Py_XDECREF(weights);
	Py_XDECREF(u);
	return result;
}

static PyObject *layer_attention(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *o[5], *result = NULL;
	struct attention_in in = {0};
	float slope;
	int threads = 1;
	if (!PyArg_ParseTuple(args, "OOOOOf|i:layer_attention", &o[0], &o[1], &o[2], &o[3], &o[4], &slope, &threads))
		return NULL;
	if (attention_in(&in, o, slope, Py_None))
		result = attention_forward(&in, 0, threads);
	attention_free(&in);
	return result;
}

static PyObject *layer_attention_forward(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *o[5], *drawn, *result = NULL;
	struct attention_in in = {0};
	float slope;
	int threads = 1;
	if (!PyArg_ParseTuple(args, "OOOOOfO|i:layer_attention_forward", &o[0], &o[1], &o[2], &o[3], &o[4], &slope,
	                      &drawn, &threads))
		return NULL;
	if (attention_in(&in, o, slope, drawn))
		result = attention_forward(&in, 1, threads);
	attention_free(&in);
	return result;
}

static PyObject *attention_backward(struct attention_in *in, PyArrayObject *du, PyArrayObject *projections, int threads)
{
	npy_intp H = in->attention.H, shape[] = {in->states.n, in->states.layers, 2, H}, square[] = {H, H};
	PyArrayObject *gradient[4] = {sp_array_new(4, shape, NPY_FLOAT32)};
	PyObject *result = NULL;
	int ready = gradient[0] != NULL;
	for (int i = 1; ready && i < 4; i++)
		ready = (gradient[i] = sp_array_new(2, square, NPY_FLOAT32)) != NULL;
	if (ready) {
		enum sp_status status;
		Py_BEGIN_ALLOW_THREADS
		status = sp_layer_attention_backward(SP_FLOATS(gradient[0]), SP_FLOATS(gradient[1]),
		                                     SP_FLOATS(gradient[2]), SP_FLOATS(gradient[3]), SP_FLOATS(du),
		                                     SP_FLOATS(projections), &in->attention, in->states, threads);
		Py_END_ALLOW_THREADS
		result = status != SP_OK ? sp_raise(status)
		                         : PyTuple_Pack(4, gradient[0], gradient[1], gradient[2], gradient[3]);
	}
	for (int i = 0; i < 4; i++)
		Py_XDECREF(gradient[i]);
	return result;
}

static PyObject *layer_attention_backward(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *o[5], *du_in, *projections_in, *drawn, *result = NULL;
	struct attention_in in = {0};
	float slope;
	int threads = 1;
	if (!PyArg_ParseTuple(args, "OOOOOOOfO|i:layer_attention_backward", &du_in, &projections_in, &o[0], &o[1],
	                      &o[2], &o[3], &o[4], &slope, &drawn, &threads))
		return NULL;
	PyArrayObject *du = sp_array_in(du_in, NPY_FLOAT32, 2, "d_context");
	PyArrayObject *projections = du ? sp_array_in(projections_in, NPY_FLOAT32, 4, "projections") : NULL;
	if (projections && attention_in(&in, o, slope, drawn)) {
		const npy_intp *p = PyArray_DIMS(projections), *s = PyArray_DIMS(in.array[0]);
		if (p[0] == 3 && p[1] == s[0] && p[2] == s[1] && p[3] == s[2] && PyArray_DIM(du, 0) == s[0] &&
		    PyArray_DIM(du, 1) == s[2])
			result = attention_backward(&in, du, projections, threads);
		else
			PyErr_SetString(
				PyExc_ValueError,
				"d_context must have shape (n, H) and projections (3, n, layers, H) for sources of shape "
				"(n, layers, H)");
	}
	attention_free(&in);
	Py_XDECREF(projections);
	Py_XDECREF(du);
	return result;
}

PyMethodDef sp_pooling_functions[] = {
	{"dense", dense, METH_VARARGS,
         "dense(x, weight, bias, activation)\n--\n\nactivation(x @ weight.T + bias), float32 (n, out); bias may be None."},
	{"dense_backward", dense_backward, METH_VARARGS,
         "dense_backward(d_embeddings, x, weight, bias, activation)\n--\n\nGradients of x, weight and bias."},
	{"normalize", normalize, METH_O, "normalize(x)\n--\n\nRows of x divided by max(norm, 1e-12), float32."},
	{"normalize_backward", normalize_backward, METH_VARARGS,
         "normalize_backward(d_embeddings, x)\n--\n\nThe gradient of what normalize(x) took, float32."},
	{"mix_layers_backward", mix_layers_backward, METH_VARARGS,
         "mix_layers_backward(d_embeddings, states, weights, divisor)\n--\n\nGradients of mix_layers over all layers of states "
         "(n, k, P, H), each pooling by itself, concatenated: of states, and of weights in float64 for a fixed divisor."},
	{"mix_layers", mix_layers, METH_VARARGS,
         "mix_layers(states, layers, weights, divisor)\n--\n\nThe weighted sum of some layers of states (n, layers, H), divided: "
         "float32 (n, H)."},
	{"layer_attention", layer_attention, METH_VARARGS,
         "layer_attention(sources, targets, query, key, value, slope, threads=1)\n--\n\nLayer-wise attention of Oh et al. 2022 over "
         "states (n, layers, H): its result (n, H), and the mean attention that each layer gets (n, layers)."},
	{"layer_attention_forward", layer_attention_forward, METH_VARARGS,
         "layer_attention_forward(sources, targets, query, key, value, slope, draws, threads=1)\n--\n\nThe same in training: its "
         "result, and the projections (3, n, layers, H) that layer_attention_backward takes. draws: None, or (seed, step, "
         "first_row), by which slopes are drawn."},
	{"layer_attention_backward", layer_attention_backward, METH_VARARGS,
         "layer_attention_backward(d_context, projections, sources, targets, query, key, value, slope, draws, "
         "threads=1)\n--\n\nGradients of states (n, layers, 2, H), sources first, and of query, key and value."},
	{NULL, NULL, 0, NULL}};
