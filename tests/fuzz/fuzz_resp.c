/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as what a Redis client sends: arguments lie within what came, and
 * the commands do not depend on how the bytes were cut. The first byte says how
 * they are; the second, where patterns and numbers are looked at, too. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/resp_feed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void words(const uint8_t *p, size_t n)
{
    size_t half = n / 2;
    uint64_t u;
    int64_t i;

    if (resp_u64(p, n, &u))
        MUST(n && n <= 20);
    if (resp_int(p, n, &i) && p[0] != '-')
        MUST(i >= 0);
    (void)resp_is(p, n, "get");
    (void)resp_match(p, half, p + half, n - half);
    MUST(resp_match((const uint8_t *)"*", 1, p, n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct resp_feed whole, cut;
    size_t step;

    if (size == 0)
        return 0;
    step = (size_t)(data[0] & 0x3f) + 1;
    data++;
    size--;
    words(data, size < 2048 ? size : 2048);
    resp_feed_init(&whole);
    resp_feed_init(&cut);
    resp_feed(&whole, data, size);
    for (size_t at = 0; at < size; at += step)
        resp_feed(&cut, data + at, size - at < step ? size - at : step);
    MUST(whole.log_len == cut.log_len);
    MUST(memcmp(whole.log, cut.log, whole.log_len) == 0);
    return 0;
}
