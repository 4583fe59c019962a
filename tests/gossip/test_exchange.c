/* Two cores joined by hand: each transition of the exchange and of the fetch, each refusal, late and hostile
 * frames, two rounds at once. (Repairs: test_repair.c.  Swarms under random faults:
 * tests/sim/test_sim_gossip.c.) */
#include "base/hash.h"
#include "gossip/codec.h"
#include "gossip/pairing.h"
#include "gossip/two_cores.h"

Test(exchange, two_members_swap_their_blobs)
{
    start();
    for (uint64_t round = 1; round <= 3; round++) {
        begin(round);
        connect_ends(&low, &high);
        pump();
        cr_assert(low.merges == round && high.merges == round && low.releases == round);
        cr_assert(low.last.kind == GOSSIP_EVENT_MERGE && low.last.round == round);
        cr_assert_eq(low.last.blob.len, high.blob_len);
        cr_assert_eq(memcmp(low.last.blob.data, high.blob, high.blob_len), 0);
        cr_assert_eq(memcmp(high.last.blob.data, low.blob, low.blob_len), 0);
        cr_assert_eq(gossip_merge_done(low.g, now, round, 0), 0);
        cr_assert_eq(gossip_merge_done(high.g, now, round, ERR_REFUSED), 0);
        cr_assert_eq(gossip_merge_done(high.g, now, round, 0), ERR_NOT_FOUND);
        now += ROUND;
    }
    cr_assert_eq(counted(&high)->refused, 3);
    cr_assert_eq(counted(&low)->bytes_sent, 3 * low.blob_len);
    stop();
}

Test(exchange, commands_in_the_wrong_order_are_refused)
{
    start();
    struct bytes blob = bytes_of(low.blob, low.blob_len);
    cr_assert_eq(gossip_set_outgoing(low.g, now, 1, GOSSIP_CODEC_FP32, blob, 1), ERR_STALE);
    round_of(&low, 5);
    cr_assert_eq(gossip_round(low.g, now, 5, &view), ERR_STALE);
    cr_assert_eq(gossip_round(low.g, now, 4, &view), ERR_STALE);
    cr_assert_eq(gossip_set_outgoing(low.g, now, 4, GOSSIP_CODEC_FP32, blob, 1), ERR_STALE);
    cr_assert_eq(gossip_set_outgoing(low.g, now, 5, GOSSIP_CODEC_INT8, blob, 1), ERR_INVALID);
    cr_assert_eq(gossip_set_wanted(low.g, now, 5, bytes_of(NULL, 0), 0, 1), ERR_NOT_FOUND);
    cr_assert_eq(gossip_set_repair(low.g, now, 5, blob, 1), ERR_NOT_FOUND);
    cr_assert_eq(gossip_refuse(low.g, now, 5), ERR_NOT_FOUND);
    outgoing(&low, 5);
    cr_assert_eq(gossip_set_outgoing(low.g, now, 5, GOSSIP_CODEC_FP32, blob, 1), ERR_EXISTS);
    round_of(&low, 6);
    cr_assert(low.solos == 1 && low.releases == 1);
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_SUPERSEDED], 1);
    stop();
}

Test(exchange, waits_end_at_half_a_round_and_not_before)
{
    start();
    begin(1);
    now += ROUND / 2 - 1;
    gossip_tick(low.g, now);
    gossip_tick(high.g, now);
    pump();
    cr_assert(low.solos == 0 && high.solos == 0);
    cr_assert_eq(gossip_deadline_ns(low.g), now + 1);
    now++;
    gossip_tick(low.g, now);
    gossip_tick(high.g, now);
    events(&low);
    events(&high);
    cr_assert(low.last.solo == GOSSIP_SOLO_DEADLINE && high.last.solo == GOSSIP_SOLO_DEADLINE);
    cr_assert_eq(gossip_deadline_ns(low.g), UINT64_MAX);
    cr_assert_eq(gossip_stream_opened(low.g, now, low.open.tag, 1), ERR_NOT_FOUND); /* too late */
    stop();
}

