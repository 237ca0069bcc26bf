/* listeners: freerun.lowlevel.Listeners: tasks and threads that all wait for the same news.
 *
 * Who waits brings a function that looks whether there is something for it: a Python one, or a native primitive's
 * (listeners.h). Whoever has news makes it visible first and calls wake_all() then; everybody looks again. Nobody is woken
 * instead of somebody else, so there is no wake to hand on when one is cancelled, and no order to keep: unlike a
 * semaphore's line.
 *
 * THREADS    any.
 * OWNERSHIP  a leaf holds what it looks at, and its Listeners if that does not hold them; while linked its waiter owns one
 *            reference of its task.
 * FIELDS     epoch     written under `lock`, release; read without it, acquire, before a look
 *            lock, line, count  the waiters, in the order of their coming, and how many
 *            leaf->wait  fr_waiter's rules; the rest of a leaf belongs to who has entered `stepping`
 * INVARIANTS LI1  a waiter is linked only if the epoch is the one from before its last look. So either the look came
 *                 after the news, or the waiter is linked when wake_all() comes, or the epoch tells to look again.
 *            LI2  wake_all() takes everybody out under one lock, and wakes those only: who comes back to wait meanwhile
 *                 does not make it go on for ever.
 * LOCKS      `lock` is a leaf (see rt/mutex.h). No Python, no wake, no reference dropped under it.
 * SHUTDOWN   a coroutine that is closed closes the leaf it awaits. In the child of a fork the waiters stay for ever.
 * PROVED BY  tests/sync/test_listeners.py
 */
#include "listeners.h"

#include <stddef.h>

#include "acquire.h"
#include "rt/wakes.h"

typedef struct {
    PyObject_HEAD
    struct fr_listeners line;
    PyObject *weakrefs;
} ListenersObject;

typedef struct {
    PyObject_HEAD
    struct fr_listeners *listeners;
    PyObject *owner; /* of `listeners`; NULL: it is kept by `what` */
    PyObject *what;
    fr_look look;
    struct fr_waiter wait;
    _Atomic bool stepping;
} ListenObject;

/* ---- who waits ---- */

static uint64_t epoch_of(struct fr_listeners *self)
{
    return atomic_load_explicit(&self->epoch, memory_order_acquire); /* pairs with wake_all() [LI1] */
}

/* In the step of an iterator it would be a result. As in a coroutine, PEP 479. */
static void refuse_stop_iteration(void)
{
    PyObject *stop = PyErr_GetRaisedException();
    PyErr_SetString(PyExc_RuntimeError, "the function 'look' raised StopIteration; let it return what it has found, or "
                                        "PENDING, and raise another exception where there is an error");
    PyObject *error = PyErr_GetRaisedException();
    fr_error_set_cause(error, stop);
    Py_DECREF(stop);
    PyErr_SetRaisedException(error);
}

/* The look of who brings a Python function. */
static PyObject *call(struct fr_module *mod, PyObject *function)
{
    PyObject *found = PyObject_CallNoArgs(function);
    if (found == mod->pending) {
        Py_CLEAR(found);
    } else if (!found && PyErr_ExceptionMatches(PyExc_StopIteration)) {
        refuse_stop_iteration();
    }
    return found;
}

enum linked { LINKED, LOOK_AGAIN, SHARED };

/* Links the waiter for this task, if there was no news since `epoch`. */
static enum linked link_waiter(struct fr_listeners *self, struct fr_waiter *wait, struct fr_task *task, uint64_t epoch)
{
    enum linked result = LOOK_AGAIN;
    struct fr_task *before = NULL;
    fr_mutex_lock(&self->lock);
    if (epoch_of(self) == epoch) {
        result = LINKED;
        if (!fr_waiter_is_linked(wait)) {
            wait->task = task;
            if (task) {
                fr_task_ref(task);
            }
            fr_waiter_link_locked(&self->line, wait);
            self->count++;
        } else if (wait->task != task) { /* another task polls what one has awaited that is over, or else should not */
            if (fr_state_load(&((struct fr_task *)wait->task)->state) & FR_COMPLETE) {
                before = wait->task;
                wait->task = task;
                fr_task_ref(task);
            } else {
                result = SHARED;
            }
        }
    }
    fr_mutex_unlock(&self->lock);
    if (before) {
        fr_task_unref(before);
    }
    return result;
}

