/* dunlin-mdns: announces a node on the local network and tells which others are announced.
 *
 * usage: dunlin-mdns ID NETWORK PORT      ID: 52 characters of base32, NETWORK: 8 hex digits
 *
 * Lines on standard output (net/uv/lan.c reads them):
 *     ready                    announced
 *     failed REASON            not announced (now)
 *     add ITEM ID IP PORT      ITEM, 0 to 511, stands for what follows until del or the next add
 *     del ITEM
 * Ends, with a goodbye to the network, at the end of standard input.
 *
 * A program of its own because whoever is on the LAN talks to libavahi-core, which answers some of what it
 * does not expect with a failed assertion, and follows chains of CNAMEs as deep as they go. */
#include <avahi-common/error.h>
#include <avahi-common/malloc.h>
#include <avahi-common/simple-watch.h>
#include <avahi-common/timeval.h>
#include <avahi-core/core.h>
#include <avahi-core/log.h>
#include <avahi-core/lookup.h>
#include <avahi-core/publish.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "node/helpers/confine.h"

enum {
    MEMORY_MAX = 128 << 20,
    SERVICES_MAX = 256, /* a node counts once an interface and protocol; further ones are not looked up */
    CACHE_MAX = 1024,   /* records an interface */
    ID_CHARS = 52,
    SHORT_CHARS = 10,
    NETWORK_CHARS = 8,
    FAMILIES = 2,
    NAME_SIZE = 64,
    OWN_MAX = 32,           /* addresses of ours */
    OWN_INTERVAL_MS = 2000, /* between two looks at them */
};

#define SERVICE "_dunlin._udp"

struct mdns;

struct service {
    bool used;
    struct mdns *mdns;
    AvahiIfIndex interface;
    AvahiProtocol protocol;
    char name[NAME_SIZE];
    struct {
        AvahiSServiceResolver *resolver;
        bool told;
    } families[FAMILIES];
};

struct own_address {
    AvahiIfIndex interface;
    AvahiAddress address;
};

struct mdns {
    AvahiSimplePoll *poll;
    AvahiServer *server;
    AvahiSEntryGroup *group;     /* the service */
    AvahiSEntryGroup *addresses; /* of our host name */
    AvahiTimeout *look;          /* at our addresses */
    struct own_address own[OWN_MAX];
    size_t own_count;
    AvahiSServiceBrowser *browser;
    const char *id, *network;
    uint16_t port;
    char name[NAME_SIZE];
    struct service services[SERVICES_MAX];
};

/* ---- what others announce ---- */

static unsigned item_of(const struct service *service, size_t family)
{
    return (unsigned)((size_t)(service - service->mdns->services) * FAMILIES + family);
}

static void untell(struct service *service, size_t family)
{
    if (service->families[family].told)
        (void)printf("del %u\n", item_of(service, family));
    service->families[family].told = false;
}

/* Copies the value of a TXT key when it is exactly chars long and made of the alphabet. */
static bool txt_get(AvahiStringList *txt, const char *key, const char *alphabet, size_t chars, char *out)
{
    AvahiStringList *entry = avahi_string_list_find(txt, key);
    size_t prefix = strlen(key) + 1;
    if (entry == NULL || avahi_string_list_get_size(entry) != prefix + chars)
        return false;
    const char *text = (const char *)avahi_string_list_get_text(entry);
    if (text[prefix - 1] != '=')
        return false;
    memcpy(out, text + prefix, chars);
    out[chars] = '\0';
    return strspn(out, alphabet) == chars;
}

static void tell(struct service *service, size_t family, const AvahiAddress *address, uint16_t port,
                 AvahiStringList *txt)
{
    char id[ID_CHARS + 1], network[NETWORK_CHARS + 1], ip[AVAHI_ADDRESS_STR_MAX];
    const struct mdns *mdns = service->mdns;
    bool ours = txt_get(txt, "id", "abcdefghijklmnopqrstuvwxyz234567", ID_CHARS, id) &&
                txt_get(txt, "net", "0123456789abcdef", NETWORK_CHARS, network) &&
                strcmp(network, mdns->network) == 0 && strcmp(id, mdns->id) != 0 && port != 0;
    if (!ours) {
        untell(service, family);
        return;
    }
    (void)avahi_address_snprint(ip, sizeof ip, address);
    (void)printf("add %u %s %s %u\n", item_of(service, family), id, ip, port);
    service->families[family].told = true;
}

