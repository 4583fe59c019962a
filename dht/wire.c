#include "dht/wire.h"

#include <string.h>

#include "base/pack.h"

enum {
    KEY_REQUEST = 1,
    KEY_TOKEN,
    KEY_CLIENT,
    KEY_TARGET,
    KEY_CONTACTS,
    KEY_TYPE,
    KEY_VALUES,
    KEY_STATUS,
    KEY_PADDING = 15,
};

#define BIT(key) (UINT32_C(1) << (key))

struct shape {
    uint32_t required;
    uint32_t optional;
};

static const struct shape shapes[] = {
    [DHT_PING - DHT_PING] = {BIT(KEY_REQUEST), BIT(KEY_TOKEN) | BIT(KEY_CLIENT)},
    [DHT_PONG - DHT_PING] = {BIT(KEY_REQUEST), BIT(KEY_TOKEN) | BIT(KEY_CLIENT)},
    [DHT_FIND - DHT_PING] = {BIT(KEY_REQUEST) | BIT(KEY_TARGET), BIT(KEY_TOKEN) | BIT(KEY_CLIENT)},
    [DHT_NODES - DHT_PING] = {BIT(KEY_REQUEST) | BIT(KEY_CONTACTS), BIT(KEY_TOKEN) | BIT(KEY_CLIENT)},
    [DHT_GET -
        DHT_PING] = {BIT(KEY_REQUEST) | BIT(KEY_TARGET) | BIT(KEY_TYPE), BIT(KEY_TOKEN) | BIT(KEY_CLIENT)},
    [DHT_VALUES - DHT_PING] = {BIT(KEY_REQUEST) | BIT(KEY_CONTACTS) | BIT(KEY_VALUES),
                               BIT(KEY_TOKEN) | BIT(KEY_CLIENT)},
    [DHT_STORE - DHT_PING] = {BIT(KEY_REQUEST) | BIT(KEY_TOKEN) | BIT(KEY_VALUES), BIT(KEY_CLIENT)},
    [DHT_STORED - DHT_PING] = {BIT(KEY_REQUEST) | BIT(KEY_STATUS), BIT(KEY_TOKEN) | BIT(KEY_CLIENT)},
};

bool dht_wire_is_request(uint8_t kind)
{
    return (kind & 1) == 0;
}

static void write_contacts(struct pack_writer *w, const struct dht_wire *m)
{
    pack_uint(w, KEY_CONTACTS);
    pack_array(w, 2 * m->contact_count);
    for (size_t i = 0; i < m->contact_count; i++) {
        uint8_t wire[NET_ADDR_WIRE_MAX];
        size_t len = net_addr_encode(&m->contacts[i].addr, wire);
        pack_id(w, &m->contacts[i].id);
        pack_bin(w, bytes_of(wire, len));
    }
}

static void write_values(struct pack_writer *w, const struct dht_wire *m)
{
    pack_uint(w, KEY_VALUES);
    pack_array(w, m->value_count);
    for (size_t i = 0; i < m->value_count; i++)
        pack_bin(w, m->values[i]);
}

/* Zeros to fill the body up to exactly m->padded, where the bin's own head leaves a way to do so. */
static void write_padding(struct pack_writer *w, size_t padded)
{
    static const uint8_t zeros[DHT_WIRE_PADDED] = {0};
    size_t head = padded - w->len > 2 + 255 + 1 ? 4 : 3; /* key, then bin 16 or bin 8 */
    pack_key_bin(w, KEY_PADDING, bytes_of(zeros, padded - w->len - head));
}

size_t dht_wire_encode(const struct dht_wire *m, uint8_t *out, size_t cap)
{
    ASSERT(m->kind >= DHT_PING && m->kind <= DHT_STORED);
    ASSERT(m->contact_count <= DHT_K && m->value_count <= DHT_WIRE_VALUES_MAX);
    ASSERT(m->padded <= DHT_WIRE_PADDED);
    const struct shape *shape = &shapes[m->kind - DHT_PING];
    uint32_t keys = shape->required | (shape->optional & BIT(KEY_TOKEN) & (m->has_token ? ~UINT32_C(0) : 0)) |
                    (m->client ? BIT(KEY_CLIENT) : 0);
    bool pad = m->padded > DHT_WIRE_HEAD + 2 + ID_BYTES + 16;
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, (size_t)__builtin_popcount(keys) + (pad ? 1 : 0));
    pack_key_uint(&w, KEY_REQUEST, m->request);
    if ((keys & BIT(KEY_TOKEN)) != 0)
        pack_key_bin(&w, KEY_TOKEN, bytes_of(m->token, DHT_TOKEN_BYTES));
    if ((keys & BIT(KEY_CLIENT)) != 0)
        pack_key_bool(&w, KEY_CLIENT, true);
    if ((keys & BIT(KEY_TARGET)) != 0)
        pack_key_id(&w, KEY_TARGET, &m->target);
    if ((keys & BIT(KEY_CONTACTS)) != 0)
        write_contacts(&w, m);
    if ((keys & BIT(KEY_TYPE)) != 0)
        pack_key_uint(&w, KEY_TYPE, m->type);
    if ((keys & BIT(KEY_VALUES)) != 0)
        write_values(&w, m);
    if ((keys & BIT(KEY_STATUS)) != 0)
        pack_key_uint(&w, KEY_STATUS, m->status);
    if (pad && !w.failed)
        write_padding(&w, m->padded);
    return pack_writer_len(&w);
}

