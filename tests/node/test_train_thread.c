/* Every command to a trainer thread is answered once, in order, whatever becomes of the thread: while it
 * works, after it has failed, and while it ends.  Tried with a real text and with one that is not there. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/train_thread.h"
#include "support/glyphs.h"
#include "train/model.h"

enum { TEXT_BYTES = 64 * 1024, EVENTS_MAX = 64 };

struct seen {
    struct train_thread_event events[EVENTS_MAX];
    size_t count;
};

static char path[64];

static void on_event(void *user, const struct train_thread_event *event)
{
    struct seen *seen = user;
    cr_assert_lt(seen->count, EVENTS_MAX);
    seen->events[seen->count++] = *event;
}

static struct train_thread_config config_of(struct seen *seen, const char *data)
{
    struct train_thread_config config = {.threads = 1, .cpu_pct = 100, .on_event = on_event, .user = seen};
    run_config_default(&config.run);
    config.run.width = 16;
    config.run.layers = 1;
    config.run.heads = 1;
    config.run.context = 16;
    config.run.batch = 2;
    (void)snprintf(config.data, sizeof config.data, "%s", data);
    return config;
}

static size_t floats_of(const struct run_config *run)
{
    struct train_layout layout;
    struct train_model_config model = {
        .width = run->width, .layers = run->layers, .heads = run->heads, .context = run->context};
    train_layout_init(&layout, &model);
    return layout.arena_floats;
}

static void write_text(void)
{
    (void)snprintf(path, sizeof path, "/tmp/dunlin-train-XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    FILE *file = fdopen(fd, "w");
    for (int i = 0; i < TEXT_BYTES / 16; i++)
        (void)fprintf(file, "line %9d.\n", i * 7919 % 100003);
    cr_assert_eq(fclose(file), 0);
}

static const struct train_thread_event *await(uv_loop_t *loop, struct seen *seen, size_t count)
{
    while (seen->count < count)
        (void)uv_run(loop, UV_RUN_ONCE);
    return &seen->events[count - 1];
}

/* Posts one of each but the one that is tried below; their answers are the next five events. */
static void post_all(struct train_thread *thread, float *weights, float *diff, uint8_t *state)
{
    cr_assert_eq(train_thread_snapshot(thread, 1, weights), ERR_OK);
    cr_assert_eq(train_thread_apply_span(thread, 2, (struct train_thread_span){.tensor_count = 1}, diff),
                 ERR_OK);
    cr_assert_eq(train_thread_load(thread, 3, weights, state, 3), ERR_OK);
    cr_assert_eq(train_thread_export(thread, 4), ERR_OK);
    cr_assert_eq(train_thread_evaluate(thread, 5), ERR_OK);
}

static void check_answers(const struct train_thread_event events[5], bool refused, const float *weights,
                          const float *diff, const uint8_t *state)
{
    static const enum train_thread_event_kind kinds[] = {TRAIN_THREAD_SNAPSHOT, TRAIN_THREAD_APPLIED,
                                                         TRAIN_THREAD_LOADED, TRAIN_THREAD_EXPORTED,
                                                         TRAIN_THREAD_EVALUATED};
    for (size_t i = 0; i < 5; i++) {
        cr_assert_eq(events[i].kind, kinds[i]);
        cr_assert_eq(events[i].tag, i + 1);
        cr_assert_eq(events[i].refused, refused);
    }
    cr_assert_eq(events[0].array, weights);
    cr_assert_eq(events[1].array, diff);
    cr_assert_eq(events[2].bytes, state);
    cr_assert_eq(events[2].text[0] != '\0', refused);
    cr_assert_eq(events[3].bytes == NULL, refused);
    cr_assert_eq(isfinite(events[4].loss) != 0, !refused);
    free(events[3].bytes);
}

