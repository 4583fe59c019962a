/* dunlin-upnp: one request to a UPnP Internet Gateway Device, then the end.
 *
 * usage: dunlin-upnp add|delete UDP|TCP INNER_PORT OUTER_PORT LIFETIME_S URL|-
 *
 * Prints one line: "ok IP PORT LIFETIME_S URL" or "error NAME DETAIL" (node/portmap_upnp.c reads it).
 *
 * A program of its own because of what miniupnpc 2.2 does not bound: it collects discovery answers for as
 * long as any come, keeps an HTTP answer of any size in memory, and waits five seconds for each next byte of
 * it, over and over.  Here the memory has a limit, the parent kills us after a time, and so does an alarm. */
#include <arpa/inet.h>
#include <errno.h>
#include <miniupnpc/miniupnpc.h>
#include <miniupnpc/upnpcommands.h>
#include <miniupnpc/upnperrors.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "node/helpers/confine.h"

enum {
    MEMORY_MAX = 64 << 20,
    SECONDS_MAX = 10, /* the parent's limit is shorter; this one is for when there is no parent */
    DEVICES_MAX = 4,
    DISCOVERY_MS = 2000,
    PORT_TRIES = 4,
    HOST_SIZE = 16,
};

/* Error codes of UPnP IGD that mean something to us (WANIPConnection:1 s.2.4.16). */
enum {
    IGD_ACTION_FAILED = 501,
    IGD_CONFLICT = 718,
    IGD_SAME_PORT_ONLY = 724,
    IGD_PERMANENT_ONLY = 725,
    IGD_NO_PORT_MAPS = 728,
    IGD_CONFLICT_WITH_OTHER = 729,
};

struct request {
    bool add;
    const char *transport;
    const char *inner_port;
    unsigned outer_port;
    const char *lifetime_s;
    const char *url;
};

struct device {
    struct UPNPUrls urls;
    struct IGDdatas data;
    char own_ip[64]; /* ours, towards it */
};

static int fail(const char *name, int detail)
{
    (void)printf("error %s %d\n", name, detail);
    return 1;
}

/* "http://A.B.C.D[:port]/...": the numeric host.  Names are refused: they would have to be looked up. */
static bool host_of(const char *url, char host[HOST_SIZE])
{
    static const char scheme[] = "http://";
    if (url == NULL || strncmp(url, scheme, sizeof scheme - 1) != 0)
        return false;
    const char *at = url + sizeof scheme - 1;
    size_t len = strspn(at, "0123456789.");
    if (len == 0 || len >= HOST_SIZE || strchr(":/?", at[len]) == NULL)
        return false;
    memcpy(host, at, len);
    host[len] = '\0';
    struct in_addr ip;
    return inet_pton(AF_INET, host, &ip) == 1;
}

/* Whoever is on the LAN can answer a search with any URL: only private addresses are asked for. */
static bool is_private(const char *host)
{
    struct in_addr in;
    if (inet_pton(AF_INET, host, &in) != 1)
        return false;
    uint32_t ip = ntohl(in.s_addr);
    return ip >> 24 == 10 || ip >> 20 == (172U << 4 | 1) || ip >> 16 == (192U << 8 | 168) ||
           ip >> 16 == (169U << 8 | 254) || ip >> 22 == (100U << 2 | 1);
}

/* Reads the description at url.  The address to be controlled must be on the same host. */
static bool device_open(struct device *device, const char *url)
{
    char host[HOST_SIZE], control[HOST_SIZE];
    memset(device, 0, sizeof *device);
    if (!host_of(url, host))
        return false;
    if (UPNP_GetIGDFromUrl(url, &device->urls, &device->data, device->own_ip, sizeof device->own_ip) != 1)
        return false;
    if (device->data.first.servicetype[0] != '\0' && host_of(device->urls.controlURL, control) &&
        strcmp(host, control) == 0)
        return true;
    FreeUPNPUrls(&device->urls);
    return false;
}

static unsigned random_port(void)
{
    uint16_t value = 0;
    if (getrandom(&value, sizeof value, 0) != sizeof value)
        value = (uint16_t)getpid();
    return 20000 + value % 40000;
}

static const char *name_of(int code)
{
    switch (code) {
    case IGD_ACTION_FAILED:
    case IGD_CONFLICT:
    case IGD_NO_PORT_MAPS:
        return "full";
    case UPNPCOMMAND_HTTP_ERROR:
        return "timeout";
    case UPNPCOMMAND_INVALID_RESPONSE:
        return "malformed";
    default:
        return "refused";
    }
}

static int map(const struct device *device, const struct request *request, unsigned port, const char *lease)
{
    char outer[8];
    (void)snprintf(outer, sizeof outer, "%u", port);
    return UPNP_AddPortMapping(device->urls.controlURL, device->data.first.servicetype, outer,
                               request->inner_port, device->own_ip, "dunlin", request->transport, NULL,
                               lease);
}

