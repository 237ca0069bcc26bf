/* core: the Python object over an fr_runtime, and how threads get at it. See runtime.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "futurelock.h"
#include "leaf.h"
#include "rt/clock.h"
#include "rt/futex.h"
#include "rt/signals.h"
#include "runtime.h"
#include "timer.h"

_Atomic uint32_t fr_fork_generation;

/* Runtimes are recycled, never freed [R1]. */
static struct fr_mutex free_lock = FR_MUTEX_INIT;
static struct fr_runtime *free_runtimes;

struct fr_runtime *fr_runtime_alloc(void)
{
    fr_mutex_lock(&free_lock);
    struct fr_runtime *rt = free_runtimes;
    if (rt) {
        free_runtimes = rt->next_free;
    }
    fr_mutex_unlock(&free_lock);
    if (rt) {
        return rt;
    }
    rt = aligned_alloc(64, (sizeof *rt + 63) & ~(size_t)63);
    if (rt) {
        memset(rt, 0, sizeof *rt);
    }
    return rt;
}

void fr_runtime_recycle(struct fr_runtime *rt)
{
    fr_mutex_lock(&free_lock);
    rt->next_free = free_runtimes;
    free_runtimes = rt;
    fr_mutex_unlock(&free_lock);
}

/* ---- visits ---- */

bool fr_foreign_begin(struct fr_runtime *rt)
{
    bool foreign = !fr_thread.worker || fr_thread.worker->rt != rt;
    if (foreign) {
        /* seq_cst: before anything of the runtime is looked at; pairs with wait_for_visitors() [R2] */
        atomic_fetch_add_explicit(&rt->inflight, 1, memory_order_seq_cst);
    }
    return foreign;
}

void fr_foreign_end(struct fr_runtime *rt, bool foreign)
{
    if (foreign) {
        /* release: our use of the runtime is over; pairs with wait_for_visitors() [R2] */
        atomic_fetch_sub_explicit(&rt->inflight, 1, memory_order_release);
    }
}

static bool check_fork(CoreObject *core)
{
    /* relaxed: it changes in the child before anything else runs there */
    if (core->fork_generation == atomic_load_explicit(&fr_fork_generation, memory_order_relaxed)) {
        return true;
    }
    PyErr_SetString(PyExc_RuntimeError, "this freerun runtime was made before fork(): its threads do not exist in the "
                                        "child process; build a new Runtime there");
    return false;
}

bool fr_visit_core(CoreObject *core, struct fr_visit *visit)
{
    if (!check_fork(core)) {
        return false;
    }
    /* seq_cst, twice: counted first, looked at again after; pairs with fr_teardown() [R2] */
    struct fr_runtime *rt = atomic_load(&core->rt);
    if (rt) {
        visit->rt = rt;
        visit->foreign = fr_foreign_begin(rt);
        if (!visit->foreign) {
            return true;
        }
        if (atomic_load(&core->rt) == rt) {
            visit->outer = fr_thread.visits;
            fr_thread.visits = visit;
            return true;
        }
        fr_foreign_end(rt, visit->foreign);
    }
    PyErr_SetString(core->mod->exc_shutdown, "the runtime has been shut down");
    return false;
}

bool fr_visit_current(struct fr_module *mod, struct fr_visit *visit)
{
    CoreObject *core = fr_thread.core;
    if (!core || core->mod != mod) { /* another interpreter's runtime is none of ours */
        PyErr_SetString(PyExc_RuntimeError, FR_NO_RUNTIME);
        return false;
    }
    struct fr_worker *worker = fr_thread.worker;
    if (worker && worker->rt->core == (PyObject *)core && check_fork(core)) { /* the fast path of every spawn */
        *visit = (struct fr_visit){.rt = worker->rt, .foreign = false};
        return true;
    }
    return PyErr_Occurred() ? false : fr_visit_core(core, visit);
}

void fr_visit_end(struct fr_visit *visit)
{
    if (visit->foreign) {
        fr_thread.visits = visit->outer;
    }
    fr_foreign_end(visit->rt, visit->foreign);
}

/* ---- small helpers ---- */

/* A signal handler that exits may have run inside of any Python code on the main thread: block_on raises it. */
static void hook_failed(struct fr_runtime *rt, PyObject *hook)
{
    PyObject *raised = PyErr_GetRaisedException();
    bool exits = fr_is_fatal(raised) && fr_fatal(rt, raised);
    if (exits) {
        Py_DECREF(raised);
    } else {
        PyErr_SetRaisedException(raised);
        PyErr_WriteUnraisable(hook);
    }
}

void fr_call_hook(struct fr_runtime *rt, PyObject *hook, PyObject *arg)
{
    if (!hook) {
        return;
    }
    PyObject *error = PyErr_GetRaisedException();
    PyObject *done = arg ? PyObject_CallOneArg(hook, arg) : PyObject_CallNoArgs(hook);
    if (!done) {
        hook_failed(rt, hook);
    }
    Py_XDECREF(done);
    PyErr_SetRaisedException(error);
}

