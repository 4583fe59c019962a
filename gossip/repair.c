/* Blocks of a modular blob that did not decode: asked for by their numbers, sent again as int8.
 *
 * Receiver                                   Sender
 *   DECODE to the caller <-- DIGEST right
 *   gossip_set_wanted --> WANT 0.. -------->  list whole and valid: REPAIR to the caller
 *        (empty: hold)                        (empty: done)
 *                          <--------  REPAIR 0.., DIGEST over blob and repair  <-- gossip_set_repair
 *   hold: COMMIT
 * The caller reads our buffer between an event and its answer, so the buffer outlives the exchange until
 * every answer has come. */
#include <string.h>

#include "gossip/internal.h"

static void extend(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x, uint64_t bytes)
{
    uint64_t later = gossip_swap_deadline(g, now_ns, x, bytes);
    if (later > x->deadline_ns)
        x->deadline_ns = later;
}

/* Most bytes that so many int8 blocks of this fragment have. */
static uint64_t repair_bytes_max(const struct gossip *g, size_t fragment, size_t blocks)
{
    uint64_t each = gossip_encoded_bytes(GOSSIP_CODEC_INT8, GOSSIP_BLOCK);
    uint64_t limit = gossip_layout_repair_max(&g->config.layout, fragment);
    return blocks * each < limit ? blocks * each : limit;
}

void gossip_repair_decode(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x)
{
    struct gossip_buffer *buffer = &g->buffers[x->buffer];
    x->in.state = GOSSIP_IN_DECODING;
    buffer->decode_owed = true;
    buffer->repair_at = (x->in.len + GOSSIP_ALIGN - 1) / GOSSIP_ALIGN * GOSSIP_ALIGN;
    extend(g, now_ns, x, 0);
    gossip_emit(g, &(struct gossip_event){.kind = GOSSIP_EVENT_DECODE,
                                          .round = x->round,
                                          .fragment = x->fragment,
                                          .peer = x->partner,
                                          .codec = x->in.codec,
                                          .blob = bytes_of(buffer->data, x->in.len)});
}

/* How many blocks of this fragment a list names, half of them at most; negative: it is no such list. */
static int blocks_of(const struct gossip *g, size_t fragment, struct bytes list)
{
    size_t blocks = (size_t)g->config.layout.fragment_blocks[fragment];
    return gossip_indices_decode(list, blocks, NULL, blocks / 2);
}

static struct gossip_buffer *find_buffer(struct gossip *g, uint64_t round, bool decode)
{
    for (size_t i = 0; i < g->buffer_count; i++) {
        struct gossip_buffer *buffer = &g->buffers[i];
        if (buffer->round == round && (decode ? buffer->decode_owed : buffer->repair_owed))
            return buffer;
    }
    return NULL;
}

/* The answer is there: the exchange it is for, or NULL when that has ended. */
static struct gossip_exchange *answered(struct gossip *g, struct gossip_buffer *buffer, bool decode)
{
    if (decode)
        buffer->decode_owed = false;
    else
        buffer->repair_owed = false;
    if (buffer->use == GOSSIP_BUFFER_FILLING)
        return gossip_exchange_of_round(g, buffer->round);
    gossip_buffer_settle(buffer);
    return NULL;
}

int gossip_set_wanted(struct gossip *g, uint64_t now_ns, uint64_t round, struct bytes list,
                      uint64_t repair_bytes, uint64_t cookie)
{
    gossip_expire(g, now_ns);
    struct gossip_buffer *buffer = find_buffer(g, round, true);
    if (buffer == NULL)
        return ERR_NOT_FOUND;
    size_t fragment = gossip_layout_fragment(&g->config.layout, round);
    int blocks = blocks_of(g, fragment, list);
    if (blocks < 0 || (blocks == 0) != (repair_bytes == 0) ||
        repair_bytes > repair_bytes_max(g, fragment, (size_t)blocks))
        return ERR_INVALID;
    struct gossip_exchange *x = answered(g, buffer, true);
    if (x == NULL)
        return ERR_STALE;
    ASSERT(x->in.state == GOSSIP_IN_DECODING);
    x->wanted = (struct gossip_loan){.set = true, .bytes = list, .cookie = cookie};
    x->stream->want = list;
    x->stream->want_at = 0;
    x->stream->queued |= GOSSIP_QUEUE(GOSSIP_WANT);
    x->in.repair_expected = (size_t)repair_bytes;
    g->counters.blocks_wanted += (uint64_t)blocks;
    if (blocks == 0) {
        gossip_swap_hold(x, now_ns);
        if (x->confirmed)
            gossip_end_merge(g, now_ns, x);
    } else {
        x->in.state = GOSSIP_IN_REPAIRING;
        extend(g, now_ns, x, list.len + repair_bytes);
    }
    return ERR_OK;
}

int gossip_refuse(struct gossip *g, uint64_t now_ns, uint64_t round)
{
    gossip_expire(g, now_ns);
    struct gossip_buffer *buffer = find_buffer(g, round, true);
    if (buffer == NULL)
        return ERR_NOT_FOUND;
    struct gossip_exchange *x = answered(g, buffer, true);
    if (x == NULL)
        return ERR_OK;
    gossip_stream_refuse(g, now_ns, x->stream, GOSSIP_BUSY_FAR);
    x->stream = NULL;
    gossip_end_solo(g, now_ns, x, GOSSIP_SOLO_FAR, ERR_FAR);
    return ERR_OK;
}

