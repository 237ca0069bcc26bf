/* watch: the driver thread of a multi-thread runtime. It looks every few milliseconds while workers are busy, more often while
 * some are and others are parked, and sleeps without a timeout while they are all parked. It
 *
 * - drives when no worker has for too long (every one is in a long poll), so timers and sockets never stall;
 * - marks workers that are stuck in one poll, so that their LIFO slot may be stolen, and wakes a thief. Who pushes tasks at
 *   a brisk rate is not stuck, however long its poll: a task that spawns in a loop, say;
 * - calls the stand-in (stand_in.c) when every worker is stuck and something is queued;
 * - reports polls longer than `slow_poll_warning`, and tasks that do not look at a lock they were given (futurelock.h);
 * - on free-threaded builds, has sleeping threads free what others have dropped of theirs (freerun/_core/drain.py), now
 *   and then while there is work, and once when it has ended.
 *
 * INVARIANTS V1 watch_word is 1 only while it sleeps; it re-checks the idle word after the store, and a worker that
 *               leaves its park looks at watch_word after its RMW of the idle word: one of them sees the other.
 *            V2 it gives the driver back as soon as a worker asks (watch_release, and a kick).
 */
#include <errno.h>
#include <stdlib.h>

#include "futurelock.h"
#include "rt/clock.h"
#include "rt/futex.h"
#include "rt/slice.h"

enum { AWAKE, ASLEEP, STOP };
#define TICK_NS 2000000
#define BESIDE_NS \
    500000 /* a worker sleeps beside one that may be stuck, with tasks that it took for a matter of a moment */
#define UNATTENDED_NS  3000000
#define DRIVE_SLICE_NS 5000000
#define DRAIN_NS       20000000
#define STUCK_NS       10000000 /* every worker stuck for so long calls the stand-in */
#define STOPPED_NS     1000000  /* to attach takes less, unless the world is stopped */
#define BRISK_NS       100000   /* one push in so long, on average, is a brisk rate */
/* For so long. A stand-in beside a worker that spawns slows it down, as each then drops what the other has made; but timers
 * and connections shall not wait for longer than this, whatever a task does. */
#define BRISK_MAX_NS 1000000000
/* Who has pushed at such a rate in this poll may rest for so long: a page fault, or another process. */
#define PAUSE_NS 3000000
enum { IDLE_TICKS = 5 };

struct seen {
    uint64_t polls;
    uint64_t since_ns;   /* the first look that found it in this poll */
    uint64_t at_work_ns; /* the last one that found it not stuck */
    uint32_t pushed;     /* fr_queue_pushed() then */
    bool reported;
    bool searched; /* for what it was granted, see futurelock.h */
};

void fr_watch_nudge_slow(struct fr_runtime *rt)
{
    uint32_t expected = ASLEEP;
    /* seq_cst: pairs with sleep_until_nudged() [V1] */
    if (atomic_compare_exchange_strong(&rt->watch_word, &expected, AWAKE)) {
        fr_futex_wake(&rt->watch_word, 1);
    }
}

static bool stopping(struct fr_runtime *rt)
{
    /* acquire: pairs with stop_watch() in shutdown.c */
    return atomic_load_explicit(&rt->watch_word, memory_order_acquire) == STOP;
}

static bool all_parked(struct fr_runtime *rt)
{
    if (rt->current_thread && !atomic_load(&rt->core_taken)) { /* seq_cst: pairs with fr_core_take(), which nudges */
        return true;
    }
    if (fr_stand_in_is_awake(rt)) { /* it may get stuck, too */
        return false;
    }
    /* seq_cst: the second half of [V1] */
    return fr_idle_word_unparked(atomic_load_explicit(&rt->idle.word, memory_order_seq_cst)) == 0;
}

/* How long to sleep till the next look. */
static int64_t tick_ns(struct fr_runtime *rt)
{
    uint32_t parked = fr_idle_num_parked(&rt->idle);
    return parked && parked < rt->nworkers ? BESIDE_NS : TICK_NS;
}

/* Grows with every poll, every rest of a pool thread and whatever is left to trim: whether there may be something to drain. */
static uint64_t activity(struct fr_runtime *rt)
{
    /* seq_cst: pairs with after_calls(), as [V1] does with a park */
    uint64_t sum = atomic_load_explicit(&rt->pool_rests, memory_order_seq_cst);
    for (uint32_t i = 0; i < rt->nqueues; i++) {
        /* relaxed: written before the park that all_parked() has seen */
        sum += atomic_load_explicit(&rt->workers[i].polls, memory_order_relaxed);
        sum += atomic_load_explicit(&rt->workers[i].trims, memory_order_seq_cst); /* pairs with trim() */
    }
    return sum;
}

