/* runtime: workers, queues, driver and blocking pool of one Runtime, and the Python object `Core` over them.
 *
 * THREADS    worker threads and pool threads are native; each has a PyThreadState of its own and holds a strong
 *            reference to the Core, so the structures outlive every thread that runs in them.
 * OWNERSHIP  an fr_runtime is recycled, never freed [R1]. Everything it points to dies with the Core.
 * FIELDS     inflight   any foreign thread: +1 before it wakes a task, -1 after; the teardown waits for 0 [R2]
 *            phase      only moves forward; shutdown() writes (release), everybody reads (acquire)
 *            shards     see owned.c
 *            worker->*  the thread that owns the core, except what is marked shared
 * INVARIANTS R1 a task's `rt` pointer is valid memory for ever, so a late wake of a finished task is harmless.
 *            R2 teardown happens when no task is incomplete, no thread runs and inflight == 0: a waker that saw its
 *               task incomplete counted itself before, hence is finished with the queues.
 *            R3 spawn is refused once the shard is closed; shards are closed before their tasks are cancelled, so
 *               every task that got in is cancelled and every other spawn raises: none is lost in between.
 *            R4 a worker core is owned by exactly one thread; block_in_place moves it to another.
 * LOCKS      shard->lock, pool->lock, threads_lock, blockers_lock, suspects_lock, sites.lock: leaves, no Python and no wake under them.
 * SHUTDOWN   phase RUNNING -> CANCELLING (tasks get Cancelled, cleanup runs) -> CLOSING (coroutines are closed)
 *            -> STOPPED (threads leave). See shutdown.c.
 * PROVED BY  tests/runtime/test_shutdown.py, tests/stress/
 */
#ifndef FR_RUNTIME_H
#define FR_RUNTIME_H

#include <pthread.h>

#include "module.h"
#include "rt/bias.h"
#include "rt/driver.h"
#include "rt/idle.h"
#include "rt/inject.h"
#include "rt/park.h"
#include "rt/queue.h"
#include "rt/spill.h"
#include "rt/spin.h"
#include "task.h"
#include "thread.h"

enum fr_phase { FR_PHASE_RUNNING, FR_PHASE_CANCELLING, FR_PHASE_CLOSING, FR_PHASE_STOPPED };

/* What a worker keeps for reuse of each kind: FR_FREE_KEEP objects, FR_FREE_TASKS_KEEP tasks. To get memory and to give it back
 * is a quarter of a short task's life where there are many. So, while it works, also as many more as it once had to make, in
 * pieces of FR_FREE_PIECE, as long as all lists of the runtime together have no more than FR_FREE_PIECES of them. When it sleeps
 * trim() in worker.c gives them back. */
enum { FR_FREE_KEEP = 1024, FR_FREE_TASKS_KEEP = 8192, FR_FREE_PIECE = 1024, FR_FREE_PIECES = 512, FR_SITE_CACHE = 16 };
_Static_assert(FR_FREE_KEEP % FR_FREE_PIECE == 0 && FR_FREE_TASKS_KEEP % FR_FREE_PIECE == 0,
               "a list ends with a piece");

/* How many a free list has, and takes. Owner only. */
struct fr_room {
    uint32_t count, most;
    uint32_t missed; /* it had none so often, since that made room for more */
};

/* Python objects kept for reuse by one worker. They keep the reference to their type. */
struct fr_free_list {
    PyTypeObject *type;
    PyObject *head;
    PyObject *spare; /* one that is alive, or NULL; see fr_spare_take() */
    struct fr_room room;
};

struct fr_site_cache {
    uintptr_t code;
    int lasti;
    struct fr_site *site;
};

struct fr_worker {
    struct fr_queue queue;
    struct fr_spill spill;             /* what did not fit into it */
    struct fr_bias bias;               /* of `queue`, to pop, and `lifo`, to change: thieves visit */
    _Alignas(64) _Atomic(void *) lifo; /* shared: owner and thieves, see worker.c */
    struct fr_parker parker;           /* shared */

