/* PCP's packets and rules against RFC 6887, byte by byte, and every truncation of an answer. */
#include <criterion/criterion.h>
#include <string.h>

#include "nat/pcp.h"

static const uint64_t second_ns = UINT64_C(1000000000);

static struct net_addr addr_of(const char *text)
{
    struct net_addr addr;
    cr_assert_eq(net_addr_parse(text, &addr), ERR_OK);
    return addr;
}

static struct nat_pcp_request request4(void)
{
    struct nat_pcp_request request = {
        .client = addr_of("192.168.1.10:4242"), .lifetime_s = 7200, .protocol = NAT_PCP_PROTOCOL_UDP};
    for (size_t i = 0; i < sizeof request.nonce; i++)
        request.nonce[i] = (uint8_t)(0xa0 + i);
    return request;
}

/* RFC 6887 figures 2 and 9. */
static const uint8_t request_bytes[NAT_PCP_MAP_BYTES] = {
    2,    1,    0,    0,    /* version, MAP, reserved */
    0,    0,    0x1c, 0x20, /* 7200 s */
    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0xff, 0xff,
    192,  168,  1,    10,                                                   /* client */
    0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, /* nonce */
    17,   0,    0,    0,                                                    /* UDP */
    0x10, 0x92, 0,    0,                                                    /* inner port, any outer one */
    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0xff, 0xff,
    0,    0,    0,    0, /* any outer address */
};

/* Figures 3 and 10: granted for 3600 s as 203.0.113.9:5001, epoch 100. */
static void answer(uint8_t out[NAT_PCP_MAP_BYTES])
{
    static const uint8_t head[24] = {2, 0x81, 0, 0, 0, 0, 0x0e, 0x10, 0, 0, 0, 100};
    static const uint8_t tail[20] = {0x10, 0x92, 0x13, 0x89, 0,    0,    0,   0, 0,   0,
                                     0,    0,    0,    0,    0xff, 0xff, 203, 0, 113, 9};
    memcpy(out, head, sizeof head);
    memcpy(out + 24, request_bytes + 24, 16);
    memcpy(out + 40, tail, sizeof tail);
}

Test(pcp, request)
{
    struct nat_pcp_request request = request4();
    uint8_t out[NAT_PCP_MAP_BYTES];
    nat_pcp_encode(&request, out);
    cr_assert_arr_eq(out, request_bytes, sizeof out);

    request.wanted = addr_of("203.0.113.9:5001");
    nat_pcp_encode(&request, out);
    cr_expect_eq(out[42] << 8 | out[43], 5001);
    cr_expect_arr_eq(out + 56, request.wanted.ip, 4);

    request.wanted = addr_of("[2001:db8::1]:5001"); /* of another family: no suggestion */
    nat_pcp_encode(&request, out);
    cr_expect_arr_eq(out, request_bytes, sizeof out);
}

Test(pcp, request_on_ipv6)
{
    struct nat_pcp_request request = request4();
    uint8_t out[NAT_PCP_MAP_BYTES];
    static const uint8_t zero[16];
    request.client = addr_of("[2001:db8::1]:4242");
    request.lifetime_s = 0;
    nat_pcp_encode(&request, out);
    cr_expect_arr_eq(out + 4, zero, 4);
    cr_expect_arr_eq(out + 8, request.client.ip, 16);
    cr_expect_arr_eq(out + 44, zero, 16);
}

Test(pcp, reply)
{
    uint8_t packet[NAT_PCP_MAP_BYTES];
    struct nat_pcp_request request = request4();
    struct nat_pcp_reply reply;
    struct net_addr outer = addr_of("203.0.113.9:5001");
    answer(packet);
    cr_assert_eq(nat_pcp_decode(bytes_of(packet, sizeof packet), &reply), ERR_OK);
    cr_expect_eq(reply.result, NAT_PCP_SUCCESS);
    cr_expect_eq(reply.lifetime_s, 3600);
    cr_expect_eq(reply.epoch_s, 100);
    cr_expect(net_addr_equal(&reply.external, &outer));
    cr_expect(nat_pcp_answers(&reply, &request));

    request.nonce[11] ^= 1;
    cr_expect_not(nat_pcp_answers(&reply, &request));
    request = request4();
    request.protocol = NAT_PCP_PROTOCOL_TCP;
    cr_expect_not(nat_pcp_answers(&reply, &request));
    request = request4();
    request.client.port++;
    cr_expect_not(nat_pcp_answers(&reply, &request));
}

