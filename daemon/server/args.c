/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line of pikvd. What is wrong with it is one line on stderr and
 * exit status 64 (EX_USAGE). */
#include "server/args.h"

#include <getopt.h>
#include <stdio.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "server/explain.h"
#include "server/files.h"

#ifndef PIKV_VERSION
#define PIKV_VERSION "0"
#endif

const char args_version[] = PIKV_VERSION;

static const char help_text[] =
    "pikvd: a KV-cache server for LLM inference\n"
    "\n"
    "  --config FILE    read settings from FILE, then from conf.d/*.json\n"
    "                   beside it (default: built-in settings)\n"
    "  --set KEY=VALUE  one setting, over all others; may be repeated\n"
    "  --check-config   check the settings and exit: 0 or 78\n"
    "  --dump-config    print the settings in effect and who set them\n"
    "  --print-schema   print the JSON Schema of a configuration file\n"
    "  --explain TOPIC  print reference: " EXPLAIN_TOPICS "\n"
    "  --version, --help\n";

int args_usage(const char *why, const char *what)
{
    fprintf(stderr, "pikvd: %s%s; pikvd --help lists what there is\n", why,
            what);
    return EX_USAGE;
}

int args_parse(struct args *args, int argc, char **argv)
{
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'},
        {"set", required_argument, NULL, 's'},
        {"check-config", no_argument, NULL, 'C'},
        {"dump-config", no_argument, NULL, 'D'},
        {"print-schema", no_argument, NULL, 'S'},
        {"explain", required_argument, NULL, 'E'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "c:h", longs, NULL)) != -1) {
        if (c == 'c')
            args->config = optarg;
        else if (c == 's' && args->set_n == ARGS_SETS_MAX)
            return args_usage("too many --set", "");
        else if (c == 's')
            args->sets[args->set_n++] = optarg;
        else if (c == 'C')
            args->mode = ARGS_CHECK_CONFIG;
        else if (c == 'D')
            args->mode = ARGS_DUMP_CONFIG;
        else if (c == 'S')
            args->mode = ARGS_PRINT_SCHEMA;
        else if (c == 'E')
            args->mode = ARGS_EXPLAIN, args->topic = optarg;
        else if (c == 'V')
            return puts("pikvd " PIKV_VERSION) < 0;
        else if (c == 'h')
            return fputs(help_text, stdout) < 0;
        else
            return EX_USAGE;
    }
    if (optind < argc)
        return args_usage("not an option: ", argv[optind]);
    return -1;
}

enum err args_config(const struct args *args, struct config *c,
                     struct errmsg *m)
{
    struct errmsg ignored = {""};
    enum err e = files_config(c, args->config, environ, &ignored, m);

    for (uint32_t i = 0; i < args->set_n && !e; i++)
        e = config_set_arg(c, args->sets[i], m);
    if (!e)
        e = config_check(c, m);
    if (!e && ignored.text[0])
        LOG(LOG_WARN, "environment_ignored", "names=%s", LOG_STR(ignored.text));
    return e;
}

enum err args_config_here(const struct args *args, struct config *c,
                          struct errmsg *m)
{
    enum err e = args_config(args, c, m);

    if (!e && !c->node.name[0] &&
        gethostname(c->node.name, sizeof(c->node.name) - 1) != 0)
        snprintf(c->node.name, sizeof(c->node.name), "pikvd");
    return e;
}
