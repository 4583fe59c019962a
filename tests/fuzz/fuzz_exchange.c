/* One exchange core driven by a program of small opcodes: commands, answers, streams, raw and well formed
 * frames, time that creeps and jumps; the first byte says how many fragments.  Invariants after every step;
 * the model below counts outcomes, lent blobs and owed answers.  All blobs are zeros, so that digests of any
 * length are at hand. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "gossip/exchange.h"

enum { PARAMS = 20000, TENSORS = 5, PEERS = 4, STREAMS = 8, BUFFERS = 3, BLOCK_BYTES = GOSSIP_BLOCK + 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct model {
    struct gossip *g;
    struct gossip_layout layout;
    struct reader in;
    uint64_t now, round, begun, ended, lent, released, fetches, fetch_ends, open_tag, sends;
    bool opening;
    uint64_t merged[BUFFERS], decodes[BUFFERS], repairs[BUFFERS]; /* rounds that wait for us */
    size_t merged_count, decode_count, repair_count;
    size_t asked, sent; /* bytes of the last repair asked for, and given */
};

static uint8_t blob[8 * PARAMS], into[4 * PARAMS];

static struct id peer_of(uint8_t n)
{
    static const uint8_t names[PEERS] = {1, 2, 4, 9}; /* we are 3: inviter with some, acceptor with others */
    return (struct id){{names[n % PEERS]}};
}

static void drain(struct model *m)
{
    struct gossip_event e;
    struct gossip_action a;
    gossip_check_invariants(m->g);
    while (gossip_poll_event(m->g, &e)) {
        m->ended += e.kind == GOSSIP_EVENT_MERGE || e.kind == GOSSIP_EVENT_SOLO;
        m->released += e.kind == GOSSIP_EVENT_RELEASE;
        m->fetch_ends += e.kind == GOSSIP_EVENT_STATE || e.kind == GOSSIP_EVENT_FETCH_FAILED;
        ASSERT(m->merged_count + m->decode_count < BUFFERS || e.kind != GOSSIP_EVENT_MERGE);
        ASSERT(m->decode_count < BUFFERS || e.kind != GOSSIP_EVENT_DECODE);
        ASSERT(m->repair_count < BUFFERS || e.kind != GOSSIP_EVENT_REPAIR);
        if (e.kind == GOSSIP_EVENT_MERGE)
            m->merged[m->merged_count++] = e.round;
        if (e.kind == GOSSIP_EVENT_DECODE)
            m->decodes[m->decode_count++] = e.round;
        if (e.kind == GOSSIP_EVENT_REPAIR)
            m->repairs[m->repair_count++] = e.round;
    }
    for (int i = 0; i < 64 && gossip_poll_action(m->g, m->now, &a); i++) {
        if (a.kind == GOSSIP_ACTION_OPEN) {
            m->opening = true;
            m->open_tag = a.tag;
        }
        ASSERT(a.frame.len <= GOSSIP_FRAME_MAX);
        m->sends += a.kind == GOSSIP_ACTION_SEND;
    }
    gossip_check_invariants(m->g);
    ASSERT(m->ended <= m->begun && m->begun <= m->ended + GOSSIP_LANES);
    ASSERT(m->released <= m->lent);
    ASSERT(m->fetch_ends <= m->fetches);
}

static void begin(struct model *m, uint8_t step)
{
    static struct gossip_view view;
    struct gossip_member_state states[PEERS + 1];
    for (uint8_t i = 0; i <= PEERS; i++)
        states[i] = (struct gossip_member_state){
            .id = peer_of(i), .progress_round = m->round, .expires_ms = (step >> 4 >> i & 1) == 0 ? 1 : 0};
    states[PEERS].id.bytes[0] = 3;
    m->round += step % 4;
    gossip_view_build(&view, m->round, 0, states, PEERS + 1);
    m->begun += gossip_round(m->g, m->now, m->round, &view) == ERR_OK;
}

/* Takes an entry out of a list of rounds when its answer was taken. */
static void settle(uint64_t rounds[BUFFERS], size_t *count, int result)
{
    ASSERT(result == ERR_OK || result == ERR_STALE || result == ERR_INVALID);
    if (result != ERR_INVALID)
        rounds[0] = rounds[--*count];
}

