/* SPDX-License-Identifier: Apache-2.0
 *
 * X.509 by the book (certs.h). What fails fails the test. */
#include "lib/certs.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/base.h"

enum { DAY_S = 86400 };

static FILE *file_open(const char *dir, const char *name, const char *ext,
                       const char *mode)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s.%s", dir, name, ext);
    f = fopen(path, mode);
    MUST(f);
    MUST(chmod(path, 0600) == 0);
    return f;
}

static void extend(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *e;

    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    MUST(e && X509_add_ext(x, e, -1) == 1);
    X509_EXTENSION_free(e);
}

static X509 *cert_new(const char *cn, EVP_PKEY *key, int from_days,
                      int until_days)
{
    static long serial = 1000;
    X509 *x = X509_new();
    X509_NAME *name = X509_get_subject_name(x);

    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
    X509_gmtime_adj(X509_getm_notBefore(x), (long)from_days * DAY_S - 60);
    X509_gmtime_adj(X509_getm_notAfter(x), (long)until_days * DAY_S);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                               (const unsigned char *)cn, -1, -1, 0);
    X509_set_pubkey(x, key);
    return x;
}

static void cert_write(const char *dir, const char *name, X509 *x,
                       EVP_PKEY *key)
{
    FILE *f = file_open(dir, name, "crt", "w");

    MUST(PEM_write_X509(f, x) == 1);
    fclose(f);
    f = file_open(dir, name, "key", "w");
    MUST(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1);
    fclose(f);
}

void certs_ca(const char *dir, const char *ca)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = cert_new(ca, key, -400, 3650);

    X509_set_issuer_name(x, X509_get_subject_name(x));
    extend(x, x, NID_basic_constraints, "critical,CA:TRUE");
    extend(x, x, NID_key_usage, "critical,keyCertSign,cRLSign");
    extend(x, x, NID_subject_key_identifier, "hash");
    MUST(X509_sign(x, key, EVP_sha256()) > 0);
    cert_write(dir, ca, x, key);
    X509_free(x);
    EVP_PKEY_free(key);
}

void certs_node(const char *dir, const char *ca, const char *file,
                const char *dns, int from_days, int until_days)
{
    FILE *f = file_open(dir, ca, "crt", "r");
    X509 *issuer = PEM_read_X509(f, NULL, NULL, NULL);
    EVP_PKEY *ca_key, *key = EVP_EC_gen("P-256");
    X509 *x = cert_new(file, key, from_days, until_days);
    char san[128];

    fclose(f);
    f = file_open(dir, ca, "key", "r");
    ca_key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
    fclose(f);
    MUST(issuer && ca_key);
    X509_set_issuer_name(x, X509_get_subject_name(issuer));
    extend(x, issuer, NID_basic_constraints, "critical,CA:FALSE");
    extend(x, issuer, NID_ext_key_usage, "serverAuth,clientAuth");
    snprintf(san, sizeof(san), "DNS:%s", dns ? dns : "");
    if (dns)
        extend(x, issuer, NID_subject_alt_name, san);
    MUST(X509_sign(x, ca_key, EVP_sha256()) > 0);
    cert_write(dir, file, x, key);
    X509_free(x);
    X509_free(issuer);
    EVP_PKEY_free(ca_key);
    EVP_PKEY_free(key);
}
