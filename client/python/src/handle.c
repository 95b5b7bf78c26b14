/* SPDX-License-Identifier: Apache-2.0
 *
 * Handle: one struct pikv as a Python object, base of pikv.Client.
 *
 *     NEW --__init__--> OPEN --close, collected--> CLOSED
 *                        |
 *                        +-- fork: in the child all calls raise Forked; close
 *                            gives back what is Python's and no more
 *
 * close() ends first what is said to end before the handle: subscriptions, then
 * waits for other threads that are inside libpikv, at most their deadlines. */
#include <string.h>
#include <unistd.h>

#include "client/python/src/pikvpy.h"

enum { DRAIN_N = 64, CLOSE_NAP_US = 200 };

bool handle_forked(const struct handle *h)
{
    return pikv_event_fd(h->kv) == PIKV_FORKED;
}

/* The handles that this thread is inside of: what a call runs of Python's, such
 * as data_ptr() of a tensor or a finalizer, may try to close one. */
enum { WITHIN_MAX = 16 };
static __thread const struct handle *within[WITHIN_MAX];
static __thread uint32_t within_n;

static bool handle_within(const struct handle *h)
{
    for (uint32_t i = 0; i < within_n && i < WITHIN_MAX; i++)
        if (within[i] == h)
            return true;
    return false;
}

void handle_count(struct handle *h)
{
    if (within_n < WITHIN_MAX)
        within[within_n] = h;
    within_n++;
    h->users++;
}

struct pikv *handle_enter(struct handle *h)
{
    if (!h->kv || h->closing) {
        raise_code(h->st, PIKV_CLOSED, NULL, NULL);
        return NULL;
    }
    handle_count(h);
    return h->kv;
}

void handle_leave(struct handle *h)
{
    within_n--;
    h->users--;
}

/* ---- open ---- */

static PyObject *handle_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct state *st = state_of(type);
    struct handle *h = st ? (struct handle *)alloc(type, 0) : NULL;

    (void)args;
    (void)kw;
    if (h)
        h->st = st;
    return (PyObject *)h;
}

/* _open(address, engine, model, dp, tp, pp, connect_ms, inflight, staging,
 * hedge) */
static PyObject *handle_open(PyObject *self, PyObject *args)
{
    struct handle *h = (struct handle *)self;
    struct pikv_options o = {.address = NULL};
    struct pikv *kv = NULL;
    uint32_t hedge = 0;
    int e;
    PyThreadState *gil;

    if (!PyArg_ParseTuple(args, "zzzO&O&O&O&O&O&O&", &o.address, &o.engine,
                          &o.model, as_u32, &o.dp_rank, as_u32, &o.tp_rank,
                          as_u32, &o.pp_rank, as_u32, &o.connect_ms, as_u32,
                          &o.inflight_max, as_u64, &o.staging_bytes, as_u32,
                          &hedge))
        return NULL;
    o.hedge = (enum pikv_hedge)hedge;
    if (h->kv) {
        PyErr_SetString(PyExc_RuntimeError, "the client is open already");
        return NULL;
    }
    gil = PyEval_SaveThread();
    e = pikv_open(&o, &kv);
    PyEval_RestoreThread(gil);
    if (e)
        return raise_code(h->st, e, pikv_last_error(), NULL);
    h->kv = kv;
    h->closing = false;
    Py_RETURN_NONE;
}

/* ---- close ---- */

/* A thread that is inside then never comes back: it may not have the GIL. */
static bool interpreter_ends(void)
{
    PyObject *ask = PySys_GetObject("is_finalizing");
    PyObject *answer = ask ? PyObject_CallNoArgs(ask) : NULL;
    bool ends = !answer || PyObject_IsTrue(answer) != 0;

    Py_XDECREF(answer);
    PyErr_Clear();
    return ends;
}

/* Until nobody is inside and no subscription is open: both may go on while
 * this thread sleeps. false: that will not be. */
