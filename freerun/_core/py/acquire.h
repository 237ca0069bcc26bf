/* acquire: the part that leaves share which acquire from a batch semaphore: Semaphore, Mutex, mpsc.
 *
 * The leaf is the permit, too: awaited, it becomes what it asked for and returns itself. One object for both.
 *
 * THREADS    the thread that polls the task; split, merge, release and so on: any, one at a time by `stepping`.
 * STATE      attached.
 * OWNERSHIP  the struct lies in the leaf; in the state LINED its waiter is in the line of the semaphore, or was taken out
 *            of it and has not looked yet.
 * FIELDS     stepping  fr_leaf_enter() and fr_leaf_exit(); the rest belongs to who has entered
 *            task      in the state LINED: for whom it stands there; owned
 * INVARIANTS AQ1 who leaves the state LINED does it through fr_acquire_let_go() or by finding that it has all: so no
 *                waiter is left behind, and no permit goes with a leaf that was given one and never looked.
 *            AQ2 permits that are HELD are given back exactly once: by whoever turns HELD into OVER, or by the dealloc.
 * LOCKS      none of its own.
 * SHUTDOWN   a coroutine that is closed closes the leaf it awaits.
 * PROVED BY  tests/sync/test_semaphore.py, tests/sync/test_mutex.py
 */
#ifndef FR_ACQUIRE_H
#define FR_ACQUIRE_H

#include "leaf.h"
#include "rt/semaphore.h"

enum fr_acquire_state {
    FR_ACQUIRE_NEW,
    FR_ACQUIRE_LINED,
    FR_ACQUIRE_HELD,
    FR_ACQUIRE_OVER, /* released, forgotten, used up */
};

struct fr_acquire {
    struct fr_sem_waiter wait;
    uint64_t count; /* asked for, then held */
    struct fr_task *task;
    _Atomic bool stepping;
    uint8_t state;
};

/* What became of a step. */
enum fr_acquired { FR_ACQUIRED, FR_ACQUIRE_PARKS, FR_ACQUIRE_YIELDS, FR_ACQUIRE_CLOSED, FR_ACQUIRE_MISUSED };

static inline void fr_acquire_init(struct fr_acquire *acquire, uint64_t count, enum fr_acquire_state state)
{
    acquire->wait.asked = acquire->wait.needed = 0;
    acquire->count = count;
    acquire->state = (uint8_t)state;
    atomic_init(&acquire->stepping, false);
}

/* The `wake` of the py layer. */
void fr_acquire_wake(void *task);
/* The same for the semaphores of locks, which count what was granted: see futurelock.h. */
void fr_acquire_granted(void *task);

enum fr_acquired fr_acquire_step_slow(struct fr_acquire *acquire, struct fr_sem *sem, struct fr_task *task);

/* The worker's exception keeps what the last leaf returned (see fr_leaf_return()), which may be a permit that nobody else
 * has any more. To be called before one says that there is none. */
static inline void fr_acquire_settle(void)
{
    if (fr_thread.worker && fr_thread.worker->returned) {
        fr_leaf_forget(fr_thread.worker);
    }
}

/* One step of the leaf; the caller has entered, and the state is NEW or LINED. MISUSED: an exception is set. */
static inline enum fr_acquired fr_acquire_step(struct fr_acquire *acquire, struct fr_sem *sem, struct fr_task *task)
{
    if (acquire->state == FR_ACQUIRE_NEW) {
        if (!fr_leaf_spend()) {
            return FR_ACQUIRE_YIELDS;
        }
        if (fr_sem_try_acquire(sem, acquire->count) == 0) {
            acquire->state = FR_ACQUIRE_HELD;
            return FR_ACQUIRED;
        }
    }
    return fr_acquire_step_slow(acquire, sem, task);
}

/* Leaves the line, gives on what it was given [AQ1]; it may be awaited again. Harmless in every other state. */
void fr_acquire_let_go(struct fr_acquire *acquire, struct fr_sem *sem);

/* For dealloc: nobody else has the object. */
static inline void fr_acquire_drop(struct fr_acquire *acquire, struct fr_sem *sem)
{
    if (acquire->state == FR_ACQUIRE_HELD) {
        fr_sem_release(sem, acquire->count); /* [AQ2] */
    } else if (acquire->state == FR_ACQUIRE_LINED) {
        fr_acquire_let_go(acquire, sem);
    }
}

/* Acquires on a plain thread, which may sleep. 0, -ESHUTDOWN, or -EINTR with an exception. */
int fr_acquire_blocking(struct fr_sem *sem, uint64_t n);
/* The rest of it, for a waiter with an event that stands in line. */
int fr_acquire_wait_blocking(struct fr_sem *sem, struct fr_sem_waiter *waiter);

/* An int of 0 to FR_SEM_MAX (from `least`). 0, or -1 with an exception that names the argument. */
int fr_parse_count(PyObject *value, const char *argument, uint64_t least, uint64_t *count);
/* The one optional argument of a method, by position or keyword: borrowed, or NULL. 0 or -1 with an exception. */
int fr_parse_optional(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, const char *function,
                      const char *argument, PyObject **value);

#endif
