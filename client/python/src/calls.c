/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls: the operations on one namespace, base of pikv.Namespace. Every
 * operation has two doors, op() and submit_op(), and one way:
 *
 *     options -> items -> flight -> libpikv -> (wait) -> answer
 *
 * A waiting call of put or get uses libpikv's own; the others submit and wait,
 * and a drain() of another thread may find their completion first: then it is
 * in the flight (sync, taken) once the GIL is back. */
#include <string.h>
#include <unistd.h>

#include "client/python/src/pikvpy.h"

enum { TAKEN_NAP_US = 20 };

static void batch_fini(struct batch *b)
{
    for (uint32_t i = 0; i < b->ref_n; i++)
        Py_DECREF(b->refs[i]);
    PyMem_Free(b->items);
    PyMem_Free(b->crcs);
    PyMem_Free(b->iov);
    PyMem_Free(b->columns);
}

/* ---- to libpikv ---- */

static int send_keys(struct pikv *kv, uint32_t ns, const struct batch *b,
                     struct pikv_result *r, uint64_t *id)
{
    const struct pikv_key *k = b->items;

    switch (b->op) {
    case OP_LOOKUP:
    case OP_EXISTS:
        return pikv_lookup(kv, ns, k, b->positions, b->columns, b->cols,
                           b->stops, &b->call, r, id);
    case OP_EVICT:
        return pikv_evict(kv, ns, b->select, k, b->n, b->label, &b->call, r,
                          id);
    case OP_PIN:
        return pikv_pin(kv, ns, k, b->n, &b->call, r, id);
    case OP_UNPIN:
        return pikv_unpin(kv, ns, k, b->n, &b->call, r, id);
    case OP_TOUCH:
        return pikv_touch(kv, ns, k, b->n, &b->call, r, id);
    case OP_PREFETCH:
        return pikv_prefetch(kv, ns, k, b->n, b->cap_mib, &b->call, r, id);
    case OP_PUT:
    case OP_GET:
    case OP_BEGIN:
    case OP_WRITE:
    case OP_COMMIT:
    case OP_ABORT:
    case OP_KINDS:
        break;
    }
    return PIKV_INTERNAL;
}

static int send(struct pikv *kv, uint32_t ns, const struct batch *b,
                struct pikv_result *r, uint64_t *id)
{
    switch (b->op) {
    case OP_PUT:
        return pikv_put(kv, ns, b->items, b->n, &b->call, r, id);
    case OP_GET:
        return pikv_get(kv, ns, b->items, b->n, &b->call, r, id);
    case OP_BEGIN:
        return pikv_put_begin(kv, ns, b->items, b->n, &b->call, r, id);
    case OP_WRITE:
        return pikv_put_write(kv, ns, b->items, b->n, &b->call, r, id);
    case OP_COMMIT:
        return pikv_put_commit(kv, ns, b->items, b->n, &b->call, r, id);
    case OP_ABORT:
        return pikv_put_abort(kv, ns, b->items, b->n, &b->call, r, id);
    case OP_LOOKUP:
    case OP_EXISTS:
    case OP_EVICT:
    case OP_PIN:
    case OP_UNPIN:
    case OP_TOUCH:
    case OP_PREFETCH:
    case OP_KINDS:
        break;
    }
    return send_keys(kv, ns, b, r, id);
}

/* Submit, and nothing more; a large copy into staging is made without the GIL,
 * while b keeps everything that is read. */
static int run_submit(struct pikv *kv, uint32_t ns, struct batch *b,
                      uint64_t *id)
{
    struct pikv_result *r = b->flight->results->r;
    int e;
    PyThreadState *gil;

    if (b->bytes <= GIL_BYTES || (b->op != OP_PUT && b->op != OP_WRITE))
        return send(kv, ns, b, r, id);
    gil = PyEval_SaveThread();
    e = send(kv, ns, b, r, id);
    PyEval_RestoreThread(gil);
    return e;
}

/* Submit and wait. A completion that libpikv does not have any more was found
 * by another thread, which is about to say so. */
static int run_wait(struct pikv *kv, uint32_t ns, struct batch *b)
{
    struct flight *f = b->flight;
    struct pikv_result *r = f->results->r;
    struct pikv_completion mine = {.id = 0};
    PyThreadState *gil = PyEval_SaveThread();
    uint64_t id = 0;
    int e;

    if (b->op == OP_PUT)
        e = pikv_put_sync(kv, ns, b->items, b->n, &b->call, r);
    else if (b->op == OP_GET && !b->call.parts)
        e = pikv_get_sync(kv, ns, b->items, b->n, &b->call, r);
    else
        e = send(kv, ns, b, r, &id);
    if (!e && id)
        e = pikv_wait(kv, id, &mine);
    PyEval_RestoreThread(gil);
    if (mine.id == id) {
        f->done = id ? mine : f->done;
        return e;
    }
    while (!f->taken) {
        gil = PyEval_SaveThread();
        (void)usleep(TAKEN_NAP_US);
        PyEval_RestoreThread(gil);
    }
    return f->done.status;
}

