/* 32-byte identifiers and their text form.
 *
 * A node id is the node's raw Ed25519 public key; a run id and a record id are BLAKE2b-256 hashes.  All share
 * one type, one order (memcmp) and one text form: lower-case base32 of RFC 4648 s.6 without padding, 52
 * characters. Tables for people show the first ID_SHORT_CHARS of them. */
#ifndef DUNLIN_BASE_ID_H
#define DUNLIN_BASE_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

enum {
    ID_BYTES = 32,
    ID_TEXT_CHARS = 52,               /* ceil(256 / 5) */
    ID_TEXT_SIZE = ID_TEXT_CHARS + 1, /* with the terminator */
    ID_SHORT_CHARS = 10,
    ID_SHORT_SIZE = ID_SHORT_CHARS + 1,
};

struct id {
    uint8_t bytes[ID_BYTES];
};

/* True when both are the same.  Not constant time: ids are public. */
bool id_equal(const struct id *a, const struct id *b);
/* Negative, zero or positive as a sorts before, with or after b. */
int id_compare(const struct id *a, const struct id *b);
/* True for the all-zero id, which stands for "none". */
bool id_is_zero(const struct id *id);
/* Writes the 52 characters and a terminator. */
void id_format(const struct id *id, char text[ID_TEXT_SIZE]);
/* Writes the first ten characters and a terminator, for tables. */
void id_format_short(const struct id *id, char text[ID_SHORT_SIZE]);
/* Parses exactly 52 characters, either case.  ERR_MALFORMED: wrong length, alphabet or a set trailing bit;
 * *out is untouched: tell the person what was expected. */
MUST_USE int id_parse(const char *text, struct id *out);

/* Base32 of RFC 4648 s.6, lower case, no padding.  Returns characters written without the terminator.
 * ERR_TOO_LARGE: text_cap < ceil(in.len * 8 / 5) + 1. */
MUST_USE int base32_encode(struct bytes in, char *text, size_t text_cap);
/* Decodes; returns bytes written.  ERR_MALFORMED: character outside the alphabet, impossible length or a set
 * trailing bit.  ERR_TOO_LARGE: out_cap too small. */
MUST_USE int base32_decode(const char *text, size_t text_len, uint8_t *out, size_t out_cap);

#endif