int fr_set_asyncgen_hooks(PyObject *first, PyObject *final)
{
    PyObject *sys = PyImport_ImportModule("sys");
    PyObject *set = sys ? PyObject_GetAttrString(sys, "set_asyncgen_hooks") : NULL;
    PyObject *done =
        set ? PyObject_CallFunctionObjArgs(set, first ? first : Py_None, final ? final : Py_None, NULL) : NULL;
    Py_XDECREF(sys);
    Py_XDECREF(set);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* ---- block_on ---- */

/* One block_on in progress; lives on its thread's stack. */
struct blocker {
    struct fr_node node;
    struct fr_task *task;
    struct fr_event event; /* the task is over, or need not be waited for; its fd is polled with the signal pipe */
    pthread_t thread;
    uint32_t interrupts; /* under blockers_lock */
    bool doomed;         /* the same: something fatal was raised while it was here */
    uint32_t drained;
};

static struct blocker *blocker_of(struct fr_node *node)
{
    return FR_CONTAINER_OF(node, struct blocker, node);
}

/* Lets every block_on look again: the core is free, or there is something fatal. */
void fr_nudge_blockers(struct fr_runtime *rt)
{
    fr_mutex_lock(&rt->blockers_lock);
    for (struct fr_node *node = rt->blockers.next; node != &rt->blockers; node = node->next) {
        uint64_t one = 1;
        ssize_t ignored = write(blocker_of(node)->event.fd, &one, sizeof one); /* full only if it is set already */
        (void)ignored;
    }
    fr_mutex_unlock(&rt->blockers_lock);
}

/* Each once. One that has not spawned its task yet, or is about to tell us, looks at `doomed` when it does. */
static void abort_blockers(struct fr_runtime *rt)
{
    enum { BATCH = 64 };
    int n;
    do {
        struct fr_task *tasks[BATCH];
        n = 0;
        fr_mutex_lock(&rt->blockers_lock);
        for (struct fr_node *node = rt->blockers.next; node != &rt->blockers && n < BATCH; node = node->next) {
            struct blocker *blocker = blocker_of(node);
            if (!blocker->doomed && blocker->task) {
                tasks[n++] = blocker->task;
                fr_task_ref(blocker->task);
            }
            blocker->doomed = true;
        }
        fr_mutex_unlock(&rt->blockers_lock);
        for (int i = 0; i < n; i++) {
            fr_task_abort(tasks[i]);
            fr_task_unref(tasks[i]);
        }
    } while (n == BATCH);
}

bool fr_is_fatal(PyObject *exception)
{
    return PyErr_GivenExceptionMatches(exception, PyExc_KeyboardInterrupt) ||
           PyErr_GivenExceptionMatches(exception, PyExc_SystemExit);
}

bool fr_fatal(struct fr_runtime *rt, PyObject *exception)
{
    PyObject *none = NULL;
    Py_INCREF(exception);
    /* Under the lock: a block_on takes what is there after it has left the list, so nothing stays for the next one. */
    fr_mutex_lock(&rt->blockers_lock);
    bool wanted = rt->blockers.next != &rt->blockers;
    /* acq_rel: pairs with take_fatal(); the first one wins */
    bool kept = wanted && atomic_compare_exchange_strong_explicit(&rt->fatal, &none, exception, memory_order_acq_rel,
                                                                  memory_order_relaxed);
    fr_mutex_unlock(&rt->blockers_lock);
    if (!kept) {
        Py_DECREF(exception);
    }
    if (wanted) {
        abort_blockers(rt);
    }
    return wanted;
}

static PyObject *take_fatal(struct fr_runtime *rt)
{
    return atomic_exchange_explicit(&rt->fatal, NULL, memory_order_acq_rel); /* pairs with fr_fatal() */
}

static void drain(int fd)
{
    char buffer[64];
    while (read(fd, buffer, sizeof buffer) > 0) {
    }
}

static bool on_signal_thread(struct fr_runtime *rt)
{
    /* acquire: pairs with core_signal_fd() */
    return atomic_load_explicit(&rt->has_signal_pipe, memory_order_acquire) &&
           pthread_equal(rt->signal_thread, pthread_self());
}

/* Waits, detached, for the event, a nudge or a signal. 0, or -1 with a handler's exception. */
static int wait_nudged(struct fr_runtime *rt, struct blocker *blocker)
{
    bool signals = on_signal_thread(rt);
    struct pollfd fds[2] = {{.fd = blocker->event.fd, .events = POLLIN},
                            {.fd = signals ? rt->signal_pipe[0] : -1, .events = POLLIN}};
    PyThreadState *state = PyEval_SaveThread();
    int n = poll(fds, 2, -1);
    if (n > 0 && fds[0].revents) {
        drain(blocker->event.fd);
    }
    if (n > 0 && fds[1].revents) {
        drain(rt->signal_pipe[0]);
    }
    PyEval_RestoreThread(state);
    return fr_drain(rt, &blocker->drained) ? -1 : PyErr_CheckSignals();
}

int fr_core_take(CoreObject *core, struct fr_runtime *rt)
{
    uint32_t expected = 0;
    /* seq_cst: acquire pairs with fr_core_give(); and before the watch is looked at, see all_parked() in watch.c */
    if (!atomic_compare_exchange_strong(&rt->core_taken, &expected, 1)) {
        return 0;
    }
    fr_watch_nudge(rt);
    fr_thread.worker = &rt->workers[0];
    fr_thread.core = core;
    /* relaxed: for reports */
    atomic_store_explicit(&rt->workers[0].thread_ident, PyThread_get_thread_ident(), memory_order_relaxed);
    return 1;
}

void fr_core_give(struct fr_runtime *rt)
{
    fr_thread.worker = NULL;
    atomic_store_explicit(&rt->core_taken, 0, memory_order_release); /* pairs with fr_core_take() */
    fr_nudge_blockers(rt);
}

static int save_outer(struct fr_runtime *rt, struct fr_outer *outer)
{
    PyObject *sys = PyImport_ImportModule("sys");
    outer->thread = fr_thread;
    outer->hooks = sys ? PyObject_CallMethod(sys, "get_asyncgen_hooks", NULL) : NULL;
    Py_XDECREF(sys);
    return outer->hooks ? fr_set_asyncgen_hooks(rt->hooks.agen_first, rt->hooks.agen_final) : -1;
}

bool fr_core_may_run_here(struct fr_runtime *rt)
{
    return !rt->pinned || rt->pinned_to == PyThreadState_GetID(PyThreadState_Get()); /* a number is never used again */
}

bool fr_core_begin(CoreObject *core, struct fr_runtime *rt, struct fr_outer *outer)
{
    struct fr_thread before = fr_thread;
    if (!fr_core_take(core, rt)) {
        return false;
    }
    struct fr_thread running = fr_thread;
    fr_thread = before;
    bool saved = save_outer(rt, outer) == 0;
    if (saved) {
        fr_thread = running;
    } else {
        fr_core_give(rt);
        fr_thread = before;
    }
    return saved;
}

void fr_core_end(struct fr_runtime *rt, struct fr_outer *outer)
{
    fr_core_give(rt);
    PyObject *error = PyErr_GetRaisedException();
    if (fr_set_asyncgen_hooks(PyTuple_GetItem(outer->hooks, 0), PyTuple_GetItem(outer->hooks, 1))) {
        PyErr_WriteUnraisable(NULL);
    }
    Py_CLEAR(outer->hooks);
    fr_thread = outer->thread;
    PyErr_SetRaisedException(error);
}

static bool is_set(struct fr_event *event)
{
    return atomic_load_explicit(&event->set, memory_order_acquire); /* pairs with fr_event_set() */
}

static uint32_t interrupts(struct fr_runtime *rt, struct blocker *blocker)
{
    fr_mutex_lock(&rt->blockers_lock);
    uint32_t n = blocker->interrupts;
    fr_mutex_unlock(&rt->blockers_lock);
    return n;
}

/* Current-thread: runs the core if nobody else does, until the event is set. Else waits. */
static int wait_once(CoreObject *core, struct fr_runtime *rt, struct blocker *blocker)
{
    struct fr_outer outer;
    if (!rt->current_thread || !fr_core_begin(core, rt, &outer)) {
        return PyErr_Occurred() ? -1 : wait_nudged(rt, blocker);
    }
    int result = fr_worker_run(&rt->workers[0], &blocker->event);
    fr_core_end(rt, &outer);
    return result;
}

/* Until the main task is complete, or a second interrupt. NULL, or the exception of a signal handler (a new reference). */
static PyObject *wait_for_main(CoreObject *core, struct fr_runtime *rt, struct blocker *blocker)
{
    PyObject *raised = NULL;
    while (!is_set(&blocker->event)) {
        if (wait_once(core, rt, blocker) == 0) {
            continue;
        }
        if (raised || interrupts(rt, blocker) > 1) { /* the second one does not wait for cleanup */
            Py_XDECREF(raised);
            return PyErr_GetRaisedException();
        }
        raised = PyErr_GetRaisedException();
        if (fr_forked(rt)) {
            return raised; /* nobody will ever end the task here */
        }
        fr_task_abort(blocker->task);
    }
    return raised;
}

static void blocker_enter(struct fr_runtime *rt, struct blocker *blocker)
{
    fr_mutex_lock(&rt->blockers_lock);
    fr_list_push_back(&rt->blockers, &blocker->node);
    fr_mutex_unlock(&rt->blockers_lock);
}

static void blocker_leave(struct fr_runtime *rt, struct blocker *blocker)
{
    fr_mutex_lock(&rt->blockers_lock);
    fr_list_remove(&blocker->node);
    fr_mutex_unlock(&rt->blockers_lock);
}

static PyObject *outcome(CoreObject *core, struct fr_runtime *rt, struct blocker *blocker, PyObject *raised)
{
    bool complete = (fr_state_load(&blocker->task->state) & FR_COMPLETE) != 0;
    PyObject *fatal = take_fatal(rt);
    if (!raised && !fatal && interrupts(rt, blocker)) {
        raised = PyObject_CallNoArgs(PyExc_KeyboardInterrupt);
    }
    if (!raised) {
        raised = fatal;
        fatal = NULL;
    }
    Py_XDECREF(fatal);
    if (raised) {
        if (complete) {
            fr_state_set_observed(&blocker->task->state);
        }
        PyErr_SetRaisedException(raised);
        return NULL;
    }
    return fr_task_take_result(core->mod, blocker->task);
}

/* The main task is known from here on to whoever interrupts; what came before it was known is made up for. */
static void blocker_attach(struct fr_runtime *rt, struct blocker *blocker, struct fr_task *task)
{
    fr_mutex_lock(&rt->blockers_lock);
    blocker->task = task;
    bool over = blocker->interrupts > 0 || blocker->doomed;
    fr_mutex_unlock(&rt->blockers_lock);
    if (over) {
        fr_task_abort(task);
    }
}

static PyObject *block_on(CoreObject *core, struct fr_runtime *rt, PyObject *const *args, Py_ssize_t nargs)
{
    struct fr_waiter waiter;
    struct blocker blocker = {.task = NULL, .thread = pthread_self()};
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    fr_event_init(&blocker.event, fd);
    blocker_enter(rt, &blocker); /* first: what its task raises is for this call, however soon it does */
    PyObject *result = NULL,
             *handle = fr_task_spawn(rt, args[0], args + 1, nargs - 1, (struct fr_spawn_as){NULL, NULL}, false);
    if (handle) {
        struct fr_task *task = fr_handle_task(handle);
        blocker_attach(rt, &blocker, task);
        if (!fr_task_link_event(task, &waiter, &blocker.event)) {
            fr_event_set(&blocker.event); /* it is over already */
        }
        PyObject *raised = wait_for_main(core, rt, &blocker);
        fr_task_unlink(task, &waiter);
        blocker_leave(rt, &blocker);
        result = outcome(core, rt, &blocker, raised);
    } else {
        blocker_leave(rt, &blocker);
    }
    close(fd);
    PyObject *error = PyErr_GetRaisedException();
    Py_XDECREF(handle);
    PyErr_SetRaisedException(error);
    return result;
}

static PyObject *core_block_on(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    CoreObject *core = (CoreObject *)self;
    struct fr_visit visit;
    if (fr_task_need_one(nargs, "block_on", "coro")) {
        return NULL;
    }
    if (fr_thread.worker) { /* in a task, or in a hook or destructor between two polls; block_in_place() gave it away */
        PyErr_SetString(PyExc_RuntimeError, "block_on() was called inside a task, whose worker it would block; await "
                                            "the coroutine instead, or spawn() it");
        return NULL;
    }
    if (!fr_visit_core(core, &visit)) {
        return NULL;
    }
    if (!fr_core_may_run_here(visit.rt)) {
        fr_visit_end(&visit);
        PyErr_SetString(PyExc_RuntimeError,
                        "block_on() of a LocalRuntime may be called only on the thread that made it, "
                        "where its tasks stay; from here, use runtime.handle().spawn(async_fn, "
                        "*args).blocking_result()");
        return NULL;
    }
    CoreObject *before = fr_thread.core;
    fr_thread.core = core;
    PyObject *result = block_on(core, visit.rt, args, nargs);
    fr_thread.core = before;
    fr_visit_end(&visit);
    return result;
}

static PyObject *core_interrupt(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_visit visit;
    struct fr_task *task = NULL;
    if (!fr_visit_core((CoreObject *)self, &visit)) {
        return NULL;
    }
    struct fr_runtime *rt = visit.rt;
    bool found = false, again = false;
    fr_mutex_lock(&rt->blockers_lock);
    for (struct fr_node *node = rt->blockers.prev; node != &rt->blockers && !found; node = node->prev) {
        struct blocker *blocker = blocker_of(node);
        if (pthread_equal(blocker->thread, pthread_self())) {
            found = true;
            again = blocker->interrupts++ > 0;
            if (again) { /* what we raise may be lost in a destructor; see also wait_for_main() */
                fr_event_set(&blocker->event);
            }
            if ((task = blocker->task)) {
                fr_task_ref(task);
            }
        }
    }
    fr_mutex_unlock(&rt->blockers_lock);
    if (task) {
        fr_task_abort(task);
        fr_task_unref(task);
    }
    fr_visit_end(&visit);
    if (again || !found) { /* out of the wait, or out of whatever runs on this thread */
        PyErr_SetNone(PyExc_KeyboardInterrupt);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- construction ---- */

struct config {
    int current_thread, pinned, lifo_slot, stand_in, io, time, io_uring, start_paused;
    unsigned int workers, max_blocking, event_interval, global_interval;
    Py_ssize_t stack_size;
    double keep_alive, slow_poll;
    PyObject *seed;
    struct fr_hooks hooks; /* borrowed */
};

static int parse_config(PyObject *args, PyObject *kwargs, struct config *c)
{
    static char *names[] = {"current_thread",
                            "pinned",
                            "worker_threads",
                            "max_blocking_threads",
                            "thread_keep_alive",
                            "thread_stack_size",
                            "event_interval",
                            "global_queue_interval",
                            "lifo_slot",
                            "stand_in",
                            "io",
                            "time",
                            "io_uring",
                            "start_paused",
                            "rng_seed",
                            "slow_poll_warning",
                            "thread_name",
                            "unhandled",
                            "slow_poll",
                            "futurelock",
                            "agen_first",
                            "agen_final",
                            "drained",
                            "on_thread_start",
                            "on_thread_stop",
                            "on_thread_park",
                            "on_thread_unpark",
                            "on_task_spawn",
                            "on_task_terminate",
                            NULL};
    struct fr_hooks *h = &c->hooks;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$ppIIdnIIppppppOdOOOOOOOOOOOOO:Core", names, &c->current_thread, &c->pinned, &c->workers,
            &c->max_blocking, &c->keep_alive, &c->stack_size, &c->event_interval, &c->global_interval, &c->lifo_slot,
            &c->stand_in, &c->io, &c->time, &c->io_uring, &c->start_paused, &c->seed, &c->slow_poll, &h->thread_name,
            &h->unhandled, &h->slow_poll, &h->futurelock, &h->agen_first, &h->agen_final, &h->drained, &h->thread_start,
            &h->thread_stop, &h->thread_park, &h->thread_unpark, &h->task_spawn, &h->task_terminate)) {
        return -1;
    }
    if (c->workers < 1 || c->workers > FR_MAX_WORKERS || c->event_interval < 1 || c->max_blocking < 1) {
        PyErr_Format(PyExc_ValueError,
                     "worker_threads must be 1 to %d; event_interval and max_blocking_threads "
                     "positive",
                     FR_MAX_WORKERS);
        return -1;
    }
    return 0;
}

static PyObject *own(PyObject *hook)
{
    return hook && hook != Py_None ? Py_NewRef(hook) : NULL;
}

static struct fr_hooks own_hooks(const struct fr_hooks *h)
{
    return (struct fr_hooks){.thread_start = own(h->thread_start),
                             .thread_stop = own(h->thread_stop),
                             .thread_park = own(h->thread_park),
                             .thread_unpark = own(h->thread_unpark),
                             .task_spawn = own(h->task_spawn),
                             .task_terminate = own(h->task_terminate),
                             .unhandled = own(h->unhandled),
                             .slow_poll = own(h->slow_poll),
                             .futurelock = own(h->futurelock),
                             .agen_first = own(h->agen_first),
                             .agen_final = own(h->agen_final),
                             .drained = own(h->drained),
                             .thread_name = own(h->thread_name)};
}

static uint64_t driver_now(void *rt)
{
    return fr_now_ns(rt);
}

static int set_seed(struct fr_runtime *rt, PyObject *seed)
{
    if (seed == Py_None) {
        rt->seed = fr_clock_ns() ^ (uint64_t)(uintptr_t)&seed;
        return 0;
    }
    rt->seed = PyLong_AsUnsignedLongLongMask(seed);
    return rt->seed == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

static void set_fields(struct fr_runtime *rt, CoreObject *core, const struct config *c)
{
    rt->mod = core->mod;
    rt->interp = PyInterpreterState_Get();
    rt->core = (PyObject *)core;
    rt->fork_generation = core->fork_generation;
    rt->current_thread = c->current_thread;
    rt->pinned = c->current_thread && c->pinned;
    rt->pinned_to = PyThreadState_GetID(PyThreadState_Get());
    rt->nworkers = c->current_thread ? 1 : c->workers;
    rt->stand_in = c->stand_in && !c->current_thread;
    rt->solo = rt->nworkers == 1 && !rt->stand_in;
    rt->nqueues = rt->nworkers + rt->stand_in;
    rt->lifo_slot = c->lifo_slot;
    rt->io = c->io;
    rt->time = c->time;
    rt->event_interval = c->event_interval;
    rt->global_interval = c->global_interval ? c->global_interval : 61;
    rt->stack_size = (size_t)c->stack_size;
    rt->slow_poll_ns = c->slow_poll > 0 && c->slow_poll < 9e9 ? (uint64_t)(c->slow_poll * 1e9) : 0;
    rt->futurelock_ns = rt->slow_poll_ns < FR_FUTURELOCK_NS ? rt->slow_poll_ns : FR_FUTURELOCK_NS;
    rt->suspects = NULL;
    fr_mutex_init(&rt->suspects_lock);
    atomic_init(&rt->has_suspects, false);
    rt->nshards = rt->nworkers + 1;
    rt->hooks = own_hooks(&c->hooks);
    rt->has_watch = rt->has_gil = rt->dirty = false;
    /* What fr_teardown() frees must be empty until build() has made it. */
    rt->workers = NULL;
    rt->shards = NULL;
    rt->driver.poller = (struct fr_poller){.epfd = -1};
    rt->driver.evfd = -1;
    rt->driver.slab = NULL;
    rt->driver.timers = (struct fr_timers){.shards = NULL};
    rt->idle.sleepers = NULL;
    memset(&rt->inject, 0, sizeof rt->inject);
    rt->natives = NULL;
    rt->drain_event = NULL;
    /* Not shutdown_mutex: a thread of this memory's earlier life may still be about to unlock it. */
    rt->signal_pipe[0] = rt->signal_pipe[1] = -1;
    fr_list_init(&rt->blockers);
    /* Nobody else looks at it yet, so plain initialisation does. */
    atomic_store(&rt->phase, FR_PHASE_RUNNING);
    atomic_store(&rt->next_id, 1);
    atomic_store(&rt->fatal, NULL);
    atomic_store(&rt->threads, 0);
    atomic_store(&rt->core_taken, 0);
    atomic_store(&rt->watch_word, 0);
    atomic_store(&rt->watch_drives, false);
    atomic_store(&rt->done, 0);
    atomic_store(&rt->stand_in_word, 0);
    atomic_store(&rt->all_stuck, false);
    atomic_store(&rt->worker_spins, false);
    atomic_store(&rt->mail_awaited, false);
    atomic_store(&rt->drain_epoch, 0);
    atomic_store(&rt->pool_rests, 0);
    atomic_store(&rt->has_signal_pipe, false);
    atomic_store(&rt->blocking_running, 0);
    atomic_store(&rt->clock_offset, 0);
    atomic_store(&rt->paused_now, fr_clock_ns());
    atomic_store(&rt->paused, c->start_paused != 0);
    fr_pool_init(&rt->pool, c->max_blocking, c->keep_alive > 9e9 ? INT64_MAX / 4 : (uint64_t)(c->keep_alive * 1e9));
}

static void *zeroed(size_t count, size_t size)
{
    void *memory = aligned_alloc(64, count * size);
    if (memory) {
        memset(memory, 0, count * size);
    }
    return memory;
}

static int init_driver_of(struct fr_runtime *rt, enum fr_poller_kind kind)
{
    int err = fr_driver_init(&rt->driver, kind, rt->nworkers + 1, fr_driver_wake_task, driver_now, rt);
    rt->driver.more = fr_driver_more_timers;
    return err;
}

/* io_uring if that was asked for and the kernel allows it; metrics() tell what it came to. */
static int init_driver(struct fr_runtime *rt, bool io_uring)
{
    int err = io_uring ? init_driver_of(rt, FR_POLLER_IO_URING) : -ENOSYS;
    return err ? init_driver_of(rt, FR_POLLER_EPOLL) : 0;
}

/* 0 or -1 with an exception; fr_teardown() undoes a half-made one. */
static int build(struct fr_runtime *rt, const struct config *c)
{
    rt->workers = zeroed(rt->nqueues, sizeof *rt->workers);
    rt->shards = zeroed(rt->nshards, sizeof *rt->shards);
    if (!rt->workers || !rt->shards) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < rt->nshards; i++) {
        fr_owned_init(&rt->shards[i], i < rt->nworkers);
    }
    int err = fr_inject_init(&rt->inject);
    err = err ? err : fr_idle_init(&rt->idle, rt->nworkers);
    err = err ? err : init_driver(rt, c->io_uring);
    if (err) {
        errno = -err;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    atomic_store(&rt->driver.frozen, c->start_paused != 0);
    int32_t pieces = 0; /* for whom nobody would tell that it sleeps */
#ifdef Py_GIL_DISABLED
    pieces = rt->current_thread ? 0 : FR_FREE_PIECES;
#endif
    atomic_store_explicit(&rt->free_pieces, pieces, memory_order_relaxed); /* no thread runs here yet */
    for (uint32_t i = 0; i < rt->nqueues; i++) {
        fr_worker_init(&rt->workers[i], rt, i);
    }
    return 0;
}

static int start_threads(struct fr_runtime *rt)
{
    int err = 0;
    for (uint32_t i = 0; !rt->current_thread && !err && i < rt->nworkers; i++) {
        err = fr_worker_start(&rt->workers[i]);
    }
    if (!err && (!rt->current_thread || rt->slow_poll_ns)) {
        err = fr_watch_start(rt);
    }
    if (err) {
        PyErr_Format(PyExc_RuntimeError, "cannot start the runtime's threads: %s", strerror(-err));
    }
    return err ? -1 : 0;
}

static PyObject *core_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    CoreObject *core = (CoreObject *)type->tp_alloc(type, 0);
    if (core) {
        core->mod = fr_module_of_type(type);
        core->fork_generation = atomic_load(&fr_fork_generation);
    }
    return (PyObject *)core;
}

static int core_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    CoreObject *core = (CoreObject *)self;
    struct config config = {.seed = Py_None};
    if (atomic_load(&core->rt)) {
        PyErr_SetString(PyExc_RuntimeError, "__init__ was called twice");
        return -1;
    }
    if (parse_config(args, kwargs, &config)) {
        return -1;
    }
    struct fr_runtime *rt = fr_runtime_alloc();
    if (!rt) {
        PyErr_NoMemory();
        return -1;
    }
    set_fields(rt, core, &config);
    if (set_seed(rt, config.seed) || build(rt, &config)) {
        fr_teardown(core, rt);
        return -1;
    }
    atomic_store(&core->rt, rt);
    if (start_threads(rt)) {
        PyObject *error = PyErr_GetRaisedException();
        if (fr_shutdown(core, rt, 0, NULL)) {
            PyErr_Clear();
        }
        PyErr_SetRaisedException(error);
        return -1;
    }
    return 0;
}

