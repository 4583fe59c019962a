/* The end of a run: members decide by what they measured and by what the others say that their replicas have
 * become one, with real merges of real codecs under them, whatever fails on the way; and nobody waits longer
 * than the bound.  Run with --verbose for the table. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "gossip/finish.h"
#include "gossip/merge/job.h"
#include "gossip/pairing.h"
#include "numbers.h"

enum { N_MAX = 16, FRAGMENTS = 2, LEN = 1024, BLOCKS = LEN / GOSSIP_BLOCK, ROUNDS = 400 };

static const struct gossip_tensor tensor[1] = {{0, LEN, GOSSIP_TENSOR_MATRIX}};

/* ---- the decisions alone ---- */

static uint64_t cycle; /* of the last merge_all */

static void merge_all(struct gossip_finish *f, unsigned times, float relative)
{
    for (unsigned k = 0; k < times; k++) {
        cycle++;
        for (size_t i = 0; i < f->fragment_count; i++)
            gossip_finish_merged(f, i, cycle, relative);
    }
}

Test(finish, looks_back_on_as_many_merges_as_a_hypercube_has_dimensions)
{
    const struct {
        size_t members;
        unsigned window, cycles;
    } cases[] = {{1, 1, 16}, {2, 1, 28}, {3, 2, 40}, {4, 2, 40}, {5, 3, 52}, {16, 4, 64}, {256, 8, 112}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cr_assert_eq(gossip_finish_window(cases[i].members), cases[i].window);
        cr_assert_eq(gossip_finish_cycles_max(cases[i].members), cases[i].cycles);
    }
}

/* One far merge within the window, in one fragment of three, is enough not to be settled. */
Test(finish, settles_when_every_fragment_has)
{
    struct gossip_finish f;
    gossip_finish_begin(&f, 3, true);
    cr_assert_not(gossip_finish_settled(&f, 5));
    cr_assert(isnan(gossip_finish_spread(&f, 5)) && isnan(gossip_finish_spread_first(&f)));
    merge_all(&f, 1, 0.2f);
    merge_all(&f, 2, 0.0001f);
    cr_assert_not(gossip_finish_settled(&f, 5)); /* a window of three sees the first one */
    cr_assert(gossip_finish_settled(&f, 4));
    cr_assert_float_eq((double)gossip_finish_spread(&f, 5), 0.2, 1e-6);
    cr_assert_float_eq((double)gossip_finish_spread(&f, 4), 0.0001, 1e-9);
    merge_all(&f, 1, 0.0001f);
    cr_assert(gossip_finish_settled(&f, 5));
    gossip_finish_merged(&f, 1, ++cycle, GOSSIP_FINISH_TOLERANCE);
    cr_assert_not(gossip_finish_settled(&f, 2));
    cr_assert_float_eq((double)gossip_finish_spread_first(&f), 0.2, 1e-6);
    for (int k = 0; k < 4; k++)
        gossip_finish_alone(&f, 1); /* turns that failed tell nothing */
    cr_assert_not(gossip_finish_settled(&f, 2));
    gossip_finish_merged(&f, 1, cycle + 5, 0);
    cr_assert(gossip_finish_settled(&f, 2));
}

/* Of a hypercube whose other dimensions fail, one alone says nothing of the halves; a failure afterwards
 * takes nothing back, a far partner does. */
Test(finish, the_same_partner_twice_is_no_agreement)
{
    struct gossip_finish f;
    gossip_finish_begin(&f, 1, true);
    for (uint64_t at = 0; at < 15; at += 3) { /* four members have three matchings: always the same one */
        gossip_finish_merged(&f, 0, at, 0);
        gossip_finish_alone(&f, 0);
        cr_assert_not(gossip_finish_settled(&f, 4));
    }
    gossip_finish_merged(&f, 0, 13, 0);
    cr_assert(gossip_finish_settled(&f, 4));
    gossip_finish_alone(&f, 0);
    cr_assert(gossip_finish_settled(&f, 4));
    gossip_finish_merged(&f, 0, 15, 0.01f);
    cr_assert_not(gossip_finish_settled(&f, 4));
}

