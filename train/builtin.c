/* The built-in trainer: data parallel over sequences.  Each thread runs forward and back over its share with
 * single-threaded matrix products into a gradient arena of its own; then each sums one slice of the arenas in
 * thread order, and after a barrier, when the global norm is known, updates that slice. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/init.h"
#include "train/kernels.h"
#include "train/optimizer_state.h"
#include "train/pass.h"
#include "train/pool.h"
#include "train/trainer.h"

struct worker {
    struct train_pass *pass;
    float *grads;   /* [arena_floats] */
    double loss;    /* sum over this worker's tokens of the present step */
    double squares; /* of this worker's slice of the summed gradient */
};

struct builtin {
    struct train_layout layout;
    struct trainer_options options;
    struct allocator allocator;
    struct train_data *data;
    struct train_pool *pool;
    size_t worker_count, micro;
    struct worker workers[TRAIN_THREADS_MAX];
    float *grads[TRAIN_THREADS_MAX]; /* the workers', as train_gradient_reduce wants them */
    float *params, *first, *second;  /* [arena_floats] */
    uint64_t updates;
    uint32_t accumulated; /* steps whose gradients are in the arenas */
    const uint8_t **windows;
    float rate;
    double norm;
    const float *evaluated;
    const uint8_t *validation[TRAIN_VALIDATION_WINDOWS];
    double losses[TRAIN_VALIDATION_WINDOWS];
};

struct trainer_options trainer_options_default(void)
{
    return (struct trainer_options){
        .model = train_model_config_default(),
        .adamw = train_adamw_config_default(),
        .threads = 1,
        .batch = 4,
        .micro = 4,
        .accumulate = 1,
    };
}

static int check_range(const char *name, uint32_t value, uint32_t max, char *why, size_t why_size)
{
    if (value >= 1 && value <= max)
        return 0;
    (void)snprintf(why, why_size, "%s is %u: use 1 to %u", name, value, max);
    return ERR_INVALID;
}

int trainer_options_check(const struct trainer_options *options, char *why, size_t why_size)
{
    int result = train_model_config_check(&options->model, why, why_size);
    if (result == 0)
        result = train_adamw_config_check(&options->adamw, why, why_size);
    if (result == 0)
        result = check_range("threads", options->threads, TRAIN_THREADS_MAX, why, why_size);
    if (result == 0)
        result = check_range("batch", options->batch, TRAIN_BATCH_MAX, why, why_size);
    if (result == 0)
        result = check_range("micro", options->micro, TRAIN_BATCH_MAX, why, why_size);
    if (result == 0)
        result = check_range("accumulate", options->accumulate, TRAIN_ACCUMULATE_MAX, why, why_size);
    return result;
}

/* Threads beyond the batch would only wait. */
static size_t worker_count_of(const struct trainer_options *options)
{
    return options->threads < options->batch ? options->threads : options->batch;
}

static size_t micro_of(const struct trainer_options *options)
{
    size_t workers = worker_count_of(options);
    size_t share = (options->batch + workers - 1) / workers;
    return options->micro < share ? options->micro : share;
}

size_t trainer_bytes(const struct trainer_options *options)
{
    struct train_layout layout;
    size_t workers = worker_count_of(options);
    train_layout_init(&layout, &options->model);
    size_t arenas, passes, arena = layout.arena_floats * sizeof(float);
    size_t pass = train_pass_bytes(&layout, micro_of(options));
    size_t fixed = sizeof(struct builtin) + train_pool_bytes() + options->batch * sizeof(uint8_t *);
    if (pass == SIZE_MAX || !size_product(arena, workers + 3, &arenas) ||
        !size_product(pass, workers, &passes) || arenas > SIZE_MAX - passes ||
        fixed > SIZE_MAX - passes - arenas)
        return SIZE_MAX;
    return fixed + passes + arenas;
}

/* First of `total` things that belong to member `index` of `count`. */
static size_t share_start(size_t total, size_t index, size_t count)
{
    return total / count * index + (index < total % count ? index : total % count);
}

