/* struct node and what its parts offer each other.  Everything runs on the loop's thread.
 *
 *   node.c     opens and closes all parts, the pump
 *   wire.c     datagrams in and out: sealed ones, QUIC, routes, DHT
 *   ways.c     by which socket, link or relay session a datagram goes
 *   own.c      what we know of our own reachability, and what follows from it
 *   meet.c     relay sessions and hole punching with a peer
 *   streams.c  framed streams: who owns each, and their events
 *   speed.c    bulk transfers that measure the way to a peer
 *   peers.c    whom we want to be connected to, and how to find them
 *   state.c    replica, database, repair and push of records, chains
 *   run*.c     runs and rounds
 *   methods*.c what the control socket answers */
#ifndef DUNLIN_NODE_INTERNAL_H
#define DUNLIN_NODE_INTERNAL_H

#include <uv.h>

#include "crdt/replica.h"
#include "crdt/sync.h"
#include "dht/dht.h"
#include "nat/observed.h"
#include "nat/path.h"
#include "nat/portmap.h"
#include "nat/punch.h"
#include "nat/reach.h"
#include "nat/relay.h"
#include "nat/relay_client.h"
#include "net/quic.h"
#include "net/rpc.h"
#include "net/seal.h"
#include "net/uv/auxiliary.h"
#include "net/uv/lan.h"
#include "net/uv/socket.h"
#include "net/uv/tcp.h"
#include "net/uv/timer.h"
#include "net/uv/turn.h"
#include "net/uv/watch.h"
#include "node/attempts.h"
#include "node/blockage.h"
#include "node/config.h"
#include "node/control.h"
#include "node/log.h"
#include "node/portmap_thread.h"
#include "node/run.h"
#include "node/seek.h"
#include "node/speed.h"
#include "node/worker.h"
#include "store/checkpoint.h"
#include "store/env.h"

enum {
    NODE_RUNS_MAX = 8,
    NODE_PEERS_MAX = 256,
    NODE_STREAMS_MAX = 1024,
    NODE_PEER_ADDRS_MAX = 8,
    NODE_OWN_ADDRS_MAX = 4,
    NODE_LOCALS_MAX = NAT_REACH_LOCALS_MAX,
    NODE_MAPPED_MAX = 2,          /* outer addresses by port mappings: IPv4 and IPv6 */
    NODE_TCP_WAYS_MAX = 24,       /* hosts reached by TCP instead of UDP */
    NODE_PUBLICS_MAX = 16,        /* seeds and the like: where TCP is tried when UDP is silent */
    NODE_WAITS_MAX = 64,          /* control calls that wait for a DHT answer */
    NODE_CONNECTIONS_WANTED = 32, /* members we stay connected to, partner on demand beside them */
    NODE_STRANGERS_MAX = 64,      /* peers we talk to only because they probe us */
    NODE_PEERS_RESERVED = 64,     /* places that no connection takes which only the other side wanted */
    NODE_CONTACTS_LOADED = 32,    /* of the last run: the DHT's places for seeds are for others too */
    NODE_LAN_CONTACTS = 16,       /* addresses of the LAN that become seeds of the DHT, in a node's life */
    NODE_WEIGHTS_MAX = 4,         /* samples and exports at once: each holds a copy of the model */
    NODE_PEER_SESSIONS_MAX = 2,   /* relay sessions to one peer */
    NODE_RPC_CHAIN = 1,           /* chain_request.h -> chain frame of crdt/ */
    NODE_DHT_TTL_MS = 20 * 60 * 1000,
};

#define NODE_VERSION   "0.1.0"
#define NODE_SECOND_NS UINT64_C(1000000000)

