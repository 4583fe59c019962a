/* Members of a run must read the same rows from any format, agree on which are for validation, scale them
 * alike, and be told plainly what a path lacks. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/glyphs.h"
#include "support/support.h"
#include "train/data.h"
#include "train/model.h"
#include "train/samples.h"

enum { ROWS = 600 };

static char folder[64];
static struct allocator heap;
static char why[TRAIN_WHY_SIZE];
static float pixels[ROWS * GLYPH_PIXELS];
static uint16_t labels[ROWS];

static void make_folder(void)
{
    heap = allocator_system();
    (void)snprintf(folder, sizeof folder, "/tmp/dunlin-samples-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    glyphs_fill(1, ROWS, pixels, labels);
}

static const char *path_of(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static const char *const names[] = {
    "a.csv",     "b.csv", "notes.txt", "empty.csv", "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
    "images.png"};

static void remove_folder(void)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        (void)unlink(path_of(names[i]));
    cr_assert_eq(rmdir(folder), 0);
}

TestSuite(samples, .init = make_folder, .fini = remove_folder);

static void write_bytes_to(const char *name, const void *data, size_t len)
{
    FILE *file = fopen(path_of(name), "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(data, 1, len, file), len);
    cr_assert_eq(fclose(file), 0);
}

/* Rows from .. to; the label's column comes first when asked for by name. */
static void write_csv(const char *name, size_t from, size_t to, bool named)
{
    FILE *file = fopen(path_of(name), "w");
    cr_assert_not_null(file);
    for (size_t i = 0; named && i <= GLYPH_PIXELS; i++)
        fprintf(file, i == 0 ? "digit" : ",p%zu", i);
    if (named)
        fprintf(file, "\n");
    for (size_t r = from; r < to; r++) {
        if (named)
            fprintf(file, "%u,", labels[r]);
        for (size_t i = 0; i < GLYPH_PIXELS; i++)
            fprintf(file, "%s%g", i > 0 ? "," : "", (double)pixels[r * GLYPH_PIXELS + i]);
        if (!named)
            fprintf(file, ",%u", labels[r]);
        fprintf(file, "\n");
    }
    cr_assert_eq(fclose(file), 0);
}

static void write_idx(void)
{
    static uint8_t image[16 + ROWS * GLYPH_PIXELS] = {0, 0, 8, 3, 0, 0, ROWS >> 8, ROWS & 255,
                                                      0, 0, 0, 8, 0, 0, 0,         8};
    static uint8_t label[8 + ROWS] = {0, 0, 8, 1, 0, 0, ROWS >> 8, ROWS & 255};
    for (size_t i = 0; i < ROWS * GLYPH_PIXELS; i++)
        image[16 + i] = (uint8_t)pixels[i];
    for (size_t i = 0; i < ROWS; i++)
        label[8 + i] = (uint8_t)labels[i];
    write_bytes_to("train-images-idx3-ubyte", image, sizeof image);
    write_bytes_to("train-labels-idx1-ubyte", label, sizeof label);
}

static struct train_samples *open_at(const char *path, const char *label)
{
    struct train_samples_config config = {.path = path, .label = label};
    struct train_samples *samples;
    cr_assert_eq(train_samples_open(&config, &heap, &samples, why, sizeof why), 0, "%s", why);
    return samples;
}

static void check_equal(struct train_samples *a, struct train_samples *b)
{
    struct train_samples_info x, y;
    train_samples_info(a, &x);
    train_samples_info(b, &y);
    cr_assert(x.inputs == GLYPH_PIXELS && y.inputs == x.inputs && x.classes == 10 && y.classes == 10);
    cr_assert(x.train_rows == y.train_rows && x.validation_rows == y.validation_rows);
    cr_assert_eq(x.train_rows + x.validation_rows, ROWS);
    cr_assert_eq(x.input_max, y.input_max);
    for (size_t i = 0; i < ROWS; i++) {
        uint16_t one, two;
        const float *p = train_samples_row(a, i, &one), *q = train_samples_row(b, i, &two);
        cr_assert(one == two && memcmp(p, q, GLYPH_PIXELS * sizeof *p) == 0, "row %zu", i);
    }
}

