/* Speed of the merge kernels on one thread, each beside a probe that only moves the same bytes: as many
 * streams read, updated in place and written as the kernel's, and the least arithmetic that keeps a compiler
 * from leaving them out.  tools/bench.d/merge runs it and prints the table.
 *
 * usage: bench_merge MILLIONS ROUNDS      millions of parameters; prints one line of JSON
 *
 * Times are the thread's own, so that others on the machine cost no turns, though they do cost bandwidth.
 * Bytes are counted once for each array read and once for each written.  An array that is only written costs
 * the memory a read as well; `of_in_place` counts that too and divides by the speed of x <- x + c. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "gossip/codec.h"
#include "gossip/codec_modular.h"
#include "gossip/merge/average.h"
#include "gossip/merge/clones.h"
#include "gossip/merge/outer.h"
#include "gossip/merge/reference.h"
#include "gossip/merge/stats.h"
#include "gossip/merge/stream.h"

enum {
    ARRAYS = 7,
    MILLIONS_MAX = 4000,
    ROUNDS_MAX = 99,
    ROWS_MAX = 40,
    SMALL = 65536,
    BLOCK = 4096,
    AHEAD = 512
};
struct bench {
    size_t n;             /* parameters; a multiple of SMALL */
    float *array[ARRAYS]; /* [n] each; a row reads the first ones, updates the next, writes those after */
    enum gossip_codec codec;
    double sink; /* keeps results alive */
};

/* What a row moves, in streams of n float32: read, read and written in place, written.  A codec's row reads
 * or writes `blob` bytes besides. */
struct row {
    const char *name;
    double target; /* of the ratio; 0: only reported */
    void (*kernel)(struct bench *b);
    void (*probe)(struct bench *b);
    double bytes; /* counted, a parameter */
    double moved; /* with the reads that writing costs */
    enum gossip_codec codec;
    char own_name[32];
};

static void fail(const char *what)
{
    fprintf(stderr, "bench_merge: %s\n", what);
    exit(1);
}

static double seconds(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) != 0)
        fail("no clock");
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* --- probes: only the bytes -------------------------------------------------------------------------- */

typedef float wide __attribute__((vector_size(64), aligned(4), may_alias));

/* Past the caches where the kernels do so too: the limit is the fastest way known. */
static inline __attribute__((always_inline)) void store(float *to, const wide *value)
{
#ifdef __SSE2__
    float values[16];
    memcpy(values, value, sizeof values);
    for (size_t k = 0; k < 16; k += 4)
        _mm_stream_ps(to + k, _mm_loadu_ps(values + k));
#else
    *(wide *)to = *value;
#endif
}

/* p holds first the arrays read, then those updated, then those written.  Inlined with constants. */
static inline __attribute__((always_inline)) void touch(struct bench *b, size_t reads, size_t updates,
                                                        size_t writes, float *const p[])
{
    wide all = {1e-30f};
    for (size_t i = 0; i < b->n; i += 16) {
        wide sum = all;
        for (size_t k = 0; k < reads + updates; k++)
            __builtin_prefetch(p[k] + i + AHEAD);
        for (size_t k = 0; k < reads; k++)
            sum += *(const wide *)(p[k] + i);
        for (size_t k = reads; k < reads + updates; k++)
            *(wide *)(p[k] + i) += sum;
        for (size_t k = reads + updates; k < reads + updates + writes; k++)
            store(p[k] + i, &sum);
        if (updates + writes == 0)
            all = sum;
    }
    b->sink += (double)all[0];
}

#define PROBE(reads, updates, writes)                                                                        \
    GOSSIP_CLONES static void probe_##reads##updates##writes(struct bench *b)                                \
    {                                                                                                        \
        float *p[ARRAYS];                                                                                    \
        memcpy(p, b->array, sizeof p);                                                                       \
        touch(b, reads, updates, writes, p);                                                                 \
    }
PROBE(1, 0, 0)
PROBE(2, 0, 0)
PROBE(1, 1, 0)
PROBE(2, 0, 1)
PROBE(3, 0, 1)
PROBE(4, 0, 1)
PROBE(2, 2, 0)
PROBE(2, 2, 1)
PROBE(3, 2, 1)
PROBE(0, 1, 0)

/* Two passes, over everything or tensor by tensor of 256 KiB. */
static void probe_two_passes(struct bench *b)
{
    probe_200(b);
    probe_201(b);
}

