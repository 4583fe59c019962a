#include "support/page.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { LINE_SIZE = 512 };

static const char fence[] = "```hex ";

static int digit(int c)
{
    return isdigit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Appends the bytes of one line; false: it is no hex, or there is no room. */
static bool take_line(const char *line, uint8_t out[], size_t cap, size_t *len)
{
    for (const char *at = line; *at != '\0';) {
        if (isspace((unsigned char)*at)) {
            at++;
            continue;
        }
        int high = digit((unsigned char)at[0]);
        int low = high < 0 ? -1 : digit((unsigned char)at[1]);
        if (low < 0 || *len == cap)
            return false;
        out[(*len)++] = (uint8_t)(high << 4 | low);
        at += 2;
    }
    return true;
}

/* Reads up to the closing fence. */
static size_t take_block(FILE *page, uint8_t out[], size_t cap)
{
    char line[LINE_SIZE];
    size_t len = 0;
    while (fgets(line, sizeof line, page) != NULL && strncmp(line, "```", 3) != 0)
        if (!take_line(line, out, cap, &len))
            return 0;
    return len;
}

size_t page_example(const char *path, const char *name, uint8_t out[], size_t cap)
{
    char line[LINE_SIZE];
    char head[LINE_SIZE];
    size_t len = 0;
    FILE *page = fopen(path, "r");
    (void)snprintf(head, sizeof head, "%s%s\n", fence, name);
    bool found = false;
    while (page != NULL && !found && fgets(line, sizeof line, page) != NULL)
        found = strcmp(line, head) == 0;
    if (found)
        len = take_block(page, out, cap);
    if (len == 0)
        (void)fprintf(stderr, "%s: %s example '%s'\n", path,
                      page == NULL ? "cannot be opened for"
                      : found      ? "empty, odd or too long"
                                   : "has no",
                      name);
    if (page != NULL)
        (void)fclose(page);
    return len;
}

size_t page_examples(const char *path)
{
    char line[LINE_SIZE];
    size_t count = 0;
    FILE *page = fopen(path, "r");
    while (page != NULL && fgets(line, sizeof line, page) != NULL)
        count += strncmp(line, fence, strlen(fence)) == 0;
    if (page != NULL)
        (void)fclose(page);
    return count;
}
