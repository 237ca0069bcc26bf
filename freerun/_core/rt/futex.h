/* futex: the two futex calls the rt layer makes, and the pause of a spin loop.
 *
 * THREADS     any.
 * STATE       fr_futex_wait() sleeps: never call it with a Python thread state attached, except from
 *             fr_mutex_lock(), whose critical sections are too short to matter.
 * OWNERSHIP   the word belongs to the caller. A wake may arrive after the word's owner has gone on; the kernel only
 *             uses the address, so a late wake is harmless as long as the page stays mapped.
 * FIELDS      none of its own.
 * INVARIANTS  F1  The kernel compares and enqueues atomically with respect to fr_futex_wake() on the same word.
 * LOCKS       none.
 * SHUTDOWN    nothing to do.
 * PROVED BY   tests/test_idle_park.c
 */
#ifndef FR_RT_FUTEX_H
#define FR_RT_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* What keeps two independently written words from sharing a line. Structs that use it must be allocated with
 * aligned_alloc(FR_CACHE_LINE, ...) or statically. */
#define FR_CACHE_LINE 64

/* Tells the core that this is a spin loop. */
static inline void fr_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

/* One step of a bounded exponential spin that ends in giving the core away: what we wait for may be a thread that
 * was preempted. Start with *step = 0. */
static inline void fr_cpu_backoff(uint32_t *step)
{
    if (*step > 6) {
        sched_yield();
        return;
    }
    for (uint32_t i = 0; i < (1u << *step); i++) {
        fr_cpu_relax();
    }
    *step += 1;
}

/* Sleeps while *word == expected. timeout_ns < 0 waits for ever. Returns 0 (woken, possibly spuriously), -EAGAIN (the
 * word had another value), -ETIMEDOUT or -EINTR. Memory order comes from the caller's own atomics, not from here. */
static inline int fr_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    struct timespec ts, *tsp = NULL;
    if (timeout_ns >= 0) {
        ts.tv_sec = (time_t)(timeout_ns / 1000000000);
        ts.tv_nsec = (long)(timeout_ns % 1000000000);
        tsp = &ts;
    }
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, tsp, NULL, 0);
    return rc == 0 ? 0 : -errno;
}

/* Wakes up to n sleepers on word; returns how many. */
static inline int fr_futex_wake(_Atomic uint32_t *word, int n)
{
    long rc = syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
    return rc >= 0 ? (int)rc : -errno;
}

#endif
