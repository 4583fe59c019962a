/* The trainer must learn, do the same for any split into threads and micro-batches, survive a restart from
 * its own bytes, and refuse whatever would poison the weights. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/support.h"
#include "train/pool.h"
#include "train/trainer.h"

static char path[64];
static struct allocator heap;
static char why[TRAIN_WHY_SIZE];

/* A text with something to learn: numbered lines. */
static void write_text(void)
{
    heap = allocator_system();
    (void)snprintf(path, sizeof path, "/tmp/dunlin-trainer-XXXXXX");
    int file = mkstemp(path);
    cr_assert_geq(file, 0);
    FILE *out = fdopen(file, "w");
    cr_assert_not_null(out);
    for (int i = 0; i < 4000; i++)
        fprintf(out, "line %d of the text, %d to go\n", i, 4000 - i);
    cr_assert_eq(fclose(out), 0);
}

static void remove_text(void)
{
    cr_assert_eq(unlink(path), 0);
}

TestSuite(trainer, .init = write_text, .fini = remove_text);

static struct trainer_options small(void)
{
    struct trainer_options options = trainer_options_default();
    options.model = (struct train_model_config){.width = 32, .layers = 2, .heads = 2, .context = 32};
    options.batch = 6;
    options.micro = 2;
    return options;
}

static struct train_data *open_text(const struct trainer_options *options)
{
    struct train_data_config config = {.path = path, .context = options->model.context};
    struct train_data *data;
    cr_assert_eq(train_data_open(&config, &heap, &data, why, sizeof why), 0, "%s", why);
    return data;
}

struct both {
    struct train_data *data;
    struct trainer trainer;
};

static struct both create(struct trainer_options options)
{
    struct both b;
    cr_assert_eq(trainer_options_check(&options, why, sizeof why), 0, "%s", why);
    b.data = open_text(&options);
    cr_assert_eq(trainer_create_builtin(&options, b.data, &heap, &b.trainer), 0);
    return b;
}

static void destroy(struct both *b)
{
    trainer_destroy(&b->trainer);
    train_data_close(b->data);
}

static struct trainer_report step(struct both *b)
{
    struct trainer_report report;
    cr_assert_eq(trainer_step(&b->trainer, 3e-3F, &report), 0);
    return report;
}

static double evaluate(struct both *b)
{
    double loss;
    cr_assert_eq(trainer_evaluate(&b->trainer, NULL, &loss), 0);
    return loss;
}

Test(trainer, learns)
{
    struct both b = create(small());
    double before = evaluate(&b);
    cr_assert_float_eq(before, log(256), 0.4, "an untrained model knows nothing: %g", before);
    struct trainer_report report = step(&b);
    cr_assert(report.updated && report.tokens == 6 * 32 && report.gradient_norm > 0);
    for (int i = 0; i < 150; i++)
        report = step(&b);
    double after = evaluate(&b);
    cr_assert_lt(after, 2.6, "%g nats per byte", after);
    cr_assert_eq(trainer_updates(&b.trainer), 151);
    destroy(&b);
}

/* A trial changes no weight and no later draw, whatever it tries; its batches differ, are the secret's alone,
 * and tell a bad difference from none. */
Test(trainer, a_trial_leaves_no_trace)
{
    static struct train_layout layout;
    struct trainer_options options = small();
    train_layout_init(&layout, &options.model);
    struct both plain = create(options), tried = create(options);
    size_t floats = layout.arena_floats;
    float *diff = allocator_get(&heap, floats, sizeof(float));
    float *scratch = allocator_get(&heap, floats, sizeof(float));
    struct trainer_trial trial[4];
    memset(diff, 0, floats * sizeof *diff);
    for (size_t i = 0; i < 40; i++) {
        (void)step(&plain);
        (void)step(&tried);
        trainer_try_span(&tried.trainer, 0, layout.tensor_count, diff, scratch, &trial[i % 2]);
        cr_assert_eq(trial[i % 2].before, trial[i % 2].after, "no difference, no change");
    }
    cr_assert_neq(trial[0].before, trial[1].before, "each on a batch of its own");
    for (size_t i = 0; i < floats; i++)
        diff[i] = i % 2 == 0 ? 0.5F : -0.5F;
    trainer_try_span(&tried.trainer, 1, 2, diff, scratch, &trial[2]);
    cr_assert_gt(trial[2].after, 1.05 * trial[2].before);
    diff[7] = (float)INFINITY;
    trainer_try_span(&tried.trainer, 1, 2, diff, scratch, &trial[3]);
    cr_assert(isfinite(trial[3].before) && !isfinite(trial[3].after));
    cr_assert_eq(
        memcmp(trainer_params(&plain.trainer), trainer_params(&tried.trainer), floats * sizeof(float)), 0,
        "weights and draws are as without trials");
    allocator_release(&heap, diff);
    allocator_release(&heap, scratch);
    destroy(&plain);
    destroy(&tried);
}

