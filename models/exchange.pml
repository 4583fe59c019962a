/* The exchange protocol of gossip/ as a model for spin: nodes that pair anew each round, two lanes a node, an
 * exchange with a repair stage, any message lost, one node frozen and thawed at any time.
 *
 *   INVITE, ACCEPT or BUSY; then both ways FRAGMENT, DIGEST, WANT, maybe REPAIR and DIGEST, COMMIT
 *
 * What is checked, over every interleaving:
 *   - time gets to its end: no deadlock, and nobody holds up the clock.  The clock does not pass a deadline that a
 *     running node has not dealt with, so a wait without a deadline, or one that nothing ends, stops it;
 *   - every round that a running node began has exactly one outcome, at most LIMIT after it began;
 *   - a node has at most two exchanges, and never two of one fragment;
 *   - who merges holds the partner's whole fragment, repaired where it was wrong, and knows what the partner had
 *     repaired; the partner has committed as well;
 *   - when one side alone merges, its COMMIT was lost or came after the other's deadline: nothing else does it;
 *   - no cycle without progress (pan compiled with -DNP).
 * What it leaves out: contents (a digest either is right or its fragment did not come whole), the time that encoding
 * and decoding take, the number of frames, phases and round numbers drawn forward, states for joiners.  Views may
 * differ in any way: each node takes any partner it likes.
 *
 * BROKEN=1: no deadline once the own COMMIT is out.  2: merges without the other's COMMIT.  3: a new round leaves the
 * older exchange of its lane or fragment alone (seen with FRAGMENTS=1).  4: commits before the repair has come.
 * 5: claims that nobody ever merges alone, 6 that nobody merges: the model must get there.  Each must be found.
 * models/check runs all of it. */
#ifndef NODES
#define NODES 3
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef FRAGMENTS
#define FRAGMENTS 5
#endif
#ifndef BROKEN
#define BROKEN 0
#endif
#ifndef FAULTS
#define FAULTS 2 /* how many of: a frame lost, a node frozen, a view that differs, a node that is busy, far apart */
#endif

/* Time goes in rounds, and nodes move within one in any order: so one may be most of a round behind another. */
#define LIMIT 2 /* an exchange has ended when the second round after it begins: two lanes are open at most */
#define END (ROUNDS + LIMIT)
#define NOBODY NODES

mtype:frame = { INVITE, ACCEPT, BUSY, FRAGMENT, DIGEST, WANT_NONE, WANT_SOME, REPAIR, COMMIT };
mtype:state = { ABSENT, ASKING, WAITING, SWAPPING, ENDED };
mtype:outcome = { NONE, MERGE, SOLO, UNCONFIRMED };

/* One node's part in one round, at index part(node, round). */
#define part(node, round) ((node) * ROUNDS + (round))
mtype:state state[NODES * ROUNDS] = ABSENT;
mtype:outcome outcome[NODES * ROUNDS] = NONE;
byte partner[NODES * ROUNDS] = NOBODY;
byte deadline[NODES * ROUNDS];
bool whole[NODES * ROUNDS];      /* the partner's fragment came ... */
bool verified[NODES * ROUNDS];   /* ... and its digest is right */
bool wrong[NODES * ROUNDS];      /* blocks of it did not decode and were asked for */
bool repaired[NODES * ROUNDS];   /* they came */
bool told[NODES * ROUNDS];       /* the partner's WANT came */
bool committed[NODES * ROUNDS];  /* own COMMIT went out */
bool confirmed[NODES * ROUNDS];  /* the partner's came */
bool out_of_time[NODES * ROUNDS];
bool commit_lost[NODES * ROUNDS];

byte next_round[NODES]; /* which it begins next */
byte now;
byte frozen = NOBODY;
byte faults; /* so far */

/* A stream has a channel each way: frames come in order until one is lost, and with it all that follow (QUIC has no
 * gaps: what breaks a stream ends it). */
bool cut[NODES * NODES * ROUNDS];
chan stream[NODES * NODES * ROUNDS] = [8] of { mtype:frame };
#define way_index(from, to, round) (((from) * NODES + (to)) * ROUNDS + (round))
#define way(from, to, round) stream[way_index(from, to, round)]

#define is_open(p) (state[p] == ASKING || state[p] == WAITING || state[p] == SWAPPING)
#if BROKEN == 1
#define is_due(p) (is_open(p) && now >= deadline[p] && !committed[p])
#else
#define is_due(p) (is_open(p) && now >= deadline[p])
#endif
/* A node does nothing while frozen, and what is overdue expires before it reads anything. */
#define acts(node, p) (frozen != (node) && !is_due(p))

/* Whoever is not p's partner and has invited this node: at most two others can (NODES <= 4). */
#define asks(k, node, round, p) ((k) < (node) && (k) != partner[p] && way(k, node, round)??[INVITE])
#define stranger(node, round, p) \
    (asks(0, node, round, p) -> 0 : (asks(1, node, round, p) -> 1 : (asks(2, node, round, p) -> 2 : NOBODY)))

