/* leaf: shared behaviour of awaitables, and the smallest of them: yield_now(), park(), Waker. */
#include "leaf.h"

#include <errno.h>
#include <unistd.h>

enum { SIGNAL_LOOK_NS = 100000000 }; /* see until_look() */

struct fr_task *fr_leaf_no_task(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this awaitable works inside a freerun task only; use freerun.run(), "
                                        "Runtime.block_on() or freerun.spawn() to get into one");
    return NULL;
}

void fr_leaf_shared(void)
{
    PyErr_SetString(PyExc_RuntimeError, "another task is awaiting this very object; each task needs its own: call the "
                                        "function again");
}

bool fr_leaf_may_take(struct fr_task *owner, struct fr_task *task)
{
    if (owner == task || fr_state_load(&owner->state) & FR_COMPLETE) {
        return true;
    }
    fr_leaf_shared();
    return false;
}

bool fr_leaf_move(struct fr_mutex *lock, struct fr_waiter *waiter, struct fr_task *task)
{
    void *before = task;
    fr_task_ref(task);
    if (!fr_waiter_retarget(lock, waiter, &before)) {
        fr_task_unref(task);
        return true;
    }
    if (!before) {
        return true;
    }
    bool may = fr_leaf_may_take(before, task);
    if (!may) {
        void *given_back = before;
        if (fr_waiter_retarget(lock, waiter, &given_back)) {
            before = given_back;
        } else {
            fr_task_wake(before); /* we were woken in its place meanwhile */
        }
    }
    fr_task_unref(before);
    return may;
}

int fr_leaf_may_block(const char *function, const char *instead)
{
    if (!fr_thread.worker) {
        return 0;
    }
    PyErr_Format(PyExc_RuntimeError, "%s() would block a worker: inside a task, await %s()", function, instead);
    return -1;
}

/* A signal that came just before the main thread slept, or to another thread, does not end its sleep: it looks. */
static int64_t until_look(void)
{
    return gettid() == getpid() ? SIGNAL_LOOK_NS : INT64_MAX;
}

int fr_leaf_wait_event(struct fr_event *event, int64_t timeout_ns)
{
    uint64_t deadline = timeout_ns < 0 ? UINT64_MAX : fr_clock_ns() + (uint64_t)timeout_ns;
    int64_t look = until_look();
    for (;;) {
        uint64_t now = timeout_ns < 0 ? 0 : fr_clock_ns();
        int64_t left = timeout_ns < 0 ? INT64_MAX : deadline > now ? (int64_t)(deadline - now) : 0;
        int64_t sleep = left < look ? left : look;
        PyThreadState *state = PyEval_SaveThread();
        int err = fr_event_wait(event, sleep == INT64_MAX ? -1 : sleep);
        PyEval_RestoreThread(state);
        int result = err == 0 ? 0 : err == -ETIMEDOUT && sleep == left ? 1 : PyErr_CheckSignals();
        if (err == 0 || result) {
            return result;
        }
    }
}

PyObject *fr_leaf_self(PyObject *self)
{
    return Py_NewRef(self);
}

/* The turn's millisecond begins now: it was not timed so far. */
static void time_turn(uint64_t now)
{
    struct fr_worker *worker = fr_thread.worker; /* NULL: given away in this poll, and there is nothing to share */
    fr_thread.looked = now;
    fr_thread.turn_ends = now + (worker ? worker->ticks_per_ms : 0);
}

bool fr_leaf_is_spent(void)
{
    if (fr_thread.budget == 0) {
        return true;
    }
    uint64_t now = fr_clock_ticks();
    if (!fr_thread.turn_ends) {
        time_turn(now);
    }
    return (int64_t)(now - fr_thread.turn_ends) > 0;
}

