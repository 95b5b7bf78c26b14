/* SPDX-License-Identifier: Apache-2.0
 *
 * The SSDs between lanes. Each SSD has one owner lane, which has its log
 * (store/seglog.h); every lane has a disk of its own and reads payloads itself.
 * What else a lane wants of a log goes to its owner by mail and comes back.
 *
 *   store (lane a) --submit--> ssd_link --own log------> seglog_submit
 *                                  |
 *                                  +-- mail, owner b --> seglog_submit
 *                 <-- done -- mail, lane a <---------------- done
 *
 *   log (lane b) --reclaim--> mail to every lane --> store_reclaim
 *                <-- seglog_reclaimed -- when the last mail is back
 *
 *   log (lane b) --FAILED, RETIRED--> mail to every lane --> store_ssd_lost
 *
 * Invariants
 *  1. Of one lane's requests at most SSD_LINK_REQS are with other lanes; the
 *     rest waits here, in order. With one header page shown by a log at a time
 *     that bounds the mail: see SSD_LINK_MAIL, what a mailbox must have room
 *     for. So a post never fails.
 *  2. A request's done runs on the thread of the lane that submitted it, never
 *     inside the submit.
 *  3. struct ssd_node is made before the lanes and outlives them; of it, map
 * and why are read by every thread, the rest does not change.
 *
 * Recovery and closing read and fill the stores of all lanes directly: one
 * thread turns all of them then (ssd_boot.c, tests). */
#ifndef SERVER_SSD_LINK_H
#define SERVER_SSD_LINK_H

#include "server/config.h"
#include "store/mover.h"

struct lane;
struct ssd_link;
struct ctl_ask;

enum { SSD_LINK_REQS = 256 };

/* Requests that come, requests that return; headers shown, and back from all;
 * lost devices, and back. */
#define SSD_LINK_MAIL(lanes)                                                   \
    ((uint32_t)(lanes) * (SSD_LINK_REQS + 2 * DISK_DEVS) + SSD_LINK_REQS +     \
     2 * DISK_DEVS)

struct ssd_dev {
    char path[CONFIG_STRING];
    const char *engine; /* static */
    uint64_t bytes;
    bool is_file; /* its space stays reserved: no discards */
    struct seg_map map;
    const char *why; /* atomic; of READ_ONLY, FAILED: static text, or "" */
};

/* The SSDs of this process. */
struct ssd_node {
    uint32_t n;
    struct ssd_dev devs[DISK_DEVS];
    struct lane *const *lanes;
    uint32_t lane_n;
};

static inline uint32_t ssd_owner(const struct ssd_node *node, uint32_t dev)
{
    return dev % node->lane_n;
}

/* Words for enum seglog_state: open, read_only, ... */
const char *ssd_state_name(enum seglog_state state);

/* A mail of an owner to one lane and back. */
struct ssd_ask {
    struct mail mail;
    struct ssd_link *owner;
    uint32_t dev, lane;
    bool out;   /* not back yet */
    bool again; /* to be sent once more when it is */
};

struct ssd_log { /* of one device, at its owner */
    struct ssd_link *link;
    uint32_t dev;
    struct seglog *log; /* NULL: owned by another lane */
    /* Opening: told by the log. */
    bool opened, closed;
    enum err err;
    struct errmsg msg;
    struct ctl_ask *asked; /* who is told that the opening has ended */
    /* Closing: how far the checkpoint got. */
    uint32_t check_lane;
    uint64_t cursor;
    /* The header shown. */
    struct seg_reclaim shown;
    uint32_t shown_left;
};

struct ssd_link {
    struct ssd ssd; /* what the store has; n 0: no SSD */
    struct ssd_node *node;
    struct lane *lane;
    struct ssd_log logs[DISK_DEVS];
    uint32_t away;       /* own requests with other lanes */
    struct list waiting; /* seg_req.node: own ones that have no room yet */
    struct ssd_ask *shows, *losts; /* [dev * lanes + lane] */
};

/* disk: the lane's own over all devices of the node; both stay the caller's
 * and outlive the lane. The store is told; no block is there yet. What was done
 * before an error lane_fini undoes. */
must_check enum err ssd_link_init(struct ssd_link *k, struct lane *l,
                                  struct ssd_node *node, struct disk *disk);
/* Logs are closed. Accepts zeros. */
void ssd_link_fini(struct ssd_link *k);
/* A LIVE setting changed. */
void ssd_link_config(struct ssd_link *k, const struct config *c);

/* Makes the log of a device that this lane owns and begins to open it; ends
 * with logs[dev].opened, err and msg. Error: no memory or too small. */
must_check enum err ssd_link_open(struct ssd_link *k, uint32_t dev,
                                  enum seglog_open_how how,
                                  const uint8_t uuid[16], struct errmsg *m);
/* Begins to close the logs of this lane; all lanes must have stopped working,
 * see above. Ends with ssd_link_closed. */
void ssd_link_close(struct ssd_link *k, bool checkpoint);
bool ssd_link_closed(const struct ssd_link *k);
/* Nothing is in flight on the disk, nothing away. */
bool ssd_link_quiet(const struct ssd_link *k);

/* Completions and ticks: bounded, true if there is more now. */
bool ssd_link_turn(struct ssd_link *k);
/* At the end of a turn: what it submitted is begun now, not in the next one. */
bool ssd_link_flush(struct ssd_link *k);
uint64_t ssd_link_next_ns(const struct ssd_link *k);

#endif
