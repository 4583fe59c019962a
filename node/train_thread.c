#include "node/train_thread.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "gossip/merge/gate.h"
#include "net/uv/channel.h"
#include "train/pool.h"

enum { NOT_FINITE_MAX = 20, TRAINING_NICE = 5 };

enum command_kind { SNAPSHOT, SNAPSHOT_SPAN, APPLY_SPAN, TRY_SPAN, LOAD, EXPORT, EVALUATE };

struct command {
    enum command_kind kind;
    uint64_t tag;
    struct train_thread_span span; /* of those that say so */
    float *array;
    float *scratch; /* TRY_SPAN */
    uint8_t *bytes;
    size_t len;
};

struct train_thread {
    struct train_thread_config config;
    struct net_uv_inbox *inbox;
    struct net_uv_channel *events;
    pthread_t thread;
    struct train_thread_meter meter;
    _Atomic bool running;
    _Atomic unsigned cpu_pct;
    _Atomic uint64_t progress_bits;
    _Atomic bool stopping;
    size_t unanswered; /* commands; loop thread only */

    /* The thread's own. */
    struct run_trainer own;
    uint64_t next_step_ns; /* keeps to the share of the processor */
    unsigned not_finite;
    struct gossip_history changes; /* of the loss, by differences tried */
    double loss;
};

static uint64_t clock_ns(clockid_t id)
{
    struct timespec now;
    (void)clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static unsigned thread_count(unsigned wanted)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (wanted > 0)
        return wanted;
    return cores < 1 ? 1 : cores > NODE_THREADS_MAX ? NODE_THREADS_MAX : (unsigned)cores;
}

size_t train_thread_memory_bytes(const struct run_config *run, unsigned threads)
{
    char why[TRAIN_WHY_SIZE];
    struct trainer_options options = run_trainer_options(run, thread_count(threads));
    if (trainer_options_check(&options, why, sizeof why) < 0)
        return 0;
    return trainer_bytes(&options);
}

/* The channel cannot be full: it holds more than commands can be unanswered (post). */
static void emit(struct train_thread *t, struct train_thread_event *event)
{
    int result = net_uv_channel_push(t->events, event);
    ASSERT(result == ERR_OK);
}

static void answer(struct train_thread *t, const struct command *command, enum train_thread_event_kind kind)
{
    struct train_thread_event event = {.kind = kind, .tag = command->tag, .array = command->array};
    emit(t, &event);
}

static void export_state(struct train_thread *t, const struct command *command)
{
    struct train_thread_event event = {.kind = TRAIN_THREAD_EXPORTED, .tag = command->tag};
    size_t cap = trainer_state_bytes(&t->own.trainer);
    event.bytes = malloc(cap);
    int len = event.bytes == NULL ? ERR_NO_MEMORY : trainer_state_export(&t->own.trainer, event.bytes, cap);
    if (len < 0) {
        free(event.bytes); /* the checkpoint is written without it */
        event.bytes = NULL;
    } else {
        event.len = (size_t)len;
    }
    emit(t, &event);
}

static void load(struct train_thread *t, const struct command *command)
{
    struct train_thread_event event = {
        .kind = TRAIN_THREAD_LOADED, .tag = command->tag, .array = command->array, .bytes = command->bytes};
    int result = trainer_set_params(&t->own.trainer, command->array);
    if (result < 0)
        (void)snprintf(event.text, sizeof event.text, "weights refused: %s", err_text(result));
    else if (command->bytes == NULL ||
             trainer_state_import(&t->own.trainer, bytes_of(command->bytes, command->len)) < 0)
        trainer_reset_moments(&t->own.trainer);
    emit(t, &event);
}

static void evaluate(struct train_thread *t, const struct command *command)
{
    struct train_thread_event event = {.kind = TRAIN_THREAD_EVALUATED, .tag = command->tag};
    struct trainer_score score = {.loss = (double)NAN, .accuracy = (double)NAN};
    int result = trainer_score(&t->own.trainer, NULL, &score);
    (void)result; /* ERR_NOT_FINITE: NaN it is */
    event.loss = score.loss;
    event.accuracy = score.accuracy;
    emit(t, &event);
}

