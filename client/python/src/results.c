/* SPDX-License-Identifier: Apache-2.0
 *
 * What calls answer. Results is the struct pikv_result array that libpikv wrote
 * and makes Python objects only of what is asked for. */
#include <string.h>

#include "client/python/src/pikvpy.h"

enum { STATE_HIT = 2 };

static PyStructSequence_Field result_fields[] = {
    {"status", "0, or the code of pikv.errors"},
    {"state", "lookup: 0 miss, 1 pending, 2 hit"},
    {"tier", "0 dram, 1 ssd, 2 hbm"},
    {"version", NULL},
    {"len", "stored bytes of the whole block"},
    {"moved", "bytes delivered"},
    {"crc32c", "of the whole block"},
    {"eta_us", "expected time to read it; 0 now"},
    {"pinned", NULL},
    {"lossy", NULL},
    {"token", "begin: names the open block"},
    {NULL, NULL},
};
PyStructSequence_Desc result_desc = {"pikv.Result", "One item's answer.",
                                     result_fields, 11};

static PyStructSequence_Field completion_fields[] = {
    {"id", "what the submit returned"},
    {"status", "of the whole call: 0, or the code of pikv.errors"},
    {"results", "Results, or None where items have none"},
    {"prefix", "lookup: longest restorable prefix, in positions"},
    {"count", "evict: blocks dropped or demoted; prefetch: begun"},
    {"part", "only item `item` is done; the call's own comes after"},
    {"item", NULL},
    {"data", "the tag given to the submit"},
    {"stops", "lookup: bit p is set if position p can be restored"},
    {NULL, NULL},
};
PyStructSequence_Desc completion_desc = {
    "pikv.Completion", "The end of a submitted call.", completion_fields, 9};

static PyStructSequence_Field lookup_fields[] = {
    {"prefix", "longest restorable prefix, in positions"},
    {"results", "Results, one per key"},
    {"stops", "bit p is set if position p can be restored"},
    {NULL, NULL},
};
PyStructSequence_Desc lookup_desc = {"pikv.Lookup", "What is there.",
                                     lookup_fields, 3};

/* ---- Results ---- */

struct results *results_new(struct state *st, uint32_t n)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(st->results, Py_tp_alloc);
    struct results *r = (struct results *)alloc(st->results, 0);

    if (!r)
        return NULL;
    r->st = st;
    r->r = PyMem_Calloc(n ? n : 1, sizeof(*r->r));
    if (!r->r) {
        Py_DECREF((PyObject *)r);
        (void)PyErr_NoMemory();
        return NULL;
    }
    r->n = (Py_ssize_t)n;
    /* Of a call that was refused no item was done. */
    for (uint32_t i = 0; i < n; i++)
        r->r[i].status = PIKV_CANCELED;
    return r;
}

