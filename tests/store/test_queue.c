#include "fixture.h"

#include "base/rng.h"
#include "store/queue.h"

enum { MODEL_MAX = 512 };

struct model_op {
    uint64_t ticket;
    size_t key_len;
    size_t value_len;
};

/* The ring behaves like a list: 20,000 random pushes and pops against one, contents and order compared at
 * each step, with sizes that meet the ring's end in every way. */
Test(queue, model)
{
    struct store_queue q;
    struct allocator heap = allocator_system();
    struct model_op model[MODEL_MAX];
    size_t held = 0;
    uint64_t ticket = 0;
    uint8_t key[200];
    uint8_t value[400];
    struct rng_seeded stream;
    rng_seeded_init(&stream, 3);
    struct rng rng = rng_of_seeded(&stream);
    cr_assert_eq(store_queue_init(&q, &heap, 4099), ERR_OK);
    for (int step = 0; step < 20000; step++) {
        if (rng_below(&rng, 100) < 52 && held < MODEL_MAX) {
            struct store_op op = {.ticket = ticket + 1, .kind = STORE_OP_PUT};
            struct model_op m = {ticket + 1, 1 + rng_below(&rng, 100), rng_below(&rng, 300)};
            memset(key, (int)(ticket & 0xff), m.key_len);
            memset(value, (int)(ticket + 1) & 0xff, m.value_len);
            int rc = store_queue_push(&q, &op, bytes_of(key, m.key_len), bytes_of(value, m.value_len));
            if (rc == 0) {
                model[held++] = m;
                ticket++;
            } else {
                cr_assert_eq(rc, ERR_FULL);
                cr_assert_gt(q.used + sizeof op + m.key_len + m.value_len + 8 + 500, q.cap,
                             "refused with room left");
            }
        } else if (held > 0) {
            store_queue_pop(&q);
            memmove(model, model + 1, --held * sizeof *model);
        }
        cr_assert_eq(q.count, held);
        size_t cursor = SIZE_MAX;
        for (size_t i = 0; i < held; i++) {
            const struct store_op *op = store_queue_next(&q, &cursor);
            cr_assert_eq(op->ticket, model[i].ticket, "seed 3, step %d", step);
            cr_assert_eq(store_op_key(op).len, model[i].key_len);
            cr_assert_eq(store_op_value(op).len, model[i].value_len);
            cr_assert_eq(store_op_key(op).data[model[i].key_len - 1], (uint8_t)(model[i].ticket - 1));
            if (model[i].value_len > 0)
                cr_assert_eq(store_op_value(op).data[model[i].value_len - 1], (uint8_t)model[i].ticket);
        }
    }
    store_queue_deinit(&q, &heap);
}