static void on_resolved(AvahiSServiceResolver *resolver, AvahiIfIndex interface, AvahiProtocol protocol,
                        AvahiResolverEvent event, const char *name, const char *type, const char *domain,
                        const char *host, const AvahiAddress *address, uint16_t port, AvahiStringList *txt,
                        AvahiLookupResultFlags flags, void *user)
{
    struct service *service = user;
    (void)interface, (void)protocol, (void)name, (void)type, (void)domain, (void)host, (void)flags;
    size_t family = service->families[0].resolver == resolver ? 0 : 1;
    if (event == AVAHI_RESOLVER_FOUND && address != NULL)
        tell(service, family, address, port, txt);
    else
        untell(service, family);
}

static struct service *find_service(struct mdns *mdns, AvahiIfIndex interface, AvahiProtocol protocol,
                                    const char *name)
{
    for (size_t i = 0; i < SERVICES_MAX; i++) {
        struct service *service = &mdns->services[i];
        if (service->used && service->interface == interface && service->protocol == protocol &&
            strcmp(service->name, name) == 0)
            return service;
    }
    return NULL;
}

static void remove_service(struct service *service)
{
    for (size_t family = 0; family < FAMILIES; family++) {
        if (service->families[family].resolver != NULL)
            avahi_s_service_resolver_free(service->families[family].resolver);
        untell(service, family);
    }
    *service = (struct service){.used = false};
}

static void add_service(struct mdns *mdns, AvahiIfIndex interface, AvahiProtocol protocol, const char *name,
                        const char *type, const char *domain)
{
    struct service *service = NULL;
    for (size_t i = 0; i < SERVICES_MAX && service == NULL; i++)
        service = mdns->services[i].used ? NULL : &mdns->services[i];
    if (service == NULL || strlen(name) >= NAME_SIZE || find_service(mdns, interface, protocol, name) != NULL)
        return;
    *service = (struct service){.used = true, .mdns = mdns, .interface = interface, .protocol = protocol};
    (void)snprintf(service->name, sizeof service->name, "%s", name);
    for (size_t family = 0; family < FAMILIES; family++) {
        service->families[family].resolver = avahi_s_service_resolver_new(
            mdns->server, interface, protocol, name, type, domain,
            family == 0 ? AVAHI_PROTO_INET : AVAHI_PROTO_INET6, 0, on_resolved, service);
    }
}

static void on_browsed(AvahiSServiceBrowser *browser, AvahiIfIndex interface, AvahiProtocol protocol,
                       AvahiBrowserEvent event, const char *name, const char *type, const char *domain,
                       AvahiLookupResultFlags flags, void *user)
{
    struct mdns *mdns = user;
    (void)browser;
    if (event == AVAHI_BROWSER_NEW && (flags & AVAHI_LOOKUP_RESULT_LOCAL) == 0) {
        add_service(mdns, interface, protocol, name, type, domain);
    } else if (event == AVAHI_BROWSER_REMOVE) {
        struct service *service = find_service(mdns, interface, protocol, name);
        if (service != NULL)
            remove_service(service);
    }
}

/* ---- what we announce ---- */

static void failed(const char *what, int code)
{
    (void)printf("failed %s: %s\n", what, avahi_strerror(code));
}

/* "mmlcjrsoot-1f3a": enough of the id for people, and never twice on a network. */
static void new_name(struct mdns *mdns)
{
    uint16_t suffix = 0;
    (void)!getrandom(&suffix, sizeof suffix, 0);
    (void)snprintf(mdns->name, sizeof mdns->name, "%.*s-%04x", SHORT_CHARS, mdns->id, suffix);
}

static void announce(struct mdns *mdns);

static void on_group(AvahiServer *server, AvahiSEntryGroup *group, AvahiEntryGroupState state, void *user)
{
    struct mdns *mdns = user;
    (void)group;
    switch (state) {
    case AVAHI_ENTRY_GROUP_ESTABLISHED:
        (void)printf("ready\n");
        break;
    case AVAHI_ENTRY_GROUP_COLLISION:
        new_name(mdns);
        announce(mdns);
        break;
    case AVAHI_ENTRY_GROUP_FAILURE:
        failed("announcing", avahi_server_errno(server));
        avahi_simple_poll_quit(mdns->poll);
        break;
    case AVAHI_ENTRY_GROUP_UNCOMMITED:
    case AVAHI_ENTRY_GROUP_REGISTERING:
        break;
    }
}