static void apply(struct train_thread *t, const struct command *command)
{
    if (trainer_apply_span(&t->own.trainer, command->span.first_tensor, command->span.tensor_count,
                           command->array, 1) < 0)
        t->not_finite++; /* the merge is dropped; a state that stays broken ends the thread below */
}

static void try_span(struct train_thread *t, const struct command *command)
{
    struct train_thread_event event = {
        .kind = TRAIN_THREAD_TRIED, .tag = command->tag, .array = command->array};
    trainer_try_span(&t->own.trainer, command->span.first_tensor, command->span.tensor_count, command->array,
                     command->scratch, &event.trial);
    event.err = gossip_loss_gate(&t->changes, event.trial.before, event.trial.after);
    if (event.err == ERR_OK)
        apply(t, command);
    emit(t, &event);
}

static void serve(struct train_thread *t, const struct command *command)
{
    switch (command->kind) {
    case SNAPSHOT:
        trainer_snapshot(&t->own.trainer, command->array);
        answer(t, command, TRAIN_THREAD_SNAPSHOT);
        break;
    case SNAPSHOT_SPAN:
        trainer_snapshot_span(&t->own.trainer, command->span.first_tensor, command->span.tensor_count,
                              command->array);
        answer(t, command, TRAIN_THREAD_SNAPSHOT);
        break;
    case APPLY_SPAN:
        apply(t, command);
        answer(t, command, TRAIN_THREAD_APPLIED);
        break;
    case TRY_SPAN:
        try_span(t, command);
        break;
    case LOAD:
        load(t, command);
        break;
    case EXPORT:
        export_state(t, command);
        break;
    case EVALUATE:
        evaluate(t, command);
        break;
    }
}

static void note_step(struct train_thread *t, const struct trainer_report *report, uint64_t busy_ns)
{
    uint64_t steps = atomic_fetch_add(&t->meter.steps, 1);
    double weight = steps < 50 ? 1.0 / (double)(steps + 1) : 0.02; /* mean over about 50 steps */
    t->loss += weight * (report->loss - t->loss);
    atomic_store(&t->meter.loss_bits, bits_of(t->loss));
    atomic_fetch_add(&t->meter.tokens, report->tokens);
    atomic_fetch_add(&t->meter.busy_ns, busy_ns);
}

/* Charges work to the share of the processor: processor time, not wall time, so that neither a busy machine
 * nor a stopped process is paid for twice. */
static void charge(struct train_thread *t, uint64_t began_ns, uint64_t cpu_ns)
{
    unsigned pct = atomic_load(&t->cpu_pct);
    t->next_step_ns = began_ns + cpu_ns * 100 / (pct == 0 ? 1 : pct);
}

/* One step; false when the weights are beyond repair. */
static bool step(struct train_thread *t)
{
    struct trainer_report report;
    uint64_t began_ns = clock_ns(CLOCK_MONOTONIC);
    uint64_t cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    float rate = train_lr(&t->own.options.adamw, double_of(atomic_load(&t->progress_bits)));
    int result = trainer_step(&t->own.trainer, rate, &report);
    cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
    charge(t, began_ns, cpu_ns);
    if (result == ERR_OK) {
        t->not_finite = 0;
        note_step(t, &report, cpu_ns);
        return true;
    }
    return ++t->not_finite < NOT_FINITE_MAX;
}

static void emit_failure(struct train_thread *t, const char *why)
{
    struct train_thread_event event = {.kind = TRAIN_THREAD_FAILED};
    (void)snprintf(event.text, sizeof event.text, "%s", why);
    emit(t, &event);
}

