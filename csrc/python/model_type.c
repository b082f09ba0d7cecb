/* model_type.c: the Python type `Model`: takes weights, then runs sentences.
 *
 * Every method that computes: parse, validate, allocate the results, drop the GIL, one call of the core, retake the GIL,
 * one clean-up. A finished model is never changed again, so any number of threads may use it at once.
 */
#include "python/binding.h"

#include <math.h>
#include <string.h>

typedef struct {
	PyObject_HEAD
	struct sp_model *model;
	int finished;
} ModelObject;

/* ---- creation ------------------------------------------------------------------------------------------------------ */

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	struct sp_config config;
	if (!sp_config_from_arguments(args, kwargs, &config))
		return NULL;
	ModelObject *self = (ModelObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
	if (!self)
		return NULL;
	enum sp_status status = sp_model_create(&self->model, &config, sp_runtime()->engine == SP_PANEL);
	if (status != SP_OK) {
		Py_DECREF(self);
		return sp_raise(status);
	}
	return (PyObject *)self;
}

static void model_dealloc(ModelObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	sp_model_free(self->model);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}

/* ---- weights ------------------------------------------------------------------------------------------------------- */

static PyObject *model_tensors(ModelObject *self, PyObject *Py_UNUSED(ignored))
{
	PyObject *tensors = PyDict_New();
	for (int64_t i = 0; tensors && i < self->model->n_tensors; i++) {
		struct sp_tensor t = sp_model_tensor(self->model, i);
		PyObject *shape = t.cols ? Py_BuildValue("(LL)", (long long)t.rows, (long long)t.cols)
		                         : Py_BuildValue("(L)", (long long)t.rows);
		if (!shape || PyDict_SetItemString(tensors, t.name, shape) < 0)
			Py_CLEAR(tensors);
		Py_XDECREF(shape);
	}
	return tensors;
}

static int64_t find_tensor(const struct sp_model *model, const char *name, struct sp_tensor *tensor)
{
	for (int64_t i = 0; i < model->n_tensors; i++) {
		*tensor = sp_model_tensor(model, i);
		if (strcmp(tensor->name, name) == 0)
			return i;
	}
	PyErr_Format(PyExc_ValueError, "the model has no tensor named '%s'", name);
	return -1;
}

static int check_finite(const float *x, int64_t rows, int64_t cols, int64_t first, const char *name)
{
	for (int64_t i = 0; i < rows * cols; i++)
		if (!isfinite(x[i])) {
			PyErr_Format(PyExc_ValueError, "tensor '%s' contains NaN or Inf in row %lld", name,
			             (long long)(first + i / cols));
			return 0;
		}
	return 1;
}

static PyObject *model_load(ModelObject *self, PyObject *args)
{
	const char *name;
	long long first;
	PyObject *object;
	struct sp_tensor tensor;
	if (!PyArg_ParseTuple(args, "sLO:load", &name, &first, &object))
		return NULL;
	if (self->finished) {
		PyErr_SetString(PyExc_ValueError, "the model is finished; its weights can no longer be changed");
		return NULL;
	}
	int64_t index = find_tensor(self->model, name, &tensor);
	if (index < 0)
		return NULL;
	PyArrayObject *rows = sp_array_in(object, NPY_FLOAT32, tensor.cols ? 2 : 1, "rows");
	if (!rows)
		return NULL;
	int64_t count = PyArray_DIM(rows, 0), cols = tensor.cols ? PyArray_DIM(rows, 1) : 1;
	int64_t loaded = tensor.loaded;
	PyObject *result = NULL;
	if (tensor.cols && cols != tensor.cols)
		PyErr_Format(PyExc_ValueError, "tensor '%s' has rows of %lld values, not %lld", name,
		             (long long)tensor.cols, (long long)cols);
	else if (first != loaded || count > tensor.rows - loaded)
		PyErr_Format(PyExc_ValueError, "tensor '%s': expected rows from %lld on, at most %lld of them", name,
		             (long long)loaded, (long long)(tensor.rows - loaded));
	else if (check_finite(SP_FLOATS(rows), count, cols, first, name)) {
		enum sp_status status = sp_model_load(self->model, index, SP_FLOATS(rows), count);
		result = status == SP_OK ? Py_NewRef(Py_None) : sp_raise(status);
	}
	Py_DECREF(rows);
	return result;
}

