/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the Python extension pikv._pikv: what its files share. It is
 * libpikv for Python and no more: every rule of client/pikv.h holds, the rest
 * of the package (client/python/pikv) is Python on top of the types here.
 *
 *     Handle      one struct pikv; base of pikv.Client      handle.c
 *      +- Calls   one namespace; base of pikv.Namespace     calls.c, space.c
 *      |   +- batch    one call while it is built           options.c, items.c
 *      |   +- flight   one call submitted and not taken     flight.c
 *      |        +- hold     a buffer that it reads or writes
 *      |        +- Results  its struct pikv_result array    results.c
 *      +- Memory, Registration, layouts                     memory.c
 *      +- Loans                                             loan.c
 *      +- Events  a subscription                            events.c
 *
 *     batch:  options -> keys -> buffers -> submitted -> freed
 *     flight: NEW -> SUBMITTED -> taken (drain, poll, wait, a waiting call)
 *                        |
 *                        +-- close: given back after pikv_close
 *
 * Invariants
 *  1. All of this is guarded by the GIL. It is let go around waiting, opening,
 *     closing and large copies; what is touched then belongs to one batch.
 *  2. A flight holds every buffer of its call (Py_buffer or reference) until
 *     the completion is taken, or pikv_close has returned.
 *  3. libpikv never sees a pointer to a flight: `user` is slot and generation,
 *     looked up again. A completion that comes late finds nothing.
 *  4. handle->users counts threads inside libpikv; pikv_close waits for zero.
 *     In a forked child nobody is inside, whatever the count says.
 *  5. Memory that Python may still view is never unmapped: Memory maps its
 *     memfd itself and outlives the handle; a handle with views of loans does
 *     not close.
 *  6. libpikv never calls into Python, so its lock may be taken with the GIL.
 *
 * Errors: a call that never reaches libpikv raises TypeError or ValueError with
 * the argument, the index and what to do; what libpikv answers for a whole call
 * raises its class of pikv.errors. */
#ifndef PIKVPY_H
#define PIKVPY_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <structmember.h>

#include "client/pikv.h"

enum {
    KEY_MAX = 1024,
    ROUTE_MAX = 32,
    SCOPE_BYTES = 16,
    LABELS = 4,
    ITEMS_MAX = 1 << 24,
    GIL_BYTES = 64 << 10, /* larger copies are made without the GIL */
};

/* What a call may be given, by name; the first ones by position as well. */
#define OPTIONS(X)                                                             \
    X(keys)                                                                    \
    X(values)                                                                  \
    X(buffers)                                                                 \
    X(lengths)                                                                 \
    X(tokens)                                                                  \
    X(offsets)                                                                 \
    X(writer)                                                                  \
    X(writers) X(open_ms) X(parents) X(labels) X(pages) X(token_ends)          \
        X(token_ns) X(crc32c) X(route) X(routes) X(scope) X(group) X(cls)      \
            X(affinity) X(priority) X(replicas) X(ttl_ms) X(pin_ttl_ms)        \
                X(durable) X(layout) X(tag) X(deadline_ms) X(if_versions)      \
                    X(verify) X(parts) X(soft_ms) X(loan) X(cols) X(columns)   \
                        X(promote) X(select) X(label) X(demote) X(cap_mib)     \
                            X(trace)

enum option {
#define OPTION(name) O_##name,
    OPTIONS(OPTION)
#undef OPTION
        OPTION_N
};

enum op {
    OP_PUT,
    OP_GET,
    OP_LOOKUP,
    OP_EXISTS,
    OP_EVICT,
    OP_PIN,
    OP_UNPIN,
    OP_TOUCH,
    OP_PREFETCH,
    OP_BEGIN,
    OP_WRITE,
    OP_COMMIT,
    OP_ABORT,
    OP_KINDS
};

struct state {
    PyTypeObject *handle, *calls, *results, *memory, *registration, *loan,
        *events;
    PyTypeObject *result, *completion, *lookup, *info, *event, *explanation;
    PyObject *errors; /* code -> class; given by pikv.errors */
    PyObject *names[OPTION_N];
};

/* A buffer that a call uses: a view, or a reference to what owns an address. */
struct hold {
    Py_buffer view;
    PyObject *ref;
};