Test(train_thread, commands_are_answered_in_order_and_after_the_end)
{
    uv_loop_t loop;
    struct seen seen = {.count = 0};
    struct train_thread *thread;
    uint8_t state[3] = {1, 2, 3}; /* no optimizer's state: refused, and the moments start afresh */
    write_text();
    struct train_thread_config config = config_of(&seen, path);
    size_t floats = floats_of(&config.run);
    float *weights = calloc(floats, sizeof *weights);
    float *diff = calloc(floats, sizeof *diff);
    cr_assert(weights != NULL && diff != NULL);
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(train_thread_start(&thread, &loop, &config), ERR_OK);
    cr_assert_eq(await(&loop, &seen, 1)->kind, TRAIN_THREAD_READY, "%s", seen.events[0].text);
    post_all(thread, weights, diff, state);
    (void)await(&loop, &seen, 6);
    check_answers(seen.events + 1, false, weights, diff, state);
    train_thread_set_running(thread, true);
    while (atomic_load(&train_thread_meter(thread)->steps) < 3)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    train_thread_end(thread);
    cr_assert_eq(train_thread_export(thread, 6), ERR_CLOSED);
    cr_assert_eq(await(&loop, &seen, 7)->kind, TRAIN_THREAD_ENDED);
    train_thread_stop(thread);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
    cr_assert_eq(seen.count, 7);
    free(weights);
    free(diff);
    cr_assert_eq(unlink(path), 0);
}

