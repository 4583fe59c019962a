/* Who takes part in a run: the values that members write into their replicated registers, and the view that
 * every node folds from them.  Pure; the registers themselves (signing, replication, expiry) are crdt/'s
 * business. */
#ifndef DUNLIN_GOSSIP_MEMBERS_H
#define DUNLIN_GOSSIP_MEMBERS_H

#include <stdbool.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "net/addr.h"

enum {
    GOSSIP_MEMBERS_MAX = 256, /* live members of one run (one shard) */
    GOSSIP_MEMBER_ADDRS_MAX = 8,
    GOSSIP_NAME_SIZE = 33,         /* 32 bytes of UTF-8 and a terminator */
    GOSSIP_MEMBER_VALUE_MAX = 320, /* bytes of an encoded MEMBER value; a register holds 4096 */
    GOSSIP_PROGRESS_VALUE_MAX = 128,
    GOSSIP_EPOCH_ROUNDS = 8, /* a join counts this many rounds after it */
    GOSSIP_LIVE_ROUNDS = 8,  /* silent for more rounds than this: not paired any more */
    GOSSIP_SPEED_CLASS_MAX = 63,
};

#define GOSSIP_ROUND_MAX (UINT64_C(1) << 53) /* rounds, and counts that people may read as JSON numbers */

/* How fast a member is, in powers of two: coarse, so that it changes seldom and all agree on it.  Class c > 0
 * stands for rates from 2^(c-1) to 2^c; 0: not known. */
struct gossip_speed {
    uint8_t bytes_class; /* bytes/s that its line carries for this run, the slower direction */
    uint8_t steps_class; /* inner steps in 1024 s */
};

/* MEMBER register: written on joining, refreshed before it expires. */
struct gossip_member {
    uint64_t joined_round;            /* 0: before the run's first round */
    uint32_t codecs;                  /* 1 << enum gossip_codec for each it decodes */
    struct gossip_speed speed;        /* counts from speed_round on */
    struct gossip_speed speed_before; /* counts until then */
    uint64_t speed_round;
    size_t addr_count;
    struct net_addr addrs[GOSSIP_MEMBER_ADDRS_MAX]; /* hints; the DHT knows better */
    char name[GOSSIP_NAME_SIZE];                    /* for people; may be empty; not trusted */
};

/* How far a member is with the end of the run (gossip/finish.h). */
enum gossip_ending {
    GOSSIP_ENDING_NONE,    /* trains */
    GOSSIP_ENDING_OPEN,    /* training is over, the replicas are being merged */
    GOSSIP_ENDING_SETTLED, /* its last partners were as near as they should be */
    GOSSIP_ENDING_DONE,    /* takes no turns any more, serves its merged state */
    GOSSIP_ENDING_COUNT
};

/* PROGRESS register: written after every round. */
struct gossip_progress {
    uint64_t round;    /* last finished */
    uint64_t tokens;   /* trained on by this member, in all */
    double train_loss; /* nats per token; NaN: not known */
    double val_loss;   /* NaN: not known */
    uint64_t merges;
    uint64_t skipped; /* solo rounds */
    struct id phi;    /* digest of the slow weights */
    enum gossip_ending ending;
    double
        spread; /* distance to its last partners relative to its own norm; NaN: not measured, or training */
    uint64_t
        chain; /* entries of the owner's chain that it holds; who holds fewer asks for them; 0: not told */
};

/* Encoded length, at most GOSSIP_MEMBER_VALUE_MAX or GOSSIP_PROGRESS_VALUE_MAX.  ERR_INVALID: a field beyond
 * its limit (round, addr_count, unterminated name).  ERR_TOO_LARGE: cap is smaller than needed. */
MUST_USE int gossip_member_encode(const struct gossip_member *member, uint8_t out[], size_t cap);
MUST_USE int gossip_progress_encode(const struct gossip_progress *progress, uint8_t out[], size_t cap);
/* ERR_MALFORMED: not such a value; *out is untouched: ignore the register.  Losses that are infinite become
 * NaN. */
MUST_USE int gossip_member_decode(struct bytes value, struct gossip_member *out);
MUST_USE int gossip_progress_decode(struct bytes value, struct gossip_progress *out);

/* Takes a measurement into the own MEMBER value.  A class changes when the rate has left it by a quarter of a
 * class or more, at most once in two epochs, and takes effect two epochs after `round`, when every member has
 * long seen it: so a change costs nobody a round.  Rates that are zero, negative or NaN: not known, the class
 * stays.  Returns true when the register has to be written. */
bool gossip_member_measure(struct gossip_member *member, uint64_t round, double bytes_s, double steps_s);

/* One member as the fold over registers sees it. */
struct gossip_member_state {
    struct id id;
    uint64_t joined_round;
    uint64_t progress_round; /* of its PROGRESS register, or joined_round while it has none */
    uint64_t expires_ms;     /* of its MEMBER register, Unix time */
    struct gossip_speed speed, speed_before;
    uint64_t speed_round;
};

struct gossip_view_entry {
    struct id id;
    uint64_t progress_round;
    struct gossip_speed speed; /* that counts in the view's round */
};

/* Members that are paired in one round, sorted by id. */
struct gossip_view {
    uint64_t round;
    size_t count;
    struct gossip_view_entry entries[GOSSIP_MEMBERS_MAX];
    struct id hash; /* over ids and speeds; equal views pair alike */
};

/* Folds states (any order; repeated ids count once, with the higher progress and speed) into the view for
 * round.  Live: expires_ms > wall_ms, progress_round + GOSSIP_LIVE_ROUNDS >= round, and joined_round +
 * GOSSIP_EPOCH_ROUNDS
 * <= round unless joined_round is 0.  Of more than GOSSIP_MEMBERS_MAX the lowest ids stay. O(count * log
 * GOSSIP_MEMBERS_MAX + entries moved). */
void gossip_view_build(struct gossip_view *view, uint64_t round, uint64_t wall_ms,
                       const struct gossip_member_state states[], size_t count);
/* The entry of this id, or NULL. */
const struct gossip_view_entry *gossip_view_find(const struct gossip_view *view, const struct id *id);

#endif