/* The shutdown runs Python, which may look at this very object: hence here, where it is still alive. */
static void core_finalize(PyObject *self)
{
    CoreObject *core = (CoreObject *)self;
    struct fr_runtime *rt = atomic_load(&core->rt);
    /* In a forked child the threads are gone: nothing can be joined, and nothing is touched. */
    if (rt && !rt->dirty && core->fork_generation == atomic_load(&fr_fork_generation)) {
        PyObject *error = PyErr_GetRaisedException();
        if (fr_shutdown(core, rt, 0, NULL)) {
            PyErr_WriteUnraisable(NULL);
        }
        PyErr_SetRaisedException(error);
    }
}

static void core_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0) {
        return; /* resurrected */
    }
    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int core_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct fr_runtime *rt = atomic_load(&((CoreObject *)self)->rt);
    Py_VISIT(Py_TYPE(self));
    if (rt) {
        struct fr_hooks *h = &rt->hooks;
        PyObject *all[] = {h->thread_start,   h->thread_stop, h->thread_park, h->thread_unpark, h->task_spawn,
                           h->task_terminate, h->unhandled,   h->slow_poll,   h->agen_first,    h->agen_final,
                           h->drained,        h->thread_name, h->futurelock};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            Py_VISIT(all[i]);
        }
    }
    return 0;
}