/* Frames to a part that has ended are read and forgotten there: left out at once, which changes nothing. */
inline send(from, to, round, frame) {
    if
    :: state[part(to, round)] != ENDED && !cut[way_index(from, to, round)] -> way(from, to, round)!frame
    :: state[part(to, round)] == ENDED || cut[way_index(from, to, round)] || faults < FAULTS ->
        if
        :: state[part(to, round)] != ENDED && !cut[way_index(from, to, round)] ->
            faults++;
            cut[way_index(from, to, round)] = true
        :: else
        fi;
        if
        :: frame == COMMIT -> commit_lost[part(from, round)] = true
        :: else
        fi
    fi
}

inline drain(node, round) {
    k = 0;
    do
    :: k < NODES && k != node && nempty(way(k, node, round)) -> way(k, node, round)?_
    :: k < NODES && (k == node || empty(way(k, node, round))) ->
        cut[way_index(k, node, round)] = false;
        k++
    :: k == NODES -> break
    od
    k = 0
}

inline end_part(node, round, p, how) {
    outcome[p] = how;
    state[p] = ENDED;
    deadline[p] = 0;
    whole[p] = false;
    verified[p] = false;
    wrong[p] = false;
    repaired[p] = false;
    told[p] = false;
    confirmed[p] = false;
    drain(node, round)
}

/* Ends with a solo step; the stream is reset, which the partner may or may not hear (BUSY). */
inline end_solo(node, round, p) {
    if
    :: state[p] == SWAPPING && !committed[p] -> send(node, partner[p], round, BUSY)
    :: else
    fi;
    if
    :: committed[p] && !confirmed[p] -> end_part(node, round, p, UNCONFIRMED)
    :: else -> end_part(node, round, p, SOLO)
    fi
}

inline maybe_merge(node, round, p) {
    if
#if BROKEN == 2
    :: committed[p] ->
#else
    :: committed[p] && confirmed[p] ->
#endif
        assert(whole[p] && verified[p] && (!wrong[p] || repaired[p]));
        assert(committed[part(partner[p], round)] && partner[part(partner[p], round)] == node);
        assert(told[p]);
        end_part(node, round, p, MERGE)
    :: else
    fi
}

inline commit(node, round, p) {
    send(node, partner[p], round, COMMIT);
    committed[p] = true;
    maybe_merge(node, round, p)
}

inline begin_swap(node, round, p) {
    state[p] = SWAPPING;
    k = 0;
    do
    :: k < ROUNDS ->
        if
        :: k != round && state[part(node, k)] == SWAPPING ->
            swaps++;
            assert(k % FRAGMENTS != round % FRAGMENTS)
        :: else
        fi;
        k++
    :: k == ROUNDS -> break
    od;
    assert(swaps < 2);
    swaps = 0;
    k = 0;
    send(node, partner[p], round, FRAGMENT);
    send(node, partner[p], round, DIGEST)
}

/* The partner's fragment is whole and right: it decodes, or some blocks do not, or too many do not. */
inline decode(node, round, p) {
    verified[p] = true;
    if
    :: skip -> send(node, partner[p], round, WANT_NONE);
       commit(node, round, p)
    :: wrong[p] = true;
       send(node, partner[p], round, WANT_SOME)
#if BROKEN == 4
       ;
       commit(node, round, p)
#endif
    :: faults < FAULTS ->
        faults++;
        end_solo(node, round, p)
    fi
}

inline take(node, round, p) {
    if
    :: frame == FRAGMENT && !whole[p] -> whole[p] = true
    :: frame == DIGEST && whole[p] && !verified[p] -> decode(node, round, p)
    :: frame == WANT_NONE && !told[p] -> told[p] = true
    :: frame == WANT_SOME && !told[p] ->
        told[p] = true;
        send(node, partner[p], round, REPAIR);
        send(node, partner[p], round, DIGEST)
    :: frame == REPAIR && wrong[p] && !repaired[p] -> repaired[p] = true
    :: frame == DIGEST && repaired[p] && !committed[p] -> commit(node, round, p)
    :: frame == COMMIT && told[p] && !confirmed[p] ->
        confirmed[p] = true;
        maybe_merge(node, round, p)
    :: else -> end_solo(node, round, p) /* BUSY, or a gap in the order */
    fi
}

/* Four nodes meet in three rounds, three leave one alone. */
#define scheduled(node, round) ((node) ^ (1 + (round) % (NODES == 2 -> 1 : 3)))

/* The round begins here, with the scheduled partner or, where the view differs, with any; what is open in its lane, or of its fragment, is
 * superseded. */
