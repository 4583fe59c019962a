#include "dht/lookup.h"

#include <sodium.h>
#include <string.h>

#include "dht/id.h"

static uint64_t tag_of(const struct id *id)
{
    return load_le64(id->bytes) | 1; /* 0 stands for our own table */
}

/* Names an id at an address among those that failed.  Keyed: ids that nobody proved are the namer's choice,
 * and one made to collide with a true node's would shut that node out. */
static uint64_t failed_tag(const struct dht_lookup *l, const struct dht_contact *c)
{
    uint8_t text[ID_BYTES + NET_ADDR_WIRE_MAX];
    uint8_t hash[crypto_shorthash_BYTES];
    memcpy(text, c->id.bytes, ID_BYTES);
    size_t len = ID_BYTES + net_addr_encode(&c->addr, text + ID_BYTES);
    crypto_shorthash(hash, text, len, l->secret);
    return load_le64(hash);
}

void dht_lookup_init(struct dht_lookup *l, enum dht_lookup_kind kind, const struct id *target,
                     uint32_t serial, uint32_t handle)
{
    memset(l, 0, sizeof *l);
    l->used = true;
    l->kind = kind;
    l->target = *target;
    l->serial = serial;
    l->handle = handle;
}

struct dht_candidate *dht_lookup_get(struct dht_lookup *l, const struct id *id)
{
    for (size_t i = 0; i < l->count; i++) {
        if (id_equal(&l->list[i].contact.id, id))
            return &l->list[i];
    }
    return NULL;
}

static bool failed_before(const struct dht_lookup *l, uint64_t tag)
{
    size_t kept = l->failed_count < DHT_FAILED_TAGS ? l->failed_count : DHT_FAILED_TAGS;
    for (size_t i = 0; i < kept; i++) {
        if (l->failed[i] == tag)
            return true;
    }
    return false;
}

/* Farthest unconfirmed candidate of an introducer once it has used up its places, else NULL. */
static struct dht_candidate *farthest_of(struct dht_lookup *l, uint64_t introducer)
{
    struct dht_candidate *farthest = NULL;
    size_t places = 0;
    for (size_t i = 0; i < l->count; i++) {
        if (l->list[i].introducer == introducer && l->list[i].state != DHT_CANDIDATE_ANSWERED) {
            places++;
            if (l->list[i].state == DHT_CANDIDATE_NEW)
                farthest = &l->list[i];
        }
    }
    return places >= DHT_INTRODUCED_MAX ? farthest : NULL;
}

static size_t places_of(const struct dht_lookup *l, uint64_t introducer)
{
    size_t places = 0;
    for (size_t i = 0; i < l->count; i++)
        places += l->list[i].introducer == introducer && l->list[i].state != DHT_CANDIDATE_ANSWERED;
    return places;
}

/* Candidates of addr's group that were asked (with_asked) or have answered. */
static size_t group_of(const struct dht_lookup *l, const struct net_addr *addr, bool with_asked)
{
    if (net_addr_scope(addr) != NET_SCOPE_GLOBAL)
        return 0;
    size_t same = 0;
    for (size_t i = 0; i < l->count; i++) {
        bool counts = l->list[i].state == DHT_CANDIDATE_ANSWERED ||
                      (with_asked && l->list[i].state != DHT_CANDIDATE_NEW);
        same += counts && net_addr_same_group(&l->list[i].contact.addr, addr);
    }
    return same;
}

static void drop_at(struct dht_lookup *l, size_t at)
{
    ASSERT(at < l->count);
    if (l->list[at].state == DHT_CANDIDATE_ASKED)
        l->in_flight--;
    memmove(&l->list[at], &l->list[at + 1], (l->count - at - 1) * sizeof l->list[0]);
    l->count--;
}

