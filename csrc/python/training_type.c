/* training_type.c: the Python type `Training`: an encoder in training, over a finished Model.
 *
 * One thread at a time uses an object: tape and gradients belong to one batch. A capsule owns what the core holds, and the
 * arrays of parameters and gradients keep it alive.
 */
#include "python/binding.h"

#include "model/encoder_training.h"

#include <string.h>

typedef struct {
	PyObject_HEAD
	PyObject *model, *owner;
	struct sp_training *training; /* the owner's */
	/* what the tape refers to */
	PyArrayObject *ids, *offsets, *layers, *positions;
	enum sp_pooling *poolings;
	npy_intp shape[4]; /* of the states */
	int busy, has_tape;
} TrainingObject;

/* ---- creation ------------------------------------------------------------------------------------------------------ */

static void free_owned(PyObject *capsule)
{
	sp_training_free(PyCapsule_GetPointer(capsule, NULL));
}

static int start(TrainingObject *self, struct sp_model *model, struct sp_dropout dropout, int threads)
{
	enum sp_status status;
	Py_BEGIN_ALLOW_THREADS
	status = sp_training_create(&self->training, model, dropout, threads);
	Py_END_ALLOW_THREADS
	if (status != SP_OK) {
		sp_raise(status);
		return 0;
	}
	self->owner = PyCapsule_New(self->training, NULL, free_owned);
	if (!self->owner)
		sp_training_free(self->training);
	return self->owner != NULL;
}

static PyObject *training_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"model", "dropout", "seed", "threads", NULL};
	PyObject *model_in, *rates = NULL, *seed_in = NULL;
	struct sp_dropout dropout = {0};
	long long threads = 1;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$OOL:Training", names, &model_in, &rates, &seed_in, &threads))
		return NULL;
	struct sp_model *model = sp_finished_model(model_in);
	if (!model || (rates && !sp_rates_in(rates, &dropout)) || !sp_check_size("threads", threads, 1, INT32_MAX))
		return NULL;
	if (model->config.format != SP_FLOAT32)
		return PyErr_Format(PyExc_ValueError,
		                    "model is in low precision; open it with dtype='float32' to train it");
	dropout.seed = seed_in ? PyLong_AsUnsignedLongLong(seed_in) : 0;
	if (PyErr_Occurred())
		return PyErr_Format(PyExc_ValueError, "seed is %R; it must be an integer from 0 to 2**64 - 1", seed_in);
	TrainingObject *self = (TrainingObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
	if (!self)
		return NULL;
	self->model = Py_NewRef(model_in);
	if (!start(self, model, dropout, threads > SP_MAX_THREADS ? SP_MAX_THREADS : (int)threads))
		Py_CLEAR(self);
	return (PyObject *)self;
}

static void forget_batch(TrainingObject *self)
{
	Py_CLEAR(self->ids);
	Py_CLEAR(self->offsets);
	Py_CLEAR(self->layers);
	Py_CLEAR(self->positions);
	PyMem_Free(self->poolings);
	self->poolings = NULL;
	self->has_tape = 0;
}

static void training_dealloc(TrainingObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	forget_batch(self);
	Py_XDECREF(self->owner);
	Py_XDECREF(self->model);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}

/* ---- parameters ---------------------------------------------------------------------------------------------------- */

/* All floats of a model that is not packed. */
static PyObject *flat_view(TrainingObject *self, const struct sp_model *rows)
{
	npy_intp n = rows->floats;
	PyObject *view = PyArray_SimpleNewFromData(1, &n, NPY_FLOAT32, rows->weights);
	if (view && PyArray_SetBaseObject((PyArrayObject *)view, Py_NewRef(self->owner)) < 0)
		Py_CLEAR(view);
	return view;
}

static PyObject *training_masters(TrainingObject *self, void *Py_UNUSED(closure))
{
	return flat_view(self, self->training->masters);
}

static PyObject *training_gradients(TrainingObject *self, void *Py_UNUSED(closure))
{
	return flat_view(self, self->training->gradients);
}

static PyObject *training_slices(TrainingObject *self, void *Py_UNUSED(closure))
{
	const struct sp_model *masters = self->training->masters;
	PyObject *slices = PyDict_New();
	for (int64_t i = 0; slices && i < masters->n_tensors; i++) {
		struct sp_tensor t = sp_model_tensor(masters, i);
		long long rows = t.rows, cols = t.cols, first = sp_model_offset(masters, i);
		PyObject *slice = cols ? Py_BuildValue("(LL(LL))", first, first + rows * cols, rows, cols)
		                       : Py_BuildValue("(LL(L))", first, first + rows, rows);
		if (!slice || PyDict_SetItemString(slices, t.name, slice) < 0)
			Py_CLEAR(slices);
		Py_XDECREF(slice);
	}
	return slices;
}