static void announce(struct mdns *mdns)
{
    char id[ID_CHARS + 8], network[NETWORK_CHARS + 8];
    (void)snprintf(id, sizeof id, "id=%s", mdns->id);
    (void)snprintf(network, sizeof network, "net=%s", mdns->network);
    if (mdns->group == NULL)
        mdns->group = avahi_s_entry_group_new(mdns->server, on_group, mdns);
    if (mdns->group == NULL) {
        failed("announcing", avahi_server_errno(mdns->server));
        return;
    }
    avahi_s_entry_group_reset(mdns->group);
    int code =
        avahi_server_add_service(mdns->server, mdns->group, AVAHI_IF_UNSPEC, AVAHI_PROTO_UNSPEC, 0,
                                 mdns->name, SERVICE, NULL, NULL, mdns->port, "v=1", id, network, NULL);
    if (code == 0)
        code = avahi_s_entry_group_commit(mdns->group);
    if (code < 0)
        failed("announcing", code);
}

/* Our addresses as others may use them: link-local ones mean nothing without an interface. */
static size_t list_own(struct own_address own[OWN_MAX])
{
    struct ifaddrs *all;
    size_t count = 0;
    if (getifaddrs(&all) < 0)
        return 0;
    for (const struct ifaddrs *at = all; at != NULL && count < OWN_MAX; at = at->ifa_next) {
        struct own_address found;
        memset(&found, 0, sizeof found);
        if (at->ifa_addr == NULL || (at->ifa_flags & IFF_UP) == 0 || (at->ifa_flags & IFF_LOOPBACK) != 0)
            continue;
        if (at->ifa_addr->sa_family == AF_INET) {
            const struct sockaddr_in *in = (const void *)at->ifa_addr;
            found.address.proto = AVAHI_PROTO_INET;
            found.address.data.ipv4.address = in->sin_addr.s_addr;
        } else if (at->ifa_addr->sa_family == AF_INET6) {
            const struct sockaddr_in6 *in6 = (const void *)at->ifa_addr;
            if (IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr))
                continue;
            found.address.proto = AVAHI_PROTO_INET6;
            memcpy(found.address.data.ipv6.address, &in6->sin6_addr, sizeof in6->sin6_addr);
        } else {
            continue;
        }
        found.interface = (AvahiIfIndex)if_nametoindex(at->ifa_name);
        if (found.interface > 0)
            own[count++] = found;
    }
    freeifaddrs(all);
    return count;
}

static void on_addresses(AvahiServer *server, AvahiSEntryGroup *group, AvahiEntryGroupState state, void *user)
{
    struct mdns *mdns = user;
    (void)group;
    if (state != AVAHI_ENTRY_GROUP_COLLISION)
        return;
    new_name(mdns);
    (void)avahi_server_set_host_name(server, mdns->name);
}

/* Publishes our addresses when they are others than before.  libavahi-core would do it by itself, but always
 * with the reverse names, of which there is one an address: a second stack on this machine, as avahi-daemon
 * is, would see its own host name in conflict and change it. */
static void publish_own(struct mdns *mdns)
{
    struct own_address own[OWN_MAX];
    size_t count = list_own(own);
    if (count == mdns->own_count && memcmp(own, mdns->own, count * sizeof own[0]) == 0)
        return;
    if (mdns->addresses == NULL)
        mdns->addresses = avahi_s_entry_group_new(mdns->server, on_addresses, mdns);
    if (mdns->addresses == NULL)
        return;
    memcpy(mdns->own, own, count * sizeof own[0]);
    mdns->own_count = count;
    avahi_s_entry_group_reset(mdns->addresses);
    for (size_t i = 0; i < count; i++) {
        AvahiAddress address = own[i].address;
        (void)avahi_server_add_address(mdns->server, mdns->addresses, own[i].interface, AVAHI_PROTO_UNSPEC,
                                       AVAHI_PUBLISH_NO_REVERSE, NULL, &address);
    }
    if (!avahi_s_entry_group_is_empty(mdns->addresses))
        (void)avahi_s_entry_group_commit(mdns->addresses);
}

static void on_look(AvahiTimeout *timeout, void *user)
{
    struct mdns *mdns = user;
    struct timeval next;
    if (mdns->server != NULL && avahi_server_get_state(mdns->server) == AVAHI_SERVER_RUNNING)
        publish_own(mdns);
    (void)avahi_elapse_time(&next, OWN_INTERVAL_MS, 0);
    avahi_simple_poll_get(mdns->poll)->timeout_update(timeout, &next);
}

