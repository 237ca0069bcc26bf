/* clock: the runtime's two clocks.
 *
 * THREADS     any.
 * STATE       attached thread state: not needed; neither call blocks.
 * OWNERSHIP   none.
 * FIELDS      none.
 * INVARIANTS  T1  fr_clock_ns() is CLOCK_MONOTONIC and never goes back, on any thread.
 *             T2  fr_clock_ticks() has no unit and may differ between cores: heuristics only (how long was that poll,
 *                 roughly), never a deadline.
 *             T3  fr_clock_coarse_ns() is the same clock as of the last tick of the kernel, at most FR_COARSE_NS ago: two
 *                 readings tell how much time has passed at the least, for a fifth of the price.
 * LOCKS       none.
 * SHUTDOWN    nothing to do.
 * PROVED BY   tests/test_wheel.c
 */
#ifndef FR_RT_CLOCK_H
#define FR_RT_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t fr_clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The longest tick that kernels are built with (CONFIG_HZ=100). */
#define FR_COARSE_NS UINT64_C(10000000)

static inline uint64_t fr_clock_coarse_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* How long ago, at the least, fr_clock_coarse_ns() said that. */
static inline uint64_t fr_passed_at_least(uint64_t coarse)
{
    uint64_t passed = fr_clock_coarse_ns() - coarse;
    return passed > FR_COARSE_NS ? passed - FR_COARSE_NS : 0;
}

static inline uint64_t fr_clock_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ __volatile__("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return fr_clock_ns();
#endif
}

#endif
