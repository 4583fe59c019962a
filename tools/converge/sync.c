/* Synchronous data parallel training: the rival that talks at every step.  Each node runs forward and back
 * over its own windows; the gradients are summed in the order of nodes, as an all-reduce does; one AdamW
 * update on the mean.  All nodes hold the same weights, so one copy stands for all. */
#include <math.h>
#include <string.h>

#include "tools/converge/swarm.h"

enum { SLICES = 16, WINDOWS_MAX = 256 };

struct sync_work {
    struct swarm *swarm;
    struct sync_state *state;
    struct train_pass *passes[CONVERGE_THREADS_MAX];
    float *grads[CONVERGE_NODES_MAX]; /* [arena_floats] each */
    const uint8_t *windows[CONVERGE_NODES_MAX][WINDOWS_MAX];
    double losses[CONVERGE_NODES_MAX];
    double squares[SLICES];
    struct train_adamw_config adamw;
    struct train_adamw_step step;
};

static size_t slice_start(const struct sync_work *work, size_t slice)
{
    return work->swarm->layout.arena_floats / TRAIN_ALIGN_FLOATS * slice / SLICES * TRAIN_ALIGN_FLOATS;
}

static void gradient_job(struct train_pool *pool, size_t member, void *user)
{
    struct sync_work *work = user;
    const struct converge_config *c = work->swarm->config;
    float scale = 1.0F / ((float)c->nodes * (float)c->batch * (float)c->model.context);
    for (size_t i = member; i < c->nodes; i += train_pool_threads(pool)) {
        memset(work->grads[i], 0, work->swarm->layout.arena_floats * sizeof(float));
        work->losses[i] = train_pass_both(work->passes[member], work->state->params, c->batch,
                                          work->windows[i], scale, work->grads[i]);
    }
}

static void reduce_job(struct train_pool *pool, size_t member, void *user)
{
    struct sync_work *work = user;
    for (size_t s = member; s < SLICES; s += train_pool_threads(pool))
        work->squares[s] = train_gradient_reduce(slice_start(work, s), slice_start(work, s + 1),
                                                 work->swarm->config->nodes, work->grads);
}

static void update_job(struct train_pool *pool, size_t member, void *user)
{
    struct sync_work *work = user;
    struct sync_state *state = work->state;
    for (size_t s = member; s < SLICES; s += train_pool_threads(pool))
        train_adamw_apply(&work->swarm->layout, &work->step, slice_start(work, s), slice_start(work, s + 1),
                          work->grads[0], state->params, state->first, state->second);
}

static int one_step(struct sync_work *work, float rate)
{
    struct swarm *swarm = work->swarm;
    double squares = 0;
    for (size_t i = 0; i < swarm->config->nodes; i++)
        for (size_t w = 0; w < swarm->config->batch; w++)
            work->windows[i][w] = train_data_draw(swarm->nodes[i].data);
    train_pool_run(swarm->pool, gradient_job, work);
    train_pool_run(swarm->pool, reduce_job, work);
    for (size_t s = 0; s < SLICES; s++)
        squares += work->squares[s];
    if (!isfinite(squares))
        return ERR_NOT_FINITE;
    work->state->updates++;
    work->step = train_adamw_step_of(&work->adamw, rate, work->state->updates, sqrt(squares));
    train_pool_run(swarm->pool, update_job, work);
    return 0;
}

static int get_work(struct sync_work *work)
{
    struct swarm *swarm = work->swarm;
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        work->grads[i] = allocator_get(&swarm->heap, swarm->layout.arena_floats, sizeof(float));
        if (work->grads[i] == NULL)
            return ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < swarm->config->threads; i++) {
        int result = train_pass_create(&swarm->layout, swarm->config->batch, &swarm->heap, &work->passes[i]);
        if (result < 0)
            return result;
    }
    return 0;
}

int sync_run(struct swarm *swarm, struct sync_state *state, float peak, uint32_t first_step, uint32_t steps)
{
    struct sync_work *work = allocator_get(&swarm->heap, 1, sizeof *work);
    if (work == NULL)
        return ERR_NO_MEMORY;
    work->swarm = swarm;
    work->state = state;
    work->adamw = train_adamw_config_default();
    int result = get_work(work);
    for (uint32_t s = 0; result == 0 && s < steps; s++) {
        result = one_step(work, swarm_rate(swarm->config, peak, first_step + s));
        if (!swarm->config->quiet && (s + 1) % 100 == 0)
            fprintf(stderr, "converge: synchronous step %u of %u\n", s + 1, steps);
    }
    for (size_t i = 0; i < CONVERGE_NODES_MAX; i++)
        allocator_release(&swarm->heap, work->grads[i]);
    for (size_t i = 0; i < CONVERGE_THREADS_MAX; i++)
        train_pass_destroy(work->passes[i]);
    allocator_release(&swarm->heap, work);
    return result;
}
