/* Sealed datagrams: one authenticated, encrypted datagram per message, with no handshake and no round trip.
 *
 * What it is: a state machine without sockets or clocks.  It seals a struct net_message to its recipient,
 * opens what arrives, refuses what is forged, repeated, of another network or too old, and keeps floods of
 * invented senders from costing key agreements.  What it is not: it gives no forward secrecy and does not
 * hide the sender's public key; bulk data goes over QUIC.
 *
 * Layout (big-endian; the clear part is the associated data of the ciphertext):
 *
 *     0   1  type: 0x10 sealed, 0x11 sealed with cookie, 0x12 cookie reply   (always < 0x40)
 *     1   3  mark: SipHash of the clear head under the network's hash, top bit clear
 *     4   4  network id
 *     8  32  sender's public key
 *    40  24  nonce: 16 random bytes, 8 bytes of a keyed hash by which the sender knows its own nonces again
 *    64   8  cookie (types 0x11 and 0x12; a cookie reply ends here)
 *     .   .  XChaCha20-Poly1305 ciphertext of: flags 1, boot id 8, counter 8, wall time in ms 6,
 *            [echoed challenge 16, when flag 1], kind 1, body, [padding, when flag 2: its last byte counts
 * it]
 *
 * QUIC packets on the same socket have bit 7 of byte 0 or of byte 1 set, sealed datagrams neither.
 * Key of a direction: BLAKE2b-256 of X25519 secret, network hash, sender, recipient, under a label.
 *
 * Freshness: a datagram counts when its time is within clock_limit_ms of ours, or of ours plus the sender's
 * offset measured before, or when it echoes the 16-byte challenge that we drew for this sender; and when its
 * counter is new for the sender's boot id.  A sender without replay state here (after our start, or evicted
 * from the table) must further have sent it after that state was lost.  A datagram that fails this returns
 * ERR_CLOCK and is answered with a sealed CHALLENGE of at most the same size, from which the sender learns
 * our time.
 *
 * Single-threaded; one instance per node and network.  No allocation after net_seal_init. */
#ifndef DUNLIN_NET_SEAL_H
#define DUNLIN_NET_SEAL_H

#include "base/rng.h"
#include "base/trace.h"
#include "net/identity.h"
#include "net/message.h"

enum {
    NET_SEAL_HEAD = 64,
    NET_SEAL_COOKIE = 8,
    NET_SEAL_CHALLENGE = 16,
    NET_SEAL_PREFIX = 24,
    NET_SEAL_TAG = 16,
    NET_SEAL_MIN = 136, /* every sealed datagram is padded to the size of a CHALLENGE: never amplified */
    NET_SEAL_COOKIE_REPLY = NET_SEAL_HEAD + NET_SEAL_COOKIE,
    NET_SEAL_REPLIES_MAX = 32,    /* queued automatic replies; beyond it they are dropped and counted */
    NET_SEAL_PEERS_MAX = 1 << 20, /* bound of config.peers_max */
    NET_SEAL_WINDOW = 256,        /* counters behind the newest that may still arrive out of order */
    NET_SEAL_NONCE_BLOCK = 64,    /* nonces drawn from the rng at once */
    NET_NETWORK_NAME_MAX = 64,
    NET_SEAL_CONTROL = 1, /* net_seal_open: consumed, nothing for the cores */
};

/* A network: nodes of different networks never talk.  The id stands in clear in datagrams and in the ALPN. */
struct net_network {
    struct id hash; /* BLAKE2b-256 of the name under a label */
    uint32_t id;    /* its first four bytes */
};

/* Name to hash and id.  ERR_INVALID: empty, longer than NET_NETWORK_NAME_MAX, or not printable ASCII. */
MUST_USE int net_network_init(struct net_network *network, const char *name);

/* Everything that is counted: X(name, text for people). */
#define NET_SEAL_STATS(X)                                                                                    \
    X(sealed, "datagrams sealed")                                                                            \
    X(opened, "datagrams accepted")                                                                          \
    X(derivations, "key agreements computed")                                                                \
    X(evictions, "cached keys displaced")                                                                    \
    X(challenges_sent, "challenges sent to clocks that differ")                                              \
    X(challenges_taken, "challenges received")                                                               \
    X(cookies_sent, "cookie replies sent under load")                                                        \
    X(cookies_taken, "cookie replies received")                                                              \
    X(replies_dropped, "automatic replies dropped, queue full")                                              \
    X(dropped_shape, "dropped: wrong length or type")                                                        \
    X(dropped_network, "dropped: another network, or none of ours")                                          \
    X(dropped_mark, "dropped: mark does not match")                                                          \
    X(dropped_self, "dropped: our own datagram came back")                                                   \
    X(dropped_rate, "dropped: too many new senders")                                                         \
    X(dropped_auth, "dropped: forged or damaged")                                                            \
    X(dropped_replay, "dropped: seen before or too old")                                                     \
    X(dropped_clock, "dropped: sender's clock unproven, challenged")                                         \
    X(dropped_cookie, "dropped: cookie reply to nothing we sent")                                            \
    X(dropped_malformed, "dropped: authentic but malformed")

