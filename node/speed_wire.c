#include "node/speed_wire.h"

#include <string.h>

#include "base/pack.h"

enum { TOKENS_MAX = 128, PAIRS_MAX = 8 };

/* Keys; every frame has its own meaning of none of them. */
enum { KEY_DIRECTION = 1, KEY_BYTES = 2, KEY_HASH = 3, KEY_GAPS = 4 };

static bool has_hash(enum speed_frame_kind kind)
{
    return kind == SPEED_END || kind == SPEED_REPORT;
}

size_t speed_frame_encode(const struct speed_frame *frame, uint8_t out[SPEED_NOTE_MAX])
{
    ASSERT(frame->kind != SPEED_DATA && frame->gap_count <= SPEED_GAPS_MAX);
    struct pack_writer w = pack_writer_of(out + 1, SPEED_NOTE_MAX - 1);
    bool request = frame->kind == SPEED_REQUEST;
    bool report = frame->kind == SPEED_REPORT;
    out[0] = (uint8_t)frame->kind;
    pack_map(&w, 1 + (size_t)request + (size_t)has_hash(frame->kind) + (size_t)report);
    if (request)
        pack_key_uint(&w, KEY_DIRECTION, frame->direction);
    pack_key_uint(&w, KEY_BYTES, frame->bytes);
    if (has_hash(frame->kind))
        pack_key_id(&w, KEY_HASH, &frame->hash);
    if (report) {
        pack_uint(&w, KEY_GAPS);
        pack_array(&w, 2 * frame->gap_count);
        for (size_t i = 0; i < frame->gap_count; i++) {
            pack_uint(&w, frame->gaps[i].at_ms);
            pack_uint(&w, frame->gaps[i].ms);
        }
    }
    size_t len = pack_writer_len(&w);
    ASSERT(len > 0);
    return 1 + len;
}

static void read_gaps(struct pack_reader *r, struct speed_frame *out)
{
    size_t numbers = pack_read_array(r, 2 * (size_t)SPEED_GAPS_MAX);
    if (numbers % 2 != 0)
        r->failed = true;
    for (size_t i = 0; i < numbers / 2 && !r->failed; i++) {
        out->gaps[i].at_ms = (uint32_t)pack_read_uint(r, UINT32_MAX);
        out->gaps[i].ms = (uint32_t)pack_read_uint(r, UINT32_MAX);
    }
    out->gap_count = numbers / 2;
}

static int decode_note(struct bytes in, struct speed_frame *out)
{
    struct pack_token tokens[TOKENS_MAX];
    struct pack_reader r = pack_parse(in, tokens, TOKENS_MAX);
    uint32_t seen = 0;
    uint32_t needed = 1U << KEY_BYTES;
    if (out->kind == SPEED_REQUEST)
        needed |= 1U << KEY_DIRECTION;
    if (has_hash(out->kind))
        needed |= 1U << KEY_HASH;
    for (size_t left = pack_read_map(&r, PAIRS_MAX); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case KEY_DIRECTION:
            out->direction = (enum speed_direction)pack_read_uint(&r, SPEED_DOWN);
            break;
        case KEY_BYTES:
            out->bytes = pack_read_uint(&r, UINT64_MAX);
            break;
        case KEY_HASH:
            pack_read_id(&r, &out->hash);
            break;
        case KEY_GAPS:
            read_gaps(&r, out);
            break;
        default:
            pack_skip(&r);
        }
    }
    if (!pack_done(&r) || (seen & needed) != needed || (out->kind == SPEED_REQUEST && out->bytes == 0))
        return ERR_MALFORMED;
    return out->bytes > SPEED_BYTES_MAX ? ERR_TOO_LARGE : ERR_OK;
}

int speed_frame_decode(struct bytes in, struct speed_frame *out)
{
    memset(out, 0, sizeof *out);
    if (in.len < 2 || in.data[0] < SPEED_REQUEST || in.data[0] > SPEED_REPORT || in.len > SPEED_FRAME_MAX)
        return ERR_MALFORMED;
    out->kind = (enum speed_frame_kind)in.data[0];
    struct bytes rest = bytes_of(in.data + 1, in.len - 1);
    if (out->kind == SPEED_DATA) {
        out->data = rest;
        return ERR_OK;
    }
    return in.len > SPEED_NOTE_MAX ? ERR_MALFORMED : decode_note(rest, out);
}