static bool handle_quiet(struct handle *h)
{
    bool forked = handle_forked(h);
    PyThreadState *gil;

    while (h->events || (h->users > 0 && !forked)) {
        if (h->events && (h->users == 0 || forked)) {
            events_shut(h->events);
            continue;
        }
        if (interpreter_ends())
            return false;
        gil = PyEval_SaveThread();
        (void)usleep(CLOSE_NAP_US);
        PyEval_RestoreThread(gil);
    }
    return true;
}

static void handle_close_now(struct handle *h)
{
    struct pikv *kv = h->kv;
    PyThreadState *gil;

    if (!kv || h->closing)
        return;
    h->closing = true;
    if (!handle_quiet(h))
        return; /* the end of the process closes it */
    gil = PyEval_SaveThread();
    pikv_close(kv);
    PyEval_RestoreThread(gil);
    h->kv = NULL;
    flight_free_all(h);
}

static PyObject *handle_close(PyObject *self, PyObject *unused)
{
    struct handle *h = (struct handle *)self;

    (void)unused;
    if (h->loan_views) {
        PyErr_Format(PyExc_BufferError,
                     "%u loans are still viewed; release the views first",
                     h->loan_views);
        return NULL;
    }
    if (h->kv && !h->closing && handle_within(h)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "close() from within a call of this client");
        return NULL;
    }
    handle_close_now(h);
    Py_RETURN_NONE;
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct handle *h = (struct handle *)self;

    Py_VISIT(Py_TYPE(self));
    for (uint32_t i = 0; i < h->flight_cap; i++)
        if (h->flights[i])
            Py_VISIT(h->flights[i]->tag);
    return 0;
}

/* Buffers stay: libpikv uses them until the close. */
static int handle_clear(PyObject *self)
{
    struct handle *h = (struct handle *)self;

    for (uint32_t i = 0; i < h->flight_cap; i++)
        if (h->flights[i])
            Py_CLEAR(h->flights[i]->tag);
    return 0;
}

