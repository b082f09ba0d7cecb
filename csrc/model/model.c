/* model.c: owns the weights of an encoder: makes room for them, takes them tensor by tensor, frees them.
 *
 * Weights of linear layers are packed into panels as they arrive, so no second copy of the file is ever held.
 */
#include "sentpool.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum kind { TABLE, VECTOR, LAYER_WEIGHT, LAYER_BIAS };

/* A row of tensors.def. `field` is the offset in sp_model or sp_layer_weights; sizes are letters of the legend. */
struct entry {
	const char *name;
	enum kind kind;
	size_t field;
	int block;
	char rows, cols;
};

static const struct entry table[] = {
#define LETTER(size) (#size)[0]
#define EMBEDDING(field, name, rows, cols)                                                                             \
	{name, TABLE, offsetof(struct sp_model, field), 0, LETTER(rows), LETTER(cols)},
#define NORM(field, name) {name, VECTOR, offsetof(struct sp_model, field), 0, 'H', 0},
#define LAYER_MATRIX(field, block, name, rows, cols)                                                                   \
	{name, LAYER_WEIGHT, offsetof(struct sp_layer_weights, field), block, LETTER(rows), LETTER(cols)},
#define LAYER_VECTOR(field, block, name, length)                                                                       \
	{name, LAYER_BIAS, offsetof(struct sp_layer_weights, field), block, LETTER(length), 0},
#include "model/tensors.def"
#undef EMBEDDING
#undef NORM
#undef LAYER_MATRIX
#undef LAYER_VECTOR
};

enum {
	ENTRIES = sizeof table / sizeof table[0],
	ALIGNED_FLOATS = 16 /* every field starts at a cache line */
};

static int is_layer_entry(const struct entry *entry)
{
	return entry->kind == LAYER_WEIGHT || entry->kind == LAYER_BIAS;
}

static int64_t first_layer_entry(void)
{
	int64_t n = 0;
	while (!is_layer_entry(&table[n]))
		n++;
	return n;
}

/* Tensor i of the model: first those of the model itself, then layer after layer. */
static const struct entry *find(int64_t i, int64_t *layer)
{
	int64_t shared = first_layer_entry(), per_layer = ENTRIES - shared;
	*layer = i < shared ? -1 : (i - shared) / per_layer;
	return i < shared ? &table[i] : &table[shared + (i - shared) % per_layer];
}

static int64_t size_of(char letter, const struct sp_config *config)
{
	switch (letter) {
	case 'V': return config->vocab_size;
	case 'S': return config->max_positions;
	case 'Y': return config->type_vocab_size;
	case 'H': return config->layer.hidden;
	case 'F': return config->layer.intermediate;
	}
	return 0;
}

static void *field_of(const struct sp_model *model, const struct entry *entry, int64_t layer)
{
	const char *base = layer < 0 ? (const char *)model : (const char *)&model->layer[layer];
	return (void *)(uintptr_t)(base + entry->field);
}

int64_t sp_model_tensor_count(const struct sp_model *model)
{
	int64_t shared = first_layer_entry();
	return shared + model->config.layers * (ENTRIES - shared);
}

struct sp_tensor sp_model_tensor(const struct sp_model *model, int64_t i)
{
	int64_t layer;
	const struct entry *entry = find(i, &layer);
	struct sp_tensor tensor = {.rows = size_of(entry->rows, &model->config),
	                           .cols = entry->cols ? size_of(entry->cols, &model->config) : 0};
	if (layer < 0)
		snprintf(tensor.name, sizeof tensor.name, "%s", entry->name);
	else
		snprintf(tensor.name, sizeof tensor.name, "encoder.layer.%lld.%s", (long long)layer, entry->name);
	return tensor;
}

/* How many blocks of equal height are stacked in an entry's field. */
static int blocks_in(const struct entry *entry)
{
	int blocks = 0;
	for (int i = 0; i < ENTRIES; i++)
		if (table[i].kind == entry->kind && table[i].field == entry->field)
			blocks++;
	return blocks;
}

/* Outputs that are stored of a matrix, or elements of a vector: whole panels where they are packed. */
static int64_t stored_rows(const struct entry *entry, const struct sp_config *config)
{
	int64_t nr = sp_runtime()->kernels->nr, rows = blocks_in(entry) * size_of(entry->rows, config);
	return entry->kind == LAYER_WEIGHT ? (rows + nr - 1) / nr * nr : rows;
}

