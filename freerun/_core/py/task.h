/* task: one spawned coroutine (or blocking call), its state word and its result.
 *
 * THREADS    spawn, wake, abort: any attached thread (wake: any thread at all). poll, complete: the thread that holds
 *            RUNNING.
 * OWNERSHIP  the struct is plain C, counted in the state word: one reference for the owned list (until completion),
 *            one per JoinHandle/AbortHandle, one per linked waiter, and the spare one. Being queued holds none itself (see
 *            rt/state.h).
 *            Python references (coro, args, context) die at completion; result and name die with the later of
 *            completion and the JoinHandle. So the last fr_task_unref() never touches Python and may come from a
 *            detached thread.
 * FIELDS     state              atomics of rt/state.h
 *            kind               spawner, then the first poll, which makes a CORO of it; read by wakers, to whom all kinds
 *                               that it has in its life are the same: it is one byte
 *            queued             who queues it, having RUNNING, and who takes it out; read by descriptions
 *            spare              the holder of RUNNING: it has a reference for the first waiter of the poll, see fr_leaf_ref()
 *            coro, args, context   spawner before publication, then the holder of RUNNING
 *            result, outcome    holder of RUNNING before COMPLETE (release), then the JoinHandle's readers (acquire)
 *            joiners            under `lock`
 *            owned, shard       under the shard's lock
 *            scopes, floor, owed   the holder of RUNNING, see scope.h
 *            member             constant from publication on; see join_set.h
 *            gathers            the holder of RUNNING, or the task as it spawns; read by who queues it
 *            leaf               the holder of RUNNING; read by who took the task out of the injector, see worker.c
 *            rt                 constant; valid memory for ever (runtimes are recycled, not freed), see runtime.h
 * INVARIANTS T1 only the holder of RUNNING touches the coroutine.
 *            T2 COMPLETE is set exactly once, after result and outcome are written.
 *            T3 exactly one of {completion, JoinHandle's dealloc} drops result and name: the state word arbitrates.
 *            T4 `context` is NULL as long as no context variable is set in it; then the thread has none while it polls the
 *               task. If it has one afterwards, with a variable in it, or shared with a Token, that is the task's. So a
 *               task that has nothing to do with context variables costs no context. Within a poll the reference is the
 *               thread state's.
 * LOCKS      `lock` is a leaf; waking happens after it is released.
 * SHUTDOWN   every task is aborted, then closed: see runtime.c.
 * PROVED BY  tests/task/test_task_combinations.py
 */
#ifndef FR_TASK_H
#define FR_TASK_H

#include "module.h"
#include "rt/cost.h"
#include "rt/state.h"
#include "rt/waiter.h"
#include "thread.h"

struct fr_member;
struct fr_scope;

enum fr_outcome { FR_OUT_PENDING, FR_OUT_RETURNED, FR_OUT_RAISED, FR_OUT_CANCELLED };
/* Of a blocking call. LATE: a task's cleanup may make it while the runtime shuts down. MUST: that, and once made it is
 * run, whoever aborts it and whatever is shut down. */
enum fr_duty { FR_DUTY_NONE, FR_DUTY_LATE, FR_DUTY_MUST };
/* BRANCH and STRAND, at the end: no task, but part of one that is woken by itself, see branch.h and strand.h. AWAITABLE and
 * FUNCTION become CORO, with what is to be stepped in `coro`, at the first poll. */
enum fr_task_kind {
    FR_TASK_CORO,
    FR_TASK_AWAITABLE,
    FR_TASK_FUNCTION,
    FR_TASK_BLOCKING,
    FR_TASK_FILE,
    FR_TASK_BRANCH,
    FR_TASK_STRAND
};

enum { FR_FEW_ARGS = 3 };

/* In the order in which they are used together: first what wakers need, and who waits for the result; then the rest of what a
 * poll does; last what is written when a task is made, and hardly ever used. Of many tasks each leaves the caches in between,
 * a line at a time. */
struct fr_task {
    _Atomic uint64_t state;
    uint8_t kind;           /* here: who wakes it needs it, and who grants it something `unseen` */
    _Atomic bool queued;    /* it waits in a queue, with RUNNING: nobody polls it now */
    _Atomic int16_t unseen; /* see futurelock.h */
    uint8_t started : 1;
    uint8_t gathers : 7; /* polls in a row that ended waiting for another task's end; see fr_task_gathers() */
    bool claimed;        /* `coro` is in claims.c */
    /* Two bytes: the spawner, then the holder of RUNNING. */
    uint8_t outcome : 2;
    bool quiet : 1; /* a failure is somebody else's to report (block_on's main task) */
    bool spare : 1;
    uint8_t : 0;
    uint8_t few : 2;   /* how many arguments are in `args` and `more` themselves */
    bool yielded : 1;  /* yield_now() has yielded and not yet resumed */
    bool shielded : 1; /* in a shielded yield (leaf.c): resumed as if nothing were due */
    uint8_t duty : 2;  /* of a blocking call; constant once it is queued */
    bool in_given : 1; /* `context` is not its own: whoever polls in it has it in claims.c */
    struct fr_runtime *rt;
    PyObject *result; /* a blocking task that has not run yet: its keyword arguments, dict or NULL */
    PyObject *name;   /* str or NULL */
    union {
        struct fr_task *next; /* free list, blocking queue, what is woken of a group of branches, line for a context */
        const void *leaf; /* kind CORO: see fr_task_waits_in(). NULL or long gone: an address to prefetch, no more */
    };
    PyObject *coro; /* kind CORO: the coroutine or iterator; else the awaitable or callable */

