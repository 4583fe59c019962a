/* The cut: first the smallest possible largest fragment, then the most even one of that size. */
#include "gossip/fragment.h"

#include <stdbool.h>

#include "gossip/tensor.h"

/* Whether the tensors from `first` on fit into `parts` spans of at most cap values. */
static bool fits(const struct gossip_tensor tensors[], size_t first, size_t tensor_count, size_t parts,
                 uint64_t cap)
{
    uint64_t sum = 0;
    size_t used = 1;
    for (size_t i = first; i < tensor_count; i++) {
        if (tensors[i].count > cap)
            return false;
        if (sum + tensors[i].count > cap) {
            used++;
            sum = 0;
        }
        sum += tensors[i].count;
    }
    return used <= parts;
}

static uint64_t smallest_cap(const struct gossip_tensor tensors[], size_t tensor_count, size_t parts)
{
    uint64_t low = 1;
    uint64_t high = 0;
    for (size_t i = 0; i < tensor_count; i++)
        high += tensors[i].count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (fits(tensors, 0, tensor_count, parts, middle))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Whether the span from `first` to before `end`, of sum values, takes one tensor more. */
static bool takes_more(const struct gossip_tensor tensors[], size_t tensor_count, size_t end,
                       size_t parts_after, uint64_t sum, uint64_t share, uint64_t cap)
{
    if (tensor_count - end <= parts_after) /* each of the others needs a tensor too */
        return false;
    if (sum + tensors[end].count > cap)
        return false;
    if (!fits(tensors, end, tensor_count, parts_after, cap))
        return true;
    return sum + tensors[end].count / 2 < share;
}

int gossip_fragments_cut(const struct gossip_tensor *tensors, size_t tensor_count, size_t wanted,
                         struct gossip_fragment out[GOSSIP_FRAGMENTS_MAX])
{
    if (wanted == 0 || wanted > GOSSIP_FRAGMENTS_MAX || tensor_count == 0)
        return ERR_INVALID;
    size_t parts = wanted < tensor_count ? wanted : tensor_count;
    uint64_t cap = smallest_cap(tensors, tensor_count, parts);
    uint64_t left = 0;
    size_t next = 0;
    for (size_t i = 0; i < tensor_count; i++)
        left += tensors[i].count;
    for (size_t part = 0; part < parts; part++) {
        size_t first = next;
        uint64_t sum = tensors[next++].count;
        uint64_t share = left / (parts - part);
        while (takes_more(tensors, tensor_count, next, parts - part - 1, sum, share, cap))
            sum += tensors[next++].count;
        out[part] = (struct gossip_fragment){.first_tensor = first,
                                             .tensor_count = next - first,
                                             .offset = tensors[first].offset,
                                             .count = (size_t)sum};
        left -= sum;
    }
    ASSERT(next == tensor_count && left == 0);
    return (int)parts;
}
