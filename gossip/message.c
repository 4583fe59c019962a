/* Encoder and decoder of every frame, driven by one table of which fields each type carries. */
#include "gossip/message.h"

#include "base/pack.h"

/* Keys of the map; the number on the wire. */
enum field {
    FIELD_TYPE = 0,
    FIELD_VERSION = 1,
    FIELD_RUN = 2,
    FIELD_ROUND = 3,
    FIELD_VIEW = 4,
    FIELD_CODECS = 5,
    FIELD_CODEC = 6,
    FIELD_PARAM_COUNT = 7,
    FIELD_SCHEMA = 8,
    FIELD_AGE = 9,
    FIELD_HELD = 10,
    FIELD_REASON = 11,
    FIELD_INDEX = 12,
    FIELD_BYTES = 13,
    FIELD_DIGEST = 14,
    FIELD_LENGTH = 15,
    FIELD_END,
};

#define BIT(field)   (UINT32_C(1) << (field))
#define ROUND_LIMIT  (UINT64_C(1) << 53)
#define LENGTH_LIMIT (UINT64_C(1) << 32)

enum { TOKENS_MAX = 48, PAIRS_MAX = 20 };

/* Fields that a frame of this type always carries besides its type; 0: no such type. */
static uint32_t fields_of(uint64_t type)
{
    switch (type) {
    case GOSSIP_INVITE:
        return BIT(FIELD_VERSION) | BIT(FIELD_RUN) | BIT(FIELD_ROUND) | BIT(FIELD_VIEW) | BIT(FIELD_CODECS) |
               BIT(FIELD_CODEC) | BIT(FIELD_PARAM_COUNT) | BIT(FIELD_SCHEMA) | BIT(FIELD_AGE);
    case GOSSIP_ACCEPT:
        return BIT(FIELD_ROUND) | BIT(FIELD_CODEC) | BIT(FIELD_AGE) | BIT(FIELD_HELD);
    case GOSSIP_BUSY:
        return BIT(FIELD_ROUND) | BIT(FIELD_AGE) | BIT(FIELD_REASON);
    case GOSSIP_PIECE:
    case GOSSIP_REPAIR:
        return BIT(FIELD_INDEX) | BIT(FIELD_BYTES);
    case GOSSIP_DIGEST:
    case GOSSIP_COMMIT:
        return BIT(FIELD_DIGEST);
    case GOSSIP_FETCH:
        return BIT(FIELD_VERSION) | BIT(FIELD_RUN) | BIT(FIELD_INDEX) | BIT(FIELD_DIGEST);
    case GOSSIP_STATE:
        return BIT(FIELD_ROUND) | BIT(FIELD_CODEC) | BIT(FIELD_PARAM_COUNT) | BIT(FIELD_SCHEMA) |
               BIT(FIELD_INDEX) | BIT(FIELD_DIGEST);
    case GOSSIP_WANT:
        return BIT(FIELD_INDEX) | BIT(FIELD_BYTES) | BIT(FIELD_LENGTH);
    default:
        return 0;
    }
}

static void write_field(struct pack_writer *w, enum field field, const struct gossip_message *m)
{
    switch (field) {
    case FIELD_VERSION:
        pack_key_uint(w, field, GOSSIP_VERSION);
        break;
    case FIELD_RUN:
        pack_key_id(w, field, &m->run);
        break;
    case FIELD_ROUND:
        pack_key_uint(w, field, m->round);
        break;
    case FIELD_VIEW:
        pack_key_id(w, field, &m->view);
        break;
    case FIELD_CODECS:
        pack_key_uint(w, field, m->codecs);
        break;
    case FIELD_CODEC:
        pack_key_uint(w, field, m->codec);
        break;
    case FIELD_PARAM_COUNT:
        pack_key_uint(w, field, m->param_count);
        break;
    case FIELD_SCHEMA:
        pack_key_id(w, field, &m->schema);
        break;
    case FIELD_AGE:
        pack_key_uint(w, field, m->age_ms);
        break;
    case FIELD_HELD:
        pack_key_uint(w, field, m->held_ms);
        break;
    case FIELD_REASON:
        pack_key_uint(w, field, m->reason);
        break;
    case FIELD_INDEX:
        pack_key_uint(w, field, m->index);
        break;
    case FIELD_BYTES:
        pack_key_bin(w, field, m->bytes);
        break;
    case FIELD_DIGEST:
        pack_key_id(w, field, &m->digest);
        break;
    case FIELD_LENGTH:
        pack_key_uint(w, field, m->length);
        break;
    case FIELD_TYPE:
    case FIELD_END:
        break;
    }
}