struct net_seal_stats {
#define X(name, text) uint64_t name;
    NET_SEAL_STATS(X)
#undef X
};

/* X25519 of our secret and the peer's key.  ERR_AUTH: peer is not a usable public key.  The simulator passes
 * a cheap stand-in here and nowhere else. */
typedef int net_seal_agree(void *user, const struct net_identity *own, const struct id *peer,
                           uint8_t secret[32]);

struct net_seal_config {
    const struct net_identity *identity; /* borrowed until net_seal_deinit */
    struct net_network network;
    uint64_t boot_id; /* random, drawn anew at each start of the process */
    struct rng rng;
    struct trace_sink trace;
    size_t peers_max;           /* cached keys; the least recently used goes */
    uint64_t clock_limit_ms;    /* tolerated difference of clocks */
    uint32_t derivations_per_s; /* key agreements for unknown senders, in all */
    uint32_t group_per_s;       /* and per address group (loopback exempt) */
    uint32_t group_burst;
    uint64_t cookie_period_ns; /* a cookie is good for one to two of these */
    net_seal_agree *agree;     /* NULL: X25519 */
    void *agree_user;
};

struct net_seal;

/* 4096 keys, 120 s, 500/s, 10/s with a burst of 60, 60 s.  identity, network, boot_id and rng are the
 * caller's. */
struct net_seal_config net_seal_config_default(void);
/* ERR_INVALID: a field is missing or out of range; *why (static text) says which. */
MUST_USE int net_seal_config_check(const struct net_seal_config *config, const char **why);

/* Bytes that net_seal_init needs for this config: about 290 a peer. */
size_t net_seal_size(const struct net_seal_config *config);
/* Places a seal in the caller's memory (at least net_seal_size bytes, aligned to 16, borrowed until
 * net_seal_deinit) and draws its secrets from config->rng.  The config must pass net_seal_config_check
 * (asserted) and is copied. */
struct net_seal *net_seal_init(void *memory, const struct net_seal_config *config, uint64_t now_ns,
                               uint64_t wall_ms);
/* Wipes every byte of the memory. */
void net_seal_deinit(struct net_seal *seal);

/* True when the first bytes can be a sealed datagram's rather than QUIC's: for the demultiplexer. */
bool net_seal_claims(struct bytes datagram);

/* Seals m for m->peer into out[cap]; returns the length, NET_SEAL_MIN..NET_DATAGRAM_MAX.  The first datagram
 * to a peer costs a key agreement (about 150 us).  ERR_TOO_LARGE: body_len > NET_BODY_MAX or cap too small: a
 * caller's mistake.  ERR_AUTH: m->peer is no usable public key: forget that peer.  ERR_INVALID: m->peer is
 * this node. m->addr is not used: the caller sends there. */
MUST_USE int net_seal_write(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms,
                            const struct net_message *m, uint8_t out[], size_t cap);

/* Opens a datagram that came from `from`.  0: *out is filled and from its peer.  NET_SEAL_CONTROL: a
 * challenge (out->kind NET_KIND_CHALLENGE, out->peer authentic) or a cookie reply (out->kind 0) was taken;
 * what was sent to out->peer just before was refused there and may be sent again now.  Errors, all counted,
 * *out undefined, and to be answered with nothing but net_seal_poll_reply: ERR_TRUNCATED, ERR_MALFORMED,
 * ERR_NETWORK, ERR_AUTH, ERR_REPLAY, ERR_CLOCK (a challenge is queued), ERR_RATE (a cookie reply is queued),
 * ERR_REFUSED (our own datagram, or a cookie reply to nothing).  Afterwards drain net_seal_poll_reply. */
MUST_USE int net_seal_open(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms,
                           const struct net_addr *from, struct bytes datagram, struct net_message *out);

/* Next automatic reply: writes it to out[NET_SEAL_MIN], its destination to *to, returns its length; 0: none.
 */
size_t net_seal_poll_reply(struct net_seal *seal, uint8_t out[NET_SEAL_MIN], struct net_addr *to);

/* Keeps the cached key and replay state of a peer from being displaced (or lets it go again).  At most half
 * of the table can be pinned.  ERR_NOT_FOUND: nothing was exchanged with it yet.  ERR_FULL: too many pins. */
MUST_USE int net_seal_pin(struct net_seal *seal, const struct id *peer, bool pinned);

/* Median of (peer's clock - ours) in ms over the last peers heard within ten minutes, at most 31, one sample
 * each. False when there is none.  A large median with several peers means that our own clock is wrong. */
bool net_seal_clock_offset(const struct net_seal *seal, uint64_t now_ns, int64_t *offset_ms, size_t *peers);

/* Everything counted since net_seal_init, by value. */
struct net_seal_stats net_seal_stats(const struct net_seal *seal);
/* Asserts every internal relation; for tests, fuzzers and the simulator.  O(peers_max). */
void net_seal_check_invariants(const struct net_seal *seal);

#endif
