/* Bytes as a checkpoint file, or as a database file (by the first byte): opening either reports damage and
 * never crashes; a checkpoint that is accepted can be read in full. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/checkpoint.h"
#include "store/mdb_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const struct checkpoint_reader *r)
{
    uint8_t chunk[4096];
    for (unsigned section = 0; section < CHECKPOINT_SECTIONS; section++) {
        uint64_t len = r->info.section_len[section];
        for (uint64_t at = 0; at < len; at += sizeof chunk) {
            size_t piece = len - at < sizeof chunk ? (size_t)(len - at) : sizeof chunk;
            int rc = checkpoint_read(r, (enum checkpoint_section)section, at, chunk, piece);
            ASSERT(rc == 0);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[] = "/tmp/dunlin-fuzz-XXXXXX";
    struct store_why why;
    struct allocator heap = allocator_system();
    if (size < 1)
        return 0;
    int fd = mkstemp(path);
    if (fd < 0)
        return 0;
    struct store_io io = store_io_system();
    int rc = store_write_all(&io, fd, data + 1, size - 1);
    (void)close(fd);
    struct checkpoint_reader r;
    if (rc == 0 && data[0] % 2 == 0) {
        if (checkpoint_open_file(&r, path, &why) == 0) {
            read_all(&r);
            checkpoint_close(&r);
        }
    } else if (rc == 0) {
        (void)!store_mdb_check(path, &heap, &why);
    }
    (void)unlink(path);
    return 0;
}
