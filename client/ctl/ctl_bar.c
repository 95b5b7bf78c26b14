/* SPDX-License-Identifier: Apache-2.0
 *
 * The progress of a long verb, as one line on the terminal that is written over
 * and wiped in the end:
 *
 *     export [########--------]  52% 1.6GiB of 3.1GiB, 812 blocks, 1240.1 MB/s,
 *     0:01 left
 *
 * Only where standard error is a terminal and --quiet is not given. There is
 * one bar in the process; ctl_fail() wipes it before it says anything. */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "client/ctl/ctl.h"

enum { CELLS = 24, COLUMNS = 80 };
static const double every_s = 0.1;

static struct {
    const char *verb; /* NULL: no bar is wanted */
    bool shown;
    double began, last;
} bar;

void bar_begin(const struct ctl *c, const char *verb)
{
    bar_end();
    bar.verb = c->opt[OPT_QUIET] || !isatty(STDERR_FILENO) ? NULL : verb;
    bar.began = link_now_s();
    bar.last = 0;
}

static void bar_cells(char out[CELLS + 1], double part)
{
    int full = (int)(part * CELLS);

    for (int i = 0; i < CELLS; i++)
        out[i] = i < full ? '#' : '-';
    out[CELLS] = '\0';
}

static void bar_print(uint64_t done, uint64_t total, uint64_t blocks,
                      double seconds)
{
    double part = total ? (double)done / (double)total : 0;
    double rate = seconds > 0 ? (double)done / seconds : 0;
    uint64_t left_s = rate > 0 ? (uint64_t)((double)(total - done) / rate) : 0;
    char cells[CELLS + 1], have[32], all[32], line[256];
    struct winsize w = {0};
    int columns = COLUMNS;

    bar_cells(cells, part);
    snprintf(line, sizeof(line),
             "%s [%s] %3d%% %s of %s, %llu blocks, %.1f MB/s, %llu:%02llu left",
             bar.verb, cells, (int)(part * 100),
             top_human(done, have, sizeof(have)),
             top_human(total, all, sizeof(all)), (unsigned long long)blocks,
             rate / 1e6, (unsigned long long)left_s / 60,
             (unsigned long long)left_s % 60);
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 1)
        columns = w.ws_col;
    fprintf(stderr, "\r%.*s\033[K", columns - 1, line);
    fflush(stderr);
}

void bar_show(uint64_t done, uint64_t total, uint64_t blocks)
{
    double now = link_now_s();

    if (!bar.verb || now - bar.last < every_s)
        return;
    bar.last = now;
    bar.shown = true;
    bar_print(done, max_u64(done, total), blocks, now - bar.began);
}

void bar_end(void)
{
    if (bar.shown) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    bar.shown = false;
    bar.verb = NULL;
}
