/* How the NAT, a peer's trace and the doctor's verdict look. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tools/dunlin/command.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"

static const char *yes_no(const json_t *object, const char *key)
{
    return value_true(object, key) ? "yes" : "no";
}

static void show_observed(const json_t *result)
{
    const json_t *observed = json_object_get(result, "observed");
    struct table table;
    table_init(&table, "seen as|>agree|>of");
    for (size_t i = 0; i < json_array_size(observed); i++) {
        const json_t *one = json_array_get(observed, i);
        table_cell(&table, "%s", value_text(one, "addr", "-"));
        table_cell(&table, "%" PRIu64, value_count(one, "agree"));
        table_cell(&table, "%" PRIu64, value_count(one, "observers"));
    }
    table_finish(&table, "No peer has said yet how it sees this node.");
}

static void show_families(const json_t *result)
{
    const json_t *families = json_object_get(result, "families");
    struct table table;
    table_init(&table, "family|strangers reach us|port mapping|>step|lets in|>asked");
    for (size_t i = 0; i < json_array_size(families); i++) {
        const json_t *one = json_array_get(families, i);
        table_cell(&table, "%s%s", value_text(one, "family", "-"),
                   value_true(one, "local") ? "" : " (none here)");
        table_cell(&table, "%s", value_text(one, "reachable", "-"));
        table_cell(&table, "%s", value_text(one, "mapping", "-"));
        table_cell(&table, "%.0f", value_number(one, "step", 0));
        table_cell(&table, "%s", value_text(one, "filtering", "-"));
        table_cell(&table, "%" PRIu64, value_count(one, "observers"));
    }
    (void)printf("\n");
    table_finish(&table, "Nothing is known of any address family.");
}

static void show_published(const json_t *result)
{
    const json_t *published = json_object_get(result, "published");
    struct table table;
    table_init(&table, "told to others|reachable|why");
    for (size_t i = 0; i < json_array_size(published); i++) {
        const json_t *one = json_array_get(published, i);
        table_cell(&table, "%s", value_text(one, "addr", "-"));
        table_cell(&table, "%s", value_text(one, "reachable", "-"));
        table_cell(&table, "%s", value_text(one, "why", "of use in this network only"));
    }
    (void)printf("\n");
    table_finish(&table, "No address is told to others.");
}

static void show_mappings(const json_t *portmap)
{
    const json_t *mappings = json_object_get(portmap, "mappings");
    struct table table;
    table_init(&table, "router|for|outer address|standing|>expires in|last error");
    for (size_t i = 0; i < json_array_size(mappings); i++) {
        const json_t *one = json_array_get(mappings, i);
        table_cell(&table, "%s", value_text(one, "protocol", "-"));
        table_cell(&table, "%s", value_text(one, "transport", "-"));
        table_cell(&table, "%s", value_text(one, "addr", "-"));
        table_cell(&table, "%s", value_true(one, "held") ? value_text(one, "standing", "-") : "not held");
        table_cell(&table, "%s", text_seconds(value_number(one, "expires_s", NAN)).text);
        table_cell(&table, "%s", value_text(one, "error", "-"));
    }
    (void)printf("\n");
    table_finish(&table, value_true(portmap, "on") ? "No router answers to UPnP, NAT-PMP or PCP yet."
                                                   : "Port mapping is not running.");
}

static void show_relays(const json_t *result)
{
    const json_t *relays = json_object_get(result, "relays");
    struct table table;
    table_init(&table, "relay|address|our place|>sessions|>rtt ms|>rate|>left today|refused");
    for (size_t i = 0; i < json_array_size(relays); i++) {
        const json_t *one = json_array_get(relays, i);
        double rate = value_number(one, "rate_bytes_s", 0);
        table_cell(&table, "%s", text_id(value_text(one, "id", NULL)).text);
        table_cell(&table, "%s", value_text(one, "addr", "-"));
        table_cell(&table, "%s", value_true(one, "held") ? "held" : "-");
        table_cell(&table, "%" PRIu64, value_count(one, "sessions"));
        table_cell(&table, "%s", text_fixed(value_number(one, "rtt_ms", NAN), 1).text);
        table_cell(&table, "%s%s", rate > 0 ? text_bytes(rate).text : "-", rate > 0 ? "/s" : "");
        table_cell(&table, "%s", text_bytes(value_number(one, "volume_left", NAN)).text);
        table_cell(&table, "%s", value_text(one, "refused", "-"));
    }
    (void)printf("\n");
    table_finish(&table, "No relay is known.");
}

static void show_relaying(const json_t *relaying)
{
    const json_t *list = json_object_get(relaying, "list");
    struct table table;
    if (json_array_size(list) == 0)
        return;
    table_init(&table, "relayed for|address|place|>sessions|>from it|>to it|>dropped");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        table_cell(&table, "%s", text_id(value_text(one, "id", NULL)).text);
        table_cell(&table, "%s", value_text(one, "addr", "-"));
        table_cell(&table, "%s", yes_no(one, "reserved"));
        table_cell(&table, "%" PRIu64, value_count(one, "sessions"));
        table_cell(&table, "%s", text_bytes(value_number(one, "bytes_from", NAN)).text);
        table_cell(&table, "%s", text_bytes(value_number(one, "bytes_to", NAN)).text);
        table_cell(&table, "%" PRIu64, value_count(one, "dropped"));
    }
    (void)printf("\n");
    table_finish(&table, "");
}

void show_nat(const json_t *result)
{
    const json_t *tcp = json_object_get(result, "tcp");
    const json_t *portmap = json_object_get(result, "portmap");
    const json_t *punching = json_object_get(result, "punching");
    const json_t *relaying = json_object_get(result, "relaying");
    text_field("UDP port", "%" PRIu64 "%s", value_count(result, "port"),
               value_true(tcp, "udp_blocked") ? ", but no UDP gets through" : "");
    text_field("TCP links", "%" PRIu64 " in, %" PRIu64 " out%s", value_count(tcp, "incoming"),
               value_count(tcp, "outgoing"), value_true(tcp, "on") ? "" : " (switched off)");
    text_field("role", "%s", value_text(result, "role", "-"));
    text_field("punching", "%" PRIu64 " rounds, %" PRIu64 " succeeded, %" PRIu64 " failed",
               value_count(punching, "rounds"), value_count(punching, "succeeded"),
               value_count(punching, "failed"));
    text_field("relaying", "for %" PRIu64 " nodes, %s in all", value_count(relaying, "clients"),
               text_bytes(value_number(relaying, "bytes", NAN)).text);
    text_field("two NATs", "%s", yes_no(portmap, "double_nat"));
    (void)printf("\n");
    show_observed(result);
    show_families(result);
    show_published(result);
    show_mappings(portmap);
    show_relays(result);
    show_relaying(relaying);
}

static void show_log(const json_t *result)
{
    const json_t *log = json_object_get(result, "log");
    struct table table;
    table_init(&table, ">s ago|part|address|by|>rtt ms|what happened");
    for (size_t i = 0; i < json_array_size(log); i++) {
        const json_t *one = json_array_get(log, i);
        table_cell(&table, "%.3f", value_number(one, "age_s", 0));
        table_cell(&table, "%s", value_text(one, "part", "-"));
        table_cell(&table, "%s", value_text(one, "addr", "-"));
        table_cell(&table, "%s", value_text(one, "via", "-"));
        table_cell(&table, "%s", text_fixed(value_number(one, "rtt_ms", NAN), 1).text);
        table_cell(&table, "%s", value_text(one, "text", "-"));
    }
    (void)printf("\n");
    table_finish(&table, "Nothing was tried yet.");
}

void show_trace(const json_t *result)
{
    const json_t *candidates = json_object_get(result, "candidates");
    struct table table;
    text_field("peer", "%s", value_text(result, "id", "-"));
    text_field("connected", "%s", yes_no(result, "connected"));
    text_field("path", "%s", value_text(result, "path", "-"));
    if (value_number(result, "punch_ready_s", 0) > 0)
        text_field("next punch", "in %s", text_seconds(value_number(result, "punch_ready_s", NAN)).text);
    (void)printf("\n");
    table_init(&table, "address|by|kind|state|>rtt ms|>unanswered");
    for (size_t i = 0; i < json_array_size(candidates); i++) {
        const json_t *one = json_array_get(candidates, i);
        table_cell(&table, "%s", value_text(one, "addr", "-"));
        table_cell(&table, "%s", value_text(one, "via", "-"));
        table_cell(&table, "%s", value_text(one, "kind", "-"));
        table_cell(&table, "%s", value_text(one, "state", "-"));
        table_cell(&table, "%s", text_fixed(value_number(one, "rtt_ms", NAN), 1).text);
        table_cell(&table, "%" PRIu64, value_count(one, "unanswered"));
    }
    table_finish(&table, "No address of this peer is known.");
    show_log(result);
}

void show_doctor(const json_t *result)
{
    const json_t *lines = json_object_get(result, "lines");
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *one = json_array_get(lines, i);
        text_field(value_text(one, "level", "-"), "%s", value_text(one, "text", "-"));
    }
    (void)printf("\n");
    text_field("verdict", "%s", value_text(result, "verdict", "-"));
    if (value_present(result, "remedy"))
        text_field(value_count(result, "code") == 0 ? "even better" : "try this", "%s",
                   value_text(result, "remedy", "-"));
}

int judge_doctor(const json_t *result)
{
    uint64_t code = value_count(result, "code");
    return code <= 2 ? (int)code : EXIT_FAILED;
}