/* Waits for a command, for as long as no step is due. */
static int next_command(struct train_thread *t, struct command *command)
{
    uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    uint64_t wait_ns = UINT64_MAX;
    if (atomic_load(&t->running))
        wait_ns = t->next_step_ns > now_ns ? t->next_step_ns - now_ns : 0;
    else
        wait_ns = UINT64_C(100000000); /* running and stopping are flags, looked at ten times a second */
    if (wait_ns > UINT64_C(100000000))
        wait_ns = UINT64_C(100000000);
    return net_uv_inbox_pop(t->inbox, command, wait_ns);
}

static void work(struct train_thread *t)
{
    struct command command;
    while (!atomic_load(&t->stopping)) {
        int result = next_command(t, &command);
        if (result == ERR_CLOSED)
            return;
        if (result == ERR_OK) {
            uint64_t began_ns = clock_ns(CLOCK_MONOTONIC);
            uint64_t cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
            serve(t, &command);
            if (command.kind == SNAPSHOT_SPAN || command.kind == APPLY_SPAN || command.kind == TRY_SPAN)
                atomic_fetch_add(&t->meter.held_ns, clock_ns(CLOCK_MONOTONIC) - began_ns);
            if (command.kind == EVALUATE || command.kind == TRY_SPAN)
                charge(t, began_ns, clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns);
            continue;
        }
        if (!atomic_load(&t->running) || clock_ns(CLOCK_MONOTONIC) < t->next_step_ns)
            continue;
        if (!step(t)) {
            emit_failure(t, "the loss is not a finite number any more: lower lr, or leave and join again to "
                            "fetch a peer's weights");
            return;
        }
    }
}

/* After a failure or at the end: whoever lent something gets it back, whoever waits gets an answer. */
static void refuse_rest(struct train_thread *t)
{
    static const enum train_thread_event_kind answers[] = {
        [SNAPSHOT] = TRAIN_THREAD_SNAPSHOT,  [SNAPSHOT_SPAN] = TRAIN_THREAD_SNAPSHOT,
        [APPLY_SPAN] = TRAIN_THREAD_APPLIED, [TRY_SPAN] = TRAIN_THREAD_TRIED,
        [LOAD] = TRAIN_THREAD_LOADED,        [EXPORT] = TRAIN_THREAD_EXPORTED,
        [EVALUATE] = TRAIN_THREAD_EVALUATED};
    struct command command;
    while (net_uv_inbox_pop(t->inbox, &command, UINT64_MAX) == ERR_OK) {
        struct train_thread_event event = {.kind = answers[command.kind],
                                           .tag = command.tag,
                                           .array = command.array,
                                           .bytes = command.bytes,
                                           .loss = (double)NAN,
                                           .accuracy = (double)NAN,
                                           .refused = true};
        (void)snprintf(event.text, sizeof event.text, "the trainer has ended");
        emit(t, &event);
    }
}

static void *thread_main(void *arg)
{
    struct train_thread *t = arg;
    char why[TRAIN_WHY_SIZE] = "";
    /* Its threads inherit this: training yields to the loop, whose answers partners wait for, and to whatever
     * else the machine's owner is doing.  Where it is refused, training merely does not yield. */
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), TRAINING_NICE);
    train_flush_tiny();
    int result = run_trainer_open(&t->own, &t->config.run, t->config.data, &t->config.node, t->config.secret,
                                  thread_count(t->config.threads), why);
    if (result < 0) {
        emit_failure(t, why[0] != '\0' ? why : err_text(result));
    } else {
        struct train_thread_event ready = {.kind = TRAIN_THREAD_READY, .data_bytes = t->own.data_bytes};
        emit(t, &ready);
        work(t);
        run_trainer_close(&t->own);
    }
    refuse_rest(t);
    struct train_thread_event ended = {.kind = TRAIN_THREAD_ENDED};
    emit(t, &ended);
    return NULL;
}

static void on_event(void *user, void *message)
{
    struct train_thread *t = user;
    const struct train_thread_event *event = message;
    if (event->kind != TRAIN_THREAD_READY && event->kind != TRAIN_THREAD_FAILED &&
        event->kind != TRAIN_THREAD_ENDED)
        t->unanswered--;
    t->config.on_event(t->config.user, event);
}

