/* Any bytes to the frame and register decoders: what is accepted must encode again, and decode to the same.
 */
#include <string.h>

#include "gossip/members.h"
#include "gossip/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_frame(struct bytes in)
{
    static uint8_t first[GOSSIP_FRAME_MAX], second[GOSSIP_FRAME_MAX];
    struct gossip_message m;
    if (gossip_message_decode(in, &m) < 0)
        return;
    int len = gossip_message_encode(&m, first, sizeof first);
    ASSERT(len > 0);
    int result = gossip_message_decode(bytes_of(first, (size_t)len), &m);
    ASSERT(result == ERR_OK);
    int again = gossip_message_encode(&m, second, sizeof second);
    ASSERT(again == len);
    ASSERT(memcmp(first, second, (size_t)len) == 0);
}

static void try_values(struct bytes in)
{
    uint8_t wire[GOSSIP_MEMBER_VALUE_MAX];
    struct gossip_member member;
    struct gossip_progress progress;
    if (gossip_member_decode(in, &member) == ERR_OK) {
        int len = gossip_member_encode(&member, wire, sizeof wire);
        ASSERT(len > 0);
    }
    if (gossip_progress_decode(in, &progress) == ERR_OK) {
        int len = gossip_progress_encode(&progress, wire, GOSSIP_PROGRESS_VALUE_MAX);
        ASSERT(len > 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct id run;
    struct bytes in = bytes_of(data, size);
    try_frame(in);
    try_values(in);
    (void)!gossip_message_run(in, &run);
    return 0;
}
