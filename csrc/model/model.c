/* model.c: owns the weights of an encoder: makes room for them, takes them tensor by tensor, frees them.
 *
 * Weights of linear layers are packed into panels as they arrive, so no second copy of the file is ever held.
 */
#include "sentpool.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum form { TABLE, PANELS, VECTOR }; /* row-major, packed for the panel engine, no matrix */

/* A row of tensors.def. `field` is the offset in sp_model or sp_layer_weights; sizes are letters of the legend. */
struct entry {
	const char *name;
	enum form form;
	int of_layer;
	size_t field;
	int block;
	char rows, cols;
	enum sp_part part;
};

static const struct entry table[] = {
#define LETTER(size) (#size)[0]
#define MODEL_TABLE(field, name, rows, cols, part)                                                                     \
	{name, TABLE, 0, offsetof(struct sp_model, field), 0, LETTER(rows), LETTER(cols), part},
#define MODEL_MATRIX(field, name, rows, cols, part)                                                                    \
	{name, PANELS, 0, offsetof(struct sp_model, field), 0, LETTER(rows), LETTER(cols), part},
#define MODEL_VECTOR(field, name, length, part)                                                                        \
	{name, VECTOR, 0, offsetof(struct sp_model, field), 0, LETTER(length), 0, part},
#define LAYER_MATRIX(field, block, name, rows, cols, part)                                                             \
	{name, PANELS, 1, offsetof(struct sp_layer_weights, field), block, LETTER(rows), LETTER(cols), part},
#define LAYER_VECTOR(field, block, name, length, part)                                                                 \
	{name, VECTOR, 1, offsetof(struct sp_layer_weights, field), block, LETTER(length), 0, part},
#include "model/tensors.def"
#undef MODEL_TABLE
#undef MODEL_MATRIX
#undef MODEL_VECTOR
#undef LAYER_MATRIX
#undef LAYER_VECTOR
};

enum {
	ENTRIES = sizeof table / sizeof table[0],
	ALIGNED_FLOATS = 16 /* every field starts at a cache line */
};

/* A tensor of this encoder: its row of the table, its set of layer weights, its rows received so far. */
struct sp_slot {
	const struct entry *entry;
	int64_t group, loaded;
};

static int64_t size_of(char letter, const struct sp_config *config)
{
	switch (letter) {
	case 'V': return config->vocab_size;
	case 'S': return config->max_positions;
	case 'Y': return config->type_vocab_size;
	case 'R': return config->relative_buckets;
	case 'A': return config->layer.heads;
	case 'E': return config->embedding;
	case 'H': return config->layer.hidden;
	case 'F': return config->layer.intermediate;
	}
	return 0;
}

/* Whether this encoder has the tensor, in this set of layer weights. */
static int is_there(const struct entry *entry, const struct sp_config *config, int64_t group)
{
	unsigned parts = config->parts | (group > 0 ? SP_FIRST_NORM : 0);
	return (entry->part & parts) == entry->part && size_of(entry->rows, config) > 0;
}

static void add_slots(struct sp_model *model, int of_layer, int64_t group)
{
	for (int e = 0; e < ENTRIES; e++)
		if (table[e].of_layer == of_layer && is_there(&table[e], &model->config, group))
			model->slots[model->n_tensors++] = (struct sp_slot){&table[e], group, 0};
}

static void *field_of(const struct sp_model *model, const struct sp_slot *slot)
{
	const char *base = slot->entry->of_layer ? (const char *)&model->group[slot->group] : (const char *)model;
	return (void *)(uintptr_t)(base + slot->entry->field);
}

struct sp_layer_kind sp_kind_of_layer(const struct sp_config *config, int64_t l)
{
	struct sp_layer_kind kind = config->layer;
	if (config->is_local[l]) {
		kind.window = config->local_window;
		kind.rotary_base = config->local_rotary_base;
	}
	return kind;
}

/* As transformers finds the group of a layer of ALBERT. */
const struct sp_layer_weights *sp_model_layer(const struct sp_model *model, int64_t l)
{
	const struct sp_config *config = &model->config;
	return &model->group[(int64_t)((double)l / ((double)config->layers / (double)config->groups))];
}

struct sp_tensor sp_model_tensor(const struct sp_model *model, int64_t i)
{
	const struct sp_slot *slot = &model->slots[i];
	const struct entry *entry = slot->entry;
	struct sp_tensor tensor = {.rows = size_of(entry->rows, &model->config),
	                           .cols = entry->cols ? size_of(entry->cols, &model->config) : 0,
	                           .loaded = slot->loaded};
	if (entry->of_layer)
		snprintf(tensor.name, sizeof tensor.name, "encoder.layer.%lld.%s", (long long)slot->group, entry->name);
	else
		snprintf(tensor.name, sizeof tensor.name, "%s", entry->name);
	return tensor;
}

/* How many blocks of equal height are stacked in an entry's field. */
static int blocks_in(const struct entry *entry)
{
	int blocks = 0;
	for (int i = 0; i < ENTRIES; i++)
		if (table[i].of_layer == entry->of_layer && table[i].field == entry->field)
			blocks++;
	return blocks;
}