static void unlink_waiter(struct fr_listeners *self, struct fr_waiter *wait)
{
    fr_mutex_lock(&self->lock);
    bool was_linked = fr_waiter_unlink_locked(wait);
    self->count -= was_linked;
    fr_mutex_unlock(&self->lock);
    if (was_linked && wait->task) {
        fr_task_unref(wait->task);
    }
}

static void let_go(ListenObject *leaf)
{
    if (fr_waiter_is_linked(&leaf->wait)) {
        unlink_waiter(leaf->listeners, &leaf->wait);
    }
}

static PyObject *listen_step(ListenObject *leaf, struct fr_task *task)
{
    for (;;) {
        if (!fr_leaf_spend()) {
            return fr_leaf_yield();
        }
        uint64_t epoch = epoch_of(leaf->listeners);
        PyObject *found = leaf->look(leaf->listeners->mod, leaf->what);
        if (found || PyErr_Occurred()) {
            let_go(leaf);
            return found ? fr_leaf_return(found) : NULL;
        }
        fr_acquire_settle();
        switch (link_waiter(leaf->listeners, &leaf->wait, task, epoch)) {
        case LINKED:
            return fr_leaf_park();
        case SHARED:
            fr_leaf_shared();
            return NULL;
        case LOOK_AGAIN:
            break;
        }
    }
}

static PyObject *listen_iternext(PyObject *op)
{
    ListenObject *leaf = (ListenObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter_own(op, &leaf->stepping)) {
        return NULL;
    }
    PyObject *token = listen_step(leaf, task);
    fr_leaf_exit(&leaf->stepping);
    return token;
}

static void listen_let_go(PyObject *op)
{
    ListenObject *leaf = (ListenObject *)op;
    if (fr_leaf_try_enter(&leaf->stepping)) { /* else another task steps it: it stays that task's */
        let_go(leaf);
        fr_leaf_exit(&leaf->stepping);
    }
}

static int listen_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ListenObject *)op)->owner);
    Py_VISIT(((ListenObject *)op)->what);
    return 0;
}

static void listen_dealloc(PyObject *op)
{
    ListenObject *leaf = (ListenObject *)op;
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, listen_dealloc)
    let_go(leaf);
    Py_XDECREF(leaf->owner);
    Py_DECREF(leaf->what);
    fr_dealloc(op, FR_FREE_LISTEN);
    FR_TRASHCAN_END
}

FR_LEAF_METHODS(listen, listen_let_go);

static PyType_Slot listen_slots[] = {
    {Py_tp_doc, "What Listeners.wait() returns."},
    {Py_tp_dealloc, listen_dealloc},
    {Py_tp_traverse, listen_traverse},
    {Py_tp_methods, listen_methods},
    FR_LEAF_SLOTS(listen_iternext),
    {0, NULL},
};

static PyType_Spec listen_spec = {
    .name = "freerun._core._native.Listen",
    .basicsize = sizeof(ListenObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = listen_slots,
};

/* ---- what they wait at ---- */

static PyObject *listeners_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Listeners", keywords)) {
        return NULL;
    }
    ListenersObject *self = (ListenersObject *)type->tp_alloc(type, 0);
    if (self) {
        atomic_init(&self->line.epoch, 0);
        fr_mutex_init(&self->line.lock);
        fr_list_init(&self->line.line);
        self->line.mod = fr_module_of_type(type);
    }
    return (PyObject *)self;
}

