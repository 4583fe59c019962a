/* What a survey's answers mean. */
#include <stdlib.h>
#include <string.h>

#include "nat/reach_internal.h"

enum {
    STEP_MAX = 16,
    GAP_MAX = 256, /* between two successive ports of ours, foreign flows included */
};

/* Answered samples in the order in which their ports were given out. */
struct answers {
    const struct reach_sample *at[REACH_SAMPLES_MAX];
    size_t count;
};

static void insert(struct answers *answers, const struct reach_sample *sample)
{
    size_t at = answers->count++;
    for (; at > 0 && answers->at[at - 1]->order_ns > sample->order_ns; at--)
        answers->at[at] = answers->at[at - 1];
    answers->at[at] = sample;
}

/* Samples whose destination IP none before had: one vote an observer. */
static bool is_repeat(const struct answers *answers, size_t index)
{
    for (size_t i = 0; i < index; i++) {
        if (reach_same_ip(&answers->at[i]->to, &answers->at[index]->to))
            return true;
    }
    return false;
}

static struct answers distinct(const struct answers *answers)
{
    struct answers out = {.count = 0};
    for (size_t i = 0; i < answers->count; i++) {
        if (!is_repeat(answers, i))
            out.at[out.count++] = answers->at[i];
    }
    return out;
}

static size_t votes_for_ip(const struct answers *answers, const struct net_addr *seen)
{
    size_t votes = 0;
    for (size_t i = 0; i < answers->count; i++)
        votes += reach_same_ip(&answers->at[i]->seen, seen);
    return votes;
}

static size_t votes_for_port(const struct answers *answers, uint16_t port)
{
    size_t votes = 0;
    for (size_t i = 0; i < answers->count; i++)
        votes += answers->at[i]->seen.port == port;
    return votes;
}

/* Splits off those who see another IP than most; notes the IP, and whether several others see a second. */
static struct answers agreeing(const struct answers *answers, struct nat_reach_profile *profile)
{
    struct answers votes = distinct(answers);
    struct answers out = {.count = 0};
    const struct net_addr *outer = &votes.at[0]->seen;
    for (size_t i = 1; i < votes.count; i++) {
        if (votes_for_ip(&votes, &votes.at[i]->seen) > votes_for_ip(&votes, outer))
            outer = &votes.at[i]->seen;
    }
    size_t agree = votes_for_ip(&votes, outer);
    profile->outer = *outer;
    profile->outer.port = 0;
    profile->address_varies = votes.count - agree > 1 || 2 * agree <= votes.count;
    for (size_t i = 0; i < answers->count; i++) {
        if (profile->address_varies || reach_same_ip(&answers->at[i]->seen, outer))
            out.at[out.count++] = answers->at[i];
    }
    return out;
}