/* Slices meet on cache lines, so that no two threads write one. */
static size_t slice_start(const struct builtin *b, size_t index)
{
    return share_start(b->layout.arena_floats / TRAIN_ALIGN_FLOATS, index, b->worker_count) *
           TRAIN_ALIGN_FLOATS;
}

static void run_share(struct builtin *b, size_t member)
{
    struct worker *worker = &b->workers[member];
    size_t from = share_start(b->options.batch, member, b->worker_count);
    size_t to = share_start(b->options.batch, member + 1, b->worker_count);
    float scale =
        1.0F / ((float)b->options.batch * (float)b->layout.model.context * (float)b->options.accumulate);
    worker->loss = 0;
    if (b->accumulated == 0)
        memset(worker->grads, 0, b->layout.arena_floats * sizeof(float));
    for (size_t at = from; at < to; at += b->micro) {
        size_t count = to - at < b->micro ? to - at : b->micro;
        worker->loss +=
            train_pass_both(worker->pass, b->params, count, b->windows + at, scale, worker->grads);
    }
}

static void step_job(struct train_pool *pool, size_t member, void *user)
{
    struct builtin *b = user;
    struct worker *worker = &b->workers[member];
    run_share(b, member);
    if (b->accumulated + 1 < b->options.accumulate)
        return;
    train_pool_barrier(pool);
    size_t from = slice_start(b, member), to = slice_start(b, member + 1);
    worker->squares = train_gradient_reduce(from, to, b->worker_count, b->grads);
    train_pool_barrier(pool);
    double squares = 0, loss = 0;
    for (size_t i = 0; i < b->worker_count; i++) {
        squares += b->workers[i].squares;
        loss += b->workers[i].loss;
    }
    double norm = sqrt(squares);
    if (member == 0)
        b->norm = norm;
    if (!isfinite(norm) || !isfinite(loss))
        return; /* every member decides the same from the same numbers */
    struct train_adamw_step step = train_adamw_step_of(&b->options.adamw, b->rate, b->updates + 1, norm);
    train_adamw_apply(&b->layout, &step, from, to, b->grads[0], b->params, b->first, b->second);
}

static int builtin_step(void *self, float rate, struct trainer_report *out)
{
    struct builtin *b = self;
    for (size_t i = 0; i < b->options.batch; i++)
        b->windows[i] = train_data_draw(b->data);
    b->rate = rate;
    b->norm = 0;
    train_pool_run(b->pool, step_job, b);

    double loss = 0;
    for (size_t i = 0; i < b->worker_count; i++)
        loss += b->workers[i].loss;
    out->tokens = (uint64_t)b->options.batch * b->layout.model.context;
    out->loss = loss / (double)out->tokens;
    out->gradient_norm = b->norm;
    bool last = b->accumulated + 1 == b->options.accumulate;
    bool finite = isfinite(loss) && isfinite(b->norm);
    out->updated = last && finite;
    b->accumulated = last || !finite ? 0 : b->accumulated + 1;
    b->updates += out->updated;
    return finite ? 0 : ERR_NOT_FINITE;
}

/* Window by window: the result must not depend on how many threads share them. */
static void evaluate_job(struct train_pool *pool, size_t member, void *user)
{
    struct builtin *b = user;
    (void)pool;
    for (size_t i = member; i < TRAIN_VALIDATION_WINDOWS; i += b->worker_count)
        b->losses[i] = train_pass_forward(b->workers[member].pass, b->evaluated, 1, &b->validation[i]);
}

static int builtin_score(void *self, const float params[], struct trainer_score *out)
{
    struct builtin *b = self;
    double sum = 0;
    b->evaluated = params;
    train_pool_run(b->pool, evaluate_job, b);
    for (size_t i = 0; i < TRAIN_VALIDATION_WINDOWS; i++)
        sum += b->losses[i];
    uint64_t tokens = (uint64_t)TRAIN_VALIDATION_WINDOWS * b->layout.model.context;
    sum /= (double)tokens;
    if (!isfinite(sum))
        return ERR_NOT_FINITE;
    *out = (struct trainer_score){.loss = sum, .accuracy = (double)NAN, .tokens = tokens};
    return 0;
}

static float *builtin_params(void *self)
{
    return ((struct builtin *)self)->params;
}

