/* Handlers of the control socket's methods; methods.c lists them, docs/protocol/control.md says what each
 * answers. */
#ifndef DUNLIN_NODE_METHODS_INTERNAL_H
#define DUNLIN_NODE_METHODS_INTERNAL_H

#include "node/internal.h"

/* Every handler: user is the node. */
void method_status(void *user, struct control_call *call, const struct pack_reader *params);
void method_peers(void *user, struct control_call *call, const struct pack_reader *params);
void method_peer(void *user, struct control_call *call, const struct pack_reader *params);
void method_ping(void *user, struct control_call *call, const struct pack_reader *params);
void method_dht_table(void *user, struct control_call *call, const struct pack_reader *params);
void method_dht_find(void *user, struct control_call *call, const struct pack_reader *params);
void method_dht_providers(void *user, struct control_call *call, const struct pack_reader *params);
void method_dht_provide(void *user, struct control_call *call, const struct pack_reader *params);
void method_run_create(void *user, struct control_call *call, const struct pack_reader *params);
void method_run_join(void *user, struct control_call *call, const struct pack_reader *params);
void method_run_leave(void *user, struct control_call *call, const struct pack_reader *params);
void method_run_pause(void *user, struct control_call *call, const struct pack_reader *params);
void method_run_resume(void *user, struct control_call *call, const struct pack_reader *params);
void method_run_finish(void *user, struct control_call *call, const struct pack_reader *params);
void method_run_list(void *user, struct control_call *call, const struct pack_reader *params);
void method_run_show(void *user, struct control_call *call, const struct pack_reader *params);
void method_state_ls(void *user, struct control_call *call, const struct pack_reader *params);
void method_state_get(void *user, struct control_call *call, const struct pack_reader *params);
void method_sample(void *user, struct control_call *call, const struct pack_reader *params);
void method_checkpoint_ls(void *user, struct control_call *call, const struct pack_reader *params);
void method_checkpoint_save(void *user, struct control_call *call, const struct pack_reader *params);
void method_checkpoint_export(void *user, struct control_call *call, const struct pack_reader *params);
void method_speed(void *user, struct control_call *call, const struct pack_reader *params);
void method_nat(void *user, struct control_call *call, const struct pack_reader *params);
void method_trace(void *user, struct control_call *call, const struct pack_reader *params);
void method_doctor(void *user, struct control_call *call, const struct pack_reader *params);
void method_limit(void *user, struct control_call *call, const struct pack_reader *params);
void method_stop(void *user, struct control_call *call, const struct pack_reader *params);

/* An optional text parameter: out stays as it is when it is absent.  False: it is too long, and the call was
 * answered. */
bool method_text(struct control_call *call, const struct pack_reader *params, const char *key, char *out,
                 size_t cap);
/* The run that params name by id, unique prefix of it, or name; answers the call with an error and returns
 * NULL when there is none.  Without a "run" parameter it is the only run. */
struct run *method_run(struct node *node, struct control_call *call, const struct pack_reader *params);
/* The peer that the parameter key names, as method_id does.  False: the call was answered. */
bool method_peer_param(struct node *node, struct control_call *call, const struct pack_reader *params,
                       const char *key, struct id *out);
/* How packets reach the peer now, TCP links that stand in for UDP included. */
enum nat_route_kind methods_route_kind(const struct node *node, const struct id *peer);
/* "candidates" of a peer: the ways that nat/path knows. */
void methods_reply_candidates(struct node *node, struct reply *r, const struct id *peer);
/* A written .safetensors file. */
struct method_exported {
    size_t bytes;
    struct id digest; /* hash_content of all of it */
};
/* Writes params [layout->arena_floats] as such a file, which says of what it is the mean (merged, as
 * train_safetensors_bytes); blocks, any thread.  ERR_NO_MEMORY, and as train_safetensors_write and
 * store_file_write: no file was left, and one of this name that was there before is intact. */
MUST_USE int method_export_file(const struct train_layout *layout, const char *merged, const float params[],
                                const char *path, struct method_exported *out);
/* What checkpoint.export answers about it. */
void method_reply_exported(struct reply *r, const char *path, uint64_t round,
                           const struct method_exported *exported);
/* An address as text. */
void method_reply_addr(struct reply *r, const char *key, const struct net_addr *addr);
/* Resolves an id or unique prefix among peers, contacts and run members.  False: the call was answered. */
bool method_id(struct node *node, struct control_call *call, const char *text, struct id *out);

#endif
