/* A plugin that tries what it must not be able to do. Its payload names, in "probe", words that
 * are files to read (they begin with a slash), unix sockets to use (with an @, then a slash) or
 * processes to signal and trace. It answers with one word=outcome a try, then its capability sets
 * and ids. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char out[16384];

static void tell(const char *what, const char *word, int failed) {
    size_t used = strlen(out);
    snprintf(out + used, sizeof out - used, "%s%s=%s ", what, word, failed ? strerrorname_np(errno) : "done");
}

/* Connected is not enough: a peer that is turned away is closed on, so it waits for that. */
static int use_socket(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) return -1;
    struct timeval patience = {5, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char byte;
    ssize_t got = read(fd, &byte, 1);
    if (got == 0) errno = ECONNRESET;
    return got > 0 || (got < 0 && errno == EAGAIN) ? 0 : -1;
}

static void probe(const char *word) {
    if (word[0] == '/') {
        tell("open:", word, open(word, O_RDONLY | O_CLOEXEC) < 0);
    } else if (word[0] == '@') {
        tell("use:", word + 1, use_socket(word + 1) != 0);
    } else {
        pid_t pid = (pid_t)atoi(word);
        if (pid <= 1) return;
        tell("signal:", word, kill(pid, SIGCONT) != 0);
        tell("trace:", word, ptrace(PTRACE_SEIZE, pid, NULL, NULL) != 0);
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
        tell("memory:", word, open(path, O_RDONLY | O_CLOEXEC) < 0);
        snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
        tell("environ:", word, open(path, O_RDONLY | O_CLOEXEC) < 0);
    }
}

int main(void) {
    static char request[65536];
    size_t length = 0;
    ssize_t got;
    while (length < sizeof request - 1 && (got = read(0, request + length, sizeof request - 1 - length)) > 0) {
        length += (size_t)got;
    }
    char *words = strstr(request, "\"probe\":\"");
    if (words == NULL) {
        puts("{\"status\":\"error\",\"error\":\"no probe in the payload\",\"retry\":false}");
        return 0;
    }
    words += strlen("\"probe\":\"");
    char *end = strchr(words, '"');
    if (end == NULL) return 1;
    *end = 0;
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " ")) probe(word);
    tell("setuid:", "0", setresuid(0, 0, 0) != 0);

    FILE *status = fopen("/proc/self/status", "re");
    if (status == NULL) return 1;
    char line[256];
    while (fgets(line, sizeof line, status) != NULL) {
        if (strncmp(line, "Cap", 3) && strncmp(line, "Uid", 3) && strncmp(line, "Groups", 6) &&
            strncmp(line, "NoNewPrivs", 10))
            continue;
        size_t used = strlen(out);
        for (char *c = line; *c && *c != '\n' && used < sizeof out - 2; c++) {
            if (*c == ':') out[used++] = '=';
            else if (*c == '\t' || *c == ' ') {
                if (out[used - 1] != '=' && out[used - 1] != ',') out[used++] = ',';
            } else out[used++] = *c;
        }
        out[used++] = ' ';
        out[used] = 0;
    }
    printf("{\"status\":\"ok\",\"result\":\"%s\"}\n", out);
    return 0;
}
