#include "node/run_config.h"

#include <math.h>
#include <string.h>

#include "base/pack.h"
#include "gossip/merge/outer.h"
#include "gossip/tensor.h"

/* Keys on the wire; never reused for another meaning. */
enum {
    KEY_VERSION = 0,
    KEY_WIDTH,
    KEY_LAYERS,
    KEY_HEADS,
    KEY_CONTEXT,
    KEY_BATCH,
    KEY_ROUND_MS,
    KEY_ROUNDS,
    KEY_CODEC,
    KEY_LR,
    KEY_ALPHA,
    KEY_BETA,
    KEY_GAMMA,
    KEY_SEED,
    KEY_COUNT,
    KEY_FRAGMENTS = KEY_COUNT, /* missing: 1 */
    KEY_STRANGERS,             /* missing: false */
    KEY_LOSS_TEST,             /* missing: false */
    KEY_END
};

void run_config_default(struct run_config *config)
{
    *config = (struct run_config){
        .width = 128,
        .layers = 3,
        .heads = 4,
        .context = 128,
        .batch = 8,
        .round_ms = 2000,
        .fragments = GOSSIP_FRAGMENTS_DEFAULT,
        .rounds = 10000,
        .codec = RUN_CODEC_AUTO,
        .lr = 2e-3,
        .alpha = 0.5,
        .beta = 0.7,
        .gamma = 0.7,
    };
}

