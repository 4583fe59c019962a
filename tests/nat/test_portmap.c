/* Port mappings in virtual time: what routers grant, refuse and lie about, handed in by the test; and a model
 * of random routers under which nothing may be told that no router granted. */
#include <criterion/criterion.h>
#include <string.h>

#include "nat/portmap.h"

static const uint64_t second_ns = UINT64_C(1000000000);
static struct nat_portmap pm;
static struct rng_seeded stream;
static uint64_t now_ns;

static struct net_addr addr_of(const char *text)
{
    struct net_addr addr;
    cr_assert_eq(net_addr_parse(text, &addr), ERR_OK);
    return addr;
}

static void start(unsigned protocols, bool tcp)
{
    struct nat_portmap_config config = nat_portmap_config_default();
    rng_seeded_init(&stream, 3);
    config.rng = rng_of_seeded(&stream);
    config.port = 4242;
    config.protocols = protocols;
    config.tcp = tcp;
    now_ns = 1000 * second_ns;
    nat_portmap_init(&pm, &config);
    cr_assert_eq(nat_portmap_deadline_ns(&pm), UINT64_MAX);
    nat_portmap_start(&pm, now_ns);
}

enum { ALL4 = 1 << NAT_PORTMAP_PCP | 1 << NAT_PORTMAP_NATPMP | 1 << NAT_PORTMAP_UPNP };

static struct nat_portmap_command expect_command(enum nat_portmap_op op, enum nat_portmap_protocol protocol,
                                                 enum nat_portmap_transport transport)
{
    struct nat_portmap_command command;
    nat_portmap_check_invariants(&pm);
    cr_assert(nat_portmap_poll_command(&pm, &command), "no command");
    cr_assert_eq(command.op, op);
    cr_assert_eq(command.protocol, protocol);
    cr_assert_eq(command.transport, transport);
    cr_assert_eq(command.port, 4242);
    return command;
}

static void expect_silence(void)
{
    struct nat_portmap_command command;
    struct nat_portmap_event event;
    nat_portmap_check_invariants(&pm);
    cr_assert_not(nat_portmap_poll_command(&pm, &command), "command %d %d", command.op, command.protocol);
    cr_assert_not(nat_portmap_poll_event(&pm, &event), "event %d", event.type);
}

static void expect_event(enum nat_portmap_event_type type, const char *addr)
{
    struct nat_portmap_event event;
    cr_assert(nat_portmap_poll_event(&pm, &event), "no event");
    cr_assert_eq(event.type, type, "event %d instead of %d", event.type, type);
    if (addr != NULL) {
        struct net_addr wanted = addr_of(addr);
        cr_assert(net_addr_equal(&event.addr, &wanted));
    }
}

static void grant(const struct nat_portmap_command *command, const char *addr, uint32_t lifetime_s)
{
    struct nat_portmap_result result = {.token = command->token, .lifetime_s = lifetime_s};
    if (addr != NULL)
        result.external = addr_of(addr);
    cr_assert_eq(nat_portmap_result(&pm, now_ns, &result), ERR_OK);
    cr_assert_eq(nat_portmap_result(&pm, now_ns, &result), ERR_NOT_FOUND, "a token counts once");
    nat_portmap_check_invariants(&pm);
}

static void refuse(const struct nat_portmap_command *command, int error)
{
    struct nat_portmap_result result = {.token = command->token, .error = error, .detail = 7};
    cr_assert_eq(nat_portmap_result(&pm, now_ns, &result), ERR_OK);
    nat_portmap_check_invariants(&pm);
}

static void advance_to_deadline(void)
{
    uint64_t deadline_ns = nat_portmap_deadline_ns(&pm);
    cr_assert_neq(deadline_ns, UINT64_MAX);
    now_ns = deadline_ns > now_ns ? deadline_ns : now_ns;
    nat_portmap_tick(&pm, now_ns);
    nat_portmap_check_invariants(&pm);
}

/* A granted PCP mapping for UDP, without TCP. */
static struct nat_portmap_command settled(const char *addr, uint32_t lifetime_s)
{
    start(1U << NAT_PORTMAP_PCP, false);
    struct nat_portmap_command command = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    grant(&command, addr, lifetime_s);
    expect_event(NAT_PORTMAP_CANDIDATE, addr);
    expect_silence();
    return command;
}

