/* Bytes to the decoders of messages and records.  What is accepted must encode, and decode again to the same:
 * the normal form differs from the input only in padding, unknown keys and longer-than-needed integers. */
#include <stdint.h>
#include <string.h>

#include "dht/record.h"
#include "dht/wire.h"

static void check_message(uint8_t kind, struct bytes in)
{
    struct dht_wire m, again;
    uint8_t first[NET_BODY_MAX], second[NET_BODY_MAX];
    if (dht_wire_decode(kind, in, &m) != ERR_OK)
        return;
    size_t len = dht_wire_encode(&m, first, sizeof first);
    ASSERT(len > 0 && len <= in.len);
    int rc = dht_wire_decode(kind, bytes_of(first, len), &again);
    ASSERT(rc == ERR_OK);
    ASSERT(again.contact_count == m.contact_count);
    ASSERT(again.value_count == m.value_count);
    size_t again_len = dht_wire_encode(&again, second, sizeof second);
    ASSERT(again_len == len);
    ASSERT(memcmp(first, second, len) == 0);
    for (size_t i = 0; i < m.value_count; i++) {
        struct dht_record record;
        if (dht_record_decode(m.values[i], &record) != ERR_OK)
            continue;
        int life = dht_record_check_life(&record, record.issued_ms);
        ASSERT(life == ERR_OK || life == ERR_MALFORMED); /* alive when issued, or for too long */
    }
}

static void sign_nothing(void *user, const char *label, struct bytes message,
                         uint8_t signature[NET_SIGNATURE_BYTES])
{
    (void)user, (void)label, (void)message;
    memset(signature, 0, NET_SIGNATURE_BYTES);
}

static void check_record(struct bytes in)
{
    struct dht_record record, again;
    uint8_t out[DHT_RECORD_BYTES_MAX];
    if (dht_record_decode(in, &record) != ERR_OK)
        return;
    struct dht_config config = dht_config_small();
    config.sign = sign_nothing;
    size_t len = dht_record_encode(&record, &config, out);
    int rc = dht_record_decode(bytes_of(out, len), &again);
    ASSERT(rc == ERR_OK);
    ASSERT(id_equal(&record.key, &again.key) && id_equal(&record.owner, &again.owner));
    ASSERT(record.issued_ms == again.issued_ms && record.expires_ms == again.expires_ms);
    ASSERT(record.addr_count == again.addr_count && record.extra_len == again.extra_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > 1 + NET_BODY_MAX)
        return 0;
    check_message(data[0], bytes_of(data + 1, size - 1));
    check_record(bytes_of(data + 1, size - 1));
    return 0;
}