Test(exchange, any_input_after_a_long_stop_expires_what_was_pending)
{
    start();
    begin(1);
    connect_ends(&low, &high);
    now += 50 * ROUND; /* stopped and continued; the next thing that happens is a frame */
    gossip_stream_frame(high.g, now, 1, bytes_of("x", 1));
    events(&high);
    cr_assert(high.solos == 1 && high.last.solo == GOSSIP_SOLO_DEADLINE);
    gossip_stream_writable(low.g, now, 1, 5);
    events(&low);
    cr_assert(low.solos == 1);
    stop();
}

Test(exchange, a_lost_last_commit_is_known_to_the_one_who_waits_for_it)
{
    /* The link breaks after k frames of one side, for every k: never does one merge without the other
     * knowing. */
    unsigned alone = 0;
    for (uint64_t k = 0; k < 14; k++) {
        for (int side = 0; side < 2; side++) {
            start();
            (side == 0 ? &low : &high)->dropped_after = k;
            begin(1);
            connect_ends(&low, &high);
            pump();
            now += ROUND;
            gossip_tick(low.g, now);
            gossip_tick(high.g, now);
            events(&low);
            events(&high);
            cr_assert_eq(low.merges + low.solos, 1);
            cr_assert_eq(high.merges + high.solos, 1);
            if (low.merges != high.merges) {
                const struct end *left = low.merges == 1 ? &high : &low;
                cr_assert_eq(counted(left)->solo[GOSSIP_SOLO_UNCONFIRMED], 1, "k %d", (int)k);
                alone++;
            }
            stop();
        }
    }
    cr_assert_gt(alone, 0);
}

/* Opens a stream towards high as if from low, sends m, returns the reason of BUSY or 0 when there is none. */
static int busy_reason(struct gossip_message m)
{
    uint64_t stream = ++links;
    struct gossip_action action;
    int reason = 0;
    cr_assert_eq(gossip_stream_accepted(high.g, now, &low.id, stream), 0);
    gossip_stream_writable(high.g, now, stream, 70000);
    inject(&high, stream, &m);
    while (gossip_poll_action(high.g, now, &action)) {
        struct gossip_message answer;
        if (action.kind != GOSSIP_ACTION_SEND)
            continue;
        cr_assert_eq(gossip_message_decode(action.frame, &answer), 0);
        reason = answer.type == GOSSIP_BUSY ? (int)answer.reason : reason;
    }
    events(&high);
    return reason;
}

Test(exchange, invites_are_declined_for_the_right_reason)
{
    start();
    struct gossip_message m = invite_of(5);
    cr_assert_eq(busy_reason(m), GOSSIP_BUSY_PAUSED); /* nothing has begun */
    round_of(&high, 5);
    m.run.bytes[1] = 1;
    cr_assert_eq(busy_reason(m), GOSSIP_BUSY_UNKNOWN_RUN);
    cr_assert_eq(busy_reason(invite_of(4)), GOSSIP_BUSY_STALE);
    cr_assert_eq(busy_reason(invite_of(14)), GOSSIP_BUSY_BEHIND);
    m = invite_of(5);
    m.schema.bytes[0] ^= 1;
    cr_assert_eq(busy_reason(m), GOSSIP_BUSY_SHAPE);
    m = invite_of(5);
    m.param_count++;
    cr_assert_eq(busy_reason(m), GOSSIP_BUSY_SHAPE);
    gossip_pause(high.g, now, true);
    events(&high);
    cr_assert_eq(high.last.solo, GOSSIP_SOLO_PAUSED);
    cr_assert_eq(busy_reason(invite_of(5)), GOSSIP_BUSY_PAUSED);
    gossip_pause(high.g, now, false);
    cr_assert_eq(busy_reason(invite_of(5)), GOSSIP_BUSY_STALE); /* that round is over for us */
    round_of(&high, 6);
    outgoing(&high, 6);
    m = invite_of(6);
    m.codecs = 1u << GOSSIP_CODEC_INT8; /* cannot read what we encoded */
    cr_assert_eq(busy_reason(m), GOSSIP_BUSY_SHAPE);
    cr_assert_eq(high.last.kind, GOSSIP_EVENT_SOLO);
    round_of(&low, 6);
    outgoing(&low, 6);
    cr_assert_eq(gossip_stream_accepted(low.g, now, &high.id, 900), 0); /* the higher id may not invite */
    m = invite_of(6);
    gossip_stream_writable(low.g, now, 900, 70000);
    inject(&low, 900, &m);
    cr_assert_eq(counted(&low)->busy_sent, 1);
    stop();
}