/* Somebody we want to talk to or are talking to. */
struct node_peer {
    bool used;
    struct id id;
    uint32_t serial;          /* origin number of its records: index + 1, never 0 */
    uint64_t wanted_until_ns; /* keep trying to connect until then */
    bool stranger;            /* wanted only because it probes us */
    struct net_addr addrs[NODE_PEER_ADDRS_MAX];
    size_t addr_count;
    bool connected;
    uint64_t connected_ns;
    uint64_t last_seen_ns;
    uint64_t route_rtt_ns;
    uint64_t dial_next_ns;
    uint64_t lookup_next_ns;
    uint32_t lookup_fails;
    uint32_t lookup;       /* handle of dht_find_peer, 0: none */
    uint64_t push_stream;  /* ours, for fresh records; 0: none */
    uint64_t sync_next_ns; /* earliest next repair the peer may ask for */
    uint32_t runs;         /* bit i: the peer holds runs[i] */
    /* meet.c */
    struct nat_relay_place relays[NAT_RELAY_EXTRA_RELAYS]; /* where it says it can be reached */
    size_t relay_count;
    uint32_t sessions[NODE_PEER_SESSIONS_MAX]; /* tokens of relay sessions up or opening; 0: none */
    uint16_t session_vias[NODE_PEER_SESSIONS_MAX];
    uint64_t session_rates[NODE_PEER_SESSIONS_MAX];
    uint64_t session_ups[NODE_PEER_SESSIONS_MAX]; /* since when they stand */
    struct seek seek;                             /* when the next session may be asked for */
    size_t relay_turn;                            /* which relay is asked next */
    struct id shunned;                            /* a relay of its that fell silent */
    uint64_t shun_until_ns;                       /* it is asked after all others until then */
    uint64_t busy_ns;                             /* when much was moving last; 0: never */
    uint64_t received;                            /* bytes of the connection, when last looked at */
    bool record_old;          /* its relays do not know it: its record is to be looked up again */
    bool ageing;              /* the mapping behind the route in use ends soon, and no other is found yet */
    uint64_t punch_next_ns;   /* earliest next round */
    bool survey_waits;        /* a round of nat/punch waits for a fresh port trend */
    bool second_relay;        /* punching has failed: a second session stands by */
    uint64_t life_ns;         /* of mappings, as nat/path was told last */
    uint64_t reset_ns;        /* when QUIC's congestion state starts afresh; 0: nothing is due */
    enum nat_route_kind kind; /* of the route in use */
    struct net_addr route;
    struct net_addr seen; /* it, as a relay sees it; family NET_FAMILY_NONE: not told */
};

/* A TCP link that stands in for UDP towards one host. */
struct node_tcp_way {
    bool used;
    struct net_addr addr; /* as everybody else knows the host: by UDP */
    struct id peer;
    uint16_t via[2]; /* dials to its own port and to 443; 0: none */
    bool tried[2];
    uint16_t open; /* the via that stands; 0: none yet */
    struct net_addr link;
    int last_error;
    uint64_t began_ns;
    uint64_t used_ns;
};

/* A port mapping's outer address. */
struct node_mapped {
    struct net_addr addr; /* family NET_FAMILY_NONE: none */
    enum nat_portmap_protocol protocol;
};

enum node_stream_kind { STREAM_FREE, STREAM_RPC, STREAM_SYNC, STREAM_PUSH, STREAM_RUN, STREAM_UNDECIDED };

struct node_stream {
    enum node_stream_kind kind;
    uint64_t handle;
    uint64_t heard_ns; /* last frame, or when it was opened */
    struct node_peer *peer;
    struct run *run; /* RUN; SYNC once its run is known */
    struct crdt_sync *sync;
    bool outgoing;
};

/* A control call that waits for the final event of a DHT command. */
enum node_wait_kind { WAIT_PING, WAIT_FIND, WAIT_PROVIDERS, WAIT_PROVIDE };

enum { WAIT_RECORDS_MAX = 16 };

struct node_wait {
    bool used;
    enum node_wait_kind kind;
    uint32_t dht_handle; /* 0: nothing under way */
    struct control_ref call;
    struct id target;
    uint64_t began_ns;
    uint64_t pings_left;
    uint64_t seq;
    uint64_t next_ns; /* next ping; UINT64_MAX: none */
    struct dht_contact contact;
    size_t record_count;
    struct dht_record records[WAIT_RECORDS_MAX];
};

struct node_limits {
    uint64_t up_bytes_s;
    unsigned cpu_pct;
};

struct node {
    struct node_config config;
    struct node_log log;
    struct trace_sink trace;
    uv_loop_t loop;
    struct rng rng;
    struct allocator alloc;
    struct net_identity identity;
    uint64_t started_ns;
    struct net_network network;

    struct net_uv_socket *socket;
    struct net_uv_timer timer;
    struct net_uv_turn turn; /* how long the loop was busy at a time */
    uv_signal_t signals[2];
    struct control *control;
    struct worker merge_worker;
    struct worker disk_worker;
    bool resolving[NODE_SEEDS_MAX];
    uint64_t seed_rounds;
    uint64_t seeds_next_ns; /* when names of seeds are looked up again */
    bool stopping;
    bool ending; /* parts are being closed: the pump rests */
    bool pumping;
    unsigned stop_waits; /* checkpoints still being written at the end */
    uint64_t stop_deadline_ns;