Test(portmap, first_answer_wins_and_maps_tcp_too)
{
    start(ALL4, true);
    struct nat_portmap_command pcp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    expect_silence();
    grant(&pcp, "11.0.0.1:5001", 7200);
    expect_event(NAT_PORTMAP_CANDIDATE, "11.0.0.1:5001");
    struct nat_portmap_command tcp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_TCP);
    cr_expect_eq(tcp.external.port, 5001, "the same number, if the router will");
    grant(&tcp, "11.0.0.1:5002", 7200);
    expect_event(NAT_PORTMAP_CANDIDATE, "11.0.0.1:5002");
    expect_silence();
    cr_expect(nat_portmap_idle(&pm));
}

Test(portmap, silent_protocols_are_joined_by_the_next)
{
    start(ALL4, true);
    struct nat_portmap_command pcp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    advance_to_deadline();
    struct nat_portmap_command pmp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_NATPMP, NAT_PORTMAP_UDP);
    refuse(&pmp, ERR_VERSION); /* the next one starts at once */
    struct nat_portmap_command upnp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP, NAT_PORTMAP_UDP);
    grant(&upnp, "11.0.0.1:4242", 0);
    expect_event(NAT_PORTMAP_CANDIDATE, "11.0.0.1:4242");
    struct nat_portmap_command tcp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP, NAT_PORTMAP_TCP);
    refuse(&tcp, ERR_FULL);
    refuse(&pcp, ERR_TIMEOUT);
    expect_silence();
    advance_to_deadline(); /* TCP again, ten minutes later */
    (void)expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP, NAT_PORTMAP_TCP);
}

/* A late second grant: the same address is the same rule and must not be deleted, another one must be. */
Test(portmap, late_grants)
{
    for (int same = 0; same < 2; same++) {
        start(ALL4, false);
        struct nat_portmap_command pcp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
        advance_to_deadline();
        struct nat_portmap_command pmp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_NATPMP, NAT_PORTMAP_UDP);
        grant(&pmp, "11.0.0.1:4242", 7200);
        expect_event(NAT_PORTMAP_CANDIDATE, "11.0.0.1:4242");
        grant(&pcp, same ? "11.0.0.1:4242" : "11.0.0.1:4243", 7200);
        if (!same) {
            struct nat_portmap_command delete =
                expect_command(NAT_PORTMAP_DELETE, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
            cr_expect_eq(delete.external.port, 4243);
            cr_expect_arr_eq(delete.nonce, pcp.nonce, sizeof pcp.nonce, "only the same nonce may delete");
            grant(&delete, NULL, 0);
        }
        expect_silence();
    }
}

Test(portmap, lies)
{
    static const struct {
        const char *addr;
        uint32_t lifetime_s;
    } lies[] = {
        {"11.0.0.1:0", 7200},       {"0.0.0.0:4242", 7200},   {"127.0.0.1:4242", 7200},
        {"169.254.1.1:4242", 7200}, {"224.0.0.1:4242", 7200}, {"[2001:db8::1]:4242", 7200},
        {"11.0.0.1:4242", 5},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        start(1U << NAT_PORTMAP_PCP, true);
        struct nat_portmap_command command =
            expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
        grant(&command, lies[i].addr, lies[i].lifetime_s);
        expect_event(NAT_PORTMAP_FAILED, NULL);
        expect_silence();
    }
}

Test(portmap, router_behind_another_nat)
{
    start(1U << NAT_PORTMAP_PCP, false);
    struct nat_portmap_command command = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    grant(&command, "100.64.3.4:4242", 7200);
    expect_event(NAT_PORTMAP_BEHIND_NAT, "100.64.3.4:4242");
    expect_silence();
    struct nat_portmap_info info[NAT_PORTMAP_SLOTS];
    cr_assert_eq(nat_portmap_list(&pm, info), 1);
    cr_expect(info[0].held);
    cr_expect_eq(info[0].standing, NAT_PORTMAP_INNER);
    struct net_addr addr = addr_of("100.64.3.4:4242");
    cr_expect_eq(nat_portmap_verdict(&pm, now_ns, &addr, NAT_PORTMAP_UDP, true), ERR_NOT_FOUND);
    advance_to_deadline(); /* kept: renewed, and told when the router moves */
    command = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    grant(&command, "11.0.0.1:4242", 7200);
    expect_event(NAT_PORTMAP_CANDIDATE, "11.0.0.1:4242");
    expect_silence();
}

