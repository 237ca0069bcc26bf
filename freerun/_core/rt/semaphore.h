/* semaphore: permits, and a line of those who wait for them. Tokio's batch semaphore (sync/batch_semaphore.rs).
 *
 * First come, first served, also for many permits at once: whoever asks for more than there are takes what there is and
 * waits for the rest; every permit that comes back goes to the head of the line until it has enough. So a request for a
 * thousand permits cannot starve behind a stream of small ones.
 *
 * THREADS     any, for everything but fr_sem_init(). A waiter's functions: one thread at a time, its owner's.
 * STATE       attached thread state: allowed; never calls Python, never blocks but on `lock`.
 * OWNERSHIP   the caller's waiter must stay where it is while it is linked. While linked it owns one reference of its
 *             task; whoever unlinks it takes that over: `wake` does, or the caller of fr_sem_cancel().
 * FIELDS      word    permits << 2 | QUEUED | CLOSED. CAS by any thread, acquire to take, release to give.
 *             lock, line  the waiters, oldest first
 *             waiter.asked   the owner's; constant while linked
 *             waiter.needed  under `lock` while linked; the owner's after that
 *             wake    constant; called under no lock
 * INVARIANTS  SE1  QUEUED is set exactly while the line is not empty, and changes under `lock` only; so does CLOSED.
 *             SE2  QUEUED => there are no free permits, and the word's permits do not change: who comes asks for more
 *                 than there are and gets into line; who gives must take the lock. So nobody overtakes.
 *             SE3  A waiter that was taken out of the line with needed == 0 has all it asked for; with needed > 0 the
 *                 semaphore was closed and it has asked - needed, which its owner gives back (fr_sem_cancel()).
 *             SE4  Permits are neither made nor lost: free + held + (asked - needed) of the line = given.
 *                 No more than FR_SEM_MAX are ever free.
 * LOCKS       `lock` is a leaf (see mutex.h).
 * SHUTDOWN    nothing: who waits lets go of its waiter when its coroutine is closed. In the child of a fork the waiters
 *             of the parent's tasks stay in the line for ever.
 * PROVED BY   tests/test_semaphore.c
 */
#ifndef FR_RT_SEMAPHORE_H
#define FR_RT_SEMAPHORE_H

#include <errno.h>

#include "mutex.h"
#include "wakes.h"

#define FR_SEM_CLOSED ((uint64_t)1)
#define FR_SEM_QUEUED ((uint64_t)2)
#define FR_SEM_ONE    ((uint64_t)4)
#define FR_SEM_MAX    (((uint64_t)1 << 61) - 1)

struct fr_sem {
    _Atomic uint64_t word;
    struct fr_mutex lock;
    struct fr_node line;
    fr_wake wake;
};

struct fr_sem_waiter {
    struct fr_waiter waiter; /* its task or event is set by the caller before fr_sem_acquire() */
    uint64_t asked, needed;
};

/* permits <= FR_SEM_MAX */
void fr_sem_init(struct fr_sem *sem, uint64_t permits, fr_wake wake);

static inline uint64_t fr_sem_available(const struct fr_sem *sem)
{
    /* acquire: who counts on a number has seen what came before it; pairs with fr_sem_release() */
    return atomic_load_explicit(&sem->word, memory_order_acquire) / FR_SEM_ONE;
}

static inline bool fr_sem_is_closed(const struct fr_sem *sem)
{
    return atomic_load_explicit(&sem->word, memory_order_acquire) & FR_SEM_CLOSED; /* pairs with fr_sem_close() */
}

static inline bool fr_sem_is_queued(const struct fr_sem *sem)
{
    return atomic_load_explicit(&sem->word, memory_order_relaxed) & FR_SEM_QUEUED; /* changes under `lock` [SE1] */
}

int fr_sem_acquire_slow(struct fr_sem *sem, struct fr_sem_waiter *waiter, uint64_t n);
bool fr_sem_release_slow(struct fr_sem *sem, uint64_t n);

/* Gives what `*total`, which only grows, has grown by since the last call; `*given` is how far that was, and changes under
 * `lock` only: when this returns, what was there when it was called has been given, whoever gave it. */
void fr_sem_release_up_to(struct fr_sem *sem, const _Atomic uint64_t *total, _Atomic uint64_t *given);

/* 0, -EAGAIN (not enough) or -ESHUTDOWN (closed). n <= FR_SEM_MAX */
static inline int fr_sem_try_acquire(struct fr_sem *sem, uint64_t n)
{
    /* acquire, also on failure: who finds it closed sees what came before; pairs with fr_sem_close() */
    uint64_t word = atomic_load_explicit(&sem->word, memory_order_acquire);
    do {
        if (__builtin_expect((word & FR_SEM_CLOSED) != 0, 0)) {
            return -ESHUTDOWN;
        }
        if (word / FR_SEM_ONE < n) {
            return -EAGAIN;
        }
        /* acquire: what was done with the permits before is seen; pairs with fr_sem_release() */
    } while (!atomic_compare_exchange_weak_explicit(&sem->word, &word, word - n * FR_SEM_ONE, memory_order_acquire,
                                                    memory_order_acquire));
    return 0;
}

/* 0: the permits are the caller's. -EAGAIN: the waiter is in line, its task reference with it. -ESHUTDOWN: closed. */
static inline int fr_sem_acquire(struct fr_sem *sem, struct fr_sem_waiter *waiter, uint64_t n)
{
    int err = fr_sem_try_acquire(sem, n);
    return err == -EAGAIN ? fr_sem_acquire_slow(sem, waiter, n) : err;
}

/* What became of a waiter that was put in line: 0 it has its permits, -EAGAIN it still stands there, -ESHUTDOWN: the
 * semaphore was closed; call fr_sem_cancel(). */
static inline int fr_sem_poll(const struct fr_sem_waiter *waiter)
{
    return fr_waiter_is_linked(&waiter->waiter) ? -EAGAIN : waiter->needed == 0 ? 0 : -ESHUTDOWN; /* [SE3] */
}

/* The same for a thread that slept on the waiter's event, which may be in the middle of being set: waits for that. */
static inline int fr_sem_settle(struct fr_sem *sem, const struct fr_sem_waiter *waiter)
{
    fr_mutex_lock(&sem->lock);
    fr_mutex_unlock(&sem->lock);
    return fr_sem_poll(waiter);
}

/* Ends the wait of a waiter that was put in line: what it was given goes to the next. True: it was still linked, and its
 * task reference is the caller's again. */
bool fr_sem_cancel(struct fr_sem *sem, struct fr_sem_waiter *waiter);

/* Gives permits: to who waits, then to whoever comes. False: that would be more than FR_SEM_MAX; those are forgotten. */
static inline bool fr_sem_release(struct fr_sem *sem, uint64_t n)
{
    uint64_t word = atomic_load_explicit(&sem->word, memory_order_relaxed); /* a guess, the CAS checks it */
    do {
        if (word & FR_SEM_QUEUED || word / FR_SEM_ONE + n > FR_SEM_MAX) {
            return fr_sem_release_slow(sem, n);
        }
        /* release: pairs with fr_sem_try_acquire() and fr_sem_available() */
    } while (!atomic_compare_exchange_weak_explicit(&sem->word, &word, word + n * FR_SEM_ONE, memory_order_release,
                                                    memory_order_relaxed));
    return true;
}

/* Takes up to n free permits away for good; how many there were. */
uint64_t fr_sem_forget(struct fr_sem *sem, uint64_t n);

/* Nobody gets a permit any more; who waits is woken. Idempotent. */
void fr_sem_close(struct fr_sem *sem);

#endif
