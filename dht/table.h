/* The routing table: nodes that answered us, in buckets by the number of leading position bits shared with
 * ours.
 *
 *   good      answered within good_ns and owes no answer; the only ones named to others
 *   doubtful  silent for longer, or its last request went unanswered; asked again, named to nobody
 *   cached    answered us while its bucket was full; takes the place of the next one evicted
 *
 * Nothing enters without having answered.  A contact leaves only when, already doubtful, it leaves one more
 * request unanswered while somebody else did answer (else our own line may be the dead one), or after
 * DHT_FAILS_MAX in a row.  At most DHT_GROUP_BUCKET_MAX contacts of a bucket and DHT_GROUP_TABLE_MAX of the
 * table share a /24 or /56, for global addresses only: a LAN or one machine is one group by nature. */
#ifndef DUNLIN_DHT_TABLE_H
#define DUNLIN_DHT_TABLE_H

#include "dht/dht.h"

enum {
    DHT_CACHE = 8,
    DHT_FAILS_MAX = 8,
    DHT_GROUP_BUCKET_MAX = 2,
    DHT_GROUP_TABLE_MAX = 3,
};

struct dht_entry {
    struct dht_contact contact;
    struct id position;
    uint64_t answered_ns;
    uint64_t rtt_ns;
    uint64_t probed_ns; /* last ping we sent because it was doubtful */
    uint64_t token_ns;  /* when token came; 0: none */
    uint8_t token[DHT_TOKEN_BYTES];
    uint8_t fails;
};

struct dht_bucket {
    size_t count;
    size_t cached;
    uint64_t refresh_due_ns;
    struct dht_entry entries[DHT_K];
    struct dht_entry cache[DHT_CACHE]; /* oldest first */
};

struct dht_table {
    struct id own_id;
    struct id own; /* position */
    uint64_t good_ns;
    size_t bucket_count;
    size_t total; /* entries of all buckets, cached ones excluded */
    struct dht_bucket *buckets;
};

enum dht_insert { DHT_INSERT_KNOWN, DHT_INSERT_ADDED, DHT_INSERT_CACHED, DHT_INSERT_REFUSED };

/* buckets [bucket_count] is borrowed until the table is dropped. */
void dht_table_init(struct dht_table *t, const struct id *own_id, struct dht_bucket *buckets,
                    size_t bucket_count, uint64_t good_ns);
unsigned dht_table_bucket_of(const struct dht_table *t, const struct id *position);
/* The entry of an id (cached ones only with_cache), or NULL; valid until the next change. */
struct dht_entry *dht_table_get(struct dht_table *t, const struct id *id, bool with_cache);
bool dht_table_is_good(const struct dht_table *t, const struct dht_entry *e, uint64_t now_ns);
/* Notes an answer: refreshes the entry, or enters the contact, or caches or refuses it (own id, group cap).
 * token may be NULL; rtt_ns 0: not measured. */
enum dht_insert dht_table_answered(struct dht_table *t, uint64_t now_ns, const struct dht_contact *contact,
                                   uint64_t rtt_ns, const uint8_t *token);
/* Notes a request that stayed unanswered; line_alive: somebody else answered since it was sent.  True when
 * the contact was evicted (the newest cached one that may enter took its place). Only a request to the
 * address that the table has counts: else whoever names a node at a false address had it thrown out. */
bool dht_table_failed(struct dht_table *t, uint64_t now_ns, const struct dht_contact *asked, bool line_alive);
/* Drops a contact that says it is a client. */
void dht_table_remove(struct dht_table *t, const struct id *id);
/* True when a stranger at this contact would be entered if it answered: worth a ping. */
bool dht_table_wants(const struct dht_table *t, const struct dht_contact *contact);
/* Up to cap contacts nearest to target, nearest first; doubtful ones only when good_only is false.  Leaves
 * out `except` (may be NULL) and contacts of a narrower scope than `scope`. */
size_t dht_table_closest(const struct dht_table *t, uint64_t now_ns, const struct id *target, bool good_only,
                         const struct id *except, enum net_scope scope, const struct dht_entry *out[],
                         size_t cap);
/* The doubtful contact of a bucket (or of all with bucket >= bucket_count) that was probed least recently, or
 * NULL; contacts probed after probed_before_ns are left out. */
struct dht_entry *dht_table_doubtful(struct dht_table *t, uint64_t now_ns, size_t bucket,
                                     uint64_t probed_before_ns);
/* One past the deepest bucket in use. */
size_t dht_table_depth(const struct dht_table *t);
/* Asserts counts, buckets, uniqueness and group caps. */
void dht_table_check(const struct dht_table *t);

#endif
