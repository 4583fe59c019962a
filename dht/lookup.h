/* One iterative lookup: the shortlist of candidates, sorted by distance, and what was asked of them.  Pure
 * bookkeeping; requests are sent by client.c.
 *
 *      SEARCH --(the DHT_K nearest live candidates have all answered, or none is left)--> STORE or end
 *      STORE  --(each of the nearest was asked to store and answered or timed out)------> end
 *
 * SEARCH: candidates go NEW -> ASKED -> SLOW (resent; no longer counts as in flight) -> ANSWERED, or are
 * dropped on time-out, their tag remembered so that they are not named again.  STORE: only lookups of an
 * announcement; the candidates that gave a token go through enum dht_store_state.
 *
 * A liar can name any number of nodes near the target.  What one introducer named and nobody confirmed by
 * answering takes at most DHT_INTRODUCED_MAX places, and all requests together are capped, so it costs time,
 * not the result.  Nor does naming a true id at a false address, or false ids in a true node's network, shut
 * that node out: other addresses are kept as alternates, failures are remembered per id and address, and only
 * candidates that were asked count for their group. */
#ifndef DUNLIN_DHT_LOOKUP_H
#define DUNLIN_DHT_LOOKUP_H

#include "dht/dht.h"

enum {
    DHT_SHORTLIST = 48,
    DHT_INTRODUCED_MAX = 8,
    DHT_FAILED_TAGS = 64,
    DHT_ALTERNATES = 2, /* other addresses of a candidate, tried in turn */
    DHT_LOOKUP_REQUESTS_MAX = 200,
    DHT_LOOKUP_GROUP_MAX = 3, /* candidates asked or answering that share a /24 or /56 of global addresses */
    DHT_PEER_AGREE = 3,       /* a peer's record is settled when this many nodes delivered no newer one */
};

enum dht_lookup_kind {
    DHT_LOOKUP_NODE,
    DHT_LOOKUP_PEER,
    DHT_LOOKUP_PROVIDERS,
    DHT_LOOKUP_JOIN,
    DHT_LOOKUP_REFRESH,
    DHT_LOOKUP_ANNOUNCE,
};

enum dht_candidate_state {
    DHT_CANDIDATE_NEW,
    DHT_CANDIDATE_ASKED,
    DHT_CANDIDATE_SLOW,
    DHT_CANDIDATE_ANSWERED
};
enum dht_store_state { DHT_STORE_IDLE, DHT_STORE_SENT, DHT_STORE_DONE };

struct dht_candidate {
    struct dht_contact contact;
    struct id position;
    uint64_t introducer; /* first bytes of the id that named it; 0: our own table */
    enum dht_candidate_state state;
    enum dht_store_state store;
    uint16_t hops; /* introductions since our own table */
    bool has_token;
    uint8_t token[DHT_TOKEN_BYTES];
    uint8_t alternate_count;
    struct net_addr alternates[DHT_ALTERNATES];
};

struct dht_lookup_value {
    uint64_t owner; /* first bytes */
    uint64_t issued_ms;
};

struct dht_lookup {
    bool used;
    bool storing; /* phase: STORE */
    enum dht_lookup_kind kind;
    uint32_t serial; /* ties queries to this use of the slot */
    uint32_t handle; /* of the command, 0 for our own upkeep */
    struct id target;
    size_t announce; /* ANNOUNCE: index of the announcement */
    size_t count;
    struct dht_candidate list[DHT_SHORTLIST]; /* nearest first */
    uint8_t secret[16];                       /* of the tags below; drawn by whoever starts the lookup */
    size_t failed_count;
    uint64_t failed[DHT_FAILED_TAGS];
    size_t value_count;
    struct dht_lookup_value values[DHT_VALUES_MAX];
    uint32_t agree; /* nodes that delivered the newest record known */
    uint32_t in_flight;
    uint32_t requests;
    uint32_t answers;
    uint32_t hops;
    uint32_t stored;
};

/* A fresh lookup with an empty shortlist; serial must differ from those of other uses of the slot. */
void dht_lookup_init(struct dht_lookup *l, enum dht_lookup_kind kind, const struct id *target,
                     uint32_t serial, uint32_t handle);
/* Offers a candidate; introducer NULL: from our own table or seeds.  False: known, failed before, or no
 * place. */
bool dht_lookup_offer(struct dht_lookup *l, const struct dht_contact *contact, const struct id *introducer,
                      uint16_t hops);
struct dht_candidate *dht_lookup_get(struct dht_lookup *l, const struct id *id);
/* The next candidate to ask, or NULL: enough in flight, nothing left within the DHT_K nearest, or budget
 * used. */
struct dht_candidate *dht_lookup_next(struct dht_lookup *l);
void dht_lookup_asked(struct dht_lookup *l, struct dht_candidate *c);
/* The request was resent: the candidate no longer holds up others. */
void dht_lookup_slow(struct dht_lookup *l, const struct id *id);
/* Its answer came; returns it, or NULL when it is no candidate or answered before. */
struct dht_candidate *dht_lookup_answered(struct dht_lookup *l, const struct id *id, const uint8_t *token);
/* It timed out: its next alternate is tried, or it is dropped and not taken again at the address that failed.
 */
void dht_lookup_failed(struct dht_lookup *l, const struct id *id);
/* True when SEARCH is over. */
bool dht_lookup_settled(const struct dht_lookup *l);
/* True when this value would be new, or newer than the one noted of its owner. */
bool dht_lookup_wants_value(const struct dht_lookup *l, const struct dht_record *record);
/* True when the value noted of its owner is exactly as new. */
bool dht_lookup_holds_value(const struct dht_lookup *l, const struct dht_record *record);
/* Notes a value; false: not wanted. */
bool dht_lookup_note_value(struct dht_lookup *l, const struct dht_record *record);
void dht_lookup_check(const struct dht_lookup *l);

#endif
