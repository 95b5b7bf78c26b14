/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls that libpikv has: from before the submit until the completion is
 * taken, or the handle is closed. A slot of handle->flights each; libpikv
 * carries slot and generation, so that a completion whose flight is gone is
 * nobody's. With the GIL. */
#include "client/python/src/pikvpy.h"

enum { HOLDS_FIRST = 4, SLOTS_FIRST = 32 };

static bool slots_grow(struct handle *h)
{
    uint32_t cap = h->flight_cap ? 2 * h->flight_cap : SLOTS_FIRST;
    struct flight **flights =
        PyMem_Realloc(h->flights, cap * sizeof(*h->flights));
    uint32_t *slots;

    if (!flights)
        return false;
    h->flights = flights;
    slots = PyMem_Realloc(h->free_slots, cap * sizeof(*h->free_slots));
    if (!slots)
        return false;
    h->free_slots = slots;
    for (uint32_t i = cap; i > h->flight_cap; i--) {
        flights[i - 1] = NULL;
        slots[h->free_n++] = i - 1;
    }
    h->flight_cap = cap;
    return true;
}

struct flight *flight_new(struct handle *h, enum op op)
{
    struct flight *f = PyMem_Calloc(1, sizeof(*f));
    uint32_t slot;

    if (!f || (h->free_n == 0 && !slots_grow(h))) {
        PyMem_Free(f);
        (void)PyErr_NoMemory();
        return NULL;
    }
    slot = h->free_slots[--h->free_n];
    h->flights[slot] = f;
    f->op = op;
    f->token = (uint64_t)++h->generation << 32 | (slot + 1);
    return f;
}

/* Room for more buffers. They may move: nobody but their makers knows them,
 * and those look at what they are given back only. */
bool flight_reserve(struct flight *f, uint32_t more)
{
    uint32_t cap = f->hold_cap ? f->hold_cap : HOLDS_FIRST;
    struct hold *holds;

    if (more <= f->hold_cap - f->hold_n)
        return true;
    while (cap - f->hold_n < more)
        cap *= 2;
    holds = PyMem_Realloc(f->holds, cap * sizeof(*holds));
    if (!holds) {
        (void)PyErr_NoMemory();
        return false;
    }
    f->holds = holds;
    f->hold_cap = cap;
    return true;
}

/* Out of the table first: releasing a buffer may run Python. */
void flight_free(struct handle *h, struct flight *f)
{
    uint32_t slot = (uint32_t)f->token - 1;

    h->flights[slot] = NULL;
    h->free_slots[h->free_n++] = slot;
    for (uint32_t i = 0; i < f->hold_n; i++) {
        PyBuffer_Release(&f->holds[i].view);
        Py_XDECREF(f->holds[i].ref);
    }
    PyMem_Free(f->holds);
    Py_XDECREF((PyObject *)f->results);
    Py_XDECREF(f->stops);
    Py_XDECREF(f->tag);
    PyMem_Free(f);
}

void flight_free_all(struct handle *h)
{
    for (uint32_t i = 0; i < h->flight_cap; i++)
        if (h->flights[i])
            flight_free(h, h->flights[i]);
}

void *flight_user(const struct flight *f)
{
    return (void *)(uintptr_t)f->token;
}

struct flight *flight_find(struct handle *h, const void *user)
{
    uint64_t token = (uintptr_t)user;
    uint32_t slot = (uint32_t)token - 1;
    struct flight *f = slot < h->flight_cap ? h->flights[slot] : NULL;

    return f && f->token == token ? f : NULL;
}

/* To libpikv room is what is asked for. Who gives no range asks for the block,
 * and is told when there was no room for it. */
void flight_answered(struct flight *f)
{
    struct results *r = f->results;

    for (Py_ssize_t i = 0; f->whole && i < r->n; i++)
        if (r->r[i].status == PIKV_OK && r->r[i].moved < r->r[i].len)
            r->r[i].status = PIKV_TOO_SMALL;
}

/* Not before: the handle owns the flight, and would never be collected. */
void flight_lends(struct handle *h, struct flight *f)
{
    if (!f->loan || f->results->handle)
        return;
    Py_INCREF((PyObject *)h);
    f->results->handle = h;
}

PyObject *flight_take(struct handle *h, const struct pikv_completion *c)
{
    struct flight *f = flight_find(h, c->user);
    PyObject *out;

    if (!f)
        return NULL;
    if (f->sync) {
        if (!c->part) {
            f->taken = true;
            f->done = *c;
        }
        return NULL;
    }
    if (!c->part)
        flight_answered(f);
    flight_lends(h, f);
    out = completion_new(h->st, f, c);
    if (!c->part)
        flight_free(h, f);
    return out;
}
