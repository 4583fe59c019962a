/* The lab's imitated links: what passes, when, and in which order. */
#include <criterion/criterion.h>
#include <string.h>

#include "tools/wan/link.h"

#define CAP 4096U
#define MS  1000000ULL

struct fixture {
    struct wan_link link;
    struct rng_seeded seeded;
    struct wan_packet packets[CAP];
};

static struct wan_link *begin(struct fixture *f, struct wan_shape shape)
{
    rng_seeded_init(&f->seeded, 1);
    wan_link_init(&f->link, &shape, rng_of_seeded(&f->seeded), f->packets, CAP);
    return &f->link;
}

static bool parses(const char *text, struct wan_shape shapes[2])
{
    return wan_shapes_parse((struct bytes){(const uint8_t *)text, strlen(text)}, shapes);
}

/* Both lines are read, in any order of words; anything else about the text is refused. */
Test(wan_link, shapes_are_parsed)
{
    struct wan_shape s[2];
    cr_assert(parses("rate_bps=1000 delay_us=7\nloss_ppm=30000  jitter_us=5\n", s));
    cr_assert_eq(s[0].rate_bps, 1000);
    cr_assert_eq(s[0].delay_us, 7);
    cr_assert_eq(s[0].loss_ppm, 0);
    cr_assert_eq(s[1].loss_ppm, 30000);
    cr_assert_eq(s[1].jitter_us, 5);
    cr_assert(parses("\n\n", s));
    const char *wrong[] = {"",
                           "\n",
                           "\n\n\n",
                           "rate_bps=1\n",
                           "rate=1\n\n",
                           "rate_bps\n\n",
                           "rate_bps=\n\n",
                           "rate_bps=1x\n\n",
                           "loss_ppm=1000001\n\n",
                           "delay_us=99999999999999999999\n\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        cr_assert_not(parses(wrong[i], s), "%zu", i);
}

/* Delay alone: in order, exactly so much later, and nothing before its time. */
Test(wan_link, delay_is_exact)
{
    static struct fixture f;
    struct wan_link *link = begin(&f, (struct wan_shape){.delay_us = 20000});
    cr_assert_eq(wan_link_deadline_ns(link), UINT64_MAX);
    for (uint32_t i = 0; i < 10; i++)
        cr_assert(wan_link_accept(link, i * MS, 1000, i));
    uint32_t slot;
    for (uint32_t i = 0; i < 10; i++) {
        cr_assert_eq(wan_link_deadline_ns(link), (20 + i) * MS);
        cr_assert_not(wan_link_take(link, (20 + i) * MS - 1, &slot));
        cr_assert(wan_link_take(link, (20 + i) * MS, &slot));
        cr_assert_eq(slot, i);
    }
}

/* A line of 8 Mbit/s sends a byte a microsecond; what the queue cannot hold is dropped, and it empties again.
 */
Test(wan_link, rate_queues_and_drops)
{
    static struct fixture f;
    struct wan_link *link = begin(&f, (struct wan_shape){.rate_bps = 8000000, .queue_bytes = 5000});
    size_t passed = 0;
    for (uint32_t i = 0; i < 100; i++)
        passed += wan_link_accept(link, 0, 1000, i) ? 1 : 0;
    cr_assert_eq(passed, 6); /* one on the line and five that wait */
    cr_assert_eq(link->dropped, 94);
    uint32_t slot;
    for (uint32_t i = 0; i < 6; i++) {
        cr_assert_not(wan_link_take(link, (i + 1) * MS - 1, &slot));
        cr_assert(wan_link_take(link, (i + 1) * MS, &slot));
    }
    cr_assert(wan_link_accept(link, 6 * MS, 1000, 0));
    cr_assert_eq(wan_link_deadline_ns(link), 7 * MS);
    wan_link_reshape(link, &(struct wan_shape){.delay_us = 1});
    cr_assert(wan_link_accept(link, 6 * MS, 1000, 1));
    cr_assert_eq(link->flying.count, 2);
}

/* The share that is lost is the share that was asked for. */
Test(wan_link, loss_has_its_share)
{
    static struct fixture f;
    struct wan_link *link = begin(&f, (struct wan_shape){.loss_ppm = 30000});
    uint32_t slot;
    for (uint32_t i = 0; i < 100000; i++) {
        if (wan_link_accept(link, i, 100, 0))
            cr_assert(wan_link_take(link, i, &slot));
    }
    cr_assert_eq(link->lost + link->accepted, 100000);
    cr_assert_geq(link->lost, 2700);
    cr_assert_leq(link->lost, 3300);
}

/* Sends packets a millisecond apart and counts those that come out after a later one. */
static size_t overtaken(struct wan_shape shape, uint32_t count)
{
    static struct fixture f;
    struct wan_link *link = begin(&f, shape);
    for (uint32_t i = 0; i < count; i++)
        cr_assert(wan_link_accept(link, i * MS, 100, i));
    uint32_t slot, newest = 0;
    size_t late = 0;
    uint64_t before = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t due = wan_link_deadline_ns(link);
        cr_assert_geq(due, before);
        before = due;
        cr_assert(wan_link_take(link, due, &slot));
        cr_assert_geq(due, slot * MS + shape.delay_us * 1000);
        late += slot < newest ? 1 : 0;
        newest = slot > newest ? slot : newest;
    }
    return late;
}

/* Jitter alone never reorders; reordering does, for about its share. */
Test(wan_link, order)
{
    struct wan_shape jitter = {.delay_us = 10000, .jitter_us = 8000};
    cr_assert_eq(overtaken(jitter, 2000), 0);
    struct wan_shape reorder = {.delay_us = 10000, .jitter_us = 4000, .reorder_ppm = 50000};
    size_t late = overtaken(reorder, 2000);
    cr_assert_geq(late, 50);
    cr_assert_leq(late, 150);
}

/* A full table drops and goes on. */
Test(wan_link, table_has_an_end)
{
    static struct fixture f;
    struct wan_link *link = begin(&f, (struct wan_shape){.delay_us = 1000});
    for (uint32_t i = 0; i < CAP; i++)
        cr_assert(wan_link_accept(link, 0, 100, i));
    cr_assert_not(wan_link_accept(link, 0, 100, 0));
    cr_assert_eq(link->dropped, 1);
    uint32_t slot;
    cr_assert(wan_link_take(link, MS, &slot));
    cr_assert(wan_link_accept(link, 0, 100, slot));
}
