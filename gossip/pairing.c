/* Slots by speed and hash; factors of the complete graph: a hypercube's in every basis, or the circle
 * method's. */
#include "gossip/pairing.h"

#include <assert.h>
#include <string.h>

#include "base/hash.h"

/* Speed rounds of one residue of this are at least GAP + 1 rounds apart and share no factor with the others.
 */
enum { SPEED_KINDS = 3 };
static_assert(SPEED_KINDS * GOSSIP_SPEED_BLOCK - (GOSSIP_SPEED_BLOCK - 1) > GOSSIP_PAIR_GAP,
              "a near factor must not come back too soon");

/* Something to be ordered: a member (index into the view) by speed and hash, or a factor by hash. */
struct ranked {
    uint16_t speed;
    uint16_t index;
    struct id hash;
};

/* The factors of a view and the order in which plain rounds walk them. */
struct factors {
    size_t slots; /* even */
    size_t count; /* slots - 1: odd */
    size_t fragments;
    bool cube;
    bool mixed; /* members differ in speed */
    bool apart; /* the gap between meetings holds */
    const struct id *run;
    struct ranked order[GOSSIP_MEMBERS_MAX]; /* circle: factors as walked */
};

static struct ranked ranked_of(const char *label, const struct id *run, uint64_t number, struct bytes what,
                               size_t index)
{
    uint8_t number_bytes[8];
    struct writer w = writer_of(number_bytes, sizeof number_bytes);
    write_u64(&w, number);
    struct bytes parts[3] = {bytes_of(run->bytes, ID_BYTES), bytes_of(number_bytes, sizeof number_bytes),
                             what};
    struct ranked out = {.index = (uint16_t)index};
    hash_parts(label, parts, 3, &out.hash);
    return out;
}

static int ranked_compare(const struct ranked *a, const struct ranked *b)
{
    if (a->speed != b->speed)
        return a->speed < b->speed ? -1 : 1;
    return id_compare(&a->hash, &b->hash);
}

static void sift_down(struct ranked heap[], size_t at, size_t count)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            return;
        if (child + 1 < count && ranked_compare(&heap[child], &heap[child + 1]) < 0)
            child++;
        if (ranked_compare(&heap[at], &heap[child]) >= 0)
            return;
        struct ranked moved = heap[at];
        heap[at] = heap[child];
        heap[child] = moved;
        at = child;
    }
}

/* Heap sort: in place, no recursion, and libc's qsort may allocate. */
static void rank(struct ranked items[], size_t count)
{
    for (size_t at = count / 2; at-- > 0;)
        sift_down(items, at, count);
    for (size_t end = count; end-- > 1;) {
        struct ranked top = items[0];
        items[0] = items[end];
        items[end] = top;
        sift_down(items, 0, end);
    }
}

/* Ranks the view's members by speed, then hash; returns self's rank, or count when self is not among them. */
static size_t rank_members(const struct id *run, const struct gossip_view *view, const struct id *self,
                           struct ranked members[])
{
    for (size_t i = 0; i < view->count; i++) {
        const struct gossip_view_entry *entry = &view->entries[i];
        members[i] = ranked_of("dunlin pair slot", run, 0, bytes_of(entry->id.bytes, ID_BYTES), i);
        members[i].speed = (uint16_t)(entry->speed.bytes_class << 8 | entry->speed.steps_class);
    }
    rank(members, view->count);
    size_t own = 0;
    while (own < view->count && !id_equal(&view->entries[members[own].index].id, self))
        own++;
    return own;
}

static uint64_t hashed_number(const char *label, const struct id *run, uint64_t number)
{
    struct ranked drawn = ranked_of(label, run, number, bytes_of("", 0), 0);
    struct reader r = reader_of(bytes_of(drawn.hash.bytes, ID_BYTES));
    return read_u64(&r);
}

static void factors_of(struct factors *out, const struct id *run, size_t fragments,
                       const struct gossip_view *view)
{
    size_t m = view->count + view->count % 2;
    out->slots = m;
    out->count = m - 1;
    out->fragments = fragments;
    out->cube = (m & (m - 1)) == 0;
    out->apart = view->count >= GOSSIP_PAIR_GAP_MIN;
    out->run = run;
    out->mixed = false;
    for (size_t i = 1; i < view->count; i++) {
        const struct gossip_speed *a = &view->entries[0].speed;
        const struct gossip_speed *b = &view->entries[i].speed;
        out->mixed = out->mixed || a->bytes_class != b->bytes_class || a->steps_class != b->steps_class;
    }
    if (out->cube)
        return;
    for (size_t i = 0; i < out->count; i++) {
        uint8_t index[2] = {(uint8_t)(i >> 8), (uint8_t)i};
        out->order[i] = ranked_of("dunlin pair sum", run, m, bytes_of(index, sizeof index), i);
        out->order[i].speed = 0;
    }
    rank(out->order, out->count);
}

/* x^exponent in GF(slots), slots = 2, 4 ... 256, modulo a primitive polynomial. */
static size_t field_power(size_t slots, size_t exponent)
{
    static const uint16_t polynomials[] = {0x3, 0x7, 0xb, 0x13, 0x25, 0x43, 0x89, 0x11d};
    size_t degree = 1;
    while ((size_t)1 << degree < slots)
        degree++;
    ASSERT(degree <= sizeof polynomials / sizeof polynomials[0]);
    size_t value = 1;
    while (exponent-- > 0) {
        value <<= 1;
        if ((value & slots) != 0)
            value ^= polynomials[degree - 1];
    }
    return value;
}

