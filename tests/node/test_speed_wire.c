/* Frames of a speed measurement: the page's examples are what the code writes and reads, and no cut, changed
 * or overlong frame gets through. */
#include <criterion/criterion.h>
#include <string.h>

#include "node/speed_wire.h"
#include "support/page.h"

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/speed.md"

static uint8_t example[1024];

static struct bytes load(const char *name)
{
    size_t len = page_example(PAGE, name, example, sizeof example);
    cr_assert_gt(len, 0, "no example %s", name);
    return bytes_of(example, len);
}

/* Decodes to the same bytes again, and is refused when cut anywhere or continued. */
static struct speed_frame check_note(const char *name)
{
    struct speed_frame frame;
    struct speed_frame cut_frame;
    uint8_t again[SPEED_NOTE_MAX];
    uint8_t longer[SPEED_NOTE_MAX];
    struct bytes in = load(name);
    for (size_t cut = 0; cut < in.len; cut++)
        cr_assert_eq(speed_frame_decode(bytes_of(in.data, cut), &cut_frame), ERR_MALFORMED);
    memcpy(longer, in.data, in.len);
    longer[in.len] = 0xc0;
    cr_assert_eq(speed_frame_decode(bytes_of(longer, in.len + 1), &cut_frame), ERR_MALFORMED);
    cr_assert_eq(speed_frame_decode(in, &frame), ERR_OK);
    size_t len = speed_frame_encode(&frame, again);
    cr_assert(bytes_equal(bytes_of(again, len), in), "%s is written differently", name);
    return frame;
}

Test(speed_wire, request_of_the_page)
{
    struct speed_frame frame = check_note("speed_request");
    cr_assert_eq(frame.kind, SPEED_REQUEST);
    cr_assert_eq(frame.direction, SPEED_DOWN);
    cr_assert_eq(frame.bytes, 64 << 20);
}

Test(speed_wire, progress_of_the_page)
{
    struct speed_frame frame = check_note("speed_progress");
    cr_assert_eq(frame.kind, SPEED_PROGRESS);
    cr_assert_eq(frame.bytes, 16384);
}

Test(speed_wire, end_of_the_page)
{
    struct speed_frame frame = check_note("speed_end");
    cr_assert_eq(frame.kind, SPEED_END);
    cr_assert_eq(frame.bytes, 3);
    cr_assert_eq(frame.hash.bytes[0], 0xbd); /* BLAKE2b-256 of "abc" begins so */
}

Test(speed_wire, report_of_the_page)
{
    struct speed_frame frame = check_note("speed_report");
    cr_assert_eq(frame.kind, SPEED_REPORT);
    cr_assert_eq(frame.gap_count, 2);
    cr_assert_eq(frame.gaps[0].at_ms, 1250);
    cr_assert_eq(frame.gaps[0].ms, 812);
    cr_assert_eq(frame.gaps[1].ms, 31);
}

Test(speed_wire, data_of_the_page)
{
    struct speed_frame frame;
    struct bytes in = load("speed_data");
    cr_assert_eq(speed_frame_decode(in, &frame), ERR_OK);
    cr_assert_eq(frame.kind, SPEED_DATA);
    cr_assert(bytes_equal(frame.data, bytes_of_text("abc")));
    cr_assert_eq(speed_frame_decode(bytes_of(in.data, 1), &frame), ERR_MALFORMED);
}

Test(speed_wire, no_example_is_left_out)
{
    cr_assert_eq(page_examples(PAGE), 5);
}

/* The largest data frame passes, one byte more does not. */
Test(speed_wire, data_has_a_limit)
{
    static uint8_t in[SPEED_FRAME_MAX + 1] = {SPEED_DATA};
    struct speed_frame frame;
    cr_assert_eq(speed_frame_decode(bytes_of(in, SPEED_FRAME_MAX), &frame), ERR_OK);
    cr_assert_eq(frame.data.len, SPEED_DATA_MAX);
    cr_assert_eq(speed_frame_decode(bytes_of(in, SPEED_FRAME_MAX + 1), &frame), ERR_MALFORMED);
}

static int decode_of(const struct speed_frame *frame)
{
    uint8_t out[SPEED_NOTE_MAX];
    struct speed_frame again;
    size_t len = speed_frame_encode(frame, out);
    return speed_frame_decode(bytes_of(out, len), &again);
}

/* Nothing, and more than the limit, cannot be asked for; the opener learns which of the two it was. */
Test(speed_wire, requests_are_bounded)
{
    struct speed_frame frame = {.kind = SPEED_REQUEST, .direction = SPEED_UP, .bytes = SPEED_BYTES_MAX};
    cr_assert_eq(decode_of(&frame), ERR_OK);
    frame.bytes = SPEED_BYTES_MAX + 1;
    cr_assert_eq(decode_of(&frame), ERR_TOO_LARGE);
    frame.bytes = 0;
    cr_assert_eq(decode_of(&frame), ERR_MALFORMED);
    frame.bytes = 1;
    frame.direction = (enum speed_direction)2;
    cr_assert_eq(decode_of(&frame), ERR_MALFORMED);
}

/* Unknown kinds, half a gap, too many gaps, a missing hash: all refused. */
Test(speed_wire, malformed_notes_are_refused)
{
    static const char *const frames[] = {
        "\x00\x81\x02\x01",                     /* kind 0 */
        "\x06\x81\x02\x01",                     /* kind 6 */
        "\x04\x80",                             /* progress without bytes */
        "\x03\x81\x02\x01",                     /* end without hash */
        "\x01\x81\x02\x01",                     /* request without direction */
        "\x04\x82\x02\x01\x02\x01",             /* a key twice */
        "\x04\x82\x02\x01\x04\x93\x01\x01\x01", /* half a gap */
        "\x04\x81\x02\xff",                     /* negative */
    };
    struct speed_frame frame;
    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; i++) {
        size_t len = i == 0 ? 4 : strlen(frames[i]);
        cr_assert_eq(speed_frame_decode(bytes_of(frames[i], len), &frame), ERR_MALFORMED, "frame %zu", i);
    }
}

/* A later version may add keys: they are skipped. */
Test(speed_wire, unknown_keys_are_skipped)
{
    static const uint8_t in[] = {SPEED_PROGRESS, 0x82, 0x09, 0x93, 1, 2, 3, 0x02, 0x2a};
    struct speed_frame frame;
    cr_assert_eq(speed_frame_decode(bytes_of(in, sizeof in), &frame), ERR_OK);
    cr_assert_eq(frame.bytes, 42);
}
