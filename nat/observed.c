#include "nat/observed.h"

#include <assert.h>
#include <string.h>

void nat_observed_init(struct nat_observed *observed, size_t agree, uint64_t report_life_ns)
{
    ASSERT(agree >= 1);
    memset(observed, 0, sizeof *observed);
    observed->agree = agree;
    observed->report_life_ns = report_life_ns;
}

enum { SCOPES = 3, GLOBAL_AT = 2, NO_SLOT = NAT_OBSERVED_SLOTS, ALL_BUT_ONE_MIN = 3 };

static_assert(NAT_OBSERVED_SLOTS == 2 * SCOPES, "a slot per family and scope");

/* Slot of a family and scope, or NO_SLOT where none is kept. */
static size_t slot_of(uint8_t family, enum net_scope scope)
{
    size_t first = family == NET_FAMILY_V6 ? SCOPES : 0;
    switch (scope) {
    case NET_SCOPE_LOOPBACK:
        return first;
    case NET_SCOPE_PRIVATE:
        return first + 1;
    case NET_SCOPE_GLOBAL:
        return first + GLOBAL_AT;
    case NET_SCOPE_LINK:
    case NET_SCOPE_INVALID:
        break;
    }
    return NO_SLOT;
}

/* Groups that report this address; there is one report a group. */
static size_t support(const struct nat_observed_slot *slot, const struct net_addr *seen)
{
    size_t count = 0;
    for (size_t i = 0; i < slot->report_count; i++)
        count += net_addr_equal(&slot->reports[i].seen, seen);
    return count;
}

static void set_current(struct nat_observed_slot *slot, const struct net_addr *addr)
{
    slot->current = *addr;
    slot->changed = !net_addr_equal(&slot->current, &slot->reported);
}

/* The address most groups agree on becomes ours; the present one stays on a tie, and as long as anyone still
 * sees it and no other has enough support. */
static void elect(const struct nat_observed *observed, struct nat_observed_slot *slot)
{
    size_t needed = (size_t)(slot - observed->slots) % SCOPES == GLOBAL_AT ? observed->agree : 1;
    struct net_addr none = {.family = NET_FAMILY_NONE};
    size_t present = slot->current.family == NET_FAMILY_NONE ? 0 : support(slot, &slot->current);
    const struct net_addr *best = NULL;
    size_t best_count = present;
    for (size_t i = 0; i < slot->report_count; i++) {
        size_t count = support(slot, &slot->reports[i].seen);
        if (count >= needed && count > best_count) {
            best = &slot->reports[i].seen;
            best_count = count;
        }
    }
    if (best != NULL)
        set_current(slot, best);
    else if (present == 0)
        set_current(slot, &none);
}

static void forget(struct nat_observed_slot *slot, uint64_t now_ns, uint64_t life_ns)
{
    size_t kept = 0;
    for (size_t i = 0; i < slot->report_count; i++) {
        if (now_ns - slot->reports[i].at_ns < life_ns)
            slot->reports[kept++] = slot->reports[i];
    }
    slot->report_count = kept;
}

/* Where the group's report goes: over its last one, at the end, or over the oldest. */
static struct nat_observed_report *place(struct nat_observed_slot *slot, const struct net_addr *observer)
{
    struct nat_observed_report *oldest = &slot->reports[0];
    for (size_t i = 0; i < slot->report_count; i++) {
        if (net_addr_same_group(&slot->reports[i].observer, observer))
            return &slot->reports[i];
        if (slot->reports[i].at_ns < oldest->at_ns)
            oldest = &slot->reports[i];
    }
    return slot->report_count < NAT_OBSERVED_REPORTS_MAX ? &slot->reports[slot->report_count++] : oldest;
}

int nat_observed_report(struct nat_observed *observed, uint64_t now_ns, const struct net_addr *observer,
                        const struct net_addr *seen)
{
    enum net_scope scope = net_addr_scope(seen);
    size_t index = slot_of(seen->family, scope);
    if (index == NO_SLOT || observer->family != seen->family || net_addr_scope(observer) != scope ||
        observer->via != NET_VIA_MAIN)
        return ERR_REFUSED;
    struct nat_observed_slot *slot = &observed->slots[index];
    forget(slot, now_ns, observed->report_life_ns);
    *place(slot, observer) =
        (struct nat_observed_report){.observer = *observer, .seen = *seen, .at_ns = now_ns};
    elect(observed, slot);
    return ERR_OK;
}

void nat_observed_tick(struct nat_observed *observed, uint64_t now_ns)
{
    for (size_t i = 0; i < NAT_OBSERVED_SLOTS; i++) {
        forget(&observed->slots[i], now_ns, observed->report_life_ns);
        elect(observed, &observed->slots[i]);
    }
}

bool nat_observed_poll_event(struct nat_observed *observed, struct nat_observed_event *out)
{
    for (size_t i = 0; i < NAT_OBSERVED_SLOTS; i++) {
        struct nat_observed_slot *slot = &observed->slots[i];
        if (!slot->changed)
            continue;
        *out = (struct nat_observed_event){.old = slot->reported, .now = slot->current};
        slot->reported = slot->current;
        slot->changed = false;
        return true;
    }
    return false;
}

int nat_observed_address(const struct nat_observed *observed, enum net_family family, enum net_scope scope,
                         struct net_addr *out)
{
    size_t index = slot_of((uint8_t)family, scope);
    if (index == NO_SLOT || observed->slots[index].current.family == NET_FAMILY_NONE)
        return ERR_NOT_FOUND;
    *out = observed->slots[index].current;
    return ERR_OK;
}

enum nat_mapping nat_observed_mapping(const struct nat_observed *observed, enum net_family family)
{
    const struct nat_observed_slot *slot = &observed->slots[slot_of((uint8_t)family, NET_SCOPE_GLOBAL)];
    if (slot->report_count < 2)
        return NAT_MAPPING_UNKNOWN;
    size_t agree = 0;
    bool varies = false;
    bool several = false;
    for (size_t i = 0; i < slot->report_count; i++) {
        const struct net_addr *seen = &slot->reports[i].seen;
        size_t same = support(slot, seen);
        agree = same > agree ? same : agree;
        varies |= seen->port != slot->reports[0].seen.port;
        several |= memcmp(seen->ip, slot->reports[0].seen.ip, sizeof seen->ip) != 0;
    }
    if (agree >= ALL_BUT_ONE_MIN && agree + 1 >= slot->report_count)
        return NAT_MAPPING_STABLE; /* one alone may lie */
    if (several)
        return NAT_MAPPING_UNKNOWN; /* several outer addresses, or several lie */
    return varies ? NAT_MAPPING_VARIES : NAT_MAPPING_STABLE;
}

void nat_observed_check_invariants(const struct nat_observed *observed)
{
    for (size_t i = 0; i < NAT_OBSERVED_SLOTS; i++) {
        const struct nat_observed_slot *slot = &observed->slots[i];
        ASSERT(slot->report_count <= NAT_OBSERVED_REPORTS_MAX);
        ASSERT(slot->changed == !net_addr_equal(&slot->current, &slot->reported));
        for (size_t k = 0; k < slot->report_count; k++) {
            const struct net_addr *seen = &slot->reports[k].seen;
            ASSERT(slot_of(seen->family, net_addr_scope(seen)) == i);
            for (size_t j = 0; j < k; j++)
                ASSERT(!net_addr_same_group(&slot->reports[j].observer, &slot->reports[k].observer));
        }
        ASSERT(slot->current.family == NET_FAMILY_NONE || support(slot, &slot->current) > 0);
    }
}