    /* Owner only. */
    _Alignas(64) struct fr_runtime *rt;
    uint32_t index;
    uint32_t until_turn, until_inject; /* polls till the driver, and the injector, are due by count */
    bool lifo_enabled;
    bool searching;
    bool spilled_first; /* this time; see next_of_others() in worker.c */
    uint32_t drained;
    uint32_t moved; /* of the tasks that it runs next so many have come from another worker */
    bool in_driver; /* inside a turn: pushes neither notify nor use the LIFO slot */
    uint64_t rng;
    uint64_t turn_at_ticks; /* when the driver is due by time */
    uint32_t stride;        /* the clock is read in one turn of so many, see is_timed() in worker.c */
    uint32_t unlooked;      /* turns till then */
    uint32_t short_turns;   /* in a row */
    bool behind;            /* turns went by since the clock was read */
    uint64_t last_turn_ticks;
    uint64_t last_turn_ns;
    uint64_t ticks_per_ms;
    uint64_t ns_per_tick; /* times 2^16 */
    struct fr_spin spin;  /* how long it waits for a brief call, or another interpreter */
    uint64_t next_id, last_id;
    struct fr_task *free_tasks;
    struct fr_room free_task_room;
    uint32_t free_channel_count;
    struct fr_channel *free_channels; /* oneshot.c */
    struct fr_free_list free[FR_FREE_KINDS];
    PyObject *stop_iteration; /* reused to return values from leaves, or NULL; see fr_leaf_return() */
    bool returned;            /* it holds a value still; see fr_leaf_forget() */
    struct fr_site_cache sites[FR_SITE_CACHE];

    /* Shared: the owner writes (relaxed: monitoring), others read. */
    _Alignas(64) _Atomic uint64_t polls; /* odd while a task is being polled */
    _Atomic uint64_t current_id;
    _Atomic uint64_t thread_ident;
    struct fr_backlog backlog; /* of what is queued here; any */
    _Atomic bool stuck;        /* the watch writes: this worker is stuck in one poll, its LIFO slot may be stolen */
    _Atomic bool look;         /* the watch sets it with every tick: read the clock. The owner clears */
    _Atomic uint64_t trims;    /* grows when there may be more to trim: the watch has it asked again */
    _Atomic uint64_t parks, steals, steal_tries, overflows, lifo_hits, turns;
};

/* The tasks that one worker has spawned, or all other threads; owned.c. */
struct fr_shard {
    struct fr_bias bias; /* of the worker whose list it is; who enters otherwise takes the lock, too */
    bool has_owner;      /* constant: it is a worker's */
    struct fr_mutex lock;
    bool closed;
    uint64_t alive;
    uint64_t spawned;
    struct fr_node tasks;
};

struct fr_pool {
    struct fr_mutex lock;
    struct fr_task *head, *tail;
    uint32_t queued, threads, idle, spinning, limit;
    bool closed, sealed;
    bool may_spin;          /* constant */
    uint64_t keep_alive_ns; /* constant */
    uint64_t rested_at;     /* when the last thread ran out of calls */
    /* Not on the lock's line: a thread may be looking at it all the time. */
    _Alignas(FR_CACHE_LINE) _Atomic uint32_t signal; /* futex: bumped when a thread that waits is to look */
    _Atomic bool brief;                              /* the last call that ended was */
    _Atomic bool awake;                              /* the last call that came found a thread that spun */
    struct fr_spin spin;                             /* how long threads wait for the next call */
};

