/* An exported file must come back bit for bit, and anything else must be refused without touching the
 * weights. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "train/init.h"
#include "train/json_scan.h"
#include "train/safetensors.h"

static const struct train_model_config tiny = {.width = 16, .layers = 1, .heads = 2, .context = 8};
static struct train_layout layout;
static float params[24000], read_back[24000];
static uint8_t *file;
static size_t file_len;
static char why[256];

static void make_file(void)
{
    uint8_t seed[32] = {6};
    train_layout_init(&layout, &tiny);
    cr_assert_leq(layout.arena_floats, 24000);
    train_init(&layout, seed, params);
    file_len = train_safetensors_bytes(&layout, NULL);
    file = malloc(file_len);
    cr_assert_not_null(file);
    cr_assert_eq(train_safetensors_write(&layout, NULL, params, file, file_len - 1), ERR_TOO_LARGE);
    cr_assert_eq(train_safetensors_write(&layout, NULL, params, file, file_len), 0);
}

static void free_file(void)
{
    free(file);
}

TestSuite(safetensors, .init = make_file, .fini = free_file);

Test(safetensors, comes_back_bit_for_bit)
{
    struct train_model_config model;
    cr_assert_eq(train_safetensors_model(bytes_of(file, file_len), &model, why, sizeof why), 0, "%s", why);
    cr_assert_eq(memcmp(&model, &tiny, sizeof model), 0);
    memset(read_back, 0xAA, sizeof read_back);
    cr_assert_eq(train_safetensors_read(bytes_of(file, file_len), &layout, read_back, why, sizeof why), 0,
                 "%s", why);
    cr_assert_eq(memcmp(params, read_back, layout.arena_floats * sizeof(float)), 0);
    cr_assert_eq((8 + load_le64(file)) % 8, 0, "data are aligned");
}

/* Where a mean came from stands in the file for whoever looks, and changes nothing for who reads the weights,
 * up to the longest there may be. */
Test(safetensors, says_what_was_merged)
{
    static char merged[TRAIN_ST_MERGED_MAX + 1];
    struct train_model_config model;
    size_t header_len = file_len - 4 * layout.parameter_count;
    const size_t lens[] = {1, 7, 60, TRAIN_ST_MERGED_MAX};
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        memset(merged, 'q', lens[i]);
        merged[lens[i]] = '\0';
        size_t len = train_safetensors_bytes(&layout, merged);
        cr_assert_gt(len, file_len + lens[i]);
        uint8_t *image = malloc(len);
        cr_assert_eq(train_safetensors_write(&layout, merged, params, image, len - 1), ERR_TOO_LARGE);
        cr_assert_eq(train_safetensors_write(&layout, merged, params, image, len), 0);
        cr_assert_not_null(memmem(image, len, merged, lens[i]));
        cr_assert_eq((8 + load_le64(image)) % 8, 0);
        cr_assert_eq(train_safetensors_model(bytes_of(image, len), &model, why, sizeof why), 0, "%s", why);
        cr_assert_eq(memcmp(&model, &tiny, sizeof model), 0);
        memset(read_back, 0xAA, sizeof read_back);
        cr_assert_eq(train_safetensors_read(bytes_of(image, len), &layout, read_back, why, sizeof why), 0);
        cr_assert_eq(memcmp(params, read_back, layout.arena_floats * sizeof(float)), 0);
        free(image);
    }
    cr_assert_null(memmem(file, header_len, "merged", 6), "what is no mean does not speak of one");
}

static void refuse(struct bytes bytes, int expected, const char *said)
{
    float marker = read_back[0] = 42;
    int result = train_safetensors_read(bytes, &layout, read_back, why, sizeof why);
    if (expected == 0)
        cr_assert_lt(result, 0, "accepted");
    else
        cr_assert_eq(result, expected, "%s: %s", err_name(result), why);
    cr_assert(strstr(why, said) != NULL, "\"%s\" does not say \"%s\"", why, said);
    cr_assert_eq(read_back[0], marker, "weights changed by a refused file");
}

