/* A Kademlia node as a state machine: it finds nodes near a point of a 256-bit ring, finds and keeps small
 * signed records about who is where (peer records) and who holds what (provider records).  No sockets,
 * threads, clocks or files: datagrams, time and commands go in; datagrams, events and a deadline are pulled
 * out.  It is not a store for values: weights, manifests and run state travel elsewhere.
 *
 * Follows Maymounkov and Mazieres 2002, BEP 5 (write tokens, good and doubtful contacts) and BEP 43
 * (clients); every difference is in dht/README.md.  Wire format: docs/protocol/dht.md.
 *
 * Sealing happens outside: the peer of a received net_message is authenticated, its addr is where it came
 * from. A node's position is hash_content(id), never chosen.  A key is a position itself.
 *
 * Driving it: after every dht_recv, dht_tick or command, drain dht_poll_send and dht_poll_event until both
 * say false, then arm one timer at dht_deadline_ns and call dht_tick when it fires.  One thread; two nodes
 * share nothing.  No call allocates; every call is bounded.
 *
 * now_ns is monotonic and never 0 or decreasing; wall_ms is Unix time, used only for the expiry of records.
 */
#ifndef DUNLIN_DHT_DHT_H
#define DUNLIN_DHT_DHT_H

#include "base/rng.h"
#include "base/trace.h"
#include "net/identity.h"
#include "net/message.h"

enum {
    DHT_K = 20,                 /* contacts of a bucket, of a reply, and storers of a record */
    DHT_ALPHA = 10,             /* requests a lookup keeps in flight */
    DHT_RECORD_ADDRS_MAX = 4,   /* addresses in one record */
    DHT_RECORD_EXTRA_MAX = 104, /* opaque bytes of a record's owner: room for two relays (id and address) */
    DHT_RECORD_BYTES_MAX = 352, /* encoded record with its signature */
    DHT_TTL_MIN_MS = 60 * 1000,
    DHT_TTL_MAX_MS = 30 * 60 * 1000, /* volunteers come and go: longer lives would be mostly lies */
    DHT_CLOCK_SKEW_MS = 120 * 1000,  /* by which an issuer's clock may be ahead of ours */
    DHT_TOKEN_BYTES = 8,
    DHT_VALUES_MAX = 64, /* values one lookup reports */
};

/* Domain label of record signatures: sign(label, record bytes without the trailing 64). */
#define DHT_RECORD_LABEL "dunlin dht record 1"

struct dht; /* one node; see dht_init */

struct dht_contact {
    struct id id;
    struct net_addr addr;
};

enum dht_record_type { DHT_RECORD_PEER = 1, DHT_RECORD_PROVIDER = 2 };

/* A record whose signature and life were checked. */
struct dht_record {
    enum dht_record_type type;
    struct id key; /* peer: position of owner; provider: what is provided */
    struct id owner;
    uint64_t issued_ms; /* the newest per (type, key, owner) wins */
    uint64_t expires_ms;
    size_t addr_count;
    struct net_addr addrs[DHT_RECORD_ADDRS_MAX];
    size_t extra_len;
    uint8_t extra[DHT_RECORD_EXTRA_MAX];
};

struct dht_config {
    struct id id; /* own node id */
    struct rng rng;
    struct trace_sink trace;
    /* Leaf functions, may not call back.  verify: ERR_OK or ERR_AUTH. */
    void (*sign)(void *user, const char *label, struct bytes message, uint8_t signature[NET_SIGNATURE_BYTES]);
    int (*verify)(void *user, const struct id *id, const char *label, struct bytes message,
                  const uint8_t signature[NET_SIGNATURE_BYTES]);
    void *crypto_user;
    bool client; /* asks but is not asked: for nodes that others cannot reach */

    size_t buckets;       /* 8..256; positions sharing more bits with ours fall into the last */
    size_t queries_max;   /* outstanding requests, 16..256 */
    size_t lookups_max;   /* at once, own maintenance included, 2..64 */
    size_t announces_max; /* own records kept published */
    size_t records_max;   /* held for others */
    size_t records_per_key;
    size_t records_per_owner;
    size_t records_per_group; /* per /24 or /56 of global addresses */
    size_t events_max;        /* at least 8 */
    size_t sends_max;         /* datagrams awaiting dht_poll_send, at least 8 */
    size_t seeds_max;
    size_t groups_max; /* rate-limit slots for source groups */

