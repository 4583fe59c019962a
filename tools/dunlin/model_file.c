#include "tools/dunlin/model_file.h"

#include <stdio.h>
#include <string.h>

#include "store/file.h"

int model_file_open(struct model_file *file, const char *path, char why[MODEL_WHY_SIZE])
{
    struct allocator heap = allocator_system();
    why[0] = '\0';
    int code = store_file_read(path, MODEL_FILE_MAX, &heap, &file->image, &file->len);
    if (code < 0)
        (void)snprintf(why, MODEL_WHY_SIZE, "%s: %s", path, err_text(code));
    return code;
}

void model_file_close(struct model_file *file)
{
    struct allocator heap = allocator_system();
    allocator_release(&heap, file->image);
    file->image = NULL;
}

int model_file_shape(const struct model_file *file, const char *path, struct train_model_config *model,
                     char why[MODEL_WHY_SIZE])
{
    char text[MODEL_WHY_SIZE / 2] = "";
    int code = train_safetensors_model(bytes_of(file->image, file->len), model, text, sizeof(text));
    why[0] = '\0';
    if (code < 0)
        (void)snprintf(why, MODEL_WHY_SIZE, "%s: %s", path, text);
    return code;
}

static int load_open(const struct model_file *file, const char *path, const struct train_layout *layout,
                     float params[], char why[MODEL_WHY_SIZE])
{
    struct train_model_config model;
    int code = model_file_shape(file, path, &model, why);
    if (code < 0)
        return code;
    if (memcmp(&model, &layout->model, sizeof(model)) != 0) {
        char shape[TRAIN_SHAPE_SIZE];
        train_model_shape(&model, shape, sizeof shape);
        (void)snprintf(why, MODEL_WHY_SIZE, "%s: a model of another shape (%s); compare models of one run",
                       path, shape);
        return ERR_MISMATCH;
    }
    char text[MODEL_WHY_SIZE / 2] = "";
    code = train_safetensors_read(bytes_of(file->image, file->len), layout, params, text, sizeof(text));
    if (code < 0)
        (void)snprintf(why, MODEL_WHY_SIZE, "%s: %s", path, text);
    return code;
}

int model_file_load(const char *path, const struct train_layout *layout, float params[],
                    char why[MODEL_WHY_SIZE])
{
    struct model_file file;
    int code = model_file_open(&file, path, why);
    if (code < 0)
        return code;
    code = load_open(&file, path, layout, params, why);
    model_file_close(&file);
    return code;
}
