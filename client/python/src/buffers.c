/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the bytes of an item are. What Python may give:
 *
 *     buffer protocol     bytes, bytearray, memoryview, numpy, mmap, Memory:
 *                         contiguous, writable where it is a target
 *     (address, nbytes)   a tuple of two ints: the caller keeps it valid
 *     data_ptr(), nbytes  a torch tensor on the CPU, contiguous; a reference
 *                         to it is held
 *     [any of these ...]  a list: gathered or scattered in this order
 *
 * All are held by the flight until its completion is taken. */
#include "client/python/src/pikvpy.h"

enum { IOV_MAX_ITEM = 1 << 16 };

int bytes_of(PyObject *v, enum option o, Py_ssize_t i, size_t min, size_t max,
             struct pikv_bytes *out)
{
    char name[TYPE_NAME];
    char *data = NULL;
    const char *text;
    Py_ssize_t n = 0;

    if (PyBytes_Check(v)) {
        if (PyBytes_AsStringAndSize(v, &data, &n))
            return -1;
        text = data;
    } else if (PyUnicode_Check(v)) {
        text = PyUnicode_AsUTF8AndSize(v, &n);
        if (!text)
            return refuse(PyExc_ValueError, o, i, "a str that is not UTF-8");
    } else {
        return refuse(PyExc_TypeError, o, i, "want bytes or str, not %s",
                      type_name(v, name, sizeof(name)));
    }
    if ((size_t)n < min || (size_t)n > max)
        return refuse(PyExc_ValueError, o, i,
                      min == max ? "%zd bytes; want %zu"
                                 : "%zd bytes; want %zu to %zu",
                      n, min, max);
    *out = (struct pikv_bytes){text, (size_t)n};
    return 0;
}

/* ---- one object ---- */

static int buffer_view(PyObject *v, enum option o, Py_ssize_t i, bool writable,
                       struct hold *hold, struct pikv_buf *out)
{
    char name[TYPE_NAME];
    Py_buffer *view = &hold->view;

    if (PyObject_GetBuffer(v, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE)) {
        type_name(v, name, sizeof(name));
        /* Read-only or in pieces? Without the wish to write it tells. */
        PyErr_Clear();
        if (writable && PyObject_GetBuffer(v, view, PyBUF_SIMPLE) == 0) {
            PyBuffer_Release(view);
            return refuse(PyExc_ValueError, o, i,
                          "a read-only %s; bytes are to be written into it: "
                          "give a bytearray, pikv.Memory or a writable array",
                          name);
        }
        return refuse(PyExc_ValueError, o, i,
                      "a %s that is not C-contiguous (or refuses its buffer); "
                      "give a contiguous copy, or a list of contiguous parts",
                      name);
    }
    *out = (struct pikv_buf){view->buf, (size_t)view->len};
    return 0;
}

static int buffer_address(PyObject *v, enum option o, Py_ssize_t i,
                          struct pikv_buf *out)
{
    uint64_t address = 0, n = 0;

    if (PyTuple_Size(v) != 2)
        return refuse(PyExc_TypeError, o, i,
                      "a tuple is (address, nbytes); for several parts give a "
                      "list");
    if (uint_of(PyTuple_GetItem(v, 0), o, i, UINTPTR_MAX, &address) ||
        uint_of(PyTuple_GetItem(v, 1), o, i, SSIZE_MAX, &n))
        return -1;
    if (!address && n)
        return refuse(PyExc_ValueError, o, i, "address 0");
    *out = (struct pikv_buf){(void *)(uintptr_t)address, (size_t)n};
    return 0;
}

/* An attribute, called if it can be, as an int. 0: none. */
static int tensor_ask(PyObject *v, const char *name, bool call, PyObject **out)
{
    PyObject *a = PyObject_GetAttrString(v, name), *r = a;

    *out = NULL;
    if (!a) {
        PyErr_Clear();
        return 0;
    }
    if (call) {
        r = PyObject_CallNoArgs(a);
        Py_DECREF(a);
    }
    *out = r;
    return r ? 1 : -1;
}

/* false where the object says so; true where it says nothing. */
static int tensor_is(PyObject *v, const char *name, bool call, bool *out)
{
    PyObject *r;
    int e = tensor_ask(v, name, call, &r), truth = 1;

    if (e > 0) {
        truth = PyObject_IsTrue(r);
        Py_DECREF(r);
    }
    *out = truth > 0;
    return e < 0 || truth < 0 ? -1 : 0;
}