static PyObject *model_smooth(ModelObject *self, PyObject *args)
{
	const char *name;
	PyObject *object;
	struct sp_tensor tensor;
	if (!PyArg_ParseTuple(args, "sO:smooth", &name, &object))
		return NULL;
	int64_t index = find_tensor(self->model, name, &tensor);
	if (index < 0)
		return NULL;
	const struct sp_matrix *matrix = sp_model_linear(self->model, index);
	if (!matrix || matrix->format != SP_INT8 || tensor.loaded)
		return PyErr_Format(PyExc_ValueError,
		                    "tensor '%s' is no first weight of a linear layer in int8 still to be loaded",
		                    name);
	PyArrayObject *powers = sp_array_in(object, NPY_INT8, 1, "powers");
	if (!powers)
		return NULL;
	const int8_t *power = PyArray_DATA(powers);
	int ok = sp_check_size("number of powers", PyArray_DIM(powers, 0), matrix->cols, matrix->cols);
	for (int64_t i = 0; ok && i < matrix->cols; i++)
		ok = sp_check_size("a power", power[i], -64, 64);
	if (ok) {
		struct sp_matrix view = *matrix; /* what is written is behind its pointers */
		sp_low_matrix_smooth(&view, power);
	}
	Py_DECREF(powers);
	return ok ? Py_NewRef(Py_None) : NULL;
}

static PyObject *model_set_digits(ModelObject *self, PyObject *args)
{
	const char *name;
	int digits;
	struct sp_tensor tensor;
	if (!PyArg_ParseTuple(args, "si:set_digits", &name, &digits))
		return NULL;
	int64_t index = find_tensor(self->model, name, &tensor);
	if (index < 0)
		return NULL;
	const struct sp_matrix *matrix = sp_model_linear(self->model, index);
	if (!matrix || matrix->format != SP_INT8)
		return PyErr_Format(PyExc_ValueError, "tensor '%s' is no first weight of a linear layer in int8", name);
	if (!sp_check_size("number of digits", digits, 1, 2))
		return NULL;
	sp_model_set_digits(self->model, index, digits);
	Py_RETURN_NONE;
}

static PyObject *model_linear_layers(ModelObject *self, PyObject *Py_UNUSED(ignored))
{
	PyObject *names = PyList_New(0);
	for (int64_t i = 0; names && i < self->model->n_tensors; i++) {
		if (!sp_model_linear(self->model, i))
			continue;
		PyObject *name = PyUnicode_FromString(sp_model_tensor(self->model, i).name);
		if (!name || PyList_Append(names, name) < 0)
			Py_CLEAR(names);
		Py_XDECREF(name);
	}
	return names;
}

static PyObject *model_watch(ModelObject *self, PyObject *on)
{
	int wanted = PyObject_IsTrue(on);
	if (wanted < 0)
		return NULL;
	enum sp_status status = sp_model_watch(self->model, wanted);
	return status == SP_OK ? Py_NewRef(Py_None) : sp_raise(status);
}

/* (least, largest, largest absolute weight), each [cols] */
static PyObject *ranges_of(const struct sp_matrix *matrix)
{
	npy_intp shape[] = {matrix->cols};
	PyArrayObject *arrays[3] = {NULL, NULL, NULL};
	for (int i = 0; i < 3; i++)
		arrays[i] = sp_array_new(1, shape, NPY_FLOAT32);
	if (!arrays[0] || !arrays[1] || !arrays[2]) {
		for (int i = 0; i < 3; i++)
			Py_XDECREF(arrays[i]);
		return NULL;
	}
	size_t bytes = (size_t)matrix->cols * sizeof(float);
	memcpy(SP_FLOATS(arrays[0]), matrix->ranges, bytes);
	memcpy(SP_FLOATS(arrays[1]), matrix->ranges + matrix->cols, bytes);
	sp_column_maxima(SP_FLOATS(arrays[2]), matrix);
	return Py_BuildValue("(NNN)", arrays[0], arrays[1], arrays[2]);
}

static PyObject *model_input_ranges(ModelObject *self, PyObject *Py_UNUSED(ignored))
{
	PyObject *dict = PyDict_New();
	for (int64_t i = 0; dict && i < self->model->n_tensors; i++) {
		const struct sp_matrix *matrix = sp_model_linear(self->model, i);
		if (!matrix || !matrix->ranges || matrix->format != SP_FLOAT32)
			continue;
		struct sp_tensor tensor = sp_model_tensor(self->model, i);
		PyObject *ranges = ranges_of(matrix);
		if (!ranges || PyDict_SetItemString(dict, tensor.name, ranges) < 0)
			Py_CLEAR(dict);
		Py_XDECREF(ranges);
	}
	return dict;
}