Test(safetensors, every_truncation_is_refused)
{
    for (size_t len = 0; len < file_len; len += len < 3000 ? 1 : 997) {
        struct train_model_config model;
        refuse(bytes_of(file, len), 0, "");
        cr_assert(len >= 8 + load_le64(file) ||
                  train_safetensors_model(bytes_of(file, len), &model, why, sizeof why) < 0);
    }
}

/* Replaces `from` by `to`, of equal length, in a copy of the file's header. */
static void refuse_with(const char *from, const char *to, int expected, const char *said)
{
    uint8_t *copy = malloc(file_len);
    cr_assert_not_null(copy);
    memcpy(copy, file, file_len);
    cr_assert_eq(strlen(from), strlen(to));
    uint8_t *at = memmem(copy, file_len, from, strlen(from));
    cr_assert_not_null(at, "header does not hold %s", from);
    memcpy(at, to, strlen(to));
    refuse(bytes_of(copy, file_len), expected, said);
    free(copy);
}

Test(safetensors, foreign_tensors_are_refused_by_name)
{
    refuse_with("head.weight", "hand.weight", ERR_MISMATCH, "\"hand.weight\" does not belong");
    refuse_with("final.bias", "final.gain", ERR_MISMATCH, "\"final.gain\" comes twice");
    refuse_with("\"shape\":[768,16]", "\"shape\":[16,768]", ERR_MISMATCH,
                "\"embed.weight\" is not F32 or has");
    refuse_with("\"F32\"", "\"F16\"", ERR_MISMATCH, "\"embed.weight\" is not F32");
    refuse_with("\"shape\":[768,16]", "\"shape\":[4,4,16]", ERR_MISMATCH, "\"embed.weight\"");
    refuse_with("[0,49152]", "[1,49152]", ERR_MISMATCH, "offsets that do not fit");
    refuse_with("[0,49152]", "[4,49156]", ERR_MISMATCH, "overlaps");
    refuse_with("[0,49152]", "[49152,0]", ERR_MALFORMED, "JSON");
    refuse_with("\"dtype\"", "\"dtypo\"", ERR_MALFORMED, "JSON");
    refuse_with("[0,49152]", "[-0,9152]", ERR_MALFORMED, "JSON");
    refuse_with("[0,49152]", "[0,1e9  ]", ERR_MALFORMED, "JSON");
}

Test(safetensors, lengths_and_values_that_lie_are_refused)
{
    uint8_t *copy = malloc(file_len + 4);
    cr_assert_not_null(copy);
    memcpy(copy, file, file_len);
    memset(copy + file_len, 0, 4);
    refuse(bytes_of(copy, file_len + 4), ERR_MALFORMED, "belong to no tensor");
    store_le64(copy, UINT64_MAX);
    refuse(bytes_of(copy, file_len), ERR_MALFORMED, "announces a header");
    store_le64(copy, TRAIN_ST_HEADER_MAX);
    refuse(bytes_of(copy, file_len), ERR_TRUNCATED, "ends early");
    memcpy(copy, file, file_len);
    store_le32(copy + file_len - 4, 0x7FC00000); /* NaN */
    refuse(bytes_of(copy, file_len), ERR_NOT_FINITE, "NaN");
    free(copy);
}

