#include "nat/portmap.h"

#include <string.h>

static const uint64_t second_ns = UINT64_C(1000000000);
static const uint64_t stagger_ns = UINT64_C(500000000); /* between the starts of two protocols */
static const uint64_t wait_first_s = 30;                /* after a race that nobody won */
static const uint64_t wait_longest_s = 3600;
static const uint64_t tcp_retry_s = 600; /* TCP refused by the protocol that maps UDP */

enum { V4, V6, FAMILIES };

/* A command is out in ADDING, RENEWING and DELETING unless it is still due. */
enum slot_state {
    SLOT_FREE,
    SLOT_ADDING,   /* nothing is held */
    SLOT_HELD,     /* external is ours */
    SLOT_RENEWING, /* external is ours, and asked for again */
    SLOT_DELETING,
};

/* OFF: not started, or no protocol of it is wanted.  For the others see the header. */
enum family_state { FAMILY_OFF, FAMILY_RACING, FAMILY_SETTLED, FAMILY_WAITING };

static size_t family_of(size_t protocol)
{
    return protocol == NAT_PORTMAP_PCP6 ? V6 : V4;
}

static bool slot_holds(const struct nat_portmap_slot *slot)
{
    return slot->state == SLOT_HELD || slot->state == SLOT_RENEWING;
}

/* Whether the slot's address is one to tell others. */
static bool is_candidate(const struct nat_portmap_slot *slot)
{
    return slot_holds(slot) && !slot->drop &&
           (slot->standing == NAT_PORTMAP_UNVERIFIED || slot->standing == NAT_PORTMAP_VERIFIED);
}

/* ---- life ---- */

struct nat_portmap_config nat_portmap_config_default(void)
{
    return (struct nat_portmap_config){.protocols = (1U << NAT_PORTMAP_PROTOCOLS) - 1, .tcp = true};
}

void nat_portmap_init(struct nat_portmap *pm, const struct nat_portmap_config *config)
{
    ASSERT(config->port != 0 && config->rng.fill != NULL);
    memset(pm, 0, sizeof *pm);
    pm->config = *config;
    pm->next_token = 1;
    pm->stopped = true;
    /* Once for good: a server refuses another nonce for a mapping that it still holds (RFC 6887 s.11.3). */
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++)
            rng_fill(&pm->config.rng, pm->slots[p][t].nonce, sizeof pm->slots[p][t].nonce);
    }
}

/* ---- slots ---- */

static void slot_command(struct nat_portmap_slot *slot, enum slot_state state)
{
    slot->state = (uint8_t)state;
    slot->due = true;
}

static void slot_add(struct nat_portmap_slot *slot)
{
    ASSERT(slot->state == SLOT_FREE);
    slot->standing = NAT_PORTMAP_UNVERIFIED;
    slot->error = ERR_OK;
    slot->detail = 0;
    slot->renew_ns = UINT64_MAX;
    slot_command(slot, SLOT_ADDING);
}

static void slot_free(struct nat_portmap_slot *slot, uint64_t retry_ns)
{
    slot->state = SLOT_FREE;
    slot->due = false;
    slot->drop = false;
    slot->inner_due = false;
    slot->renew_ns = retry_ns;
    slot->expires_ns = UINT64_MAX;
}

/* Gives the mapping back, at once or when the command that is out has come back. */
static void slot_release(struct nat_portmap_slot *slot)
{
    slot->inner_due = false;
    switch ((enum slot_state)slot->state) {
    case SLOT_FREE:
    case SLOT_DELETING:
        break;
    case SLOT_ADDING:
        if (slot->due)
            slot_free(slot, UINT64_MAX);
        else
            slot->drop = true;
        break;
    case SLOT_HELD:
        slot_command(slot, SLOT_DELETING);
        break;
    case SLOT_RENEWING:
        if (slot->due)
            slot_command(slot, SLOT_DELETING);
        else
            slot->drop = true;
        break;
    }
}