struct fr_listeners *fr_listeners_of(PyObject *listeners)
{
    return &((ListenersObject *)listeners)->line;
}

static void listeners_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (((ListenersObject *)op)->weakrefs) {
        PyObject_ClearWeakRefs(op);
    }
    type->tp_free(op); /* nobody is in line: a leaf holds its Listeners */
    Py_DECREF(type);
}

static int need_function(PyObject *function)
{
    if (PyCallable_Check(function)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "argument 'look' must be a function, not %.200s: %R", Py_TYPE(function)->tp_name,
                 function);
    return -1;
}

/* `owner` may be NULL. */
static PyObject *listen_new(struct fr_listeners *listeners, PyObject *owner, fr_look look, PyObject *what)
{
    ListenObject *leaf = (ListenObject *)fr_alloc(listeners->mod->listen_type, FR_FREE_LISTEN);
    if (leaf) {
        leaf->listeners = listeners;
        leaf->owner = Py_XNewRef(owner);
        leaf->what = Py_NewRef(what);
        leaf->look = look;
        leaf->wait = (struct fr_waiter){.task = NULL};
        atomic_init(&leaf->stepping, false);
        if (!PyObject_GC_IsTracked((PyObject *)leaf)) {
            PyObject_GC_Track(leaf);
        }
    }
    return (PyObject *)leaf;
}

PyObject *fr_listen(struct fr_listeners *listeners, fr_look look, PyObject *what)
{
    return listen_new(listeners, NULL, look, what);
}

static PyObject *listeners_wait(PyObject *op, PyObject *function)
{
    if (need_function(function)) {
        return NULL;
    }
    return listen_new(fr_listeners_of(op), op, call, function);
}

/* One sleep of a thread: 0, or -1 with a signal handler's exception. */
static int sleep_until_news(struct fr_listeners *self, uint64_t epoch)
{
    struct fr_event event;
    fr_event_init(&event, -1);
    struct fr_waiter wait = {.event = &event};
    if (link_waiter(self, &wait, NULL, epoch) != LINKED) {
        return 0;
    }
    int err = fr_leaf_wait_event(&event, -1);
    unlink_waiter(self, &wait); /* takes the lock in any case: the event may be in the middle of being set */
    return err;
}

static PyObject *listeners_block(PyObject *op, PyObject *function)
{
    struct fr_listeners *self = fr_listeners_of(op);
    if (need_function(function) || fr_leaf_may_block("block", "wait")) {
        return NULL;
    }
    for (;;) {
        uint64_t epoch = epoch_of(self);
        PyObject *found = call(self->mod, function);
        if (found || PyErr_Occurred() || sleep_until_news(self, epoch)) {
            return found;
        }
    }
}

static Py_ssize_t wake_all(struct fr_listeners *self)
{
    struct fr_wakes wakes;
    wakes.n = 0;
    struct fr_node woken; /* also this list is under the lock: who is cancelled takes itself out */
    fr_list_init(&woken);
    Py_ssize_t count = 0;
    fr_mutex_lock(&self->lock);
    /* relaxed, under the lock; release: pairs with epoch_of() [LI1] */
    atomic_store_explicit(&self->epoch, atomic_load_explicit(&self->epoch, memory_order_relaxed) + 1,
                          memory_order_release);
    fr_list_splice(&woken, &self->line); /* [LI2] */
    while (!fr_list_is_empty(&woken)) {
        fr_wakes_take_locked(&wakes, FR_CONTAINER_OF(fr_list_front(&woken), struct fr_waiter, node));
        self->count--;
        count++;
        if (fr_wakes_full(&wakes)) {
            fr_mutex_unlock(&self->lock);
            fr_wakes_fire(&wakes, fr_acquire_wake);
            fr_mutex_lock(&self->lock);
        }
    }
    fr_mutex_unlock(&self->lock);
    fr_wakes_fire(&wakes, fr_acquire_wake);
    return count;
}

