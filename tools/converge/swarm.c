/* Setting up and sharing out. */
#include "tools/converge/swarm.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"

struct each {
    struct swarm *swarm;
    size_t count;
    atomic_size_t next; /* who takes which index changes nothing but the time */
    void (*job)(struct swarm *, size_t, size_t);
};

static void each_job(struct train_pool *pool, size_t member, void *user)
{
    struct each *each = user;
    (void)pool;
    for (size_t i = atomic_fetch_add(&each->next, 1); i < each->count; i = atomic_fetch_add(&each->next, 1))
        each->job(each->swarm, member, i);
}

void swarm_each(struct swarm *swarm, size_t count, void (*job)(struct swarm *, size_t, size_t))
{
    struct each each = {.swarm = swarm, .count = count, .job = job};
    train_pool_run(swarm->pool, each_job, &each);
}

bool swarm_counts(const struct swarm_node *node)
{
    return node->live && !node->hostile;
}

float *swarm_params(const struct swarm_node *node)
{
    struct trainer trainer = node->trainer;
    return trainer_params(&trainer);
}

enum { SLICES = 64 };

static void mean_job(struct swarm *swarm, size_t member, size_t slice)
{
    size_t from = swarm->layout.arena_floats * slice / SLICES;
    size_t to = swarm->layout.arena_floats * (slice + 1) / SLICES;
    (void)member;
    for (size_t at = from; at < to; at++) {
        double sum = 0;
        size_t count = 0;
        for (size_t i = 0; i < swarm->config->nodes; i++) {
            if (!swarm_counts(&swarm->nodes[i]))
                continue;
            sum += (double)swarm_params(&swarm->nodes[i])[at];
            count++;
        }
        swarm->mean[at] = (float)(sum / (double)count);
    }
}

void swarm_mean(struct swarm *swarm)
{
    swarm_each(swarm, SLICES, mean_job);
}

static struct id label_hash(uint64_t seed, const char *what, uint64_t a, uint64_t b)
{
    uint8_t numbers[24];
    struct id out;
    store_le64(numbers, seed);
    store_le64(numbers + 8, a);
    store_le64(numbers + 16, b);
    struct bytes part = bytes_of(numbers, sizeof numbers);
    hash_parts(what, &part, 1, &out);
    return out;
}

double swarm_chance(const struct swarm *swarm, const char *what, uint64_t a, uint64_t b)
{
    struct id hash = label_hash(swarm->config->seed, what, a, b);
    return (double)(load_le64(hash.bytes) >> 11) * 0x1p-53;
}

void swarm_weights_seed(const struct converge_config *config, size_t index, uint8_t seed[32])
{
    struct id hash = label_hash(config->seed, "dunlin converge weights", (uint64_t)index, 0);
    memcpy(seed, hash.bytes, 32);
}

float swarm_rate(const struct converge_config *config, float peak, uint32_t step_of_all)
{
    struct train_adamw_config adamw = train_adamw_config_default();
    uint32_t warm = config->start == CONVERGE_WARM ? config->warm_steps : 0;
    adamw.rate = peak;
    return train_lr(&adamw, ((double)step_of_all + 0.5) / (double)(warm + config->steps));
}

static int open_rows(struct swarm *swarm, struct swarm_node *node, char why[CONVERGE_WHY_SIZE])
{
    const struct train_model_config *model = &swarm->config->model;
    struct train_samples_config config = {.path = swarm->config->rows,
                                          .inputs = model->sizes[0],
                                          .classes = model->sizes[model->size_count - 1],
                                          .input_max = model->input_max,
                                          .node = node->id};
    swarm_weights_seed(swarm->config, CONVERGE_NODES_MAX + (size_t)(node - swarm->nodes), config.secret);
    return train_samples_open(&config, &swarm->heap, &node->samples, why, CONVERGE_WHY_SIZE);
}

