#include "store/key.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/id.h"

#define KEY_HEADER "dunlin-node-key-1\n"

enum {
    CHECK_BYTES = 4,
    RAW_BYTES = STORE_SEED_BYTES + CHECK_BYTES,
    TEXT_CHARS = 58, /* ceil(36 * 8 / 5) */
    HEADER_CHARS = sizeof KEY_HEADER - 1,
    FILE_CHARS = HEADER_CHARS + TEXT_CHARS + 1,
};

static void seed_check(const uint8_t seed[STORE_SEED_BYTES], uint8_t check[CHECK_BYTES])
{
    struct id sum;
    struct bytes part = bytes_of(seed, STORE_SEED_BYTES);
    hash_parts("dunlin node key", &part, 1, &sum);
    memcpy(check, sum.bytes, CHECK_BYTES);
    sodium_memzero(&sum, sizeof sum);
}

/* Content of a key file to seed. */
static int parse(const char *text, size_t len, uint8_t seed[STORE_SEED_BYTES])
{
    uint8_t raw[RAW_BYTES];
    uint8_t check[CHECK_BYTES];
    while (len > HEADER_CHARS && (text[len - 1] == '\n' || text[len - 1] == '\r'))
        len--;
    if (len != FILE_CHARS - 1 || memcmp(text, KEY_HEADER, HEADER_CHARS) != 0)
        return ERR_CORRUPT;
    int rc =
        base32_decode(text + HEADER_CHARS, TEXT_CHARS, raw, sizeof raw) == RAW_BYTES ? ERR_OK : ERR_CORRUPT;
    if (rc == 0) {
        seed_check(raw, check);
        rc = sodium_memcmp(check, raw + STORE_SEED_BYTES, CHECK_BYTES) == 0 ? ERR_OK : ERR_CORRUPT;
    }
    if (rc == 0)
        memcpy(seed, raw, STORE_SEED_BYTES);
    sodium_memzero(raw, sizeof raw);
    return rc;
}

/* Reads at most FILE_CHARS + 2 bytes of an open key file; ERR_CORRUPT when there are more. */
static int read_text(int fd, char text[FILE_CHARS + 2], size_t *len)
{
    *len = 0;
    while (*len < FILE_CHARS + 2) {
        ssize_t got = read(fd, text + *len, FILE_CHARS + 2 - *len);
        if (got < 0)
            return ERR_IO;
        if (got == 0)
            return ERR_OK;
        *len += (size_t)got;
    }
    return ERR_CORRUPT;
}

static void explain(int rc, const char *path, struct store_why *why)
{
    if (rc == ERR_CORRUPT)
        store_why_set(why,
                      "%s is not a whole Dunlin key file: restore it from a copy, or move it away to start "
                      "with a new identity",
                      path);
    else if (rc == ERR_PERMISSION)
        store_why_set(why, "%s cannot be read or written by this user: check its owner and the directory's",
                      path);
    else if (rc == ERR_NOT_FOUND)
        store_why_set(why, "%s does not exist: start dunlind once to create it", path);
    else
        store_why_set(why, "%s: %s", path, err_text(rc));
}

static int load(const char *path, uint8_t seed[STORE_SEED_BYTES], struct store_why *why)
{
    char text[FILE_CHARS + 2];
    size_t len = 0;
    struct stat st;
    memset(seed, 0, STORE_SEED_BYTES);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? store_error_of(errno) : ERR_OK;
    if (rc == 0 && (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)))
        rc = ERR_CORRUPT;
    if (rc == 0 && (st.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        store_why_set(why,
                      "%s can be read by other users: run `chmod 600 %s`, and make a new key if they may "
                      "have read it",
                      path, path);
        (void)close(fd);
        return ERR_PERMISSION;
    }
    if (rc == 0)
        rc = read_text(fd, text, &len);
    if (rc == 0)
        rc = parse(text, len, seed);
    sodium_memzero(text, sizeof text);
    if (fd >= 0)
        (void)close(fd);
    if (rc < 0)
        explain(rc, path, why);
    return rc;
}

static int create(const struct store_io *io, const char *path, const struct rng *rng,
                  uint8_t seed[STORE_SEED_BYTES])
{
    uint8_t raw[RAW_BYTES];
    char text[FILE_CHARS + 1] = KEY_HEADER;
    rng_fill(rng, raw, STORE_SEED_BYTES);
    seed_check(raw, raw + STORE_SEED_BYTES);
    int chars = base32_encode(bytes_of(raw, RAW_BYTES), text + HEADER_CHARS, TEXT_CHARS + 1);
    ASSERT(chars == TEXT_CHARS);
    text[FILE_CHARS - 1] = '\n';
    int rc = store_file_write(io, path, bytes_of(text, FILE_CHARS), 0600, false);
    if (rc == 0)
        memcpy(seed, raw, STORE_SEED_BYTES);
    sodium_memzero(raw, sizeof raw);
    sodium_memzero(text, sizeof text);
    return rc;
}

int store_key_load(const char *dir, uint8_t seed[STORE_SEED_BYTES], struct store_why *why)
{
    char path[STORE_PATH_MAX];
    memset(seed, 0, STORE_SEED_BYTES);
    int rc = store_path_join(dir, "node.key", path, sizeof path);
    if (rc < 0) {
        store_why_set(why, "the data directory's path is too long");
        return rc;
    }
    return load(path, seed, why);
}

int store_key_load_or_create(const struct store_io *io, const char *dir, const struct rng *rng,
                             uint8_t seed[STORE_SEED_BYTES], bool *created, struct store_why *why)
{
    char path[STORE_PATH_MAX];
    *created = false;
    int rc = store_key_load(dir, seed, why);
    if (rc != ERR_NOT_FOUND)
        return rc;
    rc = store_path_join(dir, "node.key", path, sizeof path);
    if (rc == 0)
        rc = store_dir_make(dir);
    if (rc == 0)
        rc = create(io, path, rng, seed);
    if (rc == ERR_EXISTS) /* another process was faster */
        return load(path, seed, why);
    if (rc < 0) {
        explain(rc, path, why);
        return rc;
    }
    *created = true;
    if (why != NULL)
        why->text[0] = '\0';
    return ERR_OK;
}
