#include "net/identity.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

#include "base/hash.h"

static_assert(crypto_sign_SEEDBYTES == NET_SEED_BYTES, "Ed25519 seed");
static_assert(crypto_sign_BYTES == NET_SIGNATURE_BYTES, "Ed25519 signature");
static_assert(crypto_sign_PUBLICKEYBYTES == ID_BYTES, "Ed25519 public key");

void net_identity_init(struct net_identity *identity, const uint8_t seed[NET_SEED_BYTES])
{
    memmove(identity->seed, seed, NET_SEED_BYTES);
    int rc = crypto_sign_seed_keypair(identity->id.bytes, identity->sign_secret, identity->seed);
    ASSERT(rc == 0);
    rc = crypto_sign_ed25519_sk_to_curve25519(identity->box_secret, identity->sign_secret);
    ASSERT(rc == 0);
}

void net_identity_generate(struct net_identity *identity, const struct rng *rng)
{
    uint8_t seed[NET_SEED_BYTES];
    rng_fill(rng, seed, sizeof seed);
    net_identity_init(identity, seed);
    sodium_memzero(seed, sizeof seed);
}

void net_identity_deinit(struct net_identity *identity)
{
    sodium_memzero(identity, sizeof *identity);
}

/* What is signed: 32 bytes that stand for label || message.  The hash puts the label's length in front, so no
 * two pairs of label and message share it, and messages of any size need no copy. */
static void signed_digest(const char *label, struct bytes message, struct id *digest)
{
    ASSERT(strlen(label) <= NET_LABEL_MAX);
    hash_parts(label, &message, 1, digest);
}

void net_identity_sign(const struct net_identity *identity, const char *label, struct bytes message,
                       uint8_t signature[NET_SIGNATURE_BYTES])
{
    struct id digest;
    signed_digest(label, message, &digest);
    int rc = crypto_sign_detached(signature, NULL, digest.bytes, ID_BYTES, identity->sign_secret);
    ASSERT(rc == 0);
}

int net_identity_verify(const struct id *id, const char *label, struct bytes message,
                        const uint8_t signature[NET_SIGNATURE_BYTES])
{
    struct id digest;
    signed_digest(label, message, &digest);
    return crypto_sign_verify_detached(signature, digest.bytes, ID_BYTES, id->bytes) == 0 ? ERR_OK : ERR_AUTH;
}
