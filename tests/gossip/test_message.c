/* Frames: the examples of docs/protocol/gossip.md decode and encode back to the same bytes, every truncation
 * is refused, limits hold. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pack.h"
#include "gossip/codec_modular.h"
#include "gossip/members.h"
#include "gossip/message.h"
#include "support/page.h"

static const char *const names[] = {"",       "invite", "accept", "busy", "piece", "digest",
                                    "commit", "fetch",  "state",  "want", "repair"};

static bool holds_bytes(int type)
{
    return type == GOSSIP_PIECE || type == GOSSIP_WANT || type == GOSSIP_REPAIR;
}

static struct gossip_message sample(enum gossip_type type)
{
    static const uint8_t data[4] = {0, 1, 2, 3};
    struct gossip_message m = {.type = type,
                               .round = 42,
                               .codecs = 63,
                               .codec = type == GOSSIP_STATE ? GOSSIP_CODEC_FP32 : GOSSIP_CODEC_INT8,
                               .param_count = 10928640,
                               .age_ms = 120,
                               .held_ms = 35,
                               .reason = GOSSIP_BUSY_STALE,
                               .index = holds_bytes((int)type) ? 0 : 3,
                               .bytes = bytes_of(data, sizeof data),
                               .length = sizeof data};
    memset(m.run.bytes, 0x11, ID_BYTES);
    memset(m.view.bytes, 0x22, ID_BYTES);
    memset(m.schema.bytes, 0x33, ID_BYTES);
    memset(m.digest.bytes, 0x44, ID_BYTES);
    return m;
}

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/gossip.md"

/* Bytes of one example of the protocol's page; it must be there. */
static size_t example(const char *name, uint8_t out[], size_t cap)
{
    size_t len = page_example(PAGE, name, out, cap);
    cr_assert_gt(len, 0, "no example of %s", name);
    return len;
}

Test(message, examples_of_the_protocol_page_decode)
{
    for (int type = GOSSIP_INVITE; type <= GOSSIP_TYPE_LAST; type++) {
        uint8_t wire[512], again[512];
        struct gossip_message m, expected = sample((enum gossip_type)type);
        size_t len = example(names[type], wire, sizeof wire);
        cr_assert_eq(gossip_message_decode(bytes_of(wire, len), &m), 0, "%s", names[type]);
        cr_assert_eq((int)m.type, type);
        cr_assert_eq(gossip_message_encode(&expected, again, sizeof again), (int)len);
        cr_assert_eq(memcmp(wire, again, len), 0, "%s", names[type]);
    }
}

Test(message, the_lists_of_the_page_say_what_it_says)
{
    static const uint32_t expected[4] = {0, 2, 5, 9};
    uint8_t wire[512];
    struct gossip_message m;
    uint32_t list[4];
    size_t len = example("want", wire, sizeof wire);
    cr_assert_eq(gossip_message_decode(bytes_of(wire, len), &m), 0);
    cr_assert_eq(gossip_indices_decode(m.bytes, 20, list, 4), 4);
    cr_assert_eq(memcmp(list, expected, sizeof list), 0);
    len = example("want-none", wire, sizeof wire);
    cr_assert_eq(gossip_message_decode(bytes_of(wire, len), &m), 0);
    cr_assert(m.type == GOSSIP_WANT && m.bytes.len == 0 && m.length == 0);
    cr_assert_eq(wire[len - 1], 0);
    wire[len - 1] = 1; /* says that a list follows, and has nothing of it */
    cr_assert_eq(gossip_message_decode(bytes_of(wire, len), &m), ERR_MALFORMED);
    len = example("want", wire, sizeof wire);
    wire[len - 1] = 0; /* says that the list is empty, and has bytes */
    cr_assert_eq(gossip_message_decode(bytes_of(wire, len), &m), ERR_MALFORMED);
}

Test(message, register_examples_of_the_protocol_page_decode)
{
    uint8_t wire[512];
    struct gossip_member member;
    struct gossip_progress progress;
    size_t len = example("member", wire, sizeof wire);
    cr_assert_eq(gossip_member_decode(bytes_of(wire, len), &member), 0);
    cr_assert(member.joined_round == 16 && member.codecs == 7 && member.addr_count == 1);
    cr_assert_str_eq(member.name, "attic");
    cr_assert(member.speed.bytes_class == 21 && member.speed.steps_class == 12);
    cr_assert(member.speed_before.bytes_class == 20 && member.speed_round == 48);
    int again = gossip_member_encode(&member, wire + len, sizeof wire - len);
    cr_assert(again == (int)len && memcmp(wire, wire + len, len) == 0, "the example is the normal form");
    len = example("progress", wire, sizeof wire);
    cr_assert_eq(gossip_progress_decode(bytes_of(wire, len), &progress), 0);
    cr_assert(progress.round == 42 && progress.tokens == 1376256 && progress.train_loss == 2.25);
    cr_assert(progress.ending == GOSSIP_ENDING_SETTLED && progress.spread == 0.0009765625 &&
              progress.chain == 2);
}

