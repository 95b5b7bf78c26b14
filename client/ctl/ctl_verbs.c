/* SPDX-License-Identifier: Apache-2.0
 *
 * The verbs, and what is made from their table: `completion bash` prints a
 * script for the shell, a copy of which lies in completion/pikvctl.bash. */
#include <stdio.h>
#include <string.h>

#include "client/ctl/ctl.h"

#define MANY UINT32_MAX
#define O(id) OPT_BIT(id)
#define O_KEY (O(NAMESPACE) | O(GROUP) | O(SCOPE) | O(ROUTE))

/* clang-format off */
const struct verb ctl_verbs[] = {
    {"put", "KEY [FILE|-]", 1, 2,
     O_KEY | O(PARENT) | O(TTL) | O(LABEL) | O(DURABLE) | O(NO_CREATE) |
         O(DRY_RUN),
     "store a block; the bytes come from FILE or standard input", verb_put},
    {"get", "KEY [FILE|-]", 1, 2,
     O_KEY | O(OFFSET) | O(LENGTH) | O(VERIFY),
     "read a block into FILE or standard output", verb_get},
    {"lookup", "KEY...", 1, MANY, O_KEY,
     "which blocks of a sequence are there; exit 3 unless all are",
     verb_lookup},
    {"evict", "[KEY...]", 0, MANY,
     O_KEY | O(CHAIN) | O(LABEL) | O(PATTERN) | O(ALL) | O(DEMOTE) |
         O(DRY_RUN),
     "drop blocks: of keys, chains, a label, a scope, a pattern, or all",
     verb_evict},
    {"prefetch", "KEY...", 1, MANY, O_KEY | O(CAP),
     "bring blocks from the SSD to memory; exit 3 unless all are or come",
     verb_prefetch},
    {"explain", "KEY", 1, 1, O_KEY,
     "why a block is, or is not, there", verb_explain},
    {"session", "LABEL open|idle|closed", 2, 2, O(NAMESPACE),
     "say that a session's blocks are worth more or less", verb_session},
    {"export", "FILE|-", 1, 1, O(NAMESPACE) | O(QUIET),
     "the blocks of a namespace into a file", verb_export},
    {"import", "FILE|-", 1, 1,
     O(NAMESPACE) | O(QUIET) | O(FORCE) | O(DURABLE) | O(NO_CREATE) |
         O(DRY_RUN),
     "the blocks of an exported file into a namespace", verb_import},
    {"events", "", 0, 0, O(NAMESPACE) | O(FROM) | O(COUNT),
     "what happens to the blocks of a namespace, as it happens", verb_events},
    {"stat", "[PREFIX]", 0, 1, 0,
     "raw counters whose names start with PREFIX", verb_stat},
    {"top", "", 0, 0, O(COUNT) | O(BATCH) | O(INTERVAL),
     "what the daemon does now, live", verb_top},
    {"size", "", 0, 0,
     O(NAMESPACE) | O(TRACE) | O(BLOCK) | O(DRAM) | O(SSD),
     "the hit ratio that more DRAM or SSD would give", verb_size},
    {"inspect", "KEY", 1, 1, O(NAMESPACE) | O(GROUP) | O(SCOPE),
     "everything about one block", verb_inspect},
    {"keys", "", 0, 0, O(NAMESPACE) | O(LIMIT),
     "the blocks of a namespace, of all lanes", verb_keys},
    {"clients", "", 0, 0, 0, "who is connected", verb_clients},
    {"namespace list", "", 0, 0, 0, "all namespaces", verb_ns_list},
    {"namespace show", "NAME", 1, 1, 0,
     "one namespace with fingerprint, groups and settings", verb_ns_show},
    {"namespace create", "NAME [FIELD=VALUE...]", 1, MANY, O(DRY_RUN),
     "make a namespace; fields of the fingerprint and settings",
     verb_ns_create},
    {"namespace set", "NAME SETTING=VALUE...", 2, MANY, O(DRY_RUN),
     "change settings live: policy share quota ttl loans dram codec",
     verb_ns_set},
    {"namespace bump", "NAME", 1, 1, O(YES) | O(DRY_RUN),
     "flush: a new generation, the old blocks are never found again",
     verb_ns_bump},
    {"ssd list", "", 0, 0, 0, "the SSDs and how they are", verb_ssd_list},
    {"ssd retire", "PATH", 1, 1, O(DRY_RUN),
     "empty an SSD: what is worth it moves, then it is not used", verb_ssd_retire},
    {"ssd replace", "PATH", 1, 1, O(YES) | O(DRY_RUN),
     "format an SSD that is retired or has failed and use it again",
     verb_ssd_replace},
    {"cluster status", "", 0, 0, 0, "the cluster as this node sees it",
     verb_cluster_status},
    {"cluster nodes", "", 0, 0, 0,
     "its nodes; their loads, where the leader answers", verb_cluster_nodes},
    {"cluster slots", "[NODE]", 0, 1, O(LIMIT),
     "which nodes have which slots, and what moves", verb_cluster_slots},
    {"cluster events", "", 0, 0, 0,
     "what this node has seen of the cluster lately", verb_cluster_events},
    {"node drain", "NAME", 1, 1, O(DRY_RUN),
     "move all slots of a node to others", verb_node_drain},
    {"node undrain", "NAME", 1, 1, 0,
     "let a node that is drained have slots again", verb_node_undrain},
    {"node remove", "NAME", 1, 1, O(YES) | O(DRY_RUN),
     "take a node out for good; what only it has is lost", verb_node_remove},
    {"placement show", "", 0, 0, 0, "the nodes' parts of the slots",
     verb_placement_show},
    {"placement plan", "", 0, 0, 0, "what would still move, and where to",
     verb_placement_plan},
    {"placement apply", "", 0, 0, O(DRY_RUN),
     "begin these moves at once, beyond cluster.move_slots",
     verb_placement_apply},
    {"coord status", "", 0, 0, 0, "the voters and their log",
     verb_coord_status},
    {"coord transfer", "[NAME]", 0, 1, 0,
     "let another voter lead; said to the leader", verb_coord_transfer},
    {"coord recover", "NAME", 1, 1, O(YES),
     "the majority of voters is lost for good: go on with this one",
     verb_coord_recover},
    {"experts load", "", 0, 0, O(MODEL),
     "how much each expert is used; said to the leader", verb_experts_load},
    {"experts plan", "", 0, 0,
     O(MODEL) | O(GPUS) | O(NODES) | O(REDUNDANT) | O(GROUPS),
     "where replicas of experts should be, and how even that is",
     verb_experts_plan},
    {"experts export", "", 0, 0,
     O(MODEL) | O(GPUS) | O(NODES) | O(REDUNDANT) | O(GROUPS) | O(FORMAT),
     "the plan as SGLang's --init-expert-location reads it",
     verb_experts_export},
    {"firewall", "", 0, 0, O(CONFIG) | O(FORMAT),
     "print nft rules for exactly the ports that a configuration opens",
     verb_firewall},
    {"reload", "", 0, 0, 0,
     "let the daemon read its configuration again", verb_reload},
    {"ping", "", 0, 0, 0, "is the daemon there, and how far away", verb_ping},
    {"config check", "FILE", 1, 1, 0,
     "check a configuration file with pikvd; its exit status", verb_config_check},
    {"config dump", "[FILE]", 0, 1, 0,
     "the settings in effect with FILE and who set them", verb_config_dump},
    {"config schema", "", 0, 0, 0,
     "the JSON Schema of a configuration file", verb_config_schema},
    {"doctor", "", 0, 0, O(CONFIG),
     "look at this machine for what makes pikvd fail or slow", verb_doctor},
    {"completion", "bash", 1, 1, 0,
     "print a completion script", verb_completion},
};
/* clang-format on */