struct results {
    PyObject_HEAD struct state *st;
    struct handle *handle; /* only with loans in it */
    uint32_t ns;
    Py_ssize_t n;
    struct pikv_result *r;
};

struct flight {
    uint64_t token; /* slot + 1, generation << 32: what libpikv carries */
    enum op op;
    bool sync, taken; /* a waiting call; its completion was found by a drain */
    bool loan;
    bool whole; /* GET of whole blocks: less than that is TOO_SMALL */
    struct pikv_completion done;
    struct results *results;
    PyObject *stops, *tag;
    uint32_t hold_n, hold_cap;
    struct hold *holds;
};

struct handle {
    PyObject_HEAD struct state *st;
    struct pikv *kv; /* NULL: not open, or closed */
    int users;
    bool closing;
    uint32_t loan_views;
    struct flight **flights; /* by slot */
    uint32_t *free_slots;
    uint32_t flight_cap, free_n, generation;
    struct events *events; /* open subscriptions */
};

struct calls {
    PyObject_HEAD struct handle *handle;
    uint32_t ns;
};

struct events {
    PyObject_HEAD struct handle *handle;
    struct pikv_events *ev; /* NULL: closed */
    bool busy;              /* a thread is in next() */
    struct events *next;    /* handle->events */
};

/* One call while it is built; lives on the stack of calls.c. */
struct batch {
    struct state *st;
    enum op op;
    PyObject *o[OPTION_N];    /* borrowed from the caller */
    PyObject *refs[OPTION_N]; /* tuples of what came as other sequences */
    uint32_t ref_n;
    uint32_t n;
    void *items; /* struct pikv_put, _get, _key, _begin, _write or _finish;
                  * the key is first in each */
    size_t stride;
    uint32_t *crcs;
    struct pikv_buf *iov;
    uint32_t iov_n, iov_cap;
    uint64_t bytes; /* in the buffers */
    uint32_t cols, positions;
    struct pikv_column *columns;
    uint8_t *stops; /* of the flight */
    enum pikv_select select;
    uint64_t label;
    uint32_t cap_mib;
    struct pikv_call call;
    struct flight *flight;
};

/* A value per item, or one for all. */
struct column {
    enum option option;
    PyObject *tuple; /* borrowed from batch->refs; NULL: all */
    uint64_t all, max;
};

/* One bytes value for all items, or a tuple of one each. */
struct texts {
    enum option option;
    PyObject *tuple;
    struct pikv_bytes all;
    size_t min, max;
};

/* module.c */
struct state *state_of(PyTypeObject *type);
/* Raises the class of a code; text may be NULL. Returns NULL. */
PyObject *raise_code(struct state *st, int code, const char *text,
                     struct results *results);
/* Raises kind with "ARGUMENT[i]: ..." (i < 0: "ARGUMENT: ..."). Returns -1. */
int refuse(PyObject *kind, enum option argument, Py_ssize_t i, const char *fmt,
           ...) __attribute__((format(printf, 4, 5)));
const char *option_name(enum option o);
/* Converters of "O&": an int, refused where it does not fit. */
int as_u32(PyObject *v, void *out);
int as_u64(PyObject *v, void *out);
PyObject *structseq_type(PyObject *module, PyStructSequence_Desc *desc);
const char *type_name(PyObject *o, char *buf, size_t cap);
enum { TYPE_NAME = 80 };

/* options.c */
const char *op_name(enum op op);
/* Positional and named arguments into b->o. */
int options_take(struct batch *b, PyObject *const *args, Py_ssize_t n,
                 PyObject *kwnames);
bool option_given(const struct batch *b, enum option o);
int option_bool(const struct batch *b, enum option o, bool *out);
int option_uint(const struct batch *b, enum option o, uint64_t max,
                uint64_t *out);
/* A sequence as a tuple, borrowed; NULL with an error set. */
PyObject *option_tuple(struct batch *b, enum option o);
int column_open(struct batch *b, enum option o, uint64_t max,
                struct column *out);
int column_at(const struct column *c, uint32_t i, uint64_t *out);
bool is_number(PyObject *v);
int uint_of(PyObject *v, enum option o, Py_ssize_t i, uint64_t max,
            uint64_t *out);
