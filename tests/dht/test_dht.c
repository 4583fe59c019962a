/* Whole cores joined in memory: every command ends in exactly one final event, nothing is allocated after
 * init (there is no allocator to call), every table filled to its cap and one past stays sound, and only
 * well-earned messages change anything. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "dht/pair.h"

static const uint64_t second = UINT64_C(1000000000);
static const uint64_t ttl = DHT_TTL_MAX_MS;

static size_t finals_of(const struct pair *p, size_t node, uint32_t handle)
{
    size_t n = 0;
    for (size_t i = 0; i < p->nodes[node].event_count; i++) {
        const struct dht_event *e = &p->nodes[node].events[i];
        n += e->handle == handle && e->kind != DHT_EVENT_VALUE && e->kind != DHT_EVENT_NODE;
    }
    return n;
}

static struct net_message message_to(const struct pair_node *to, const struct dht_contact *from,
                                     const struct dht_wire *m)
{
    struct net_message out = {.peer = from->id, .addr = from->addr, .kind = m->kind};
    (void)to;
    out.body_len = dht_wire_encode(m, out.body, NET_BODY_MAX);
    cr_assert_gt(out.body_len, 0);
    return out;
}

static int receive(struct pair *p, size_t node, const struct dht_contact *from, const struct dht_wire *m)
{
    struct net_message in = message_to(&p->nodes[node], from, m);
    int rc = dht_recv(p->nodes[node].core, p->now_ns, p->wall_ms, &in);
    dht_check_invariants(p->nodes[node].core);
    return rc;
}

/* Takes the next datagram of a node, decoded; values borrow from *raw. */
static bool sent_by(struct pair *p, size_t node, struct net_message *raw, struct dht_wire *m)
{
    if (!dht_poll_send(p->nodes[node].core, raw))
        return false;
    cr_assert_eq(dht_wire_decode(raw->kind, bytes_of(raw->body, raw->body_len), m), ERR_OK);
    return true;
}

Test(dht, sizes_keep_their_promises)
{
    struct rng_seeded stream;
    struct dht_config small = pair_config(&stream, 1);
    struct dht_config large = dht_config_default();
    large.rng = small.rng, large.sign = small.sign, large.verify = small.verify;
    cr_assert_leq(dht_size_bytes(&small), 256 * 1024);
    cr_assert_leq(dht_size_bytes(&large), 2 * 1024 * 1024);
    const char *why = NULL;
    struct dht_config bare = dht_config_default();
    cr_assert_eq(dht_config_check(&bare, &why), ERR_INVALID);
    cr_assert_not_null(why);
    cr_assert_eq(dht_size_bytes(&bare), 0);
    static _Alignas(64) uint8_t mem[300 * 1024];
    struct dht *d = NULL;
    cr_assert_eq(dht_init(&d, mem, dht_size_bytes(&small) - 1, &small, 1), ERR_NO_MEMORY);
    cr_assert_eq(dht_init(&d, mem, sizeof mem, &bare, 1), ERR_INVALID);
    memset(mem, 0xa5, sizeof mem);
    cr_assert_eq(dht_init(&d, mem, dht_size_bytes(&small), &small, 1), ERR_OK);
    dht_check_invariants(d);
    cr_assert_eq(dht_deadline_ns(d), UINT64_MAX, "an idle node sleeps");
    dht_deinit(d);
    for (size_t i = dht_size_bytes(&small); i < sizeof mem; i++)
        cr_assert_eq(mem[i], 0xa5);
}