static int gcd(int a, int b)
{
    while (b != 0) {
        int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The step that explains ports given out in this order, leaving out the one at `omit`; 0: none does.  Foreign
 * flows in between make gaps multiples of it, so it is their greatest common divisor. */
static int step_without(const struct answers *answers, size_t omit)
{
    int previous = -1;
    int step = 0;
    int sign = 0;
    size_t gaps = 0;
    for (size_t i = 0; i < answers->count; i++) {
        int port = answers->at[i]->seen.port;
        if (i == omit)
            continue;
        if (previous >= 0) {
            int gap = (int16_t)(uint16_t)(port - previous); /* the counter may wrap */
            if (gap == 0 || abs(gap) > GAP_MAX || (sign != 0 && (gap > 0) != (sign > 0)))
                return 0;
            sign = gap > 0 ? 1 : -1;
            step = gcd(abs(gap), step);
            gaps++;
        }
        previous = port;
    }
    return gaps > 0 && step <= STEP_MAX ? sign * step : 0;
}

/* All together, or all but one who lies or whose datagram was late.  *omit: who was left out. */
static int step_of(const struct answers *answers, size_t *omit)
{
    *omit = SIZE_MAX;
    int step = step_without(answers, SIZE_MAX);
    for (size_t i = 0; i < answers->count && step == 0 && answers->count >= 4; i++) {
        step = step_without(answers, i);
        *omit = step != 0 ? i : SIZE_MAX;
    }
    return step;
}

/* By destinations that share an IP: does another port there get another outer port? */
static void compare_pairs(const struct answers *answers, struct nat_reach_profile *profile)
{
    size_t same = 0;
    size_t other = 0;
    for (size_t i = 0; i < answers->count; i++) {
        for (size_t k = 0; k < i; k++) {
            const struct reach_sample *a = answers->at[i];
            const struct reach_sample *b = answers->at[k];
            if (!reach_same_ip(&a->to, &b->to) || a->to.port == b->to.port)
                continue;
            same += a->seen.port == b->seen.port;
            other += a->seen.port != b->seen.port;
        }
    }
    profile->pair_known = same != other;
    profile->mapping = same > other ? NAT_REACH_MAPPING_ADDRESS : NAT_REACH_MAPPING_ADDRESS_PORT;
}

static void dependent(const struct answers *answers, const struct answers *votes, uint16_t local_port,
                      struct nat_reach_profile *profile)
{
    size_t omit = SIZE_MAX;
    compare_pairs(answers, profile);
    const struct answers *series = profile->mapping == NAT_REACH_MAPPING_ADDRESS ? votes : answers;
    profile->step = profile->address_varies ? 0 : step_of(series, &omit);
    if (profile->step == 0 && !profile->address_varies && series != votes && votes->count < answers->count) {
        series = votes; /* does one of the pair lie, so that its two answers disagree? */
        profile->step = step_of(series, &omit);
        profile->pair_known &= profile->step == 0;
    }
    size_t last = series->count - 1;
    if (profile->step != 0 && omit == last)
        last--;
    profile->trend_port = series->at[last]->seen.port;
    profile->trend_ns = series->at[last]->order_ns;
    profile->port_preserved = local_port != 0 && series->at[0]->seen.port == local_port;
}

static bool is_local(const struct net_addr *addr, const struct net_addr locals[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (reach_same_ip(&locals[i], addr))
            return true;
    }
    return false;
}

void reach_classify(const struct reach_sample samples[], size_t count, const struct net_addr locals[],
                    size_t local_count, uint16_t local_port, struct nat_reach_profile *profile)
{
    struct answers all = {.count = 0};
    ASSERT(count <= REACH_SAMPLES_MAX);
    for (size_t i = 0; i < count; i++) {
        if (samples[i].answered)
            insert(&all, &samples[i]);
    }
    profile->mapping = NAT_REACH_MAPPING_UNKNOWN;
    profile->step = 0;
    profile->pair_known = profile->address_varies = profile->port_preserved = false;
    profile->observers = distinct(&all).count;
    if (all.count == 0)
        return;
    struct answers answers = agreeing(&all, profile);
    struct answers votes = distinct(&answers);
    const struct reach_sample *last = answers.at[answers.count - 1];
    profile->trend_port = last->seen.port;
    profile->trend_ns = last->order_ns;
    if (votes.count < 2 || (votes.count == 2 && profile->address_varies))
        return; /* one observer, or two of whom one must be wrong */
    uint16_t common = votes.at[0]->seen.port;
    for (size_t i = 1; i < votes.count; i++) {
        if (votes_for_port(&votes, votes.at[i]->seen.port) > votes_for_port(&votes, common))
            common = votes.at[i]->seen.port;
    }
    if (2 * votes_for_port(&votes, common) <= votes.count || profile->address_varies) {
        dependent(&answers, &votes, local_port, profile);
        return;
    }
    profile->mapping = is_local(&profile->outer, locals, local_count) ? NAT_REACH_MAPPING_NONE
                                                                      : NAT_REACH_MAPPING_INDEPENDENT;
    profile->trend_port = common;
    profile->port_preserved = local_port != 0 && common == local_port;
}
