#include "crdt/sync_turn.h"

#include <string.h>

enum { ITEM_SPLIT = 1, ITEM_LIST = 2, ITEM_WANT = 3, SPLIT_BITS_MAX = 8, STACK_LOOK = 4096 };

struct list_entry {
    uint64_t tag;
    uint32_t version;
    uint32_t seq;
};

static uint64_t range_pack(struct crdt_range range)
{
    return range.prefix | range.depth;
}

static struct crdt_range range_unpack(uint64_t packed)
{
    return (struct crdt_range){packed & ~UINT64_C(0xff), (unsigned)(packed & 0xff)};
}

static void write_range(struct writer *w, struct crdt_range range)
{
    write_u8(w, (uint8_t)range.depth);
    for (unsigned bits = 0; bits < range.depth; bits += 8)
        write_u8(w, (uint8_t)(range.prefix >> (56 - bits)));
}

static struct crdt_range read_range(struct reader *r)
{
    struct crdt_range range = {0, read_u8(r)};
    if (range.depth > CRDT_DEPTH_MAX) {
        r->failed = true;
        return (struct crdt_range){0, 0};
    }
    for (unsigned bits = 0; bits < range.depth; bits += 8)
        range.prefix |= (uint64_t)read_u8(r) << (56 - bits);
    if (range.depth > 0 && (range.prefix & (UINT64_MAX >> range.depth)) != 0)
        r->failed = true;
    return r->failed || range.depth == 0 ? (struct crdt_range){0, 0} : range;
}

static void queue_item(struct crdt_turn *t, size_t item)
{
    struct crdt_index_item *i = &t->index.items[item];
    if (i->queued)
        return;
    i->queued = true;
    t->outgoing[t->outgoing_count++] = (uint32_t)item;
    ASSERT(t->outgoing_count <= t->index.count);
}

/* Serial comparison of 32-bit sequence numbers: is a newer than b? */
static bool seq_newer(uint32_t a, uint32_t b)
{
    return a != b && a - b < UINT32_C(0x80000000);
}

/* Compares the fingerprints of a split range with ours. */
static int read_split(struct crdt_turn *t, struct reader *r, struct crdt_range range)
{
    unsigned bits = read_u8(r);
    if (r->failed || bits == 0 || bits > SPLIT_BITS_MAX || range.depth + bits > CRDT_DEPTH_MAX)
        return ERR_MALFORMED;
    for (uint64_t i = 0; i < UINT64_C(1) << bits; i++) {
        struct crdt_range child = crdt_range_child(range, bits, i);
        uint64_t theirs = read_u64(r);
        if (r->failed)
            return ERR_TRUNCATED;
        if (theirs == crdt_index_fingerprint(&t->index, child))
            continue;
        if (t->pending_count == t->pending_max) /* more differing ranges than records: the peer lies */
            return ERR_MALFORMED;
        t->pending[t->pending_count++] = range_pack(child);
    }
    return ERR_OK;
}

/* Judges one listed record against ours at item, if that has the same tag; true when we want it. */
static bool judge(struct crdt_turn *t, const struct list_entry *theirs, size_t item, bool held)
{
    if (!held)
        return true;
    const struct crdt_index_item *ours = &t->index.items[item];
    if (ours->version == theirs->version)
        return false;
    /* Equal numbers and other contents: the author equivocated, and both sides must see both. */
    bool equal = ours->seq == theirs->seq;
    if (equal || seq_newer(ours->seq, theirs->seq))
        queue_item(t, item);
    return equal || seq_newer(theirs->seq, ours->seq);
}