/* Unless something happened since `drained` was taken: then there may be more to drain. */
static void sleep_until_nudged(struct fr_runtime *rt, uint64_t drained)
{
    uint32_t expected = AWAKE;
    /* seq_cst: the first half of [V1] */
    if (!atomic_compare_exchange_strong(&rt->watch_word, &expected, ASLEEP)) {
        return; /* STOP */
    }
    if (all_parked(rt) && activity(rt) == drained) {
        /* seq_cst: the half of [FL1] that is the watch's */
        fr_futex_wait(&rt->watch_word, ASLEEP, fr_has_suspects(rt) ? (int64_t)rt->futurelock_ns / 4 + 1 : -1);
    }
    expected = ASLEEP;
    atomic_compare_exchange_strong(&rt->watch_word, &expected, AWAKE); /* a stray wake; STOP stays */
}

struct find {
    uint64_t id;
    struct fr_module *mod;
    PyObject *description;
};

static void find_by_id(struct fr_task *task, void *arg)
{
    struct find *find = arg;
    if (task->id == find->id && !find->description) {
        find->description = fr_task_describe(find->mod, task);
    }
}

/* Attaches for the report: names the task, where it was spawned, and (in Python) the stack of its thread. */
static void report_slow(struct fr_runtime *rt, uint32_t index, PyThreadState *state, double seconds)
{
    struct fr_worker *worker = &rt->workers[index];
    PyEval_RestoreThread(state);
    /* relaxed, both: a report may be a poll late */
    struct find find = {.id = atomic_load_explicit(&worker->current_id, memory_order_relaxed), .mod = rt->mod};
    unsigned long long ident = atomic_load_explicit(&worker->thread_ident, memory_order_relaxed);
    fr_owned_each(rt, find_by_id, &find);
    if (!find.description) {
        PyErr_Clear();
    }
    int number = index < rt->nworkers ? (int)index : -1; /* -1: the stand-in */
    PyObject *done = PyObject_CallFunction(rt->hooks.slow_poll, "iKOd", number, ident,
                                           find.description ? find.description : Py_None, seconds);
    if (!done) {
        PyErr_WriteUnraisable(rt->hooks.slow_poll);
    }
    Py_XDECREF(done);
    Py_XDECREF(find.description);
    PyEval_SaveThread();
}

static void search_granted(struct fr_runtime *rt, struct fr_worker *worker, PyThreadState *state, uint64_t for_ns)
{
    /* relaxed, both: a report may be a poll late */
    uint64_t id = atomic_load_explicit(&worker->current_id, memory_order_relaxed);
    unsigned long long ident = atomic_load_explicit(&worker->thread_ident, memory_order_relaxed);
    fr_futurelock_stuck(rt, state, id, ident, for_ns);
}

/* True if the worker is in the poll that it was in at the last look, for `for_ns` so far. */
static bool same_poll(struct fr_worker *worker, struct seen *seen, uint64_t now, uint64_t *for_ns)
{
    uint64_t polls = atomic_load_explicit(&worker->polls, memory_order_relaxed); /* a heuristic */
    if (polls != seen->polls) {
        *seen = (struct seen){
            .polls = polls, .since_ns = now, .at_work_ns = now, .pushed = fr_queue_pushed(&worker->queue)};
        return false;
    }
    *for_ns = now - seen->since_ns;
    return (polls & 1) && *for_ns > 0;
}

/* It has not been in its poll for so long that nothing excuses it. */
static bool is_young(const struct seen *seen, uint64_t now)
{
    return now - seen->since_ns < BRISK_MAX_NS;
}

/* For how long a worker that is in the same poll has been stuck. A slow one that pushes a task now and then is: what it
 * does in between is a call like any other. */
static uint64_t stuck_ns(struct fr_worker *worker, struct seen *seen, uint64_t now)
{
    uint32_t pushed = fr_queue_pushed(&worker->queue);
    bool brisk = (uint64_t)(pushed - seen->pushed) * BRISK_NS >= now - seen->at_work_ns;
    if (brisk && is_young(seen, now)) {
        seen->at_work_ns = now;
        seen->pushed = pushed;
    }
    uint64_t stuck = now - seen->at_work_ns;
    bool pauses = seen->at_work_ns != seen->since_ns && stuck < PAUSE_NS;
    return pauses ? 0 : stuck;
}

static bool has_work(struct fr_worker *worker)
{
    return fr_worker_depth(worker) > 0 ||
           atomic_load_explicit(&worker->lifo, memory_order_relaxed); /* a hint: the thief swaps */
}

