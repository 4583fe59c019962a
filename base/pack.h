/* Messages: msgpack maps with small integer keys, encoded into a fixed buffer and decoded without allocation.
 *
 * Decoding goes through msgpack-c's callback template into a caller-supplied array of tokens in document
 * order; counts and depth are checked before anything is stored, so a few bytes can never ask for memory.  A
 * container token is followed by its children (a map: key, value, key, value ...).  A reader then walks the
 * tokens with sticky failure, as base/bytes.h does for bytes.  Refused: ext types, trailing bytes,
 * truncation, depth beyond PACK_DEPTH_MAX, and (by pack_read_key) repeated keys.  Signatures and hashes
 * always cover bytes as received, never a re-encoding.
 *
 * A decoder reads like the message's table:
 *
 *     struct pack_token tokens[64];
 *     struct pack_reader r = pack_parse(in, tokens, 64);
 *     uint32_t seen = 0;
 *     for (size_t left = pack_read_map(&r, 16); left > 0; left--) {
 *         switch (pack_read_key(&r, &seen)) {
 *         case 1: m->round = pack_read_uint(&r, UINT32_MAX); break;
 *         case 2: pack_read_id(&r, &m->run); break;
 *         default: pack_skip(&r);                              // unknown keys are skipped
 *         }
 *     }
 *     return pack_done(&r) && (seen & 6) == 6 ? ERR_OK : ERR_MALFORMED;
 */
#ifndef DUNLIN_BASE_PACK_H
#define DUNLIN_BASE_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/id.h"

enum {
    PACK_DEPTH_MAX = 8,    /* nesting of maps and arrays; our deepest message has 4 */
    PACK_KEY_MAX = 31,     /* highest integer key that pack_read_key reports */
    PACK_KEY_UNKNOWN = 255 /* what it reports for any other key */
};

enum pack_type {
    PACK_NIL,
    PACK_BOOL,
    PACK_UINT,
    PACK_INT,
    PACK_FLOAT,
    PACK_STR,
    PACK_BIN,
    PACK_ARRAY,
    PACK_MAP
};

struct pack_token {
    uint8_t type;   /* enum pack_type; PACK_INT only for negative integers */
    uint32_t count; /* bytes of STR and BIN, elements of ARRAY, pairs of MAP */
    union {
        uint64_t u;
        int64_t i;
        double f;
        const uint8_t *data; /* STR, BIN: into the input, which must outlive the token */
    } value;
};

struct pack_reader {
    const struct pack_token *at;
    const struct pack_token *end;
    bool failed;
};

/* Parses all of `in` into tokens (borrowed, as is `in`, until the last read) and returns a reader at the
 * start. `failed` is already set when the input is not one whole valid value or needs more than token_cap
 * tokens. O(in.len). */
struct pack_reader pack_parse(struct bytes in, struct pack_token *tokens, size_t token_cap);

/* Type of the next value, or PACK_NIL after the end. */
enum pack_type pack_peek(const struct pack_reader *r);
/* Enters a map or array and returns its number of pairs or elements; fails when it is more than count_max. */
size_t pack_read_map(struct pack_reader *r, size_t count_max);
size_t pack_read_array(struct pack_reader *r, size_t count_max);
/* Reads a map key.  Returns 0..PACK_KEY_MAX and notes it in *seen, or PACK_KEY_UNKNOWN for any other key
 * (skip the value).  Fails on a key noted before. */
unsigned pack_read_key(struct pack_reader *r, uint32_t *seen);
/* Each reads one value of its type, or returns zero and fails.  An integer above max fails. */
uint64_t pack_read_uint(struct pack_reader *r, uint64_t max);
int64_t pack_read_int(struct pack_reader *r);
bool pack_read_bool(struct pack_reader *r);
/* Accepts floats and integers.  May be NaN or infinite: the caller checks. */
double pack_read_float(struct pack_reader *r);
/* Borrow from the input; fail when longer than len_max. */
struct bytes pack_read_bin(struct pack_reader *r, size_t len_max);
struct bytes pack_read_str(struct pack_reader *r, size_t len_max);
/* Copies a string with a terminator; fails when it needs more than cap bytes or holds a NUL. */
void pack_read_text(struct pack_reader *r, char *out, size_t cap);
/* Copies a bin of exactly len bytes. */
void pack_read_exact(struct pack_reader *r, uint8_t *out, size_t len);
void pack_read_id(struct pack_reader *r, struct id *out);
/* Skips one value with all its children. */
void pack_skip(struct pack_reader *r);
/* True when nothing failed and nothing is left. */
bool pack_done(const struct pack_reader *r);

/* Encoder into a fixed buffer; failure is sticky and leaves nothing to send. */
struct pack_writer {
    uint8_t *start;
    size_t len;
    size_t cap;
    bool failed;
};

/* A writer over the caller's buffer, borrowed until the last write. */
struct pack_writer pack_writer_of(uint8_t *buffer, size_t cap);
/* Bytes of the finished message; 0 after a failure. */
size_t pack_writer_len(const struct pack_writer *w);
void pack_map(struct pack_writer *w, size_t pairs);
void pack_array(struct pack_writer *w, size_t elements);
void pack_uint(struct pack_writer *w, uint64_t value);
void pack_int(struct pack_writer *w, int64_t value);
void pack_float(struct pack_writer *w, double value);
void pack_bool(struct pack_writer *w, bool value);
void pack_nil(struct pack_writer *w);
void pack_bin(struct pack_writer *w, struct bytes value);
void pack_str(struct pack_writer *w, const char *value);
void pack_id(struct pack_writer *w, const struct id *value);
/* Key and value of one pair. */
void pack_key_uint(struct pack_writer *w, unsigned key, uint64_t value);
void pack_key_bin(struct pack_writer *w, unsigned key, struct bytes value);
void pack_key_str(struct pack_writer *w, unsigned key, const char *value);
void pack_key_id(struct pack_writer *w, unsigned key, const struct id *value);
void pack_key_float(struct pack_writer *w, unsigned key, double value);
void pack_key_bool(struct pack_writer *w, unsigned key, bool value);

#endif