/* Linear layers' weights are kept in the model's format; of tables the words are halved, too, as there are most of them. */
static enum sp_format format_of(const struct entry *entry, const struct sp_config *config)
{
	if (entry->form == PANELS)
		return config->format;
	return entry->form == TABLE && entry->rows == 'V' && config->format != SP_FLOAT32 ? SP_BFLOAT16 : SP_FLOAT32;
}

/* Outputs that are stored of a matrix, or elements of a vector: whole panels where there are any, which is always so in
 * low precision. */
static int64_t stored_rows(const struct entry *entry, const struct sp_model *model)
{
	int64_t nr = sp_runtime()->kernels->nr, rows = blocks_in(entry) * size_of(entry->rows, &model->config);
	int in_panels = entry->form == PANELS && (model->packed || format_of(entry, &model->config) != SP_FLOAT32);
	return in_panels ? (rows + nr - 1) / nr * nr : rows;
}

static int64_t stored_floats(const struct entry *entry, const struct sp_model *model)
{
	const struct sp_config *config = &model->config;
	enum sp_format format = format_of(entry, config);
	if (format != SP_FLOAT32 && entry->form == PANELS)
		return sp_low_matrix_floats(format, stored_rows(entry, model), size_of(entry->cols, config));
	if (format != SP_FLOAT32)
		return sp_low_table_floats(stored_rows(entry, model), size_of(entry->cols, config));
	int64_t floats = stored_rows(entry, model) * (entry->cols ? size_of(entry->cols, config) : 1);
	return (floats + ALIGNED_FLOATS - 1) / ALIGNED_FLOATS * ALIGNED_FLOATS;
}

/* Let a field be at `memory`. Whole panels are written while loading; the unfilled columns of the last need zeros. */
static void place_field(struct sp_model *model, const struct sp_slot *slot, float *memory)
{
	const struct entry *entry = slot->entry;
	void *field = field_of(model, slot);
	if (entry->form == VECTOR) {
		*(float **)field = memory;
		return;
	}
	int64_t rows = blocks_in(entry) * size_of(entry->rows, &model->config);
	int64_t cols = size_of(entry->cols, &model->config), nr = sp_runtime()->kernels->nr;
	struct sp_matrix *matrix = field;
	*matrix = (struct sp_matrix){.data = memory, .rows = rows, .cols = cols};
	matrix->format = format_of(entry, &model->config);
	if (matrix->format != SP_FLOAT32) {
		matrix->digits = 1;
		if (entry->form == PANELS)
			sp_low_matrix_place(matrix, memory, stored_rows(entry, model));
		return;
	}
	int64_t stored = stored_rows(entry, model);
	if (stored > rows)
		memset(memory + (stored - nr) * cols, 0, (size_t)(nr * cols) * sizeof(float));
}

/* One block of memory for all weights, in the order in which they are used. */
static int allocate_weights(struct sp_model *model)
{
	int64_t floats = 0;
	for (int64_t i = 0; i < model->n_tensors; i++)
		floats += model->slots[i].entry->block ? 0 : stored_floats(model->slots[i].entry, model);
	model->weights = model->packed ? sp_floats(floats) : sp_zeros(floats);
	model->floats = floats;
	float *memory = model->weights;
	for (int64_t i = 0; memory && i < model->n_tensors; i++) {
		const struct sp_slot *slot = &model->slots[i];
		if (slot->entry->block)
			continue;
		place_field(model, slot, memory);
		memory += stored_floats(slot->entry, model);
	}
	return model->weights != NULL;
}

