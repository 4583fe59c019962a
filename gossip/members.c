/* Codecs of the MEMBER and PROGRESS register values, and the fold into a view. */
#include "gossip/members.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/pack.h"

enum { MEMBER_JOINED = 1, MEMBER_CODECS = 2, MEMBER_ADDRS = 3, MEMBER_NAME = 4 };
enum {
    PROGRESS_ROUND = 1,
    PROGRESS_TOKENS = 2,
    PROGRESS_TRAIN_LOSS = 3,
    PROGRESS_VAL_LOSS = 4,
    PROGRESS_MERGES = 5,
    PROGRESS_SKIPPED = 6,
    PROGRESS_PHI = 7,
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

int gossip_member_encode(const struct gossip_member *member, uint8_t out[], size_t cap)
{
    bool named = memchr(member->name, 0, sizeof member->name) != NULL;
    if (!named || member->joined_round > GOSSIP_ROUND_MAX || member->addr_count > GOSSIP_MEMBER_ADDRS_MAX)
        return ERR_INVALID;
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, 4);
    pack_key_uint(&w, MEMBER_JOINED, member->joined_round);
    pack_key_uint(&w, MEMBER_CODECS, member->codecs);
    pack_uint(&w, MEMBER_ADDRS);
    pack_array(&w, member->addr_count);
    for (size_t i = 0; i < member->addr_count; i++) {
        uint8_t wire[NET_ADDR_WIRE_MAX];
        pack_bin(&w, bytes_of(wire, net_addr_encode(&member->addrs[i], wire)));
    }
    pack_key_str(&w, MEMBER_NAME, member->name);
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
    for (size_t left = pack_read_map(&r, 4 + UNKNOWN_KEYS_MAX); left > 0; left--) {
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
        default:
            pack_skip(&r);
        }
    }
    if (!pack_done(&r) || !has_keys(seen, 1u << MEMBER_JOINED | 1u << MEMBER_CODECS))
        return ERR_MALFORMED;
    *out = member;
    return ERR_OK;
}

int gossip_progress_encode(const struct gossip_progress *progress, uint8_t out[], size_t cap)
{
    if (progress->round > GOSSIP_ROUND_MAX)
        return ERR_INVALID;
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, 7);
    pack_key_uint(&w, PROGRESS_ROUND, progress->round);
    pack_key_uint(&w, PROGRESS_TOKENS, progress->tokens);
    pack_key_float(&w, PROGRESS_TRAIN_LOSS, progress->train_loss);
    pack_key_float(&w, PROGRESS_VAL_LOSS, progress->val_loss);
    pack_key_uint(&w, PROGRESS_MERGES, progress->merges);
    pack_key_uint(&w, PROGRESS_SKIPPED, progress->skipped);
    pack_key_id(&w, PROGRESS_PHI, &progress->phi);
    return finished(&w);
}

static double read_loss(struct pack_reader *r)
{
    double loss = pack_read_float(r);
    return isfinite(loss) ? loss : (double)NAN;
}

int gossip_progress_decode(struct bytes value, struct gossip_progress *out)
{
    struct pack_token tokens[TOKENS_MAX];
    struct gossip_progress progress = {.train_loss = (double)NAN, .val_loss = (double)NAN};
    struct pack_reader r = pack_parse(value, tokens, TOKENS_MAX);
    uint32_t seen = 0;
    for (size_t left = pack_read_map(&r, 7 + UNKNOWN_KEYS_MAX); left > 0; left--) {
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
    if (slot < view->count && id_equal(&entry->id, &state->id)) {
        if (state->progress_round > entry->progress_round)
            entry->progress_round = state->progress_round;
        return;
    }
    if (slot == GOSSIP_MEMBERS_MAX)
        return;
    if (view->count == GOSSIP_MEMBERS_MAX)
        view->count--; /* the highest id gives way */
    memmove(entry + 1, entry, (view->count - slot) * sizeof *entry);
    *entry = (struct gossip_view_entry){.id = state->id, .progress_round = state->progress_round};
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
    uint8_t ids[GOSSIP_MEMBERS_MAX * ID_BYTES];
    for (size_t i = 0; i < view->count; i++)
        memcpy(ids + i * ID_BYTES, view->entries[i].id.bytes, ID_BYTES);
    struct bytes parts[1] = {bytes_of(ids, view->count * ID_BYTES)};
    hash_parts("dunlin view", parts, 1, &view->hash);
}

const struct gossip_view_entry *gossip_view_find(const struct gossip_view *view, const struct id *id)
{
    size_t slot = view_slot(view, id);
    return slot < view->count && id_equal(&view->entries[slot].id, id) ? &view->entries[slot] : NULL;
}