static PyObject *listeners_wake_all(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromSsize_t(wake_all(fr_listeners_of(op)));
}

static Py_ssize_t listeners_len(PyObject *op)
{
    struct fr_listeners *self = fr_listeners_of(op);
    fr_mutex_lock(&self->lock);
    Py_ssize_t count = self->count;
    fr_mutex_unlock(&self->lock);
    return count;
}

static PyMethodDef listeners_methods[] = {
    {"wait", listeners_wait, METH_O,
     "wait($self, look, /)\n--\n\n"
     "Await it to wait until `look()` returns something else than `PENDING`, and get that.\n\n"
     "`look` is an ordinary function. It is called at once, and again after each wake_all() until it has found "
     "something;\nit may also be called for no reason. What it raises comes out of the await, StopIteration as the "
     "cause of a RuntimeError.\n\n"
     "Cancel safety: a wait that is cancelled has not looked since it last found nothing. Thread safety: any task; "
     "each\nneeds an awaitable of its own. Tokio: poll_fn with Notify."},
    {"block", listeners_block, METH_O,
     "block($self, look, /)\n--\n\n"
     "As wait(), on a plain thread, which sleeps meanwhile. RuntimeError inside a task.\n\n"
     "A signal handler that raises ends the wait. Thread safety: any thread that runs no tasks."},
    {"wake_all", listeners_wake_all, METH_NOARGS,
     "wake_all($self, /)\n--\n\n"
     "Let everybody look again who waits now, or is about to; how many did. Call it after the change.\n\n"
     "Thread safety: any thread, and finalizers."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef listeners_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(ListenersObject, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot listeners_slots[] = {
    {Py_tp_doc,
     "Listeners()\n--\n\n"
     "Tasks and threads that all wait for the same news. What the news is, is the business of who owns the list.\n\n"
     "Who waits brings a function that looks whether there is something for it, or `PENDING`. Whoever has changed\n"
     "something calls wake_all(), after the change: everybody looks again. A change is never missed between a look "
     "and\nthe wait for the next.\n\n"
     "Where only one of those who wait is to be woken, use `WaitList`. `len(listeners)` is how many wait.\n\n"
     "Thread safety: every method, from any thread, also from a finalizer. Tokio: Notify::notify_waiters.\n\n"
     "Example::\n\n"
     "    import threading\n"
     "    import freerun\n"
     "    from freerun.lowlevel import PENDING, Listeners, Pending\n\n"
     "    class Flag:\n"
     "        def __init__(self) -> None:\n"
     "            self.reason: str | None = None\n"
     "            self.listeners = Listeners()\n\n"
     "        def set(self, reason: str) -> None:\n"
     "            self.reason = reason\n"
     "            self.listeners.wake_all()    # after the change\n\n"
     "        def look(self) -> str | Pending:\n"
     "            return PENDING if self.reason is None else self.reason\n\n"
     "        async def wait(self) -> str:\n"
     "            return await self.listeners.wait(self.look)\n\n"
     "    async def main() -> str:\n"
     "        flag = Flag()\n"
     "        threading.Timer(0.01, flag.set, [\"time is up\"]).start()\n"
     "        return await flag.wait()\n\n"
     "    assert freerun.run(main) == \"time is up\"\n"},
    {Py_tp_new, listeners_new},
    {Py_tp_dealloc, listeners_dealloc},
    {Py_tp_methods, listeners_methods},
    {Py_tp_members, listeners_members},
    {Py_sq_length, listeners_len},
    {0, NULL},
};

static PyType_Spec listeners_spec = {
    .name = "freerun.lowlevel.Listeners",
    .basicsize = sizeof(ListenersObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = listeners_slots,
};

int fr_listeners_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->listeners_type, &listeners_spec, "Listeners") ||
                   fr_module_add_type(mod, &mod->listen_type, &listen_spec, NULL)
               ? -1
               : 0;
}
