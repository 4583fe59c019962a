#include "fixture.h"

#include <sodium.h>

#include "store/key.h"

static struct rng_seeded stream;

static struct rng seeded(void)
{
    cr_assert_geq(sodium_init(), 0);
    rng_seeded_init(&stream, 7);
    return rng_of_seeded(&stream);
}

/* The seed made at the first start is the one of every later start, in a file nobody else can read. */
Test(key, created_once)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    uint8_t first[STORE_SEED_BYTES];
    uint8_t again[STORE_SEED_BYTES];
    bool created;
    struct store_why why;
    struct rng rng = seeded();
    struct store_io io = store_io_system();
    struct stat st;
    directory_make(dir);
    cr_assert_eq(store_key_load(dir, first, &why), ERR_NOT_FOUND);
    cr_assert_eq(store_key_load_or_create(&io, dir, &rng, first, &created, &why), ERR_OK);
    cr_assert(created);
    cr_assert_eq(store_key_load_or_create(&io, dir, &rng, again, &created, &why), ERR_OK);
    cr_assert(!created);
    cr_assert_arr_eq(first, again, STORE_SEED_BYTES);
    cr_assert_eq(store_key_load(dir, again, NULL), ERR_OK);
    cr_assert_eq(store_path_join(dir, "node.key", path, sizeof path), ERR_OK);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    directory_remove(dir);
}

/* A key file that others can read is refused with advice. */
Test(key, readable_by_others)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    uint8_t seed[STORE_SEED_BYTES];
    bool created;
    struct store_why why;
    struct rng rng = seeded();
    struct store_io io = store_io_system();
    directory_make(dir);
    cr_assert_eq(store_key_load_or_create(&io, dir, &rng, seed, &created, &why), ERR_OK);
    cr_assert_eq(store_path_join(dir, "node.key", path, sizeof path), ERR_OK);
    for (unsigned bit = 1; bit < 0100; bit <<= 1) {
        cr_assert_eq(chmod(path, 0600 | bit), 0);
        cr_assert_eq(store_key_load(dir, seed, &why), ERR_PERMISSION);
        cr_assert_not_null(strstr(why.text, "chmod 600"));
    }
    directory_remove(dir);
}

/* A damaged file is never taken for a key and never replaced: every bit flip, every truncation, a longer
 * file. */
Test(key, damage_is_found)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    uint8_t seed[STORE_SEED_BYTES];
    uint8_t *text;
    size_t len;
    bool created;
    struct store_why why;
    struct rng rng = seeded();
    struct store_io io = unsynced_io();
    struct allocator heap = allocator_system();
    directory_make(dir);
    cr_assert_eq(store_key_load_or_create(&io, dir, &rng, seed, &created, &why), ERR_OK);
    cr_assert_eq(store_path_join(dir, "node.key", path, sizeof path), ERR_OK);
    cr_assert_eq(store_file_read(path, 4096, &heap, &text, &len), ERR_OK);
    for (size_t i = 0; i < 8 * (len - 1); i++) {
        /* Base32 is read in either case, so bit 5 of a letter does no harm. */
        if (i % 8 == 5 && i / 8 >= 18)
            continue;
        text[i / 8] ^= (uint8_t)(1u << (i % 8));
        cr_assert_eq(store_file_write(&io, path, bytes_of(text, len), 0600, true), ERR_OK);
        cr_assert_eq(store_key_load_or_create(&io, dir, &rng, seed, &created, &why), ERR_CORRUPT, "bit %zu",
                     i);
        cr_assert_not_null(strstr(why.text, "move it away"));
        text[i / 8] ^= (uint8_t)(1u << (i % 8));
    }
    for (size_t cut = 0; cut + 1 < len; cut++) {
        cr_assert_eq(store_file_write(&io, path, bytes_of(text, cut), 0600, true), ERR_OK);
        cr_assert_eq(store_key_load(dir, seed, &why), ERR_CORRUPT, "cut to %zu", cut);
    }
    cr_assert_eq(store_file_write(&io, path, bytes_of(text, len - 1), 0600, true), ERR_OK);
    cr_assert_eq(store_key_load(dir, seed, &why), ERR_OK, "only the last line's end is missing");
    char longer[4096] = {0};
    memcpy(longer, text, len);
    cr_assert_eq(store_file_write(&io, path, bytes_of(longer, sizeof longer), 0600, true), ERR_OK);
    cr_assert_eq(store_key_load(dir, seed, &why), ERR_CORRUPT);
    allocator_release(&heap, text);
    directory_remove(dir);
}

/* Whatever call fails, either no key was made or it is whole; and the next start works. */
Test(key, every_fault)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    uint8_t seed[STORE_SEED_BYTES];
    uint8_t zero[STORE_SEED_BYTES] = {0};
    bool created;
    struct store_why why;
    struct rng rng = seeded();
    struct store_io sound = store_io_system();
    directory_make(dir);
    cr_assert_eq(store_path_join(dir, "node.key", path, sizeof path), ERR_OK);
    for (size_t n = 1;; n++) {
        struct fault_io fault = {.fail_at = n, .error = ENOSPC, .half = true};
        struct store_io io = fault_io_view(&fault);
        (void)unlink(path);
        int rc = store_key_load_or_create(&io, dir, &rng, seed, &created, &why);
        if (rc < 0) {
            cr_assert_arr_eq(seed, zero, sizeof zero);
            cr_assert_neq(why.text[0], '\0');
            cr_assert(!created);
        }
        cr_assert_eq(store_key_load_or_create(&sound, dir, &rng, seed, &created, &why), ERR_OK);
        if (fault.calls < n)
            break;
    }
    directory_remove(dir);
}
