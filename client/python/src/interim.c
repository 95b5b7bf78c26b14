/* SPDX-License-Identifier: Apache-2.0 */
#include "client/python/src/pikvpy.h"
#define W __attribute__((weak))
W int pikv_put_begin(struct pikv *kv, uint32_t ns,
                     const struct pikv_begin *items, uint32_t n,
                     const struct pikv_call *call, struct pikv_result *results,
                     uint64_t *id_out)
{
    (void)kv;
    (void)ns;
    (void)items;
    (void)n;
    (void)call;
    (void)results;
    (void)id_out;
    return PIKV_UNSUPPORTED;
}
W int pikv_put_write(struct pikv *kv, uint32_t ns,
                     const struct pikv_write *items, uint32_t n,
                     const struct pikv_call *call, struct pikv_result *results,
                     uint64_t *id_out)
{
    (void)kv;
    (void)ns;
    (void)items;
    (void)n;
    (void)call;
    (void)results;
    (void)id_out;
    return PIKV_UNSUPPORTED;
}
W int pikv_put_commit(struct pikv *kv, uint32_t ns,
                      const struct pikv_finish *items, uint32_t n,
                      const struct pikv_call *call, struct pikv_result *results,
                      uint64_t *id_out)
{
    (void)kv;
    (void)ns;
    (void)items;
    (void)n;
    (void)call;
    (void)results;
    (void)id_out;
    return PIKV_UNSUPPORTED;
}
W int pikv_put_abort(struct pikv *kv, uint32_t ns,
                     const struct pikv_finish *items, uint32_t n,
                     const struct pikv_call *call, struct pikv_result *results,
                     uint64_t *id_out)
{
    (void)kv;
    (void)ns;
    (void)items;
    (void)n;
    (void)call;
    (void)results;
    (void)id_out;
    return PIKV_UNSUPPORTED;
}
W int pikv_layout_register(struct pikv *kv, const struct pikv_layout *layout,
                           uint32_t *id_out)
{
    (void)kv;
    (void)layout;
    (void)id_out;
    return PIKV_UNSUPPORTED;
}
W int pikv_layout_unregister(struct pikv *kv, uint32_t id)
{
    (void)kv;
    (void)id;
    return PIKV_UNSUPPORTED;
}
W int pikv_events_open(struct pikv *kv, uint32_t ns, const uint64_t *from_seq,
                       struct pikv_events **ev_out)
{
    (void)kv;
    (void)ns;
    (void)from_seq;
    (void)ev_out;
    return PIKV_UNSUPPORTED;
}
W int pikv_events_next(struct pikv_events *ev, struct pikv_event *out, int max,
                       uint32_t wait_ms)
{
    (void)ev;
    (void)out;
    (void)max;
    (void)wait_ms;
    return PIKV_UNSUPPORTED;
}
W void pikv_events_close(struct pikv_events *ev)
{
    (void)ev;
}