/* struct pikv_call from what was given. */
int options_call(struct batch *b);

/* keys.c */
int texts_open(struct batch *b, enum option o, size_t min, size_t max,
               struct texts *t);
int texts_at(const struct texts *t, uint32_t i, struct pikv_bytes *out);
int keys_count(struct batch *b);
int keys_fill(struct batch *b);
int keys_scope(struct batch *b); /* EVICT of a scope: one key carries it */

/* items.c: the whole item array. */
int items_build(struct batch *b);
/* buffers.c: the bytes of v, held by the flight. */
int buffer_take(struct batch *b, PyObject *v, enum option o, Py_ssize_t i,
                bool writable, struct pikv_buf *out, uint32_t *iov_n_out,
                uint32_t *iov_first_out);
/* Of one object outside a call (register); view->obj NULL: it was an address
 * or has one. ref_out: what owns it, or NULL. */
int buffer_open(PyObject *v, enum option o, Py_ssize_t i, bool writable,
                struct hold *out, struct pikv_buf *bytes_out);
int bytes_of(PyObject *v, enum option o, Py_ssize_t i, size_t min, size_t max,
             struct pikv_bytes *out);
bool buffer_room(struct batch *b, uint32_t more);

/* flight.c */
struct flight *flight_new(struct handle *h, enum op op);
bool flight_reserve(struct flight *f, uint32_t more);
void flight_free(struct handle *h, struct flight *f);
struct flight *flight_find(struct handle *h, const void *user);
void flight_free_all(struct handle *h);
void *flight_user(const struct flight *f);
/* With the answers there: what libpikv does not know to say. */
void flight_answered(struct flight *f);
/* Its results are about to leave the handle: their loans need it. */
void flight_lends(struct handle *h, struct flight *f);
/* The Completion of what libpikv gave; NULL with an error, or without one when
 * it is nobody's. */
PyObject *flight_take(struct handle *h, const struct pikv_completion *c);

/* handle.c */
extern PyType_Spec handle_spec;
/* The libpikv handle with this thread counted in; NULL: error set. */
struct pikv *handle_enter(struct handle *h);
void handle_leave(struct handle *h);
/* As handle_enter, of a handle that may be closing. */
void handle_count(struct handle *h);
bool handle_forked(const struct handle *h);

/* results.c */
extern PyType_Spec results_spec;
extern PyStructSequence_Desc result_desc, completion_desc, lookup_desc;
struct results *results_new(struct state *st, uint32_t n);
PyObject *results_hits(struct results *r);
PyObject *completion_new(struct state *st, const struct flight *f,
                         const struct pikv_completion *c);
PyObject *lookup_new(struct state *st, uint32_t prefix, struct results *r,
                     PyObject *stops);

/* calls.c, space.c */
extern PyType_Spec calls_spec;
extern PyStructSequence_Desc info_desc, explanation_desc;
PyObject *handle_open_namespace(PyObject *self, PyObject *args);
PyObject *handle_info(PyObject *self, PyObject *unused);
PyObject *calls_explain(PyObject *self, PyObject *args);
PyObject *calls_session(PyObject *self, PyObject *args);
PyObject *calls_bump(PyObject *self, PyObject *args);

/* memory.c */
extern PyType_Spec memory_spec, registration_spec;
PyObject *handle_alloc(PyObject *self, PyObject *args);
PyObject *handle_register(PyObject *self, PyObject *args);
PyObject *handle_layout(PyObject *self, PyObject *args);
PyObject *handle_layout_free(PyObject *self, PyObject *args);

/* loan.c */
extern PyType_Spec loan_spec;
PyObject *results_loan(PyObject *self, PyObject *args);
void loans_release(struct results *r);

/* events.c */
extern PyType_Spec events_spec;
extern PyStructSequence_Desc event_desc;
void events_shut(struct events *e);

/* stats.c */
PyObject *handle_stats(PyObject *self, PyObject *unused);
PyObject *handle_nodes(PyObject *self, PyObject *unused);

#define METHOD_FAST(fn) ((PyCFunction)(void (*)(void))(fn))

#endif
