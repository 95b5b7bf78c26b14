/* SPDX-License-Identifier: Apache-2.0
 *
 * The keys of a call, and what else is bytes per item: a text for all items or
 * one for each. Key bytes are borrowed from Python's objects, which the batch
 * keeps until the submit has returned; libpikv copies them. */
#include "client/python/src/pikvpy.h"

static struct pikv_key *item_key(const struct batch *b, uint32_t i)
{
    return (struct pikv_key *)(void *)((char *)b->items + i * b->stride);
}

int texts_open(struct batch *b, enum option o, size_t min, size_t max,
               struct texts *t)
{
    PyObject *v = b->o[o];

    *t = (struct texts){.option = o, .min = min, .max = max};
    if (!option_given(b, o))
        return 0;
    if (PyBytes_Check(v) || PyUnicode_Check(v))
        return bytes_of(v, o, -1, min, max, &t->all);
    t->tuple = option_tuple(b, o);
    if (!t->tuple)
        return -1;
    if (PyTuple_Size(t->tuple) != (Py_ssize_t)b->n)
        return refuse(PyExc_ValueError, o, -1, "%zd entries for %u keys",
                      PyTuple_Size(t->tuple), b->n);
    return 0;
}

int texts_at(const struct texts *t, uint32_t i, struct pikv_bytes *out)
{
    PyObject *v;

    *out = t->all;
    if (!t->tuple)
        return 0;
    v = PyTuple_GetItem(t->tuple, (Py_ssize_t)i);
    if (v == Py_None)
        return 0;
    return bytes_of(v, t->option, (Py_ssize_t)i, t->min, t->max, out);
}

int keys_count(struct batch *b)
{
    Py_ssize_t n = option_given(b, O_keys) ? PyTuple_Size(b->o[O_keys]) : 0;

    if (n > ITEMS_MAX)
        return refuse(PyExc_ValueError, O_keys, -1, "%zd keys; at most %d", n,
                      ITEMS_MAX);
    if (n == 0 && b->op != OP_EVICT)
        return refuse(PyExc_ValueError, O_keys, -1, "none; give at least one");
    b->n = (uint32_t)n;
    return 0;
}

static int key_options(struct batch *b, struct texts *route,
                       struct texts *scope, struct column *group,
                       struct column *cls)
{
    enum option r = option_given(b, O_routes) ? O_routes : O_route;

    if (option_given(b, O_routes) && option_given(b, O_route))
        return refuse(PyExc_ValueError, O_routes, -1,
                      "route is given as well; route is for all keys, routes "
                      "one for each");
    if (texts_open(b, r, 0, ROUTE_MAX, route) ||
        texts_open(b, O_scope, SCOPE_BYTES, SCOPE_BYTES, scope) ||
        column_open(b, O_group, 15, group) || column_open(b, O_cls, 2, cls))
        return -1;
    return 0;
}

int keys_fill(struct batch *b)
{
    struct texts route, scope;
    struct column group, cls;

    if (key_options(b, &route, &scope, &group, &cls))
        return -1;
    for (uint32_t i = 0; i < b->n; i++) {
        struct pikv_key *k = item_key(b, i);
        struct pikv_bytes s = {NULL, 0};
        uint64_t g = 0, c = 0;

        if (bytes_of(PyTuple_GetItem(b->o[O_keys], (Py_ssize_t)i), O_keys,
                     (Py_ssize_t)i, 1, KEY_MAX, &k->key) ||
            texts_at(&route, i, &k->route) || texts_at(&scope, i, &s) ||
            column_at(&group, i, &g) || column_at(&cls, i, &c))
            return -1;
        k->scope = s.p;
        k->group = (uint16_t)g;
        k->cls = (uint8_t)c;
    }
    return 0;
}

/* EVICT of a scope: one key that only carries it. */
int keys_scope(struct batch *b)
{
    struct texts scope;
    struct pikv_bytes s;

    if (!option_given(b, O_scope))
        return refuse(PyExc_ValueError, O_scope, -1,
                      "select=\"scope\" needs 16 bytes");
    if (texts_open(b, O_scope, SCOPE_BYTES, SCOPE_BYTES, &scope) ||
        texts_at(&scope, 0, &s))
        return -1;
    item_key(b, 0)->scope = s.p;
    return 0;
}
