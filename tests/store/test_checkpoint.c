#include "fixture.h"

#include <signal.h>
#include <sys/wait.h>

#include "base/rng.h"
#include "store/checkpoint.h"

enum { PARAMS = 5000 };

struct content {
    float phi[PARAMS];
    float delta[PARAMS];
    uint8_t optimizer[3 * PARAMS];
    uint8_t meta[100];
};

/* Content that depends on the round only, so that a loaded file can be judged by its head. */
static void content_fill(struct content *c, uint64_t round)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, round);
    struct rng rng = rng_of_seeded(&stream);
    rng_fill(&rng, c, sizeof *c);
}

static struct checkpoint_info info_of(uint64_t round)
{
    struct checkpoint_info info = {
        .round = round,
        .step = 10 * round,
        .param_count = PARAMS,
        .tensor_count = 3,
        .section_len = {sizeof(float) * PARAMS, sizeof(float) * PARAMS, 3 * PARAMS, 100}};
    memset(info.run.bytes, 9, ID_BYTES);
    return info;
}

static int write_round(const struct store_io *io, const char *dir, uint64_t round)
{
    struct checkpoint_writer w;
    struct checkpoint_info info = info_of(round);
    struct content *c = malloc(sizeof *c);
    content_fill(c, round);
    int rc = checkpoint_begin(&w, io, dir, &info);
    if (rc == 0) {
        const uint8_t *all = (const uint8_t *)c;
        for (size_t at = 0; at < sizeof *c && rc == 0;) { /* in uneven pieces */
            size_t len = sizeof *c - at < 7001 ? sizeof *c - at : 7001;
            rc = checkpoint_write(&w, all + at, len);
            at += len;
        }
        if (rc == 0)
            rc = checkpoint_commit(&w);
        else
            checkpoint_abort(&w);
    }
    free(c);
    return rc;
}

/* Round of the newest intact checkpoint after checking every byte of it; 0: none. */
static uint64_t loaded_round(const char *dir, bool *fell_back)
{
    struct checkpoint_reader r;
    struct checkpoint_info expected = info_of(0);
    struct content *read = calloc(1, sizeof *read);
    struct content *c = malloc(sizeof *c);
    uint64_t round = 0;
    int rc = checkpoint_open(&r, dir, &expected.run, false, NULL);
    if (rc == 0) {
        round = r.info.round;
        *fell_back = r.fell_back;
        cr_assert_eq(r.info.step, 10 * round);
        cr_assert_eq(r.info.tensor_count, 3);
        cr_assert_eq(checkpoint_read(&r, CHECKPOINT_PHI, 0, read->phi, sizeof read->phi), ERR_OK);
        cr_assert_eq(checkpoint_read(&r, CHECKPOINT_DELTA, 0, read->delta, sizeof read->delta), ERR_OK);
        cr_assert_eq(checkpoint_read(&r, CHECKPOINT_OPTIMIZER, 0, read->optimizer, 100), ERR_OK);
        cr_assert_eq(checkpoint_read(&r, CHECKPOINT_OPTIMIZER, 100, read->optimizer + 100, 3 * PARAMS - 100),
                     ERR_OK);
        cr_assert_eq(checkpoint_read(&r, CHECKPOINT_META, 0, read->meta, sizeof read->meta), ERR_OK);
        cr_assert_eq(checkpoint_read(&r, CHECKPOINT_META, 1, read->meta, sizeof read->meta), ERR_INVALID);
        content_fill(c, round);
        cr_assert_eq(memcmp(c, read, sizeof *c), 0);
        checkpoint_close(&r);
    } else {
        cr_assert(rc == ERR_NOT_FOUND || rc == ERR_CORRUPT);
    }
    free(c);
    free(read);
    return round;
}

/* The newest is loaded, two generations stay, and a damaged newest one is replaced by the one before, which
 * is said. */
