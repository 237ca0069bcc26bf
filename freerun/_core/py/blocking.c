/* blocking: the pool for calls that block. First in, first out; threads up to a limit, idle ones leave.
 *
 * THREADS    submit: any attached thread. Pool threads: native, attached while they run a call, detached in waits.
 * INVARIANTS B1 a queued task holds its owned-list reference (rt/state.h): the queue itself holds none.
 *            B2 `idle` counts threads that wait and are not promised to a push; a push takes one from it, or starts
 *               a thread, or relies on a busy thread that looks at the queue before it waits.
 *            B3 what has FR_DUTY_MUST is never taken out of the queue but to be run: a file's writes.
 *            B4 a thread is in rt->threads before the lock that let it be started is released: whoever has sealed the
 *               pool and counts no threads will see none.
 * SHUTDOWN   closed: what may be dropped is, threads leave when the queue is empty, and only calls with a duty come in
 *            (cleanup may use files). Sealed: none does. A thread that comes back late still empties the queue.
 * PROVED BY  tests/task/test_spawn_blocking.py, tests/task/test_blocking_shutdown.py
 */
#include <errno.h>
#include <limits.h>

#include "rt/clock.h"
#include "rt/futex.h"
#include "runtime.h"

void fr_pool_init(struct fr_pool *pool, uint32_t limit, uint64_t keep_alive_ns)
{
    *pool = (struct fr_pool){.limit = limit, .keep_alive_ns = keep_alive_ns};
}

static void push_locked(struct fr_pool *pool, struct fr_task *task)
{
    task->next = NULL;
    if (pool->tail) {
        pool->tail->next = task;
    } else {
        pool->head = task;
    }
    pool->tail = task;
    pool->queued++;
}

static struct fr_task *pop_locked(struct fr_pool *pool)
{
    struct fr_task *task = pool->head;
    if (task) {
        pool->head = task->next;
        if (!pool->head) {
            pool->tail = NULL;
        }
        pool->queued--;
    }
    return task;
}

/* Detached. WORK: the queue has some. LEAVE: nothing came in time, or the pool was closed; the thread is then
 * uncounted. DRAIN: the watch asks for it. */
enum waited { WORK, LEAVE, DRAIN };

static enum waited wait_for_work(struct fr_runtime *rt, uint32_t drained)
{
    struct fr_pool *pool = &rt->pool;
    uint64_t deadline = fr_clock_ns() + pool->keep_alive_ns;
    for (;;) {
        /* acquire: pairs with wake_one(); read before the queue is looked at, so a push in between ends the wait */
        uint32_t signal = atomic_load_explicit(&pool->signal, memory_order_acquire);
        uint64_t now = fr_clock_ns();
        fr_mutex_lock(&pool->lock);
        bool work = pool->head != NULL;
        bool leave = !work && (pool->closed || now >= deadline);
        if (work || leave) {
            pool->idle--;
        }
        if (leave) {
            pool->threads--;
        }
        fr_mutex_unlock(&pool->lock);
        if (work || leave) {
            return work ? WORK : LEAVE;
        }
        if (atomic_load_explicit(&rt->drain_epoch, memory_order_relaxed) != drained) { /* a hint, see fr_drain() */
            return DRAIN;
        }
        fr_futex_wait(&pool->signal, signal, (int64_t)(deadline - now));
    }
}

/* What the call dropped may wait for its owner, asleep. With a watch asleep too, or none, nobody else would see to it. */
static void after_calls(struct fr_runtime *rt)
{
    if (rt->has_watch) {
        /* seq_cst: before the look at the watch; pairs with activity() */
        atomic_fetch_add_explicit(&rt->pool_rests, 1, memory_order_seq_cst);
        fr_watch_nudge(rt);
    } else {
        fr_drain_sleepers(rt);
    }
}

static struct fr_task *next_task(struct fr_runtime *rt, uint32_t *drained)
{
    struct fr_pool *pool = &rt->pool;
    for (;;) {
        fr_mutex_lock(&pool->lock);
        struct fr_task *task = pop_locked(pool);
        if (!task) {
            pool->idle++;
        }
        fr_mutex_unlock(&pool->lock);
        if (task) {
            return task;
        }
        after_calls(rt);
        enum waited waited;
        do {
            PyThreadState *state = PyEval_SaveThread();
            waited = wait_for_work(rt, *drained);
            PyEval_RestoreThread(state);
            if (fr_drain(rt, drained)) {
                PyErr_WriteUnraisable(NULL);
            }
        } while (waited == DRAIN);
        if (waited == LEAVE) {
            return NULL;
        }
    }
}

static void pool_run_one(struct fr_runtime *rt, struct fr_task *task)
{
    fr_task_run_blocking(task);
    fr_thread.core = (CoreObject *)rt->core; /* what the call entered and did not leave ends with it */
    /* release: pairs with jump_clock() */
    if (atomic_fetch_sub_explicit(&rt->blocking_running, 1, memory_order_release) == 1 &&
        atomic_load_explicit(&rt->paused, memory_order_relaxed)) { /* a paused clock may jump now */
        fr_driver_kick(&rt->driver);
    }
}