Test(dht, config_relations_are_checked)
{
    struct rng_seeded stream;
    const struct dht_config good = pair_config(&stream, 1);
    const char *why = NULL;
    cr_assert_eq(dht_config_check(&good, &why), ERR_OK);
#define WRONG(change)                                                                                        \
    do {                                                                                                     \
        struct dht_config c = good;                                                                          \
        why = NULL;                                                                                          \
        c.change;                                                                                            \
        cr_assert_eq(dht_config_check(&c, &why), ERR_INVALID, #change);                                      \
        cr_assert_not_null(why);                                                                             \
    } while (0)
    WRONG(buckets = 7);
    WRONG(buckets = 257);
    WRONG(queries_max = 257);
    WRONG(lookups_max = 2);
    WRONG(announces_max = 0);
    WRONG(records_max = 0);
    WRONG(records_per_key = 0);
    WRONG(events_max = 7);
    WRONG(sends_max = 7);
    WRONG(seeds_max = 0);
    WRONG(groups_max = 0);
    WRONG(resend_ns = c.timeout_ns);
    WRONG(timeout_ns = 61 * second);
    WRONG(good_ns = c.timeout_ns);
    WRONG(probe_ns = 0);
    WRONG(retry_max_ns = c.retry_ns - 1);
    WRONG(token_rotate_ns = c.timeout_ns);
    WRONG(requests_per_s = 0);
#undef WRONG
}

Test(dht, three_nodes_join_announce_and_find)
{
    struct pair *p = pair_create(3, NULL);
    cr_assert_not(dht_ready(p->nodes[0].core));
    pair_join(p);
    for (size_t i = 0; i < 3; i++) {
        cr_assert(dht_ready(p->nodes[i].core), "node %zu", i);
        cr_assert_not_null(pair_event(p, i, DHT_EVENT_READY, 0));
        cr_assert_eq(dht_counts(p->nodes[i].core, p->now_ns).good, 2);
    }
    struct id key = pair_id(99);
    uint32_t announced, self, found, peer, missing;
    cr_assert_eq(dht_announce(p->nodes[1].core, p->now_ns, &key, ttl, &announced), ERR_OK);
    cr_assert_eq(dht_announce(p->nodes[1].core, p->now_ns, &key, ttl, &found), ERR_EXISTS);
    cr_assert_eq(dht_announce_self(p->nodes[1].core, p->now_ns, ttl, &self), ERR_OK);
    pair_run(p, second);
    cr_assert_eq(pair_event(p, 1, DHT_EVENT_ANNOUNCED, announced)->err, ERR_OK);
    cr_assert_eq(pair_event(p, 1, DHT_EVENT_ANNOUNCED, announced)->found, 2);
    cr_assert_eq(dht_find_providers(p->nodes[2].core, p->now_ns, p->wall_ms, &key, &found), ERR_OK);
    cr_assert_eq(dht_find_peer(p->nodes[2].core, p->now_ns, p->wall_ms, &p->nodes[1].self.id, &peer), ERR_OK);
    struct id nothing = pair_id(1234);
    cr_assert_eq(dht_find_providers(p->nodes[2].core, p->now_ns, p->wall_ms, &nothing, &missing), ERR_OK);
    pair_run(p, second);
    const struct dht_event *v = pair_event(p, 2, DHT_EVENT_VALUE, found);
    cr_assert_not_null(v);
    cr_assert(id_equal(&v->record.owner, &p->nodes[1].self.id));
    cr_assert(net_addr_equal(&v->record.addrs[0], &p->nodes[1].self.addr));
    v = pair_event(p, 2, DHT_EVENT_VALUE, peer);
    cr_assert(v != NULL && v->record.type == DHT_RECORD_PEER);
    cr_assert_eq(pair_event(p, 2, DHT_EVENT_LOOKUP_DONE, found)->err, ERR_OK);
    cr_assert_eq(pair_event(p, 2, DHT_EVENT_LOOKUP_DONE, missing)->err, ERR_NOT_FOUND);
    uint32_t handles[] = {found, peer, missing};
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(finals_of(p, 2, handles[i]), 1);
    pair_destroy(p);
}

Test(dht, records_are_renewed_at_half_of_their_life_until_withdrawn)
{
    struct pair *p = pair_create(3, NULL);
    pair_join(p);
    struct id key = pair_id(99);
    uint32_t announced, withdrawn, found;
    cr_assert_eq(dht_announce(p->nodes[1].core, p->now_ns, &key, DHT_TTL_MIN_MS, &announced), ERR_OK);
    for (int minute = 0; minute < 10; minute++) {
        pair_run(p, 60 * second);
        p->nodes[0].event_count = 0;
        cr_assert_eq(dht_find_providers(p->nodes[0].core, p->now_ns, p->wall_ms, &key, &found), ERR_OK);
        pair_run(p, second);
        cr_assert_eq(pair_event(p, 0, DHT_EVENT_LOOKUP_DONE, found)->err, ERR_OK, "minute %d", minute);
    }
    cr_assert_eq(finals_of(p, 1, announced), 1);
    cr_assert_eq(dht_withdraw(p->nodes[1].core, &key, &withdrawn), ERR_OK);
    uint32_t again;
    cr_assert_eq(dht_withdraw(p->nodes[1].core, &key, &again), ERR_NOT_FOUND);
    pair_run(p, 61 * second);
    cr_assert_not_null(pair_event(p, 1, DHT_EVENT_WITHDRAWN, withdrawn));
    cr_assert_eq(dht_find_providers(p->nodes[0].core, p->now_ns, p->wall_ms, &key, &found), ERR_OK);
    pair_run(p, second);
    cr_assert_eq(pair_event(p, 0, DHT_EVENT_LOOKUP_DONE, found)->err, ERR_NOT_FOUND);
    pair_destroy(p);
}

Test(dht, new_addresses_are_published_at_once)
{
    struct pair *p = pair_create(3, NULL);
    pair_join(p);
    uint32_t self, peer;
    cr_assert_eq(dht_announce_self(p->nodes[1].core, p->now_ns, ttl, &self), ERR_OK);
    pair_run(p, second);
    struct net_addr moved = pair_addr(500, true);
    dht_set_addresses(p->nodes[1].core, p->now_ns, &moved, 1, bytes_of("relay", 5));
    pair_run(p, second);
    cr_assert_eq(dht_find_peer(p->nodes[2].core, p->now_ns, p->wall_ms, &p->nodes[1].self.id, &peer), ERR_OK);
    pair_run(p, second);
    const struct dht_event *v = pair_event(p, 2, DHT_EVENT_VALUE, peer);
    cr_assert_not_null(v);
    cr_assert(net_addr_equal(&v->record.addrs[0], &moved));
    cr_assert(v->record.extra_len == 5 && memcmp(v->record.extra, "relay", 5) == 0);
    pair_destroy(p);
}

Test(dht, joining_is_retried_with_growing_pauses_until_the_seed_lives)
{
    struct pair *p = pair_create(2, NULL);
    p->nodes[0].deaf = true;
    cr_assert_eq(dht_bootstrap(p->nodes[1].core, p->now_ns, &p->nodes[0].self), ERR_OK);
    cr_assert_eq(dht_bootstrap(p->nodes[1].core, p->now_ns, &p->nodes[1].self), ERR_INVALID);
    uint32_t found, announced;
    struct id key = pair_id(99);
    cr_assert_eq(dht_announce(p->nodes[1].core, p->now_ns, &key, ttl, &announced), ERR_OK);
    pair_run(p, 300 * second);
    cr_assert_not(dht_ready(p->nodes[1].core));
    uint64_t sent = dht_counts(p->nodes[1].core, p->now_ns).sent;
    cr_assert(sent > 8 && sent < 60, "%llu requests in five minutes", (unsigned long long)sent);
    cr_assert_eq(pair_event(p, 1, DHT_EVENT_ANNOUNCED, announced)->err, ERR_UNREACHABLE);
    cr_assert_eq(dht_find_providers(p->nodes[1].core, p->now_ns, p->wall_ms, &key, &found), ERR_OK);
    pair_run(p, 10 * second);
    cr_assert_eq(finals_of(p, 1, found), 1);
    p->nodes[0].deaf = false;
    pair_run(p, 80 * second);
    cr_assert(dht_ready(p->nodes[1].core));
    cr_assert_eq(dht_counts(p->nodes[0].core, p->now_ns).records, 1, "the announcement followed");
    p->nodes[0].deaf = true; /* the only contact dies: doubtful first, then gone, then tried again */
    pair_run(p, 3600 * second);
    cr_assert_not_null(pair_event(p, 1, DHT_EVENT_LOST, 0));
    cr_assert_not(dht_ready(p->nodes[1].core));
    p->nodes[0].deaf = false;
    pair_run(p, 80 * second);
    cr_assert(dht_ready(p->nodes[1].core));
    pair_destroy(p);
}

Test(dht, ping_measures_times_out_and_can_be_cancelled)
{
    struct pair *p = pair_create(3, NULL);
    uint32_t alive, dead, cancelled;
    p->nodes[2].deaf = true;
    cr_assert_eq(dht_ping(p->nodes[0].core, p->now_ns, &p->nodes[1].self, &alive), ERR_OK);
    cr_assert_eq(dht_ping(p->nodes[0].core, p->now_ns, &p->nodes[2].self, &dead), ERR_OK);
    cr_assert_eq(dht_ping(p->nodes[0].core, p->now_ns, &p->nodes[2].self, &cancelled), ERR_OK);
    cr_assert_eq(dht_cancel(p->nodes[0].core, cancelled), ERR_OK);
    cr_assert_eq(dht_cancel(p->nodes[0].core, cancelled), ERR_NOT_FOUND);
    cr_assert_eq(dht_cancel(p->nodes[0].core, 0), ERR_NOT_FOUND);
    pair_run(p, 5 * second);
    cr_assert_eq(pair_event(p, 0, DHT_EVENT_PONG, alive)->err, ERR_OK);
    cr_assert_eq(pair_event(p, 0, DHT_EVENT_PONG, dead)->err, ERR_TIMEOUT);
    cr_assert_eq(pair_event(p, 0, DHT_EVENT_PONG, cancelled)->err, ERR_CANCELLED);
    cr_assert_eq(finals_of(p, 0, dead), 1);
    struct dht_row rows[4];
    cr_assert_eq(dht_table_rows(p->nodes[0].core, p->now_ns, true, rows, 4), 1,
                 "who answered is now a contact");
    cr_assert(id_equal(&rows[0].contact.id, &p->nodes[1].self.id));
    pair_destroy(p);
}

Test(dht, commands_are_refused_rather_than_left_without_an_end)
{
    struct pair *p = pair_create(1, NULL);
    struct dht *d = p->nodes[0].core;
    struct id key = pair_id(9);
    uint32_t handle;
    for (unsigned i = 0; i < 12; i++) {
        struct dht_contact seed = {pair_id(100 + i), pair_addr(100 + i, false)};
        cr_assert_eq(dht_bootstrap(d, p->now_ns, &seed), ERR_OK);
    }
    unsigned lookups = 0, announces = 0, pings = 0;
    while (dht_lookup_node(d, p->now_ns, &key, &handle) == ERR_OK)
        lookups++;
    cr_assert_eq(lookups, 4, "six slots less two for upkeep");
    for (;; announces++) {
        struct id other = pair_id(200 + announces);
        if (dht_announce(d, p->now_ns, &other, ttl, &handle) != ERR_OK)
            break;
    }
    cr_assert_eq(announces, 8);
    cr_assert_eq(dht_announce(d, p->now_ns, &key, DHT_TTL_MAX_MS + 1, &handle), ERR_INVALID);
    struct dht_contact nobody = {pair_id(300), pair_addr(300, false)};
    struct net_message m;
    for (;; pings++) {
        while (dht_poll_send(d, &m)) {
        }
        if (dht_ping(d, p->now_ns, &nobody, &handle) != ERR_OK)
            break;
    }
    cr_assert_eq(lookups + announces + pings, 24, "as many as events_max");
    dht_check_invariants(d);
    pair_run(p, 120 * second);
    cr_assert_eq(dht_counts(d, p->now_ns).events_dropped, 0);
    size_t finals = 0;
    for (uint32_t h = 1; h <= handle + 1; h++)
        finals += finals_of(p, 0, h);
    cr_assert_eq(finals, 24);
    cr_assert_eq(dht_lookup_node(d, p->now_ns, &key, &handle), ERR_OK);
    cr_assert_eq(dht_cancel(d, handle), ERR_OK);
    pair_pump(p);
    cr_assert_eq(pair_event(p, 0, DHT_EVENT_LOOKUP_DONE, handle)->err, ERR_CANCELLED);
    pair_destroy(p);
}

Test(dht, an_undrained_node_stays_sound)
{
    struct pair *p = pair_create(1, NULL);
    struct dht *d = p->nodes[0].core;
    for (unsigned i = 1; i < 40;
         i++) { /* nobody drains sends: the queue fills, requests wait, replies drop */
        struct dht_contact from = {pair_id(i), pair_addr(i, false)};
        struct dht_wire m;
        memset(&m, 0, sizeof m);
        m.kind = DHT_PING;
        m.request = i;
        int rc = receive(p, 0, &from, &m);
        cr_assert(rc == ERR_OK || rc == ERR_FULL);
        p->now_ns += second;
        dht_tick(d, p->now_ns, p->wall_ms);
        dht_check_invariants(d);
    }
    cr_assert_gt(dht_counts(d, p->now_ns).sends_dropped, 0);
    pair_run(p, 60 * second);
    pair_destroy(p);
}

Test(dht, only_who_answers_enters_the_table)
{
    struct pair *p = pair_create(1, NULL);
    struct dht_contact from = {pair_id(50), pair_addr(50, true)};
    struct dht_wire m, got;
    struct net_message raw;
    memset(&m, 0, sizeof m);
    m.kind = DHT_FIND;
    m.request = 5;
    m.client = true;
    cr_assert_eq(receive(p, 0, &from, &m), ERR_OK);
    cr_assert(sent_by(p, 0, &raw, &got) && got.kind == DHT_NODES);
    cr_assert_not(sent_by(p, 0, &raw, &got), "a client is not asked back");
    m.client = false;
    cr_assert_eq(receive(p, 0, &from, &m), ERR_OK);
    cr_assert(sent_by(p, 0, &raw, &got) && got.kind == DHT_NODES);
    cr_assert(sent_by(p, 0, &raw, &got) && got.kind == DHT_PING);
    uint32_t request = got.request;
    cr_assert_eq(dht_counts(p->nodes[0].core, p->now_ns).good, 0);
    memset(&m, 0, sizeof m);
    m.kind = DHT_PONG;
    m.request = request;
    struct dht_contact elsewhere = from;
    elsewhere.addr.port++;
    cr_assert_eq(receive(p, 0, &elsewhere, &m), ERR_NOT_FOUND, "right peer, wrong address");
    struct dht_contact other = {pair_id(51), from.addr};
    cr_assert_eq(receive(p, 0, &other, &m), ERR_NOT_FOUND, "right address, wrong peer");
    cr_assert_eq(receive(p, 0, &from, &m), ERR_OK);
    cr_assert_eq(dht_counts(p->nodes[0].core, p->now_ns).good, 1);
    cr_assert_eq(receive(p, 0, &from, &m), ERR_NOT_FOUND, "a duplicate");
    pair_destroy(p);
}

static struct bytes signed_record(const struct dht_contact *owner, const struct pair *p, uint8_t *out)
{
    struct rng_seeded stream;
    struct dht_config config = pair_config(&stream, 1);
    struct id signer = owner->id;
    config.crypto_user = &signer;
    struct dht_record r;
    memset(&r, 0, sizeof r);
    r.type = DHT_RECORD_PROVIDER;
    r.key = pair_id(99);
    r.owner = owner->id;
    r.issued_ms = p->wall_ms;
    r.expires_ms = p->wall_ms + 60000;
    return bytes_of(out, dht_record_encode(&r, &config, out));
}

static uint8_t store_status(struct pair *p, const struct dht_contact *from, const uint8_t *token,
                            struct bytes record)
{
    struct dht_wire m, got;
    struct net_message raw;
    memset(&m, 0, sizeof m);
    m.kind = DHT_STORE;
    m.client = true;
    m.has_token = true;
    memcpy(m.token, token, DHT_TOKEN_BYTES);
    m.value_count = 1;
    m.values[0] = record;
    cr_assert_eq(receive(p, 0, from, &m), ERR_OK);
    cr_assert(sent_by(p, 0, &raw, &got) && got.kind == DHT_STORED);
    return got.status;
}

Test(dht, storing_needs_a_token_the_owner_and_a_true_signature)
{
    struct pair *p = pair_create(1, NULL);
    struct dht_contact owner = {pair_id(50), pair_addr(50, true)}, other = {pair_id(51), pair_addr(51, true)};
    uint8_t bytes[DHT_RECORD_BYTES_MAX];
    struct bytes record = signed_record(&owner, p, bytes);
    struct dht_wire m, got;
    struct net_message raw;
    memset(&m, 0, sizeof m);
    m.kind = DHT_PING;
    m.client = true;
    m.request = 0x01020304;
    cr_assert_eq(receive(p, 0, &owner, &m), ERR_OK);
    cr_assert(sent_by(p, 0, &raw, &got) && got.has_token);
    uint8_t token[DHT_TOKEN_BYTES], none[DHT_TOKEN_BYTES] = {0};
    memcpy(token, got.token, sizeof token);
    cr_assert_eq(receive(p, 0, &other, &m), ERR_OK);
    cr_assert(sent_by(p, 0, &raw, &got) && got.has_token);
    cr_assert_eq(store_status(p, &owner, none, record), DHT_STORED_TOKEN);
    cr_assert_eq(store_status(p, &other, token, record), DHT_STORED_TOKEN, "another's token");
    cr_assert_eq(store_status(p, &other, got.token, record), DHT_STORED_INVALID, "another's record");
    bytes[record.len - 1] ^= 1;
    cr_assert_eq(store_status(p, &owner, token, record), DHT_STORED_INVALID, "a bad signature");
    bytes[record.len - 1] ^= 1;
    cr_assert_eq(dht_counts(p->nodes[0].core, p->now_ns).records, 0);
    cr_assert_eq(store_status(p, &owner, token, record), DHT_STORED_OK);
    cr_assert_eq(store_status(p, &owner, token, record), DHT_STORED_OK, "sent twice");
    cr_assert_eq(dht_counts(p->nodes[0].core, p->now_ns).records, 1);
    p->now_ns += 301 * second; /* one rotation: the token still counts, the record has expired */
    p->wall_ms += 301000;
    cr_assert_eq(store_status(p, &owner, token, record), DHT_STORED_INVALID);
    cr_assert_eq(dht_counts(p->nodes[0].core, p->now_ns).records, 0);
    p->now_ns += 300 * second;
    cr_assert_eq(store_status(p, &owner, token, record), DHT_STORED_TOKEN);
    pair_destroy(p);
}

Test(dht, replies_to_the_unproven_stay_within_three_times_the_request)
{
    struct pair *p = pair_create(24, NULL);
    pair_join(p);
    struct dht_contact from = {pair_id(50), pair_addr(50, false)};
    struct net_message raw;
    for (size_t padded = 0; padded <= DHT_WIRE_PADDED; padded += 46) {
        for (int kind = DHT_PING; kind <= DHT_GET; kind += 2) {
            struct dht_wire m, got;
            memset(&m, 0, sizeof m);
            m.kind = (uint8_t)kind;
            m.client = true;
            m.type = DHT_RECORD_PEER;
            m.has_token = kind == DHT_GET; /* a false one */
            m.padded = kind == DHT_PING ? 0 : padded;
            struct net_message in = message_to(&p->nodes[0], &from, &m);
            cr_assert_eq(dht_recv(p->nodes[0].core, p->now_ns, p->wall_ms, &in), ERR_OK);
            while (sent_by(p, 0, &raw, &got))
                cr_assert_leq(raw.body_len, 3 * in.body_len, "kind 0x%02x padded to %zu", kind, padded);
            p->now_ns += second;
        }
    }
    cr_assert_gt(dht_counts(p->nodes[0].core, p->now_ns).cut, 0);
    pair_destroy(p);
}

Test(dht, clients_ask_but_are_not_asked)
{
    struct pair *p = pair_create(4, NULL);
    dht_set_client(p->nodes[3].core, true);
    pair_join(p);
    cr_assert(dht_ready(p->nodes[3].core));
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(dht_counts(p->nodes[i].core, p->now_ns).good, 2, "the client is in no table");
    struct id key = pair_id(99);
    uint32_t handle;
    cr_assert_eq(dht_announce(p->nodes[3].core, p->now_ns, &key, ttl, &handle), ERR_OK);
    pair_run(p, second);
    cr_assert_eq(pair_event(p, 3, DHT_EVENT_ANNOUNCED, handle)->found, 3);
    struct dht_wire m;
    memset(&m, 0, sizeof m);
    m.kind = DHT_FIND;
    cr_assert_eq(receive(p, 3, &p->nodes[0].self, &m), ERR_STATE);
    dht_set_client(p->nodes[3].core, false);
    pair_run(p, 1800 * second);
    cr_assert_eq(dht_counts(p->nodes[0].core, p->now_ns).good, 3, "a server again");
    pair_destroy(p);
}

Test(dht, floods_are_limited_and_junk_is_counted)
{
    struct pair *p = pair_create(1, NULL);
    struct dht_contact from = {pair_id(50), pair_addr(50, true)};
    struct dht_wire m;
    struct net_message raw;
    memset(&m, 0, sizeof m);
    m.kind = DHT_PING;
    m.client = true;
    unsigned answered = 0;
    for (int i = 0; i < 1000; i++) {
        answered += receive(p, 0, &from, &m) == ERR_OK;
        while (dht_poll_send(p->nodes[0].core, &raw)) {
        }
    }
    cr_assert_eq(answered, 200);
    cr_assert_eq(dht_counts(p->nodes[0].core, p->now_ns).rate_limited, 800);
    struct net_message junk = {.peer = from.id, .addr = from.addr, .kind = DHT_NODES, .body_len = 3};
    cr_assert_eq(dht_recv(p->nodes[0].core, p->now_ns, p->wall_ms, &junk), ERR_MALFORMED);
    junk.kind = 0x3f;
    cr_assert_eq(dht_recv(p->nodes[0].core, p->now_ns, p->wall_ms, &junk), ERR_UNSUPPORTED);
    junk.kind = DHT_NODES;
    junk.addr.port = 0;
    cr_assert_eq(dht_recv(p->nodes[0].core, p->now_ns, p->wall_ms, &junk), ERR_MALFORMED);
    cr_assert_eq(dht_counts(p->nodes[0].core, p->now_ns).malformed, 3);
    pair_destroy(p);
}

Test(dht, lookups_of_nodes_name_the_nearest_in_order)
{
    struct pair *p = pair_create(30, NULL);
    pair_join(p);
    struct id target = pair_id(777);
    uint32_t handle;
    cr_assert_eq(dht_lookup_node(p->nodes[4].core, p->now_ns, &target, &handle), ERR_OK);
    pair_run(p, 5 * second);
    const struct dht_event *done = pair_event(p, 4, DHT_EVENT_LOOKUP_DONE, handle);
    cr_assert(done != NULL && done->err == ERR_OK && done->found == DHT_K);
    struct id previous = target;
    unsigned named = 0;
    for (size_t i = 0; i < p->nodes[4].event_count; i++) {
        const struct dht_event *e = &p->nodes[4].events[i];
        if (e->kind != DHT_EVENT_NODE || e->handle != handle)
            continue;
        struct id position = dht_position_of(&e->node.id);
        struct id before = dht_position_of(&previous);
        if (named++ > 0)
            cr_assert(memcmp(&before, &position, sizeof before) != 0);
        previous = e->node.id;
    }
    cr_assert_eq(named, DHT_K);
    pair_destroy(p);
}
