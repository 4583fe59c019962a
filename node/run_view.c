/* Registers in and out: who the other members are, what we tell them, what people are told. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gossip/codec.h"
#include "node/run_internal.h"

enum { MEMBER_LIFE_S = 300, MEMBER_REFRESH_S = 30, PROGRESS_LIFE_S = 900, PROGRESS_REFRESH_S = 300 };

uint64_t run_tokens(const struct run *run)
{
    uint64_t tokens = run->tokens_before;
    if (run->trainer != NULL)
        tokens += atomic_load(&train_thread_meter(run->trainer)->tokens);
    return tokens;
}

uint64_t run_steps(const struct run *run)
{
    uint64_t steps = run->steps_before;
    if (run->trainer != NULL)
        steps += atomic_load(&train_thread_meter(run->trainer)->steps);
    return steps;
}

static double train_loss(const struct run *run)
{
    double loss;
    if (run->trainer == NULL || atomic_load(&train_thread_meter(run->trainer)->steps) == 0)
        return (double)NAN;
    uint64_t bits = atomic_load(&train_thread_meter(run->trainer)->loss_bits);
    memcpy(&loss, &bits, sizeof loss);
    return loss;
}

static uint64_t merges(const struct run *run)
{
    uint64_t count = run->merges_before;
    if (run->gossip != NULL)
        count += gossip_counters(run->gossip)->merges - gossip_counters(run->gossip)->refused;
    return count;
}

/* Rounds in which a partner was expected and no merge came about. */
static uint64_t skipped(const struct run *run)
{
    uint64_t count = run->skipped_before;
    if (run->gossip == NULL)
        return count;
    const struct gossip_counters *counters = gossip_counters(run->gossip);
    for (size_t reason = GOSSIP_SOLO_DEADLINE; reason < GOSSIP_SOLO_COUNT; reason++)
        count += counters->solo[reason];
    return count + counters->refused;
}

/* The member's progress register, if it has one. */
static bool progress_of(const struct run *run, const struct id *author, struct gossip_progress *out)
{
    struct crdt_key key = {.run = run->id, .author = *author, .slot = CRDT_SLOT_PROGRESS};
    struct crdt_view view;
    return crdt_replica_get(run->node->replica, &key, &view) &&
           gossip_progress_decode(view.record.value, out) == ERR_OK;
}

/* How a member stands at the end of the run. */
struct standing {
    enum gossip_ending ending; /* DONE only of a round in which one can be */
    bool contributes;
    double spread; /* NaN: not told */
};

static struct standing standing_of(const struct run *run, const struct gossip_member *member,
                                   const struct gossip_progress *progress)
{
    struct standing standing = {.contributes = run_contributes(run, member->joined_round),
                                .spread = (double)NAN};
    if (progress != NULL && progress->round >= run_last_round(run)) {
        standing.ending = progress->ending;
        standing.spread = progress->spread;
    }
    return standing;
}

/* Folds all MEMBER registers of the run; returns how many, at most cap. */
static size_t fold(const struct run *run, struct gossip_member_state states[], struct standing standings[],
                   size_t cap)
{
    struct crdt_view view;
    uint32_t cursor = 0;
    size_t count = 0;
    while (count < cap && crdt_replica_next(run->node->replica, &run->id, CRDT_SLOT_MEMBER, &cursor, &view)) {
        struct gossip_member member;
        struct gossip_progress progress;
        if (gossip_member_decode(view.record.value, &member) < 0)
            continue;
        states[count] = (struct gossip_member_state){.id = view.record.key.author,
                                                     .joined_round = member.joined_round,
                                                     .progress_round = member.joined_round,
                                                     .expires_ms = view.record.expires_ms,
                                                     .speed = member.speed,
                                                     .speed_before = member.speed_before,
                                                     .speed_round = member.speed_round};
        bool told = progress_of(run, &view.record.key.author, &progress);
        if (told)
            states[count].progress_round = progress.round;
        standings[count] = standing_of(run, &member, told ? &progress : NULL);
        count++;
    }
    return count;
}