static enum gossip_finish_verdict decide(const struct gossip_finish *f, size_t count, size_t settled,
                                         size_t done)
{
    struct gossip_finish_others others = {.count = count, .settled = settled, .done = done};
    return gossip_finish_decide(f, &others);
}

Test(finish, ends_when_all_have_settled_or_nobody_is_there)
{
    struct gossip_finish f;
    gossip_finish_begin(&f, 2, true);
    cr_assert_eq(decide(&f, 0, 0, 0), GOSSIP_FINISH_HURRY);
    gossip_finish_alone(&f, 0);
    cr_assert_eq(decide(&f, 0, 0, 0), GOSSIP_FINISH_HURRY);
    gossip_finish_alone(&f, 1);
    cr_assert_eq(decide(&f, 0, 0, 0), GOSSIP_FINISH_SETTLED);
    cr_assert_eq(decide(&f, 3, 3, 0), GOSSIP_FINISH_GO_ON); /* they have, we have not */
    merge_all(&f, 2, 0);
    cr_assert_eq(decide(&f, 3, 2, 0), GOSSIP_FINISH_GO_ON);
    cr_assert_eq(decide(&f, 3, 3, 0), GOSSIP_FINISH_SETTLED);
    cr_assert_eq(decide(&f, 3, 3, 3), GOSSIP_FINISH_SETTLED); /* they left because we had said so */
    for (unsigned k = 0; k < 2 * gossip_finish_cycles_max(4); k++)
        gossip_finish_alone(&f, 0);
    cr_assert_eq(decide(&f, 3, 2, 0), GOSSIP_FINISH_BOUND);
}

/* Members that claim to be done must not get their weights into the others, unless they are most of them. */
Test(finish, takes_over_a_state_only_when_most_others_are_done)
{
    struct gossip_finish f;
    gossip_finish_begin(&f, 2, true);
    cr_assert_eq(decide(&f, 3, 1, 1), GOSSIP_FINISH_GO_ON);
    cr_assert_eq(decide(&f, 3, 2, 2), GOSSIP_FINISH_FETCH);
    cr_assert_eq(decide(&f, 1, 1, 1), GOSSIP_FINISH_FETCH);
    cr_assert_eq(decide(&f, 8, 5, 4), GOSSIP_FINISH_GO_ON);
    cr_assert_eq(decide(&f, 8, 5, 5), GOSSIP_FINISH_FETCH);
    gossip_finish_fetch_failed(&f);
    cr_assert_eq(decide(&f, 3, 2, 2), GOSSIP_FINISH_GO_ON);
    merge_all(&f, gossip_finish_cycles_max(4), 0.5f);
    cr_assert_eq(decide(&f, 3, 2, 2), GOSSIP_FINISH_BOUND);
    gossip_finish_begin(&f, 2, false); /* who does not contribute is settled, waits, and fetches */
    cr_assert(gossip_finish_settled(&f, 3));
    cr_assert_eq(decide(&f, 3, 3, 0), GOSSIP_FINISH_GO_ON);
    cr_assert_eq(decide(&f, 3, 3, 3), GOSSIP_FINISH_FETCH);
}

/* ---- a swarm ---- */

struct member {
    struct gossip_finish finish;
    bool contributes, gone, done, bound, fetched;
    uint64_t heard; /* last round it took part in */
    float phi[FRAGMENTS][LEN], delta[FRAGMENTS][LEN], distances[FRAGMENTS][BLOCKS];
};

struct swarm {
    size_t count;
    enum gossip_codec codec;
    double failure;
    struct numbers numbers;
    struct id run;
    struct member members[N_MAX];
    struct gossip_member_state states[N_MAX];
    double mean[FRAGMENTS][LEN];
};

/* What one side sends in one exchange. */
struct parcel {
    uint8_t blob[4 * LEN], repairs[2 * LEN];
    uint32_t wanted[BLOCKS];
    struct gossip_sent sent;
};

