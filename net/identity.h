/* A node's identity: one Ed25519 key pair.  The public key is the node id; the secret signs records,
 * authenticates QUIC (RFC 7250 raw key) and, mapped to X25519, seals datagrams. */
#ifndef DUNLIN_NET_IDENTITY_H
#define DUNLIN_NET_IDENTITY_H

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "base/rng.h"

enum { NET_SEED_BYTES = 32, NET_SIGNATURE_BYTES = 64, NET_LABEL_MAX = 32 };

struct net_identity {
    struct id id; /* raw Ed25519 public key */
    uint8_t seed[NET_SEED_BYTES];
    uint8_t sign_secret[64]; /* libsodium's expanded form */
    uint8_t box_secret[32];  /* X25519 secret of the same key */
};

/* Derives everything from a 32-byte seed (RFC 8032 s.5.1.5).  Copies.  Wipe with net_identity_deinit. */
void net_identity_init(struct net_identity *identity, const uint8_t seed[NET_SEED_BYTES]);
/* A fresh identity from rng. */
void net_identity_generate(struct net_identity *identity, const struct rng *rng);
/* Wipes every byte. */
void net_identity_deinit(struct net_identity *identity);
/* Signs label || message under the domain label (a string constant, at most NET_LABEL_MAX characters,
 * asserted): Ed25519 over the 32 bytes BLAKE2b-256(label length (1 byte) || label || message). */
void net_identity_sign(const struct net_identity *identity, const char *label, struct bytes message,
                       uint8_t signature[NET_SIGNATURE_BYTES]);
/* ERR_AUTH: the signature is not by this id over label || message. */
MUST_USE int net_identity_verify(const struct id *id, const char *label, struct bytes message,
                                 const uint8_t signature[NET_SIGNATURE_BYTES]);

#endif
