/* Any bytes as a .safetensors file: no crash, and what is accepted must come back the same when written
 * again. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "train/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The smallest model there is; larger shapes in the metadata are parsed but not read. */
static const struct train_model_config tiny = {.width = 16, .layers = 1, .heads = 1, .context = 8};

static void write_again(const struct train_layout *layout, const float *params, float *again)
{
    char why[256];
    size_t len = train_safetensors_bytes(layout, NULL);
    uint8_t *image = malloc(len);
    if (image == NULL)
        return;
    int written = train_safetensors_write(layout, NULL, params, image, len);
    ASSERT(written == 0);
    int read = train_safetensors_read(bytes_of(image, len), layout, again, why, sizeof why);
    ASSERT(read == 0);
    ASSERT(memcmp(params, again, layout->arena_floats * sizeof *params) == 0);
    free(image);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct train_layout layout;
    static float params[20000], again[20000];
    struct train_model_config model;
    char why[256];
    train_layout_init(&layout, &tiny);
    ASSERT(layout.arena_floats <= 20000);
    if (train_safetensors_model(bytes_of(data, size), &model, why, sizeof why) == 0) {
        int valid = train_model_config_check(&model, why, sizeof why);
        ASSERT(valid == 0);
    }
    if (train_safetensors_read(bytes_of(data, size), &layout, params, why, sizeof why) == 0)
        write_again(&layout, params, again);
    return 0;
}