/* ---- methods ---- */

static PyObject *core_spawn(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct fr_spawn_as as = {NULL, NULL};
    struct fr_visit visit;
    if (fr_task_need_one(nargs, "spawn", "coro") || (kwnames && fr_task_parse_as(args + nargs, kwnames, &as))) {
        return NULL;
    }
    if (!fr_visit_core((CoreObject *)self, &visit)) {
        fr_task_refused(((CoreObject *)self)->mod, args[0]);
        return NULL;
    }
    PyObject *handle = fr_task_spawn(visit.rt, args[0], args + 1, nargs - 1, as, false);
    fr_visit_end(&visit);
    return handle;
}

static PyObject *core_spawn_cleanup(PyObject *self, PyObject *coro)
{
    struct fr_visit visit;
    if (!fr_visit_core((CoreObject *)self, &visit)) {
        return NULL;
    }
    PyObject *handle = fr_task_spawn(visit.rt, coro, NULL, 0, (struct fr_spawn_as){NULL, NULL}, true);
    fr_visit_end(&visit);
    return handle;
}

static PyObject *core_spawn_blocking(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct fr_visit visit;
    if (fr_task_need_one(nargs, "spawn_blocking", "fn") || !fr_visit_core((CoreObject *)self, &visit)) {
        return NULL;
    }
    PyObject *handle = fr_task_spawn_blocking(visit.rt, args[0], args + 1, nargs - 1, kwnames, FR_DUTY_NONE);
    fr_visit_end(&visit);
    return handle;
}