Test(checkpoint, generations_and_fall_back)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    struct store_io io = store_io_system();
    struct checkpoint_info info = info_of(0);
    struct checkpoint_reader r;
    struct store_why why = {""};
    uint64_t generations[8];
    bool fell_back = false;
    directory_make(dir);
    cr_assert_eq(checkpoint_open(&r, dir, &info.run, true, &why), ERR_NOT_FOUND);
    for (uint64_t round = 1; round <= 4; round++) {
        cr_assert_eq(write_round(&io, dir, round), ERR_OK);
        cr_assert_eq(loaded_round(dir, &fell_back), round);
        cr_assert(!fell_back);
    }
    cr_assert_eq(checkpoint_list(dir, &info.run, generations, 8), 2);
    cr_assert_eq(generations[0], 4);
    cr_assert_eq(generations[1], 3);
    cr_assert_eq(checkpoint_path(dir, &info.run, 4, path, sizeof path), ERR_OK);
    int fd = open(path, O_RDWR);
    cr_assert_eq(pwrite(fd, "x", 1, 1234), 1);
    (void)close(fd);
    cr_assert_eq(loaded_round(dir, &fell_back), 3);
    cr_assert(fell_back);
    cr_assert_eq(checkpoint_open(&r, dir, &info.run, true, &why), ERR_OK);
    cr_assert(r.fell_back);
    cr_assert_not_null(strstr(why.text, "checksum"));
    checkpoint_close(&r);
    /* Set aside: the damaged one counts no more, so the good one survives the next commit. */
    cr_assert_eq(write_round(&io, dir, 5), ERR_OK);
    cr_assert_eq(checkpoint_list(dir, &info.run, generations, 8), 2);
    cr_assert_eq(checkpoint_path(dir, &info.run, generations[0], path, sizeof path), ERR_OK);
    cr_assert_eq(truncate(path, 100), 0);
    cr_assert_eq(loaded_round(dir, &fell_back), 3);
    cr_assert_eq(checkpoint_path(dir, &info.run, generations[1], path, sizeof path), ERR_OK);
    cr_assert_eq(truncate(path, 0), 0);
    cr_assert_eq(checkpoint_open(&r, dir, &info.run, true, &why), ERR_CORRUPT);
    directory_remove(dir);
}

/* Announced lengths are kept to. */
Test(checkpoint, lengths)
{
    char dir[64];
    struct store_io io = store_io_system();
    struct checkpoint_writer w;
    struct checkpoint_info info = info_of(1);
    uint8_t byte = 0;
    directory_make(dir);
    info.section_len[CHECKPOINT_PHI]++;
    cr_assert_eq(checkpoint_begin(&w, &io, dir, &info), ERR_INVALID);
    info = info_of(1);
    info.section_len[CHECKPOINT_META] = CHECKPOINT_META_MAX + 1;
    cr_assert_eq(checkpoint_begin(&w, &io, dir, &info), ERR_INVALID);
    info = info_of(1);
    cr_assert_eq(checkpoint_begin(&w, &io, dir, &info), ERR_OK);
    cr_assert_eq(checkpoint_write(&w, &byte, 1), ERR_OK);
    cr_assert_eq(checkpoint_commit(&w), ERR_INVALID, "fewer bytes than announced");
    memset(&info.section_len, 0, sizeof info.section_len);
    info.param_count = 0;
    cr_assert_eq(checkpoint_begin(&w, &io, dir, &info), ERR_OK);
    cr_assert_eq(checkpoint_write(&w, &byte, 1), ERR_INVALID);
    checkpoint_abort(&w);
    bool fell_back;
    cr_assert_eq(loaded_round(dir, &fell_back), 0);
    directory_remove(dir);
}

/* Whatever system call fails, a whole checkpoint is left: the new one or the one before; we fail each in
 * turn. */
