/* model_config.c: the keyword arguments of `Model` become a checked configuration of the core. */
#include "python/binding.h"

#include <math.h>
#include <string.h>

int sp_check_size(const char *name, int64_t value, int64_t least, int64_t most)
{
	if (value >= least && value <= most)
		return 1;
	PyErr_Format(PyExc_ValueError, "%s is %lld; it must be from %lld to %lld", name, (long long)value,
	             (long long)least, (long long)most);
	return 0;
}

static int check_number(const char *name, double value, int may_be_zero)
{
	if (isfinite(value) && (value > 0 || (may_be_zero && value == 0)))
		return 1;
	PyErr_Format(PyExc_ValueError, "%s must be a finite number, %s", name, may_be_zero ? "0 or more" : "above 0");
	return 0;
}

static int activation_from_name(const char *name, enum sp_activation *activation)
{
	static const struct {
		const char *name;
		enum sp_activation value;
	} names[] = {{"gelu", SP_GELU}, {"gelu_tanh", SP_GELU_TANH}, {"relu", SP_RELU}, {"silu", SP_SILU}};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (strcmp(name, names[i].name) == 0) {
			*activation = names[i].value;
			return 1;
		}
	PyErr_Format(PyExc_ValueError, "activation is '%s'; it must be gelu, gelu_tanh, relu or silu", name);
	return 0;
}

static int format_from_name(const char *name, enum sp_format *format)
{
	static const char *const names[] = {"float32", "bfloat16", "int8"};
	for (int i = 0; i < 3; i++)
		if (strcmp(name, names[i]) == 0) {
			*format = (enum sp_format)i;
			return 1;
		}
	PyErr_Format(PyExc_ValueError, "dtype is '%s'; it must be float32, bfloat16 or int8", name);
	return 0;
}

/* A sum of products in 32 bits is exact up to a number of them. */
static int check_format(const struct sp_config *c)
{
	return c->format != SP_INT8 ||
	       (sp_check_size("hidden with int8", c->layer.hidden, 1, SP_INT8_DEPTH) &&
	        sp_check_size("intermediate with int8", c->layer.intermediate, 1, SP_INT8_DEPTH) &&
	        sp_check_size("embedding with int8", c->embedding, 1, SP_INT8_DEPTH));
}

/* Mark the layers (from 0) that attend within the window. */
static int local_layers_from_object(PyObject *object, struct sp_config *c)
{
	PyObject *layers = object ? PySequence_Tuple(object) : PyTuple_New(0);
	for (Py_ssize_t i = 0; layers && i < PyTuple_Size(layers); i++) {
		long long layer = PyLong_AsLongLong(PyTuple_GetItem(layers, i));
		if (PyErr_Occurred() || !sp_check_size("local_layers", layer, 0, c->layers - 1) ||
		    !sp_check_size("local_window", c->local_window, 1, INT32_MAX))
			Py_CLEAR(layers);
		else
			c->is_local[layer] = 1;
	}
	Py_XDECREF(layers);
	return layers != NULL;
}

/* What positions are made of. */
static int check_positions(const struct sp_config *c)
{
	int64_t d = c->layer.hidden / c->layer.heads;
	if (!sp_check_size("position_offset", c->position_offset, 0, c->max_positions - 1) ||
	    !sp_check_size("padding_id", c->padding_id, -1, c->position_offset ? c->vocab_size - 1 : -1) ||
	    !sp_check_size("relative_buckets", c->relative_buckets, c->relative_buckets ? 4 : 0, 1 << 20) ||
	    !sp_check_size("rotary", c->layer.rotary, 0, d) ||
	    !sp_check_size("local_window", c->local_window, 0, INT32_MAX) ||
	    !check_number("rotary_base", c->layer.rotary_base, 0) ||
	    !check_number("local_rotary_base", c->local_rotary_base, 0))
		return 0;
	if (c->layer.rotary % 2 != 0) {
		PyErr_Format(PyExc_ValueError, "rotary is %lld; it must be even", (long long)c->layer.rotary);
		return 0;
	}
	return 1;
}

