/* Identity: the key pair is the one of RFC 8032, a signature holds for exactly its author, label and message,
 * and nothing secret is left behind. */
#include <criterion/criterion.h>
#include <sodium.h>
#include <string.h>

#include "base/hash.h"
#include "net/identity.h"

static void from_hex(const char *hex, uint8_t *out, size_t len)
{
    cr_assert_eq(sodium_hex2bin(out, len, hex, strlen(hex), NULL, NULL, NULL), 0);
}

Test(identity, rfc8032_test_1)
{
    uint8_t seed[NET_SEED_BYTES];
    uint8_t expected[ID_BYTES];
    struct net_identity identity;
    from_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", seed, sizeof seed);
    from_hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", expected, sizeof expected);
    net_identity_init(&identity, seed);
    cr_expect_arr_eq(identity.id.bytes, expected, ID_BYTES);
    cr_expect_arr_eq(identity.seed, seed, sizeof seed);
}

Test(identity, signature_is_ed25519_over_the_labelled_hash)
{
    struct rng_seeded stream;
    struct net_identity identity;
    uint8_t signature[NET_SIGNATURE_BYTES];
    struct id digest;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    net_identity_generate(&identity, &rng);
    struct bytes message = bytes_of_text("message");
    net_identity_sign(&identity, "label", message, signature);
    hash_content(bytes_of_text("\x05labelmessage"), &digest);
    cr_expect_eq(crypto_sign_verify_detached(signature, digest.bytes, ID_BYTES, identity.id.bytes), 0);
}

Test(identity, box_secret_belongs_to_the_id)
{
    struct rng_seeded stream;
    struct net_identity identity;
    uint8_t from_secret[32];
    uint8_t from_id[32];
    rng_seeded_init(&stream, 2);
    struct rng rng = rng_of_seeded(&stream);
    net_identity_generate(&identity, &rng);
    cr_assert_eq(crypto_scalarmult_base(from_secret, identity.box_secret), 0);
    cr_assert_eq(crypto_sign_ed25519_pk_to_curve25519(from_id, identity.id.bytes), 0);
    cr_expect_arr_eq(from_secret, from_id, sizeof from_id);
}

Test(identity, verify_refuses_every_change)
{
    struct rng_seeded stream;
    struct net_identity a;
    struct net_identity b;
    uint8_t signature[NET_SIGNATURE_BYTES];
    uint8_t message[40];
    rng_seeded_init(&stream, 3);
    struct rng rng = rng_of_seeded(&stream);
    net_identity_generate(&a, &rng);
    net_identity_generate(&b, &rng);
    cr_assert(!id_equal(&a.id, &b.id));
    rng_fill(&rng, message, sizeof message);
    struct bytes whole = bytes_of(message, sizeof message);
    net_identity_sign(&a, "record", whole, signature);
    cr_expect_eq(net_identity_verify(&a.id, "record", whole, signature), ERR_OK);
    cr_expect_eq(net_identity_verify(&b.id, "record", whole, signature), ERR_AUTH);
    cr_expect_eq(net_identity_verify(&a.id, "recorD", whole, signature), ERR_AUTH);
    cr_expect_eq(net_identity_verify(&a.id, "recor", whole, signature), ERR_AUTH);
    for (size_t bit = 0; bit < 8 * sizeof message; bit++) {
        message[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_expect_eq(net_identity_verify(&a.id, "record", whole, signature), ERR_AUTH, "message bit %zu",
                     bit);
        message[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t bit = 0; bit < 8 * sizeof signature; bit++) {
        signature[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_expect_eq(net_identity_verify(&a.id, "record", whole, signature), ERR_AUTH, "bit %zu", bit);
        signature[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t len = 0; len < sizeof message; len++)
        cr_expect_eq(net_identity_verify(&a.id, "record", bytes_of(message, len), signature), ERR_AUTH);
}

/* With the label's length in front, moving a character between label and message makes another signature. */
Test(identity, label_and_message_do_not_run_together)
{
    struct rng_seeded stream;
    struct net_identity identity;
    uint8_t signature[NET_SIGNATURE_BYTES];
    rng_seeded_init(&stream, 4);
    struct rng rng = rng_of_seeded(&stream);
    net_identity_generate(&identity, &rng);
    net_identity_sign(&identity, "ab", bytes_of_text("cd"), signature);
    cr_expect_eq(net_identity_verify(&identity.id, "abc", bytes_of_text("d"), signature), ERR_AUTH);
}

Test(identity, deinit_wipes)
{
    static const uint8_t zero[sizeof(struct net_identity)] = {0};
    static const uint8_t seed[NET_SEED_BYTES] = {7};
    struct net_identity identity;
    net_identity_init(&identity, seed);
    net_identity_deinit(&identity);
    cr_expect_arr_eq(&identity, zero, sizeof zero);
}