int run_config_check(const struct run_config *c, const char **why)
{
    bool mlp = c->model.kind != TRAIN_TRANSFORMER; /* run_model_check is about it */
    const struct {
        bool fine;
        const char *text;
    } rules[] = {
        {mlp || (c->width >= 16 && c->width <= 4096 && c->width % 8 == 0),
         "width must be 16 to 4096, a multiple of 8"},
        {mlp || (c->layers >= 1 && c->layers <= 64), "layers must be 1 to 64"},
        {mlp || (c->heads >= 1 && c->heads <= 64 && c->width % (c->heads == 0 ? 1 : c->heads) == 0),
         "heads must be 1 to 64 and divide width"},
        {mlp || (c->context >= 16 && c->context <= 4096), "context must be 16 to 4096"},
        {c->batch >= 1 && c->batch <= 1024, "batch must be 1 to 1024 examples"},
        {c->round_ms >= 200 && c->round_ms <= 3600000, "round_ms must be 200 to 3600000"},
        {c->rounds >= 1 && c->rounds <= 100000000, "rounds must be 1 to 100000000"},
        {c->fragments >= 1 && c->fragments <= GOSSIP_FRAGMENTS_MAX, "fragments must be 1 to 8"},
        {c->codec < GOSSIP_CODEC_COUNT || c->codec == RUN_CODEC_AUTO,
         "codec must be auto, fp32, bf16, int8, mod4, mod3 or mod2"},
        {isfinite(c->lr) && c->lr > 0 && c->lr <= 0.1, "lr must be above 0 and at most 0.1"},
        {isfinite(c->alpha) && c->alpha >= 0 && c->alpha <= 0.6,
         "alpha must be 0 to 0.6 (pairs are unstable above)"},
        {isfinite(c->beta) && c->beta > 0 && c->beta <= 1, "beta must be above 0 and at most 1"},
        {!(c->strangers && c->loss_test), "strangers and loss_test exclude each other: weights that started "
                                          "elsewhere raise the loss at first"},
        {isfinite(c->gamma) && c->gamma > 0 && c->gamma <= 1.4, "gamma must be above 0 and at most 1.4"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (!rules[i].fine) {
            *why = rules[i].text;
            return ERR_INVALID;
        }
    }
    struct gossip_outer outer = {.alpha = (float)c->alpha, .beta = (float)c->beta, .gamma = (float)c->gamma};
    int result = gossip_outer_check(&outer, why);
    return result < 0 ? result : run_model_check(c, why);
}

int run_config_encode(const struct run_config *config, uint8_t *out, size_t cap)
{
    struct pack_writer w = pack_writer_of(out, cap);
    size_t more = run_model_pairs(&config->model);
    pack_map(&w, KEY_COUNT + 1 + (config->strangers ? 1u : 0u) + (config->loss_test ? 1u : 0u) + more);
    pack_key_uint(&w, KEY_VERSION, RUN_CONFIG_VERSION);
    pack_key_uint(&w, KEY_WIDTH, config->width);
    pack_key_uint(&w, KEY_LAYERS, config->layers);
    pack_key_uint(&w, KEY_HEADS, config->heads);
    pack_key_uint(&w, KEY_CONTEXT, config->context);
    pack_key_uint(&w, KEY_BATCH, config->batch);
    pack_key_uint(&w, KEY_ROUND_MS, config->round_ms);
    pack_key_uint(&w, KEY_ROUNDS, config->rounds);
    pack_key_uint(&w, KEY_CODEC, config->codec);
    pack_key_float(&w, KEY_LR, config->lr);
    pack_key_float(&w, KEY_ALPHA, config->alpha);
    pack_key_float(&w, KEY_BETA, config->beta);
    pack_key_float(&w, KEY_GAMMA, config->gamma);
    pack_key_bin(&w, KEY_SEED, bytes_of(config->seed, RUN_SEED_BYTES));
    pack_key_uint(&w, KEY_FRAGMENTS, config->fragments);
    if (config->strangers)
        pack_key_bool(&w, KEY_STRANGERS, true);
    if (config->loss_test)
        pack_key_bool(&w, KEY_LOSS_TEST, true);
    run_model_encode(&config->model, &w);
    size_t len = pack_writer_len(&w);
    return len == 0 ? ERR_TOO_LARGE : (int)len;
}

static const uint32_t optional_keys =
    UINT32_C(1) << KEY_FRAGMENTS | UINT32_C(1) << KEY_STRANGERS | UINT32_C(1) << KEY_LOSS_TEST;

/* Where an unsigned value goes; NULL: the key stands for something else. */
static uint32_t *uint_field(struct run_config *c, unsigned key)
{
    uint32_t *const fields[] = {
        [KEY_WIDTH] = &c->width,     [KEY_LAYERS] = &c->layers, [KEY_HEADS] = &c->heads,
        [KEY_CONTEXT] = &c->context, [KEY_BATCH] = &c->batch,   [KEY_ROUND_MS] = &c->round_ms,
        [KEY_ROUNDS] = &c->rounds,   [KEY_CODEC] = &c->codec,   [KEY_FRAGMENTS] = &c->fragments,
    };
    return key < sizeof fields / sizeof fields[0] ? fields[key] : NULL;
}

int run_config_decode(struct bytes in, struct run_config *config)
{
    struct pack_token tokens[4 * KEY_END + RUN_MODEL_TOKENS];
    struct run_config c;
    uint32_t seen = 0;
    uint64_t version = 0;
    memset(&c, 0, sizeof c);
    c.fragments = 1;
    if (in.len > RUN_CONFIG_BYTES_MAX)
        return ERR_MALFORMED;
    struct pack_reader r = pack_parse(in, tokens, sizeof tokens / sizeof tokens[0]);
    for (size_t left = pack_read_map(&r, 2 * KEY_COUNT); left > 0; left--) {
        unsigned key = pack_read_key(&r, &seen);
        if (run_model_decode(&c.model, key, &r))
            continue;
        uint32_t *field = uint_field(&c, key);
        if (field != NULL) {
            *field = (uint32_t)pack_read_uint(&r, UINT32_MAX);
            continue;
        }
        switch (key) {
        case KEY_VERSION:
            version = pack_read_uint(&r, UINT32_MAX);
            break;
        case KEY_STRANGERS:
            c.strangers = pack_read_bool(&r);
            break;
        case KEY_LOSS_TEST:
            c.loss_test = pack_read_bool(&r);
            break;
        case KEY_LR:
            c.lr = pack_read_float(&r);
            break;
        case KEY_ALPHA:
            c.alpha = pack_read_float(&r);
            break;
        case KEY_BETA:
            c.beta = pack_read_float(&r);
            break;
        case KEY_GAMMA:
            c.gamma = pack_read_float(&r);
            break;
        case KEY_SEED:
            pack_read_exact(&r, c.seed, RUN_SEED_BYTES);
            break;
        default:
            pack_skip(&r);
            break;
        }
    }
    const char *why = NULL;
    if (pack_done(&r) && version > RUN_CONFIG_VERSION)
        return ERR_VERSION;
    if (!pack_done(&r) || !run_model_complete(&seen) ||
        (seen & ~optional_keys) != (UINT32_C(1) << KEY_COUNT) - 1 || run_config_check(&c, &why) < 0)
        return ERR_MALFORMED;
    *config = c;
    return ERR_OK;
}