/* ---- steps --------------------------------------------------------------------------------------------------------- */

/* Whether this thread may use the object now. */
static int is_free(const TrainingObject *self)
{
	if (self->busy)
		PyErr_SetString(PyExc_RuntimeError, "this Training is in use by another thread");
	return !self->busy;
}

/* Ascending numbers of tokens, each once. */
static int check_positions(PyArrayObject *positions, int64_t N)
{
	const int64_t *p = SP_INT64S(positions);
	for (int64_t i = 0; i < PyArray_DIM(positions, 0); i++)
		if (p[i] >= N || p[i] < (i ? p[i - 1] + 1 : 0)) {
			PyErr_Format(PyExc_ValueError,
			             "positions[%lld] is %lld; they must ascend and be from 0 to %lld", (long long)i,
			             (long long)p[i], (long long)N - 1);
			return 0;
		}
	return 1;
}

/* Whether there are draws for every value of these sentences. */
static int check_draws(const struct sp_config *config, PyArrayObject *offsets, long long step, long long first_row)
{
	int64_t B = PyArray_DIM(offsets, 0) - 1, longest = sp_dropout_longest(config->layer.heads);
	const int64_t *offset = SP_INT64S(offsets);
	if (!sp_check_size("step", step, 0, UINT32_MAX) || !sp_check_size("first_row", first_row, 0, (1LL << 32) - B))
		return 0;
	for (int64_t i = 0; i < B; i++)
		if (offset[i + 1] - offset[i] > longest) {
			PyErr_Format(PyExc_ValueError, "offsets: with dropout sentence %lld may have %lld tokens",
			             (long long)i, (long long)longest);
			return 0;
		}
	return 1;
}

/* A copy, so that nobody can change it before the backward pass. */
static PyArrayObject *copy_in(PyObject *object, int type, const char *name)
{
	PyArrayObject *array = sp_array_in(object, type, 1, name);
	PyObject *copy = array ? PyArray_NewCopy(array, NPY_CORDER) : NULL;
	Py_XDECREF(array);
	return (PyArrayObject *)copy;
}

/* Take over what a batch refers to; 0 and an exception if something does not fit. */
static int remember(TrainingObject *self, PyObject *ids, PyObject *offsets, PyObject *layers, PyObject *tokens,
                    PyObject *positions)
{
	const struct sp_config *config = &self->training->model->config;
	self->ids = copy_in(ids, NPY_INT32, "ids");
	self->offsets = self->ids ? copy_in(offsets, NPY_INT64, "offsets") : NULL;
	self->layers = self->offsets ? copy_in(layers, NPY_INT64, "layers") : NULL;
	if (!self->layers || !sp_check_sentences(config, self->ids, self->offsets) ||
	    !sp_check_layers(self->layers, config->layers))
		return 0;
	if (positions != Py_None) {
		self->positions = copy_in(positions, NPY_INT64, "positions");
		if (!self->positions || !check_positions(self->positions, PyArray_DIM(self->ids, 0)))
			return 0;
	}
	PyObject *names = PySequence_Tuple(tokens);
	if (!names)
		return 0;
	npy_intp shape[] = {PyArray_DIM(self->offsets, 0) - 1, PyArray_DIM(self->layers, 0), PyTuple_Size(names),
	                    config->layer.hidden};
	memcpy(self->shape, shape, sizeof shape);
	self->poolings = PyMem_Calloc((size_t)shape[2] + 1, sizeof *self->poolings);
	int known = self->poolings ? sp_poolings_in(names, self->poolings) : (PyErr_NoMemory(), 0);
	Py_DECREF(names);
	return known;
}

static struct sp_training_batch batch_of(const TrainingObject *self, PyArrayObject *states, PyArrayObject *rows)
{
	return (struct sp_training_batch){
		.ids = PyArray_DATA(self->ids),
		.offsets = SP_INT64S(self->offsets),
		.B = self->shape[0],
		.pool = {SP_FLOATS(states), SP_INT64S(self->layers), self->shape[1], self->poolings, self->shape[2], 0},
		.positions = self->positions ? SP_INT64S(self->positions) : NULL,
		.n_positions = self->positions ? PyArray_DIM(self->positions, 0) : 0,
		.rows = rows ? SP_FLOATS(rows) : NULL,
	};
}

