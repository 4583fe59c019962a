/* Private parts of net/seal: the struct, and what seal_open.c needs of seal.c. */
#ifndef DUNLIN_NET_SEAL_INTERNAL_H
#define DUNLIN_NET_SEAL_INTERNAL_H

#include <sodium.h>

#include "base/ring.h"
#include "net/seal_limit.h"
#include "net/seal_peers.h"

enum seal_type { SEAL_TYPE_PLAIN = 0x10, SEAL_TYPE_COOKIE = 0x11, SEAL_TYPE_COOKIE_REPLY = 0x12 };
enum { SEAL_FLAG_CHALLENGE = 1, SEAL_FLAG_PADDED = 2, SEAL_FLAGS_KNOWN = 3 };
enum { NONCE_RANDOM = 16, MARK_AT = 1, NONCE_AT = 40, CHALLENGE_BODY = 32 };

struct seal_reply {
    struct net_addr to;
    size_t len;
    uint8_t data[NET_SEAL_MIN];
};

struct net_seal {
    struct net_seal_config config;
    struct seal_peers peers;
    struct seal_limit limit;
    struct seal_clocks clocks;
    struct net_seal_stats stats;
    uint64_t start_ms; /* replay state older than this is lost */
    uint64_t traced_ns;
    uint8_t mark_key[crypto_shorthash_KEYBYTES];
    uint8_t nonce_key[crypto_shorthash_KEYBYTES];
    uint8_t nonces[NET_SEAL_NONCE_BLOCK][NONCE_RANDOM];
    size_t nonces_used;
    struct seal_reply replies[NET_SEAL_REPLIES_MAX];
    struct ring reply_ring;
    size_t memory_bytes;
};

/* The clear part of a datagram; pointers into it. */
struct clear_head {
    uint8_t type;
    size_t len; /* with the cookie */
    struct id sender;
    const uint8_t *nonce;
    const uint8_t *cookie; /* NULL: none */
};

/* The sealed part. */
struct sealed_part {
    uint64_t boot_id;
    uint64_t counter;
    uint64_t sent_ms;
    struct bytes challenge; /* empty: none */
    uint8_t kind;
    struct bytes body;
};

/* Both directions' keys with a peer; about 150 us.  ERR_AUTH: no usable public key. */
MUST_USE int seal_derive(struct net_seal *seal, const struct id *peer, struct seal_keys *keys);
/* The three mark bytes of a clear head; those in it are ignored. */
void seal_mark_of(const struct net_seal *seal, const uint8_t head[NET_SEAL_HEAD], uint8_t mark[3]);
/* True when this nonce of 24 bytes is one that we used towards this peer. */
bool seal_nonce_is_ours(const struct net_seal *seal, const uint8_t *nonce, const struct id *peer);
/* Queue the automatic replies to a datagram from this address. */
void seal_queue_cookie(struct net_seal *seal, uint64_t now_ns, const struct net_addr *to,
                       const struct clear_head *head);
void seal_queue_challenge(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms, const struct net_addr *to,
                          struct seal_peer *peer, const struct sealed_part *request);

#endif
