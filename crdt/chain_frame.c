/* Frames of chain entries, declared in crdt/chain.h. */
#include "base/pack.h"
#include "crdt/batch.h"
#include "crdt/chain.h"

enum {
    KEY_VERSION = 1,
    KEY_RUN = 2,
    KEY_ENTRIES = 3,
    HEAD_BYTES_MAX = 64,
    BIN_HEAD_BYTES = 3,
    TOKENS_MAX = 7 + CRDT_CHAIN_FRAME_ENTRIES + 16, /* 16 for unknown keys */
};

/* Entry number i of what a peer is to be sent: those in force, then the fork. */
static struct bytes entry_at(const struct crdt_chain *chain, size_t i)
{
    if (i < chain->count)
        return crdt_chain_entry(chain, i);
    const struct crdt_chain_link *link = &chain->fork[i - chain->count];
    return bytes_of(link->bytes, link->len);
}

int crdt_chain_frame_encode(const struct crdt_chain *chain, size_t from, uint8_t *out, size_t out_cap,
                            size_t *next)
{
    size_t end = chain->count + (chain->state == CRDT_CHAIN_FROZEN ? 2 : 0);
    size_t used = HEAD_BYTES_MAX;
    if (from == SIZE_MAX || (from >= end && chain->state != CRDT_CHAIN_FROZEN)) {
        *next = SIZE_MAX;
        return 0;
    }
    /* A peer ahead of a frozen chain follows one branch of the fork: it needs the pair. */
    if (from > chain->count)
        from = chain->count;
    size_t to = from;
    size_t cap = out_cap < CRDT_FRAME_MAX ? out_cap : CRDT_FRAME_MAX;
    while (to < end && to - from < CRDT_CHAIN_FRAME_ENTRIES) {
        used += BIN_HEAD_BYTES + entry_at(chain, to).len;
        if (used > cap)
            break;
        to++;
    }
    *next = to == end ? SIZE_MAX : to;
    if (to == from)
        return ERR_TOO_LARGE;
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, 3);
    pack_key_uint(&w, KEY_VERSION, CRDT_WIRE_VERSION);
    pack_key_id(&w, KEY_RUN, &chain->run);
    pack_uint(&w, KEY_ENTRIES);
    pack_array(&w, to - from);
    for (size_t i = from; i < to; i++)
        pack_bin(&w, entry_at(chain, i));
    ASSERT(pack_writer_len(&w) > 0);
    return (int)pack_writer_len(&w);
}

int crdt_chain_frame_decode(struct bytes frame, struct id *run,
                            struct bytes entries[CRDT_CHAIN_FRAME_ENTRIES])
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
        case KEY_RUN:
            pack_read_id(&r, run);
            break;
        case KEY_ENTRIES:
            count = pack_read_array(&r, CRDT_CHAIN_FRAME_ENTRIES);
            for (size_t i = 0; i < count; i++)
                entries[i] = pack_read_bin(&r, CRDT_ENTRY_MAX);
            break;
        default:
            pack_skip(&r);
        }
    }
    if (!pack_done(&r) || (seen & 14) != 14)
        return ERR_MALFORMED;
    return version == CRDT_WIRE_VERSION ? (int)count : ERR_VERSION;
}