/* Attaches if a thread has to be started. */
static void call_stand_in(struct fr_runtime *rt, PyThreadState *state)
{
    fr_stand_in_wake(rt);
    if (fr_stand_in_is_awake(rt)) {
        return;
    }
    PyEval_RestoreThread(state);
    fr_stand_in_call(rt);
    PyEval_SaveThread();
}

#ifdef Py_GIL_DISABLED
/* They could not go on till now. Who is in one poll for very long is stuck all the same. */
static void excuse(struct fr_runtime *rt, struct seen *seen)
{
    uint64_t now = fr_clock_ns();
    for (uint32_t i = 0; i < rt->nqueues; i++) {
        if (is_young(&seen[i], now)) {
            seen[i].at_work_ns = now;
        }
    }
}

/* PYTHON_GIL=1, or an extension module that needs it; it stays on then. Attached. */
static bool gil_is_on(void)
{
    PyObject *ask = PySys_GetObject("_is_gil_enabled"), *on = ask ? PyObject_CallNoArgs(ask) : NULL;
    bool is_on = on != Py_False;
    Py_XDECREF(on);
    PyErr_Clear();
    return is_on;
}
#endif

/* A garbage collection stops every thread while it lasts, and then nobody is stuck, and nobody could help. To attach is to
 * wait for its end. True: that took long, and what was seen before is of no use any more. Whoever asks often must know an
 * end, as something may collect all the time. */
static bool was_held_up(struct fr_runtime *rt, struct seen *seen, PyThreadState *state)
{
#ifdef Py_GIL_DISABLED
    if (rt->has_gil) {
        return false;
    }
    uint64_t before = fr_clock_ns();
    PyEval_RestoreThread(state);
    bool took_long = fr_clock_ns() - before > STOPPED_NS;
    rt->has_gil = took_long && gil_is_on();
    PyEval_SaveThread();
    if (took_long && !rt->has_gil) {
        excuse(rt, seen);
    }
    return took_long;
#else
    (void)rt, (void)seen, (void)state;
    return false;
#endif
}

static bool may_be_excused(struct fr_runtime *rt, struct seen *seen)
{
    uint64_t now = fr_clock_ns();
    for (uint32_t i = 0; i < rt->nworkers; i++) {
        if (is_young(&seen[i], now)) {
            return true;
        }
    }
    return false;
}

/* Whether the stand-in is to poll: every worker is stuck. */
static bool all_stuck(struct fr_runtime *rt, struct seen *seen, PyThreadState *state, uint32_t long_stuck)
{
    if (!rt->stand_in || long_stuck < rt->nworkers) {
        return false;
    }
    /* relaxed: only we write it */
    return atomic_load_explicit(&rt->all_stuck, memory_order_relaxed) || !may_be_excused(rt, seen) ||
           !was_held_up(rt, seen, state);
}

/* It is in a poll for too long, and was not at the last look. */
static bool is_newly_stuck(struct fr_worker *worker, uint64_t stuck)
{
    /* relaxed: only we write it */
    return stuck && !atomic_load_explicit(&worker->stuck, memory_order_relaxed);
}

/* False: it was held up, and the next look tells. */
static bool look_at_workers(struct fr_runtime *rt, struct seen *seen, PyThreadState *state)
{
    uint64_t now = fr_clock_ns();
    uint32_t long_stuck = 0, work = !fr_inject_is_empty(&rt->inject);
    for (uint32_t i = 0; i < rt->nqueues; i++) {
        struct fr_worker *worker = &rt->workers[i];
        uint64_t for_ns = 0;
        bool same = same_poll(worker, &seen[i], now, &for_ns);
        uint64_t stuck = same ? stuck_ns(worker, &seen[i], now) : 0;
        long_stuck += i < rt->nworkers && stuck >= STUCK_NS;
        work += has_work(worker);
        atomic_store_explicit(&worker->look, true, memory_order_relaxed); /* see is_timed() in worker.c */
        if (is_newly_stuck(worker, stuck) && is_young(&seen[i], now) && was_held_up(rt, seen, state)) {
            return false;
        }
        /* relaxed: a hint for thieves, see steal_lifo() */
        atomic_store_explicit(&worker->stuck, stuck > 0, memory_order_relaxed);
        if (stuck) {
            fr_worker_set_attends(worker, false);
            if (has_work(worker)) {
                fr_notify(rt);
            }
        }
        if (same && rt->futurelock_ns && for_ns >= rt->futurelock_ns && !seen[i].searched) {
            seen[i].searched = true;
            search_granted(rt, worker, state, for_ns);
        }
        if (same && rt->slow_poll_ns && for_ns >= rt->slow_poll_ns && !seen[i].reported && rt->hooks.slow_poll) {
            seen[i].reported = true;
            report_slow(rt, i, state, (double)for_ns * 1e-9);
        }
    }
    bool all = all_stuck(rt, seen, state, long_stuck);
    atomic_store_explicit(&rt->all_stuck, all, memory_order_relaxed); /* a hint [SI3] */
    if (all && work) {
        call_stand_in(rt, state);
    }
    return true;
}