static PyObject *model_finish(ModelObject *self, PyObject *Py_UNUSED(ignored))
{
	for (int64_t i = 0; i < self->model->n_tensors; i++) {
		struct sp_tensor tensor = sp_model_tensor(self->model, i);
		if (tensor.loaded != tensor.rows) {
			PyErr_Format(PyExc_ValueError, "tensor '%s' is not loaded: %lld of %lld rows", tensor.name,
			             (long long)tensor.loaded, (long long)tensor.rows);
			return NULL;
		}
	}
	self->finished = 1;
	Py_RETURN_NONE;
}

/* ---- sentences ----------------------------------------------------------------------------------------------------- */

static enum sp_status encode(struct sp_encode_job *job)
{
	struct sp_poll poll;
	job->poll = sp_poll_signals;
	job->poll_arg = &poll;
	sp_poll_start(&poll);
	enum sp_status status = sp_encode(job);
	sp_poll_end(&poll);
	return status;
}

/* Parse what both ways of running have in common; on success the job refers to the two arrays. */
static int job_from_arrays(ModelObject *self, PyObject *ids_in, PyObject *offsets_in, long long batch_size,
                           long long threads, struct sp_encode_job *job, PyArrayObject **ids, PyArrayObject **offsets)
{
	if (!self->finished) {
		PyErr_SetString(PyExc_ValueError,
		                "the model has no weights yet: load every tensor, then call finish()");
		return 0;
	}
	if (!sp_check_size("batch_size", batch_size, 1, INT32_MAX) || !sp_check_size("threads", threads, 1, INT32_MAX))
		return 0;
	*ids = sp_array_in(ids_in, NPY_INT32, 1, "ids");
	*offsets = *ids ? sp_array_in(offsets_in, NPY_INT64, 1, "offsets") : NULL;
	if (!*offsets || !sp_check_sentences(&self->model->config, *ids, *offsets)) {
		Py_CLEAR(*ids);
		Py_CLEAR(*offsets);
		return 0;
	}
	*job = (struct sp_encode_job){.model = self->model,
	                              .ids = PyArray_DATA(*ids),
	                              .offsets = SP_INT64S(*offsets),
	                              .B = PyArray_DIM(*offsets, 0) - 1,
	                              .batch_size = batch_size,
	                              .threads = threads > SP_MAX_THREADS ? SP_MAX_THREADS : (int)threads};
	return 1;
}

/* Let a job whose arrays are set drop values. `object` is None or (rates, seed, step, first_row). */
static int dropout_from_object(PyObject *object, struct sp_encode_job *job, struct sp_dropout *dropout)
{
	PyObject *rates, *seed;
	long long step, first_row;
	*dropout = (struct sp_dropout){0};
	if (object == Py_None)
		return 1;
	if (!PyTuple_Check(object)) {
		PyErr_Format(PyExc_TypeError, "dropout must be None or a tuple, not %R", object);
		return 0;
	}
	if (!PyArg_ParseTuple(object, "OOLL;dropout must be (rates, seed, step, first_row)", &rates, &seed, &step,
	                      &first_row) ||
	    !sp_rates_in(rates, dropout))
		return 0;
	dropout->seed = PyLong_AsUnsignedLongLong(seed);
	if (PyErr_Occurred()) {
		PyErr_Format(PyExc_ValueError, "dropout is %R; its seed must be an integer from 0 to 2**64 - 1",
		             object);
		return 0;
	}
	if (!sp_check_size("step of dropout", step, 0, UINT32_MAX) ||
	    !sp_check_size("first_row of dropout", first_row, 0, (1LL << 32) - job->B))
		return 0;
	dropout->step = (uint32_t)step;
	dropout->first_row = first_row;
	job->dropout = dropout;
	int64_t longest = sp_dropout_longest(job->model->config.layer.heads);
	for (int64_t i = 0; i < job->B; i++)
		if (job->offsets[i + 1] - job->offsets[i] > longest) {
			PyErr_Format(PyExc_ValueError, "offsets: with dropout sentence %lld may have %lld tokens",
			             (long long)i, (long long)longest);
			return 0;
		}
	return 1;
}

