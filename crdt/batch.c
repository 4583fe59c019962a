#include "crdt/batch.h"

#include "base/pack.h"

enum {
    KEY_VERSION = 1,
    KEY_ITEMS = 2,
    HEAD_BYTES_MAX = 16,                      /* map, keys, version, array head */
    ITEM_HEAD_BYTES = 4,                      /* array of two, or a bin's head */
    TOKENS_MAX = 5 + 3 * CRDT_BATCH_MAX + 16, /* 16 for unknown keys */
};

/* Upper bound of an item's encoded size. */
static size_t item_bytes(const struct crdt_item *item)
{
    return 2 * ITEM_HEAD_BYTES + item->record.len + item->other.len;
}

size_t crdt_batch_fit(const struct crdt_item *items, size_t count)
{
    size_t used = HEAD_BYTES_MAX;
    size_t fit = 0;
    while (fit < count && fit < CRDT_BATCH_MAX && used + item_bytes(&items[fit]) <= CRDT_FRAME_MAX)
        used += item_bytes(&items[fit++]);
    return fit;
}

void crdt_batch_write_items(struct pack_writer *w, const struct crdt_item *items, size_t count)
{
    pack_array(w, count);
    for (size_t i = 0; i < count; i++) {
        if (items[i].other.len > 0)
            pack_array(w, 2);
        pack_bin(w, items[i].record);
        if (items[i].other.len > 0)
            pack_bin(w, items[i].other);
    }
}

int crdt_batch_encode(const struct crdt_item *items, size_t count, uint8_t *out, size_t out_cap,
                      size_t *taken)
{
    ASSERT(out_cap >= CRDT_FRAME_MAX);
    *taken = crdt_batch_fit(items, count);
    ASSERT(count == 0 || *taken > 0);
    struct pack_writer w = pack_writer_of(out, CRDT_FRAME_MAX);
    pack_map(&w, 2);
    pack_key_uint(&w, KEY_VERSION, CRDT_WIRE_VERSION);
    pack_uint(&w, KEY_ITEMS);
    crdt_batch_write_items(&w, items, *taken);
    ASSERT(pack_writer_len(&w) > 0);
    return (int)pack_writer_len(&w);
}

static void read_item(struct pack_reader *r, struct crdt_item *item)
{
    item->other = bytes_of(NULL, 0);
    if (pack_peek(r) != PACK_ARRAY) {
        item->record = pack_read_bin(r, CRDT_RECORD_MAX);
        return;
    }
    if (pack_read_array(r, 2) != 2)
        r->failed = true;
    item->record = pack_read_bin(r, CRDT_RECORD_MAX);
    item->other = pack_read_bin(r, CRDT_RECORD_MAX);
    if (item->other.len == 0) /* would look like a plain record */
        r->failed = true;
}

size_t crdt_batch_read_items(struct pack_reader *r, struct crdt_item items[CRDT_BATCH_MAX])
{
    size_t count = pack_read_array(r, CRDT_BATCH_MAX);
    for (size_t i = 0; i < count; i++)
        read_item(r, &items[i]);
    return count;
}

int crdt_batch_decode(struct bytes frame, struct crdt_item items[CRDT_BATCH_MAX])
{
    struct pack_token tokens[TOKENS_MAX];
    if (frame.len > CRDT_FRAME_MAX)
        return ERR_TOO_LARGE;
    struct pack_reader r = pack_parse(frame, tokens, TOKENS_MAX);
    uint32_t seen = 0;
    uint64_t version = CRDT_WIRE_VERSION;
    size_t count = 0;
    for (size_t left = pack_read_map(&r, 8); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case KEY_VERSION:
            version = pack_read_uint(&r, UINT32_MAX);
            break;
        case KEY_ITEMS:
            count = crdt_batch_read_items(&r, items);
            break;
        default:
            pack_skip(&r);
        }
    }
    if (!pack_done(&r) || (seen & 6) != 6)
        return ERR_MALFORMED;
    return version == CRDT_WIRE_VERSION ? (int)count : ERR_VERSION;
}
