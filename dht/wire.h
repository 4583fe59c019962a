/* The eight messages of the DHT: structures, encoder and decoder.  Pure; documented field by field with
 * examples in docs/protocol/dht.md.  A body is a msgpack map; keys that a kind does not use are skipped. */
#ifndef DUNLIN_DHT_WIRE_H
#define DUNLIN_DHT_WIRE_H

#include <assert.h>

#include "dht/dht.h"

/* Requests are even, the reply to each is one more. */
enum dht_kind {
    DHT_PING = NET_KIND_DHT_FIRST,
    DHT_PONG,
    DHT_FIND,
    DHT_NODES,
    DHT_GET,
    DHT_VALUES,
    DHT_STORE,
    DHT_STORED,
};
static_assert((int)DHT_STORED <= (int)NET_KIND_DHT_LAST, "kinds lie in the range of this folder");

enum dht_stored_status {
    DHT_STORED_OK,
    DHT_STORED_TOKEN,   /* token missing or too old */
    DHT_STORED_INVALID, /* malformed, not by its sender, expired or badly signed */
    DHT_STORED_STALE,   /* a newer one is held */
    DHT_STORED_QUOTA,   /* the key, the owner or the source group has its share */
    DHT_STORED_FULL,    /* no room nearer to us */
    DHT_STORED_STATUS_COUNT,
};

enum {
    DHT_WIRE_VALUES_MAX = 6,
    DHT_WIRE_CONTACT_MAX = 2 + ID_BYTES + 2 + NET_ADDR_WIRE_MAX,
    DHT_WIRE_CONTACTS_HEAD = 1 + 3,                  /* key and array head */
    DHT_WIRE_HEAD = 1 + 6 + 3 + DHT_TOKEN_BYTES + 2, /* map, request, token, client flag */
    /* A find without proof of its address is padded, so that a full reply is at most three times its size.
     * Both carry the same sealing, so the bound on bodies bounds the datagrams too. */
    DHT_WIRE_AMPLIFY = 3,
    DHT_WIRE_PADDED = (NET_BODY_MAX + DHT_WIRE_AMPLIFY - 1) / DHT_WIRE_AMPLIFY,
};
static_assert(DHT_WIRE_HEAD + DHT_WIRE_CONTACTS_HEAD + DHT_K * DHT_WIRE_CONTACT_MAX <= NET_BODY_MAX,
              "a full reply of IPv6 contacts fits one datagram");

struct dht_wire {
    uint8_t kind;
    uint32_t request;
    bool has_token;
    uint8_t token[DHT_TOKEN_BYTES];
    bool client;          /* sender must not enter tables */
    size_t padded;        /* encoder only: pad the body to this many bytes (0: no) */
    struct id target;     /* FIND, GET */
    uint8_t type;         /* GET: enum dht_record_type */
    uint8_t status;       /* STORED: enum dht_stored_status */
    size_t contact_count; /* NODES, VALUES */
    struct dht_contact contacts[DHT_K];
    size_t value_count; /* VALUES; STORE has exactly one */
    struct bytes values[DHT_WIRE_VALUES_MAX];
};

/* True for kinds that ask, false for those that answer. */
bool dht_wire_is_request(uint8_t kind);
/* Encodes into out and returns the length, or 0 when it does not fit cap. */
size_t dht_wire_encode(const struct dht_wire *m, uint8_t *out, size_t cap);
/* Encodes a reply into at most cap bytes, leaving out first contacts from the end, then values, then the
 * token; *cut tells whether anything was left out.  0: not even the bare reply fits. */
size_t dht_wire_encode_reply(struct dht_wire *m, uint8_t *out, size_t cap, bool *cut);
/* Decodes one body of this kind; values borrow from in.  ERR_UNSUPPORTED: kind unknown.  ERR_MALFORMED:
 * missing or repeated fields, wrong types, limits passed, an address that is no unicast destination.  Drop
 * it. */
MUST_USE int dht_wire_decode(uint8_t kind, struct bytes in, struct dht_wire *out);

#endif
