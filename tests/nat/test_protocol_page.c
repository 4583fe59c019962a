/* The path probes of docs/protocol/net.md: a node that gets the page's probe answers with the page's answer,
 * a node whose own probe that answers takes it, and truncations are refused. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "nat/path.h"
#include "support/page.h"

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/net.md"

static const struct net_addr peer_addr = {.family = NET_FAMILY_V4, .ip = {192, 0, 2, 1}, .port = 4242};
static const struct id peer = {{1}};

/* Candidates number their probes from a random start: this one makes it the page's. */
static void fill_seven(void *user, uint8_t *out, size_t len)
{
    static const uint32_t seven = 7;
    (void)user;
    memset(out, 0, len);
    if (len == sizeof seven)
        memcpy(out, &seven, sizeof seven);
}

static struct nat_path *path_open(void)
{
    struct nat_path_config config = nat_path_config_default();
    config.self = (struct id){{2}};
    config.rng = (struct rng){.fill = fill_seven};
    config.peers_max = 4;
    void *memory = malloc(nat_path_size(&config));
    cr_assert_not_null(memory);
    return nat_path_init(memory, &config);
}

static struct net_message message_of(const char *name, uint8_t kind)
{
    struct net_message m = {.peer = peer, .addr = peer_addr, .kind = kind};
    m.body_len = page_example(PAGE, name, m.body, sizeof m.body);
    cr_assert_gt(m.body_len, 0, "no example %s", name);
    return m;
}

static void check_truncations(struct nat_path *path, const struct net_message *whole)
{
    for (size_t cut = 0; cut < whole->body_len; cut++) {
        struct net_message m = *whole;
        m.body_len = cut;
        cr_assert_eq(nat_path_recv(path, 0, &m), ERR_MALFORMED);
    }
    nat_path_check_invariants(path);
}

Test(protocol_page, probe_draws_the_answer)
{
    struct nat_path *path = path_open();
    struct net_message probe = message_of("probe", NET_KIND_PROBE);
    struct net_message answer = message_of("probe_answer", NET_KIND_PROBE_ANSWER);
    struct net_message out;
    check_truncations(path, &probe);
    cr_assert_eq(nat_path_recv(path, 0, &probe), ERR_OK);
    do
        cr_assert(nat_path_poll_send(path, 0, &out), "no answer");
    while (out.kind != NET_KIND_PROBE_ANSWER);
    cr_assert(net_addr_equal(&out.addr, &peer_addr));
    cr_assert_eq(out.body_len, answer.body_len);
    cr_assert_arr_eq(out.body, answer.body, answer.body_len);
    free(path);
}

Test(protocol_page, answer_proves_the_address)
{
    struct nat_path *path = path_open();
    struct net_message answer = message_of("probe_answer", NET_KIND_PROBE_ANSWER);
    struct net_message out;
    struct net_addr route;
    cr_assert_eq(nat_path_peer_add(path, 0, &peer), ERR_OK);
    cr_assert_eq(nat_path_candidate_add(path, 0, &peer, &peer_addr, NAT_ROUTE_DIRECT4), ERR_OK);
    cr_assert(nat_path_poll_send(path, 0, &out));
    cr_assert_eq(out.kind, NET_KIND_PROBE);
    check_truncations(path, &answer);
    cr_assert_eq(nat_path_route(path, &peer, &route), ERR_UNREACHABLE);
    cr_assert_eq(nat_path_recv(path, 1000000, &answer), ERR_OK);
    cr_assert_eq(nat_path_route(path, &peer, &route), ERR_OK);
    cr_assert(net_addr_equal(&route, &peer_addr));
    free(path);
}