Test(samples, every_format_and_order_gives_the_same_rows)
{
    struct train_samples_config config = {.inputs = GLYPH_PIXELS};
    struct train_samples *of_arrays, *other;
    cr_assert_eq(train_samples_of(&config, ROWS, pixels, labels, &heap, &of_arrays, why, sizeof why), 0, "%s",
                 why);
    write_csv("a.csv", 0, ROWS, false);
    other = open_at(path_of("a.csv"), NULL);
    check_equal(of_arrays, other);
    train_samples_close(other);
    /* A folder, its files not in the rows' order, beside what is no data. */
    write_csv("a.csv", 300, ROWS, true);
    write_csv("b.csv", 0, 300, true);
    write_bytes_to("notes.txt", "hello", 5);
    write_bytes_to("images.png", "\x89PNG", 4);
    other = open_at(folder, "digit");
    check_equal(of_arrays, other);
    train_samples_close(other);
    (void)unlink(path_of("a.csv"));
    (void)unlink(path_of("b.csv"));
    write_idx();
    other = open_at(folder, NULL);
    check_equal(of_arrays, other);
    train_samples_close(other);
    other = open_at(path_of("train-images-idx3-ubyte"), NULL);
    check_equal(of_arrays, other);
    train_samples_close(other);
    train_samples_close(of_arrays);
}

Test(samples, are_split_by_content_and_scaled)
{
    write_csv("a.csv", 0, ROWS, false);
    struct train_samples *s = open_at(path_of("a.csv"), "");
    struct train_samples_info info;
    train_samples_info(s, &info);
    cr_assert_eq(info.input_max, 16);
    /* One in ten: 60 of 600, give or take four standard deviations of 7.3. */
    cr_assert(info.validation_rows > 30 && info.validation_rows < 90, "%zu", info.validation_rows);
    float largest = 0;
    for (size_t i = 0; i < ROWS; i++) {
        uint16_t label;
        const float *row = train_samples_row(s, i, &label);
        for (size_t k = 0; k < GLYPH_PIXELS; k++)
            largest = fmaxf(largest, row[k]);
    }
    cr_assert_eq(largest, 1);
    train_samples_close(s);
    /* A row that comes again and again stays on its side. */
    write_csv("b.csv", 0, ROWS, false);
    s = open_at(folder, "");
    struct train_samples_info twice;
    train_samples_info(s, &twice);
    cr_assert(twice.files == 2 && twice.train_rows == 2 * info.train_rows &&
              twice.validation_rows == 2 * info.validation_rows);
    train_samples_close(s);
}

Test(samples, draws_are_the_nodes_own_and_resume)
{
    struct train_samples_config config = {.inputs = GLYPH_PIXELS, .input_max = 8};
    struct train_samples *a, *b;
    struct train_samples_info info;
    size_t first[100], same = 0, seen[ROWS] = {0}, missing = 0;
    cr_assert_eq(train_samples_of(&config, ROWS, pixels, labels, &heap, &a, why, sizeof why), 0);
    config.node.bytes[5] = 1;
    cr_assert_eq(train_samples_of(&config, ROWS, pixels, labels, &heap, &b, why, sizeof why), 0);
    train_samples_info(a, &info);
    cr_assert_eq(info.input_max, 8);
    for (size_t i = 0; i < 100; i++) {
        first[i] = train_samples_draw(a);
        same += train_samples_draw(b) == first[i];
    }
    cr_assert_lt(same, 10);
    train_samples_reseed(a, 1);
    size_t other = 0;
    for (size_t i = 0; i < 100; i++)
        other += train_samples_draw(a) == first[i];
    cr_assert_lt(other, 10);
    train_samples_reseed(a, 0);
    for (size_t i = 0; i < 100; i++)
        cr_assert_eq(train_samples_draw(a), first[i]);
    for (size_t i = 0; i < 20000; i++) {
        size_t row = train_samples_draw(a);
        cr_assert_lt(row, info.train_rows);
        seen[row]++;
    }
    for (size_t i = 0; i < info.train_rows; i++)
        missing += seen[i] == 0;
    cr_assert_eq(missing, 0);
    train_samples_close(a);
    train_samples_close(b);
}