void run_view_now(struct run *run, uint64_t round, struct gossip_view *view)
{
    static const size_t cap = 2 * GOSSIP_MEMBERS_MAX;
    struct gossip_member_state states[2 * GOSSIP_MEMBERS_MAX];
    struct standing standings[2 * GOSSIP_MEMBERS_MAX];
    size_t folded = fold(run, states, standings, cap);
    size_t count = 0;
    bool final = round > run_last_round(run);
    for (size_t i = 0; i < folded; i++) {
        if (final && (!standings[i].contributes || standings[i].ending == GOSSIP_ENDING_DONE))
            continue; /* takes no part in the merging at the end */
        states[count] = states[i];
        if (id_equal(&states[count].id, &run->node->identity.id))
            states[count].progress_round = round; /* our own register says the round before */
        count++;
    }
    gossip_view_build(view, round, node_wall_ms(), states, count);
}

static bool are_near(uint64_t a, uint64_t b)
{
    return a + GOSSIP_ROUND_LAG_MAX >= b && b + GOSSIP_ROUND_LAG_MAX >= a;
}

/* The furthest round that a second of the others, or we, are near; when there is none, the furthest. */
static uint64_t believed_round(const struct run *run, const struct gossip_member_state others[], size_t count)
{
    uint64_t furthest = 0;
    uint64_t believed = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t round = others[i].progress_round;
        bool seconded = run->round > 0 && are_near(run->round, round);
        for (size_t k = 0; k < count && !seconded; k++)
            seconded = k != i && are_near(others[k].progress_round, round);
        furthest = round > furthest ? round : furthest;
        believed = seconded && round > believed ? round : believed;
    }
    return believed > 0 ? believed : furthest;
}

/* Furthest first; equal ones in an order of the ids. */
static int by_progress(const void *a, const void *b)
{
    const struct gossip_member_state *x = a;
    const struct gossip_member_state *y = b;
    if (x->progress_round != y->progress_round)
        return x->progress_round > y->progress_round ? -1 : 1;
    return memcmp(x->id.bytes, y->id.bytes, ID_BYTES);
}

/* The other live members, with what their registers say of the end; *live counts ourselves too. */
static size_t others_of(const struct run *run, struct gossip_member_state others[],
                        struct standing standings[], size_t *live)
{
    uint64_t now_ms = node_wall_ms();
    size_t folded = fold(run, others, standings, RUN_OTHERS_MAX);
    size_t count = 0;
    *live = 0;
    for (size_t i = 0; i < folded; i++) {
        if (others[i].expires_ms <= now_ms)
            continue;
        ++*live;
        if (id_equal(&others[i].id, &run->node->identity.id))
            continue;
        others[count] = others[i];
        standings[count++] = standings[i];
    }
    return count;
}

size_t run_others_now(const struct run *run, struct gossip_member_state others[RUN_OTHERS_MAX],
                      uint64_t *round_max, size_t *live)
{
    struct standing standings[RUN_OTHERS_MAX];
    size_t count = others_of(run, others, standings, live);
    *round_max = believed_round(run, others, count);
    return count;
}

/* Still takes turns, as far as its registers tell. */
static bool is_heard(const struct run *run, const struct gossip_member_state *state)
{
    return state->progress_round >= run->round || run->round - state->progress_round <= GOSSIP_LIVE_ROUNDS;
}

/* The others that are merged at the end of the run, and what they say of it. */
static void count_finish(const struct run *run, const struct gossip_member_state others[],
                         const struct standing standings[], size_t count, struct run_swarm *out)
{
    out->spread = (double)NAN;
    for (size_t i = 0; i < count; i++) {
        const struct standing *one = &standings[i];
        bool done = one->ending == GOSSIP_ENDING_DONE;
        if (!one->contributes || (!done && !is_heard(run, &others[i])))
            continue;
        out->finish.count++;
        out->finish.done += done;
        out->finish.settled += done || one->ending == GOSSIP_ENDING_SETTLED;
        if (!(one->spread <= out->spread))
            out->spread = isnan(one->spread) ? out->spread : one->spread;
    }
}

