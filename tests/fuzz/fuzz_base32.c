/* base/id.h's text forms on arbitrary bytes: what decodes must encode to the same text in lower case, what is
 * encoded must decode to the same bytes, and an id parses exactly when its 52 characters decode. */
#include <ctype.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"

enum { RAW_CAP = 4096, TEXT_CAP = 2 * RAW_CAP };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_decode(const uint8_t *data, size_t size)
{
    uint8_t raw[RAW_CAP];
    char text[TEXT_CAP];
    int len = base32_decode((const char *)data, size, raw, sizeof raw);
    ASSERT(len >= 0 || len == ERR_MALFORMED || len == ERR_TOO_LARGE);
    if (len < 0)
        return;
    int chars = base32_encode(bytes_of(raw, (size_t)len), text, sizeof text);
    ASSERT(chars >= 0 && (size_t)chars == size);
    for (size_t i = 0; i < size; i++)
        ASSERT(text[i] == (char)tolower(data[i]));
}

static void check_encode(const uint8_t *data, size_t size)
{
    uint8_t raw[RAW_CAP];
    char text[TEXT_CAP];
    int chars = base32_encode(bytes_of(data, size), text, sizeof text);
    ASSERT(chars >= 0 && strlen(text) == (size_t)chars);
    int len = base32_decode(text, (size_t)chars, raw, sizeof raw);
    ASSERT(len >= 0 && bytes_equal(bytes_of(raw, (size_t)len), bytes_of(data, size)));
}

static void check_id(const uint8_t *data, size_t size)
{
    struct id id;
    uint8_t raw[ID_BYTES];
    char text[ID_TEXT_SIZE];
    char again[ID_TEXT_SIZE];
    if (size != ID_TEXT_CHARS || memchr(data, 0, size) != NULL)
        return;
    memcpy(text, data, size);
    text[ID_TEXT_CHARS] = '\0';
    bool decodes = base32_decode(text, ID_TEXT_CHARS, raw, sizeof raw) == ID_BYTES;
    ASSERT((id_parse(text, &id) == ERR_OK) == decodes);
    if (!decodes)
        return;
    id_format(&id, again);
    for (size_t i = 0; i < ID_TEXT_CHARS; i++)
        ASSERT(again[i] == (char)tolower(data[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > RAW_CAP)
        return 0;
    check_decode(data, size);
    check_encode(data, size);
    check_id(data, size);
    return 0;
}
