/* SPDX-License-Identifier: Apache-2.0
 *
 * Certificates for tests: an authority and what it signs, as PEM files in a
 * directory. Made by OpenSSL's API in milliseconds, P-256. */
#ifndef TESTS_CERTS_H
#define TESTS_CERTS_H

/* DIR/CA.crt, DIR/CA.key */
void certs_ca(const char *dir, const char *ca);
/* DIR/FILE.crt, DIR/FILE.key (mode 0600), signed by CA, for the DNS name, or
 * none if NULL; valid from and until so many days from now. */
void certs_node(const char *dir, const char *ca, const char *file,
                const char *dns, int from_days, int until_days);

#endif