    /* ways.c */
    struct net_uv_aux *aux;
    struct net_uv_tcp *tcp; /* NULL: switched off, or no port was to be had */
    struct node_tcp_way tcp_ways[NODE_TCP_WAYS_MAX];
    struct dht_contact publics[NODE_PUBLICS_MAX];
    size_t public_count;
    bool by_udp;              /* the datagram being handled came by UDP */
    bool udp_blocked;         /* see ways.c */
    struct blockage blockage; /* how udp_blocked is found out */
    uint8_t framed[QUIC_BATCH_MAX + 64 * NAT_RELAY_HEADER];

    /* own.c */
    struct nat_reach *reach;
    struct nat_relay *relay;
    struct nat_relay_client *relay_client;
    struct nat_portmap *portmap;
    struct portmap_thread *portmap_thread;
    struct net_uv_lan *lan;
    struct nat_punch *punch;
    void *reach_block, *relay_block, *relay_client_block, *portmap_block, *punch_block;
    struct dht_contact lan_contacts[NODE_LAN_CONTACTS];
    size_t lan_contact_count;
    char lan_reason[NET_UV_LAN_REASON_SIZE]; /* why LAN discovery does not run; empty: it does */
    struct net_addr locals[NODE_LOCALS_MAX]; /* interface addresses, global and private */
    size_t local_count;
    struct net_addr sources[2]; /* what packets to the internet leave with, of each family */
    struct node_mapped mapped[NODE_MAPPED_MAX];
    struct net_addr verified[NODE_OWN_ADDRS_MAX]; /* handed to nat/reach for dial-backs */
    size_t verified_count;
    bool client;    /* nobody outside can dial us: see own.c */
    bool roles_set; /* decided once at least */
    bool portmap_running;
    bool portmap_ended;
    bool portmap_inner; /* a router's own outer address is private */
    uint64_t locals_next_ns;
    struct net_uv_watch *watch; /* of interface addresses; NULL: they are only polled */

    struct shaper shaper;
    struct net_seal *seal;
    void *seal_block;
    struct nat_path *path;
    void *path_block;
    struct nat_observed observed;
    struct dht *dht;
    void *dht_block;
    struct quic *quic;
    struct rpc *rpc;
    struct speed *speed;
    struct attempts attempts; /* to reach peers, for dunlin trace */
    struct store_env *store;
    struct crdt_replica *replica;
    struct crdt_keys keys;
    struct net_uv_channel *store_events;

    struct net_addr own_addrs[NODE_OWN_ADDRS_MAX];
    size_t own_addr_count;
    uint64_t minute_next_ns; /* housekeeping */
    int store_state;
    uint64_t network_next_ns; /* next complaint about another network */
    uint64_t busy_next_ns;    /* when the path layer is told next what is in flight */
    uint64_t clock_next_ns;   /* when our clock is next compared with those of peers */
    int64_t clock_offset_ms;  /* last comparison; peers - ours */
    size_t clock_peers;

    struct run runs[NODE_RUNS_MAX];
    struct node_peer peers[NODE_PEERS_MAX];
    struct node_stream streams[NODE_STREAMS_MAX];
    struct node_wait waits[NODE_WAITS_MAX];
    struct node_limits limits;
    struct weights_job *weights[NODE_WEIGHTS_MAX]; /* samples and exports under way */
    uint64_t pushes_dropped;
    uint64_t records_refused;
    uint8_t batch[QUIC_BATCH_MAX];
    uint8_t frame[CRDT_FRAME_MAX];
};

/* Unix time in ms, and the loop's monotonic time. */
uint64_t node_wall_ms(void);
uint64_t node_now_ns(void);
/* Drains every core until nothing is left and arms the timer.  The end of every callback. */
void node_pump(struct node *node, uint64_t now_ns);
/* Begins the orderly end; node_run returns when everything is closed. */
void node_stop(struct node *node);
void node_info(struct node *node, enum trace_level level, const char *format, ...) PRINTF_LIKE(3, 4);

/* wire.c */
MUST_USE int wire_open(struct node *node, char why[NODE_ERROR_SIZE]);
void wire_close(struct node *node);
/* Seals and sends one message. */
void wire_send(struct node *node, uint64_t now_ns, const struct net_message *message);
/* Moves what cores want to say; true when anything happened. */
bool wire_drain(struct node *node, uint64_t now_ns);
void wire_tick(struct node *node, uint64_t now_ns);
/* Sends what is left (goodbyes) without waiting for anything. */
void wire_flush(struct node *node);
uint64_t wire_deadline_ns(struct node *node, uint64_t now_ns);
/* Hands QUIC's packets to the socket; true when there were any: sending makes room for more. */
bool wire_sends(struct node *node, uint64_t now_ns);

