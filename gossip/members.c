/* Codecs of the MEMBER and PROGRESS register values, and the fold into a view. */
#include "gossip/members.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/pack.h"

enum {
    MEMBER_JOINED = 1,
    MEMBER_CODECS = 2,
    MEMBER_ADDRS = 3,
    MEMBER_NAME = 4,
    MEMBER_SPEED = 5, /* bytes_class << 8 | steps_class; 5 to 7 came later and may be missing */
    MEMBER_SPEED_BEFORE = 6,
    MEMBER_SPEED_ROUND = 7,
    MEMBER_KEYS = 7,
};
enum {
    PROGRESS_ROUND = 1,
    PROGRESS_TOKENS = 2,
    PROGRESS_TRAIN_LOSS = 3,
    PROGRESS_VAL_LOSS = 4,
    PROGRESS_MERGES = 5,
    PROGRESS_SKIPPED = 6,
    PROGRESS_PHI = 7,
    PROGRESS_ENDING = 8, /* 8 to 10 came later and are left out when they say nothing */
    PROGRESS_SPREAD = 9,
    PROGRESS_CHAIN = 10,
    PROGRESS_KEYS = 10,
};
enum { TOKENS_MAX = 64, UNKNOWN_KEYS_MAX = 8 };

static int finished(const struct pack_writer *w)
{
    size_t len = pack_writer_len(w);
    return len == 0 ? ERR_TOO_LARGE : (int)len;
}

static bool has_keys(uint32_t seen, uint32_t wanted)
{
    return (seen & wanted) == wanted;
}

static bool speed_is_valid(struct gossip_speed speed)
{
    return speed.bytes_class <= GOSSIP_SPEED_CLASS_MAX && speed.steps_class <= GOSSIP_SPEED_CLASS_MAX;
}

static uint64_t speed_number(struct gossip_speed speed)
{
    return (uint64_t)speed.bytes_class << 8 | speed.steps_class;
}

static struct gossip_speed read_speed(struct pack_reader *r)
{
    uint64_t number = pack_read_uint(r, UINT16_MAX);
    struct gossip_speed speed = {.bytes_class = (uint8_t)(number >> 8), .steps_class = (uint8_t)number};
    if (!speed_is_valid(speed))
        r->failed = true;
    return speed;
}

int gossip_member_encode(const struct gossip_member *member, uint8_t out[], size_t cap)
{
    bool named = memchr(member->name, 0, sizeof member->name) != NULL;
    if (!named || member->joined_round > GOSSIP_ROUND_MAX || member->addr_count > GOSSIP_MEMBER_ADDRS_MAX)
        return ERR_INVALID;
    if (!speed_is_valid(member->speed) || !speed_is_valid(member->speed_before) ||
        member->speed_round > GOSSIP_ROUND_MAX)
        return ERR_INVALID;
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, MEMBER_KEYS);
    pack_key_uint(&w, MEMBER_JOINED, member->joined_round);
    pack_key_uint(&w, MEMBER_CODECS, member->codecs);
    pack_uint(&w, MEMBER_ADDRS);
    pack_array(&w, member->addr_count);
    for (size_t i = 0; i < member->addr_count; i++) {
        uint8_t wire[NET_ADDR_WIRE_MAX];
        pack_bin(&w, bytes_of(wire, net_addr_encode(&member->addrs[i], wire)));
    }
    pack_key_str(&w, MEMBER_NAME, member->name);
    pack_key_uint(&w, MEMBER_SPEED, speed_number(member->speed));
    pack_key_uint(&w, MEMBER_SPEED_BEFORE, speed_number(member->speed_before));
    pack_key_uint(&w, MEMBER_SPEED_ROUND, member->speed_round);
    return finished(&w);
}

static void read_addrs(struct pack_reader *r, struct gossip_member *out)
{
    out->addr_count = pack_read_array(r, GOSSIP_MEMBER_ADDRS_MAX);
    for (size_t i = 0; i < out->addr_count; i++) {
        struct bytes wire = pack_read_bin(r, NET_ADDR_WIRE_MAX);
        if (net_addr_decode(wire, &out->addrs[i]) < 0)
            r->failed = true;
    }
}