Test(samples, parts_divide_training_and_share_validation)
{
    struct train_samples_info whole, part;
    size_t sum = 0;
    for (uint32_t i = 0; i < 5; i++) {
        struct train_samples_config config = {.inputs = GLYPH_PIXELS, .part = i, .parts = i == 4 ? 1 : 4};
        struct train_samples *s;
        cr_assert_eq(train_samples_of(&config, ROWS, pixels, labels, &heap, &s, why, sizeof why), 0);
        train_samples_info(s, i == 4 ? &whole : &part);
        cr_assert(i == 4 || (part.train_rows > 90 && part.train_rows < 180));
        sum += i == 4 ? 0 : part.train_rows;
        train_samples_close(s);
    }
    cr_assert(sum == whole.train_rows && part.validation_rows == whole.validation_rows);
}

static void refused(const char *path, int error, const char *says)
{
    struct train_samples_config config = {.path = path, .inputs = GLYPH_PIXELS, .classes = 10};
    struct train_samples *samples = NULL;
    int result = train_samples_open(&config, &heap, &samples, why, sizeof why);
    cr_assert_eq(result, error, "%s: %s", err_text(result), why);
    cr_assert_not_null(strstr(why, says), "\"%s\" does not say \"%s\"", why, says);
    cr_assert_null(samples);
}

Test(samples, refusals_name_the_file_and_the_remedy)
{
    refused(path_of("nothing"), ERR_NOT_FOUND, "does not exist");
    refused(folder, ERR_NOT_FOUND, "holds no *.csv");
    refused("/dev/null", ERR_INVALID, "neither a file nor a directory");
    write_bytes_to("empty.csv", "", 0);
    refused(folder, ERR_MALFORMED, "empty.csv: line 1: the file is empty");
    write_csv("empty.csv", 0, TRAIN_SAMPLES_MIN - 1, false);
    refused(path_of("empty.csv"), ERR_INVALID, "19 rows, at least 20");
    write_bytes_to("empty.csv", "1,2,0\n", 6);
    refused(folder, ERR_MISMATCH, "2 values beside the label, and 64 are expected");
    write_idx();
    refused(path_of("train-labels-idx1-ubyte"), ERR_NOT_FOUND, "\"images\" in its name");
    (void)unlink(path_of("train-labels-idx1-ubyte"));
    refused(path_of("train-images-idx3-ubyte"), ERR_NOT_FOUND, "train-labels-idx1-ubyte");
    (void)unlink(path_of("train-images-idx3-ubyte"));
    labels[500] = 11;
    write_csv("a.csv", 0, ROWS, false);
    (void)unlink(path_of("empty.csv"));
    refused(folder, ERR_MISMATCH, "a.csv: line 501: the label is 11, and classes are 0 to 9");
}

Test(samples, arrays_are_checked_too)
{
    struct train_samples_config config = {.inputs = GLYPH_PIXELS, .classes = 10};
    struct train_samples *samples;
    pixels[70] = NAN;
    cr_assert_eq(train_samples_of(&config, ROWS, pixels, labels, &heap, &samples, why, sizeof why),
                 ERR_NOT_FINITE);
    cr_assert_not_null(strstr(why, "value 7 of row 2"), "%s", why);
    pixels[70] = 0;
    labels[3] = 10;
    cr_assert_eq(train_samples_of(&config, ROWS, pixels, labels, &heap, &samples, why, sizeof why),
                 ERR_MISMATCH);
    memset(labels, 0, sizeof labels);
    config.classes = 0;
    cr_assert_eq(train_samples_of(&config, ROWS, pixels, labels, &heap, &samples, why, sizeof why),
                 ERR_INVALID);
    config.classes = 2;
    config.bytes_max = 1000;
    cr_assert_eq(train_samples_of(&config, ROWS, pixels, labels, &heap, &samples, why, sizeof why),
                 ERR_TOO_LARGE);
    cr_assert_neq(why[0], '\0');
}

Test(samples, nothing_leaks_when_memory_runs_out)
{
    write_csv("a.csv", 0, 200, false);
    for (size_t fail_at = 1;; fail_at++) {
        struct counting_allocator counter = {.fail_at = fail_at};
        struct allocator allocator = counting_allocator_view(&counter);
        struct train_samples_config config = {.path = folder};
        struct train_samples *samples;
        int result = train_samples_open(&config, &allocator, &samples, why, sizeof why);
        if (result == 0)
            train_samples_close(samples);
        cr_assert_eq(counter.live, 0, "leak when allocation %zu fails", fail_at);
        if (result == 0)
            break;
        cr_assert_eq(result, ERR_NO_MEMORY, "%s", err_text(result));
        cr_assert_neq(why[0], '\0');
    }
}
