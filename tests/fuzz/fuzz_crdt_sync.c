/* Bytes as a program: two replicas hold some records; frames go to and fro, some altered as the input says,
 * some replaced by the input's own bytes.  Whatever happens, the replicas' invariants hold and no record
 * without a valid signature gets in. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "crdt/sync.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define WALL UINT64_C(1700000000000)

static void tag(const struct id *author, struct bytes message, uint8_t signature[CRDT_SIGNATURE_BYTES])
{
    struct bytes parts[2] = {bytes_of(author->bytes, ID_BYTES), message};
    struct id sum;
    hash_parts("fuzz", parts, 2, &sum);
    memset(signature, 0, CRDT_SIGNATURE_BYTES);
    memcpy(signature, sum.bytes, ID_BYTES);
}

static void sign(void *user, const char *label, struct bytes message, uint8_t signature[CRDT_SIGNATURE_BYTES])
{
    (void)label;
    tag(user, message, signature);
}

static int verify(void *user, const struct id *author, const char *label, struct bytes message,
                  const uint8_t signature[CRDT_SIGNATURE_BYTES])
{
    uint8_t expected[CRDT_SIGNATURE_BYTES];
    (void)user;
    (void)label;
    tag(author, message, expected);
    return memcmp(expected, signature, sizeof expected) == 0 ? ERR_OK : ERR_AUTH;
}

static struct crdt_replica *make(struct id *self, const struct id *run, uint8_t who, unsigned records)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, who);
    struct crdt_replica_config config = crdt_replica_config_default();
    struct crdt_replica *replica;
    memset(self->bytes, who, ID_BYTES);
    config.keys = (struct crdt_keys){.self = *self, .sign = sign, .verify = verify, .user = self};
    config.alloc = allocator_system();
    config.rng = rng_of_seeded(&stream);
    config.runs_max = 1;
    config.records_max = 256;
    config.events_max = 1024;
    int rc = crdt_replica_create(&config, &replica);
    ASSERT(rc == 0);
    rc = crdt_replica_add_run(replica, run);
    for (unsigned i = 0; i < records && rc == 0; i++)
        rc = crdt_replica_put(replica, WALL, run, (uint16_t)i, 0, bytes_of(&who, 1), 1000000);
    ASSERT(rc == 0);
    return replica;
}

/* Delivers one frame, perhaps altered by the program; false when both are done. */
static bool step(struct crdt_sync *from, struct crdt_sync *to, struct reader *program)
{
    static uint8_t frame[CRDT_FRAME_MAX];
    size_t len = crdt_sync_poll_send(from, frame, sizeof frame);
    uint8_t op = read_u8(program);
    if (op == 1 && len > 0) {
        size_t at = read_u16(program) % len;
        frame[at] = read_u8(program);
    } else if (op == 2) {
        struct bytes own = read_bytes(program, read_u8(program));
        len = own.len;
        if (len > 0)
            memcpy(frame, own.data, len);
    } else if (op == 3 && len > 0) {
        len = read_u16(program) % len;
    }
    if (len > 0)
        (void)!crdt_sync_recv(to, WALL, bytes_of(frame, len));
    return reader_left(program) > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct id run = {{1}};
    struct id self[2];
    struct rng_seeded stream;
    struct reader program = reader_of(bytes_of(data, size));
    struct allocator heap = allocator_system();
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    struct crdt_replica *a = make(&self[0], &run, 2, read_u8(&program) % 60);
    struct crdt_replica *b = make(&self[1], &run, 3, read_u8(&program) % 60);
    struct crdt_sync *first;
    struct crdt_sync *second;
    int rc = crdt_sync_open(a, &run, 1, &rng, &heap, &first);
    ASSERT(rc == 0);
    rc = crdt_sync_accept(b, 2, &heap, &second);
    ASSERT(rc == 0);
    bool more = true;
    for (int i = 0; i < 64 && more; i++) {
        more = step(first, second, &program);
        more = step(second, first, &program) || more;
    }
    crdt_replica_check_invariants(a); /* at the end only: it hashes everything anew */
    crdt_replica_check_invariants(b);
    crdt_sync_close(first);
    crdt_sync_close(second);
    crdt_replica_destroy(a);
    crdt_replica_destroy(b);
    return 0;
}
