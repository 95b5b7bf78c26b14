/* SPDX-License-Identifier: Apache-2.0
 *
 * struct pikv_stats as a dict; metrics.py makes Prometheus text of it. */
#include "client/python/src/pikvpy.h"

static PyObject *op_dict(const struct pikv_op_stats *s)
{
    PyObject *buckets = PyList_New(PIKV_STATS_BUCKETS);

    for (Py_ssize_t i = 0; buckets && i < PIKV_STATS_BUCKETS; i++) {
        PyObject *v = PyLong_FromUnsignedLongLong(s->buckets[i]);

        if (!v || PyList_SetItem(buckets, i, v))
            Py_CLEAR(buckets);
    }
    if (!buckets)
        return NULL;
#define U(field) #field, (unsigned long long)s->field
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:N}",
                         U(calls), U(items), U(bytes), U(hits), U(misses),
                         U(exists), U(timeouts), U(busy), U(down), U(errors),
                         U(sum_us), "buckets", buckets);
#undef U
}

static PyObject *ops_dict(const struct pikv_stats *s)
{
    PyObject *ops = PyDict_New();

    for (int i = 0; ops && i < PIKV_STATS_OPS && s->ops[i].name[0]; i++) {
        PyObject *op = op_dict(&s->ops[i]);

        if (!op || PyDict_SetItemString(ops, s->ops[i].name, op))
            Py_CLEAR(ops);
        Py_XDECREF(op);
    }
    return ops;
}

PyObject *handle_stats(PyObject *self, PyObject *unused)
{
    struct handle *h = (struct handle *)self;
    struct pikv *kv = handle_enter(h);
    struct pikv_stats s;
    PyObject *ops;
    int e;

    (void)unused;
    if (!kv)
        return NULL;
    e = pikv_stats(kv, &s);
    handle_leave(h);
    if (e)
        return raise_code(h->st, e, "stats", NULL);
    ops = ops_dict(&s);
    if (!ops)
        return NULL;
#define U(field) #field, (unsigned long long)s.field
    return Py_BuildValue(
        "{s:N,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K}", "ops", ops,
        U(inflight), U(staging_bytes), U(registered_bytes), U(lanes),
        U(lanes_up), U(reconnects), U(redirects), U(failovers),
        U(copies_failed), U(hedges), U(hedges_won), U(breaker_open));
#undef U
}

static PyObject *node_dict(const struct pikv_node *n)
{
    return Py_BuildValue("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:O}", "name", n->name,
                         "state", n->state, "transport", n->transport, "index",
                         n->index, "lanes", n->lanes, "lanes_up", n->lanes_up,
                         "slots", n->slots, "broken",
                         n->broken ? Py_True : Py_False);
}

PyObject *handle_nodes(PyObject *self, PyObject *unused)
{
    struct handle *h = (struct handle *)self;
    struct pikv *kv = handle_enter(h);
    struct pikv_node *list = NULL;
    PyObject *out = NULL;
    int n, most = 0;

    (void)unused;
    if (!kv)
        return NULL;
    /* Until it has room for all: the view may grow meanwhile. */
    while ((n = pikv_nodes(kv, list, (uint32_t)most)) > most) {
        PyMem_Free(list);
        most = n;
        list = PyMem_Calloc((size_t)most, sizeof(*list));
        if (!list)
            break;
    }
    handle_leave(h);
    if (n < 0)
        raise_code(h->st, n, "nodes", NULL);
    else if (n > 0 && !list)
        PyErr_NoMemory();
    else
        out = PyList_New(n);
    for (int i = 0; out && i < n; i++) {
        PyObject *d = node_dict(&list[i]);

        if (!d || PyList_SetItem(out, i, d))
            Py_CLEAR(out);
    }
    PyMem_Free(list);
    return out;
}
