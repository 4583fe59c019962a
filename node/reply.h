/* Builds the answer of a control request: nested maps with string keys, so that a client can show it as JSON.
 * Containers are counted as they are filled; failure (buffer full, too deep) is sticky. */
#ifndef DUNLIN_NODE_REPLY_H
#define DUNLIN_NODE_REPLY_H

#include "base/pack.h"

enum { REPLY_DEPTH_MAX = 8 };

struct reply {
    struct pack_writer out;
    struct {
        size_t count_at; /* where the 16-bit count stands in the buffer */
        unsigned count;
        bool is_map;
    } open[REPLY_DEPTH_MAX];
    size_t depth;
    bool failed;
};

/* An answer over the caller's buffer, borrowed until reply_len. */
struct reply reply_of(uint8_t *buffer, size_t cap);
/* Length of the finished answer, 0 when it failed; every container must be closed (asserted). */
size_t reply_len(struct reply *r);

/* Opens a map or an array as the value of key inside a map; key is NULL at the top and inside an array. */
void reply_map(struct reply *r, const char *key);
void reply_array(struct reply *r, const char *key);
/* Closes the innermost container. */
void reply_end(struct reply *r);

/* One value each; key as above. */
void reply_uint(struct reply *r, const char *key, uint64_t value);
void reply_int(struct reply *r, const char *key, int64_t value);
void reply_float(struct reply *r, const char *key, double value);
void reply_bool(struct reply *r, const char *key, bool value);
void reply_str(struct reply *r, const char *key, const char *value);
void reply_text(struct reply *r, const char *key, struct bytes value);
void reply_nil(struct reply *r, const char *key);
void reply_id(struct reply *r, const char *key, const struct id *value);

#endif