    uint64_t resend_ns;  /* a request is sent again once after this */
    uint64_t timeout_ns; /* and given up after this; > resend_ns */
    uint64_t good_ns;    /* a contact silent for longer is doubtful */
    uint64_t refresh_ns; /* a bucket not looked into for this long is refreshed (with jitter) */
    uint64_t probe_ns;   /* pause between pings of doubtful contacts */
    uint64_t retry_ns;   /* first pause after a failed join or announcement, doubling up to */
    uint64_t retry_max_ns;
    uint64_t token_rotate_ns;      /* life of a write-token secret; tokens live one to two of them */
    uint32_t requests_per_s;       /* answered in all; twice that in a burst */
    uint32_t group_requests_per_s; /* answered per source group; twice that in a burst */
};

enum dht_event_kind {
    DHT_EVENT_READY,       /* first contact answered after none did */
    DHT_EVENT_LOST,        /* the table ran empty; joining is tried again from the seeds */
    DHT_EVENT_CONTACT,     /* node entered the routing table */
    DHT_EVENT_NODE,        /* interim of dht_lookup_node: one of the closest, nearest first */
    DHT_EVENT_VALUE,       /* interim of both finds: record holds a new or newer record */
    DHT_EVENT_LOOKUP_DONE, /* final of dht_lookup_node, dht_find_peer, dht_find_providers */
    DHT_EVENT_PONG,        /* final of dht_ping: rtt_ns, or err ERR_TIMEOUT */
    DHT_EVENT_ANNOUNCED,   /* final of dht_announce*: first attempt; found counts the nodes that stored it */
    DHT_EVENT_WITHDRAWN,   /* final of dht_withdraw */
};

struct dht_event {
    enum dht_event_kind kind;
    uint32_t handle;          /* of the command; 0 for READY, LOST, CONTACT */
    int err;                  /* finals: ERR_OK; ERR_NOT_FOUND no value; ERR_UNREACHABLE nobody answered;
                                 ERR_TIMEOUT; ERR_CANCELLED; ANNOUNCED: ERR_REFUSED nobody stored it */
    struct id target;         /* LOOKUP_DONE: position or key asked for; ANNOUNCED, WITHDRAWN: key */
    struct dht_contact node;  /* CONTACT, NODE, PONG */
    struct dht_record record; /* VALUE */
    uint32_t requests;        /* LOOKUP_DONE, ANNOUNCED: requests sent */
    uint32_t answers;         /*   and answered */
    uint32_t hops;            /* LOOKUP_DONE: longest chain of introductions behind an answer */
    uint32_t found;           /* LOOKUP_DONE: values, or nodes; ANNOUNCED: nodes that stored it */
    uint64_t rtt_ns;          /* PONG */
};

enum dht_contact_state { DHT_CONTACT_GOOD, DHT_CONTACT_DOUBTFUL, DHT_CONTACT_CACHED };

struct dht_row {
    struct dht_contact contact;
    enum dht_contact_state state;
    unsigned bucket;      /* leading bits of its position shared with ours, capped */
    unsigned fails;       /* requests in a row without an answer */
    uint64_t rtt_ns;      /* of the last answer */
    uint64_t answered_ns; /* when it last answered */
};

struct dht_counts {
    size_t good, doubtful, cached; /* contacts */
    size_t records, announces, lookups, queries;
    uint64_t received, sent; /* messages */
    uint64_t malformed;      /* dropped: does not parse, or a reply that answers nothing of ours */
    uint64_t rate_limited;   /* requests dropped */
    uint64_t refused;        /* stores refused */
    uint64_t cut;            /* replies shortened because the asker's address was unproven */
    uint64_t sends_dropped;  /* replies dropped because the send queue was full */
    uint64_t events_dropped; /* interim events dropped because nobody drained */
};

/* Defaults: about 1.5 MiB a node.  Fill id, rng, sign and verify before use. */
struct dht_config dht_config_default(void);
/* For thousands of nodes in one process, or small machines: at most 256 KiB a node. */
struct dht_config dht_config_small(void);
/* ERR_INVALID: *why (static text) says which relation failed; tell the person. */
MUST_USE int dht_config_check(const struct dht_config *config, const char **why);

/* Bytes dht_init needs; 0 when config does not pass dht_config_check. */
size_t dht_size_bytes(const struct dht_config *config);
/* Places a node in mem (aligned to 64, borrowed until dht_deinit) and returns it through *out.  Copies
 * config. ERR_INVALID: bad config.  ERR_NO_MEMORY: size < dht_size_bytes(config). */
MUST_USE int dht_init(struct dht **out, void *mem, size_t size, const struct dht_config *config,
                      uint64_t now_ns);
/* Wipes secrets.  Pending commands get no event.  mem is the caller's again. */
void dht_deinit(struct dht *d);

/* Own addresses (at most DHT_RECORD_ADDRS_MAX, asserted) and opaque bytes (at most DHT_RECORD_EXTRA_MAX,
 * asserted) for records published from now on; records already announced are published anew when they differ.
 * Copies. */
