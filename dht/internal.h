/* struct dht and what the files that work on the whole of it share.  Included by dht/ and its tests only. */
#ifndef DUNLIN_DHT_INTERNAL_H
#define DUNLIN_DHT_INTERNAL_H

#include "base/ring.h"
#include "dht/dht.h"
#include "dht/limit.h"
#include "dht/lookup.h"
#include "dht/query.h"
#include "dht/records.h"
#include "dht/table.h"
#include "dht/token.h"
#include "dht/wire.h"

enum {
    DHT_NEWCOMER_PINGS = 8, /* outstanding pings of nodes that asked us something */
    DHT_PROBES = 4,         /* doubtful contacts pinged at a time */
    DHT_UPKEEP_LOOKUPS = 2, /* slots that commands leave for joining, refreshing and announcing */
};

/* An own record kept published.
 *      due --> searching (a lookup owns it) --> due again at half its life, or after a back-off */
struct dht_announce {
    bool used;
    bool searching;
    bool again; /* addresses changed since the record was built: publish at once when done */
    enum dht_record_type type;
    struct id key;
    uint64_t ttl_ms;
    uint32_t handle; /* ANNOUNCED still owed; 0: was given */
    uint64_t due_ns;
    uint64_t wait_ns; /* next back-off */
    uint64_t issued_ms;
    uint64_t expires_ms;
    size_t len; /* 0: not built yet */
    uint8_t bytes[DHT_RECORD_BYTES_MAX];
};

struct dht {
    struct dht_config config;
    uint64_t wall_ms; /* last seen */
    struct dht_table table;
    struct dht_tokens tokens;
    struct dht_limiter limiter;
    struct dht_queries queries;
    struct dht_records records;
    struct dht_lookup *lookups;
    struct dht_announce *announces;
    struct dht_contact *seeds;
    size_t seed_count;
    struct net_message *sends;
    struct ring send_ring;
    struct dht_event *events;
    struct ring event_ring;
    size_t promised; /* final events owed; as many places of the ring stay free for them */
    uint32_t next_handle;
    uint32_t next_serial;

    /* Joining: not joined --(lookup of our position found a contact: join.c)--> joined --(table empty)-->
     * not. joining: that lookup runs.  Else the next one starts at join_due_ns. */
    bool joined;
    bool joining;
    uint64_t join_due_ns;
    uint64_t join_wait_ns;
    uint64_t refresh_due_ns;
    uint64_t probe_due_ns;

    uint64_t last_answer_ns; /* when anybody last answered us */
    bool blocked;            /* a request waits for room among the sends: tick at once after draining */
    bool starved;            /* a request waits for a free query */
    struct net_addr addrs[DHT_RECORD_ADDRS_MAX];
    size_t addr_count;
    uint8_t extra[DHT_RECORD_EXTRA_MAX];
    size_t extra_len;
    struct dht_counts counts; /* the running ones only */
};

/* out.c: queues */
uint64_t dht_jitter(struct dht *d, uint64_t base_ns);              /* 0.75 to 1.25 times base */
bool dht_promise(struct dht *d, uint32_t *handle);                 /* room for a final event, or false */
void dht_push_final(struct dht *d, const struct dht_event *event); /* keeps a promise */
void dht_push_interim(struct dht *d, const struct dht_event *event);
struct net_message *dht_send_slot(struct dht *d); /* NULL: full; counts once committed */
void dht_send_commit(struct dht *d, const struct dht_contact *to, uint8_t kind, size_t len);

/* client.c: requests and lookups */
bool dht_ask(struct dht *d, uint64_t now_ns, uint8_t kind, enum dht_purpose purpose, uint32_t handle,
             const struct dht_contact *peer);
int dht_on_reply(struct dht *d, uint64_t now_ns, const struct dht_contact *from, const struct dht_wire *m);
void dht_queries_tick(struct dht *d, uint64_t now_ns);
struct dht_lookup *dht_lookup_start(struct dht *d, uint64_t now_ns, enum dht_lookup_kind kind,
                                    const struct id *target, uint32_t handle, bool with_seeds);
void dht_lookups_tick(struct dht *d, uint64_t now_ns);
void dht_lookup_step(struct dht *d, uint64_t now_ns, struct dht_lookup *l);
void dht_lookup_drop(struct dht *d, struct dht_lookup *l); /* of a command; ends it with ERR_CANCELLED */
void dht_lookup_local_values(struct dht *d, struct dht_lookup *l);
void dht_lookup_finish(struct dht *d, uint64_t now_ns, struct dht_lookup *l);
size_t dht_lookups_used(const struct dht *d);

/* server.c */
int dht_serve(struct dht *d, uint64_t now_ns, const struct dht_contact *from, const struct dht_wire *m,
              size_t request_len);

/* announce.c */
void dht_announces_tick(struct dht *d, uint64_t now_ns);
void dht_announce_store_begin(struct dht *d, struct dht_lookup *l);
void dht_announce_store_step(struct dht *d, uint64_t now_ns, struct dht_lookup *l);
void dht_announce_done(struct dht *d, uint64_t now_ns, struct dht_lookup *l);
void dht_announces_hurry(struct dht *d, uint64_t now_ns);
uint64_t dht_announces_due_ns(const struct dht *d);

/* join.c: joining, refreshing, probing */
void dht_join_tick(struct dht *d, uint64_t now_ns);
void dht_join_done(struct dht *d, uint64_t now_ns);
void dht_contact_added(struct dht *d, uint64_t now_ns, const struct dht_contact *contact);
void dht_refresh_tick(struct dht *d, uint64_t now_ns);
void dht_refreshed(struct dht *d, uint64_t now_ns, const struct id *target);
void dht_probe_tick(struct dht *d, uint64_t now_ns);
void dht_probe_bucket(struct dht *d, uint64_t now_ns, const struct id *newcomer);

#endif
