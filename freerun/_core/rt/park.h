/* park: how one worker sleeps and is woken, on a futex or inside the driver. Tokio's park.rs.
 *
 * THREADS     begin, wait, end_driver: the owning worker. unpark: any.
 * STATE       fr_park_wait() sleeps: detach the Python thread state first. unpark may be called attached.
 * OWNERSHIP   the parker outlives every thread that may unpark it (it lives and dies with the runtime).
 * FIELDS      word  EMPTY -> PARKED_*: owner, CAS acq_rel. any -> NOTIFIED: unparkers, exchange acq_rel.
 *                   any -> EMPTY: owner, exchange acq_rel.
 * INVARIANTS  P1  A notification is never lost: NOTIFIED is left only by the owner, which then returns as notified.
 *             P2  What an unparker wrote before unpark is visible to the owner once begin, wait or end_driver
 *                 reports the notification: release here, acquire there. When several unparkers meet, each exchange
 *                 continues the release sequence of the one before, so all of them are visible.
 *             P3  PARKED_* is set only between begin and wait/end_driver, by the owner: an unparker that sees EMPTY or
 *                 NOTIFIED has nobody to wake, since the owner's begin will find NOTIFIED.
 *             P4  A driver kick may come late, when the owner has left the driver: the driver drains its eventfd and
 *                 takes a kick without a cause.
 * LOCKS       none.
 * SHUTDOWN    unpark every worker after setting the runtime's shutdown flag [P2].
 * PROVED BY   tests/test_idle_park.c
 */
#ifndef FR_RT_PARK_H
#define FR_RT_PARK_H

#include "futex.h"

enum fr_park_state {
    FR_PARK_EMPTY,
    FR_PARK_PARKED_FUTEX,
    FR_PARK_PARKED_DRIVER,
    FR_PARK_NOTIFIED,
};

enum fr_unpark {
    FR_UNPARK_NONE,
    FR_UNPARK_DRIVER, /* the worker sleeps in the driver: kick the driver's eventfd */
};

struct fr_parker {
    _Alignas(FR_CACHE_LINE) _Atomic uint32_t word;
};

static inline void fr_park_init(struct fr_parker *p)
{
    atomic_init(&p->word, FR_PARK_EMPTY);
}

/* Announces that the owner is going to sleep, on the futex or in the driver. 1: there was a notification, now consumed:
 * do not sleep, and do not call wait or end_driver. 0: go on to fr_park_wait() or the driver. */
int fr_park_begin(struct fr_parker *p, bool driver);

/* Sleeps on the futex. timeout_ns < 0: for ever. 0: notified (consumed). -ETIMEDOUT, -EINTR: not notified. */
int fr_park_wait(struct fr_parker *p, int64_t timeout_ns);

/* After the driver returned (or instead of entering it). True if the owner was notified (consumed). */
bool fr_park_end_driver(struct fr_parker *p);

/* The owner's look while it is awake: begin would return 1. Consumes nothing. */
static inline bool fr_park_is_notified(const struct fr_parker *p)
{
    /* relaxed: fr_park_begin() acquires */
    return atomic_load_explicit(&p->word, memory_order_relaxed) == FR_PARK_NOTIFIED;
}

/* Wakes the owner, or keeps it from sleeping next time. */
enum fr_unpark fr_park_unpark(struct fr_parker *p);

#endif