static void results_dealloc(PyObject *self)
{
    struct results *r = (struct results *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    if (r->handle) {
        loans_release(r);
        Py_DECREF((PyObject *)r->handle);
    }
    PyMem_Free(r->r);
    release(self);
    Py_DECREF(type);
}

static Py_ssize_t results_len(PyObject *self)
{
    return ((struct results *)self)->n;
}

static PyObject *result_field(const struct pikv_result *r, Py_ssize_t f)
{
    switch (f) {
    case 0:
        return PyLong_FromLong(r->status);
    case 1:
        return PyLong_FromLong(r->state);
    case 2:
        return PyLong_FromLong(r->tier);
    case 3:
        return PyLong_FromUnsignedLongLong(r->version);
    case 4:
        return PyLong_FromUnsignedLongLong(r->len);
    case 5:
        return PyLong_FromUnsignedLongLong(r->moved);
    case 6:
        return PyLong_FromUnsignedLong(r->crc32c);
    case 7:
        return PyLong_FromUnsignedLong(r->eta_us);
    case 8:
        return PyBool_FromLong(r->pinned);
    case 9:
        return PyBool_FromLong(r->lossy);
    default:
        return PyLong_FromUnsignedLongLong(r->token);
    }
}

static PyObject *results_item(PyObject *self, Py_ssize_t i)
{
    const struct results *r = (struct results *)self;
    PyObject *out;

    if (i < 0 || i >= r->n) {
        PyErr_SetString(PyExc_IndexError, "no such item");
        return NULL;
    }
    out = PyStructSequence_New(r->st->result);
    for (Py_ssize_t f = 0; out && f < result_desc.n_in_sequence; f++) {
        PyObject *v = result_field(&r->r[i], f);

        if (!v)
            Py_CLEAR(out);
        else
            PyStructSequence_SetItem(out, f, v);
    }
    return out;
}

/* A list of one field, or of a truth about each item. */
enum { LIST_OK = 100, LIST_HITS };

static PyObject *results_list(PyObject *self, void *what)
{
    const struct results *r = (struct results *)self;
    intptr_t f = (intptr_t)what;
    PyObject *list = PyList_New(r->n);

    for (Py_ssize_t i = 0; list && i < r->n; i++) {
        const struct pikv_result *at = &r->r[i];
        PyObject *v = f == LIST_OK     ? PyBool_FromLong(at->status == PIKV_OK)
                      : f == LIST_HITS ? PyBool_FromLong(at->state == STATE_HIT)
                                       : result_field(at, f);

        if (!v || PyList_SetItem(list, i, v))
            Py_CLEAR(list);
    }
    return list;
}

PyObject *results_hits(struct results *r)
{
    return results_list((PyObject *)r, (void *)(intptr_t)LIST_HITS);
}

static PyObject *results_all_ok(PyObject *self, void *unused)
{
    const struct results *r = (struct results *)self;

    (void)unused;
    for (Py_ssize_t i = 0; i < r->n; i++)
        if (r->r[i].status != PIKV_OK)
            Py_RETURN_FALSE;
    Py_RETURN_TRUE;
}

static PyObject *results_raise(PyObject *self, PyObject *unused)
{
    struct results *r = (struct results *)self;
    char text[64];

    (void)unused;
    for (Py_ssize_t i = 0; i < r->n; i++)
        if (r->r[i].status != PIKV_OK) {
            PyOS_snprintf(text, sizeof(text), "item %zd of %zd", i, r->n);
            return raise_code(r->st, r->r[i].status, text, r);
        }
    Py_RETURN_NONE;
}

static PyObject *results_repr(PyObject *self)
{
    const struct results *r = (struct results *)self;
    Py_ssize_t ok = 0;
    int first = 0;

    for (Py_ssize_t i = 0; i < r->n; i++) {
        ok += r->r[i].status == PIKV_OK;
        first = first ? first : r->r[i].status;
    }
    return PyUnicode_FromFormat("<pikv.Results of %zd, %zd ok%s%s>", r->n, ok,
                                first ? ", first other " : "",
                                first ? pikv_error_name(first) : "");
}

#define LIST(name, what, doc)                                                  \
    {                                                                          \
        name, results_list, NULL, doc, (void *)(intptr_t)(what)                \
    }

static PyGetSetDef results_getset[] = {
    LIST("statuses", 0, "list of int: 0, or the code of pikv.errors"),
    LIST("states", 1, "list of int: lookup: 0 miss, 1 pending, 2 hit"),
    LIST("tiers", 2, "list of int: 0 dram, 1 ssd, 2 hbm"),
    LIST("versions", 3, "list of int"),
    LIST("lengths", 4, "list of int: stored bytes of the whole blocks"),
    LIST("moved", 5, "list of int: bytes delivered"),
    LIST("etas_us", 7, "list of int: expected time to read each; 0 now"),
    LIST("tokens", 10, "list of int: begin: the open blocks"),
    LIST("ok", LIST_OK, "list of bool: status is 0"),
    LIST("hits", LIST_HITS, "list of bool: lookup: state is 2"),
    {"all_ok", results_all_ok, NULL, "True if every status is 0", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef results_methods[] = {
    {"raise_for_status", results_raise, METH_NOARGS,
     "Raises the error of the first item that has one."},
    {"loan", results_loan, METH_VARARGS,
     "loan(i) -> Loan: the bytes of item i of a get(loan=True)."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"The answers of a call, one Result per item."},
    {Py_tp_dealloc, (void *)results_dealloc},
    {Py_tp_repr, (void *)results_repr},
    {Py_sq_length, (void *)results_len},
    {Py_sq_item, (void *)results_item},
    {Py_tp_methods, results_methods},
    {Py_tp_getset, results_getset},
    {0, NULL},
};

PyType_Spec results_spec = {
    .name = "pikv.Results",
    .basicsize = sizeof(struct results),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

/* ---- Completion, Lookup ---- */

static PyObject *or_none(PyObject *o)
{
    o = o ? o : Py_None;
    Py_INCREF(o);
    return o;
}

/* Takes the references in v; all or nothing. */
static PyObject *seq_of(PyTypeObject *type, PyObject **v, Py_ssize_t n)
{
    PyObject *out = PyStructSequence_New(type);
    bool whole = out != NULL;

    for (Py_ssize_t i = 0; i < n; i++)
        whole &= v[i] != NULL;
    for (Py_ssize_t i = 0; i < n; i++)
        if (whole)
            PyStructSequence_SetItem(out, i, v[i]);
        else
            Py_XDECREF(v[i]);
    if (!whole)
        Py_CLEAR(out);
    return out;
}

PyObject *completion_new(struct state *st, const struct flight *f,
                         const struct pikv_completion *c)
{
    PyObject *v[] = {
        PyLong_FromUnsignedLongLong(c->id),
        PyLong_FromLong(c->status),
        or_none((PyObject *)f->results),
        PyLong_FromUnsignedLong(c->prefix),
        PyLong_FromUnsignedLong(c->count),
        PyBool_FromLong(c->part),
        PyLong_FromUnsignedLong(c->item),
        or_none(f->tag),
        or_none(f->stops),
    };

    return seq_of(st->completion, v, completion_desc.n_in_sequence);
}

PyObject *lookup_new(struct state *st, uint32_t prefix, struct results *r,
                     PyObject *stops)
{
    PyObject *v[] = {PyLong_FromUnsignedLong(prefix), or_none((PyObject *)r),
                     or_none(stops)};

    return seq_of(st->lookup, v, lookup_desc.n_in_sequence);
}
