/* Any bytes as an IDX file of images, and the rest of them as its labels: the first two bytes say where the
 * labels begin.  No crash; what is accepted holds exactly the bytes of the files. */
#include <string.h>

#include "base/err.h"
#include "train/idx.h"
#include "train/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct allocator heap = allocator_system();
    struct train_rows rows;
    char why[256];
    if (size < 2)
        return 0;
    size_t cut = 2 + load_le16(data) % (size - 1);
    struct bytes images = bytes_of(data + 2, cut - 2), labels = bytes_of(data + cut, size - cut);
    train_rows_init(&rows, &heap, 0, 10, 1 << 20);
    int result = train_idx_read(images, labels, &rows, why, sizeof why);
    ASSERT(memchr(why, 0, sizeof why) != NULL);
    if (result == 0 && rows.count > 0) {
        size_t count = rows.count * rows.inputs;
        const uint8_t *elements = images.data + images.len - count;
        for (size_t i = 0; i < count; i++)
            ASSERT(rows.values[i] == (float)elements[i]);
        for (size_t i = 0; i < rows.count; i++)
            ASSERT(rows.labels[i] == labels.data[labels.len - rows.count + i] && rows.labels[i] < 10);
    }
    train_rows_release(&rows);
    return 0;
}
