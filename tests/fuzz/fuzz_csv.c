/* Any bytes as a CSV file: no crash; what is accepted is finite and comes back the same when written again.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "train/csv.h"
#include "train/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_again(const struct train_rows *rows)
{
    size_t cap = rows->count * (rows->inputs * 24 + 8) + 1, len = 0;
    char *text = malloc(cap);
    struct allocator heap = allocator_system();
    struct train_rows again;
    char why[256];
    if (text == NULL)
        return;
    for (size_t r = 0; r < rows->count; r++) {
        for (size_t i = 0; i < rows->inputs; i++)
            len +=
                (size_t)snprintf(text + len, cap - len, "%.9g,", (double)rows->values[r * rows->inputs + i]);
        len += (size_t)snprintf(text + len, cap - len, "%u\n", rows->labels[r]);
    }
    train_rows_init(&again, &heap, rows->inputs, rows->classes_max, 0);
    int result = train_csv_read(bytes_of(text, len), NULL, &again, why, sizeof why);
    ASSERT(result == 0 && again.count == rows->count);
    ASSERT(memcmp(again.values, rows->values, rows->count * rows->inputs * sizeof(float)) == 0);
    ASSERT(memcmp(again.labels, rows->labels, rows->count * sizeof(uint16_t)) == 0);
    train_rows_release(&again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct allocator heap = allocator_system();
    struct train_rows rows;
    char why[256];
    const char *const columns[] = {NULL, "class"};
    for (size_t c = 0; c < 2; c++) {
        train_rows_init(&rows, &heap, 0, 1000, 1 << 20);
        int result = train_csv_read(bytes_of(data, size), columns[c], &rows, why, sizeof why);
        ASSERT(memchr(why, 0, sizeof why) != NULL);
        for (size_t i = 0; i < rows.count * rows.inputs; i++)
            ASSERT(isfinite(rows.values[i]));
        for (size_t i = 0; i < rows.count; i++)
            ASSERT(rows.labels[i] < 1000);
        if (result == 0 && rows.count > 0)
            write_again(&rows);
        train_rows_release(&rows);
    }
    return 0;
}