Test(exchange, an_early_invite_waits_and_pulls_the_acceptor_forward)
{
    start();
    round_of(&high, 1);
    outgoing(&high, 1);
    now += ROUND * 6 / 10; /* high's round 1 has ended solo; low begins round 2 */
    gossip_tick(high.g, now);
    events(&high);
    round_of(&low, 2);
    outgoing(&low, 2);
    pump();
    connect_ends(&low, &high);
    pump();
    cr_assert(high.advance.round == 2 && id_equal(&high.advance.peer, &low.id));
    now += 10 * MS;
    round_of(&high, 2);
    pump();
    outgoing(&high, 2);
    pump();
    cr_assert(low.merges == 1 && high.merges == 1);
    cr_assert_eq(high.phase.shift_ns, (int64_t)(5 * MS)); /* half of the 10 ms by which low is ahead */
    stop();
}

Test(exchange, a_stale_inviter_is_told_where_the_others_are)
{
    start();
    round_of(&high, 4);
    round_of(&low, 3);
    outgoing(&low, 3);
    pump();
    connect_ends(&low, &high);
    pump();
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_BUSY], 1);
    cr_assert_eq(low.advance.round, 4);
    stop();
}

Test(exchange, hostile_frames_end_the_exchange_and_only_that)
{
    static uint8_t data[GOSSIP_PIECE_BYTES];
    struct gossip_message bad[9] = {
        {.type = GOSSIP_PIECE, .index = 1, .bytes = bytes_of(data, GOSSIP_PIECE_BYTES)}, /* out of order */
        {.type = GOSSIP_PIECE, .index = 0, .bytes = bytes_of(data, 100)},                /* short */
        {.type = GOSSIP_WANT},                                 /* our codec needs none */
        {.type = GOSSIP_REPAIR, .bytes = bytes_of(data, 260)}, /* not asked for */
        {.type = GOSSIP_BUSY, .reason = GOSSIP_BUSY_FAR},      /* our codec cannot be far */
        {.type = GOSSIP_DIGEST},                               /* too early */
        {.type = GOSSIP_COMMIT},                               /* of nothing */
        {.type = GOSSIP_BUSY, .reason = GOSSIP_BUSY_PAUSED},   /* too late */
        {.type = GOSSIP_FETCH},
    };
    for (size_t k = 0; k < 9; k++) {
        start();
        high.mute = low.mute = true;
        begin(1);
        uint64_t stream = connect_ends(&low, &high);
        struct gossip_message m = invite_of(1);
        inject(&high, stream, &m);
        pump();
        cr_assert_eq((int)high.g->lanes[1].state, GOSSIP_EXCHANGE_SWAPPING);
        inject(&high, stream, &bad[k]);
        cr_assert_eq(counted(&high)->solo[GOSSIP_SOLO_MALFORMED], 1, "case %zu", k);
        cr_assert_eq(counted(&high)->malformed, 1);
        stop();
    }
}