/* Nobody drives, and nobody has looked at the driver for longer than that. */
static bool unattended(struct fr_runtime *rt, uint64_t ns)
{
    if (rt->current_thread && !atomic_load_explicit(&rt->core_taken, memory_order_relaxed)) {
        return false; /* nobody would run what the driver finds; relaxed: looked at again in the next tick */
    }
    /* relaxed: heuristics; who acquires the driver decides */
    uint64_t last = atomic_load_explicit(&rt->driver.last_turn_ns, memory_order_relaxed);
    return fr_clock_ns() - last > ns && !fr_driver_is_taken(&rt->driver);
}

/* Drives until a worker asks for the driver back [V2], or after a collection, when they shall look first. */
static void drive(struct fr_runtime *rt, struct seen *seen, PyThreadState *state)
{
    atomic_store_explicit(&rt->watch_release, 0, memory_order_relaxed); /* nobody can ask before the next line */
    /* release: pairs with reclaim_driver() */
    atomic_store_explicit(&rt->watch_drives, true, memory_order_release);
    /* acquire: pairs with reclaim_driver() */
    while (!atomic_load_explicit(&rt->watch_release, memory_order_acquire) && !stopping(rt)) {
        fr_turn(rt, rt->nworkers, DRIVE_SLICE_NS);
        if (!look_at_workers(rt, seen, state)) {
            break;
        }
        fr_futurelock_look(rt, state);
        if (all_parked(rt)) { /* one of them shall drive; none asked, since it parked just before we took over */
            atomic_store_explicit(&rt->watch_release, 1, memory_order_relaxed);
        }
    }
    atomic_store_explicit(&rt->watch_drives, false, memory_order_release); /* pairs with reclaim_driver() */
    fr_driver_release(&rt->driver);
    uint32_t asked = atomic_exchange_explicit(&rt->watch_release, 0, memory_order_acquire); /* the same */
    if (asked) {
        fr_unpark_worker(rt, asked - 1); /* it may have gone to sleep on its futex meanwhile */
    }
}

void fr_drain_sleepers(struct fr_runtime *rt)
{
#ifdef Py_GIL_DISABLED
    atomic_fetch_add_explicit(&rt->drain_epoch, 1, memory_order_relaxed); /* the wakes below order it */
    for (uint32_t i = 0; i < rt->nworkers; i++) {
        if (fr_idle_is_parked(&rt->idle, i)) {
            fr_unpark_worker(rt, i);
        }
    }
    fr_nudge_blockers(rt);
    fr_pool_nudge(&rt->pool);
#else
    (void)rt;
#endif
}

static void watch_main(struct fr_runtime *rt, void *arg)
{
    struct seen *seen = arg;
    fr_slice_short();
    PyThreadState *state = PyEval_SaveThread();
    uint64_t drain_at = 0;
    for (int idle = 0; !stopping(rt);) {
        fr_futex_wait(&rt->watch_word, AWAKE, tick_ns(rt));
        if (stopping(rt)) {
            break;
        }
        idle = all_parked(rt) ? idle + 1 : 0;
        look_at_workers(rt, seen, state);
        fr_futurelock_look(rt, state);
        if (unattended(rt, UNATTENDED_NS)) {
            idle = 0; /* somebody has to, before we sleep without an end */
            bool at_once = unattended(rt, BRISK_MAX_NS);
            if ((at_once || !was_held_up(rt, seen, state)) && fr_driver_try_acquire(&rt->driver)) {
                drive(rt, seen, state);
            }
        }
        uint64_t before = activity(rt);
        if (idle >= IDLE_TICKS || fr_clock_ns() >= drain_at) {
            fr_drain_sleepers(rt);
            drain_at = fr_clock_ns() + DRAIN_NS;
        }
        if (idle >= IDLE_TICKS) {
            sleep_until_nudged(rt, before);
            idle = 0;
        }
    }
    free(seen);
    PyEval_RestoreThread(state);
}

int fr_watch_start(struct fr_runtime *rt)
{
    struct seen *seen = calloc(rt->nqueues, sizeof *seen);
    if (!seen) {
        return -ENOMEM;
    }
    atomic_store_explicit(&rt->driver.last_turn_ns, fr_clock_ns(), memory_order_relaxed); /* nobody reads it yet */
    rt->has_watch = true; /* before any thread can look */
    int err = fr_thread_spawn(rt, "driver", 0, watch_main, seen);
    if (err) {
        rt->has_watch = false;
        free(seen);
    }
    return err;
}