/* ---- families ---- */

static void race_begin(struct nat_portmap *pm, size_t f, uint64_t now_ns)
{
    struct nat_portmap_family *family = &pm->families[f];
    family->state = FAMILY_RACING;
    family->tried = family->refuted;
    family->fragile = false;
    family->next_ns = now_ns;
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        if (family_of(p) != f)
            continue;
        /* Those still on their way from the last race count as started. */
        if (pm->slots[p][NAT_PORTMAP_UDP].state == SLOT_ADDING && !pm->slots[p][NAT_PORTMAP_UDP].drop)
            family->tried |= (uint8_t)(1U << p);
        slot_release(&pm->slots[p][NAT_PORTMAP_TCP]);
    }
}

static void race_lost(struct nat_portmap *pm, size_t f, uint64_t now_ns)
{
    struct nat_portmap_family *family = &pm->families[f];
    uint64_t wait_s = wait_first_s << (family->rounds < 7 ? family->rounds : 7);
    wait_s = wait_s > wait_longest_s ? wait_longest_s : wait_s;
    family->rounds++;
    family->state = FAMILY_WAITING;
    family->failed_due = true;
    /* Up to a quarter later: the nodes of a house, back after the same power cut, spread out. */
    family->next_ns = now_ns + wait_s * second_ns + rng_below(&pm->config.rng, wait_s * second_ns / 4 + 1);
}

/* Starts what is due, and ends the race when everything has failed. */
static void race_step(struct nat_portmap *pm, size_t f, uint64_t now_ns)
{
    struct nat_portmap_family *family = &pm->families[f];
    bool pending = false; /* something may still win */
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        struct nat_portmap_slot *slot = &pm->slots[p][NAT_PORTMAP_UDP];
        unsigned bit = 1U << p;
        if (family_of(p) != f || (pm->config.protocols & bit) == 0)
            continue;
        if ((family->tried & bit) != 0) {
            pending |= slot->state == SLOT_ADDING && !slot->drop;
            continue;
        }
        pending = true;
        if (now_ns >= family->next_ns && slot->state == SLOT_FREE) {
            slot_add(slot);
            family->tried |= (uint8_t)bit;
            family->failed = (enum nat_portmap_protocol)p;
            family->next_ns = now_ns + stagger_ns;
        }
    }
    if (!pending)
        race_lost(pm, f, now_ns);
}

/* The protocol that maps UDP is asked for TCP too, unless that is done or was refused lately. */
static void settled_step(struct nat_portmap *pm, size_t f, uint64_t now_ns)
{
    struct nat_portmap_slot *tcp = &pm->slots[pm->families[f].winner][NAT_PORTMAP_TCP];
    if (pm->config.tcp && tcp->state == SLOT_FREE && now_ns >= tcp->renew_ns)
        slot_add(tcp);
}

static void family_step(struct nat_portmap *pm, size_t f, uint64_t now_ns)
{
    struct nat_portmap_family *family = &pm->families[f];
    if (family->state == FAMILY_WAITING && now_ns >= family->next_ns) {
        family->refuted = 0;
        race_begin(pm, f, now_ns);
    }
    if (family->state == FAMILY_RACING)
        race_step(pm, f, now_ns);
    if (family->state == FAMILY_SETTLED)
        settled_step(pm, f, now_ns);
}

static void settle(struct nat_portmap *pm, size_t protocol, uint64_t now_ns)
{
    size_t f = family_of(protocol);
    pm->families[f].state = FAMILY_SETTLED;
    pm->families[f].winner = (uint8_t)protocol;
    if (pm->slots[protocol][NAT_PORTMAP_TCP].state == SLOT_FREE)
        pm->slots[protocol][NAT_PORTMAP_TCP].renew_ns = now_ns;
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        struct nat_portmap_slot *slot = &pm->slots[p][NAT_PORTMAP_UDP];
        if (p != protocol && family_of(p) == f && slot->state == SLOT_ADDING && slot->due)
            slot_free(slot, UINT64_MAX);
    }
}

