/* Lets a disk fail (LD_PRELOAD): while the file BROKEN_DISK exists, writing and syncing of files whose paths contain
   BROKEN_FILES ends with EIO, and what was written before is not on disk. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_broken(int file)
{
    const char *disk = getenv("BROKEN_DISK"), *files = getenv("BROKEN_FILES");
    char link[32], path[4096];
    if (!disk || !files || access(disk, F_OK))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (!strstr(path, files))
        return 0;
    errno = EIO;
    return 1;
}

int fsync(int file)
{
    return is_broken(file) ? -1 : (int) syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    return is_broken(file) ? -1 : (int) syscall(SYS_fdatasync, file);
}

ssize_t pwrite64(int file, const void *bytes, size_t number, off64_t at)
{
    return is_broken(file) ? -1 : syscall(SYS_pwrite64, file, bytes, number, at);
}
