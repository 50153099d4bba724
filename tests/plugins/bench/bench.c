/* The trivial compiled plugin that the bench runs: reads its request to the end, answers with
 * 1 KiB whose result begins with the wall clock in nanoseconds at its own start. The command
 * `nap` holds its worker for a while first. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(void) {
    static char request[65536 + 1], answer[1024];
    struct timespec at;
    size_t length = 0;
    ssize_t taken;
    clock_gettime(CLOCK_REALTIME, &at);
    while ((taken = read(0, request + length, sizeof request - 1 - length)) > 0)
        length += taken;
    if (strstr(request, "\"command\":\"nap\""))
        sleep(50);
    int n = snprintf(answer, sizeof answer, "{\"status\":\"ok\",\"result\":\"%lld%09ld ", (long long)at.tv_sec, at.tv_nsec);
    memset(answer + n, 'a', sizeof answer - n - 3);
    memcpy(answer + sizeof answer - 3, "\"}\n", 3);
    return write(1, answer, sizeof answer) == sizeof answer ? 0 : 1;
}
