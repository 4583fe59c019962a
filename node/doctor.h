/* What this node's network can do, in plain words, and the one thing to try when it could be better.
 *
 * Pure: facts go in, sentences come out; methods_nat.c gathers the facts, `dunlin doctor` prints the answer.
 * A sentence says what is seen, not what may be guessed; where too little is known it says what is missing.
 */
#ifndef DUNLIN_NODE_DOCTOR_H
#define DUNLIN_NODE_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    DOCTOR_LINES_MAX = 12,
    DOCTOR_TEXT_SIZE = 320,
    DOCTOR_CLOCK_OFF_S = 120, /* beyond it peers refuse our records */
    DOCTOR_SETTLING_S = 45    /* a node that young has not asked everybody yet */
};

#define DOCTOR_VOLUME_LOW (UINT64_C(256) << 20) /* bytes that relays still grant: a few minutes' worth */

/* How the NAT in front of us, if any, gives outer ports to connections. */
enum doctor_nat {
    DOCTOR_NAT_UNKNOWN,    /* too few peers were asked */
    DOCTOR_NAT_NONE,       /* a public address of our own */
    DOCTOR_NAT_EASY,       /* one outer port for all destinations */
    DOCTOR_NAT_SEQUENTIAL, /* another for each, in steps */
    DOCTOR_NAT_RANDOM,     /* another for each, unpredictable */
};

enum doctor_reach { DOCTOR_REACH_UNKNOWN, DOCTOR_REACH_YES, DOCTOR_REACH_NO };

struct doctor_family {
    bool local; /* an interface has an address of this family that is not loopback or link-local */
    enum doctor_nat nat;
    enum doctor_reach reach; /* whether strangers reach us */
    size_t observers;        /* that said how they see us */
    const char *outer;       /* our address as they see it, or NULL; borrowed until doctor_judge returns */
};

struct doctor_facts {
    uint64_t uptime_s;
    uint16_t port; /* UDP, on which we listen */
    size_t seeds;
    size_t contacts; /* nodes of the DHT that answered */
    size_t connected;
    size_t direct, punched, tcp, relayed; /* paths of those */
    int64_t clock_offset_ms;              /* peers - ours */
    size_t clock_peers;
    bool udp_blocked;
    bool tcp_on;
    size_t tcp_links; /* open */
    struct doctor_family v4, v6;
    bool portmap_on;
    size_t mappings;             /* held on a router */
    size_t mappings_proven;      /* of those, reached from outside */
    bool double_nat;             /* a router's own outer address is private */
    const char *portmap_via;     /* protocol of a mapping held, or NULL */
    const char *portmap_refused; /* protocol that the router answers, without opening a port; or NULL */
    size_t relays_held, relays_wanted, relays_known;
    uint64_t relay_volume_left; /* bytes, on the relay with the most; UINT64_MAX: no limit */
    size_t relay_clients;       /* nodes that we relay for */
    bool store_read_only;
};

enum doctor_level { DOCTOR_OK, DOCTOR_NOTE, DOCTOR_WARNING, DOCTOR_PROBLEM };

/* Also the exit code of `dunlin doctor`. */
enum doctor_verdict { DOCTOR_FINE, DOCTOR_DEGRADED, DOCTOR_NO_PEERS };

struct doctor_line {
    enum doctor_level level;
    char text[DOCTOR_TEXT_SIZE];
};

struct doctor_report {
    enum doctor_verdict verdict;
    struct doctor_line lines[DOCTOR_LINES_MAX];
    size_t line_count;
    char remedy[DOCTOR_TEXT_SIZE]; /* empty: nothing to do.  FINE can have one: it could be better still */
};

/* Judges the facts.  FINE: every peer can be talked to, directly or after punching.  DEGRADED: some can only
 * be reached by detours, or something will stop working soon.  NO_PEERS: nobody answers.  O(1). */
void doctor_judge(const struct doctor_facts *facts, struct doctor_report *out);
/* "fine", "degraded", "no peers"; "ok", "note", "warning", "problem". */
const char *doctor_verdict_text(enum doctor_verdict verdict);
const char *doctor_level_text(enum doctor_level level);

#endif