int gossip_member_decode(struct bytes value, struct gossip_member *out)
{
    struct pack_token tokens[TOKENS_MAX];
    struct gossip_member member = {0};
    struct pack_reader r = pack_parse(value, tokens, TOKENS_MAX);
    uint32_t seen = 0;
    for (size_t left = pack_read_map(&r, MEMBER_KEYS + UNKNOWN_KEYS_MAX); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case MEMBER_JOINED:
            member.joined_round = pack_read_uint(&r, GOSSIP_ROUND_MAX);
            break;
        case MEMBER_CODECS:
            member.codecs = (uint32_t)pack_read_uint(&r, UINT32_MAX);
            break;
        case MEMBER_ADDRS:
            read_addrs(&r, &member);
            break;
        case MEMBER_NAME:
            pack_read_text(&r, member.name, sizeof member.name);
            break;
        case MEMBER_SPEED:
            member.speed = read_speed(&r);
            break;
        case MEMBER_SPEED_BEFORE:
            member.speed_before = read_speed(&r);
            break;
        case MEMBER_SPEED_ROUND:
            member.speed_round = pack_read_uint(&r, GOSSIP_ROUND_MAX);
            break;
        default:
            pack_skip(&r);
        }
    }
    if (!pack_done(&r) || !has_keys(seen, 1u << MEMBER_JOINED | 1u << MEMBER_CODECS))
        return ERR_MALFORMED;
    *out = member;
    return ERR_OK;
}

/* The class of this rate, or the old one while the rate is in it or less than a quarter class outside. */
static uint8_t class_of(uint8_t old, double rate)
{
    if (!(rate > 0))
        return old;
    double octave = log2(rate) + 1;
    if (old > 0 && octave > old - 0.25 && octave < old + 1.25)
        return old;
    return octave < 1 ? 1 : octave > GOSSIP_SPEED_CLASS_MAX ? GOSSIP_SPEED_CLASS_MAX : (uint8_t)octave;
}

bool gossip_member_measure(struct gossip_member *member, uint64_t round, double bytes_s, double steps_s)
{
    struct gossip_speed now = {.bytes_class = class_of(member->speed.bytes_class, bytes_s),
                               .steps_class = class_of(member->speed.steps_class, steps_s * 1024)};
    ASSERT(round <= GOSSIP_ROUND_MAX);
    if (round < member->speed_round || speed_number(now) == speed_number(member->speed))
        return false;
    member->speed_before = member->speed;
    member->speed = now;
    member->speed_round = round + 2 * GOSSIP_EPOCH_ROUNDS;
    if (member->speed_round > GOSSIP_ROUND_MAX)
        member->speed_round = GOSSIP_ROUND_MAX;
    return true;
}

int gossip_progress_encode(const struct gossip_progress *progress, uint8_t out[], size_t cap)
{
    if (progress->round > GOSSIP_ROUND_MAX || (unsigned)progress->ending >= GOSSIP_ENDING_COUNT)
        return ERR_INVALID;
    bool ending = progress->ending != GOSSIP_ENDING_NONE;
    bool spread = ending && isfinite(progress->spread);
    bool chain = progress->chain > 0;
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, 7 + (size_t)ending + (size_t)spread + (size_t)chain);
    pack_key_uint(&w, PROGRESS_ROUND, progress->round);
    pack_key_uint(&w, PROGRESS_TOKENS, progress->tokens);
    pack_key_float(&w, PROGRESS_TRAIN_LOSS, progress->train_loss);
    pack_key_float(&w, PROGRESS_VAL_LOSS, progress->val_loss);
    pack_key_uint(&w, PROGRESS_MERGES, progress->merges);
    pack_key_uint(&w, PROGRESS_SKIPPED, progress->skipped);
    pack_key_id(&w, PROGRESS_PHI, &progress->phi);
    if (ending)
        pack_key_uint(&w, PROGRESS_ENDING, (uint64_t)progress->ending);
    if (spread)
        pack_key_float(&w, PROGRESS_SPREAD, progress->spread);
    if (chain)
        pack_key_uint(&w, PROGRESS_CHAIN, progress->chain);
    return finished(&w);
}

/* What a later version may add counts as open: it is not waited for longer than the bound, nor trusted. */
static enum gossip_ending read_ending(struct pack_reader *r)
{
    uint64_t value = pack_read_uint(r, UINT64_MAX);
    return value < GOSSIP_ENDING_COUNT ? (enum gossip_ending)value : GOSSIP_ENDING_OPEN;
}

static double read_spread(struct pack_reader *r)
{
    double spread = pack_read_float(r);
    return isfinite(spread) && spread >= 0 ? spread : (double)NAN;
}

static double read_loss(struct pack_reader *r)
{
    double loss = pack_read_float(r);
    return isfinite(loss) ? loss : (double)NAN;
}