int gossip_set_repair(struct gossip *g, uint64_t now_ns, uint64_t round, struct bytes blob, uint64_t cookie)
{
    gossip_expire(g, now_ns);
    struct gossip_buffer *buffer = find_buffer(g, round, false);
    if (buffer == NULL)
        return ERR_NOT_FOUND;
    size_t fragment = gossip_layout_fragment(&g->config.layout, round);
    if (blob.len == 0 || blob.len > repair_bytes_max(g, fragment, buffer->repair_blocks))
        return ERR_INVALID;
    struct gossip_exchange *x = answered(g, buffer, false);
    if (x == NULL)
        return ERR_STALE;
    ASSERT(x->out.state == GOSSIP_OUT_ASKED);
    x->repair = (struct gossip_loan){.set = true, .bytes = blob, .cookie = cookie};
    x->out.state = GOSSIP_OUT_REPAIRING;
    x->stream->out_type = GOSSIP_REPAIR;
    x->stream->out = blob;
    x->stream->out_at = 0;
    extend(g, now_ns, x, blob.len);
    return ERR_OK;
}

/* The list is whole. */
static bool take_list(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x, struct bytes list)
{
    struct gossip_buffer *buffer = &g->buffers[x->buffer];
    int blocks = blocks_of(g, x->fragment, list);
    if (blocks < 0)
        return false;
    if (blocks == 0) {
        x->out.state = GOSSIP_OUT_DONE;
        return true;
    }
    x->out.state = GOSSIP_OUT_ASKED;
    buffer->repair_owed = true;
    buffer->repair_blocks = (size_t)blocks;
    g->counters.blocks_repaired += (uint64_t)blocks;
    extend(g, now_ns, x, repair_bytes_max(g, x->fragment, (size_t)blocks));
    gossip_emit(g, &(struct gossip_event){.kind = GOSSIP_EVENT_REPAIR,
                                          .round = x->round,
                                          .fragment = x->fragment,
                                          .peer = x->partner,
                                          .list = list});
    return true;
}

bool gossip_repair_want(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                        const struct gossip_message *m)
{
    struct gossip_outward *out = &x->out;
    uint8_t *list = g->buffers[x->buffer].data + g->list_at;
    bool asked = out->state == GOSSIP_OUT_SENT && (x->stream->queued & GOSSIP_QUEUE(GOSSIP_DIGEST)) == 0;
    if (!asked || (out->list_len > 0 && m->length != out->list_expected) ||
        m->length > gossip_list_bytes_max(&g->config.layout, x->fragment))
        return false;
    out->list_expected = (size_t)m->length;
    size_t left = out->list_expected - out->list_len;
    size_t wanted = left < GOSSIP_PIECE_BYTES ? left : GOSSIP_PIECE_BYTES;
    if (m->bytes.len != wanted || (size_t)m->index * GOSSIP_PIECE_BYTES != out->list_len)
        return false;
    if (wanted > 0)
        memcpy(list + out->list_len, m->bytes.data, wanted);
    out->list_len += wanted;
    x->bytes_received += wanted;
    g->counters.bytes_received += wanted;
    g->counters.repair_bytes_received += wanted;
    return out->list_len < out->list_expected || take_list(g, now_ns, x, bytes_of(list, out->list_len));
}

bool gossip_repair_piece(struct gossip *g, struct gossip_exchange *x, const struct gossip_message *m)
{
    const struct gossip_buffer *buffer = &g->buffers[x->buffer];
    struct gossip_inward *in = &x->in;
    bool asked = in->state == GOSSIP_IN_REPAIRING && (x->stream->queued & GOSSIP_QUEUE(GOSSIP_WANT)) == 0;
    size_t left = in->repair_expected - in->repair_len;
    size_t wanted = left < GOSSIP_PIECE_BYTES ? left : GOSSIP_PIECE_BYTES;
    if (!asked || left == 0 || m->bytes.len != wanted ||
        (size_t)m->index * GOSSIP_PIECE_BYTES != in->repair_len)
        return false;
    ASSERT(buffer->repair_at + in->repair_expected <= g->list_at);
    memcpy(buffer->data + buffer->repair_at + in->repair_len, m->bytes.data, wanted);
    crypto_generichash_update(&in->hash, m->bytes.data, wanted);
    in->repair_len += wanted;
    x->bytes_received += wanted;
    g->counters.bytes_received += wanted;
    g->counters.repair_bytes_received += wanted;
    return true;
}

bool gossip_repair_refused(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                           const struct gossip_message *m)
{
    bool asked = x->out.state == GOSSIP_OUT_SENT && (x->stream->queued & GOSSIP_QUEUE(GOSSIP_DIGEST)) == 0;
    if (!asked || x->out.list_len > 0 || m->reason != GOSSIP_BUSY_FAR)
        return false;
    gossip_stream_finish(g, now_ns, x->stream);
    x->stream = NULL;
    gossip_end_solo(g, now_ns, x, GOSSIP_SOLO_FAR, ERR_FAR);
    return true;
}