int gossip_message_encode(const struct gossip_message *message, uint8_t out[], size_t cap)
{
    uint32_t fields = fields_of(message->type);
    ASSERT(fields != 0);
    ASSERT(message->bytes.len <= GOSSIP_PIECE_BYTES);
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, 1 + (size_t)__builtin_popcount(fields));
    pack_key_uint(&w, FIELD_TYPE, message->type);
    for (int field = FIELD_VERSION; field < FIELD_END; field++)
        if ((fields & BIT(field)) != 0)
            write_field(&w, (enum field)field, message);
    size_t len = pack_writer_len(&w);
    return len == 0 ? ERR_TOO_LARGE : (int)len;
}

static void read_field(struct pack_reader *r, unsigned field, struct gossip_message *m)
{
    switch (field) {
    case FIELD_RUN:
        pack_read_id(r, &m->run);
        break;
    case FIELD_ROUND:
        m->round = pack_read_uint(r, ROUND_LIMIT);
        break;
    case FIELD_VIEW:
        pack_read_id(r, &m->view);
        break;
    case FIELD_CODECS:
        m->codecs = (uint32_t)pack_read_uint(r, UINT32_MAX);
        break;
    case FIELD_CODEC:
        m->codec = (enum gossip_codec)pack_read_uint(r, GOSSIP_CODEC_COUNT - 1);
        break;
    case FIELD_PARAM_COUNT:
        m->param_count = pack_read_uint(r, GOSSIP_PARAMS_MAX);
        break;
    case FIELD_SCHEMA:
        pack_read_id(r, &m->schema);
        break;
    case FIELD_AGE:
        m->age_ms = (uint32_t)pack_read_uint(r, UINT32_MAX);
        break;
    case FIELD_HELD:
        m->held_ms = (uint32_t)pack_read_uint(r, UINT32_MAX);
        break;
    case FIELD_REASON:
        m->reason = (enum gossip_busy)pack_read_uint(r, GOSSIP_BUSY_LAST);
        break;
    case FIELD_INDEX:
        m->index = (uint32_t)pack_read_uint(r, UINT32_MAX);
        break;
    case FIELD_BYTES:
        m->bytes = pack_read_bin(r, GOSSIP_PIECE_BYTES);
        break;
    case FIELD_DIGEST:
        pack_read_id(r, &m->digest);
        break;
    case FIELD_LENGTH:
        m->length = pack_read_uint(r, LENGTH_LIMIT);
        break;
    default:
        pack_skip(r);
    }
}

int gossip_message_decode(struct bytes frame, struct gossip_message *out)
{
    struct pack_token tokens[TOKENS_MAX];
    struct gossip_message m = {0};
    if (frame.len == 0 || frame.len > GOSSIP_FRAME_MAX)
        return ERR_MALFORMED;
    struct pack_reader r = pack_parse(frame, tokens, TOKENS_MAX);
    uint32_t seen = 0;
    uint64_t type = 0;
    uint64_t version = 0;
    for (size_t left = pack_read_map(&r, PAIRS_MAX); left > 0; left--) {
        unsigned key = pack_read_key(&r, &seen);
        if (key == FIELD_TYPE)
            type = pack_read_uint(&r, GOSSIP_TYPE_LAST);
        else if (key == FIELD_VERSION)
            version = pack_read_uint(&r, UINT32_MAX);
        else
            read_field(&r, key, &m);
    }
    uint32_t wanted = fields_of(type);
    if (!pack_done(&r) || wanted == 0)
        return ERR_MALFORMED;
    m.type = (enum gossip_type)type;
    if ((seen & wanted & BIT(FIELD_VERSION)) != 0 && version != GOSSIP_VERSION)
        return ERR_VERSION;
    bool holds_bytes = (wanted & BIT(FIELD_BYTES)) != 0;
    bool may_be_empty = m.type == GOSSIP_WANT && m.length == 0;
    if ((seen & wanted) != wanted || (holds_bytes && (m.bytes.len == 0) != may_be_empty) ||
        (m.type == GOSSIP_BUSY && m.reason == 0) || (!holds_bytes && frame.len > GOSSIP_CONTROL_MAX))
        return ERR_MALFORMED;
    *out = m;
    return ERR_OK;
}

int gossip_message_run(struct bytes frame, struct id *run)
{
    struct gossip_message m;
    int result = gossip_message_decode(frame, &m);
    if (result < 0)
        return result;
    if (m.type != GOSSIP_INVITE && m.type != GOSSIP_FETCH)
        return ERR_MALFORMED;
    *run = m.run;
    return ERR_OK;
}

size_t gossip_message_unknown_run(uint8_t out[GOSSIP_CONTROL_MAX])
{
    struct gossip_message m = {.type = GOSSIP_BUSY, .reason = GOSSIP_BUSY_UNKNOWN_RUN};
    int len = gossip_message_encode(&m, out, GOSSIP_CONTROL_MAX);
    ASSERT(len > 0);
    return (size_t)len;
}