static struct swarm s;

/* Replicas that differ by `apart` of their norm, as at the end of training. */
static void swarm_start(size_t count, enum gossip_codec codec, double apart, uint64_t seed)
{
    memset(&s, 0, sizeof s);
    s.count = count;
    s.codec = codec;
    numbers_init(&s.numbers, seed);
    s.run.bytes[0] = (uint8_t)seed;
    for (size_t f = 0; f < FRAGMENTS; f++) {
        float common[LEN];
        numbers_fill(&s.numbers, LEN, 0.1, common);
        for (size_t i = 0; i < count; i++)
            for (size_t k = 0; k < LEN; k++)
                s.members[i].phi[f][k] =
                    common[k] + (float)(0.1 * apart * sqrt(0.5) * numbers_normal(&s.numbers));
    }
    for (size_t i = 0; i < count; i++) {
        s.states[i].id.bytes[0] = (uint8_t)(1 + i);
        s.states[i].id.bytes[1] = (uint8_t)numbers_u64(&s.numbers);
        s.states[i].expires_ms = 1;
        s.members[i].contributes = true;
        gossip_finish_begin(&s.members[i].finish, FRAGMENTS, true);
        for (size_t f = 0; f < FRAGMENTS; f++)
            for (size_t k = 0; k < BLOCKS; k++)
                s.members[i].distances[f][k] = (float)(0.1 * apart);
    }
}

static void swarm_mean(void)
{
    memset(s.mean, 0, sizeof s.mean);
    double contributors = 0;
    for (size_t i = 0; i < s.count; i++)
        contributors += s.members[i].contributes && !s.members[i].gone;
    for (size_t i = 0; i < s.count; i++)
        for (size_t f = 0; f < FRAGMENTS && s.members[i].contributes && !s.members[i].gone; f++)
            for (size_t k = 0; k < LEN; k++)
                s.mean[f][k] += (double)s.members[i].phi[f][k] / contributors;
}

/* |weights - mean| / |mean| of the worst member that is still there. */
static double swarm_error(void)
{
    double worst = 0;
    for (size_t i = 0; i < s.count; i++) {
        double apart = 0, norm = 0;
        for (size_t f = 0; f < FRAGMENTS && !s.members[i].gone; f++)
            for (size_t k = 0; k < LEN; k++) {
                apart += pow((double)s.members[i].phi[f][k] - s.mean[f][k], 2);
                norm += pow(s.mean[f][k], 2);
            }
        worst = fmax(worst, norm > 0 ? sqrt(apart / norm) : 0);
    }
    return worst;
}

static bool pack_parcel(struct member *from, const struct member *to, size_t f, struct parcel *out)
{
    size_t len = gossip_blob_bytes(s.codec, tensor, 1), repair_len = 0;
    out->sent = (struct gossip_sent){.codec = s.codec, .blob = bytes_of(out->blob, len)};
    if (gossip_modular_bits(s.codec) == 0) {
        cr_assert_eq(gossip_encode(s.codec, tensor, 1, from->phi[f], out->blob, len), 0);
        return true;
    }
    struct gossip_modular_source source = {from->phi[f], from->phi[f], from->distances[f], GOSSIP_KAPPA, 1};
    cr_assert_eq(gossip_modular_encode(s.codec, tensor, 1, &source, out->blob, len), 0);
    int wrong = gossip_modular_check(s.codec, tensor, 1, out->sent.blob, to->phi[f], out->wanted);
    if (wrong < 0) {
        gossip_distances_widen(BLOCKS, from->distances[f]);
        return false;
    }
    cr_assert_eq(gossip_repair_bytes(tensor, 1, (size_t)wrong, out->wanted, &repair_len), 0);
    if (wrong > 0)
        cr_assert_eq(gossip_repair_encode(tensor, 1, (size_t)wrong, out->wanted, from->phi[f], out->repairs,
                                          repair_len),
                     0);
    out->sent.repaired = out->wanted;
    out->sent.repaired_count = (size_t)wrong;
    out->sent.repairs = bytes_of(out->repairs, repair_len);
    return true;
}

