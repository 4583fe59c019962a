/* Addresses: text and wire forms round-trip, every malformed form is refused and leaves the output alone,
 * scopes follow the RFCs at the edges of every range. */
#include <criterion/criterion.h>
#include <string.h>

#include "net/addr.h"

#define ID_TEXT "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static struct net_addr parsed(const char *text)
{
    struct net_addr addr;
    cr_assert_eq(net_addr_parse(text, &addr), ERR_OK, "%s", text);
    return addr;
}

Test(addr, text_round_trip)
{
    static const char *const texts[] = {"192.0.2.1:4242", "0.0.0.0:0",          "255.255.255.255:65535",
                                        "[::1]:1",        "[2001:db8::1]:4242", "[fe80::a:b:c:d]:9"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char again[NET_ADDR_TEXT_SIZE];
        struct net_addr addr = parsed(texts[i]);
        net_addr_format(&addr, again);
        cr_expect_str_eq(again, texts[i]);
    }
}

Test(addr, longest_text_fits)
{
    char text[NET_ADDR_TEXT_SIZE];
    struct net_addr addr = {.family = NET_FAMILY_V6, .port = 65535};
    memset(addr.ip, 0xfa, sizeof addr.ip);
    net_addr_format(&addr, text);
    cr_expect_str_eq(text, "[fafa:fafa:fafa:fafa:fafa:fafa:fafa:fafa]:65535");
}

Test(addr, malformed_text_is_refused_and_output_untouched)
{
    static const char *const texts[] = {
        "",           ":",          "192.0.2.1",       "192.0.2.1:",      "192.0.2.1:65536",
        "192.0.2:1",  "1.2.3.4:-1", "1.2.3.4:+1",      "1.2.3.4: 1",      "1.2.3.4:01",
        "1.2.3.4:1 ", "::1:4242",   "[::1]",           "[::1]:",          "[::1:4242",
        "::1]:4242",  "[]:4242",    "[[::1]]:1",       "[1.2.3.4]:4242",  "[::ffff:192.0.2.1]:4242",
        "name:4242",  "[::g]:1",    "1.2.3.4.5:4242",  "[fe80::1%lo]:42", "1.2.3.4:99999999999",
        "[:1",        "]:1",        "01.2.3.4.5.6.7:1"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct net_addr addr;
        struct net_addr before;
        memset(&addr, 0x5a, sizeof addr);
        before = addr;
        cr_expect_eq(net_addr_parse(texts[i], &addr), ERR_MALFORMED, "%s", texts[i]);
        cr_expect_arr_eq(&addr, &before, sizeof addr);
    }
}

Test(addr, wire_round_trip_and_lengths)
{
    uint8_t wire[NET_ADDR_WIRE_MAX + 1] = {0};
    struct net_addr out;
    struct net_addr v4 = parsed("192.0.2.1:4242");
    struct net_addr v6 = parsed("[2001:db8::1]:4242");
    cr_assert_eq(net_addr_encode(&v4, wire), 6);
    cr_expect_arr_eq(wire, ((uint8_t[]){192, 0, 2, 1, 0x10, 0x92}), 6);
    cr_assert_eq(net_addr_decode(bytes_of(wire, 6), &out), ERR_OK);
    cr_expect(net_addr_equal(&out, &v4));
    cr_assert_eq(net_addr_encode(&v6, wire), 18);
    cr_assert_eq(net_addr_decode(bytes_of(wire, 18), &out), ERR_OK);
    cr_expect(net_addr_equal(&out, &v6));
    for (size_t len = 0; len <= sizeof wire; len++) {
        if (len != 6 && len != 18)
            cr_expect_eq(net_addr_decode(bytes_of(wire, len), &out), ERR_MALFORMED);
    }
    memcpy(wire, "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\2\1\0\1", 18);
    cr_expect_eq(net_addr_decode(bytes_of(wire, 18), &out), ERR_MALFORMED);
}

