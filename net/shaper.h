/* One token bucket for everything a node uploads.  Sans-I/O: time is passed in, the rate may change at any
 * moment.
 *
 * Level in bytes: it rises at rate_bytes per second up to burst_bytes and falls with every charge.  Ordinary
 * traffic waits while the level is not positive.  Control traffic and acknowledgements may overdraw: they
 * pass until the level is SHAPER_OVERDRAW below zero, so that a saturated cap never delays a heartbeat; what
 * they overdrew is paid back by ordinary traffic, and the long-run rate stays at the cap.  Arithmetic is
 * exact to 1/2^20 byte. */
#ifndef DUNLIN_NET_SHAPER_H
#define DUNLIN_NET_SHAPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SHAPER_OVERDRAW = 32 * 1024,  /* bytes control may borrow */
    SHAPER_BURST_MIN = 15 * 1024, /* ten full packets: below this GSO batches become single packets */
};

#define SHAPER_RATE_MAX (UINT64_C(1) << 40) /* bytes per second; more is treated as this */

struct shaper {
    uint64_t rate_bytes; /* per second; 0: unlimited */
    uint64_t burst_bytes;
    int64_t level; /* in units of 2^-20 byte */
    uint64_t updated_ns;
};

/* Starts full.  rate_bytes per second, 0 for unlimited; burst_bytes 0 chooses 50 ms worth of the rate, and
 * never less than SHAPER_BURST_MIN. */
void shaper_init(struct shaper *s, uint64_t now_ns, uint64_t rate_bytes, uint64_t burst_bytes);
/* Changes the rate from now on; the level is kept, cut to the new burst. */
void shaper_set_rate(struct shaper *s, uint64_t now_ns, uint64_t rate_bytes, uint64_t burst_bytes);
/* Bytes ordinary traffic may send now; SIZE_MAX when unlimited, 0 when it must wait. */
size_t shaper_available(struct shaper *s, uint64_t now_ns);
/* The same for control traffic. */
size_t shaper_available_control(struct shaper *s, uint64_t now_ns);
/* Takes bytes that were sent, whatever the level. */
void shaper_charge(struct shaper *s, uint64_t now_ns, size_t bytes);
/* Earliest time at which `bytes` (cut to the burst) are available to ordinary traffic; now_ns when they
 * already are. */
uint64_t shaper_ready_ns(struct shaper *s, uint64_t now_ns, size_t bytes);
/* Earliest time at which control traffic may send again. */
uint64_t shaper_ready_control_ns(struct shaper *s, uint64_t now_ns);

#endif