/* Walks a list beside our items of the range; wanted has a bit for each listed entry.  *any: is one set? */
static int walk_list(struct crdt_turn *t, struct reader *r, struct crdt_range range, size_t count,
                     uint8_t *wanted, bool *any)
{
    size_t at;
    size_t end;
    uint64_t last = 0;
    uint64_t within = range.depth == 0 ? UINT64_MAX : UINT64_MAX >> range.depth;
    crdt_index_span(&t->index, range, &at, &end);
    for (size_t i = 0; i < count; i++) {
        struct list_entry theirs;
        theirs.tag = read_u64(r);
        theirs.version = read_u32(r);
        theirs.seq = read_u32(r);
        if (r->failed)
            return ERR_TRUNCATED;
        if ((theirs.tag & ~within) != range.prefix || (i > 0 && theirs.tag <= last))
            return ERR_MALFORMED;
        last = theirs.tag;
        while (at < end && t->index.items[at].tag < theirs.tag)
            queue_item(t, at++);
        bool held = at < end && t->index.items[at].tag == theirs.tag;
        if (judge(t, &theirs, at, held)) {
            wanted[i / 8] |= (uint8_t)(1u << (i % 8));
            *any = true;
        }
        at += held;
    }
    while (at < end)
        queue_item(t, at++);
    return ERR_OK;
}

static int read_list(struct crdt_turn *t, struct reader *r, struct crdt_range range)
{
    uint8_t wanted[CRDT_TURN_MAX / CRDT_LIST_ENTRY_BYTES / 8 + 1] = {0};
    bool any = false;
    size_t count = read_u16(r);
    if (r->failed || count * CRDT_LIST_ENTRY_BYTES > reader_left(r))
        return ERR_TRUNCATED;
    int rc = walk_list(t, r, range, count, wanted, &any);
    if (rc < 0 || !any)
        return rc;
    struct writer w = writer_of(t->out + t->out_len, CRDT_TURN_MAX - t->out_len);
    write_u8(&w, ITEM_WANT);
    write_range(&w, range);
    write_u16(&w, (uint16_t)count);
    write_bytes(&w, wanted, (count + 7) / 8);
    /* Each listed entry took 16 bytes of the peer's frame and adds at most 12 of ours. */
    ASSERT(writer_len(&w) > 0);
    t->out_len += writer_len(&w);
    return ERR_OK;
}

static int read_want(struct crdt_turn *t, struct reader *r, struct crdt_range range)
{
    size_t first;
    size_t end;
    size_t count = read_u16(r);
    crdt_index_span(&t->index, range, &first, &end);
    struct bytes bitmap = read_bytes(r, (count + 7) / 8);
    if (r->failed)
        return ERR_TRUNCATED;
    if (count != end - first)
        return ERR_MALFORMED;
    for (size_t i = 0; i < count; i++) {
        if ((bitmap.data[i / 8] >> (i % 8) & 1) != 0)
            queue_item(t, first + i);
    }
    return ERR_OK;
}

int crdt_turn_read(struct crdt_turn *turn, struct bytes items)
{
    struct reader r = reader_of(items);
    size_t walked = 0;
    int rc = items.len > CRDT_TURN_MAX ? ERR_MALFORMED : ERR_OK;
    turn->out_len = 0;
    while (rc == 0 && reader_left(&r) > 0) {
        size_t first;
        size_t end;
        uint8_t kind = read_u8(&r);
        struct crdt_range range = read_range(&r);
        if (r.failed)
            return ERR_MALFORMED;
        if (kind == ITEM_SPLIT) {
            rc = read_split(turn, &r, range);
            continue;
        }
        /* Ranges of one turn are disjoint; otherwise a frame of tiny items could walk all records again and
         * again. */
        crdt_index_span(&turn->index, range, &first, &end);
        walked += end - first;
        if (walked > 2 * turn->index.count)
            return ERR_MALFORMED;
        rc = kind == ITEM_LIST   ? read_list(turn, &r, range)
             : kind == ITEM_WANT ? read_want(turn, &r, range)
                                 : ERR_MALFORMED;
    }
    return rc;
}

static void write_list(struct crdt_turn *t, struct writer *w, struct crdt_range range, size_t first,
                       size_t end)
{
    write_u8(w, ITEM_LIST);
    write_range(w, range);
    write_u16(w, (uint16_t)(end - first));
    for (size_t i = first; i < end; i++) {
        write_u64(w, t->index.items[i].tag);
        write_u32(w, t->index.items[i].version);
        write_u32(w, t->index.items[i].seq);
    }
}

