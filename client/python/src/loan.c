/* SPDX-License-Identifier: Apache-2.0
 *
 * Loans: the bytes of a block in the daemon's own memory, read in place.
 *
 *     Results of get(loan=True) --loan(i)--> Loan --memoryview--> bytes
 *                               collected      release(): did they count?
 *
 * A loan that nobody asked for is released with its Results. The bytes stay
 * readable until the handle is closed, which is refused while they are viewed;
 * whether they were the block's says release(). */
#include "client/python/src/pikvpy.h"

struct loan {
    PyObject_HEAD struct handle *handle;
    uint32_t ns;
    struct pikv_result r; /* loan_id 0: released */
    Py_ssize_t views;
};

/* PIKV_OK, PIKV_STALE or why it could not be asked. */
static int loan_end(struct loan *l)
{
    struct handle *h = l->handle;
    int e = PIKV_CLOSED;

    if (l->r.loan && h->kv && !h->closing)
        e = pikv_loan_release(h->kv, l->ns, &l->r);
    l->r.loan = NULL;
    return e;
}

PyObject *results_loan(PyObject *self, PyObject *args)
{
    struct results *r = (struct results *)self;
    PyTypeObject *type = r->st->loan;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct loan *l;
    Py_ssize_t i;

    if (!PyArg_ParseTuple(args, "n:loan", &i))
        return NULL;
    if (i < 0 || i >= r->n) {
        PyErr_SetString(PyExc_IndexError, "no such item");
        return NULL;
    }
    if (!r->handle || !r->r[i].loan || r->r[i].status != PIKV_OK) {
        PyErr_Format(PyExc_ValueError,
                     "item %zd has no loan: a miss, copied, or taken before",
                     i);
        return NULL;
    }
    l = (struct loan *)alloc(type, 0);
    if (l) {
        Py_INCREF((PyObject *)r->handle);
        l->handle = r->handle;
        l->ns = r->ns;
        l->r = r->r[i];
        r->r[i].loan = NULL;
    }
    return (PyObject *)l;
}

void loans_release(struct results *r)
{
    struct handle *h = r->handle;

    for (Py_ssize_t i = 0; i < r->n && h->kv && !h->closing; i++)
        if (r->r[i].loan && r->r[i].status == PIKV_OK)
            (void)pikv_loan_release(h->kv, r->ns, &r->r[i]);
}

static PyObject *loan_release(PyObject *self, PyObject *unused)
{
    struct loan *l = (struct loan *)self;
    int e;

    (void)unused;
    if (l->views) {
        PyErr_SetString(PyExc_BufferError,
                        "the loan is viewed; release the views first");
        return NULL;
    }
    if (!l->r.loan)
        return PyBool_FromLong(0);
    e = loan_end(l);
    if (e && e != PIKV_STALE)
        return raise_code(l->handle->st, e, NULL, NULL);
    return PyBool_FromLong(e == PIKV_OK);
}

static int loan_view(PyObject *self, Py_buffer *view, int flags)
{
    struct loan *l = (struct loan *)self;
    /* Read-only: FillInfo refuses who wants to write. */
    void *at = (void *)(uintptr_t)l->r.loan;

    view->obj = NULL;
    if (!at || !l->handle->kv || l->handle->closing) {
        PyErr_SetString(PyExc_BufferError, "the loan has ended");
        return -1;
    }
    if (PyBuffer_FillInfo(view, self, at, (Py_ssize_t)l->r.len, 1, flags))
        return -1;
    l->views++;
    l->handle->loan_views++;
    return 0;
}

static void loan_unview(PyObject *self, Py_buffer *view)
{
    struct loan *l = (struct loan *)self;

    (void)view;
    l->views--;
    l->handle->loan_views--;
}

static void loan_dealloc(PyObject *self)
{
    struct loan *l = (struct loan *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (l->handle) {
        (void)loan_end(l);
        Py_DECREF((PyObject *)l->handle);
    }
    release(self);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"release", loan_release, METH_NOARGS,
     "release() -> bool. True: what was read before was the block. False: the "
     "daemon took it back meanwhile, forget what was read."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"A block in the daemon's memory: buffer protocol, "
                        "read-only."},
    {Py_tp_dealloc, (void *)loan_dealloc},
    {Py_bf_getbuffer, (void *)loan_view},
    {Py_bf_releasebuffer, (void *)loan_unview},
    {Py_tp_methods, methods},
    {0, NULL},
};

PyType_Spec loan_spec = {
    .name = "pikv.Loan",
    .basicsize = sizeof(struct loan),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};
