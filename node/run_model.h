/* Which model a run trains, and the trainer that does it: the part of a run's config that depends on the kind
 * of model, and the only place in node/ that knows there is more than one. */
#ifndef DUNLIN_NODE_RUN_MODEL_H
#define DUNLIN_NODE_RUN_MODEL_H

#include "base/id.h"
#include "base/pack.h"
#include "train/trainer.h"

struct run_config;

enum { RUN_LABEL_SIZE = 64 };

/* All zero for a transformer, whose shape stands in the other fields of struct run_config. */
struct run_model {
    uint32_t kind;       /* enum train_model_kind */
    uint32_t size_count; /* the rest is an MLP's, as in train/model.h */
    uint32_t sizes[TRAIN_MLP_SIZES_MAX];
    double input_max;
    char label[RUN_LABEL_SIZE]; /* name of the label's column in CSV; "": the last column */
};

/* Keys of the config's map that an MLP adds; a transformer's config has none of them. */
enum run_model_key { RUN_MODEL_KIND = 24, RUN_MODEL_SIZES, RUN_MODEL_INPUT_MAX, RUN_MODEL_LABEL };
enum {
    RUN_MODEL_KEYS = 4,
    RUN_MODEL_TOKENS = 2 * RUN_MODEL_KEYS + TRAIN_MLP_SIZES_MAX,
};

/* The model's shape as train/ wants it. */
struct train_model_config run_model_config(const struct run_config *config);
/* ERR_INVALID: *why (static text) says what is wrong. */
MUST_USE int run_model_check(const struct run_config *config, const char **why);
/* Pairs that run_model_encode writes: 0 or RUN_MODEL_KEYS. */
size_t run_model_pairs(const struct run_model *model);
void run_model_encode(const struct run_model *model, struct pack_writer *w);
/* Reads the value of one of the keys; false, and nothing read, when the key is none. */
bool run_model_decode(struct run_model *model, unsigned key, struct pack_reader *r);
/* Takes the keys out of those seen; false when some are there and others not. */
bool run_model_complete(uint32_t *seen);
/* "64,64,32,10" as the sizes of an MLP.  ERR_INVALID: it is not such a list of 2 to TRAIN_MLP_SIZES_MAX. */
MUST_USE int run_model_parse_sizes(const char *text, struct run_model *model);
/* Seed of initial weights from a number that a person chose. */
void run_seed_of(uint64_t number, uint8_t out[32]);

/* A trainer with what it reads. */
struct run_trainer {
    struct trainer_options options;
    struct trainer trainer;
    struct train_data *data;       /* of a transformer */
    struct train_samples *samples; /* of an MLP */
    uint64_t data_bytes;           /* read */
};

/* threads as they are, 1 .. TRAIN_THREADS_MAX, cut to the batch. */
struct trainer_options run_trainer_options(const struct run_config *config, unsigned threads);
/* Reads the data at path and builds the trainer (node and secret as in train/data.h): seconds, off the loop
 * thread.  On failure `why` (TRAIN_WHY_SIZE bytes) tells the person what to do, or is empty for an error that
 * says enough; nothing is left open. */
MUST_USE int run_trainer_open(struct run_trainer *out, const struct run_config *config, const char *path,
                              const struct id *node, const uint8_t secret[32], unsigned threads, char *why);
void run_trainer_close(struct run_trainer *trainer);

#endif