static void write_split(struct crdt_turn *t, struct writer *w, struct crdt_range range, unsigned bits)
{
    write_u8(w, ITEM_SPLIT);
    write_range(w, range);
    write_u8(w, (uint8_t)bits);
    for (uint64_t i = 0; i < UINT64_C(1) << bits; i++)
        write_u64(w, crdt_index_fingerprint(&t->index, crdt_range_child(range, bits, i)));
}

/* Bytes that listing all pending ranges would take; SIZE_MAX when there are too many to look at. */
static size_t bytes_to_list_all(const struct crdt_turn *t)
{
    size_t bytes = 0;
    if (t->pending_count > STACK_LOOK)
        return SIZE_MAX;
    for (size_t i = 0; i < t->pending_count; i++) {
        size_t first;
        size_t end;
        crdt_index_span(&t->index, range_unpack(t->pending[i]), &first, &end);
        bytes += CRDT_ITEM_HEAD_MAX + (end - first) * CRDT_LIST_ENTRY_BYTES;
    }
    return bytes;
}

/* How finely to split a range of count records when `ranges` of them share the budget. */
static unsigned split_bits(size_t count, size_t ranges, size_t budget, unsigned depth)
{
    unsigned bits = 1;
    while (bits < SPLIT_BITS_MAX && count >> bits > CRDT_SYNC_LEAF)
        bits++;
    while (bits > 1 && ranges * (CRDT_ITEM_HEAD_MAX + ((size_t)8 << bits)) > budget)
        bits--;
    return depth + bits > CRDT_DEPTH_MAX ? CRDT_DEPTH_MAX - depth : bits;
}

int crdt_turn_compose(struct crdt_turn *turn)
{
    size_t budget = CRDT_TURN_MAX - turn->out_len;
    if (budget > CRDT_SYNC_BUDGET)
        budget = CRDT_SYNC_BUDGET;
    struct writer w = writer_of(turn->out + turn->out_len, budget);
    bool list_all = bytes_to_list_all(turn) <= budget;
    size_t ranges = turn->pending_count;
    while (turn->pending_count > 0) {
        struct crdt_range range = range_unpack(turn->pending[turn->pending_count - 1]);
        size_t first;
        size_t end;
        crdt_index_span(&turn->index, range, &first, &end);
        size_t count = end - first;
        bool list = list_all || count <= CRDT_SYNC_LEAF || range.depth == CRDT_DEPTH_MAX;
        unsigned bits = list ? 0 : split_bits(count, ranges, budget, range.depth);
        size_t need = CRDT_ITEM_HEAD_MAX + (list ? count * CRDT_LIST_ENTRY_BYTES : (size_t)8 << bits);
        if (need > budget - writer_len(&w)) {
            if (writer_len(&w) == 0 && turn->out_len == 0)
                return ERR_TOO_LARGE;
            break;
        }
        if (list)
            write_list(turn, &w, range, first, end);
        else
            write_split(turn, &w, range, bits);
        turn->pending_count--;
    }
    ASSERT(!w.failed);
    turn->out_len += writer_len(&w);
    return ERR_OK;
}

int crdt_turn_first(struct crdt_turn *turn)
{
    struct crdt_range all = {0, 0};
    turn->out_len = 0;
    struct writer w = writer_of(turn->out, CRDT_TURN_MAX);
    if (turn->index.count * CRDT_LIST_ENTRY_BYTES <= (size_t)8 << CRDT_SYNC_FIRST_BITS)
        write_list(turn, &w, all, 0, turn->index.count); /* no longer than the split would be */
    else
        write_split(turn, &w, all, CRDT_SYNC_FIRST_BITS);
    ASSERT(writer_len(&w) > 0);
    turn->out_len = writer_len(&w);
    return ERR_OK;
}
