/* The ring gives back the last attempts about one peer in their order, however many others came between. */
#include <criterion/criterion.h>
#include <string.h>

#include "node/attempts.h"

#define SECOND_NS UINT64_C(1000000000)

static struct attempts attempts;
static struct attempt found[ATTEMPTS_MAX];

static struct id peer_of(uint8_t number)
{
    struct id id = {{number}};
    return id;
}

static void note(uint64_t at_s, uint8_t peer, int code)
{
    struct id id = peer_of(peer);
    attempts_note(&attempts, at_s * SECOND_NS, &id, ATTEMPT_TCP_DOWN, NULL, code);
}

static size_t find(uint8_t peer, size_t cap)
{
    struct id id = peer_of(peer);
    return attempts_of(&attempts, &id, found, cap);
}

Test(attempts, keeps_the_order_of_one_peer)
{
    for (int i = 0; i < 20; i++)
        note((uint64_t)(2 * i), (uint8_t)(i % 2), i);
    cr_assert_eq(find(1, ATTEMPTS_MAX), 10);
    for (int i = 0; i < 10; i++)
        cr_assert_eq(found[i].code, 2 * i + 1);
    cr_assert_eq(find(1, 3), 3); /* the last three */
    cr_assert_eq(found[0].code, 15);
    cr_assert_eq(found[2].code, 19);
    cr_assert_eq(find(7, ATTEMPTS_MAX), 0);
}

Test(attempts, the_oldest_give_way)
{
    for (int i = 0; i < 2 * ATTEMPTS_MAX + 5; i++)
        note((uint64_t)(2 * i), 1, i);
    cr_assert_eq(find(1, ATTEMPTS_MAX), ATTEMPTS_MAX);
    cr_assert_eq(found[0].code, ATTEMPTS_MAX + 5);
    cr_assert_eq(found[ATTEMPTS_MAX - 1].code, 2 * ATTEMPTS_MAX + 4);
}

/* What repeats at once counts once, with its last time; a different code or address does not. */
Test(attempts, repetitions_are_folded)
{
    struct id id = peer_of(1);
    struct net_addr addr = {.family = NET_FAMILY_V4, .port = 1};
    for (uint64_t i = 0; i < 50; i++)
        attempts_note(&attempts, 5 * SECOND_NS + i, &id, ATTEMPT_QUIC_DIAL, NULL, 0);
    cr_assert_eq(find(1, ATTEMPTS_MAX), 1);
    cr_assert_eq(found[0].time_ns, 5 * SECOND_NS + 49);
    attempts_note(&attempts, 5 * SECOND_NS + 60, &id, ATTEMPT_QUIC_DIAL, &addr, 0);
    attempts_note(&attempts, 5 * SECOND_NS + 61, &id, ATTEMPT_QUIC_DIAL, &addr, ERR_TIMEOUT);
    attempts_note(&attempts, 7 * SECOND_NS, &id, ATTEMPT_QUIC_DIAL, &addr, ERR_TIMEOUT);
    cr_assert_eq(find(1, ATTEMPTS_MAX), 4);
}

Test(attempts, every_kind_has_texts)
{
    for (unsigned kind = 0; kind < ATTEMPT_KINDS; kind++) {
        cr_assert_gt(strlen(attempt_part((enum attempt_kind)kind)), 0);
        cr_assert_gt(strlen(attempt_text((enum attempt_kind)kind)), 0);
    }
}
