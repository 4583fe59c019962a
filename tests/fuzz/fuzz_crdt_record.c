/* Bytes to each decoder of crdt/: records, chain entries, batch and chain frames.  What is accepted and
 * canonical encodes to the same bytes again. */
#include <stdlib.h>
#include <string.h>

#include "crdt/batch.h"
#include "crdt/chain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Puts the input's own signature into the encoding, so that it can be compared whole. */
static void sign(void *user, const char *label, struct bytes message, uint8_t signature[CRDT_SIGNATURE_BYTES])
{
    (void)label;
    (void)message;
    memcpy(signature, user, CRDT_SIGNATURE_BYTES);
}

static void fuzz_record(struct bytes in)
{
    struct crdt_record record;
    uint8_t again[CRDT_RECORD_MAX];
    uint8_t signature[CRDT_SIGNATURE_BYTES];
    if (crdt_record_decode(in, &record) < 0)
        return;
    memcpy(signature, record.signature, sizeof signature);
    struct crdt_keys keys = {.self = record.key.author, .sign = sign, .user = signature};
    int len = crdt_record_sign(&record, &keys, again, sizeof again);
    ASSERT(len > 0);
    ASSERT(bytes_equal(in, bytes_of(again, (size_t)len)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct crdt_item items[CRDT_BATCH_MAX];
    struct bytes entries[CRDT_CHAIN_FRAME_ENTRIES];
    struct crdt_entry entry;
    struct id run;
    if (size < 1)
        return 0;
    struct bytes in = bytes_of(data + 1, size - 1);
    switch (data[0] & 3) {
    case 0:
        fuzz_record(in);
        break;
    case 1:
        if (crdt_entry_decode(in, &entry) == 0)
            ASSERT(in.len <= CRDT_ENTRY_MAX && entry.config.len <= CRDT_CONFIG_MAX);
        break;
    case 2: {
        int count = crdt_batch_decode(in, items);
        for (int i = 0; i < count; i++) {
            fuzz_record(items[i].record);
            fuzz_record(items[i].other);
        }
        break;
    }
    default: {
        int count = crdt_chain_frame_decode(in, &run, entries);
        for (int i = 0; i < count; i++)
            (void)!crdt_entry_decode(entries[i], &entry);
    }
    }
    return 0;
}
