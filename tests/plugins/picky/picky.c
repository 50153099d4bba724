/* A plugin that fails, for good, unless its request holds `"pass":true`. Its error repeats the
 * number after `"n":`, so that a test can see which payload it was given. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    static char request[1 << 20];
    size_t length = 0;
    ssize_t got;
    while (length < sizeof request - 1 && (got = read(0, request + length, sizeof request - 1 - length)) > 0) {
        length += (size_t)got;
    }
    request[length] = 0;
    const char *n = strstr(request, "\"n\":");
    if (strstr(request, "\"pass\":true") != NULL) {
        puts("{\"status\":\"ok\",\"result\":\"passed\"}");
    } else {
        printf("{\"status\":\"error\",\"error\":\"refused n=%ld\",\"retry\":false}\n", n == NULL ? -1 : atol(n + 4));
    }
    return 0;
}
