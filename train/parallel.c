#include "train/parallel.h"

#include <math.h>
#include <string.h>

#include "train/init.h"
#include "train/optimizer_state.h"
#include "train/pool.h"
#include "train/sgd.h"

/* Multiplications below which one more thread costs more in waiting than it saves. */
enum { THREAD_WORK_LOG2 = 22 };

struct worker {
    float *grads;             /* [arena_floats] */
    struct train_tally tally; /* of this worker's part of the present step */
    double squares;           /* of this worker's slice of the summed gradient */
};

struct parallel {
    struct train_layout layout;
    struct trainer_options options;
    struct allocator allocator;
    struct train_workload workload;
    struct train_pool *pool;
    size_t worker_count;
    struct worker workers[TRAIN_THREADS_MAX];
    float *grads[TRAIN_THREADS_MAX]; /* the workers', as train_gradient_reduce wants them */
    float *params, *first, *second;  /* [arena_floats] */
    uint64_t updates;
    uint32_t accumulated; /* steps whose gradients are in the arenas */
    float rate;
    double norm;
    const float *measured;
    struct train_tally units[TRAIN_UNITS];
};

/* Threads beyond the batch would only wait; a small MLP's step is shorter than the barriers of many. */
static size_t member_count_of(const struct trainer_options *options, const struct train_layout *layout)
{
    size_t members = options->threads < options->batch ? options->threads : options->batch;
    if (options->model.kind != TRAIN_MLP)
        return members;
    size_t worth = (layout->parameter_count * options->batch * 3 >> THREAD_WORK_LOG2) + 1;
    return members < worth ? members : worth;
}

struct train_share train_share_of(const struct trainer_options *options, const struct train_layout *layout)
{
    size_t members = member_count_of(options, layout);
    size_t each = (options->batch + members - 1) / members;
    return (struct train_share){.layout = layout,
                                .member_count = members,
                                .micro = options->micro < each ? options->micro : each,
                                .batch = options->batch};
}

size_t train_parallel_bytes(const struct train_share *share)
{
    size_t arenas, arena, fixed = sizeof(struct parallel) + train_pool_bytes();
    if (!size_product(share->layout->arena_floats, sizeof(float), &arena) ||
        !size_product(arena, share->member_count + 3, &arenas) || arenas > SIZE_MAX - fixed)
        return SIZE_MAX;
    return fixed + arenas;
}

size_t train_share_start(size_t total, size_t index, size_t count)
{
    return total / count * index + (index < total % count ? index : total % count);
}

/* Slices meet on cache lines, so that no two threads write one. */
static size_t slice_start(const struct parallel *p, size_t index)
{
    return train_share_start(p->layout.arena_floats / TRAIN_ALIGN_FLOATS, index, p->worker_count) *
           TRAIN_ALIGN_FLOATS;
}

static void learn(struct parallel *p, size_t member)
{
    struct worker *worker = &p->workers[member];
    size_t batch = p->options.batch;
    float scale = 1.0F / ((float)batch * (float)p->workload.tokens_each * (float)p->options.accumulate);
    if (p->accumulated == 0)
        memset(worker->grads, 0, p->layout.arena_floats * sizeof(float));
    worker->tally = p->workload.ops->learn(
        p->workload.self, member, train_share_start(batch, member, p->worker_count),
        train_share_start(batch, member + 1, p->worker_count), p->params, scale, worker->grads);
}

static void update(struct parallel *p, size_t from, size_t to, double norm)
{
    struct train_adamw_step step = train_adamw_step_of(&p->options.adamw, p->rate, p->updates + 1, norm);
    if (p->options.optimizer == TRAIN_SGD)
        train_sgd_apply(&p->layout, &step, from, to, p->grads[0], p->params, p->first);
    else
        train_adamw_apply(&p->layout, &step, from, to, p->grads[0], p->params, p->first, p->second);
}