static double weights_after(struct trainer_options options, int steps, float **out)
{
    struct both b = create(options);
    for (int i = 0; i < steps; i++)
        (void)step(&b);
    *out = allocator_get(&heap, b.trainer.layout->arena_floats, sizeof(float));
    trainer_snapshot(&b.trainer, *out);
    double loss = evaluate(&b);
    destroy(&b);
    return loss;
}

Test(trainer, same_options_same_bits)
{
    static struct train_layout layout;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        struct trainer_options options = small();
        options.threads = threads;
        train_layout_init(&layout, &options.model);
        float *one, *two;
        double a = weights_after(options, 5, &one), b = weights_after(options, 5, &two);
        cr_assert_eq(a, b);
        cr_assert_eq(memcmp(one, two, layout.arena_floats * sizeof(float)), 0, "%u threads", threads);
        allocator_release(&heap, one);
        allocator_release(&heap, two);
    }
}

/* Only rounding may differ: the sums are the same, in another order. */
Test(trainer, threads_and_micro_batches_change_only_rounding)
{
    static struct train_layout layout;
    float *plain, *other;
    struct trainer_options options = small();
    train_layout_init(&layout, &options.model);
    (void)weights_after(options, 1, &plain);
    static const uint32_t shapes[][2] = {{1, 1}, {1, 6}, {2, 2}, {3, 4}, {6, 1}, {9, 1}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        options.threads = shapes[s][0];
        options.micro = shapes[s][1];
        (void)weights_after(options, 1, &other);
        size_t far = 0;
        for (size_t i = 0; i < layout.arena_floats; i++)
            far += fabsf(plain[i] - other[i]) >
                   1e-4F; /* a first Adam step is 3e-3 whatever the gradient's size */
        /* Where a gradient is all rounding Adam's first step has a random sign: a few such are expected. */
        cr_assert_lt(far, layout.arena_floats / 500, "%u threads, micro %u: %zu weights differ",
                     options.threads, options.micro, far);
        allocator_release(&heap, other);
    }
    allocator_release(&heap, plain);
}

Test(trainer, evaluation_does_not_depend_on_threads)
{
    double first = 0;
    for (uint32_t threads = 1; threads <= 4; threads++) {
        struct trainer_options options = small();
        options.threads = threads;
        struct both b = create(options);
        double loss = evaluate(&b);
        cr_assert_eq(loss, evaluate(&b));
        cr_assert(threads == 1 || loss == first);
        first = loss;
        destroy(&b);
    }
}

Test(trainer, accumulation_updates_once)
{
    struct trainer_options options = small();
    options.accumulate = 3;
    struct both b = create(options);
    float first = trainer_params(&b.trainer)[0];
    size_t bytes = trainer_state_bytes(&b.trainer);
    uint8_t *state = malloc(bytes);
    cr_assert_not_null(state);
    cr_assert(!step(&b).updated && !step(&b).updated);
    cr_assert_eq(trainer_params(&b.trainer)[0], first);
    cr_assert_eq(trainer_state_export(&b.trainer, state, bytes), ERR_STATE);
    cr_assert(step(&b).updated);
    cr_assert_eq(trainer_updates(&b.trainer), 1);
    cr_assert_eq(trainer_state_export(&b.trainer, state, bytes), (int)bytes);
    free(state);
    destroy(&b);
}

