/* How peers, pings and the DHT look. */
#include <inttypes.h>
#include <math.h>

#include "tools/dunlin/command.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"

static struct text_short milliseconds(const json_t *object, const char *key)
{
    double ms = value_number(object, key, NAN);
    return text_fixed(ms, ms < 10 ? 2 : 0);
}

static void peer_row(struct table *table, const json_t *peer)
{
    bool connected = value_true(peer, "connected");
    table_cell(table, "%s", text_id(value_text(peer, "id", NULL)).text);
    table_cell(table, "%s", value_text(peer, "addr", "-"));
    table_cell(table, "%s", value_text(peer, "path", "-"));
    table_cell(table, "%s", milliseconds(peer, "rtt_ms").text);
    table_cell(table, "%s", connected ? value_true(peer, "client") ? "we dialled" : "it dialled" : "no");
    table_cell(table, "%s", connected ? text_seconds(value_number(peer, "since_s", NAN)).text : "-");
    table_cell(table, "%s", text_bytes(value_number(peer, "sent", NAN)).text);
    table_cell(table, "%s", text_bytes(value_number(peer, "received", NAN)).text);
    const json_t *runs = json_object_get(peer, "runs");
    table_cell(table, "%.0f",
               json_is_array(runs) ? (double)json_array_size(runs) : value_number(peer, "runs", 0));
    table_cell(table, "%s", text_seconds(value_number(peer, "last_seen_s", NAN)).text);
}

void show_peers(const json_t *result)
{
    const json_t *peers = json_object_get(result, "peers");
    struct table table;
    table_init(&table, "id|address|path|>rtt ms|connected|>for|>sent|>received|>runs|>last seen");
    for (size_t i = 0; i < json_array_size(peers); i++)
        peer_row(&table, json_array_get(peers, i));
    table_finish(&table,
                 "No peers yet: give dunlind a seed list (--seeds), or let it run on a LAN with others.");
}

void show_peer(const json_t *result)
{
    text_field("peer", "%s", value_text(result, "id", "-"));
    text_field("address", "%s (%s)", value_text(result, "addr", "-"), value_text(result, "path", "-"));
    text_field("connected", "%s", value_true(result, "connected") ? "yes" : "no");
    text_field("rtt", "%s ms", milliseconds(result, "rtt_ms").text);
    text_field("traffic", "%s sent, %s received", text_bytes(value_number(result, "sent", NAN)).text,
               text_bytes(value_number(result, "received", NAN)).text);
    text_field("last seen", "%s ago", text_seconds(value_number(result, "last_seen_s", NAN)).text);
    const json_t *candidates = json_object_get(result, "candidates");
    struct table table;
    table_init(&table, "address|kind|state|>rtt ms");
    for (size_t i = 0; i < json_array_size(candidates); i++) {
        const json_t *one = json_array_get(candidates, i);
        table_cell(&table, "%s", value_text(one, "addr", "-"));
        table_cell(&table, "%s", value_text(one, "kind", "-"));
        table_cell(&table, "%s", value_text(one, "state", "-"));
        table_cell(&table, "%s", milliseconds(one, "rtt_ms").text);
    }
    (void)printf("\n");
    table_finish(&table, "No address of this peer is known.");
}

void show_ping(const json_t *result)
{
    (void)printf("answer from %s at ", text_id(value_text(result, "id", NULL)).text);
    text_write_safe(stdout, value_text(result, "addr", "-"), false);
    (void)printf(": number %" PRIu64 ", %s ms\n", value_count(result, "seq"),
                 milliseconds(result, "rtt_ms").text);
}

void show_dht_table(const json_t *result)
{
    const json_t *contacts = json_object_get(result, "contacts");
    struct table table;
    table_init(&table, "id|address|>bucket|>age|state");
    for (size_t i = 0; i < json_array_size(contacts); i++) {
        const json_t *one = json_array_get(contacts, i);
        table_cell(&table, "%s", text_id(value_text(one, "id", NULL)).text);
        table_cell(&table, "%s", value_text(one, "addr", "-"));
        table_cell(&table, "%" PRIu64, value_count(one, "bucket"));
        table_cell(&table, "%s", text_seconds(value_number(one, "age_s", NAN)).text);
        table_cell(&table, "%s", value_text(one, "state", "-"));
    }
    table_finish(&table, "The table is empty: no other node has answered yet.");
}

void show_dht_find(const json_t *result)
{
    text_list_field("addresses", json_object_get(result, "addresses"));
    text_field("lookup", "%" PRIu64 " requests, %s ms", value_count(result, "requests"),
               milliseconds(result, "ms").text);
}

void show_dht_providers(const json_t *result)
{
    const json_t *providers = json_object_get(result, "providers");
    for (size_t i = 0; i < json_array_size(providers); i++) {
        const json_t *one = json_array_get(providers, i);
        text_list_field(text_id(value_text(one, "id", NULL)).text, json_object_get(one, "addresses"));
    }
    if (json_array_size(providers) == 0)
        (void)printf("Nobody announces this key.\n");
}

void show_dht_provide(const json_t *result)
{
    if (value_count(result, "stored") == 0)
        (void)printf("Announced before; renewed for as long as the daemon runs.\n");
    else
        (void)printf("Announced to %" PRIu64 " nodes; renewed for as long as the daemon runs.\n",
                     value_count(result, "stored"));
}