Test(train_thread, a_failed_thread_refuses_and_stays_bounded)
{
    uv_loop_t loop;
    struct seen seen = {.count = 0};
    struct train_thread *thread;
    float weights[1], diff[1]; /* lent only */
    uint8_t state[3];
    struct train_thread_config config = config_of(&seen, "/nonexistent/text");
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(train_thread_start(&thread, &loop, &config), ERR_OK);
    cr_assert_eq(await(&loop, &seen, 1)->kind, TRAIN_THREAD_FAILED);
    cr_assert(strstr(seen.events[0].text, "/nonexistent/text") != NULL, "%s", seen.events[0].text);
    post_all(thread, weights, diff, state);
    (void)await(&loop, &seen, 6);
    check_answers(seen.events + 1, true, weights, diff, state);
    cr_assert_eq(
        train_thread_try_span(thread, 6, (struct train_thread_span){.tensor_count = 1}, diff, weights),
        ERR_OK);
    cr_assert(await(&loop, &seen, 7)->refused && seen.events[6].kind == TRAIN_THREAD_TRIED);
    /* However fast the thread answers, only delivered answers make room. */
    for (int i = 0; i < TRAIN_THREAD_COMMANDS_MAX; i++)
        cr_assert_eq(train_thread_evaluate(thread, 7), ERR_OK);
    cr_assert_eq(train_thread_evaluate(thread, 7), ERR_FULL);
    train_thread_stop(thread); /* delivers all of them */
    cr_assert_eq(seen.count, 7 + TRAIN_THREAD_COMMANDS_MAX + 1);
    cr_assert_eq(seen.events[seen.count - 1].kind, TRAIN_THREAD_ENDED);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

/* A difference is added when the private batch bears it, and only then; either way the answer says what it
 * would do to the loss, and the scratch is given back. */
Test(train_thread, a_difference_is_tried_before_it_is_added)
{
    uv_loop_t loop;
    struct seen seen = {.count = 0};
    struct train_thread *thread;
    write_text();
    struct train_thread_config config = config_of(&seen, path);
    size_t floats = floats_of(&config.run);
    float *weights = calloc(floats, sizeof *weights), *later = calloc(floats, sizeof *later);
    float *diff = calloc(floats, sizeof *diff), *scratch = calloc(floats, sizeof *scratch);
    cr_assert(weights != NULL && later != NULL && diff != NULL && scratch != NULL);
    struct train_thread_span span = {.first_tensor = 1, .tensor_count = 2};
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(train_thread_start(&thread, &loop, &config), ERR_OK);
    cr_assert_eq(await(&loop, &seen, 1)->kind, TRAIN_THREAD_READY, "%s", seen.events[0].text);
    train_thread_set_progress(thread, 0.1); /* the full learning rate */
    train_thread_set_running(thread, true);
    while (atomic_load(&train_thread_meter(thread)->steps) < 200) /* so that there is a loss to spoil */
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    train_thread_set_running(thread, false);
    cr_assert_eq(train_thread_try_span(thread, 1, span, diff, scratch), ERR_OK);
    const struct train_thread_event *event = await(&loop, &seen, 2);
    cr_assert(event->kind == TRAIN_THREAD_TRIED && event->tag == 1 && event->array == diff);
    cr_assert(event->err == ERR_OK && event->trial.before == event->trial.after);
    /* A step may have been under way when the thread was told to rest: it is over by now. */
    cr_assert_eq(train_thread_snapshot(thread, 2, weights), ERR_OK);
    (void)await(&loop, &seen, 3);
    for (size_t i = 0; i < 16; i++)
        diff[i] = i % 2 == 0 ? 40.0F : -40.0F;
    cr_assert_eq(train_thread_try_span(thread, 3, span, diff, scratch), ERR_OK);
    event = await(&loop, &seen, 4);
    cr_assert(event->err == ERR_WORSE && event->trial.after > 1.05 * event->trial.before, "%g to %g",
              event->trial.before, event->trial.after);
    cr_assert_eq(train_thread_snapshot(thread, 4, later), ERR_OK);
    (void)await(&loop, &seen, 5);
    cr_assert_eq(memcmp(weights, later, floats * sizeof *later), 0, "refused: nothing moves");
    for (size_t i = 0; i < 16; i++)
        diff[i] = 1e-6F;
    cr_assert_eq(train_thread_try_span(thread, 5, span, diff, scratch), ERR_OK);
    cr_assert_eq(await(&loop, &seen, 6)->err, ERR_OK);
    cr_assert_eq(train_thread_snapshot(thread, 6, later), ERR_OK);
    (void)await(&loop, &seen, 7);
    cr_assert_neq(memcmp(weights, later, floats * sizeof *later), 0, "accepted: it is there");
    train_thread_end(thread);
    cr_assert_eq(train_thread_try_span(thread, 7, span, diff, scratch), ERR_CLOSED);
    cr_assert_eq(await(&loop, &seen, 8)->kind, TRAIN_THREAD_ENDED);
    train_thread_stop(thread);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
    free(weights);
    free(later);
    free(diff);
    free(scratch);
    cr_assert_eq(unlink(path), 0);
}

/* An MLP goes the same way: its rows are read, it takes steps, and its accuracy comes with the loss. */
Test(train_thread, trains_an_mlp_on_rows)
{
    uv_loop_t loop;
    struct seen seen = {.count = 0};
    struct train_thread *thread;
    static float pixels[500 * GLYPH_PIXELS];
    static uint16_t labels[500];
    write_text(); /* makes the path */
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    glyphs_fill(2, 500, pixels, labels);
    for (size_t r = 0; r < 500; r++) {
        for (size_t i = 0; i < GLYPH_PIXELS; i++)
            (void)fprintf(file, "%g,", (double)pixels[r * GLYPH_PIXELS + i]);
        (void)fprintf(file, "%u\n", labels[r]);
    }
    cr_assert_eq(fclose(file), 0);
    struct train_thread_config config = config_of(&seen, path);
    config.run.width = config.run.layers = config.run.heads = config.run.context = 0;
    config.run.batch = 32;
    config.run.model.kind = TRAIN_MLP;
    config.run.model.input_max = 16;
    cr_assert_eq(run_model_parse_sizes("64,32,10", &config.run.model), ERR_OK);
    cr_assert_gt(train_thread_memory_bytes(&config.run, 1), 64 * 32 * sizeof(float));
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(train_thread_start(&thread, &loop, &config), ERR_OK);
    cr_assert_eq(await(&loop, &seen, 1)->kind, TRAIN_THREAD_READY, "%s", seen.events[0].text);
    cr_assert_eq(seen.events[0].data_bytes, 500 * GLYPH_PIXELS * sizeof(float));
    train_thread_set_progress(thread, 0.1);
    train_thread_set_running(thread, true);
    while (atomic_load(&train_thread_meter(thread)->steps) < 300)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    cr_assert_eq(train_thread_evaluate(thread, 1), ERR_OK);
    const struct train_thread_event *event = await(&loop, &seen, 2);
    cr_assert_eq(event->kind, TRAIN_THREAD_EVALUATED);
    cr_assert(event->accuracy > 0.9 && event->loss < 1, "accuracy %g, loss %g", event->accuracy, event->loss);
    train_thread_end(thread);
    cr_assert_eq(await(&loop, &seen, 3)->kind, TRAIN_THREAD_ENDED);
    train_thread_stop(thread);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
    cr_assert_eq(unlink(path), 0);
}