static int open_data(struct swarm *swarm, size_t index, char why[CONVERGE_WHY_SIZE])
{
    const struct converge_config *c = swarm->config;
    struct swarm_node *node = &swarm->nodes[index];
    char path[4096];
    if (c->rows != NULL)
        return open_rows(swarm, node, why);
    struct train_data_config config = {.path = c->text, .context = c->model.context, .node = node->id};
    swarm_weights_seed(c, CONVERGE_NODES_MAX + index, config.secret);
    if (c->disturb.shards) {
        if (snprintf(path, sizeof path, "%s/%zu.txt", c->shards, index) >= (int)sizeof path)
            return ERR_INVALID;
        config.path = path;
    }
    return train_data_open(&config, &swarm->heap, &node->data, why, CONVERGE_WHY_SIZE);
}

static int open_trainer(struct swarm *swarm, size_t index)
{
    const struct converge_config *c = swarm->config;
    struct trainer_options options =
        c->rows == NULL ? trainer_options_default() : trainer_options_mlp(&c->model);
    bool own = c->start == CONVERGE_DIFFERENT;
    options.model = c->model;
    options.batch = c->batch;
    options.micro = c->batch;
    swarm_weights_seed(c, own ? index : SIZE_MAX, options.seed);
    struct swarm_node *node = &swarm->nodes[index];
    if (c->sgd) {
        options.optimizer = TRAIN_SGD;
        options.adamw.beta1 = 0;
    }
    if (c->rows != NULL)
        return trainer_create_mlp(&options, node->samples, &swarm->heap, &node->trainer);
    return trainer_create_builtin(&options, node->data, &swarm->heap, &node->trainer);
}

static int get_arrays(struct swarm *swarm, struct swarm_node *node)
{
    size_t floats = swarm->layout.arena_floats;
    float **arrays[] = {&node->theta, &node->phi, &node->delta, &node->diff, &node->shown, &node->scratch};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        *arrays[i] = allocator_get(&swarm->heap, floats, sizeof(float));
        if (*arrays[i] == NULL)
            return ERR_NO_MEMORY;
    }
    if (swarm->config->loss_test && !node->hostile) {
        node->trial = allocator_get(&swarm->heap, 3 * floats, sizeof(float));
        if (node->trial == NULL)
            return ERR_NO_MEMORY;
    }
    node->buffers.blob = allocator_get(&swarm->heap, swarm->model.blob_bytes_max, 1);
    node->buffers.repairs = allocator_get(&swarm->heap, swarm->model.blob_bytes_max, 1);
    node->buffers.wanted = allocator_get(&swarm->heap, swarm->model.block_count, sizeof(uint32_t));
    node->memory.distances = allocator_get(&swarm->heap, swarm->model.block_count, sizeof(float));
    node->memory.marks = allocator_get(&swarm->heap, swarm->model.trail_floats, sizeof(float));
    if (node->buffers.blob == NULL || node->buffers.repairs == NULL || node->buffers.wanted == NULL ||
        node->memory.distances == NULL || node->memory.marks == NULL)
        return ERR_NO_MEMORY;
    exchange_memory_init(&swarm->model, &node->memory);
    if (!node->hostile)
        return 0;
    node->first = allocator_get(&swarm->heap, floats, sizeof(float));
    for (size_t f = 0; f < swarm->model.fragment_count; f++)
        node->kept[f] = allocator_get(&swarm->heap, swarm->model.blob_bytes_max, 1);
    return node->first == NULL || node->kept[swarm->model.fragment_count - 1] == NULL ? ERR_NO_MEMORY : 0;
}

/* What averaging many independent weights leaves of a matrix. */
static void shrink(const struct swarm *swarm, float params[])
{
    float factor = 1.0F / sqrtf((float)swarm->config->nodes);
    for (size_t t = 0; t < swarm->layout.tensor_count; t++) {
        const struct train_tensor *tensor = &swarm->layout.tensors[t];
        for (size_t i = 0; tensor->kind <= TRAIN_EMBEDDING && i < tensor->rows * tensor->cols; i++)
            params[tensor->offset + i] *= factor;
    }
}

static int open_node(struct swarm *swarm, size_t index, char why[CONVERGE_WHY_SIZE])
{
    const struct converge_config *c = swarm->config;
    struct swarm_node *node = &swarm->nodes[index];
    node->id = label_hash(c->seed, "dunlin converge node", index, 0);
    node->live = !(c->disturb.join > 0 && index == c->nodes - 1);
    node->hostile = c->attack != CONVERGE_HONEST && index % 4 == 3;
    int result = open_data(swarm, index, why);
    if (result < 0 || c->method == CONVERGE_SYNC)
        return result;
    result = open_trainer(swarm, index);
    if (result == 0)
        result = get_arrays(swarm, node);
    if (result < 0)
        return result;
    if (c->start == CONVERGE_SCALED)
        shrink(swarm, trainer_params(&node->trainer));
    trainer_snapshot(&node->trainer, node->phi);
    if (node->hostile)
        trainer_snapshot(&node->trainer, node->first);
    return 0;
}