static PyObject *training_forward(TrainingObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"ids",       "offsets",   "layers", "tokens",  "step",
	                        "first_row", "positions", "keep",   "threads", NULL};
	PyObject *ids, *offsets, *layers, *tokens, *positions = Py_None;
	PyArrayObject *states = NULL, *rows = NULL;
	long long step = -1, first_row = -1, threads = 1; /* what is left out is refused below, by name */
	int keep = 1;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO|$LLOpL:forward", names, &ids, &offsets, &layers, &tokens,
	                                 &step, &first_row, &positions, &keep, &threads) ||
	    !is_free(self) || !sp_check_size("threads", threads, 1, INT32_MAX))
		return NULL;
	threads = threads > SP_MAX_THREADS ? SP_MAX_THREADS : threads;
	forget_batch(self);
	if (!remember(self, ids, offsets, layers, tokens, positions) ||
	    !check_draws(&self->training->model->config, self->offsets, step, first_row)) {
		forget_batch(self);
		return NULL;
	}
	states = sp_array_new(4, self->shape, NPY_FLOAT32);
	if (self->positions && states) {
		npy_intp shape[] = {PyArray_DIM(self->positions, 0), self->shape[3]};
		rows = sp_array_new(2, shape, NPY_FLOAT32);
	}
	enum sp_status status = states && (rows || !self->positions) ? SP_OK : SP_NO_MEMORY;
	if (status == SP_OK) {
		struct sp_training_batch batch = batch_of(self, states, rows);
		struct sp_poll poll;
		self->busy = 1;
		sp_poll_start(&poll);
		status = sp_training_forward(self->training, &batch, (uint32_t)step, first_row, keep, (int)threads,
		                             sp_poll_signals, &poll);
		sp_poll_end(&poll);
		self->busy = 0;
	}
	self->has_tape = keep && status == SP_OK;
	if (!self->has_tape)
		forget_batch(self);
	if (status == SP_OK)
		return rows ? Py_BuildValue("(NN)", states, rows) : (PyObject *)states;
	Py_XDECREF(states);
	Py_XDECREF(rows);
	return sp_raise(status);
}

/* float32 of exactly this shape */
static PyArrayObject *gradient_in(PyObject *object, int ndim, const npy_intp *shape, const char *name)
{
	PyArrayObject *array = sp_array_in(object, NPY_FLOAT32, ndim, name);
	for (int axis = 0; array && axis < ndim; axis++)
		if (PyArray_DIM(array, axis) != shape[axis]) {
			PyErr_Format(PyExc_ValueError, "%s has %lld entries along axis %d; what forward gave has %lld",
			             name, (long long)PyArray_DIM(array, axis), axis, (long long)shape[axis]);
			Py_CLEAR(array);
		}
	return array;
}

static PyObject *training_backward(TrainingObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"d_states", "d_rows", "threads", NULL};
	PyObject *states_in, *rows_in = Py_None, *result = NULL;
	PyArrayObject *rows = NULL;
	long long threads = 1;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O$L:backward", names, &states_in, &rows_in, &threads) ||
	    !is_free(self) || !sp_check_size("threads", threads, 1, INT32_MAX))
		return NULL;
	threads = threads > SP_MAX_THREADS ? SP_MAX_THREADS : threads;
	if (!self->has_tape) {
		PyErr_SetString(PyExc_ValueError, "no tape: call forward(…, keep=True) before each backward");
		return NULL;
	}
	if ((rows_in == Py_None) != !self->positions) {
		PyErr_SetString(PyExc_ValueError, "d_rows must be given if forward got positions, and only then");
		return NULL;
	}
	PyArrayObject *states = gradient_in(states_in, 4, self->shape, "d_states");
	if (states && self->positions) {
		npy_intp shape[] = {PyArray_DIM(self->positions, 0), self->shape[3]};
		rows = gradient_in(rows_in, 2, shape, "d_rows");
	}
	if (states && (rows || !self->positions)) {
		struct sp_poll poll;
		self->busy = 1;
		sp_poll_start(&poll);
		enum sp_status status =
			sp_training_backward(self->training, SP_FLOATS(states), rows ? SP_FLOATS(rows) : NULL,
		                             (int)threads, sp_poll_signals, &poll);
		sp_poll_end(&poll);
		self->busy = 0;
		forget_batch(self);
		result = status == SP_OK ? Py_NewRef(Py_None) : sp_raise(status);
	}
	Py_XDECREF(states);
	Py_XDECREF(rows);
	return result;
}