int train_thread_start(struct train_thread **out, uv_loop_t *loop, const struct train_thread_config *config)
{
    struct train_thread *t = calloc(1, sizeof *t);
    if (t == NULL)
        return ERR_NO_MEMORY;
    t->config = *config;
    atomic_store(&t->cpu_pct, config->cpu_pct);
    int result = net_uv_inbox_create(&t->inbox, sizeof(struct command), TRAIN_THREAD_COMMANDS_MAX);
    if (result < 0)
        goto free_thread;
    result = net_uv_channel_open(&t->events, loop, sizeof(struct train_thread_event),
                                 4 * TRAIN_THREAD_COMMANDS_MAX, on_event, t);
    if (result < 0)
        goto destroy_inbox;
    result = ERR_IO;
    if (pthread_create(&t->thread, NULL, thread_main, t) != 0)
        goto close_channel;
    *out = t;
    return ERR_OK;

close_channel:
    net_uv_channel_close(t->events);
destroy_inbox:
    net_uv_inbox_destroy(t->inbox);
free_thread:
    free(t);
    return result;
}

void train_thread_end(struct train_thread *t)
{
    atomic_store(&t->stopping, true);
    net_uv_inbox_close(t->inbox);
}

void train_thread_stop(struct train_thread *t)
{
    train_thread_end(t);
    (void)pthread_join(t->thread, NULL);
    net_uv_channel_close(t->events);
    net_uv_inbox_destroy(t->inbox);
    free(t);
}

static int post(struct train_thread *t, const struct command *command)
{
    if (t->unanswered == TRAIN_THREAD_COMMANDS_MAX)
        return ERR_FULL;
    int result = net_uv_inbox_push(t->inbox, command);
    if (result == ERR_OK)
        t->unanswered++;
    return result;
}

int train_thread_snapshot(struct train_thread *t, uint64_t tag, float *array)
{
    return post(t, &(struct command){.kind = SNAPSHOT, .tag = tag, .array = array});
}

int train_thread_snapshot_span(struct train_thread *t, uint64_t tag, struct train_thread_span span,
                               float *array)
{
    return post(t, &(struct command){.kind = SNAPSHOT_SPAN, .tag = tag, .span = span, .array = array});
}

int train_thread_apply_span(struct train_thread *t, uint64_t tag, struct train_thread_span span, float *diff)
{
    return post(t, &(struct command){.kind = APPLY_SPAN, .tag = tag, .span = span, .array = diff});
}

int train_thread_try_span(struct train_thread *t, uint64_t tag, struct train_thread_span span, float *diff,
                          float *scratch)
{
    return post(
        t, &(struct command){.kind = TRY_SPAN, .tag = tag, .span = span, .array = diff, .scratch = scratch});
}

int train_thread_load(struct train_thread *t, uint64_t tag, float *params, uint8_t *bytes, size_t len)
{
    return post(t, &(struct command){.kind = LOAD, .tag = tag, .array = params, .bytes = bytes, .len = len});
}

int train_thread_export(struct train_thread *t, uint64_t tag)
{
    return post(t, &(struct command){.kind = EXPORT, .tag = tag});
}

int train_thread_evaluate(struct train_thread *t, uint64_t tag)
{
    return post(t, &(struct command){.kind = EVALUATE, .tag = tag});
}

void train_thread_set_running(struct train_thread *t, bool running)
{
    atomic_store(&t->running, running);
}

void train_thread_set_cpu(struct train_thread *t, unsigned cpu_pct)
{
    atomic_store(&t->cpu_pct, cpu_pct);
}

void train_thread_set_progress(struct train_thread *t, double progress)
{
    atomic_store(&t->progress_bits, bits_of(progress));
}

const struct train_thread_meter *train_thread_meter(const struct train_thread *t)
{
    return &t->meter;
}
