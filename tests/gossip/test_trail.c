/* Old weights must be told from new ones at any age, and honest partners must never look old: not where
 * training stands still, not where it moves, not with few values. */
#include <criterion/criterion.h>

#include "gossip/merge/gate.h"
#include "gossip/merge/trail.h"
#include "numbers.h"

enum {
    BLOCKS = 200,
    FIRST = BLOCKS * 256,
    SECOND = 256 + 3,
    THIRD = 2,
    LEN = FIRST + SECOND + THIRD,
    NODES = 4,
    CYCLES = 150
};

static const struct gossip_tensor tensors[] = {{.offset = 100, .count = FIRST},
                                               {.offset = 100 + FIRST, .count = SECOND},
                                               {.offset = 100 + FIRST + SECOND, .count = THIRD}};

static struct gossip_trail trail;
static float *memory;
static float common[LEN], phis[NODES][LEN], past[CYCLES][LEN];

static void start(void)
{
    size_t floats = gossip_trail_floats(tensors, 3);
    /* Whole blocks, one and a rest of 3, two values: 4 of each where there are 4. */
    cr_assert_eq(floats,
                 2 * GOSSIP_TRAIL_LEVELS * (BLOCKS * GOSSIP_TRAIL_SAMPLE + GOSSIP_TRAIL_SAMPLE + 3 + 2));
    memory = malloc(floats * sizeof(float));
    gossip_trail_init(&trail, tensors, 3, memory);
}

/* As the merge job walks: pieces of whole blocks, then a tensor's rest. */
static double behind(const float theirs[], const float phi[])
{
    struct gossip_trail_sums sums = gossip_trail_begin(&trail);
    for (size_t i = 0; i < 3; i++) {
        size_t from = tensors[i].offset - tensors[0].offset;
        for (size_t at = 0; at < tensors[i].count; at += 1024) {
            size_t count = tensors[i].count - at < 1024 ? tensors[i].count - at : 1024;
            gossip_trail_add(&sums, count, theirs + from + at, phi + from + at);
        }
    }
    return gossip_trail_behind(&sums);
}

/* One cycle, of the values that are sampled: the common way goes on by drift, each node's own noise is kept
 * in part and renewed. */
static void train(struct numbers *n, double drift, double kept)
{
    for (size_t k = 0; k < LEN; k++) {
        if (k < FIRST && k % 256 >= GOSSIP_TRAIL_SAMPLE)
            continue; /* nobody looks */
        common[k] += (float)(drift * numbers_normal(n) * 0.5 + drift * (k % 2 == 0 ? 1 : -1));
        for (size_t i = 0; i < NODES; i++) {
            float noise = phis[i][k] - common[k];
            phis[i][k] =
                common[k] + (float)(kept * (double)noise + sqrt(1 - kept * kept) * numbers_normal(n));
        }
    }
}

/* A model of a single block, of which five values are looked at: nobody may be held old for chance. */
Test(trail, few_values_accuse_nobody)
{
    static const struct gossip_tensor one = {.count = 256 + 1};
    float marks[2 * GOSSIP_TRAIL_LEVELS * (GOSSIP_TRAIL_SAMPLE + 1)];
    static float ours[257], theirs[257];
    struct numbers n;
    size_t cut = 0;
    numbers_init(&n, 5);
    cr_assert_eq(gossip_trail_floats(&one, 1), sizeof marks / sizeof *marks);
    gossip_trail_init(&trail, &one, 1, marks);
    for (int cycle = 0; cycle < 2000; cycle++) {
        numbers_fill(&n, 257, 1, ours);
        numbers_fill(&n, 257, 1, theirs);
        struct gossip_trail_sums sums = gossip_trail_begin(&trail);
        gossip_trail_add(&sums, 257, theirs, ours);
        cut += gossip_trail_behind(&sums) < -GOSSIP_BEHIND_MAX;
        gossip_trail_round(&trail, &one, 1, ours);
    }
    cr_assert_lt(cut, 60, "%zu of 2000", cut);
}

