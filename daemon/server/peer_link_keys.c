/* SPDX-License-Identifier: Apache-2.0
 *
 * Certificates and keys of peer links: read, and proved as far as this node can
 * alone, so that what is wrong is said at boot and not by every peer.
 *
 *   tls   ca is there; cert is; key fits; cert is signed by ca, in date, may be
 *         used by both ends, and names this node
 *   psk   one to four lines of hex; the file is nobody else's to read
 *
 * A message names the setting, the file, what is wrong, and the fix. Boot and
 * reload, control thread. */
#include "server/peer_link_tls_impl.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fault.h"

#define FIX "(docs/OPERATING.md, Cluster security)"

static const char *last_error(void)
{
    unsigned long e = ERR_peek_last_error();
    const char *text = e ? ERR_reason_error_string(e) : NULL;

    return text ? text : "not readable as PEM";
}

/* Is there a file, and, of a secret, is it ours alone? */
static enum err file_check(const char *key, const char *path, bool secret,
                           struct errmsg *m)
{
    struct stat st;

    if (!path || !*path)
        return errmsg_set(m, ERR_CONFIG,
                          "%s: is empty; fix: set it to the path of a file, or "
                          "choose another cluster.security " FIX,
                          key);
    if (stat(path, &st) != 0)
        return errmsg_set(m, ERR_CONFIG,
                          "%s: %s: %s; fix: make the file " FIX
                          ", or name another",
                          key, path, strerror(errno));
    if (secret && (st.st_mode & 077))
        return errmsg_set(m, ERR_CONFIG,
                          "%s: %s: others may read or write it (mode %04o); "
                          "fix: chmod 600 %s",
                          key, path, (unsigned)(st.st_mode & 07777), path);
    return OK;
}

/* ---- Certificates ---- */

bool peer_cert_named(X509 *cert, const char *name)
{
    GENERAL_NAMES *names =
        X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    bool found = false;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
        size_t n;

        if (g->type != GEN_DNS)
            continue;
        n = (size_t)ASN1_STRING_length(g->d.dNSName);
        found |= n == strlen(name) &&
                 memcmp(ASN1_STRING_get0_data(g->d.dNSName), name, n) == 0;
    }
    GENERAL_NAMES_free(names);
    return found;
}

/* X509_V_OK, or why our own certificate would be refused by peers. */
static int cert_verify(SSL_CTX *ctx, X509 *cert)
{
    X509_STORE_CTX *v = X509_STORE_CTX_new();
    STACK_OF(X509) *chain = NULL;
    int rc = X509_V_ERR_OUT_OF_MEM;

    SSL_CTX_get0_chain_certs(ctx, &chain);
    if (v && X509_STORE_CTX_init(v, SSL_CTX_get_cert_store(ctx), cert, chain)) {
        X509_verify_cert(v);
        rc = X509_STORE_CTX_get_error(v);
    }
    X509_STORE_CTX_free(v);
    return rc;
}

static enum err cert_check(SSL_CTX *ctx, const struct peer_links_cfg *cfg,
                           struct errmsg *m)
{
    X509 *cert = SSL_CTX_get0_certificate(ctx);
    int rc = cert_verify(ctx, cert);

    if (rc != X509_V_OK)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.tls.cert: %s: %s; fix: make one with the "
                          "authority of cluster.tls.ca " FIX,
                          cfg->cert, X509_verify_cert_error_string(rc));
    if (X509_check_purpose(cert, X509_PURPOSE_SSL_SERVER, 0) != 1 ||
        X509_check_purpose(cert, X509_PURPOSE_SSL_CLIENT, 0) != 1)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.tls.cert: %s: it may not be used by both "
                          "ends of a link; fix: make one with "
                          "extendedKeyUsage=serverAuth,clientAuth " FIX,
                          cfg->cert);
    if (!peer_cert_named(cert, cfg->self))
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.tls.cert: %s: \"%s\" (node.name) is none of "
                          "its DNS names; fix: make one with "
                          "subjectAltName=DNS:%s, or set node.name " FIX,
                          cfg->cert, cfg->self, cfg->self);
    return OK;
}

/* A key with a passphrase would ask for it at the terminal. */
static int no_passphrase(char *to, int size, int rwflag, void *arg)
{
    (void)to;
    (void)size;
    (void)rwflag;
    (void)arg;
    return 0;
}

static enum err cert_load(struct peer_tls *t, const struct peer_links_cfg *cfg,
                          struct errmsg *m)
{
    SSL_CTX *ctx = t->ctx;
    enum err e = file_check("cluster.tls.ca", cfg->ca, false, m);

