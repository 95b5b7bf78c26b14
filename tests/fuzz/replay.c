/* SPDX-License-Identifier: Apache-2.0
 *
 * main() of a fuzz target without libFuzzer: gives it every file named on the
 * command line, and every file of every directory named, once. `make check`
 * replays corpus and regressions this way with any compiler. A target that
 * does not like an input aborts; the last line printed names the input. */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned replayed;

/* A copy of exactly the file's size, so that a sanitizer sees an overrun. */
static int replay_file(const char *path, size_t size)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(size ? size : 1);
    int rc = -1;

    if (f && data && fread(data, 1, size, f) == size) {
        printf("replay %s\n", path);
        fflush(stdout);
        LLVMFuzzerTestOneInput(data, size);
        replayed++;
        rc = 0;
    }
    if (f)
        fclose(f);
    free(data);
    return rc;
}

static int replay_path(const char *path);

static int replay_dir(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    int rc = 0;

    if (!d)
        return -1;
    while (rc == 0 && (e = readdir(d))) {
        char inner[PATH_MAX];

        if (e->d_name[0] == '.')
            continue;
        snprintf(inner, sizeof(inner), "%s/%s", path, e->d_name);
        rc = replay_path(inner);
    }
    closedir(d);
    return rc;
}

static int replay_path(const char *path)
{
    struct stat st;
    int rc = -1;

    if (stat(path, &st) == 0)
        rc = S_ISDIR(st.st_mode) ? replay_dir(path)
                                 : replay_file(path, (size_t)st.st_size);
    if (rc != 0)
        fprintf(stderr, "replay: cannot read %s\n", path);
    return rc;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (replay_path(argv[i]) != 0)
            return EXIT_FAILURE;
    printf("replayed %u inputs\n", replayed);
    return replayed ? EXIT_SUCCESS : EXIT_FAILURE;
}
