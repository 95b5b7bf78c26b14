/* SPDX-License-Identifier: Apache-2.0
 *
 * One error enum for the daemon, the wire and libpikv, made from
 * proto/errors.tbl. 0 is OK, errors are negative. The function that first
 * decides a code reports it (cold: log or errmsg; hot: count), callers pass it
 * on unchanged. Outputs are written only on OK. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/base.h"

enum err {
    OK = 0,
#define ERR(name, code, who, text) ERR_##name = code,
#include "proto/errors.tbl"
};

enum err_who { WHO_NOBODY, WHO_RETRY, WHO_OTHER, WHO_GIVEUP };

/* Static strings; "UNKNOWN" for a code not in the table. */
const char *err_name(int code);
const char *err_text(int code);
enum err_who err_who(int code);
const char *err_who_text(enum err_who who);

/* Words for a person, on cold paths only (config, open, recovery). */
struct errmsg {
    char text[512];
};

/* Sets the text and returns e, so that a decider can write
 * return errmsg_set(m, ERR_CONFIG, "..."). m may be NULL. */
enum err errmsg_set(struct errmsg *m, enum err e, const char *fmt, ...)
    printf_like(3, 4);
/* Puts "prefix: " in front of the text; returns e. m may be NULL. */
enum err errmsg_wrap(struct errmsg *m, enum err e, const char *fmt, ...)
    printf_like(3, 4);

#endif
