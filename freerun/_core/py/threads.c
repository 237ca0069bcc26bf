/* threads: native threads with a Python thread state of their own, counted and joined.
 *
 * They take signals as threads of `threading` do: what a call in them starts as a child inherits the mask, and a child
 * that blocks SIGTERM cannot be ended. The kernel prefers the main thread for what is sent to the process; a signal that
 * lands here all the same sets CPython's flag and writes block_on's pipe, and this thread's system call is repeated. Who
 * waits on the main thread without that pipe looks by itself, see fr_leaf_wait_event().
 *
 * The thread state is made on the thread itself; the thread holds the Core until its very end.
 *
 * Nobody forks while one is being made: on free-threaded CPython 3.13 that stops the world, and the child would inherit
 * a lock that nobody gives back. os.register_at_fork() calls the functions below, see freerun/runtime/atexit.py.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>

#include "rt/clock.h"
#include "rt/futex.h"
#include "runtime.h"

struct fr_native {
    struct fr_native *next;
    struct fr_runtime *rt;
    PyInterpreterState *interp;
    PyObject *core; /* strong */
    fr_thread_main main;
    void *arg;
    const char *kind;
    uint32_t index;
    pthread_t thread;
    bool ended; /* under threads_lock */
};

static struct fr_mutex start_lock = FR_MUTEX_INIT; /* held across a fork(); protects what makes `starting` grow */
static _Atomic uint32_t starting;                  /* futex: threads that have no thread state yet */

/* Attached. A fork may take its time. */
static void start_begin(void)
{
    if (!fr_mutex_trylock(&start_lock)) {
        PyThreadState *state = PyEval_SaveThread();
        fr_mutex_lock(&start_lock);
        PyEval_RestoreThread(state); /* who forks waits for the lock, or for the world to stop: it does not need us */
    }
    atomic_fetch_add_explicit(&starting, 1, memory_order_relaxed); /* ordered by the lock */
    fr_mutex_unlock(&start_lock);
}

static void start_end(void)
{
    /* release: pairs with fr_threads_before_fork() */
    if (atomic_fetch_sub_explicit(&starting, 1, memory_order_release) == 1) {
        fr_futex_wake(&starting, INT_MAX);
    }
}

PyObject *fr_threads_before_fork(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyThreadState *state = PyEval_SaveThread();
    fr_mutex_lock(&start_lock);
    uint32_t left;
    /* acquire: pairs with start_end() */
    while ((left = atomic_load_explicit(&starting, memory_order_acquire))) {
        fr_futex_wait(&starting, left, -1);
    }
    PyEval_RestoreThread(state);
    Py_RETURN_NONE;
}

PyObject *fr_threads_after_fork_in_parent(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    fr_mutex_unlock(&start_lock);
    Py_RETURN_NONE;
}

void fr_threads_after_fork_in_child(void)
{
    start_lock = (struct fr_mutex)FR_MUTEX_INIT;
}

static void name_thread(struct fr_runtime *rt, const char *kind, uint32_t index)
{
    if (!rt->hooks.thread_name) {
        return;
    }
    PyObject *name = PyObject_CallFunction(rt->hooks.thread_name, "sI", kind, index);
    const char *text = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    if (text) {
        char first[16]; /* the kernel's limit */
        snprintf(first, sizeof first, "%s", text);
        pthread_setname_np(pthread_self(), first);
    } else if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(rt->hooks.thread_name);
    }
    Py_XDECREF(name);
}

void fr_threads_discount(struct fr_runtime *rt)
{
    /* release: pairs with fr_threads_wait(); `rt` itself is never freed [R1] */
    atomic_fetch_sub_explicit(&rt->threads, 1, memory_order_release);
    fr_futex_wake(&rt->threads, INT_MAX);
}

static void mark_ended(struct fr_native *native)
{
    struct fr_runtime *rt = native->rt;
    fr_mutex_lock(&rt->threads_lock);
    native->ended = true; /* from here on a reaper may free `native` */
    fr_mutex_unlock(&rt->threads_lock);
    fr_threads_discount(rt);
}