    PyObject *args; /* tuple or NULL; of few arguments the first: a tuple less to make, and to collect */
    PyObject *context;
    struct fr_node owned;
    struct fr_scope *scopes; /* the innermost one that the line being stepped is in; owned */
    uint64_t id;
    struct fr_member *member; /* its place in a set of tasks, NULL: it is in none */
    uint16_t shard;
    uint16_t generation; /* of rt, its low bits: whether that runtime still lives */
    uint32_t share;      /* what it adds to the backlog that it is queued in, rt/cost.h; whose the task is */

    struct fr_mutex lock;
    struct fr_site *site;
    PyObject *more[FR_FEW_ARGS - 1]; /* the others, only as many as `few` says */
    struct fr_node *joiners;         /* a ring without a head: the oldest waiter, NULL if none */
    void *owed;                      /* a Cancelled that a shield held back, see scope.h */
    struct fr_scope *floor;          /* where those around that line begin; NULL: it is the task's own */
};

/* No coroutine: a blocking call, or a request of a file. */
static inline bool fr_task_is_call(const struct fr_task *task)
{
    return task->kind == FR_TASK_BLOCKING || task->kind == FR_TASK_FILE;
}

/* It is about to wait in this leaf: a hint for who takes it out of the injector next. Not in a given context: it may be in
 * the line for that even now, while its coroutine is being closed. */
static inline void fr_task_waits_in(struct fr_task *task, const void *leaf)
{
    if (task->kind == FR_TASK_CORO && !task->in_given) {
        task->leaf = leaf;
    }
}

/* Whether it awaits one task after the other, as `for handle in handles: await handle` does. Polled at each of their ends, at
 * once, it would hardly ever find a second one: so it is woken to the end of the queue, and finds many. If it finds one only,
 * it begins anew, and so does who spawns meanwhile. It takes many in a row: who awaits a few, or is to be cancelled, goes on
 * at once. */
static inline bool fr_task_gathers(const struct fr_task *task)
{
    enum { GATHERS = 64 };
    return task->gathers >= GATHERS;
}

static inline void fr_task_ref(struct fr_task *task)
{
    fr_ref_inc(&task->state);
}

/* It is about to be queued, and RUNNING is the caller's, and goes along. */
static inline void fr_task_set_queued(struct fr_task *task)
{
    atomic_store_explicit(&task->queued, true, memory_order_relaxed); /* for descriptions, which may be late */
}

/* It has been taken out of a queue: it is this thread's to poll from now on. Its state, with CANCELLED and so on. */
static inline uint64_t fr_task_take(struct fr_task *task)
{
    bool spare;
    uint64_t state = fr_state_take(&task->state, &spare);
    if (__builtin_expect(spare, 0)) {
        task->spare = true;
    }
    atomic_store_explicit(&task->queued, false, memory_order_relaxed); /* as above */
    return state;
}

/* What the end of its poll gives back of the reference that came with it: all or nothing. */
static inline uint64_t fr_task_take_spare(struct fr_task *task)
{
    bool spare = task->spare;
    task->spare = false;
    return spare ? FR_REF_ONE : 0;
}

void fr_task_free(struct fr_task *task);

static inline void fr_task_unref(struct fr_task *task)
{
    if (fr_ref_dec(&task->state)) {
        fr_task_free(task);
    }
}

/* Wakes from any thread, attached or not. The reference stays the caller's. */
void fr_task_wake(struct fr_task *task);
/* The same, and the reference is gone. */
void fr_task_wake_unref(struct fr_task *task);
/* Requests cancellation; true if this call was the first and the task was not complete. */
bool fr_task_abort(struct fr_task *task);

/* spawn()'s keywords, borrowed; NULL where they were not given. */
struct fr_spawn_as {
    PyObject *name;
    PyObject *context;
};

/* Creates and publishes a task; returns a new JoinHandle or NULL with an exception (the coroutine is then closed).
 * `what` is a coroutine or a callable; `args` are borrowed. `cleanup`: also while tasks are being cancelled. */
