/* The examples of docs/protocol/run.md are decoded, encoded again to the same bytes, and refused when cut. */
#include <criterion/criterion.h>
#include <string.h>

#include "crdt/chain.h"
#include "net/rpc_wire.h"
#include "node/chain_request.h"
#include "node/run_config.h"
#include "support/page.h"

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/run.md"

static uint8_t example[1024];

static struct bytes load(const char *page, const char *name)
{
    size_t len = page_example(page, name, example, sizeof example);
    cr_assert_gt(len, 0, "no example %s", name);
    return bytes_of(example, len);
}

Test(protocol_page, chain_request)
{
    struct chain_request request;
    uint8_t again[CHAIN_REQUEST_BYTES_MAX];
    struct bytes in = load(PAGE, "chain_request");
    for (size_t cut = 0; cut < in.len; cut++)
        cr_assert_eq(chain_request_decode(bytes_of(in.data, cut), &request), ERR_MALFORMED);
    cr_assert_eq(chain_request_decode(in, &request), ERR_OK);
    cr_assert_eq(request.from, 4);
    cr_assert(bytes_equal(bytes_of(again, chain_request_encode(&request, again)), in));
}

/* The call of the transport's page carries this very request. */
Test(protocol_page, chain_request_in_its_call)
{
    struct rpc_request_message call;
    struct chain_request request;
    uint8_t here[CHAIN_REQUEST_BYTES_MAX];
    size_t len = page_example(PAGE, "chain_request", here, sizeof here);
    struct bytes in = load(TEST_SOURCE_DIR "/../../docs/protocol/net.md", "rpc_request");
    cr_assert_eq(rpc_request_decode(in, 1024, &call), ERR_OK);
    cr_assert(bytes_equal(call.body, bytes_of(here, len)));
    cr_assert_eq(chain_request_decode(call.body, &request), ERR_OK);
}

/* The reply is the chain frame of the page on state, of the run and from the entry that were asked for. */
Test(protocol_page, chain_request_is_answered_by_a_chain_frame)
{
    struct chain_request request;
    struct bytes entries[CRDT_CHAIN_FRAME_ENTRIES];
    struct crdt_entry entry;
    struct id run;
    cr_assert_eq(chain_request_decode(load(PAGE, "chain_request"), &request), ERR_OK);
    struct bytes frame = load(TEST_SOURCE_DIR "/../../docs/protocol/state.md", "chain_frame");
    cr_assert_eq(crdt_chain_frame_decode(frame, &run, entries), 1);
    cr_assert(id_equal(&run, &request.run));
    cr_assert_eq(crdt_entry_decode(entries[0], &entry), ERR_OK);
    cr_assert_eq(entry.index, request.from);
}

Test(protocol_page, run_config)
{
    struct run_config config;
    uint8_t again[RUN_CONFIG_BYTES_MAX];
    struct bytes in = load(PAGE, "run_config");
    for (size_t cut = 0; cut < in.len; cut++)
        cr_assert_lt(run_config_decode(bytes_of(in.data, cut), &config), 0);
    cr_assert_eq(run_config_decode(in, &config), ERR_OK);
    cr_assert_eq(config.width, 128);
    cr_assert_eq(config.round_ms, 2000);
    cr_assert(config.alpha == 0.5 && config.beta == 0.7 && config.gamma == 0.7);
    int len = run_config_encode(&config, again, sizeof again);
    cr_assert_eq(len, (int)in.len);
    cr_assert_arr_eq(again, in.data, in.len);
    example[2] = RUN_CONFIG_VERSION + 1; /* the version, right after map head and key */
    cr_assert_eq(run_config_decode(in, &config), ERR_VERSION);
}

Test(protocol_page, run_config_of_an_mlp)
{
    struct run_config config;
    uint8_t again[RUN_CONFIG_BYTES_MAX];
    struct bytes in = load(PAGE, "run_config_mlp");
    for (size_t cut = 0; cut < in.len; cut++)
        cr_assert_lt(run_config_decode(bytes_of(in.data, cut), &config), 0);
    cr_assert_eq(run_config_decode(in, &config), ERR_OK);
    cr_assert(config.model.kind == TRAIN_MLP && config.model.size_count == 4);
    cr_assert(config.model.sizes[0] == 64 && config.model.sizes[3] == 10 && config.model.sizes[4] == 0);
    cr_assert(config.model.input_max == 16 && strcmp(config.model.label, "digit") == 0);
    int len = run_config_encode(&config, again, sizeof again);
    cr_assert_eq(len, (int)in.len);
    cr_assert_arr_eq(again, in.data, in.len);
}

Test(protocol_page, no_example_is_left_out)
{
    cr_assert_eq(page_examples(PAGE), 3);
}
