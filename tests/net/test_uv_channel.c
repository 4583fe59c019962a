/* Queues between threads lose nothing, keep each producer's order, hold their bounds, and end cleanly; tried
 * with several producers at full speed (run under ThreadSanitizer by tools/test tsan). */
#include <criterion/criterion.h>
#include <string.h>

#include "net/uv/channel.h"
#include "net/uv/timer.h"

enum { PRODUCERS = 4, MESSAGES = 5000 };

struct message {
    uint32_t producer, number;
};

struct consumer {
    uint32_t next[PRODUCERS];
    uint32_t received;
    uint32_t expected;
    struct net_uv_channel *channel;
};

struct producer {
    struct net_uv_channel *channel;
    struct net_uv_inbox *inbox;
    uint32_t number;
    uint32_t full;
};

static void on_message(void *user, void *data)
{
    struct consumer *c = user;
    struct message m;
    memcpy(&m, data, sizeof m);
    cr_assert_eq(m.number, c->next[m.producer]);
    c->next[m.producer]++;
    if (++c->received == c->expected)
        net_uv_channel_close(c->channel);
}

static void produce_channel(void *arg)
{
    struct producer *p = arg;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        struct message m = {.producer = p->number, .number = i};
        while (net_uv_channel_push(p->channel, &m) != ERR_OK)
            p->full++;
    }
}

Test(uv_channel, many_producers_one_loop)
{
    uv_loop_t loop;
    cr_assert_eq(uv_loop_init(&loop), 0);
    struct consumer consumer = {.expected = PRODUCERS * MESSAGES};
    cr_assert_eq(
        net_uv_channel_open(&consumer.channel, &loop, sizeof(struct message), 64, on_message, &consumer),
        ERR_OK);
    uv_thread_t threads[PRODUCERS];
    struct producer producers[PRODUCERS];
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.channel = consumer.channel, .number = i};
        cr_assert_eq(uv_thread_create(&threads[i], produce_channel, &producers[i]), 0);
    }
    /* The consumer closes after the last message, when the producers have pushed their last: the memory must
     * outlive their calls, so wait for them before the loop may free it. */
    while (consumer.received < consumer.expected)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    for (int i = 0; i < PRODUCERS; i++)
        uv_thread_join(&threads[i]);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(consumer.received, PRODUCERS * MESSAGES);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

Test(uv_channel, full_says_so_and_close_delivers_what_is_queued)
{
    uv_loop_t loop;
    cr_assert_eq(uv_loop_init(&loop), 0);
    struct consumer consumer = {.expected = UINT32_MAX};
    cr_assert_eq(
        net_uv_channel_open(&consumer.channel, &loop, sizeof(struct message), 3, on_message, &consumer),
        ERR_OK);
    for (uint32_t i = 0; i < 3; i++) {
        struct message m = {.number = i};
        cr_assert_eq(net_uv_channel_push(consumer.channel, &m), ERR_OK);
    }
    struct message extra = {.number = 3};
    cr_assert_eq(net_uv_channel_push(consumer.channel, &extra), ERR_FULL);
    net_uv_channel_close(consumer.channel);
    cr_assert_eq(consumer.received, 3);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(&loop), 0);
    cr_assert_eq(net_uv_channel_open(&consumer.channel, &loop, 0, 3, on_message, NULL), ERR_INVALID);
}

static void produce_inbox(void *arg)
{
    struct producer *p = arg;
    for (uint32_t i = 0; i < MESSAGES; i++) {
        struct message m = {.producer = p->number, .number = i};
        while (net_uv_inbox_push(p->inbox, &m) != ERR_OK)
            p->full++;
    }
}

Test(uv_channel, an_inbox_feeds_a_worker)
{
    struct net_uv_inbox *inbox;
    cr_assert_eq(net_uv_inbox_create(&inbox, sizeof(struct message), 16), ERR_OK);
    struct message m;
    cr_assert_eq(net_uv_inbox_pop(inbox, &m, 0), ERR_TIMEOUT);
    uv_thread_t threads[PRODUCERS];
    struct producer producers[PRODUCERS];
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.inbox = inbox, .number = i};
        cr_assert_eq(uv_thread_create(&threads[i], produce_inbox, &producers[i]), 0);
    }
    uint32_t next[PRODUCERS] = {0};
    for (int i = 0; i < PRODUCERS * MESSAGES; i++) {
        cr_assert_eq(net_uv_inbox_pop(inbox, &m, UINT64_MAX), ERR_OK);
        cr_assert_eq(m.number, next[m.producer]);
        next[m.producer]++;
    }
    for (int i = 0; i < PRODUCERS; i++)
        uv_thread_join(&threads[i]);
    cr_assert_eq(net_uv_inbox_push(inbox, &m), ERR_OK);
    net_uv_inbox_close(inbox);
    cr_assert_eq(net_uv_inbox_push(inbox, &m), ERR_CLOSED);
    cr_assert_eq(net_uv_inbox_pop(inbox, &m, UINT64_MAX), ERR_OK);
    cr_assert_eq(net_uv_inbox_pop(inbox, &m, UINT64_MAX), ERR_CLOSED);
    net_uv_inbox_destroy(inbox);
}

struct ticking {
    struct net_uv_timer timer;
    int due, closed;
    uint64_t wanted_ns, at_ns;
};

static void on_closed(void *user)
{
    struct ticking *t = user;
    t->closed++;
}

static void on_due(void *user, uint64_t now_ns)
{
    struct ticking *t = user;
    t->due++;
    t->at_ns = now_ns;
    if (t->due < 3) {
        t->wanted_ns = now_ns + 3000000;
        net_uv_timer_arm(&t->timer, t->wanted_ns);
    } else {
        net_uv_timer_close(&t->timer, on_closed);
    }
}

Test(uv_channel, a_timer_is_never_early_and_can_be_moved)
{
    uv_loop_t loop;
    struct ticking t = {0};
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(net_uv_timer_init(&t.timer, &loop, on_due, &t), ERR_OK);
    net_uv_timer_arm(&t.timer, uv_hrtime() + UINT64_C(3600000000000));
    net_uv_timer_arm(&t.timer, UINT64_MAX);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0, "nothing is armed");
    net_uv_timer_arm(&t.timer, 1); /* long past */
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(t.due, 3);
    cr_assert_geq(t.at_ns + 500000, t.wanted_ns);
    cr_assert_eq(t.closed, 1);
    cr_assert_eq(uv_loop_close(&loop), 0);
}
