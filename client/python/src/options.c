/* SPDX-License-Identifier: Apache-2.0
 *
 * What a call was given: positional and named arguments into batch->o by
 * option, checked against what the operation knows; single values; values per
 * item; and struct pikv_call made of them. The table below is the one place
 * that says which operation takes what. */
#include <string.h>

#include "client/python/src/pikvpy.h"

#define B(o) (UINT64_C(1) << O_##o)
#define KEYED (B(route) | B(routes) | B(scope) | B(group) | B(cls))
#define ANY (B(tag) | B(deadline_ms) | B(trace))
#define ATTRIBUTES                                                             \
    (B(parents) | B(labels) | B(pages) | B(token_ends) | B(token_ns) |         \
     B(affinity) | B(priority) | B(replicas) | B(ttl_ms) | B(pin_ttl_ms) |     \
     B(durable))

static_assert(OPTION_N <= 64, "a bit for each option");

static const struct op_row {
    const char *name;
    uint8_t need, positional;
    uint8_t at[4]; /* the positional ones */
    uint64_t allowed;
} rows[OP_KINDS] = {
    [OP_PUT] = {"put",
                2,
                2,
                {O_keys, O_values},
                KEYED | ANY | ATTRIBUTES | B(crc32c) | B(layout)},
    [OP_GET] = {"get",
                2,
                2,
                {O_keys, O_buffers},
                KEYED | ANY | B(offsets) | B(lengths) | B(if_versions) |
                    B(verify) | B(parts) | B(soft_ms) | B(loan) | B(layout)},
    [OP_LOOKUP] = {"lookup",
                   1,
                   1,
                   {O_keys},
                   KEYED | ANY | B(cols) | B(columns) | B(pin_ttl_ms) |
                       B(promote)},
    [OP_EXISTS] = {"exists", 1, 1, {O_keys}, KEYED | ANY},
    [OP_EVICT] = {"evict",
                  0,
                  1,
                  {O_keys},
                  KEYED | ANY | B(select) | B(label) | B(demote)},
    [OP_PIN] = {"pin", 1, 1, {O_keys}, KEYED | ANY | B(pin_ttl_ms)},
    [OP_UNPIN] = {"unpin", 1, 1, {O_keys}, KEYED | ANY},
    [OP_TOUCH] = {"touch", 1, 1, {O_keys}, KEYED | ANY},
    [OP_PREFETCH] =
        {"prefetch", 1, 1, {O_keys}, KEYED | ANY | B(cap_mib) | B(soft_ms)},
    [OP_BEGIN] = {"begin",
                  2,
                  2,
                  {O_keys, O_lengths},
                  KEYED | ANY | ATTRIBUTES | B(writers) | B(open_ms)},
    [OP_WRITE] = {"write",
                  4,
                  4,
                  {O_keys, O_tokens, O_offsets, O_values},
                  KEYED | ANY | B(crc32c) | B(layout) | B(lengths)},
    [OP_COMMIT] = {"commit", 2, 3, {O_keys, O_tokens, O_writer}, KEYED | ANY},
    [OP_ABORT] = {"abort", 2, 2, {O_keys, O_tokens}, KEYED | ANY},
};

const char *op_name(enum op op)
{
    return rows[op].name;
}

/* Raises what an unknown name deserves: the names there are. */
static int options_unknown(const struct batch *b, PyObject *name,
                           uint64_t allowed)
{
    char list[600] = "";
    size_t at = 0;

    for (int o = 0; o < OPTION_N; o++)
        if (allowed >> o & 1 && at < sizeof(list) - 32)
            at += (size_t)PyOS_snprintf(list + at, sizeof(list) - at, "%s%s",
                                        at ? ", " : "",
                                        option_name((enum option)o));
    PyErr_Format(PyExc_TypeError, "%s() has no argument %R; it takes %s",
                 rows[b->op].name, name, list);
    return -1;
}

static int options_named(struct batch *b, PyObject *name, PyObject *value,
                         uint64_t allowed)
{
    int o = 0;

    while (o < OPTION_N && b->st->names[o] != name)
        o++;
    /* A name made at run time is not the interned one. */
    for (int i = 0; o == OPTION_N && i < OPTION_N; i++)
        if (PyUnicode_Compare(b->st->names[i], name) == 0)
            o = i;
    if (o == OPTION_N || !(allowed >> o & 1))
        return options_unknown(b, name, allowed);
    if (b->o[o]) {
        PyErr_Format(PyExc_TypeError, "%s() was given %U twice",
                     rows[b->op].name, name);
        return -1;
    }
    b->o[o] = value;
    return 0;
}

int options_take(struct batch *b, PyObject *const *args, Py_ssize_t n,
                 PyObject *kwnames)
{
    const struct op_row *row = &rows[b->op];
    Py_ssize_t names = kwnames ? PyTuple_Size(kwnames) : 0;
    uint64_t allowed = row->allowed;

    if (n > row->positional) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes %d positional arguments, not %zd; name the "
                     "others",
                     row->name, (int)row->positional, n);
        return -1;
    }
    for (int i = 0; i < row->positional; i++) {
        allowed |= UINT64_C(1) << row->at[i];
        if (i < n)
            b->o[row->at[i]] = args[i];
    }
    for (Py_ssize_t i = 0; i < names; i++)
        if (options_named(b, PyTuple_GetItem(kwnames, i), args[n + i], allowed))
            return -1;
    for (int i = 0; i < row->need; i++)
        if (!b->o[row->at[i]]) {
            PyErr_Format(PyExc_TypeError, "%s() needs %s", row->name,
                         option_name(row->at[i]));
            return -1;
        }
    return 0;
}