Test(portmap, renewal_at_half_life)
{
    struct nat_portmap_command first = settled("11.0.0.1:4242", UINT32_MAX);
    uint64_t granted_ns = now_ns;
    struct net_addr addr = addr_of("11.0.0.1:4242");
    cr_assert_eq(nat_portmap_verdict(&pm, now_ns, &addr, NAT_PORTMAP_UDP, true), ERR_OK);
    advance_to_deadline();
    cr_expect_geq(now_ns, granted_ns + 3600 * second_ns);
    cr_expect_leq(now_ns, granted_ns + 4500 * second_ns, "endless grants are renewed too");
    struct nat_portmap_command renewal = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    cr_expect_arr_eq(renewal.nonce, first.nonce, sizeof first.nonce);
    cr_expect(net_addr_equal(&renewal.external, &addr), "asks for what it has");
    grant(&renewal, "11.0.0.1:4242", 7200);
    expect_silence();
    struct nat_portmap_info info[NAT_PORTMAP_SLOTS];
    cr_assert_eq(nat_portmap_list(&pm, info), 1);
    cr_expect_eq(info[0].standing, NAT_PORTMAP_VERIFIED, "stays verified");
    advance_to_deadline();
    renewal = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    grant(&renewal, "11.0.0.2:4242", 7200); /* the router has a new address */
    expect_event(NAT_PORTMAP_GONE, "11.0.0.1:4242");
    expect_event(NAT_PORTMAP_CANDIDATE, "11.0.0.2:4242");
    cr_assert_eq(nat_portmap_list(&pm, info), 1);
    cr_expect_eq(info[0].standing, NAT_PORTMAP_UNVERIFIED);
}

Test(portmap, renewals_fail_until_it_expires)
{
    (void)settled("11.0.0.1:4242", 600);
    uint64_t granted_ns = now_ns;
    unsigned tries = 0;
    for (;;) {
        struct nat_portmap_command command;
        struct nat_portmap_event event;
        advance_to_deadline();
        if (nat_portmap_poll_event(&pm, &event)) {
            cr_assert_eq(event.type, NAT_PORTMAP_GONE);
            break;
        }
        if (nat_portmap_poll_command(&pm, &command)) {
            refuse(&command, ERR_TIMEOUT);
            tries++;
        }
    }
    cr_expect_eq(now_ns, granted_ns + 600 * second_ns);
    cr_expect(tries >= 3 && tries <= 12, "%u tries", tries);
    (void)expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP); /* a new race */
}

Test(portmap, nobody_answers)
{
    uint64_t last_ns = 0;
    start(1U << NAT_PORTMAP_PCP | 1U << NAT_PORTMAP_PCP6, true);
    for (unsigned round = 0; round < 12; round++) {
        struct nat_portmap_command v4 = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
        struct nat_portmap_command v6;
        bool six = nat_portmap_poll_command(&pm, &v6);
        refuse(&v4, ERR_TIMEOUT);
        expect_event(NAT_PORTMAP_FAILED, NULL);
        if (six) {
            cr_assert_eq(v6.protocol, NAT_PORTMAP_PCP6);
            cr_assert_eq(
                nat_portmap_result(&pm, now_ns,
                                   &(struct nat_portmap_result){.token = v6.token,
                                                                .lifetime_s = 7200,
                                                                .external = addr_of("[2001:db8::1]:4242")}),
                ERR_OK);
            expect_event(NAT_PORTMAP_CANDIDATE, "[2001:db8::1]:4242");
            v6 = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP6, NAT_PORTMAP_TCP);
            refuse(&v6, ERR_UNSUPPORTED);
            nat_portmap_stop(&pm, now_ns); /* on with v4 alone */
            expect_event(NAT_PORTMAP_GONE, "[2001:db8::1]:4242");
            start(1U << NAT_PORTMAP_PCP, true);
            continue;
        }
        uint64_t wait_ns = nat_portmap_deadline_ns(&pm) - now_ns;
        cr_expect_geq(wait_ns, last_ns > 3600 * second_ns ? 3600 * second_ns : last_ns / 5 * 4);
        cr_expect_leq(wait_ns, 4500 * second_ns);
        last_ns = wait_ns;
        advance_to_deadline();
    }
    cr_expect_geq(last_ns, 3600 * second_ns, "an hour in the end");
}