static size_t builtin_state_bytes(void *self)
{
    return train_state_bytes(&((struct builtin *)self)->layout);
}

static int builtin_state_export(void *self, uint8_t *out, size_t out_cap)
{
    struct builtin *b = self;
    size_t bytes = train_state_bytes(&b->layout);
    if (b->accumulated > 0)
        return ERR_STATE;
    if (out_cap < bytes || bytes > INT32_MAX)
        return ERR_TOO_LARGE;
    train_state_write(&b->layout, b->updates, b->first, b->second, out);
    return (int)bytes;
}

static int builtin_state_import(void *self, struct bytes state)
{
    struct builtin *b = self;
    int result = train_state_read(&b->layout, state, &b->updates, b->first, b->second);
    if (result < 0)
        return result;
    b->accumulated = 0;
    train_data_reseed(b->data, b->updates);
    return 0;
}

static void builtin_reset_moments(void *self)
{
    struct builtin *b = self;
    memset(b->first, 0, b->layout.arena_floats * sizeof(float));
    memset(b->second, 0, b->layout.arena_floats * sizeof(float));
    b->updates = 0;
    b->accumulated = 0;
}

static uint64_t builtin_updates(void *self)
{
    return ((struct builtin *)self)->updates;
}

static void builtin_destroy(void *self)
{
    struct builtin *b = self;
    struct allocator allocator = b->allocator;
    train_pool_destroy(b->pool);
    for (size_t i = 0; i < b->worker_count; i++) {
        train_pass_destroy(b->workers[i].pass);
        allocator_release(&allocator, b->workers[i].grads);
    }
    allocator_release(&allocator, b->windows);
    allocator_release(&allocator, b->params);
    allocator_release(&allocator, b->first);
    allocator_release(&allocator, b->second);
    allocator_release(&allocator, b);
}

static const struct trainer_ops builtin_ops = {
    .step = builtin_step,
    .params = builtin_params,
    .score = builtin_score,
    .state_bytes = builtin_state_bytes,
    .state_export = builtin_state_export,
    .state_import = builtin_state_import,
    .reset_moments = builtin_reset_moments,
    .updates = builtin_updates,
    .destroy = builtin_destroy,
};

static int obtain(struct builtin *b)
{
    size_t floats = b->layout.arena_floats;
    b->params = allocator_get(&b->allocator, floats, sizeof(float));
    b->first = allocator_get(&b->allocator, floats, sizeof(float));
    b->second = allocator_get(&b->allocator, floats, sizeof(float));
    b->windows = allocator_get(&b->allocator, b->options.batch, sizeof(const uint8_t *));
    if (b->params == NULL || b->first == NULL || b->second == NULL || b->windows == NULL)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < b->worker_count; i++) {
        int result = train_pass_create(&b->layout, b->micro, &b->allocator, &b->workers[i].pass);
        if (result < 0)
            return result;
        b->workers[i].grads = allocator_get(&b->allocator, floats, sizeof(float));
        b->grads[i] = b->workers[i].grads;
        if (b->grads[i] == NULL)
            return ERR_NO_MEMORY;
    }
    return train_pool_create(b->worker_count, &b->allocator, &b->pool);
}

int trainer_create_builtin(const struct trainer_options *options, struct train_data *data,
                           const struct allocator *allocator, struct trainer *out)
{
    char why[TRAIN_WHY_SIZE];
    int checked = trainer_options_check(options, why, sizeof why);
    ASSERT(checked == 0);
    ASSERT(train_data_context(data) == options->model.context);
    struct builtin *b = allocator_get(allocator, 1, sizeof *b);
    if (b == NULL)
        return ERR_NO_MEMORY;
    b->options = *options;
    b->allocator = *allocator;
    b->data = data;
    b->worker_count = worker_count_of(options);
    b->micro = micro_of(options);
    train_layout_init(&b->layout, &options->model);
    int result = obtain(b);
    if (result < 0) {
        builtin_destroy(b);
        return result;
    }
    train_init(&b->layout, options->seed, b->params);
    train_data_validation(data, b->validation);
    *out = (struct trainer){.ops = &builtin_ops, .self = b, .layout = &b->layout};
    return 0;
}
