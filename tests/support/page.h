/* Examples that stand in the protocol's pages (docs/protocol/), for the tests that decode them. */
#ifndef DUNLIN_TESTS_PAGE_H
#define DUNLIN_TESTS_PAGE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the block that begins with the line "```hex NAME"; spaces and line ends between them do not count.
 * Returns how many, and 0, with the reason on stderr, when the file cannot be read, has no such block, or the
 * block is empty, no hex, or longer than cap. */
size_t page_example(const char *path, const char *name, uint8_t out[], size_t cap);
/* How many such blocks the page has: a test that decodes so many has left none out. */
size_t page_examples(const char *path);

#endif