static int check_config(const struct sp_config *c)
{
	const int64_t wide = 1 << 20, tall = 1 << 26;
	if (!sp_check_size("vocab_size", c->vocab_size, 1, tall) ||
	    !sp_check_size("max_positions", c->max_positions, 1, tall) ||
	    !sp_check_size("type_vocab_size", c->type_vocab_size, 0, tall) ||
	    !sp_check_size("hidden", c->layer.hidden, 1, wide) ||
	    !sp_check_size("layers", c->layers, 1, SP_MAX_LAYERS) ||
	    !sp_check_size("heads", c->layer.heads, 1, c->layer.hidden) ||
	    !sp_check_size("intermediate", c->layer.intermediate, 1, wide) ||
	    !sp_check_size("groups", c->groups, 1, c->layers) || !sp_check_size("embedding", c->embedding, 1, wide) ||
	    !check_number("layer_norm_eps", c->layer.norm_eps, 1))
		return 0;
	if (c->layer.hidden % c->layer.heads != 0) {
		PyErr_Format(PyExc_ValueError, "hidden is %lld; it must be a multiple of heads (%lld)",
		             (long long)c->layer.hidden, (long long)c->layer.heads);
		return 0;
	}
	if (c->embedding != c->layer.hidden && !(c->parts & SP_PROJECTION)) {
		PyErr_Format(PyExc_ValueError, "embedding is %lld; without a projection it must be hidden (%lld)",
		             (long long)c->embedding, (long long)c->layer.hidden);
		return 0;
	}
	return check_positions(c);
}

/* The keyword arguments of Model, in the order of the format below. */
static char *argument_names[] = {"vocab_size",
                                 "max_positions",
                                 "type_vocab_size",
                                 "hidden",
                                 "layers",
                                 "heads",
                                 "intermediate",
                                 "layer_norm_eps",
                                 "activation",
                                 "position_offset",
                                 "padding_id",
                                 "embedding",
                                 "groups",
                                 "relative_buckets",
                                 "rotary",
                                 "rotary_base",
                                 "local_rotary_base",
                                 "local_window",
                                 "local_layers",
                                 "position_table",
                                 "projection",
                                 "pre_norm",
                                 "first_norm",
                                 "norm_bias",
                                 "attention_bias",
                                 "feed_forward_bias",
                                 "gated",
                                 "dtype",
                                 NULL};

int sp_config_from_arguments(PyObject *args, PyObject *kwargs, struct sp_config *config)
{
	/* what is left out stays impossible and is refused by name, or means what it is in BERT */
	long long vocab_size = 0, max_positions = 0, type_vocab_size = -1, hidden = 0, layers = 0, heads = 0;
	long long intermediate = 0, position_offset = 0, padding_id = -1, embedding = 0, groups = 0, buckets = 0;
	long long rotary = 0, local_window = 0;
	double eps = 1e-12, base = 1e4, local_base = 1e4;
	const char *activation = "gelu";
	PyObject *local_layers = NULL;
	int position_table = 1, projection = 0, pre_norm = 0, first_norm = 1, norm_bias = 1, attention_bias = 1;
	int feed_forward_bias = 1, gated = 0;
	const char *dtype = "float32";
	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$LLLLLLLdsLLLLLLddLOpppppppps:Model", argument_names,
	                                 &vocab_size, &max_positions, &type_vocab_size, &hidden, &layers, &heads,
	                                 &intermediate, &eps, &activation, &position_offset, &padding_id, &embedding,
	                                 &groups, &buckets, &rotary, &base, &local_base, &local_window, &local_layers,
	                                 &position_table, &projection, &pre_norm, &first_norm, &norm_bias,
	                                 &attention_bias, &feed_forward_bias, &gated, &dtype))
		return 0;
	*config = (struct sp_config){
		.vocab_size = vocab_size,
		.max_positions = max_positions,
		.type_vocab_size = type_vocab_size,
		.position_offset = position_offset,
		.padding_id = padding_id,
		.embedding = embedding ? embedding : hidden,
		.relative_buckets = buckets,
		.layers = layers,
		.groups = groups ? groups : layers,
		.layer = {.hidden = hidden,
	                  .heads = heads,
	                  .intermediate = intermediate,
	                  .norm_eps = (float)eps,
	                  .norm = pre_norm ? SP_PRE_NORM : SP_POST_NORM,
	                  .rotary = rotary,
	                  .rotary_base = base},
		.local_window = local_window,
		.local_rotary_base = local_base,
	};
	config->parts = (position_table ? SP_POSITION_TABLE : 0u) | (projection ? SP_PROJECTION : 0u) |
	                (norm_bias ? SP_NORM_BIAS : 0u) | (attention_bias ? SP_ATTENTION_BIAS : 0u) |
	                (feed_forward_bias ? SP_FEED_FORWARD_BIAS : 0u) | (gated ? SP_GATE : 0u) |
	                (first_norm ? SP_FIRST_NORM : 0u) | (pre_norm ? SP_FINAL_NORM : 0u);
	if (!first_norm && !pre_norm) {
		PyErr_SetString(PyExc_ValueError, "first_norm can only be left out with pre_norm");
		return 0;
	}
	return check_config(config) && format_from_name(dtype, &config->format) && check_format(config) &&
	       activation_from_name(activation, &config->layer.activation) &&
	       local_layers_from_object(local_layers, config);
}
