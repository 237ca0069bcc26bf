/* task: spawning, stepping and finishing; see task.h for who may do what. */
#include "task.h"

#include <errno.h>
#include <stdlib.h>

#include "branch.h"
#include "futurelock.h"
#include "join_set.h"
#include "leaf.h"
#include "runtime.h"
#include "scope.h"

_Thread_local struct fr_thread fr_thread __attribute__((tls_model("initial-exec")));

/* ---- memory ---- */

static struct fr_task *task_alloc(void)
{
    struct fr_worker *worker = fr_thread.worker;
    if (worker && worker->free_tasks) {
        struct fr_task *task = worker->free_tasks;
        worker->free_tasks = task->next;
        fr_prefetch(worker->free_tasks, sizeof(struct fr_task)); /* of many the next is in no cache */
        worker->free_task_room.count--;
        return task;
    }
    if (worker) {
        fr_worker_missed(worker, &worker->free_task_room);
    }
    return malloc(sizeof(struct fr_task));
}

void fr_task_free(struct fr_task *task)
{
    if (__builtin_expect(task->kind >= FR_TASK_BRANCH, 0)) {
        (task->kind == FR_TASK_BRANCH ? fr_branch_free : fr_strand_free)(task);
        return;
    }
    struct fr_worker *worker = fr_thread.worker;
    if (worker && worker->free_task_room.count < worker->free_task_room.most) {
        task->next = worker->free_tasks;
        worker->free_tasks = task;
        worker->free_task_room.count++;
        return;
    }
    free(task);
}

/* Ids are handed to workers in blocks: one shared counter would be a contended line. */
static uint64_t next_id(struct fr_runtime *rt)
{
    enum { BLOCK = 1024 };
    struct fr_worker *worker = fr_own_worker(rt);
    if (!worker) {
        return atomic_fetch_add_explicit(&rt->next_id, 1, memory_order_relaxed); /* unique is all it must be */
    }
    if (worker->next_id == worker->last_id) {
        /* relaxed: unique is all it must be */
        worker->next_id = atomic_fetch_add_explicit(&rt->next_id, BLOCK, memory_order_relaxed);
        worker->last_id = worker->next_id + BLOCK;
    }
    return worker->next_id++;
}

/* ---- waking and aborting ---- */

/* A branch is queued where it belongs, and whatever is around it is woken. The task around all, if it is to be woken too. */
static struct fr_task *wake_lines(struct fr_task *task)
{
    while (task && __builtin_expect(task->kind >= FR_TASK_BRANCH, 0)) {
        if (!fr_state_wake(&task->state)) {
            return NULL;
        }
        if (task->kind == FR_TASK_STRAND) {
            fr_strand_woken(task);
            return NULL;
        }
        task = fr_branch_woken(task);
    }
    return task;
}

/* It was idle, and has been woken: RUNNING is this thread's, with a reference, and goes with it into the queue [S1]. */
static void schedule_woken(struct fr_runtime *rt, struct fr_task *task)
{
    task->spare = true;
    fr_task_set_queued(task);
    fr_schedule(rt, task);
}

void fr_task_wake(struct fr_task *task)
{
    struct fr_runtime *rt = task->rt;
    bool foreign = fr_foreign_begin(rt);
    task = wake_lines(task);
    if (task && fr_state_wake_task(&task->state)) {
        schedule_woken(rt, task);
    }
    fr_foreign_end(rt, foreign);
}

void fr_task_wake_unref(struct fr_task *task)
{
    /* A branch needs the reference until it is queued: who throws it out does not wait for that. */
    if (__builtin_expect(task->kind >= FR_TASK_BRANCH, 0)) {
        fr_task_wake(task);
        fr_task_unref(task);
        return;
    }
    struct fr_runtime *rt = task->rt;
    bool last;
    bool foreign = fr_foreign_begin(rt);
    if (fr_state_wake_unref(&task->state, &last)) {
        schedule_woken(rt, task);
    } else if (last) {
        fr_task_free(task);
    }
    fr_foreign_end(rt, foreign);
}

bool fr_task_abort(struct fr_task *task)
{
    struct fr_runtime *rt = task->rt;
    bool first;
    bool foreign = fr_foreign_begin(rt);
    if (fr_state_abort(&task->state, &first)) { /* no blocking call: none is ever idle */
        schedule_woken(rt, task);
    }
    fr_foreign_end(rt, foreign);
    return first;
}

/* ---- spawning ---- */

static const char *spawn_needs = "must be a coroutine, another awaitable or an async function";

bool fr_is_coroutine(PyObject *what)
{
    if (PyCoro_CheckExact(what)) {
        return true;
    }
    if (PyGen_CheckExact(what)) { /* @types.coroutine */
        PyCodeObject *code = PyGen_GetCode((PyGenObject *)what);
        bool iterable = (code->co_flags & CO_ITERABLE_COROUTINE) != 0;
        Py_DECREF(code);
        return iterable;
    }
    PyAsyncMethods *methods = Py_TYPE(what)->tp_as_async; /* Cython's coroutines */
    return methods && methods->am_send && methods->am_await && PyObject_HasAttrString(what, "throw") &&
           PyObject_HasAttrString(what, "close");
}

bool fr_is_awaitable(PyObject *what)
{
    PyAsyncMethods *methods = Py_TYPE(what)->tp_as_async;
    return methods && methods->am_await;
}

static int refuse(PyObject *what, const char *why, const char *argument)
{
    PyErr_Format(PyExc_TypeError, "argument '%s' %s, not %.200s%s", argument, spawn_needs, Py_TYPE(what)->tp_name, why);
    return -1;
}

/* The kind of task `what` makes, or -1 with an exception. */
static int classify(PyObject *what, Py_ssize_t nargs, const char *argument)
{
    if (fr_is_coroutine(what) || fr_is_awaitable(what)) {
        if (nargs) {
            PyErr_SetString(PyExc_TypeError, "argument 'args' goes with an async function; a coroutine object has its "
                                             "arguments already");
            return -1;
        }
        return fr_is_coroutine(what) ? FR_TASK_CORO : FR_TASK_AWAITABLE;
    }
    if (PyAsyncGen_CheckExact(what)) {
        return refuse(what, "; iterate it with 'async for' inside an async function", argument);
    }
    if (PyFunction_Check(what)) {
        int flags = ((PyCodeObject *)PyFunction_GET_CODE(what))->co_flags;
        if (flags & CO_ASYNC_GENERATOR) {
            return refuse(what, " (an async generator function); iterate it inside an async function", argument);
        }
        return FR_TASK_FUNCTION;
    }
    if (PyCallable_Check(what)) {
        return FR_TASK_FUNCTION;
    }
    return refuse(what, "", argument);
}

/* Whether what calling `function` gave can be awaited. Steals it if not. */
static bool check_called(PyObject *function, PyObject *coro, const char *argument)
{
    if (!coro || PyCoro_CheckExact(coro) || fr_is_coroutine(coro) || fr_is_awaitable(coro)) {
        return coro != NULL;
    }
    PyErr_Format(PyExc_TypeError,
                 "argument '%s' %s, but calling %R returned %.200s; use spawn_blocking() for ordinary functions",
                 argument, spawn_needs, function, Py_TYPE(coro)->tp_name);
    Py_DECREF(coro);
    return false;
}

PyObject *fr_awaitable(PyObject *what, PyObject *const *args, Py_ssize_t nargs, const char *argument)
{
    if (nargs == 0 && (PyCoro_CheckExact(what) || fr_is_awaitable(what))) {
        return Py_NewRef(what);
    }
    int kind = classify(what, nargs, argument);
    if (kind != FR_TASK_FUNCTION) {
        return kind < 0 ? NULL : Py_NewRef(what);
    }
    PyObject *coro = PyObject_Vectorcall(what, args, (size_t)nargs, NULL);
    return check_called(what, coro, argument) ? coro : NULL;
}

