/* Turns: the memory they need. */
#include <string.h>

#include "gossip/codec_modular.h"
#include "node/run_internal.h"

static size_t fragment_max(const struct gossip_layout *layout, enum gossip_codec codec)
{
    uint64_t most = 0;
    for (size_t i = 0; i < layout->fragment_count; i++)
        most = layout->fragment_bytes[i][codec] > most ? layout->fragment_bytes[i][codec] : most;
    return (size_t)most;
}

static size_t blocks_max(const struct gossip_layout *layout)
{
    uint64_t most = 0;
    for (size_t i = 0; i < layout->fragment_count; i++)
        most = layout->fragment_blocks[i] > most ? layout->fragment_blocks[i] : most;
    return (size_t)most;
}

static size_t repair_max(const struct gossip_layout *layout)
{
    uint64_t most = 1;
    for (size_t i = 0; i < layout->fragment_count; i++) {
        uint64_t bytes = gossip_layout_repair_max(layout, i);
        most = bytes > most ? bytes : most;
    }
    return (size_t)most;
}

size_t run_turn_list_max(const struct gossip_layout *layout)
{
    return gossip_indices_bytes_max(blocks_max(layout), blocks_max(layout) / 2) + 1;
}

static size_t values_max(const struct gossip_layout *layout)
{
    size_t most = 0;
    for (size_t i = 0; i < layout->fragment_count; i++)
        most = layout->fragments[i].count > most ? layout->fragments[i].count : most;
    return most;
}

static size_t all_blocks(const struct gossip_layout *layout)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < layout->fragment_count; i++)
        sum += layout->fragment_blocks[i];
    return (size_t)sum;
}

uint64_t run_turns_bytes(const struct gossip_layout *layout, bool loss_test)
{
    uint64_t blobs = RUN_BLOBS * (uint64_t)fragment_max(layout, GOSSIP_CODEC_FP32);
    uint64_t lists = (blocks_max(layout) / 2 + 1) * 2 * sizeof(uint32_t) + run_turn_list_max(layout);
    uint64_t trials = loss_test ? 3 * values_max(layout) * sizeof(float) : 0;
    return blobs + all_blocks(layout) * sizeof(float) + GOSSIP_LANES * (lists + repair_max(layout) + trials);
}

static bool allocate_trial(struct run *run, struct run_turn *turn)
{
    const struct allocator *alloc = &run->node->alloc;
    size_t values = values_max(&run->shape);
    if (!run->config.loss_test)
        return true;
    turn->trial_phi = allocator_get(alloc, values, sizeof(float));
    turn->trial_delta = allocator_get(alloc, values, sizeof(float));
    turn->trial_scratch = allocator_get(alloc, values, sizeof(float));
    return turn->trial_phi != NULL && turn->trial_delta != NULL && turn->trial_scratch != NULL;
}

static bool allocate_trails(struct run *run)
{
    const struct gossip_layout *layout = &run->shape;
    size_t count = gossip_trail_floats(run->tensors, run->layout.tensor_count);
    float *marks = run->marks = allocator_get(&run->node->alloc, count, sizeof(float));
    for (size_t i = 0; i < layout->fragment_count && marks != NULL; i++) {
        const struct gossip_fragment *fragment = &layout->fragments[i];
        const struct gossip_tensor *tensors = run->tensors + fragment->first_tensor;
        gossip_trail_init(&run->trails[i], tensors, fragment->tensor_count, marks);
        marks += gossip_trail_floats(tensors, fragment->tensor_count);
    }
    return marks != NULL;
}

int run_turns_allocate(struct run *run)
{
    const struct allocator *alloc = &run->node->alloc;
    const struct gossip_layout *layout = &run->shape;
    size_t wanted = blocks_max(layout) / 2 + 1;
    bool fine = (run->distances = allocator_get(alloc, all_blocks(layout), sizeof(float))) != NULL &&
                allocate_trails(run);
    for (size_t i = 0; i < RUN_BLOBS; i++)
        fine = fine && (run->blobs[i].bytes =
                            allocator_get(alloc, 1, fragment_max(layout, GOSSIP_CODEC_FP32))) != NULL;
    for (size_t lane = 0; lane < GOSSIP_LANES && fine; lane++) {
        struct run_turn *turn = &run->turns[lane];
        turn->wanted = allocator_get(alloc, wanted, sizeof(uint32_t));
        turn->repaired = allocator_get(alloc, wanted, sizeof(uint32_t));
        turn->list = allocator_get(alloc, 1, run_turn_list_max(layout));
        turn->repair = allocator_get(alloc, 1, repair_max(layout));
        fine = turn->wanted != NULL && turn->repaired != NULL && turn->list != NULL && turn->repair != NULL;
        fine = allocate_trial(run, turn) && fine;
    }
    if (!fine)
        return ERR_NO_MEMORY;
    run->distance_count = all_blocks(layout);
    memset(run->distances, 0, run->distance_count * sizeof(float));
    return ERR_OK;
}

void run_turns_release(struct run *run)
{
    const struct allocator *alloc = &run->node->alloc;
    allocator_release(alloc, run->distances);
    allocator_release(alloc, run->marks);
    for (size_t i = 0; i < RUN_BLOBS; i++)
        allocator_release(alloc, run->blobs[i].bytes);
    for (size_t lane = 0; lane < GOSSIP_LANES; lane++) {
        struct run_turn *turn = &run->turns[lane];
        allocator_release(alloc, turn->wanted);
        allocator_release(alloc, turn->repaired);
        allocator_release(alloc, turn->list);
        allocator_release(alloc, turn->repair);
        allocator_release(alloc, turn->trial_phi);
        allocator_release(alloc, turn->trial_delta);
        allocator_release(alloc, turn->trial_scratch);
    }
}
