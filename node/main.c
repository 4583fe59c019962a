/* dunlind: the daemon's command line. */
#include <stdio.h>

#include "node/config.h"
#include "node/node.h"

enum { EXIT_FAULT = 1, EXIT_USAGE = 2 };

int main(int argc, char **argv)
{
    struct node_config config;
    enum node_config_outcome outcome;
    char why[NODE_ERROR_SIZE] = "";
    node_config_default(&config);
    if (node_config_args(&config, argc, argv, &outcome, why) < 0) {
        (void)fprintf(stderr, "dunlind: %s\n", why);
        return EXIT_USAGE;
    }
    if (outcome == NODE_CONFIG_HELP) {
        (void)fputs(node_config_usage(), stdout);
        return 0;
    }
    if (outcome == NODE_CONFIG_VERSION) {
        (void)puts("dunlind 0.1.0");
        return 0;
    }
    if (node_run(&config, why) < 0) {
        (void)fprintf(stderr, "dunlind: %s\n", why);
        return EXIT_FAULT;
    }
    return 0;
}
