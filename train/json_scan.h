/* A strict JSON scanner over borrowed bytes (RFC 8259), for the header of safetensors files.  Private to
 * train/. Failure is sticky, as in base/bytes.h: after an error every call returns nothing, and `failed` is
 * checked once. Strings with escapes are accepted and skipped, but never match a name: ours need none.
 * The names begin with train_ because jansson, which other programs link beside this library, has a
 * json_string of its own: the linker would quietly give it ours. */
#ifndef DUNLIN_TRAIN_JSON_SCAN_H
#define DUNLIN_TRAIN_JSON_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"

struct json_scan {
    const uint8_t *at, *end;
    bool failed;
};

/* Passes over this character and the white space before it; anything else fails. */
void train_json_expect(struct json_scan *s, char symbol);
/* True, and passes, when the next character after white space is this one. */
bool train_json_accept(struct json_scan *s, char symbol);
/* The text between the quotes, escapes left as they are; empty on failure. */
struct bytes train_json_string(struct json_scan *s);
/* A whole number 0 .. 2^53; anything else fails. */
uint64_t train_json_whole(struct json_scan *s);
/* Passes over any value, nested at most depth_max deep. */
void train_json_skip(struct json_scan *s, unsigned depth_max);
/* True when nothing failed and only white space is left. */
bool train_json_done(struct json_scan *s);

#endif