Test(portmap, network_changes)
{
    (void)settled("11.0.0.1:4242", 7200);
    nat_portmap_network_changed(&pm, now_ns);
    struct nat_portmap_command command = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    expect_silence(); /* the candidate stays meanwhile */
    refuse(&command, ERR_TIMEOUT);
    expect_event(NAT_PORTMAP_GONE, "11.0.0.1:4242");
    command = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    refuse(&command, ERR_UNREACHABLE);
    expect_event(NAT_PORTMAP_FAILED, NULL);
    expect_silence();
    nat_portmap_network_changed(&pm, now_ns); /* no more waiting */
    command = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    grant(&command, "11.0.0.9:4242", 7200);
    expect_event(NAT_PORTMAP_CANDIDATE, "11.0.0.9:4242");
}

Test(portmap, refuted)
{
    start(ALL4, true);
    struct nat_portmap_command pcp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    grant(&pcp, "11.0.0.1:4242", 7200);
    expect_event(NAT_PORTMAP_CANDIDATE, "11.0.0.1:4242");
    struct nat_portmap_command tcp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_TCP);
    struct net_addr addr = addr_of("11.0.0.1:4242");
    cr_assert_eq(nat_portmap_verdict(&pm, now_ns, &addr, NAT_PORTMAP_UDP, false), ERR_OK);
    cr_assert_eq(nat_portmap_verdict(&pm, now_ns, &addr, NAT_PORTMAP_UDP, false), ERR_NOT_FOUND);
    expect_event(NAT_PORTMAP_GONE, "11.0.0.1:4242");
    struct nat_portmap_command delete = expect_command(NAT_PORTMAP_DELETE, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    struct nat_portmap_command pmp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_NATPMP, NAT_PORTMAP_UDP);
    grant(&tcp, "11.0.0.1:4242", 7200); /* on its way when the verdict came */
    tcp = expect_command(NAT_PORTMAP_DELETE, NAT_PORTMAP_PCP, NAT_PORTMAP_TCP);
    grant(&tcp, NULL, 0);
    grant(&delete, NULL, 0);
    refuse(&pmp, ERR_REFUSED);
    struct nat_portmap_command upnp = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP, NAT_PORTMAP_UDP);
    refuse(&upnp, ERR_TIMEOUT);
    expect_event(NAT_PORTMAP_FAILED, NULL);
    expect_silence();
    advance_to_deadline(); /* everything is tried again, PCP too */
    (void)expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
}

Test(portmap, restarted_router_is_asked_again)
{
    start(1U << NAT_PORTMAP_PCP, true);
    struct nat_portmap_result result = {.lifetime_s = 7200, .epoch_s = 5000, .epoch_known = true};
    result.external = addr_of("11.0.0.1:4242");
    result.token = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP).token;
    cr_assert_eq(nat_portmap_result(&pm, now_ns, &result), ERR_OK);
    result.epoch_s = 3;
    result.token = expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_TCP).token;
    cr_assert_eq(nat_portmap_result(&pm, now_ns, &result), ERR_OK);
    (void)expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
}