static void handle_dealloc(PyObject *self)
{
    struct handle *h = (struct handle *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyObject *kind, *value, *trace;

    PyObject_GC_UnTrack(self);
    PyErr_Fetch(&kind, &value, &trace);
    handle_close_now(h);
    PyErr_Restore(kind, value, trace);
    PyMem_Free(h->flights);
    PyMem_Free(h->free_slots);
    release(self);
    Py_DECREF(type);
}

/* ---- completions ---- */

static int completions_append(struct handle *h, PyObject *list,
                              const struct pikv_completion *c, int n)
{
    int e = 0;

    /* One that cannot be told is given back all the same. */
    for (int i = 0; i < n; i++) {
        PyObject *o = flight_take(h, &c[i]);

        if (o && !e)
            e = PyList_Append(list, o);
        else if (!o && PyErr_Occurred())
            e = -1;
        Py_XDECREF(o);
    }
    return e;
}

static PyObject *completions(struct handle *h, bool poll)
{
    struct pikv_completion c[DRAIN_N];
    struct pikv *kv = handle_enter(h);
    PyObject *list = kv ? PyList_New(0) : NULL;
    int n = DRAIN_N, e = 0;
    PyThreadState *gil;

    if (!kv)
        return NULL;
    while (list && !e && n == DRAIN_N) {
        if (poll) {
            gil = PyEval_SaveThread();
            n = pikv_poll(kv, c, DRAIN_N);
            PyEval_RestoreThread(gil);
            poll = false;
        } else {
            n = pikv_drain(kv, c, DRAIN_N);
        }
        if (n < 0)
            raise_code(h->st, n, NULL, NULL);
        e = n < 0 ? -1 : completions_append(h, list, c, n);
    }
    handle_leave(h);
    if (e)
        Py_CLEAR(list);
    return list;
}

static PyObject *handle_drain(PyObject *self, PyObject *unused)
{
    (void)unused;
    return completions((struct handle *)self, false);
}

static PyObject *handle_poll(PyObject *self, PyObject *unused)
{
    (void)unused;
    return completions((struct handle *)self, true);
}

static PyObject *handle_wait(PyObject *self, PyObject *arg)
{
    struct handle *h = (struct handle *)self;
    struct pikv_completion c = {.id = 0};
    unsigned long long id = PyLong_AsUnsignedLongLong(arg);
    struct pikv *kv;
    PyObject *out = NULL;
    int e;
    PyThreadState *gil;

    if (id == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    kv = handle_enter(h);
    if (!kv)
        return NULL;
    gil = PyEval_SaveThread();
    e = pikv_wait(kv, id, &c);
    PyEval_RestoreThread(gil);

    /* c.id tells a call that ended with an error from an error of the wait.
     */
    if (c.id == id)
        out = flight_take(h, &c);
    if (!out && !PyErr_Occurred())
        raise_code(h->st, e ? e : PIKV_BAD_REQUEST,
                   e == PIKV_BAD_REQUEST
                       ? "no such call is in flight: its completion was taken, "
                         "or somebody else waits for it"
                       : NULL,
                   NULL);
    handle_leave(h);
    return out;
}

static PyObject *handle_fileno(PyObject *self, PyObject *unused)
{
    struct handle *h = (struct handle *)self;
    struct pikv *kv = handle_enter(h);
    int fd;

    (void)unused;
    if (!kv)
        return NULL;
    fd = pikv_event_fd(kv);
    handle_leave(h);
    return fd < 0 ? raise_code(h->st, fd, NULL, NULL) : PyLong_FromLong(fd);
}

static PyObject *handle_closed(PyObject *self, void *unused)
{
    const struct handle *h = (struct handle *)self;

    (void)unused;
    return PyBool_FromLong(!h->kv || h->closing);
}

static PyObject *handle_inflight(PyObject *self, void *unused)
{
    const struct handle *h = (struct handle *)self;

    (void)unused;
    return PyLong_FromUnsignedLong(h->flight_cap - h->free_n);
}

static PyMethodDef methods[] = {
    {"_open", handle_open, METH_VARARGS, NULL},
    {"_open_namespace", handle_open_namespace, METH_VARARGS, NULL},
    {"_alloc", handle_alloc, METH_VARARGS, NULL},
    {"_register", handle_register, METH_VARARGS, NULL},
    {"_layout", handle_layout, METH_VARARGS, NULL},
    {"_layout_free", handle_layout_free, METH_VARARGS, NULL},
    {"_stats", handle_stats, METH_NOARGS, NULL},
    {"info", handle_info, METH_NOARGS,
     "info() -> Info(server, transport, lanes, batch_keys_max, "
     "block_bytes_max, pin_ttl_ms_max, boot, nodes, epoch)"},
    {"nodes", handle_nodes, METH_NOARGS,
     "nodes() -> list of dict: name, state, transport, index, lanes, "
     "lanes_up, slots, broken. Empty: the server is no cluster."},
    {"close", handle_close, METH_NOARGS,
     "Ends the connection. Calls in flight are given up, their buffers are "
     "let go; waits for other threads' calls. Any number of times."},
    {"drain", handle_drain, METH_NOARGS,
     "drain() -> list of Completion: all that are ready. Never blocks."},
    {"poll", handle_poll, METH_NOARGS,
     "poll() -> list of Completion. Moves bytes in this thread first: for "
     "loops that spin."},
    {"wait", handle_wait, METH_O,
     "wait(id) -> Completion of that call; blocks until it is there, at most "
     "until its deadline."},
    {"fileno", handle_fileno, METH_NOARGS,
     "An eventfd, readable while completions wait. Do not read or close it."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"closed", handle_closed, NULL, "True after close().", NULL},
    {"inflight", handle_inflight, NULL,
     "Calls submitted whose completion was not taken yet.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"The connection to a pikvd."},
    {Py_tp_new, (void *)handle_new},
    {Py_tp_dealloc, (void *)handle_dealloc},
    {Py_tp_traverse, (void *)handle_traverse},
    {Py_tp_clear, (void *)handle_clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

PyType_Spec handle_spec = {
    .name = "pikv._pikv.Handle",
    .basicsize = sizeof(struct handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