Test(exchange, a_changed_byte_never_merges)
{
    start();
    begin(1);
    connect_ends(&low, &high);
    low.mute = true; /* we speak for low, one byte off */
    struct gossip_message m = invite_of(1);
    inject(&high, 1, &m);
    pump();
    struct id digest;
    hash_content(bytes_of(low.blob, low.blob_len), &digest);
    low.blob[77777] ^= 1;
    for (size_t at = 0; at < low.blob_len; at += GOSSIP_PIECE_BYTES) {
        size_t left = low.blob_len - at;
        m = (struct gossip_message){.type = GOSSIP_PIECE, .index = (uint32_t)(at / GOSSIP_PIECE_BYTES)};
        m.bytes = bytes_of(low.blob + at, left < GOSSIP_PIECE_BYTES ? left : GOSSIP_PIECE_BYTES);
        inject(&high, 1, &m);
    }
    m = (struct gossip_message){.type = GOSSIP_DIGEST, .digest = digest};
    inject(&high, 1, &m);
    cr_assert(high.merges == 0 && counted(&high)->solo[GOSSIP_SOLO_MALFORMED] == 1);
    stop();
}

Test(exchange, a_slow_merge_thread_costs_rounds_not_memory)
{
    start();
    for (uint64_t round = 1; round <= 4; round++) {
        begin(round);
        if (low.wants_open)
            connect_ends(&low, &high);
        pump();
        now += ROUND;
        gossip_tick(low.g, now);
        gossip_tick(high.g, now);
        events(&low);
        events(&high);
    }
    cr_assert_eq(low.merges, 2);
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_NO_BUFFER], 2);
    cr_assert_eq(low.releases, 4);
    stop();
}

Test(exchange, streams_of_one_peer_and_in_all_are_capped)
{
    start();
    uint64_t handle = 100, taken = 0;
    for (uint8_t peer = 10; peer < 20; peer++) {
        struct id id = {{peer}};
        for (int i = 0; i < 5; i++)
            taken += gossip_stream_accepted(high.g, now, &id, handle++) == 0;
    }
    cr_assert_eq(taken, GOSSIP_STREAMS_MAX - GOSSIP_STREAMS_RESERVED - GOSSIP_LANES);
    cr_assert_eq(gossip_stream_accepted(high.g, now, &low.id, 100), ERR_EXISTS);
    round_of(&high, 1);
    cr_assert_eq(gossip_stream_accepted(high.g, now, &low.id, handle), 0); /* the partner finds its slot */
    now += 200 * MS;
    gossip_tick(high.g, now); /* nobody said what he wants */
    struct gossip_action action;
    size_t resets = 0;
    while (gossip_poll_action(high.g, now, &action))
        resets += action.kind == GOSSIP_ACTION_RESET;
    cr_assert_eq(resets, taken + 1);
    stop();
}

/* --- states
 * ------------------------------------------------------------------------------------------------- */

static uint8_t fetched_into[4 * PARAMS];

static void publish(uint64_t round, uint64_t cookie)
{
    struct id digest;
    struct bytes blob = bytes_of(high.blob, high.blob_len);
    hash_content(blob, &digest);
    cr_assert_eq(gossip_set_state(high.g, now, round, blob, &digest, cookie), 0);
    events(&high);
}

static void fetch(void)
{
    cr_assert_eq(gossip_fetch(low.g, now, &high.id, fetched_into, sizeof fetched_into), 0);
    pump();
    cr_assert(low.open.for_state);
}

Test(exchange, a_joiner_fetches_a_state)
{
    start();
    cr_assert_eq(gossip_fetch(low.g, now, &high.id, fetched_into, 5), ERR_INVALID);
    fetch();
    cr_assert_eq(gossip_fetch(low.g, now, &high.id, fetched_into, sizeof fetched_into), ERR_STATE);
    connect_ends(&low, &high);
    pump();
    cr_assert(low.fetched.kind == GOSSIP_EVENT_FETCH_FAILED && low.fetched.err == ERR_REFUSED); /* none yet */
    publish(7, 1);
    fetch();
    connect_ends(&low, &high);
    pump();
    cr_assert(low.fetched.kind == GOSSIP_EVENT_STATE && low.fetched.round == 7);
    cr_assert_eq(memcmp(fetched_into, high.blob, high.blob_len), 0);
    publish(8, 2);
    cr_assert_eq(high.releases, 1); /* the first one */
    cr_assert_eq(counted(&high)->states_served, 1);
    stop();
}

