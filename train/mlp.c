/* The MLP's workload: rows of numbers. */
#include "train/mlp_pass.h"
#include "train/parallel.h"
#include "train/pool.h"

/* Rows of one pass over the validation part: fixed, since the shape of a matrix product decides its rounding.
 */
enum { MEASURE_ROWS = 64, TRIAL_ROWS = 16 };

struct mlp {
    struct allocator allocator;
    struct train_samples *samples;
    struct train_samples_info info;
    struct train_share share;
    struct train_mlp_pass *passes[TRAIN_THREADS_MAX];
    const float **rows; /* [batch] */
    uint16_t *labels;   /* [batch] */
    size_t private_rows[TRAIN_TRIAL_UNITS * TRIAL_ROWS];
};

static size_t pass_rows(const struct train_share *share)
{
    return share->micro > MEASURE_ROWS ? share->micro : MEASURE_ROWS;
}

static int mlp_open(void *self, const struct train_share *share)
{
    struct mlp *m = self;
    m->share = *share;
    m->rows = allocator_get(&m->allocator, share->batch, sizeof(const float *));
    m->labels = allocator_get(&m->allocator, share->batch, sizeof *m->labels);
    if (m->rows == NULL || m->labels == NULL)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < share->member_count; i++) {
        int result = train_mlp_pass_create(share->layout, pass_rows(share), &m->allocator, &m->passes[i]);
        if (result < 0)
            return result;
    }
    return 0;
}

static void mlp_destroy(void *self)
{
    struct mlp *m = self;
    struct allocator allocator = m->allocator;
    for (size_t i = 0; i < TRAIN_THREADS_MAX; i++)
        train_mlp_pass_destroy(m->passes[i]);
    allocator_release(&allocator, m->rows);
    allocator_release(&allocator, m->labels);
    allocator_release(&allocator, m);
}

static void mlp_draw(void *self)
{
    struct mlp *m = self;
    for (size_t i = 0; i < m->share.batch; i++)
        m->rows[i] = train_samples_row(m->samples, train_samples_draw(m->samples), &m->labels[i]);
}

static void mlp_reseed(void *self, uint64_t updates)
{
    train_samples_reseed(((struct mlp *)self)->samples, updates);
}

static struct train_tally mlp_learn(void *self, size_t member, size_t from, size_t to, const float params[],
                                    float scale, float grads[])
{
    struct mlp *m = self;
    struct train_tally sum = {.loss = 0};
    for (size_t at = from; at < to; at += m->share.micro) {
        size_t count = to - at < m->share.micro ? to - at : m->share.micro;
        struct train_tally part =
            train_mlp_pass_run(m->passes[member], params, count, m->rows + at, m->labels + at, scale, grads);
        sum.loss += part.loss;
        sum.correct += part.correct;
    }
    return sum;
}

static struct train_tally mlp_measure(void *self, size_t member, size_t unit, const float params[])
{
    const struct mlp *m = self;
    struct train_tally sum = {.loss = 0};
    size_t from = train_share_start(m->info.validation_rows, unit, TRAIN_UNITS);
    size_t to = train_share_start(m->info.validation_rows, unit + 1, TRAIN_UNITS);
    for (size_t at = from; at < to; at += MEASURE_ROWS) {
        const float *rows[MEASURE_ROWS];
        uint16_t labels[MEASURE_ROWS];
        size_t count = to - at < MEASURE_ROWS ? to - at : MEASURE_ROWS;
        for (size_t i = 0; i < count; i++)
            rows[i] = train_samples_row(m->samples, m->info.train_rows + at + i, &labels[i]);
        struct train_tally part = train_mlp_pass_run(m->passes[member], params, count, rows, labels, 0, NULL);
        sum.loss += part.loss;
        sum.correct += part.correct;
    }
    return sum;
}

static void mlp_draw_private(void *self)
{
    struct mlp *m = self;
    for (size_t i = 0; i < TRAIN_TRIAL_UNITS * TRIAL_ROWS; i++)
        m->private_rows[i] = train_samples_draw_private(m->samples);
}

static struct train_tally mlp_measure_private(void *self, size_t member, size_t unit, const float params[])
{
    const struct mlp *m = self;
    const float *rows[TRIAL_ROWS];
    uint16_t labels[TRIAL_ROWS];
    for (size_t i = 0; i < TRIAL_ROWS; i++)
        rows[i] = train_samples_row(m->samples, m->private_rows[unit * TRIAL_ROWS + i], &labels[i]);
    return train_mlp_pass_run(m->passes[member], params, TRIAL_ROWS, rows, labels, 0, NULL);
}

static const struct train_workload_ops mlp_ops = {
    .open = mlp_open,
    .destroy = mlp_destroy,
    .draw = mlp_draw,
    .reseed = mlp_reseed,
    .learn = mlp_learn,
    .measure = mlp_measure,
    .draw_private = mlp_draw_private,
    .measure_private = mlp_measure_private,
};

size_t train_mlp_bytes(const struct train_share *share)
{
    size_t passes, pass = train_mlp_pass_bytes(share->layout, pass_rows(share));
    size_t fixed = sizeof(struct mlp) + share->batch * (sizeof(const float *) + sizeof(uint16_t));
    if (pass == SIZE_MAX || !size_product(pass, share->member_count, &passes) || fixed > SIZE_MAX - passes)
        return SIZE_MAX;
    return fixed + passes;
}

int trainer_create_mlp(const struct trainer_options *options, struct train_samples *samples,
                       const struct allocator *allocator, struct trainer *out)
{
    char why[TRAIN_WHY_SIZE];
    struct train_samples_info info;
    const struct train_model_config *model = &options->model;
    int checked = trainer_options_check(options, why, sizeof why);
    ASSERT(checked == 0 && model->kind == TRAIN_MLP);
    train_samples_info(samples, &info);
    ASSERT(info.inputs == model->sizes[0]);
    ASSERT(info.classes == model->sizes[model->size_count - 1]);
    struct mlp *m = allocator_get(allocator, 1, sizeof *m);
    if (m == NULL)
        return ERR_NO_MEMORY;
    m->allocator = *allocator;
    m->samples = samples;
    m->info = info;
    struct train_workload workload = {.ops = &mlp_ops,
                                      .self = m,
                                      .tokens_each = 1,
                                      .tokens_measured = info.validation_rows,
                                      .tokens_tried = (uint64_t)TRAIN_TRIAL_UNITS * TRIAL_ROWS,
                                      .counts_correct = true};
    return train_parallel_create(options, &workload, allocator, out);
}