const uint32_t ctl_verb_n = countof(ctl_verbs);

const uint64_t ctl_options_all =
    O(OUTPUT) | O(ADDRESS) | O(DEADLINE) | O(HELP) | O(VERSION);

/* ---- completion ---- */

static const char completion_head[] =
    "# SPDX-License-Identifier: Apache-2.0\n"
    "# Completion of pikvctl for bash, printed by `pikvctl completion bash`.\n"
    "_pikvctl()\n"
    "{\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
    "    local verb=\"\" second=\"\" word i\n"
    "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
    "        word=${COMP_WORDS[i]}\n"
    "        case $word in\n";

static const char completion_tail[] =
    "    *) word=\"\" ;;\n"
    "    esac\n"
    "    case $cur in\n"
    "    -*) COMPREPLY=($(compgen -W \"$word\" -- \"$cur\")) ;;\n"
    "    *) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n"
    "    esac\n"
    "}\n"
    "complete -o filenames -F _pikvctl pikvctl\n";

/* The first words, each once. */
static void first_words(void)
{
    const char *last = "";
    size_t last_n = 0;

    for (uint32_t i = 0; i < ctl_verb_n; i++) {
        const char *name = ctl_verbs[i].name;
        size_t n = strcspn(name, " ");

        if (n != last_n || strncmp(name, last, n) != 0)
            printf("%s%.*s", i ? " " : "", (int)n, name);
        last = name;
        last_n = n;
    }
}