/* Makes a place for a candidate at this position; false when it is not worth one. */
static bool make_place(struct dht_lookup *l, const struct id *position, uint64_t introducer)
{
    if (introducer != 0 && places_of(l, introducer) >= DHT_INTRODUCED_MAX) {
        struct dht_candidate *farthest = farthest_of(l, introducer);
        if (farthest == NULL || dht_id_nearer(&l->target, position, &farthest->position) >= 0)
            return false;
        drop_at(l, (size_t)(farthest - l->list));
    }
    if (l->count < DHT_SHORTLIST)
        return true;
    if (dht_id_nearer(&l->target, position, &l->list[l->count - 1].position) >= 0)
        return false;
    drop_at(l, l->count - 1);
    return true;
}

static void add_alternate(struct dht_lookup *l, struct dht_candidate *known,
                          const struct dht_contact *contact)
{
    if (known->state == DHT_CANDIDATE_ANSWERED || known->alternate_count == DHT_ALTERNATES ||
        net_addr_equal(&known->contact.addr, &contact->addr) || failed_before(l, failed_tag(l, contact)))
        return;
    for (size_t i = 0; i < known->alternate_count; i++) {
        if (net_addr_equal(&known->alternates[i], &contact->addr))
            return;
    }
    known->alternates[known->alternate_count++] = contact->addr;
}

bool dht_lookup_offer(struct dht_lookup *l, const struct dht_contact *contact, const struct id *introducer,
                      uint16_t hops)
{
    uint64_t introducer_tag = introducer == NULL ? 0 : tag_of(introducer);
    struct dht_candidate *known = dht_lookup_get(l, &contact->id);
    if (known != NULL)
        add_alternate(l, known, contact);
    if (l->storing || known != NULL || failed_before(l, failed_tag(l, contact)) ||
        group_of(l, &contact->addr, false) >= DHT_LOOKUP_GROUP_MAX)
        return false;
    struct id position = dht_id_position(&contact->id);
    if (!make_place(l, &position, introducer_tag))
        return false;
    size_t at = l->count++;
    for (; at > 0 && dht_id_nearer(&l->target, &position, &l->list[at - 1].position) < 0; at--)
        l->list[at] = l->list[at - 1];
    l->list[at] = (struct dht_candidate){
        .contact = *contact, .position = position, .introducer = introducer_tag, .hops = hops};
    return true;
}

struct dht_candidate *dht_lookup_next(struct dht_lookup *l)
{
    if (l->in_flight >= DHT_ALPHA || l->requests >= DHT_LOOKUP_REQUESTS_MAX)
        return NULL;
    for (size_t i = 0; i < l->count && i < DHT_K; i++) {
        if (l->list[i].state == DHT_CANDIDATE_NEW &&
            group_of(l, &l->list[i].contact.addr, true) < DHT_LOOKUP_GROUP_MAX)
            return &l->list[i];
    }
    return NULL;
}

void dht_lookup_asked(struct dht_lookup *l, struct dht_candidate *c)
{
    ASSERT(c->state == DHT_CANDIDATE_NEW);
    c->state = DHT_CANDIDATE_ASKED;
    l->in_flight++;
    l->requests++;
}

void dht_lookup_slow(struct dht_lookup *l, const struct id *id)
{
    struct dht_candidate *c = dht_lookup_get(l, id);
    if (c == NULL || c->state != DHT_CANDIDATE_ASKED)
        return;
    c->state = DHT_CANDIDATE_SLOW;
    l->in_flight--;
    l->requests++;
}

/* A group that has its share of answers is asked no more.  Returns where c is afterwards. */
static struct dht_candidate *close_group(struct dht_lookup *l, struct dht_candidate *c)
{
    struct net_addr addr = c->contact.addr;
    struct id id = c->contact.id;
    if (group_of(l, &addr, false) < DHT_LOOKUP_GROUP_MAX)
        return c;
    for (size_t i = l->count; i-- > 0;) {
        if (l->list[i].state == DHT_CANDIDATE_NEW && net_addr_same_group(&l->list[i].contact.addr, &addr))
            drop_at(l, i);
    }
    return dht_lookup_get(l, &id);
}

