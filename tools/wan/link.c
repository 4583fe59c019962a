/* One direction of an imitated link, and the text that describes two. */
#include "tools/wan/link.h"

#include <string.h>

#define PPM 1000000U

static const struct {
    const char *name;
    size_t offset;
    uint64_t max;
} FIELDS[] = {
    {"rate_bps", offsetof(struct wan_shape, rate_bps), WAN_RATE_MAX},
    {"queue_bytes", offsetof(struct wan_shape, queue_bytes), WAN_RATE_MAX},
    {"delay_us", offsetof(struct wan_shape, delay_us), WAN_TIME_MAX_US},
    {"jitter_us", offsetof(struct wan_shape, jitter_us), WAN_TIME_MAX_US},
    {"loss_ppm", offsetof(struct wan_shape, loss_ppm), PPM},
    {"reorder_ppm", offsetof(struct wan_shape, reorder_ppm), PPM},
};

/* One name=number word. */
static bool parse_word(const uint8_t *word, size_t len, struct wan_shape *shape)
{
    for (size_t i = 0; i < sizeof FIELDS / sizeof FIELDS[0]; i++) {
        size_t name_len = strlen(FIELDS[i].name);
        if (len < name_len + 2 || memcmp(word, FIELDS[i].name, name_len) != 0 || word[name_len] != '=')
            continue;
        uint64_t value = 0;
        for (size_t at = name_len + 1; at < len; at++) {
            if (word[at] < '0' || word[at] > '9')
                return false;
            value = value * 10 + (uint64_t)(word[at] - '0');
            if (value > FIELDS[i].max)
                return false;
        }
        memcpy((uint8_t *)shape + FIELDS[i].offset, &value, sizeof value);
        return true;
    }
    return false;
}

static bool parse_line(const uint8_t *line, size_t len, struct wan_shape *shape)
{
    memset(shape, 0, sizeof *shape);
    for (size_t at = 0; at < len;) {
        const uint8_t *space = memchr(line + at, ' ', len - at);
        size_t word_len = space != NULL ? (size_t)(space - line) - at : len - at;
        if (word_len > 0 && !parse_word(line + at, word_len, shape))
            return false;
        at += word_len + 1;
    }
    return true;
}

bool wan_shapes_parse(struct bytes text, struct wan_shape shapes[2])
{
    size_t at = 0;
    for (size_t i = 0; i < 2; i++) {
        const uint8_t *end = at < text.len ? memchr(text.data + at, '\n', text.len - at) : NULL;
        if (end == NULL || !parse_line(text.data + at, (size_t)(end - text.data) - at, &shapes[i]))
            return false;
        at = (size_t)(end - text.data) + 1;
    }
    return at == text.len;
}

void wan_link_init(struct wan_link *link, const struct wan_shape *shape, struct rng rng,
                   struct wan_packet *packets, size_t cap)
{
    *link = (struct wan_link){.shape = *shape, .rng = rng};
    link->flying = heap_of(packets, sizeof *packets, cap);
}

void wan_link_reshape(struct wan_link *link, const struct wan_shape *shape)
{
    link->shape = *shape;
}

static bool chance(const struct wan_link *link, uint64_t ppm)
{
    return ppm > 0 && rng_below(&link->rng, PPM) < ppm;
}

/* When the line has sent a packet that comes now, or UINT64_MAX when too much waits for it already. */
static uint64_t line_time_ns(const struct wan_link *link, uint64_t now_ns, size_t len)
{
    uint64_t rate = link->shape.rate_bps;
    if (rate == 0)
        return now_ns;
    uint64_t begin = link->line_free_ns > now_ns ? link->line_free_ns : now_ns;
    /* In floating point: the product passes 64 bits when the rate has just been raised a millionfold. */
    double waiting = (double)(begin - now_ns) * (double)rate / 8e9;
    if (waiting > (double)link->shape.queue_bytes)
        return UINT64_MAX;
    return begin + (uint64_t)((double)len * 8e9 / (double)rate);
}

/* When it comes out, given when the line has sent it. */
static uint64_t due_ns(struct wan_link *link, uint64_t sent_ns)
{
    uint64_t jitter_ns = link->shape.jitter_us * 1000;
    uint64_t due = sent_ns + link->shape.delay_us * 1000;
    if (chance(link, link->shape.reorder_ppm)) {
        uint64_t held = jitter_ns > WAN_REORDER_MIN_NS ? jitter_ns : WAN_REORDER_MIN_NS;
        return (due > link->last_due_ns ? due : link->last_due_ns) + held;
    }
    if (jitter_ns > 0)
        due += rng_below(&link->rng, jitter_ns + 1);
    if (due < link->last_due_ns)
        due = link->last_due_ns;
    link->last_due_ns = due;
    return due;
}

bool wan_link_accept(struct wan_link *link, uint64_t now_ns, size_t len, uint32_t slot)
{
    if (chance(link, link->shape.loss_ppm)) {
        link->lost++;
        return false;
    }
    uint64_t sent = line_time_ns(link, now_ns, len);
    if (sent == UINT64_MAX || link->flying.count == link->flying.cap) {
        link->dropped++;
        return false;
    }
    link->line_free_ns = sent;
    struct wan_packet packet = {.slot = slot};
    packet.order.tie = link->accepted++;
    packet.order.key = due_ns(link, sent);
    return heap_push(&link->flying, &packet);
}

bool wan_link_take(struct wan_link *link, uint64_t now_ns, uint32_t *slot)
{
    if (wan_link_deadline_ns(link) > now_ns)
        return false;
    struct wan_packet packet;
    if (!heap_pop(&link->flying, &packet))
        return false;
    *slot = packet.slot;
    return true;
}

uint64_t wan_link_deadline_ns(const struct wan_link *link)
{
    const struct wan_packet *first = heap_top(&link->flying);
    return first != NULL ? first->order.key : UINT64_MAX;
}