/* ---- commands of the caller ---- */

void nat_portmap_start(struct nat_portmap *pm, uint64_t now_ns)
{
    pm->stopped = false;
    for (size_t f = 0; f < FAMILIES; f++) {
        bool wanted = false;
        for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++)
            wanted |= family_of(p) == f && (pm->config.protocols & 1U << p) != 0;
        if (!wanted || pm->families[f].state != FAMILY_OFF)
            continue;
        pm->families[f] = (struct nat_portmap_family){0};
        race_begin(pm, f, now_ns);
        family_step(pm, f, now_ns);
    }
}

void nat_portmap_stop(struct nat_portmap *pm, uint64_t now_ns)
{
    (void)now_ns;
    pm->stopped = true;
    for (size_t f = 0; f < FAMILIES; f++)
        pm->families[f] = (struct nat_portmap_family){0};
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++)
            slot_release(&pm->slots[p][t]);
    }
}

void nat_portmap_network_changed(struct nat_portmap *pm, uint64_t now_ns)
{
    memset(pm->epochs, 0, sizeof pm->epochs); /* perhaps another router */
    for (size_t f = 0; f < FAMILIES; f++) {
        struct nat_portmap_family *family = &pm->families[f];
        family->rounds = 0;
        family->refuted = 0;
        if (family->state == FAMILY_SETTLED) {
            family->fragile = true;
            for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++) {
                struct nat_portmap_slot *slot = &pm->slots[family->winner][t];
                if (slot->state == SLOT_HELD)
                    slot_command(slot, SLOT_RENEWING);
            }
        } else if (family->state != FAMILY_OFF) {
            race_begin(pm, f, now_ns);
            family_step(pm, f, now_ns);
        }
    }
}

bool nat_portmap_idle(const struct nat_portmap *pm)
{
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++) {
            if (pm->slots[p][t].state != SLOT_FREE && pm->slots[p][t].state != SLOT_HELD)
                return false;
        }
    }
    return true;
}

int nat_portmap_verdict(struct nat_portmap *pm, uint64_t now_ns, const struct net_addr *addr,
                        enum nat_portmap_transport transport, bool reachable)
{
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        struct nat_portmap_slot *slot = &pm->slots[p][transport];
        struct nat_portmap_family *family = &pm->families[family_of(p)];
        if (!is_candidate(slot) || !net_addr_equal(&slot->external, addr))
            continue;
        slot->standing = reachable ? NAT_PORTMAP_VERIFIED : NAT_PORTMAP_REFUTED;
        if (reachable) {
            family->rounds = 0;
        } else {
            slot_release(slot);
            slot->renew_ns = now_ns + wait_longest_s * second_ns; /* TCP: again in an hour */
        }
        if (!reachable && transport == NAT_PORTMAP_UDP) {
            family->refuted |= (uint8_t)(1U << p);
            race_begin(pm, family_of(p), now_ns);
            family_step(pm, family_of(p), now_ns);
        }
        return ERR_OK;
    }
    return ERR_NOT_FOUND;
}

/* ---- results ---- */

/* ERR_OK, or why a grant is none: what it says cannot be, or is of no use. */
static int check_grant(size_t protocol, const struct nat_portmap_result *result)
{
    enum net_family family = family_of(protocol) == V6 ? NET_FAMILY_V6 : NET_FAMILY_V4;
    enum net_scope scope = net_addr_scope(&result->external); /* port 0 is INVALID */
    if (result->external.family != family || (scope != NET_SCOPE_GLOBAL && scope != NET_SCOPE_PRIVATE))
        return ERR_MALFORMED;
    if (result->lifetime_s != 0 && result->lifetime_s < NAT_PORTMAP_LIFETIME_MIN_S)
        return ERR_UNSUPPORTED;
    return ERR_OK;
}