void run_swarm_now(struct run *run, struct run_swarm *out)
{
    struct gossip_member_state states[RUN_OTHERS_MAX];
    struct standing standings[RUN_OTHERS_MAX];
    size_t donors = 0;
    memset(out, 0, sizeof *out);
    size_t others = others_of(run, states, standings, &out->members);
    out->round_max = believed_round(run, states, others);
    count_finish(run, states, standings, others, out);
    out->donor_done = gossip_finish_believed(out->finish.done, out->finish.count);
    for (size_t i = 0; i < others; i++) { /* those near the believed round, and not beyond it */
        bool near = states[i].progress_round <= out->round_max &&
                    states[i].progress_round + GOSSIP_ROUND_LAG_MAX >= out->round_max;
        bool done = standings[i].contributes && standings[i].ending == GOSSIP_ENDING_DONE;
        if (out->donor_done ? done : near)
            states[donors++] = states[i];
    }
    out->has_donor = donors > 0;
    if (donors == 0)
        return;
    qsort(states, donors, sizeof states[0], by_progress);
    out->donor = states[run->fetch_tries % donors].id;
}

static void put(struct run *run, uint16_t slot, const uint8_t *value, int len, unsigned life_s)
{
    if (len < 0)
        return;
    int result = crdt_replica_put(run->node->replica, node_wall_ms(), &run->id, slot, 1,
                                  bytes_of(value, (size_t)len), (uint64_t)life_s * 1000);
    if (result < 0)
        node_info(run->node, TRACE_LEVEL_WARN, "run %s: own record could not be written: %s", run->name,
                  err_text(result));
}

/* How fast this node is, as far as it is known: steps of its trainer, bytes of its exchanges. */
static void measure_speed(struct run *run, struct gossip_member *member, uint64_t now_ns)
{
    const struct gossip_counters *counters = run->gossip == NULL ? NULL : gossip_counters(run->gossip);
    uint64_t steps = run_steps(run);
    double seconds = (double)(now_ns - run->member_put_ns) / 1e9;
    if (counters != NULL && counters->swap_ns > 0 && run->member_put_ns != 0 && seconds > 1) {
        double bytes = (double)(counters->bytes_sent + counters->bytes_received);
        (void)gossip_member_measure(member, run->round, bytes * 1e9 / (double)counters->swap_ns,
                                    (double)(steps - run->member_steps) / seconds);
    }
    run->member_steps = steps;
}

void run_put_member(struct run *run, uint64_t now_ns)
{
    uint8_t value[GOSSIP_MEMBER_VALUE_MAX];
    struct gossip_member member = {.joined_round = run->joined_round,
                                   .codecs = (1u << GOSSIP_CODEC_COUNT) - 1,
                                   .speed = run->member.speed,
                                   .speed_before = run->member.speed_before,
                                   .speed_round = run->member.speed_round};
    struct node *node = run->node;
    measure_speed(run, &member, now_ns);
    run->member = member;
    for (size_t i = 0; i < node->own_addr_count && i < GOSSIP_MEMBER_ADDRS_MAX; i++)
        member.addrs[member.addr_count++] = node->own_addrs[i];
    run->member_put_ns = now_ns;
    if (!run->isolated)
        put(run, CRDT_SLOT_MEMBER, value, gossip_member_encode(&member, value, sizeof value), MEMBER_LIFE_S);
}

void run_put_progress(struct run *run)
{
    uint8_t value[GOSSIP_PROGRESS_VALUE_MAX];
    struct gossip_progress progress = {
        .round = run->round,
        .tokens = run_tokens(run),
        .train_loss = train_loss(run),
        .val_loss = run->val_loss,
        .merges = merges(run),
        .skipped = skipped(run),
        .phi = run->state_digest,
        .chain = run->chain.count,
    };
    run_ending_told(run, &progress.ending, &progress.spread);
    run->progress_put_ns = node_now_ns();
    put(run, CRDT_SLOT_PROGRESS, value, gossip_progress_encode(&progress, value, sizeof value),
        PROGRESS_LIFE_S);
}

static void reply_loss(struct reply *r, const char *key, double loss)
{
    if (isfinite(loss))
        reply_float(r, key, loss);
    else
        reply_nil(r, key);
}

