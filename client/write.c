/* SPDX-License-Identifier: Apache-2.0
 *
 * One block by several writers: what pikv.h says of it, as requests like all
 * others. The daemon keeps who writes what; here is nothing to remember but the
 * token, and that is the caller's.
 *
 *     pikv_put_begin    key, length, attributes --> token
 *     pikv_put_write    token, range, bytes; by the ways of a PUT's bytes:
 *                       registered memory, staging, data messages (ucx)
 *     pikv_put_commit   token, number of the writer
 *     pikv_put_abort    token
 *
 * The key goes along each time: it names the lane that has the block. A lane's
 * connection that ends takes the handle's open blocks there with it, so a
 * token of before answers MISS after it. */
#include "client/call.h"

int pikv_put_begin(struct pikv *kv, uint32_t ns, const struct pikv_begin *items,
                   uint32_t n, const struct pikv_call *call,
                   struct pikv_result *results, uint64_t *id_out)
{
    struct request r = {.op = OP_PUT_BEGIN,
                        .ns = ns,
                        .n = n,
                        .items = items,
                        .stride = sizeof(*items),
                        .begins = items,
                        .call = call,
                        .results = results};

    return data_submit(kv, &r, false, id_out);
}

int pikv_put_write(struct pikv *kv, uint32_t ns, const struct pikv_write *items,
                   uint32_t n, const struct pikv_call *call,
                   struct pikv_result *results, uint64_t *id_out)
{
    struct request r = {.op = OP_PUT_WRITE,
                        .ns = ns,
                        .n = n,
                        .items = items,
                        .stride = sizeof(*items),
                        .writes = items,
                        .call = call,
                        .results = results};

    return data_submit(kv, &r, false, id_out);
}

static int finish_submit(struct pikv *kv, uint16_t op, uint32_t ns,
                         const struct pikv_finish *items, uint32_t n,
                         const struct pikv_call *call,
                         struct pikv_result *results, uint64_t *id_out)
{
    struct request r = {.op = op,
                        .ns = ns,
                        .n = n,
                        .items = items,
                        .stride = sizeof(*items),
                        .finishes = items,
                        .call = call,
                        .results = results};

    return data_submit(kv, &r, false, id_out);
}

int pikv_put_commit(struct pikv *kv, uint32_t ns,
                    const struct pikv_finish *items, uint32_t n,
                    const struct pikv_call *call, struct pikv_result *results,
                    uint64_t *id_out)
{
    return finish_submit(kv, OP_PUT_COMMIT, ns, items, n, call, results,
                         id_out);
}

int pikv_put_abort(struct pikv *kv, uint32_t ns,
                   const struct pikv_finish *items, uint32_t n,
                   const struct pikv_call *call, struct pikv_result *results,
                   uint64_t *id_out)
{
    return finish_submit(kv, OP_PUT_ABORT, ns, items, n, call, results, id_out);
}