/* ---- from Python ---- */

static int batch_flight(struct batch *b, struct handle *h, bool sync)
{
    struct flight *f = flight_new(h, b->op);

    if (!f)
        return -1;
    b->flight = f;
    f->sync = sync;
    b->call.user = flight_user(f);
    if (option_given(b, O_tag)) {
        Py_INCREF(b->o[O_tag]);
        f->tag = b->o[O_tag];
    }
    return 0;
}

static int batch_answers(struct batch *b, struct calls *c)
{
    struct flight *f = b->flight;
    uint64_t cap;

    if (option_uint(b, O_cap_mib, UINT32_MAX, &cap) ||
        option_uint(b, O_label, UINT64_MAX, &b->label))
        return -1;
    b->cap_mib = (uint32_t)cap;
    f->results = results_new(b->st, b->n);
    if (!f->results)
        return -1;
    f->results->ns = c->ns;
    if (f->sync)
        flight_lends(c->handle, f);
    if (b->op != OP_LOOKUP && b->op != OP_EXISTS)
        return 0;
    f->stops =
        PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(b->positions + 7) / 8);
    if (!f->stops)
        return -1;
    b->stops = (uint8_t *)PyBytes_AsString(f->stops);
    memset(b->stops, 0, (b->positions + 7) / 8);
    return 0;
}

static PyObject *answer(struct batch *b)
{
    struct flight *f = b->flight;

    switch (b->op) {
    case OP_LOOKUP:
        return lookup_new(b->st, f->done.prefix, f->results, f->stops);
    case OP_EXISTS:
        return results_hits(f->results);
    case OP_EVICT:
        return PyLong_FromUnsignedLong(f->done.count);
    case OP_PUT:
    case OP_GET:
    case OP_PIN:
    case OP_UNPIN:
    case OP_TOUCH:
    case OP_PREFETCH:
    case OP_BEGIN:
    case OP_WRITE:
    case OP_COMMIT:
    case OP_ABORT:
    case OP_KINDS:
        break;
    }
    Py_INCREF((PyObject *)f->results);
    return (PyObject *)f->results;
}

static PyObject *failed(struct batch *b, int e, bool sync)
{
    char text[160];

    PyOS_snprintf(text, sizeof(text), "%s of %u items", op_name(b->op), b->n);
    return PyErr_Occurred()
               ? NULL
               : raise_code(b->st, e, text, sync ? b->flight->results : NULL);
}

/* A flight that was submitted belongs to the completion from here on; it may
 * be gone already. */
static PyObject *run(struct calls *c, struct pikv *kv, struct batch *b,
                     bool sync)
{
    PyObject *out = NULL;
    uint64_t id = 0;
    int e;

    if (batch_answers(b, c) == 0) {
        e = sync ? run_wait(kv, c->ns, b) : run_submit(kv, c->ns, b, &id);
        if (!e && !sync)
            return PyLong_FromUnsignedLongLong(id);
        if (sync)
            flight_answered(b->flight);
        out = e ? failed(b, e, sync) : answer(b);
    }
    flight_free(c->handle, b->flight);
    return out;
}

static PyObject *calls_run(PyObject *self, enum op op, bool sync,
                           PyObject *const *args, Py_ssize_t n,
                           PyObject *kwnames)
{
    struct calls *c = (struct calls *)self;
    struct handle *h = c->handle;
    struct batch b = {.st = h->st, .op = op};
    struct pikv *kv = handle_enter(h);
    PyObject *out = NULL;

    if (!kv)
        return NULL;
    if (options_take(&b, args, n, kwnames) == 0 && options_call(&b) == 0 &&
        batch_flight(&b, h, sync) == 0) {
        if (items_build(&b) == 0)
            out = run(c, kv, &b, sync);
        else
            flight_free(h, b.flight);
    }
    batch_fini(&b);
    handle_leave(h);
    return out;
}

#define CALL(NAME, name)                                                       \
    static PyObject *wait_##name(PyObject *self, PyObject *const *args,        \
                                 Py_ssize_t n, PyObject *kwnames)              \
    {                                                                          \
        return calls_run(self, OP_##NAME, true, args, n, kwnames);             \
    }                                                                          \
    static PyObject *submit_##name(PyObject *self, PyObject *const *args,      \
                                   Py_ssize_t n, PyObject *kwnames)            \
    {                                                                          \
        return calls_run(self, OP_##NAME, false, args, n, kwnames);            \
    }

CALL(PUT, put)
CALL(GET, get)
CALL(LOOKUP, lookup)
CALL(EXISTS, exists)
CALL(EVICT, evict)
CALL(PIN, pin)
CALL(UNPIN, unpin)
CALL(TOUCH, touch)
CALL(PREFETCH, prefetch)
CALL(BEGIN, begin)
CALL(WRITE, write)
CALL(COMMIT, commit)
CALL(ABORT, abort)

/* ---- the type ---- */

/* Calls(handle, number) */
static PyObject *calls_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct state *st = state_of(type);
    unsigned int ns;
    PyObject *h;
    struct calls *c;

    (void)kw;
    if (!st || !PyArg_ParseTuple(args, "O!I", st->handle, &h, &ns))
        return NULL;
    c = (struct calls *)alloc(type, 0);
    if (c) {
        Py_INCREF(h);
        c->handle = (struct handle *)h;
        c->ns = ns;
    }
    return (PyObject *)c;
}

