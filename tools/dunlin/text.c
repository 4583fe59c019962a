#include "tools/dunlin/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FIELD_WIDTH = 15 };

static struct text_short PRINTF_LIKE(1, 2) short_of(const char *format, ...)
{
    struct text_short out;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(out.text, sizeof(out.text), format, args);
    va_end(args);
    return out;
}

struct text_short text_bytes(double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    if (!isfinite(bytes))
        return short_of("-");
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        bytes /= 1024;
        unit++;
    }
    return short_of("%.*f %s", unit == 0 || bytes >= 100 ? 0 : 1, bytes, units[unit]);
}

struct text_short text_count(double count)
{
    if (!isfinite(count))
        return short_of("-");
    if (count < 1000)
        return short_of("%.0f", count);
    if (count < 1e6)
        return short_of("%.1fk", count / 1e3);
    return count < 1e9 ? short_of("%.2fM", count / 1e6) : short_of("%.2fG", count / 1e9);
}

struct text_short text_seconds(double seconds)
{
    if (!isfinite(seconds) || seconds < 0)
        return short_of("-");
    if (seconds < 60)
        return short_of("%.*f s", seconds < 10 ? 1 : 0, seconds);
    uint64_t whole = (uint64_t)seconds;
    if (whole < 3600)
        return short_of("%" PRIu64 "m %02" PRIu64 "s", whole / 60, whole % 60);
    if (whole < 86400)
        return short_of("%" PRIu64 "h %02" PRIu64 "m", whole / 3600, whole % 3600 / 60);
    return short_of("%" PRIu64 "d %02" PRIu64 "h", whole / 86400, whole % 86400 / 3600);
}

struct text_short text_fixed(double value, int digits)
{
    return isfinite(value) ? short_of("%.*f", digits, value) : short_of("-");
}

struct text_short text_small(double value)
{
    struct text_short out = {"-"};
    if (isfinite(value))
        (void)snprintf(out.text, sizeof(out.text), "%.2g", value);
    return out;
}

struct text_short text_id(const char *id)
{
    return id == NULL || id[0] == '\0' ? short_of("-") : short_of("%.10s", id);
}

/* The C1 control characters U+0080..U+009F are 0xc2 followed by 0x80..0x9f. */
static bool is_c1(const unsigned char *at)
{
    return at[0] == 0xc2 && at[1] >= 0x80 && at[1] <= 0x9f;
}

void text_write_safe(FILE *out, const char *text, bool lines)
{
    const unsigned char *at = (const unsigned char *)text;
    for (; *at != '\0'; at++) {
        bool kept = lines && (*at == '\n' || *at == '\t');
        if (is_c1(at)) {
            (void)fputc('?', out);
            at++;
        } else {
            (void)fputc(!kept && (*at < 0x20 || *at == 0x7f) ? '?' : *at, out);
        }
    }
}

/* Columns a cell takes on the screen: one a character, continuation bytes of UTF-8 none. */
static size_t cell_width(const char *text)
{
    size_t width = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++)
        width += (*at & 0xc0) != 0x80;
    return width;
}

void table_init(struct table *table, const char *spec)
{
    *table = (struct table){.columns = 0};
    while (*spec != '\0') {
        ASSERT(table->columns < TABLE_COLUMNS_MAX);
        size_t i = table->columns++;
        table->right[i] = *spec == '>';
        spec += table->right[i];
        size_t len = strcspn(spec, "|");
        ASSERT(len < sizeof(table->head[i]));
        memcpy(table->head[i], spec, len);
        spec += len + (spec[len] == '|');
    }
}

void table_cell(struct table *table, const char *format, ...)
{
    if (table->cell_count == table->cell_cap) {
        size_t cap = table->cell_cap == 0 ? 64 : table->cell_cap * 2;
        char **grown = reallocarray(table->cells, cap, sizeof(*grown));
        if (grown == NULL) {
            table->failed = true;
            return;
        }
        table->cells = grown;
        table->cell_cap = cap;
    }
    va_list args;
    va_start(args, format);
    char *cell = NULL;
    int len = vasprintf(&cell, format, args);
    va_end(args);
    if (len < 0)
        table->failed = true;
    else
        table->cells[table->cell_count++] = cell;
}

static void print_cell(const char *text, size_t width, bool right, bool last)
{
    size_t own = cell_width(text);
    int pad = own < width ? (int)(width - own) : 0;
    if (right)
        (void)printf("%*s", pad, "");
    text_write_safe(stdout, text, false);
    if (!last)
        (void)printf("%*s", (right ? 0 : pad) + 2, "");
}

void table_finish(struct table *table, const char *empty)
{
    size_t width[TABLE_COLUMNS_MAX] = {0};
    size_t rows = table->cell_count / table->columns;
    for (size_t i = 0; i < table->columns; i++)
        width[i] = cell_width(table->head[i]);
    for (size_t i = 0; i < rows * table->columns; i++) {
        size_t own = cell_width(table->cells[i]);
        if (own > width[i % table->columns])
            width[i % table->columns] = own;
    }
    for (size_t i = 0; i < table->columns && rows > 0; i++)
        print_cell(table->head[i], width[i], table->right[i], i + 1 == table->columns);
    (void)printf("%s\n", rows > 0 ? "" : empty);
    for (size_t i = 0; i < rows * table->columns; i++) {
        size_t column = i % table->columns;
        bool last = column + 1 == table->columns;
        print_cell(table->cells[i], width[column], table->right[column], last);
        if (last)
            (void)fputc('\n', stdout);
    }
    if (table->failed)
        (void)printf("(out of memory: the list is incomplete)\n");
    for (size_t i = 0; i < table->cell_count; i++)
        free(table->cells[i]);
    free(table->cells);
    table->cells = NULL;
    table->cell_count = 0;
}

void text_field(const char *label, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int len = vasprintf(&text, format, args);
    va_end(args);
    if (len < 0)
        return;
    (void)printf("%-*s ", FIELD_WIDTH, label);
    text_write_safe(stdout, text, false);
    (void)fputc('\n', stdout);
    free(text);
}

void text_list_field(const char *label, const json_t *array)
{
    (void)printf("%-*s ", FIELD_WIDTH, label);
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *text = json_string_value(json_array_get(array, i));
        (void)printf("%s", i > 0 ? ", " : "");
        text_write_safe(stdout, text != NULL ? text : "?", false);
    }
    (void)printf("%s\n", json_array_size(array) == 0 ? "-" : "");
}

void text_counts_field(const char *label, const json_t *object)
{
    json_t *walk = (json_t *)(uintptr_t)object; /* jansson's iterators want it mutable; nothing is changed */
    bool begun = false;
    const char *key;
    json_t *count;
    json_object_foreach(walk, key, count)
    {
        if (json_number_value(count) == 0)
            continue;
        if (begun)
            (void)printf(", ");
        else
            (void)printf("%-*s ", FIELD_WIDTH, label);
        text_write_safe(stdout, key, false);
        (void)printf(" %.0f", json_number_value(count));
        begun = true;
    }
    if (begun)
        (void)fputc('\n', stdout);
}
