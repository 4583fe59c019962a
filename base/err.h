/* Error codes of every Dunlin library, their texts, and ASSERT.
 *
 * A function that can fail returns int: negative is one of these codes, 0 is fine, positive is a count where
 * the function says so.  Codes are grouped by who must act and lie clear of libuv's range (down to -4095).
 * On failure an object is unchanged unless its header says otherwise. */
#ifndef DUNLIN_BASE_ERR_H
#define DUNLIN_BASE_ERR_H

/* One row a code, left alone by the formatter so that branches which add codes merge. */
/* clang-format off */
#define ERR_LIST(X)                                                                                       \
    /* The peer's fault: count it, drop the message, keep no state for its sender. */                     \
    X(ERR_TRUNCATED, -10001, "input ends inside a field")                                                 \
    X(ERR_MALFORMED, -10002, "field has an impossible value")                                             \
    X(ERR_AUTH, -10003, "signature or authentication tag does not match")                                 \
    X(ERR_REPLAY, -10004, "message was seen before or is too old")                                        \
    X(ERR_NETWORK, -10005, "message belongs to another network")                                          \
    X(ERR_VERSION, -10006, "peer speaks another protocol version")                                        \
    X(ERR_CLOCK, -10007, "clocks differ by more than the limit")                                          \
    X(ERR_STALE, -10008, "newer data is already held")                                                    \
    X(ERR_EXPIRED, -10009, "record has expired")                                                          \
    X(ERR_EQUIVOCATION, -10010, "author signed two values under one sequence number")                     \
    X(ERR_NOT_FINITE, -10011, "number is NaN or infinite")                                                \
    X(ERR_REFUSED, -10012, "peer refused the request")                                                    \
    X(ERR_MISMATCH, -10013, "content differs from what was announced")                                    \
    X(ERR_CLOSED, -10014, "connection or stream was closed by the peer")                                  \
    X(ERR_FAR, -10015, "weights are too far from ours")                                                   \
    X(ERR_WORSE, -10016, "loss would rise")                                                               \
    /* A limit was reached: shed load and go on. */                                                       \
    X(ERR_FULL, -20001, "table or queue has no free slot")                                                \
    X(ERR_TOO_LARGE, -20002, "message or value exceeds its size limit")                                   \
    X(ERR_RATE, -20003, "rate limit reached")                                                             \
    X(ERR_QUOTA, -20004, "quota of this author or client is used up")                                     \
    X(ERR_TIMEOUT, -20005, "no answer before the deadline")                                               \
    X(ERR_BUSY, -20006, "another exchange is in progress")                                                \
    X(ERR_AGAIN, -20007, "not now: call again when more input or room has come")                          \
    X(ERR_UNREACHABLE, -20008, "no route to the peer is known")                                           \
    X(ERR_NO_ADDRESS, -20009, "the router has no public address to share")                                \
    /* This machine's fault: say so to the person, stop using the resource. */                            \
    X(ERR_CORRUPT, -30001, "stored bytes fail their checksum")                                            \
    X(ERR_IO, -30002, "reading or writing failed")                                                        \
    X(ERR_DISK_FULL, -30003, "no space left on the disk")                                                 \
    X(ERR_NO_MEMORY, -30004, "not enough memory")                                                         \
    X(ERR_PERMISSION, -30005, "file permissions do not allow this")                                       \
    X(ERR_IN_USE, -30006, "port, file or directory is used by another process")                           \
    X(ERR_TLS, -30007, "TLS or QUIC library failed")                                                      \
    /* The caller's or the person's fault: report it. */                                                  \
    X(ERR_NOT_FOUND, -40001, "no such entry")                                                             \
    X(ERR_EXISTS, -40002, "entry exists already")                                                         \
    X(ERR_INVALID, -40003, "argument or setting is not valid")                                            \
    X(ERR_STATE, -40004, "not possible in the present state")                                             \
    X(ERR_CANCELLED, -40020, "cancelled by the caller")                                                   \
    X(ERR_UNSUPPORTED, -40005, "not supported here")
/* clang-format on */

enum err_code {
    ERR_OK = 0,
#define X(name, value, text) name = value,
    ERR_LIST(X)
#undef X
};

#define MUST_USE                        __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_at, args_at) __attribute__((format(printf, format_at, args_at)))

/* Text of a code for people, for example "input ends inside a field"; never NULL, static storage. */
const char *err_text(int code);

/* Name of a code as written in the source, for example "ERR_TRUNCATED"; never NULL, static storage. */
const char *err_name(int code);

/* States what only a bug can break; stays on in release builds.  Never for what a peer, disk or user can
 * cause. */
#define ASSERT(condition) ((condition) ? (void)0 : assert_failed(#condition, __FILE__, __LINE__))

/* Prints the condition and place to stderr and aborts. */
_Noreturn void assert_failed(const char *condition, const char *file, int line);

#endif
