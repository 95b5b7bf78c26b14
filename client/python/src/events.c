/* SPDX-License-Identifier: Apache-2.0
 *
 * Events: a subscription to a namespace, base of pikv.EventStream. next()
 * waits in slices, so that close() of the client in another thread is not held
 * up for long. One thread at a time is in next(). */
#include "client/python/src/pikvpy.h"

enum { NEXT_MAX = 4096, SLICE_MS = 50 };

static PyStructSequence_Field event_fields[] = {
    {"kind", "\"stored\", \"removed\", \"moved\", \"cleared\" or \"lost\""},
    {"lane", NULL},
    {"seq", "of this lane: 1, 2, 3, ..."},
    {"boot", "the server's run; seq starts anew with another"},
    {"count", "lost: so many events, from seq on"},
    {"key", "bytes; empty if not known"},
    {"parent", "bytes"},
    {"hash", "16 bytes: the server's name of the block"},
    {"group", NULL},
    {"cls", NULL},
    {"tier", "0 dram, 1 ssd, 2 hbm"},
    {"scope", "16 bytes"},
    {"len", NULL},
    {"version", NULL},
    {"page", NULL},
    {"token_end", NULL},
    {"token_n", NULL},
    {"labels", "four ints"},
    {"when_ms", "wall clock, milliseconds since 1970"},
    {"node", "of a cluster: its index in Client.nodes()"},
    {NULL, NULL},
};
PyStructSequence_Desc event_desc = {"pikv.Event", "What happened to a block.",
                                    event_fields, 20};

static const char *kind_word(enum pikv_event_kind kind)
{
    switch (kind) {
    case PIKV_EVENT_STORED:
        return "stored";
    case PIKV_EVENT_REMOVED:
        return "removed";
    case PIKV_EVENT_MOVED:
        return "moved";
    case PIKV_EVENT_CLEARED:
        return "cleared";
    case PIKV_EVENT_LOST:
        return "lost";
    }
    return "unknown";
}

static PyObject *event_new(struct state *st, const struct pikv_event *e)
{
    typedef unsigned long long u64;
    const char *key = e->key.p, *parent = e->parent.p;
    PyObject *t = Py_BuildValue(
        "(sIKKKy#y#y#HBBy#KKIII(KKKK)KI)", kind_word(e->kind), e->lane,
        (u64)e->seq, (u64)e->boot, (u64)e->count, key ? key : "",
        (Py_ssize_t)e->key.len, parent ? parent : "", (Py_ssize_t)e->parent.len,
        (const char *)e->hash, (Py_ssize_t)sizeof(e->hash), e->group, e->cls,
        e->tier, (const char *)e->scope, (Py_ssize_t)sizeof(e->scope),
        (u64)e->len, (u64)e->version, e->page, e->token_end, e->token_n,
        (u64)e->labels[0], (u64)e->labels[1], (u64)e->labels[2],
        (u64)e->labels[3], (u64)e->when_ms, e->node);
    PyObject *out =
        t ? PyObject_CallFunctionObjArgs((PyObject *)st->event, t, NULL) : NULL;

    Py_XDECREF(t);
    return out;
}

/* ---- open, close ---- */

static int from_seq_take(PyObject *from, uint64_t *seq, uint32_t lanes)
{
    if (PyTuple_Size(from) != (Py_ssize_t)lanes) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError,
                     "from_seq: want a list of %u numbers, one per lane",
                     lanes);
        return -1;
    }
    for (uint32_t i = 0; i < lanes; i++) {
        seq[i] = PyLong_AsUnsignedLongLong(PyTuple_GetItem(from, i));
        if (seq[i] == UINT64_MAX && PyErr_Occurred())
            return -1;
    }
    return 0;
}

enum { LANES = 64 };

static int events_begin(struct events *s, struct pikv *kv, uint32_t ns,
                        PyObject *from)
{
    struct handle *h = s->handle;
    uint64_t seq[LANES];
    struct pikv_info info;
    int e = pikv_info(kv, &info);

    if (!e && info.lanes > LANES)
        e = PIKV_UNSUPPORTED;
    if (!e && from != Py_None && from_seq_take(from, seq, info.lanes))
        return -1;
    if (!e)
        e = pikv_events_open(kv, ns, from == Py_None ? NULL : seq, &s->ev);
    if (e) {
        raise_code(h->st, e, "events", NULL);
        return -1;
    }
    s->next = h->events;
    h->events = s;
    return 0;
}