static void slot_hold(struct nat_portmap *pm, struct nat_portmap_slot *slot, uint64_t now_ns,
                      const struct nat_portmap_result *result)
{
    uint32_t lifetime_s = result->lifetime_s;
    if (lifetime_s == 0 || lifetime_s > NAT_PORTMAP_LIFETIME_S)
        lifetime_s = NAT_PORTMAP_LIFETIME_S;
    struct net_addr before = slot->external;
    bool held = slot_holds(slot);
    slot->external = result->external;
    slot->external.via = NET_VIA_MAIN;
    slot->state = SLOT_HELD;
    slot->expires_ns = now_ns + lifetime_s * second_ns;
    slot->renew_ns = now_ns + nat_pcp_renew_ns(&pm->config.rng, lifetime_s * second_ns);
    if (held && net_addr_equal(&before, &slot->external))
        return; /* renewed: what was found out about it stays true */
    bool inner = net_addr_scope(&slot->external) == NET_SCOPE_PRIVATE;
    slot->standing = inner ? NAT_PORTMAP_INNER : NAT_PORTMAP_UNVERIFIED;
    slot->inner_due = inner;
}

/* The slot has lost its mapping, or never got one. */
static void slot_lost(struct nat_portmap *pm, size_t protocol, size_t transport, uint64_t now_ns)
{
    size_t f = family_of(protocol);
    struct nat_portmap_family *family = &pm->families[f];
    slot_free(&pm->slots[protocol][transport], now_ns + tcp_retry_s * second_ns);
    if (transport == NAT_PORTMAP_TCP || family->state == FAMILY_OFF || family->state == FAMILY_WAITING)
        return;
    if (family->state == FAMILY_SETTLED && family->winner == protocol)
        race_begin(pm, f, now_ns);
    else if (family->state == FAMILY_RACING)
        family->next_ns = now_ns; /* no use in waiting for the next one's turn */
}

static void on_failure(struct nat_portmap *pm, size_t protocol, size_t transport, uint64_t now_ns, int error)
{
    struct nat_portmap_slot *slot = &pm->slots[protocol][transport];
    struct nat_portmap_family *family = &pm->families[family_of(protocol)];
    slot->error = error;
    if (transport == NAT_PORTMAP_UDP && family->state == FAMILY_RACING)
        family->failed = (enum nat_portmap_protocol)protocol;
    if (slot->drop && slot->state == SLOT_RENEWING) {
        slot->drop = false;
        slot_command(slot, SLOT_DELETING);
    } else if (slot->state == SLOT_RENEWING && !family->fragile && now_ns < slot->expires_ns) {
        slot->state = SLOT_HELD;
        slot->renew_ns = now_ns + nat_pcp_renew_ns(&pm->config.rng, slot->expires_ns - now_ns);
    } else {
        slot_lost(pm, protocol, transport, now_ns);
    }
}

/* Another protocol has won meanwhile.  The same outer address is most likely the same rule in the router's
 * table: deleting it would take the winner's with it, so it is left to expire. */
static void second_grant(struct nat_portmap *pm, size_t protocol)
{
    struct nat_portmap_slot *slot = &pm->slots[protocol][NAT_PORTMAP_UDP];
    const struct nat_portmap_family *family = &pm->families[family_of(protocol)];
    if (net_addr_equal(&slot->external, &pm->slots[family->winner][NAT_PORTMAP_UDP].external))
        slot_free(slot, UINT64_MAX);
    else
        slot_release(slot);
}

