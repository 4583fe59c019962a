#include "train/kernels.h"
#include "train/model.h"

void train_embed(size_t first, size_t count, size_t width, const uint8_t tokens[], const float table[],
                 float out[])
{
    for (size_t t = first; t < first + count; t++, out += width) {
        memcpy(out, table + tokens[t] * width, width * sizeof *out);
        for (size_t back = 1; back < TRAIN_EMBED_SPAN && back <= t; back++)
            train_add(width, 1.0F, table + (back * TRAIN_VOCABULARY + tokens[t - back]) * width, out);
    }
}

void train_embed_back(size_t count, size_t width, const uint8_t tokens[], const float d_out[],
                      float d_table[])
{
    for (size_t t = 0; t < count; t++, d_out += width)
        for (size_t back = 0; back < TRAIN_EMBED_SPAN && back <= t; back++)
            train_add(width, 1.0F, d_out, d_table + (back * TRAIN_VOCABULARY + tokens[t - back]) * width);
}