static struct train_tally sum_of_workers(const struct parallel *p)
{
    struct train_tally sum = {.loss = 0};
    for (size_t i = 0; i < p->worker_count; i++) {
        sum.loss += p->workers[i].tally.loss;
        sum.correct += p->workers[i].tally.correct;
    }
    return sum;
}

static void step_job(struct train_pool *pool, size_t member, void *user)
{
    struct parallel *p = user;
    struct worker *worker = &p->workers[member];
    learn(p, member);
    if (p->accumulated + 1 < p->options.accumulate)
        return;
    train_pool_barrier(pool);
    size_t from = slice_start(p, member), to = slice_start(p, member + 1);
    worker->squares = train_gradient_reduce(from, to, p->worker_count, p->grads);
    train_pool_barrier(pool);
    double squares = 0;
    for (size_t i = 0; i < p->worker_count; i++)
        squares += p->workers[i].squares;
    double norm = sqrt(squares);
    if (member == 0)
        p->norm = norm;
    if (!isfinite(norm) || !isfinite(sum_of_workers(p).loss))
        return; /* every member decides the same from the same numbers */
    update(p, from, to, norm);
}

static int parallel_step(void *self, float rate, struct trainer_report *out)
{
    struct parallel *p = self;
    p->workload.ops->draw(p->workload.self);
    p->rate = rate;
    p->norm = 0;
    train_pool_run(p->pool, step_job, p);

    double loss = sum_of_workers(p).loss;
    out->tokens = (uint64_t)p->options.batch * p->workload.tokens_each;
    out->loss = loss / (double)out->tokens;
    out->gradient_norm = p->norm;
    bool last = p->accumulated + 1 == p->options.accumulate;
    bool finite = isfinite(loss) && isfinite(p->norm);
    out->updated = last && finite;
    p->accumulated = last || !finite ? 0 : p->accumulated + 1;
    p->updates += out->updated;
    return finite ? 0 : ERR_NOT_FINITE;
}

static void measure_job(struct train_pool *pool, size_t member, void *user)
{
    struct parallel *p = user;
    (void)pool;
    for (size_t unit = member; unit < TRAIN_UNITS; unit += p->worker_count)
        p->units[unit] = p->workload.ops->measure(p->workload.self, member, unit, p->measured);
}

static int parallel_score(void *self, const float params[], struct trainer_score *out)
{
    struct parallel *p = self;
    const struct train_workload *workload = &p->workload;
    struct train_tally sum = {.loss = 0};
    p->measured = params;
    train_pool_run(p->pool, measure_job, p);
    for (size_t unit = 0; unit < TRAIN_UNITS; unit++) {
        sum.loss += p->units[unit].loss;
        sum.correct += p->units[unit].correct;
    }
    if (!isfinite(sum.loss))
        return ERR_NOT_FINITE;
    double tokens = (double)workload->tokens_measured;
    out->loss = sum.loss / tokens;
    out->accuracy = workload->counts_correct ? (double)sum.correct / tokens : (double)NAN;
    out->tokens = workload->tokens_measured;
    return 0;
}

static void trial_job(struct train_pool *pool, size_t member, void *user)
{
    struct parallel *p = user;
    (void)pool;
    for (size_t i = member; i < TRAIN_TRIAL_UNITS; i += p->worker_count)
        p->units[i] = p->workload.ops->measure_private(p->workload.self, member, i, p->measured);
}

static double parallel_private_loss(void *self, bool fresh)
{
    struct parallel *p = self;
    double sum = 0;
    if (fresh)
        p->workload.ops->draw_private(p->workload.self);
    p->measured = p->params;
    train_pool_run(p->pool, trial_job, p);
    for (size_t i = 0; i < TRAIN_TRIAL_UNITS; i++)
        sum += p->units[i].loss;
    return sum / (double)p->workload.tokens_tried;
}

static float *parallel_params(void *self)
{
    return ((struct parallel *)self)->params;
}

