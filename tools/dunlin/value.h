/* Between msgpack and JSON values, and reading fields of a JSON object with a default. */
#ifndef DUNLIN_TOOLS_VALUE_H
#define DUNLIN_TOOLS_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/pack.h"

/* Reads one msgpack value, with all its children, into a new JSON value, returned owned (free with
 * json_decref). Byte strings become hex; bytes of a string that are not UTF-8 become U+FFFD; NaN and
 * infinities become null, which JSON has no number for.  NULL and r->failed: malformed, or no memory. */
json_t *value_decode(struct pack_reader *r);
/* Appends a JSON value; r->failed when it does not fit. */
void value_encode(struct pack_writer *w, const json_t *value);

/* Fields of an object; the fallback when the object is NULL, the field is missing, null or of another type.
 */
const char *value_text(const json_t *object, const char *key, const char *fallback);
double value_number(const json_t *object, const char *key, double fallback);
uint64_t value_count(const json_t *object, const char *key);
bool value_true(const json_t *object, const char *key);
/* True when the field is there and is not null. */
bool value_present(const json_t *object, const char *key);

#endif
