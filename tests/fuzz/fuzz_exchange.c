/* One exchange core driven by a program of small opcodes: commands, streams, raw and well formed frames, time
 * that creeps and jumps.  Invariants after every step; the model below counts outcomes and lent blobs. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "gossip/exchange.h"

enum { PARAMS = 20000, PEERS = 4, STREAMS = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct model {
    struct gossip *g;
    struct gossip_layout layout;
    struct reader in;
    uint64_t now, round, begun, ended, lent, released, fetches, fetch_ends, open_tag, sends;
    bool opening;
    uint64_t merged[4];
    size_t merged_count;
};

static uint8_t blob[4 * PARAMS], into[4 * PARAMS];

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
        if (e.kind == GOSSIP_EVENT_MERGE) {
            ASSERT(m->merged_count < 2); /* as many as there are buffers */
            m->merged[m->merged_count++] = e.round;
        }
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
    ASSERT(m->ended <= m->begun && m->begun <= m->ended + 1);
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

static void command(struct model *m, uint8_t op)
{
    struct id digest;
    struct bytes all = bytes_of(blob, sizeof blob);
    uint8_t codec = read_u8(&m->in) % GOSSIP_CODEC_COUNT;
    uint64_t len = m->layout.encoded_bytes[codec];
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
    default:
        m->now += (uint64_t)read_u16(&m->in) * (codec == 0 ? 1000 : 2000000);
        gossip_tick(m->g, m->now);
    }
}

/* A frame whose fields are right unless the input says otherwise. */
static void well_formed(struct model *m, uint64_t stream)
{
    static uint8_t wire[GOSSIP_FRAME_MAX];
    uint8_t twist = read_u8(&m->in);
    uint8_t index = read_u8(&m->in) % 4;
    struct gossip_message f = {.type = (enum gossip_type)(read_u8(&m->in) % GOSSIP_STATE + 1),
                               .run = {{7}},
                               .round = m->round + (twist & 3) - (twist >> 2 & 1),
                               .codecs = 7,
                               .codec = (enum gossip_codec)((twist >> 3) % GOSSIP_CODEC_COUNT),
                               .param_count = PARAMS,
                               .schema = m->layout.schema,
                               .age_ms = (uint32_t)twist * 7,
                               .reason = GOSSIP_BUSY_STALE,
                               .index = index};
    size_t len = (size_t)m->layout.encoded_bytes[f.codec];
    size_t at = (size_t)index * GOSSIP_PIECE_BYTES < len ? (size_t)index * GOSSIP_PIECE_BYTES : 0;
    f.bytes = bytes_of(blob + at, len - at < GOSSIP_PIECE_BYTES ? len - at : GOSSIP_PIECE_BYTES);
    if ((twist & 0x80) == 0)
        hash_content(bytes_of(blob, len), &f.digest);
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
    struct gossip_tensor tensor = {0, PARAMS, GOSSIP_TENSOR_MATRIX};
    struct gossip_config c = gossip_config_default();
    memset(&m, 0, sizeof m);
    int result = gossip_layout_of(&tensor, 1, 1, &m.layout);
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
    m.in = reader_of(bytes_of(data, size));
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