/* An opened way delivered this: QUIC's, or sealed. */
void wire_datagram(struct node *node, uint64_t now_ns, const struct net_addr *from, struct bytes datagram);

/* ways.c */
/* Sends len bytes as datagrams of `segment` (0: one) to an address, by its via; peer, who must be there, is
 * needed where a TCP link may have to be dialled, else NULL.  Errors as net_uv_socket_send: only counted. */
int ways_send(struct node *node, uint64_t now_ns, const struct id *peer, const struct net_addr *to,
              const uint8_t *data, size_t len, size_t segment);
/* Callbacks of the sockets. */
void ways_on_udp(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                 size_t count);
void ways_on_tcp(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                 size_t count);
void ways_tcp_link(struct node *node, uint64_t now_ns, const struct net_uv_tcp_info *info, int reason);
/* An authentic datagram came from there. */
void ways_heard(struct node *node, uint64_t now_ns, const struct net_addr *from);
/* A node that is likely to take TCP links. */
void ways_public(struct node *node, const struct id *id, const struct net_addr *addr);
/* The link that stands in for UDP to addr, dialled if need be; NULL: TCP is off. */
struct node_tcp_way *ways_tcp(struct node *node, uint64_t now_ns, const struct net_addr *addr,
                              const struct id *peer);
void ways_tcp_drop(struct node *node, struct node_tcp_way *way);
void ways_tick(struct node *node, uint64_t now_ns);
uint64_t ways_deadline_ns(const struct node *node, uint64_t now_ns);

/* own.c */
MUST_USE int own_open(struct node *node, uint64_t now_ns, char why[NODE_ERROR_SIZE]);
void own_close(struct node *node);
bool own_drain(struct node *node, uint64_t now_ns);
void own_tick(struct node *node, uint64_t now_ns);
uint64_t own_deadline_ns(const struct node *node);
/* Something about our reachability is new: addresses, roles and relays are decided again. */
void own_changed(struct node *node, uint64_t now_ns);
/* Tells nat/punch what our NAT does now. */
void own_punch_profile(struct node *node);
/* Whether an interface has an address of this family and scope. */
bool own_has_local(const struct node *node, enum net_family family, enum net_scope scope);
/* A node with a public address that answers. */
void own_public_peer(struct node *node, uint64_t now_ns, const struct dht_contact *contact);
/* Begins to give port mappings back; false: nothing to wait for. */
bool own_ending(struct node *node, uint64_t now_ns);

/* meet.c */
bool meet_drain(struct node *node, uint64_t now_ns);
void meet_tick(struct node *node, uint64_t now_ns);
uint64_t meet_deadline_ns(const struct node *node, uint64_t now_ns);
/* A wanted peer has no route: seek one through its relays. */
void meet_seek(struct node *node, struct node_peer *peer, uint64_t now_ns);
/* The route in use is new or gone (kind NAT_ROUTE_NONE). */
void meet_route(struct node *node, struct node_peer *peer, uint64_t now_ns,
                const struct nat_path_event *event);
/* A connection to the peer stands: it is held to what its route grants. */
void meet_connected(struct node *node, struct node_peer *peer, uint64_t now_ns);
/* Our own addresses have changed: what could not be punched before may be now. */
void meet_own_addrs(struct node *node, uint64_t now_ns);
/* The peer's record names these relays. */
void meet_record(struct node *node, struct node_peer *peer, struct bytes extra);
/* The mapping behind the route in use ends soon: punch from a fresh socket. */
void meet_ageing(struct node *node, struct node_peer *peer, uint64_t now_ns);
/* A survey has ended: rounds that wait for a fresh port trend go on, routes learn how long mappings live. */
void meet_survey_done(struct node *node, uint64_t now_ns);
/* The peer's record is to be looked up though a connection stands: it has no route, or its relays are new. */
bool meet_wants_record(const struct node_peer *peer);
/* Bytes in flight to a connected peer, or that came from it since the last call, whichever are more: who only
 * receives must notice a dead route as soon as the sender.  Called five times a second. */
