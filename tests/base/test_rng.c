/* Mirrors base/rng.c. */
#include <criterion/criterion.h>
#include <signal.h>
#include <sodium.h>
#include <string.h>

#include "base/bytes.h"
#include "base/rng.h"

/* RFC 8439 appendix A.1, test vectors 1 and 2: the key stream of the all-zero key and nonce, blocks 0 and 1.
 */
static const uint8_t blocks[128] = {
    0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90, 0x40, 0x5d, 0x6a, 0xe5, 0x53, 0x86, 0xbd, 0x28,
    0xbd, 0xd2, 0x19, 0xb8, 0xa0, 0x8d, 0xed, 0x1a, 0xa8, 0x36, 0xef, 0xcc, 0x8b, 0x77, 0x0d, 0xc7,
    0xda, 0x41, 0x59, 0x7c, 0x51, 0x57, 0x48, 0x8d, 0x77, 0x24, 0xe0, 0x3f, 0xb8, 0xd8, 0x4a, 0x37,
    0x6a, 0x43, 0xb8, 0xf4, 0x15, 0x18, 0xa1, 0x1c, 0xc3, 0x87, 0xb6, 0x69, 0xb2, 0xee, 0x65, 0x86,
    0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a, 0x98, 0xba, 0x97, 0x7c, 0x73, 0x2d, 0x08, 0x0d,
    0xcb, 0x0f, 0x29, 0xa0, 0x48, 0xe3, 0x65, 0x69, 0x12, 0xc6, 0x53, 0x3e, 0x32, 0xee, 0x7a, 0xed,
    0x29, 0xb7, 0x21, 0x76, 0x9c, 0xe6, 0x4e, 0x43, 0xd5, 0x71, 0x33, 0xb0, 0x74, 0xd8, 0x39, 0xd5,
    0x31, 0xed, 0x1f, 0x28, 0x51, 0x0a, 0xfb, 0x45, 0xac, 0xe1, 0x0a, 0x1f, 0x4b, 0x79, 0x4d, 0x6f,
};

/* The stream must be exactly that of the RFC, however it is cut into requests. */
Test(rng, key_stream_vector)
{
    static const uint8_t key[32] = {0};
    for (size_t piece = 1; piece <= sizeof blocks; piece++) {
        struct rng_seeded stream;
        uint8_t out[sizeof blocks];
        rng_seeded_init_key(&stream, key);
        struct rng rng = rng_of_seeded(&stream);
        for (size_t at = 0; at < sizeof out; at += piece)
            rng_fill(&rng, out + at, piece < sizeof out - at ? piece : sizeof out - at);
        cr_assert_arr_eq(out, blocks, sizeof blocks, "requests of %zu bytes", piece);
    }
}

/* Integers come off the stream in little-endian order, the same on every machine. */
Test(rng, integers)
{
    static const uint8_t key[32] = {0};
    struct rng_seeded stream;
    rng_seeded_init_key(&stream, key);
    struct rng rng = rng_of_seeded(&stream);
    cr_assert_eq(rng_u32(&rng), 0xade0b876u);
    cr_assert_eq(rng_u64(&rng), UINT64_C(0xe56a5d40903df1a0));
    rng_fill(&rng, NULL, 0);
}

/* One seed, one stream; two seeds, two streams; two views of one stream share its position. */
Test(rng, seeds)
{
    struct rng_seeded a;
    struct rng_seeded b;
    rng_seeded_init(&a, 42);
    rng_seeded_init(&b, 42);
    struct rng one = rng_of_seeded(&a);
    struct rng same = rng_of_seeded(&b);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(rng_u64(&one), rng_u64(&same));
    struct rng view = rng_of_seeded(&a);
    cr_assert_eq(rng_u64(&view), rng_u64(&same));
    rng_seeded_init(&b, 43);
    cr_assert_neq(rng_u64(&one), rng_u64(&same));
}

/* Values must stay below the bound and be evenly spread: chi-square over 7 cells, 70,000 draws of a fixed
 * seed.  22.5 is the 0.1 % point at 6 degrees of freedom. */
Test(rng, below_is_uniform)
{
    struct rng_seeded stream;
    size_t counts[7] = {0};
    double chi_square = 0;
    rng_seeded_init(&stream, 5);
    struct rng rng = rng_of_seeded(&stream);
    for (int i = 0; i < 70000; i++)
        counts[rng_below(&rng, 7)]++;
    for (size_t i = 0; i < 7; i++)
        chi_square += ((double)counts[i] - 10000.0) * ((double)counts[i] - 10000.0) / 10000.0;
    cr_assert_lt(chi_square, 22.5);
}

/* A generator that plays back given words, to meet the rejected range. */
struct script {
    uint64_t words[3];
    size_t used;
};

static void fill_script(void *user, uint8_t *out, size_t len)
{
    struct script *script = user;
    cr_assert_eq(len, 8);
    store_le64(out, script->words[script->used++]);
}

/* With bound 3 * 2^62 a plain remainder would favour the low third: words below 2^64 mod bound = 2^62 are
 * redrawn. */
Test(rng, below_rejects_the_biased_range)
{
    struct script script = {.words = {0, (UINT64_C(1) << 62) - 1, UINT64_C(1) << 62}};
    struct rng rng = {.fill = fill_script, .user = &script};
    cr_assert_eq(rng_below(&rng, UINT64_C(3) << 62), UINT64_C(1) << 62);
    cr_assert_eq(script.used, 3);
}

Test(rng, below_edges)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 9);
    struct rng rng = rng_of_seeded(&stream);
    for (int i = 0; i < 100; i++) {
        cr_assert_eq(rng_below(&rng, 1), 0);
        cr_assert_lt(rng_below(&rng, UINT64_MAX), UINT64_MAX);
    }
}

Test(rng, below_zero_is_a_bug, .signal = SIGABRT)
{
    struct rng rng = rng_system();
    (void)rng_below(&rng, 0);
}

/* The system's generator must fill all it is asked for: of 4096 bytes drawn 8 times none stays zero
 * throughout (an honest generator fails this once in 2^52 runs). */
Test(rng, system_fills)
{
    uint8_t seen[4096] = {0};
    cr_assert_geq(sodium_init(), 0);
    struct rng rng = rng_system();
    for (int i = 0; i < 8; i++) {
        uint8_t out[sizeof seen];
        rng_fill(&rng, out, sizeof out);
        for (size_t k = 0; k < sizeof out; k++)
            seen[k] |= out[k];
    }
    cr_assert_null(memchr(seen, 0, sizeof seen));
}