/* Events(namespace, from_seq tuple or None) */
static PyObject *events_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct state *st = state_of(type);
    PyObject *space, *from = Py_None;
    struct events *s;
    struct handle *h;
    struct pikv *kv;

    (void)kw;
    if (!st || !PyArg_ParseTuple(args, "O!|O", st->calls, &space, &from))
        return NULL;
    h = ((struct calls *)space)->handle;
    s = (struct events *)alloc(type, 0);
    if (!s)
        return NULL;
    Py_INCREF((PyObject *)h);
    s->handle = h;
    kv = handle_enter(h);
    if (!kv || events_begin(s, kv, ((struct calls *)space)->ns, from))
        Py_CLEAR(s);
    if (kv)
        handle_leave(h);
    return (PyObject *)s;
}

/* Nobody is in next(). Counted as inside libpikv, so that the handle is not
 * closed meanwhile. In a forked child it is the parent's. */
void events_shut(struct events *s)
{
    struct handle *h = s->handle;
    struct events **at = &h->events;
    struct pikv_events *ev = s->ev;
    PyThreadState *gil;

    while (*at && *at != s)
        at = &(*at)->next;
    if (*at)
        *at = s->next;
    s->ev = NULL;
    if (ev && !handle_forked(h)) {
        handle_count(h);
        gil = PyEval_SaveThread();
        pikv_events_close(ev);
        PyEval_RestoreThread(gil);
        handle_leave(h);
    }
}

static PyObject *events_close(PyObject *self, PyObject *unused)
{
    struct events *s = (struct events *)self;

    (void)unused;
    if (s->busy) {
        PyErr_SetString(PyExc_RuntimeError,
                        "another thread waits in next() of this stream");
        return NULL;
    }
    if (s->ev)
        events_shut(s);
    Py_RETURN_NONE;
}

static void events_dealloc(PyObject *self)
{
    struct events *s = (struct events *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (s->ev)
        events_shut(s);
    Py_XDECREF((PyObject *)s->handle);
    release(self);
    Py_DECREF(type);
}

/* ---- next ---- */

static int events_wait(struct events *s, struct pikv_event *out, int max,
                       uint32_t wait_ms)
{
    struct handle *h = s->handle;
    int n = 0, e;
    PyThreadState *gil;

    for (;;) {
        uint32_t slice = wait_ms < SLICE_MS ? wait_ms : SLICE_MS;

        gil = PyEval_SaveThread();
        n = pikv_events_next(s->ev, out, max, slice);
        PyEval_RestoreThread(gil);
        wait_ms -= slice;
        if (n || !wait_ms || h->closing)
            return n;
        /* A signal's handler may close the client, and with it the stream. */
        handle_leave(h);
        e = PyErr_CheckSignals();
        handle_count(h);
        if (e || !s->ev)
            return n;
    }
}

static PyObject *events_list(struct events *s, const struct pikv_event *e,
                             int n)
{
    PyObject *list = PyList_New(n);

    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *o = event_new(s->handle->st, &e[i]);

        if (!o || PyList_SetItem(list, i, o))
            Py_CLEAR(list);
    }
    return list;
}

/* _next(max, wait_ms) */
static PyObject *events_next(PyObject *self, PyObject *args)
{
    struct events *s = (struct events *)self;
    struct pikv_event *out;
    PyObject *list = NULL;
    uint32_t wait_ms;
    int max, n;

    if (!PyArg_ParseTuple(args, "iO&", &max, as_u32, &wait_ms))
        return NULL;
    if (max < 1 || max > NEXT_MAX) {
        PyErr_Format(PyExc_ValueError, "max: want 1 to %d", NEXT_MAX);
        return NULL;
    }
    if (!s->ev)
        return raise_code(s->handle->st, PIKV_CLOSED, "events", NULL);
    if (s->busy) {
        PyErr_SetString(PyExc_RuntimeError,
                        "another thread waits in next() of this stream");
        return NULL;
    }
    out = PyMem_Calloc((size_t)max, sizeof(*out));
    if (!out)
        return PyErr_NoMemory();
    if (handle_enter(s->handle)) {
        s->busy = true;
        n = events_wait(s, out, max, wait_ms);
        if (n < 0 && !PyErr_Occurred())
            raise_code(s->handle->st, n, "events", NULL);
        list = PyErr_Occurred() ? NULL : events_list(s, out, n);
        s->busy = false;
        handle_leave(s->handle);
    }
    PyMem_Free(out);
    return list;
}

static PyObject *events_closed(PyObject *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(!((struct events *)self)->ev);
}

static PyMethodDef methods[] = {
    {"_next", events_next, METH_VARARGS, NULL},
    {"close", events_close, METH_NOARGS, "Ends the subscription."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"closed", events_closed, NULL, "True after close().", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"A subscription to the events of a namespace."},
    {Py_tp_new, (void *)events_new},
    {Py_tp_dealloc, (void *)events_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

PyType_Spec events_spec = {
    .name = "pikv._pikv.Events",
    .basicsize = sizeof(struct events),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};