static void pool_main(struct fr_runtime *rt, void *Py_UNUSED(arg))
{
    struct fr_task *task;
    uint32_t drained = atomic_load_explicit(&rt->drain_epoch, memory_order_relaxed); /* a hint, see fr_drain() */
    fr_thread.core = (CoreObject *)rt->core;                                         /* a blocking call may spawn */
    fr_thread.pool = rt;
    fr_call_hook(rt, rt->hooks.thread_start, NULL);
    while ((task = next_task(rt, &drained))) {
        pool_run_one(rt, task);
    }
    fr_call_hook(rt, rt->hooks.thread_stop, NULL);
    fr_thread.core = NULL;
}

static void wake_one(struct fr_pool *pool)
{
    /* release: pairs with wait_for_work() */
    atomic_fetch_add_explicit(&pool->signal, 1, memory_order_release);
    fr_futex_wake(&pool->signal, 1);
}

void fr_pool_nudge(struct fr_pool *pool)
{
    /* release: pairs with wait_for_work() */
    atomic_fetch_add_explicit(&pool->signal, 1, memory_order_release);
    fr_futex_wake(&pool->signal, INT_MAX);
}

/* A thread could not be started: fine if another will come to it, else the task is taken back. */
static int start_failed(struct fr_pool *pool, struct fr_task *task, int err)
{
    fr_mutex_lock(&pool->lock);
    pool->threads--;
    bool alone = pool->threads == 0;
    if (alone) { /* nobody pops any more, so it is still there */
        struct fr_task **at = &pool->head;
        struct fr_task *before = NULL;
        while (*at && *at != task) {
            before = *at;
            at = &(*at)->next;
        }
        alone = *at == task; /* else a shutdown has taken it, and ends it */
        if (alone) {
            *at = task->next;
            if (pool->tail == task) {
                pool->tail = before;
            }
            pool->queued--;
        }
    }
    fr_mutex_unlock(&pool->lock);
    return alone ? err : 0;
}

int fr_pool_submit(struct fr_runtime *rt, struct fr_task *task)
{
    struct fr_pool *pool = &rt->pool;
    fr_mutex_lock(&pool->lock);
    if (pool->sealed || (pool->closed && task->duty == FR_DUTY_NONE)) {
        fr_mutex_unlock(&pool->lock);
        return -ESHUTDOWN;
    }
    atomic_fetch_add_explicit(&rt->blocking_running, 1, memory_order_relaxed); /* ordered by the lock */
    push_locked(pool, task);
    bool wake = pool->idle >= pool->queued;
    bool start = !wake && pool->threads < pool->limit;
    uint32_t index = pool->threads;
    if (start) {
        pool->threads++;
        atomic_fetch_add_explicit(&rt->threads, 1, memory_order_relaxed); /* [B4]; ordered by the lock */
    }
    fr_mutex_unlock(&pool->lock);
    if (!start) {
        wake_one(pool);
        return 0;
    }
    int err = fr_thread_spawn(rt, "blocking", index, pool_main, NULL);
    if (err && (err = start_failed(pool, task, err))) {
        atomic_fetch_sub_explicit(&rt->blocking_running, 1, memory_order_relaxed); /* it never ran */
    }
    fr_threads_discount(rt); /* it has counted itself */
    return err;
}

/* Takes what may be dropped out of the queue [B3]; in order. */
static struct fr_task *take_droppable_locked(struct fr_pool *pool)
{
    struct fr_task *task = pool->head, *dropped = NULL, **end = &dropped;
    pool->head = pool->tail = NULL;
    pool->queued = 0;
    while (task) {
        struct fr_task *next = task->next;
        if (task->duty == FR_DUTY_MUST) {
            push_locked(pool, task);
        } else {
            task->next = NULL;
            *end = task;
            end = &task->next;
        }
        task = next;
    }
    return dropped;
}

struct fr_task *fr_pool_close(struct fr_runtime *rt)
{
    struct fr_pool *pool = &rt->pool;
    fr_mutex_lock(&pool->lock);
    uint32_t before = pool->queued;
    struct fr_task *dropped = take_droppable_locked(pool);
    /* relaxed: ordered by the lock */
    atomic_fetch_sub_explicit(&rt->blocking_running, before - pool->queued, memory_order_relaxed);
    pool->closed = true;
    fr_mutex_unlock(&pool->lock);
    fr_pool_nudge(pool);
    return dropped;
}

void fr_pool_seal(struct fr_runtime *rt)
{
    fr_mutex_lock(&rt->pool.lock);
    rt->pool.sealed = true;
    fr_mutex_unlock(&rt->pool.lock);
}
