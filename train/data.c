#include "train/data.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"
#include "train/data_read.h"

struct block {
    const uint8_t *at;
    size_t len; /* context + 1 .. TRAIN_BLOCK_BYTES */
    struct id hash;
    bool validation;
};

struct train_data {
    struct allocator allocator;
    struct train_texts texts;
    size_t context;
    struct id node;
    struct block *blocks; /* training ones first, then validation ones by hash */
    size_t block_count, train_count;
    uint64_t *ends; /* [train_count] running sum of start positions */
    struct rng_seeded stream, private_stream;
};

static int by_hash_then_address(const void *a, const void *b)
{
    const struct train_text *const *x = a, *const *y = b;
    int order = id_compare(&(*x)->hash, &(*y)->hash);
    return order != 0 ? order : (*x > *y) - (*x < *y);
}

/* Drops every text equal to one earlier in path order. */
static int drop_duplicates(struct train_texts *texts)
{
    struct train_text **order = allocator_get(&texts->allocator, texts->count, sizeof(struct train_text *));
    if (order == NULL)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < texts->count; i++)
        order[i] = &texts->list[i];
    qsort(order, texts->count, sizeof *order, by_hash_then_address);
    for (size_t i = 1, first = 0; i < texts->count; i++) {
        if (!id_equal(&order[first]->hash, &order[i]->hash)) {
            first = i;
            continue;
        }
        texts->bytes -= order[i]->len;
        texts->info.files_duplicate++;
        allocator_release(&texts->allocator, order[i]->bytes);
        order[i]->bytes = NULL;
        order[i]->len = 0;
    }
    allocator_release(&texts->allocator, order);
    return 0;
}

/* Cuts all texts into blocks; with data->blocks NULL it only counts.  Returns the bytes in usable blocks. */
static size_t cut(struct train_data *data)
{
    size_t usable = 0;
    data->block_count = 0;
    for (size_t t = 0; t < data->texts.count; t++) {
        const struct train_text *text = &data->texts.list[t];
        for (size_t at = 0; at < text->len; at += TRAIN_BLOCK_BYTES) {
            size_t len = text->len - at < TRAIN_BLOCK_BYTES ? text->len - at : TRAIN_BLOCK_BYTES;
            if (len < data->context + 1)
                continue;
            usable += len;
            if (data->blocks != NULL) {
                struct block *block = &data->blocks[data->block_count];
                block->at = text->bytes + at;
                block->len = len;
                hash_content(bytes_of(block->at, len), &block->hash);
                block->validation = load_le64(block->hash.bytes) % TRAIN_VALIDATION_SHARE == 0;
            }
            data->block_count++;
        }
    }
    return usable;
}

static int by_kind_then_hash(const void *a, const void *b)
{
    const struct block *x = a, *y = b;
    if (x->validation != y->validation)
        return x->validation ? 1 : -1;
    return id_compare(&x->hash, &y->hash);
}

/* Both kinds must exist: little text may hold no block, or none but blocks, whose hash is 0 modulo 20.  Then
 * the one smallest hash changes sides, which members with the same text still agree on. */
static void split(struct train_data *data)
{
    qsort(data->blocks, data->block_count, sizeof *data->blocks, by_kind_then_hash);
    size_t validation = 0;
    for (size_t i = 0; i < data->block_count; i++)
        validation += data->blocks[i].validation;
    if (validation == 0 || validation == data->block_count) {
        data->blocks[0].validation = validation == 0;
        validation = validation == 0 ? 1 : validation - 1;
        qsort(data->blocks, data->block_count, sizeof *data->blocks, by_kind_then_hash);
    }
    data->train_count = data->block_count - validation;
}