static void on_grant(struct nat_portmap *pm, size_t protocol, size_t transport, uint64_t now_ns,
                     const struct nat_portmap_result *result)
{
    struct nat_portmap_slot *slot = &pm->slots[protocol][transport];
    struct nat_portmap_family *family = &pm->families[family_of(protocol)];
    bool drop = slot->drop;
    slot->drop = false;
    slot->error = ERR_OK;
    slot_hold(pm, slot, now_ns, result);
    if (drop) {
        slot_release(slot);
    } else if (transport == NAT_PORTMAP_UDP) {
        if (family->state == FAMILY_RACING || family->state == FAMILY_WAITING)
            settle(pm, protocol, now_ns);
        else if (family->state == FAMILY_SETTLED && family->winner != protocol)
            second_grant(pm, protocol);
        else
            family->fragile = false;
    } else if (family->state != FAMILY_SETTLED || family->winner != protocol) {
        slot_release(slot);
    }
}

/* A server that has lost its state lost all our mappings there. */
static void check_epoch(struct nat_portmap *pm, size_t protocol, uint64_t now_ns,
                        const struct nat_portmap_result *result)
{
    if (!result->epoch_known || nat_pcp_epoch_check(&pm->epochs[protocol], now_ns, result->epoch_s))
        return;
    for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++) {
        struct nat_portmap_slot *slot = &pm->slots[protocol][t];
        if (slot->state == SLOT_HELD && slot->token != result->token)
            slot_command(slot, SLOT_RENEWING);
    }
}

static struct nat_portmap_slot *find_command(struct nat_portmap *pm, uint32_t token, size_t *protocol,
                                             size_t *transport)
{
    for (*protocol = 0; *protocol < NAT_PORTMAP_PROTOCOLS; ++*protocol) {
        for (*transport = 0; *transport < NAT_PORTMAP_TRANSPORTS; ++*transport) {
            struct nat_portmap_slot *slot = &pm->slots[*protocol][*transport];
            bool out = !slot->due && slot->state != SLOT_FREE && slot->state != SLOT_HELD;
            if (out && slot->token == token)
                return slot;
        }
    }
    return NULL;
}

int nat_portmap_result(struct nat_portmap *pm, uint64_t now_ns, const struct nat_portmap_result *result)
{
    size_t protocol, transport;
    struct nat_portmap_slot *slot = find_command(pm, result->token, &protocol, &transport);
    if (slot == NULL)
        return ERR_NOT_FOUND;
    slot->detail = result->detail;
    if (slot->state == SLOT_DELETING) {
        slot_free(slot, slot->standing == NAT_PORTMAP_REFUTED ? slot->renew_ns : now_ns);
    } else {
        int error = result->error == ERR_OK ? check_grant(protocol, result) : result->error;
        if (error == ERR_OK)
            on_grant(pm, protocol, transport, now_ns, result);
        else
            on_failure(pm, protocol, transport, now_ns, error);
        if (result->error == ERR_OK)
            check_epoch(pm, protocol, now_ns, result);
    }
    family_step(pm, family_of(protocol), now_ns);
    return ERR_OK;
}

/* ---- time ---- */

static void slot_tick(struct nat_portmap *pm, size_t protocol, size_t transport, uint64_t now_ns)
{
    struct nat_portmap_slot *slot = &pm->slots[protocol][transport];
    if (slot->state == SLOT_HELD && now_ns >= slot->expires_ns)
        slot_lost(pm, protocol, transport, now_ns);
    else if (slot->state == SLOT_HELD && now_ns >= slot->renew_ns)
        slot_command(slot, SLOT_RENEWING);
    else if (slot->state == SLOT_RENEWING && !slot->drop && now_ns >= slot->expires_ns)
        slot->state = SLOT_ADDING; /* the answer may still make it ours again */
}

void nat_portmap_tick(struct nat_portmap *pm, uint64_t now_ns)
{
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++)
            slot_tick(pm, p, t, now_ns);
    }
    for (size_t f = 0; f < FAMILIES; f++)
        family_step(pm, f, now_ns);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t slot_deadline(const struct nat_portmap *pm, size_t protocol, size_t transport)
{
    const struct nat_portmap_slot *slot = &pm->slots[protocol][transport];
    const struct nat_portmap_family *family = &pm->families[family_of(protocol)];
    if (slot->state == SLOT_HELD)
        return earlier(slot->renew_ns, slot->expires_ns);
    if (slot->state == SLOT_RENEWING && !slot->drop)
        return slot->expires_ns;
    bool waits = slot->state == SLOT_FREE && transport == NAT_PORTMAP_TCP && pm->config.tcp &&
                 family->state == FAMILY_SETTLED && family->winner == protocol;
    return waits ? slot->renew_ns : UINT64_MAX;
}

