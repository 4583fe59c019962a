/* Mirrors base/bytes.c. */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"

/* Slices compare by content; an empty slice equals an empty slice wherever it points. */
Test(bytes, equality)
{
    struct bytes a = bytes_of_text("dunlin");
    cr_assert_eq(a.len, 6);
    cr_assert(bytes_equal(a, bytes_of("dunlin", 6)));
    cr_assert_not(bytes_equal(a, bytes_of("dunlin", 5)));
    cr_assert_not(bytes_equal(a, bytes_of_text("dunlim")));
    cr_assert(bytes_equal(bytes_of(NULL, 0), bytes_of("x", 0)));
}

Test(bytes, null_with_length_is_a_bug, .signal = SIGABRT)
{
    (void)bytes_of(NULL, 1);
}

/* Integers are big-endian: a written layout must have exactly these bytes and read back the same. */
Test(bytes, layout_and_round_trip)
{
    static const uint8_t expected[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
                                       0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 'a',  'b',  'c',  'd'};
    uint8_t out[sizeof expected];
    struct writer w = writer_of(out, sizeof out);
    write_u8(&w, 0x01);
    write_u16(&w, 0x0203);
    write_u32(&w, 0x04050607);
    write_u64(&w, UINT64_C(0x08090a0b0c0d0e0f));
    write_bytes(&w, "abcd", 4);
    write_bytes(&w, NULL, 0);
    cr_assert_eq(writer_len(&w), sizeof expected);
    cr_assert_arr_eq(out, expected, sizeof expected);

    struct reader r = reader_of(bytes_of(out, sizeof out));
    uint8_t text[2];
    cr_assert_eq(read_u8(&r), 0x01);
    cr_assert_eq(read_u16(&r), 0x0203);
    cr_assert_eq(read_u32(&r), 0x04050607);
    cr_assert_eq(read_u64(&r), UINT64_C(0x08090a0b0c0d0e0f));
    cr_assert(bytes_equal(read_bytes(&r, 2), bytes_of_text("ab")));
    cr_assert_eq(reader_left(&r), 2);
    cr_assert_not(reader_done(&r));
    read_into(&r, text, 2);
    cr_assert_arr_eq(text, "cd", 2);
    cr_assert(reader_done(&r));
}

/* One reader of every kind of field over each prefix of a whole layout: only the whole may be accepted, and
 * after the failure everything reads as zero. */
Test(bytes, every_truncation_fails_and_sticks)
{
    uint8_t whole[1 + 2 + 4 + 8 + 3 + 3];
    memset(whole, 0xff, sizeof whole);
    for (size_t len = 0; len <= sizeof whole; len++) {
        uint8_t copied[3] = {1, 1, 1};
        struct reader r = reader_of(bytes_of(whole, len));
        (void)read_u8(&r);
        (void)read_u16(&r);
        (void)read_u32(&r);
        (void)read_u64(&r);
        (void)read_bytes(&r, 3);
        read_into(&r, copied, 3);
        cr_assert_eq(reader_done(&r), len == sizeof whole, "prefix of %zu bytes", len);
        if (len == sizeof whole)
            continue;
        cr_assert(r.failed);
        cr_assert_eq(reader_left(&r), 0);
        cr_assert_arr_eq(copied, ((uint8_t[3]){0, 0, 0}), 3);
        cr_assert_eq(read_u8(&r), 0, "a failed reader must not go on with what is left");
        cr_assert_eq(read_u64(&r), 0);
        cr_assert_null(read_bytes(&r, 0).data);
    }
}

/* A writer with too little room must report nothing to send and leave the bytes beyond the room alone. */
Test(bytes, writer_failure_sticks)
{
    for (size_t cap = 0; cap < 15; cap++) {
        uint8_t out[16];
        memset(out, 0xee, sizeof out);
        struct writer w = writer_of(out, cap);
        write_u64(&w, 1);
        write_u32(&w, 2);
        write_u16(&w, 3);
        write_u8(&w, 4);
        cr_assert(w.failed);
        cr_assert_eq(writer_len(&w), 0);
        for (size_t i = cap; i < sizeof out; i++)
            cr_assert_eq(out[i], 0xee);
    }
    uint8_t one[1];
    struct writer w = writer_of(one, sizeof one);
    write_bytes(&w, "long", 4);
    write_u8(&w, 1);
    cr_assert_eq(writer_len(&w), 0, "what fits after a failure must not make the message whole again");
}

Test(bytes, writer_needs_a_buffer, .signal = SIGABRT)
{
    (void)writer_of(NULL, 0);
}

/* Lengths near SIZE_MAX must fail by comparison, not wrap around. */
Test(bytes, huge_lengths)
{
    uint8_t buffer[8] = {0};
    struct reader r = reader_of(bytes_of(buffer, sizeof buffer));
    (void)read_u8(&r);
    cr_assert_null(read_bytes(&r, SIZE_MAX).data);
    cr_assert(r.failed);
    struct reader empty = reader_of(bytes_of(NULL, 0));
    cr_assert(reader_done(&empty));
    cr_assert_eq(read_u8(&empty), 0);
    cr_assert_not(reader_done(&empty));
}

/* Little-endian loads and stores are inverse at every bit, on unaligned addresses. */
Test(bytes, little_endian)
{
    uint8_t raw[9];
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t value = UINT64_C(1) << bit;
        store_le64(raw + 1, value);
        cr_assert_eq(raw[1 + bit / 8], 1u << bit % 8);
        cr_assert_eq(load_le64(raw + 1), value);
        store_le32(raw + 1, (uint32_t)value);
        cr_assert_eq(load_le32(raw + 1), (uint32_t)value);
        store_le16(raw + 1, (uint16_t)value);
        cr_assert_eq(load_le16(raw + 1), (uint16_t)value);
    }
}