static PyObject *new_or_none(CoreObject *core)
{
    return Py_NewRef(core ? (PyObject *)core : Py_None);
}

static PyObject *core_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    CoreObject *previous = fr_thread.core;
    fr_thread.core = (CoreObject *)Py_NewRef(self); /* until leave(): what a thread has entered must stay valid */
    return new_or_none(previous);
}

static PyObject *core_leave(PyObject *self, PyObject *previous)
{
    if (previous != Py_None && !Py_IS_TYPE(previous, Py_TYPE(self))) {
        PyErr_Format(PyExc_TypeError, "argument 'previous' must be what enter() returned, not %.200s",
                     Py_TYPE(previous)->tp_name);
        return NULL;
    }
    if (fr_thread.core != (CoreObject *)self && fr_thread.worker) {
        Py_DECREF(self); /* entered in an earlier poll of this task, which was undone when that poll ended */
        Py_RETURN_NONE;
    }
    if (fr_thread.core != (CoreObject *)self) {
        PyErr_SetString(PyExc_RuntimeError,
                        "leave a runtime on the thread that entered it, the last one entered first");
        return NULL;
    }
    fr_thread.core = previous == Py_None ? NULL : (CoreObject *)previous;
    Py_DECREF(self); /* the caller has one more */
    Py_RETURN_NONE;
}

