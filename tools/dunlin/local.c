/* Commands that need no daemon. */
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "net/identity.h"
#include "store/checkpoint.h"
#include "store/key.h"
#include "tools/dunlin/command.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"

/* Prints a result the way the daemon's are printed, and gives it back. */
static int print_result(const struct cli *cli, json_t *result, void (*show)(const json_t *result))
{
    if (cli->json) {
        (void)json_dumpf(result, stdout, JSON_COMPACT);
        (void)fputc('\n', stdout);
    } else {
        show(result);
    }
    json_decref(result);
    return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

static void show_version(const json_t *result)
{
    (void)printf("dunlin %s\n", value_text(result, "version", "-"));
}

int local_version(const struct cli *cli, const json_t *params)
{
    (void)params;
    return print_result(cli, json_pack("{s:s}", "version", DUNLIN_VERSION), show_version);
}

static void show_id(const json_t *result)
{
    (void)printf("%s\n", value_text(result, "id", "-"));
}

int local_id(const struct cli *cli, const json_t *params)
{
    (void)params;
    uint8_t seed[STORE_SEED_BYTES];
    struct store_why why = {.text = ""};
    int code = store_key_load(cli->dir, seed, &why);
    if (code == ERR_NOT_FOUND) {
        (void)fprintf(stderr, "dunlin: %s has no node.key yet; dunlind makes one at its first start\n",
                      cli->dir);
        return EXIT_FAILED;
    }
    if (code < 0) {
        (void)fprintf(stderr, "dunlin: %s\n", why.text[0] != '\0' ? why.text : err_text(code));
        return EXIT_FAILED;
    }
    struct net_identity identity;
    char text[ID_TEXT_SIZE];
    net_identity_init(&identity, seed);
    sodium_memzero(seed, sizeof(seed));
    id_format(&identity.id, text);
    net_identity_deinit(&identity);
    return print_result(cli, json_pack("{s:s}", "id", text), show_id);
}
