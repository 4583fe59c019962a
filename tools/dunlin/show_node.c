/* How status, limit and stop look. */
#include <math.h>
#include <string.h>

#include "tools/dunlin/command.h"
#include "tools/dunlin/show.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"

static void show_identity(const json_t *result)
{
    text_field("node", "%s", value_text(result, "id", "-"));
    text_field("directory", "%s", value_text(result, "dir", "-"));
    text_field("network", "%s", value_text(result, "network", "-"));
    text_field("version", "%s, up %s", value_text(result, "version", "-"),
               text_seconds(value_number(result, "uptime_s", NAN)).text);
    text_list_field("listens on", json_object_get(result, "listen"));
    text_list_field("observed as", json_object_get(result, "observed"));
}

static void show_health(const json_t *result)
{
    const json_t *dht = json_object_get(result, "dht");
    const json_t *store = json_object_get(result, "store");
    const json_t *clock = json_object_get(result, "clock");
    text_field("peers", "%s connected, %s known", text_count(value_number(result, "connections", NAN)).text,
               text_count(value_number(result, "peers_known", NAN)).text);
    text_field("dht", "%s, %s contacts, %s records held", value_true(dht, "ready") ? "ready" : "joining",
               text_count(value_number(dht, "contacts", NAN)).text,
               text_count(value_number(dht, "records", NAN)).text);
    text_field("store", "%s, %s records, %s runs", value_text(store, "state", "-"),
               text_count(value_number(store, "records", NAN)).text,
               text_count(value_number(store, "runs", NAN)).text);
    text_field("clock", "%s ms from the median of %s peers",
               text_fixed(value_number(clock, "offset_ms", NAN), 0).text,
               text_count(value_number(clock, "peers", NAN)).text);
    if (value_present(clock, "warning"))
        text_field("  warning", "%s", value_text(clock, "warning", "-"));
    text_field("loop", "busy for at most %s ms at a time in the last minutes",
               text_fixed(value_number(json_object_get(result, "loop"), "longest_ms", NAN), 1).text);
}

static void show_limits(const json_t *limits)
{
    double up = value_number(limits, "up_bytes_s", 0);
    text_field("limits", "CPU %s %%, upload %s%s", text_fixed(value_number(limits, "cpu_pct", NAN), 0).text,
               up > 0 ? text_bytes(up).text : "unlimited", up > 0 ? "/s" : "");
}

static void show_traffic(const json_t *traffic)
{
    static const char *const classes[] = {"control", "state", "weights", "blobs"};
    text_field("traffic", "%s sent, %s received; %s and %s datagrams",
               text_bytes(value_number(traffic, "sent", NAN)).text,
               text_bytes(value_number(traffic, "received", NAN)).text,
               text_count(value_number(traffic, "datagrams_sent", NAN)).text,
               text_count(value_number(traffic, "datagrams_received", NAN)).text);
    const json_t *by_class = json_object_get(traffic, "by_class");
    for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++) {
        const json_t *one = json_object_get(by_class, classes[i]);
        char label[20];
        (void)snprintf(label, sizeof(label), "  %s", classes[i]);
        if (value_number(one, "sent", 0) + value_number(one, "received", 0) > 0)
            text_field(label, "%s sent, %s received", text_bytes(value_number(one, "sent", NAN)).text,
                       text_bytes(value_number(one, "received", NAN)).text);
    }
}

void show_status(const json_t *result)
{
    show_identity(result);
    show_health(result);
    show_limits(json_object_get(result, "limits"));
    show_traffic(json_object_get(result, "traffic"));
    text_counts_field("dropped", json_object_get(result, "dropped"));
    (void)printf("\n");
    show_runs_table(json_object_get(result, "runs"));
}

void show_limit(const json_t *result)
{
    show_limits(result);
}

void show_stop(const json_t *result)
{
    (void)result;
    (void)printf("The daemon saves its runs and stops.\n");
}