static void second_words(const char *first, size_t n)
{
    const char *gap = "";

    for (uint32_t i = 0; i < ctl_verb_n; i++) {
        const char *name = ctl_verbs[i].name;

        if (strncmp(name, first, n) == 0 && name[n] == ' ') {
            printf("%s%s", gap, name + n + 1);
            gap = " ";
        }
    }
}

static void option_words(uint64_t set)
{
    const char *gap = "";

    for (uint32_t i = 0; i < OPT_N; i++)
        if (set >> i & 1) {
            printf("%s--%s", gap, ctl_options[i].name);
            gap = " ";
        }
}

/* Options whose argument is the next word, so that it is not the verb. */
static void options_with_argument(void)
{
    const char *gap = "        ";

    for (uint32_t i = 0; i < OPT_N; i++) {
        if (!ctl_options[i].arg)
            continue;
        printf("%s--%s", gap, ctl_options[i].name);
        gap = "|";
        if (ctl_options[i].letter)
            printf("|-%c", ctl_options[i].letter);
    }
    puts(") ((i++)) ;;");
    puts("        -*) ;;\n"
         "        *)\n"
         "            if [[ -z $verb ]]; then verb=$word\n"
         "            elif [[ -z $second ]]; then second=$word; fi ;;\n"
         "        esac\n"
         "    done");
}

static void complete_second_words(void)
{
    const char *last = "";

    puts("    case $verb in");
    printf("    \"\")\n        COMPREPLY=($(compgen -W \"");
    first_words();
    printf("\" -- \"$cur\"))\n        return ;;\n");
    for (uint32_t i = 0; i < ctl_verb_n; i++) {
        const char *name = ctl_verbs[i].name;
        size_t n = strcspn(name, " ");

        if (!name[n] || strncmp(name, last, n + 1) == 0)
            continue;
        last = name;
        printf("    %.*s)\n        if [[ -z $second ]]; then\n"
               "            COMPREPLY=($(compgen -W \"",
               (int)n, name);
        second_words(name, n);
        printf("\" -- \"$cur\"))\n            return\n        fi\n"
               "        verb+=\" $second\" ;;\n");
    }
    puts("    esac");
}

int verb_completion(struct ctl *c)
{
    if (strcmp(c->args[0], "bash") != 0)
        return ctl_fail(CTL_USAGE, "completion %s: no such shell; bash is",
                        c->args[0]);
    fputs(completion_head, stdout);
    options_with_argument();
    puts("    case $prev in\n"
         "    -o|--output)\n"
         "        COMPREPLY=($(compgen -W \"table json\" -- \"$cur\"))\n"
         "        return ;;\n"
         "    esac");
    complete_second_words();
    puts("    case $verb in");
    for (uint32_t i = 0; i < ctl_verb_n; i++) {
        printf("    \"%s\") word=\"", ctl_verbs[i].name);
        option_words(ctl_verbs[i].options | ctl_options_all);
        puts("\" ;;");
    }
    fputs(completion_tail, stdout);
    return CTL_OK;
}