static void probe_two_passes_small(struct bench *b)
{
    struct bench part = *b;
    part.n = SMALL;
    for (size_t at = 0; at < b->n; at += SMALL) {
        for (size_t k = 0; k < ARRAYS; k++)
            part.array[k] = b->array[k] + at;
        probe_two_passes(&part);
    }
    b->sink += part.sink;
}

static void probe_target_and_step(struct bench *b)
{
    struct bench step = *b;
    probe_301(b);
    step.array[1] = b->array[3];
    memcpy(step.array + 2, b->array + 4, 3 * sizeof *b->array);
    probe_221(&step);
}

/* `reads` arrays read, the codec's bytes written to the next, BLOCK values at a time; and the way back, the
 * blob where encoding has left it, `owns` arrays read beside it.  Inlined with constants. */
static inline __attribute__((always_inline)) void touch_encode(struct bench *b, size_t reads)
{
    uint8_t *out = (uint8_t *)b->array[reads];
    size_t bytes = gossip_encoded_bytes(b->codec, BLOCK);
    for (size_t i = 0; i < b->n; i += BLOCK) {
        wide sum = {0};
        for (size_t k = 0; k < BLOCK; k += 16)
            for (size_t a = 0; a < reads; a++)
                sum += *(const wide *)(b->array[a] + i + k);
        for (size_t k = 0; k + sizeof sum <= bytes; k += sizeof sum)
            memcpy(out + k, &sum, sizeof sum);
        out += bytes;
    }
}

static inline __attribute__((always_inline)) void touch_decode(struct bench *b, size_t owns)
{
    const uint8_t *in = (const uint8_t *)b->array[owns + 1];
    size_t bytes = gossip_encoded_bytes(b->codec, BLOCK);
    for (size_t i = 0; i < b->n; i += BLOCK) {
        wide sum = {0};
        for (size_t k = 0; k + sizeof sum <= bytes; k += sizeof sum) {
            wide piece;
            memcpy(&piece, in + k, sizeof piece);
            sum += piece;
        }
        for (size_t k = 0; k < BLOCK; k += 16) {
            for (size_t a = 0; a < owns; a++)
                sum += *(const wide *)(b->array[a] + i + k);
            *(wide *)(b->array[owns + 2] + i + k) = sum;
        }
        in += bytes;
    }
}

GOSSIP_CLONES
static void probe_encode(struct bench *b)
{
    touch_encode(b, 1);
}

GOSSIP_CLONES
static void probe_decode(struct bench *b)
{
    touch_decode(b, 0);
}

/* --- kernels ------------------------------------------------------------------------------------------ */

static void run_copy(struct bench *b)
{
    memcpy(b->array[1], b->array[0], b->n * sizeof(float));
}

static void run_average(struct bench *b)
{
    gossip_average(b->n, b->array[0], b->array[1], b->array[2]);
}

static void run_average_four(struct bench *b)
{
    const float *models[4] = {b->array[0], b->array[1], b->array[2], b->array[3]};
    gossip_average_many(b->n, 4, models, b->array[4]);
}

static void run_average_add(struct bench *b)
{
    gossip_average_add(b->n, 3, b->array[0], b->array[1]);
}

static void run_target(struct bench *b)
{
    gossip_pair_target(b->n, 0.5f, b->array[0], b->array[1], b->array[2], b->array[3]);
}

static void run_step(struct bench *b)
{
    gossip_outer_step(b->n, 0.5f, 0.7f, b->array[0], b->array[1], b->array[2], b->array[3], b->array[4]);
}

static void run_step_scalar(struct bench *b)
{
    gossip_reference_outer_step(b->n, 0.5f, 0.7f, b->array[0], b->array[1], b->array[2], b->array[3],
                                b->array[4]);
}

static void run_step_general(struct bench *b)
{
    struct gossip_outer config = {.alpha = 0.5f, .beta = 0.7f, .gamma = 0.9f};
    gossip_outer_step_general(b->n, &config, b->array[0], b->array[1], b->array[2], b->array[3]);
}

static void run_pair_step(struct bench *b)
{
    gossip_pair_step(b->n, 0.5f, 0.7f, 0.5f, b->array[0], b->array[1], b->array[2], b->array[3], b->array[4],
                     b->array[5]);
}

