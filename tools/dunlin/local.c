/* Commands that need no daemon. */
#include <stdio.h>

#include "tools/dunlin/command.h"

int local_version(const struct cli *cli, const json_t *params)
{
    (void)params;
    (void)printf(cli->json ? "{\"version\":\"%s\"}\n" : "dunlin %s\n", DUNLIN_VERSION);
    return EXIT_OK;
}
