/* Text for people: units, aligned columns, and peers' words made harmless for a terminal. */
#ifndef DUNLIN_TOOLS_TEXT_H
#define DUNLIN_TOOLS_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/err.h"

/* Returned by value, so that printf("%s", text_bytes(n).text) needs no buffer. */
struct text_short {
    char text[48];
};

struct text_short text_bytes(double bytes);             /* "512 B", "3.4 MiB" */
struct text_short text_count(double count);             /* "950", "12.3k", "4.56M" */
struct text_short text_seconds(double seconds);         /* "0.4 s", "12 s", "3m 20s", "2h 05m", "4d 03h" */
struct text_short text_fixed(double value, int digits); /* "1.234"; "-" for NaN */
struct text_short text_small(double value);             /* "0.0021", "3.1e-08"; "-" for NaN */
struct text_short text_id(const char *id);              /* the first ten characters; "-" for NULL */

/* Writes text with control characters, which could steer a terminal, replaced by '?'; keeps line breaks and
 * tabs when lines is set.  text is valid UTF-8 (value.h sees to that). */
void text_write_safe(FILE *out, const char *text, bool lines);

enum { TABLE_COLUMNS_MAX = 16 };

/* Cells are collected row by row, then printed with every column as wide as its widest cell. */
struct table {
    size_t columns;
    char head[TABLE_COLUMNS_MAX][20];
    bool right[TABLE_COLUMNS_MAX];
    char **cells; /* owned strings, row by row */
    size_t cell_count;
    size_t cell_cap;
    bool failed; /* no memory: the table prints what it has */
};

/* Columns from "id|address|>rtt": '>' aligns to the right.  At most TABLE_COLUMNS_MAX (asserted). */
void table_init(struct table *table, const char *spec);
/* Appends the next cell of the row, from left to right. */
void table_cell(struct table *table, const char *format, ...) PRINTF_LIKE(2, 3);
/* Prints head and rows, or `empty` when there is no row, and gives everything back. */
void table_finish(struct table *table, const char *empty);

/* One line "label   text" of a description, the label padded to a fixed width. */
void text_field(const char *label, const char *format, ...) PRINTF_LIKE(2, 3);
/* An array of strings on one line, with commas; "-" when it is empty or missing. */
void text_list_field(const char *label, const json_t *array);
/* An object of counters on one line: "bad tag 3, replay 1"; counters of 0 are left out, and without any
 * other there is no line at all. */
void text_counts_field(const char *label, const json_t *object);

#endif