Test(pcp, reply_truncated_or_broken)
{
    uint8_t packet[NAT_PCP_PACKET_MAX + 4] = {0};
    struct nat_pcp_reply reply;
    answer(packet);
    for (size_t len = 0; len < NAT_PCP_MAP_BYTES; len++)
        cr_assert_eq(nat_pcp_decode(bytes_of(packet, len), &reply), ERR_TRUNCATED, "%zu bytes", len);
    cr_expect_eq(nat_pcp_decode(bytes_of(packet, NAT_PCP_MAP_BYTES + 2), &reply), ERR_MALFORMED);
    cr_expect_eq(nat_pcp_decode(bytes_of(packet, NAT_PCP_MAP_BYTES + 4), &reply), ERR_OK, "an option");
    cr_expect_eq(nat_pcp_decode(bytes_of(packet, NAT_PCP_PACKET_MAX), &reply), ERR_OK);
    cr_expect_eq(nat_pcp_decode(bytes_of(packet, sizeof packet), &reply), ERR_MALFORMED);
    packet[1] = 1;
    cr_expect_eq(nat_pcp_decode(bytes_of(packet, NAT_PCP_MAP_BYTES), &reply), ERR_MALFORMED, "a request");
    packet[1] = 0x82;
    cr_expect_eq(nat_pcp_decode(bytes_of(packet, NAT_PCP_MAP_BYTES), &reply), ERR_MALFORMED, "PEER");
}

/* RFC 6887 s.9 and RFC 6886 s.3.5: how servers of another version say so. */
Test(pcp, other_versions)
{
    static const uint8_t natpmp[8] = {0, 0x81, 0, 1, 0, 0, 0, 9};
    static const uint8_t pcp1[24] = {1, 0x81, 0, 1};
    static const uint8_t pcp2[24] = {2, 0x81, 0, 1};
    struct nat_pcp_reply reply;
    cr_expect_eq(nat_pcp_decode(bytes_of(natpmp, sizeof natpmp), &reply), ERR_VERSION);
    cr_expect_eq(nat_pcp_decode(bytes_of(pcp1, sizeof pcp1), &reply), ERR_VERSION);
    cr_expect_eq(nat_pcp_decode(bytes_of(pcp2, sizeof pcp2), &reply), ERR_VERSION);
}

/* RFC 6887 s.8.1.1: IRT 3 s, MRT 1024 s, RAND within a tenth. */
Test(pcp, retransmission)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    for (int round = 0; round < 200; round++) {
        uint64_t wait_ns = 0, base_ns = 3 * second_ns;
        for (int i = 0; i < 14; i++) {
            wait_ns = nat_pcp_wait_ns(&rng, wait_ns);
            cr_assert_geq(wait_ns, base_ns * 9 / 10);
            cr_assert_leq(wait_ns, base_ns * 11 / 10 + 1);
            base_ns = 2 * wait_ns > 1024 * second_ns ? 1024 * second_ns : 2 * wait_ns;
        }
        uint64_t renew_ns = nat_pcp_renew_ns(&rng, 1000 * second_ns);
        cr_assert(renew_ns >= 500 * second_ns && renew_ns <= 625 * second_ns);
        cr_assert_eq(nat_pcp_renew_ns(&rng, second_ns), 4 * second_ns);
    }
}

/* RFC 6887 s.8.5. */
Test(pcp, epoch)
{
    struct nat_pcp_epoch epoch = {0};
    cr_expect(nat_pcp_epoch_check(&epoch, 5 * second_ns, 1000), "the first one");
    cr_expect(nat_pcp_epoch_check(&epoch, 105 * second_ns, 1100));
    cr_expect(nat_pcp_epoch_check(&epoch, 105 * second_ns, 1099), "a second back is reordering");
    cr_expect(nat_pcp_epoch_check(&epoch, 1705 * second_ns, 2600), "a sixteenth slow");
    cr_expect_not(nat_pcp_epoch_check(&epoch, 1805 * second_ns, 2600), "stood still");
    cr_expect_not(nat_pcp_epoch_check(&epoch, 1805 * second_ns, 2700), "jumped ahead");
    cr_expect_not(nat_pcp_epoch_check(&epoch, 1905 * second_ns, 3), "restarted");
    cr_expect(nat_pcp_epoch_check(&epoch, 2005 * second_ns, 103));
}