Test(trainer, resumes_from_its_own_bytes)
{
    struct both a = create(small()), b = create(small());
    for (int i = 0; i < 10; i++)
        (void)step(&a);
    size_t bytes = trainer_state_bytes(&a.trainer), floats = a.trainer.layout->arena_floats;
    uint8_t *state = malloc(bytes), *again = malloc(bytes);
    cr_assert(state != NULL && again != NULL);
    cr_assert_eq(trainer_state_export(&a.trainer, state, bytes - 1), ERR_TOO_LARGE);
    cr_assert_eq(trainer_state_export(&a.trainer, state, bytes), (int)bytes);

    cr_assert_eq(trainer_set_params(&b.trainer, trainer_params(&a.trainer)), 0);
    cr_assert_eq(trainer_state_import(&b.trainer, bytes_of(state, bytes)), 0);
    cr_assert_eq(trainer_updates(&b.trainer), 10);
    cr_assert_eq(trainer_state_export(&b.trainer, again, bytes), (int)bytes);
    cr_assert_eq(memcmp(state, again, bytes), 0);
    /* The same draws from here on: the same weights. */
    cr_assert_eq(trainer_state_import(&a.trainer, bytes_of(state, bytes)), 0);
    (void)step(&a);
    (void)step(&b);
    cr_assert_eq(memcmp(trainer_params(&a.trainer), trainer_params(&b.trainer), floats * sizeof(float)), 0);
    free(state);
    free(again);
    destroy(&a);
    destroy(&b);
}

Test(trainer, damaged_state_is_refused)
{
    struct both a = create(small());
    (void)step(&a);
    size_t bytes = trainer_state_bytes(&a.trainer);
    uint8_t *state = malloc(bytes);
    cr_assert_not_null(state);
    cr_assert_eq(trainer_state_export(&a.trainer, state, bytes), (int)bytes);
    for (size_t at = 0; at < bytes; at += bytes / 50 + 1) {
        state[at] ^= 4;
        cr_assert_eq(trainer_state_import(&a.trainer, bytes_of(state, bytes)), ERR_CORRUPT, "byte %zu", at);
        state[at] ^= 4;
    }
    for (size_t len = 0; len < bytes; len += bytes / 50 + 1)
        cr_assert_eq(trainer_state_import(&a.trainer, bytes_of(state, len)), ERR_CORRUPT, "length %zu", len);
    struct trainer_options other = small();
    other.model.layers = 1;
    struct both b = create(other);
    cr_assert_eq(trainer_state_import(&b.trainer, bytes_of(state, bytes)), ERR_MISMATCH);
    cr_assert_eq(trainer_updates(&b.trainer), 0);
    cr_assert_eq(trainer_updates(&a.trainer), 1);
    trainer_reset_moments(&a.trainer);
    cr_assert_eq(trainer_updates(&a.trainer), 0);
    free(state);
    destroy(&a);
    destroy(&b);
}

Test(trainer, differences_are_applied_and_poison_refused)
{
    struct both b = create(small());
    size_t floats = b.trainer.layout->arena_floats;
    float *before = allocator_get(&heap, floats, sizeof(float)),
          *diff = allocator_get(&heap, floats, sizeof(float));
    cr_assert(before != NULL && diff != NULL);
    trainer_snapshot(&b.trainer, before);
    for (size_t i = 0; i < floats; i++)
        diff[i] = (float)i * 1e-6F;
    cr_assert_eq(trainer_apply(&b.trainer, diff, 0.5F), 0);
    const struct train_tensor *head = &b.trainer.layout->tensors[train_layout_head(b.trainer.layout)];
    for (size_t i = head->offset; i < head->offset + 100; i++)
        cr_assert_float_eq(trainer_params(&b.trainer)[i], before[i] + 0.5F * diff[i], 1e-7);
    trainer_snapshot(&b.trainer, before);
    diff[floats / 2] = NAN;
    cr_assert_eq(trainer_apply(&b.trainer, diff, 1.0F), ERR_NOT_FINITE);
    diff[floats / 2] = 3e38F;
    cr_assert_eq(trainer_apply(&b.trainer, diff, 10.0F), ERR_NOT_FINITE);
    diff[floats / 2] = INFINITY;
    cr_assert_eq(trainer_set_params(&b.trainer, diff), ERR_NOT_FINITE);
    cr_assert_eq(memcmp(before, trainer_params(&b.trainer), floats * sizeof(float)), 0,
                 "changed all the same");
    allocator_release(&heap, before);
    allocator_release(&heap, diff);
    destroy(&b);
}

