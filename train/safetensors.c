#include "train/safetensors.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/json_scan.h"
#include "train/optimizer_state.h"

static const char FORMAT[] = "dunlin-1";

/* Writing. */

/* Appends to text, or, with text NULL, only counts. */
struct appender {
    char *text;
    size_t len;
};

PRINTF_LIKE(2, 3) static void append(struct appender *a, const char *format, ...)
{
    char part[160];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(part, sizeof part, format, args);
    va_end(args);
    ASSERT(len >= 0 && (size_t)len < sizeof part);
    if (a->text != NULL)
        memcpy(a->text + a->len, part, (size_t)len);
    a->len += (size_t)len;
}

static void append_plain(struct appender *a, const char *text)
{
    size_t len = strlen(text);
    ASSERT(len <= TRAIN_ST_MERGED_MAX);
    for (size_t i = 0; i < len; i++)
        ASSERT(text[i] >= ' ' && text[i] <= '~' && text[i] != '"' && text[i] != '\\');
    if (a->text != NULL)
        memcpy(a->text + a->len, text, len);
    a->len += len;
}

/* The JSON header, filled up with spaces so that the data starts on a multiple of 8 bytes. */
static size_t header(const struct train_layout *layout, const char *merged, char *text)
{
    const struct train_model_config *model = &layout->model;
    struct appender a = {.text = text};
    size_t at = 0;
    append(&a, "{\"__metadata__\":{\"format\":\"%s\",", FORMAT);
    if (merged != NULL) {
        append(&a, "\"merged\":\"");
        append_plain(&a, merged);
        append(&a, "\",");
    }
    if (model->kind == TRAIN_MLP) {
        append(&a, "\"model\":\"mlp\",\"input_max\":\"%.9g\",\"sizes\":\"", (double)model->input_max);
        for (size_t i = 0; i < model->size_count; i++)
            append(&a, "%s%u", i > 0 ? "," : "", model->sizes[i]);
        append(&a, "\"}");
    } else {
        append(&a, "\"width\":\"%u\",\"layers\":\"%u\",\"heads\":\"%u\",\"context\":\"%u\"}", model->width,
               model->layers, model->heads, model->context);
    }
    for (size_t t = 0; t < layout->tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        size_t bytes = 4 * tensor->rows * tensor->cols;
        append(&a, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[", tensor->name);
        if (tensor->rows > 1)
            append(&a, "%zu,", tensor->rows);
        append(&a, "%zu],\"data_offsets\":[%zu,%zu]}", tensor->cols, at, at + bytes);
        at += bytes;
    }
    append(&a, "}");
    while (a.len % 8 != 0)
        append(&a, " ");
    return a.len;
}

size_t train_safetensors_bytes(const struct train_layout *layout, const char *merged)
{
    return 8 + header(layout, merged, NULL) + 4 * layout->parameter_count;
}

int train_safetensors_write(const struct train_layout *layout, const char *merged, const float params[],
                            uint8_t out[], size_t out_cap)
{
    if (out_cap < train_safetensors_bytes(layout, merged))
        return ERR_TOO_LARGE;
    size_t len = header(layout, merged, (char *)out + 8);
    store_le64(out, len);
    uint8_t *at = out + 8 + len;
    for (size_t t = 0; t < layout->tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        size_t count = tensor->rows * tensor->cols;
        train_floats_store(count, params + tensor->offset, at);
        at += 4 * count;
    }
    return 0;
}

/* Reading. */

struct entry {
    bool f32, has_shape, has_offsets;
    size_t dimensions;
    uint64_t shape[2];
    uint64_t from, to; /* bytes from the data's start */
};

/* The header's JSON and the data behind it. */
static int split(struct bytes file, struct json_scan *json, struct bytes *data, char *why, size_t why_size)
{
    uint64_t len = file.len < 8 ? 0 : load_le64(file.data);
    if (why_size > 0)
        why[0] = '\0';
    if (file.len >= 8 && (len < 2 || len > TRAIN_ST_HEADER_MAX)) {
        (void)snprintf(why, why_size, "not a safetensors file: it announces a header of %llu bytes",
                       (unsigned long long)len);
        return ERR_MALFORMED;
    }
    if (file.len < 8 || len > file.len - 8) {
        (void)snprintf(why, why_size, "the file ends early, after %zu bytes: copy it again", file.len);
        return ERR_TRUNCATED;
    }
    *json = (struct json_scan){.at = file.data + 8, .end = file.data + 8 + len};
    *data = bytes_of(file.data + 8 + len, file.len - 8 - (size_t)len);
    return 0;
}

static bool is(struct bytes text, const char *word)
{
    return bytes_equal(text, bytes_of_text(word));
}

static void read_shape(struct json_scan *s, struct entry *entry)
{
    train_json_expect(s, '[');
    entry->dimensions = 0;
    if (train_json_accept(s, ']'))
        return;
    do {
        uint64_t extent = train_json_whole(s);
        if (entry->dimensions < 2)
            entry->shape[entry->dimensions] = extent;
        entry->dimensions++;
    } while (train_json_accept(s, ','));
    train_json_expect(s, ']');
}

static void read_entry(struct json_scan *s, struct entry *entry)
{
    *entry = (struct entry){.f32 = false};
    train_json_expect(s, '{');
    do {
        struct bytes key = train_json_string(s);
        train_json_expect(s, ':');
        if (is(key, "dtype")) {
            entry->f32 = is(train_json_string(s), "F32");
        } else if (is(key, "shape")) {
            read_shape(s, entry);
            entry->has_shape = true;
        } else if (is(key, "data_offsets")) {
            train_json_expect(s, '[');
            entry->from = train_json_whole(s);
            train_json_expect(s, ',');
            entry->to = train_json_whole(s);
            train_json_expect(s, ']');
            entry->has_offsets = true;
        } else {
            s->failed = true;
        }
    } while (train_json_accept(s, ','));
    train_json_expect(s, '}');
    s->failed |= !entry->has_shape || !entry->has_offsets || entry->from > entry->to;
}

static int malformed(char *why, size_t why_size)
{
    (void)snprintf(why, why_size, "not a safetensors file: its header is not the JSON expected");
    return ERR_MALFORMED;
}

/* "128" as a number, 0 when it is none or absurd. */
static uint32_t number_of(struct bytes text)
{
    if (text.len == 0) /* no offset may be added to its NULL */
        return 0;
    struct json_scan s = {.at = text.data, .end = text.data + text.len};
    uint64_t value = train_json_whole(&s);
    return train_json_done(&s) && value <= UINT32_MAX ? (uint32_t)value : 0;
}

/* "64,64,10" as the sizes of an MLP; anything else as none, which the check refuses. */
static void read_sizes(struct bytes text, struct train_model_config *model)
{
    memset(model->sizes, 0, sizeof model->sizes);
    model->size_count = 0;
    if (text.len == 0)
        return;
    struct json_scan s = {.at = text.data, .end = text.data + text.len};
    do {
        uint64_t size = train_json_whole(&s);
        if (model->size_count == TRAIN_MLP_SIZES_MAX || size > UINT32_MAX)
            s.failed = true;
        else
            model->sizes[model->size_count++] = (uint32_t)size;
    } while (train_json_accept(&s, ','));
    if (train_json_done(&s))
        return;
    memset(model->sizes, 0, sizeof model->sizes);
    model->size_count = 0;
}

static float float_of(struct bytes text)
{
    char copy[32] = "", *end;
    if (text.len == 0 || text.len >= sizeof copy)
        return 0;
    memcpy(copy, text.data, text.len);
    if (strspn(copy, "+-.0123456789eE") != text.len)
        return 0;
    float value = strtof(copy, &end);
    return *end == '\0' && isfinite(value) ? value : 0;
}

static bool read_metadata(struct json_scan *s, struct train_model_config *model)
{
    bool ours = false;
    train_json_expect(s, '{');
    if (train_json_accept(s, '}'))
        return false;
    do {
        struct bytes key = train_json_string(s);
        train_json_expect(s, ':');
        struct bytes value = train_json_string(s);
        ours |= is(key, "format") && is(value, FORMAT);
        if (is(key, "width"))
            model->width = number_of(value);
        if (is(key, "layers"))
            model->layers = number_of(value);
        if (is(key, "heads"))
            model->heads = number_of(value);
        if (is(key, "context"))
            model->context = number_of(value);
        if (is(key, "model"))
            model->kind = is(value, "mlp") ? TRAIN_MLP : TRAIN_MODEL_KINDS;
        if (is(key, "sizes"))
            read_sizes(value, model);
        if (is(key, "input_max"))
            model->input_max = float_of(value);
    } while (train_json_accept(s, ','));
    train_json_expect(s, '}');
    return ours;
}

int train_safetensors_model(struct bytes file, struct train_model_config *model, char *why, size_t why_size)
{
    struct json_scan s;
    struct bytes data;
    struct train_model_config found = {.width = 0};
    bool ours = false;
    int result = split(file, &s, &data, why, why_size);
    if (result < 0)
        return result;
    train_json_expect(&s, '{');
    if (!train_json_accept(&s, '}')) {
        do {
            struct bytes key = train_json_string(&s);
            train_json_expect(&s, ':');
            if (is(key, "__metadata__"))
                ours |= read_metadata(&s, &found);
            else
                train_json_skip(&s, TRAIN_ST_DEPTH_MAX);
        } while (train_json_accept(&s, ','));
        train_json_expect(&s, '}');
    }
    if (!train_json_done(&s))
        return malformed(why, why_size);
    if (!ours) {
        (void)snprintf(why, why_size,
                       "the file does not say which model it holds: it was not exported by dunlin");
        return ERR_UNSUPPORTED;
    }
    char reason[160];
    if (train_model_config_check(&found, reason, sizeof reason) < 0) {
        (void)snprintf(why, why_size, "the file's metadata are impossible: %s", reason);
        return ERR_MALFORMED;
    }
    *model = found;
    return 0;
}

static int mismatch(char *why, size_t why_size, const char *name, size_t name_len, const char *what)
{
    (void)snprintf(why, why_size, "tensor \"%.*s\" %s", name_len < 64 ? (int)name_len : 64, name, what);
    return ERR_MISMATCH;
}

/* Where in the file each tensor of the layout lies. */
struct places {
    const struct train_layout *layout;
    bool seen[TRAIN_TENSORS_MAX];
    size_t from[TRAIN_TENSORS_MAX];
};

static int place(struct places *places, struct bytes name, const struct entry *entry, size_t data_len,
                 char *why, size_t why_size)
{
    const struct train_layout *layout = places->layout;
    const char *text = (const char *)name.data;
    const struct train_tensor *tensor = train_layout_find(layout, text, name.len);
    if (tensor == NULL)
        return mismatch(why, why_size, text, name.len, "does not belong to this model");
    size_t index = (size_t)(tensor - layout->tensors), bytes = 4 * tensor->rows * tensor->cols;
    if (places->seen[index])
        return mismatch(why, why_size, text, name.len, "comes twice");
    bool matrix = tensor->rows > 1 && entry->dimensions == 2 && entry->shape[0] == tensor->rows &&
                  entry->shape[1] == tensor->cols;
    bool row = tensor->rows == 1 && entry->dimensions == 1 && entry->shape[0] == tensor->cols;
    if (!entry->f32 || !(matrix || row))
        return mismatch(why, why_size, text, name.len, "is not F32 or has another shape");
    if (entry->to > data_len) {
        (void)snprintf(why, why_size, "the file ends inside tensor \"%s\": copy it again", tensor->name);
        return ERR_TRUNCATED;
    }
    if (entry->to - entry->from != bytes)
        return mismatch(why, why_size, text, name.len, "has offsets that do not fit its shape");
    places->seen[index] = true;
    places->from[index] = (size_t)entry->from;
    return 0;
}

static int place_all(struct places *places, struct json_scan *s, size_t data_len, char *why, size_t why_size)
{
    struct train_model_config ignored;
    train_json_expect(s, '{');
    do {
        struct entry entry;
        struct bytes name = train_json_string(s);
        train_json_expect(s, ':');
        if (is(name, "__metadata__")) {
            (void)read_metadata(s, &ignored);
            continue;
        }
        read_entry(s, &entry);
        int result =
            s->failed ? malformed(why, why_size) : place(places, name, &entry, data_len, why, why_size);
        if (result < 0)
            return result;
    } while (train_json_accept(s, ','));
    train_json_expect(s, '}');
    return train_json_done(s) ? 0 : malformed(why, why_size);
}

/* All there, and covering the data without overlap: sizes add up and no two meet. */
static int complete(const struct places *places, size_t data_len, char *why, size_t why_size)
{
    const struct train_layout *layout = places->layout;
    for (size_t t = 0; t < layout->tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        size_t to = places->from[t] + 4 * tensor->rows * tensor->cols;
        if (!places->seen[t])
            return mismatch(why, why_size, tensor->name, strlen(tensor->name), "is missing");
        for (size_t other = 0; other < layout->tensor_count; other++)
            if (other != t && places->seen[other] && places->from[other] >= places->from[t] &&
                places->from[other] < to)
                return mismatch(why, why_size, tensor->name, strlen(tensor->name), "overlaps another");
    }
    if (data_len != 4 * layout->parameter_count) {
        (void)snprintf(why, why_size, "the file holds bytes that belong to no tensor");
        return ERR_MALFORMED;
    }
    return 0;
}

static bool all_finite(struct bytes data)
{
    for (size_t at = 0; at + 4 <= data.len; at += 4) {
        float value;
        train_floats_load(1, data.data + at, &value);
        if (!isfinite(value))
            return false;
    }
    return true;
}

int train_safetensors_read(struct bytes file, const struct train_layout *layout, float params[], char *why,
                           size_t why_size)
{
    struct json_scan s;
    struct bytes data;
    struct places places = {.layout = layout};
    int result = split(file, &s, &data, why, why_size);
    if (result == 0)
        result = place_all(&places, &s, data.len, why, why_size);
    if (result == 0)
        result = complete(&places, data.len, why, why_size);
    if (result == 0 && !all_finite(data)) {
        (void)snprintf(why, why_size, "a weight in the file is NaN or infinite");
        result = ERR_NOT_FINITE;
    }
    if (result < 0)
        return result;
    memset(params, 0, layout->arena_floats * sizeof *params);
    for (size_t t = 0; t < layout->tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        train_floats_load(tensor->rows * tensor->cols, data.data + places.from[t], params + tensor->offset);
    }
    return 0;
}
