/* blocking: the pool for calls that block. First in, first out; threads up to a limit, idle ones leave.
 *
 * THREADS    submit: any attached thread. Pool threads: native, attached while they run a call, detached in waits.
 * FIELDS     signal  bumped (release) after a push, or by who wants every idle thread to look; idle threads read it
 *                    (acquire) before they take the lock and look. brief, awake, spin: relaxed, heuristics
 * INVARIANTS B1 a queued task holds its owned-list reference (rt/state.h): the queue itself holds none.
 *            B2 `idle` counts threads that wait and are not promised to a push; a push takes one from it, or starts
 *               a thread, or relies on a busy thread that looks at the queue before it waits.
 *            B3 what has FR_DUTY_MUST is never taken out of the queue but to be run: a file's writes.
 *            B4 a thread is in rt->threads before the lock that let it be started is released: whoever has sealed the
 *               pool and counts no threads will see none.
 *            B5 `spinning` counts those of `idle` that are awake: they spin, or are a few instructions away from it
 *               (fr_pool_call_ends()). One of them needs no system call to see a push. A thread gets into this count,
 *               under the lock, only while the queue is empty and nobody else is in it, and out of it, under the lock,
 *               only by taking a call, finding none, or having another mustered for what is there
 *               (fr_pool_call_lasts()). So a push that finds as many spinners as there are queued calls, its own
 *               included, need wake nobody: each call that nobody else takes, one of these does. In between a spinner
 *               neither runs Python nor waits for anything but the CPU.
 *               No signal is lost to who goes to sleep after a spin: he has read it before he took the lock, where he
 *               uncounted himself and found nothing; the next push therefore bumps it and wakes him.
 *            B6 a thread spins only after a call that was brief, while the waits for the next one have been short
 *               (rt/spin.h), at most one at a time, detached, for FR_SPIN_NS. No CPU is used by a pool without calls.
 * SHUTDOWN   closed: what may be dropped is, threads leave when the queue is empty, and only calls with a duty come in
 *            (cleanup may use files). Sealed: none does. A thread that comes back late still empties the queue. A
 *            spinner is an idle thread: the nudge of the closing ends its spin.
 * PROVED BY  tests/task/test_spawn_blocking.py, tests/task/test_blocking_shutdown.py, tests/task/test_blocking_spin.py
 */
#include <errno.h>
#include <limits.h>

#include "rt/clock.h"
#include "rt/futex.h"
#include "rt/slice.h"
#include "runtime.h"

void fr_pool_init(struct fr_pool *pool, uint32_t limit, uint64_t keep_alive_ns)
{
    *pool = (struct fr_pool){.limit = limit, .keep_alive_ns = keep_alive_ns, .may_spin = fr_spin_has_cpus()};
}

/* A pool thread's own. */
struct fr_pool_thread {
    struct fr_task *task; /* being run */
    uint64_t started;     /* that call, if this thread had waited for it; else 0: a clock's price saved */
    uint64_t rests_from;  /* when that call was over; 0: unknown */
    uint32_t drained;     /* see fr_drain() */
    bool spins;           /* counted in `spinning` [B5] */
};

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

/* ---- somebody for what is queued ---- */

static void pool_main(struct fr_runtime *rt, void *arg);