uint64_t meet_moving(struct node_peer *peer, uint64_t now_ns, const struct quic_peer_info *info);
/* Ends what is under way with a peer that is let go. */
void meet_forget(struct node *node, struct node_peer *peer, uint64_t now_ns);
/* A message of nat/relay, nat/punch or nat/reach; errors as net_seal_open's callers count them. */
int meet_recv(struct node *node, uint64_t now_ns, const struct net_message *message);

/* streams.c */
bool streams_drain(struct node *node, uint64_t now_ns);
struct node_stream *streams_add(struct node *node, enum node_stream_kind kind, uint64_t handle,
                                struct node_peer *peer);
struct node_stream *streams_find(struct node *node, uint64_t handle);
void streams_drop(struct node *node, struct node_stream *stream);
/* Tells a run's gossip core how much each of its streams takes, and carries out its actions. */
bool streams_gossip(struct node *node, struct run *run, uint64_t now_ns);
void streams_forget_run(struct node *node, struct run *run);
/* Gives up streams of peers that have opened them and say nothing, and repairs that do not go on. */
void streams_tick(struct node *node, uint64_t now_ns);

/* peers.c */
struct node_peer *peers_find(struct node *node, const struct id *id);
/* The peer's slot, taken if need be; NULL when the table is full of peers in use. */
struct node_peer *peers_get(struct node *node, const struct id *id);
/* Wants a connection for this long from now on; addrs are hints. */
struct node_peer *peers_want(struct node *node, const struct id *id, const struct net_addr *addrs,
                             size_t count, uint64_t for_ns);
void peers_add_addr(struct node *node, struct node_peer *peer, const struct net_addr *addr);
void peers_connected(struct node *node, const struct quic_event *event);
void peers_disconnected(struct node *node, const struct quic_event *event);
void peers_tick(struct node *node, uint64_t now_ns);
uint64_t peers_deadline_ns(const struct node *node);
/* The peer of a relay session or an invitation, admitted as a stranger if nobody wants it; NULL: no room. */
struct node_peer *peers_admit(struct node *node, uint64_t now_ns, const struct id *id);
void peers_dht_event(struct node *node, uint64_t now_ns, const struct dht_event *event);

/* state.c */
MUST_USE int state_open(struct node *node, char why[NODE_ERROR_SIZE]);
void state_close(struct node *node);
bool state_drain(struct node *node, uint64_t now_ns);
void state_tick(struct node *node, uint64_t now_ns);
/* Opens a repair session about run with a connected peer. */
void state_sync(struct node *node, struct node_peer *peer, struct run *run);
void state_sync_frame(struct node *node, struct node_stream *stream, struct bytes frame);
bool state_sync_send(struct node *node, struct node_stream *stream);
void state_push_frame(struct node *node, struct node_peer *peer, struct bytes frame);
void state_store_chain(struct node *node, const struct run *run);
void state_forget_run(struct node *node, const struct id *run);
/* Only what makes the next start take the run up again. */
void state_forget_settings(struct node *node, const struct id *run);
/* Seeks connections to the members whose registers we hold. */
void state_want_members(struct node *node, const struct run *run);
/* Own settings of a run (data path, flags), kept for the next start. */
void state_store_run(struct node *node, const struct run *run);
void state_rpc_request(struct node *node, const struct rpc_event *event);
void state_rpc_reply(struct node *node, const struct rpc_event *event);
/* Asks a connected peer for a run's chain. */
void state_fetch_chain(struct node *node, struct node_peer *peer, const struct run *run);
/* The run of this id on this node, or NULL. */
struct run *node_run_of(struct node *node, const struct id *id);
/* Starts a run whose chain has come from the disk. */
void run_chain_complete(struct run *run);

/* methods.c */
extern const struct control_method node_methods[];
void methods_dht_event(struct node *node, uint64_t now_ns, const struct dht_event *event);
void methods_tick(struct node *node, uint64_t now_ns);
uint64_t methods_deadline_ns(const struct node *node);
/* How packets reach a peer now, in a word: "lan", "direct4" ..., "none". */
const char *methods_path_text(const struct node *node, const struct id *peer);
/* Breaks off samples that nobody waits for any more, or all of them. */
void methods_stop_samples(struct node *node, bool all);
/* The trainer filled an array that a method asked for, or refused to; the tag is the method's job. */
void methods_snapshot(struct node *node, const struct train_thread_event *event);
/* A checkpoint was written, or could not be: answers the call that waits for it, if one does. */
void methods_saved(struct run *run, int result);

#endif
