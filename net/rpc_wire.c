#include "net/rpc_wire.h"

#include "base/pack.h"
#include "net/rpc.h"

enum { TOKENS = 32, PAIRS_MAX = 8, CODE_MIN = 10001, CODE_MAX = 49999 };

size_t rpc_request_encode(const struct rpc_request_message *message, uint8_t *out, size_t cap)
{
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, 3);
    pack_key_uint(&w, 1, message->method);
    pack_key_uint(&w, 2, message->timeout_ms);
    pack_key_bin(&w, 3, message->body);
    return pack_writer_len(&w);
}

int rpc_request_decode(struct bytes in, size_t body_max, struct rpc_request_message *out)
{
    struct pack_token tokens[TOKENS];
    struct pack_reader r = pack_parse(in, tokens, TOKENS);
    struct rpc_request_message m = {0};
    uint32_t seen = 0;
    for (size_t left = pack_read_map(&r, PAIRS_MAX); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case 1:
            m.method = (uint16_t)pack_read_uint(&r, UINT16_MAX);
            break;
        case 2:
            m.timeout_ms = (uint32_t)pack_read_uint(&r, RPC_TIMEOUT_MS_MAX);
            break;
        case 3:
            m.body = pack_read_bin(&r, body_max);
            break;
        default:
            pack_skip(&r);
        }
    }
    if (!pack_done(&r) || (seen & 0xe) != 0xe || m.method == 0 || m.timeout_ms == 0)
        return ERR_MALFORMED;
    *out = m;
    return ERR_OK;
}

size_t rpc_reply_encode(const struct rpc_reply_message *message, uint8_t *out, size_t cap)
{
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, message->err == 0 ? 2 : 1);
    pack_key_uint(&w, 1, (uint64_t) - (int64_t)message->err);
    if (message->err == 0)
        pack_key_bin(&w, 2, message->body);
    return pack_writer_len(&w);
}

int rpc_reply_decode(struct bytes in, size_t body_max, struct rpc_reply_message *out)
{
    struct pack_token tokens[TOKENS];
    struct pack_reader r = pack_parse(in, tokens, TOKENS);
    struct rpc_reply_message m = {0};
    uint64_t code = 0;
    uint32_t seen = 0;
    for (size_t left = pack_read_map(&r, PAIRS_MAX); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case 1:
            code = pack_read_uint(&r, CODE_MAX);
            break;
        case 2:
            m.body = pack_read_bin(&r, body_max);
            break;
        default:
            pack_skip(&r);
        }
    }
    if (!pack_done(&r) || !(seen & 2) || (code != 0 && code < CODE_MIN))
        return ERR_MALFORMED;
    m.err = -(int)code;
    *out = m;
    return ERR_OK;
}