Test(message, every_truncation_and_every_extra_byte_is_refused)
{
    for (int type = GOSSIP_INVITE; type <= GOSSIP_TYPE_LAST; type++) {
        uint8_t wire[512];
        struct gossip_message m = sample((enum gossip_type)type), out;
        int len = gossip_message_encode(&m, wire, sizeof wire);
        cr_assert_gt(len, 0);
        cr_assert(holds_bytes(type) || len <= GOSSIP_CONTROL_MAX);
        for (int cut = 0; cut < len; cut++) {
            uint8_t *exact = malloc((size_t)cut + 1);
            memcpy(exact, wire, (size_t)cut);
            cr_assert_lt(gossip_message_decode(bytes_of(exact, (size_t)cut), &out), 0);
            free(exact);
        }
        wire[len] = 0;
        cr_assert_eq(gossip_message_decode(bytes_of(wire, (size_t)len + 1), &out), ERR_MALFORMED);
        cr_assert_eq(gossip_message_encode(&m, wire, (size_t)len - 1), ERR_TOO_LARGE);
    }
}

Test(message, unknown_keys_are_skipped_and_missing_ones_are_not)
{
    uint8_t wire[128];
    struct gossip_message out;
    struct pack_writer w = pack_writer_of(wire, sizeof wire);
    pack_map(&w, 4);
    pack_key_uint(&w, 0, GOSSIP_DIGEST);
    pack_key_str(&w, 29, "from the future");
    pack_uint(&w, 1000);
    pack_array(&w, 2);
    pack_nil(&w);
    pack_bool(&w, true);
    pack_key_id(&w, 14, &(struct id){{7}});
    cr_assert_eq(gossip_message_decode(bytes_of(wire, pack_writer_len(&w)), &out), 0);
    cr_assert_eq(out.digest.bytes[0], 7);
    w = pack_writer_of(wire, sizeof wire);
    pack_map(&w, 1);
    pack_key_uint(&w, 0, GOSSIP_DIGEST);
    cr_assert_eq(gossip_message_decode(bytes_of(wire, pack_writer_len(&w)), &out), ERR_MALFORMED);
}

Test(message, limits)
{
    static uint8_t wire[GOSSIP_FRAME_MAX + 64], data[GOSSIP_PIECE_BYTES];
    struct gossip_message out,
        m = {.type = GOSSIP_PIECE, .index = UINT32_MAX, .bytes = bytes_of(data, sizeof data)};
    int len = gossip_message_encode(&m, wire, sizeof wire);
    cr_assert(len > GOSSIP_PIECE_BYTES && len <= GOSSIP_FRAME_MAX);
    cr_assert_eq(gossip_message_decode(bytes_of(wire, (size_t)len), &out), 0);
    cr_assert_eq(out.bytes.len, sizeof data);
    struct pack_writer w = pack_writer_of(wire, sizeof wire);
    pack_map(&w, 3);
    pack_key_uint(&w, 0, GOSSIP_PIECE);
    pack_key_uint(&w, 12, 0);
    pack_key_bin(&w, 13, bytes_of(wire, 0));
    cr_assert_eq(gossip_message_decode(bytes_of(wire, pack_writer_len(&w)), &out), ERR_MALFORMED);
    w = pack_writer_of(wire, sizeof wire);
    pack_map(&w, 3);
    pack_key_uint(&w, 0, GOSSIP_PIECE);
    pack_key_uint(&w, 12, 0);
    pack_uint(&w, 13);
    static uint8_t large[GOSSIP_PIECE_BYTES + 1];
    pack_bin(&w, bytes_of(large, sizeof large));
    cr_assert_eq(gossip_message_decode(bytes_of(wire, pack_writer_len(&w)), &out), ERR_MALFORMED);
}

Test(message, other_versions_and_unknown_runs)
{
    uint8_t wire[GOSSIP_CONTROL_MAX];
    struct gossip_message m = sample(GOSSIP_INVITE), out;
    struct id run;
    int len = gossip_message_encode(&m, wire, sizeof wire);
    cr_assert_eq(gossip_message_run(bytes_of(wire, (size_t)len), &run), 0);
    cr_assert(id_equal(&run, &m.run));
    cr_assert_eq(wire[4], GOSSIP_VERSION); /* map, type key, type, version key, version */
    wire[4] = 1;
    cr_assert_eq(gossip_message_decode(bytes_of(wire, (size_t)len), &out), ERR_VERSION);
    len = (int)gossip_message_unknown_run(wire);
    cr_assert_eq(gossip_message_decode(bytes_of(wire, (size_t)len), &out), 0);
    cr_assert(out.type == GOSSIP_BUSY && out.reason == GOSSIP_BUSY_UNKNOWN_RUN);
    cr_assert_eq(gossip_message_run(bytes_of(wire, (size_t)len), &run), ERR_MALFORMED);
}