Test(trainer, a_gradient_that_is_not_finite_changes_nothing)
{
    struct trainer_options options = small();
    options.threads = 2;
    struct both b = create(options);
    size_t floats = b.trainer.layout->arena_floats;
    float *params = trainer_params(&b.trainer), *before = allocator_get(&heap, floats, sizeof(float));
    cr_assert_not_null(before);
    (void)step(&b);
    size_t at = train_layout_at(b.trainer.layout, 0, LAYER_UP);
    float kept = params[at];
    params[at] = params[at + 1] = 3e38F; /* overflows on the way forward */
    trainer_snapshot(&b.trainer, before);
    struct trainer_report report;
    double loss = 7;
    cr_assert_eq(trainer_step(&b.trainer, 1e-3F, &report), ERR_NOT_FINITE);
    cr_assert_not(report.updated);
    cr_assert_eq(memcmp(before, params, floats * sizeof(float)), 0);
    cr_assert_eq(trainer_evaluate(&b.trainer, NULL, &loss), ERR_NOT_FINITE);
    cr_assert_eq(loss, 7);
    params[at] = params[at + 1] = kept;
    cr_assert(step(&b).updated, "and goes on once the weights are mended");
    allocator_release(&heap, before);
    destroy(&b);
}

Test(trainer, memory_is_what_was_announced_and_none_is_taken_later)
{
    struct trainer_options options = small();
    options.threads = 3;
    struct train_data *data = open_text(&options);
    for (size_t fail_at = 1;; fail_at++) {
        struct counting_allocator counter = {.fail_at = fail_at};
        struct allocator allocator = counting_allocator_view(&counter);
        struct trainer trainer;
        int result = trainer_create_builtin(&options, data, &allocator, &trainer);
        if (result == 0) {
            size_t taken = counter.allocated;
            struct trainer_report report;
            double loss;
            cr_assert_eq(trainer_step(&trainer, 1e-3F, &report), 0);
            cr_assert_eq(trainer_evaluate(&trainer, NULL, &loss), 0);
            cr_assert_eq(counter.allocated, taken);
            trainer_destroy(&trainer);
        }
        cr_assert_eq(counter.live, 0, "leak when allocation %zu fails", fail_at);
        if (result == 0)
            break;
        cr_assert_eq(result, ERR_NO_MEMORY);
    }
    train_data_close(data);
}

static size_t taken_bytes;

static void *adding_alloc(void *user, size_t size)
{
    (void)user;
    taken_bytes += size;
    return heap.alloc(heap.user, size);
}

Test(trainer, announces_its_bytes_exactly)
{
    struct allocator adding = {.alloc = adding_alloc, .release = heap.release};
    for (uint32_t threads = 1; threads <= 8; threads += 7) {
        struct trainer_options options = small();
        options.threads = threads;
        struct train_data *data = open_text(&options);
        struct trainer trainer;
        taken_bytes = 0;
        cr_assert_eq(trainer_create_builtin(&options, data, &adding, &trainer), 0);
        cr_assert_eq(taken_bytes, trainer_bytes(&options));
        trainer_destroy(&trainer);
        train_data_close(data);
    }
    struct trainer_options huge = small();
    huge.model = (struct train_model_config){.width = 4096, .layers = 48, .heads = 32, .context = 4096};
    huge.batch = huge.micro = TRAIN_BATCH_MAX;
    huge.threads = 64;
    cr_assert_gt(trainer_bytes(&huge), (size_t)1 << 40);
}