/* The core counts with `refused` what the loss test refused as well. */
static void reply_solo(struct reply *r, const struct gossip_counters *counters, uint64_t failed_trials)
{
    static const char *const names[GOSSIP_SOLO_COUNT] = {
        [GOSSIP_SOLO_UNPAIRED] = "unpaired",
        [GOSSIP_SOLO_DEADLINE] = "deadline",
        [GOSSIP_SOLO_UNREACHABLE] = "unreachable",
        [GOSSIP_SOLO_BROKEN] = "broken",
        [GOSSIP_SOLO_BUSY] = "busy",
        [GOSSIP_SOLO_MALFORMED] = "malformed",
        [GOSSIP_SOLO_UNCONFIRMED] = "unconfirmed",
        [GOSSIP_SOLO_SUPERSEDED] = "superseded",
        [GOSSIP_SOLO_NO_BUFFER] = "no-buffer",
        [GOSSIP_SOLO_PAUSED] = "paused",
        [GOSSIP_SOLO_FAR] = "far",
        [GOSSIP_SOLO_HERE] = "here",
    };
    reply_map(r, "skipped_by");
    for (size_t reason = 1; counters != NULL && reason < GOSSIP_SOLO_COUNT; reason++) {
        if (counters->solo[reason] > 0)
            reply_uint(r, names[reason], counters->solo[reason]);
    }
    if (counters != NULL && counters->refused > failed_trials)
        reply_uint(r, "gate", counters->refused - failed_trials);
    if (failed_trials > 0)
        reply_uint(r, "loss", failed_trials);
    reply_end(r);
}

/* Where the trainer's time goes, in seconds since it began. */
static void reply_trainer(struct reply *r, const struct run *run)
{
    const struct train_thread_meter *meter = run->trainer == NULL ? NULL : train_thread_meter(run->trainer);
    reply_float(r, "steps_s", meter == NULL ? 0 : (double)atomic_load(&meter->busy_ns) / 1e9);
    reply_float(r, "held_s", meter == NULL ? 0 : (double)atomic_load(&meter->held_ns) / 1e9);
}

/* Mean over this process's exchanges. */
static double exchange_s(const struct gossip_counters *counters)
{
    if (counters == NULL || counters->merges == 0)
        return (double)NAN;
    return (double)counters->swap_ns / 1e9 / (double)counters->merges;
}

const char *run_stage_name(const struct run *run)
{
    if (run->stage == RUN_FAILED)
        return "error";
    if (run->leaving)
        return "left";
    if (run->stage == RUN_FINISHED)
        return "finished";
    if (run->paused)
        return "paused";
    if (run->stage == RUN_FINISHING || (run->stage == RUN_FETCHING && run->ending.begun))
        return "finishing";
    return run->stage >= RUN_TRAINING ? "training" : "fetching";
}

void run_reply(struct run *run, struct reply *r)
{
    struct run_swarm swarm = {0};
    const struct gossip_counters *counters = run->gossip == NULL ? NULL : gossip_counters(run->gossip);
    if (run->has_chain)
        run_swarm_now(run, &swarm);
    reply_id(r, "id", &run->id);
    reply_str(r, "name", run->name);
    reply_str(r, "state", run_stage_name(run));
    if (run->stage == RUN_FAILED)
        reply_str(r, "error", run->error);
    else
        reply_nil(r, "error");
    reply_uint(r, "round", run->round);
    reply_uint(r, "rounds_total", run->has_chain ? run_last_round(run) : run->config.rounds);
    const struct run_turn *turn = &run->turns[run->round % GOSSIP_LANES];
    if (id_is_zero(&turn->partner))
        reply_nil(r, "partner");
    else
        reply_id(r, "partner", &turn->partner);
    reply_uint(r, "members", swarm.members);
    reply_uint(r, "tokens", run_tokens(run));
    reply_float(r, "tokens_s", run->tokens_s);
    reply_trainer(r, run);
    reply_loss(r, "train_loss", train_loss(run));
    reply_loss(r, "val_loss", run->val_loss);
    reply_loss(r, "val_loss_start", run->val_loss_start);
    if (run->config.model.kind == TRAIN_MLP)
        reply_loss(r, "val_accuracy", run->val_accuracy);
    reply_uint(r, "merges", merges(run));
    reply_uint(r, "skipped", skipped(run));
    reply_solo(r, counters, run->failed_trials);
    reply_uint(r, "bytes_sent", counters == NULL ? 0 : counters->bytes_sent);
    reply_uint(r, "bytes_received", counters == NULL ? 0 : counters->bytes_received);
    reply_loss(r, "exchange_s", exchange_s(counters));
    reply_loss(r, "replica_distance", run->report.distance > 0 ? run->report.relative : (double)NAN);
    run_reply_finish(run, &swarm, r);
    reply_uint(r, "params", run->layout.parameter_count);
    reply_uint(r, "memory_bytes", run_memory_bytes(&run->config, run->node->config.threads));
    reply_uint(r, "round_ms", run->config.round_ms);
    reply_uint(r, "cpu_pct", run->node->limits.cpu_pct);
    reply_uint(r, "data_bytes", run->data_bytes);
    reply_str(r, "data", run->data);
    reply_bool(r, "isolated", run->isolated);
    if (run->own_init)
        reply_uint(r, "init_seed", run->init_seed);
}

