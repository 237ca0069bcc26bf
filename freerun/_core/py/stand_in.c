/* stand_in: polls tasks while every worker is stuck in one poll.
 *
 * A call that takes a second in each worker would hold up everybody: timers fire and connections arrive, since the watch
 * drives (watch.c), but nobody polls the tasks that they wake. So when all workers have been stuck in the poll that they are
 * in for STUCK_NS and something is queued, the watch calls the stand-in: one more thread with a core of its own, which finds
 * its work in the injector and in the workers' queues and polls it until a worker is back. There is one: should it get
 * stuck as well, everybody waits. It is a safety net, not a way to run more of such calls; that is spawn_blocking().
 *
 * A worker whose task spawns in a loop is not stuck, but at work with the runtime, for a second at most: what it spawns runs
 * best where it was made, and whoever asks for one worker gets one thread.
 *
 * THREADS    call: the watch. wake, is_awake: any. main: the thread itself.
 * STATE      wake may be called attached or not. The thread sleeps detached.
 * OWNERSHIP  its core is the last entry of rt->workers. It is a worker's in everything but this: it has no place in the
 *            idle word (it never parks there and is never notified), and it does not drive.
 * FIELDS     stand_in_word  OFF -> AWAKE: the watch. AWAKE -> ASLEEP -> OFF or AWAKE: the thread. ASLEEP -> AWAKE: any.
 *            all_stuck      the watch writes, relaxed: a hint, looked at again with every task
 * INVARIANTS SI1 OFF means that no thread uses the core: the thread is no worker's any more when it stores it (its last
 *                hook may spawn), and the watch starts one only then.
 *            SI2 before it sleeps, and when a worker is back, its queue is empty: what is left in it goes to the
 *                injector, and a worker is notified. Thieves look into its queue as well, so nothing waits behind a task
 *                of its that takes long.
 *            SI3 no call is lost: it announces ASLEEP, then looks for work and at the phase, both seq_cst; who pushes or
 *                stops the runtime does so before it looks at the word. What slips through all the same (all_stuck is
 *                relaxed) the watch finds at its next look, a few milliseconds later.
 * LOCKS      none.
 * SHUTDOWN   the phase STOPPED ends it; fr_threads_wait() counts it like any other thread.
 * PROVED BY  tests/runtime/test_stand_in.py, tests/stress/test_stand_in.py
 */
#include <errno.h>

#include "rt/clock.h"
#include "rt/futex.h"
#include "runtime.h"

enum { OFF, AWAKE, ASLEEP };
#define KEEP_NS 1000000000

bool fr_stand_in_is_awake(struct fr_runtime *rt)
{
    /* seq_cst: pairs with rest() [SI3] */
    return atomic_load(&rt->stand_in_word) == AWAKE;
}

void fr_stand_in_wake(struct fr_runtime *rt)
{
    uint32_t expected = ASLEEP;
    /* seq_cst: after the push, or the phase; pairs with rest() [SI3] */
    if (atomic_compare_exchange_strong(&rt->stand_in_word, &expected, AWAKE)) {
        fr_futex_wake(&rt->stand_in_word, 1);
    }
}

void fr_stand_in_call(struct fr_runtime *rt)
{
    uint32_t expected = OFF;
    /* seq_cst; acquire pairs with rest(): what the last thread did to the core is visible [SI1] */
    if (atomic_compare_exchange_strong(&rt->stand_in_word, &expected, AWAKE) &&
        fr_worker_start(&rt->workers[rt->nworkers])) {
        atomic_store(&rt->stand_in_word, OFF); /* no thread to be had: the watch tries again at its next look */
    }
}

static bool is_wanted(struct fr_runtime *rt)
{
    /* relaxed: a hint [SI3] */
    return atomic_load_explicit(&rt->all_stuck, memory_order_relaxed) && !fr_stopped(rt);
}

/* The core is nobody's from here on [SI1]. False: somebody has called meanwhile. */
static bool retire(struct fr_worker *worker)
{
    uint32_t expected = ASLEEP;
    fr_worker_hand_back(worker); /* what a destructor has woken or spawned when we drained [SI2] */
    fr_thread.worker = NULL;
    /* release: pairs with fr_stand_in_call() [SI1] */
    bool retired = atomic_compare_exchange_strong(&worker->rt->stand_in_word, &expected, OFF);
    if (!retired) {
        fr_thread.worker = worker;
    }
    return retired;
}

/* Sleeps until it is called. False: nobody did for a while, and it has retired. */
static bool rest(struct fr_worker *worker)
{
    struct fr_runtime *rt = worker->rt;
    int err = 0;
    uint32_t expected = AWAKE;
    atomic_compare_exchange_strong(&rt->stand_in_word, &expected, ASLEEP); /* seq_cst [SI3] */
    /* seq_cst, and so is the look at the queues: pairs with fr_stand_in_wake() [SI3] */
    bool stopped = atomic_load(&rt->phase) == FR_PHASE_STOPPED;
    if (!stopped && !(is_wanted(rt) && fr_work_anywhere(rt))) {
        PyThreadState *state = PyEval_SaveThread();
        err = fr_futex_wait(&rt->stand_in_word, ASLEEP, KEEP_NS);
        PyEval_RestoreThread(state);
        if (fr_drain(rt, &worker->drained)) {
            PyErr_WriteUnraisable(NULL);
        }
    }
    if (err == -ETIMEDOUT && retire(worker)) {
        return false;
    }
    expected = ASLEEP;
    atomic_compare_exchange_strong(&rt->stand_in_word, &expected, AWAKE); /* it may be AWAKE already */
    return true;
}

/* False: the core is another thread's now (block_in_place), or nobody's. */
static bool run(struct fr_worker *worker)
{
    struct fr_runtime *rt = worker->rt;
    while (!fr_stopped(rt)) {
        struct fr_task *task = is_wanted(rt) ? fr_worker_find(worker) : NULL;
        if (task) {
            uint64_t now = fr_clock_ticks();
            if (!fr_worker_run_task(worker, task, &now)) {
                return false;
            }
        } else {
            fr_worker_hand_back(worker); /* [SI2] */
            if (!rest(worker)) {
                return false;
            }
        }
    }
    return true;
}

void fr_stand_in_main(struct fr_runtime *rt, void *core)
{
    struct fr_worker *worker = core;
    fr_worker_enter(worker);
    if (run(worker)) {
        fr_worker_close_queued(worker);
    }
    fr_worker_leave(rt);
}