bool fr_leaf_look_at_clock(void)
{
    uint64_t now = fr_clock_ticks();
    if (!fr_thread.turn_ends) {
        time_turn(now);
        fr_thread.look_at = fr_thread.budget - 1; /* how fast leaves come is not known yet */
        return false;
    }
    int64_t left = (int64_t)(fr_thread.turn_ends - now);
    if (left < 0) {
        return true;
    }
    bool fast = (int64_t)(now - fr_thread.looked) < left / 8; /* twice as many take twice as long */
    fr_thread.stride = !fast ? 1 : fr_thread.stride < FR_STRIDE_MAX ? fr_thread.stride * 2 : FR_STRIDE_MAX;
    fr_thread.looked = now;
    fr_thread.look_at = fr_thread.budget > fr_thread.stride ? fr_thread.budget - fr_thread.stride : 0;
    return false;
}

/* Counting references to it costs no atomic. */
static bool is_of_this_thread(PyObject *object)
{
#ifdef Py_GIL_DISABLED
    return _Py_IsOwnedByCurrentThread(object);
#else
    (void)object;
    return true;
#endif
}

/* The worker's own StopIteration, if nobody else got hold of it. One that was made by another thread, which ran this
 * worker before, would do as well, but for two atomics per await. */
static PyStopIterationObject *reusable_stop(struct fr_worker *worker)
{
    PyStopIterationObject *stop = worker ? (PyStopIterationObject *)worker->stop_iteration : NULL;
    if (!stop || !is_of_this_thread((PyObject *)stop) || Py_REFCNT(stop) != 1 || stop->traceback || stop->context ||
        stop->cause) {
        return NULL;
    }
    return stop;
}

static PyObject *return_slowly(struct fr_worker *worker, PyObject *value)
{
    PyObject *stop = PyObject_CallNoArgs(PyExc_StopIteration);
    if (!stop) {
        Py_DECREF(value);
        return NULL;
    }
    Py_XSETREF(((PyStopIterationObject *)stop)->value, value);
    if (worker) {
        worker->returned = true;
        Py_XSETREF(worker->stop_iteration, Py_NewRef(stop));
    }
    PyErr_SetRaisedException(stop);
    return NULL;
}

PyObject *fr_leaf_take_back(PyTypeObject *type)
{
    PyStopIterationObject *stop = reusable_stop(fr_thread.worker);
    PyObject *value = stop ? stop->value : NULL;
    if (!value || Py_TYPE(value) != type || !is_of_this_thread(value) || Py_REFCNT(value) != 1) {
        return NULL;
    }
    stop->value = Py_NewRef(Py_None);
    return value;
}

void fr_leaf_forget(struct fr_worker *worker)
{
    worker->returned = false;
    PyStopIterationObject *stop = reusable_stop(worker);
    if (stop) { /* else somebody else has it and shall find the value in it; the next return replaces it */
        Py_XSETREF(stop->value, Py_NewRef(Py_None));
    } else {
        Py_CLEAR(worker->stop_iteration);
    }
}

/* A result other than None costs a StopIteration; making one per await would cost more than the await itself, so a
 * worker reuses its own. The interpreter drops it as soon as it has taken the value. */
PyObject *fr_leaf_return(PyObject *value)
{
    if (value == Py_None) {
        return NULL;
    }
    struct fr_worker *worker = fr_thread.worker;
    PyStopIterationObject *stop = reusable_stop(worker);
    if (!stop) {
        return return_slowly(worker, value);
    }
    worker->returned = !PyLong_CheckExact(value); /* an int may stay there: nobody can tell */
    Py_INCREF(stop); /* before the old value goes: its destructor may return through here, and must not find it free */
    Py_XSETREF(stop->value, value);
    PyErr_SetRaisedException((PyObject *)stop);
    return NULL;
}

PyObject *fr_leaf_raise(PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes 1 to 3 arguments");
    } else if (PyExceptionInstance_Check(args[0])) {
        PyErr_SetRaisedException(Py_NewRef(args[0]));
    } else if (PyExceptionClass_Check(args[0])) { /* the old form: type, value, traceback */
        PyErr_SetObject(args[0], nargs > 1 ? args[1] : Py_None);
    } else {
        PyErr_SetString(PyExc_TypeError, "exceptions must derive from BaseException");
    }
    return NULL;
}

