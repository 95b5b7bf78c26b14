/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a configuration: refused with a message and nothing changed, or
 * taken, and then what is dumped loads back to the same values. The same bytes
 * also serve as --set and as a variable. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_round_trip(const struct config *c)
{
    const struct config_row *keys[CONFIG_ROWS];
    struct textbuf out = {0};
    struct config again;
    struct errmsg m;

    config_dump(c, CONFIG_DUMP_PLAIN, &out);
    MUST(!out.bad);
    config_defaults(&again);
    MUST(config_load_text(&again, "dump", out.text, out.len, &m) == OK);
    MUST(config_diff(c, &again, keys) == 0);
    (void)!config_check(c, &m);
    free(out.text);
}

static void fuzz_text(const char *text, size_t size)
{
    struct config c, before;
    struct errmsg m = {""};

    config_defaults(&c);
    before = c;
    if (config_load_text(&c, "fuzz.json", text, size, &m) == OK) {
        fuzz_round_trip(&c);
        return;
    }
    MUST(m.text[0] != '\0');
    MUST(memcmp(&c, &before, sizeof(c)) == 0);
}

static void fuzz_set(char *text)
{
    char *env[] = {text, NULL};
    struct config c;
    struct errmsg m = {""}, ignored;

    config_defaults(&c);
    if (config_set_arg(&c, text, &m) == OK)
        fuzz_round_trip(&c);
    config_defaults(&c);
    if (config_load_env(&c, env, &ignored, &m) == OK)
        fuzz_round_trip(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);

    MUST(text);
    memcpy(text, data, size);
    text[size] = '\0';
    fuzz_text((const char *)data, size);
    fuzz_set(text);
    free(text);
    return 0;
}