/* What gossip_pair_step replaces: the target goes through the memory. */
static void run_target_and_step(struct bench *b)
{
    gossip_pair_target(b->n, 0.5f, b->array[0], b->array[1], b->array[2], b->array[3]);
    gossip_outer_step(b->n, 0.5f, 0.7f, b->array[3], b->array[0], b->array[4], b->array[5], b->array[6]);
}

static void run_corrected(struct bench *b)
{
    gossip_average_corrected(b->n, GOSSIP_TENSOR_MATRIX, b->array[0], b->array[1], b->array[2]);
}

static void run_corrected_small(struct bench *b)
{
    for (size_t at = 0; at < b->n; at += SMALL)
        gossip_average_corrected(SMALL, GOSSIP_TENSOR_MATRIX, b->array[0] + at, b->array[1] + at,
                                 b->array[2] + at);
}

static void run_sums(struct bench *b)
{
    struct gossip_sums sums = {0};
    gossip_sums_add(&sums, b->n, b->array[0], b->array[1]);
    b->sink += sums.dd;
}

static void run_finite(struct bench *b)
{
    if (!gossip_all_finite(b->n, b->array[0]))
        fail("a number is not finite");
}

static void run_encode(struct bench *b)
{
    if (gossip_encode_values(b->codec, b->n, b->array[0], (uint8_t *)b->array[1]) != ERR_OK)
        fail("a codec refuses its input");
}

static void run_decode(struct bench *b)
{
    if (gossip_decode_values(b->codec, b->n, (const uint8_t *)b->array[1], b->array[2]) != ERR_OK)
        fail("a codec refuses its own output");
}

GOSSIP_CLONES
static void probe_modular_encode(struct bench *b)
{
    touch_encode(b, 2);
}

GOSSIP_CLONES
static void probe_modular_decode(struct bench *b)
{
    touch_decode(b, 1);
}

/* Rounds of theta and phi apart, as they are after training. */
static void run_modular_encode(struct bench *b)
{
    struct gossip_tensor whole = {.offset = 0, .count = b->n, .kind = GOSSIP_TENSOR_MATRIX};
    struct gossip_modular_source source = {
        .theta = b->array[0], .phi = b->array[1], .kappa = GOSSIP_KAPPA, .distance_scale = 1};
    if (gossip_modular_encode(b->codec, &whole, 1, &source, (uint8_t *)b->array[2],
                              gossip_encoded_bytes(b->codec, b->n)) != ERR_OK)
        fail("the modular codec refuses its input");
}

static void run_modular_decode(struct bench *b)
{
    if (gossip_modular_values(b->codec, b->n, (const uint8_t *)b->array[2], b->array[0], b->array[3],
                              (uint8_t *)b->array[4]) != 0)
        fail("the modular codec does not decode its own output");
}

/* What must have run once before a row's turns. */
static void prepare(struct bench *b, const struct row *row)
{
    if (row->kernel == run_decode)
        run_encode(b);
    if (row->kernel == run_modular_decode)
        run_modular_encode(b);
}

/* bytes: 4 for each stream, twice for what is read and written; moved: a written array counts twice. */
static const struct row plain_rows[] = {
    {.name = "average", .target = 0.8, .kernel = run_average, .probe = probe_201, .bytes = 12, .moved = 16},
    {.name = "average_four",
     .target = 0.8,
     .kernel = run_average_four,
     .probe = probe_401,
     .bytes = 20,
     .moved = 24},
    {.name = "average_add",
     .target = 0.8,
     .kernel = run_average_add,
     .probe = probe_110,
     .bytes = 12,
     .moved = 12},
    {.name = "pair_target",
     .target = 0.8,
     .kernel = run_target,
     .probe = probe_301,
     .bytes = 16,
     .moved = 20},
    {.name = "outer_step", .target = 0.8, .kernel = run_step, .probe = probe_221, .bytes = 28, .moved = 32},
    {.name = "outer_step_general",
     .target = 0.8,
     .kernel = run_step_general,
     .probe = probe_220,
     .bytes = 24,
     .moved = 24},
    {.name = "pair_step",
     .target = 0.8,
     .kernel = run_pair_step,
     .probe = probe_321,
     .bytes = 32,
     .moved = 36},
    {.name = "pair_step_unfused",
     .kernel = run_target_and_step,
     .probe = probe_target_and_step,
     .bytes = 44,
     .moved = 52},
    {.name = "outer_step_scalar", .kernel = run_step_scalar, .probe = probe_221, .bytes = 28, .moved = 32},
    {.name = "variance_corrected",
     .target = 0.65,
     .kernel = run_corrected,
     .probe = probe_two_passes,
     .bytes = 20,
     .moved = 24},
    {.name = "variance_corrected_256k",
     .target = 0.65,
     .kernel = run_corrected_small,
     .probe = probe_two_passes_small,
     .bytes = 12,
     .moved = 16},
    {.name = "sums", .kernel = run_sums, .probe = probe_200, .bytes = 8, .moved = 8},
    {.name = "all_finite", .kernel = run_finite, .probe = probe_100, .bytes = 4, .moved = 4},
};

