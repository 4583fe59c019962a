#include "dht/record.h"

#include <assert.h>
#include <string.h>

#include "base/pack.h"
#include "dht/id.h"

enum { KEY_TYPE = 1, KEY_KEY, KEY_OWNER, KEY_ISSUED, KEY_EXPIRES, KEY_ADDRS, KEY_EXTRA };

/* Largest body: map 1, type 2, key and owner 35 each, times 10 each, addresses 2 + 4 * 20, extra 3 + 104. */
enum { BODY_MAX = 1 + 2 + 35 + 35 + 10 + 10 + 2 + DHT_RECORD_ADDRS_MAX * 20 + 3 + DHT_RECORD_EXTRA_MAX };
static_assert(BODY_MAX + NET_SIGNATURE_BYTES <= DHT_RECORD_BYTES_MAX, "the largest record fits its limit");

size_t dht_record_encode(const struct dht_record *record, const struct dht_config *config,
                         uint8_t out[DHT_RECORD_BYTES_MAX])
{
    ASSERT(record->addr_count <= DHT_RECORD_ADDRS_MAX);
    ASSERT(record->extra_len <= DHT_RECORD_EXTRA_MAX);
    bool provider = record->type == DHT_RECORD_PROVIDER;
    struct pack_writer w = pack_writer_of(out, DHT_RECORD_BYTES_MAX - NET_SIGNATURE_BYTES);
    pack_map(&w, (size_t)5 + provider + (record->extra_len > 0));
    pack_key_uint(&w, KEY_TYPE, (uint64_t)record->type);
    if (provider)
        pack_key_id(&w, KEY_KEY, &record->key);
    pack_key_id(&w, KEY_OWNER, &record->owner);
    pack_key_uint(&w, KEY_ISSUED, record->issued_ms);
    pack_key_uint(&w, KEY_EXPIRES, record->expires_ms);
    pack_uint(&w, KEY_ADDRS);
    pack_array(&w, record->addr_count);
    for (size_t i = 0; i < record->addr_count; i++) {
        uint8_t wire[NET_ADDR_WIRE_MAX];
        size_t len = net_addr_encode(&record->addrs[i], wire);
        pack_bin(&w, bytes_of(wire, len));
    }
    if (record->extra_len > 0)
        pack_key_bin(&w, KEY_EXTRA, bytes_of(record->extra, record->extra_len));
    size_t len = pack_writer_len(&w);
    ASSERT(len > 0);
    config->sign(config->crypto_user, DHT_RECORD_LABEL, bytes_of(out, len), out + len);
    return len + NET_SIGNATURE_BYTES;
}

static void read_addrs(struct pack_reader *r, struct dht_record *out)
{
    out->addr_count = pack_read_array(r, DHT_RECORD_ADDRS_MAX);
    for (size_t i = 0; i < out->addr_count; i++) {
        struct bytes wire = pack_read_bin(r, NET_ADDR_WIRE_MAX);
        if (r->failed || net_addr_decode(wire, &out->addrs[i]) != ERR_OK)
            r->failed = true;
    }
}

static void read_extra(struct pack_reader *r, struct dht_record *out)
{
    struct bytes extra = pack_read_bin(r, DHT_RECORD_EXTRA_MAX);
    out->extra_len = extra.len;
    if (extra.len > 0)
        memcpy(out->extra, extra.data, extra.len);
}

static uint32_t read_body(struct pack_reader *r, struct dht_record *out)
{
    uint32_t seen = 0;
    for (size_t left = pack_read_map(r, 16); left > 0; left--) {
        switch (pack_read_key(r, &seen)) {
        case KEY_TYPE:
            out->type = (enum dht_record_type)pack_read_uint(r, DHT_RECORD_PROVIDER);
            break;
        case KEY_KEY:
            pack_read_id(r, &out->key);
            break;
        case KEY_OWNER:
            pack_read_id(r, &out->owner);
            break;
        case KEY_ISSUED:
            out->issued_ms = pack_read_uint(r, INT64_MAX);
            break;
        case KEY_EXPIRES:
            out->expires_ms = pack_read_uint(r, INT64_MAX);
            break;
        case KEY_ADDRS:
            read_addrs(r, out);
            break;
        case KEY_EXTRA:
            read_extra(r, out);
            break;
        default:
            pack_skip(r);
        }
    }
    return seen;
}

int dht_record_decode(struct bytes in, struct dht_record *out)
{
    const uint32_t required =
        1U << KEY_TYPE | 1U << KEY_OWNER | 1U << KEY_ISSUED | 1U << KEY_EXPIRES | 1U << KEY_ADDRS;
    if (in.len > DHT_RECORD_BYTES_MAX)
        return ERR_TOO_LARGE;
    if (in.len <= NET_SIGNATURE_BYTES)
        return ERR_MALFORMED;
    struct dht_record record;
    memset(&record, 0, sizeof record);
    struct pack_token tokens[64];
    struct pack_reader r = pack_parse(bytes_of(in.data, in.len - NET_SIGNATURE_BYTES), tokens, 64);
    uint32_t seen = read_body(&r, &record);
    if (!pack_done(&r) || (seen & required) != required)
        return ERR_MALFORMED;
    bool has_key = (seen >> KEY_KEY & 1) != 0;
    if (record.type == DHT_RECORD_PEER && !has_key)
        record.key = dht_id_position(&record.owner);
    else if (record.type != DHT_RECORD_PROVIDER || !has_key)
        return ERR_MALFORMED;
    if (record.expires_ms <= record.issued_ms)
        return ERR_MALFORMED;
    *out = record;
    return ERR_OK;
}

int dht_record_check_life(const struct dht_record *record, uint64_t wall_ms)
{
    if (record->expires_ms - record->issued_ms > DHT_TTL_MAX_MS)
        return ERR_MALFORMED;
    if (record->expires_ms <= wall_ms)
        return ERR_EXPIRED;
    if (record->issued_ms > wall_ms + DHT_CLOCK_SKEW_MS)
        return ERR_CLOCK;
    return ERR_OK;
}

int dht_record_verify(const struct dht_record *record, struct bytes in, const struct dht_config *config)
{
    ASSERT(in.len > NET_SIGNATURE_BYTES);
    size_t body_len = in.len - NET_SIGNATURE_BYTES;
    int rc = config->verify(config->crypto_user, &record->owner, DHT_RECORD_LABEL,
                            bytes_of(in.data, body_len), in.data + body_len);
    return rc == ERR_OK ? ERR_OK : ERR_AUTH;
}
