/* base/pack.h on arbitrary bytes.  The first byte chooses the token room, the second how a typed reader
 * walks; the rest is the message.  What is accepted is encoded again, and that normal form must parse to the
 * same tree and encode to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/pack.h"

enum { TOKEN_CAP = 256, WIRE_CAP = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Writes one scalar token as the writer would. */
static void encode_scalar(struct pack_writer *w, struct pack_reader *r)
{
    switch (pack_peek(r)) {
    case PACK_BOOL:
        pack_bool(w, pack_read_bool(r));
        break;
    case PACK_UINT:
        pack_uint(w, pack_read_uint(r, UINT64_MAX));
        break;
    case PACK_INT:
        pack_int(w, pack_read_int(r));
        break;
    case PACK_FLOAT:
        pack_float(w, pack_read_float(r));
        break;
    case PACK_BIN:
        pack_bin(w, pack_read_bin(r, SIZE_MAX));
        break;
    default:
        pack_skip(r);
        pack_nil(w);
    }
}

/* A string token may hold a NUL, which pack_str cannot write: it goes out as raw bytes. */
static void encode_string(struct pack_writer *w, struct pack_reader *r)
{
    char text[WIRE_CAP];
    struct bytes run = pack_read_str(r, sizeof text - 1);
    if (r->failed)
        return;
    if (run.len > 0 && memchr(run.data, 0, run.len) != NULL) {
        pack_bin(w, run);
        return;
    }
    if (run.len > 0)
        memcpy(text, run.data, run.len);
    text[run.len] = '\0';
    pack_str(w, text);
}

/* Encodes all tokens of a reader in document order. */
static size_t encode_again(struct pack_reader r, uint8_t *out, size_t cap)
{
    struct pack_writer w = pack_writer_of(out, cap);
    while (!r.failed && r.at < r.end) {
        if (pack_peek(&r) == PACK_ARRAY)
            pack_array(&w, pack_read_array(&r, SIZE_MAX));
        else if (pack_peek(&r) == PACK_MAP)
            pack_map(&w, pack_read_map(&r, SIZE_MAX));
        else if (pack_peek(&r) == PACK_STR)
            encode_string(&w, &r);
        else
            encode_scalar(&w, &r);
    }
    return r.failed ? 0 : pack_writer_len(&w);
}

/* Reads values of whatever types the steps name; only memory errors and endless loops can go wrong here. */
static void walk(struct pack_reader r, uint32_t steps)
{
    char text[8];
    uint8_t raw[8];
    struct id id;
    uint32_t seen = 0;
    for (unsigned i = 0; i < 64 && !pack_done(&r); i++, steps = steps >> 3 | steps << 29) {
        switch (steps & 7) {
        case 0:
            (void)pack_read_key(&r, &seen);
            break;
        case 1:
            (void)pack_read_uint(&r, 1000);
            break;
        case 2:
            (void)pack_read_int(&r);
            break;
        case 3:
            (void)pack_read_float(&r);
            break;
        case 4:
            pack_read_text(&r, text, sizeof text);
            ASSERT(strlen(text) < sizeof text);
            break;
        case 5:
            pack_read_exact(&r, raw, sizeof raw);
            break;
        case 6:
            pack_read_id(&r, &id);
            break;
        default:
            pack_skip(&r);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t first[WIRE_CAP];
    static uint8_t second[WIRE_CAP];
    if (size < 2)
        return 0;
    struct pack_token *tokens = malloc(TOKEN_CAP * sizeof *tokens);
    struct pack_token *others = malloc(TOKEN_CAP * sizeof *others);
    ASSERT(tokens != NULL && others != NULL);
    struct pack_reader r = pack_parse(bytes_of(data + 2, size - 2), tokens, data[0]);
    ASSERT((size_t)(r.end - r.at) <= data[0]);
    if (!r.failed) {
        walk(r, data[1] * UINT32_C(0x01010101));
        struct pack_reader skipped = r;
        pack_skip(&skipped);
        ASSERT(pack_done(&skipped));
        size_t len = encode_again(r, first, sizeof first);
        if (len > 0) {
            struct pack_reader again = pack_parse(bytes_of(first, len), others, TOKEN_CAP);
            ASSERT(!again.failed && again.end - again.at == r.end - r.at);
            ASSERT(encode_again(again, second, sizeof second) == len);
            ASSERT(memcmp(first, second, len) == 0);
        }
    }
    free(tokens);
    free(others);
    return 0;
}
