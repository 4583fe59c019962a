/* The body of the call by which a node asks a peer for the owner's chain of a run (docs/protocol/run.md).
 * Pure; the reply is a chain frame of crdt/chain.h. */
#ifndef DUNLIN_NODE_CHAIN_REQUEST_H
#define DUNLIN_NODE_CHAIN_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"

enum { CHAIN_REQUEST_BYTES_MAX = 64 };

struct chain_request {
    struct id run;
    size_t from; /* first entry wanted: how many the asker holds, 0..CRDT_CHAIN_MAX */
};

/* Returns the encoded length, at most CHAIN_REQUEST_BYTES_MAX, for which out has room. */
size_t chain_request_encode(const struct chain_request *request, uint8_t out[CHAIN_REQUEST_BYTES_MAX]);
/* ERR_MALFORMED: not such a body; *out is untouched: refuse the call with it. */
MUST_USE int chain_request_decode(struct bytes in, struct chain_request *out);

#endif