/* Answers the DECODE or REPAIR that has waited longest. */
static void answer(struct model *m, uint8_t how)
{
    uint8_t size = read_u8(&m->in);
    int result;
    if (how < 3 && m->decode_count > 0) {
        struct bytes list = how == 1 ? read_bytes(&m->in, size % 8) : bytes_of(blob, size % 40);
        size_t bytes = how == 2 ? size : list.len * BLOCK_BYTES;
        result = gossip_set_wanted(m->g, m->now, m->decodes[0], list, bytes, 3);
        m->lent += result == ERR_OK;
        m->asked = result == ERR_OK ? bytes : m->asked;
        settle(m->decodes, &m->decode_count, result);
    } else if (how == 3 && m->decode_count > 0) {
        settle(m->decodes, &m->decode_count, gossip_refuse(m->g, m->now, m->decodes[0]));
    } else if (how > 3 && m->repair_count > 0) {
        size_t bytes = how == 4 ? size % 40 * BLOCK_BYTES : size;
        result = gossip_set_repair(m->g, m->now, m->repairs[0], bytes_of(blob, bytes), 4);
        m->lent += result == ERR_OK;
        m->sent = result == ERR_OK ? bytes : m->sent;
        settle(m->repairs, &m->repair_count, result);
    }
}

static void command(struct model *m, uint8_t op)
{
    struct id digest;
    struct bytes all = bytes_of(blob, 4 * PARAMS);
    uint8_t codec = read_u8(&m->in) % GOSSIP_CODEC_COUNT;
    uint64_t len = m->layout.fragment_bytes[gossip_layout_fragment(&m->layout, m->round)][codec];
    switch (op) {
    case 0:
        begin(m, read_u8(&m->in));
        break;
    case 1:
        m->lent += gossip_set_outgoing(m->g, m->now, m->round, (enum gossip_codec)codec,
                                       bytes_of(blob, (size_t)len), 1) == ERR_OK;
        break;
    case 2:
        if (m->merged_count > 0 &&
            gossip_merge_done(m->g, m->now, m->merged[0], codec == 0 ? 0 : ERR_REFUSED) == 0)
            m->merged[0] = m->merged[--m->merged_count];
        break;
    case 3:
        hash_content(all, &digest);
        m->lent += gossip_set_state(m->g, m->now, m->round, all, &digest, 2) == ERR_OK;
        break;
    case 4:
        digest = peer_of(codec);
        m->fetches += gossip_fetch(m->g, m->now, &digest, into, sizeof into) == ERR_OK;
        break;
    case 5:
        if (codec == 0)
            gossip_fetch_cancel(m->g, m->now);
        else
            gossip_pause(m->g, m->now, codec == 1);
        break;
    case 7:
        answer(m, codec);
        break;
    default:
        m->now += (uint64_t)read_u16(&m->in) * (codec == 0 ? 1000 : 2000000);
        gossip_tick(m->g, m->now);
    }
}

/* What the frames with bytes hold: the right piece of zeros, a list of the first blocks, the whole repair. */
static void fill(const struct model *m, struct gossip_message *f, size_t len)
{
    size_t at = (size_t)f->index * GOSSIP_PIECE_BYTES < len ? (size_t)f->index * GOSSIP_PIECE_BYTES : 0;
    f->bytes = bytes_of(blob + at, len - at < GOSSIP_PIECE_BYTES ? len - at : GOSSIP_PIECE_BYTES);
    if (f->type == GOSSIP_WANT) {
        f->bytes = bytes_of(blob, f->index);
        f->length = f->index;
        f->index = 0;
    }
    if (f->type == GOSSIP_REPAIR) {
        f->bytes = bytes_of(blob, m->asked == 0 || m->asked > GOSSIP_PIECE_BYTES ? 1 : m->asked);
        f->index = 0;
    }
}

