/* SPDX-License-Identifier: Apache-2.0
 *
 * The module pikv._pikv: types, error classes, small functions. Everything is
 * per module (multi-phase initialisation); only PyInit__pikv is exported.
 *
 * The classes of errors are Python (errors.py, made from proto/errors.tbl); the
 * package hands them over once with _set_errors() before anything can raise. */
#include <stdarg.h>
#include <string.h>

#include "client/python/src/pikvpy.h"

static const char *const option_names[OPTION_N] = {
#define OPTION(name) [O_##name] = #name,
    OPTIONS(OPTION)
#undef OPTION
};

const char *option_name(enum option o)
{
    return option_names[o];
}

/* The state of the module that made type, or the base of it that we made. */
struct state *state_of(PyTypeObject *type)
{
    while (type) {
        PyObject *m = PyType_GetModule(type);

        if (m && PyModule_GetState(m))
            return PyModule_GetState(m);
        PyErr_Clear();
        type = PyType_GetSlot(type, Py_tp_base);
    }
    PyErr_SetString(PyExc_SystemError, "not a type of pikv._pikv");
    return NULL;
}

PyObject *raise_code(struct state *st, int code, const char *text,
                     struct results *results)
{
    PyObject *key = PyLong_FromLong(code), *class, *error;

    if (!key)
        return NULL;
    class = st->errors ? PyObject_GetItem(st->errors, key) : NULL;
    Py_DECREF(key);
    if (!class) {
        PyErr_Clear();
        return PyErr_Format(PyExc_RuntimeError, "pikv: %s (%d)",
                            pikv_error_text(code), code);
    }
    /* Words of the library may be cut within a character. */
    text = text ? text : "";
    error = PyObject_CallFunction(
        class, "N",
        PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace"));
    if (error && results &&
        PyObject_SetAttrString(error, "results", (PyObject *)results))
        Py_CLEAR(error);
    if (error)
        PyErr_SetObject(class, error);
    Py_XDECREF(error);
    Py_DECREF(class);
    return NULL;
}

/* An exception that is pending, the reason in the object's own words, goes
 * into the text and becomes the cause. */
int refuse(PyObject *kind, enum option argument, Py_ssize_t i, const char *fmt,
           ...)
{
    char text[400], at[32] = "";
    va_list ap;

    va_start(ap, fmt);
    PyOS_vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (i >= 0)
        PyOS_snprintf(at, sizeof(at), "[%zd]", i);
    PyErr_Clear();
    PyErr_Format(kind, "%s%s: %s", option_names[argument], at, text);
    return -1;
}

const char *type_name(PyObject *o, char *buf, size_t cap)
{
    PyObject *name = PyType_GetName(Py_TYPE(o));
    const char *text = name ? PyUnicode_AsUTF8AndSize(name, NULL) : NULL;

    PyOS_snprintf(buf, cap, "%.60s", text ? text : "object");
    Py_XDECREF(name);
    PyErr_Clear();
    return buf;
}

static int number_of(PyObject *v, uint64_t max, uint64_t *out)
{
    PyObject *n = PyNumber_Index(v);
    unsigned long long value;

    if (!n)
        return 0;
    value = PyLong_AsUnsignedLongLong(n);
    if ((value == (unsigned long long)-1 && PyErr_Occurred()) || value > max) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%S: want 0 to %llu", n,
                     (unsigned long long)max);
        Py_DECREF(n);
        return 0;
    }
    Py_DECREF(n);
    *out = value;
    return 1;
}

int as_u32(PyObject *v, void *out)
{
    uint64_t n;

    if (!number_of(v, UINT32_MAX, &n))
        return 0;
    *(uint32_t *)out = (uint32_t)n;
    return 1;
}

int as_u64(PyObject *v, void *out)
{
    return number_of(v, UINT64_MAX, out);
}

/* ---- functions ---- */

