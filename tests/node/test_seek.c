/* Whoever names relays cannot have us write often: neither by naming silent addresses, nor by relays that
 * give and take at once.  An honest peer is found without delay. */
#include <criterion/criterion.h>

#include "node/seek.h"

#define MS(x) ((uint64_t)(x)*UINT64_C(1000000))

static struct seek seek;
static uint64_t now_ns = MS(1000000);

Test(seek, the_first_is_asked_at_once)
{
    cr_assert(seek_due(&seek, now_ns));
    seek_opened(&seek, now_ns, false);
    cr_assert_not(seek_due(&seek, now_ns + MS(SEEK_AGAIN_MS) - 1));
    cr_assert(seek_due(&seek, now_ns + MS(SEEK_AGAIN_MS)));
}

/* An hour with a record that names only silent addresses; each session is given up after 8 s. */
Test(seek, silent_relays_are_asked_ever_less)
{
    unsigned asked = 0;
    uint64_t gives_up_ns[2] = {0, 0};
    for (int i = 0; i < 36000; i++) {
        now_ns += MS(100);
        for (int k = 0; k < 2; k++) {
            if (gives_up_ns[k] == 0 || now_ns < gives_up_ns[k])
                continue;
            gives_up_ns[k] = 0;
            seek_failed(&seek, now_ns, true);
        }
        int slot = gives_up_ns[0] == 0 ? 0 : 1;
        if (!seek_due(&seek, now_ns) || gives_up_ns[slot] != 0)
            continue;
        seek_opened(&seek, now_ns, false);
        gives_up_ns[slot] = now_ns + MS(8000);
        asked++;
    }
    cr_assert_leq(asked, 3600 / 64 + 8, "%u", asked);
    seek_up(&seek);
    seek_opened(&seek, now_ns, false);
    cr_assert(seek_due(&seek, now_ns + MS(SEEK_AGAIN_MS)));
}

/* Sessions that end as soon as they stand. */
Test(seek, no_loop_with_a_relay_that_takes_back)
{
    unsigned asked = 0;
    for (int i = 0; i < 60000; i++) {
        now_ns += MS(10);
        if (!seek_due(&seek, now_ns))
            continue;
        seek_opened(&seek, now_ns, false);
        seek_up(&seek);
        seek_hurry(&seek, now_ns + MS(1));
        asked++;
    }
    cr_assert_leq(asked, 600000 / SEEK_AGAIN_MS + 1, "%u", asked);
}

Test(seek, one_that_stood_long_is_replaced_at_once)
{
    seek_opened(&seek, now_ns, true);
    now_ns += MS(SEEK_AGAIN_MS);
    seek_hurry(&seek, now_ns);
    cr_assert(seek_due(&seek, now_ns));
    seek_failed(&seek, now_ns, false); /* refused: no cause to wait */
    cr_assert(seek_due(&seek, now_ns));
}

/* Not at once, or two that refuse would be asked in turn as fast as they answer. */
Test(seek, after_a_refusal_another_is_asked_soon_and_then_ever_later)
{
    seek_opened(&seek, now_ns, true);
    seek_failed(&seek, now_ns + MS(40), false);
    cr_assert_not(seek_due(&seek, now_ns + MS(SEEK_REFUSED_MS) - 1));
    cr_assert(seek_due(&seek, now_ns + MS(SEEK_REFUSED_MS)));
    unsigned asked = 0;
    for (int i = 0; i < 36000; i++) {
        now_ns += MS(100);
        if (!seek_due(&seek, now_ns))
            continue;
        seek_opened(&seek, now_ns, true);
        seek_failed(&seek, now_ns + MS(40), false);
        asked++;
    }
    cr_assert_leq(asked, 3600 / 16 + 8, "%u", asked);
}
