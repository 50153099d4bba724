/* A plugin that is under way for as long as a test wants: before it reads its request it waits for
 * a file named `release` beside itself. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../beside.h"

int main(void) {
    char path[4096];
    if (beside(path, sizeof path, "release") != 0) return 1;
    const struct timespec pause = {0, 2000000};
    while (access(path, F_OK) != 0) nanosleep(&pause, NULL);

    char buffer[65536];
    ssize_t got;
    while ((got = read(0, buffer, sizeof buffer)) > 0) {
    }
    if (got < 0) return 1;
    puts("{\"status\":\"ok\",\"result\":\"released\"}");
    return 0;
}