static PyObject *module_set_errors(PyObject *self, PyObject *map)
{
    struct state *st = PyModule_GetState(self);
    PyObject *before = st->errors;

    if (!PyDict_Check(map)) {
        PyErr_SetString(PyExc_TypeError, "want a dict of code to class");
        return NULL;
    }
    Py_INCREF(map);
    st->errors = map;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *module_error(PyObject *self, PyObject *arg)
{
    long code = PyLong_AsLong(arg);

    (void)self;
    if (code == -1 && PyErr_Occurred())
        return NULL;
    return Py_BuildValue("(ssi)", pikv_error_name((int)code),
                         pikv_error_text((int)code),
                         (int)pikv_error_who((int)code));
}

static PyObject *module_crc32c(PyObject *self, PyObject *args)
{
    uint32_t crc = 0;
    Py_buffer view;
    PyThreadState *gil;

    (void)self;
    if (!PyArg_ParseTuple(args, "y*|O&:crc32c", &view, as_u32, &crc))
        return NULL;
    if (view.len > GIL_BYTES) {
        gil = PyEval_SaveThread();
        crc = pikv_crc32c(crc, view.buf, (size_t)view.len);
        PyEval_RestoreThread(gil);

    } else {
        crc = pikv_crc32c(crc, view.buf, (size_t)view.len);
    }
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLong(crc);
}

static PyMethodDef functions[] = {
    {"_set_errors", module_set_errors, METH_O,
     "Takes the error classes, code to class."},
    {"error", module_error, METH_O,
     "error(code) -> (name, text, who): what proto/errors.tbl says."},
    {"crc32c", module_crc32c, METH_VARARGS,
     "crc32c(data, crc=0) -> int: of the bytes, continued from crc."},
    {NULL, NULL, 0, NULL},
};

/* ---- set-up ---- */

PyObject *structseq_type(PyObject *module, PyStructSequence_Desc *desc)
{
    PyTypeObject *type = PyStructSequence_NewType(desc);
    const char *dot = strrchr(desc->name, '.');

    if (type && PyModule_AddObjectRef(module, dot + 1, (PyObject *)type))
        Py_CLEAR(type);
    return (PyObject *)type;
}

static int type_add(PyObject *module, PyType_Spec *spec, PyTypeObject **out)
{
    *out = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *out ? PyModule_AddType(module, *out) : -1;
}

static int seq_add(PyObject *module, PyStructSequence_Desc *desc,
                   PyTypeObject **out)
{
    *out = (PyTypeObject *)structseq_type(module, desc);
    return *out ? 0 : -1;
}

static int module_exec(PyObject *m)
{
    struct state *st = PyModule_GetState(m);

    for (int i = 0; i < OPTION_N; i++) {
        st->names[i] = PyUnicode_InternFromString(option_names[i]);
        if (!st->names[i])
            return -1;
    }
    if (type_add(m, &handle_spec, &st->handle) ||
        type_add(m, &calls_spec, &st->calls) ||
        type_add(m, &results_spec, &st->results) ||
        type_add(m, &memory_spec, &st->memory) ||
        type_add(m, &registration_spec, &st->registration) ||
        type_add(m, &loan_spec, &st->loan) ||
        type_add(m, &events_spec, &st->events))
        return -1;
    if (seq_add(m, &result_desc, &st->result) ||
        seq_add(m, &completion_desc, &st->completion) ||
        seq_add(m, &lookup_desc, &st->lookup) ||
        seq_add(m, &info_desc, &st->info) ||
        seq_add(m, &event_desc, &st->event) ||
        seq_add(m, &explanation_desc, &st->explanation))
        return -1;
    return PyModule_AddStringConstant(m, "version", PIKV_VERSION);
}

/* Types by their place in the state, for traverse and clear. */
static PyObject **state_refs(struct state *st, size_t i)
{
    PyTypeObject **types[] = {
        &st->handle,       &st->calls,  &st->results, &st->memory,
        &st->registration, &st->loan,   &st->events,  &st->result,
        &st->completion,   &st->lookup, &st->info,    &st->event,
        &st->explanation,
    };

    if (i < sizeof(types) / sizeof(types[0]))
        return (PyObject **)(void *)types[i];
    i -= sizeof(types) / sizeof(types[0]);
    if (i == 0)
        return &st->errors;
    return i - 1 < OPTION_N ? &st->names[i - 1] : NULL;
}

static int module_traverse(PyObject *m, visitproc visit, void *arg)
{
    struct state *st = PyModule_GetState(m);
    PyObject **p;

    for (size_t i = 0; st && (p = state_refs(st, i)); i++)
        Py_VISIT(*p);
    return 0;
}

static int module_clear(PyObject *m)
{
    struct state *st = PyModule_GetState(m);
    PyObject **p;

    for (size_t i = 0; st && (p = state_refs(st, i)); i++)
        Py_CLEAR(*p);
    return 0;
}

static void module_free(void *m)
{
    (void)module_clear(m);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pikv._pikv",
    .m_doc = "libpikv for Python; use it as pikv.",
    .m_size = sizeof(struct state),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__pikv(void);
PyMODINIT_FUNC PyInit__pikv(void)
{
    return PyModuleDef_Init(&definition);
}