static void nobody_honest_is_old(double drift, double kept)
{
    struct numbers n;
    double least = INFINITY;
    numbers_init(&n, (uint64_t)(1000 * drift + 10 * kept) + 1);
    memset(common, 0, sizeof common);
    memset(phis, 0, sizeof phis);
    start();
    for (int cycle = 0; cycle < CYCLES; cycle++) {
        train(&n, drift, kept);
        for (size_t i = 1; i < NODES; i++) {
            double found = behind(phis[i], phis[0]);
            if (gossip_trail_begin(&trail).levels == 0)
                continue;
            least = fmin(least, found + gossip_trail_limit(&trail));
            gossip_trail_met(&trail, found);
        }
        gossip_trail_round(&trail, tensors, 3, phis[0]);
    }
    cr_assert_geq(least, 0, "drift %g, noise kept %g: %g beyond", drift, kept, -least);
    free(memory);
}

Test(trail, honest_partners_are_level_whatever_training_does)
{
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++)
            nobody_honest_is_old((double[]){0, 0.05, 0.3, 2}[i], (double[]){0, 0.5, 0.8}[k]);
}

Test(trail, old_weights_are_behind_at_any_age)
{
    struct numbers n;
    numbers_init(&n, 7);
    start();
    for (int cycle = 0; cycle < CYCLES; cycle++) {
        train(&n, 0.3, 0.5);
        memcpy(past[cycle], phis[1], sizeof past[cycle]); /* another node's: as one does that replays it */
        if (cycle == 10 || cycle == 40 || cycle == CYCLES - 1)
            for (int age = 2 * GOSSIP_TRAIL_CYCLES; age <= cycle; age++) {
                double found = behind(past[cycle - age], phis[0]);
                cr_assert_lt(found, -GOSSIP_BEHIND_MAX, "age %d in cycle %d: %g", age, cycle, found);
            }
        gossip_trail_round(&trail, tensors, 3, phis[0]);
    }
    free(memory);
}

Test(trail, knows_nothing_at_the_start_and_after_a_jump)
{
    static float zeros[LEN];
    struct numbers n;
    numbers_init(&n, 8);
    start();
    for (int turn = 0; turn < 2; turn++) {
        for (int cycle = 0; cycle < 2 * GOSSIP_TRAIL_CYCLES; cycle++) {
            train(&n, 1, 0.5);
            if (cycle <= GOSSIP_TRAIL_CYCLES)
                cr_assert_eq(behind(zeros, phis[0]), 0, "cycle %d", cycle);
            else
                cr_assert_lt(behind(zeros, phis[0]), 0);
            gossip_trail_round(&trail, tensors, 3, phis[0]);
        }
        gossip_trail_forget(&trail);
    }
    struct gossip_trail_sums none = gossip_trail_begin(NULL);
    gossip_trail_add(&none, 256, zeros, zeros);
    cr_assert_eq(gossip_trail_behind(&none), 0);
    free(memory);
}

/* Who stands still has no way, and nobody is behind on it. */
Test(trail, no_way_no_rule)
{
    static float still[LEN], far[LEN];
    start();
    for (size_t k = 0; k < LEN; k++)
        far[k] = -5;
    for (int cycle = 0; cycle < 20; cycle++) {
        cr_assert_eq(behind(far, still), 0);
        gossip_trail_round(&trail, tensors, 3, still);
    }
    free(memory);
}

/* The own norm's changes, of the last merges only and of no merges before a jump. */
Test(trail, growth_is_that_of_the_last_norms)
{
    start();
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 1; i <= 100; i++) {
            gossip_trail_norm(&trail, 10 + i % 20);
            int known = i < GOSSIP_TRAIL_NORMS ? i : GOSSIP_TRAIL_NORMS, least = 100, most = 0;
            for (int k = i - known + 1; k <= i; k++) {
                least = k % 20 < least ? k % 20 : least;
                most = k % 20 > most ? k % 20 : most;
            }
            double growth = gossip_trail_growth(&trail);
            cr_assert(i < GOSSIP_HISTORY_MIN ? isinf(growth) : growth == most - least, "%d: %g", i, growth);
        }
        gossip_trail_forget(&trail);
        cr_assert(isinf(gossip_trail_growth(&trail)));
    }
    free(memory);
}