/* The text never trained on, whole in memory. */
static int read_held(struct swarm *swarm, char why[CONVERGE_WHY_SIZE])
{
    FILE *file = fopen(swarm->config->held, "rb");
    long size = -1;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0)
        size = ftell(file);
    int result = 0;
    if (size <= (long)swarm->layout.model.context) {
        (void)snprintf(why, CONVERGE_WHY_SIZE, "%.300s cannot be read, or holds less than one window",
                       swarm->config->held);
        result = ERR_INVALID;
    } else {
        swarm->held_len = (size_t)size;
        swarm->held = allocator_get(&swarm->heap, swarm->held_len, 1);
        rewind(file);
        if (swarm->held == NULL || fread(swarm->held, 1, swarm->held_len, file) != swarm->held_len)
            result = swarm->held == NULL ? ERR_NO_MEMORY : ERR_IO;
    }
    if (file != NULL)
        (void)fclose(file);
    return result;
}

static int open_shared(struct swarm *swarm, char why[CONVERGE_WHY_SIZE])
{
    const struct converge_config *c = swarm->config;
    train_layout_init(&swarm->layout, &c->model);
    swarm->run = label_hash(c->seed, "dunlin converge run", 0, 0);
    if (exchange_model_init(&swarm->model, &swarm->layout, c->fragments) < 0) {
        (void)snprintf(why, CONVERGE_WHY_SIZE, "a model of %zu tensors has no %u fragments",
                       swarm->layout.tensor_count, c->fragments);
        return ERR_INVALID;
    }
    int result = c->rows == NULL ? read_held(swarm, why) : 0;
    if (result == 0)
        result = train_pool_create(c->threads, &swarm->heap, &swarm->pool);
    for (size_t i = 0; result == 0 && c->rows == NULL && i < c->threads; i++)
        result = train_pass_create(&swarm->layout, 8, &swarm->heap, &swarm->passes[i]);
    swarm->mean = allocator_get(&swarm->heap, swarm->layout.arena_floats, sizeof(float));
    return result == 0 && swarm->mean == NULL ? ERR_NO_MEMORY : result;
}

int swarm_open(struct swarm *swarm, const struct converge_config *config, char why[CONVERGE_WHY_SIZE])
{
    *swarm = (struct swarm){.config = config, .heap = allocator_system()};
    why[0] = '\0';
    int result = open_shared(swarm, why);
    for (size_t i = 0; result == 0 && i < config->nodes; i++)
        result = open_node(swarm, i, why);
    if (result < 0 && why[0] == '\0')
        (void)snprintf(why, CONVERGE_WHY_SIZE, "%s", err_text(result));
    return result;
}

void swarm_close(struct swarm *swarm)
{
    const struct allocator *heap = &swarm->heap;
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        struct swarm_node *node = &swarm->nodes[i];
        trainer_destroy(&node->trainer);
        train_data_close(node->data);
        train_samples_close(node->samples);
        void *memory[] = {node->theta,
                          node->phi,
                          node->delta,
                          node->diff,
                          node->shown,
                          node->scratch,
                          node->first,
                          node->buffers.blob,
                          node->buffers.repairs,
                          node->buffers.wanted,
                          node->memory.distances,
                          node->memory.marks,
                          node->trial};
        for (size_t m = 0; m < sizeof memory / sizeof *memory; m++)
            allocator_release(heap, memory[m]);
        for (size_t f = 0; f < CONVERGE_FRAGMENTS_MAX; f++)
            allocator_release(heap, node->kept[f]);
    }
    for (size_t i = 0; i < CONVERGE_THREADS_MAX; i++)
        train_pass_destroy(swarm->passes[i]);
    train_pool_destroy(swarm->pool);
    allocator_release(heap, swarm->held);
    allocator_release(heap, swarm->mean);
}