static size_t common_divisor(size_t a, size_t b)
{
    while (b != 0) {
        size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The factor of this round when it is plain. */
static size_t plain_factor(const struct factors *f, uint64_t round)
{
    size_t n = f->count;
    if (f->cube) {
        size_t stride = n > f->fragments ? n / f->fragments : 1;
        size_t cycle = (size_t)(round / f->fragments % n);
        size_t back = (size_t)(round % f->fragments) * stride % n;
        return field_power(f->slots, (cycle + n - back) % n);
    }
    size_t period = n / common_divisor(n, f->fragments) * f->fragments;
    return f->order[(round % n + round / period % n) % n].index;
}

/* How many factors count as near: at least SPEED_KINDS from GOSSIP_PAIR_GAP_MIN members on. */
static size_t near_count(const struct factors *f)
{
    size_t part = f->slots <= 8 ? f->slots / 2 : f->slots < 16 ? 4 : f->slots / 4;
    size_t most = part < GOSSIP_NEAR_MAX + 1 ? part : GOSSIP_NEAR_MAX + 1;
    /* Of a cube whole subcubes: factors 1..2^k - 1 stay within blocks of 2^k slots. */
    if (f->cube)
        while ((most & (most - 1)) != 0)
            most &= most - 1;
    return most > 1 ? most - 1 : 1;
}

/* Near factors in the order of how far apart they pair. */
static size_t near_factor(const struct factors *f, size_t index)
{
    if (f->cube)
        return index + 1;
    return index % 2 == 0 ? index / 2 : f->count - (index + 1) / 2;
}

/* True when no plain round too close to this one uses the factor. */
static bool factor_is_free(const struct factors *f, uint64_t round, size_t factor)
{
    uint64_t first = round < GOSSIP_PAIR_GAP - 1 ? 0 : round - (GOSSIP_PAIR_GAP - 1);
    if (!f->apart)
        return true;
    for (uint64_t other = first; other < round + GOSSIP_PAIR_GAP; other++)
        if (other != round && plain_factor(f, other) == factor)
            return false;
    return true;
}

/* True and *out when this round pairs by speed. */
static bool speed_factor(const struct factors *f, uint64_t round, size_t *out)
{
    uint64_t block = round / GOSSIP_SPEED_BLOCK;
    uint64_t drawn = hashed_number("dunlin pair speed", f->run, block);
    if (!f->mixed || drawn % GOSSIP_SPEED_BLOCK != round % GOSSIP_SPEED_BLOCK)
        return false;
    size_t near = near_count(f);
    size_t kinds = near < SPEED_KINDS ? near : SPEED_KINDS;
    size_t kind = (size_t)(block % kinds);
    size_t choices = (near - kind + kinds - 1) / kinds;
    size_t start = (size_t)(drawn / GOSSIP_SPEED_BLOCK % choices);
    for (size_t i = 0; i < choices; i++) {
        size_t factor = near_factor(f, kind + kinds * ((start + i) % choices));
        if (factor_is_free(f, round, factor)) {
            *out = factor;
            return true;
        }
    }
    return false;
}

/* The ring is folded so that slots near each other lie at equal distances left and right of place 0: slot 0
 * there, slot 1 in the middle of it all, which meets whoever would meet itself; factor 0 then pairs slots 2k
 * and 2k + 1, factors 1 and n - 1 the next nearest. */
static size_t place_of(size_t slot, size_t ring)
{
    if (slot == 1)
        return ring;
    return slot % 2 == 0 ? (ring - slot / 2) % ring : slot / 2;
}

static size_t slot_at(size_t place, size_t ring)
{
    if (place == ring)
        return 1;
    return place == 0 ? 0 : place <= ring / 2 ? 2 * place + 1 : 2 * (ring - place);
}

/* Circle method: places i and j of the ring meet when i + j = sum mod its size. */
static size_t circle_partner(size_t own, size_t sum, size_t ring)
{
    size_t place = place_of(own, ring);
    if (place == ring) {
        /* 2 i = sum mod ring; ring is odd, so that (ring + 1) / 2 is the inverse of 2. */
        return slot_at(sum * ((ring + 1) / 2) % ring, ring);
    }
    size_t other = (sum + ring - place) % ring;
    return slot_at(other == place ? ring : other, ring);
}

bool gossip_pair(const struct id *run, uint64_t round, unsigned fragments, const struct gossip_view *view,
                 const struct id *self, struct id *partner)
{
    struct ranked members[GOSSIP_MEMBERS_MAX];
    struct factors f;
    ASSERT(view->count <= GOSSIP_MEMBERS_MAX);
    ASSERT(fragments >= 1 && fragments <= GOSSIP_FRAGMENTS_MAX);
    if (view->count < 2)
        return false;
    size_t own = rank_members(run, view, self, members);
    if (own == view->count)
        return false;
    size_t empty = view->count % 2; /* slot 0, beside the slowest */
    factors_of(&f, run, fragments, view);
    size_t factor;
    if (!speed_factor(&f, round, &factor))
        factor = plain_factor(&f, round);
    own += empty;
    size_t other = f.cube ? own ^ factor : circle_partner(own, factor, f.count);
    ASSERT(other < f.slots && other != own);
    if (other < empty)
        return false;
    *partner = view->entries[members[other - empty].index].id;
    return true;
}

bool gossip_pair_by_speed(const struct id *run, uint64_t round, unsigned fragments,
                          const struct gossip_view *view)
{
    struct factors f;
    size_t factor;
    ASSERT(fragments >= 1 && fragments <= GOSSIP_FRAGMENTS_MAX);
    if (view->count < 2)
        return false;
    factors_of(&f, run, fragments, view);
    return speed_factor(&f, round, &factor);
}

bool gossip_pair_invites(const struct id *self, const struct id *partner)
{
    return id_compare(self, partner) < 0;
}