    if (!e)
        e = file_check("cluster.tls.cert", cfg->cert, false, m);
    if (!e)
        e = file_check("cluster.tls.key", cfg->key, true, m);
    if (e)
        return e;
    ERR_clear_error();
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                       NULL);
    if (SSL_CTX_load_verify_locations(ctx, cfg->ca, NULL) != 1)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.tls.ca: %s: %s; fix: give the authority's "
                          "certificate in PEM " FIX,
                          cfg->ca, last_error());
    if (SSL_CTX_use_certificate_chain_file(ctx, cfg->cert) != 1)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.tls.cert: %s: %s; fix: give this node's "
                          "certificate in PEM " FIX,
                          cfg->cert, last_error());
    if (SSL_CTX_use_PrivateKey_file(ctx, cfg->key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ctx) != 1)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.tls.key: %s: %s; fix: give the key of "
                          "cluster.tls.cert in PEM, without a passphrase " FIX,
                          cfg->key, last_error());
    return cert_check(ctx, cfg, m);
}

/* ---- Pre-shared keys ---- */

static bool psk_id(struct psk *k)
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    size_t used = 0;

    if (EVP_Q_mac(NULL, "HMAC", NULL, "SHA256", NULL, k->key, k->len,
                  (const uint8_t *)"pikvd psk id", 12, hash, sizeof(hash),
                  &used) == NULL)
        return false;
    snprintf(k->id, sizeof(k->id), "pikvd-");
    for (size_t i = 0; i < 8; i++)
        snprintf(k->id + 6 + 2 * i, 3, "%02x", hash[i]);
    return true;
}

static bool psk_parse(struct psk *k, const char *text)
{
    return OPENSSL_hexstr2buf_ex(k->key, sizeof(k->key), &k->len, text, 0) &&
           k->len >= PSK_MIN && psk_id(k);
}

static enum err psk_lines(struct peer_tls *t, const char *path, FILE *f,
                          struct errmsg *m)
{
    char line[4 * PSK_MAX];
    bool ok = true;

    while (ok && fgets(line, sizeof(line), f)) {
        line[strcspn(line, " \t\r\n")] = 0;
        if (!line[0])
            continue;
        ok = t->psk_n < PSK_KEYS && psk_parse(&t->psks[t->psk_n], line);
        t->psk_n += ok;
    }
    OPENSSL_cleanse(line, sizeof(line));
    if (ok && t->psk_n && !ferror(f))
        return OK;
    return errmsg_set(m, ERR_CONFIG,
                      "cluster.tls.psk_file: %s: not one to %d lines of %d to "
                      "%d bytes in hex; fix: openssl rand -hex 32 > %s " FIX,
                      path, PSK_KEYS, PSK_MIN, PSK_MAX, path);
}

static enum err psk_load(struct peer_tls *t, const struct peer_links_cfg *cfg,
                         struct errmsg *m)
{
    const char *path = cfg->psk_file;
    enum err e = file_check("cluster.tls.psk_file", path, true, m);
    FILE *f;

    if (e)
        return e;
    f = fopen(path, "re");
    if (!f)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.tls.psk_file: %s: %s; fix: let the daemon's "
                          "user own it",
                          path, strerror(errno));
    setvbuf(f, NULL, _IONBF, 0); /* no copy of it stays in stdio's buffer */
    e = psk_lines(t, path, f, m);
    fclose(f);
    if (e)
        return e;
    /* All with the hash that the key's session says. */
    if (SSL_CTX_set_ciphersuites(t->ctx, "TLS_AES_128_GCM_SHA256") != 1)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.security: psk: this OpenSSL lacks "
                          "TLS_AES_128_GCM_SHA256; fix: use tls");
    SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_id_context(t->ctx, PSK_CONTEXT, sizeof(PSK_CONTEXT));
    SSL_CTX_set_psk_use_session_callback(t->ctx, peer_psk_use);
    SSL_CTX_set_psk_find_session_callback(t->ctx, peer_psk_find);
    return OK;
}

/* ---- The context ---- */

static bool ctx_new(struct peer_tls *t)
{
    t->ctx = fault_here("peer_tls") ? NULL : SSL_CTX_new(TLS_method());
    if (!t->ctx)
        return false;
    SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(t->ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_mode(t->ctx, SSL_MODE_RELEASE_BUFFERS);
    return SSL_CTX_set_num_tickets(t->ctx, 0) == 1 &&
           SSL_CTX_set_min_proto_version(t->ctx, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_max_proto_version(t->ctx, TLS1_3_VERSION) == 1;
}

enum err peer_tls_open(const struct peer_links_cfg *cfg, struct peer_tls **out,
                       struct errmsg *m)
{
    struct peer_tls *t = calloc(1, sizeof(*t));
    enum err e;

    if (!t)
        return errmsg_set(m, ERR_NO_MEMORY, "cluster.tls: no memory");
    t->refs = 1;
    if (!ctx_new(t))
        e = errmsg_set(m, ERR_NO_MEMORY, "cluster.tls: OpenSSL: %s",
                       last_error());
    else if (cfg->security == PEER_SECURITY_PSK)
        e = psk_load(t, cfg, m);
    else
        e = cert_load(t, cfg, m);
    ERR_clear_error();
    if (e)
        peer_tls_unref(t);
    else
        *out = t;
    return e;
}

void peer_tls_unref(struct peer_tls *t)
{
    if (!t || --t->refs)
        return;
    SSL_CTX_free(t->ctx);
    OPENSSL_cleanse(t->psks, sizeof(t->psks));
    free(t);
}