PyObject *fr_task_spawn(struct fr_runtime *rt, PyObject *what, PyObject *const *args, Py_ssize_t nargs,
                        struct fr_spawn_as as, bool cleanup);
/* The same into a set, which `member` is a place in; it is theirs from now on, whatever happens. */
PyObject *fr_task_spawn_member(struct fr_runtime *rt, PyObject *what, PyObject *const *args, Py_ssize_t nargs,
                               struct fr_spawn_as as, struct fr_member *member);
PyObject *fr_task_spawn_blocking_member(struct fr_runtime *rt, PyObject *fn, PyObject *const *args, Py_ssize_t nargs,
                                        PyObject *kwnames, struct fr_member *member);
/* With RuntimeShutdown set before there was a task: closes a coroutine, as fr_task_spawn() does. */
void fr_task_refused(struct fr_module *mod, PyObject *what);
PyObject *fr_task_spawn_blocking(struct fr_runtime *rt, PyObject *fn, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames, enum fr_duty duty);
/* A request of a file, see file_op.c. A new JoinHandle, None if io_uring does not take it, NULL with an exception. */
PyObject *fr_task_spawn_file(struct fr_runtime *rt, PyObject *op, enum fr_duty duty);
struct fr_task *fr_handle_task(PyObject *handle);

/* One step of a task that came out of a run queue. Returns what to do with it next. */
enum fr_poll_result { FR_POLL_DONE, FR_POLL_REQUEUE };
enum fr_poll_result fr_task_poll(struct fr_task *task);
/* Ends a task whose coroutine can no longer be run: close() it. The caller holds RUNNING. */
void fr_task_close(struct fr_task *task);
/* Steals `result`. The caller holds RUNNING. Drops the owned reference: `task` may be gone afterwards. */
void fr_task_complete(struct fr_task *task, enum fr_outcome outcome, PyObject *result);
/* ---- file_op.c ---- */
/* Submits the request of a task that this thread holds RUNNING of: 0 or -errno. */
int fr_file_submit(struct fr_task *task);
enum fr_poll_result fr_file_poll(struct fr_task *task, uint64_t state);
/* Ends the task if its request is done. The caller holds RUNNING; the task may be gone afterwards. */
void fr_file_close(struct fr_task *task);

/* Runs a blocking task on the calling pool thread. */
void fr_task_run_blocking(struct fr_task *task);
/* The result as a new reference, or NULL with its exception. The task is complete. */
PyObject *fr_task_take_result(struct fr_module *mod, struct fr_task *task);
/* Waits (detached) on a plain thread; 0, -1 with an exception (signals), 1 on timeout. */
int fr_task_wait_event(struct fr_task *task, struct fr_event *event, int64_t timeout_ns);
bool fr_task_link_event(struct fr_task *task, struct fr_waiter *waiter, struct fr_event *event);
void fr_task_unlink(struct fr_task *task, struct fr_waiter *waiter);

/* What can be awaited: a coroutine, steppable as it is, or something with __await__(). */
bool fr_is_coroutine(PyObject *what);
bool fr_is_awaitable(PyObject *what);
/* What was given as `argument`, coroutine or awaitable or an async function to be called with args, as an awaitable.
 * A new reference, or NULL with an exception. */
PyObject *fr_awaitable(PyObject *what, PyObject *const *args, Py_ssize_t nargs, const char *argument);
/* __await__() of what is awaitable and no coroutine. */
PyObject *fr_await_iterator(PyObject *awaitable);
/* close(), if it has one. Keeps the current exception. */
void fr_close_quietly(struct fr_module *mod, PyObject *coro);
/* throw() on what a line steps, with the result of a send(); a plain iterator just ends. Steals `error`; NULL: raised
 * already. */
PySendResult fr_throw_into(struct fr_module *mod, PyObject *coro, PyObject *error, PyObject **result);

/* What a line stepped yielded is not freerun's: tells it so, where it awaits. Steals *result. */
PySendResult fr_refuse_foreign(struct fr_module *mod, PyObject *coro, PyObject **result);
/* Tells somebody about a failure that nobody will see. Keeps the current exception. */
void fr_report_unhandled(struct fr_module *mod, struct fr_task *task, PyObject *error);

/* Description for reports and dumps: new reference to a dict. */
PyObject *fr_task_describe(struct fr_module *mod, struct fr_task *task);
/* Where spawn() was called, see site.c. */
struct fr_site {
    uintptr_t key;
    int lasti;
    bool own;            /* in freerun itself */
    PyObject *code;      /* strong */
    struct fr_cost cost; /* of a poll of the tasks that were spawned here; workers write */
};

/* "file:line in function", or None. */
PyObject *fr_site_describe(struct fr_site *site);
struct fr_site *fr_site_here(struct fr_module *mod);
void fr_sites_free(struct fr_module *mod);
void fr_sites_after_fork(struct fr_module *mod);

#endif