Test(exchange, a_broken_fetch_goes_on_where_it_stopped)
{
    start();
    for (size_t i = 0; i < high.blob_len; i++)
        high.blob[i] = (uint8_t)(i * 7 + i / 251);
    publish(3, 1);
    high.dropped_after = 2; /* STATE and one fragment */
    fetch();
    connect_ends(&low, &high);
    pump();
    cr_assert_eq(low.fetched.kind, 0);
    cr_assert_eq(gossip_fetched_bytes(low.g), GOSSIP_PIECE_BYTES);
    high.dropped_after = UINT64_MAX;
    now = gossip_deadline_ns(low.g);
    gossip_tick(low.g, now);
    pump();
    uint64_t before = counted(&high)->bytes_sent;
    connect_ends(&low, &high);
    pump();
    cr_assert_eq(low.fetched.kind, GOSSIP_EVENT_STATE);
    cr_assert_eq(memcmp(fetched_into, high.blob, high.blob_len), 0);
    cr_assert_eq(counted(&high)->bytes_sent - before, high.blob_len - GOSSIP_PIECE_BYTES);
    cr_assert_eq(gossip_fetched_bytes(low.g), 0);
    stop();
}

Test(exchange, a_newer_state_in_between_starts_over_and_the_old_one_is_released)
{
    static uint8_t newer[4 * PARAMS];
    start();
    publish(3, 1);
    high.dropped_after = 2;
    fetch();
    connect_ends(&low, &high);
    pump();
    memset(newer, 9, sizeof newer);
    memcpy(high.blob, newer, high.blob_len);
    publish(4, 2);
    cr_assert_eq(high.releases, 1);
    high.dropped_after = UINT64_MAX;
    now = gossip_deadline_ns(low.g);
    gossip_tick(low.g, now);
    pump();
    connect_ends(&low, &high);
    pump();
    cr_assert(low.fetched.kind == GOSSIP_EVENT_STATE && low.fetched.round == 4);
    cr_assert_eq(memcmp(fetched_into, newer, sizeof newer), 0);
    stop();
}

Test(exchange, a_state_in_use_is_released_only_after_serving)
{
    start();
    publish(3, 1);
    fetch();
    connect_ends(&low, &high);
    struct gossip_action action;
    while (gossip_poll_action(low.g, now, &action))
        act(&low, &high, &action);
    cr_assert_not_null(high.g->serving.stream);
    publish(4, 2);
    cr_assert_eq(high.releases, 0);
    cr_assert_eq(busy_reason((struct gossip_message){.type = GOSSIP_FETCH, .run = {{0x77}}}),
                 GOSSIP_BUSY_EXCHANGING);
    now += 600 * MS; /* the joiner stalls */
    gossip_tick(high.g, now);
    events(&high);
    cr_assert_eq(high.releases, 1);
    cr_assert_null(high.g->serving.stream);
    stop();
}

Test(exchange, a_fetch_that_leads_nowhere_ends)
{
    start();
    fetch();
    for (int i = 0; i < 100 && low.fetched.kind == 0; i++) {
        if (low.wants_open)
            gossip_stream_open_failed(low.g, now, low.open.tag, ERR_UNREACHABLE);
        low.wants_open = false;
        pump();
        uint64_t deadline = gossip_deadline_ns(low.g);
        now = deadline == UINT64_MAX ? now : deadline;
        gossip_tick(low.g, now);
        pump();
    }
    cr_assert(low.fetched.kind == GOSSIP_EVENT_FETCH_FAILED && low.fetched.err == ERR_UNREACHABLE);
    fetch();
    gossip_fetch_cancel(low.g, now);
    events(&low);
    cr_assert_eq(low.fetched.err, ERR_CLOSED);
    gossip_fetch_cancel(low.g, now);
    stop();
}

