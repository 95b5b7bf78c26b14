/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the puller, for puller*.c only (puller.h has the picture).
 *
 *  1. Everything but what a job in a worker's hands names belongs to the
 *     puller's thread.
 *  2. A link is not closed while link.users > 0: jobs and hauls count.
 *  3. A page lives as long as a haul names it (page.refs).
 *  4. A want is in p->pulls from the lane's post to its answer, once. */
#ifndef SERVER_PULLER_IMPL_H
#define SERVER_PULLER_IMPL_H

#include <pthread.h>

#include "client/pikv.h"
#include "pikv.pb-c.h"
#include "server/puller.h"

enum {
    PULLER_WORKERS = 3,
    PULLER_SPACES = 256, /* namespaces of a link */
    PULLER_HAULS = 10,
    PULLER_MOVING = 8,     /* of them for moves; the others are wants' */
    PULLER_KEYS = 64,      /* of a haul */
    PULLER_HAUL = 8 << 20, /* bytes of a haul; a longer block goes alone */
    PULLER_BIGS = 2,       /* of those at a time */
    PULLER_TRIES = 5,      /* passes over a slot whose source answers */
    PULLER_PAGES = 2,
    PULLER_LOOK_MS = 100,
    PULLER_COPY_MS = 2000,  /* copies are begun so long after a new view */
    PULLER_IDLE_MS = 30000, /* a link nobody uses is closed */
    PULLER_BACKOFF_MS = 50,
    PULLER_BACKOFF_MAX_MS = 2000,
};

/* ---- jobs: what blocks, by workers ---- */

struct job {
    struct list node;
    struct mail mail;           /* back to the puller: fn is run there */
    void (*run)(struct job *j); /* a worker */
    struct puller *p;
    int err;
};

/* ---- links ---- */

enum space_state { SPACE_NONE, SPACE_OPENING, SPACE_OPEN };

struct space {
    char name[PULLER_NAME];
    enum space_state state;
    uint32_t id;     /* of the handle */
    uint32_t serial; /* p->serial when it was opened: an older one is NONE */
    uint64_t retry_ns;
    int err; /* of the last attempt */
};

enum link_state { LINK_NONE, LINK_OPENING, LINK_OPEN, LINK_CLOSING };

struct link {
    struct puller *p;
    struct list node; /* p->links */
    uint16_t node_idx;
    enum link_state state;
    char addr[2][NODE_ADDR_MAX]; /* shm first */
    uint32_t addr_n, addr_i;
    bool no_shm; /* it is another user's */
    struct pikv *kv;
    uint32_t lanes, users;
    uint64_t block_bytes_max;
    uint64_t retry_ns, backoff_ns, used_ns;
    struct space spaces[PULLER_SPACES];
    uint32_t space_n;
    struct list wants; /* struct pull, not asked for yet */
};

/* ---- slots ---- */

enum slot_state { SLOT_IDLE, SLOT_DUE, SLOT_BUSY, SLOT_DONE };

struct slot_job {
    uint8_t why; /* enum moves_why */
    uint8_t copies_min, state, tries;
    uint16_t source;
    uint32_t away_s; /* not 0: this node is no holder since then */
};

/* ---- a pass: all of one source that is wanted, lane by lane ---- */

struct page {
    Pikv__ListReply *msg;
    uint32_t refs;
    uint32_t space, row; /* the next to take */
};

struct pass {
    bool active;
    struct link *link;
    uint8_t copies_min;
    uint64_t slots[MOVES_WORDS];
    uint64_t min_epoch; /* of the source's view at least */
    uint32_t lane;
    uint64_t cursor;
    bool listing, listed; /* a LIST is under way; there are no more */
    struct page *pages[PULLER_PAGES]; /* the first is being taken from */
    uint32_t page_n;
    uint32_t hauls;
    bool broken;  /* the link, or its view: not counted as a try */
    bool partial; /* some block could not be brought now */
};

/* ---- hauls ---- */

enum haul_state {
    HAUL_FREE,
    HAUL_ASKED, /* kept for wants whose LIST is under way */
    HAUL_LOOKUP,
    HAUL_HELD,
    HAUL_GET,
    HAUL_PUT,
};

struct pull;

struct haul {
    struct puller *p;
    struct pass *pass; /* NULL: of wants */
    enum haul_state state;
    struct link *link;
    struct page *page;
    const Pikv__ListSpace *space;
    uint32_t from_ns, own_ns; /* handles' ids */
    uint32_t serial;
    uint32_t n;
    const Pikv__ListBlock *rows[PULLER_KEYS];
    struct pull *pulls[PULLER_KEYS]; /* wants' */
    bool live[PULLER_KEYS];          /* goes on to the next step */
    uint32_t map[PULLER_KEYS];       /* item of the call --> row */
    uint64_t at[PULLER_KEYS];
    uint64_t bytes;
    uint8_t *mem;
    uint64_t mem_bytes;
    int big; /* index of p->bigs, or -1 */
    uint32_t items;
    struct pikv_key keys[PULLER_KEYS];
    struct pikv_get gets[PULLER_KEYS];
    struct pikv_put puts[PULLER_KEYS];
    struct pikv_result got[PULLER_KEYS]; /* by row */
    struct pikv_result results[PULLER_KEYS];
};