int gossip_progress_decode(struct bytes value, struct gossip_progress *out)
{
    struct pack_token tokens[TOKENS_MAX];
    struct gossip_progress progress = {
        .train_loss = (double)NAN, .val_loss = (double)NAN, .spread = (double)NAN};
    struct pack_reader r = pack_parse(value, tokens, TOKENS_MAX);
    uint32_t seen = 0;
    for (size_t left = pack_read_map(&r, PROGRESS_KEYS + UNKNOWN_KEYS_MAX); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case PROGRESS_ROUND:
            progress.round = pack_read_uint(&r, GOSSIP_ROUND_MAX);
            break;
        case PROGRESS_TOKENS:
            progress.tokens = pack_read_uint(&r, UINT64_MAX);
            break;
        case PROGRESS_TRAIN_LOSS:
            progress.train_loss = read_loss(&r);
            break;
        case PROGRESS_VAL_LOSS:
            progress.val_loss = read_loss(&r);
            break;
        case PROGRESS_MERGES:
            progress.merges = pack_read_uint(&r, UINT64_MAX);
            break;
        case PROGRESS_SKIPPED:
            progress.skipped = pack_read_uint(&r, UINT64_MAX);
            break;
        case PROGRESS_PHI:
            pack_read_id(&r, &progress.phi);
            break;
        case PROGRESS_ENDING:
            progress.ending = read_ending(&r);
            break;
        case PROGRESS_SPREAD:
            progress.spread = read_spread(&r);
            break;
        case PROGRESS_CHAIN:
            progress.chain = pack_read_uint(&r, UINT64_MAX);
            break;
        default:
            pack_skip(&r);
        }
    }
    if (!pack_done(&r) || !has_keys(seen, 1u << PROGRESS_ROUND | 1u << PROGRESS_PHI))
        return ERR_MALFORMED;
    *out = progress;
    return ERR_OK;
}

/* Where id stands or would stand among the sorted entries. */
static size_t view_slot(const struct gossip_view *view, const struct id *id)
{
    size_t low = 0;
    size_t high = view->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (id_compare(&view->entries[middle].id, id) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void view_insert(struct gossip_view *view, const struct gossip_member_state *state)
{
    size_t slot = view_slot(view, &state->id);
    struct gossip_view_entry *entry = &view->entries[slot];
    struct gossip_speed speed = view->round >= state->speed_round ? state->speed : state->speed_before;
    if (slot < view->count && id_equal(&entry->id, &state->id)) {
        if (state->progress_round > entry->progress_round)
            entry->progress_round = state->progress_round;
        if (speed_number(speed) > speed_number(entry->speed))
            entry->speed = speed;
        return;
    }
    if (slot == GOSSIP_MEMBERS_MAX)
        return;
    if (view->count == GOSSIP_MEMBERS_MAX)
        view->count--; /* the highest id gives way */
    memmove(entry + 1, entry, (view->count - slot) * sizeof *entry);
    *entry = (struct gossip_view_entry){
        .id = state->id,
        .progress_round = state->progress_round,
        .speed = speed,
    };
    view->count++;
}

static bool is_live(const struct gossip_member_state *state, uint64_t round, uint64_t wall_ms)
{
    bool counts = state->joined_round == 0 ||
                  (state->joined_round <= round && round - state->joined_round >= GOSSIP_EPOCH_ROUNDS);
    bool heard = state->progress_round >= round || round - state->progress_round <= GOSSIP_LIVE_ROUNDS;
    return counts && heard && state->expires_ms > wall_ms;
}

void gossip_view_build(struct gossip_view *view, uint64_t round, uint64_t wall_ms,
                       const struct gossip_member_state states[], size_t count)
{
    memset(view, 0, sizeof *view);
    view->round = round;
    for (size_t i = 0; i < count; i++)
        if (is_live(&states[i], round, wall_ms))
            view_insert(view, &states[i]);
    uint8_t members[GOSSIP_MEMBERS_MAX * (ID_BYTES + 2)];
    struct writer w = writer_of(members, sizeof members);
    for (size_t i = 0; i < view->count; i++) {
        write_bytes(&w, view->entries[i].id.bytes, ID_BYTES);
        write_u16(&w, (uint16_t)speed_number(view->entries[i].speed));
    }
    struct bytes parts[1] = {bytes_of(members, view->count * (ID_BYTES + 2))};
    hash_parts("dunlin view 2", parts, 1, &view->hash);
}

const struct gossip_view_entry *gossip_view_find(const struct gossip_view *view, const struct id *id)
{
    size_t slot = view_slot(view, id);
    return slot < view->count && id_equal(&view->entries[slot].id, id) ? &view->entries[slot] : NULL;
}
