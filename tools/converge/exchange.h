/* What one node does in one round, through gossip's own code: encode, decode, gate, average, outer step.
 * The only file here that calls gossip's codecs and merge rules. */
#ifndef DUNLIN_TOOLS_CONVERGE_EXCHANGE_H
#define DUNLIN_TOOLS_CONVERGE_EXCHANGE_H

#include "base/alloc.h"
#include "gossip/codec_choice.h"
#include "gossip/fragment.h"
#include "gossip/merge/gate.h"
#include "gossip/merge/outer.h"
#include "gossip/merge/trail.h"
#include "gossip/tensor.h"
#include "tools/converge/converge.h"
#include "train/trainer.h"

/* The model as gossip sees it: padding between tensors travels along as zeros. */
struct exchange_model {
    struct gossip_tensor tensors[TRAIN_TENSORS_MAX];
    size_t tensor_count;
    size_t param_count;
    struct gossip_fragment fragments[GOSSIP_FRAGMENTS_MAX];
    size_t fragment_count;
    size_t block_count;    /* of the whole model */
    size_t trail_floats;   /* likewise */
    size_t blob_bytes_max; /* of any fragment in any codec */
};

/* ERR_INVALID: more fragments than tensors. */
MUST_USE int exchange_model_init(struct exchange_model *model, const struct train_layout *layout,
                                 size_t fragments);

/* What a node remembers of its partners; zeroed at the start.  The arrays are the caller's. */
struct exchange_memory {
    struct gossip_history history[CONVERGE_FRAGMENTS_MAX];
    struct gossip_history changes; /* of the loss, by results tried */
    struct gossip_nearness nearness;
    float *distances; /* [block_count] rms to the last partner, of each block of the model */
    struct gossip_trail trails[CONVERGE_FRAGMENTS_MAX];
    float *marks; /* [trail_floats] the trails' */
};

/* Lays the trails out in marks. */
void exchange_memory_init(const struct exchange_model *model, struct exchange_memory *memory);

/* Forgets all, as a node does that lost its memory. */
void exchange_forget(const struct exchange_model *model, struct exchange_memory *memory);

/* What a side sends besides its snapshot's bytes; borrowed until the exchange has ended. */
struct exchange_buffers {
    uint8_t *blob;    /* [blob_bytes_max] */
    uint32_t *wanted; /* [block_count] blocks that came wrong */
    uint8_t *repairs; /* [blob_bytes_max] */
};

/* One partner of an exchange.  Arrays are whole models; only the fragment is read or written. */
struct exchange_side {
    const struct id *id;
    struct exchange_memory *memory;
    struct exchange_buffers buffers;
    const float *theta; /* snapshot of this round */
    const float *shown; /* what it encodes: theta, or what an attacker sends instead */
    float *phi, *delta, *diff;
    float *scratch;              /* contents undefined afterwards */
    struct trainer *trainer;     /* whose weights a result is tried on; NULL: none is */
    float *trial;                /* [3 * arena_floats] then; contents undefined afterwards */
    bool commits;                /* false: the last word was lost on its way here; a solo step */
    bool garbage;                /* sends bytes of all ones */
    struct bytes old;            /* sends these bytes instead; data NULL: none */
    enum gossip_codec old_codec; /* and says that they are in this codec */
    /* Set by exchange_run. */
    enum gossip_codec codec;
    size_t blob_len, wanted_count, repairs_len;
    size_t sent;                                 /* bytes, lists and resends included */
    size_t blocks, resent;                       /* of a modular codec */
    size_t corrected;                            /* tensors whose variance was corrected */
    bool merged, refused, clipped, failed_trial; /* the last: refused for its loss */
};

struct exchange_rule {
    const struct exchange_model *model;
    size_t fragment;
    uint64_t round;
    bool ending;             /* the run's last cycles */
    enum gossip_codec codec; /* what the run asks for; int8 in its place while a partner is not known */
    struct gossip_outer outer;
    enum converge_correction correction;
    bool gates;
    bool strangers; /* different first weights */
    float weight;   /* gossip_partner_weight */
};

/* Both sides of one exchange.  A side whose partner is refused, or who does not commit, takes the solo step;
 * both do when a modular blob cannot be decoded.  ERR_NOT_FINITE: a node's own weights are broken; both
 * sides' arrays are as they were. */
MUST_USE int exchange_run(const struct exchange_rule *rule, struct exchange_side *a, struct exchange_side *b);
/* The round without a partner. */
MUST_USE int exchange_solo(const struct exchange_rule *rule, struct exchange_side *side);

#endif
