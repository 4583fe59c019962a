/* One experiment from its config to its figures. */
#include <math.h>
#include <time.h>

#include "tools/converge/swarm.h"
#include "train/init.h"

static double now_s(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int run_sync(struct swarm *swarm, struct converge_result *result, char why[CONVERGE_WHY_SIZE])
{
    const struct converge_config *c = swarm->config;
    size_t floats = swarm->layout.arena_floats;
    struct sync_state state = {.params = allocator_get(&swarm->heap, floats, sizeof(float)),
                               .first = allocator_get(&swarm->heap, floats, sizeof(float)),
                               .second = allocator_get(&swarm->heap, floats, sizeof(float))};
    uint8_t seed[32];
    uint32_t warm = c->start == CONVERGE_WARM ? c->warm_steps : 0;
    int done = ERR_NO_MEMORY;
    if (state.params != NULL && state.first != NULL && state.second != NULL) {
        swarm_weights_seed(c, SIZE_MAX, seed);
        train_init(&swarm->layout, seed, state.params);
        done = warm > 0 ? warm_start(swarm, &state, why) : 0;
        if (done == 0 && warm > 0)
            result->warm_ppl = exp(measure_loss(swarm, 0, 0, state.params, c->windows));
        if (done == 0 && !c->warm_only)
            done = sync_run(swarm, &state, c->rate, warm, c->steps);
        if (done == 0)
            result->ppl_mean = exp(measure_loss(swarm, 0, 0, state.params, c->windows));
        result->ppl_training = result->ppl_merged = result->ppl_worst = result->ppl_mean;
        result->rounds = c->steps;
        result->bytes_per_value = 2.0 * (c->nodes - 1) / c->nodes * sizeof(float);
        result->bytes_per_node_round = result->bytes_per_value * (double)floats;
        result->bytes_per_node = result->bytes_per_node_round * c->steps;
        result->tokens = (uint64_t)c->steps * c->nodes * c->batch * c->model.context;
    }
    allocator_release(&swarm->heap, state.params);
    allocator_release(&swarm->heap, state.first);
    allocator_release(&swarm->heap, state.second);
    return done;
}

static int run_rounds(struct swarm *swarm, struct converge_result *result, char why[CONVERGE_WHY_SIZE])
{
    const struct converge_config *c = swarm->config;
    int done = c->start == CONVERGE_WARM ? warm_start(swarm, NULL, why) : 0;
    if (done < 0)
        return done;
    if (c->start == CONVERGE_WARM)
        result->warm_ppl = exp(measure_loss(swarm, 0, 0, swarm_params(&swarm->nodes[0]), c->windows));
    rounds_run(swarm, result);
    measure_final(swarm, result);
    if (c->attack == CONVERGE_HONEST && isfinite(result->spread) && result->spread > 0)
        rounds_finish(swarm, result);
    return 0;
}

int converge_run(const struct converge_config *config, struct converge_result *result,
                 char why[CONVERGE_WHY_SIZE])
{
    double began = now_s();
    struct allocator heap = allocator_system();
    struct swarm *swarm = allocator_get(&heap, 1, sizeof *swarm);
    *result = (struct converge_result){0};
    if (swarm == NULL)
        return ERR_NO_MEMORY;
    int done = swarm_open(swarm, config, why);
    result->parameters = swarm->layout.parameter_count;
    if (done == 0)
        done =
            config->method == CONVERGE_SYNC ? run_sync(swarm, result, why) : run_rounds(swarm, result, why);
    if (done < 0 && why[0] == '\0')
        (void)snprintf(why, CONVERGE_WHY_SIZE, "%s", err_text(done));
    swarm_close(swarm);
    allocator_release(&heap, swarm);
    result->seconds = now_s() - began;
    return done;
}