struct fr_hooks {
    PyObject *thread_start, *thread_stop, *thread_park, *thread_unpark, *task_spawn, *task_terminate;
    PyObject *unhandled;  /* (description, exception) */
    PyObject *slow_poll;  /* (worker, thread ident, description or None, seconds) */
    PyObject *futurelock; /* (description, coroutine or None, thread ident or 0, seconds) */
    PyObject *agen_first, *agen_final;
    PyObject *drained;     /* (): the shutdown's tasks have ended; may spawn_cleanup() more */
    PyObject *thread_name; /* (kind, index) -> str */
};

struct fr_runtime {
    _Atomic uint32_t inflight;
    _Atomic uint32_t phase;
    struct fr_module *mod;
    PyInterpreterState *interp;
    PyObject *core; /* borrowed: valid while a thread runs or a call is made through it */
    uint32_t fork_generation;
    _Atomic uint64_t generation; /* counts the lives of this piece of memory; changes in a teardown only */
    bool current_thread;
    bool pinned;        /* current-thread: only the thread with this number polls its tasks, see LocalRuntime */
    uint64_t pinned_to; /* PyThreadState_GetID() */
    bool solo;          /* one worker and no stand-in: nobody steals */
    bool stand_in;      /* there may be one, see stand_in.c */
    bool lifo_slot;
    bool io, time;
    uint32_t nworkers;
    uint32_t nqueues; /* entries of `workers`: one more with a stand-in, whose core is the last */
    uint32_t event_interval;
    uint32_t global_interval;
    size_t stack_size;
    uint64_t slow_poll_ns;
    uint64_t futurelock_ns; /* see futurelock.h */
    uint64_t seed;
    struct fr_worker *workers;
    struct fr_shard *shards;
    uint32_t nshards;
    struct fr_inject inject;
    struct fr_idle idle;
    struct fr_driver driver;
    struct fr_pool pool;
    struct fr_hooks hooks;
    _Atomic uint64_t next_id;
    _Atomic(PyObject *) fatal; /* KeyboardInterrupt/SystemExit raised in a task */

    /* Native threads of every kind, under threads_lock; `threads` is a futex for shutdown. */
    struct fr_mutex threads_lock;
    struct fr_native *natives;
    _Atomic uint32_t threads;
    _Atomic uint32_t core_taken; /* current-thread: the core is being run */
    struct fr_mutex blockers_lock;
    struct fr_node blockers; /* block_on calls in progress */
    int signal_pipe[2];
    _Atomic bool has_signal_pipe;
    pthread_t signal_thread;
    PyMutex shutdown_mutex;
    _Atomic uint64_t shutdown_thread; /* who holds it; 0: nobody */
    struct fr_event *drain_event;     /* current-thread shutdown: under blockers_lock */
    bool dirty;                       /* a thread was left behind: this memory is not used again */

    struct fr_mutex suspects_lock;
    struct fr_suspect *suspects;
    _Atomic bool has_suspects;

    /* Watch (driver thread). */
    bool has_watch;
    bool has_gil;                   /* a free-threaded build's is on, as far as the watch knows; only it asks */
    _Atomic uint32_t watch_word;    /* futex: 0 awake, 1 asleep, 2 stop */
    _Atomic bool watch_drives;      /* the watch owns the driver */
    _Atomic uint32_t drain_epoch;   /* the watch bumps it; a sleeper that sees a new one frees what others dropped */
    _Atomic uint64_t pool_rests;    /* how often a pool thread ran out of calls */
    _Atomic uint32_t watch_release; /* a worker wants the driver back */
    _Atomic uint32_t done;          /* futex: bumped when a shard runs empty during shutdown */
    _Atomic uint32_t stand_in_word; /* futex: see stand_in.c */
    _Atomic bool all_stuck;         /* the watch writes: every worker is stuck in one poll */
    _Atomic int32_t free_pieces;    /* left for free lists, see FR_FREE_PIECES */
    _Atomic bool worker_spins;      /* a worker spins, see spin_before_park(): no other one does */
    _Atomic bool mail_awaited; /* a task began to wait for another interpreter, and no wait was long since: a hint */

