/* Our own address as others see it.
 *
 * Every probe answer says from which address the probe came.  One peer may lie, so an address counts once
 * observers in enough distinct address groups (/24, /56) agree on it.  Local addresses count from one
 * observer, and only from one in the same scope: a stranger on the internet cannot move us to 192.168.0.1,
 * and a small LAN still works.
 *
 * One address is kept per family and scope (loopback, private, global); link-local reports are ignored, they
 * mean nothing without an interface.  A plain struct in the caller's memory; no allocation, no secrets. */
#ifndef DUNLIN_NAT_OBSERVED_H
#define DUNLIN_NAT_OBSERVED_H

#include "net/addr.h"

enum {
    NAT_OBSERVED_REPORTS_MAX = 32, /* per family and scope: one a group, the oldest gives way */
    NAT_OBSERVED_SLOTS = 6,        /* two families, three scopes */
    NAT_OBSERVED_AGREE = 2,        /* groups that must agree on a global address */
};

struct nat_observed_report {
    struct net_addr observer;
    struct net_addr seen;
    uint64_t at_ns;
};

struct nat_observed_slot {
    struct nat_observed_report reports[NAT_OBSERVED_REPORTS_MAX];
    size_t report_count;
    struct net_addr current; /* family NET_FAMILY_NONE: unknown */
    struct net_addr reported;
    bool changed; /* current differs from reported: an event is due */
};

struct nat_observed {
    struct nat_observed_slot slots[NAT_OBSERVED_SLOTS];
    size_t agree;
    uint64_t report_life_ns;
};

struct nat_observed_event {
    struct net_addr old; /* family NET_FAMILY_NONE: was unknown */
    struct net_addr now; /* family NET_FAMILY_NONE: no longer known */
};

/* How the NAT in front of us picks outer ports, judged by global reports. */
enum nat_mapping {
    NAT_MAPPING_UNKNOWN, /* fewer than two groups reported */
    NAT_MAPPING_STABLE,  /* all groups, or all but one of four or more, see one port: endpoint-independent, or
                            no NAT */
    NAT_MAPPING_VARIES,  /* one address, several ports: punching needs more than an observed address */
};

/* agree: distinct groups needed for a global address, at least 1 (asserted).  Reports live report_life_ns. */
void nat_observed_init(struct nat_observed *observed, size_t agree, uint64_t report_life_ns);
/* The observer, at this address, sees us at `seen`.  ERR_REFUSED: not to be believed from there (scopes or
 * families differ, or no unicast address), or not about the main socket (it reached us by an auxiliary one, a
 * TCP link or a relay, which have ports of their own): ignore. */
MUST_USE int nat_observed_report(struct nat_observed *observed, uint64_t now_ns,
                                 const struct net_addr *observer, const struct net_addr *seen);
/* Forgets reports that are too old.  Call it about once a minute. */
void nat_observed_tick(struct nat_observed *observed, uint64_t now_ns);
/* Next change of an address; false: none. */
bool nat_observed_poll_event(struct nat_observed *observed, struct nat_observed_event *out);
/* Our address of this family and scope.  ERR_NOT_FOUND: not known (yet). */
MUST_USE int nat_observed_address(const struct nat_observed *observed, enum net_family family,
                                  enum net_scope scope, struct net_addr *out);
enum nat_mapping nat_observed_mapping(const struct nat_observed *observed, enum net_family family);
/* Asserts every internal relation; for tests and fuzzers. */
void nat_observed_check_invariants(const struct nat_observed *observed);

#endif
