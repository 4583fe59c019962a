#include "train/samples.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"
#include "train/model.h"
#include "train/optimizer_state.h"
#include "train/rows.h"
#include "train/samples_read.h"

/* A row by its content: the order in which rows are numbered. */
struct place {
    struct id hash;
    size_t row; /* as read */
    bool validation;
};

struct train_samples {
    struct allocator allocator;
    struct train_rows rows;
    struct train_samples_info info;
    size_t *order; /* [train_rows + validation_rows] rows as read, by number */
    struct id node;
    struct rng_seeded stream, private_stream;
};

PRINTF_LIKE(3, 4) static int fail(char *why, size_t why_size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why, why_size, format, args);
    va_end(args);
    return ERR_INVALID;
}

static int by_kind_then_hash(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->validation != y->validation)
        return x->validation ? 1 : -1;
    int order = id_compare(&x->hash, &y->hash);
    return order != 0 ? order : (x->row > y->row) - (x->row < y->row);
}

/* The values as read and the label: what two members can agree on before they know each other's scale. */
static int hash_rows(const struct train_samples *s, struct place places[])
{
    size_t bytes = 4 * s->rows.inputs + 2;
    uint8_t *text = allocator_get(&s->allocator, bytes, 1);
    if (text == NULL)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < s->rows.count; i++) {
        train_floats_store(s->rows.inputs, s->rows.values + i * s->rows.inputs, text);
        store_le16(text + bytes - 2, s->rows.labels[i]);
        hash_content(bytes_of(text, bytes), &places[i].hash);
        places[i].row = i;
        places[i].validation = load_le64(places[i].hash.bytes) % TRAIN_SAMPLES_VALIDATION_SHARE == 0;
    }
    allocator_release(&s->allocator, text);
    return 0;
}

/* Both kinds must exist: the one smallest hash (and the rows equal to it) changes sides when one is missing.
 */
static void ensure_both(struct place places[], size_t count)
{
    size_t validation = 0;
    for (size_t i = 0; i < count; i++)
        validation += places[i].validation;
    if (validation != 0 && validation != count)
        return;
    const struct id first = places[0].hash;
    for (size_t i = 0; i < count && id_equal(&places[i].hash, &first); i++)
        places[i].validation = validation == 0;
    qsort(places, count, sizeof *places, by_kind_then_hash);
}

static int split(struct train_samples *s, const struct train_samples_config *config, char *why,
                 size_t why_size)
{
    size_t count = s->rows.count;
    struct place *places = allocator_get(&s->allocator, count, sizeof *places);
    s->order = allocator_get(&s->allocator, count, sizeof *s->order);
    int result = places == NULL || s->order == NULL ? ERR_NO_MEMORY : hash_rows(s, places);
    if (result == 0) {
        qsort(places, count, sizeof *places, by_kind_then_hash);
        ensure_both(places, count);
        uint32_t parts = config->parts > 1 ? config->parts : 1;
        for (size_t i = 0; i < count; i++) {
            bool ours = load_le64(places[i].hash.bytes + 8) % parts == config->part % parts;
            if (!places[i].validation && !ours)
                continue;
            s->order[s->info.train_rows + s->info.validation_rows] = places[i].row;
            s->info.train_rows += !places[i].validation;
            s->info.validation_rows += places[i].validation;
        }
        if (s->info.train_rows == 0 || s->info.validation_rows == 0)
            result = fail(why, why_size, "part %u of %u holds no row: make fewer parts of %zu rows",
                          config->part, parts, count);
    }
    allocator_release(&s->allocator, places);
    return result;
}

static void scale(struct train_samples *s, float input_max)
{
    size_t count = s->rows.count * s->rows.inputs;
    float largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(s->rows.values[i]));
    if (!(input_max > 0))
        input_max = largest > 0 ? largest : 1;
    for (size_t i = 0; i < count; i++)
        s->rows.values[i] /= input_max;
    s->info.input_max = input_max;
}

static int build(struct train_samples *s, const struct train_samples_config *config, char *why,
                 size_t why_size)
{
    size_t greatest = 0;
    if (s->rows.count < TRAIN_SAMPLES_MIN)
        return fail(why, why_size, "%.300s holds %zu rows, at least %d are needed",
                    config->path == NULL ? "the array" : config->path, s->rows.count, TRAIN_SAMPLES_MIN);
    for (size_t i = 0; i < s->rows.count; i++)
        greatest = s->rows.labels[i] > greatest ? s->rows.labels[i] : greatest;
    s->info.inputs = s->rows.inputs;
    s->info.classes = config->classes != 0 ? config->classes : greatest + 1;
    if (s->info.classes < 2)
        return fail(why, why_size, "every label is 0: there is nothing to tell apart");
    int result = split(s, config, why, why_size);
    if (result < 0)
        return result;
    scale(s, config->input_max);
    train_samples_reseed(s, 0);
    return 0;
}

