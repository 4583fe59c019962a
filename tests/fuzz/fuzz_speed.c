/* Frames of a speed measurement: whatever is accepted is within its limits, and a note that is written again
 * decodes to the same. */
#include <stdlib.h>
#include <string.h>

#include "node/speed_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct speed_frame frame;
    struct speed_frame again;
    uint8_t out[SPEED_NOTE_MAX];
    if (speed_frame_decode(bytes_of(data, size), &frame) < 0)
        return 0;
    if (frame.kind == SPEED_DATA) {
        ASSERT(frame.data.len >= 1 && frame.data.len <= SPEED_DATA_MAX && frame.data.data == data + 1);
        return 0;
    }
    ASSERT(frame.bytes <= SPEED_BYTES_MAX && frame.gap_count <= SPEED_GAPS_MAX);
    size_t len = speed_frame_encode(&frame, out);
    int result = speed_frame_decode(bytes_of(out, len), &again);
    ASSERT(result == ERR_OK && again.kind == frame.kind && again.bytes == frame.bytes);
    if (frame.kind == SPEED_REQUEST)
        ASSERT(again.direction == frame.direction);
    if (frame.kind == SPEED_END || frame.kind == SPEED_REPORT)
        ASSERT(id_equal(&again.hash, &frame.hash));
    if (frame.kind == SPEED_REPORT)
        ASSERT(again.gap_count == frame.gap_count &&
               memcmp(again.gaps, frame.gaps, frame.gap_count * sizeof frame.gaps[0]) == 0);
    return 0;
}
