/* notify: tasks that wait to be told. Tokio: sync/notify.rs.
 *
 * THREADS     any, for everything but fr_notify_init(). A waiter's functions: one thread at a time, its owner's.
 * STATE       attached thread state: allowed; never calls Python, never blocks but on `lock`.
 * OWNERSHIP   the caller's waiter must stay where it is while it is linked. While linked it owns one reference of its
 *             task (it may have none); whoever unlinks it takes that over: `wake` does, or the caller of
 *             fr_notify_cancel().
 * FIELDS      word    calls << 2 | WAITING or STORED. CAS by any thread, acq_rel. `calls` counts fr_notify_waiters()
 *             lock, line  the waiters, oldest first
 *             waiter.calls   the owner's: `calls` when it was made
 *             waiter.told    under `lock` while linked; the owner's after that
 *             wake    constant; called under no lock
 * INVARIANTS  N1  WAITING is set exactly while `line` is not empty, and changes under `lock` only. It excludes STORED.
 *             N2  A waiter whose `calls` are not the word's is told by that, linked or not: fr_notify_waiters() counts and
 *                 moves everybody into a list of its own under one lock, and takes its time to wake them. None of them is
 *                 taken for fr_notify_one() meanwhile, and nobody who comes later is told.
 *             N3  What fr_notify_one() gave a waiter that never looks goes to the next, or is stored (fr_notify_cancel()).
 * LOCKS       `lock` is a leaf (see mutex.h).
 * SHUTDOWN    nothing: who waits lets go of its waiter when its coroutine is closed.
 * PROVED BY   tests/test_notify.c
 */
#ifndef FR_RT_NOTIFY_H
#define FR_RT_NOTIFY_H

#include "wakes.h"

#define FR_NOTIFY_WAITING ((uint64_t)1)
#define FR_NOTIFY_STORED  ((uint64_t)2)
#define FR_NOTIFY_CALL    ((uint64_t)4)

enum fr_told { FR_TOLD_NOTHING, FR_TOLD_ONE, FR_TOLD_LAST, FR_TOLD_ALL };

struct fr_notify {
    _Atomic uint64_t word;
    struct fr_mutex lock;
    struct fr_node line;
    fr_wake wake;
};

struct fr_notify_waiter {
    struct fr_waiter waiter; /* its task is set by the caller before fr_notify_wait(), or NULL */
    uint64_t calls;
    enum fr_told told;
};

void fr_notify_init(struct fr_notify *n, fr_wake wake);

/* For waiter.calls. */
static inline uint64_t fr_notify_calls(const struct fr_notify *n)
{
    return atomic_load_explicit(&n->word, memory_order_acquire) / FR_NOTIFY_CALL; /* pairs with fr_notify_waiters() */
}

/* 0: told, by a call of fr_notify_waiters() since it was made, or by a stored notification, which is used up. -EAGAIN: it
 * is in line, its task reference with it. */
int fr_notify_wait(struct fr_notify *n, struct fr_notify_waiter *waiter);

/* Of a waiter that was put in line: 0: it was told, and is in line no more. -EAGAIN: it is in line. *released: it left the
 * line in this call, and its task reference is the caller's again. */
int fr_notify_poll(struct fr_notify *n, struct fr_notify_waiter *waiter, bool *released);

/* Ends the wait of a waiter that was put in line; what fr_notify_one() gave it goes to the next [N3]. True: it was still
 * linked, and its task reference is the caller's again. */
bool fr_notify_cancel(struct fr_notify *n, struct fr_notify_waiter *waiter);

/* Tells the oldest waiter; if there is none, stores the notification, of which there is one at the most. */
void fr_notify_one(struct fr_notify *n);
/* The same with the newest waiter. */
void fr_notify_last(struct fr_notify *n);
/* Tells every waiter that there is, linked or made only; stores nothing. */
void fr_notify_waiters(struct fr_notify *n);

#endif
