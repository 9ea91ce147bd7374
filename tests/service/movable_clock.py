"""A clock of the day that a test sets while processes run, as an administrator or NTP would.

What a process asks the C library for the date (Python, SQLite, torch) is moved; clocks that only
count, and the sleeps that go by them, are left alone, as the kernel leaves them when the date is
set. Times of files are the kernel's and do not move: to a process under a moved clock every file
is an hour off, which is more than a true change of the clock does to it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc")
_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t moved(void) {
    static volatile const int64_t *seconds;
    if (!seconds) {
        const char *name = getenv("MOVED_CLOCK");
        int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
        if (file < 0) return 0;
        void *at = mmap(0, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
        close(file);
        if (at == MAP_FAILED) return 0;
        seconds = at;
    }
    return *seconds;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int status = syscall(SYS_clock_gettime, id, now);
    if (!status && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += moved();
    return status;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (seconds) *seconds = precise.tv_sec;
    return precise.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}
"""


class MovableClock:
    """The date as processes see it that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        assert COMPILER is not None
        source, self._library = folder / "clock.c", folder / "clock.so"
        source.write_text(_SOURCE)
        options = ["-shared", "-fPIC", "-O2", "-o", str(self._library)]
        subprocess.run([COMPILER, *options, str(source)], check=True)
        self._offset = folder / "clock.offset"
        self._offset.write_bytes(bytes(8))

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process that is to see this clock."""
        return {"LD_PRELOAD": str(self._library), "MOVED_CLOCK": str(self._offset)}

    def set(self, seconds: int) -> None:
        """Set the clock so far from the true time, from now on."""
        with self._offset.open("r+b") as file:  # in place: processes have it mapped
            file.write(seconds.to_bytes(8, "little", signed=True))
