/* Text must be split the same way by every node, validation never drawn for training, and every bad path
 * answered with a sentence that helps. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/rng.h"
#include "support/support.h"
#include "train/data_read.h"

enum { CONTEXT = 100 };

static char folder[64];
static struct rng_seeded stream;

static void make_folder(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/dunlin-data-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    rng_seeded_init(&stream, 5);
}

static void remove_folder(void)
{
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(data, .init = make_folder, .fini = remove_folder);

static void path_of(char *path, size_t size, const char *name)
{
    (void)snprintf(path, size, "%s/%s", folder, name);
}

static void put(const char *name, const void *bytes, size_t len)
{
    char path[128];
    path_of(path, sizeof path, name);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(bytes, 1, len, file), len);
    cr_assert_eq(fclose(file), 0);
}

/* len random letters, different for each call. */
static uint8_t *letters(size_t len)
{
    struct rng rng = rng_of_seeded(&stream);
    uint8_t *text = malloc(len);
    cr_assert_not_null(text);
    rng_fill(&rng, text, len);
    for (size_t i = 0; i < len; i++)
        text[i] = (uint8_t)('a' + text[i] % 26);
    return text;
}

static void put_letters(const char *name, size_t len)
{
    uint8_t *text = letters(len);
    put(name, text, len);
    free(text);
}

static int open_at(const char *path, size_t bytes_max, uint8_t node, struct train_data **out, char *why)
{
    struct allocator heap = allocator_system();
    struct train_data_config config = {
        .path = path, .context = CONTEXT, .bytes_max = bytes_max, .node = {.bytes = {node}}};
    return train_data_open(&config, &heap, out, why, TRAIN_WHY_SIZE);
}

static struct train_data *open_well(const char *path, uint8_t node)
{
    char why[TRAIN_WHY_SIZE];
    struct train_data *data = NULL;
    cr_assert_eq(open_at(path, 0, node, &data, why), 0, "%s", why);
    return data;
}

static void refuse(const char *path, size_t bytes_max, int expected, const char *said)
{
    char why[TRAIN_WHY_SIZE];
    struct train_data *data = NULL;
    int result = open_at(path, bytes_max, 0, &data, why);
    cr_assert_eq(result, expected, "%s: %s", err_name(result), why);
    cr_assert(strstr(why, said) != NULL, "\"%s\" does not say \"%s\"", why, said);
}

Test(data, takes_text_and_passes_over_the_rest)
{
    char path[128], inside[160];
    put_letters("a.txt", 300000);
    path_of(path, sizeof path, "deep");
    cr_assert_eq(mkdir(path, 0700), 0);
    put_letters("deep/b.txt", 100000);
    put("binary", "abc\0def", 7);
    put("latin1", "caf\xe9\n", 5);
    put("empty", "", 0);
    uint8_t *twin = letters(9000);
    put("twin1", twin, 9000);
    put("twin2", twin, 9000);
    free(twin);
    path_of(inside, sizeof inside, "link");
    cr_assert_eq(symlink("/usr/share/common-licenses", inside), 0);
    path_of(inside, sizeof inside, "pipe");
    cr_assert_eq(mkfifo(inside, 0600), 0);

    struct train_data *data = open_well(folder, 0);
    struct train_data_info info;
    train_data_info(data, &info);
    cr_assert_eq(info.files, 3);
    cr_assert_eq(info.files_binary, 2);
    cr_assert_eq(info.files_duplicate, 1);
    cr_assert_eq(info.files_unreadable, 0);
    cr_assert_eq(info.bytes, 409000);
    cr_assert_eq(info.train_blocks + info.validation_blocks, 37 + 13 + 2);
    train_data_close(data);
}

Test(data, a_named_link_and_a_single_file_are_followed)
{
    char file[128], link[128];
    put_letters("one.txt", 200000);
    path_of(file, sizeof file, "one.txt");
    path_of(link, sizeof link, "to_one");
    cr_assert_eq(symlink("one.txt", link), 0);
    train_data_close(open_well(file, 0));
    train_data_close(open_well(link, 0));
}

Test(data, validation_is_never_trained_on)
{
    const uint8_t *validation[TRAIN_VALIDATION_WINDOWS];
    put_letters("a.txt", 1000000);
    struct train_data *data = open_well(folder, 1);
    train_data_validation(data, validation);
    for (int i = 0; i < 20000; i++) {
        const uint8_t *window = train_data_draw(data);
        for (size_t v = 0; v < TRAIN_VALIDATION_WINDOWS; v++) {
            size_t apart =
                window > validation[v] ? (size_t)(window - validation[v]) : (size_t)(validation[v] - window);
            cr_assert_gt(apart, CONTEXT, "draw %d meets validation window %zu", i, v);
        }
    }
    train_data_close(data);
}

