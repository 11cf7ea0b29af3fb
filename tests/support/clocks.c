/* Loaded before libc: the wall clock is wrong by CLOCK_SKEW seconds; the monotonic clock, which waits are measured by, is right. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    const char *skew = getenv("CLOCK_SKEW");
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && skew && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += atol(skew);
    return failed;
}
