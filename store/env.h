/* The node's database: DIR/dunlin.mdb, an LMDB file with one table of records under the caller's keys and a
 * small table for the schema version.  Nothing else is kept on disk about a record: orders, quotas and
 * digests are RAM indexes that their owners rebuild at open by store_iterate.
 *
 * One thread of the environment's own does all writing.  Puts and deletes are queued in the order of the
 * calls and committed in that order, in batches: with STORE_DURABLE at the latest batch_ns after the call,
 * with STORE_LAZY together with the next durable one or after lazy_ns.  Each gets a ticket, numbered from 1
 * upwards; `committed` reports the highest ticket through which everything is on disk.  Acknowledged that way
 * means it survives kill -9 and power loss (full sync; relaxed modes were measured to corrupt the file).
 *
 * When the disk is full or failing, the batch in hand is kept, the state becomes STORE_READ_ONLY and the
 * batch is tried again with back-off until it succeeds.  Reads go on meanwhile.
 *
 * Every value carries a checksum over key and value; LMDB has none of its own. */
#ifndef DUNLIN_STORE_ENV_H
#define DUNLIN_STORE_ENV_H

#include "store/file.h"

enum {
    STORE_KEY_MAX = 128,         /* bytes; the longest of ours has 67 */
    STORE_VALUE_MAX = 16384,     /* bytes; a proof of two 4 KiB records has 8.5 KB */
    STORE_BATCH_MAX = 256,       /* records a commit: larger ones let the file grow (measured +7 % at 1000) */
    STORE_QUEUE_BYTES = 4194304, /* default of queue_bytes */
    STORE_SCHEMA = 1,            /* refused when the file says otherwise */
};

enum store_class {
    STORE_DURABLE, /* own records, owner's chains, invitations: committed within batch_ns */
    STORE_LAZY,    /* what neighbours can give us again: committed within lazy_ns */
};

/* OPEN -> READ_ONLY when a commit fails; READ_ONLY -> OPEN when the kept batch is at last committed (both in
 * the writer thread); either -> CLOSED by store_close. */
enum store_state { STORE_OPEN, STORE_READ_ONLY, STORE_CLOSED };

struct store_status {
    enum store_state state;
    int cause;              /* why READ_ONLY: ERR_DISK_FULL or ERR_IO; 0 otherwise */
    uint64_t queued_ticket; /* highest given out; 0: none yet */
    uint64_t committed_ticket;
    size_t queued_bytes;
    uint64_t commits;
    uint64_t failed_commits;
    uint64_t corrupt_values;   /* seen by reads */
    char text[STORE_WHY_SIZE]; /* for people; empty when all is well */
};

struct store_config {
    const char *dir; /* made when missing; borrowed until store_open returns */
    struct allocator alloc;
    size_t map_bytes;      /* address space reserved, not memory; never grown: 16 GiB */
    size_t queue_bytes;    /* cap of what waits to be committed, 64 bytes a record included */
    size_t batch_max;      /* records */
    uint64_t batch_ns;     /* 10 ms */
    uint64_t lazy_ns;      /* 5 s */
    uint64_t retry_min_ns; /* back-off after a failed commit: 250 ms, doubled up to ... */
    uint64_t retry_max_ns; /* ... 10 s */
    /* Called on the store thread without any lock held; may call the read functions and store_status, must
     * not block and must not put or close.  Either may be NULL. */
    void (*committed)(void *user, uint64_t through_ticket);
    void (*state_changed)(void *user, enum store_state state, int cause);
    void *user;
};

struct store_env;

/* Defaults for this directory. */
struct store_config store_config_default(const char *dir);

/* Locks the directory (DIR/dunlin.lock), checks the file's structure without trusting it, opens it and starts
 * the writer thread.  *out is returned owned (close with store_close).  O(file size).  On error *out is NULL
 * and *why (may be NULL) tells a person what to do: ERR_IN_USE: another process works in this directory;
 * ERR_CORRUPT: the file is damaged or foreign, move it away (records come back from peers, the key is
 * elsewhere); ERR_VERSION: written by another version of Dunlin; ERR_PERMISSION, ERR_DISK_FULL,
 * ERR_NO_MEMORY, ERR_IO, ERR_INVALID (config). */
MUST_USE int store_open(const struct store_config *config, struct store_env **out, struct store_why *why);

/* Commits everything queued (one last try if the disk is full), ends the thread, releases the lock and frees
 * env (NULL is allowed).  Blocking.  ERR_DISK_FULL or ERR_IO: what was queued but not acknowledged is lost.
 * No other call may be in progress. */
MUST_USE int store_close(struct store_env *env);

/* Queue one change; copies.  Any thread; never waits for the disk.  ticket may be NULL.
 * ERR_AGAIN: the queue is full, call again after the next `committed`; ERR_DISK_FULL or ERR_IO: the queue is
 * full and nothing can be committed now; ERR_TOO_LARGE, ERR_INVALID: key empty or too long, value too long.
 */
MUST_USE int store_put(struct store_env *env, enum store_class class, struct bytes key, struct bytes value,
                       uint64_t *ticket);
/* Deleting what is not there is fine. */
MUST_USE int store_delete(struct store_env *env, enum store_class class, struct bytes key, uint64_t *ticket);
/* Deletes every key that starts with prefix (not empty) at the time of the commit. */
MUST_USE int store_delete_prefix(struct store_env *env, enum store_class class, struct bytes prefix,
                                 uint64_t *ticket);

/* Committed value of a key: copies at most cap bytes and returns its length.  Any thread, one short read
 * transaction.  ERR_NOT_FOUND; ERR_TOO_LARGE: cap is too small; ERR_CORRUPT: checksum differs, treat as lost;
 * ERR_IO. */
MUST_USE int store_get(struct store_env *env, struct bytes key, uint8_t *out, size_t cap);

/* Calls visit for every committed record whose key starts with prefix (empty: all), in key order, and returns
 * how many.  Slices are borrowed until visit returns; visit returns false to stop.  Damaged values are
 * skipped and counted in the status.  Meant for start-up: the file cannot reuse pages while it runs.  ERR_IO,
 * ERR_CORRUPT. */
MUST_USE int store_iterate(struct store_env *env, struct bytes prefix,
                           bool (*visit)(void *user, struct bytes key, struct bytes value), void *user);

/* Waits until everything queued so far is committed.  Not on the loop thread.  ERR_DISK_FULL, ERR_IO: it
 * cannot be at the moment (still queued). */
MUST_USE int store_flush(struct store_env *env);

/* Any thread. */
void store_status_get(struct store_env *env, struct store_status *out);

#endif