bool option_given(const struct batch *b, enum option o)
{
    return b->o[o] && b->o[o] != Py_None;
}

int option_bool(const struct batch *b, enum option o, bool *out)
{
    int truth = option_given(b, o) ? PyObject_IsTrue(b->o[o]) : 0;

    *out = truth > 0;
    return truth < 0 ? -1 : 0;
}

/* An array of numpy is a sequence and, with one entry, a number too. */
bool is_number(PyObject *v)
{
    return PyIndex_Check(v) && !PySequence_Check(v);
}

int uint_of(PyObject *v, enum option o, Py_ssize_t i, uint64_t max,
            uint64_t *out)
{
    char name[TYPE_NAME];
    PyObject *n = PyNumber_Index(v);
    unsigned long long value;

    if (!n)
        return refuse(PyExc_TypeError, o, i, "want an int, not %s",
                      type_name(v, name, sizeof(name)));
    value = PyLong_AsUnsignedLongLong(n);
    Py_DECREF(n);
    if ((value == (unsigned long long)-1 && PyErr_Occurred()) || value > max)
        return refuse(PyExc_ValueError, o, i, "want 0 to %llu",
                      (unsigned long long)max);
    *out = value;
    return 0;
}

int option_uint(const struct batch *b, enum option o, uint64_t max,
                uint64_t *out)
{
    *out = 0;
    return option_given(b, o) ? uint_of(b->o[o], o, -1, max, out) : 0;
}

PyObject *option_tuple(struct batch *b, enum option o)
{
    PyObject *v = b->o[o], *t = NULL;
    char name[TYPE_NAME];

    if (PyTuple_Check(v))
        return v;
    if (PyUnicode_Check(v) || PyBytes_Check(v) || !PySequence_Check(v))
        (void)refuse(PyExc_TypeError, o, -1,
                     "want a list, one entry per item, not %s",
                     type_name(v, name, sizeof(name)));
    else
        t = PySequence_Tuple(v);
    if (t) {
        b->refs[b->ref_n++] = t;
        b->o[o] = t;
    }
    return t;
}

int column_open(struct batch *b, enum option o, uint64_t max,
                struct column *out)
{
    Py_ssize_t n;

    *out = (struct column){.option = o, .max = max};
    if (!option_given(b, o))
        return 0;
    if (is_number(b->o[o]))
        return uint_of(b->o[o], o, -1, max, &out->all);
    out->tuple = option_tuple(b, o);
    if (!out->tuple)
        return -1;
    n = PyTuple_Size(out->tuple);
    if (n != (Py_ssize_t)b->n)
        return refuse(PyExc_ValueError, o, -1,
                      "%zd entries for %u keys; give one per key, or one int "
                      "for all",
                      n, b->n);
    return 0;
}

int column_at(const struct column *c, uint32_t i, uint64_t *out)
{
    PyObject *v;

    *out = c->all;
    if (!c->tuple)
        return 0;
    v = PyTuple_GetItem(c->tuple, (Py_ssize_t)i);
    if (v == Py_None) {
        *out = 0;
        return 0;
    }
    return uint_of(v, c->option, (Py_ssize_t)i, c->max, out);
}

/* ---- struct pikv_call ---- */

static int option_us(const struct batch *b, enum option o, uint32_t *out)
{
    double ms;

    *out = 0;
    if (!option_given(b, o))
        return 0;
    ms = PyFloat_AsDouble(b->o[o]);
    if (ms == -1.0 && PyErr_Occurred())
        return refuse(PyExc_TypeError, o, -1, "want milliseconds, a number");
    if (!(ms >= 0 && ms <= 4000000))
        return refuse(PyExc_ValueError, o, -1,
                      "want 0 to 4000000 ms; 0 is the default");
    *out = (uint32_t)(ms * 1000);
    if (ms > 0 && *out == 0)
        *out = 1;
    return 0;
}

static int option_u32(const struct batch *b, enum option o, uint32_t *out)
{
    uint64_t v;

    if (option_uint(b, o, UINT32_MAX, &v))
        return -1;
    *out = (uint32_t)v;
    return 0;
}

int options_call(struct batch *b)
{
    struct pikv_call *c = &b->call;

    if (option_us(b, O_deadline_ms, &c->deadline_us) ||
        option_us(b, O_soft_ms, &c->soft_us) ||
        option_uint(b, O_trace, UINT64_MAX, &c->trace) ||
        option_u32(b, O_layout, &c->layout) ||
        option_u32(b, O_open_ms, &c->open_ms) ||
        option_bool(b, O_promote, &c->promote) ||
        option_bool(b, O_verify, &c->verify) ||
        option_bool(b, O_parts, &c->parts) ||
        option_bool(b, O_demote, &c->demote))
        return -1;
    if (b->op == OP_LOOKUP || b->op == OP_PIN)
        return option_u32(b, O_pin_ttl_ms, &c->pin_ttl_ms);
    return 0;
}