void run_view_tick(struct run *run, uint64_t now_ns)
{
    if (run->stage < RUN_TRAINING || run->stage > RUN_FINISHED)
        return;
    if (now_ns >= run->member_put_ns + MEMBER_REFRESH_S * NODE_SECOND_NS)
        run_put_member(run, now_ns);
    /* Rounds may be longer than its life, and a finished run has no more of them. */
    if (now_ns >= run->progress_put_ns + PROGRESS_REFRESH_S * NODE_SECOND_NS)
        run_put_progress(run);
}

void run_reply_members(struct run *run, struct reply *r)
{
    struct crdt_view view;
    uint32_t cursor = 0;
    uint64_t now_ms = node_wall_ms();
    reply_array(r, "members_list");
    while (crdt_replica_next(run->node->replica, &run->id, CRDT_SLOT_PROGRESS, &cursor, &view)) {
        struct gossip_progress progress;
        if (gossip_progress_decode(view.record.value, &progress) < 0)
            continue;
        reply_map(r, NULL);
        reply_id(r, "id", &view.record.key.author);
        reply_uint(r, "round", progress.round);
        reply_uint(r, "tokens", progress.tokens);
        reply_loss(r, "train_loss", progress.train_loss);
        reply_loss(r, "val_loss", progress.val_loss);
        reply_uint(r, "merges", progress.merges);
        reply_uint(r, "skipped", progress.skipped);
        reply_float(r, "age_s",
                    now_ms > view.record.issued_ms ? (double)(now_ms - view.record.issued_ms) / 1e3 : 0);
        reply_bool(r, "self", id_equal(&view.record.key.author, &run->node->identity.id));
        reply_end(r);
    }
    reply_end(r);
}

void run_reply_config(struct run *run, struct reply *r)
{
    const struct run_config *c = &run->config;
    reply_map(r, "config");
    reply_str(r, "model", train_model_kind_name(c->model.kind));
    if (c->model.kind == TRAIN_MLP) {
        struct train_model_config model = run_model_config(c);
        char shape[TRAIN_SHAPE_SIZE];
        train_model_shape(&model, shape, sizeof shape);
        for (char *at = shape; *at != '\0'; at++)
            *at = *at == '-' ? ',' : *at;
        reply_str(r, "sizes", shape);
        reply_float(r, "input_max", c->model.input_max);
        reply_str(r, "label", c->model.label);
    } else {
        reply_uint(r, "width", c->width);
        reply_uint(r, "layers", c->layers);
        reply_uint(r, "heads", c->heads);
        reply_uint(r, "context", c->context);
    }
    reply_uint(r, "batch", c->batch);
    reply_uint(r, "round_ms", c->round_ms);
    reply_uint(r, "rounds", c->rounds);
    reply_str(r, "codec",
              c->codec == RUN_CODEC_AUTO ? "auto" : gossip_codec_name((enum gossip_codec)c->codec));
    reply_uint(r, "fragments", c->fragments);
    reply_bool(r, "strangers", c->strangers);
    reply_bool(r, "loss_test", c->loss_test);
    reply_float(r, "lr", c->lr);
    reply_float(r, "alpha", c->alpha);
    reply_float(r, "beta", c->beta);
    reply_float(r, "gamma", c->gamma);
    reply_end(r);
}
