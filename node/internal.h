/* struct node and what its parts offer each other.  Everything runs on the loop's thread.
 *
 *   node.c     opens and closes all parts, the pump
 *   wire.c     datagrams in and out: sealed ones, QUIC, routes, DHT
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
#include "net/quic.h"
#include "net/rpc.h"
#include "net/seal.h"
#include "net/uv/socket.h"
#include "net/uv/timer.h"
#include "node/attempts.h"
#include "node/config.h"
#include "node/control.h"
#include "node/log.h"
#include "node/run.h"
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
    NODE_WAITS_MAX = 64,          /* control calls that wait for a DHT answer */
    NODE_CONNECTIONS_WANTED = 32, /* members we stay connected to, partner on demand beside them */
    NODE_STRANGERS_MAX = 64,      /* peers we talk to only because they probe us */
    NODE_WEIGHTS_MAX = 4,         /* samples and exports at once: each holds a copy of the model */
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
    uint64_t addrs_next_ns;
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
void peers_own_addrs(struct node *node, uint64_t now_ns);
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