/* A frame whose fields are right unless the input says otherwise. */
static void well_formed(struct model *m, uint64_t stream)
{
    static uint8_t wire[GOSSIP_FRAME_MAX];
    uint8_t twist = read_u8(&m->in);
    uint8_t index = read_u8(&m->in) % 4;
    struct gossip_message f = {.type = (enum gossip_type)(read_u8(&m->in) % GOSSIP_TYPE_LAST + 1),
                               .run = {{7}},
                               .round = m->round + (twist & 3) - (twist >> 2 & 1),
                               .codecs = 63,
                               .codec = (enum gossip_codec)((twist >> 3 & 7) % GOSSIP_CODEC_COUNT),
                               .param_count = PARAMS,
                               .schema = m->layout.schema,
                               .age_ms = (uint32_t)twist * 7,
                               .reason = index == 3 ? GOSSIP_BUSY_FAR : GOSSIP_BUSY_STALE,
                               .index = index};
    size_t len = (size_t)m->layout.fragment_bytes[gossip_layout_fragment(&m->layout, f.round)][f.codec];
    size_t repair = (twist & 0x40) == 0 ? 0 : f.type == GOSSIP_COMMIT ? m->sent : m->asked;
    fill(m, &f, len);
    if (f.type == GOSSIP_FETCH || f.type == GOSSIP_STATE)
        repair = (size_t)m->layout.encoded_bytes[f.codec] - len;
    if ((twist & 0x80) == 0)
        hash_content(bytes_of(blob, len + repair), &f.digest);
    if (f.type == GOSSIP_FETCH && (twist & 0x40) != 0)
        f.index = 0;
    int size = gossip_message_encode(&f, wire, sizeof wire);
    ASSERT(size > 0);
    gossip_stream_frame(m->g, m->now, stream, bytes_of(wire, (size_t)size));
}

static void stream_input(struct model *m, uint8_t op)
{
    uint8_t which = read_u8(&m->in);
    uint64_t stream = which % STREAMS;
    struct id peer = peer_of((uint8_t)(which >> 3));
    switch (op) {
    case 8:
        (void)!gossip_stream_accepted(m->g, m->now, &peer, stream);
        gossip_stream_writable(m->g, m->now, stream, 70000);
        break;
    case 9:
        if (m->opening && gossip_stream_opened(m->g, m->now, m->open_tag, stream) == ERR_OK)
            gossip_stream_writable(m->g, m->now, stream, 70000);
        m->opening = false;
        break;
    case 10:
        gossip_stream_open_failed(m->g, m->now, m->open_tag, ERR_UNREACHABLE);
        break;
    case 11:
        gossip_stream_frame(m->g, m->now, stream, read_bytes(&m->in, which % 64));
        break;
    case 12:
        gossip_stream_writable(m->g, m->now, stream, (size_t)which * 1000);
        break;
    case 13:
        gossip_stream_closed(m->g, m->now, stream, (which & 0x80) != 0 ? ERR_CLOSED : 0);
        break;
    default:
        well_formed(m, stream);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct model m;
    struct gossip_tensor tensors[TENSORS];
    struct gossip_config c = gossip_config_default();
    memset(&m, 0, sizeof m);
    m.in = reader_of(bytes_of(data, size));
    for (size_t i = 0; i < TENSORS; i++)
        tensors[i] = (struct gossip_tensor){i * PARAMS / TENSORS, PARAMS / TENSORS, GOSSIP_TENSOR_MATRIX};
    int result = gossip_layout_of(tensors, TENSORS, 1 + read_u8(&m.in) % TENSORS, &m.layout);
    ASSERT(result == ERR_OK);
    c.self.bytes[0] = 3;
    c.run.bytes[0] = 7;
    c.layout = m.layout;
    c.round_ns = UINT64_C(1000000000);
    size_t bytes = (gossip_size_bytes(&c) + 63) / 64 * 64;
    void *block = aligned_alloc(64, bytes);
    if (block == NULL)
        return 0;
    m.g = gossip_init(block, bytes, &c);
    m.now = UINT64_C(1000000000000);
    for (int steps = 0; steps < 2000 && reader_left(&m.in) > 0; steps++) {
        uint8_t op = read_u8(&m.in) & 15;
        m.now += 1000;
        if (op < 8)
            command(&m, op);
        else
            stream_input(&m, op);
        drain(&m);
    }
    free(block);
    return 0;
}
