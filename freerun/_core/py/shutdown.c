/* shutdown: ending a runtime without losing a task or a thread, and without waiting for ever.
 *
 *   1. CANCELLING  the shards are closed (spawn raises), every task gets Cancelled once, queued blocking calls are
 *                  cancelled, a file's writes excepted. Cleanup may await: workers, timers, I/O and files go on until
 *                  the deadline.
 *   2. CLOSING     what is left is closed: close() on its coroutine, on a worker, or here if the workers are stuck.
 *   3. STOPPED     the threads leave. One that does not (it is stuck in a call) is named in the report and left
 *                  behind; it ends by itself when the call returns.
 *   4. teardown    memory and descriptors go, if no thread was left behind.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "futurelock.h"
#include "leaf.h"
#include "rt/clock.h"
#include "rt/futex.h"
#include "runtime.h"

#define CLOSE_GRACE_NS  UINT64_C(500000000)
#define THREAD_GRACE_NS UINT64_C(500000000)

/* ---- 1: cancelling ---- */

static void advance_phase(struct fr_runtime *rt, uint32_t phase)
{
    uint32_t now = atomic_load_explicit(&rt->phase, memory_order_relaxed); /* validated by the CAS */
    while (now < phase &&
           !atomic_compare_exchange_weak_explicit(&rt->phase, &now, phase, memory_order_seq_cst, /* stand_in.c [SI3] */
                                                  memory_order_relaxed)) {
    }
}

static void abort_one(struct fr_task *task, void *Py_UNUSED(arg))
{
    fr_task_abort(task);
}

void fr_shutdown_begin(struct fr_runtime *rt)
{
    advance_phase(rt, FR_PHASE_CANCELLING);
    fr_owned_close(rt); /* before the tasks are cancelled [R3] */
    struct fr_task *queued = fr_pool_close(rt);
    while (queued) {
        struct fr_task *task = queued;
        queued = task->next;
        fr_state_start_poll(&task->state); /* it was queued, so NOTIFIED, and is ours now */
        fr_task_complete(task, FR_OUT_CANCELLED, NULL);
    }
    fr_owned_each(rt, abort_one, NULL);
}

/* ---- waiting for the tasks ---- */

static int64_t left_until(uint64_t deadline)
{
    uint64_t now = fr_clock_ns();
    return deadline > now ? (int64_t)(deadline - now) : 0;
}

/* Multi-thread: detached, until no task is left or the deadline. */
static void wait_for_workers(struct fr_runtime *rt, uint64_t deadline)
{
    PyThreadState *state = PyEval_SaveThread();
    for (;;) {
        /* acquire: pairs with fr_owned_remove(); read before counting, so an end in between is noticed */
        uint32_t done = atomic_load_explicit(&rt->done, memory_order_acquire);
        int64_t left = left_until(deadline);
        if (fr_owned_none(rt) || left == 0) {
            break;
        }
        fr_futex_wait(&rt->done, done, left);
    }
    PyEval_RestoreThread(state);
}

/* The driver calls this for the deadline armed in run_core(), fr_owned_remove() when no task is left in a shard. */
void fr_shutdown_tick(struct fr_runtime *rt)
{
    fr_mutex_lock(&rt->blockers_lock);
    if (rt->drain_event) {
        fr_event_set(rt->drain_event);
    }
    fr_mutex_unlock(&rt->blockers_lock);
    fr_unpark_worker(rt, 0); /* it may sleep on its futex while the watch drives */
}

static void set_drain_event(struct fr_runtime *rt, struct fr_event *event)
{
    fr_mutex_lock(&rt->blockers_lock);
    rt->drain_event = event;
    fr_mutex_unlock(&rt->blockers_lock);
}

/* Whether a block_on is in progress. */
static bool is_blocked_on(struct fr_runtime *rt)
{
    fr_mutex_lock(&rt->blockers_lock);
    bool some = rt->blockers.next != &rt->blockers;
    fr_mutex_unlock(&rt->blockers_lock);
    return some;
}

/* Current-thread: this thread runs the tasks' cleanup itself, unless a block_on does. Those of a LocalRuntime run on
 * its own thread or not at all. */