Test(checkpoint, every_fault)
{
    char dir[64];
    struct store_io sound = store_io_system();
    bool fell_back;
    directory_make(dir);
    cr_assert_eq(write_round(&sound, dir, 1), ERR_OK);
    uint64_t round = 1;
    for (size_t n = 1;; n++) {
        struct fault_io fault = {.fail_at = n, .error = n % 2 == 0 ? ENOSPC : EIO, .half = true};
        struct store_io io = fault_io_view(&fault);
        int rc = write_round(&io, dir, round + 1);
        uint64_t loaded = loaded_round(dir, &fell_back);
        cr_assert(loaded == round + 1 || (rc < 0 && loaded == round), "call %zu: %d, round %d", n, rc,
                  (int)loaded);
        round = loaded;
        if (fault.calls < n)
            break;
    }
    directory_remove(dir);
}

/* kill -9 at random instants while checkpoints are written leaves an intact one, never older than the last
 * that was acknowledged. */
Test(checkpoint, kill_at_random_instants, .timeout = 100)
{
    char dir[64];
    struct rng_seeded stream;
    rng_seeded_init(&stream, 11);
    struct rng rng = rng_of_seeded(&stream);
    bool fell_back = false;
    uint64_t round = 0;
    directory_make(dir);
    for (int kills = 0; kills < 25; kills++) {
        int report[2];
        cr_assert_eq(pipe(report), 0);
        pid_t child = fork();
        if (child == 0) {
            struct store_io io = store_io_system();
            for (uint64_t next = round + 1;; next++) {
                if (write_round(&io, dir, next) != 0 || write(report[1], &next, sizeof next) != sizeof next)
                    _exit(1);
            }
        }
        (void)close(report[1]);
        (void)usleep((useconds_t)rng_below(&rng, 30000));
        (void)kill(child, SIGKILL);
        (void)waitpid(child, NULL, 0);
        uint64_t acknowledged = round;
        uint64_t value;
        while (read(report[0], &value, sizeof value) == sizeof value)
            acknowledged = value;
        (void)close(report[0]);
        uint64_t loaded = loaded_round(dir, &fell_back);
        cr_assert_geq(loaded, acknowledged, "seed 11, kill %d", kills);
        cr_assert(!fell_back, "a half-written file never gets a generation's name");
        round = loaded;
    }
    directory_remove(dir);
}

/* Every truncation and random flips of a file are found. */
Test(checkpoint, damage_is_found)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    struct store_io io = unsynced_io();
    struct checkpoint_info info = info_of(1);
    struct checkpoint_writer w;
    struct checkpoint_reader r;
    struct store_why why;
    uint8_t *file;
    size_t len;
    struct allocator heap = allocator_system();
    directory_make(dir);
    info.param_count = 5;
    memcpy(info.section_len, (uint64_t[4]){20, 20, 7, 3}, sizeof info.section_len);
    cr_assert_eq(checkpoint_begin(&w, &io, dir, &info), ERR_OK);
    cr_assert_eq(checkpoint_write(&w, "twenty bytes of phi.twenty bytes, delta.sevens.met", 50), ERR_OK);
    cr_assert_eq(checkpoint_commit(&w), ERR_OK);
    cr_assert_eq(checkpoint_path(dir, &info.run, 1, path, sizeof path), ERR_OK);
    cr_assert_eq(store_file_read(path, 4096, &heap, &file, &len), ERR_OK);
    cr_assert_eq(len, CHECKPOINT_HEAD_BYTES + 50 + CHECKPOINT_SUM_BYTES);
    for (size_t cut = 0; cut < len; cut++) {
        cr_assert_eq(store_file_write(&io, path, bytes_of(file, cut), 0600, true), ERR_OK);
        cr_assert_eq(checkpoint_open_file(&r, path, &why), ERR_CORRUPT);
    }
    for (size_t i = 0; i < len; i++) {
        file[i] ^= 0x40;
        cr_assert_eq(store_file_write(&io, path, bytes_of(file, len), 0600, true), ERR_OK);
        int rc = checkpoint_open_file(&r, path, &why);
        cr_assert(rc == ERR_CORRUPT || rc == ERR_VERSION, "byte %zu", i);
        file[i] ^= 0x40;
    }
    allocator_release(&heap, file);
    directory_remove(dir);
}
