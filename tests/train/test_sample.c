/* Sampling with the cache must follow the model exactly: each byte judged against a pass over the whole text
 * so far, and the distribution against the reference's. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "support/support.h"
#include "train/init.h"
#include "train/pass.h"
#include "train/sample.h"

enum { CONTEXT = 24 };

static struct train_layout layout;
static float params[64000];
static struct allocator heap;

static void make_model(void)
{
    struct train_model_config model = {.width = 32, .layers = 2, .heads = 2, .context = CONTEXT};
    uint8_t seed[32] = {3};
    heap = allocator_system();
    train_layout_init(&layout, &model);
    cr_assert_leq(layout.arena_floats, 64000);
    train_init(&layout, seed, params);
    /* Sharper than at the start, so that the likeliest byte is no matter of rounding. */
    const struct train_tensor *head = &layout.tensors[train_layout_head(&layout)];
    for (size_t i = 0; i < head->rows * head->cols; i++)
        params[head->offset + i] *= 20;
}

TestSuite(sample, .init = make_model);

/* Loss of the last prediction alone: a window's loss less that of the same window with the last byte
 * predicted differently cannot be had from the pass, so all 256 last bytes are tried and the smallest total
 * taken. */
static uint8_t likeliest_by_pass(struct train_pass *pass, const uint8_t text[CONTEXT])
{
    uint8_t window[CONTEXT + 1];
    const uint8_t *windows[] = {window};
    double best_loss = INFINITY;
    uint8_t best = 0;
    memcpy(window, text, CONTEXT);
    for (int last = 0; last < 256; last++) {
        window[CONTEXT] = (uint8_t)last;
        double loss = train_pass_forward(pass, params, 1, windows);
        if (loss < best_loss) {
            best_loss = loss;
            best = (uint8_t)last;
        }
    }
    return best;
}

/* The pass needs full windows, so the byte judged is the one drawn when the cache is full: with a prompt of
 * half the context that is byte CONTEXT / 2 of the output. */
Test(sample, greedy_bytes_are_those_of_a_full_pass)
{
    static const uint8_t prompts[][CONTEXT / 2 + 1] = {"Mary had a l", "dunlin 12345",
                                                       "\n\n\n\n\n\n\n\n\n\n\n\n"};
    struct train_pass *pass;
    cr_assert_eq(train_pass_create(&layout, 1, &heap, &pass), 0);
    for (size_t p = 0; p < 3; p++) {
        uint8_t text[CONTEXT + 1];
        struct train_sample_config config = train_sample_config_default();
        config.temperature = 0;
        config.prompt = bytes_of(prompts[p], CONTEXT / 2);
        config.count = CONTEXT / 2 + 1;
        memcpy(text, prompts[p], CONTEXT / 2);
        cr_assert_eq(train_sample(&layout, params, &config, &heap, text + CONTEXT / 2), 0);
        cr_assert_eq(text[CONTEXT], likeliest_by_pass(pass, text), "prompt %zu", p);
    }
    train_pass_destroy(pass);
}

Test(sample, seed_and_settings_decide_the_text)
{
    uint8_t a[300], b[300];
    struct train_sample_config config = train_sample_config_default();
    config.count = sizeof a;
    config.temperature = 1;
    cr_assert_eq(train_sample(&layout, params, &config, &heap, a), 0);
    cr_assert_eq(train_sample(&layout, params, &config, &heap, b), 0);
    cr_assert_eq(memcmp(a, b, sizeof a), 0);
    config.seed = 1;
    cr_assert_eq(train_sample(&layout, params, &config, &heap, b), 0);
    cr_assert_neq(memcmp(a, b, sizeof a), 0);
    /* Among the one likeliest there is no choice. */
    config.top_k = 1;
    cr_assert_eq(train_sample(&layout, params, &config, &heap, a), 0);
    config.temperature = 0;
    config.top_k = 0;
    cr_assert_eq(train_sample(&layout, params, &config, &heap, b), 0);
    cr_assert_eq(memcmp(a, b, sizeof a), 0);
}

/* Untrained, with the head zeroed, all bytes are equally likely. */
Test(sample, draws_are_uniform_when_the_model_knows_nothing)
{
    enum { COUNT = 6000 };
    static uint8_t out[COUNT];
    size_t counts[256] = {0};
    const struct train_tensor *head = &layout.tensors[train_layout_head(&layout)];
    memset(params + head->offset, 0, head->rows * head->cols * sizeof(float));
    struct train_sample_config config = {.count = COUNT, .temperature = 1, .prompt = bytes_of_text("x")};
    cr_assert_eq(train_sample(&layout, params, &config, &heap, out), 0);
    double squares = 0;
    for (size_t i = 0; i < COUNT; i++)
        counts[out[i]]++;
    for (size_t i = 0; i < 256; i++)
        squares += pow((double)counts[i] - COUNT / 256.0, 2) / (COUNT / 256.0);
    /* Chi-squared, 255 degrees of freedom: mean 255, deviation 23. */
    cr_assert(squares > 160 && squares < 370, "chi-squared %g", squares);
}

Test(sample, bad_settings_and_weights_are_refused)
{
    uint8_t out[4];
    struct train_sample_config config = {.count = 4, .temperature = -1};
    cr_assert_eq(train_sample(&layout, params, &config, &heap, out), ERR_INVALID);
    config.temperature = NAN;
    cr_assert_eq(train_sample(&layout, params, &config, &heap, out), ERR_INVALID);
    config.temperature = 1;
    config.top_k = 257;
    cr_assert_eq(train_sample(&layout, params, &config, &heap, out), ERR_INVALID);
    config.top_k = 0;
    struct counting_allocator counter = {.fail_at = 1};
    struct allocator failing = counting_allocator_view(&counter);
    cr_assert_eq(train_sample(&layout, params, &config, &failing, out), ERR_NO_MEMORY);
    params[layout.tensors[train_layout_head(&layout)].offset] = NAN;
    counter = (struct counting_allocator){.fail_at = 0};
    cr_assert_eq(train_sample(&layout, params, &config, &failing, out), ERR_NOT_FINITE);
    cr_assert_eq(counter.live, 0);
}

Test(sample, long_prompts_keep_their_end)
{
    uint8_t prompt[500], a[50], b[50];
    for (size_t i = 0; i < sizeof prompt; i++)
        prompt[i] = (uint8_t)('a' + i % 7);
    struct train_sample_config config = {.count = sizeof a, .temperature = 0};
    config.prompt = bytes_of(prompt, sizeof prompt);
    cr_assert_eq(train_sample(&layout, params, &config, &heap, a), 0);
    config.prompt = bytes_of(prompt + sizeof prompt - CONTEXT / 2, CONTEXT / 2);
    cr_assert_eq(train_sample(&layout, params, &config, &heap, b), 0);
    cr_assert_eq(memcmp(a, b, sizeof a), 0);
}
