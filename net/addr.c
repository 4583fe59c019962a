#include "net/addr.h"

#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <string.h>

static const uint8_t v4_mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* ::ffff:a.b.c.d is the IPv4 address a.b.c.d under a second name; one peer must not appear under two. */
static bool is_v4_mapped(const uint8_t ip[16])
{
    return memcmp(ip, v4_mapped_prefix, sizeof v4_mapped_prefix) == 0;
}

static size_t ip_len(const struct net_addr *addr)
{
    return addr->family == NET_FAMILY_V4 ? 4 : 16;
}

bool net_addr_equal(const struct net_addr *a, const struct net_addr *b)
{
    return a->family == b->family && a->port == b->port && a->via == b->via &&
           memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

bool net_via_is_aux(uint16_t via)
{
    return via >= NET_VIA_AUX_FIRST && via <= NET_VIA_AUX_LAST;
}

bool net_via_is_tcp(uint16_t via)
{
    return via >= NET_VIA_TCP_FIRST && via <= NET_VIA_TCP_LAST;
}

bool net_via_is_relay(uint16_t via)
{
    return via >= NET_VIA_RELAY_FIRST && via <= NET_VIA_RELAY_LAST;
}

static enum net_scope scope_v4(const uint8_t ip[4])
{
    if (ip[0] == 0 || ip[0] >= 224) /* "this network", multicast, reserved and broadcast */
        return NET_SCOPE_INVALID;
    if (ip[0] == 127)
        return NET_SCOPE_LOOPBACK;
    if (ip[0] == 169 && ip[1] == 254)
        return NET_SCOPE_LINK;
    if (ip[0] == 10 || (ip[0] == 172 && (ip[1] & 0xf0) == 16) || (ip[0] == 192 && ip[1] == 168) ||
        (ip[0] == 100 && (ip[1] & 0xc0) == 64))
        return NET_SCOPE_PRIVATE;
    return NET_SCOPE_GLOBAL;
}

static enum net_scope scope_v6(const uint8_t ip[16])
{
    static const uint8_t zero[15] = {0};
    if (memcmp(ip, zero, sizeof zero) == 0)
        return ip[15] == 1 ? NET_SCOPE_LOOPBACK : NET_SCOPE_INVALID;
    if (ip[0] == 0xff || is_v4_mapped(ip) || memcmp(ip, zero, 12) == 0)
        return NET_SCOPE_INVALID; /* multicast; IPv4 in disguise (RFC 4291 s.2.5.5) */
    if (ip[0] == 0xfe && (ip[1] & 0xc0) == 0x80)
        return NET_SCOPE_LINK;
    if ((ip[0] & 0xfe) == 0xfc || (ip[0] == 0xfe && (ip[1] & 0xc0) == 0xc0))
        return NET_SCOPE_PRIVATE; /* RFC 4193, and the deprecated site-local range of RFC 3879 */
    return NET_SCOPE_GLOBAL;
}

enum net_scope net_addr_scope(const struct net_addr *addr)
{
    if (addr->port == 0)
        return NET_SCOPE_INVALID;
    if (addr->family == NET_FAMILY_V4)
        return scope_v4(addr->ip);
    if (addr->family == NET_FAMILY_V6)
        return scope_v6(addr->ip);
    return NET_SCOPE_INVALID;
}

void net_addr_format(const struct net_addr *addr, char text[NET_ADDR_TEXT_SIZE])
{
    char ip[INET6_ADDRSTRLEN];
    static_assert(INET6_ADDRSTRLEN + sizeof "[]:65535" <= NET_ADDR_TEXT_SIZE, "text form must fit");
    if (addr->family == NET_FAMILY_NONE) {
        (void)snprintf(text, NET_ADDR_TEXT_SIZE, "none");
        return;
    }
    bool v4 = addr->family == NET_FAMILY_V4;
    const char *done = inet_ntop(v4 ? AF_INET : AF_INET6, addr->ip, ip, sizeof ip);
    ASSERT(done != NULL);
    (void)snprintf(text, NET_ADDR_TEXT_SIZE, v4 ? "%s:%u" : "[%s]:%u", ip, (unsigned)addr->port);
}

/* Decimal port 1..65535 (0 too when allowed by the caller's later checks), digits only, no leading zero. */
static int parse_port(const char *text, uint16_t *out)
{
    uint32_t value = 0;
    size_t digits = strlen(text);
    if (digits == 0 || digits > 5 || (digits > 1 && text[0] == '0'))
        return ERR_MALFORMED;
    for (size_t i = 0; i < digits; i++) {
        if (text[i] < '0' || text[i] > '9')
            return ERR_MALFORMED;
        value = value * 10 + (uint32_t)(text[i] - '0');
    }
    if (value > UINT16_MAX)
        return ERR_MALFORMED;
    *out = (uint16_t)value;
    return ERR_OK;
}

/* Splits host:port or [host]:port; host loses its brackets, *bracketed says whether it had them. */
static int split_host_port(const char *text, char *host, size_t host_cap, bool *bracketed, uint16_t *port)
{
    const char *colon = strrchr(text, ':');
    if (colon == NULL)
        return ERR_MALFORMED;
    const char *start = text;
    const char *end = colon;
    *bracketed = text[0] == '[';
    if (*bracketed) {
        if (end == text || end[-1] != ']')
            return ERR_MALFORMED;
        start++;
        end--;
    }
    size_t len = (size_t)(end - start);
    if (end <= start || len >= host_cap || memchr(start, ']', len) != NULL || memchr(start, '[', len) != NULL)
        return ERR_MALFORMED;
    memcpy(host, start, len);
    host[len] = '\0';
    return parse_port(colon + 1, port);
}

/* Numeric address into addr; bracketed decides the family, as in a URL (RFC 3986 s.3.2.2). */
static int parse_ip(const char *host, bool bracketed, struct net_addr *addr)
{
    *addr = (struct net_addr){.family = bracketed ? NET_FAMILY_V6 : NET_FAMILY_V4};
    if (inet_pton(bracketed ? AF_INET6 : AF_INET, host, addr->ip) != 1)
        return ERR_MALFORMED;
    if (bracketed && is_v4_mapped(addr->ip))
        return ERR_MALFORMED;
    return ERR_OK;
}

int net_addr_parse(const char *text, struct net_addr *out)
{
    char host[INET6_ADDRSTRLEN];
    bool bracketed;
    uint16_t port;
    struct net_addr parsed;
    int rc = split_host_port(text, host, sizeof host, &bracketed, &port);
    if (rc != ERR_OK)
        return rc;
    rc = parse_ip(host, bracketed, &parsed);
    if (rc != ERR_OK)
        return rc;
    parsed.port = port;
    *out = parsed;
    return ERR_OK;
}

size_t net_addr_encode(const struct net_addr *addr, uint8_t out[NET_ADDR_WIRE_MAX])
{
    ASSERT(addr->family == NET_FAMILY_V4 || addr->family == NET_FAMILY_V6);
    struct writer w = writer_of(out, NET_ADDR_WIRE_MAX);
    write_bytes(&w, addr->ip, ip_len(addr));
    write_u16(&w, addr->port);
    return writer_len(&w);
}

int net_addr_decode(struct bytes wire, struct net_addr *out)
{
    if (wire.len != 6 && wire.len != 18)
        return ERR_MALFORMED;
    struct net_addr decoded = {.family = wire.len == 6 ? NET_FAMILY_V4 : NET_FAMILY_V6};
    struct reader r = reader_of(wire);
    read_into(&r, decoded.ip, ip_len(&decoded));
    decoded.port = read_u16(&r);
    ASSERT(reader_done(&r));
    if (decoded.family == NET_FAMILY_V6 && is_v4_mapped(decoded.ip))
        return ERR_MALFORMED;
    *out = decoded;
    return ERR_OK;
}

bool net_addr_same_group(const struct net_addr *a, const struct net_addr *b)
{
    size_t prefix = a->family == NET_FAMILY_V4 ? 3 : 7;
    return a->family == b->family && memcmp(a->ip, b->ip, prefix) == 0;
}

/* A host name as DNS takes it (RFC 1123 s.2.1), plus the underscore that some internal zones use. */
static bool is_host_name(const char *host)
{
    if (host[0] == '.' || host[0] == '-')
        return false;
    for (const char *at = host; *at != '\0'; at++) {
        bool letter = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z');
        bool digit = *at >= '0' && *at <= '9';
        if (!letter && !digit && *at != '-' && *at != '.' && *at != '_')
            return false;
        if (at[0] == '.' && at[1] == '.')
            return false;
    }
    return true;
}

int net_seed_parse(const char *text, struct net_seed *out, const char **why)
{
    struct net_seed parsed;
    struct net_addr numeric;
    char id_text[ID_TEXT_SIZE];
    bool bracketed;
    const char *at = strchr(text, '@');
    *why = "a seed is ID@host:port";
    if (at == NULL)
        return ERR_MALFORMED;
    *why = "the ID before @ must be 52 characters of a-z and 2-7";
    if (at - text != ID_TEXT_CHARS)
        return ERR_MALFORMED;
    memcpy(id_text, text, ID_TEXT_CHARS);
    id_text[ID_TEXT_CHARS] = '\0';
    if (id_parse(id_text, &parsed.id) != ERR_OK)
        return ERR_MALFORMED;
    *why = "after @ comes host:port, an IPv6 address in brackets, the port a number from 1 to 65535";
    if (split_host_port(at + 1, parsed.host, sizeof parsed.host, &bracketed, &parsed.port) != ERR_OK ||
        parsed.port == 0)
        return ERR_MALFORMED;
    *why = "the host is neither a name, an IPv4 address nor an IPv6 address in brackets";
    if (bracketed ? parse_ip(parsed.host, true, &numeric) != ERR_OK : !is_host_name(parsed.host))
        return ERR_MALFORMED;
    *why = NULL;
    *out = parsed;
    return ERR_OK;
}
