/* Counts its runs in its state. A file beside itself, there for as long as it runs, tells whether
 * another of its runs is under way. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../beside.h"

int main(void) {
    char path[4096];
    if (beside(path, sizeof path, "busy") != 0) return 1;
    if (open(path, O_CREAT | O_EXCL | O_CLOEXEC, 0600) < 0) {
        puts("{\"status\":\"error\",\"error\":\"another run is under way\",\"retry\":false}");
        return 0;
    }

    static char request[1 << 16];
    size_t have = 0;
    ssize_t got;
    while (have < sizeof request - 1 && (got = read(0, request + have, sizeof request - 1 - have)) > 0) {
        have += (size_t)got;
    }
    static const char name[] = "\"count\":";
    const char *count = strstr(request, name);
    int runs = count == NULL ? 0 : atoi(count + sizeof name - 1);

    const struct timespec pause = {0, 5000000};
    nanosleep(&pause, NULL);
    unlink(path);
    printf("{\"status\":\"ok\",\"result\":\"run %d\",\"state_updates\":{\"count\":%d}}\n", runs + 1, runs + 1);
    return 0;
}
