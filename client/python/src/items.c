/* SPDX-License-Identifier: Apache-2.0
 *
 * A call's item array, made of what Python gave: keys first, then what the
 * operation has beside them. Nothing of it outlives the submitting call but
 * the buffers, which the flight holds. */
#include <string.h>

#include "client/python/src/pikvpy.h"

static size_t item_size(enum op op)
{
    switch (op) {
    case OP_PUT:
        return sizeof(struct pikv_put);
    case OP_GET:
        return sizeof(struct pikv_get);
    case OP_BEGIN:
        return sizeof(struct pikv_begin);
    case OP_WRITE:
        return sizeof(struct pikv_write);
    case OP_COMMIT:
    case OP_ABORT:
        return sizeof(struct pikv_finish);
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
    return sizeof(struct pikv_key);
}

/* ---- put, begin ---- */

/* Up to four ints for all items, or one such sequence (or None) for each. */
static int labels_fill(PyObject *v, Py_ssize_t i, uint64_t *out)
{
    PyObject *t;
    Py_ssize_t n;
    int e = 0;

    if (v == Py_None)
        return 0;
    if (is_number(v))
        return uint_of(v, O_labels, i, UINT64_MAX, out);
    t = PySequence_Tuple(v);
    if (!t)
        return refuse(PyExc_TypeError, O_labels, i, "want up to %d ints",
                      LABELS);
    n = PyTuple_Size(t);
    if (n > LABELS)
        e = refuse(PyExc_ValueError, O_labels, i, "%zd; at most %d", n, LABELS);
    for (Py_ssize_t k = 0; k < n && !e; k++)
        e = uint_of(PyTuple_GetItem(t, k), O_labels, i, UINT64_MAX, &out[k]);
    Py_DECREF(t);
    return e;
}

static int labels_open(struct batch *b, uint64_t *all, PyObject **each)
{
    PyObject *t, *first;

    *each = NULL;
    memset(all, 0, LABELS * sizeof(*all));
    if (!option_given(b, O_labels))
        return 0;
    if (is_number(b->o[O_labels]))
        return labels_fill(b->o[O_labels], -1, all);
    t = option_tuple(b, O_labels);
    if (!t)
        return -1;
    first = PyTuple_Size(t) ? PyTuple_GetItem(t, 0) : NULL;
    if (!first || is_number(first))
        return labels_fill(t, -1, all);
    if (PyTuple_Size(t) != (Py_ssize_t)b->n)
        return refuse(PyExc_ValueError, O_labels, -1,
                      "%zd entries for %u keys; give up to %d ints for all, or "
                      "a list of ints per key",
                      PyTuple_Size(t), b->n, LABELS);
    *each = t;
    return 0;
}

enum { REPLICAS_MAX = 3 };

struct attributes {
    struct texts parent;
    struct column page, token_end, token_n, ttl, pin, affinity, priority,
        replicas;
    uint64_t labels[LABELS];
    PyObject *labels_each;
    bool durable;
};

static int attributes_open(struct batch *b, struct attributes *a)
{
    if (texts_open(b, O_parents, 0, KEY_MAX, &a->parent) ||
        column_open(b, O_pages, UINT32_MAX, &a->page) ||
        column_open(b, O_token_ends, UINT32_MAX, &a->token_end) ||
        column_open(b, O_token_ns, UINT32_MAX, &a->token_n) ||
        column_open(b, O_ttl_ms, UINT32_MAX, &a->ttl) ||
        column_open(b, O_pin_ttl_ms, UINT32_MAX, &a->pin) ||
        column_open(b, O_affinity, UINT64_MAX, &a->affinity) ||
        column_open(b, O_priority, UINT8_MAX, &a->priority) ||
        column_open(b, O_replicas, REPLICAS_MAX, &a->replicas) ||
        labels_open(b, a->labels, &a->labels_each) ||
        option_bool(b, O_durable, &a->durable))
        return -1;
    return 0;
}

static int column_u32(const struct column *c, uint32_t i, uint32_t *out)
{
    uint64_t v;

    if (column_at(c, i, &v))
        return -1;
    *out = (uint32_t)v;
    return 0;
}

static int attributes_at(const struct attributes *a, uint32_t i,
                         struct pikv_put *p)
{
    uint64_t priority, replicas;

    if (texts_at(&a->parent, i, &p->parent) ||
        column_u32(&a->page, i, &p->page) ||
        column_u32(&a->token_end, i, &p->token_end) ||
        column_u32(&a->token_n, i, &p->token_n) ||
        column_u32(&a->ttl, i, &p->ttl_ms) ||
        column_u32(&a->pin, i, &p->pin_ttl_ms) ||
        column_at(&a->affinity, i, &p->affinity) ||
        column_at(&a->priority, i, &priority) ||
        column_at(&a->replicas, i, &replicas))
        return -1;
    memcpy(p->labels, a->labels, sizeof(p->labels));
    if (a->labels_each &&
        labels_fill(PyTuple_GetItem(a->labels_each, (Py_ssize_t)i),
                    (Py_ssize_t)i, p->labels))
        return -1;
    p->priority = (uint8_t)priority;
    p->replicas = (uint8_t)replicas;
    p->durable = a->durable;
    return 0;
}

/* Checksums of all items; *out stays NULL when none are given. */
static int crcs_open(struct batch *b)
{
    struct column c;
    uint64_t v;

    if (!option_given(b, O_crc32c))
        return 0;
    if (column_open(b, O_crc32c, UINT32_MAX, &c))
        return -1;
    b->crcs = PyMem_Calloc(b->n, sizeof(*b->crcs));
    if (!b->crcs) {
        (void)PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < b->n; i++) {
        if (column_at(&c, i, &v))
            return -1;
        b->crcs[i] = (uint32_t)v;
    }
    return 0;
}

/* A list of a call's length. */
static PyObject *per_item(struct batch *b, enum option o)
{
    PyObject *t = option_tuple(b, o);

    if (t && PyTuple_Size(t) != (Py_ssize_t)b->n) {
        (void)refuse(PyExc_ValueError, o, -1, "%zd entries for %u keys",
                     PyTuple_Size(t), b->n);
        return NULL;
    }
    return t;
}

static bool has_layout(const struct batch *b)
{
    return b->call.layout != 0;
}

/* The bytes of item i from what was given: a block number or a buffer. */
static int item_bytes(struct batch *b, PyObject *t, enum option o, uint32_t i,
                      bool writable, struct pikv_buf *data, uint32_t *block,
                      uint32_t *iov_n, uint32_t *iov_first)
{
    PyObject *v = PyTuple_GetItem(t, (Py_ssize_t)i);
    uint64_t number;

    *iov_n = 0;
    if (!has_layout(b)) {
        uint64_t before = b->bytes;

        if (buffer_take(b, v, o, (Py_ssize_t)i, writable, data, iov_n,
                        iov_first))
            return -1;
        if (!writable && b->bytes == before)
            return refuse(PyExc_ValueError, o, (Py_ssize_t)i,
                          "no bytes; a block has at least one");
        return 0;
    }
    if (uint_of(v, o, (Py_ssize_t)i, UINT32_MAX, &number))
        return -1;
    *block = (uint32_t)number;
    return 0;
}

/* b->iov may still move while items are read: kept as an index plus one, and
 * made a pointer at the end. */
static const void *iov_mark(uint32_t first)
{
    return (const void *)(uintptr_t)(first + 1);
}

static const struct pikv_buf *iov_at(const struct batch *b, const void *mark)
{
    return &b->iov[(uintptr_t)mark - 1];
}

static int put_items(struct batch *b)
{
    struct pikv_put *p = b->items;
    PyObject *values = per_item(b, O_values);
    struct attributes a;
    uint32_t first = 0;

    if (!values || attributes_open(b, &a) || crcs_open(b) ||
        !flight_reserve(b->flight, b->n))
        return -1;
    for (uint32_t i = 0; i < b->n; i++) {
        struct pikv_buf data = {NULL, 0};

        if (attributes_at(&a, i, &p[i]) ||
            item_bytes(b, values, O_values, i, false, &data, &p[i].block,
                       &p[i].iov_n, &first))
            return -1;
        p[i].data = (struct pikv_bytes){data.p, data.len};
        p[i].iov = p[i].iov_n ? iov_mark(first) : NULL;
        p[i].crc32c = b->crcs ? &b->crcs[i] : NULL;
    }
    for (uint32_t i = 0; i < b->n; i++)
        if (p[i].iov_n)
            p[i].iov =
                (const struct pikv_bytes *)(const void *)iov_at(b, p[i].iov);
    return 0;
}

static int begin_items(struct batch *b)
{
    struct pikv_begin *p = b->items;
    struct attributes a;
    struct column length, writers;
    uint64_t n;

    if (column_open(b, O_lengths, SSIZE_MAX, &length) ||
        column_open(b, O_writers, 64, &writers) || attributes_open(b, &a))
        return -1;
    for (uint32_t i = 0; i < b->n; i++) {
        if (column_at(&length, i, &p[i].len) || column_at(&writers, i, &n) ||
            attributes_at(&a, i, &p[i].block))
            return -1;
        p[i].writers = (uint32_t)n;
    }
    return 0;
}

/* ---- get ---- */

struct ranges {
    struct column off, len, version;
    bool loan;
};

/* lengths cuts the room of a buffer; with a layout it is the range's length. */
static int get_range(struct batch *b, const struct ranges *r, uint32_t i,
                     struct pikv_get *g)
{
    uint64_t want;

    if (column_at(&r->off, i, &g->off) || column_at(&r->len, i, &want) ||
        column_at(&r->version, i, &g->if_version))
        return -1;
    g->loan = r->loan;
    g->len = want;
    if (has_layout(b) || want == 0)
        return 0;
    if (g->iov_n)
        return refuse(PyExc_ValueError, O_lengths, (Py_ssize_t)i,
                      "with a list of parts the parts say the length; leave "
                      "it 0");
    if (want > g->data.len)
        return refuse(PyExc_ValueError, O_lengths, (Py_ssize_t)i,
                      "%llu bytes into buffers[%u], which has room for %zu",
                      (unsigned long long)want, i, g->data.len);
    g->data.len = (size_t)want;
    return 0;
}

static int get_items(struct batch *b)
{
    struct pikv_get *g = b->items;
    struct ranges r;
    PyObject *buffers;
    uint32_t first = 0;

    if (option_bool(b, O_loan, &r.loan))
        return -1;
    buffers = per_item(b, O_buffers);
    if (!buffers || column_open(b, O_offsets, UINT64_MAX, &r.off) ||
        column_open(b, O_lengths, SSIZE_MAX, &r.len) ||
        column_open(b, O_if_versions, UINT64_MAX, &r.version) ||
        !flight_reserve(b->flight, b->n))
        return -1;
    b->flight->loan = r.loan;
    b->flight->whole = !r.loan && !has_layout(b) &&
                       !option_given(b, O_offsets) &&
                       !option_given(b, O_lengths);
    for (uint32_t i = 0; i < b->n; i++) {
        bool none =
            r.loan && PyTuple_GetItem(buffers, (Py_ssize_t)i) == Py_None;

        if ((!none && item_bytes(b, buffers, O_buffers, i, true, &g[i].data,
                                 &g[i].block, &g[i].iov_n, &first)) ||
            get_range(b, &r, i, &g[i]))
            return -1;
        g[i].iov = g[i].iov_n ? iov_mark(first) : NULL;
    }
    for (uint32_t i = 0; i < b->n; i++)
        if (g[i].iov_n)
            g[i].iov = iov_at(b, g[i].iov);
    return 0;
}

/* ---- lookup, evict ---- */

static int column_rule(PyObject *v, Py_ssize_t i, struct pikv_column *out)
{
    static const char *const words[] = {"all", "trailing", "optional"};
    PyObject *rule = v, *n = NULL;
    uint64_t number = 0;
    const char *text;
    int e = -1;

    if (PyTuple_Check(v) && PyTuple_Size(v) == 2) {
        rule = PyTuple_GetItem(v, 0);
        n = PyTuple_GetItem(v, 1);
    }
    if (PyUnicode_Check(rule)) {
        text = PyUnicode_AsUTF8AndSize(rule, NULL);
        for (uint8_t k = 0; text && k < 3; k++)
            if (strcmp(text, words[k]) == 0) {
                out->rule = k;
                e = 0;
            }
    } else if (uint_of(rule, O_columns, i, 2, &number) == 0) {
        out->rule = (uint8_t)number;
        e = 0;
    }
    if (e)
        return refuse(PyExc_ValueError, O_columns, i,
                      "want \"all\", \"optional\" or (\"trailing\", n)");
    if (n && uint_of(n, O_columns, i, UINT16_MAX, &number))
        return -1;
    out->trailing = n ? (uint16_t)number : 0;
    return 0;
}

static int lookup_columns(struct batch *b)
{
    uint64_t cols = 1;
    PyObject *t;

    if (option_given(b, O_cols) && option_uint(b, O_cols, 256, &cols))
        return -1;
    if (cols == 0 || b->n % cols)
        return refuse(PyExc_ValueError, O_cols, -1,
                      "%u keys are not rows of %llu", b->n,
                      (unsigned long long)cols);
    b->cols = (uint32_t)cols;
    b->positions = b->n / b->cols;
    if (!option_given(b, O_columns) && cols == 1)
        return 0;
    if (!option_given(b, O_columns))
        return refuse(PyExc_ValueError, O_columns, -1,
                      "cols above 1 needs a rule for each");
    t = option_tuple(b, O_columns);
    if (!t)
        return -1;
    if (PyTuple_Size(t) != (Py_ssize_t)cols)
        return refuse(PyExc_ValueError, O_columns, -1, "%zd rules for %u cols",
                      PyTuple_Size(t), b->cols);
    b->columns = PyMem_Calloc(cols, sizeof(*b->columns));
    if (!b->columns) {
        (void)PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < b->cols; i++)
        if (column_rule(PyTuple_GetItem(t, (Py_ssize_t)i), (Py_ssize_t)i,
                        &b->columns[i]))
            return -1;
    return 0;
}

static int evict_select(struct batch *b)
{
    static const char *const words[] = {"keys",  "chain",     "label",
                                        "scope", "namespace", "pattern"};
    PyObject *v = b->o[O_select];
    const char *text;

    b->select = PIKV_KEYS;
    if (!option_given(b, O_select))
        return 0;
    text = PyUnicode_Check(v) ? PyUnicode_AsUTF8AndSize(v, NULL) : NULL;
    for (int i = 0; text && i < 6; i++)
        if (strcmp(text, words[i]) == 0) {
            b->select = (enum pikv_select)i;
            return 0;
        }
    return refuse(PyExc_ValueError, O_select, -1,
                  "want keys, chain, label, scope, namespace or pattern");
}

static int evict_check(struct batch *b)
{
    bool keys = b->select == PIKV_KEYS || b->select == PIKV_CHAIN;

    if (keys && b->n == 0)
        return refuse(PyExc_ValueError, O_keys, -1,
                      "none; to drop all blocks say select=\"namespace\"");
    if (b->select == PIKV_PATTERN && b->n != 1)
        return refuse(PyExc_ValueError, O_keys, -1,
                      "select=\"pattern\" wants one pattern");
    if (b->select == PIKV_LABEL && !option_given(b, O_label))
        return refuse(PyExc_ValueError, O_label, -1,
                      "select=\"label\" needs one, not 0");
    if (!keys && b->select != PIKV_PATTERN && b->n)
        return refuse(PyExc_ValueError, O_keys, -1,
                      "this select takes no keys");
    return b->select == PIKV_SCOPE ? keys_scope(b) : 0;
}

/* ---- write, commit, abort ---- */

static int write_items(struct batch *b)
{
    struct pikv_write *w = b->items;
    PyObject *values = per_item(b, O_values);
    struct column token, off, len;
    uint32_t first = 0;

    if (!values || column_open(b, O_tokens, UINT64_MAX, &token) ||
        column_open(b, O_offsets, UINT64_MAX, &off) ||
        column_open(b, O_lengths, SSIZE_MAX, &len) || crcs_open(b) ||
        !flight_reserve(b->flight, b->n))
        return -1;
    for (uint32_t i = 0; i < b->n; i++) {
        struct pikv_buf data = {NULL, 0};

        if (column_at(&token, i, &w[i].token) ||
            column_at(&off, i, &w[i].off) || column_at(&len, i, &w[i].len) ||
            item_bytes(b, values, O_values, i, false, &data, &w[i].block,
                       &w[i].iov_n, &first))
            return -1;
        w[i].data = (struct pikv_bytes){data.p, data.len};
        w[i].iov = w[i].iov_n ? iov_mark(first) : NULL;
        w[i].crc32c = b->crcs ? &b->crcs[i] : NULL;
    }
    for (uint32_t i = 0; i < b->n; i++)
        if (w[i].iov_n)
            w[i].iov =
                (const struct pikv_bytes *)(const void *)iov_at(b, w[i].iov);
    return 0;
}

static int finish_items(struct batch *b)
{
    struct pikv_finish *f = b->items;
    struct column token, writer;
    uint64_t n;

    if (column_open(b, O_tokens, UINT64_MAX, &token) ||
        column_open(b, O_writer, 63, &writer))
        return -1;
    for (uint32_t i = 0; i < b->n; i++) {
        if (column_at(&token, i, &f[i].token) || column_at(&writer, i, &n))
            return -1;
        f[i].writer = (uint32_t)n;
    }
    return 0;
}

/* ---- all ---- */

static int items_alloc(struct batch *b)
{
    uint32_t n = b->n ? b->n : 1;

    b->stride = item_size(b->op);
    b->items = PyMem_Calloc(n, b->stride);
    if (!b->items) {
        (void)PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static int items_rest(struct batch *b)
{
    switch (b->op) {
    case OP_PUT:
        return put_items(b);
    case OP_GET:
        return get_items(b);
    case OP_LOOKUP:
    case OP_EXISTS:
        return lookup_columns(b);
    case OP_EVICT:
        return evict_check(b);
    case OP_BEGIN:
        return begin_items(b);
    case OP_WRITE:
        return write_items(b);
    case OP_COMMIT:
    case OP_ABORT:
        return finish_items(b);
    case OP_PIN:
    case OP_UNPIN:
    case OP_TOUCH:
    case OP_PREFETCH:
    case OP_KINDS:
        break;
    }
    return 0;
}

int items_build(struct batch *b)
{
    if (b->op == OP_EVICT && evict_select(b))
        return -1;
    if (option_given(b, O_keys) && !option_tuple(b, O_keys))
        return -1;
    if (keys_count(b) || items_alloc(b) ||
        (b->select != PIKV_SCOPE && keys_fill(b)))
        return -1;
    return items_rest(b);
}
