#include "nat/punch_internal.h"

#include <string.h>

/* How a NAT counts for punching, as in the table of nat/README.md. */
enum punch_class {
    CLASS_OPEN,   /* one port, and lets in hosts that were sent to */
    CLASS_PORT,   /* one port, lets in only what was sent to; also what is not known */
    CLASS_SERIES, /* ports in sequence */
    CLASS_RANDOM,
};

static enum punch_class class_of(const struct nat_punch_profile *p)
{
    switch (p->mapping) {
    case NAT_PUNCH_SEQUENTIAL:
        return CLASS_SERIES;
    case NAT_PUNCH_RANDOM:
        return CLASS_RANDOM;
    case NAT_PUNCH_EASY:
        if (p->filtering == NAT_PUNCH_FILTER_NONE || p->filtering == NAT_PUNCH_FILTER_ADDRESS)
            return CLASS_OPEN;
        return CLASS_PORT;
    case NAT_PUNCH_UNKNOWN:
        break;
    }
    return CLASS_PORT;
}

bool punch_is_many(const struct nat_punch_profile *profile)
{
    return class_of(profile) >= CLASS_SERIES;
}

static enum nat_punch_strategy by_class(const struct nat_punch_profile *a, const struct nat_punch_profile *b)
{
    enum punch_class one = class_of(a), other = class_of(b);
    enum punch_class low = one < other ? one : other, high = one < other ? other : one;
    if (low == CLASS_OPEN || high == CLASS_PORT)
        return NAT_PUNCH_PLAIN;
    if (low == CLASS_PORT)
        return high == CLASS_SERIES ? NAT_PUNCH_PREDICT : NAT_PUNCH_BIRTHDAY;
    return high == CLASS_SERIES ? NAT_PUNCH_PREDICT_BOTH : NAT_PUNCH_NO_STRATEGY;
}

enum nat_punch_strategy nat_punch_choose(const struct nat_punch_profile *a, const struct nat_punch_profile *b,
                                         bool shortcut, unsigned attempt)
{
    if (attempt == 1 && (a->reachable || b->reachable))
        return NAT_PUNCH_REVERSAL;
    if (attempt == 1 && shortcut)
        return NAT_PUNCH_PLAIN;
    return by_class(a, b);
}

