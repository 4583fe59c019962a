/* File layout of LMDB 0.9 on 64-bit little-endian machines, from lmdb/mdb.c (MDB_page, MDB_meta, MDB_db,
 * MDB_node). All offsets below are into the page. */
#include "store/mdb_check.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PAGE_HEAD = 16, /* pgno u64, pad u16, flags u16, lower u16, upper u16 (overflow: pages u32) */
    PAGE_FLAGS = 10,
    PAGE_LOWER = 12,
    PAGE_UPPER = 14,
    PAGE_SPAN = 12,
    META_MAGIC = PAGE_HEAD,
    META_VERSION = PAGE_HEAD + 4,
    META_DBS = PAGE_HEAD + 24, /* after magic, version, address, map size */
    DB_BYTES = 48,
    DB_DEPTH = 6,
    DB_ROOT = 40,
    META_LAST_PAGE = META_DBS + 2 * DB_BYTES,
    META_TXNID = META_LAST_PAGE + 8,
    NODE_HEAD = 8, /* lo u16, hi u16, flags u16, key size u16 */
    DEPTH_MAX = 32,
    NESTING_MAX = 2, /* the main table holds named tables, which hold none */
};

enum { FLAG_BRANCH = 1, FLAG_LEAF = 2, FLAG_OVERFLOW = 4, FLAG_META = 8, FLAG_LEAF2 = 0x20 };
enum { NODE_BIG = 1, NODE_TABLE = 2, NODE_DUPLICATES = 4 };

#define MDB_FILE_MAGIC   UINT32_C(0xBEEFC0DE)
#define MDB_FILE_VERSION UINT32_C(1)

struct check {
    const uint8_t *file;
    uint64_t pages; /* whole ones in the file */
    uint64_t last;  /* highest page number in use */
    size_t page_size;
    uint8_t *seen; /* one bit a page */
    struct store_why *why;
};

static int damaged(const struct check *c, uint64_t page, const char *what)
{
    store_why_set(c->why, "page %llu: %s", (unsigned long long)page, what);
    return ERR_CORRUPT;
}

/* Page of this number, counted as used for the first time, or NULL. */
static const uint8_t *take_page(const struct check *c, uint64_t number)
{
    if (number < 2 || number > c->last || number >= c->pages)
        return NULL;
    if ((c->seen[number / 8] >> (number % 8) & 1) != 0)
        return NULL;
    c->seen[number / 8] |= (uint8_t)(1u << (number % 8));
    const uint8_t *page = c->file + number * c->page_size;
    return load_le64(page) == number ? page : NULL;
}

/* A run of overflow pages holding size bytes; *data is where they start. */
static int check_overflow(const struct check *c, uint64_t number, uint64_t size, const uint8_t **data)
{
    const uint8_t *page = take_page(c, number);
    if (page == NULL || load_le16(page + PAGE_FLAGS) != FLAG_OVERFLOW)
        return damaged(c, number, "is no overflow page, or used twice");
    uint64_t span = load_le32(page + PAGE_SPAN);
    uint64_t need = (PAGE_HEAD + size + c->page_size - 1) / c->page_size;
    if (span < need || span > c->last + 1 - number || span > c->pages - number)
        return damaged(c, number, "has an impossible length");
    for (uint64_t i = 1; i < span; i++) {
        uint64_t at = number + i;
        if ((c->seen[at / 8] >> (at % 8) & 1) != 0)
            return damaged(c, at, "is used twice");
        c->seen[at / 8] |= (uint8_t)(1u << (at % 8));
    }
    *data = page + PAGE_HEAD;
    return ERR_OK;
}

typedef int visit_value(const struct check *c, const uint8_t *data, uint64_t size);

static int check_tree(const struct check *c, const uint8_t *db, unsigned nesting, visit_value *visit);

/* One entry of a leaf page; it starts at `at` and must end before the page does. */
static int check_leaf_node(const struct check *c, uint64_t number, const uint8_t *page, size_t at,
                           unsigned nesting, visit_value *visit)
{
    const uint8_t *node = page + at;
    uint64_t size = load_le32(node);
    uint16_t flags = load_le16(node + 4);
    size_t key_len = load_le16(node + 6);
    uint64_t inside = (flags & NODE_BIG) != 0 ? 8 : size;
    if ((flags & NODE_DUPLICATES) != 0 || at + NODE_HEAD + key_len + inside > c->page_size)
        return damaged(c, number, "has an entry that does not fit");
    const uint8_t *data = node + NODE_HEAD + key_len;
    if ((flags & NODE_TABLE) != 0)
        return size == DB_BYTES ? check_tree(c, data, nesting + 1, NULL)
                                : damaged(c, number, "names no table");
    int rc = ERR_OK;
    if ((flags & NODE_BIG) != 0)
        rc = check_overflow(c, load_le64(data), size, &data);
    return rc == 0 && visit != NULL ? visit(c, data, size) : rc;
}