static void run_core(CoreObject *core, struct fr_runtime *rt, uint64_t deadline)
{
    struct fr_outer outer;
    struct fr_event event;
    bool here = fr_core_may_run_here(rt);
    while (!fr_owned_none(rt) && left_until(deadline) > 0 && (here || is_blocked_on(rt))) {
        if (!here || !fr_core_begin(core, rt, &outer)) {
            if (PyErr_Occurred()) {
                PyErr_WriteUnraisable(NULL);
            }
            wait_for_workers(rt, fr_clock_ns() + 10000000); /* block_on's thread is at it; it may leave any time */
            continue;
        }
        fr_event_init(&event, -1);
        set_drain_event(rt, &event);
        atomic_store(&rt->driver.alarm_ns, deadline); /* in real time: the runtime's own clock may be paused */
        if (!fr_owned_none(rt) && fr_worker_run(&rt->workers[0], &event)) {
            PyErr_WriteUnraisable(NULL); /* a signal handler raised; the shutdown goes on */
        }
        atomic_store(&rt->driver.alarm_ns, 0);
        set_drain_event(rt, NULL);
        fr_core_end(rt, &outer);
    }
}

static void wait_for_tasks(CoreObject *core, struct fr_runtime *rt, uint64_t deadline)
{
    if (rt->current_thread) {
        run_core(core, rt, deadline);
    } else {
        wait_for_workers(rt, deadline);
    }
}

/* ---- 2: closing ---- */

static void wake_one(struct fr_task *task, void *Py_UNUSED(arg))
{
    if (!fr_task_is_call(task)) {
        fr_task_wake(task);
    }
}

static void close_one(struct fr_task *task, void *Py_UNUSED(arg))
{
    if (!fr_task_is_call(task) && fr_state_try_lock_idle(&task->state)) {
        fr_task_close(task);
    }
}

static void close_queued(struct fr_task *task)
{
    fr_task_take(task);
    fr_task_close(task);
}

/* Closes what sits in the injector, and what rings have spilled: for when no worker gets to it. */
static void close_unreached(struct fr_runtime *rt)
{
    void *task;
    while ((task = fr_inject_pop(&rt->inject))) {
        close_queued(task);
    }
    for (uint32_t i = 0; i < rt->nqueues; i++) {
        while (fr_spill_take(&rt->workers[i].spill, &task, 1)) {
            close_queued(task);
        }
    }
}

static void describe_one(struct fr_task *task, void *arg)
{
    PyObject *description = fr_task_describe(task->rt->mod, task);
    if (!description || PyList_Append(arg, description)) {
        PyErr_Clear();
    }
    Py_XDECREF(description);
}

static void close_tasks(CoreObject *core, struct fr_runtime *rt)
{
    advance_phase(rt, FR_PHASE_CLOSING);
    if (!rt->current_thread) {
        fr_owned_each(rt, close_one, NULL); /* those that wait; what is queued, its worker closes */
    }
    fr_owned_each(rt, wake_one, NULL);
    for (uint32_t i = 0; i < rt->nworkers; i++) {
        fr_unpark_worker(rt, i);
    }
    wait_for_tasks(core, rt, fr_clock_ns() + CLOSE_GRACE_NS);
    if (rt->current_thread) { /* its tasks run on one thread at a time; but a block_on that is stuck closes nothing */
        fr_owned_each(rt, close_one, NULL);
    }
    close_unreached(rt);
}

/* ---- 3: stopping ---- */

static void stop_watch(struct fr_runtime *rt)
{
    atomic_store_explicit(&rt->watch_word, 2, memory_order_release); /* pairs with stopping() in watch.c */
    fr_futex_wake(&rt->watch_word, 1);
    fr_driver_kick(&rt->driver);
}

static bool stop_threads(struct fr_runtime *rt, uint64_t deadline)
{
    advance_phase(rt, FR_PHASE_STOPPED);
    fr_pool_seal(rt);
    for (uint32_t i = 0; i < rt->nworkers; i++) {
        fr_unpark_worker(rt, i);
    }
    stop_watch(rt);
    fr_stand_in_wake(rt);
    uint64_t least = fr_clock_ns() + THREAD_GRACE_NS;
    return fr_threads_wait(rt, deadline > least ? deadline : least);
}

/* What was still in a run queue when its worker left. No thread runs in the queues any more. */
static void close_leftovers(CoreObject *core, struct fr_runtime *rt)
{
    struct fr_thread outer = fr_thread;
    if (rt->current_thread && !fr_core_take(core, rt)) {
        return; /* a block_on is on its way out with it */
    }
    fr_thread = outer;
    for (uint32_t i = 0; i < rt->nqueues; i++) {
        struct fr_task *task;
        while ((task = fr_next_queued(&rt->workers[i]))) {
            fr_task_poll(task); /* closes it: the phase is past CLOSING */
        }
    }
    if (rt->current_thread) {
        fr_core_give(rt);
    }
    fr_thread = outer; /* those polls were in the middle of whatever this thread is at */
}

