/* Files of numbers come from strangers' programs: what RFC 4180 allows is read, and everything else is
 * refused with the line it stands in; no byte of a refused row stays. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "train/csv.h"
#include "train/model.h"

static struct train_rows rows;
static char why[512];

static int read_with(const char *text, size_t len, const char *label, size_t inputs, size_t classes)
{
    struct allocator heap = allocator_system();
    train_rows_release(&rows);
    train_rows_init(&rows, &heap, inputs, classes, 0);
    /* A copy of exactly this length: the sanitizer sees a read beyond it. */
    char *copy = malloc(len + (len == 0));
    cr_assert_not_null(copy);
    memcpy(copy, text, len);
    int result = train_csv_read(bytes_of(copy, len), label, &rows, why, sizeof why);
    free(copy);
    return result;
}

static int read_text(const char *text, const char *label)
{
    return read_with(text, strlen(text), label, 0, 100);
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

TestSuite(csv, .init = begin, .fini = end);

Test(csv, reads_what_the_standard_allows)
{
    static const struct {
        const char *text, *label;
    } same[] = {
        {"1,-2.5,0\n3e2,4,1\n", NULL},
        {"1,-2.5,0\r\n3e2,4,1\r\n", NULL},
        {"1,-2.5,0\n3e2,4,1", ""},
        {"a,b,class\n1,-2.5,0\n3e2,4,1\n", NULL},
        {"a,class,b\n1,0,-2.5\n3e2,1,4\n", "class"},
        {"class,a,b\n0,1,-2.5\n1,3e2,4\n", "class"},
        {"\xEF\xBB\xBF\"class\",\"a, with\n\"\"comma\"\"\",b\n0,1,-2.5\n\n\r\n1,3e2,4\n\n", "class"},
        {"\"1\",\"-2.5\",\"0\"\n 3e2 ,\t4 , 1 \n", NULL},
        {"1,-2.5,0.000e+00\n3.0e+02,+4.,1.0\n", NULL},
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        cr_assert_eq(read_text(same[i].text, same[i].label), 0, "%zu: %s", i, why);
        cr_assert(rows.count == 2 && rows.inputs == 2, "%zu", i);
        static const float expected[] = {1, -2.5F, 300, 4};
        cr_assert_eq(memcmp(rows.values, expected, sizeof expected), 0, "%zu", i);
        cr_assert(rows.labels[0] == 0 && rows.labels[1] == 1, "%zu", i);
    }
}

Test(csv, refuses_with_the_line)
{
    static const struct {
        const char *text, *label;
        int error;
        const char *says;
    } wrong[] = {
        {"", NULL, ERR_MALFORMED, "empty"},
        {"\n\r\n\n", NULL, ERR_MALFORMED, "empty"},
        {"1\n2\n", NULL, ERR_MALFORMED, "line 1: one column"},
        {"1,2,0\n1,2\n", NULL, ERR_MALFORMED, "line 2: fewer"},
        {"1,2,0\n1,2,0,4\n", NULL, ERR_MALFORMED, "line 2: more"},
        {"1,2,0\n1,,1\n", NULL, ERR_MALFORMED, "line 2: value 2 is ''"},
        {"1,2,0\n\n1,x,1\n", NULL, ERR_MALFORMED, "line 3: value 2 is 'x'"},
        {"1,2,0\nnan,2,1\n", NULL, ERR_MALFORMED, "'nan'"},
        {"1,2,0\ninf,2,1\n", NULL, ERR_MALFORMED, "'inf'"},
        {"1,2,0\n0x10,2,1\n", NULL, ERR_MALFORMED, "'0x10'"},
        {"1,2,0\n1e39,2,1\n", NULL, ERR_MALFORMED, "'1e39'"},
        {"1,2,0\n1 2,2,1\n", NULL, ERR_MALFORMED, "'1 2'"},
        {"1,2,0\n1-2,2,1\n", NULL, ERR_MALFORMED, "'1-2'"},
        {"1,2,0\n1,2,-1\n", NULL, ERR_MALFORMED, "line 2: the label is '-1'"},
        {"1,2,0\n1,2,0.5\n", NULL, ERR_MALFORMED, "the label is '0.5'"},
        {"1,2,0\n1,2,70000\n", NULL, ERR_MALFORMED, "the label is '70000'"},
        {"1,2,0\n1,2,100\n", NULL, ERR_MISMATCH, "line 2: the label is 100, and classes are 0 to 99"},
        {"a,b,c\n1,2,cat\n", NULL, ERR_MALFORMED, "line 2: value 3 is 'cat'"},
        {"a,b,c\n1,2,0\n", "d", ERR_NOT_FOUND, "no column is named 'd'"},
        {"1,2,0\n1,2,0\n", "d", ERR_NOT_FOUND, "only numbers"},
        {"1,2,0\n\"1,2,0\n1,2,0\n", NULL, ERR_MALFORMED, "line 2"},
        {"1,2,0\n\"1\"x,2,0\n", NULL, ERR_MALFORMED, "line 2"},
        {"1,2,0\n1\"\",2,0\n", NULL, ERR_MALFORMED, "line 2"},
        {"\"a\n\nb\",c\n1,\n", NULL, ERR_MALFORMED, "line 4"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_assert_eq(read_text(wrong[i].text, wrong[i].label), wrong[i].error, "%zu: %s", i, why);
        cr_assert_not_null(strstr(why, wrong[i].says), "%zu: \"%s\" does not say \"%s\"", i, why,
                           wrong[i].says);
        cr_assert_leq(rows.count, 1);
    }
    cr_assert_eq(read_with("1,2,0\n1,\0002,0\n", 13, NULL, 0, 100), ERR_MALFORMED);
    cr_assert_eq(read_with("1,2,0\n", 6, NULL, 3, 100), ERR_MISMATCH);
    cr_assert_not_null(strstr(why, "2 values beside the label, and 3 are expected"), "%s", why);
}

/* Every cut of a file either is a shorter file or is refused. */
Test(csv, every_truncation_is_safe)
{
    static const char text[] = "\"a\",\"b\"\"x\",class\r\n1,\"2\",0\r\n-3.5e1,4,1\r\n";
    size_t good = 0;
    for (size_t len = 0; len < sizeof text; len++)
        good += read_with(text, len, "class", 0, 2) == 0;
    cr_assert(good > 2 && good < sizeof text / 2, "%zu prefixes were taken", good);
}

/* Wide and deep files meet limits, not the end of memory. */
Test(csv, limits_hold)
{
    size_t columns = TRAIN_MLP_WIDTH_MAX + 1;
    char *text = malloc(2 * columns + 8);
    cr_assert_not_null(text);
    for (size_t i = 0; i < columns + 1; i++)
        memcpy(text + 2 * i, "1,", 2);
    text[2 * columns - 1] = '\n';
    cr_assert_eq(read_with(text, 2 * columns, NULL, 0, 100), 0, "%s", why);
    cr_assert(rows.count == 1 && rows.inputs == TRAIN_MLP_WIDTH_MAX);
    text[2 * columns - 1] = ',';
    text[2 * columns + 1] = '\n';
    cr_assert_eq(read_with(text, 2 * columns + 2, NULL, 0, 100), ERR_TOO_LARGE);
    memset(text, '1', 300);
    memcpy(text + TRAIN_CSV_FIELD_MAX + 1, ",0\n", 3);
    cr_assert_eq(read_with(text, TRAIN_CSV_FIELD_MAX + 4, NULL, 0, 100), ERR_MALFORMED);
    free(text);

    struct allocator heap = allocator_system();
    train_rows_release(&rows);
    train_rows_init(&rows, &heap, 0, 100, 3 * 2 * sizeof(float));
    static const char four[] = "1,2,0\n1,2,0\n1,2,0\n1,2,0\n";
    cr_assert_eq(train_csv_read(bytes_of(four, 18), NULL, &rows, why, sizeof why), 0);
    train_rows_release(&rows);
    cr_assert_eq(train_csv_read(bytes_of(four, 24), NULL, &rows, why, sizeof why), ERR_TOO_LARGE);
    cr_assert_not_null(strstr(why, "line 4"), "%s", why);
}

Test(csv, memory_that_runs_out_is_told)
{
    static const char text[] = "1,2,0\n1,2,0\n";
    for (size_t fail_at = 1;; fail_at++) {
        struct counting_allocator counter = {.fail_at = fail_at};
        struct allocator allocator = counting_allocator_view(&counter);
        struct train_rows some;
        train_rows_init(&some, &allocator, 0, 2, 0);
        int result = train_csv_read(bytes_of(text, sizeof text - 1), NULL, &some, why, sizeof why);
        train_rows_release(&some);
        cr_assert_eq(counter.live, 0);
        if (result == 0)
            break;
        cr_assert_eq(result, ERR_NO_MEMORY);
    }
}

/* What printf writes in full comes back as the same bits. */
Test(csv, numbers_survive_exactly)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    for (int i = 0; i < 2000; i++) {
        uint32_t bits = rng_u32(&rng);
        float value;
        char text[64];
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        (void)snprintf(text, sizeof text, "%.9g,0\n", (double)value);
        cr_assert_eq(read_text(text, NULL), 0, "%s", why);
        cr_assert_eq(rows.values[0], value, "%s", text);
    }
    cr_assert_eq(read_text("-0,0\n", NULL), 0);
    cr_assert_not(signbit(rows.values[0]), "equal rows must have equal bytes");
}