PyObject *fr_await_iterator(PyObject *awaitable)
{
    PyObject *iterator = Py_TYPE(awaitable)->tp_as_async->am_await(awaitable);
    if (iterator && !PyIter_Check(iterator)) {
        PyErr_Format(PyExc_TypeError, "__await__() of %.200s returned %.200s, which is no iterator",
                     Py_TYPE(awaitable)->tp_name, Py_TYPE(iterator)->tp_name);
        Py_CLEAR(iterator);
    }
    return iterator;
}

static PyObject *pack(PyObject *const *args, Py_ssize_t n)
{
    PyObject *tuple = n ? PyTuple_New(n) : NULL;
    for (Py_ssize_t i = 0; tuple && i < n; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    }
    return tuple;
}

/* Few arguments are kept one by one, others in a tuple. False with an exception. */
static bool keep_args(struct fr_task *task, PyObject *const *args, Py_ssize_t n)
{
    if (n > FR_FEW_ARGS) {
        task->args = pack(args, n);
        return task->args != NULL;
    }
    task->few = (uint8_t)n;
    task->args = n ? Py_NewRef(args[0]) : NULL;
    for (Py_ssize_t i = 1; i < n; i++) {
        task->more[i - 1] = Py_NewRef(args[i]);
    }
    return true;
}

static void drop_args(struct fr_task *task)
{
    while (task->few > 1) {
        Py_DECREF(task->more[--task->few - 1]);
    }
    task->few = 0;
    Py_CLEAR(task->args);
}

