/* SPDX-License-Identifier: Apache-2.0
 *
 * `pikvd --explain TOPIC`: the tables as text for people. What it prints is
 * what the repository holds (docs/reference, docs/PROTOCOL.md,
 * config/pikvd.json, docs/man/pikvd.json.5.scd); the check compares, so a
 * document cannot say anything else than the code does.
 *
 *   config, ops, errors, metrics, policies, protocol   Markdown
 *   defaults                                           JSON, every key
 *   schema                                             JSON Schema 2020-12
 *   man                                                scdoc, pikvd.json(5)
 *
 * Pure; what cannot be allocated leaves out->bad. */
#ifndef SERVER_EXPLAIN_H
#define SERVER_EXPLAIN_H

#include "base/metrics.h"

#define EXPLAIN_TOPICS                                                         \
    "config, ops, errors, metrics, policies, protocol, defaults, schema, man"

/* Appends the text; false if there is no such topic. */
bool explain(const char *topic, struct textbuf *out);

/* A cell of a Markdown table: bars would end it. */
void explain_cell(struct textbuf *out, const char *text);
/* explain_protocol.c */
void explain_protocol(struct textbuf *out);

#endif