PySendResult fr_take_stop(PyObject **result)
{
    *result = NULL;
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return PYGEN_ERROR;
    }
    PyObject *stop = PyErr_GetRaisedException();
    *result = Py_NewRef(((PyStopIterationObject *)stop)->value);
    Py_DECREF(stop);
    return PYGEN_RETURN;
}

PySendResult fr_leaf_send(PyObject *self, PyObject *Py_UNUSED(value), PyObject **result)
{
    *result = Py_TYPE(self)->tp_iternext(self);
    if (*result) {
        return PYGEN_NEXT;
    }
    if (!PyErr_Occurred()) {
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    return fr_take_stop(result);
}

/* ---- yield_now ---- */

/* The singleton holds no state: whether this await has yielded already stands in the task. */
static PyObject *yield_iternext(PyObject *Py_UNUSED(self))
{
    struct fr_task *task = fr_leaf_task();
    if (!task) {
        return NULL;
    }
    task->yielded = !task->yielded;
    return task->yielded ? fr_leaf_yield() : NULL;
}

static PyType_Slot yield_slots[] = {
    {Py_tp_doc, "What yield_now() returns."},
    FR_LEAF_SLOTS(yield_iternext),
    {0, NULL},
};

static PyType_Spec yield_spec = {
    .name = "freerun._core._native.YieldNow",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = yield_slots,
};

/* ---- consume_budget: yields only when the budget is spent ---- */

static PyObject *budget_iternext(PyObject *Py_UNUSED(self))
{
    if (!fr_leaf_task()) {
        return NULL;
    }
    return fr_leaf_spend() ? NULL : fr_leaf_yield();
}

static PyType_Slot budget_slots[] = {
    {Py_tp_doc, "What consume_budget() returns."},
    FR_LEAF_SLOTS(budget_iternext),
    {0, NULL},
};

static PyType_Spec budget_spec = {
    .name = "freerun._core._native.ConsumeBudget",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = budget_slots,
};

/* ---- ready: an await that ends at once, with None ---- */

static PyObject *ready_iternext(PyObject *Py_UNUSED(self))
{
    return NULL;
}

static PyType_Slot ready_slots[] = {
    {Py_tp_doc, "What an __aexit__() that has nothing to wait for returns."},
    FR_LEAF_SLOTS(ready_iternext),
    {0, NULL},
};

static PyType_Spec ready_spec = {
    .name = "freerun._core._native.Ready",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ready_slots,
};

/* ---- shielded_yield: lets others run, and nothing arrives meanwhile ---- */

/* Whether this await has yielded already stands in the task, which is resumed as if nothing were due for so long. What
 * was due meanwhile has had its wake: this one makes the task look again, once it waits for something else. */
static PyObject *shielded_iternext(PyObject *Py_UNUSED(self))
{
    struct fr_task *task = fr_leaf_task();
    if (!task) {
        return NULL;
    }
    task->shielded = !task->shielded;
    if (task->shielded) {
        return fr_leaf_yield();
    }
    fr_task_wake(task);
    return NULL;
}

/* Only a coroutine that is stepped by hand, or closed. */
static void shielded_let_go(PyObject *Py_UNUSED(self))
{
    if (fr_thread.task) {
        fr_thread.task->shielded = false;
    }
}

FR_LEAF_METHODS(shielded, shielded_let_go);

static PyType_Slot shielded_slots[] = {
    {Py_tp_doc, "What shielded_yield() returns."},
    {Py_tp_methods, shielded_methods},
    FR_LEAF_SLOTS(shielded_iternext),
    {0, NULL},
};

static PyType_Spec shielded_spec = {
    .name = "freerun._core._native.ShieldedYield",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = shielded_slots,
};

/* ---- park: one suspension, ended by any wake-up ---- */

typedef struct {
    PyObject_HEAD
    bool suspended;
} ParkObject;

static PyObject *park_iternext(PyObject *self)
{
    ParkObject *park = (ParkObject *)self;
    if (!fr_leaf_task()) {
        return NULL;
    }
    park->suspended = !park->suspended;
    return park->suspended ? fr_leaf_park() : NULL;
}

static void plain_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot park_slots[] = {
    {Py_tp_doc, "What park() returns."},
    FR_LEAF_SLOTS(park_iternext),
    {Py_tp_dealloc, plain_dealloc},
    {0, NULL},
};

static PyType_Spec park_spec = {
    .name = "freerun._core._native.Park",
    .basicsize = sizeof(ParkObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = park_slots,
};

/* ---- Waker ---- */

typedef struct {
    PyObject_HEAD
    struct fr_task *task; /* one reference */
} WakerObject;

static PyObject *waker_wake(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    fr_task_wake(((WakerObject *)self)->task);
    Py_RETURN_NONE;
}

static void waker_dealloc(PyObject *self)
{
    fr_task_unref(((WakerObject *)self)->task);
    plain_dealloc(self);
}

static PyMethodDef waker_methods[] = {
    {"wake", waker_wake, METH_NOARGS, "wake($self)\n--\n\nWake the task; harmless if it is awake or over."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot waker_slots[] = {
    {Py_tp_doc, "Wakes one task, from any thread."},
    {Py_tp_dealloc, waker_dealloc},
    {Py_tp_methods, waker_methods},
    {0, NULL},
};

static PyType_Spec waker_spec = {
    .name = "freerun._core._native.Waker",
    .basicsize = sizeof(WakerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = waker_slots,
};

/* ---- module functions ---- */

PyObject *fr_leaf_yield_now(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(((struct fr_module *)PyModule_GetState(module))->yield_now);
}

PyObject *fr_leaf_consume_budget(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(((struct fr_module *)PyModule_GetState(module))->consume_budget);
}

PyObject *fr_leaf_shielded_yield(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(((struct fr_module *)PyModule_GetState(module))->shielded_yield);
}

PyObject *fr_leaf_new_park(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct fr_module *mod = PyModule_GetState(module);
    return mod->park_type->tp_alloc(mod->park_type, 0);
}

PyObject *fr_leaf_refuse_on_worker(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *function, *instead;
    if (!PyArg_ParseTuple(args, "ss", &function, &instead) || fr_leaf_may_block(function, instead)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *fr_leaf_current_waker(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct fr_module *mod = PyModule_GetState(module);
    struct fr_task *task = fr_leaf_task();
    WakerObject *waker = task ? (WakerObject *)mod->waker_type->tp_alloc(mod->waker_type, 0) : NULL;
    if (waker) {
        fr_task_ref(task);
        waker->task = task;
    }
    return (PyObject *)waker;
}

/* The only object of its type, which it keeps. */
static PyObject *singleton(struct fr_module *mod, PyType_Spec *spec)
{
    PyTypeObject *type = NULL;
    if (fr_module_add_type(mod, &type, spec, NULL)) {
        return NULL;
    }
    PyObject *object = type->tp_alloc(type, 0);
    Py_DECREF(type);
    if (object) {
        fr_immortalise(object);
    }
    return object;
}

int fr_leaf_add_types(struct fr_module *mod)
{
    if (fr_module_add_type(mod, &mod->yield_type, &yield_spec, NULL) ||
        fr_module_add_type(mod, &mod->park_type, &park_spec, NULL) ||
        fr_module_add_type(mod, &mod->waker_type, &waker_spec, "Waker")) {
        return -1;
    }
    mod->yield_now = mod->yield_type->tp_alloc(mod->yield_type, 0);
    mod->consume_budget = singleton(mod, &budget_spec);
    mod->ready = singleton(mod, &ready_spec);
    mod->shielded_yield = singleton(mod, &shielded_spec);
    if (!mod->shielded_yield || !mod->yield_now || !mod->consume_budget || !mod->ready) {
        return -1;
    }
    fr_immortalise(mod->yield_now);
    return 0;
}
