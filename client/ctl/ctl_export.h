/* SPDX-License-Identifier: Apache-2.0
 *
 * What export and import share: the blocks of a lane in order, batches in
 * registered memory, and trying again. One thread. */
#ifndef CTL_CTL_EXPORT_H
#define CTL_CTL_EXPORT_H

#include "client/ctl/block_file.h"
#include "client/ctl/ctl.h"

/* ---- ctl_export_list.c ---- */

struct export_item {
    uint64_t off; /* of its record in records */
    uint64_t version;
    uint32_t mark, next; /* list_order's */
};

struct export_list {
    uint8_t *records;
    size_t record_n, record_cap;
    struct export_item *items;
    uint32_t item_n, item_cap;
    uint64_t bytes;  /* of the blocks */
    uint32_t *order; /* items, parents first */
    uint32_t *table;
    uint64_t mask;
};

/* False: no memory. */
bool list_add(struct export_list *l, const Pikv__BlockInfo *b);
bool list_order(struct export_list *l);
/* Aligned, followed by its names; moves when the list grows. */
struct bf_rec *list_rec(const struct export_list *l, uint32_t i);
void list_fini(struct export_list *l); /* zeros are fine */

/* ---- ctl_bulk.c ---- */

enum {
    BULK_ITEMS = 256,
    BULK_BYTES = 32 << 20, /* of a batch, or one larger block */
    BULK_DEADLINE_US = 30 * 1000 * 1000,
};

/* Memory for the bytes of a batch, known to the daemon. */
struct bulk_mem {
    uint8_t *p;
    size_t cap, used;
};

/* Room for n bytes more; NULL: full (or no memory, if it is empty). It may be
 * enlarged only while it is empty. */
uint8_t *bulk_room(struct ctl *c, struct bulk_mem *m, uint64_t n);
void bulk_free(struct ctl *c, struct bulk_mem *m);
/* Is the same call worth another try? Waits a little longer each time. */
bool bulk_again(int status, uint32_t *tries);
/* The deadline of this verb's calls, unless --deadline said one. */
void bulk_deadline(struct ctl *c);

/* A namespace of the daemon as one of libpikv; d points into m. */
struct bulk_space {
    Pikv__NamespaceReply *m;
    struct pikv_namespace d;
    struct pikv_group groups[BF_GROUPS];
};

/* That of --namespace. CTL_OK with a code such as NO_NAMESPACE is the caller's
 * to judge; to be given to bulk_space_fini only if the code is 0. */
int bulk_space_find(struct ctl *c, struct bulk_space *out, int *code_out);
void bulk_space_fini(struct bulk_space *s);

#endif
