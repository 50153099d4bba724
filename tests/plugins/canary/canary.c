/* A plugin with a secret: it takes canary_key out of "secrets", the first member of its request,
 * and tells how long it is, or, asked to handle, the value itself. The value must hold no escape. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    static char request[1 << 20];
    size_t length = 0;
    ssize_t got;
    while (length < sizeof request - 1 && (got = read(0, request + length, sizeof request - 1 - length)) > 0) {
        length += (size_t)got;
    }
    static const char head[] = "{\"secrets\":{";
    static const char name[] = "\"canary_key\":\"";
    const char *value = NULL;
    if (strncmp(request, head, sizeof head - 1) == 0) value = strstr(request, name);
    if (value == NULL) {
        puts("{\"status\":\"error\",\"error\":\"no canary_key came\",\"retry\":false}");
        return 0;
    }
    value += sizeof name - 1;
    const char *end = strchr(value, '"');
    if (end == NULL) return 1;
    if (strstr(end, "\"command\":\"handle\"") != NULL) {
        fprintf(stderr, "the value is %.*s\n", (int)(end - value), value);
        printf("{\"status\":\"ok\",\"result\":\"%.*s\"}\n", (int)(end - value), value);
        return 0;
    }
    printf("{\"status\":\"ok\",\"result\":\"a secret of %zu bytes\"}\n", (size_t)(end - value));
    return 0;
}