static void name_rows(struct row *encode, struct row *decode)
{
    const char *name = gossip_codec_name(encode->codec);
    (void)snprintf(encode->own_name, sizeof encode->own_name, "encode_%s", name);
    (void)snprintf(decode->own_name, sizeof decode->own_name, "decode_%s", name);
}

/* A row for each direction of each codec that this build knows. */
static size_t add_codecs(struct row rows[], size_t count)
{
    for (enum gossip_codec codec = GOSSIP_CODEC_FP32; codec < GOSSIP_CODEC_COUNT; codec++) {
        double blob = (double)gossip_encoded_bytes(codec, BLOCK) / BLOCK;
        struct row encode = {.kernel = run_encode, .probe = probe_encode, .codec = codec};
        struct row decode = {.kernel = run_decode, .probe = probe_decode, .codec = codec};
        double reads = 4, target = codec == GOSSIP_CODEC_INT8 ? 0.6 : 0;
        if (gossip_modular_bits(codec) > 0) {
            encode.kernel = run_modular_encode;
            encode.probe = probe_modular_encode;
            decode.kernel = run_modular_decode;
            decode.probe = probe_modular_decode;
            reads = 8;
            target = 0.6;
        }
        encode.target = target;
        encode.bytes = reads + blob;
        encode.moved = reads + 2 * blob;
        decode.bytes = reads + blob;
        decode.moved = reads + 4 + blob;
        name_rows(&encode, &decode);
        ASSERT(count + 2 <= ROWS_MAX);
        rows[count++] = encode;
        rows[count++] = decode;
    }
    return count;
}

/* --- measuring --------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(size_t count, const double values[])
{
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, count * sizeof *values);
    qsort(sorted, count, sizeof *sorted, compare);
    return count % 2 == 1 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

static double timed(struct bench *b, void (*run)(struct bench *))
{
    double begin = seconds();
    run(b);
    return seconds() - begin;
}

/* Numbers of about +-0.03 without pattern, other ones in each array, none of them correlated. */
GOSSIP_CLONES
static void fill(struct bench *b)
{
    for (size_t k = 0; k < ARRAYS; k++) {
        float *values = b->array[k];
        uint32_t salt = (uint32_t)(k + 1) * 0x9e3779b9u;
        for (size_t i = 0; i < b->n; i++) {
            uint32_t x = (uint32_t)i ^ salt;
            x = (x ^ x >> 16) * 0x7feb352du;
            x = (x ^ x >> 15) * 0x846ca68bu;
            values[i] = (float)(int32_t)(x ^ x >> 16) * 0x1p-36f;
        }
    }
}

/* Medians of one row. */
struct figures {
    double gbs;
    double limit_gbs;
    double ratio;       /* probe's time / kernel's, of the same turn */
    double of_in_place; /* moved bytes a second over those of x <- x + c, of the same turn */
};

/* The build that people run chooses among instruction sets, the tests' build does not: here the chosen one is
 * held against the reference too, bit for bit. */
static void check_bits(struct bench *b)
{
    struct bench part = *b;
    float *const *x = b->array;
    size_t n = b->n < 2 * STREAM_MIN ? b->n : 2 * STREAM_MIN;
    struct gossip_sums fast = {0}, slow = {0};
    part.n = n;
    fill(&part);
    memcpy(x[4], x[2], n * sizeof(float));
    memcpy(x[5], x[3], n * sizeof(float));
    gossip_outer_step(n, 0.5f, 0.7f, x[0], x[1], x[2], x[3], x[6]);
    gossip_reference_outer_step(n, 0.5f, 0.7f, x[0], x[1], x[4], x[5], x[6]);
    if (memcmp(x[2], x[4], n * sizeof(float)) != 0 || memcmp(x[3], x[5], n * sizeof(float)) != 0)
        fail("the outer step differs from its reference");
    gossip_sums_add(&fast, n - 5, x[0], x[1]);
    gossip_reference_sums(&slow, n - 5, x[0], x[1]);
    if (memcmp(&fast, &slow, sizeof fast) != 0)
        fail("the sums differ from their reference");
}

