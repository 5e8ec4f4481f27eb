/* Preloaded into a daemon under test: its wall clock goes by an offset that the test sets while
 * it runs; the monotonic clock stays. The offset, in nanoseconds, is the content of the file that
 * TEST_CLOCK names, mapped, so that reading it costs no system call that a test might count. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000

static const volatile int64_t *offset;
static int (*right_time)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void)
{
    int file = open(getenv("TEST_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *mapped = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    right_time = dlsym(RTLD_NEXT, "clock_gettime");
    if (mapped == MAP_FAILED || !right_time)
        abort();
    offset = mapped;
    close(file);
}

static void move(struct timespec *now, int64_t nanoseconds)
{
    now->tv_sec += nanoseconds / SECOND;
    now->tv_nsec += nanoseconds % SECOND;
    if (now->tv_nsec >= SECOND) {
        now->tv_sec += 1;
        now->tv_nsec -= SECOND;
    } else if (now->tv_nsec < 0) {
        now->tv_sec -= 1;
        now->tv_nsec += SECOND;
    }
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!offset)
        begin();
    int result = right_time(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        move(now, *offset);
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise))
        return -1;
    if (now)
        *now = precise.tv_sec;
    return precise.tv_sec;
}