static int64_t stored_floats(const struct entry *entry, const struct sp_config *config)
{
	int64_t floats = stored_rows(entry, config) * (entry->cols ? size_of(entry->cols, config) : 1);
	return (floats + ALIGNED_FLOATS - 1) / ALIGNED_FLOATS * ALIGNED_FLOATS;
}

/* Let a field be at `memory`. Whole panels are written while loading; the unfilled columns of the last need zeros. */
static void place_field(struct sp_model *model, const struct entry *entry, int64_t layer, float *memory)
{
	void *field = field_of(model, entry, layer);
	if (!entry->cols) {
		*(float **)field = memory;
		return;
	}
	int64_t rows = blocks_in(entry) * size_of(entry->rows, &model->config);
	int64_t cols = size_of(entry->cols, &model->config), nr = sp_runtime()->kernels->nr;
	*(struct sp_matrix *)field = (struct sp_matrix){memory, rows, cols};
	int64_t stored = stored_rows(entry, &model->config);
	if (stored > rows)
		memset(memory + (stored - nr) * cols, 0, (size_t)(nr * cols) * sizeof(float));
}

/* One block of memory for all weights, in the order in which they are used. */
static int allocate_weights(struct sp_model *model)
{
	int64_t tensors = sp_model_tensor_count(model), layer, floats = 0;
	for (int64_t i = 0; i < tensors; i++) {
		const struct entry *entry = find(i, &layer);
		floats += entry->block ? 0 : stored_floats(entry, &model->config);
	}
	model->weights = sp_floats(floats);
	float *memory = model->weights;
	for (int64_t i = 0; memory && i < tensors; i++) {
		const struct entry *entry = find(i, &layer);
		if (entry->block)
			continue;
		place_field(model, entry, layer, memory);
		memory += stored_floats(entry, &model->config);
	}
	return model->weights != NULL;
}

enum sp_status sp_model_create(struct sp_model **out, struct sp_config config)
{
	struct sp_model *model = sp_bytes(sizeof *model);
	*out = model;
	if (!model)
		return SP_NO_MEMORY;
	*model = (struct sp_model){.config = config};
	size_t layer_bytes = (size_t)config.layers * sizeof *model->layer;
	size_t loaded_bytes = (size_t)sp_model_tensor_count(model) * sizeof *model->loaded;
	model->layer = sp_bytes(layer_bytes);
	model->loaded = sp_bytes(loaded_bytes);
	if (model->layer && model->loaded && allocate_weights(model)) {
		memset(model->loaded, 0, loaded_bytes);
		return SP_OK;
	}
	sp_model_free(model);
	*out = NULL;
	return SP_NO_MEMORY;
}

void sp_model_free(struct sp_model *model)
{
	if (!model)
		return;
	sp_free(model->weights);
	sp_free(model->layer);
	sp_free(model->loaded);
	sp_free(model);
}

/* Copy rows into panels, panel by panel; `first` is the row within the whole (stacked) matrix. */
static void pack_rows(struct sp_matrix *matrix, int64_t first, const float *rows, int64_t count)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr, cols = matrix->cols;
	while (count > 0) {
		int64_t column = first % nr, n = nr - column < count ? nr - column : count;
		kernels->pack(matrix->data + first / nr * nr * cols, column, rows, cols, n, cols);
		first += n;
		rows += n * cols;
		count -= n;
	}
}

enum sp_status sp_model_load(struct sp_model *model, int64_t i, const float *rows, int64_t count)
{
	int64_t layer;
	const struct entry *entry = find(i, &layer);
	int64_t height = size_of(entry->rows, &model->config);
	if (count < 0 || count > height - model->loaded[i])
		return SP_INVALID;
	int64_t first = entry->block * height + model->loaded[i];
	void *field = field_of(model, entry, layer);
	struct sp_matrix *matrix = field;
	if (!entry->cols)
		memcpy(*(float **)field + first, rows, (size_t)count * sizeof(float));
	else if (entry->kind == LAYER_WEIGHT && sp_runtime()->engine == SP_PANEL)
		pack_rows(matrix, first, rows, count);
	else
		memcpy(matrix->data + first * matrix->cols, rows, (size_t)(count * matrix->cols) * sizeof(float));
	model->loaded[i] += count;
	return SP_OK;
}
