/* SPDX-License-Identifier: Apache-2.0
 *
 * Stores a block and reads it back:  cc put_get.c $(pkg-config --cflags --libs
 * pikv) && ./a.out  */
#include <stdio.h>

#include <pikv.h>

int main(void)
{
    struct pikv_namespace demo = {.name = "demo", .create = true};
    struct pikv_put put = {.key.key = {"k1", 2}, .data = {"hello", 5}};
    char buf[16];
    struct pikv_get get = {.key.key = {"k1", 2}, .data = {buf, sizeof(buf)}};
    struct pikv_result r;
    struct pikv *kv;
    uint32_t ns;

    if (pikv_open(NULL, &kv) || pikv_namespace_open(kv, &demo, &ns, NULL))
        return fprintf(stderr, "%s\n", pikv_last_error()), 1;
    pikv_put_sync(kv, ns, &put, 1, NULL, &r); /* OK, or EXISTS */
    pikv_get_sync(kv, ns, &get, 1, NULL, &r);
    printf("%s: %.*s\n", pikv_error_name(r.status), (int)r.moved, buf);
    pikv_close(kv);
    return 0;
}
