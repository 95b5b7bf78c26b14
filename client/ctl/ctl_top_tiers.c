/* SPDX-License-Identifier: Apache-2.0
 *
 * The tiers as `top` shows them: how much they hold, what goes in and out, how
 * many hits they serve, and what holds them back.
 *
 *     dram  bytes_in and bytes_out of clients; hits that needed no SSD
 *     ssd   bytes written and read, re-insertion and headers included; hits
 *           whose bytes came from it. Only where there is one */
#include <stdio.h>

#include "client/ctl/ctl.h"

uint64_t top_counter(const json_t *stat, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(stat, name));
}

/* A restarted daemon counts from 0 again. */
double top_rate(const json_t *before, const json_t *now, const char *name,
                double dt)
{
    uint64_t a = top_counter(before, name), b = top_counter(now, name);

    return dt > 0 ? (double)(b >= a ? b - a : b) / dt : 0;
}

const char *top_human(uint64_t bytes, char *buf, size_t n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t u = 0;

    while (v >= 1024 && u + 1 < countof(units)) {
        v /= 1024;
        u++;
    }
    snprintf(buf, n, u ? "%.1f%s" : "%.0f%s", v, units[u]);
    return buf;
}

static json_t *tier_row(const char *name, uint64_t capacity, uint64_t used,
                        uint64_t blocks)
{
    json_t *o = json_object();

    json_object_set_new(o, "tier", json_string(name));
    json_object_set_new(o, "capacity_bytes", out_u64(capacity));
    json_object_set_new(o, "used_bytes", out_u64(used));
    json_object_set_new(o, "blocks", out_u64(blocks));
    return o;
}

static void tier_rates(json_t *o, double in, double out, double hits)
{
    json_object_set_new(o, "read_mb_s", json_real(out / 1e6));
    json_object_set_new(o, "write_mb_s", json_real(in / 1e6));
    json_object_set_new(o, "hits_s", json_real(hits));
}

/* What holds the SSDs back, the worst first. */
static const char *ssd_state(const json_t *now)
{
    if (top_counter(now, "ssd_devices_down"))
        return "degraded";
    if (top_counter(now, "ssd_binding"))
        return "budget binding";
    return top_counter(now, "ssd_fallback") ? "no io_uring" : "ok";
}

static json_t *ssd_row(const json_t *before, const json_t *now, double dt)
{
    json_t *o = tier_row("ssd", top_counter(now, "ssd_capacity_bytes"),
                         top_counter(now, "ssd_block_bytes"),
                         top_counter(now, "ssd_blocks"));

    tier_rates(o, top_rate(before, now, "ssd_written_bytes", dt),
               top_rate(before, now, "ssd_load_bytes", dt),
               top_rate(before, now, "get_ssd_hits", dt));
    json_object_set_new(o, "state", json_string(ssd_state(now)));
    json_object_set_new(o, "free_bytes",
                        out_u64(top_counter(now, "ssd_free_bytes")));
    json_object_set_new(o, "queued_bytes",
                        out_u64(top_counter(now, "ssd_queued_bytes")));
    json_object_set_new(o, "devices_down",
                        out_u64(top_counter(now, "ssd_devices_down")));
    json_object_set_new(o, "devices_binding",
                        out_u64(top_counter(now, "ssd_binding")));
    return o;
}

json_t *top_tiers(const json_t *before, const json_t *now, double dt)
{
    json_t *rows = json_array();
    json_t *o =
        tier_row("dram", top_counter(now, "dram_capacity_bytes"),
                 top_counter(now, "extent_bytes"), top_counter(now, "blocks"));
    double ssd_hits = top_rate(before, now, "get_ssd_hits", dt);
    double hits = top_rate(before, now, "get_hits", dt);

    tier_rates(o, top_rate(before, now, "bytes_in", dt),
               top_rate(before, now, "bytes_out", dt),
               hits > ssd_hits ? hits - ssd_hits : 0);
    json_object_set_new(o, "state", json_string("ok"));
    json_array_append_new(rows, o);
    if (top_counter(now, "ssd_capacity_bytes") ||
        top_counter(now, "ssd_devices_down"))
        json_array_append_new(rows, ssd_row(before, now, dt));
    return rows;
}

static double real(const json_t *o, const char *name)
{
    return json_real_value(json_object_get(o, name));
}

const char *top_tier_line(const json_t *tier, char *buf, size_t n)
{
    char used[24], capacity[24];

    if (!tier)
        snprintf(buf, n, "%-5s %10s %10s %10s %9s %10s %9s  %s", "TIER",
                 "CAPACITY", "USED", "BLOCKS", "READ MB/S", "WRITE MB/S",
                 "HITS/S", "STATE");
    else
        snprintf(buf, n, "%-5s %10s %10s %10llu %9.1f %10.1f %9.0f  %s",
                 json_string_value(json_object_get(tier, "tier")),
                 top_human(top_counter(tier, "capacity_bytes"), capacity,
                           sizeof(capacity)),
                 top_human(top_counter(tier, "used_bytes"), used, sizeof(used)),
                 (unsigned long long)top_counter(tier, "blocks"),
                 real(tier, "read_mb_s"), real(tier, "write_mb_s"),
                 real(tier, "hits_s"),
                 json_string_value(json_object_get(tier, "state")));
    return buf;
}
