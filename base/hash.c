#include "base/hash.h"

#include <sodium.h>
#include <string.h>

void hash_parts(const char *label, const struct bytes *parts, size_t part_count, struct id *out)
{
    size_t label_len = strlen(label);
    ASSERT(label_len <= 255);
    uint8_t prefix = (uint8_t)label_len;
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, ID_BYTES);
    crypto_generichash_update(&state, &prefix, 1);
    crypto_generichash_update(&state, (const uint8_t *)label, label_len);
    for (size_t i = 0; i < part_count; i++)
        crypto_generichash_update(&state, parts[i].data, parts[i].len);
    crypto_generichash_final(&state, out->bytes, ID_BYTES);
}

void hash_content(struct bytes in, struct id *out)
{
    crypto_generichash(out->bytes, ID_BYTES, in.data, in.len, NULL, 0);
}
