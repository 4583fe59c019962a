/* The example configuration must stay readable by the program it is shipped with. */
#include <criterion/criterion.h>

#include "node/config.h"

/* Every key it sets is known, and set to the default, so that installing it changes nothing. */
Test(packaging, example_configuration)
{
    struct node_config defaults;
    struct node_config config;
    char why[NODE_ERROR_SIZE] = "";
    node_config_default(&defaults);
    node_config_default(&config);
    cr_assert_eq(node_config_read(&config, TEST_SOURCE_DIR "/../../packaging/dunlind.conf", why), ERR_OK,
                 "%s", why);
    cr_assert_str_eq(config.dir, defaults.dir);
    cr_assert_str_eq(config.network, defaults.network);
    cr_assert_eq(config.listen_port, defaults.listen_port);
    cr_assert_eq(config.seed_count, 0);
    cr_assert_eq(config.up_bytes_s, defaults.up_bytes_s);
    cr_assert_eq(config.cpu_pct, defaults.cpu_pct);
    cr_assert_eq(config.threads, defaults.threads);
    cr_assert_eq(config.polite, defaults.polite);
    cr_assert_eq(config.relay, defaults.relay);
    cr_assert_eq(config.relay_bytes_s, defaults.relay_bytes_s);
    cr_assert_eq(config.relay_rate_auto, defaults.relay_rate_auto);
    cr_assert_eq(config.relay_client_bytes_s, defaults.relay_client_bytes_s);
    cr_assert_eq(config.relay_client_volume, defaults.relay_client_volume);
    cr_assert_eq(config.port_mapping, defaults.port_mapping);
    cr_assert_eq(config.lan, defaults.lan);
    cr_assert_eq(config.tcp, defaults.tcp);
    cr_assert_eq(config.tcp_port_auto, defaults.tcp_port_auto);
    cr_assert_eq(config.tcp_port, defaults.tcp_port);
    cr_assert_eq(config.log_level, defaults.log_level);
    cr_assert_str_eq(config.log_file, defaults.log_file);
}