static void take(struct member *own, size_t f, uint64_t round, const struct parcel *mine,
                 const struct parcel *theirs)
{
    static float theta[LEN], diff[LEN];
    struct gossip_history none = {0};
    struct gossip_merge_report report;
    memcpy(theta, own->phi[f], sizeof theta);
    struct gossip_merge_input in = {.tensors = tensor,
                                    .tensor_count = 1,
                                    .outer = gossip_outer_plain(),
                                    .strangers = true,
                                    .partner_weight = 0.5f,
                                    .own_round = round,
                                    .partner_round = round,
                                    .theta = theta,
                                    .own = mine->sent,
                                    .partner = theirs->sent,
                                    .distances = own->distances[f]};
    cr_assert_eq(gossip_merge_job(&in, &none, own->phi[f], own->delta[f], diff, &report), 0);
    gossip_finish_merged(&own->finish, f, round / FRAGMENTS, (float)report.relative);
}

static void exchange(size_t i, size_t j, size_t f, uint64_t round)
{
    static struct parcel a, b;
    struct member *x = &s.members[i], *y = &s.members[j];
    bool both = pack_parcel(x, y, f, &a);
    both = pack_parcel(y, x, f, &b) && both;
    if (numbers_unit(&s.numbers) < s.failure || !both) {
        gossip_finish_alone(&x->finish, f);
        gossip_finish_alone(&y->finish, f);
        return;
    }
    take(x, f, round, &a, &b);
    take(y, f, round, &b, &a);
}

/* The others as member i's registers show them: those who vanished are believed to live for eight rounds. */
static struct gossip_finish_others others_of(size_t i, uint64_t round)
{
    struct gossip_finish_others out = {0};
    for (size_t k = 0; k < s.count; k++) {
        const struct member *m = &s.members[k];
        if (k == i || !m->contributes || (m->gone && m->heard + GOSSIP_LIVE_ROUNDS < round))
            continue;
        out.count++;
        out.done += m->done;
        out.settled += m->done || (!m->gone && gossip_finish_settled(&m->finish, s.count));
    }
    return out;
}

static void take_turns(uint64_t round, const struct gossip_view *view)
{
    size_t f = (size_t)(round % FRAGMENTS);
    for (size_t i = 0; i < s.count; i++) {
        struct id partner;
        if (s.members[i].gone || s.members[i].done)
            continue;
        s.members[i].heard = round;
        size_t j = 0;
        if (s.members[i].contributes &&
            gossip_pair(&s.run, round, FRAGMENTS, view, &s.states[i].id, &partner))
            while (!id_equal(&s.states[j].id, &partner))
                j++;
        else
            j = i;
        if (j == i || s.members[j].gone || s.members[j].done)
            gossip_finish_alone(&s.members[i].finish, f);
        else if (i < j)
            exchange(i, j, f, round);
    }
}

static void act(size_t i, uint64_t round)
{
    struct member *m = &s.members[i];
    struct gossip_finish_others others = others_of(i, round);
    size_t donor = 0;
    switch (gossip_finish_decide(&m->finish, &others)) {
    case GOSSIP_FINISH_GO_ON:
    case GOSSIP_FINISH_HURRY:
        return;
    case GOSSIP_FINISH_FETCH:
        while (donor == i || !s.members[donor].done)
            donor++;
        memcpy(m->phi, s.members[donor].phi, sizeof m->phi);
        m->fetched = m->done = true;
        return;
    case GOSSIP_FINISH_SETTLED:
        m->done = true;
        return;
    case GOSSIP_FINISH_BOUND:
        m->done = m->bound = true;
        return;
    }
}