/* After the lock, so that a spinner finds it free. */
static void wake_one(struct fr_pool *pool, bool asleep)
{
    /* release: pairs with wait_for_work() */
    atomic_fetch_add_explicit(&pool->signal, 1, memory_order_release);
    if (asleep) {
        fr_futex_wake(&pool->signal, 1);
    }
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

/* Who will see to what is queued: one that is awake, one that is to be woken or started, or who is busy. */
enum mustered { AWAKE, ASLEEP, NEW, BUSY };

/* The queue is not empty, and this caller answers for one call in it [B2] [B5]. A new thread is counted already. */
static enum mustered muster_locked(struct fr_runtime *rt, uint32_t *index)
{
    struct fr_pool *pool = &rt->pool;
    bool awake = pool->spinning >= pool->queued;
    atomic_store_explicit(&pool->awake, awake, memory_order_relaxed); /* a hint */
    if (awake) {
        return AWAKE;
    }
    if (pool->idle < pool->queued && pool->threads < pool->limit) {
        *index = pool->threads++;
        atomic_fetch_add_explicit(&rt->threads, 1, memory_order_relaxed); /* [B4]; ordered by the lock */
        return NEW;
    }
    return pool->idle > pool->spinning ? ASLEEP : BUSY;
}

/* After the lock. 0, or -errno: nobody comes, and `task` (NULL: the caller's thread will come) is not queued any more. */
static int bring(struct fr_runtime *rt, enum mustered mustered, uint32_t index, struct fr_task *task)
{
    struct fr_pool *pool = &rt->pool;
    if (mustered == BUSY) {
        return 0;
    }
    if (mustered != NEW) {
        wake_one(pool, mustered == ASLEEP);
        return 0;
    }
    int err = fr_thread_spawn(rt, "blocking", index, pool_main, NULL);
    err = err ? start_failed(pool, task, err) : 0;
    fr_threads_discount(rt); /* it has counted itself */
    return err;
}

/* ---- threads ---- */

static void rest_locked(struct fr_pool *pool, struct fr_pool_thread *self)
{
    pool->idle++;
    pool->rested_at = self->rests_from;
    /* relaxed: a hint */
    self->spins = pool->may_spin && pool->spinning == 0 && !pool->closed && fr_spin_is_worth(&pool->spin) &&
                  atomic_load_explicit(&pool->brief, memory_order_relaxed);
    pool->spinning += self->spins; /* [B5] */
}

static void end_rest_locked(struct fr_pool *pool, struct fr_pool_thread *self)
{
    pool->idle--;
    pool->spinning -= self->spins;
    self->spins = false;
}

void fr_pool_call_ends(struct fr_task *task)
{
    struct fr_pool_thread *self = fr_thread.pool_thread;
    if (!self || self->task != task || !self->started) {
        return;
    }
    struct fr_pool *pool = &task->rt->pool;
    self->rests_from = fr_clock_ns();
    bool brief = self->rests_from - self->started < FR_SPIN_NS;
    /* relaxed, all: a hint */
    if (brief != atomic_load_explicit(&pool->brief, memory_order_relaxed)) {
        atomic_store_explicit(&pool->brief, brief, memory_order_relaxed);
    }
    if (!brief || !pool->may_spin || !fr_spin_is_worth(&pool->spin) ||
        !atomic_load_explicit(&pool->awake, memory_order_relaxed)) {
        return;
    }
    /* Who waits for this call may have the next one before this thread is at the queue. If it were not counted yet, that
     * one would wake or start another thread. Not worth the lock where calls come many at a time: hence `awake`. */
    fr_mutex_lock(&pool->lock);
    if (!pool->head && pool->spinning == 0) {
        rest_locked(pool, self);
        if (!self->spins) {
            end_rest_locked(pool, self);
        }
    }
    fr_mutex_unlock(&pool->lock);
}

void fr_pool_call_lasts(void)
{
    struct fr_pool_thread *self = fr_thread.pool_thread;
    if (!self) {
        return;
    }
    self->rests_from = 0;
    if (!self->spins) {
        return;
    }
    struct fr_pool *pool = &fr_thread.pool->pool;
    fr_mutex_lock(&pool->lock);
    end_rest_locked(pool, self);
    uint32_t index = 0;
    enum mustered mustered = pool->head ? muster_locked(fr_thread.pool, &index) : BUSY;
    fr_mutex_unlock(&pool->lock);
    bring(fr_thread.pool, mustered, index, NULL);
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

/* Till a signal other than this one, or `until`. Detached. */
static void spin(struct fr_pool *pool, uint32_t signal, uint64_t until)
{
    do {
        for (int i = 0; i < FR_SPIN_LOOKS; i++) {
            /* relaxed: wait_for_work() reads it again */
            if (atomic_load_explicit(&pool->signal, memory_order_relaxed) != signal) {
                return;
            }
            fr_cpu_relax();
        }
    } while (fr_clock_ns() < until);
}

/* WORK: a call is taken. LEAVE: nothing came in time, or the pool was closed; the thread is then uncounted. DRAIN: the
 * watch asks for it. */
enum waited { WAIT, WORK, LEAVE, DRAIN };

/* Looks once, as of `now`. */
static enum waited look(struct fr_pool *pool, struct fr_pool_thread *self, uint64_t now, bool drain)
{
    enum waited waited = WAIT;
    fr_mutex_lock(&pool->lock);
    self->task = pop_locked(pool);
    if (self->task) {
        waited = WORK;
        fr_spin_learn(&pool->spin, self->spins ? FR_SPIN_HIT : fr_spin_slept(pool->rested_at, now));
        end_rest_locked(pool, self);
    } else if (pool->closed || now >= self->rests_from + pool->keep_alive_ns) {
        waited = LEAVE;
        end_rest_locked(pool, self);
        pool->threads--;
    } else if (drain) {
        waited = DRAIN;
        pool->spinning -= self->spins;
        self->spins = false;
    } else if (self->spins && now >= self->rests_from + FR_SPIN_NS) {
        fr_spin_learn(&pool->spin, FR_SPIN_VAIN);
        pool->spinning--;
        self->spins = false;
    }
    fr_mutex_unlock(&pool->lock);
    return waited;
}

/* Detached. */
static enum waited wait_for_work(struct fr_runtime *rt, struct fr_pool_thread *self, bool *told)
{
    struct fr_pool *pool = &rt->pool;
    for (;;) {
        /* acquire: pairs with wake_one(); read before the queue is looked at, so a push in between ends the wait */
        uint32_t signal = atomic_load_explicit(&pool->signal, memory_order_acquire);
        /* relaxed: a hint, see fr_drain() */
        bool drain = atomic_load_explicit(&rt->drain_epoch, memory_order_relaxed) != self->drained;
        uint64_t now = fr_clock_ns();
        enum waited waited = look(pool, self, now, drain);
        if (waited != WAIT) {
            self->started = now;
            return waited;
        }
        if (self->spins) {
            spin(pool, signal, self->rests_from + FR_SPIN_NS);
        } else if (!*told) {
            *told = true; /* a thread that gets a call in its spin has not rested */
            after_calls(rt);
        } else {
            fr_futex_wait(&pool->signal, signal, (int64_t)(self->rests_from + pool->keep_alive_ns - now));
        }
    }
}

/* Into self->task; false: leave. */
static bool next_task(struct fr_runtime *rt, struct fr_pool_thread *self)
{
    struct fr_pool *pool = &rt->pool;
    self->task = NULL;
    if (!self->spins) {
        uint64_t ended = self->rests_from;
        self->started = self->rests_from = 0;
        fr_mutex_lock(&pool->lock);
        self->task = pop_locked(pool);
        if (!self->task) {
            self->rests_from = ended ? ended : fr_clock_ns();
            rest_locked(pool, self);
        }
        fr_mutex_unlock(&pool->lock);
    }
    bool told = false;
    while (!self->task) {
        PyThreadState *state = PyEval_SaveThread();
        enum waited waited = wait_for_work(rt, self, &told);
        PyEval_RestoreThread(state);
        if (waited != WORK && fr_drain(rt, &self->drained)) { /* a destructor may wait for the call that is taken */
            PyErr_WriteUnraisable(NULL);
        }
        if (waited == LEAVE) {
            return false;
        }
    }
    return true;
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
    struct fr_pool_thread self = {
        .drained = atomic_load_explicit(&rt->drain_epoch, memory_order_relaxed), /* a hint, see fr_drain() */
    };
    fr_slice_usual();                        /* the worker that started this thread has a short one */
    fr_thread.core = (CoreObject *)rt->core; /* a blocking call may spawn */
    fr_thread.pool = rt;
    fr_thread.pool_thread = &self;
    fr_call_hook(rt, rt->hooks.thread_start, NULL);
    while (next_task(rt, &self)) {
        pool_run_one(rt, self.task);
    }
    fr_call_hook(rt, rt->hooks.thread_stop, NULL);
    fr_thread.core = NULL;
    fr_thread.pool_thread = NULL;
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
    uint32_t index;
    enum mustered mustered = muster_locked(rt, &index);
    fr_mutex_unlock(&pool->lock);
    int err = bring(rt, mustered, index, task);
    if (err) {
        atomic_fetch_sub_explicit(&rt->blocking_running, 1, memory_order_relaxed); /* it never ran */
    }
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