/* Whether a teardown of `rt` would wait for what this thread is in the middle of. */
static bool waits_for_us(struct fr_runtime *rt)
{
    for (struct fr_visit *visit = fr_thread.visits; visit; visit = visit->outer) {
        if (visit->rt == rt) {
            return true;
        }
    }
    /* relaxed: only this thread can have written its own number */
    return fr_thread.pool == rt ||
           atomic_load_explicit(&rt->shutdown_thread, memory_order_relaxed) == PyThread_get_thread_ident();
}

static PyObject *core_shutdown(PyObject *self, PyObject *timeout)
{
    CoreObject *core = (CoreObject *)self;
    double seconds;
    struct fr_visit visit;
    if (fr_parse_seconds(timeout, "timeout", &seconds)) {
        return NULL;
    }
    PyObject *report = PyList_New(0);
    if (!report || !atomic_load(&core->rt)) {
        return report;
    }
    if (!fr_visit_core(core, &visit)) {
        Py_DECREF(report);
        return NULL;
    }
    struct fr_runtime *rt = visit.rt;
    fr_visit_end(&visit);
    if (!visit.foreign || waits_for_us(rt)) {
        PyErr_SetString(PyExc_RuntimeError, "shutdown() from one of the runtime's own threads or hooks, or from a "
                                            "signal handler during its block_on(), would wait for itself; use "
                                            "shutdown_background()");
        Py_DECREF(report);
        return NULL;
    }
    int64_t ns = seconds > 9e8 ? INT64_C(900000000000000000) : (int64_t)(seconds * 1e9);
    if (fr_shutdown(core, rt, ns, report)) {
        Py_CLEAR(report);
    }
    return report;
}

static PyObject *core_shutdown_background(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_visit visit;
    if (!atomic_load(&((CoreObject *)self)->rt)) {
        Py_RETURN_NONE;
    }
    if (!fr_visit_core((CoreObject *)self, &visit)) {
        return NULL;
    }
    fr_shutdown_begin(visit.rt);
    fr_visit_end(&visit);
    Py_RETURN_NONE;
}

static PyObject *core_is_shut_down(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_runtime *rt = atomic_load(&((CoreObject *)self)->rt);
    return PyBool_FromLong(!rt || atomic_load(&rt->phase) != FR_PHASE_RUNNING);
}

static PyObject *core_threads_left(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_runtime *rt = atomic_load(&((CoreObject *)self)->rt); /* NULL: torn down, which takes that none is left */
    return PyLong_FromUnsignedLong(rt ? atomic_load(&rt->threads) : 0);
}

static PyObject *worker_metrics(struct fr_worker *w)
{
    /* relaxed, all: monotonic counters for people */
#define COUNT(field) (unsigned long long)atomic_load_explicit(&w->field, memory_order_relaxed)
    return Py_BuildValue("{s:K,s:I,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:O}", "polls", (COUNT(polls) + 1) / 2,
                         "local_queue_depth", fr_worker_depth(w), "backlog_ns", COUNT(backlog.ns), "parks",
                         COUNT(parks), "steals", COUNT(steals), "steal_attempts", COUNT(steal_tries), "overflows",
                         COUNT(overflows), "lifo_hits", COUNT(lifo_hits), "driver_turns", COUNT(turns), "stuck",
                         atomic_load_explicit(&w->stuck, memory_order_relaxed) ? Py_True : Py_False);
#undef COUNT
}

static PyObject *all_worker_metrics(struct fr_runtime *rt)
{
    PyObject *list = PyList_New(rt->nworkers);
    for (uint32_t i = 0; list && i < rt->nworkers; i++) {
        PyObject *one = worker_metrics(&rt->workers[i]);
        if (!one) {
            Py_CLEAR(list);
        } else {
            PyList_SET_ITEM(list, i, one);
        }
    }
    return list;
}

static unsigned long long stand_in_polls(struct fr_runtime *rt)
{
    /* relaxed: a monotonic counter for people */
    return rt->stand_in ? (atomic_load_explicit(&rt->workers[rt->nworkers].polls, memory_order_relaxed) + 1) / 2 : 0;
}

