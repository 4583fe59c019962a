#include "train/csv.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/model.h"

/* What ended a field. */
enum ending { ENDS_FIELD, ENDS_RECORD, ENDS_BADLY };

struct csv {
    const uint8_t *at, *end;
    size_t line;        /* of the next byte, from 1 */
    size_t record_line; /* where the present record began */
    char field[TRAIN_CSV_FIELD_MAX + 1];
    size_t len;
    char *why;
    size_t why_size;
};

PRINTF_LIKE(3, 4) static int fail(const struct csv *c, int error, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)snprintf(c->why, c->why_size, "line %zu: %s", c->record_line, text);
    return error;
}

static bool keep_byte(struct csv *c, uint8_t byte)
{
    if (c->len == TRAIN_CSV_FIELD_MAX || byte == 0)
        return false;
    c->field[c->len++] = (char)byte;
    return true;
}

/* A quoted field after its opening quote; RFC 4180 s.2.7: a quote inside is doubled. */
static bool read_quoted(struct csv *c)
{
    while (c->at < c->end) {
        uint8_t byte = *c->at++;
        c->line += byte == '\n';
        if (byte == '"' && (c->at == c->end || *c->at != '"'))
            return true;
        if (byte == '"')
            c->at++;
        if (!keep_byte(c, byte))
            return false;
    }
    return false; /* the closing quote is missing */
}

static bool at_record_end(const struct csv *c)
{
    return c->at == c->end || *c->at == '\n' || (*c->at == '\r' && c->at + 1 < c->end && c->at[1] == '\n');
}

/* Reads the next field, terminated, and what follows it. */
static enum ending read_field(struct csv *c)
{
    c->len = 0;
    bool quoted = c->at < c->end && *c->at == '"';
    if (quoted) {
        c->at++;
        if (!read_quoted(c))
            return ENDS_BADLY;
    }
    while (!at_record_end(c) && *c->at != ',')
        if (quoted || *c->at == '"' || !keep_byte(c, *c->at++))
            return ENDS_BADLY;
    c->field[c->len] = '\0';
    if (c->at < c->end && *c->at == ',') {
        c->at++;
        return ENDS_FIELD;
    }
    if (c->at < c->end) {
        c->at += *c->at == '\r' ? 2 : 1;
        c->line++;
    }
    return ENDS_RECORD;
}

/* To the next record that is not an empty line; false at the end. */
static bool next_record(struct csv *c)
{
    while (c->at < c->end && at_record_end(c)) {
        c->at += *c->at == '\r' ? 2 : 1;
        c->line++;
    }
    c->record_line = c->line;
    return c->at < c->end;
}

static int bad_field(const struct csv *c)
{
    return fail(c, ERR_MALFORMED,
                "a field is longer than %d bytes, holds a NUL byte, or is quoted and its closing quote is "
                "missing or not followed by a comma",
                TRAIN_CSV_FIELD_MAX);
}

/* The field as a decimal number; only digits, sign, point and exponent, so neither "nan" nor "0x1". */
static bool number_of(const char *field, float *out)
{
    while (*field == ' ' || *field == '\t')
        field++;
    size_t len = strspn(field, "+-.0123456789eE");
    if (len == 0 || field[len + strspn(field + len, " \t")] != '\0')
        return false;
    char *end;
    float value = strtof(field, &end);
    if (end != field + len || !isfinite(value))
        return false;
    *out = value + 0.0F; /* no negative zero: equal rows have equal bytes */
    return true;
}

/* What the first record tells. */
struct columns {
    size_t count, label;
    bool header, named; /* there is a header; the label's name stands in it */
};

