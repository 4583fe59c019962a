#include "train/optimizer_state.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/hash.h"

enum { HEAD_BYTES = 8 + 8 + 32 + 8, SUM_BYTES = 32 };

static const char MAGIC[9] = "DNLNADM1";

void train_floats_store(size_t count, const float from[], uint8_t to[])
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        store_le32(to + 4 * i, bits);
    }
}

void train_floats_load(size_t count, const uint8_t from[], float to[])
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = load_le32(from + 4 * i);
        memcpy(&to[i], &bits, sizeof bits);
    }
}

static void layout_hash(const struct train_layout *layout, struct id *out)
{
    const struct train_model_config *model = &layout->model;
    uint8_t text[16];
    store_le32(text, model->width);
    store_le32(text + 4, model->layers);
    store_le32(text + 8, model->heads);
    store_le32(text + 12, model->context);
    struct bytes part = bytes_of(text, sizeof text);
    if (model->kind == TRAIN_TRANSFORMER) {
        hash_parts("dunlin model shape", &part, 1, out);
        return;
    }
    uint8_t mlp[4 * (TRAIN_MLP_SIZES_MAX + 1)] = {0};
    for (size_t i = 0; i < TRAIN_MLP_SIZES_MAX; i++)
        store_le32(mlp + 4 * i, model->sizes[i]);
    train_floats_store(1, &model->input_max, mlp + 4 * TRAIN_MLP_SIZES_MAX);
    part = bytes_of(mlp, sizeof mlp);
    hash_parts("dunlin mlp shape", &part, 1, out);
}

size_t train_state_bytes(const struct train_layout *layout)
{
    return HEAD_BYTES + 2 * 4 * layout->arena_floats + SUM_BYTES;
}

void train_state_write(const struct train_layout *layout, uint64_t updates, const float first[],
                       const float second[], uint8_t out[])
{
    struct id shape, sum;
    size_t count = layout->arena_floats;
    layout_hash(layout, &shape);
    memcpy(out, MAGIC, 8);
    store_le64(out + 8, updates);
    memcpy(out + 16, shape.bytes, 32);
    store_le64(out + 48, count);
    train_floats_store(count, first, out + HEAD_BYTES);
    train_floats_store(count, second, out + HEAD_BYTES + 4 * count);
    size_t body = HEAD_BYTES + 8 * count;
    hash_content(bytes_of(out, body), &sum);
    memcpy(out + body, sum.bytes, SUM_BYTES);
}

static bool moments_valid(size_t count, const uint8_t *first, const uint8_t *second)
{
    for (size_t i = 0; i < count; i++) {
        float m, v;
        train_floats_load(1, first + 4 * i, &m);
        train_floats_load(1, second + 4 * i, &v);
        if (!isfinite(m) || !isfinite(v) || v < 0)
            return false;
    }
    return true;
}

int train_state_read(const struct train_layout *layout, struct bytes state, uint64_t *updates, float first[],
                     float second[])
{
    struct id shape, sum;
    size_t count = layout->arena_floats;
    if (state.len < HEAD_BYTES + SUM_BYTES || memcmp(state.data, MAGIC, 8) != 0)
        return ERR_CORRUPT;
    hash_content(bytes_of(state.data, state.len - SUM_BYTES), &sum);
    if (memcmp(sum.bytes, state.data + state.len - SUM_BYTES, SUM_BYTES) != 0)
        return ERR_CORRUPT;
    layout_hash(layout, &shape);
    if (memcmp(shape.bytes, state.data + 16, 32) != 0 || load_le64(state.data + 48) != count ||
        state.len != train_state_bytes(layout))
        return ERR_MISMATCH;
    const uint8_t *body = state.data + HEAD_BYTES;
    if (!moments_valid(count, body, body + 4 * count))
        return ERR_CORRUPT;
    *updates = load_le64(state.data + 8);
    train_floats_load(count, body, first);
    train_floats_load(count, body + 4 * count, second);
    return 0;
}