static PyObject *build_metrics(struct fr_runtime *rt)
{
    struct fr_owned_counts tasks = fr_owned_count(rt);
    struct fr_pool *pool = &rt->pool;
    fr_mutex_lock(&pool->lock);
    uint32_t threads = pool->threads, idle = pool->idle, queued = pool->queued;
    fr_mutex_unlock(&pool->lock);
    PyObject *workers = all_worker_metrics(rt);
    return workers ? Py_BuildValue("{s:s,s:I,s:K,s:K,s:K,s:I,s:I,s:I,s:K,s:K,s:N}", "driver",
                                   rt->driver.poller.ring ? "io_uring" : "epoll", "num_workers", rt->nworkers,
                                   "alive_tasks", (unsigned long long)tasks.alive, "spawned_tasks",
                                   (unsigned long long)tasks.spawned, "global_queue_depth",
                                   (unsigned long long)fr_inject_len(&rt->inject), "num_blocking_threads", threads,
                                   "num_idle_blocking_threads", idle, "blocking_queue_depth", queued, "io_registered",
                                   (unsigned long long)rt->driver.slab->registered, "stand_in_polls",
                                   stand_in_polls(rt), "workers", workers)
                   : NULL;
}

static PyObject *core_metrics(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_visit visit;
    if (!fr_visit_core((CoreObject *)self, &visit)) {
        return NULL;
    }
    PyObject *metrics = build_metrics(visit.rt);
    fr_visit_end(&visit);
    return metrics;
}

/* ---- dump ---- */

struct dump {
    struct fr_module *mod;
    PyObject *visit;
    bool failed;
};

static void dump_one(struct fr_task *task, void *arg)
{
    struct dump *dump = arg;
    if (dump->failed) {
        return;
    }
    PyObject *description = fr_task_describe(dump->mod, task);
    /* Its frames may be read only while nobody runs it [T1]. */
    bool locked = !fr_task_is_call(task) && fr_state_try_lock_idle(&task->state);
    PyObject *coro = locked && task->kind == FR_TASK_CORO ? task->coro : Py_None;
    PyObject *done = description ? PyObject_CallFunctionObjArgs(dump->visit, description, coro, NULL) : NULL;
    dump->failed = !done;
    Py_XDECREF(done);
    Py_XDECREF(description);
    if (locked && fr_state_end_poll(&task->state)) {
        fr_schedule(task->rt, task);
    }
}

static PyObject *core_dump(PyObject *self, PyObject *visitor)
{
    struct fr_visit visit;
    if (!fr_visit_core((CoreObject *)self, &visit)) {
        return NULL;
    }
    struct dump dump = {.mod = ((CoreObject *)self)->mod, .visit = visitor};
    fr_owned_each(visit.rt, dump_one, &dump);
    fr_visit_end(&visit);
    return dump.failed ? NULL : Py_NewRef(Py_None);
}

/* ---- signals and clock ---- */

/* The caller's own descriptor: it may write to it after the runtime is gone, and closes it. */
static PyObject *core_signal_fd(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_visit visit;
    if (!fr_visit_core((CoreObject *)self, &visit)) {
        return NULL;
    }
    struct fr_runtime *rt = visit.rt;
    int fd = -1, err = 0;
    fr_mutex_lock(&rt->blockers_lock);
    if (rt->signal_pipe[0] < 0) {
        err = pipe2(rt->signal_pipe, O_CLOEXEC | O_NONBLOCK) ? errno : 0;
        if (!err && rt->current_thread) {
            err = -fr_driver_add_interrupt(&rt->driver, rt->signal_pipe[0]);
        }
    }
    if (!err && (fd = fcntl(rt->signal_pipe[1], F_DUPFD_CLOEXEC, 0)) < 0) {
        err = errno;
    }
    if (!err) {
        rt->signal_thread = pthread_self();
        atomic_store_explicit(&rt->has_signal_pipe, true, memory_order_release); /* pairs with on_signal_thread() */
    }
    fr_mutex_unlock(&rt->blockers_lock);
    fr_visit_end(&visit);
    errno = err;
    return err ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyObject *core_now(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_visit visit;
    if (!fr_visit_core((CoreObject *)self, &visit)) {
        return NULL;
    }
    uint64_t now = fr_now_ns(visit.rt);
    fr_visit_end(&visit);
    return PyLong_FromUnsignedLongLong(now);
}

/* Pausing is for one thread only: with several, "now" would differ from one to the other. */
static bool visit_clock(PyObject *self, const char *what, struct fr_visit *visit)
{
    if (!fr_visit_core((CoreObject *)self, visit)) {
        return false;
    }
    if (!visit->rt->current_thread) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s() works on a current-thread runtime only: "
                     "Builder.new_current_thread().start_paused(True)",
                     what);
        fr_visit_end(visit);
        return false;
    }
    return true;
}