Test(portmap, stop_gives_everything_back)
{
    struct nat_portmap_command add = settled("11.0.0.1:4242", 7200);
    nat_portmap_stop(&pm, now_ns);
    expect_event(NAT_PORTMAP_GONE, "11.0.0.1:4242");
    cr_expect_not(nat_portmap_idle(&pm));
    struct nat_portmap_command delete = expect_command(NAT_PORTMAP_DELETE, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
    cr_expect_arr_eq(delete.nonce, add.nonce, sizeof add.nonce);
    nat_portmap_start(&pm, now_ns); /* at once again: waits for the delete */
    expect_silence();
    refuse(&delete, ERR_TIMEOUT);
    (void)expect_command(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP, NAT_PORTMAP_UDP);
}

/* ---- model ---- */

enum { STEPS = 20000, OUT_MAX = NAT_PORTMAP_SLOTS };

static struct nat_portmap_command out_commands[OUT_MAX];
static size_t out_count;
static struct net_addr told[8]; /* candidates as the caller knows them */
static size_t told_count;

static void model_drain(void)
{
    struct nat_portmap_event event;
    struct nat_portmap_command command;
    while (nat_portmap_poll_event(&pm, &event)) {
        if (event.type == NAT_PORTMAP_CANDIDATE) {
            cr_assert_eq(net_addr_scope(&event.addr), NET_SCOPE_GLOBAL);
            cr_assert_lt(told_count, sizeof told / sizeof told[0]);
            told[told_count++] = event.addr;
        } else if (event.type == NAT_PORTMAP_GONE) {
            size_t at = 0;
            while (at < told_count && !net_addr_equal(&told[at], &event.addr))
                at++;
            cr_assert_lt(at, told_count, "gone without having been there");
            told[at] = told[--told_count];
        }
    }
    while (nat_portmap_poll_command(&pm, &command)) {
        cr_assert_lt(out_count, (size_t)OUT_MAX);
        out_commands[out_count++] = command;
    }
    nat_portmap_check_invariants(&pm);
}

static void model_answer(const struct rng *rng)
{
    static const char *const addrs[] = {"11.0.0.1:4242",     "11.0.0.1:5000", "11.0.0.2:1",
                                        "10.0.0.1:4242",     "11.0.0.1:0",    "0.0.0.0:1",
                                        "[2001:db8::1]:4242"};
    static const uint32_t lives_s[] = {0, 10, 30, 120, 7200, UINT32_MAX};
    if (out_count == 0)
        return;
    size_t at = rng_below(rng, out_count);
    struct nat_portmap_result result = {.token = out_commands[at].token,
                                        .external = addr_of(addrs[rng_below(rng, 7)]),
                                        .lifetime_s = lives_s[rng_below(rng, 6)],
                                        .epoch_known = rng_below(rng, 2) == 0,
                                        .epoch_s = (uint32_t)rng_below(rng, 1000)};
    result.error = rng_below(rng, 3) == 0 ? ERR_TIMEOUT : ERR_OK;
    if (out_commands[at].protocol == NAT_PORTMAP_PCP6 && rng_below(rng, 2) == 0)
        result.external = addr_of("[2001:db8::1]:4242");
    out_commands[at] = out_commands[--out_count];
    cr_assert_eq(nat_portmap_result(&pm, now_ns, &result), ERR_OK);
}

/* Whatever routers answer and whenever: relations hold, every command is answered once, and after a stop
 * nothing is held, told or waited for. */
Test(portmap, model)
{
    struct rng_seeded choices;
    rng_seeded_init(&choices, 11);
    struct rng rng = rng_of_seeded(&choices);
    start((1U << NAT_PORTMAP_PROTOCOLS) - 1, true);
    for (int step = 0; step < STEPS; step++) {
        uint64_t deadline_ns = nat_portmap_deadline_ns(&pm);
        switch (rng_below(&rng, 12)) {
        case 0:
            nat_portmap_network_changed(&pm, now_ns);
            break;
        case 1:
            if (rng_below(&rng, 10) == 0)
                nat_portmap_stop(&pm, now_ns);
            break;
        case 2:
            nat_portmap_start(&pm, now_ns);
            break;
        case 3:
            if (told_count > 0)
                (void)!nat_portmap_verdict(&pm, now_ns, &told[rng_below(&rng, told_count)],
                                           (enum nat_portmap_transport)rng_below(&rng, 2),
                                           rng_below(&rng, 2) == 0);
            break;
        case 4:
        case 5:
        case 6:
            now_ns = deadline_ns != UINT64_MAX && deadline_ns > now_ns ? deadline_ns : now_ns + second_ns;
            nat_portmap_tick(&pm, now_ns);
            break;
        default:
            model_answer(&rng);
            break;
        }
        model_drain();
    }
    nat_portmap_stop(&pm, now_ns);
    model_drain();
    while (out_count > 0) {
        model_answer(&rng);
        model_drain();
    }
    cr_expect_eq(told_count, 0);
    cr_expect(nat_portmap_idle(&pm));
    cr_expect_eq(nat_portmap_deadline_ns(&pm), UINT64_MAX);
}
