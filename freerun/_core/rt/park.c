#include "park.h"

#include "clock.h"
#include <assert.h>

/* Leaves whatever state for EMPTY; true if that state was NOTIFIED. */
static bool fr_park_reset(struct fr_parker *p)
{
    /* acq_rel pairs with fr_park_unpark() [P2] */
    return atomic_exchange_explicit(&p->word, FR_PARK_EMPTY, memory_order_acq_rel) == FR_PARK_NOTIFIED;
}

int fr_park_begin(struct fr_parker *p, bool driver)
{
    uint32_t state = FR_PARK_EMPTY;
    /* acq_rel pairs with fr_park_unpark() [P3]; relaxed on failure: fr_park_reset() acquires. */
    if (atomic_compare_exchange_strong_explicit(&p->word, &state, driver ? FR_PARK_PARKED_DRIVER : FR_PARK_PARKED_FUTEX,
                                                memory_order_acq_rel, memory_order_relaxed)) {
        return 0;
    }
    assert(state == FR_PARK_NOTIFIED);
    fr_park_reset(p);
    return 1;
}

/* What is left until deadline, at least 0; -1 if there is none. */
static int64_t fr_park_left(uint64_t deadline)
{
    if (deadline == UINT64_MAX) {
        return -1;
    }
    uint64_t now = fr_clock_ns();
    return now < deadline ? (int64_t)(deadline - now) : 0;
}

int fr_park_wait(struct fr_parker *p, int64_t timeout_ns)
{
    uint64_t deadline = timeout_ns < 0 ? UINT64_MAX : fr_clock_ns() + (uint64_t)timeout_ns;
    int rc;
    do {
        rc = fr_futex_wait(&p->word, FR_PARK_PARKED_FUTEX, fr_park_left(deadline));
        /* relaxed: only tells a spurious wake-up; fr_park_reset() acquires. */
    } while (rc == 0 && atomic_load_explicit(&p->word, memory_order_relaxed) == FR_PARK_PARKED_FUTEX);
    /* Whatever woke us: a notification that came in time for this exchange counts [P1]. */
    if (fr_park_reset(p)) {
        return 0;
    }
    return rc == -EINTR ? -EINTR : -ETIMEDOUT;
}

bool fr_park_end_driver(struct fr_parker *p)
{
    return fr_park_reset(p);
}

enum fr_unpark fr_park_unpark(struct fr_parker *p)
{
    /* Unconditional, also when NOTIFIED is there already: the owner must see what we wrote.
     * acq_rel pairs with fr_park_begin(), fr_park_wait() and fr_park_end_driver() [P2] */
    uint32_t prev = atomic_exchange_explicit(&p->word, FR_PARK_NOTIFIED, memory_order_acq_rel);
    if (prev == FR_PARK_PARKED_FUTEX) {
        fr_futex_wake(&p->word, 1);
    }
    return prev == FR_PARK_PARKED_DRIVER ? FR_UNPARK_DRIVER : FR_UNPARK_NONE;
}
