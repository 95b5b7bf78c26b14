/* SPDX-License-Identifier: Apache-2.0
 *
 * main of pikvctl:  pikvctl [OPTIONS] VERB [ARGUMENTS] [OPTIONS]
 *
 * Options may stand anywhere; one that the verb does not take is a usage error,
 * never ignored. Exit status: enum ctl_exit, and pikvd's own for config. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"

const struct ctl_option ctl_options[OPT_N] = {
#define OPT(ID, name, letter, arg, doc) {name, letter, arg, doc},
#include "client/ctl/ctl_options.tbl"
};

static_assert(OPT_N <= 64, "a verb's options are bits of a uint64_t");

static const char help_end[] =
    "\n"
    "KEY is text, or hex: and hex digits. -o json is the form for scripts.\n"
    "Exit status: 0 done, 1 error, 2 wrong usage, 3 not found, 4 no server.\n"
    "pikvctl VERB --help tells about one verb; man pikvctl about all.\n";

/* ---- help ---- */

static void help_options(uint64_t set)
{
    char left[64];

    for (uint32_t i = 0; i < OPT_N; i++) {
        const struct ctl_option *o = &ctl_options[i];

        if (!(set >> i & 1))
            continue;
        snprintf(left, sizeof(left), "%c%c%c --%s%s%s", o->letter ? '-' : ' ',
                 o->letter ? o->letter : ' ', o->letter ? ',' : ' ', o->name,
                 o->arg ? " " : "", o->arg ? o->arg : "");
        printf("  %-28s %s\n", left, o->doc);
    }
}

static int help(void)
{
    char left[64];

    puts("usage: pikvctl [OPTIONS] VERB [ARGUMENTS] [OPTIONS]\n");
    for (uint32_t i = 0; i < ctl_verb_n; i++) {
        const struct verb *v = &ctl_verbs[i];

        snprintf(left, sizeof(left), "%s %s", v->name, v->args);
        printf("  %-38s %s\n", left, v->doc);
    }
    puts("");
    help_options(ctl_options_all);
    fputs(help_end, stdout);
    return CTL_OK;
}

static int help_verb(const struct verb *v)
{
    printf("usage: pikvctl %s %s [OPTIONS]\n\n%s.\n\n", v->name, v->args,
           v->doc);
    help_options(v->options | ctl_options_all);
    return CTL_OK;
}

/* ---- options ---- */

static void option_table(struct option *longs, char *letters)
{
    size_t at = 0;

    letters[at++] = ':'; /* getopt says nothing by itself */
    for (int i = 0; i < OPT_N; i++) {
        const struct ctl_option *o = &ctl_options[i];

        longs[i] = (struct option){
            o->name, o->arg ? required_argument : no_argument, NULL, 256 + i};
        if (!o->letter)
            continue;
        letters[at++] = o->letter;
        if (o->arg)
            letters[at++] = ':';
    }
    longs[OPT_N] = (struct option){0};
    letters[at] = '\0';
}

static int option_of(int letter)
{
    if (letter >= 256)
        return letter - 256;
    for (int i = 0; i < OPT_N; i++)
        if (ctl_options[i].letter == letter)
            return i;
    return -1;
}

static int add_label(struct ctl *c, const char *text)
{
    uint64_t label;
    int s = parse_number("--label", text, UINT64_MAX, &label);

    if (s)
        return s;
    if (label == 0 || c->label_n == CTL_LABELS)
        return ctl_fail(CTL_USAGE, "--label %s: %s", text,
                        label ? "at most four are possible"
                              : "0 means no label; use another number");
    c->labels[c->label_n++] = label;
    return CTL_OK;
}