/* ---- 4: teardown ---- */

static void wait_for_visitors(struct fr_runtime *rt)
{
    PyThreadState *state = PyEval_SaveThread();
    /* seq_cst: after core->rt was cleared; pairs with fr_foreign_begin() [R2] */
    while (atomic_load(&rt->inflight)) {
        sched_yield();
    }
    PyEval_RestoreThread(state);
}

static void clear_hooks(struct fr_hooks *hooks)
{
    struct fr_hooks h = *hooks;
    *hooks = (struct fr_hooks){.thread_start = NULL};
    PyObject *all[] = {h.thread_start,   h.thread_stop, h.thread_park, h.thread_unpark, h.task_spawn,
                       h.task_terminate, h.unhandled,   h.slow_poll,   h.agen_first,    h.agen_final,
                       h.drained,        h.thread_name, h.futurelock};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        Py_XDECREF(all[i]);
    }
}

void fr_teardown(CoreObject *core, struct fr_runtime *rt)
{
    PyObject *error = PyErr_GetRaisedException();
    atomic_store(&core->rt, NULL);        /* seq_cst: pairs with fr_visit_core() [R2] */
    atomic_fetch_add(&rt->generation, 1); /* before the wait: a later visitor sees that this life is over */
    wait_for_visitors(rt);
    fr_futurelock_drop(rt);
    for (uint32_t i = 0; rt->workers && i < rt->nqueues; i++) {
        fr_worker_clear(&rt->workers[i]);
    }
    fr_driver_destroy(&rt->driver);
    fr_idle_destroy(&rt->idle);
    fr_inject_destroy(&rt->inject);
    for (int i = 0; i < 2; i++) {
        if (rt->signal_pipe[i] >= 0) {
            close(rt->signal_pipe[i]);
        }
    }
    free(rt->workers);
    free(rt->shards);
    rt->workers = NULL;
    rt->shards = NULL;
    struct fr_hooks hooks = rt->hooks;
    rt->hooks = (struct fr_hooks){.thread_start = NULL};
    PyObject *fatal = atomic_exchange(&rt->fatal, NULL);
    fr_runtime_recycle(rt);
    clear_hooks(&hooks); /* may run anything, also make a runtime out of that memory */
    Py_XDECREF(fatal);
    PyErr_SetRaisedException(error);
}

/* ---- the whole ---- */

/* Asynchronous generators are closed when nobody iterates them any more. True if some were: their cleanup may have
 * opened others. */
static bool close_generators(struct fr_runtime *rt)
{
    PyObject *some = rt->hooks.drained ? PyObject_CallNoArgs(rt->hooks.drained) : NULL;
    int result = some ? PyObject_IsTrue(some) : 0;
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(rt->hooks.drained);
    }
    Py_XDECREF(some);
    return result > 0;
}

static int shutdown_locked(CoreObject *core, struct fr_runtime *rt, uint64_t deadline, PyObject *report)
{
    fr_shutdown_begin(rt);
    wait_for_tasks(core, rt, deadline);
    while (close_generators(rt) && left_until(deadline) > 0) {
        wait_for_tasks(core, rt, deadline);
    }
    if (!fr_owned_none(rt)) {
        if (report) {
            fr_owned_each(rt, describe_one, report);
        }
        close_tasks(core, rt);
    }
    bool gone = stop_threads(rt, deadline);
    if (gone) {
        close_leftovers(core, rt);
    }
    if (!gone || !fr_owned_none(rt)) {
        rt->dirty = true;
        fr_threads_abandon(rt);
        return 0;
    }
    fr_teardown(core, rt);
    return 0;
}

int fr_shutdown(CoreObject *core, struct fr_runtime *rt, int64_t timeout_ns, PyObject *report)
{
    uint64_t deadline = fr_clock_ns() + (uint64_t)timeout_ns;
    int result = 0;
    PyMutex_Lock(&rt->shutdown_mutex); /* type-stable like the rest [R1]; a second caller finds it done */
    atomic_store(&rt->shutdown_thread, PyThread_get_thread_ident());
    if (atomic_load(&core->rt) == rt && !rt->dirty) {
        result = shutdown_locked(core, rt, deadline, report);
    }
    atomic_store(&rt->shutdown_thread, 0);
    PyMutex_Unlock(&rt->shutdown_mutex);
    return result;
}
