/* CSV of numbers: RFC 4180, with the liberties people take.  Private to train/.
 *
 * Fields are separated by commas and may be quoted; a record ends with LF or CRLF; empty lines and a byte
 * order mark are passed over; blanks around a number are too.  The first record is a header when a field of
 * it is no number.  Every other field is a decimal number that float32 can hold ("1", "-0.5", "3e-2"); the
 * label is a whole one.  Nothing is guessed: a missing value, a word, a short record are errors that name the
 * line. */
#ifndef DUNLIN_TRAIN_CSV_H
#define DUNLIN_TRAIN_CSV_H

#include "base/bytes.h"
#include "train/rows.h"

enum { TRAIN_CSV_FIELD_MAX = 255 };

/* Adds every record of the file to rows.  label: name of the label's column, which asks for a header; NULL or
 * "": the last column.  On failure some rows may have been added, and `why` says what is wrong, from the line
 * on:
 *   ERR_MALFORMED  no CSV of numbers        ERR_NOT_FOUND  no column of that name
 *   ERR_MISMATCH   another number of inputs than rows->inputs, or a label of classes_max or more
 *   ERR_TOO_LARGE, ERR_NO_MEMORY  as train_rows_next */
MUST_USE int train_csv_read(struct bytes file, const char *label, struct train_rows *rows, char *why,
                            size_t why_size);

#endif
