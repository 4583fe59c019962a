#include "train/json_scan.h"

#include <string.h>

static void pass_space(struct json_scan *s)
{
    while (!s->failed && s->at < s->end &&
           (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

bool train_json_accept(struct json_scan *s, char symbol)
{
    pass_space(s);
    if (s->failed || s->at == s->end || *s->at != (uint8_t)symbol)
        return false;
    s->at++;
    return true;
}

void train_json_expect(struct json_scan *s, char symbol)
{
    if (!train_json_accept(s, symbol))
        s->failed = true;
}

static bool hexadecimal(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Length of the escape at s->at (a backslash), 0 when it is none. */
static size_t escape_length(const struct json_scan *s)
{
    size_t left = (size_t)(s->end - s->at);
    if (left < 2)
        return 0;
    if (s->at[1] != 'u')
        return memchr("\"\\/bfnrt", s->at[1], 8) != NULL ? 2 : 0;
    for (size_t i = 2; i < 6; i++)
        if (i >= left || !hexadecimal(s->at[i]))
            return 0;
    return 6;
}

struct bytes train_json_string(struct json_scan *s)
{
    train_json_expect(s, '"');
    const uint8_t *start = s->at;
    while (!s->failed && s->at < s->end && *s->at != '"') {
        size_t step = *s->at == '\\' ? escape_length(s) : *s->at < 0x20 ? 0 : 1;
        s->failed = step == 0;
        s->at += step;
    }
    if (s->failed || s->at == s->end) {
        s->failed = true;
        return bytes_of(NULL, 0);
    }
    s->at++;
    return bytes_of(start, (size_t)(s->at - 1 - start));
}

static bool digit(const struct json_scan *s)
{
    return s->at < s->end && *s->at >= '0' && *s->at <= '9';
}

uint64_t train_json_whole(struct json_scan *s)
{
    const uint64_t most = (uint64_t)1 << 53; /* what every JSON reader can hold */
    uint64_t value = 0;
    pass_space(s);
    const uint8_t *start = s->at;
    while (!s->failed && digit(s)) {
        value = value * 10 + (uint64_t)(*s->at - '0');
        s->failed = value > most || (s->at > start && *start == '0');
        s->at++;
    }
    s->failed |= s->at == start || (s->at < s->end && memchr(".eE", *s->at, 3) != NULL);
    return s->failed ? 0 : value;
}

static void skip_digits(struct json_scan *s)
{
    s->failed |= !digit(s);
    while (digit(s))
        s->at++;
}

static void skip_number(struct json_scan *s)
{
    if (s->at < s->end && *s->at == '-')
        s->at++;
    bool zero = s->at < s->end && *s->at == '0';
    const uint8_t *start = s->at;
    skip_digits(s);
    s->failed |= zero && s->at > start + 1;
    if (!s->failed && s->at < s->end && *s->at == '.') {
        s->at++;
        skip_digits(s);
    }
    if (!s->failed && s->at < s->end && (*s->at == 'e' || *s->at == 'E')) {
        s->at++;
        if (s->at < s->end && (*s->at == '+' || *s->at == '-'))
            s->at++;
        skip_digits(s);
    }
}

static bool skip_word(struct json_scan *s, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(s->end - s->at) < len || memcmp(s->at, word, len) != 0)
        return false;
    s->at += len;
    return true;
}

static void skip_members(struct json_scan *s, bool object, unsigned depth_max)
{
    char closing = object ? '}' : ']';
    if (train_json_accept(s, closing))
        return;
    do {
        if (object) {
            (void)train_json_string(s);
            train_json_expect(s, ':');
        }
        train_json_skip(s, depth_max - 1);
    } while (train_json_accept(s, ','));
    train_json_expect(s, closing);
}

/* Recursion is bounded by depth_max. */
void train_json_skip(struct json_scan *s, unsigned depth_max)
{
    pass_space(s);
    if (s->failed || s->at == s->end || depth_max == 0) {
        s->failed = true;
        return;
    }
    if (*s->at == '"') {
        (void)train_json_string(s);
    } else if (*s->at == '{' || *s->at == '[') {
        bool object = *s->at++ == '{';
        skip_members(s, object, depth_max);
    } else if (!skip_word(s, "true") && !skip_word(s, "false") && !skip_word(s, "null")) {
        skip_number(s);
    }
}

bool train_json_done(struct json_scan *s)
{
    pass_space(s);
    return !s->failed && s->at == s->end;
}
