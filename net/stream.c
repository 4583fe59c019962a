#include "net/stream.h"

void stream_head_encode(const struct stream_head *head, uint8_t out[STREAM_HEAD_BYTES])
{
    ASSERT(head->service > 0 && head->service < STREAM_SERVICE_COUNT);
    ASSERT(head->class < STREAM_CLASS_COUNT);
    out[0] = STREAM_VERSION;
    out[1] = head->service;
    out[2] = head->class;
    out[3] = 0;
}

int stream_head_decode(const uint8_t in[STREAM_HEAD_BYTES], struct stream_head *out)
{
    if (in[0] != STREAM_VERSION)
        return ERR_VERSION;
    if (in[1] == 0 || in[1] >= STREAM_SERVICE_COUNT || in[2] >= STREAM_CLASS_COUNT || in[3] != 0)
        return ERR_MALFORMED;
    out->service = in[1];
    out->class = in[2];
    return ERR_OK;
}

void stream_length_encode(size_t len, uint8_t out[STREAM_LENGTH_BYTES])
{
    ASSERT(len > 0 && len <= STREAM_FRAME_LIMIT);
    struct writer w = writer_of(out, STREAM_LENGTH_BYTES);
    write_u32(&w, (uint32_t)len);
}

int stream_length_decode(const uint8_t in[STREAM_LENGTH_BYTES], size_t frame_max)
{
    ASSERT(frame_max <= STREAM_FRAME_LIMIT);
    struct reader r = reader_of(bytes_of(in, STREAM_LENGTH_BYTES));
    uint32_t len = read_u32(&r);
    if (len == 0)
        return ERR_MALFORMED;
    if (len > frame_max)
        return ERR_TOO_LARGE;
    return (int)len;
}
