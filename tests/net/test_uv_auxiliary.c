/* Auxiliary sockets: each has a port and a number of its own, answers come in by the socket that asked,
 * numbers and sockets are given back, and the cap holds. */
#include <criterion/criterion.h>
#include <string.h>

#include "net/uv/auxiliary.h"

struct echo {
    struct net_uv_socket *main;
    struct net_uv_aux *aux;
    size_t main_got, aux_got, bytes;
    uint16_t vias[4096];
    uint16_t from_port;
    bool release_inside;
};

static void on_main(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                    size_t count)
{
    struct echo *e = user;
    (void)now_ns;
    cr_assert_eq(from->via, NET_VIA_MAIN);
    for (size_t i = 0; i < count; i++) {
        e->main_got++;
        e->bytes += datagrams[i].len;
        e->from_port = from->port;
        cr_assert_eq(net_uv_socket_send(e->main, from, datagrams[i].data, datagrams[i].len, 0), ERR_OK);
    }
}

static void on_aux(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                   size_t count)
{
    struct echo *e = user;
    (void)now_ns;
    (void)datagrams;
    cr_assert(net_via_is_aux(from->via));
    for (size_t i = 0; i < count; i++)
        e->vias[e->aux_got++ % 4096] = from->via;
    if (e->release_inside)
        net_uv_aux_release(e->aux, from->via);
}

static void start(struct echo *e, uv_loop_t *loop)
{
    struct net_uv_socket_config cfg = net_uv_socket_config_default();
    cfg.loopback = true;
    cfg.callbacks = (struct net_uv_callbacks){.on_batch = on_main, .user = e};
    cr_assert_eq(uv_loop_init(loop), 0);
    cr_assert_eq(net_uv_socket_open(&e->main, loop, &cfg, NULL), ERR_OK);
    struct net_uv_callbacks callbacks = {.on_batch = on_aux, .user = e};
    cr_assert_eq(net_uv_aux_create(&e->aux, loop, true, &callbacks), ERR_OK);
}

static void stop(struct echo *e, uv_loop_t *loop)
{
    net_uv_aux_close_all(e->aux);
    net_uv_socket_close(e->main);
    cr_assert_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(loop), 0);
}

static struct net_addr to_main(const struct echo *e, uint16_t via)
{
    return (struct net_addr){
        .family = NET_FAMILY_V4, .ip = {127, 0, 0, 1}, .port = net_uv_socket_port(e->main), .via = via};
}

Test(uv_auxiliary, answers_come_in_by_the_socket_that_asked)
{
    struct echo e = {0};
    uv_loop_t loop;
    start(&e, &loop);
    uint16_t vias[16];
    for (size_t i = 0; i < 16; i++) {
        cr_assert_eq(net_uv_aux_open(e.aux, NET_FAMILY_V4, &vias[i]), ERR_OK);
        struct net_addr to = to_main(&e, vias[i]);
        cr_assert_eq(net_uv_aux_send(e.aux, &to, (const uint8_t *)"hello", 5, 0), ERR_OK);
        for (size_t rounds = 0; e.aux_got <= i && rounds < 1000; rounds++)
            (void)uv_run(&loop, UV_RUN_ONCE);
        cr_assert_eq(e.aux_got, i + 1);
        cr_assert_eq(e.vias[i], vias[i]);
        cr_assert_eq(e.from_port, net_uv_aux_port(e.aux, vias[i]));
    }
    stop(&e, &loop);
}

Test(uv_auxiliary, batches_leave_as_datagrams)
{
    struct echo e = {0};
    uv_loop_t loop;
    uint8_t data[30 * 1000];
    memset(data, 7, sizeof data);
    start(&e, &loop);
    uint16_t via;
    cr_assert_eq(net_uv_aux_open(e.aux, NET_FAMILY_V4, &via), ERR_OK);
    struct net_addr to = to_main(&e, via);
    cr_assert_eq(net_uv_aux_send(e.aux, &to, data, sizeof data, 1000), ERR_OK);
    for (size_t rounds = 0; e.main_got < 30 && rounds < 1000; rounds++)
        (void)uv_run(&loop, UV_RUN_ONCE);
    cr_assert_eq(e.main_got, 30);
    cr_assert_eq(e.bytes, sizeof data);
    stop(&e, &loop);
}

Test(uv_auxiliary, the_cap_holds_and_numbers_are_not_used_again_at_once)
{
    struct echo e = {0};
    uv_loop_t loop;
    uint16_t vias[NET_UV_AUX_MAX];
    start(&e, &loop);
    for (size_t i = 0; i < NET_UV_AUX_MAX; i++)
        cr_assert_eq(net_uv_aux_open(e.aux, NET_FAMILY_V4, &vias[i]), ERR_OK);
    uint16_t via;
    cr_assert_eq(net_uv_aux_open(e.aux, NET_FAMILY_V4, &via), ERR_FULL);
    cr_assert_eq(net_uv_aux_count(e.aux), NET_UV_AUX_MAX);
    for (size_t round = 0; round < 20; round++) {
        net_uv_aux_release(e.aux, vias[round]);
        (void)uv_run(&loop, UV_RUN_NOWAIT);
        cr_assert_eq(net_uv_aux_open(e.aux, NET_FAMILY_V4, &via), ERR_OK);
        for (size_t i = 0; i < NET_UV_AUX_MAX; i++)
            cr_assert_neq(via, vias[i]);
        struct net_addr old = to_main(&e, vias[round]);
        cr_assert_eq(net_uv_aux_send(e.aux, &old, (const uint8_t *)"x", 1, 0), ERR_UNREACHABLE);
    }
    stop(&e, &loop);
}

Test(uv_auxiliary, a_socket_may_be_released_by_its_own_datagram)
{
    struct echo e = {.release_inside = true};
    uv_loop_t loop;
    start(&e, &loop);
    uint16_t via;
    cr_assert_eq(net_uv_aux_open(e.aux, NET_FAMILY_V4, &via), ERR_OK);
    struct net_addr to = to_main(&e, via);
    cr_assert_eq(net_uv_aux_send(e.aux, &to, (const uint8_t *)"a", 1, 0), ERR_OK);
    cr_assert_eq(net_uv_aux_send(e.aux, &to, (const uint8_t *)"b", 1, 0), ERR_OK);
    for (size_t rounds = 0; e.aux_got == 0 && rounds < 1000; rounds++)
        (void)uv_run(&loop, UV_RUN_ONCE);
    cr_assert_eq(net_uv_aux_count(e.aux), 0);
    stop(&e, &loop);
}