Test(data, draws_cover_the_text_and_differ_by_node)
{
    put_letters("a.txt", 100000);
    struct train_data *one = open_well(folder, 1), *again = open_well(folder, 1), *two = open_well(folder, 2);
    struct train_data_info info;
    train_data_info(one, &info);
    size_t differing = 0;
    const uint8_t *low = NULL, *high = NULL, *first = NULL;
    for (int i = 0; i < 5000; i++) {
        const uint8_t *a = train_data_draw(one), *b = train_data_draw(again), *c = train_data_draw(two);
        cr_assert_eq(memcmp(a, b, CONTEXT + 1), 0, "the same node draws the same");
        differing += memcmp(a, c, CONTEXT + 1) != 0;
        first = first == NULL ? a : first;
        low = low == NULL || a < low ? a : low;
        high = high == NULL || a > high ? a : high;
    }
    cr_assert_gt(differing, 4900);
    cr_assert_gt((size_t)(high - low), 70000);
    train_data_reseed(one, 0);
    cr_assert_eq(train_data_draw(one), first, "a stream starts again");
    train_data_reseed(one, 1);
    cr_assert_neq(train_data_draw(one), first, "another number, another stream");
    train_data_close(one);
    train_data_close(again);
    train_data_close(two);
}

/* Names and folders differ, content does not: windows must be equal, in order. */
Test(data, validation_depends_on_content_only)
{
    const uint8_t *a[TRAIN_VALIDATION_WINDOWS], *b[TRAIN_VALIDATION_WINDOWS];
    char left[128], right[128];
    path_of(left, sizeof left, "left");
    path_of(right, sizeof right, "right");
    cr_assert(mkdir(left, 0700) == 0 && mkdir(right, 0700) == 0);
    for (int i = 0; i < 20; i++) {
        char name[32];
        uint8_t *text = letters(30000);
        (void)snprintf(name, sizeof name, "left/%d", i);
        put(name, text, 30000);
        (void)snprintf(name, sizeof name, "right/%d", 99 - i);
        put(name, text, 30000);
        free(text);
    }
    struct train_data *one = open_well(left, 1), *two = open_well(right, 2);
    train_data_validation(one, a);
    train_data_validation(two, b);
    for (size_t i = 0; i < TRAIN_VALIDATION_WINDOWS; i++)
        cr_assert_eq(memcmp(a[i], b[i], CONTEXT + 1), 0, "window %zu", i);
    train_data_close(one);
    train_data_close(two);
}

Test(data, bad_paths_are_explained)
{
    char path[128];
    path_of(path, sizeof path, "absent");
    refuse(path, 0, ERR_NOT_FOUND, "does not exist");
    refuse(folder, 0, ERR_INVALID, "at least 65536 are needed");
    put_letters("small.txt", 20000);
    refuse(folder, 0, ERR_INVALID, "holds 20000 bytes");
    put_letters("large.txt", 200000);
    refuse(folder, 100000, ERR_TOO_LARGE, "more than 100000 bytes of text");
    path_of(path, sizeof path, "small.txt/below");
    refuse(path, 0, ERR_NOT_FOUND, "does not exist");
}

Test(data, unreadable_files_are_counted)
{
    char path[128];
    if (geteuid() == 0)
        cr_skip_test("root reads everything");
    put_letters("a.txt", 200000);
    put_letters("secret", 100000);
    path_of(path, sizeof path, "secret");
    cr_assert_eq(chmod(path, 0), 0);
    struct train_data_info info;
    struct train_data *data = open_well(folder, 0);
    train_data_info(data, &info);
    cr_assert(info.files == 1 && info.files_unreadable == 1);
    train_data_close(data);
    refuse(path, 0, ERR_PERMISSION, "cannot be read");
}

Test(data, no_allocation_may_be_missed)
{
    put_letters("a.txt", 100000);
    put_letters("b.txt", 50000);
    for (size_t fail_at = 1;; fail_at++) {
        struct counting_allocator counter = {.fail_at = fail_at};
        struct allocator allocator = counting_allocator_view(&counter);
        struct train_data_config config = {.path = folder, .context = CONTEXT};
        char why[TRAIN_WHY_SIZE];
        struct train_data *data = NULL;
        int result = train_data_open(&config, &allocator, &data, why, sizeof why);
        if (result == 0) {
            cr_assert_gt(fail_at, 5);
            train_data_close(data);
        } else {
            cr_assert_eq(result, ERR_NO_MEMORY);
            cr_assert_gt(strlen(why), 0);
        }
        cr_assert_eq(counter.live, 0, "leak when allocation %zu fails", fail_at);
        if (result == 0)
            return;
    }
}

Test(data, text_is_what_rfc_3629_says)
{
    static const struct {
        const char *text;
        bool valid;
    } cases[] = {
        {"plain", true},
        {"\xc3\xa9", true},
        {"\xe2\x82\xac", true},
        {"\xf0\x9f\x90\xa6", true},
        {"\xc3", false},
        {"\xc0\x80", false},
        {"\xe0\x80\x80", false},
        {"\xed\xa0\x80", false},
        {"\xf4\x90\x80\x80", false},
        {"\xf0\x80\x80\x80", false},
        {"\x80", false},
        {"\xff", false},
        {"\xed\x9f\xbf", true},
        {"\xf4\x8f\xbf\xbf", true},
        {"a\xe2\x82", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_assert_eq(train_is_text(bytes_of_text(cases[i].text)), cases[i].valid, "case %zu", i);
    cr_assert_not(train_is_text(bytes_of("a\0b", 3)));
    cr_assert(train_is_text(bytes_of("", 0)));
}
