/* mutex: a four-byte futex mutex.
 *
 * THREADS     any. Not recursive.
 * STATE       may be taken with a Python thread state attached. Hence the rule for every user in freerun: a critical
 *             section is a few dozen instructions, never blocks, never allocates, never calls Python, never drops a
 *             reference and never wakes a task. An attached waiter stalls every stop-the-world for that long only.
 * OWNERSHIP   none.
 * FIELDS      word  0 unlocked, 1 locked, 2 locked and somebody may sleep. Lockers: CAS/exchange, acquire.
 *                   Unlocker: exchange, release.
 * INVARIANTS  M1  Whoever sleeps on word has stored 2 in it first, so the unlock that follows wakes one.
 *             M2  A woken waiter takes the lock by storing 2, since it cannot know whether others still sleep.
 * LOCKS       the order of the locks built on this: runtime > idle > driver timers > waiter list.
 * SHUTDOWN    nothing to destroy.
 * PROVED BY   tests/test_idle_park.c
 */
#ifndef FR_RT_MUTEX_H
#define FR_RT_MUTEX_H

#include "futex.h"

struct fr_mutex {
    _Atomic uint32_t word;
};

#define FR_MUTEX_INIT {0}

void fr_mutex_lock_slow(struct fr_mutex *m);

static inline void fr_mutex_init(struct fr_mutex *m)
{
    atomic_init(&m->word, 0);
}

static inline bool fr_mutex_trylock(struct fr_mutex *m)
{
    uint32_t unlocked = 0;
    /* acquire pairs with fr_mutex_unlock() [M1]; relaxed on failure: nothing was entered. */
    return atomic_compare_exchange_strong_explicit(&m->word, &unlocked, 1, memory_order_acquire, memory_order_relaxed);
}

static inline void fr_mutex_lock(struct fr_mutex *m)
{
    if (__builtin_expect(!fr_mutex_trylock(m), 0)) {
        fr_mutex_lock_slow(m);
    }
}

static inline void fr_mutex_unlock(struct fr_mutex *m)
{
    /* release pairs with fr_mutex_trylock() and fr_mutex_lock_slow() [M1] */
    if (__builtin_expect(atomic_exchange_explicit(&m->word, 0, memory_order_release) == 2, 0)) {
        fr_futex_wake(&m->word, 1);
    }
}

/* For assertions in functions called *_locked: somebody holds it, we hope it is us. */
static inline bool fr_mutex_is_locked(const struct fr_mutex *m)
{
    /* relaxed: the caller's own store is always visible to itself, and nothing is published by this. */
    return atomic_load_explicit(&m->word, memory_order_relaxed) != 0;
}

#endif
