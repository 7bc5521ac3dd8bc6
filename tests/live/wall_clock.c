/* Shifts the system clock of one process by the number of seconds in the file $WALL_CLOCK. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static volatile const long *seconds;
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!seconds && getenv("WALL_CLOCK")) {
        int file = open(getenv("WALL_CLOCK"), O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            void *mapped = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
            if (mapped != MAP_FAILED) seconds = mapped;
            close(file);
        }
    }
    if (clock == CLOCK_REALTIME && seconds) now->tv_sec += *seconds;
    return result;
}