void dht_set_addresses(struct dht *d, uint64_t now_ns, const struct net_addr *addrs, size_t count,
                       struct bytes extra);
/* Switches between server and client when reachability changes. */
void dht_set_client(struct dht *d, bool client);

/* Commands.  Each accepted one returns ERR_OK, sets *handle (never 0) and gets exactly one final event.
 * ERR_FULL: too many at once; drain events and try again after the next final event. */

/* Remembers a seed or a saved contact and joins through it; no event of its own (READY follows).  Seeds are
 * kept and asked again whenever the table runs empty and on every refresh.  ERR_FULL: seeds_max reached.
 * ERR_INVALID: own id, or not a unicast address. */
MUST_USE int dht_bootstrap(struct dht *d, uint64_t now_ns, const struct dht_contact *seed);
/* Finds the DHT_K live nodes nearest to target: NODE events, then LOOKUP_DONE. */
MUST_USE int dht_lookup_node(struct dht *d, uint64_t now_ns, const struct id *target, uint32_t *handle);
/* Finds a node's peer record: VALUE events (a later one is newer), then LOOKUP_DONE. */
MUST_USE int dht_find_peer(struct dht *d, uint64_t now_ns, uint64_t wall_ms, const struct id *id,
                           uint32_t *handle);
/* Finds who provides key: one VALUE event a provider (more when a newer record turns up), then LOOKUP_DONE.
 */
MUST_USE int dht_find_providers(struct dht *d, uint64_t now_ns, uint64_t wall_ms, const struct id *key,
                                uint32_t *handle);
/* Publishes that we provide key, again at half of ttl_ms until withdrawn; ANNOUNCED tells of the first
 * attempt, failed ones are retried.  ERR_EXISTS: announced already.  ERR_INVALID: ttl_ms outside
 * DHT_TTL_MIN_MS..MAX. */
MUST_USE int dht_announce(struct dht *d, uint64_t now_ns, const struct id *key, uint64_t ttl_ms,
                          uint32_t *handle);
/* The same for our own peer record. */
MUST_USE int dht_announce_self(struct dht *d, uint64_t now_ns, uint64_t ttl_ms, uint32_t *handle);
/* Stops publishing key (NULL: the peer record); copies at others expire.  A pending ANNOUNCED comes first,
 * with ERR_CANCELLED.  ERR_NOT_FOUND: not announced. */
MUST_USE int dht_withdraw(struct dht *d, const struct id *key, uint32_t *handle);
/* One round trip to a node, in the table or not: PONG. */
MUST_USE int dht_ping(struct dht *d, uint64_t now_ns, const struct dht_contact *node, uint32_t *handle);
/* Ends a lookup or a ping early; its final event comes with ERR_CANCELLED.  ERR_NOT_FOUND: no such handle. */
MUST_USE int dht_cancel(struct dht *d, uint32_t handle);

/* Takes one opened datagram with a kind of NET_KIND_DHT_FIRST..LAST (borrowed until return).  A negative
 * result says why it was dropped (ERR_MALFORMED, ERR_RATE, ERR_UNSUPPORTED: unknown kind, ERR_STATE: request
 * to a client, ERR_NOT_FOUND: reply to nothing); it is counted already, the caller need do nothing. */
int dht_recv(struct dht *d, uint64_t now_ns, uint64_t wall_ms, const struct net_message *message);
/* Does what is due: resends, time-outs, lookups, refreshes, republishing, expiry, secret rotation. */
void dht_tick(struct dht *d, uint64_t now_ns, uint64_t wall_ms);
/* When dht_tick must be called next; a time already past means at once. */
uint64_t dht_deadline_ns(const struct dht *d);
/* Takes the next event or datagram; false: none left. */
bool dht_poll_event(struct dht *d, struct dht_event *out);
bool dht_poll_send(struct dht *d, struct net_message *out);

/* Queries; none gives a pointer into the node. */

/* True while at least one contact is in the table and the first join lookup has ended. */
bool dht_ready(const struct dht *d);
/* Own position. */
struct id dht_position(const struct dht *d);
struct dht_counts dht_counts(const struct dht *d, uint64_t now_ns);
/* Writes up to cap table rows, nearest bucket last, and returns how many; with good_only only good ones,
 * which are those worth saving for the next start. */
size_t dht_table_rows(const struct dht *d, uint64_t now_ns, bool good_only, struct dht_row *rows, size_t cap);
/* Position of an id: hash_content(id). */
struct id dht_position_of(const struct id *id);

/* Verifies the whole struct, asserting every invariant; for tests, fuzzers and the simulator.  O(everything).
 */
void dht_check_invariants(const struct dht *d);

#endif