struct big { /* memory for a block longer than a haul */
    uint8_t *p;
    uint64_t bytes;
    int fd;
    bool used;
    struct pikv *with; /* the source's handle that knows it, or NULL */
};

/* ---- wants ---- */

struct pull {
    struct list all, node; /* p->pulls; link->wants */
    struct puller_want *w;
    struct haul *b; /* or NULL */
    uint32_t row;
    const void *job; /* that asks for it, or NULL */
};

struct puller {
    struct puller_cfg cfg;
    struct moves moves;
    struct mailbox mailbox;
    int wake_fd;
    pthread_t thread, workers[PULLER_WORKERS];
    uint32_t worker_n;
    bool started;

    pthread_mutex_t mu; /* jobs, stop, stopping */
    pthread_cond_t cond;
    struct list jobs;
    bool stop;

    uint64_t now_ns;
    struct view view;
    uint16_t self;
    bool has_view;
    uint32_t serial;      /* +1 with each flush */
    uint64_t flush_epoch; /* of the view that said so last */
    struct slot_job slots[WIRE_SLOTS];
    uint64_t copy_due_ns, second_ns;
    uint64_t look_ns;     /* no pass is to be had before */
    uint32_t source_hand; /* where the search for a pass goes on */

    struct link own;
    struct list links;
    struct pass pass;
    struct haul hauls[PULLER_HAULS];
    uint8_t *mem; /* PULLER_HAULS x PULLER_HAUL; a memfd */
    int mem_fd;
    struct big bigs[PULLER_BIGS];
    bool no_durable; /* there is no SSD here */
    int64_t tokens;  /* bytes that may be fetched now */
    uint64_t tokens_ns;
    struct list pulls;
    struct puller_stats stats; /* atomic words */
};

static inline void stat_add(uint64_t *word, uint64_t n)
{
    __atomic_fetch_add(word, n, __ATOMIC_RELAXED);
}

/* puller.c */
uint64_t puller_now_ns(void);
void puller_job(struct puller *p, struct job *j, mail_fn *done);

/* puller_slots.c */
void slots_view(struct puller *p, const struct view *v, uint16_t self);
void slots_tick(struct puller *p); /* once a second */
/* Fills p->pass with what is to do of some source that can be asked. */
bool slots_pass(struct puller *p);
void slots_done(struct puller *p, const struct pass *s);

/* puller_link.c */
must_check enum err link_init(struct puller *p, struct link *l, uint16_t node);
/* The link to a node; opens it in the background. NULL: no memory, or no
 * address. Usable when its state is OPEN. */
struct link *link_get(struct puller *p, uint16_t node);
void link_want_open(struct link *l);
void link_failed(struct link *l, int err); /* backs off */
void link_tick(struct puller *p);
void link_close_all(struct puller *p);
/* The namespace in the link's handle; opens it in the background, with what
 * open says (NULL: it must be there). NULL: not yet; *err_out not 0: nor soon.
 */
const struct space *link_space(struct link *l, const char *name,
                               const Pikv__Open *open, int *err_out);
/* Not valid any more (STALE_GENERATION). */
void link_space_stale(struct link *l, uint32_t id);
/* One LIST, by a worker: request is malloc'ed and taken over. */
struct list_job {
    struct job job;
    struct link *link;
    uint32_t lane;
    uint8_t *request;
    size_t request_len;
    Pikv__ListReply *reply; /* the receiver's; NULL if err */
};
void link_list(struct list_job *j, mail_fn *done);

/* puller_pass.c */
void pass_tick(struct puller *p);
void page_unref(struct page *g);

/* puller_copy.c */
struct haul *haul_new(struct puller *p, bool want);
/* Rows, page, space, ids are set. A haul of wants does not look here first. */
void haul_start(struct haul *b);
void haul_completion(struct puller *p, const struct pikv_completion *c);
void haul_tick(struct puller *p); /* those that wait for the rate */
bool haul_row_good(const Pikv__ListBlock *r, uint64_t block_bytes_max);
bool haul_mem(struct haul *b, uint64_t bytes);
must_check enum err copy_memory(struct puller *p);
void copy_memory_free(struct puller *p);
/* At the end, when the links are closed: what was under way. */
void hauls_forget(struct puller *p);
/* The handle is about to be closed. */
void copy_memory_forget(struct puller *p, const struct pikv *kv);

/* puller_want.c */
mail_fn want_take;
void want_tick(struct puller *p);
void want_answer(struct pull *x, enum err e);
void want_end_all(struct puller *p, enum err e);

#endif