static int calls_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)((struct calls *)self)->handle);
    return 0;
}

static void calls_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    PyObject_GC_UnTrack(self);
    Py_XDECREF((PyObject *)((struct calls *)self)->handle);
    release(self);
    Py_DECREF(type);
}

#define KEYED ", *, route=None, routes=None, scope=None, group=0, cls=0"
#define ANY ", tag=None, deadline_ms=0, trace=0"
#define ATTRIBUTES                                                             \
    ", parents=None, labels=None, pages=None, token_ends=None, "               \
    "token_ns=None, affinity=0, priority=0, replicas=0, ttl_ms=0, "            \
    "pin_ttl_ms=0, durable=False"
#define WORDS(name, given, doc) name "($self" given ")\n--\n\n" doc
#define FAST METH_FASTCALL | METH_KEYWORDS
#define DOORS(name, given, doc)                                                \
    {#name, METHOD_FAST(wait_##name), FAST, WORDS(#name, given, doc)},         \
    {                                                                          \
        "submit_" #name, METHOD_FAST(submit_##name), FAST,                     \
            WORDS("submit_" #name, given,                                      \
                  "As " #name "(), but returns an id at once; the Completion " \
                  "comes by drain(), poll() or wait(id).")                     \
    }

static PyMethodDef methods[] = {
    DOORS(put, ", keys, values" KEYED ATTRIBUTES ", crc32c=None, layout=0" ANY,
          "Stores values[i] under keys[i]. Results: OK, EXISTS (it is there "
          "already), PENDING, ..."),
    DOORS(get,
          ", keys, buffers" KEYED ", offsets=None, lengths=None, "
          "if_versions=None, verify=False, parts=False, soft_ms=0, loan=False, "
          "layout=0" ANY,
          "Reads block keys[i] into buffers[i]. Results: OK, MISS, TOO_SMALL "
          "(no room for the whole block, and no range given), ..."),
    DOORS(lookup,
          ", keys" KEYED ", cols=1, columns=None, pin_ttl_ms=0, "
          "promote=False" ANY,
          "What of a sequence of keys is there: Lookup(prefix, results, "
          "stops)."),
    DOORS(exists, ", keys" KEYED ANY, "list of bool: is it there?"),
    DOORS(evict,
          ", keys=None" KEYED ", select='keys', label=0, demote=False" ANY,
          "Drops blocks, or with demote moves them to the SSD; how many."),
    DOORS(pin, ", keys" KEYED ", pin_ttl_ms=0" ANY,
          "Keeps blocks for pin_ttl_ms, or until unpin()."),
    DOORS(unpin, ", keys" KEYED ANY, "Ends pin()."),
    DOORS(touch, ", keys" KEYED ANY, "Counts as a use of the blocks."),
    DOORS(prefetch, ", keys" KEYED ", cap_mib=0, soft_ms=0" ANY,
          "Brings blocks from the SSD to memory; answered when begun."),
    DOORS(begin,
          ", keys, lengths" KEYED ATTRIBUTES ", writers=1, open_ms=0" ANY,
          "Opens blocks of lengths[i] bytes for several writes; the tokens "
          "are in the results."),
    DOORS(write,
          ", keys, tokens, offsets, values" KEYED ", crc32c=None, layout=0, "
          "lengths=None" ANY,
          "Writes values[i] at offsets[i] of an open block."),
    DOORS(commit, ", keys, tokens, writer=0" KEYED ANY,
          "This writer has written all of its part."),
    DOORS(abort, ", keys, tokens" KEYED ANY, "Gives open blocks up."),
    {"_explain", calls_explain, METH_VARARGS, NULL},
    {"_session", calls_session, METH_VARARGS, NULL},
    {"_bump", calls_bump, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"_client", T_OBJECT, offsetof(struct calls, handle), READONLY, NULL},
    {"_ns", T_UINT, offsetof(struct calls, ns), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"The operations on one namespace."},
    {Py_tp_new, (void *)calls_new},
    {Py_tp_dealloc, (void *)calls_dealloc},
    {Py_tp_traverse, (void *)calls_traverse},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

PyType_Spec calls_spec = {
    .name = "pikv._pikv.Calls",
    .basicsize = sizeof(struct calls),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
