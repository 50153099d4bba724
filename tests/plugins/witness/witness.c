/* Leaves one line for each of its runs, the job's id, in a file `runs` beside itself: the side
 * that no crash of Ductile can change. `"ms":N` anywhere in the request makes it take so long after
 * that, `"fail":1` makes it end with an error that may be tried again, `"emit":N` makes it answer
 * with so many events, up to nine, `"key":1` gives each of them the dedupe key `shared`, `"keep":N`
 * makes it answer with a state of so many bytes. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../beside.h"

int main(void) {
    static char request[1 << 16], path[4096];
    size_t have = 0;
    ssize_t got;
    while (have < sizeof request - 1 && (got = read(0, request + have, sizeof request - 1 - have)) > 0) {
        have += (size_t)got;
    }

    /* A request that was cut off is no run: whoever wrote it is gone. */
    static const char name[] = "\"job_id\":\"";
    char *id = strstr(request, name);
    char *end = id == NULL ? NULL : strchr(id + sizeof name - 1, '"');
    if (end == NULL || strstr(request, "\"deadline_at\":") == NULL) return 1;
    id += sizeof name - 1;
    static const char milliseconds[] = "\"ms\":";
    const char *ms = strstr(request, milliseconds);
    int pause_ms = ms == NULL ? 0 : atoi(ms + sizeof milliseconds - 1);
    static const char events[] = "\"emit\":";
    const char *emit = strstr(request, events);
    int emits = emit == NULL ? 0 : atoi(emit + sizeof events - 1);
    const char *key = strstr(request, "\"key\":1") != NULL ? "\"dedupe_key\":\"shared\"," : "";
    int fails = strstr(request, "\"fail\":1") != NULL;

    if (beside(path, sizeof path, "runs") != 0) return 1;
    int runs = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (runs < 0) return 1;
    *end = '\n';
    ssize_t line = end + 1 - id;
    if (write(runs, id, (size_t)line) != line) return 1;

    const struct timespec pause = {pause_ms / 1000, pause_ms % 1000 * 1000000L};
    nanosleep(&pause, NULL);
    if (fails) {
        puts("{\"status\":\"error\",\"error\":\"as asked\"}");
        return 0;
    }
    static const char state[] = "\"keep\":";
    const char *keep = strstr(request, state);
    if (keep != NULL) {
        printf("{\"status\":\"ok\",\"result\":\"kept\",\"state_updates\":{\"kept\":\"%0*d\"}}\n", atoi(keep + sizeof state - 1), 0);
        return 0;
    }
    fputs("{\"status\":\"ok\",\"result\":\"witnessed\",\"events\":[", stdout);
    for (int number = 0; number < emits && number < 9; number++) {
        printf("%s{%s\"type\":\"witnessed\",\"payload\":{\"number\":%d}}", number == 0 ? "" : ",", key, number);
    }
    puts("]}");
    return 0;
}