Test(addr, scopes_at_the_edges)
{
    static const struct {
        const char *text;
        enum net_scope scope;
    } rows[] = {
        {"127.0.0.1:1", NET_SCOPE_LOOPBACK},
        {"127.255.255.255:1", NET_SCOPE_LOOPBACK},
        {"128.0.0.1:1", NET_SCOPE_GLOBAL},
        {"0.0.0.1:1", NET_SCOPE_INVALID},
        {"10.255.0.1:1", NET_SCOPE_PRIVATE},
        {"11.0.0.1:1", NET_SCOPE_GLOBAL},
        {"172.15.255.1:1", NET_SCOPE_GLOBAL},
        {"172.16.0.1:1", NET_SCOPE_PRIVATE},
        {"172.31.255.1:1", NET_SCOPE_PRIVATE},
        {"172.32.0.1:1", NET_SCOPE_GLOBAL},
        {"192.167.0.1:1", NET_SCOPE_GLOBAL},
        {"192.168.0.1:1", NET_SCOPE_PRIVATE},
        {"100.63.0.1:1", NET_SCOPE_GLOBAL},
        {"100.64.0.1:1", NET_SCOPE_PRIVATE},
        {"100.127.0.1:1", NET_SCOPE_PRIVATE},
        {"100.128.0.1:1", NET_SCOPE_GLOBAL},
        {"169.254.1.1:1", NET_SCOPE_LINK},
        {"223.255.255.1:1", NET_SCOPE_GLOBAL},
        {"224.0.0.1:1", NET_SCOPE_INVALID},
        {"255.255.255.255:1", NET_SCOPE_INVALID},
        {"192.0.2.1:0", NET_SCOPE_INVALID},
        {"[::1]:1", NET_SCOPE_LOOPBACK},
        {"[::]:1", NET_SCOPE_INVALID},
        {"[::2]:1", NET_SCOPE_INVALID},
        {"[fe80::1]:1", NET_SCOPE_LINK},
        {"[febf::1]:1", NET_SCOPE_LINK},
        {"[fec0::1]:1", NET_SCOPE_PRIVATE},
        {"[fc00::1]:1", NET_SCOPE_PRIVATE},
        {"[fdff::1]:1", NET_SCOPE_PRIVATE},
        {"[ff02::1]:1", NET_SCOPE_INVALID},
        {"[2001:db8::1]:4242", NET_SCOPE_GLOBAL},
        {"[64:ff9b::1]:1", NET_SCOPE_GLOBAL},
        {"[2001:db8::1]:0", NET_SCOPE_INVALID},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct net_addr addr = parsed(rows[i].text);
        cr_expect_eq(net_addr_scope(&addr), rows[i].scope, "%s", rows[i].text);
    }
    cr_expect_eq(net_addr_scope(&(struct net_addr){.port = 1}), NET_SCOPE_INVALID);
}

Test(addr, groups)
{
    static const struct {
        const char *a;
        const char *b;
        bool same;
    } rows[] = {
        {"192.0.2.1:1", "192.0.2.255:9", true},
        {"192.0.2.1:1", "192.0.3.1:1", false},
        {"[2001:db8:0:1200::1]:1", "[2001:db8:0:12ff::9]:1", true},
        {"[2001:db8:0:1200::1]:1", "[2001:db8:0:1300::1]:1", false},
        {"[c000:200::]:1", "192.0.2.0:1", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct net_addr a = parsed(rows[i].a);
        struct net_addr b = parsed(rows[i].b);
        cr_expect_eq(net_addr_same_group(&a, &b), rows[i].same, "%s", rows[i].a);
        cr_expect_eq(net_addr_same_group(&b, &a), rows[i].same, "%s", rows[i].b);
    }
}

Test(addr, seeds)
{
    struct net_seed seed;
    const char *why;
    cr_assert_eq(net_seed_parse(ID_TEXT "@node-1.example.org:4242", &seed, &why), ERR_OK);
    cr_expect_str_eq(seed.host, "node-1.example.org");
    cr_expect_eq(seed.port, 4242);
    cr_assert_eq(net_seed_parse(ID_TEXT "@192.0.2.1:1", &seed, &why), ERR_OK);
    cr_expect_str_eq(seed.host, "192.0.2.1");
    cr_assert_eq(net_seed_parse(ID_TEXT "@[2001:db8::1]:65535", &seed, &why), ERR_OK);
    cr_expect_str_eq(seed.host, "2001:db8::1");
}

Test(addr, bad_seeds_say_which_part)
{
    static const char *const texts[] = {"node:1",
                                        "short@node:1",
                                        ID_TEXT "a@node:1",
                                        ID_TEXT "@node",
                                        ID_TEXT "@node:0",
                                        ID_TEXT "@:1",
                                        ID_TEXT "@no de:1",
                                        ID_TEXT "@2001:db8::1:42",
                                        ID_TEXT "@[node]:1",
                                        ID_TEXT "@a..b:1",
                                        ID_TEXT "@-a:1",
                                        "0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@node:1",
                                        ""};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct net_seed seed = {.port = 77};
        const char *why = NULL;
        cr_expect_eq(net_seed_parse(texts[i], &seed, &why), ERR_MALFORMED, "%s", texts[i]);
        cr_expect_not_null(why, "%s", texts[i]);
        cr_expect_eq(seed.port, 77);
    }
    char host[400];
    memset(host, 'a', sizeof host);
    memcpy(host, ID_TEXT "@", ID_TEXT_CHARS + 1);
    memcpy(host + ID_TEXT_CHARS + 1 + NET_HOST_SIZE, ":1", 3);
    struct net_seed seed;
    const char *why;
    cr_expect_eq(net_seed_parse(host, &seed, &why), ERR_MALFORMED);
    memcpy(host + ID_TEXT_CHARS + NET_HOST_SIZE, ":1", 3);
    cr_expect_eq(net_seed_parse(host, &seed, &why), ERR_OK);
}
