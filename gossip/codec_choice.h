/* Which codec this side sends a fragment in, and what it remembers of partners to decide that.
 *
 * The rule is to spend bytes on frequency, not on precision: at equal bytes per step 3-bit exchanges every 10
 * steps beat int8 every 20 and bf16 every 40.  So the default is mod3; int8 where the modular codec cannot
 * know its range (first contact, joiners, healed partitions) or failed last time; mod2 when the line cannot
 * carry mod3 in time; never fp32 or bf16 unless the run asks for them.  Pure functions; the caller keeps the
 * memory, on one thread. */
#ifndef DUNLIN_GOSSIP_CODEC_CHOICE_H
#define DUNLIN_GOSSIP_CODEC_CHOICE_H

#include <stdbool.h>

#include "base/id.h"
#include "gossip/members.h"
#include "gossip/tensor.h"

enum {
    GOSSIP_NEARNESS_ROUNDS = 512, /* a partner not met for longer counts as never met */
    GOSSIP_NEARNESS_PEERS = GOSSIP_MEMBERS_MAX,
};

#define GOSSIP_WRONG_SHARE_MAX                                                                               \
    0.35                         /* more wrong blocks last time: int8 now (mod3 and its repairs cost more) */
#define GOSSIP_RELATIVE_MAX 0.25 /* |theirs - ours| / |ours| beyond which a partner is not close */

/* What was seen of one partner; a zeroed one is unused.  Fragments have partners, and distances, of their
 * own: one of them may be far while the others are close. */
struct gossip_acquaintance {
    struct id peer;
    uint64_t round;                          /* of the last exchange that gave a distance, or of a failure */
    float distance[GOSSIP_FRAGMENTS_MAX];    /* rms of theirs - ours; 0 not known */
    float relative[GOSSIP_FRAGMENTS_MAX];    /* |theirs - ours| / |ours|; 0 not known */
    float wrong_share[GOSSIP_FRAGMENTS_MAX]; /* of the blocks of the last modular blob that either of us
                                              * decoded: the larger share; 1: it failed */
    bool used;
};

/* Zeroed at first; about 36 KiB.  When full, the partner met longest ago is forgotten. */
struct gossip_nearness {
    struct gossip_acquaintance peers[GOSSIP_NEARNESS_PEERS];
    float typical[GOSSIP_FRAGMENTS_MAX]; /* rms distance of the last exchange of the fragment, any
                                                 partner */
};

/* What one exchange taught. */
struct gossip_encounter {
    struct id peer;
    uint64_t round;
    unsigned fragment;
    float distance; /* rms: gossip_merge_report.distance / sqrt(values) */
    float relative; /* gossip_merge_report.relative */
    float
        wrong_share; /* largest share of blocks wanted in this exchange, by either side; 0 for other codecs */
};
/* Notes it.  fragment < GOSSIP_FRAGMENTS_MAX; distance, relative and wrong_share finite and not negative
 * (asserted). */
void gossip_nearness_note(struct gossip_nearness *memory, const struct gossip_encounter *seen);
/* The partner refused or could not decode our modular blob of this fragment (more than half of it wrong):
 * int8 for it next time. */
void gossip_nearness_far(struct gossip_nearness *memory, const struct id *peer, unsigned fragment,
                         uint64_t round);
/* Forgets a partner that joined again, or (NULL) all of them: after an own restart or a healed partition. */
void gossip_nearness_forget(struct gossip_nearness *memory, const struct id *peer);
/* True when this partner was met within GOSSIP_NEARNESS_ROUNDS before round and was close in this fragment:
 * no further than GOSSIP_RELATIVE_MAX, no more wrong blocks than GOSSIP_WRONG_SHARE_MAX.  A fragment in which
 * it was not met yet is judged by the others. */
bool gossip_nearness_close(const struct gossip_nearness *memory, const struct id *peer, unsigned fragment,
                           uint64_t round);
/* Share of wrong blocks in the last exchange of this fragment with this partner; 0 when not known. */
float gossip_nearness_wrong(const struct gossip_nearness *memory, const struct id *peer, unsigned fragment);
/* By how much this partner was further away in this fragment than the last one of any: in [1, 16], 1 when
 * either is not known; for gossip_modular_source.distance_scale. */
float gossip_nearness_scale(const struct gossip_nearness *memory, const struct id *peer, unsigned fragment);

/* What the choice depends on. */
struct gossip_choice_input {
    bool automatic;          /* false: the run names a codec */
    enum gossip_codec asked; /* that codec; ignored when automatic */
    uint32_t accepted;       /* 1 << codec for each the partner decodes; includes int8 (members must) */
    bool ending;        /* the run's last cycles: 3 bits where it names 2 (gossip/codec_modular.h says why) */
    bool close;         /* gossip_nearness_close, and the partner is no joiner and has not just come back */
    double wrong_share; /* expected share of blocks to repair, last one seen with this partner; else 0 */
    double bytes_per_s; /* measured with this partner, our direction; 0: not known */
    double seconds;     /* from now to the end of the exchange at full weight (0.3 of a cycle) */
    double rtt_s;       /* one round trip; a repair costs two more */
    const uint64_t *bytes; /* [GOSSIP_CODEC_COUNT] blob sizes of the fragment */
};
/* The codec to send in:
 *   named by the run   that one, but int8 in place of a modular one while the partner is not close, and mod3
 *                      in place of mod2 at the end
 *   not close          int8
 *   close              mod3; mod2 when mod3 with its repairs does not fit into `seconds` at the measured rate
 *                      (also when neither fits: fewer bytes are late less)
 * A codec that the partner does not accept gives way to int8.  Never fails; nonsense (NaN, negative) counts
 * as not known. */
enum gossip_codec gossip_codec_choose(const struct gossip_choice_input *in);
/* The codec for averaging replicas to their mean at the end of a run (gossip/finish.h), whatever the run
 * names: fp32       when it fits into `seconds` at the measured rate not close  int8, once: its noise of 1 %
 * stays however often it is repeated close      mod4, or mod3 when mod4 does not fit or the run names mod3;
 * never mod2, whose noise is as large as the distance A codec that the partner does not accept gives way to
 * int8.  As above. */
enum gossip_codec gossip_codec_choose_exact(const struct gossip_choice_input *in);
/* Expected seconds of sending a fragment in this codec, repairs and their round trips included; INFINITY when
 * the rate is not known.  The shortest round a line supports is this plus what the other direction and the
 * commit cost. */
double gossip_codec_seconds(const struct gossip_choice_input *in, enum gossip_codec codec);

#endif