/* Asks the router what the port leads to now.  One that cannot say is believed. */
static bool leads_here(const struct device *device, const struct request *request, unsigned port)
{
    char outer[8], client[64] = "", inner[16] = "", text[128] = "", enabled[16] = "", lease[32] = "";
    (void)snprintf(outer, sizeof outer, "%u", port);
    int code =
        UPNP_GetSpecificPortMappingEntry(device->urls.controlURL, device->data.first.servicetype, outer,
                                         request->transport, NULL, client, inner, text, enabled, lease);
    if (code != UPNPCOMMAND_SUCCESS)
        return true;
    return strcmp(client, device->own_ip) == 0 && strcmp(inner, request->inner_port) == 0;
}

static int add(const struct device *device, const struct request *request, const char *url)
{
    char ip[64] = "";
    struct in_addr parsed;
    const char *lease = request->lifetime_s;
    int code = UPNP_GetExternalIPAddress(device->urls.controlURL, device->data.first.servicetype, ip);
    if (code != UPNPCOMMAND_SUCCESS)
        return fail(code == IGD_ACTION_FAILED ? "no-address" : name_of(code), code);
    ip[sizeof ip - 1] = '\0';
    /* What routers say that have no address, or keep a private one of their provider's to themselves. */
    if (ip[0] == '\0' || strcmp(ip, "0.0.0.0") == 0)
        return fail("no-address", 0);
    if (inet_pton(AF_INET, ip, &parsed) != 1)
        return fail("malformed", 0);
    unsigned port = request->outer_port;
    for (int i = 0; i < PORT_TRIES; i++) {
        code = map(device, request, port, lease);
        if (code == IGD_PERMANENT_ONLY)
            lease = "0"; /* such a one stays until it is deleted */
        else if (code == IGD_CONFLICT || code == IGD_CONFLICT_WITH_OTHER)
            port = random_port();
        else if (code == IGD_SAME_PORT_ONLY)
            port = (unsigned)atoi(request->inner_port);
        else
            break;
    }
    if (code != UPNPCOMMAND_SUCCESS)
        return fail(name_of(code), code);
    if (!leads_here(device, request, port))
        return fail("malformed", 0);
    (void)printf("ok %s %u %s %s\n", ip, port, lease, url);
    return 0;
}

static int delete (const struct device *device, const struct request *request, const char *url)
{
    char outer[8];
    (void)snprintf(outer, sizeof outer, "%u", request->outer_port);
    if (!leads_here(device, request, request->outer_port))
        return fail("refused", 0); /* it has become somebody else's */
    int code = UPNP_DeletePortMapping(device->urls.controlURL, device->data.first.servicetype, outer,
                                      request->transport, NULL);
    if (code != UPNPCOMMAND_SUCCESS)
        return fail(name_of(code), code);
    (void)printf("ok 0.0.0.0 %u 0 %s\n", request->outer_port, url);
    return 0;
}

static int run_on(const struct device *device, const struct request *request, const char *url)
{
    return request->add ? add(device, request, url) : delete (device, request, url);
}

/* The first device found that has a description we can use does the work. */
static int run_discovered(const struct request *request)
{
    static const char *const types[] = {"urn:schemas-upnp-org:device:InternetGatewayDevice:1",
                                        "urn:schemas-upnp-org:device:InternetGatewayDevice:2", NULL};
    int error = 0, tried = 0;
    struct UPNPDev *devices =
        upnpDiscoverDevices(types, DISCOVERY_MS, NULL, NULL, UPNP_LOCAL_PORT_ANY, 0, 2, &error, 0);
    for (struct UPNPDev *at = devices; at != NULL && tried < DEVICES_MAX; at = at->pNext) {
        struct device device;
        char host[HOST_SIZE];
        if (!host_of(at->descURL, host) || !is_private(host) || strpbrk(at->descURL, " \r\n\t") != NULL)
            continue;
        tried++;
        if (!device_open(&device, at->descURL))
            continue;
        int code = run_on(&device, request, at->descURL);
        FreeUPNPUrls(&device.urls);
        freeUPNPDevlist(devices);
        return code;
    }
    freeUPNPDevlist(devices);
    return tried > 0 ? fail("malformed", 0)
                     : fail(error == UPNPDISCOVER_SUCCESS ? "timeout" : "unreachable", error);
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        (void)fprintf(stderr, "usage: dunlin-upnp add|delete UDP|TCP INNER OUTER LIFETIME URL|-\n");
        return 2;
    }
    if (confine_process(MEMORY_MAX, SECONDS_MAX) < 0)
        return fail("unsupported", errno);
    struct request request = {
        .add = strcmp(argv[1], "add") == 0,
        .transport = strcmp(argv[2], "TCP") == 0 ? "TCP" : "UDP",
        .inner_port = argv[3],
        .outer_port = (unsigned)(uint16_t)atoi(argv[4]),
        .lifetime_s = argv[5],
        .url = argv[6],
    };
    struct device device;
    if (strcmp(request.url, "-") != 0 && device_open(&device, request.url)) {
        int code = run_on(&device, &request, request.url);
        FreeUPNPUrls(&device.urls);
        return code;
    }
    return run_discovered(&request);
}