/* RACING: the next start, if anything is left that could start now. */
static uint64_t family_deadline(const struct nat_portmap *pm, size_t f)
{
    const struct nat_portmap_family *family = &pm->families[f];
    if (family->state == FAMILY_WAITING)
        return family->next_ns;
    if (family->state != FAMILY_RACING)
        return UINT64_MAX;
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        bool can_start = family_of(p) == f && (pm->config.protocols & 1U << p) != 0 &&
                         (family->tried & 1U << p) == 0 && pm->slots[p][NAT_PORTMAP_UDP].state == SLOT_FREE;
        if (can_start)
            return family->next_ns;
    }
    return UINT64_MAX;
}

uint64_t nat_portmap_deadline_ns(const struct nat_portmap *pm)
{
    uint64_t deadline_ns = UINT64_MAX;
    for (size_t f = 0; f < FAMILIES; f++)
        deadline_ns = earlier(deadline_ns, family_deadline(pm, f));
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++)
            deadline_ns = earlier(deadline_ns, slot_deadline(pm, p, t));
    }
    return deadline_ns;
}

/* ---- what comes out ---- */

/* Events are differences between what was told and what is, so none can be lost or pile up. */
static bool slot_event(struct nat_portmap_slot *slot, struct nat_portmap_event *out)
{
    bool candidate = is_candidate(slot);
    if (slot->reported.family != NET_FAMILY_NONE &&
        (!candidate || !net_addr_equal(&slot->reported, &slot->external))) {
        out->type = NAT_PORTMAP_GONE;
        out->addr = slot->reported;
        slot->reported = (struct net_addr){.family = NET_FAMILY_NONE};
        return true;
    }
    out->addr = slot->external;
    if (candidate && slot->reported.family == NET_FAMILY_NONE) {
        out->type = NAT_PORTMAP_CANDIDATE;
        slot->reported = slot->external;
        return true;
    }
    if (slot->inner_due) {
        out->type = NAT_PORTMAP_BEHIND_NAT;
        slot->inner_due = false;
        return true;
    }
    return false;
}

bool nat_portmap_poll_event(struct nat_portmap *pm, struct nat_portmap_event *out)
{
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++) {
            *out = (struct nat_portmap_event){.protocol = (enum nat_portmap_protocol)p,
                                              .transport = (enum nat_portmap_transport)t};
            if (slot_event(&pm->slots[p][t], out))
                return true;
        }
    }
    for (size_t f = 0; f < FAMILIES; f++) {
        struct nat_portmap_family *family = &pm->families[f];
        if (!family->failed_due)
            continue;
        family->failed_due = false;
        *out = (struct nat_portmap_event){.type = NAT_PORTMAP_FAILED, .protocol = family->failed};
        out->error = pm->slots[family->failed][NAT_PORTMAP_UDP].error;
        return true;
    }
    return false;
}

