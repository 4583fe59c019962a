/* NAT-PMP jobs by libnatpmp, whose socket does not block and which sends again by itself. */
#include <arpa/inet.h>
#include <string.h>

#include "node/portmap_internal.h"

static const uint64_t millisecond_ns = UINT64_C(1000000);

static int send_mapping(struct portmap_job *job)
{
    const struct nat_portmap_command *command = &job->command;
    bool add = command->op == NAT_PORTMAP_ADD;
    int protocol = command->transport == NAT_PORTMAP_UDP ? NATPMP_PROTOCOL_UDP : NATPMP_PROTOCOL_TCP;
    uint16_t wanted = command->external.family == NET_FAMILY_V4 ? command->external.port : command->port;
    job->natpmp.mapping = true;
    /* A delete has outer port and lifetime 0 (RFC 6886 s.3.4). */
    int result = sendnewportmappingrequest(&job->natpmp.library, protocol, command->port, add ? wanted : 0,
                                           add ? command->lifetime_s : 0);
    return result < 0 ? ERR_UNREACHABLE : ERR_AGAIN;
}

/* When the library wants to send again.  It goes by the wall clock, which may jump: hence the bounds. */
static void arm(struct portmap_job *job, uint64_t now_ns)
{
    struct timeval left = {0};
    uint64_t wait_ns = 250 * millisecond_ns;
    if (getnatpmprequesttimeout(&job->natpmp.library, &left) == 0) {
        wait_ns = 5 * millisecond_ns;
        if (left.tv_sec >= 0 && left.tv_sec < 4)
            wait_ns += (uint64_t)left.tv_sec * 1000 * millisecond_ns + (uint64_t)left.tv_usec * 1000;
    }
    job->wake_ns = now_ns + wait_ns;
}

int portmap_natpmp_start(struct portmap_job *job, const struct portmap_env *env, uint64_t now_ns)
{
    struct net_addr gateway = env->gateway;
    in_addr_t ip;
    job->natpmp.open = false;
    job->natpmp.mapping = false;
    if (gateway.family == NET_FAMILY_NONE && portmap_gateway4(&gateway) < 0)
        return ERR_UNREACHABLE;
    memcpy(&ip, gateway.ip, sizeof ip);
    /* The library knows no other port than 5351. */
    if (initnatpmp(&job->natpmp.library, 1, ip) < 0)
        return ERR_UNREACHABLE;
    job->natpmp.open = true;
    job->fd = job->natpmp.library.s;
    int result = ERR_AGAIN;
    if (job->command.op == NAT_PORTMAP_DELETE)
        result = send_mapping(job);
    else if (sendpublicaddressrequest(&job->natpmp.library) < 0)
        result = ERR_UNREACHABLE;
    arm(job, now_ns);
    return result;
}

static int error_of(int code)
{
    switch (code) {
    case NATPMP_ERR_UNSUPPORTEDVERSION:
        return ERR_VERSION;
    case NATPMP_ERR_UNSUPPORTEDOPCODE:
        return ERR_UNSUPPORTED;
    case NATPMP_ERR_NOTAUTHORIZED:
        return ERR_REFUSED;
    case NATPMP_ERR_NETWORKFAILURE:
        return ERR_NO_ADDRESS;
    case NATPMP_ERR_OUTOFRESOURCES:
        return ERR_FULL;
    case NATPMP_ERR_NOGATEWAYSUPPORT:
        return ERR_TIMEOUT;
    default:
        return ERR_IO;
    }
}

static int on_response(struct portmap_job *job, const natpmpresp_t *response)
{
    uint16_t wanted_type = job->command.transport == NAT_PORTMAP_UDP ? NATPMP_RESPTYPE_UDPPORTMAPPING
                                                                     : NATPMP_RESPTYPE_TCPPORTMAPPING;
    job->result.epoch_s = response->epoch;
    job->result.epoch_known = true;
    if (!job->natpmp.mapping) {
        if (response->type != NATPMP_RESPTYPE_PUBLICADDRESS)
            return ERR_MALFORMED;
        job->result.external = (struct net_addr){.family = NET_FAMILY_V4};
        memcpy(job->result.external.ip, &response->pnu.publicaddress.addr, 4);
        return send_mapping(job);
    }
    /* The library does not check how long an answer was, so these may be anything: the port decides whether
     * it is believed, and the dial-back whether it is used. */
    if (response->type != wanted_type || response->pnu.newportmapping.privateport != job->command.port)
        return ERR_MALFORMED;
    job->result.external.port = response->pnu.newportmapping.mappedpublicport;
    job->result.lifetime_s = response->pnu.newportmapping.lifetime;
    if (job->result.lifetime_s == 0)
        job->result.lifetime_s = 1; /* 0 is no endless one here but a deleted one */
    return ERR_OK;
}

int portmap_natpmp_step(struct portmap_job *job, uint64_t now_ns)
{
    natpmpresp_t response;
    memset(&response, 0, sizeof response);
    int code = readnatpmpresponseorretry(&job->natpmp.library, &response);
    int result = ERR_AGAIN;
    if (code == 0)
        result = on_response(job, &response);
    else if (code != NATPMP_TRYAGAIN && code != NATPMP_ERR_WRONGPACKETSOURCE)
        result = error_of(code);
    if (code != 0 && result != ERR_AGAIN)
        job->result.detail = code;
    arm(job, now_ns);
    return result;
}

void portmap_natpmp_close(struct portmap_job *job)
{
    if (job->natpmp.open)
        (void)closenatpmp(&job->natpmp.library);
    job->natpmp.open = false;
    job->fd = -1;
}