/* One round: turns, then what each decides, in an order of its own.  True once everybody is done. */
static bool swarm_round(uint64_t round)
{
    static struct gossip_view view;
    struct gossip_member_state live[N_MAX];
    size_t count = 0, order[N_MAX];
    bool all = true;
    for (size_t i = 0; i < s.count; i++) {
        const struct member *m = &s.members[i];
        if (m->contributes && !m->done && (!m->gone || m->heard + GOSSIP_LIVE_ROUNDS >= round)) {
            live[count] = s.states[i];
            live[count++].progress_round = round;
        }
    }
    gossip_view_build(&view, round, 0, live, count);
    take_turns(round, &view);
    for (size_t i = 0; i < s.count; i++)
        order[i] = i;
    for (size_t i = s.count; i-- > 1;) {
        size_t k = numbers_below(&s.numbers, i + 1), held = order[i];
        order[i] = order[k];
        order[k] = held;
    }
    for (size_t i = 0; i < s.count; i++)
        if (!s.members[order[i]].gone && !s.members[order[i]].done)
            act(order[i], round);
    for (size_t i = 0; i < s.count; i++)
        all = all && (s.members[i].done || s.members[i].gone);
    return all;
}

/* Rounds until all are done. */
static uint64_t swarm_run(uint64_t first)
{
    uint64_t round = first;
    while (!swarm_round(round) && round < ROUNDS)
        round++;
    cr_assert_lt(round, ROUNDS, "%zu members, failures %g: not done", s.count, s.failure);
    return round - first + 1;
}

static void nobody_was_stopped_by_the_bound(void)
{
    for (size_t i = 0; i < s.count; i++)
        cr_assert_not(s.members[i].bound, "member %zu of %zu", i, s.count);
}

/* With fp32 the replicas become their mean to float32's rounding: a hypercube takes the cycles it needs to
 * average and as many to see it. */
Test(finish, a_swarm_ends_at_its_mean)
{
    const size_t counts[] = {2, 3, 4, 5, 8, 16};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        for (uint64_t seed = 1; seed <= 4; seed++) {
            size_t count = counts[c];
            swarm_start(count, GOSSIP_CODEC_FP32, 0.1, seed);
            swarm_mean();
            double before = swarm_error();
            uint64_t cycles = (swarm_run(101) + FRAGMENTS - 1) / FRAGMENTS;
            bool cube = (count & (count - 1)) == 0;
            cr_log_info("%2zu members: %llu cycles of at most %u, error %.3g -> %.3g", count,
                        (unsigned long long)cycles, gossip_finish_cycles_max(count), before, swarm_error());
            nobody_was_stopped_by_the_bound();
            cr_assert_lt(swarm_error(), cube ? 2e-6 : (double)GOSSIP_FINISH_TOLERANCE);
            if (cube)
                cr_assert_leq(cycles, 2 * gossip_finish_window(count) + 1);
        }
    }
}

/* A third of the exchanges fails: later, but the same mean. */
Test(finish, failures_delay_and_do_not_bend)
{
    const size_t counts[] = {2, 3, 5, 8, 16};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        for (uint64_t seed = 1; seed <= 4; seed++) {
            swarm_start(counts[c], GOSSIP_CODEC_FP32, 0.1, seed);
            s.failure = 0.33;
            swarm_mean();
            uint64_t rounds = swarm_run(7);
            cr_log_info("%2zu members: %llu cycles, error %.3g", counts[c],
                        (unsigned long long)(rounds / FRAGMENTS), swarm_error());
            cr_assert_leq(rounds, FRAGMENTS * gossip_finish_cycles_max(counts[c]) + FRAGMENTS);
            nobody_was_stopped_by_the_bound();
            cr_assert_lt(swarm_error(), (double)GOSSIP_FINISH_TOLERANCE);
        }
    }
}