/* Nobody would do this thread's work: out of memory, wait for memory. */
static PyThreadState *new_state(PyInterpreterState *interp)
{
    PyThreadState *state;
    while (!(state = PyThreadState_New(interp))) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return state;
}

static void *native_main(void *arg)
{
    struct fr_native *native = arg;
    PyThreadState *state = new_state(native->interp);
    start_end();
    PyEval_RestoreThread(state);
    name_thread(native->rt, native->kind, native->index);
    native->main(native->rt, native->arg);
    Py_CLEAR(native->core);
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
    mark_ended(native);
    return NULL;
}

static int create(struct fr_native *native, size_t stack_size)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    if (stack_size) {
        pthread_attr_setstacksize(&attr, stack_size);
    }
    int err = pthread_create(&native->thread, &attr, native_main, native);
    pthread_attr_destroy(&attr);
    return -err;
}

int fr_thread_spawn(struct fr_runtime *rt, const char *kind, uint32_t index, fr_thread_main main, void *arg)
{
    struct fr_native *native = malloc(sizeof *native);
    if (!native) {
        return -ENOMEM;
    }
    *native = (struct fr_native){.rt = rt,
                                 .interp = rt->interp,
                                 .core = Py_NewRef(rt->core),
                                 .main = main,
                                 .arg = arg,
                                 .kind = kind,
                                 .index = index};
    fr_threads_reap(rt);
    start_begin();
    atomic_fetch_add_explicit(&rt->threads, 1, memory_order_relaxed); /* before the thread exists */
    fr_mutex_lock(&rt->threads_lock);
    int err = create(native, rt->stack_size);
    if (!err) {
        native->next = rt->natives;
        rt->natives = native;
    }
    fr_mutex_unlock(&rt->threads_lock);
    if (err) {
        start_end();
        atomic_fetch_sub_explicit(&rt->threads, 1, memory_order_relaxed); /* it never existed */
        Py_DECREF(native->core);
        free(native);
    }
    return err;
}

static struct fr_native *take_ended(struct fr_runtime *rt)
{
    struct fr_native *ended = NULL;
    fr_mutex_lock(&rt->threads_lock);
    for (struct fr_native **at = &rt->natives; *at;) {
        struct fr_native *native = *at;
        if (native->ended) {
            *at = native->next;
            native->next = ended;
            ended = native;
        } else {
            at = &native->next;
        }
    }
    fr_mutex_unlock(&rt->threads_lock);
    return ended;
}

void fr_threads_reap(struct fr_runtime *rt)
{
    struct fr_native *ended = take_ended(rt);
    while (ended) {
        struct fr_native *native = ended;
        ended = native->next;
        pthread_join(native->thread, NULL); /* it is past its last Python call: a few instructions at most */
        free(native);
    }
}

bool fr_threads_wait(struct fr_runtime *rt, uint64_t deadline_ns)
{
    PyThreadState *state = PyEval_SaveThread();
    uint32_t left;
    /* acquire: pairs with mark_ended() */
    while ((left = atomic_load_explicit(&rt->threads, memory_order_acquire))) {
        uint64_t now = fr_clock_ns();
        if (now >= deadline_ns) {
            break;
        }
        fr_futex_wait(&rt->threads, left, (int64_t)(deadline_ns - now));
    }
    PyEval_RestoreThread(state);
    fr_threads_reap(rt);
    return left == 0;
}

void fr_threads_abandon(struct fr_runtime *rt)
{
    fr_threads_reap(rt);
    fr_mutex_lock(&rt->threads_lock);
    struct fr_native *left = rt->natives;
    rt->natives = NULL;
    for (struct fr_native *native = left; native; native = native->next) {
        pthread_detach(native->thread);
    }
    fr_mutex_unlock(&rt->threads_lock); /* their few bytes go when the process does */
}