    /* Paused clock (current-thread). */
    _Atomic bool paused;
    _Atomic uint64_t paused_now;
    _Atomic int64_t clock_offset;
    _Atomic uint32_t blocking_running;

    struct fr_runtime *next_free;
};

typedef struct CoreObject {
    PyObject_HEAD
    _Atomic(struct fr_runtime *) rt; /* NULL once torn down */
    struct fr_module *mod;
    uint32_t fork_generation;
} CoreObject;

/* A visit to a runtime by a thread that may not be one of its workers: while it lasts there is no teardown [R2]. */
struct fr_visit {
    struct fr_runtime *rt;
    struct fr_visit *outer;
    bool foreign;
};

extern _Atomic uint32_t fr_fork_generation;

/* ---- worker.c ---- */
/* The core that this thread runs, if it is one of this runtime's. */
static inline struct fr_worker *fr_own_worker(struct fr_runtime *rt)
{
    struct fr_worker *worker = fr_thread.worker;
    return worker && worker->rt == rt ? worker : NULL;
}
void fr_schedule(struct fr_runtime *rt, struct fr_task *task);
void fr_schedule_yield(struct fr_runtime *rt, struct fr_task *task);
void fr_notify(struct fr_runtime *rt);
void fr_unpark_worker(struct fr_runtime *rt, uint32_t index);
void fr_driver_wake_task(void *rt, void *task);
void fr_driver_more_timers(void *rt, uint32_t shard);
bool fr_forked(struct fr_runtime *rt); /* this is the child of a fork; a worker thread ends the process */
void fr_worker_init(struct fr_worker *worker, struct fr_runtime *rt, uint32_t index);
void fr_worker_clear(struct fr_worker *worker);
void fr_worker_set_attends(struct fr_worker *worker, bool attends); /* the worker itself; false: the watch, too */
/* A free list of the calling worker's was empty. */
void fr_worker_more_room(struct fr_worker *worker, struct fr_room *room);
static inline void fr_worker_missed(struct fr_worker *worker, struct fr_room *room)
{
    if (__builtin_expect(++room->missed == FR_FREE_PIECE, 0)) {
        fr_worker_more_room(worker, room);
    }
}
/* A turn of the driver, which the caller owns, and that shard of the timers; nworkers: nobody's. */
int fr_turn(struct fr_runtime *rt, uint32_t shard, int64_t timeout_ns);
/* Runs the calling thread's worker core until `until` is set (NULL: until STOPPED) or the core is given away.
 * Attached. 0, or -1 with an exception (current-thread: a signal handler raised). */
int fr_worker_run(struct fr_worker *worker, struct fr_event *until);
int fr_worker_start(struct fr_worker *worker);
int fr_give_core_away(struct fr_worker *worker);
uint64_t fr_now_ns(struct fr_runtime *rt);
void *fr_next_queued(struct fr_worker *worker);
/* Runs a task and what it puts into the LIFO slot. False: the core was given away, or this is the child of a fork. `*now` is
 * what fr_clock_ticks() said a moment ago, before and after. */
bool fr_worker_run_task(struct fr_worker *worker, struct fr_task *task, uint64_t *now);
/* For a thread without a share in the idle word: its own, the injector's, or another core's. NULL: nothing. */
void *fr_worker_find(struct fr_worker *worker);
uint32_t fr_worker_depth(struct fr_worker *worker);
/* All that is queued here goes to the injector, for whoever comes first. */
void fr_worker_hand_back(struct fr_worker *worker);
/* The runtime stopped: what is queued ends here, closed. */
void fr_worker_close_queued(struct fr_worker *worker);
bool fr_work_anywhere(struct fr_runtime *rt);
/* Around the main function of a thread that polls tasks. */
void fr_worker_enter(struct fr_worker *worker);
void fr_worker_leave(struct fr_runtime *rt);
static inline bool fr_stopped(struct fr_runtime *rt)
{
    /* acquire: pairs with fr_shutdown() moving the phase */
    return atomic_load_explicit(&rt->phase, memory_order_acquire) == FR_PHASE_STOPPED;
}
uint32_t fr_random(struct fr_worker *worker); /* the worker's own thread */