static int build(struct train_data *data, const char *path, char *why, size_t why_size)
{
    struct train_texts *texts = &data->texts;
    int result = texts->count == 0 ? 0 : drop_duplicates(texts);
    if (result < 0)
        return result;
    size_t usable = cut(data);
    if (usable < TRAIN_TEXT_MIN_BYTES || data->block_count < 2) {
        (void)snprintf(
            why, why_size,
            "%.300s holds %zu bytes of usable text, at least %d are needed (%zu files of text, %zu passed "
            "over as not text, %zu unreadable): name a folder with more plain text",
            path, usable, TRAIN_TEXT_MIN_BYTES, texts->count, texts->info.files_binary,
            texts->info.files_unreadable);
        return ERR_INVALID;
    }
    data->blocks = allocator_get(&data->allocator, data->block_count, sizeof *data->blocks);
    data->ends = allocator_get(&data->allocator, data->block_count, sizeof *data->ends);
    if (data->blocks == NULL || data->ends == NULL)
        return ERR_NO_MEMORY;
    (void)cut(data);
    split(data);
    uint64_t starts = 0;
    for (size_t i = 0; i < data->train_count; i++) {
        starts += data->blocks[i].len - data->context;
        data->ends[i] = starts;
    }
    return 0;
}

int train_data_open(const struct train_data_config *config, const struct allocator *allocator,
                    struct train_data **out, char *why, size_t why_size)
{
    ASSERT(config->context >= 1 && config->context < TRAIN_BLOCK_BYTES);
    struct train_data *data = allocator_get(allocator, 1, sizeof *data);
    if (why_size > 0)
        why[0] = '\0';
    int result = ERR_NO_MEMORY;
    if (data != NULL) {
        data->allocator = *allocator;
        data->context = config->context;
        data->node = config->node;
        data->texts.allocator = *allocator;
        data->texts.bytes_max = config->bytes_max == 0 ? TRAIN_TEXT_MAX_BYTES : config->bytes_max;
        result = train_texts_read(&data->texts, config->path, why, why_size);
    }
    if (result == 0)
        result = build(data, config->path, why, why_size);
    if (result < 0) {
        if (result == ERR_NO_MEMORY && why_size > 0 && why[0] == '\0')
            (void)snprintf(why, why_size, "not enough memory for the text in %.300s", config->path);
        train_data_close(data);
        return result;
    }
    train_data_reseed(data, 0);
    rng_seeded_init_key(&data->private_stream, config->secret);
    *out = data;
    return 0;
}

void train_data_close(struct train_data *data)
{
    if (data == NULL)
        return;
    struct allocator allocator = data->allocator;
    train_texts_release(&data->texts);
    allocator_release(&allocator, data->blocks);
    allocator_release(&allocator, data->ends);
    allocator_release(&allocator, data);
}

void train_data_info(const struct train_data *data, struct train_data_info *out)
{
    *out = data->texts.info;
    out->files = data->texts.count - data->texts.info.files_duplicate;
    out->bytes = data->texts.bytes;
    out->train_blocks = data->train_count;
    out->validation_blocks = data->block_count - data->train_count;
}

void train_data_reseed(struct train_data *data, uint64_t number)
{
    uint8_t text[8];
    struct id key;
    store_le64(text, number);
    struct bytes parts[] = {bytes_of(data->node.bytes, ID_BYTES), bytes_of(text, sizeof text)};
    hash_parts("dunlin training draws", parts, 2, &key);
    rng_seeded_init_key(&data->stream, key.bytes);
}

static const uint8_t *draw(const struct train_data *data, struct rng_seeded *stream)
{
    struct rng rng = rng_of_seeded(stream);
    uint64_t at = rng_below(&rng, data->ends[data->train_count - 1]);
    size_t low = 0, high = data->train_count - 1; /* the first block whose end lies beyond `at` */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (data->ends[middle] > at)
            high = middle;
        else
            low = middle + 1;
    }
    const struct block *block = &data->blocks[low];
    size_t starts = block->len - data->context;
    return block->at + (at - (data->ends[low] - starts));
}

const uint8_t *train_data_draw(struct train_data *data)
{
    return draw(data, &data->stream);
}

const uint8_t *train_data_draw_private(struct train_data *data)
{
    return draw(data, &data->private_stream);
}

void train_data_validation(const struct train_data *data, const uint8_t *windows[TRAIN_VALIDATION_WINDOWS])
{
    size_t count = data->block_count - data->train_count;
    for (size_t i = 0; i < TRAIN_VALIDATION_WINDOWS; i++) {
        const struct block *block = &data->blocks[data->train_count + i % count];
        size_t starts = block->len - data->context;
        windows[i] = block->at + i / count * data->context % starts;
    }
}

size_t train_data_context(const struct train_data *data)
{
    return data->context;
}
