/* SPDX-License-Identifier: Apache-2.0
 *
 * Namespaces and questions that wait for one answer: open, info, explain,
 * session, bump. The package names the arguments; here they come in order. */
#include "client/python/src/pikvpy.h"

enum { GROUPS = 16 };

static PyStructSequence_Field info_fields[] = {
    {"server", "\"pikvd 0.1.0\""},
    {"transport", "\"shm\" or \"ucx\""},
    {"lanes", NULL},
    {"batch_keys_max", "items per call and lane"},
    {"block_bytes_max", NULL},
    {"pin_ttl_ms_max", NULL},
    {"boot", "random id of the daemon's run"},
    {"nodes", "of the cluster; 0: there is no view"},
    {"epoch", "of the view"},
    {NULL, NULL},
};
PyStructSequence_Desc info_desc = {"pikv.Info", "What the server is.",
                                   info_fields, 9};

static PyStructSequence_Field explanation_fields[] = {
    {"reason", "here, never_seen, evicted, not_admitted, late, expired, "
               "dropped, corrupt, or a newer word"},
    {"tier", "of here: \"dram\" or \"ssd\""},
    {"when_ms", "stored, or gone, so long ago; 0 not known"},
    {"eta_us", "of here: expected time to read it"},
    {"advice", "one sentence for a person"},
    {NULL, NULL},
};
PyStructSequence_Desc explanation_desc = {"pikv.Explanation",
                                          "Why a key is, or is not, there.",
                                          explanation_fields, 5};

/* Fills a struct sequence from a tuple; takes the reference. */
static PyObject *seq_from(PyTypeObject *type, PyObject *tuple)
{
    PyObject *out =
        tuple ? PyObject_CallFunctionObjArgs((PyObject *)type, tuple, NULL)
              : NULL;

    Py_XDECREF(tuple);
    return out;
}

PyObject *handle_info(PyObject *self, PyObject *unused)
{
    struct handle *h = (struct handle *)self;
    struct pikv *kv = handle_enter(h);
    struct pikv_info i;
    int e;

    (void)unused;
    if (!kv)
        return NULL;
    e = pikv_info(kv, &i);
    handle_leave(h);
    if (e)
        return raise_code(h->st, e, NULL, NULL);
    return seq_from(h->st->info,
                    Py_BuildValue("(ssIIKIKIK)", i.server, i.transport, i.lanes,
                                  i.batch_keys_max,
                                  (unsigned long long)i.block_bytes_max,
                                  i.pin_ttl_ms_max, (unsigned long long)i.boot,
                                  i.nodes, (unsigned long long)i.epoch));
}

/* ---- open ---- */

/* Groups: a list of 9-tuples in the order of struct pikv_group. The strings
 * stay valid with the list. */
static int groups_take(PyObject *list, struct pikv_group *g, uint32_t *n_out)
{
    Py_ssize_t n = PyTuple_Size(list);

    if (n < 0)
        return -1;
    if (n > GROUPS) {
        PyErr_Format(PyExc_ValueError, "groups: %zd; at most %d", n, GROUPS);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyArg_ParseTuple(PyTuple_GetItem(list, i),
                              "O&sO&O&O&O&ssO&;groups", as_u32, &g[i].id,
                              &g[i].kind, as_u32, &g[i].layers, as_u32,
                              &g[i].kv_heads, as_u32, &g[i].head_dim, as_u32,
                              &g[i].tokens_per_block, &g[i].dtype, &g[i].order,
                              as_u64, &g[i].block_bytes))
            return -1;
    }
    *n_out = (uint32_t)n;
    return 0;
}

/* _open_namespace(name, create, model, weights_version, tokenizer_hash,
 * hash_seed, dtype, scale_format, parallel_layout, groups, policy, loans,
 * share, ttl_ms, quota_bytes, dram, deadline_us) -> number */
