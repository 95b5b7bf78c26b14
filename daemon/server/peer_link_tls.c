/* SPDX-License-Identifier: Apache-2.0
 *
 * TLS 1.3 sessions on memory BIOs (peer_link_tls.h); the context's files are
 * read by peer_link_keys.c.
 *
 *     socket --feed--> [in BIO] --> SSL --> [out BIO] --drain--> socket
 *
 * 1. A session never waits: what it lacks comes by feed, what it says is taken
 *    by drain, also after it has failed (the alert).
 * 2. OpenSSL's error queue is the thread's: emptied before each call whose
 *    failure is looked at.
 * 3. What a peer did wrong is told in words for the operator of this node. */
#include "server/peer_link_tls_impl.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"

enum {
    TLS_HANDSHAKE = 22, /* the first byte of every TLS connection */
    ALERT_REASONS = SSL_AD_REASON_OFFSET,
};

struct peer_session {
    struct peer_tls *tls; /* a reference */
    SSL *ssl;
    BIO *in, *out;             /* the SSL's */
    bool server, any, strange; /* strange: not TLS at all */
    bool psk_unknown;
    char why[200];
};

/* ---- Pre-shared keys, asked for by OpenSSL ---- */

/* What stands for the key within the handshake. */
static SSL_SESSION *psk_session(SSL *ssl, const struct psk *k)
{
    static const unsigned char suite[] = {0x13, 0x01}; /* AES-128-GCM-SHA256 */
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
    SSL_SESSION *s = cipher ? SSL_SESSION_new() : NULL;

    if (s && SSL_SESSION_set1_master_key(s, k->key, k->len) &&
        SSL_SESSION_set_cipher(s, cipher) &&
        SSL_SESSION_set_protocol_version(s, TLS1_3_VERSION) &&
        SSL_SESSION_set1_id_context(s, PSK_CONTEXT, sizeof(PSK_CONTEXT)))
        return s;
    SSL_SESSION_free(s);
    return NULL;
}

int peer_psk_use(SSL *ssl, const EVP_MD *md, const unsigned char **id,
                 size_t *len, SSL_SESSION **out)
{
    struct peer_session *s = SSL_get_app_data(ssl);
    const struct psk *k = &s->tls->psks[0];

    *out = NULL;
    if (md && !EVP_MD_is_a(md, "SHA256"))
        return 1;
    *out = psk_session(ssl, k);
    *id = (const unsigned char *)k->id;
    *len = strlen(k->id);
    return *out != NULL;
}

int peer_psk_find(SSL *ssl, const unsigned char *id, size_t len,
                  SSL_SESSION **out)
{
    struct peer_session *s = SSL_get_app_data(ssl);

    *out = NULL;
    for (uint32_t i = 0; i < s->tls->psk_n; i++) {
        const struct psk *k = &s->tls->psks[i];

        if (len != strlen(k->id) || memcmp(id, k->id, len) != 0)
            continue;
        *out = psk_session(ssl, k);
        return *out != NULL;
    }
    s->psk_unknown = true;
    return 1; /* without it, and without a certificate, nothing follows */
}

/* ---- Sessions ---- */

struct peer_session *peer_session_new(struct peer_tls *t, bool server)
{
    struct peer_session *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->server = server;
    s->tls = t;
    t->refs++;
    s->ssl = fault_here("peer_session") ? NULL : SSL_new(t->ctx);
    s->in = BIO_new(BIO_s_mem());
    s->out = BIO_new(BIO_s_mem());
    if (!s->ssl || !s->in || !s->out) {
        BIO_free(s->in);
        BIO_free(s->out);
        peer_session_free(s);
        return NULL;
    }
    SSL_set_bio(s->ssl, s->in, s->out);
    SSL_set_app_data(s->ssl, s);
    if (server)
        SSL_set_accept_state(s->ssl);
    else
        SSL_set_connect_state(s->ssl);
    return s;
}

void peer_session_free(struct peer_session *s)
{
    if (!s)
        return;
    SSL_free(s->ssl);
    peer_tls_unref(s->tls);
    free(s);
}

bool peer_session_feed(struct peer_session *s, const void *p, size_t n)
{
    if (s->server && !s->any && n)
        s->strange = *(const uint8_t *)p != TLS_HANDSHAKE;
    s->any |= n > 0;
    return BIO_write(s->in, p, (int)n) == (int)n;
}

static const char *error_text(unsigned long e)
{
    const char *text = e ? ERR_reason_error_string(e) : NULL;

    return text ? text : "TLS failed";
}

static void session_fail(struct peer_session *s)
{
    unsigned long e = ERR_peek_last_error();
    long verify = SSL_get_verify_result(s->ssl);
    bool alert =
        ERR_GET_LIB(e) == ERR_LIB_SSL && ERR_GET_REASON(e) > ALERT_REASONS;

    if (s->psk_unknown)
        snprintf(s->why, sizeof(s->why),
                 "it has another pre-shared key (cluster.tls.psk_file)");
    else if (alert)
        snprintf(s->why, sizeof(s->why), "the peer refuses us: %s",
                 error_text(e));
    else if (verify != X509_V_OK)
        snprintf(s->why, sizeof(s->why), "its certificate is not good: %s",
                 X509_verify_cert_error_string(verify));
    else
        snprintf(s->why, sizeof(s->why), "TLS: %s", error_text(e));
}

int peer_session_shake(struct peer_session *s)
{
    int rc;

    if (s->strange) {
        snprintf(s->why, sizeof(s->why),
                 "its first bytes are not TLS's: no peer, or one whose "
                 "cluster.security is plain");
        return -1;
    }
    ERR_clear_error();
    rc = SSL_do_handshake(s->ssl);
    if (rc == 1) {
        if (!s->tls->psk_n || SSL_session_reused(s->ssl))
            return 1;
        snprintf(s->why, sizeof(s->why), "the pre-shared key was not used");
        return -1;
    }
    switch (SSL_get_error(s->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return 0;
    default: /* the others of OpenSSL's ends */
        session_fail(s);
        return -1;
    }
}

long peer_session_read(struct peer_session *s, void *to, size_t cap)
{
    int n;

    ERR_clear_error();
    n = SSL_read(s->ssl, to, (int)cap);
    if (n > 0)
        return n;
    switch (SSL_get_error(s->ssl, n)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return 0;
    case SSL_ERROR_ZERO_RETURN:
        return -1;
    default: /* the others of OpenSSL's ends */
        session_fail(s);
        return -2;
    }
}

bool peer_session_write(struct peer_session *s, const void *p, size_t n)
{
    ERR_clear_error();
    if (n == 0 || SSL_write(s->ssl, p, (int)n) == (int)n)
        return true;
    session_fail(s);
    return false;
}

void peer_session_shut(struct peer_session *s)
{
    if (SSL_is_init_finished(s->ssl))
        (void)SSL_shutdown(s->ssl);
}

bool peer_session_drain(struct peer_session *s, struct bytes *out)
{
    size_t n = BIO_ctrl_pending(s->out);
    void *to;

    if (n == 0)
        return true;
    to = bytes_grow(out, n);
    return to && BIO_read(s->out, to, (int)n) == (int)n;
}

bool peer_session_named(const struct peer_session *s, const char *name)
{
    X509 *cert;

    if (s->tls->psk_n)
        return true;
    cert = SSL_get0_peer_certificate(s->ssl);
    return cert && peer_cert_named(cert, name);
}

const char *peer_session_why(const struct peer_session *s)
{
    return s->why;
}