/* Others may have what this one does not even answer for: no second try. */
Test(exchange, a_fetch_from_a_mute_member_ends_soon)
{
    start();
    publish(3, 1);
    fetch();
    cr_assert_eq(gossip_stream_opened(low.g, now, low.open.tag, 77), 0);
    struct gossip_action action;
    while (gossip_poll_action(low.g, now, &action)) /* FETCH goes out, and nothing comes back */
        ;
    uint64_t asked = now;
    now = gossip_deadline_ns(low.g);
    gossip_tick(low.g, now);
    events(&low);
    cr_assert_eq(now - asked, low.g->config.first_frame_ns);
    cr_assert(low.fetched.kind == GOSSIP_EVENT_FETCH_FAILED && low.fetched.err == ERR_TIMEOUT);
    stop();
}

Test(exchange, config_says_what_is_wrong)
{
    const char *why;
    struct gossip_config c = gossip_config_default();
    cr_assert_eq(gossip_config_check(&c, &why), ERR_INVALID); /* no layout */
    start();
    c.layout = layout;
    cr_assert_eq(gossip_config_check(&c, &why), 0);
    c.codecs = 1u << GOSSIP_CODEC_COUNT;
    cr_assert_eq(gossip_config_check(&c, &why), ERR_INVALID);
    c.codecs = 1;
    c.round_ns = 1;
    cr_assert_eq(gossip_config_check(&c, &why), ERR_INVALID);
    cr_assert_gt(strlen(why), 0);
    stop();
}

/* --- two rounds at once
 * ------------------------------------------------------------------------------------------------- */

static const uint32_t all_codecs = (1u << GOSSIP_CODEC_COUNT) - 1;

Test(exchange, limits_follow_from_the_number_of_fragments)
{
    static const uint64_t halves[] = {0, 1, 2, 3, 3, 3}; /* of a round */
    for (size_t fragments = 1; fragments <= 5; fragments++) {
        start_with(PARAMS, 5, fragments, all_codecs);
        cr_assert_eq(gossip_limit_ns(&low.g->config), halves[fragments] * ROUND / 2);
        begin(1);
        cr_assert_eq(gossip_deadline_ns(low.g), now + halves[fragments] * ROUND / 2);
        stop();
    }
}

Test(exchange, receive_buffers_hold_a_fragment_and_no_more)
{
    start_with(PARAMS, 5, 5, all_codecs);
    size_t five = gossip_size_bytes(&low.g->config);
    stop();
    start_with(PARAMS, 5, 1, all_codecs);
    size_t one = gossip_size_bytes(&low.g->config);
    cr_assert_lt(one, sizeof(struct gossip) + 64 + 2 * (4 * PARAMS + 200));
    cr_assert_lt(five, sizeof(struct gossip) + 64 + 3 * (4 * PARAMS / 5 + 200));
    stop();
}

Test(exchange, two_rounds_run_at_once_and_end_in_any_order)
{
    start_with(PARAMS, 5, 5, all_codecs);
    begin(1);
    uint64_t first = low.open.tag;
    now += ROUND;
    begin(2); /* the stream of round 1 is not open yet */
    cr_assert(low.wants_open && low.open.tag != first);
    connect_ends(&low, &high);
    pump();
    cr_assert(low.merges == 1 && low.last.round == 2 && high.last.round == 2);
    cr_assert_eq(low.last.fragment, 2);
    cr_assert_eq(low.last.blob.len, layout.fragment_bytes[2][GOSSIP_CODEC_FP32]);
    low.open.tag = first;
    low.wants_open = true;
    connect_ends(&low, &high);
    pump();
    cr_assert(low.merges == 2 && low.last.round == 1 && high.merges == 2 && high.last.round == 1);
    cr_assert(low.last.fragment == 1 && low.last.elapsed_ns == ROUND);
    cr_assert_eq(gossip_merge_done(low.g, now, 1, 0), 0);
    cr_assert_eq(gossip_merge_done(low.g, now, 2, 0), 0);
    cr_assert_eq(gossip_merge_done(low.g, now, 2, 0), ERR_NOT_FOUND);
    stop();
}

