/* Genesis configs come from strangers: any bytes give an error, or a config that passes its own check and
 * survives being written and read again. */
#include <stdint.h>
#include <string.h>

#include "node/run_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct run_config config;
    struct run_config again;
    uint8_t bytes[RUN_CONFIG_BYTES_MAX];
    const char *why;
    if (run_config_decode(bytes_of(data, size), &config) < 0)
        return 0;
    ASSERT(run_config_check(&config, &why) == ERR_OK);
    int len = run_config_encode(&config, bytes, sizeof bytes);
    ASSERT(len > 0);
    ASSERT(run_config_decode(bytes_of(bytes, (size_t)len), &again) == ERR_OK);
    ASSERT(again.width == config.width && again.lr == config.lr);
    ASSERT(memcmp(&again.model, &config.model, sizeof config.model) == 0);
    return 0;
}