struct dht_candidate *dht_lookup_answered(struct dht_lookup *l, const struct id *id, const uint8_t *token)
{
    struct dht_candidate *c = dht_lookup_get(l, id);
    if (c == NULL || c->state == DHT_CANDIDATE_NEW || c->state == DHT_CANDIDATE_ANSWERED)
        return NULL;
    if (c->state == DHT_CANDIDATE_ASKED)
        l->in_flight--;
    c->state = DHT_CANDIDATE_ANSWERED;
    c->has_token = token != NULL;
    if (token != NULL)
        memcpy(c->token, token, DHT_TOKEN_BYTES);
    l->answers++;
    if (c->hops > l->hops)
        l->hops = c->hops;
    return close_group(l, c);
}

void dht_lookup_failed(struct dht_lookup *l, const struct id *id)
{
    struct dht_candidate *c = dht_lookup_get(l, id);
    if (c == NULL || c->state == DHT_CANDIDATE_ANSWERED)
        return;
    l->failed[l->failed_count++ % DHT_FAILED_TAGS] = failed_tag(l, &c->contact);
    if (c->alternate_count == 0 || l->requests >= DHT_LOOKUP_REQUESTS_MAX) {
        drop_at(l, (size_t)(c - l->list));
        return;
    }
    if (c->state == DHT_CANDIDATE_ASKED)
        l->in_flight--;
    c->state = DHT_CANDIDATE_NEW;
    c->contact.addr = c->alternates[--c->alternate_count];
}

bool dht_lookup_settled(const struct dht_lookup *l)
{
    if (l->kind == DHT_LOOKUP_PEER && l->agree >= DHT_PEER_AGREE)
        return true;
    bool asks = l->requests < DHT_LOOKUP_REQUESTS_MAX;
    for (size_t i = 0; i < l->count && i < DHT_K; i++) {
        if (l->list[i].state == DHT_CANDIDATE_ASKED || l->list[i].state == DHT_CANDIDATE_SLOW ||
            (l->list[i].state == DHT_CANDIDATE_NEW && asks))
            return false;
    }
    return true;
}

static const struct dht_lookup_value *value_of(const struct dht_lookup *l, const struct dht_record *record)
{
    uint64_t owner = tag_of(&record->owner);
    for (size_t i = 0; i < l->value_count; i++) {
        if (l->values[i].owner == owner)
            return &l->values[i];
    }
    return NULL;
}

bool dht_lookup_wants_value(const struct dht_lookup *l, const struct dht_record *record)
{
    const struct dht_lookup_value *v = value_of(l, record);
    return v == NULL ? l->value_count < DHT_VALUES_MAX : v->issued_ms < record->issued_ms;
}

bool dht_lookup_holds_value(const struct dht_lookup *l, const struct dht_record *record)
{
    const struct dht_lookup_value *v = value_of(l, record);
    return v != NULL && v->issued_ms == record->issued_ms;
}

bool dht_lookup_note_value(struct dht_lookup *l, const struct dht_record *record)
{
    if (!dht_lookup_wants_value(l, record))
        return false;
    const struct dht_lookup_value *known = value_of(l, record);
    size_t at = known == NULL ? l->value_count++ : (size_t)(known - l->values);
    l->values[at] =
        (struct dht_lookup_value){.owner = tag_of(&record->owner), .issued_ms = record->issued_ms};
    return true;
}

void dht_lookup_check(const struct dht_lookup *l)
{
    uint32_t asked = 0;
    ASSERT(l->count <= DHT_SHORTLIST);
    for (size_t i = 0; i < l->count; i++) {
        asked += l->list[i].state == DHT_CANDIDATE_ASKED;
        if (i > 0)
            ASSERT(dht_id_nearer(&l->target, &l->list[i - 1].position, &l->list[i].position) < 0);
    }
    ASSERT(asked == l->in_flight);
    ASSERT(l->in_flight <= DHT_ALPHA);
    ASSERT(l->value_count <= DHT_VALUES_MAX);
    ASSERT(l->answers <= l->requests);
}
