#include "train/rows.h"

#include <string.h>

void train_rows_init(struct train_rows *rows, const struct allocator *allocator, size_t inputs,
                     size_t classes_max, size_t bytes_max)
{
    *rows = (struct train_rows){.allocator = *allocator,
                                .inputs = inputs,
                                .classes_max = classes_max,
                                .bytes_max = bytes_max == 0 ? SIZE_MAX : bytes_max};
}

void train_rows_release(struct train_rows *rows)
{
    allocator_release(&rows->allocator, rows->values);
    allocator_release(&rows->allocator, rows->labels);
    rows->values = NULL;
    rows->labels = NULL;
    rows->count = rows->cap = 0;
}

static int grow(struct train_rows *rows)
{
    size_t most = rows->bytes_max / (rows->inputs * sizeof(float));
    size_t cap = rows->cap == 0 ? 64 : rows->cap * 2, floats;
    cap = cap < most ? cap : most;
    if (!size_product(cap, rows->inputs, &floats))
        return ERR_NO_MEMORY;
    float *values = allocator_get(&rows->allocator, floats, sizeof *values);
    uint16_t *labels = allocator_get(&rows->allocator, cap, sizeof *labels);
    if (values == NULL || labels == NULL) {
        allocator_release(&rows->allocator, values);
        allocator_release(&rows->allocator, labels);
        return ERR_NO_MEMORY;
    }
    if (rows->count > 0) {
        memcpy(values, rows->values, rows->count * rows->inputs * sizeof *values);
        memcpy(labels, rows->labels, rows->count * sizeof *labels);
    }
    allocator_release(&rows->allocator, rows->values);
    allocator_release(&rows->allocator, rows->labels);
    rows->values = values;
    rows->labels = labels;
    rows->cap = cap;
    return 0;
}

int train_rows_next(struct train_rows *rows, float **values, uint16_t **label)
{
    ASSERT(rows->inputs > 0);
    if (rows->count >= rows->bytes_max / (rows->inputs * sizeof(float)))
        return ERR_TOO_LARGE;
    int result = rows->count < rows->cap ? 0 : grow(rows);
    if (result < 0)
        return result;
    *values = rows->values + rows->count * rows->inputs;
    *label = rows->labels + rows->count;
    return 0;
}

void train_rows_keep(struct train_rows *rows)
{
    ASSERT(rows->count < rows->cap);
    rows->count++;
}