static int read_columns(struct csv *c, const char *label, struct columns *columns)
{
    enum ending ending = ENDS_FIELD;
    *columns = (struct columns){.count = 0};
    while (ending == ENDS_FIELD) {
        float ignored;
        ending = read_field(c);
        if (ending == ENDS_BADLY)
            return bad_field(c);
        columns->header |= !number_of(c->field, &ignored);
        if (label != NULL && !columns->named && strcmp(c->field, label) == 0) {
            columns->named = true;
            columns->label = columns->count;
        }
        if (columns->count++ > TRAIN_MLP_WIDTH_MAX)
            return fail(c, ERR_TOO_LARGE, "more than %d columns", TRAIN_MLP_WIDTH_MAX + 1);
    }
    if (columns->count < 2)
        return fail(c, ERR_MALFORMED,
                    "one column only: a row needs at least one value and its label, separated by commas");
    if (label == NULL || label[0] == '\0')
        columns->label = columns->count - 1;
    else if (!columns->header || !columns->named)
        return fail(c, ERR_NOT_FOUND, "no column is named '%.64s'%s", label,
                    columns->header ? "" : ", and the first line holds only numbers, no names");
    return 0;
}

static int keep_label(const struct csv *c, const struct train_rows *rows, float value, uint16_t *label)
{
    if (!(value >= 0) || value > 65535 || value != floorf(value))
        return fail(c, ERR_MALFORMED, "the label is '%.32s': number the classes 0, 1, 2 and so on", c->field);
    if ((size_t)value >= rows->classes_max)
        return fail(c, ERR_MISMATCH, "the label is %u, and classes are 0 to %zu", (unsigned)value,
                    rows->classes_max - 1);
    *label = (uint16_t)value;
    return 0;
}

static int read_record(struct csv *c, const struct columns *columns, struct train_rows *rows)
{
    float *values, value;
    uint16_t *label;
    size_t at = 0;
    enum ending ending = ENDS_FIELD;
    int result = train_rows_next(rows, &values, &label);
    if (result == ERR_TOO_LARGE)
        return fail(c, result, "more than %zu bytes of values: use less data, or raise the limit",
                    rows->bytes_max);
    if (result < 0)
        return fail(c, result, "%s for %zu rows", err_text(result), rows->count);
    for (; ending == ENDS_FIELD; at++) {
        ending = read_field(c);
        if (ending == ENDS_BADLY)
            return bad_field(c);
        if (at == columns->count)
            return fail(c, ERR_MALFORMED, "more values than the %zu of the first line", columns->count);
        if (!number_of(c->field, &value))
            return fail(c, ERR_MALFORMED, "value %zu is '%.32s', which is no number that float32 can hold",
                        at + 1, c->field);
        if (at == columns->label)
            result = keep_label(c, rows, value, label);
        else
            values[at - (at > columns->label)] = value;
        if (result < 0)
            return result;
    }
    if (at < columns->count)
        return fail(c, ERR_MALFORMED, "fewer values than the %zu of the first line", columns->count);
    train_rows_keep(rows);
    return 0;
}

int train_csv_read(struct bytes file, const char *label, struct train_rows *rows, char *why, size_t why_size)
{
    static const uint8_t mark[3] = {0xEF, 0xBB, 0xBF}; /* RFC 3629 s.6 */
    struct csv c = {.line = 1, .record_line = 1, .why = why, .why_size = why_size};
    struct columns columns;
    if (why_size > 0)
        why[0] = '\0';
    if (file.len == 0)
        return fail(&c, ERR_MALFORMED, "the file is empty");
    c.at = file.data;
    c.end = file.data + file.len;
    if (file.len >= sizeof mark && memcmp(file.data, mark, sizeof mark) == 0)
        c.at += sizeof mark;
    if (!next_record(&c))
        return fail(&c, ERR_MALFORMED, "the file is empty");
    const struct csv first = c;
    int result = read_columns(&c, label, &columns);
    if (result < 0)
        return result;
    if (rows->inputs != 0 && rows->inputs != columns.count - 1)
        return fail(&c, ERR_MISMATCH, "%zu values beside the label, and %zu are expected", columns.count - 1,
                    rows->inputs);
    rows->inputs = columns.count - 1;
    if (!columns.header)
        c = first;
    while (result == 0 && next_record(&c))
        result = read_record(&c, &columns, rows);
    return result;
}