static int check_page(const struct check *c, uint64_t number, unsigned depth, unsigned nesting,
                      visit_value *visit)
{
    const uint8_t *page = take_page(c, number);
    if (page == NULL)
        return damaged(c, number, "lies outside the file, or is used twice");
    uint16_t flags = load_le16(page + PAGE_FLAGS);
    size_t lower = load_le16(page + PAGE_LOWER);
    size_t upper = load_le16(page + PAGE_UPPER);
    if (flags != (depth > 1 ? FLAG_BRANCH : FLAG_LEAF))
        return damaged(c, number, "is of another kind than its place in the tree");
    if (lower < PAGE_HEAD || lower % 2 != 0 || lower > upper || upper > c->page_size || lower == PAGE_HEAD)
        return damaged(c, number, "has impossible bounds");
    int rc = ERR_OK;
    for (size_t i = 0; i < (lower - PAGE_HEAD) / 2 && rc == 0; i++) {
        size_t at = load_le16(page + PAGE_HEAD + 2 * i);
        if (at < upper || at % 2 != 0 || at + NODE_HEAD > c->page_size)
            return damaged(c, number, "has an entry outside itself");
        const uint8_t *node = page + at;
        if (flags == FLAG_LEAF) {
            rc = check_leaf_node(c, number, page, at, nesting, visit);
        } else if (at + NODE_HEAD + load_le16(node + 6) > c->page_size) {
            rc = damaged(c, number, "has a key that does not fit");
        } else {
            uint64_t child = (uint64_t)load_le32(node) | (uint64_t)load_le16(node + 4) << 32;
            rc = check_page(c, child, depth - 1, nesting, visit);
        }
    }
    return rc;
}

static int check_tree(const struct check *c, const uint8_t *db, unsigned nesting, visit_value *visit)
{
    uint64_t root = load_le64(db + DB_ROOT);
    unsigned depth = load_le16(db + DB_DEPTH);
    if (root == UINT64_MAX)
        return depth == 0 ? ERR_OK : damaged(c, root, "is missing");
    if (depth == 0 || depth > DEPTH_MAX || nesting > NESTING_MAX)
        return damaged(c, root, "is the root of an impossible tree");
    return check_page(c, root, depth, nesting, visit);
}

/* A value of the free list: a count and as many page numbers, none of them in use. */
static int check_free_pages(const struct check *c, const uint8_t *data, uint64_t size)
{
    if (size < 8 || size % 8 != 0 || load_le64(data) > size / 8 - 1)
        return damaged(c, 0, "has a free list that does not fit");
    for (uint64_t i = 1; i <= load_le64(data); i++) {
        uint64_t number = load_le64(data + 8 * i);
        if (number < 2 || number > c->last)
            return damaged(c, number, "is free but outside the file");
        if ((c->seen[number / 8] >> (number % 8) & 1) != 0)
            return damaged(c, number, "is free and in use");
    }
    return ERR_OK;
}

/* Checks one meta page; returns it or NULL, and the code in *rc. */
static const uint8_t *meta_page(const struct check *c, uint64_t number, int *rc)
{
    const uint8_t *page = c->file + number * c->page_size;
    *rc = ERR_CORRUPT;
    if ((load_le16(page + PAGE_FLAGS) & FLAG_META) == 0 || load_le32(page + META_MAGIC) != MDB_FILE_MAGIC) {
        store_why_set(c->why, "it is no database of Dunlin, or its head is damaged");
        return NULL;
    }
    *rc = ERR_VERSION;
    if (load_le32(page + META_VERSION) != MDB_FILE_VERSION) {
        store_why_set(c->why, "it has another database format (%u)",
                      (unsigned)load_le32(page + META_VERSION));
        return NULL;
    }
    *rc = ERR_OK;
    return page;
}

static int check_file(struct check *c, const struct allocator *alloc)
{
    int rc;
    const uint8_t *meta = meta_page(c, 0, &rc);
    if (meta == NULL)
        return rc;
    c->page_size = load_le32(meta + META_DBS); /* the free list table's pad field holds it */
    if (c->page_size < 512 || c->page_size > 65536 || (c->page_size & (c->page_size - 1)) != 0 ||
        c->pages * 512 < 2 * c->page_size)
        return damaged(c, 0, "has an impossible page size");
    c->pages = c->pages * 512 / c->page_size;
    const uint8_t *second = meta_page(c, 1, &rc);
    if (second == NULL)
        return rc;
    if (load_le64(second + META_TXNID) > load_le64(meta + META_TXNID))
        meta = second;
    c->last = load_le64(meta + META_LAST_PAGE);
    if (c->last < 1 || c->last > UINT64_C(1) << 48)
        return damaged(c, 0, "has an impossible page count");
    /* Pages at the very end may be allocated and never written, so `last` can lie behind the end; a reference
     * to one that is not there is what counts. */
    if (c->last > c->pages + 65536)
        return damaged(c, c->last, "is missing: the file has been cut off");
    c->seen = allocator_get(alloc, 1, (size_t)(c->last / 8 + 1));
    if (c->seen == NULL)
        return ERR_NO_MEMORY;
    /* The free list comes last: by then every page in use is known. */
    rc = check_tree(c, meta + META_DBS + DB_BYTES, 0, NULL);
    if (rc == 0)
        rc = check_tree(c, meta + META_DBS, 0, check_free_pages);
    allocator_release(alloc, c->seen);
    return rc;
}

int store_mdb_check(const char *path, const struct allocator *alloc, struct store_why *why)
{
    static_assert(sizeof(size_t) == 8, "the offsets above are those of 64-bit machines");
    struct stat st;
    int rc = ERR_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ERR_OK : store_error_of(errno);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        rc = ERR_IO;
        store_why_set(why, "it is no ordinary file");
    } else if (st.st_size > 0 && st.st_size < 2 * 512) {
        rc = ERR_CORRUPT;
        store_why_set(why, "it is too short (%lld bytes)", (long long)st.st_size);
    }
    if (rc < 0 || st.st_size == 0)
        goto close_file;
    size_t size = (size_t)st.st_size;
    void *file = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (file == MAP_FAILED) {
        rc = store_error_of(errno);
        goto close_file;
    }
    /* Until the page size is known, pages are counted in the smallest one. */
    struct check c = {.file = file, .pages = size / 512, .page_size = 512, .why = why};
    rc = check_file(&c, alloc);
    (void)munmap(file, size);
close_file:
    (void)close(fd);
    return rc;
}