static const char *kernels_for(void)
{
#ifdef GOSSIP_USE_CLONES
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4"))
        return "x86-64-v4";
    if (__builtin_cpu_supports("x86-64-v3"))
        return "x86-64-v3";
#endif
    return "baseline";
}

/* Turns of x <- x + c, the kernel and its probe next to each other, the latter two in changing order. */
static struct figures measure(struct bench *b, const struct row *row, size_t rounds)
{
    double gbs[ROUNDS_MAX], limit[ROUNDS_MAX], ratio[ROUNDS_MAX], of_in_place[ROUNDS_MAX];
    double values = (double)b->n;
    b->codec = row->codec;
    fill(b);
    (void)timed(b, row->probe);
    fill(b);
    prepare(b, row);
    for (size_t round = 0; round < rounds; round++) {
        double early = round % 2 == 0 ? timed(b, row->probe) : 0;
        double kernel = timed(b, row->kernel);
        double probe = round % 2 == 0 ? early : timed(b, row->probe);
        double in_place = timed(b, probe_010);
        gbs[round] = row->bytes * values / kernel * 1e-9;
        limit[round] = row->bytes * values / probe * 1e-9;
        ratio[round] = probe / kernel;
        of_in_place[round] = row->moved / kernel / (8 / in_place);
    }
    return (struct figures){median(rounds, gbs), median(rounds, limit), median(rounds, ratio),
                            median(rounds, of_in_place)};
}

static double speed(struct bench *b, void (*run)(struct bench *), size_t rounds)
{
    double gbs[ROUNDS_MAX];
    (void)timed(b, run);
    for (size_t round = 0; round < rounds; round++)
        gbs[round] = 8e-9 * (double)b->n / timed(b, run);
    return median(rounds, gbs);
}

static void print_row(struct bench *b, const struct row *row, size_t rounds, bool first)
{
    struct figures f = measure(b, row, rounds);
    printf(
        "%s{\"name\": \"%s\", \"gbs\": %.2f, \"limit_gbs\": %.2f, \"ratio\": %.3f, \"of_in_place\": %.3f, ",
        first ? "" : ", ", row->name != NULL ? row->name : row->own_name, f.gbs, f.limit_gbs, f.ratio,
        f.of_in_place);
    printf("\"bytes_per_value\": %.3f, ", row->bytes);
    if (row->target > 0)
        printf("\"target\": %.2f}", row->target);
    else
        printf("\"target\": null}");
    (void)fflush(stdout);
}

static void run_all(struct bench *b, size_t rounds)
{
    struct row rows[ROWS_MAX];
    size_t count = sizeof plain_rows / sizeof plain_rows[0];
    memcpy(rows, plain_rows, sizeof plain_rows);
    count = add_codecs(rows, count);
    check_bits(b);
    fill(b);
    printf("{\"parameters\": %zu, \"rounds\": %zu, \"kernels_for\": \"%s\", ", b->n, rounds, kernels_for());
    printf("\"copy_gbs\": %.2f, \"in_place_gbs\": %.2f, \"kernels\": [", speed(b, run_copy, rounds),
           speed(b, probe_010, rounds));
    for (size_t i = 0; i < count; i++)
        print_row(b, &rows[i], rounds, i == 0);
    printf("]}\n");
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    double millions = argc == 3 ? strtod(argv[1], NULL) : 0;
    int rounds = argc == 3 ? atoi(argv[2]) : 0;
    if (!(millions > 0 && millions <= MILLIONS_MAX) || rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: bench_merge MILLIONS ROUNDS\n");
        return 2;
    }
    b.n = (size_t)(millions * 1e6) / SMALL * SMALL;
    b.n = b.n == 0 ? SMALL : b.n;
    for (size_t k = 0; k < ARRAYS; k++) {
        b.array[k] = aligned_alloc(64, b.n * sizeof(float));
        if (b.array[k] == NULL)
            fail("not enough memory; choose fewer parameters");
    }
    run_all(&b, (size_t)rounds);
    for (size_t k = 0; k < ARRAYS; k++)
        free(b.array[k]);
    return b.sink == 12345.0 ? 1 : 0;
}