bool nat_portmap_poll_command(struct nat_portmap *pm, struct nat_portmap_command *out)
{
    for (size_t i = 0; i < NAT_PORTMAP_SLOTS; i++) {
        size_t p = i / NAT_PORTMAP_TRANSPORTS, t = i % NAT_PORTMAP_TRANSPORTS;
        struct nat_portmap_slot *slot = &pm->slots[p][t];
        if (!slot->due)
            continue;
        slot->due = false;
        slot->token = pm->next_token++;
        *out = (struct nat_portmap_command){
            .token = slot->token,
            .op = slot->state == SLOT_DELETING ? NAT_PORTMAP_DELETE : NAT_PORTMAP_ADD,
            .protocol = (enum nat_portmap_protocol)p,
            .transport = (enum nat_portmap_transport)t,
            .lifetime_s = slot->state == SLOT_DELETING ? 0 : NAT_PORTMAP_LIFETIME_S,
            .port = pm->config.port,
        };
        /* What was once granted is asked for again, also after a loss: others know it. */
        out->external = slot->external;
        if (out->external.family == NET_FAMILY_NONE && t == NAT_PORTMAP_TCP)
            out->external = pm->slots[p][NAT_PORTMAP_UDP].external;
        memcpy(out->nonce, slot->nonce, sizeof out->nonce);
        return true;
    }
    return false;
}

/* ---- for people ---- */

size_t nat_portmap_list(const struct nat_portmap *pm, struct nat_portmap_info out[NAT_PORTMAP_SLOTS])
{
    size_t count = 0;
    for (size_t i = 0; i < NAT_PORTMAP_SLOTS; i++) {
        size_t p = i / NAT_PORTMAP_TRANSPORTS, t = i % NAT_PORTMAP_TRANSPORTS;
        const struct nat_portmap_slot *slot = &pm->slots[p][t];
        if (slot->state == SLOT_FREE && slot->error == ERR_OK && slot->standing != NAT_PORTMAP_REFUTED)
            continue;
        bool held = slot_holds(slot);
        out[count++] = (struct nat_portmap_info){
            .protocol = (enum nat_portmap_protocol)p,
            .transport = (enum nat_portmap_transport)t,
            .held = held,
            .standing = (enum nat_portmap_standing)slot->standing,
            .addr = slot->external,
            .expires_ns = held ? slot->expires_ns : 0,
            .error = slot->error,
            .detail = slot->detail,
        };
    }
    return count;
}

const char *nat_portmap_protocol_name(enum nat_portmap_protocol protocol)
{
    static const char *const names[] = {"PCP", "NAT-PMP", "UPnP", "PCP on IPv6"};
    return (size_t)protocol < NAT_PORTMAP_PROTOCOLS ? names[protocol] : "?";
}

static void check_slot(const struct nat_portmap *pm, size_t protocol, size_t transport)
{
    const struct nat_portmap_slot *slot = &pm->slots[protocol][transport];
    const struct nat_portmap_family *family = &pm->families[family_of(protocol)];
    bool winner = family->state == FAMILY_SETTLED && family->winner == protocol;
    ASSERT(slot->state <= SLOT_DELETING);
    ASSERT(!slot->due || (slot->state != SLOT_FREE && slot->state != SLOT_HELD));
    ASSERT(!slot->drop || ((slot->state == SLOT_ADDING || slot->state == SLOT_RENEWING) && !slot->due));
    ASSERT(!slot_holds(slot) || net_addr_scope(&slot->external) == NET_SCOPE_GLOBAL ||
           net_addr_scope(&slot->external) == NET_SCOPE_PRIVATE);
    ASSERT(slot->state != SLOT_HELD || winner); /* nothing is held that nobody answers for */
    ASSERT(!is_candidate(slot) || net_addr_scope(&slot->external) == NET_SCOPE_GLOBAL);
    ASSERT(!winner || transport == NAT_PORTMAP_TCP || slot_holds(slot) || slot->state == SLOT_ADDING);
}

void nat_portmap_check_invariants(const struct nat_portmap *pm)
{
    for (size_t p = 0; p < NAT_PORTMAP_PROTOCOLS; p++) {
        for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++)
            check_slot(pm, p, t);
    }
    for (size_t f = 0; f < FAMILIES; f++) {
        const struct nat_portmap_family *family = &pm->families[f];
        ASSERT(family->state <= FAMILY_WAITING);
        ASSERT(family->state != FAMILY_SETTLED || family_of(family->winner) == f);
        ASSERT(!pm->stopped || family->state == FAMILY_OFF);
    }
}