Test(exchange, phases_are_told_by_the_newest_round_only)
{
    start_with(PARAMS, 5, 5, all_codecs);
    begin(1);
    now += ROUND;
    round_of(&low, 2);
    now += 20 * MS;
    round_of(&high, 2);
    connect_ends(&low, &high); /* of round 1, whose boundaries have been moved since */
    pump();
    cr_assert(low.merges == 1 && high.merges == 1 && low.last.round == 1);
    cr_assert(high.phase.shift_ns == 0 && low.phase.shift_ns == 0);
    outgoing(&low, 2);
    outgoing(&high, 2);
    pump();
    connect_ends(&low, &high);
    pump();
    cr_assert_eq(low.merges, 2);
    cr_assert_eq(high.phase.shift_ns, (int64_t)(10 * MS)); /* low's round 2 is 20 ms older */
    cr_assert_eq(low.phase.shift_ns, -(int64_t)(10 * MS));
    stop();
}

Test(exchange, an_invite_of_the_round_before_says_how_old_that_one_is)
{
    start_with(PARAMS, 5, 5, all_codecs);
    begin(1);
    gossip_pause(high.g, now, true); /* gives round 1 up */
    gossip_pause(high.g, now, false);
    now += ROUND;
    round_of(&low, 2);
    round_of(&high, 2);
    connect_ends(&low, &high);
    pump();
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_BUSY], 1);
    cr_assert(high.phase.shift_ns == 0 &&
              low.phase.shift_ns == 0); /* round 1 is one round old on both sides */
    stop();
}

Test(exchange, a_third_round_takes_the_lane_of_the_first)
{
    start_with(PARAMS, 5, 5, all_codecs);
    begin(1);
    begin(2);
    cr_assert_eq(low.solos, 0);
    begin(3);
    cr_assert(low.solos == 1 && counted(&low)->solo[GOSSIP_SOLO_SUPERSEDED] == 1);
    begin(8); /* the fragment of round 3, and the lane of round 2 */
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_SUPERSEDED], 3);
    begin(11); /* another lane, another fragment */
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_SUPERSEDED], 3);
    cr_assert_eq(counted(&low)->rounds, 5);
    stop();
    start_with(PARAMS, 5, 3, all_codecs);
    begin(1);
    begin(4); /* another lane, the same fragment */
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_SUPERSEDED], 1);
    stop();
}

Test(exchange, the_round_before_is_still_taken_and_older_ones_are_stale)
{
    start_with(PARAMS, 5, 5, all_codecs);
    for (uint64_t round = 4; round <= 6; round++) {
        round_of(&high, round);
        outgoing(&high, round);
    }
    for (uint64_t round = 4; round <= 5; round++) {
        round_of(&low, round);
        outgoing(&low, round);
        pump();
        connect_ends(&low, &high);
        pump();
    }
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_BUSY], 1); /* round 4 */
    cr_assert(low.advance.round == 6 && low.merges == 1 && high.merges == 1 && high.last.round == 5);
    stop();
}

Test(exchange, a_late_snapshot_is_awaited_until_the_deadline)
{
    start_with(PARAMS, 5, 5, all_codecs);
    round_of(&low, 1);
    round_of(&high, 1);
    outgoing(&low, 1);
    pump();
    connect_ends(&low, &high);
    pump();
    now += ROUND;
    outgoing(&high, 1); /* the invite waited for it */
    pump();
    cr_assert(low.merges == 1 && high.merges == 1);
    now += ROUND;
    round_of(&high, 3);
    now += 2 * ROUND;
    gossip_tick(high.g, now);
    events(&high);
    cr_assert(high.last.kind == GOSSIP_EVENT_SOLO && high.last.solo == GOSSIP_SOLO_HERE);
    cr_assert_eq(gossip_set_outgoing(high.g, now, 3, GOSSIP_CODEC_FP32,
                                     bytes_of(high.blob, layout.fragment_bytes[3][GOSSIP_CODEC_FP32]), 3),
                 ERR_STALE);
    stop();
}