static int tensor_uint(PyObject *v, const char *name, bool call, enum option o,
                       Py_ssize_t i, uint64_t *out)
{
    PyObject *r;
    int e = tensor_ask(v, name, call, &r);

    if (e == 0)
        return refuse(PyExc_TypeError, o, i, "data_ptr() but no %s", name);
    if (e > 0) {
        e = uint_of(r, o, i, SSIZE_MAX, out);
        Py_DECREF(r);
    }
    return e;
}

static int buffer_tensor(PyObject *v, enum option o, Py_ssize_t i,
                         struct hold *hold, struct pikv_buf *out)
{
    bool host, contiguous;
    uint64_t address = 0, n = 0;

    if (tensor_is(v, "is_cpu", false, &host) ||
        tensor_is(v, "is_contiguous", true, &contiguous))
        return -1;
    if (!host)
        return refuse(PyExc_ValueError, o, i,
                      "a tensor that is not in host memory; copy it to the "
                      "CPU first");
    if (!contiguous)
        return refuse(PyExc_ValueError, o, i,
                      "a tensor that is not contiguous; give .contiguous(), or "
                      "a list of contiguous parts");
    if (tensor_uint(v, "data_ptr", true, o, i, &address) ||
        tensor_uint(v, "nbytes", false, o, i, &n))
        return -1;
    Py_INCREF(v);
    hold->ref = v;
    *out = (struct pikv_buf){(void *)(uintptr_t)address, (size_t)n};
    return 0;
}

int buffer_open(PyObject *v, enum option o, Py_ssize_t i, bool writable,
                struct hold *hold, struct pikv_buf *out)
{
    char name[TYPE_NAME];

    *hold = (struct hold){.ref = NULL};
    if (PyObject_CheckBuffer(v))
        return buffer_view(v, o, i, writable, hold, out);
    if (PyTuple_Check(v))
        return buffer_address(v, o, i, out);
    if (PyObject_HasAttrString(v, "data_ptr"))
        return buffer_tensor(v, o, i, hold, out);
    return refuse(PyExc_TypeError, o, i,
                  "want a buffer, (address, nbytes), a CPU tensor, or a list "
                  "of these; not %s",
                  type_name(v, name, sizeof(name)));
}

/* ---- of a call ---- */

bool buffer_room(struct batch *b, uint32_t more)
{
    uint32_t cap = b->iov_cap ? b->iov_cap : 16;
    struct pikv_buf *iov;

    if (more <= b->iov_cap - b->iov_n)
        return true;
    while (cap - b->iov_n < more)
        cap *= 2;
    iov = PyMem_Realloc(b->iov, cap * sizeof(*iov));
    if (!iov) {
        (void)PyErr_NoMemory();
        return false;
    }
    b->iov = iov;
    b->iov_cap = cap;
    return true;
}

static int buffer_hold(struct batch *b, PyObject *v, enum option o,
                       Py_ssize_t i, bool writable, struct pikv_buf *out)
{
    struct flight *f = b->flight;
    struct hold hold;

    if (!flight_reserve(f, 1) || buffer_open(v, o, i, writable, &hold, out))
        return -1;
    if (hold.view.obj || hold.ref)
        f->holds[f->hold_n++] = hold;
    b->bytes += out->len;
    return 0;
}

static int buffer_list(struct batch *b, PyObject *v, enum option o,
                       Py_ssize_t i, bool writable, uint32_t *n_out,
                       uint32_t *first_out)
{
    PyObject *t = PySequence_Tuple(v);
    Py_ssize_t n = t ? PyTuple_Size(t) : 0;
    int e = t ? 0 : -1;

    if (!e && (n == 0 || n > IOV_MAX_ITEM))
        e = refuse(PyExc_ValueError, o, i, "a list of %zd parts; want 1 to %d",
                   n, IOV_MAX_ITEM);
    if (!e && !buffer_room(b, (uint32_t)n))
        e = -1;
    *first_out = b->iov_n;
    *n_out = (uint32_t)n;
    for (Py_ssize_t k = 0; k < n && !e; k++)
        e = buffer_hold(b, PyTuple_GetItem(t, k), o, i, writable,
                        &b->iov[b->iov_n + (uint32_t)k]);
    b->iov_n += e ? 0 : (uint32_t)n;
    Py_XDECREF(t);
    return e;
}

/* The bytes of v: one run, or a list in b->iov from iov_first_out on. */
int buffer_take(struct batch *b, PyObject *v, enum option o, Py_ssize_t i,
                bool writable, struct pikv_buf *out, uint32_t *iov_n_out,
                uint32_t *iov_first_out)
{
    *iov_n_out = 0;
    if (PyList_Check(v))
        return buffer_list(b, v, o, i, writable, iov_n_out, iov_first_out);
    return buffer_hold(b, v, o, i, writable, out);
}