static bool same_ip(const struct net_addr *a, const struct net_addr *b)
{
    return a->family != NET_FAMILY_NONE && a->family == b->family && memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

/* Behind one NAT, or in one IPv6 network: private addresses may mean the same to both. */
static bool share_network(const struct nat_punch_profile *a, const struct nat_punch_profile *b)
{
    bool both6 = a->public6.family == NET_FAMILY_V6 && b->public6.family == NET_FAMILY_V6;
    return same_ip(&a->public4, &b->public4) || (both6 && memcmp(a->public6.ip, b->public6.ip, 8) == 0);
}

static bool has_v6(const struct punch_side *side)
{
    for (size_t i = 0; i < side->count; i++) {
        const struct net_addr *addr = &side->candidates[i].addr;
        if (addr->family == NET_FAMILY_V6 && net_addr_scope(addr) == NET_SCOPE_GLOBAL)
            return true;
    }
    return false;
}

/* A port that a router has mapped lets anybody in, whatever its NAT does with other traffic. */
static bool has_mapped(const struct punch_side *side)
{
    for (size_t i = 0; i < side->count; i++) {
        if (side->candidates[i].source == NAT_PUNCH_MAPPED)
            return true;
    }
    return false;
}

bool punch_shortcut(const struct punch_side *a, const struct punch_side *b)
{
    return has_mapped(a) || has_mapped(b) || (has_v6(a) && has_v6(b)) ||
           share_network(&a->profile, &b->profile);
}

unsigned punch_attempts(const struct punch_side *a, const struct punch_side *b, bool shortcut)
{
    bool eased = shortcut || a->profile.reachable || b->profile.reachable;
    switch (by_class(&a->profile, &b->profile)) {
    case NAT_PUNCH_NO_STRATEGY:
        return 1;
    case NAT_PUNCH_BIRTHDAY: /* costs most; two are enough */
        return eased ? 3 : 2;
    case NAT_PUNCH_REVERSAL:
    case NAT_PUNCH_PLAIN:
    case NAT_PUNCH_PREDICT:
    case NAT_PUNCH_PREDICT_BOTH:
        break;
    }
    return NAT_PUNCH_ATTEMPTS_MAX;
}

struct net_addr punch_public4(const struct punch_side *side)
{
    static const enum nat_punch_source order[] = {NAT_PUNCH_FRESH, NAT_PUNCH_OBSERVED, NAT_PUNCH_V4,
                                                  NAT_PUNCH_MAPPED};
    for (size_t k = 0; k < sizeof order / sizeof order[0]; k++) {
        for (size_t i = 0; i < side->count; i++) {
            const struct net_addr *addr = &side->candidates[i].addr;
            if (side->candidates[i].source == order[k] && addr->family == NET_FAMILY_V4 &&
                net_addr_scope(addr) == NET_SCOPE_GLOBAL)
                return *addr;
        }
    }
    return (struct net_addr){.family = NET_FAMILY_NONE};
}

static bool knows_public4(const struct nat_punch_profile *p)
{
    return p->public4.family == NET_FAMILY_V4 && net_addr_scope(&p->public4) == NET_SCOPE_GLOBAL;
}

/* A NAT with many ports is aimed at by its public address, any other at one outer port. */
static bool can_be_aimed_at(const struct punch_side *side)
{
    bool many = punch_is_many(&side->profile);
    return many ? knows_public4(&side->profile) : punch_public4(side).family == NET_FAMILY_V4;
}

enum nat_punch_reason punch_feasible(enum nat_punch_strategy strategy, const struct punch_side *a,
                                     const struct punch_side *b)
{
    switch (strategy) {
    case NAT_PUNCH_NO_STRATEGY:
        return NAT_PUNCH_HOPELESS;
    case NAT_PUNCH_REVERSAL:
    case NAT_PUNCH_PLAIN:
        return a->count + b->count > 0 ? NAT_PUNCH_DONE : NAT_PUNCH_NO_ADDRESS;
    case NAT_PUNCH_PREDICT:
    case NAT_PUNCH_PREDICT_BOTH:
    case NAT_PUNCH_BIRTHDAY:
        break;
    }
    return can_be_aimed_at(a) && can_be_aimed_at(b) ? NAT_PUNCH_DONE : NAT_PUNCH_NO_ADDRESS;
}

size_t punch_usable(const struct punch_side *ours, const struct punch_side *theirs,
                    struct nat_punch_candidate out[NAT_PUNCH_CANDIDATES_MAX])
{
    bool near = share_network(&ours->profile, &theirs->profile);
    size_t count = 0;
    for (size_t i = 0; i < theirs->count; i++) {
        enum net_scope scope = net_addr_scope(&theirs->candidates[i].addr);
        bool repeated = false;
        for (size_t k = 0; k < count; k++)
            repeated = repeated || net_addr_equal(&out[k].addr, &theirs->candidates[i].addr);
        if (!repeated && (scope == NET_SCOPE_GLOBAL || (scope == NET_SCOPE_PRIVATE && near)))
            out[count++] = theirs->candidates[i];
    }
    return count;
}

uint16_t punch_sockets_needed(enum nat_punch_strategy strategy, const struct nat_punch_profile *ours)
{
    switch (strategy) {
    case NAT_PUNCH_NO_STRATEGY:
    case NAT_PUNCH_REVERSAL:
    case NAT_PUNCH_PLAIN:
        return 0;
    case NAT_PUNCH_PREDICT: /* a new port for certain: the main one may already have been seen by the peer */
        return class_of(ours) == CLASS_SERIES ? 1 : 0;
    case NAT_PUNCH_PREDICT_BOTH:
        return PUNCH_PREDICT_PORTS;
    case NAT_PUNCH_BIRTHDAY:
        return class_of(ours) == CLASS_RANDOM ? PUNCH_BIRTHDAY_SOCKETS : 0;
    }
    return 0;
}

bool punch_survey_needed(enum nat_punch_strategy strategy, const struct nat_punch_profile *ours)
{
    return (strategy == NAT_PUNCH_PREDICT || strategy == NAT_PUNCH_PREDICT_BOTH) &&
           class_of(ours) == CLASS_SERIES;
}

bool punch_profile_valid(const struct nat_punch_profile *p)
{
    bool sequential = p->mapping == NAT_PUNCH_SEQUENTIAL;
    if (p->mapping > NAT_PUNCH_RANDOM || p->filtering > NAT_PUNCH_FILTER_PORT)
        return false;
    if (sequential != (p->step != 0) || p->step < -NAT_PUNCH_STEP_MAX || p->step > NAT_PUNCH_STEP_MAX)
        return false;
    return (p->public4.family == NET_FAMILY_NONE || p->public4.family == NET_FAMILY_V4) &&
           (p->public6.family == NET_FAMILY_NONE || p->public6.family == NET_FAMILY_V6);
}

const char *nat_punch_strategy_text(enum nat_punch_strategy strategy)
{
    switch (strategy) {
    case NAT_PUNCH_NO_STRATEGY:
        return "none";
    case NAT_PUNCH_REVERSAL:
        return "dial the reachable side";
    case NAT_PUNCH_PLAIN:
        return "plain";
    case NAT_PUNCH_PREDICT:
        return "port prediction";
    case NAT_PUNCH_PREDICT_BOTH:
        return "port prediction on both sides";
    case NAT_PUNCH_BIRTHDAY:
        return "many sockets against random ports";
    }
    return "?";
}

const char *nat_punch_reason_text(enum nat_punch_reason reason)
{
    static const char *const texts[NAT_PUNCH_REASONS] = {
        [NAT_PUNCH_DONE] = "a direct way is open",
        [NAT_PUNCH_SILENCE] = "no probe came through",
        [NAT_PUNCH_HOPELESS] = "both NATs draw ports that cannot be guessed: relay only",
        [NAT_PUNCH_NO_ANSWER] = "the peer does not answer over the standing route",
        [NAT_PUNCH_NO_SURVEY] = "the port trend of our NAT could not be measured",
        [NAT_PUNCH_NO_SOCKETS] = "auxiliary sockets are in use or not to be had",
        [NAT_PUNCH_NO_ADDRESS] = "a side does not know its public address",
        [NAT_PUNCH_REFUSED] = "the peer is busy or has had too many rounds",
        [NAT_PUNCH_CANCELLED] = "cancelled",
        [NAT_PUNCH_SUPERSEDED] = "the peer began another round",
    };
    return (unsigned)reason < NAT_PUNCH_REASONS ? texts[reason] : "?";
}