static PyObject *core_pause(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_visit visit;
    if (!visit_clock(self, "pause", &visit)) {
        return NULL;
    }
    bool already = atomic_load(&visit.rt->paused);
    if (!already) {
        /* On a tick of the wheel: what is a whole number of milliseconds away then fires exactly there. */
        atomic_store(&visit.rt->paused_now, fr_timers_tick_after(&visit.rt->driver.timers, fr_now_ns(visit.rt)));
        atomic_store(&visit.rt->paused, true);
        atomic_store(&visit.rt->driver.frozen, true);
    }
    fr_visit_end(&visit);
    if (already) {
        PyErr_SetString(PyExc_RuntimeError, "the clock is paused already");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *core_resume(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_visit visit;
    if (!visit_clock(self, "resume", &visit)) {
        return NULL;
    }
    bool paused = atomic_load(&visit.rt->paused);
    if (paused) {
        atomic_store(&visit.rt->clock_offset, (int64_t)(atomic_load(&visit.rt->paused_now) - fr_clock_ns()));
        atomic_store(&visit.rt->paused, false);
        atomic_store(&visit.rt->driver.frozen, false);
        fr_driver_kick(&visit.rt->driver); /* a sleeper has left the timers out of account */
    }
    fr_visit_end(&visit);
    if (!paused) {
        PyErr_SetString(PyExc_RuntimeError, "the clock is not paused");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *core_advance(PyObject *self, PyObject *value)
{
    struct fr_visit visit;
    double seconds;
    if (fr_parse_seconds(value, "seconds", &seconds) || !visit_clock(self, "advance", &visit)) {
        return NULL;
    }
    bool paused = atomic_load(&visit.rt->paused);
    if (paused) {
        uint64_t delay = fr_delay_ns(seconds); /* rounded as a sleep's is, so that advance(s) fires sleep(s) */
        uint64_t now = atomic_load(&visit.rt->paused_now);
        while (!atomic_compare_exchange_weak(&visit.rt->paused_now, &now, fr_deadline_after(now, delay))) {
        }
        fr_driver_fire_timers(&visit.rt->driver, fr_now_ns(visit.rt));
        fr_driver_kick(&visit.rt->driver);
    }
    fr_visit_end(&visit);
    if (!paused) {
        PyErr_SetString(PyExc_RuntimeError, "advance() needs a paused clock: call pause() first");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *core_is_paused(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_runtime *rt = atomic_load(&((CoreObject *)self)->rt);
    return PyBool_FromLong(rt && atomic_load(&rt->paused));
}

static PyObject *core_on_worker(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(fr_thread.task && fr_thread.task->rt->core == self);
}

/* Whether tasks spawned here stay on this very thread. */
static PyObject *core_is_local(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_visit visit;
    if (!atomic_load(&((CoreObject *)self)->rt) || !fr_visit_core((CoreObject *)self, &visit)) {
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    bool local = visit.rt->pinned && fr_core_may_run_here(visit.rt);
    fr_visit_end(&visit);
    return PyBool_FromLong(local);
}

static PyObject *core_get_workers(PyObject *self, void *Py_UNUSED(closure))
{
    struct fr_runtime *rt = atomic_load(&((CoreObject *)self)->rt);
    return PyLong_FromUnsignedLong(rt ? rt->nworkers : 0);
}

static PyObject *core_get_current_thread(PyObject *self, void *Py_UNUSED(closure))
{
    struct fr_runtime *rt = atomic_load(&((CoreObject *)self)->rt);
    return PyBool_FromLong(rt && rt->current_thread);
}

#define FASTCALL(f) (PyCFunction)(void (*)(void))(f)

static PyMethodDef core_methods[] = {
    {"block_on", FASTCALL(core_block_on), METH_FASTCALL, "block_on($self, coro, /, *args)\n--\n\n"},
    {"interrupt", core_interrupt, METH_NOARGS, "interrupt($self)\n--\n\n"},
    {"spawn", FASTCALL(core_spawn), METH_FASTCALL | METH_KEYWORDS,
     "spawn($self, coro, /, *args, name=None, context=None)\n--\n\n"},
    {"spawn_cleanup", core_spawn_cleanup, METH_O, "spawn_cleanup($self, coro, /)\n--\n\n"},
    {"spawn_blocking", FASTCALL(core_spawn_blocking), METH_FASTCALL | METH_KEYWORDS,
     "spawn_blocking($self, fn, /, *args, **kwargs)\n--\n\n"},
    {"enter", core_enter, METH_NOARGS, "enter($self)\n--\n\n"},
    {"leave", core_leave, METH_O, "leave($self, previous, /)\n--\n\n"},
    {"shutdown", core_shutdown, METH_O, "shutdown($self, timeout, /)\n--\n\n"},
    {"shutdown_background", core_shutdown_background, METH_NOARGS, "shutdown_background($self)\n--\n\n"},
    {"is_shut_down", core_is_shut_down, METH_NOARGS, "is_shut_down($self)\n--\n\n"},
    {"threads_left", core_threads_left, METH_NOARGS, "threads_left($self)\n--\n\n"},
    {"metrics", core_metrics, METH_NOARGS, "metrics($self)\n--\n\n"},
    {"dump", core_dump, METH_O, "dump($self, visit, /)\n--\n\n"},
    {"signal_fd", core_signal_fd, METH_NOARGS, "signal_fd($self)\n--\n\n"},
    {"now", core_now, METH_NOARGS, "now($self)\n--\n\n"},
    {"pause", core_pause, METH_NOARGS, "pause($self)\n--\n\n"},
    {"resume", core_resume, METH_NOARGS, "resume($self)\n--\n\n"},
    {"advance", core_advance, METH_O, "advance($self, seconds, /)\n--\n\n"},
    {"is_paused", core_is_paused, METH_NOARGS, "is_paused($self)\n--\n\n"},
    {"on_worker", core_on_worker, METH_NOARGS, "on_worker($self)\n--\n\n"},
    {"is_local", core_is_local, METH_NOARGS, "is_local($self)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef core_getset[] = {
    {"worker_threads", core_get_workers, NULL, NULL, NULL},
    {"is_current_thread", core_get_current_thread, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot core_slots[] = {
    {Py_tp_doc, "One runtime: workers, driver, blocking pool. freerun.Runtime is its public face."},
    {Py_tp_new, core_new},
    {Py_tp_init, core_init},
    {Py_tp_finalize, core_finalize},
    {Py_tp_dealloc, core_dealloc},
    {Py_tp_traverse, core_traverse},
    {Py_tp_methods, core_methods},
    {Py_tp_getset, core_getset},
    {0, NULL},
};

static PyType_Spec core_spec = {
    .name = "freerun._core._native.Core",
    .basicsize = sizeof(CoreObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = core_slots,
};

/* ---- module functions ---- */

static CoreObject *current_core(PyObject *module)
{
    CoreObject *core = fr_thread.core;
    return core && core->mod == PyModule_GetState(module) ? core : NULL;
}

PyObject *fr_core_current(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    CoreObject *core = current_core(module);
    if (!core) {
        PyErr_SetString(PyExc_RuntimeError, FR_NO_RUNTIME);
        return NULL;
    }
    return Py_NewRef((PyObject *)core);
}

PyObject *fr_core_try_current(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return new_or_none(current_core(module));
}

/* Other threads may have held any of the process-wide locks; the child starts anew and leaks what it cannot trust. */
PyObject *fr_core_after_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    atomic_fetch_add(&fr_fork_generation, 1);
    free_lock = (struct fr_mutex)FR_MUTEX_INIT;
    free_runtimes = NULL;
    fr_claims_after_fork();
    fr_signals_after_fork();
    fr_isolated_after_fork();
    fr_threads_after_fork_in_child();
    fr_sites_after_fork(PyModule_GetState(module));
    if (fr_thread.worker && !fr_thread.task) { /* a fork inside a task lets that task go on to its end */
        fr_thread.worker = NULL;
    }
    Py_RETURN_NONE;
}

PyObject *fr_core_io_uring_errno(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    struct fr_poller poller;
    int err = fr_poller_init(&poller, FR_POLLER_IO_URING);
    if (!err) {
        fr_poller_destroy(&poller);
    }
    return PyLong_FromLong(-err);
}

int fr_core_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->core_type, &core_spec, "Core");
}
