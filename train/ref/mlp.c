#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "train/ref/ref.h"

/* What layer l reads [row_count][sizes[l]] is active[l]; the last holds the logits. */
struct mlp {
    const struct train_layout *layout;
    size_t layer_count, row_count;
    double *active[TRAIN_MLP_SIZES_MAX];
    double *d[TRAIN_MLP_SIZES_MAX];
};

static const struct train_tensor *weight_of(const struct mlp *m, size_t layer)
{
    return &m->layout->tensors[train_layout_mlp(m->layout, layer)];
}

static void forward(const struct mlp *m, const double params[], const float *const rows[])
{
    const uint32_t *sizes = m->layout->model.sizes;
    for (size_t r = 0; r < m->row_count; r++)
        for (size_t i = 0; i < sizes[0]; i++)
            m->active[0][r * sizes[0] + i] = (double)rows[r][i];
    for (size_t l = 0; l < m->layer_count; l++) {
        const struct train_tensor *weight = weight_of(m, l), *bias = weight + 1;
        double *out = m->active[l + 1];
        ref_linear(m->row_count, sizes[l], sizes[l + 1], m->active[l], params + weight->offset, out);
        for (size_t r = 0; r < m->row_count; r++) {
            for (size_t i = 0; i < sizes[l + 1]; i++) {
                double sum = out[r * sizes[l + 1] + i] + params[bias->offset + i];
                bool hidden = l + 1 < m->layer_count;
                out[r * sizes[l + 1] + i] = hidden && sum < 0 ? 0 : sum;
            }
        }
    }
}

/* Sum of the losses; d of the logits becomes its gradient times 1 / row_count. */
static double loss_of(const struct mlp *m, const uint16_t labels[])
{
    size_t classes = m->layout->model.sizes[m->layer_count];
    double loss = 0;
    for (size_t r = 0; r < m->row_count; r++) {
        const double *row = m->active[m->layer_count] + r * classes;
        double *d = m->d[m->layer_count] + r * classes;
        double top = row[0], sum = 0;
        for (size_t c = 1; c < classes; c++)
            top = row[c] > top ? row[c] : top;
        for (size_t c = 0; c < classes; c++)
            sum += exp(row[c] - top);
        loss += log(sum) + top - row[labels[r]];
        for (size_t c = 0; c < classes; c++)
            d[c] = (exp(row[c] - top) / sum - (c == labels[r])) / (double)m->row_count;
    }
    return loss;
}

static void backward(const struct mlp *m, const double params[], double grads[])
{
    const uint32_t *sizes = m->layout->model.sizes;
    for (size_t l = m->layer_count; l-- > 0;) {
        const struct train_tensor *weight = weight_of(m, l), *bias = weight + 1;
        size_t count = m->row_count * sizes[l + 1];
        for (size_t i = 0; i < count && l + 1 < m->layer_count; i++)
            if (m->active[l + 1][i] <= 0)
                m->d[l + 1][i] = 0;
        for (size_t i = 0; i < count; i++)
            grads[bias->offset + i % sizes[l + 1]] += m->d[l + 1][i];
        ref_linear_back(m->row_count, sizes[l], sizes[l + 1], m->active[l], params + weight->offset,
                        m->d[l + 1], m->d[l], grads + weight->offset);
    }
}

int ref_mlp(const struct train_layout *layout, const double params[], size_t row_count,
            const float *const rows[], const uint16_t labels[], double grads[], double *loss)
{
    struct allocator heap = allocator_system();
    struct mlp m = {.layout = layout, .layer_count = layout->model.size_count - 1, .row_count = row_count};
    int result = 0;
    for (size_t l = 0; l <= m.layer_count; l++) {
        m.active[l] = allocator_get(&heap, row_count * layout->model.sizes[l], sizeof(double));
        m.d[l] = allocator_get(&heap, row_count * layout->model.sizes[l], sizeof(double));
        if (m.active[l] == NULL || m.d[l] == NULL)
            result = ERR_NO_MEMORY;
    }
    if (result == 0) {
        forward(&m, params, rows);
        *loss = loss_of(&m, labels) / (double)row_count;
        if (grads != NULL)
            backward(&m, params, grads);
    }
    for (size_t l = 0; l <= m.layer_count; l++) {
        allocator_release(&heap, m.active[l]);
        allocator_release(&heap, m.d[l]);
    }
    return result;
}
