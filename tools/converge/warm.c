/* The checkpoint all methods start from: synchronous steps, kept in a file so that it is made once.
 *
 * The file: "DNLNWRM1", seed u64, warm_steps u64, params f32[arena_floats], optimizer state
 * (train/optimizer_state.h, which has the layout's hash and a checksum). */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "tools/converge/swarm.h"
#include "train/init.h"
#include "train/optimizer_state.h"

enum { HEAD = 24 };

static const char magic[9] = "DNLNWRM1";

static size_t file_bytes(const struct swarm *swarm)
{
    return HEAD + swarm->layout.arena_floats * sizeof(float) + train_state_bytes(&swarm->layout);
}

static void head_of(const struct swarm *swarm, uint8_t head[HEAD])
{
    memcpy(head, magic, 8);
    store_le64(head + 8, swarm->config->seed);
    store_le64(head + 16, swarm->config->warm_steps);
}

static void unpack(const struct swarm *swarm, const uint8_t *bytes, float params[])
{
    train_floats_load(swarm->layout.arena_floats, bytes + HEAD, params);
}

static struct bytes state_part(const struct swarm *swarm, const uint8_t *bytes)
{
    return bytes_of(bytes + HEAD + swarm->layout.arena_floats * sizeof(float),
                    train_state_bytes(&swarm->layout));
}

/* 0: read; ERR_NOT_FOUND: no such file. */
static int read_file(const struct swarm *swarm, uint8_t *bytes, char why[CONVERGE_WHY_SIZE])
{
    const char *path = swarm->config->warm;
    uint8_t head[HEAD];
    size_t size = file_bytes(swarm);
    FILE *file = path == NULL ? NULL : fopen(path, "rb");
    if (file == NULL && (path == NULL || errno == ENOENT))
        return ERR_NOT_FOUND;
    size_t got = file == NULL ? 0 : fread(bytes, 1, size, file);
    bool whole = got == size && fgetc(file) == EOF;
    if (file != NULL)
        (void)fclose(file);
    head_of(swarm, head);
    if (whole && memcmp(bytes, head, HEAD) == 0)
        return 0;
    (void)snprintf(
        why, CONVERGE_WHY_SIZE,
        "%.300s is not the checkpoint of this model, seed and --warm-steps: remove it or name another", path);
    return ERR_MISMATCH;
}

/* Written beside and renamed: a run that is killed leaves no half of a file. */
static int write_file(const struct swarm *swarm, const uint8_t *bytes, char why[CONVERGE_WHY_SIZE])
{
    char beside[4096];
    const char *path = swarm->config->warm;
    size_t size = file_bytes(swarm);
    if (path == NULL)
        return 0;
    int len = snprintf(beside, sizeof beside, "%s.part", path);
    FILE *file = len < 0 || len >= (int)sizeof beside ? NULL : fopen(beside, "wb");
    bool good = file != NULL && fwrite(bytes, 1, size, file) == size;
    if (file != NULL && fclose(file) != 0)
        good = false;
    if (good && rename(beside, path) == 0)
        return 0;
    (void)snprintf(why, CONVERGE_WHY_SIZE, "cannot write %.300s: %s", path, strerror(errno));
    return ERR_IO;
}

static int make(struct swarm *swarm, uint8_t *bytes, char why[CONVERGE_WHY_SIZE])
{
    size_t floats = swarm->layout.arena_floats;
    struct sync_state state = {.params = allocator_get(&swarm->heap, floats, sizeof(float)),
                               .first = allocator_get(&swarm->heap, floats, sizeof(float)),
                               .second = allocator_get(&swarm->heap, floats, sizeof(float))};
    int result = ERR_NO_MEMORY;
    if (swarm->config->disturb.shards) {
        (void)snprintf(why, CONVERGE_WHY_SIZE, "make the checkpoint in a run without --non-iid first");
        result = ERR_INVALID;
    } else if (state.params != NULL && state.first != NULL && state.second != NULL) {
        uint8_t seed[32];
        swarm_weights_seed(swarm->config, SIZE_MAX, seed);
        train_init(&swarm->layout, seed, state.params);
        result = sync_run(swarm, &state, swarm->config->warm_rate, 0, swarm->config->warm_steps);
    }
    if (result == 0) {
        head_of(swarm, bytes);
        train_floats_store(floats, state.params, bytes + HEAD);
        train_state_write(&swarm->layout, state.updates, state.first, state.second,
                          bytes + HEAD + floats * sizeof(float));
        result = write_file(swarm, bytes, why);
    }
    allocator_release(&swarm->heap, state.params);
    allocator_release(&swarm->heap, state.first);
    allocator_release(&swarm->heap, state.second);
    return result;
}

static int hand_out(struct swarm *swarm, const uint8_t *bytes, struct sync_state *state)
{
    struct bytes part = state_part(swarm, bytes);
    if (state != NULL) {
        unpack(swarm, bytes, state->params);
        int result = train_state_read(&swarm->layout, part, &state->updates, state->first, state->second);
        /* As trainer_state_import does for the other methods: the same draws for each node. */
        for (size_t i = 0; result == 0 && i < swarm->config->nodes; i++)
            train_data_reseed(swarm->nodes[i].data, state->updates);
        return result;
    }
    unpack(swarm, bytes, swarm->mean);
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        int result = trainer_set_params(&swarm->nodes[i].trainer, swarm->mean);
        if (result == 0)
            result = trainer_state_import(&swarm->nodes[i].trainer, part);
        if (result < 0)
            return result;
    }
    return 0;
}

int warm_start(struct swarm *swarm, struct sync_state *state, char why[CONVERGE_WHY_SIZE])
{
    uint8_t *bytes = allocator_get(&swarm->heap, file_bytes(swarm), 1);
    if (bytes == NULL)
        return ERR_NO_MEMORY;
    int result = read_file(swarm, bytes, why);
    if (result == ERR_NOT_FOUND)
        result = make(swarm, bytes, why);
    if (result == 0)
        result = hand_out(swarm, bytes, state);
    allocator_release(&swarm->heap, bytes);
    return result;
}