inline begin(node, round, p) {
    next_round[node] = round + 1;
    k = 0;
    do
    :: k < round ->
        if
        :: BROKEN != 3 && is_open(part(node, k)) && (k % 2 == round % 2 || k % FRAGMENTS == round % FRAGMENTS) ->
            other = part(node, k);
            lane = k;
            out_of_time[other] = true;
            end_solo(node, lane, other);
            k = lane + 1
        :: else -> k++
        fi
    :: k >= round -> break
    od;
    k = 0;
    other = 0;
    lane = 0;
    deadline[p] = round + LIMIT;
    partner[p] = scheduled(node, round);
    if
    :: faults < FAULTS ->
        faults++;
        select(k : 0 .. NODES - 1);
        partner[p] = k;
        k = 0
    :: skip
    fi;
    if
    :: partner[p] == node || partner[p] >= NODES -> /* the odd one out */
        partner[p] = NOBODY;
        end_part(node, round, p, SOLO)
    :: partner[p] > node && partner[p] < NODES ->
        state[p] = ASKING;
        send(node, partner[p], round, INVITE)
    :: partner[p] < node -> state[p] = WAITING
    fi
}

proctype side(byte node; byte round) {
    byte p = part(node, round);
    byte k, other, lane, swaps;
    mtype:frame frame;

    atomic {
        frozen != node && next_round[node] == round && now >= round;
        if
        :: now > round -> next_round[node] = round + 1; end_part(node, round, p, SOLO)
        :: else -> begin(node, round, p)
        fi
    }
    do
    :: atomic { state[p] == ENDED -> goto over }
    :: atomic { frozen != node && is_due(p) -> out_of_time[p] = true; end_solo(node, round, p) }
    :: atomic { /* an answer to our invite */
        state[p] == ASKING && acts(node, p) && nempty(way(partner[p], node, round)) ->
            way(partner[p], node, round)?frame;
            if
            :: frame == ACCEPT -> begin_swap(node, round, p)
            :: else -> end_solo(node, round, p)
            fi;
            frame = 0
       }
    :: atomic { /* an invite, if it is the partner's; views may differ in more than that */
        state[p] == WAITING && acts(node, p) && nempty(way(partner[p], node, round)) ->
            way(partner[p], node, round)?frame;
            if
            :: frame == INVITE -> send(node, partner[p], round, ACCEPT); begin_swap(node, round, p)
            :: faults < FAULTS ->
                faults++;
                send(node, partner[p], round, BUSY);
                end_solo(node, round, p)
            fi;
            frame = 0
       }
    :: atomic {
        state[p] == SWAPPING && acts(node, p) && nempty(way(partner[p], node, round)) ->
            way(partner[p], node, round)?frame;
            take(node, round, p);
            frame = 0
       }
    :: atomic { /* somebody else's invite */
        is_open(p) && acts(node, p) && stranger(node, round, p) != NOBODY ->
            other = stranger(node, round, p);
            way(other, node, round)?frame;
            send(node, other, round, BUSY);
            frame = 0;
            other = 0
       }
    od;
over:
    skip
}

/* Nothing is left undone by this node in this round that belongs to the tick.  (Expressions cannot loop: what there
 * is no such node or round for is asked twice.) */
#define at(node, round) part((node) % NODES, (round) % ROUNDS)
#define calm_part(node, round) \
    (!(is_open(at(node, round)) && now >= deadline[at(node, round)]) && \
     (next_round[(node) % NODES] > (round) % ROUNDS || now < (round) % ROUNDS))
#define calm(node) \
    (frozen == (node) % NODES || (calm_part(node, 0) && calm_part(node, 1) && calm_part(node, 2)))
#define ended(node) \
    (state[at(node, 0)] == ENDED && state[at(node, 1)] == ENDED && state[at(node, 2)] == ENDED)

/* Nodes freeze and thaw when the clock moves: within a round a frozen node is one that is slow.  One stays so for
 * as long as it likes, but not for ever. */
proctype clock() {
    byte i;
    do
    :: atomic {
        now < END && calm(0) && calm(1) && calm(2) && calm(3) ->
            now++;
            if
            :: frozen != NOBODY -> frozen = NOBODY
            :: frozen != NOBODY && now < END
            :: frozen == NOBODY && faults < FAULTS && now < END ->
                faults++;
                select(i : 0 .. NODES - 1);
                frozen = i;
                i = 0
            :: frozen == NOBODY
            fi
       };
progress:
       skip
    :: now == END -> break
    od
}

/* One outcome each; a merge by one side only has its one reason. */
inline check_part(p, q) {
    assert(outcome[p] != NONE);
    if
    :: outcome[p] == MERGE ->
        assert(outcome[q] != SOLO);
        assert(BROKEN != 6 && (BROKEN != 5 || outcome[q] == MERGE));
        assert(outcome[q] == MERGE || commit_lost[p] || out_of_time[q])
    :: else
    fi
}

init {
    byte i, k;
    atomic {
        for (i : 0 .. NODES - 1) {
            for (k : 0 .. ROUNDS - 1) {
                run side(i, k)
            }
        }
        run clock();
        i = 0;
        k = 0
    }
    atomic {
        now == END && ended(0) && ended(1) && ended(2) && ended(3);
        for (i : 0 .. NODES - 1) {
            for (k : 0 .. ROUNDS - 1) {
                if
                :: partner[part(i, k)] != NOBODY ->
                    check_part(part(i, k), part(partner[part(i, k)], k))
                :: else -> assert(outcome[part(i, k)] == SOLO)
                fi
            }
        }
    }
}