static PyObject *training_update(TrainingObject *self, PyObject *args, PyObject *kwargs)
{
	static char *names[] = {"threads", NULL};
	long long threads = 1;
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|L:update", names, &threads) || !is_free(self) ||
	    !sp_check_size("threads", threads, 1, INT32_MAX))
		return NULL;
	self->busy = 1;
	Py_BEGIN_ALLOW_THREADS
	sp_training_update(self->training, threads > SP_MAX_THREADS ? SP_MAX_THREADS : (int)threads);
	Py_END_ALLOW_THREADS
	self->busy = 0;
	Py_RETURN_NONE;
}

static PyObject *training_groups(PyObject *Py_UNUSED(type), PyObject *offsets_in)
{
	PyArrayObject *offsets = sp_array_in(offsets_in, NPY_INT64, 1, "offsets");
	if (!offsets)
		return NULL;
	int64_t B = PyArray_DIM(offsets, 0) - 1;
	npy_intp size = B + 1;
	const int64_t *offset = SP_INT64S(offsets);
	for (int64_t i = 0; i < B; i++)
		if (offset[i] < 0 || offset[i] > offset[i + 1])
			B = -1;
	PyArrayObject *all = NULL, *groups = NULL;
	if (B < 0)
		PyErr_SetString(PyExc_ValueError, "offsets must have at least one entry and ascend from 0");
	else
		all = sp_array_new(1, &size, NPY_INT64);
	if (all) {
		size = sp_sentence_groups(SP_INT64S(all), offset, B) + 1;
		groups = sp_array_new(1, &size, NPY_INT64);
	}
	if (groups)
		memcpy(PyArray_DATA(groups), PyArray_DATA(all), (size_t)size * sizeof(int64_t));
	Py_XDECREF(all);
	Py_DECREF(offsets);
	return (PyObject *)groups;
}

/* ---- the type ------------------------------------------------------------------------------------------------------ */

static PyMethodDef training_methods[] = {
	{"forward", (PyCFunction)(void (*)(void))training_forward, METH_VARARGS | METH_KEYWORDS,
         "forward($self, ids, offsets, layers, tokens, *, step, first_row, positions=None, keep=True, threads=1)\n--\n\n"
         "Token poolings of the wanted layers, float32 (n, len(layers), len(tokens), H), with dropout. With positions,\n"
         "ascending numbers of tokens, a pair: also their states of the last layer (m, H). Raises KeyboardInterrupt."},
	{"backward", (PyCFunction)(void (*)(void))training_backward, METH_VARARGS | METH_KEYWORDS,
         "backward($self, d_states, d_rows=None, *, threads=1)\n--\n\n"
         "Add to gradients those of all parameters, and use up the tape. After an exception they are not defined."},
	{"update", (PyCFunction)(void (*)(void))training_update, METH_VARARGS | METH_KEYWORDS,
         "update($self, threads=1)\n--\n\nThe model computes with masters as they are now. Nobody may use it meanwhile."},
	{"groups", training_groups, METH_O | METH_STATIC,
         "groups(offsets)\n--\n\nWhere the groups of sentences begin whose gradients are summed together, and their end."},
	{NULL, NULL, 0, NULL}};

static PyGetSetDef training_attributes[] = {
	{"masters", (getter)training_masters, NULL, "All parameters, float32 (n,), a view to write to.", NULL},
	{"gradients", (getter)training_gradients, NULL, "Their gradients, likewise; who trains sets them to zero.",
         NULL},
	{"slices", (getter)training_slices, NULL, "Where a tensor is in both: name to (start, stop, shape).", NULL},
	{NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot training_slots[] = {
	{Py_tp_new, training_new},
	{Py_tp_dealloc, training_dealloc},
	{Py_tp_methods, training_methods},
	{Py_tp_getset, training_attributes},
	{Py_tp_doc, "Training(model, *, dropout=(0.0, 0.0, 0.0, 0.0, 0.0), seed=0, threads=1)\n--\n\n"
                    "An encoder in training: float32 parameters of its own, and the gradients of a loss by them."},
	{0, NULL}};

PyType_Spec sp_training_spec = {.name = "sentpool._core.Training",
                                .basicsize = sizeof(TrainingObject),
                                .flags = Py_TPFLAGS_DEFAULT,
                                .slots = training_slots};