/* ---- stand_in.c ---- */
/* The watch's: every worker is stuck; somebody has to poll what is queued. Starts the thread if there is none. */
void fr_stand_in_call(struct fr_runtime *rt);
/* Anybody's: wakes the thread if it sleeps. */
void fr_stand_in_wake(struct fr_runtime *rt);
bool fr_stand_in_is_awake(struct fr_runtime *rt);
/* The thread's main function: `core` is its struct fr_worker. */
void fr_stand_in_main(struct fr_runtime *rt, void *core);

/* If the watch asked for it since `*seen`: frees what other threads have dropped of ours. Attached; runs destructors, and
 * on the main thread signal handlers: 0, or -1 with what one of these raised. */
int fr_drain(struct fr_runtime *rt, uint32_t *seen);

/* ---- oneshot.c ---- */
void fr_oneshot_free_channels(struct fr_worker *worker);

/* ---- watch.c ---- */
/* Every thread that sleeps in the engine wakes, frees what is queued for it, and sleeps on. */
void fr_drain_sleepers(struct fr_runtime *rt);
int fr_watch_start(struct fr_runtime *rt);
void fr_watch_nudge_slow(struct fr_runtime *rt);
static inline void fr_watch_nudge(struct fr_runtime *rt)
{
    /* seq_cst: pairs with sleep_until_nudged(); the worker left the driver before it looks here */
    if (atomic_load_explicit(&rt->watch_word, memory_order_seq_cst) == 1) {
        fr_watch_nudge_slow(rt);
    }
}

/* ---- blocking.c ---- */
void fr_pool_nudge(struct fr_pool *pool); /* every idle thread looks again */
int fr_pool_submit(struct fr_runtime *rt, struct fr_task *task);
/* The call of `task` is over, but nobody knows yet. The thread that ran it, attached; nothing if another thread ends it. */
void fr_pool_call_ends(struct fr_task *task);
/* What follows may run Python code and last, where this thread has said that it will be at the queue in no time. */
void fr_pool_call_lasts(void);
void fr_pool_init(struct fr_pool *pool, uint32_t limit, uint64_t keep_alive_ns);
/* Takes every queued task away that may be dropped (to be cancelled) and closes the pool. */
struct fr_task *fr_pool_close(struct fr_runtime *rt);
/* Nothing comes in any more. */
void fr_pool_seal(struct fr_runtime *rt);

/* ---- threads.c ---- */
typedef void (*fr_thread_main)(struct fr_runtime *rt, void *arg);
/* Starts a native thread with a thread state of its own; `main` runs attached. 0 or -errno. */
void fr_threads_after_fork_in_child(void);
int fr_thread_spawn(struct fr_runtime *rt, const char *kind, uint32_t index, fr_thread_main main, void *arg);
/* One thread less is counted in rt->threads. Any thread, detached too. */
void fr_threads_discount(struct fr_runtime *rt);
/* Joins the threads that have ended; the others go on. Attached. */
void fr_threads_reap(struct fr_runtime *rt);
/* Waits (detached inside) until no thread is left or the deadline has passed; true if none is left. */
bool fr_threads_wait(struct fr_runtime *rt, uint64_t deadline_ns);
/* Gives up joining: whoever is left will go by itself. */
void fr_threads_abandon(struct fr_runtime *rt);

/* ---- task.c ---- */
/* spawn()'s keywords: 0 or -1 with an exception; *as borrowed. */
int fr_task_parse_as(PyObject *const *values, PyObject *kwnames, struct fr_spawn_as *as);
int fr_task_need_one(Py_ssize_t nargs, const char *function, const char *argument);

