/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that the daemon reads and writes directly.
 *
 *     Memory        a memfd, mapped here and registered. Its mapping belongs to
 *                   this object, not to the handle: views of it stay good when
 *                   the client is closed, and free() is refused while there are
 *                   any, those of calls in flight included
 *     Registration  memory that somebody else mapped, held until unregister()
 *     layouts       block numbers instead of buffers (pikv.h) */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/python/src/pikvpy.h"

enum { PAGE = 4096, RUNS_MAX = 16 };

struct memory {
    PyObject_HEAD struct handle *handle;
    void *addr; /* NULL: freed */
    size_t bytes, mapped;
    int fd;
    Py_ssize_t views;
};

struct registration {
    PyObject_HEAD struct handle *handle; /* NULL: unregistered */
    struct hold hold;
    void *addr;
    size_t bytes;
    bool told; /* this registration is to be taken back */
};

/* ---- Memory ---- */

static int memory_map(struct memory *m)
{
    m->mapped = (m->bytes + PAGE - 1) / PAGE * PAGE;
    m->fd = memfd_create("pikv-python", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (m->fd < 0 || ftruncate(m->fd, (off_t)m->mapped) ||
        fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
        return PIKV_NO_MEMORY;
    m->addr =
        mmap(NULL, m->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    if (m->addr == MAP_FAILED)
        m->addr = NULL;
    return m->addr ? PIKV_OK : PIKV_NO_MEMORY;
}

static void memory_unmap(struct memory *m)
{
    struct pikv *kv = m->handle ? m->handle->kv : NULL;

    if (m->addr && kv && !m->handle->closing)
        (void)pikv_mem_unregister(kv, m->addr);
    if (m->addr)
        (void)munmap(m->addr, m->mapped);
    if (m->fd >= 0)
        (void)close(m->fd);
    m->addr = NULL;
    m->fd = -1;
}

/* _alloc(nbytes) */
PyObject *handle_alloc(PyObject *self, PyObject *args)
{
    struct handle *h = (struct handle *)self;
    PyTypeObject *type = h->st->memory;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct pikv *kv;
    struct memory *m;
    Py_ssize_t n;
    int e;
    PyThreadState *gil;

    if (!PyArg_ParseTuple(args, "n:alloc", &n))
        return NULL;
    if (n <= 0) {
        PyErr_Format(PyExc_ValueError, "nbytes: %zd; want 1 or more", n);
        return NULL;
    }
    kv = handle_enter(h);
    m = kv ? (struct memory *)alloc(type, 0) : NULL;
    if (m) {
        Py_INCREF(self);
        m->handle = h;
        m->bytes = (size_t)n;
        m->fd = -1;
        gil = PyEval_SaveThread();
        e = memory_map(m);
        if (!e)
            e = pikv_mem_register_fd(kv, m->fd, 0, m->mapped, m->addr);
        PyEval_RestoreThread(gil);
        if (e) {
            Py_CLEAR(m);
            raise_code(h->st, e, "alloc", NULL);
        }
    }
    if (kv)
        handle_leave(h);
    return (PyObject *)m;
}

static PyObject *memory_free(PyObject *self, PyObject *unused)
{
    struct memory *m = (struct memory *)self;

    (void)unused;
    if (m->views) {
        PyErr_Format(PyExc_BufferError,
                     "%zd views of this memory are alive, those of calls in "
                     "flight included; release them first",
                     m->views);
        return NULL;
    }
    memory_unmap(m);
    Py_RETURN_NONE;
}

static PyObject *memory_exit(PyObject *self, PyObject *args)
{
    (void)args;
    return memory_free(self, NULL);
}

static PyObject *memory_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    Py_INCREF(self);
    return self;
}

static int memory_view(PyObject *self, Py_buffer *view, int flags)
{
    struct memory *m = (struct memory *)self;

    if (!m->addr) {
        PyErr_SetString(PyExc_BufferError, "this memory was freed");
        view->obj = NULL;
        return -1;
    }
    if (PyBuffer_FillInfo(view, self, m->addr, (Py_ssize_t)m->bytes, 0, flags))
        return -1;
    m->views++;
    return 0;
}

static void memory_unview(PyObject *self, Py_buffer *view)
{
    (void)view;
    ((struct memory *)self)->views--;
}

static void memory_dealloc(PyObject *self)
{
    struct memory *m = (struct memory *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    memory_unmap(m);
    Py_XDECREF((PyObject *)m->handle);
    release(self);
    Py_DECREF(type);
}

static Py_ssize_t memory_len(PyObject *self)
{
    return (Py_ssize_t)((struct memory *)self)->bytes;
}

static PyObject *memory_address(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromVoidPtr(((struct memory *)self)->addr);
}

static PyObject *memory_nbytes(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(((struct memory *)self)->bytes);
}

static PyMethodDef memory_methods[] = {
    {"free", memory_free, METH_NOARGS,
     "Gives the memory back. BufferError while it is viewed."},
    {"__enter__", memory_enter, METH_NOARGS, NULL},
    {"__exit__", memory_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef memory_getset[] = {
    {"address", memory_address, NULL, "Where it is mapped; 0 after free().",
     NULL},
    {"nbytes", memory_nbytes, NULL, "Its size.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot memory_slots[] = {
    {Py_tp_doc, (void *)"Shared, registered memory: buffer protocol, "
                        "writable. Made by Client.alloc()."},
    {Py_tp_dealloc, (void *)memory_dealloc},
    {Py_bf_getbuffer, (void *)memory_view},
    {Py_bf_releasebuffer, (void *)memory_unview},
    {Py_sq_length, (void *)memory_len},
    {Py_tp_methods, memory_methods},
    {Py_tp_getset, memory_getset},
    {0, NULL},
};

PyType_Spec memory_spec = {
    .name = "pikv.Memory",
    .basicsize = sizeof(struct memory),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = memory_slots,
};

/* ---- Registration ---- */

/* Memory of this client is registered already: nothing to do, or to undo. */
static bool registered_by(struct handle *h, PyObject *o)
{
    return Py_IS_TYPE(o, h->st->memory) && ((struct memory *)o)->handle == h;
}

/* _register(buffer) */
PyObject *handle_register(PyObject *self, PyObject *args)
{
    struct handle *h = (struct handle *)self;
    PyTypeObject *type = h->st->registration;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct registration *r;
    struct pikv_buf bytes;
    PyObject *buffer;
    struct pikv *kv;
    int e = PIKV_OK;
    PyThreadState *gil;

    if (!PyArg_ParseTuple(args, "O:register", &buffer))
        return NULL;
    r = (struct registration *)alloc(type, 0);
    if (!r || buffer_open(buffer, O_buffers, -1, true, &r->hold, &bytes)) {
        Py_XDECREF((PyObject *)r);
        return NULL;
    }
    r->addr = bytes.p;
    r->bytes = bytes.len;
    kv = handle_enter(h);
    if (!kv) {
        Py_DECREF((PyObject *)r);
        return NULL;
    }
    r->told = !registered_by(h, buffer);
    if (r->told) {
        gil = PyEval_SaveThread();
        e = pikv_mem_register(kv, bytes.p, bytes.len);
        PyEval_RestoreThread(gil);
    }
    handle_leave(h);
    if (e) {
        Py_DECREF((PyObject *)r);
        return raise_code(h->st, e, "register", NULL);
    }
    Py_INCREF(self);
    r->handle = h;
    return (PyObject *)r;
}

static void registration_end(struct registration *r)
{
    struct handle *h = r->handle;

    r->handle = NULL;
    if (h && r->told && h->kv && !h->closing)
        (void)pikv_mem_unregister(h->kv, r->addr);
    PyBuffer_Release(&r->hold.view);
    Py_CLEAR(r->hold.ref);
    Py_XDECREF((PyObject *)h);
}

static PyObject *registration_unregister(PyObject *self, PyObject *unused)
{
    (void)unused;
    registration_end((struct registration *)self);
    Py_RETURN_NONE;
}

static PyObject *registration_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    Py_INCREF(self);
    return self;
}

static PyObject *registration_exit(PyObject *self, PyObject *args)
{
    (void)args;
    return registration_unregister(self, NULL);
}

static void registration_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);

    registration_end((struct registration *)self);
    release(self);
    Py_DECREF(type);
}

static PyObject *registration_address(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromVoidPtr(((struct registration *)self)->addr);
}

static PyObject *registration_nbytes(PyObject *self, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(((struct registration *)self)->bytes);
}

static PyMethodDef registration_methods[] = {
    {"unregister", registration_unregister, METH_NOARGS,
     "The daemon forgets the memory; the buffer is let go. Calls in flight "
     "end as they would have."},
    {"__enter__", registration_enter, METH_NOARGS, NULL},
    {"__exit__", registration_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef registration_getset[] = {
    {"address", registration_address, NULL, "Where it begins.", NULL},
    {"nbytes", registration_nbytes, NULL, "Its size.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot registration_slots[] = {
    {Py_tp_doc, (void *)"Registered memory of somebody else's making."},
    {Py_tp_dealloc, (void *)registration_dealloc},
    {Py_tp_methods, registration_methods},
    {Py_tp_getset, registration_getset},
    {0, NULL},
};

PyType_Spec registration_spec = {
    .name = "pikv.Registration",
    .basicsize = sizeof(struct registration),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = registration_slots,
};

/* ---- layouts ---- */

static int runs_take(PyObject *list, struct pikv_run *runs, uint32_t *n_out)
{
    Py_ssize_t n = PyTuple_Size(list);

    if (n < 1 || n > RUNS_MAX) {
        PyErr_Format(PyExc_ValueError, "runs: %zd; want 1 to %d", n, RUNS_MAX);
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyArg_ParseTuple(PyTuple_GetItem(list, i),
                              "O&O&O&O&;runs: want (off, len, stride, n)",
                              as_u64, &runs[i].off, as_u64, &runs[i].len,
                              as_u64, &runs[i].stride, as_u32, &runs[i].n))
            return -1;
    }
    *n_out = (uint32_t)n;
    return 0;
}

static int table_take(PyObject *table, uint64_t **out, uint32_t blocks)
{
    uint64_t *t;

    *out = NULL;
    if (table == Py_None)
        return 0;
    if (PyTuple_Size(table) != (Py_ssize_t)blocks) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError,
                     "table: want a tuple of %u offsets, one per block",
                     blocks);
        return -1;
    }
    t = PyMem_Calloc(blocks ? blocks : 1, sizeof(*t));
    for (uint32_t i = 0; t && i < blocks; i++) {
        t[i] = PyLong_AsUnsignedLongLong(PyTuple_GetItem(table, i));
        if (t[i] == UINT64_MAX && PyErr_Occurred()) {
            PyMem_Free(t);
            return -1;
        }
    }
    *out = t;
    if (!t)
        (void)PyErr_NoMemory();
    return t ? 0 : -1;
}

/* _layout(buffer, runs, block_stride, table, blocks) -> id. The registration
 * of the buffer keeps it alive. */
PyObject *handle_layout(PyObject *self, PyObject *args)
{
    struct handle *h = (struct handle *)self;
    struct pikv_run runs[RUNS_MAX];
    struct pikv_layout l = {.runs = runs};
    PyObject *buffer, *list, *table;
    uint64_t *bases = NULL;
    struct pikv_buf bytes;
    struct hold hold;
    PyThreadState *gil;
    struct pikv *kv;
    uint32_t id = 0;
    int e;

    if (!PyArg_ParseTuple(args, "OO!O&OO&:layout", &buffer, &PyTuple_Type,
                          &list, as_u64, &l.block_stride, &table, as_u32,
                          &l.block_n) ||
        runs_take(list, runs, &l.run_n) ||
        buffer_open(buffer, O_buffers, -1, true, &hold, &bytes))
        return NULL;
    kv = table_take(table, &bases, l.block_n) ? NULL : handle_enter(h);
    if (!kv) {
        e = 1;
    } else {
        l.addr = bytes.p;
        l.table = bases;
        gil = PyEval_SaveThread();
        e = pikv_layout_register(kv, &l, &id);
        PyEval_RestoreThread(gil);
        handle_leave(h);
        if (e)
            raise_code(h->st, e, "layout", NULL);
    }
    PyMem_Free(bases);
    PyBuffer_Release(&hold.view);
    Py_XDECREF(hold.ref);
    return e ? NULL : PyLong_FromUnsignedLong(id);
}

/* _layout_free(id) */
PyObject *handle_layout_free(PyObject *self, PyObject *args)
{
    struct handle *h = (struct handle *)self;
    struct pikv *kv;
    uint32_t id;
    int e;

    if (!PyArg_ParseTuple(args, "O&", as_u32, &id))
        return NULL;
    kv = handle_enter(h);
    if (!kv)
        return NULL;
    e = pikv_layout_unregister(kv, id);
    handle_leave(h);
    if (e)
        return raise_code(h->st, e, "layout", NULL);
    Py_RETURN_NONE;
}
