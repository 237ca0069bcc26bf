/* wakes: who is to be woken, collected under the lock of a wait list and woken after it.
 *
 * THREADS     a batch lives on one thread's stack.
 * STATE       attached thread state: not needed.
 * OWNERSHIP   taking a waiter moves its task reference into the batch; firing moves it on to the callback.
 * FIELDS      plain.
 * INVARIANTS  WK1  A taken waiter is not touched any more: its owner may free it as soon as it sees `linked` false.
 * LOCKS       fr_wakes_take_locked() under the lock of the list; fr_wakes_fire() under none.
 * SHUTDOWN    nothing: the callback copes with tasks that are over.
 * PROVED BY   tests/test_semaphore.c, tests/test_mpsc.c, tests/test_notify.c
 */
#ifndef FR_RT_WAKES_H
#define FR_RT_WAKES_H

#include "mutex.h"
#include "waiter.h"

#ifndef FR_WAKES_MAX
#define FR_WAKES_MAX 32
#endif

/* Wakes a task and takes its reference over. */
typedef void (*fr_wake)(void *task);

struct fr_wakes {
    int n;
    void *tasks[FR_WAKES_MAX];
};

/* Not `= {0}`: that would write all of it, each time. */
static inline void fr_wakes_init(struct fr_wakes *wakes)
{
    wakes->n = 0;
}

static inline bool fr_wakes_full(const struct fr_wakes *wakes)
{
    return wakes->n == FR_WAKES_MAX;
}

/* Takes a waiter out of its list. There must be room. A waiter without a task and without an event is only marked. */
static inline void fr_wakes_take_locked(struct fr_wakes *wakes, struct fr_waiter *waiter)
{
    fr_list_remove(&waiter->node);
    if (waiter->event) {
        fr_event_set(waiter->event); /* who sleeps on it takes the lock before it goes away */
    } else if (waiter->task) {
        wakes->tasks[wakes->n++] = waiter->task;
    }
    /* release, and last [WK1]: what was written into the waiter is seen by who sees this; pairs with
     * fr_waiter_is_linked() */
    atomic_store_explicit(&waiter->linked, false, memory_order_release);
}

/* For the waiter's owner, who needs no lock to see that it was taken [W1]. */
static inline bool fr_waiter_is_linked(const struct fr_waiter *waiter)
{
    return atomic_load_explicit(&waiter->linked, memory_order_acquire); /* pairs with fr_wakes_take_locked() */
}

/* Puts a waiter at the end of a list, under its lock. */
static inline void fr_waiter_link_locked(struct fr_node *list, struct fr_waiter *waiter)
{
    fr_list_push_back(list, &waiter->node);
    atomic_store_explicit(&waiter->linked, true, memory_order_relaxed); /* under the lock */
}

/* Its owner takes it out again, under the lock; false: somebody else has. */
static inline bool fr_waiter_unlink_locked(struct fr_waiter *waiter)
{
    /* relaxed, twice: written under this very lock */
    if (!atomic_load_explicit(&waiter->linked, memory_order_relaxed)) {
        return false;
    }
    fr_list_remove(&waiter->node);
    atomic_store_explicit(&waiter->linked, false, memory_order_relaxed);
    return true;
}

/* Lets another task wait in its place. False: it is in no list any more. True: *task is the one that waited before. */
static inline bool fr_waiter_retarget(struct fr_mutex *lock, struct fr_waiter *waiter, void **task)
{
    fr_mutex_lock(lock);
    bool linked = atomic_load_explicit(&waiter->linked, memory_order_relaxed); /* written under this very lock */
    if (linked) {
        void *before = waiter->task;
        waiter->task = *task;
        *task = before;
    }
    fr_mutex_unlock(lock);
    return linked;
}

static inline void fr_wakes_fire(struct fr_wakes *wakes, fr_wake wake)
{
    for (int i = 0; i < wakes->n; i++) {
        wake(wakes->tasks[i]);
    }
    wakes->n = 0;
}

#endif