PyObject *handle_open_namespace(PyObject *self, PyObject *args)
{
    struct handle *h = (struct handle *)self;
    struct pikv_group groups[GROUPS] = {{0}};
    struct pikv_namespace d = {.groups = groups};
    struct pikv_call call = {0};
    PyObject *list;
    struct pikv *kv;
    uint32_t ns = 0;
    int create, e;
    PyThreadState *gil;

    if (!PyArg_ParseTuple(args, "spzzzzzzzO!zzO&O&O&zO&", &d.name, &create,
                          &d.model, &d.weights_version, &d.tokenizer_hash,
                          &d.hash_seed, &d.dtype, &d.scale_format,
                          &d.parallel_layout, &PyTuple_Type, &list, &d.policy,
                          &d.loans, as_u32, &d.share, as_u32, &d.ttl_ms, as_u64,
                          &d.quota_bytes, &d.dram, as_u32, &call.deadline_us) ||
        groups_take(list, groups, &d.group_n))
        return NULL;
    d.create = create != 0;
    kv = handle_enter(h);
    if (!kv)
        return NULL;
    gil = PyEval_SaveThread();
    e = pikv_namespace_open(kv, &d, &ns, &call);
    PyEval_RestoreThread(gil);
    handle_leave(h);
    if (e)
        return raise_code(h->st, e, pikv_last_error(), NULL);
    return PyLong_FromUnsignedLong(ns);
}

/* ---- of a namespace ---- */

/* _explain(key, group, scope, deadline_us, route) */
PyObject *calls_explain(PyObject *self, PyObject *args)
{
    struct calls *c = (struct calls *)self;
    struct pikv_call call = {0};
    struct pikv_explanation x;
    struct pikv_key k = {.cls = 0};
    struct pikv_bytes scope = {NULL, 0};
    PyObject *key, *salt, *route;
    uint64_t group;
    PyObject *number;
    struct pikv *kv;
    int e;
    PyThreadState *gil;

    if (!PyArg_ParseTuple(args, "OOOO&O", &key, &number, &salt, as_u32,
                          &call.deadline_us, &route) ||
        uint_of(number, O_group, -1, GROUPS - 1, &group) ||
        bytes_of(key, O_keys, -1, 1, KEY_MAX, &k.key) ||
        (route != Py_None &&
         bytes_of(route, O_route, -1, 1, ROUTE_MAX, &k.route)) ||
        (salt != Py_None &&
         bytes_of(salt, O_scope, -1, SCOPE_BYTES, SCOPE_BYTES, &scope)))
        return NULL;
    k.group = (uint16_t)group;
    k.scope = scope.p;
    kv = handle_enter(c->handle);
    if (!kv)
        return NULL;
    gil = PyEval_SaveThread();
    e = pikv_explain(kv, c->ns, &k, &call, &x);
    PyEval_RestoreThread(gil);
    handle_leave(c->handle);
    if (e)
        return raise_code(c->handle->st, e, NULL, NULL);
    return seq_from(c->handle->st->explanation,
                    Py_BuildValue("(ssKIs)", x.reason, x.tier,
                                  (unsigned long long)x.when_ms, x.eta_us,
                                  x.advice));
}

/* _session(session, state) */
PyObject *calls_session(PyObject *self, PyObject *args)
{
    struct calls *c = (struct calls *)self;
    uint64_t session;
    struct pikv *kv;
    int state, e;

    if (!PyArg_ParseTuple(args, "O&i", as_u64, &session, &state))
        return NULL;
    kv = handle_enter(c->handle);
    if (!kv)
        return NULL;
    e = pikv_session(kv, c->ns, session, (enum pikv_session_state)state, NULL);
    handle_leave(c->handle);
    if (e)
        return raise_code(c->handle->st, e, NULL, NULL);
    Py_RETURN_NONE;
}

/* _bump(deadline_us) */
PyObject *calls_bump(PyObject *self, PyObject *args)
{
    struct calls *c = (struct calls *)self;
    struct pikv_call call = {0};
    struct pikv *kv;
    int e;
    PyThreadState *gil;

    if (!PyArg_ParseTuple(args, "O&", as_u32, &call.deadline_us))
        return NULL;
    kv = handle_enter(c->handle);
    if (!kv)
        return NULL;
    gil = PyEval_SaveThread();
    e = pikv_namespace_bump(kv, c->ns, &call);
    PyEval_RestoreThread(gil);
    handle_leave(c->handle);
    if (e)
        return raise_code(c->handle->st, e, NULL, NULL);
    Py_RETURN_NONE;
}
