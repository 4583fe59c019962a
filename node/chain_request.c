#include "node/chain_request.h"

#include "base/pack.h"
#include "crdt/chain.h"

enum { KEY_RUN = 1, KEY_FROM = 2, PAIRS_MAX = 4, TOKENS_MAX = 16 };

size_t chain_request_encode(const struct chain_request *request, uint8_t out[CHAIN_REQUEST_BYTES_MAX])
{
    struct pack_writer w = pack_writer_of(out, CHAIN_REQUEST_BYTES_MAX);
    pack_map(&w, 2);
    pack_key_id(&w, KEY_RUN, &request->run);
    pack_key_uint(&w, KEY_FROM, request->from);
    ASSERT(pack_writer_len(&w) > 0);
    return pack_writer_len(&w);
}

int chain_request_decode(struct bytes in, struct chain_request *out)
{
    struct pack_token tokens[TOKENS_MAX];
    struct pack_reader r = pack_parse(in, tokens, TOKENS_MAX);
    struct chain_request request = {.from = 0};
    uint32_t seen = 0;
    for (size_t left = pack_read_map(&r, PAIRS_MAX); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case KEY_RUN:
            pack_read_id(&r, &request.run);
            break;
        case KEY_FROM:
            request.from = (size_t)pack_read_uint(&r, CRDT_CHAIN_MAX);
            break;
        default:
            pack_skip(&r);
            break;
        }
    }
    if (!pack_done(&r) || (seen & 1u << KEY_RUN) == 0)
        return ERR_MALFORMED;
    *out = request;
    return ERR_OK;
}
