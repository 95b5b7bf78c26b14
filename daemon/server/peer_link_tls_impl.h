/* SPDX-License-Identifier: Apache-2.0
 *
 * What a context has: made by peer_link_keys.c, used by peer_link_tls.c. */
#ifndef SERVER_PEER_LINK_TLS_IMPL_H
#define SERVER_PEER_LINK_TLS_IMPL_H

#include <openssl/ssl.h>

#include "server/peer_link_tls.h"

enum {
    PSK_KEYS = 4,
    PSK_MIN = 32, /* bytes */
    PSK_MAX = 64,
};

/* Nothing is resumed, but a pre-shared key is a session to OpenSSL, and where
 * peers are verified it wants to know whose. */
static const unsigned char PSK_CONTEXT[] = {'p', 'i', 'k', 'v', 'd'};

struct psk {
    uint8_t key[PSK_MAX];
    size_t len;
    char id[32]; /* from a hash of the key: tells which, and not what it is */
};

struct peer_tls {
    SSL_CTX *ctx;
    uint32_t refs;
    struct psk psks[PSK_KEYS];
    uint32_t psk_n; /* 0: certificates */
};

int peer_psk_use(SSL *ssl, const EVP_MD *md, const unsigned char **id,
                 size_t *len, SSL_SESSION **out);
int peer_psk_find(SSL *ssl, const unsigned char *id, size_t len,
                  SSL_SESSION **out);
/* Is name, to the letter, one of the DNS names of the certificate? */
bool peer_cert_named(X509 *cert, const char *name);

#endif