enum sp_status sp_model_create(struct sp_model **out, const struct sp_config *config, int packed)
{
	struct sp_model *model = sp_bytes(sizeof *model);
	*out = model;
	if (!model)
		return SP_NO_MEMORY;
	*model = (struct sp_model){.config = *config, .packed = packed};
	size_t group_bytes = (size_t)config->groups * sizeof *model->group;
	model->group = sp_bytes(group_bytes);
	model->slots = sp_bytes((size_t)(config->groups + 1) * ENTRIES * sizeof *model->slots);
	if (model->group && model->slots) {
		memset(model->group, 0, group_bytes);
		add_slots(model, 0, 0);
		for (int64_t group = 0; group < config->groups; group++)
			add_slots(model, 1, group);
		if (allocate_weights(model))
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
	sp_free(model->group);
	sp_free(model->ranges);
	sp_free(model->slots);
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
	struct sp_slot *slot = &model->slots[i];
	const struct entry *entry = slot->entry;
	int64_t height = size_of(entry->rows, &model->config);
	if (count < 0 || count > height - slot->loaded)
		return SP_INVALID;
	int64_t first = entry->block * height + slot->loaded;
	void *field = field_of(model, slot);
	struct sp_matrix *matrix = field;
	enum sp_status status = SP_OK;
	if (entry->form == VECTOR)
		memcpy(*(float **)field + first, rows, (size_t)count * sizeof(float));
	else if (matrix->format != SP_FLOAT32 && entry->form == TABLE)
		sp_low_table_load(matrix, first, rows, count);
	else if (matrix->format != SP_FLOAT32)
		status = sp_low_matrix_load(matrix, first, rows, count);
	else if (entry->form == PANELS && model->packed)
		pack_rows(matrix, first, rows, count);
	else
		memcpy(matrix->data + first * matrix->cols, rows, (size_t)(count * matrix->cols) * sizeof(float));
	slot->loaded += status == SP_OK ? count : 0;
	return status;
}

const struct sp_matrix *sp_model_linear(const struct sp_model *model, int64_t i)
{
	const struct entry *entry = model->slots[i].entry;
	return entry->form == PANELS && !entry->block ? field_of(model, &model->slots[i]) : NULL;
}

void sp_model_set_digits(struct sp_model *model, int64_t i, int digits)
{
	((struct sp_matrix *)field_of(model, &model->slots[i]))->digits = digits;
}

enum sp_status sp_model_watch(struct sp_model *model, int on)
{
	int64_t floats = 0;
	for (int64_t i = 0; i < model->n_tensors; i++)
		floats += sp_model_linear(model, i) ? 2 * sp_model_linear(model, i)->cols : 0;
	float *ranges = on ? sp_floats(floats) : NULL;
	if (on && !ranges)
		return SP_NO_MEMORY;
	sp_free(model->ranges);
	model->ranges = ranges;
	for (int64_t i = 0; i < model->n_tensors; i++) {
		if (!sp_model_linear(model, i))
			continue;
		struct sp_matrix *matrix = field_of(model, &model->slots[i]);
		matrix->ranges = ranges;
		for (int64_t j = 0; on && j < 2 * matrix->cols; j++)
			ranges[j] = j < matrix->cols ? INFINITY : -INFINITY;
		ranges += on ? 2 * matrix->cols : 0;
	}
	return SP_OK;
}

/* ---- to rows and back ---------------------------------------------------------------------------------------------- */

int64_t sp_model_offset(const struct sp_model *model, int64_t i)
{
	const struct sp_slot *slot = &model->slots[i];
	const void *field = field_of(model, slot);
	struct sp_tensor tensor = sp_model_tensor(model, i);
	const float *first =
		slot->entry->form == VECTOR ? *(float *const *)field : ((const struct sp_matrix *)field)->data;
	return first - model->weights + slot->entry->block * tensor.rows * (tensor.cols ? tensor.cols : 1);
}

/* A field of a model, a vector as one row. */
static struct sp_matrix rows_of(const struct sp_model *model, const struct sp_slot *slot)
{
	const void *field = field_of(model, slot);
	if (slot->entry->form != VECTOR)
		return *(const struct sp_matrix *)field;
	return (struct sp_matrix){.data = *(float *const *)field,
	                          .rows = 1,
	                          .cols = blocks_in(slot->entry) * size_of(slot->entry->rows, &model->config)};
}

static int in_panels(const struct sp_model *model, const struct sp_slot *slot)
{
	return model->packed && slot->entry->form == PANELS;
}

void sp_model_unpack(struct sp_model *rows, const struct sp_model *model)
{
	int64_t nr = sp_runtime()->kernels->nr;
	for (int64_t i = 0; i < model->n_tensors; i++) {
		struct sp_matrix from = rows_of(model, &model->slots[i]), to = rows_of(rows, &rows->slots[i]);
		if (model->slots[i].entry->block)
			continue;
		if (!in_panels(model, &model->slots[i])) {
			memcpy(to.data, from.data, (size_t)(from.rows * from.cols) * sizeof(float));
			continue;
		}
		for (int64_t r = 0; r < from.rows; r++)
			for (int64_t c = 0; c < from.cols; c++)
				to.data[r * from.cols + c] = from.data[(r / nr * from.cols + c) * nr + r % nr];
	}
}

void sp_model_pack(struct sp_model *model, const struct sp_model *rows, struct sp_team *team)
{
	const struct sp_kernels *kernels = sp_runtime()->kernels;
	int64_t nr = kernels->nr, first, end;
	for (int64_t i = 0; i < model->n_tensors; i++) {
		struct sp_matrix to = rows_of(model, &model->slots[i]), from = rows_of(rows, &rows->slots[i]);
		if (model->slots[i].entry->block)
			continue;
		while (sp_team_take(team, (to.rows + nr - 1) / nr, 1, &first, &end))
			for (int64_t panel = first; panel < end; panel++) {
				int64_t count = to.rows - panel * nr < nr ? to.rows - panel * nr : nr,
					at = panel * nr * to.cols;
				if (in_panels(model, &model->slots[i]))
					kernels->pack(to.data + at, 0, from.data + at, to.cols, count, to.cols);
				else
					memcpy(to.data + at, from.data + at, (size_t)(count * to.cols) * sizeof(float));
			}
	}
}