Test(trainer, bad_options_are_refused_by_name)
{
    static const char *const names[] = {"threads is 0", "threads is 65",   "batch is 0",
                                        "micro is 0",   "accumulate is 0", "learning rate is nan",
                                        "warm-up is 1", "beta1 is 1",      "width is 7"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct trainer_options o = small();
        switch (i) {
        case 0:
            o.threads = 0;
            break;
        case 1:
            o.threads = 65;
            break;
        case 2:
            o.batch = 0;
            break;
        case 3:
            o.micro = 0;
            break;
        case 4:
            o.accumulate = 0;
            break;
        case 5:
            o.adamw.rate = NAN;
            break;
        case 6:
            o.adamw.warmup = 1;
            break;
        case 7:
            o.adamw.beta1 = 1;
            break;
        default:
            o.model.width = 7;
        }
        cr_assert_eq(trainer_options_check(&o, why, sizeof why), ERR_INVALID);
        cr_assert(strstr(why, names[i]) != NULL, "\"%s\" does not say \"%s\"", why, names[i]);
    }
}

Test(schedule, rises_then_falls_to_the_floor)
{
    struct train_adamw_config config = train_adamw_config_default();
    config.rate = 1.0F;
    config.warmup = 0.1F;
    config.floor = 0.1F;
    cr_assert_eq(train_lr(&config, 0), 0.0F);
    cr_assert_float_eq(train_lr(&config, 0.05), 0.5F, 1e-6);
    cr_assert_float_eq(train_lr(&config, 0.1), 1.0F, 1e-6);
    cr_assert_float_eq(train_lr(&config, 0.55), 0.55F, 1e-6); /* half way down the cosine */
    cr_assert_float_eq(train_lr(&config, 1), 0.1F, 1e-6);
    cr_assert_float_eq(train_lr(&config, 9), 0.1F, 1e-6);
    cr_assert_eq(train_lr(&config, -1), 0.0F);
    cr_assert_eq(train_lr(&config, (double)NAN), 0.0F);
    config.warmup = 0;
    cr_assert_eq(train_lr(&config, 0), 1.0F);
}

struct meeting {
    size_t seen[8], rounds;
    bool wrong;
};

static void meet(struct train_pool *pool, size_t member, void *user)
{
    struct meeting *m = user;
    m->seen[member] = m->rounds + 1;
    train_pool_barrier(pool);
    bool wrong = false;
    for (size_t i = 0; i < train_pool_threads(pool); i++)
        wrong |= m->seen[i] != m->rounds + 1;
    train_pool_barrier(pool);
    if (member == 0)
        m->wrong |= wrong;
}

Test(pool, nobody_passes_a_barrier_early)
{
    struct allocator system = allocator_system();
    for (size_t threads = 1; threads <= 8; threads++) {
        struct train_pool *pool;
        struct meeting m = {.rounds = 0};
        cr_assert_eq(train_pool_create(threads, &system, &pool), 0);
        for (m.rounds = 0; m.rounds < 200; m.rounds++)
            train_pool_run(pool, meet, &m);
        cr_assert_not(m.wrong);
        train_pool_destroy(pool);
    }
    train_pool_destroy(NULL);
}

struct tiny {
    volatile float a, b;
    float product[3];
};

static void multiply(struct train_pool *pool, size_t member, void *user)
{
    struct tiny *tiny = user;
    (void)pool;
    tiny->product[member] = tiny->a * tiny->b;
}

Test(pool, tiny_numbers_are_zero_for_all_members_where_the_processor_can)
{
    struct allocator system = allocator_system();
    struct tiny tiny = {.a = 1e-20f, .b = 1e-20f};
    for (int flush = 0; flush < 2; flush++) {
        struct train_pool *pool;
        if (flush)
            train_flush_tiny();
        cr_assert_eq(train_pool_create(3, &system, &pool), 0);
        train_pool_run(pool, multiply, &tiny);
        train_pool_destroy(pool);
        for (size_t i = 0; i < 3; i++) {
#ifdef __SSE2__
            cr_expect_eq(tiny.product[i] == 0, flush == 1, "member %zu: %g", i, (double)tiny.product[i]);
#else
            cr_expect_leq(tiny.product[i], 1.1e-40f);
#endif
        }
    }
}