static PyObject *model_layer_states(ModelObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"ids", "offsets", "layers", "tokens", "batch_size", "skip", "threads", "dropout", NULL};
	PyObject *ids_in, *offsets_in, *layers_in, *tokens_in, *tokens = NULL, *dropout_in = Py_None;
	PyArrayObject *ids = NULL, *offsets = NULL, *layers = NULL, *states = NULL;
	enum sp_pooling *poolings = NULL;
	long long batch_size = 32, skip = 0, threads = 1;
	struct sp_encode_job job;
	struct sp_dropout dropout;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO|$LLLO:layer_states", names, &ids_in, &offsets_in,
	                                 &layers_in, &tokens_in, &batch_size, &skip, &threads, &dropout_in) ||
	    !sp_check_size("skip", skip, 0, INT32_MAX) ||
	    !job_from_arrays(self, ids_in, offsets_in, batch_size, threads, &job, &ids, &offsets))
		return NULL;

	const struct sp_config *config = &self->model->config;
	if (!dropout_from_object(dropout_in, &job, &dropout))
		goto cleanup;
	layers = sp_array_in(layers_in, NPY_INT64, 1, "layers");
	tokens = layers && sp_check_layers(layers, config->layers) ? PySequence_Tuple(tokens_in) : NULL;
	if (!tokens)
		goto cleanup;
	int64_t n_poolings = PyTuple_Size(tokens);
	poolings = PyMem_Calloc((size_t)n_poolings + 1, sizeof *poolings);
	if (!poolings) {
		PyErr_NoMemory();
		goto cleanup;
	}
	if (!sp_poolings_in(tokens, poolings))
		goto cleanup;
	npy_intp shape[] = {job.B, PyArray_DIM(layers, 0), n_poolings, config->layer.hidden};
	states = sp_array_new(4, shape, NPY_FLOAT32);
	if (!states)
		goto cleanup;

	struct sp_pool_request request = {SP_FLOATS(states), SP_INT64S(layers), shape[1], poolings, n_poolings, skip};
	job.sink = sp_pool_tokens_sink(&request, config->layer.hidden);
	enum sp_status status = encode(&job);
	if (status != SP_OK) {
		Py_CLEAR(states);
		sp_raise(status);
	}
cleanup:
	PyMem_Free(poolings);
	Py_XDECREF(tokens);
	Py_XDECREF(layers);
	Py_DECREF(ids);
	Py_DECREF(offsets);
	return (PyObject *)states;
}

static PyObject *model_hidden_states(ModelObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"ids", "offsets", "first_layer", "threads", "dropout", NULL};
	PyObject *ids_in, *offsets_in, *dropout_in = Py_None;
	PyArrayObject *ids, *offsets, *hidden = NULL;
	long long first_layer = 0, threads = 1;
	struct sp_encode_job job;
	struct sp_dropout dropout;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$LLO:hidden_states", names, &ids_in, &offsets_in,
	                                 &first_layer, &threads, &dropout_in) ||
	    !sp_check_size("first_layer", first_layer, 0, self->model->config.layers) ||
	    !job_from_arrays(self, ids_in, offsets_in, INT32_MAX, threads, &job, &ids, &offsets))
		return NULL;
	const struct sp_config *config = &self->model->config;
	npy_intp shape[] = {config->layers + 1 - first_layer, PyArray_DIM(ids, 0), config->layer.hidden};
	if (dropout_from_object(dropout_in, &job, &dropout))
		hidden = sp_array_new(3, shape, NPY_FLOAT32);
	if (hidden) {
		struct sp_hidden_request request = {SP_FLOATS(hidden), shape[1], first_layer};
		job.sink = sp_hidden_states_sink(&request, config->layers, config->layer.hidden);
		enum sp_status status = encode(&job);
		if (status != SP_OK) {
			Py_CLEAR(hidden);
			sp_raise(status);
		}
	}
	Py_DECREF(ids);
	Py_DECREF(offsets);
	return (PyObject *)hidden;
}

static PyObject *model_sbert_wk(ModelObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"ids", "offsets", "layer_start", "window", "batch_size", "skip", "threads", NULL};
	PyObject *ids_in, *offsets_in;
	PyArrayObject *ids, *offsets;
	long long layer_start, window, batch_size = 32, skip = 0, threads = 1;
	const struct sp_config *config = &self->model->config;
	struct sp_encode_job job;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOLL|$LLL:sbert_wk", names, &ids_in, &offsets_in, &layer_start,
	                                 &window, &batch_size, &skip, &threads) ||
	    !sp_check_size("layer_start", layer_start, 0, config->layers) ||
	    !sp_check_size("window", window, 1, INT32_MAX) || !sp_check_size("skip", skip, 0, INT32_MAX) ||
	    !job_from_arrays(self, ids_in, offsets_in, batch_size, threads, &job, &ids, &offsets))
		return NULL;
	npy_intp shape[] = {job.B, config->layer.hidden};
	PyArrayObject *vectors = sp_array_new(2, shape, NPY_FLOAT32);
	if (vectors) {
		struct sp_sbert_wk_request request = {SP_FLOATS(vectors), layer_start, window, skip};
		job.sink = sp_sbert_wk_sink(&request, config->layers, config->layer.hidden);
		enum sp_status status = encode(&job);
		if (status != SP_OK) {
			Py_CLEAR(vectors);
			sp_raise(status);
		}
	}
	Py_DECREF(ids);
	Py_DECREF(offsets);
	return (PyObject *)vectors;
}

