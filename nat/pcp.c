#include "nat/pcp.h"

#include <assert.h>
#include <string.h>

enum {
    VERSION = 2,
    OPCODE_MAP = 1,
    RESPONSE_BIT = 0x80,
    IP_BYTES = 16,
};

static_assert(24 + NAT_PCP_NONCE_BYTES + 4 + 4 + IP_BYTES == NAT_PCP_MAP_BYTES, "RFC 6887 s.11.1");

static const uint64_t second_ns = UINT64_C(1000000000);
static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* RFC 6887 s.5: always 128 bits, IPv4 as ::ffff:a.b.c.d.  "Any address" is all zero behind the prefix of the
 * family. */
static void write_ip(struct writer *w, uint8_t family, const uint8_t ip[IP_BYTES])
{
    if (family == NET_FAMILY_V4) {
        write_bytes(w, mapped_prefix, sizeof mapped_prefix);
        write_bytes(w, ip, 4);
    } else {
        write_bytes(w, ip, IP_BYTES);
    }
}

static struct net_addr read_ip(struct reader *r, uint16_t port)
{
    struct net_addr addr = {.family = NET_FAMILY_V6, .port = port};
    read_into(r, addr.ip, IP_BYTES);
    if (memcmp(addr.ip, mapped_prefix, sizeof mapped_prefix) != 0)
        return addr;
    struct net_addr v4 = {.family = NET_FAMILY_V4, .port = port};
    memcpy(v4.ip, addr.ip + sizeof mapped_prefix, 4);
    return v4;
}

void nat_pcp_encode(const struct nat_pcp_request *request, uint8_t out[NAT_PCP_MAP_BYTES])
{
    static const struct net_addr any = {.family = NET_FAMILY_NONE};
    ASSERT(request->client.family == NET_FAMILY_V4 || request->client.family == NET_FAMILY_V6);
    const struct net_addr *wanted =
        request->wanted.family == request->client.family ? &request->wanted : &any;
    struct writer w = writer_of(out, NAT_PCP_MAP_BYTES);
    write_u8(&w, VERSION);
    write_u8(&w, OPCODE_MAP);
    write_u16(&w, 0);
    write_u32(&w, request->lifetime_s);
    write_ip(&w, request->client.family, request->client.ip);
    write_bytes(&w, request->nonce, sizeof request->nonce);
    write_u8(&w, request->protocol);
    write_u8(&w, 0);
    write_u16(&w, 0);
    write_u16(&w, request->client.port);
    write_u16(&w, wanted->port);
    write_ip(&w, request->client.family, wanted->ip);
    ASSERT(writer_len(&w) == NAT_PCP_MAP_BYTES);
}

int nat_pcp_decode(struct bytes packet, struct nat_pcp_reply *out)
{
    struct reader r = reader_of(packet);
    uint8_t version = read_u8(&r);
    uint8_t opcode = read_u8(&r);
    if (r.failed)
        return ERR_TRUNCATED;
    if (packet.len > NAT_PCP_PACKET_MAX || (opcode & RESPONSE_BIT) == 0)
        return ERR_MALFORMED;
    struct nat_pcp_reply reply = {0};
    (void)read_u8(&r);
    reply.result = read_u8(&r);
    /* RFC 6887 s.9: an older server says so in its own version; NAT-PMP's is 0 (RFC 6886 s.3.5). */
    if (!r.failed && version <= VERSION && reply.result == NAT_PCP_UNSUPP_VERSION)
        return ERR_VERSION;
    if (version != VERSION)
        return ERR_MALFORMED;
    reply.lifetime_s = read_u32(&r);
    reply.epoch_s = read_u32(&r);
    (void)read_bytes(&r, 12);
    read_into(&r, reply.nonce, sizeof reply.nonce);
    reply.protocol = read_u8(&r);
    (void)read_bytes(&r, 3);
    reply.internal_port = read_u16(&r);
    uint16_t port = read_u16(&r);
    reply.external = read_ip(&r, port);
    if (r.failed)
        return ERR_TRUNCATED;
    if (opcode != (RESPONSE_BIT | OPCODE_MAP) || packet.len % 4 != 0) /* RFC 6887 s.8.3 */
        return ERR_MALFORMED;
    *out = reply; /* options that follow are for later RFCs: optional by their own rule, s.7.3 */
    return ERR_OK;
}

bool nat_pcp_answers(const struct nat_pcp_reply *reply, const struct nat_pcp_request *request)
{
    return memcmp(reply->nonce, request->nonce, sizeof request->nonce) == 0 &&
           reply->protocol == request->protocol && reply->internal_port == request->client.port;
}

uint64_t nat_pcp_wait_ns(const struct rng *rng, uint64_t previous_ns)
{
    const uint64_t first_ns = 3 * second_ns, longest_ns = 1024 * second_ns;
    uint64_t base_ns = first_ns;
    if (previous_ns > 0)
        base_ns = previous_ns > longest_ns / 2 ? longest_ns : 2 * previous_ns;
    return base_ns - base_ns / 10 + rng_below(rng, base_ns / 5 + 1);
}

uint64_t nat_pcp_renew_ns(const struct rng *rng, uint64_t left_ns)
{
    uint64_t wait_ns = left_ns / 2 + rng_below(rng, left_ns / 8 + 1);
    return wait_ns < 4 * second_ns ? 4 * second_ns : wait_ns;
}

bool nat_pcp_epoch_check(struct nat_pcp_epoch *epoch, uint64_t now_ns, uint32_t epoch_s)
{
    struct nat_pcp_epoch before = *epoch;
    *epoch = (struct nat_pcp_epoch){.heard_ns = now_ns, .epoch_s = epoch_s, .known = true};
    if (!before.known)
        return true;
    if ((uint64_t)epoch_s + 1 < before.epoch_s) /* one second back may be reordering */
        return false;
    uint64_t client_s = now_ns > before.heard_ns ? (now_ns - before.heard_ns) / second_ns : 0;
    uint64_t server_s = epoch_s > before.epoch_s ? epoch_s - before.epoch_s : 0;
    /* Clocks may differ by a sixteenth, and two seconds of rounding. */
    return client_s + 2 >= server_s - server_s / 16 && server_s + 2 >= client_s - client_s / 16;
}