/* Nothing gets through at all: everybody is done at the bound and says how far the others were. */
Test(finish, the_bound_holds_and_the_spread_is_told)
{
    swarm_start(5, GOSSIP_CODEC_FP32, 0.1, 3);
    s.failure = 1;
    cr_assert_eq(swarm_run(1), FRAGMENTS * gossip_finish_cycles_max(5));
    size_t stopped = 0;
    for (size_t i = 0; i < s.count; i++) {
        cr_assert(isnan(gossip_finish_spread(&s.members[i].finish, 5)));
        stopped += s.members[i].bound;
    }
    cr_assert_geq(stopped, 2);                 /* the others took over what these ended with */
    swarm_start(4, GOSSIP_CODEC_INT8, 0.1, 3); /* a codec whose noise is above the tolerance */
    uint64_t rounds = swarm_run(1);
    cr_assert_leq(rounds, FRAGMENTS * gossip_finish_cycles_max(4));
    bool bound = false;
    for (size_t i = 0; i < s.count; i++)
        bound = bound || (s.members[i].bound &&
                          gossip_finish_spread(&s.members[i].finish, 4) > GOSSIP_FINISH_TOLERANCE);
    cr_assert(bound);
}

/* One vanishes after its first merges: the others agree without it and leave when its registers are old. */
Test(finish, a_member_that_vanishes_is_not_waited_for)
{
    for (size_t count = 2; count <= 8; count += 3) {
        swarm_start(count, GOSSIP_CODEC_FP32, 0.1, count);
        for (uint64_t round = 1; round <= FRAGMENTS; round++)
            cr_assert_not(swarm_round(round));
        s.members[1].gone = true;
        swarm_mean(); /* of what they have now, its share included */
        uint64_t rounds = swarm_run(FRAGMENTS + 1);
        cr_assert_leq(rounds, FRAGMENTS * gossip_finish_cycles_max(count));
        nobody_was_stopped_by_the_bound();
        cr_assert_lt(swarm_error(), (double)GOSSIP_FINISH_TOLERANCE);
    }
}

/* Who joins in the middle, from one member's weights of then, leaves the mean as it was and ends on it. */
Test(finish, a_late_joiner_changes_nothing_and_takes_over_the_result)
{
    swarm_start(4, GOSSIP_CODEC_FP32, 0.1, 9);
    s.members[3].contributes = false;
    gossip_finish_begin(&s.members[3].finish, FRAGMENTS, false);
    memcpy(s.members[3].phi, s.members[0].phi, sizeof s.members[3].phi);
    swarm_mean();
    cr_assert_gt(swarm_error(), 0.01);
    (void)swarm_run(1);
    nobody_was_stopped_by_the_bound();
    cr_assert(s.members[3].fetched);
    cr_assert_lt(swarm_error(), (double)GOSSIP_FINISH_TOLERANCE);
}

/* What the tolerance was chosen by: cycles until nobody's window is beyond it, for each codec; the modular
 * ones reach it within the bound from as far as replicas were seen at the end of runs. */
Test(finish, modular_codecs_reach_the_tolerance)
{
    static const struct {
        enum gossip_codec codec;
        bool reaches;
    } cases[] = {{GOSSIP_CODEC_FP32, true}, {GOSSIP_CODEC_BF16, false}, {GOSSIP_CODEC_INT8, false},
                 {GOSSIP_CODEC_MOD4, true}, {GOSSIP_CODEC_MOD3, true},  {GOSSIP_CODEC_MOD2, false}};
    const size_t counts[] = {2, 3, 4, 8, 16};
    const double starts[] = {0.02, 0.1, 0.25};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++)
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++)
            for (size_t a = 0; a < 3; a++) {
                if (!cases[k].reaches && counts[c] != 4)
                    continue;
                swarm_start(counts[c], cases[k].codec, starts[a], 11);
                swarm_mean();
                uint64_t cycles = swarm_run(1) / FRAGMENTS;
                float spread = 0;
                for (size_t i = 0; i < s.count; i++)
                    spread = fmaxf(spread, gossip_finish_spread(&s.members[i].finish, s.count));
                cr_log_info(
                    "%-4s %2zu members, apart %.2f: %2llu cycles of at most %u, spread %.2g, error %.2g",
                    gossip_codec_name(cases[k].codec), counts[c], starts[a], (unsigned long long)cycles,
                    gossip_finish_cycles_max(counts[c]), (double)spread, swarm_error());
                if (cases[k].reaches && starts[a] < 0.2)
                    nobody_was_stopped_by_the_bound();
            }
}
