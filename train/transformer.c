/* The transformer's workload: windows of text. */
#include "train/parallel.h"
#include "train/pass.h"
#include "train/pool.h"

struct transformer {
    struct allocator allocator;
    struct train_data *data;
    struct train_share share;
    struct train_pass *passes[TRAIN_THREADS_MAX];
    const uint8_t **windows; /* [batch] */
    const uint8_t *validation[TRAIN_VALIDATION_WINDOWS];
    const uint8_t *private_windows[TRAIN_TRIAL_UNITS];
};

static int transformer_open(void *self, const struct train_share *share)
{
    struct transformer *t = self;
    t->share = *share;
    t->windows = allocator_get(&t->allocator, share->batch, sizeof(const uint8_t *));
    if (t->windows == NULL)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < share->member_count; i++) {
        int result = train_pass_create(share->layout, share->micro, &t->allocator, &t->passes[i]);
        if (result < 0)
            return result;
    }
    train_data_validation(t->data, t->validation);
    return 0;
}

static void transformer_destroy(void *self)
{
    struct transformer *t = self;
    struct allocator allocator = t->allocator;
    for (size_t i = 0; i < TRAIN_THREADS_MAX; i++)
        train_pass_destroy(t->passes[i]);
    allocator_release(&allocator, t->windows);
    allocator_release(&allocator, t);
}

static void transformer_draw(void *self)
{
    struct transformer *t = self;
    for (size_t i = 0; i < t->share.batch; i++)
        t->windows[i] = train_data_draw(t->data);
}

static void transformer_reseed(void *self, uint64_t updates)
{
    train_data_reseed(((struct transformer *)self)->data, updates);
}

static struct train_tally transformer_learn(void *self, size_t member, size_t from, size_t to,
                                            const float params[], float scale, float grads[])
{
    struct transformer *t = self;
    struct train_tally tally = {.loss = 0};
    for (size_t at = from; at < to; at += t->share.micro) {
        size_t count = to - at < t->share.micro ? to - at : t->share.micro;
        tally.loss += train_pass_both(t->passes[member], params, count, t->windows + at, scale, grads);
    }
    return tally;
}

static struct train_tally transformer_measure(void *self, size_t member, size_t unit, const float params[])
{
    struct transformer *t = self;
    double loss = train_pass_forward(t->passes[member], params, 1, &t->validation[unit]);
    return (struct train_tally){.loss = loss};
}

static void transformer_draw_private(void *self)
{
    struct transformer *t = self;
    for (size_t i = 0; i < TRAIN_TRIAL_UNITS; i++)
        t->private_windows[i] = train_data_draw_private(t->data);
}

static struct train_tally transformer_measure_private(void *self, size_t member, size_t unit,
                                                      const float params[])
{
    struct transformer *t = self;
    double loss = train_pass_forward(t->passes[member], params, 1, &t->private_windows[unit]);
    return (struct train_tally){.loss = loss};
}

static const struct train_workload_ops transformer_ops = {
    .open = transformer_open,
    .destroy = transformer_destroy,
    .draw = transformer_draw,
    .reseed = transformer_reseed,
    .learn = transformer_learn,
    .measure = transformer_measure,
    .draw_private = transformer_draw_private,
    .measure_private = transformer_measure_private,
};

size_t train_transformer_bytes(const struct train_share *share)
{
    size_t passes, pass = train_pass_bytes(share->layout, share->micro);
    size_t fixed = sizeof(struct transformer) + share->batch * sizeof(uint8_t *);
    if (pass == SIZE_MAX || !size_product(pass, share->member_count, &passes) || fixed > SIZE_MAX - passes)
        return SIZE_MAX;
    return fixed + passes;
}

int trainer_create_builtin(const struct trainer_options *options, struct train_data *data,
                           const struct allocator *allocator, struct trainer *out)
{
    char why[TRAIN_WHY_SIZE];
    int checked = trainer_options_check(options, why, sizeof why);
    ASSERT(checked == 0 && options->model.kind == TRAIN_TRANSFORMER);
    ASSERT(train_data_context(data) == options->model.context);
    struct transformer *t = allocator_get(allocator, 1, sizeof *t);
    if (t == NULL)
        return ERR_NO_MEMORY;
    t->allocator = *allocator;
    t->data = data;
    uint64_t context = options->model.context;
    struct train_workload workload = {.ops = &transformer_ops,
                                      .self = t,
                                      .tokens_each = context,
                                      .tokens_measured = TRAIN_VALIDATION_WINDOWS * context,
                                      .tokens_tried = TRAIN_TRIAL_UNITS * context};
    return train_parallel_create(options, &workload, allocator, out);
}
