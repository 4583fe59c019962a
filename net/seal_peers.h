/* Private part of net/seal: what is known of each peer (keys, replay window, clock), in a table of fixed size
 * that displaces the least recently used.  Not thread-safe, no allocation. */
#ifndef DUNLIN_NET_SEAL_PEERS_H
#define DUNLIN_NET_SEAL_PEERS_H

#include "net/seal.h"

enum { SEAL_NONE = 0xffffffffu, SEAL_WINDOW_WORDS = NET_SEAL_WINDOW / 64, SEAL_CLOCK_SAMPLES = 31 };

struct seal_keys {
    uint8_t send[32];
    uint8_t open[32];
};

struct seal_peer {
    struct id id;
    struct seal_keys keys;
    uint64_t counter;                   /* last one we sent under */
    uint64_t boot_id;                   /* of the datagrams accepted last; valid when has_boot */
    uint64_t boot_before;               /* the one it replaced: refused from then on; valid when has_before */
    uint64_t highest;                   /* counter of the newest accepted datagram of boot_id */
    uint64_t window[SEAL_WINDOW_WORDS]; /* bit i: counter highest - i was accepted */
    uint64_t newest_ms;  /* latest time the peer put on a proven datagram; valid when has_floor */
    int64_t offset_ms;   /* its clock less ours; valid when offset_proven */
    uint64_t echo_floor; /* a CHALLENGE must answer one of our counters above this */
    uint64_t sampled_ns; /* when its clock was last taken into the median */
    uint64_t challenged_ns;
    uint64_t cookie_until_ns;
    uint8_t own_challenge[NET_SEAL_CHALLENGE];   /* the peer must echo this one */
    uint8_t their_challenge[NET_SEAL_CHALLENGE]; /* we echo this one */
    uint8_t cookie[NET_SEAL_COOKIE];
    bool has_boot, has_before, has_floor, offset_proven;
    bool has_own_challenge, has_their_challenge, has_sample, skew_told;
    bool pinned;
    uint32_t newer, older; /* recency list, without the pinned ones */
    uint32_t chain;        /* next in the hash chain, or in the free list */
};

struct seal_peers {
    struct seal_peer *entries;
    uint32_t *heads; /* hash chains, head_count of them, a power of two */
    uint32_t cap;
    uint32_t head_count;
    uint32_t used;
    uint32_t pinned;
    uint32_t newest, oldest;
    uint32_t free_head;
    uint64_t counter_floor; /* no evicted entry has sent under a higher counter */
    uint64_t newest_ms;     /* latest proven time of any evicted entry */
    uint64_t evictions;
    uint8_t hash_key[16]; /* ids are the peers' choice: chains must not be */
};

/* Hash chains for cap entries: a power of two of at least cap. */
uint32_t seal_peers_heads(size_t cap);
/* Lays an empty table over the caller's arrays of cap entries and head_count heads. */
void seal_peers_init(struct seal_peers *peers, struct seal_peer *entries, uint32_t cap, uint32_t *heads,
                     uint32_t head_count, const struct rng *rng);
/* The peer's entry, made the most recently used; NULL when there is none.  Borrowed until the next add. */
struct seal_peer *seal_peers_find(struct seal_peers *peers, const struct id *id);
/* A fresh entry for an id that is not in the table (asserted); displaces the oldest unpinned one when full.
 */
struct seal_peer *seal_peers_add(struct seal_peers *peers, const struct id *id, const struct seal_keys *keys);
/* ERR_FULL: half of the table is pinned. */
MUST_USE int seal_peers_pin(struct seal_peers *peers, struct seal_peer *peer, bool pinned);
void seal_peers_check_invariants(const struct seal_peers *peers);

/* True when this counter of the entry's boot id was accepted before or lies behind the window. */
bool seal_window_seen(const struct seal_peer *peer, uint64_t counter);
/* Notes the counter as accepted; it must not be seen (asserted). */
void seal_window_mark(struct seal_peer *peer, uint64_t counter);
/* Starts a window at this counter.  Lower ones count as accepted: before we lost or had any state they may
 * have been. */
void seal_window_start(struct seal_peer *peer, uint64_t counter);

/* The last clocks seen, one per peer. */
struct seal_clocks {
    struct {
        struct id peer;
        int64_t offset_ms;
        uint64_t at_ns;
    } samples[SEAL_CLOCK_SAMPLES];
    size_t count;
};

/* Takes in one sample, in place of the peer's last or the oldest. */
void seal_clocks_note(struct seal_clocks *clocks, uint64_t now_ns, const struct id *peer, int64_t offset_ms);
/* As net_seal_clock_offset. */
bool seal_clocks_median(const struct seal_clocks *clocks, uint64_t now_ns, int64_t *offset_ms, size_t *peers);

#endif