size_t dht_wire_encode_reply(struct dht_wire *m, uint8_t *out, size_t cap, bool *cut)
{
    *cut = false;
    for (;;) {
        size_t len = dht_wire_encode(m, out, cap);
        if (len > 0)
            return len;
        *cut = true;
        if (m->contact_count > 0)
            m->contact_count--;
        else if (m->value_count > 0)
            m->value_count--;
        else if (m->has_token)
            m->has_token = false;
        else
            return 0;
    }
}

static void read_contacts(struct pack_reader *r, struct dht_wire *out)
{
    size_t elements = pack_read_array(r, 2 * DHT_K);
    if (elements % 2 != 0)
        r->failed = true;
    for (size_t i = 0; i < elements / 2; i++) {
        struct dht_contact *contact = &out->contacts[i];
        pack_read_id(r, &contact->id);
        struct bytes wire = pack_read_bin(r, NET_ADDR_WIRE_MAX);
        if (r->failed || net_addr_decode(wire, &contact->addr) != ERR_OK ||
            net_addr_scope(&contact->addr) == NET_SCOPE_INVALID) {
            r->failed = true;
            return;
        }
    }
    out->contact_count = elements / 2;
}

static void read_values(struct pack_reader *r, struct dht_wire *out)
{
    size_t count = pack_read_array(r, out->kind == DHT_STORE ? 1 : DHT_WIRE_VALUES_MAX);
    for (size_t i = 0; i < count; i++)
        out->values[i] = pack_read_bin(r, DHT_RECORD_BYTES_MAX);
    out->value_count = count;
    if (out->kind == DHT_STORE && count != 1)
        r->failed = true;
}

static void read_field(struct pack_reader *r, unsigned key, struct dht_wire *out)
{
    switch (key) {
    case KEY_REQUEST:
        out->request = (uint32_t)pack_read_uint(r, UINT32_MAX);
        break;
    case KEY_TOKEN:
        pack_read_exact(r, out->token, DHT_TOKEN_BYTES);
        out->has_token = true;
        break;
    case KEY_CLIENT:
        out->client = pack_read_bool(r);
        break;
    case KEY_TARGET:
        pack_read_id(r, &out->target);
        break;
    case KEY_CONTACTS:
        read_contacts(r, out);
        break;
    case KEY_TYPE:
        out->type = (uint8_t)pack_read_uint(r, DHT_RECORD_PROVIDER);
        if (out->type == 0)
            r->failed = true;
        break;
    case KEY_VALUES:
        read_values(r, out);
        break;
    case KEY_STATUS:
        out->status = (uint8_t)pack_read_uint(r, DHT_STORED_STATUS_COUNT - 1);
        break;
    default:
        pack_skip(r);
    }
}

int dht_wire_decode(uint8_t kind, struct bytes in, struct dht_wire *out)
{
    if (kind < DHT_PING || kind > DHT_STORED)
        return ERR_UNSUPPORTED;
    memset(out, 0, sizeof *out);
    out->kind = kind;
    const struct shape *shape = &shapes[kind - DHT_PING];
    struct pack_token tokens[96];
    struct pack_reader r = pack_parse(in, tokens, 96);
    uint32_t seen = 0;
    for (size_t left = pack_read_map(&r, 16); left > 0; left--) {
        unsigned key = pack_read_key(&r, &seen);
        bool used = key <= PACK_KEY_MAX && ((shape->required | shape->optional) & BIT(key)) != 0;
        read_field(&r, used ? key : PACK_KEY_UNKNOWN, out);
    }
    return pack_done(&r) && (seen & shape->required) == shape->required ? ERR_OK : ERR_MALFORMED;
}