/* ---- owned.c ---- */
void fr_owned_init(struct fr_shard *shard, bool has_owner);
bool fr_owned_add(struct fr_runtime *rt, struct fr_task *task, bool cleanup); /* false: shut down */
void fr_owned_remove(struct fr_task *task);
void fr_owned_close(struct fr_runtime *rt); /* from now on spawn is refused [R3] */
/* Calls visit() on every incomplete task with a reference held, outside the locks. */
void fr_owned_each(struct fr_runtime *rt, void (*visit)(struct fr_task *task, void *arg), void *arg);
struct fr_owned_counts {
    uint64_t alive, spawned;
};
struct fr_owned_counts fr_owned_count(struct fr_runtime *rt);
bool fr_owned_none(struct fr_runtime *rt); /* exact once the shards are closed, which the count alone is not */

/* ---- claims.c ---- */
int fr_claim(PyObject *coro); /* 0, or -1 with an exception: another task runs it */
/* The context that this task was given, for a poll, by the holder of RUNNING: 1, 0: it is in line now, and will be woken, -1
 * with MemoryError. */
int fr_context_claim(struct fr_task *task);
void fr_context_leave_line(struct fr_task *task); /* it is about to be completed */
void fr_context_unclaim(PyObject *context);
void fr_unclaim(PyObject *coro);
void fr_claims_after_fork(void);

/* ---- core.c ---- */
bool fr_visit_core(CoreObject *core, struct fr_visit *visit);         /* false with an exception */
bool fr_visit_current(struct fr_module *mod, struct fr_visit *visit); /* false with an exception */
void fr_visit_end(struct fr_visit *visit);
/* The same for a bare runtime pointer of some age; the caller checks what it finds. */
bool fr_foreign_begin(struct fr_runtime *rt);
void fr_foreign_end(struct fr_runtime *rt, bool foreign);
int fr_set_asyncgen_hooks(PyObject *first, PyObject *final);
/* What it raises is reported as unraisable; if fr_is_fatal(), to block_on. `hook` and `arg` may be NULL. */
void fr_call_hook(struct fr_runtime *rt, PyObject *hook, PyObject *arg);
bool fr_is_fatal(PyObject *exception); /* KeyboardInterrupt and SystemExit */
/* Every block_on ends with it. False: there is none to end. */
bool fr_fatal(struct fr_runtime *rt, PyObject *exception);
int fr_core_take(CoreObject *core, struct fr_runtime *rt); /* current-thread: true if this thread runs the core now */
void fr_core_give(struct fr_runtime *rt);
/* The same with asynchronous generators' hooks; what the thread was before. */
struct fr_outer {
    struct fr_thread thread;
    PyObject *hooks; /* (firstiter, finalizer) */
};
/* True: this thread runs the core until fr_core_end(). False: another does, or an exception is set. */
bool fr_core_begin(CoreObject *core, struct fr_runtime *rt, struct fr_outer *outer);
/* False: the tasks belong to another thread, see `pinned`. */
bool fr_core_may_run_here(struct fr_runtime *rt);
void fr_core_end(struct fr_runtime *rt, struct fr_outer *outer);
void fr_nudge_blockers(struct fr_runtime *rt); /* every block_on looks again */
struct fr_runtime *fr_runtime_alloc(void);
void fr_runtime_recycle(struct fr_runtime *rt);

/* ---- shutdown.c ---- */
/* Appends what held it up to `report`. 0 or -1 with an exception. */
int fr_shutdown(CoreObject *core, struct fr_runtime *rt, int64_t timeout_ns, PyObject *report);
void fr_shutdown_tick(struct fr_runtime *rt);
void fr_shutdown_begin(struct fr_runtime *rt);
/* Frees everything but the struct. No thread runs in it any more. */
void fr_teardown(CoreObject *core, struct fr_runtime *rt);
int fr_parse_seconds(PyObject *value, const char *what, double *seconds);

#endif
