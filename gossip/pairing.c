/* Hash order below GOSSIP_ROBIN_MIN members, a shuffled round-robin from there on. */
#include "gossip/pairing.h"

#include <string.h>

#include "base/hash.h"

/* Something to be ordered by hash: a member (index into the view) or a sum of the tournament. */
struct ranked {
    struct id hash;
    uint16_t index;
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

static void sift_down(struct ranked heap[], size_t at, size_t count)
{
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count)
            return;
        if (child + 1 < count && id_compare(&heap[child].hash, &heap[child + 1].hash) < 0)
            child++;
        if (id_compare(&heap[at].hash, &heap[child].hash) >= 0)
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

/* Ranks the view's members and returns self's rank, or count when self is not among them. */
static size_t rank_members(const char *label, const struct id *run, uint64_t number,
                           const struct gossip_view *view, const struct id *self, struct ranked members[])
{
    for (size_t i = 0; i < view->count; i++)
        members[i] = ranked_of(label, run, number, bytes_of(view->entries[i].id.bytes, ID_BYTES), i);
    rank(members, view->count);
    size_t own = 0;
    while (own < view->count && !id_equal(&view->entries[members[own].index].id, self))
        own++;
    return own;
}

/* The tournament's sum for this round: the sums 0..m-2 in hashed order, one a round. */
static size_t robin_sum(const struct id *run, uint64_t round, size_t m)
{
    struct ranked sums[GOSSIP_MEMBERS_MAX];
    for (size_t i = 0; i + 1 < m; i++) {
        uint8_t index[2] = {(uint8_t)(i >> 8), (uint8_t)i};
        sums[i] = ranked_of("dunlin pair sum", run, m, bytes_of(index, sizeof index), i);
    }
    rank(sums, m - 1);
    return sums[round % (m - 1)].index;
}

/* Circle method: slots 0..m-2 in a ring and m-1 fixed; i and j meet when i + j = sum mod (m - 1); the slot
 * that would meet itself meets the fixed one.  Returns the partner's slot. */
static size_t robin_partner(size_t own, size_t sum, size_t m)
{
    size_t ring = m - 1;
    if (own == ring) {
        /* 2 i = sum mod ring; ring is odd, so that (ring + 1) / 2 is the inverse of 2. */
        return sum * ((ring + 1) / 2) % ring;
    }
    size_t other = (sum + ring - own) % ring;
    return other == own ? ring : other;
}

bool gossip_pair(const struct id *run, uint64_t round, const struct gossip_view *view, const struct id *self,
                 struct id *partner)
{
    struct ranked members[GOSSIP_MEMBERS_MAX];
    size_t count = view->count;
    size_t other;
    ASSERT(count <= GOSSIP_MEMBERS_MAX);
    if (count < 2)
        return false;
    if (count < GOSSIP_ROBIN_MIN) {
        size_t own = rank_members("dunlin pair order", run, round, view, self, members);
        if (own == count)
            return false;
        other = own ^ 1;
    } else {
        size_t own = rank_members("dunlin pair slot", run, 0, view, self, members);
        size_t m = count + count % 2;
        if (own == count)
            return false;
        other = robin_partner(own, robin_sum(run, round, m), m);
    }
    if (other >= count)
        return false;
    *partner = view->entries[members[other].index].id;
    return true;
}

bool gossip_pair_invites(const struct id *self, const struct id *partner)
{
    return id_compare(self, partner) < 0;
}