static PyObject *call_with_args(struct fr_task *task)
{
    if (task->args && !task->few) {
        return PyObject_CallObject(task->coro, task->args);
    }
    PyObject *vector[1 + FR_FEW_ARGS] = {NULL, task->args};
    for (int i = 1; i < task->few; i++) {
        vector[1 + i] = task->more[i - 1];
    }
    return PyObject_Vectorcall(task->coro, vector + 1, task->few | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

/* PyMapping_Size(), which looks for a length that every context has. */
static bool is_empty(PyObject *context)
{
    return PyContext_Type.tp_as_mapping->mp_length(context) == 0;
}

/* A copy of the caller's context, or none if no context variable is set there [T4]. False with an exception. */
static bool inherit_context(struct fr_task *task)
{
    PyObject *current = PyThreadState_GetUnchecked()->context;
    if (!current || is_empty(current)) { /* a copy would be dropped again */
        task->context = NULL;
        return true;
    }
    task->context = PyContext_CopyCurrent();
    return task->context != NULL;
}

static void discard(struct fr_task *task);

/* A task with references for the owned list and one handle, and, if it is to be polled, RUNNING and a reference for its first
 * poll; not published. NULL with an exception. */
static struct fr_task *task_new(struct fr_runtime *rt, enum fr_task_kind kind, PyObject *what, PyObject *name)
{
    struct fr_task *task = task_alloc();
    if (!task) {
        PyErr_NoMemory();
        return NULL;
    }
    bool polled = kind != FR_TASK_BLOCKING;
    fr_state_init(&task->state, 2 + polled, (polled ? FR_RUNNING : FR_NOTIFIED) | FR_JOIN_INTEREST);
    atomic_init(&task->queued, polled);
    task->spare = polled;
    task->rt = rt;
    task->coro = Py_NewRef(what);
    task->args = task->result = NULL;
    task->name = Py_XNewRef(name);
    task->site = fr_site_here(rt->mod);
    task->id = next_id(rt);
    task->generation = (uint16_t)atomic_load_explicit(&rt->generation, memory_order_relaxed); /* it lives */
    task->lock = (struct fr_mutex)FR_MUTEX_INIT;
    task->share = 0;
    task->kind = kind;
    task->outcome = FR_OUT_PENDING;
    task->duty = FR_DUTY_NONE;
    task->started = task->claimed = task->yielded = task->shielded = task->quiet = false;
    task->gathers = 0;
    task->in_given = false;
    task->few = 0;
    task->joiners = NULL;
    task->member = NULL;
    task->owed = NULL;
    task->scopes = task->floor = NULL;
    task->leaf = NULL;
    atomic_init(&task->unseen, 0);
    fr_list_node_init(&task->owned);
    if (!inherit_context(task)) {
        discard(task);
        return NULL;
    }
    return task;
}

static void drop_inputs(struct fr_task *task)
{
    if (task->claimed) {
        task->claimed = false;
        fr_unclaim(task->coro);
    }
    if (task->scopes) {
        struct fr_line own = {.scopes = task->scopes};
        task->scopes = NULL;
        fr_scopes_drop(&own);
    }
    Py_CLEAR(task->coro);
    drop_args(task);
    Py_CLEAR(task->result); /* keyword arguments, if any */
    Py_CLEAR(task->context);
}

/* A task that was never published: nobody else knows it. */
static void discard(struct fr_task *task)
{
    if (task->member) {
        fr_member_withdraw(task->member);
    }
    drop_inputs(task);
    Py_CLEAR(task->name);
    fr_task_free(task);
}

/* A coroutine that has swallowed its close is never freed: Python would close it once more then, on whatever thread,
 * outside of its task, where each await fails at once; and a loop around an await that swallows everything would go on for
 * ever. */
static void keep_if_suspended(PyObject *coro)
{
    PyObject *suspended = PyObject_GetAttrString(coro, "cr_suspended");
    if (suspended == Py_True) {
        Py_INCREF(coro);
    }
    Py_XDECREF(suspended);
    PyErr_Clear(); /* it is no coroutine */
}

void fr_close_quietly(struct fr_module *mod, PyObject *coro)
{
    PyObject *error = PyErr_GetRaisedException();
    bool closes = PyObject_HasAttr(coro, mod->str_close); /* a plain iterator has nothing to close */
    PyObject *done = closes ? PyObject_CallMethodNoArgs(coro, mod->str_close) : Py_NewRef(Py_None);
    if (done) {
        Py_DECREF(done);
    } else {
        PyErr_WriteUnraisable(coro);
        keep_if_suspended(coro);
    }
    PyErr_SetRaisedException(error);
}

void fr_task_refused(struct fr_module *mod, PyObject *what)
{
    if (!PyErr_ExceptionMatches(mod->exc_shutdown) || !fr_is_coroutine(what)) {
        return;
    }
    PyObject *error = PyErr_GetRaisedException();
    if (fr_claim(what) == 0) {
        fr_close_quietly(mod, what);
        fr_unclaim(what);
    } else {
        PyErr_Clear(); /* another task runs it */
    }
    PyErr_SetRaisedException(error);
}

static PyObject *handle_new(struct fr_module *mod, struct fr_task *task);

/* Puts the task among its runtime's. A new handle, or NULL with RuntimeShutdown; the task is gone then. */
static PyObject *publish(struct fr_runtime *rt, struct fr_task *task, bool cleanup)
{
    if (fr_thread.task) {
        fr_task_root(fr_thread.task)->gathers = 0;
    }
    PyObject *handle = handle_new(rt->mod, task);
    if (!handle) {
        discard(task);
        return NULL;
    }
    bool in = !task->member || fr_member_enter(task->member, task, handle);
    if (in && !fr_owned_add(rt, task, cleanup)) {
        PyErr_SetString(rt->mod->exc_shutdown, "the runtime is shutting down and takes no new tasks");
        in = false;
    }
    if (!in) {
        if (task->kind == FR_TASK_CORO) {
            fr_close_quietly(rt->mod, task->coro);
        }
        /* The handle must not see a half-made task: complete it as cancelled, which nobody will read. */
        drop_inputs(task);
        task->outcome = FR_OUT_CANCELLED;
        fr_task_take(task);
        fr_state_complete_spare(&task->state, fr_task_take_spare(task), 0);
        if (task->member) {
            fr_member_withdraw(task->member);
        }
        fr_task_unref(task);
        Py_CLEAR(handle);
    }
    return handle;
}

/* task_new(), with the place it will have; that is withdrawn on failure. */
static struct fr_task *member_new(struct fr_runtime *rt, int kind, PyObject *what, PyObject *name,
                                  struct fr_member *member)
{
    struct fr_task *task = kind < 0 ? NULL : task_new(rt, kind, what, name);
    if (task) {
        task->member = member;
    } else if (member) {
        fr_member_withdraw(member);
    }
    return task;
}

static PyObject *spawn(struct fr_runtime *rt, PyObject *what, PyObject *const *args, Py_ssize_t nargs,
                       struct fr_spawn_as as, bool cleanup, struct fr_member *member)
{
    int kind = classify(what, nargs, "coro");
    struct fr_task *task = member_new(rt, kind, what, as.name, member);
    if (!task) {
        return NULL;
    }
    if (__builtin_expect(as.context != NULL, 0)) {
        Py_XSETREF(task->context, Py_NewRef(as.context));
        task->in_given = true;
    }
    if (!keep_args(task, args, nargs)) {
        discard(task);
        return NULL;
    }
    if (kind == FR_TASK_CORO && fr_claim(what)) {
        discard(task);
        return NULL;
    }
    task->claimed = kind == FR_TASK_CORO;
    uint64_t id = task->id;
    PyObject *handle = publish(rt, task, cleanup);
    if (handle) {
        fr_schedule(rt, task);
    }
    if (handle && rt->hooks.task_spawn) {
        PyObject *number = PyLong_FromUnsignedLongLong(id);
        fr_call_hook(rt, rt->hooks.task_spawn, number);
        Py_XDECREF(number);
    }
    return handle;
}

PyObject *fr_task_spawn(struct fr_runtime *rt, PyObject *what, PyObject *const *args, Py_ssize_t nargs,
                        struct fr_spawn_as as, bool cleanup)
{
    return spawn(rt, what, args, nargs, as, cleanup, NULL);
}

PyObject *fr_task_spawn_member(struct fr_runtime *rt, PyObject *what, PyObject *const *args, Py_ssize_t nargs,
                               struct fr_spawn_as as, struct fr_member *member)
{
    return spawn(rt, what, args, nargs, as, false, member);
}

static PyObject *pack_keywords(PyObject *const *values, PyObject *kwnames)
{
    PyObject *dict = PyDict_New();
    for (Py_ssize_t i = 0; dict && i < PyTuple_GET_SIZE(kwnames); i++) {
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(kwnames, i), values[i])) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

/* FR_TASK_BLOCKING, or -1 with TypeError. */
static int classify_blocking(PyObject *fn)
{
    if (!PyCallable_Check(fn)) {
        PyErr_Format(PyExc_TypeError, "argument 'fn' must be callable, not %.200s", Py_TYPE(fn)->tp_name);
        return -1;
    }
    if (fr_is_coroutine(fn) ||
        (PyFunction_Check(fn) && ((PyCodeObject *)PyFunction_GET_CODE(fn))->co_flags & CO_COROUTINE)) {
        PyErr_SetString(PyExc_TypeError, "argument 'fn' must be an ordinary function, not an async one; use spawn()");
        return -1;
    }
    return FR_TASK_BLOCKING;
}

/* `member`: its place in a set, or NULL. */
static PyObject *spawn_blocking(struct fr_runtime *rt, PyObject *fn, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames, enum fr_duty duty, struct fr_member *member)
{
    struct fr_task *task = member_new(rt, classify_blocking(fn), fn, NULL, member);
    if (!task) {
        return NULL;
    }
    if ((nargs && !(task->args = pack(args, nargs))) ||
        (kwnames && PyTuple_GET_SIZE(kwnames) && !(task->result = pack_keywords(args + nargs, kwnames)))) {
        discard(task);
        return NULL;
    }
    task->duty = (uint8_t)duty;
    PyObject *handle = publish(rt, task, duty != FR_DUTY_NONE);
    int err = handle ? fr_pool_submit(rt, task) : 0;
    if (err) {
        /* Not queued, so RUNNING is ours for the taking. */
        fr_state_start_poll(&task->state);
        if (member) {
            task->member = NULL;
            fr_member_withdraw(member);
        }
        fr_task_complete(task, FR_OUT_CANCELLED, NULL);
        Py_CLEAR(handle);
        if (err == -ESHUTDOWN) {
            PyErr_SetString(rt->mod->exc_shutdown, "the runtime is shutting down and takes no new work");
        } else {
            PyErr_Format(PyExc_RuntimeError, "cannot start a blocking thread: %s", strerror(-err));
        }
    }
    return handle;
}

PyObject *fr_task_spawn_blocking(struct fr_runtime *rt, PyObject *fn, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames, enum fr_duty duty)
{
    return spawn_blocking(rt, fn, args, nargs, kwnames, duty, NULL);
}

PyObject *fr_task_spawn_blocking_member(struct fr_runtime *rt, PyObject *fn, PyObject *const *args, Py_ssize_t nargs,
                                        PyObject *kwnames, struct fr_member *member)
{
    return spawn_blocking(rt, fn, args, nargs, kwnames, FR_DUTY_NONE, member);
}

PyObject *fr_task_spawn_file(struct fr_runtime *rt, PyObject *op, enum fr_duty duty)
{
    struct fr_task *task = task_new(rt, FR_TASK_FILE, op, NULL);
    if (!task) {
        return NULL;
    }
    task->duty = (uint8_t)duty;
    PyObject *handle = publish(rt, task, true);
    if (!handle) {
        return NULL;
    }
    /* RUNNING is ours, as it is in no queue: if a shutdown aborts it meanwhile, the end of this says so. */
    atomic_store_explicit(&task->queued, false, memory_order_relaxed); /* for descriptions */
    if (fr_file_submit(task)) {
        fr_task_complete(task, FR_OUT_CANCELLED, NULL);
        Py_SETREF(handle, Py_NewRef(Py_None));
    } else if (fr_state_end_poll_spare(&task->state, fr_task_take_spare(task))) {
        fr_schedule(rt, task);
    }
    return handle;
}

/* ---- finishing ---- */

static bool report_wanted(struct fr_task *task, uint64_t state)
{
    return task->outcome == FR_OUT_RAISED && !(state & FR_OBSERVED) && !task->quiet;
}

/* The policy of the task's runtime, or, if that is gone, a plain log. A new reference or NULL. */
static PyObject *unhandled_hook(struct fr_task *task)
{
    struct fr_runtime *rt = task->rt;
    PyObject *hook = NULL;
    bool foreign = fr_foreign_begin(rt);
    if ((uint16_t)atomic_load(&rt->generation) == task->generation) {
        hook = Py_XNewRef(rt->hooks.unhandled);
    }
    fr_foreign_end(rt, foreign);
    if (hook) {
        return hook;
    }
    PyObject *module = PyImport_ImportModule("freerun.runtime.unhandled");
    hook = module ? PyObject_GetAttrString(module, "log_unhandled") : NULL;
    Py_XDECREF(module);
    return hook;
}

void fr_report_unhandled(struct fr_module *mod, struct fr_task *task, PyObject *error)
{
    PyObject *raised = PyErr_GetRaisedException();
    if (Py_IsFinalizing()) { /* a handle that lived until the modules were taken apart: Python code will not do */
        PyErr_SetRaisedException(Py_NewRef(error));
        PyErr_WriteUnraisable(NULL);
        PyErr_SetRaisedException(raised);
        return;
    }
    PyObject *hook = unhandled_hook(task);
    PyObject *description = hook ? fr_task_describe(mod, task) : NULL;
    PyObject *done = description ? PyObject_CallFunctionObjArgs(hook, description, error, NULL) : NULL;
    if (!done) {
        PyErr_WriteUnraisable(hook);
    }
    Py_XDECREF(done);
    Py_XDECREF(description);
    Py_XDECREF(hook);
    PyErr_SetRaisedException(raised);
}

static void joiner_push_locked(struct fr_task *task, struct fr_node *node)
{
    if (task->joiners) {
        fr_list_node_init(node);
        fr_list_push_back(task->joiners, node); /* in front of the oldest: last in the ring */
    } else {
        fr_list_init(node);
        task->joiners = node;
    }
}

static void joiner_remove_locked(struct fr_task *task, struct fr_node *node)
{
    struct fr_node *next = node->next == node ? NULL : node->next;
    if (task->joiners == node) {
        task->joiners = next;
    }
    fr_list_remove(node);
}

/* [T3]. The name is taken out under the lock: a dump may be reading it (fr_task_describe()). */
static void drop_outputs(struct fr_task *task)
{
    if (task->name) { /* nobody else writes it */
        fr_mutex_lock(&task->lock);
        PyObject *name = task->name;
        task->name = NULL;
        fr_mutex_unlock(&task->lock);
        Py_DECREF(name);
    }
    Py_CLEAR(task->result);
}

static void wake_joiners(struct fr_task *task)
{
    enum { BATCH = 16 };
    int n;
    do {
        struct fr_task *batch[BATCH];
        n = 0;
        fr_mutex_lock(&task->lock);
        struct fr_node *node;
        while (n < BATCH && (node = task->joiners)) {
            joiner_remove_locked(task, node);
            struct fr_waiter *waiter = FR_CONTAINER_OF(node, struct fr_waiter, node);
            if (waiter->event) {
                fr_event_set(waiter->event); /* under the lock: see fr_task_unlink() */
            } else {
                batch[n++] = waiter->task;
            }
            /* release, and last: its owner may see this without the lock and free the waiter; see fr_task_unlink() */
            atomic_store_explicit(&waiter->linked, false, memory_order_release);
        }
        fr_mutex_unlock(&task->lock);
        for (int i = 0; i < n; i++) {
            fr_task_wake_unref(batch[i]);
        }
    } while (n == BATCH);
}

void fr_task_complete(struct fr_task *task, enum fr_outcome outcome, PyObject *result)
{
    struct fr_runtime *rt = task->rt;
    PyObject *on_terminate = rt->hooks.task_terminate;
    PyObject *id = on_terminate ? PyLong_FromUnsignedLongLong(task->id) : NULL;
    drop_inputs(task); /* before anybody can see the task as finished: its locals are gone by then */
    task->outcome = outcome;
    task->result = result;
    struct fr_member *member = task->member;
    if (member && outcome == FR_OUT_RAISED && fr_member_fail(member, result)) {
        fr_state_set_observed(&task->state); /* before anybody can drop the handle: it is the set's to report */
    }
    if (id) {
        fr_call_hook(rt, on_terminate, id);
        Py_DECREF(id);
    }
    fr_owned_remove(task);
    bool call = fr_task_is_call(task);
    if (call) {
        fr_pool_call_ends(task);
    }
    /* A member is in a list of those whose tasks are alive until it is done, join_set.h [J1]. */
    uint64_t owned = member ? 0 : FR_REF_ONE;
    uint64_t state = fr_state_complete_spare(&task->state, fr_task_take_spare(task), owned);
    if (owned && fr_state_is_for_handle(state)) {
        return; /* the task is not ours any more */
    }
    if (state & FR_JOIN_WAKER) {
        wake_joiners(task);
    }
    if (member) {
        fr_member_done(member);
    }
    if (!(state & FR_JOIN_INTEREST)) { /* [T3] */
        if (call) {                    /* a destructor, or the report, may take its time */
            fr_pool_call_lasts();
        }
        if (report_wanted(task, state)) {
            fr_report_unhandled(rt->mod, task, task->result);
        }
        drop_outputs(task);
    }
    fr_task_unref(task);
}

/* ---- one step ---- */

/* No news: the task tried to spawn, or waited for another that was cancelled, while it was to be cancelled itself. */
static bool comes_of_shutdown(struct fr_runtime *rt, PyObject *error)
{
    /* acquire: pairs with fr_shutdown_begin() */
    return atomic_load_explicit(&rt->phase, memory_order_acquire) != FR_PHASE_RUNNING &&
           (PyErr_GivenExceptionMatches(error, rt->mod->exc_shutdown) ||
            PyErr_GivenExceptionMatches(error, rt->mod->exc_join));
}

static void complete_from_error(struct fr_task *task)
{
    struct fr_runtime *rt = task->rt;
    if (PyErr_ExceptionMatches(rt->mod->exc_cancelled)) {
        PyErr_Clear();
        fr_task_complete(task, FR_OUT_CANCELLED, NULL);
        return;
    }
    PyObject *error = PyErr_GetRaisedException();
    if (fr_is_fatal(error)) {
        task->quiet = fr_fatal(rt, error); /* block_on raises it */
    }
    if (comes_of_shutdown(rt, error)) {
        task->quiet = true;
    }
    fr_task_complete(task, FR_OUT_RAISED, error);
}

PySendResult fr_throw_into(struct fr_module *mod, PyObject *coro, PyObject *error, PyObject **result)
{
    if (error && !PyObject_HasAttr(coro, mod->str_throw)) {
        PyErr_SetRaisedException(error);
        return PYGEN_ERROR;
    }
    *result = error ? PyObject_CallMethodOneArg(coro, mod->str_throw, error) : NULL;
    Py_XDECREF(error);
    return *result ? PYGEN_NEXT : fr_take_stop(result);
}

static PySendResult throw_cancelled(struct fr_task *task, PyObject **result)
{
    task->yielded = false;
    task->started = true;
    struct fr_module *mod = task->rt->mod;
    PySendResult sent = fr_throw_into(mod, task->coro, PyObject_CallNoArgs(mod->exc_cancelled), result);
    fr_thread.thrown = NULL;
    return sent;
}

/* An abort, once. What it finds due on its way is served by it too [C2]. */
static PySendResult throw_abort(struct fr_task *task, PyObject **result)
{
    fr_state_set_delivered(&task->state);
    fr_thread.thrown = FR_BY_ABORT;
    fr_scopes_overtake(task);
    return throw_cancelled(task, result);
}

PySendResult fr_refuse_foreign(struct fr_module *mod, PyObject *coro, PyObject **result)
{
    PyObject *what = *result;
    PyObject *message = PyUnicode_FromFormat(
        "a freerun task cannot await %.200s: it belongs to another event loop. Use freerun's own primitives, or run "
        "the other library in a thread with freerun.spawn_blocking()",
        what == Py_None ? "something that yields None (asyncio.sleep(0), a bare 'yield')" : Py_TYPE(what)->tp_name);
    Py_DECREF(what);
    *result = NULL;
    PyObject *error = message ? PyObject_CallOneArg(PyExc_TypeError, message) : NULL;
    Py_XDECREF(message);
    fr_thread.wait = FR_WAIT_NONE;
    return fr_throw_into(mod, coro, error, result);
}

/* A coroutine that somebody else can see may be given to two tasks. Steals `coro` on failure. The claim is released
 * for `task->coro`, which the caller sets to `coro` next. */
static bool claim_if_shared(struct fr_task *task, PyObject *coro)
{
    if (Py_REFCNT(coro) > 1 && !task->claimed && !fr_inner_is_stateless(task->rt->mod, coro)) {
        if (fr_claim(coro)) {
            Py_DECREF(coro);
            return false;
        }
        task->claimed = true;
    }
    return true;
}

/* What `await` does with an awaitable that is no coroutine: its iterator is stepped. */
static bool start_awaitable(struct fr_task *task)
{
    PyObject *iterator = fr_await_iterator(task->coro);
    if (!iterator) {
        return false;
    }
    if (!claim_if_shared(task, iterator)) {
        return false;
    }
    Py_SETREF(task->coro, iterator);
    task->kind = FR_TASK_CORO;
    return true;
}

/* Makes the coroutine on the thread that polls it first, so that its reference counts are local to it. */
static bool call_function(struct fr_task *task)
{
    PyObject *coro = call_with_args(task);
    if (!check_called(task->coro, coro, "coro")) {
        return false;
    }
    if (!claim_if_shared(task, coro)) {
        return false;
    }
    Py_SETREF(task->coro, coro);
    drop_args(task);
    task->kind = PyCoro_CheckExact(coro) || fr_is_coroutine(coro) ? FR_TASK_CORO : FR_TASK_AWAITABLE;
    return true;
}

/* Gets from what was spawned to what can be stepped. */
static bool start(struct fr_task *task)
{
    return (task->kind != FR_TASK_FUNCTION || call_function(task)) &&
           (task->kind != FR_TASK_AWAITABLE || start_awaitable(task));
}

static PySendResult step(struct fr_task *task, uint64_t state, PyObject **result)
{
    fr_thread.wait = FR_WAIT_NONE;
    if (__builtin_expect(task->shielded, 0)) {
        return PyIter_Send(task->coro, Py_None, result); /* what was skipped wakes it again, see shielded_iternext() */
    }
    if (__builtin_expect((state & (FR_CANCELLED | FR_DELIVERED)) == FR_CANCELLED, 0) && !fr_scopes_shield(task)) {
        if (task->kind != FR_TASK_CORO) { /* never started: there is nothing to throw into */
            PyErr_SetNone(task->rt->mod->exc_cancelled);
            return PYGEN_ERROR;
        }
        return throw_abort(task, result);
    }
    if (task->kind != FR_TASK_CORO && !start(task)) {
        return PYGEN_ERROR;
    }
    if (fr_scopes_take_due(task)) {
        return throw_cancelled(task, result);
    }
    task->started = true;
    return PyIter_Send(task->coro, Py_None, result);
}

/* The given one is entered by one task at a time. 1, 0: another task is being polled in it, and this one waits in line, or
 * -1 with an exception: somebody has entered it who is no task. CPython 3.13 does not notice two threads that enter one
 * context at once. */
static int enter_given(struct fr_task *task)
{
    int claimed = fr_context_claim(task);
    if (claimed == 1 && PyContext_Enter(task->context)) {
        fr_context_unclaim(task->context);
        claimed = -1;
    }
    return claimed;
}

/* Makes the thread's context the task's, and *outer what it was before: to be given to leave_context(). What PyContext_Enter()
 * does beyond that is for contexts that somebody else could enter, or ask whether they are entered. 1, or as enter_given(). */
static int enter_context(struct fr_task *task, PyObject **outer)
{
    if (__builtin_expect(task->in_given, 0)) {
        *outer = NULL;
        return enter_given(task);
    }
    PyThreadState *thread = PyThreadState_GetUnchecked();
    *outer = thread->context;
    thread->context = task->context; /* the reference goes along, and comes back */
    thread->context_ver++;
    return 1;
}

/* Where there was none, the first who set a variable has made one, which is the task's own from now on [T4]. An empty one that
 * nobody else knows (a Token does) is none. Keeps a raised exception. */
static void leave_context(struct fr_task *task, PyObject *outer)
{
    if (__builtin_expect(task->in_given, 0)) {
        PyContext_Exit(task->context); /* it fails only if somebody else exited it, or is in another one within it */
        fr_context_unclaim(task->context);
        return;
    }
    PyThreadState *thread = PyThreadState_GetUnchecked();
    PyObject *own = thread->context;
    thread->context = outer;
    thread->context_ver++;
    if (own && !task->context && Py_REFCNT(own) == 1 && is_empty(own)) {
        Py_CLEAR(own);
    }
    task->context = own;
}

/* Steps inside the task's context until it waits properly, returns or raises. */
static PySendResult step_in_context(struct fr_task *task, uint64_t state, PyObject **result)
{
    PyObject *outer;
    int entered = enter_context(task, &outer);
    if (__builtin_expect(entered < 0, 0)) {
        if (task->kind == FR_TASK_CORO) {
            fr_close_quietly(task->rt->mod, task->coro);
        }
        return PYGEN_ERROR;
    }
    if (__builtin_expect(!entered, 0)) {
        fr_thread.wait = FR_WAIT_PARK; /* its turn comes */
        return PYGEN_NEXT;
    }
    PySendResult sent = step(task, state, result);
    while (sent == PYGEN_NEXT && __builtin_expect(*result != FR_TOKEN || fr_thread.wait == FR_WAIT_NONE, 0)) {
        sent = fr_refuse_foreign(task->rt->mod, task->coro, result); /* [L1] */
    }
    leave_context(task, outer);
    return sent;
}

static bool closing(struct fr_runtime *rt)
{
    /* acquire: pairs with fr_shutdown() moving the phase */
    return atomic_load_explicit(&rt->phase, memory_order_acquire) >= FR_PHASE_CLOSING;
}

/* The same as fr_state_end_poll(), for a task that was granted something and has not looked at it. */
static bool end_poll_unseen(struct fr_task *task)
{
    struct fr_runtime *rt = task->rt;
    fr_task_ref(task);
    bool again = fr_state_end_poll_spare(&task->state, fr_task_take_spare(task));
    if (!again) {
        fr_futurelock_suspect(rt, task);
    }
    fr_task_unref(task);
    return again;
}

/* It is about to wait. */
static void note_gathering(struct fr_task *task)
{
    enum { MOST = 127 };
    bool in_vain = fr_task_gathers(task) && fr_thread.joined < 2;
    if (in_vain || fr_thread.wait != (FR_WAIT_PARK | FR_WAIT_JOIN)) {
        task->gathers = 0;
    } else if (task->gathers < MOST) {
        task->gathers++;
    }
}

enum fr_poll_result fr_task_poll(struct fr_task *task)
{
    uint64_t state = fr_task_take(task);
    if (__builtin_expect(task->kind == FR_TASK_FILE, 0)) {
        return fr_file_poll(task, state);
    }
    if (__builtin_expect(closing(task->rt), 0)) {
        fr_task_close(task);
        return FR_POLL_DONE;
    }
    PyObject *result = NULL;
    fr_thread.task = task;
    fr_thread.joined = 0;
    PySendResult sent = step_in_context(task, state, &result);
    fr_thread.task = NULL;
    if (__builtin_expect(fr_forked(task->rt), 0)) {
        PyErr_Clear();
        return FR_POLL_DONE; /* nothing of the runtime may be touched in the child; the task stays as it is */
    }
    if (sent == PYGEN_NEXT) { /* the token is immortal: no reference to drop */
        if (__builtin_expect(closing(task->rt), 0)) {
            fr_task_close(task);
            return FR_POLL_DONE;
        }
        if (fr_thread.wait & FR_WAIT_YIELD) {
            fr_task_set_queued(task);
            return FR_POLL_REQUEUE; /* with RUNNING, and what is left of the reference [S1] */
        }
        note_gathering(task);
        bool again = __builtin_expect(fr_has_unseen(task), 0)
                         ? end_poll_unseen(task)
                         : fr_state_end_poll_spare(&task->state, fr_task_take_spare(task));
        return again ? FR_POLL_REQUEUE : FR_POLL_DONE;
    }
    if (sent == PYGEN_RETURN) {
        fr_task_complete(task, FR_OUT_RETURNED, result);
    } else {
        complete_from_error(task);
    }
    return FR_POLL_DONE;
}

/* Its finally blocks may look at themselves, but not wait any more. */
static void close_coroutine(struct fr_task *task)
{
    PyObject *outer_context;
    bool entered = enter_context(task, &outer_context) == 1;
    if (!entered) {
        PyErr_Clear();
        if (!task->in_given) {
            return; /* the context was entered elsewhere: nothing more can be done for this task */
        }
    }
    struct fr_task *outer = fr_thread.task;
    fr_thread.task = task;
    fr_close_quietly(task->rt->mod, task->coro);
    fr_thread.task = outer;
    if (entered) {
        leave_context(task, outer_context);
    }
}

void fr_task_close(struct fr_task *task)
{
    if (task->kind == FR_TASK_FILE) {
        fr_file_close(task);
        return;
    }
    if (task->kind == FR_TASK_CORO && task->coro) {
        close_coroutine(task);
    }
    if (task->in_given && task->context) {
        fr_context_leave_line(task);
    }
    PyErr_Clear();
    fr_task_complete(task, FR_OUT_CANCELLED, NULL);
}

void fr_task_run_blocking(struct fr_task *task)
{
    uint64_t state = fr_state_start_poll(&task->state);
    if ((state & FR_CANCELLED) && task->duty != FR_DUTY_MUST) {
        fr_task_complete(task, FR_OUT_CANCELLED, NULL);
        return;
    }
    PyObject *result = NULL;
    PyObject *outer;
    if (enter_context(task, &outer) == 1) {
        PyObject *empty = task->args ? NULL : PyTuple_New(0);
        result = PyObject_Call(task->coro, task->args ? task->args : empty, task->result);
        Py_XDECREF(empty);
        leave_context(task, outer);
    }
    if (result) {
        fr_task_complete(task, FR_OUT_RETURNED, result);
    } else {
        complete_from_error(task);
    }
}

/* ---- results ---- */

static void raise_join_error(struct fr_module *mod, struct fr_task *task)
{
    const char *what =
        fr_task_is_call(task) ? "blocking call %llu was cancelled before it had started" : "task %llu was cancelled";
    PyObject *message = PyUnicode_FromFormat(what, (unsigned long long)task->id);
    PyObject *id = PyLong_FromUnsignedLongLong(task->id);
    PyObject *error = message && id ? PyObject_CallFunctionObjArgs(mod->exc_join, message, id, NULL) : NULL;
    Py_XDECREF(message);
    Py_XDECREF(id);
    if (error) {
        PyErr_SetRaisedException(error);
    }
}

PyObject *fr_task_take_result(struct fr_module *mod, struct fr_task *task)
{
    if (task->outcome == FR_OUT_RETURNED && task->result) {
        return Py_NewRef(task->result);
    }
    if (task->outcome == FR_OUT_RAISED && task->result) {
        fr_state_set_observed(&task->state);
        PyErr_SetRaisedException(Py_NewRef(task->result));
        return NULL;
    }
    raise_join_error(mod, task);
    return NULL;
}

/* Links `waiter`, whose task reference the caller has taken. False: the task is complete, nothing was linked. */
static bool link_waiter(struct fr_task *task, struct fr_waiter *waiter)
{
    fr_mutex_lock(&task->lock);
    bool pending = fr_state_set_join_waker(&task->state);
    if (pending) {
        joiner_push_locked(task, &waiter->node);
        atomic_store_explicit(&waiter->linked, true, memory_order_relaxed); /* under the lock */
    }
    fr_mutex_unlock(&task->lock);
    return pending;
}

/* True if it was linked: the caller owns its task reference again. */
static bool unlink_waiter(struct fr_task *task, struct fr_waiter *waiter)
{
    fr_mutex_lock(&task->lock);
    bool linked = atomic_load_explicit(&waiter->linked, memory_order_relaxed); /* here and below: under the lock */
    if (linked) {
        joiner_remove_locked(task, &waiter->node);
        atomic_store_explicit(&waiter->linked, false, memory_order_relaxed);
    }
    fr_mutex_unlock(&task->lock);
    return linked;
}

bool fr_task_link_event(struct fr_task *task, struct fr_waiter *waiter, struct fr_event *event)
{
    *waiter = (struct fr_waiter){.event = event};
    return link_waiter(task, waiter);
}

void fr_task_unlink(struct fr_task *task, struct fr_waiter *waiter)
{
    /* acquire: false means that nobody reads the waiter any more; pairs with wake_joiners() [W1]. Not so for an event,
     * which may be in the middle of being set: taking the lock waits for that. */
    if (waiter->task && !atomic_load_explicit(&waiter->linked, memory_order_acquire)) {
        return;
    }
    if (unlink_waiter(task, waiter) && waiter->task) {
        fr_task_unref(waiter->task);
    }
}

int fr_task_wait_event(struct fr_task *task, struct fr_event *event, int64_t timeout_ns)
{
    struct fr_waiter waiter;
    if (!fr_task_link_event(task, &waiter, event)) {
        return 0;
    }
    int result = fr_leaf_wait_event(event, timeout_ns);
    fr_task_unlink(task, &waiter);
    return result;
}

/* ---- descriptions ---- */

static const char *state_name(uint64_t state, struct fr_task *task)
{
    if (state & FR_COMPLETE) {
        return "finished";
    }
    bool queued = atomic_load_explicit(&task->queued, memory_order_relaxed); /* see fr_task_set_queued() */
    if (state & FR_RUNNING && !queued) {
        return "running";
    }
    if (state & (FR_RUNNING | FR_NOTIFIED)) {
        return task->started ? "ready" : "spawned";
    }
    return "waiting";
}

/* Only what never changes or is read atomically: `task` may be running on another thread. */
PyObject *fr_task_describe(struct fr_module *Py_UNUSED(mod), struct fr_task *task)
{
    uint64_t state = fr_state_load(&task->state);
    PyObject *site = fr_site_describe(task->site);
    if (!site) {
        return NULL;
    }
    fr_mutex_lock(&task->lock); /* see drop_outputs() */
    PyObject *name = Py_NewRef(task->name ? task->name : Py_None);
    fr_mutex_unlock(&task->lock);
    return Py_BuildValue("{s:K,s:N,s:s,s:N,s:s,s:O}", "id", (unsigned long long)task->id, "name", name, "state",
                         state_name(state, task), "spawned_at", site, "kind",
                         fr_task_is_call(task) ? "blocking" : "async", "cancelled",
                         state & FR_CANCELLED ? Py_True : Py_False);
}

/* ---- JoinHandle ---- */

typedef struct {
    PyObject_HEAD
    struct fr_task *task; /* one reference, and JOIN_INTEREST */
} HandleObject;

struct fr_task *fr_handle_task(PyObject *handle)
{
    return ((HandleObject *)handle)->task;
}

static PyObject *handle_new(struct fr_module *mod, struct fr_task *task)
{
    HandleObject *handle = (HandleObject *)fr_alloc(mod->handle_type, FR_FREE_HANDLE);
    if (handle) {
        handle->task = task;
        if (!PyObject_GC_IsTracked((PyObject *)handle)) {
            PyObject_GC_Track(handle);
        }
    }
    return (PyObject *)handle;
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct fr_task *task = ((HandleObject *)self)->task;
    Py_VISIT(Py_TYPE(self));
    if (task && fr_state_load(&task->state) & FR_COMPLETE) {
        Py_VISIT(task->result); /* this handle is the one owner of a finished task's result [T3] */
    }
    return 0;
}

static int handle_clear(PyObject *self)
{
    struct fr_task *task = ((HandleObject *)self)->task;
    if (task && fr_state_load(&task->state) & FR_COMPLETE) {
        Py_CLEAR(task->result);
    }
    return 0;
}

/* Before the collector clears the result of a handle that is garbage: the failure in it goes to whom it concerns. */
static void handle_finalize(PyObject *self)
{
    struct fr_task *task = ((HandleObject *)self)->task;
    uint64_t state = task ? fr_state_load(&task->state) : 0;
    if (state & FR_COMPLETE && report_wanted(task, state) && task->result && fr_state_set_observed(&task->state)) {
        fr_report_unhandled(fr_module_of_type(Py_TYPE(self)), task, task->result);
    }
}

static void handle_dealloc(PyObject *self)
{
    struct fr_task *task = ((HandleObject *)self)->task;
    PyObject_GC_UnTrack(self);
    FR_TRASHCAN_BEGIN(self, handle_dealloc)
    if (task && (fr_state_load(&task->state) & FR_COMPLETE || fr_state_drop_join_interest(&task->state))) { /* [T3] */
        if (report_wanted(task, fr_state_load(&task->state)) && task->result) {
            fr_report_unhandled(fr_module_of_type(Py_TYPE(self)), task, task->result);
        }
        drop_outputs(task);
    }
    if (task) {
        fr_task_unref(task);
    }
    fr_dealloc(self, FR_FREE_HANDLE);
    FR_TRASHCAN_END
}

static PyObject *task_abort_method(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(fr_task_abort(((HandleObject *)self)->task));
}

static PyObject *task_is_finished(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong((fr_state_load(&((HandleObject *)self)->task->state) & FR_COMPLETE) != 0);
}

static PyObject *task_get_id(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((HandleObject *)self)->task->id);
}

/* The JoinHandle keeps the name alive. */
static PyObject *handle_get_name(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *name = ((HandleObject *)self)->task->name;
    return Py_NewRef(name ? name : Py_None);
}

static PyObject *ref_new(PyTypeObject *type, struct fr_task *task);

static PyObject *handle_abort_handle(PyObject *self, PyTypeObject *cls, PyObject *const *Py_UNUSED(args),
                                     Py_ssize_t Py_UNUSED(nargs), PyObject *Py_UNUSED(kwnames))
{
    return ref_new(fr_module_of_type(cls)->abort_type, ((HandleObject *)self)->task);
}

/* Says that a failure is wanted in the log at once rather than when the handle goes; the handle itself stays usable. */
static PyObject *handle_detach(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_NONE;
}

static PyObject *handle_blocking_result(PyObject *self, PyTypeObject *cls, PyObject *const *args, Py_ssize_t nargs,
                                        PyObject *kwnames)
{
    struct fr_task *task = ((HandleObject *)self)->task;
    PyObject *timeout = nargs ? args[0] : Py_None;
    if (kwnames && PyTuple_GET_SIZE(kwnames) == 1 && nargs == 0 &&
        PyUnicode_EqualToUTF8(PyTuple_GET_ITEM(kwnames, 0), "timeout")) {
        timeout = args[0];
    } else if (nargs > 1 || (kwnames && PyTuple_GET_SIZE(kwnames))) {
        PyErr_SetString(PyExc_TypeError, "blocking_result() takes one optional argument, 'timeout'");
        return NULL;
    }
    double seconds = -1;
    if (timeout != Py_None && fr_parse_seconds(timeout, "timeout", &seconds)) {
        return NULL;
    }
    if (fr_thread.worker) {
        PyErr_SetString(PyExc_RuntimeError, "blocking_result() would block a worker: inside a task, await the handle");
        return NULL;
    }
    if (!(fr_state_load(&task->state) & FR_COMPLETE)) {
        struct fr_event event;
        fr_event_init(&event, -1);
        int64_t ns = seconds < 0 ? -1 : seconds > 9e9 ? INT64_MAX / 4 : (int64_t)(seconds * 1e9);
        int waited = fr_task_wait_event(task, &event, ns);
        if (waited > 0) {
            PyErr_Format(PyExc_TimeoutError, "task %llu did not finish in time", (unsigned long long)task->id);
        }
        if (waited) {
            return NULL;
        }
    }
    return fr_task_take_result(fr_module_of_type(cls), task);
}

static PyObject *handle_repr(PyObject *self)
{
    struct fr_task *task = ((HandleObject *)self)->task;
    PyObject *name = task->name;
    return PyUnicode_FromFormat("<JoinHandle id=%llu%s%V %s>", (unsigned long long)task->id, name ? " name=" : "", name,
                                "", state_name(fr_state_load(&task->state), task));
}

/* ---- awaiting a JoinHandle ---- */

typedef struct {
    PyObject_HEAD
    PyObject *handle; /* NULL: it has ended, and let go of it */
    struct fr_waiter waiter;
    bool linked_once;
    _Atomic bool stepping;
} JoinObject;

static PyObject *handle_await(PyObject *self)
{
    struct fr_module *mod = fr_module_of_type(Py_TYPE(self));
    JoinObject *join = (JoinObject *)fr_alloc_leaf(mod->join_type, FR_FREE_JOIN);
    if (join) {
        join->handle = Py_NewRef(self);
        join->waiter = (struct fr_waiter){.task = NULL};
        join->linked_once = false;
        atomic_init(&join->stepping, false);
    }
    return (PyObject *)join;
}

static void join_let_go(PyObject *self)
{
    JoinObject *join = (JoinObject *)self;
    if (join->linked_once) {
        join->linked_once = false;
        fr_task_unlink(((HandleObject *)join->handle)->task, &join->waiter);
    }
}

/* It has its result, and no exception is set. */
static void join_retire(JoinObject *join)
{
    if (fr_spare_keep((PyObject *)join, FR_FREE_JOIN)) {
        join_let_go((PyObject *)join);
        Py_CLEAR(join->handle);
    }
}

static PyObject *join_finish(JoinObject *join, struct fr_task *task)
{
    if (!fr_leaf_spend()) {
        return fr_leaf_yield();
    }
    struct fr_module *mod = fr_module_of_type(Py_TYPE((PyObject *)join));
    fr_thread.joined++;
    PyObject *result = fr_task_take_result(mod, task);
    if (!result) {
        return NULL;
    }
    join_retire(join);
    return fr_leaf_return(result);
}

static PyObject *join_step(JoinObject *join, struct fr_task *me)
{
    if (!join->handle) {
        PyErr_SetString(PyExc_RuntimeError, "this await has ended already; await the handle again");
        return NULL;
    }
    struct fr_task *task = ((HandleObject *)join->handle)->task;
    if (fr_state_load(&task->state) & FR_COMPLETE) {
        return join_finish(join, task);
    }
    if (fr_task_root(me) == task) {
        PyErr_SetString(PyExc_RuntimeError, "a task cannot await itself");
        return NULL;
    }
    if (join->linked_once && join->waiter.task != me) {
        fr_task_unlink(task, &join->waiter); /* the leaf moved to another task */
        join->linked_once = false;
    }
    if (!join->linked_once) {
        join->waiter.task = me;
        fr_leaf_ref(me);
        if (!link_waiter(task, &join->waiter)) {
            fr_task_unref(me);
            return join_finish(join, task);
        }
        join->linked_once = true; /* stays linked until the task is complete: spurious wakes need nothing */
    }
    return fr_leaf_park_join();
}

static PyObject *join_iternext(PyObject *self)
{
    JoinObject *join = (JoinObject *)self;
    struct fr_task *me = fr_leaf_task();
    bool shared;
    if (!me || !fr_inner_enter(self, &join->stepping, &shared)) {
        return NULL;
    }
    PyObject *token = join_step(join, me);
    fr_inner_leave(&join->stepping, shared);
    return token;
}

FR_LEAF_METHODS(join, join_let_go);

static void join_dealloc(PyObject *self)
{
    JoinObject *join = (JoinObject *)self;
    join_let_go(self);
    Py_XDECREF(join->handle);
    fr_dealloc(self, FR_FREE_JOIN);
}

static PyType_Slot join_slots[] = {
    {Py_tp_doc, "What awaiting a JoinHandle iterates over."},
    {Py_tp_dealloc, join_dealloc},
    {Py_tp_methods, join_methods},
    FR_LEAF_SLOTS(join_iternext),
    {0, NULL},
};

static PyType_Spec join_spec = {
    .name = "freerun._core._native.Join",
    .basicsize = sizeof(JoinObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = join_slots,
};

static PyMethodDef handle_methods[] = {
    {"abort", task_abort_method, METH_NOARGS,
     "abort($self)\n--\n\nThrow Cancelled into the task at its suspension point. True if this call was the first and "
     "the task had not finished."},
    {"is_finished", task_is_finished, METH_NOARGS, "is_finished($self)\n--\n\nWhether the task has ended."},
    {"abort_handle", (PyCFunction)(void (*)(void))handle_abort_handle, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "abort_handle($self)\n--\n\nA handle that can abort the task but not read its result."},
    {"detach", handle_detach, METH_NOARGS,
     "detach($self)\n--\n\nLet the task run on by itself; same as dropping the handle."},
    {"blocking_result", (PyCFunction)(void (*)(void))handle_blocking_result,
     METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "blocking_result($self, timeout=None)\n--\n\nWait for the task on a plain thread; TimeoutError after `timeout` "
     "seconds."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef handle_getset[] = {
    {"id", task_get_id, NULL, "The task's number, unique in its runtime.", NULL},
    {"name", handle_get_name, NULL, "The name given to spawn(), or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc,
     "Owned permission to await a spawned task.\n\nAwaiting it is cancel safe. Dropping it lets the task run "
     "on. Any thread may use it. Tokio: tokio::task::JoinHandle."},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_finalize, handle_finalize},
    {Py_tp_repr, handle_repr},
    {Py_tp_methods, handle_methods},
    {Py_tp_getset, handle_getset},
    {Py_am_await, handle_await},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "freerun.JoinHandle",
    .basicsize = sizeof(HandleObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = handle_slots,
};

/* ---- AbortHandle and TaskRef: a task reference without its result ---- */

typedef struct {
    PyObject_HEAD
    struct fr_task *task; /* same place as in HandleObject: methods are shared */
    PyObject *name;
} RefObject;

static PyObject *ref_new(PyTypeObject *type, struct fr_task *task)
{
    RefObject *ref = (RefObject *)type->tp_alloc(type, 0);
    if (ref) {
        fr_task_ref(task);
        ref->task = task;
        ref->name = Py_XNewRef(task->name);
    }
    return (PyObject *)ref;
}

static void ref_dealloc(PyObject *self)
{
    RefObject *ref = (RefObject *)self;
    PyTypeObject *type = Py_TYPE(self);
    fr_task_unref(ref->task);
    Py_XDECREF(ref->name);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *ref_get_name(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *name = ((RefObject *)self)->name;
    return Py_NewRef(name ? name : Py_None);
}

static PyObject *ref_get_site(PyObject *self, void *Py_UNUSED(closure))
{
    return fr_site_describe(((RefObject *)self)->task->site);
}

static PyMethodDef ref_methods[] = {
    {"abort", task_abort_method, METH_NOARGS,
     "abort($self)\n--\n\nThrow Cancelled into the task at its suspension point. True if this call was the first and "
     "the task had not finished."},
    {"is_finished", task_is_finished, METH_NOARGS, "is_finished($self)\n--\n\nWhether the task has ended."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef abort_getset[] = {
    {"id", task_get_id, NULL, "The task's number, unique in its runtime.", NULL},
    {"name", ref_get_name, NULL, "The name given to spawn(), or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef ref_getset[] = {
    {"id", task_get_id, NULL, "The task's number, unique in its runtime.", NULL},
    {"name", ref_get_name, NULL, "The name given to spawn(), or None.", NULL},
    {"spawned_at", ref_get_site, NULL, "\"file:line in function\" of the spawn() call, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot abort_slots[] = {
    {Py_tp_doc, "Permission to abort a task, without its result. Any thread may use it. Tokio: "
                "tokio::task::AbortHandle."},
    {Py_tp_dealloc, ref_dealloc},
    {Py_tp_methods, ref_methods},
    {Py_tp_getset, abort_getset},
    {0, NULL},
};

static PyType_Spec abort_spec = {
    .name = "freerun.AbortHandle",
    .basicsize = sizeof(RefObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = abort_slots,
};

static PyType_Slot ref_slots[] = {
    {Py_tp_doc, "A task, as current_task() returns it."},
    {Py_tp_dealloc, ref_dealloc},
    {Py_tp_methods, ref_methods},
    {Py_tp_getset, ref_getset},
    {0, NULL},
};

static PyType_Spec ref_spec = {
    .name = "freerun._core._native.TaskRef",
    .basicsize = sizeof(RefObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ref_slots,
};

/* ---- module functions ---- */

int fr_task_parse_as(PyObject *const *values, PyObject *kwnames, struct fr_spawn_as *as)
{
    for (Py_ssize_t i = 0; kwnames && i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        bool is_name = PyUnicode_EqualToUTF8(key, "name");
        if (!is_name && !PyUnicode_EqualToUTF8(key, "context")) {
            PyErr_Format(
                PyExc_TypeError,
                "spawn() got an unexpected keyword argument '%U'; only 'name' and 'context' are spawn's own: use "
                "functools.partial to pass keywords to the async function",
                key);
            return -1;
        }
        *(is_name ? &as->name : &as->context) = values[i] == Py_None ? NULL : values[i];
    }
    if (as->name && !PyUnicode_Check(as->name)) {
        PyErr_Format(PyExc_TypeError, "argument 'name' must be a str or None, not %.200s", Py_TYPE(as->name)->tp_name);
        return -1;
    }
    if (as->context && !PyContext_CheckExact(as->context)) {
        PyErr_Format(PyExc_TypeError, "argument 'context' must be a contextvars.Context or None, not %.200s",
                     Py_TYPE(as->context)->tp_name);
        return -1;
    }
    return 0;
}

int fr_task_need_one(Py_ssize_t nargs, const char *function, const char *argument)
{
    if (nargs > 0) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() missing 1 required positional argument: '%s'", function, argument);
    return -1;
}

PyObject *fr_task_spawn_here(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct fr_spawn_as as = {NULL, NULL};
    struct fr_module *mod = PyModule_GetState(module);
    if (fr_task_need_one(nargs, "spawn", "coro") || (kwnames && fr_task_parse_as(args + nargs, kwnames, &as))) {
        return NULL;
    }
    struct fr_visit visit;
    if (!fr_visit_current(mod, &visit)) {
        fr_task_refused(mod, args[0]);
        return NULL;
    }
    PyObject *handle = fr_task_spawn(visit.rt, args[0], args + 1, nargs - 1, as, false);
    fr_visit_end(&visit);
    return handle;
}

PyObject *fr_task_spawn_blocking_here(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (fr_task_need_one(nargs, "spawn_blocking", "fn")) {
        return NULL;
    }
    struct fr_visit visit;
    if (!fr_visit_current(PyModule_GetState(module), &visit)) {
        return NULL;
    }
    PyObject *handle = fr_task_spawn_blocking(visit.rt, args[0], args + 1, nargs - 1, kwnames, FR_DUTY_NONE);
    fr_visit_end(&visit);
    return handle;
}

PyObject *fr_task_spawn_file_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 2) {
        PyErr_SetString(PyExc_TypeError, "spawn_file_call() takes must, fn and its arguments");
        return NULL;
    }
    int must = PyObject_IsTrue(args[0]);
    struct fr_visit visit;
    if (must < 0 || !fr_visit_current(PyModule_GetState(module), &visit)) {
        return NULL;
    }
    PyObject *handle =
        fr_task_spawn_blocking(visit.rt, args[1], args + 2, nargs - 2, NULL, must ? FR_DUTY_MUST : FR_DUTY_LATE);
    fr_visit_end(&visit);
    return handle;
}

PyObject *fr_task_current(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct fr_module *mod = PyModule_GetState(module);
    struct fr_task *task = fr_leaf_task();
    return task ? ref_new(mod->task_ref_type, fr_task_root(task)) : NULL;
}

int fr_task_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->handle_type, &handle_spec, "JoinHandle") ||
                   fr_module_add_type(mod, &mod->join_type, &join_spec, NULL) ||
                   fr_module_add_type(mod, &mod->abort_type, &abort_spec, "AbortHandle") ||
                   fr_module_add_type(mod, &mod->task_ref_type, &ref_spec, "TaskRef")
               ? -1
               : 0;
}