/* ---- the type ------------------------------------------------------------------------------------------------------ */

static PyMethodDef model_methods[] = {
	{"tensors", (PyCFunction)model_tensors, METH_NOARGS,
         "tensors($self)\n--\n\nName and shape of every tensor that must be loaded, as a dict."},
	{"load", (PyCFunction)model_load, METH_VARARGS,
         "load($self, name, first_row, rows)\n--\n\nTake the next rows of a tensor, float32 (r, cols) or (r,) for a "
         "vector, in order from row 0 on.\n\nRaises ValueError for an unknown name, a wrong shape, NaN or Inf."},
	{"finish", (PyCFunction)model_finish, METH_NOARGS,
         "finish($self)\n--\n\nCheck that every tensor is loaded; from now on the model runs and cannot change."},
	{"smooth", (PyCFunction)model_smooth, METH_VARARGS,
         "smooth($self, name, powers)\n--\n\nLet inputs of the int8 layer whose (first) weight has this name be divided by\n"
         "2**(powers / 8), column by column; before that weight is loaded. int8 (cols,), from -64 to 64."},
	{"set_digits", (PyCFunction)model_set_digits, METH_VARARGS,
         "set_digits($self, name, digits)\n--\n\nLet the int8 layer whose (first) weight has this name read its inputs in one\n"
         "digit of 8 bits, as it does at first, or in two, while nothing else uses the model."},
	{"linear_layers", (PyCFunction)model_linear_layers, METH_NOARGS,
         "linear_layers($self)\n--\n\nThe names of the (first) weights of all linear layers, as a list."},
	{"watch", (PyCFunction)model_watch, METH_O,
         "watch($self, on)\n--\n\nKeep the ranges of the inputs of all linear layers, or stop; meanwhile the model is to be "
         "used\nby one thread, with threads=1."},
	{"input_ranges", (PyCFunction)model_input_ranges, METH_NOARGS,
         "input_ranges($self)\n--\n\nBy name of a linear layer's (first) weight: the least and the largest input seen since\n"
         "watch(True), and the largest absolute weight, by column: three float32 (cols,)."},
	{"layer_states", (PyCFunction)(void (*)(void))model_layer_states, METH_VARARGS | METH_KEYWORDS,
         "layer_states($self, ids, offsets, layers, tokens, *, batch_size=32, skip=0, threads=1, dropout=None)\n--\n\n"
         "Token poolings of the wanted layers for packed sentences: float32 (n, len(layers), len(tokens), H)."},
	{"hidden_states", (PyCFunction)(void (*)(void))model_hidden_states, METH_VARARGS | METH_KEYWORDS,
         "hidden_states($self, ids, offsets, *, first_layer=0, threads=1, dropout=None)\n--\n\n"
         "Every token's state at every layer from first_layer on: float32 (L + 1 - first_layer, N, H)."},
	{"sbert_wk", (PyCFunction)(void (*)(void))model_sbert_wk, METH_VARARGS | METH_KEYWORDS,
         "sbert_wk($self, ids, offsets, layer_start, window, *, batch_size=32, skip=0, threads=1)\n--\n\n"
         "SBERT-WK vectors over layers layer_start to L, window layers on each side: float32 (n, H)."},
	{NULL, NULL, 0, NULL}};

static PyType_Slot model_slots[] = {{Py_tp_new, model_new},
                                    {Py_tp_dealloc, model_dealloc},
                                    {Py_tp_methods, model_methods},
                                    {Py_tp_doc, "An encoder's weights, and the way to run sentences through them."},
                                    {0, NULL}};

PyTypeObject *sp_model_type;

struct sp_model *sp_finished_model(PyObject *object)
{
	if (!PyObject_TypeCheck(object, sp_model_type)) {
		PyErr_Format(PyExc_TypeError, "model must be a Model, not %R", object);
		return NULL;
	}
	ModelObject *self = (ModelObject *)object;
	if (!self->finished)
		PyErr_SetString(PyExc_ValueError,
		                "the model has no weights yet: load every tensor, then call finish()");
	return self->finished ? self->model : NULL;
}

PyType_Spec sp_model_spec = {.name = "sentpool._core.Model",
                             .basicsize = sizeof(ModelObject),
                             .flags = Py_TPFLAGS_DEFAULT,
                             .slots = model_slots};