static void on_server(AvahiServer *server, AvahiServerState state, void *user)
{
    struct mdns *mdns = user;
    mdns->server = server; /* also called before avahi_server_new returns */
    switch (state) {
    case AVAHI_SERVER_RUNNING:
        mdns->own_count = 0; /* perhaps under a new name */
        publish_own(mdns);
        announce(mdns);
        break;
    case AVAHI_SERVER_COLLISION:
        new_name(mdns);
        (void)avahi_server_set_host_name(server, mdns->name);
        break;
    case AVAHI_SERVER_FAILURE:
        failed("multicast DNS", avahi_server_errno(server));
        avahi_simple_poll_quit(mdns->poll);
        break;
    case AVAHI_SERVER_INVALID:
    case AVAHI_SERVER_REGISTERING:
        if (mdns->group != NULL)
            avahi_s_entry_group_reset(mdns->group);
        if (mdns->addresses != NULL)
            avahi_s_entry_group_reset(mdns->addresses);
        break;
    }
}

/* ---- the process ---- */

static void on_input(AvahiWatch *watch, int fd, AvahiWatchEvent event, void *user)
{
    struct mdns *mdns = user;
    char ignored[64];
    (void)watch, (void)event;
    if (read(fd, ignored, sizeof ignored) <= 0)
        avahi_simple_poll_quit(mdns->poll);
}

static void quiet(AvahiLogLevel level, const char *text)
{
    (void)level, (void)text;
}

static int serve(struct mdns *mdns)
{
    AvahiServerConfig config;
    int code = 0;
    (void)avahi_server_config_init(&config);
    avahi_free(config.host_name);
    config.host_name = avahi_strdup(mdns->name); /* the machine's own name is nobody's business */
    config.publish_addresses = 0;                /* publish_own does */
    config.publish_hinfo = 0;
    config.publish_workstation = 0;
    config.publish_domain = 0;
    config.enable_wide_area = 0;
    config.n_cache_entries_max = CACHE_MAX;
    config.ratelimit_interval = 1000000;
    config.ratelimit_burst = 1000;
    mdns->server = avahi_server_new(avahi_simple_poll_get(mdns->poll), &config, on_server, mdns, &code);
    avahi_server_config_free(&config);
    if (mdns->server == NULL) {
        failed("multicast DNS", code);
        return 1;
    }
    mdns->browser = avahi_s_service_browser_new(mdns->server, AVAHI_IF_UNSPEC, AVAHI_PROTO_UNSPEC, SERVICE,
                                                NULL, 0, on_browsed, mdns);
    if (mdns->browser == NULL)
        failed("looking for others", avahi_server_errno(mdns->server));
    else
        (void)avahi_simple_poll_loop(mdns->poll);
    for (size_t i = 0; i < SERVICES_MAX; i++) {
        if (mdns->services[i].used)
            remove_service(&mdns->services[i]);
    }
    avahi_server_free(mdns->server); /* says goodbye */
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 4 || strlen(argv[1]) != ID_CHARS || strlen(argv[2]) != NETWORK_CHARS) {
        (void)fprintf(stderr, "usage: dunlin-mdns ID NETWORK PORT\n");
        return 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    if (confine_process(MEMORY_MAX, 0) < 0) {
        (void)printf("failed setting limits\n");
        return 1;
    }
    (void)!nice(10); /* a storm of packets must not take the processor from the node */
    avahi_set_log_function(quiet);
    struct mdns *mdns = calloc(1, sizeof *mdns);
    if (mdns == NULL)
        return 1;
    mdns->id = argv[1];
    mdns->network = argv[2];
    mdns->port = (uint16_t)atoi(argv[3]);
    new_name(mdns);
    mdns->poll = avahi_simple_poll_new();
    if (mdns->poll == NULL) {
        (void)printf("failed out of memory\n");
        return 1;
    }
    const AvahiPoll *poll = avahi_simple_poll_get(mdns->poll);
    (void)poll->watch_new(poll, STDIN_FILENO, AVAHI_WATCH_IN, on_input, mdns);
    struct timeval soon;
    (void)avahi_elapse_time(&soon, OWN_INTERVAL_MS, 0);
    mdns->look = poll->timeout_new(poll, &soon, on_look, mdns);
    int code = serve(mdns);
    avahi_simple_poll_free(mdns->poll);
    free(mdns);
    return code;
}
