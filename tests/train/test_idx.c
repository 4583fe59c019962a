/* An IDX file announces how large it is: nothing it says may be believed before it fits the bytes there are.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "train/idx.h"
#include "train/model.h"

static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2,  0,  0,
                                 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255};
static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 3, 9};
static struct train_rows rows;
static char why[512];

static int read_with(const uint8_t *image, size_t image_len, const uint8_t *label, size_t label_len)
{
    struct allocator heap = allocator_system();
    uint8_t *a = malloc(image_len + 1), *b = malloc(label_len + 1);
    cr_assert(a != NULL && b != NULL);
    /* At the very end of their blocks: the sanitizer sees a read beyond. */
    memcpy(a + 1, image, image_len);
    memcpy(b + 1, label, label_len);
    train_rows_release(&rows);
    train_rows_init(&rows, &heap, 0, 10, 0);
    int result =
        train_idx_read(bytes_of(a + 1, image_len), bytes_of(b + 1, label_len), &rows, why, sizeof why);
    free(a);
    free(b);
    return result;
}

static void begin(void)
{
    struct allocator heap = allocator_system();
    train_rows_init(&rows, &heap, 0, 0, 0);
}

static void end(void)
{
    train_rows_release(&rows);
}

TestSuite(idx, .init = begin, .fini = end);

Test(idx, reads_images_with_labels)
{
    cr_assert(train_is_idx(bytes_of(images, sizeof images)) && train_is_idx(bytes_of(labels, sizeof labels)));
    cr_assert_eq(read_with(images, sizeof images, labels, sizeof labels), 0, "%s", why);
    cr_assert(rows.count == 2 && rows.inputs == 6);
    for (size_t i = 0; i < 12; i++)
        cr_assert_eq(rows.values[i], (float)images[16 + i]);
    cr_assert(rows.labels[0] == 3 && rows.labels[1] == 9);
}

Test(idx, every_truncation_and_every_extra_byte_is_refused)
{
    uint8_t longer[sizeof images + 1] = {0};
    for (size_t len = 0; len < sizeof images; len++)
        cr_assert_lt(read_with(images, len, labels, sizeof labels), 0, "%zu bytes of images", len);
    for (size_t len = 0; len < sizeof labels; len++)
        cr_assert_lt(read_with(images, sizeof images, labels, len), 0, "%zu bytes of labels", len);
    memcpy(longer, images, sizeof images);
    cr_assert_eq(read_with(longer, sizeof longer, labels, sizeof labels), ERR_MALFORMED);
    memcpy(longer, labels, sizeof labels);
    cr_assert_eq(read_with(images, sizeof images, longer, sizeof labels + 1), ERR_MALFORMED);
}

/* Each byte of the headers at its extremes: no crash, and only what changes nothing is taken. */
Test(idx, headers_that_lie_are_refused)
{
    static const uint8_t extremes[] = {0, 1, 0x7F, 0x80, 0xFF};
    for (size_t at = 0; at < 16; at++) {
        for (size_t e = 0; e < sizeof extremes; e++) {
            uint8_t image[sizeof images];
            memcpy(image, images, sizeof images);
            image[at] = extremes[e];
            int result = read_with(image, sizeof image, labels, sizeof labels);
            cr_assert_eq(result == 0, memcmp(image, images, sizeof images) == 0, "byte %zu as %u: %s", at,
                         extremes[e], why);
        }
    }
    /* A product that is 12 only modulo 2^32 or 2^64. */
    static const uint8_t wraps[] = {0,    0, 8, 4, 0,    0, 0, 2, 0x80, 0, 0, 0,
                                    0x80, 0, 0, 0, 0x80, 0, 0, 6, 1,    2, 3, 4};
    cr_assert_eq(read_with(wraps, sizeof wraps, labels, sizeof labels), ERR_TOO_LARGE);
}

Test(idx, says_what_is_wrong)
{
    static const uint8_t packed[] = {0x1F, 0x8B, 8, 0}, floats[] = {0, 0, 0x0D, 1, 0, 0, 0, 0};
    static const uint8_t three[] = {0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3},
                         high[] = {0, 0, 8, 1, 0, 0, 0, 2, 3, 10};
    static const uint8_t none[] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3};
    static const uint8_t pairs[] = {0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3, 4};
    const struct {
        struct bytes images, labels;
        int error;
        const char *says;
    } wrong[] = {
        {bytes_of(packed, 4), bytes_of(labels, 10), ERR_MALFORMED, "gunzip"},
        {bytes_of(floats, 8), bytes_of(labels, 10), ERR_MALFORMED, "unsigned bytes"},
        {bytes_of(images, 28), bytes_of(three, 11), ERR_MISMATCH, "2 images and 3 labels"},
        {bytes_of(images, 28), bytes_of(high, 10), ERR_MISMATCH, "label 2 is 10"},
        {bytes_of(images, 28), bytes_of(pairs, 16), ERR_MALFORMED, "2 values each"},
        {bytes_of(none, 16), bytes_of(labels, 10), ERR_TOO_LARGE, "0 or more than"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_assert_eq(
            read_with(wrong[i].images.data, wrong[i].images.len, wrong[i].labels.data, wrong[i].labels.len),
            wrong[i].error, "%zu: %s", i, why);
        cr_assert_not_null(strstr(why, wrong[i].says), "%zu: \"%s\" does not say \"%s\"", i, why,
                           wrong[i].says);
    }
    struct allocator heap = allocator_system();
    train_rows_release(&rows);
    train_rows_init(&rows, &heap, 7, 10, 0);
    cr_assert_eq(train_idx_read(bytes_of(images, 28), bytes_of(labels, 10), &rows, why, sizeof why),
                 ERR_MISMATCH);
    train_rows_init(&rows, &heap, 0, 10, 30);
    cr_assert_eq(train_idx_read(bytes_of(images, 28), bytes_of(labels, 10), &rows, why, sizeof why),
                 ERR_TOO_LARGE);
}