static struct train_samples *begin(const struct train_samples_config *config,
                                   const struct allocator *allocator)
{
    struct train_samples *s = allocator_get(allocator, 1, sizeof *s);
    if (s == NULL)
        return NULL;
    ASSERT(config->classes <= TRAIN_MLP_CLASSES_MAX);
    s->allocator = *allocator;
    s->node = config->node;
    rng_seeded_init_key(&s->private_stream, config->secret);
    train_rows_init(&s->rows, allocator, config->inputs,
                    config->classes != 0 ? config->classes : TRAIN_MLP_CLASSES_MAX,
                    config->bytes_max != 0 ? config->bytes_max : TRAIN_SAMPLES_MAX_BYTES);
    return s;
}

static int finish(struct train_samples *s, int result, const struct train_samples_config *config,
                  struct train_samples **out, char *why, size_t why_size)
{
    if (result == 0)
        result = build(s, config, why, why_size);
    if (result == 0) {
        *out = s;
        return 0;
    }
    if (why_size > 0 && why[0] == '\0')
        (void)snprintf(why, why_size, "%s for the rows of %.300s", err_text(result),
                       config->path == NULL ? "the array" : config->path);
    train_samples_close(s);
    return result;
}

int train_samples_open(const struct train_samples_config *config, const struct allocator *allocator,
                       struct train_samples **out, char *why, size_t why_size)
{
    if (why_size > 0)
        why[0] = '\0';
    struct train_samples *s = begin(config, allocator);
    int result = ERR_NO_MEMORY;
    if (s != NULL)
        result = train_samples_read(&s->rows, config->path, config->label, &s->info.files, why, why_size);
    return finish(s, result, config, out, why, why_size);
}

static int copy_rows(struct train_rows *rows, size_t count, const float features[], const uint16_t labels[],
                     char *why, size_t why_size)
{
    for (size_t r = 0; r < count; r++) {
        float *values;
        uint16_t *label;
        int result = train_rows_next(rows, &values, &label);
        if (result < 0)
            return result;
        for (size_t i = 0; i < rows->inputs; i++) {
            values[i] = features[r * rows->inputs + i] + 0.0F;
            if (!isfinite(values[i])) {
                (void)snprintf(why, why_size, "value %zu of row %zu is NaN or infinite", i + 1, r + 1);
                return ERR_NOT_FINITE;
            }
        }
        if (labels[r] >= rows->classes_max) {
            (void)snprintf(why, why_size, "label %zu is %u, and classes are 0 to %zu", r + 1, labels[r],
                           rows->classes_max - 1);
            return ERR_MISMATCH;
        }
        *label = labels[r];
        train_rows_keep(rows);
    }
    return 0;
}

int train_samples_of(const struct train_samples_config *config, size_t rows, const float features[],
                     const uint16_t labels[], const struct allocator *allocator, struct train_samples **out,
                     char *why, size_t why_size)
{
    ASSERT(config->inputs > 0);
    if (why_size > 0)
        why[0] = '\0';
    struct train_samples *s = begin(config, allocator);
    int result = s == NULL ? ERR_NO_MEMORY : copy_rows(&s->rows, rows, features, labels, why, why_size);
    return finish(s, result, config, out, why, why_size);
}

void train_samples_close(struct train_samples *s)
{
    if (s == NULL)
        return;
    struct allocator allocator = s->allocator;
    train_rows_release(&s->rows);
    allocator_release(&allocator, s->order);
    allocator_release(&allocator, s);
}

void train_samples_info(const struct train_samples *s, struct train_samples_info *out)
{
    *out = s->info;
}

void train_samples_reseed(struct train_samples *s, uint64_t number)
{
    uint8_t text[8];
    struct id key;
    store_le64(text, number);
    struct bytes parts[] = {bytes_of(s->node.bytes, ID_BYTES), bytes_of(text, sizeof text)};
    hash_parts("dunlin training draws", parts, 2, &key);
    rng_seeded_init_key(&s->stream, key.bytes);
}

size_t train_samples_draw(struct train_samples *s)
{
    struct rng rng = rng_of_seeded(&s->stream);
    return (size_t)rng_below(&rng, s->info.train_rows);
}

size_t train_samples_draw_private(struct train_samples *s)
{
    struct rng rng = rng_of_seeded(&s->private_stream);
    return (size_t)rng_below(&rng, s->info.train_rows);
}

const float *train_samples_row(const struct train_samples *s, size_t index, uint16_t *label)
{
    ASSERT(index < s->info.train_rows + s->info.validation_rows);
    size_t row = s->order[index];
    *label = s->rows.labels[row];
    return s->rows.values + row * s->rows.inputs;
}
