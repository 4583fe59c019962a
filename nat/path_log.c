/* What was tried to reach a wanted peer, for people: the last entries of each, and the words for them. */
#include "nat/path_internal.h"

void path_logs_init(struct nat_path *path)
{
    size_t count = path->config.peers_max;
    for (size_t i = 0; i < count; i++) {
        path->logs[i].ring = ring_init(NAT_PATH_TRACE_MAX);
        path->logs[i].next_free = i + 1 < count ? (uint16_t)(i + 1) : PATH_NONE;
    }
    path->log_free_head = 0;
}

uint16_t path_log_take(struct nat_path *path)
{
    uint16_t log = path->log_free_head;
    ASSERT(log != PATH_NONE); /* as many as peers may be wanted */
    path->log_free_head = path->logs[log].next_free;
    path->logs[log].ring = ring_init(NAT_PATH_TRACE_MAX);
    return log;
}

void path_log_give(struct nat_path *path, uint16_t log)
{
    ASSERT(log < path->config.peers_max);
    path->logs[log].next_free = path->log_free_head;
    path->log_free_head = log;
}

void path_log(struct nat_path *path, uint64_t now_ns, const struct path_peer *peer,
              const struct path_candidate *candidate, enum nat_path_step step)
{
    if (peer->log == PATH_NONE)
        return;
    struct path_log *log = &path->logs[peer->log];
    if (log->ring.count == log->ring.cap)
        (void)ring_pop(&log->ring);
    log->entries[ring_push(&log->ring)] =
        (struct nat_path_trace){.time_ns = now_ns,
                                .rtt_ns = candidate->proven ? candidate->srtt_ns : 0,
                                .addr = candidate->addr,
                                .step = step,
                                .kind = (enum nat_route_kind)candidate->kind,
                                .offered = candidate->offered};
}

int nat_path_trace(const struct nat_path *path, const struct id *id, struct nat_path_trace out[], size_t cap)
{
    const struct path_peer *peer = path_find(path, id);
    if (peer == NULL || peer->log == PATH_NONE)
        return ERR_NOT_FOUND;
    const struct path_log *log = &path->logs[peer->log];
    size_t count = log->ring.count < cap ? log->ring.count : cap;
    for (size_t i = 0; i < count; i++)
        out[i] = log->entries[ring_at(&log->ring, log->ring.count - count + i)];
    return (int)count;
}

const char *nat_path_step_text(enum nat_path_step step)
{
    switch (step) {
    case NAT_PATH_ADDED:
        return "added";
    case NAT_PATH_PROBED:
        return "probed";
    case NAT_PATH_ANSWERED:
        return "answered";
    case NAT_PATH_ACTIVATED:
        return "active";
    case NAT_PATH_SUSPECTED:
        return "suspect";
    case NAT_PATH_DIED:
        return "dead";
    case NAT_PATH_DROPPED:
        return "gone";
    }
    return "";
}

const char *nat_route_kind_text(enum nat_route_kind kind)
{
    switch (kind) {
    case NAT_ROUTE_NONE:
        return "none";
    case NAT_ROUTE_LAN:
        return "lan";
    case NAT_ROUTE_DIRECT6:
        return "direct6";
    case NAT_ROUTE_DIRECT4:
        return "direct4";
    case NAT_ROUTE_MAPPED:
        return "mapped";
    case NAT_ROUTE_PUNCHED:
        return "punched";
    case NAT_ROUTE_TCP:
        return "tcp";
    case NAT_ROUTE_RELAYED:
        return "relayed";
    }
    return "none";
}
