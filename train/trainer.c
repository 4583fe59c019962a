#include "train/trainer.h"

#include <math.h>
#include <string.h>

#include "train/kernels.h"

void trainer_destroy(struct trainer *trainer)
{
    if (trainer->self != NULL)
        trainer->ops->destroy(trainer->self);
    trainer->self = NULL;
}

int trainer_step(struct trainer *trainer, float rate, struct trainer_report *out)
{
    return trainer->ops->step(trainer->self, rate, out);
}

float *trainer_params(struct trainer *trainer)
{
    return trainer->ops->params(trainer->self);
}

void trainer_snapshot(struct trainer *trainer, float out[])
{
    memcpy(out, trainer_params(trainer), trainer->layout->arena_floats * sizeof *out);
}

/* Where the tensor before this one ends, its padding included. */
static size_t span_end(const struct train_layout *layout, size_t tensor)
{
    return tensor < layout->tensor_count ? layout->tensors[tensor].offset : layout->arena_floats;
}

void trainer_snapshot_span(struct trainer *trainer, size_t first_tensor, size_t tensor_count, float out[])
{
    const struct train_layout *layout = trainer->layout;
    ASSERT(tensor_count > 0 && first_tensor + tensor_count <= layout->tensor_count);
    size_t begin = layout->tensors[first_tensor].offset;
    size_t end = span_end(layout, first_tensor + tensor_count);
    memcpy(out, trainer_params(trainer) + begin, (end - begin) * sizeof *out);
}

int trainer_set_params(struct trainer *trainer, const float params[])
{
    const struct train_layout *layout = trainer->layout;
    for (size_t i = 0; i < layout->arena_floats; i++)
        if (!isfinite(params[i]))
            return ERR_NOT_FINITE;
    /* Tensor by tensor, so that what a peer put into the padding never enters. */
    float *own = trainer_params(trainer);
    for (size_t t = 0; t < layout->tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        memcpy(own + tensor->offset, params + tensor->offset, tensor->rows * tensor->cols * sizeof *own);
    }
    return 0;
}

int trainer_apply(struct trainer *trainer, const float difference[], float scale)
{
    return trainer_apply_span(trainer, 0, trainer->layout->tensor_count, difference, scale);
}

int trainer_apply_span(struct trainer *trainer, size_t first_tensor, size_t tensor_count,
                       const float difference[], float scale)
{
    const struct train_layout *layout = trainer->layout;
    ASSERT(tensor_count > 0 && first_tensor + tensor_count <= layout->tensor_count);
    size_t begin = layout->tensors[first_tensor].offset;
    float *own = trainer_params(trainer) + begin;
    size_t count = span_end(layout, first_tensor + tensor_count) - begin;
    for (size_t i = 0; i < count; i++)
        if (!isfinite(own[i] + scale * difference[i]))
            return ERR_NOT_FINITE;
    for (size_t t = first_tensor; t < first_tensor + tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        size_t at = tensor->offset - begin;
        train_add(tensor->rows * tensor->cols, scale, difference + at, own + at);
    }
    return 0;
}

void trainer_try_span(struct trainer *trainer, size_t first_tensor, size_t tensor_count,
                      const float difference[], float scratch[], struct trainer_trial *out)
{
    const struct train_layout *layout = trainer->layout;
    *out = (struct trainer_trial){.before = trainer->ops->private_loss(trainer->self, true),
                                  .after = (double)NAN};
    trainer_snapshot_span(trainer, first_tensor, tensor_count, scratch);
    if (trainer_apply_span(trainer, first_tensor, tensor_count, difference, 1) < 0)
        return;
    out->after = trainer->ops->private_loss(trainer->self, false);
    size_t begin = layout->tensors[first_tensor].offset;
    size_t count = span_end(layout, first_tensor + tensor_count) - begin;
    memcpy(trainer_params(trainer) + begin, scratch, count * sizeof *scratch);
}

int trainer_score(struct trainer *trainer, const float params[], struct trainer_score *out)
{
    return trainer->ops->score(trainer->self, params == NULL ? trainer_params(trainer) : params, out);
}

int trainer_evaluate(struct trainer *trainer, const float params[], double *loss)
{
    struct trainer_score score;
    int result = trainer_score(trainer, params, &score);
    if (result == 0)
        *loss = score.loss;
    return result;
}

size_t trainer_state_bytes(const struct trainer *trainer)
{
    return trainer->ops->state_bytes(trainer->self);
}

int trainer_state_export(struct trainer *trainer, uint8_t *out, size_t out_cap)
{
    return trainer->ops->state_export(trainer->self, out, out_cap);
}

int trainer_state_import(struct trainer *trainer, struct bytes state)
{
    return trainer->ops->state_import(trainer->self, state);
}

void trainer_reset_moments(struct trainer *trainer)
{
    trainer->ops->reset_moments(trainer->self);
}

uint64_t trainer_updates(const struct trainer *trainer)
{
    return trainer->ops->updates(trainer->self);
}
