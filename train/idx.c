#include "train/idx.h"

#include <stdarg.h>
#include <stdio.h>

#include "train/model.h"

enum { TYPE_UBYTE = 8, DIMENSIONS_MAX = 4 };

struct idx {
    size_t count; /* first dimension */
    size_t each;  /* product of the others */
    const uint8_t *elements;
};

bool train_is_idx(struct bytes file)
{
    return file.len >= 4 && file.data[0] == 0 && file.data[1] == 0 && file.data[2] == TYPE_UBYTE &&
           file.data[3] >= 1 && file.data[3] <= DIMENSIONS_MAX;
}

PRINTF_LIKE(4, 5)
static int fail(char *why, size_t why_size, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why, why_size, format, args);
    va_end(args);
    return error;
}

static int open_idx(struct bytes file, const char *what, struct idx *out, char *why, size_t why_size)
{
    if (file.len >= 2 && file.data[0] == 0x1F && file.data[1] == 0x8B)
        return fail(why, why_size, ERR_MALFORMED, "the %s are compressed: unpack them with gunzip", what);
    if (!train_is_idx(file))
        return fail(why, why_size, ERR_MALFORMED, "the %s are no IDX file of unsigned bytes", what);
    struct reader r = reader_of(file);
    (void)read_u16(&r);
    (void)read_u8(&r);
    size_t dimensions = read_u8(&r);
    *out = (struct idx){.count = read_u32(&r), .each = 1};
    for (size_t d = 1; d < dimensions; d++) {
        size_t extent = read_u32(&r);
        if (!r.failed && (extent == 0 || extent > TRAIN_MLP_WIDTH_MAX / out->each))
            return fail(why, why_size, ERR_TOO_LARGE,
                        "the %s have 0 or more than %d values each, which a model cannot take", what,
                        TRAIN_MLP_WIDTH_MAX);
        out->each *= r.failed ? 1 : extent;
    }
    if (r.failed)
        return fail(why, why_size, ERR_MALFORMED, "the %s end inside the header", what);
    size_t left = reader_left(&r);
    out->elements = file.data + (file.len - left);
    if (left % out->each != 0 || left / out->each != out->count)
        return fail(why, why_size, ERR_MALFORMED,
                    "the %s hold %zu bytes, but announce %zu times %zu: copy the file again", what, left,
                    out->count, out->each);
    return 0;
}

static int add_rows(const struct idx *images, const struct idx *labels, struct train_rows *rows, char *why,
                    size_t why_size)
{
    for (size_t i = 0; i < images->count; i++) {
        float *values;
        uint16_t *label;
        int result = train_rows_next(rows, &values, &label);
        if (result == ERR_TOO_LARGE)
            return fail(why, why_size, result,
                        "more than %zu bytes of values: use less data, or raise the limit", rows->bytes_max);
        if (result < 0)
            return fail(why, why_size, result, "%s for %zu images", err_text(result), images->count);
        if (labels->elements[i] >= rows->classes_max)
            return fail(why, why_size, ERR_MISMATCH, "label %zu is %u, and classes are 0 to %zu", i + 1,
                        labels->elements[i], rows->classes_max - 1);
        for (size_t k = 0; k < images->each; k++)
            values[k] = (float)images->elements[i * images->each + k];
        *label = labels->elements[i];
        train_rows_keep(rows);
    }
    return 0;
}

int train_idx_read(struct bytes images, struct bytes labels, struct train_rows *rows, char *why,
                   size_t why_size)
{
    struct idx image, label;
    if (why_size > 0)
        why[0] = '\0';
    int result = open_idx(images, "images", &image, why, why_size);
    if (result == 0)
        result = open_idx(labels, "labels", &label, why, why_size);
    if (result < 0)
        return result;
    if (label.each != 1)
        return fail(why, why_size, ERR_MALFORMED, "the labels have %zu values each, not one", label.each);
    if (image.count != label.count)
        return fail(why, why_size, ERR_MISMATCH, "there are %zu images and %zu labels", image.count,
                    label.count);
    if (rows->inputs != 0 && rows->inputs != image.each)
        return fail(why, why_size, ERR_MISMATCH, "an image has %zu values, and %zu are expected", image.each,
                    rows->inputs);
    rows->inputs = image.each;
    return add_rows(&image, &label, rows, why, why_size);
}