Test(safetensors, models_of_others_are_named_so)
{
    static const struct {
        const char *header;
        int expected;
    } cases[] = {
        {"{}", ERR_UNSUPPORTED},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", ERR_UNSUPPORTED},
        {"{\"__metadata__\":{\"format\":\"pt\"}}", ERR_UNSUPPORTED},
        {"{\"__metadata__\":{\"format\":\"dunlin-1\"}}", ERR_MALFORMED},
        {"{\"__metadata__\":{\"format\":\"dunlin-1\",\"width\":\"17\"}}", ERR_MALFORMED},
        {"{\"__metadata__\":{\"format\":\"dunlin-1\",\"width\":\"99999999999\"}}", ERR_MALFORMED},
        {"{\"__metadata__\":[]}", ERR_MALFORMED},
        {"{\"a\":[[[[[[[[[[]]]]]]]]]]}", ERR_MALFORMED},
        {"{\"a\":1}x", ERR_MALFORMED},
        {"[1]", ERR_MALFORMED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint8_t bytes[200];
        size_t len = strlen(cases[i].header);
        struct train_model_config model;
        store_le64(bytes, len);
        memcpy(bytes + 8, cases[i].header, len);
        int result = train_safetensors_model(bytes_of(bytes, 8 + len), &model, why, sizeof why);
        cr_assert_eq(result, cases[i].expected, "%s: %s (%s)", cases[i].header, err_name(result), why);
    }
}

/* Random damage: never a crash, and what is accepted is written again as the same weights. */
Test(safetensors, random_damage_is_refused_or_harmless)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 8);
    struct rng rng = rng_of_seeded(&stream);
    uint8_t *copy = malloc(file_len);
    cr_assert_not_null(copy);
    size_t header = 8 + (size_t)load_le64(file), refused = 0;
    for (int i = 0; i < 10000; i++) {
        struct train_model_config model;
        memcpy(copy, file, file_len);
        for (uint64_t n = rng_below(&rng, 3) + 1; n > 0; n--)
            copy[rng_below(&rng, header)] = (uint8_t)rng_u32(&rng);
        int shape = train_safetensors_model(bytes_of(copy, file_len), &model, why, sizeof why);
        cr_assert(shape < 0 || train_model_config_check(&model, why, sizeof why) == 0);
        int result = train_safetensors_read(bytes_of(copy, file_len), &layout, read_back, why, sizeof why);
        refused += result < 0;
        cr_assert(result < 0 || memcmp(params, read_back, layout.arena_floats * sizeof(float)) == 0);
    }
    cr_assert_gt(refused, 8000);
    free(copy);
}

Test(json, values_are_taken_or_refused_as_rfc_8259_says)
{
    static const struct {
        const char *text;
        bool valid;
    } cases[] = {
        {"0", true},           {"-1.5e+3", true},
        {"01", false},         {"1.", false},
        {".5", false},         {"-", false},
        {"1e", false},         {"true", true},
        {"nul", false},        {"\"a\\n\\u00e9\"", true},
        {"\"\\x\"", false},    {"\"a", false},
        {"\"a\nb\"", false},   {"\"\\u12g4\"", false},
        {"[]", true},          {"[1,]", false},
        {"[1 2]", false},      {"{\"a\":[{}]}", true},
        {"{a:1}", false},      {"{\"a\" 1}", false},
        {" [ 1 , 2 ] ", true}, {"", false},
        {"[", false},          {"1 1", false},
        {"\"\\", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes text = bytes_of_text(cases[i].text);
        struct json_scan s = {.at = text.data, .end = text.data + text.len};
        train_json_skip(&s, 4);
        cr_assert_eq(train_json_done(&s), cases[i].valid, "%s", cases[i].text);
    }
}

Test(json, whole_numbers_only)
{
    static const struct {
        const char *text;
        uint64_t value;
        bool valid;
    } cases[] = {
        {"0", 0, true},    {"42", 42, true},  {"9007199254740992", (uint64_t)1 << 53, true},
        {"00", 0, false},  {"-1", 0, false},  {"9007199254740993", 0, false},
        {"1.0", 0, false}, {"1e3", 0, false}, {"99999999999999999999999999", 0, false},
        {"", 0, false},    {"x", 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes text = bytes_of_text(cases[i].text);
        struct json_scan s = {.at = text.data, .end = text.data + text.len};
        uint64_t value = train_json_whole(&s);
        cr_assert_eq(train_json_done(&s), cases[i].valid, "%s", cases[i].text);
        cr_assert_eq(value, cases[i].value, "%s", cases[i].text);
    }
}