static int read_options(struct ctl *c, int argc, char **argv)
{
    struct option longs[OPT_N + 1];
    char letters[2 * OPT_N + 2];
    int letter, s = CTL_OK;

    option_table(longs, letters);
    while (!s &&
           (letter = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        int i = option_of(letter);

        if (i < 0)
            return ctl_fail(
                CTL_USAGE, "%s: %s; pikvctl --help", argv[optind - 1],
                letter == ':' ? "an argument is missing" : "no such option");
        c->opt[i] = optarg ? optarg : "";
        if (i == OPT_LABEL)
            s = add_label(c, optarg);
    }
    c->args = argv + optind;
    c->arg_n = (uint32_t)(argc - optind);
    return s;
}

static int check_output(struct ctl *c)
{
    const char *o = c->opt[OPT_OUTPUT];

    if (!o || strcmp(o, "table") == 0)
        return CTL_OK;
    c->json = strcmp(o, "json") == 0;
    return c->json ? CTL_OK
                   : ctl_fail(CTL_USAGE, "-o %s: table or json is possible", o);
}

static int check_deadline(struct ctl *c)
{
    uint64_t us;
    int s = opt_us(c, OPT_DEADLINE, 0, &us);

    if (s)
        return s;
    if (us > UINT32_MAX || (us == 0 && c->opt[OPT_DEADLINE]))
        return ctl_fail(CTL_USAGE, "--deadline %s: 1us to 4294s is possible",
                        c->opt[OPT_DEADLINE]);
    c->call.deadline_us = (uint32_t)us;
    return CTL_OK;
}

/* ---- verbs ---- */

/* How many words of args name the verb; 0: they do not. */
static uint32_t verb_words(const struct verb *v, const struct ctl *c)
{
    size_t n = strcspn(v->name, " ");

    if (strlen(c->args[0]) != n || strncmp(c->args[0], v->name, n) != 0)
        return 0;
    if (!v->name[n])
        return 1;
    return c->arg_n > 1 && strcmp(c->args[1], v->name + n + 1) == 0 ? 2 : 0;
}

static int find_verb(struct ctl *c)
{
    size_t n = strlen(c->args[0]);
    bool first = false;

    for (uint32_t i = 0; i < ctl_verb_n; i++) {
        const struct verb *v = &ctl_verbs[i];
        uint32_t words = verb_words(v, c);

        if (words) {
            c->verb = v;
            c->args += words;
            c->arg_n -= words;
            return CTL_OK;
        }
        first |= strncmp(v->name, c->args[0], n) == 0 && v->name[n] == ' ';
    }
    if (first)
        return ctl_fail(CTL_USAGE,
                        "%s%s%s: no such verb; pikvctl --help lists them",
                        c->args[0], c->arg_n > 1 ? " " : "",
                        c->arg_n > 1 ? c->args[1] : "");
    return ctl_fail(CTL_USAGE, "%s: no such verb; pikvctl --help lists them",
                    c->args[0]);
}

static int check_verb(const struct ctl *c)
{
    const struct verb *v = c->verb;
    uint64_t takes = v->options | ctl_options_all;

    for (uint32_t i = 0; i < OPT_N; i++)
        if (c->opt[i] && !(takes >> i & 1))
            return ctl_fail(CTL_USAGE,
                            "%s: does not take --%s; pikvctl %s --help",
                            v->name, ctl_options[i].name, v->name);
    if (c->arg_n < v->arg_min || c->arg_n > v->arg_max)
        return ctl_fail(CTL_USAGE, "%s: %u arguments; usage: pikvctl %s %s",
                        v->name, c->arg_n, v->name, v->args);
    return CTL_OK;
}

static int run(struct ctl *c, int argc, char **argv)
{
    int s = read_options(c, argc, argv);

    if (s)
        return s;
    if (c->opt[OPT_VERSION])
        return puts("pikvctl " PIKV_VERSION) < 0;
    if (c->arg_n == 0 && c->opt[OPT_HELP])
        return help();
    if (c->arg_n == 0)
        return ctl_fail(CTL_USAGE, "no verb; pikvctl --help lists them");
    s = find_verb(c);
    if (s)
        return s;
    if (c->opt[OPT_HELP])
        return help_verb(c->verb);
    s = check_verb(c);
    s = s ? s : check_output(c);
    s = s ? s : check_deadline(c);
    return s ? s : c->verb->run(c);
}

int main(int argc, char **argv)
{
    struct ctl c = {0};
    int s;

    /* `pikvctl keys | head`: the reader has what it wants. */
    signal(SIGPIPE, SIG_IGN);
    s = run(&c, argc, argv);
    link_close(&c);
    return out_flush(s);
}