static size_t parallel_state_bytes(void *self)
{
    return train_state_bytes(&((struct parallel *)self)->layout);
}

static int parallel_state_export(void *self, uint8_t *out, size_t out_cap)
{
    struct parallel *p = self;
    size_t bytes = train_state_bytes(&p->layout);
    if (p->accumulated > 0)
        return ERR_STATE;
    if (out_cap < bytes || bytes > INT32_MAX)
        return ERR_TOO_LARGE;
    train_state_write(&p->layout, p->updates, p->first, p->second, out);
    return (int)bytes;
}

static int parallel_state_import(void *self, struct bytes state)
{
    struct parallel *p = self;
    int result = train_state_read(&p->layout, state, &p->updates, p->first, p->second);
    if (result < 0)
        return result;
    p->accumulated = 0;
    p->workload.ops->reseed(p->workload.self, p->updates);
    return 0;
}

static void parallel_reset_moments(void *self)
{
    struct parallel *p = self;
    memset(p->first, 0, p->layout.arena_floats * sizeof(float));
    memset(p->second, 0, p->layout.arena_floats * sizeof(float));
    p->updates = 0;
    p->accumulated = 0;
}

static uint64_t parallel_updates(void *self)
{
    return ((struct parallel *)self)->updates;
}

static void parallel_destroy(void *self)
{
    struct parallel *p = self;
    struct allocator allocator = p->allocator;
    train_pool_destroy(p->pool);
    p->workload.ops->destroy(p->workload.self);
    for (size_t i = 0; i < p->worker_count; i++)
        allocator_release(&allocator, p->grads[i]);
    allocator_release(&allocator, p->params);
    allocator_release(&allocator, p->first);
    allocator_release(&allocator, p->second);
    allocator_release(&allocator, p);
}

static const struct trainer_ops parallel_ops = {
    .step = parallel_step,
    .params = parallel_params,
    .score = parallel_score,
    .private_loss = parallel_private_loss,
    .state_bytes = parallel_state_bytes,
    .state_export = parallel_state_export,
    .state_import = parallel_state_import,
    .reset_moments = parallel_reset_moments,
    .updates = parallel_updates,
    .destroy = parallel_destroy,
};

static int obtain(struct parallel *p, const struct train_share *share)
{
    size_t floats = p->layout.arena_floats;
    p->params = allocator_get(&p->allocator, floats, sizeof(float));
    p->first = allocator_get(&p->allocator, floats, sizeof(float));
    p->second = allocator_get(&p->allocator, floats, sizeof(float));
    if (p->params == NULL || p->first == NULL || p->second == NULL)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < p->worker_count; i++) {
        p->grads[i] = p->workers[i].grads = allocator_get(&p->allocator, floats, sizeof(float));
        if (p->grads[i] == NULL)
            return ERR_NO_MEMORY;
    }
    int result = p->workload.ops->open(p->workload.self, share);
    if (result < 0)
        return result;
    return train_pool_create(p->worker_count, &p->allocator, &p->pool);
}

int train_parallel_create(const struct trainer_options *options, const struct train_workload *workload,
                          const struct allocator *allocator, struct trainer *out)
{
    struct parallel *p = allocator_get(allocator, 1, sizeof *p);
    if (p == NULL) {
        workload->ops->destroy(workload->self);
        return ERR_NO_MEMORY;
    }
    p->options = *options;
    p->allocator = *allocator;
    p->workload = *workload;
    train_layout_init(&p->layout, &options->model);
    struct train_share share = train_share_of(options, &p->layout);
    p->worker_count = share.member_count;
    int result = obtain(p, &share);
    if (result < 0) {
        parallel_destroy(p);
        return result;
    }
    train_init(&p->layout, options->seed, p->params);
    *out = (struct trainer){.ops = &parallel_ops, .self = p, .layout = &p->layout};
    return 0;
}
