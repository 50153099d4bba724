/* For plugins that leave or look for files beside themselves. */
#include <stddef.h>
#include <string.h>
#include <unistd.h>

/* Writes the path of a file of this name beside the program; 0, or -1 when there is no room. */
static int beside(char *path, size_t size, const char *name) {
    ssize_t length = readlink("/proc/self/exe", path, size - 1);
    if (length < 0) return -1;
    path[length] = 0;
    char *slash = strrchr(path, '/');
    if (slash == NULL || (size_t)(slash + 1 - path) + strlen(name) >= size) return -1;
    strcpy(slash + 1, name);
    return 0;
}
