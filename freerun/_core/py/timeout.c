/* timeout: `await timeout(s, aw)`, in the task that awaits it. Tokio: time::timeout.
 *
 * What is awaited is stepped first, so a value that is ready wins over a deadline that has passed. If it still waits
 * when the time is up it gets Cancelled thrown in, once; its cleanup may await, and what it ends with decides: with
 * Cancelled it was the timeout, a value or another exception stands as it is.
 *
 * THREADS    one steps it at a time (`stepping`); whichever drops it.
 * OWNERSHIP  the object owns what it awaits until that has ended. A coroutine that others have a reference to is
 *            claimed meanwhile, as a task's is.
 * FIELDS     inner     from the first step on the iterator that is stepped; NULL: it has ended
 *            line      the scopes that the awaited is in, see scope.h
 *            seconds   the limit, or FR_LIMIT_INSTANT
 *            when_ns   the deadline; unless one was given, from the first suspension on (`fixed`)
 *            began     when the first step began, by the coarse clock
 *            expired   Cancelled was thrown in. released: somebody else cancelled it, which takes the limit away
 *            from_outside  what the line owes is not the doing of a scope in it
 *            grace     what was due gave way only since its budget was spent, and was let go on, once
 * INVARIANTS TO1 the alarm is set at the first suspension and no earlier: what is ready costs no timer.
 *            TO2 when `inner` is NULL there is no alarm, no claim and no scope left.
 *            TO3 a token that is not freerun's is passed on as it is, for the task to refuse it [L1].
 * PROVED BY  tests/time/test_timeout.py, tests/time/test_timeout_nested.py
 */
#include "branch.h"

typedef struct {
    PyObject_HEAD
    struct fr_alarm alarm;
    PyObject *inner;
    struct fr_line line;
    uint64_t when_ns;
    double seconds;
    uint64_t began;
    bool started;
    bool fixed;
    bool claimed;
    bool expired;
    bool released;
    bool grace;
    bool from_outside;
} TimedObject;

static struct fr_module *module_of(TimedObject *self)
{
    return fr_module_of_type(Py_TYPE((PyObject *)self));
}

/* ---- one at a time ---- */

static bool enter(PyObject *op, bool *shared)
{
    return fr_inner_enter(op, &((TimedObject *)op)->alarm.sleep.stepping, shared);
}

static void leave(PyObject *op, bool shared)
{
    fr_inner_leave(&((TimedObject *)op)->alarm.sleep.stepping, shared);
}

/* ---- beginning and ending ---- */

/* [TO2] */
static void finish(TimedObject *self)
{
    fr_alarm_clear(&self->alarm);
    fr_scopes_drop(&self->line);
    fr_inner_drop(&self->inner, &self->claimed);
}

/* From what was given to what can be stepped. -1 with an exception. */
static int start(TimedObject *self, struct fr_task *task)
{
    self->started = true;
    if (!fr_timers_enabled(task->rt)) {
        fr_inner_refuse(module_of(self), self->inner);
        return -1;
    }
    if (!fr_inner_is_own(self->inner) && fr_inner_open(module_of(self), &self->inner, &self->claimed)) {
        return -1;
    }
    self->began = fr_clock_coarse_ns();
    return 0;
}

/* The time is up and the awaited has ended with Cancelled: it was that. */
static void raise_timeout(TimedObject *self)
{
    PyObject *cancelled = PyErr_GetRaisedException();
    PyObject *error = fr_timeout_error(self->seconds, cancelled);
    Py_DECREF(cancelled);
    if (error) {
        PyErr_SetRaisedException(error);
    }
}

static PySendResult ended(TimedObject *self, PySendResult sent)
{
    finish(self);
    (void)fr_spare_keep((PyObject *)self, FR_FREE_TIMED); /* it holds nothing any more [TO2] */
    if (sent == PYGEN_ERROR && self->expired && PyErr_ExceptionMatches(module_of(self)->exc_cancelled)) {
        raise_timeout(self);
    }
    return sent;
}

/* ---- one step ---- */

static PySendResult cancel(TimedObject *self, struct fr_task *task, PyObject **result)
{
    struct fr_module *mod = module_of(self);
    fr_thread.wait = FR_WAIT_NONE;
    task->yielded = false;
    PySendResult sent = fr_throw_into(mod, self->inner, PyObject_CallNoArgs(mod->exc_cancelled), result);
    fr_thread.thrown = NULL;
    return sent;
}

/* At the first suspension the limit becomes a deadline, counted from the first step: what took the awaited long before
 * it first waited counts, but for the last few milliseconds. A paused clock did not move meanwhile. */
static void fix_deadline(TimedObject *self, struct fr_runtime *rt, uint64_t now)
{
    /* relaxed: see fr_now_ns() */
    bool paused = atomic_load_explicit(&rt->paused, memory_order_relaxed);
    uint64_t passed = paused ? 0 : fr_passed_at_least(self->began), limit = fr_delay_ns(self->seconds);
    self->when_ns = passed < limit ? fr_deadline_after(now, limit - passed) : now;
    self->fixed = true;
}

/* Sets the alarm at the first suspension [TO1]. */
static bool is_due(TimedObject *self, struct fr_task *task)
{
    if (self->alarm.rt) {
        return fr_alarm_fired(&self->alarm);
    }
    uint64_t now = fr_now_ns(task->rt);
    if (!self->fixed) {
        fix_deadline(self, task->rt, now);
    }
    return self->when_ns <= now || (self->when_ns != FR_FOREVER_NS && !fr_alarm_set(&self->alarm, task, self->when_ns));
}

/* After a step: what still waits when the time is up is cancelled, once. */
static PySendResult limit(TimedObject *self, struct fr_task *task, PySendResult sent, PyObject **result)
{
    bool waits = sent == PYGEN_NEXT && *result == FR_TOKEN && fr_thread.wait != FR_WAIT_NONE; /* [TO3] */
    if (!waits || task->shielded || self->expired || self->released || !is_due(self, task)) {
        return sent;
    }
    if (fr_thread.refused && (fr_thread.wait & FR_WAIT_YIELD) && !self->grace) {
        self->grace = true; /* it may well be ready: one turn more will tell */
        return sent;
    }
    if (fr_scopes_shield(task)) {
        return sent; /* it looks again when that is left */
    }
    self->expired = true;
    fr_thread.thrown = FR_BY_LINE(&self->line);
    fr_scopes_overtake(task);
    return cancel(self, task, result);
}

/* An abort, or the doing of a scope or timeout around this one: the awaited ends for that reason, in its own time. */
static void release(TimedObject *self)
{
    self->expired = false;
    self->released = true;
    fr_alarm_clear(&self->alarm);
}

/* Whether Cancelled is due in the line, be it one from outside that was held back. */
static bool take_due(TimedObject *self, struct fr_task *task)
{
    bool due = !task->shielded && fr_scopes_take_due(task);
    if (due && self->from_outside && !task->owed) {
        self->from_outside = false;
        release(self);
    }
    return due;
}

static PySendResult step_line(TimedObject *self, struct fr_task *task, PyObject **result)
{
    struct fr_line outer = fr_line_begin(&self->line, task);
    PySendResult sent = take_due(self, task) ? cancel(self, task, result) : PyIter_Send(self->inner, Py_None, result);
    if (sent == PYGEN_NEXT) {
        sent = limit(self, task, sent, result);
    }
    fr_line_end(&self->line, task, outer);
    return sent;
}

static PySendResult step(TimedObject *self, struct fr_task *task, PyObject **result)
{
    if (self->started) {
        fr_leaf_descend();
    } else if (start(self, task)) {
        return ended(self, PYGEN_ERROR);
    }
    if (!self->inner) {
        PyErr_SetString(PyExc_RuntimeError, "this timeout() has been awaited already; call it again");
        return PYGEN_ERROR;
    }
    if (self->alarm.rt && !fr_alarm_is_for(&self->alarm, task) && !fr_alarm_take(&self->alarm, task, self->when_ns)) {
        return PYGEN_ERROR;
    }
    PySendResult sent = step_line(self, task, result);
    return sent == PYGEN_NEXT ? sent : ended(self, sent);
}

/* A nest of timeouts must not overflow the C stack. From 3.14 on every frame looks at the stack by itself, for it as well
 * as for us: before that it counts how deep it is, and each of us counts, too. */
static bool descend(TimedObject *self, bool *counted)
{
#if PY_VERSION_HEX >= 0x030E0000
    *counted = !self->inner || !PyCoro_CheckExact(self->inner);
#else
    (void)self;
    *counted = true;
#endif
    return !*counted || Py_EnterRecursiveCall(" in timeout()") == 0;
}

static PySendResult timed_send(PyObject *op, PyObject *Py_UNUSED(value), PyObject **result)
{
    TimedObject *self = (TimedObject *)op;
    struct fr_task *task = fr_leaf_task();
    bool shared, counted;
    *result = NULL;
    if (!task || !enter(op, &shared)) {
        return PYGEN_ERROR;
    }
    PySendResult sent = PYGEN_ERROR;
    if (descend(self, &counted)) {
        sent = step(self, task, result);
        if (counted) {
            Py_LeaveRecursiveCall();
        }
    }
    leave(op, shared);
    return sent;
}

static PyObject *timed_iternext(PyObject *op)
{
    PyObject *result;
    PySendResult sent = timed_send(op, Py_None, &result);
    return fr_inner_next(sent, result);
}

/* ---- from outside: throw() and close() ---- */

static bool is_cancelled(TimedObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return nargs > 0 && PyErr_GivenExceptionMatches(args[0], module_of(self)->exc_cancelled);
}

static PySendResult throw_line(TimedObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject **result)
{
    struct fr_task *task = fr_thread.task; /* NULL: a coroutine is thrown into by hand */
    struct fr_line outer = {.scopes = NULL};
    if (task) {
        outer = fr_line_begin(&self->line, task);
    }
    bool cancelled = is_cancelled(self, args, nargs);
    PySendResult sent;
    if (cancelled && task && fr_line_hold(&self->line, task)) {
        self->from_outside = true;
        sent = PyIter_Send(self->inner, Py_None, result); /* as if woken for nothing */
    } else {
        if (cancelled) {
            release(self);
        }
        if (cancelled && task) {
            fr_scopes_overtake(task);
        }
        sent = fr_inner_throw(module_of(self), self->inner, args, nargs, result);
    }
    if (task) {
        sent = limit(self, task, sent, result);
        fr_line_end(&self->line, task, outer);
    }
    return sent == PYGEN_NEXT ? sent : ended(self, sent);
}

static PySendResult throw_in(TimedObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject **result)
{
    if (self->started && self->inner) {
        return throw_line(self, args, nargs, result);
    }
    if (self->inner) {
        self->started = true;
        fr_inner_refuse(module_of(self), self->inner);
        finish(self);
    }
    fr_leaf_raise(args, nargs);
    return PYGEN_ERROR;
}

static PyObject *timed_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    TimedObject *self = (TimedObject *)op;
    bool shared;
    if (!enter(op, &shared)) {
        return NULL;
    }
    PyObject *result = NULL;
    PySendResult sent = throw_in(self, args, nargs, &result);
    leave(op, shared);
    return fr_inner_thrown(sent, result);
}

static PyObject *close_line(TimedObject *self)
{
    struct fr_task *task = fr_thread.task;
    struct fr_line outer = {.scopes = NULL};
    if (task) {
        outer = fr_line_begin(&self->line, task);
    }
    fr_alarm_clear(&self->alarm);
    PyObject *done = fr_inner_close(module_of(self), self->inner);
    if (task) {
        fr_line_end(&self->line, task, outer);
    }
    return done;
}

static PyObject *timed_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TimedObject *self = (TimedObject *)op;
    bool shared;
    if (!enter(op, &shared)) {
        return NULL;
    }
    PyObject *done = self->started && self->inner ? close_line(self) : Py_NewRef(Py_None);
    if (!self->started) {
        fr_inner_refuse(module_of(self), self->inner);
    }
    self->started = true;
    finish(self);
    leave(op, shared);
    return done;
}

/* ---- the Python object ---- */

static int timed_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((TimedObject *)op)->inner);
    return 0;
}

static int timed_clear(PyObject *op)
{
    ((TimedObject *)op)->line.owed = NULL; /* in whichever task the collector runs */
    finish((TimedObject *)op);
    return 0;
}

static void timed_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, timed_dealloc)
    if (((TimedObject *)op)->inner) { /* else it is done [TO2] */
        timed_clear(op);
    }
    fr_dealloc(op, FR_FREE_TIMED);
    FR_TRASHCAN_END
}

static PyObject *timed_get_coro(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *inner = ((TimedObject *)op)->inner;
    return Py_NewRef(inner ? inner : Py_None);
}

static PyMethodDef timed_methods[] = {
    {"throw", (PyCFunction)(void (*)(void))timed_throw, METH_FASTCALL, NULL},
    {"close", timed_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef timed_getset[] = {
    {"_coro", timed_get_coro, NULL, "What is awaited, for dumps; the task must not run.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot timed_slots[] = {
    {Py_tp_doc, "What timeout(seconds, awaitable) returns."},
    {Py_tp_dealloc, timed_dealloc},
    {Py_tp_traverse, timed_traverse},
    {Py_tp_clear, timed_clear},
    {Py_tp_methods, timed_methods},
    {Py_tp_getset, timed_getset},
    {Py_tp_iter, fr_leaf_self},
    {Py_tp_iternext, timed_iternext},
    {Py_am_await, fr_leaf_self},
    {Py_am_send, timed_send},
    {0, NULL},
};

static PyType_Spec timed_spec = {
    .name = "freerun._core._native.Timed",
    .basicsize = sizeof(TimedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = timed_slots,
};

/* Steals `inner`. With FR_LIMIT_INSTANT: until when_ns. */
static PyObject *timed_new(struct fr_module *mod, double seconds, uint64_t when_ns, PyObject *inner)
{
    TimedObject *self = (TimedObject *)fr_spare_take(mod->timed_type, FR_FREE_TIMED);
    bool tracked = self != NULL;
    if (!self && !(self = (TimedObject *)fr_alloc_gc(mod->timed_type, FR_FREE_TIMED))) {
        Py_DECREF(inner);
        return NULL;
    }
    fr_alarm_init(&self->alarm);
    self->inner = inner;
    self->line = (struct fr_line){.scopes = NULL};
    self->when_ns = when_ns;
    self->seconds = seconds;
    self->fixed = seconds < 0;
    self->started = self->claimed = self->expired = self->released = self->grace = false;
    self->from_outside = false;
    if (!tracked) {
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

/* ---- module functions ---- */

/* With an awaitable (or an async function and its arguments) or, for `async with`, without. */
static PyObject *make(struct fr_module *mod, double seconds, uint64_t when_ns, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs == 0 || (nargs == 1 && args[0] == Py_None)) {
        return fr_scope_new(mod, seconds, when_ns);
    }
    PyObject *inner = nargs == 1 && PyCoro_CheckExact(args[0])
                          ? Py_NewRef(args[0])
                          : fr_awaitable(args[0], args + 1, nargs - 1, "awaitable");
    return inner ? timed_new(mod, seconds, when_ns, inner) : NULL;
}

/* fr_parse_seconds() for what is written most. */
static int parse_limit(PyObject *value, double *seconds)
{
    if (PyLong_CheckExact(value) && PyUnstable_Long_IsCompact((PyLongObject *)value)) {
        *seconds = (double)PyUnstable_Long_CompactValue((PyLongObject *)value);
    } else if (PyFloat_CheckExact(value)) {
        *seconds = PyFloat_AS_DOUBLE(value);
    } else {
        *seconds = -1;
    }
    return *seconds >= 0 ? 0 : fr_parse_seconds(value, "seconds", seconds);
}

PyObject *fr_timeout(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    double seconds;
    if (fr_task_need_one(nargs, "timeout", "seconds") || parse_limit(args[0], &seconds)) {
        return NULL;
    }
    return make(PyModule_GetState(module), seconds, 0, args + 1, nargs - 1);
}

PyObject *fr_timeout_at(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t when_ns;
    if (fr_task_need_one(nargs, "timeout_at_ns", "deadline_ns") || fr_parse_instant(args[0], &when_ns)) {
        return NULL;
    }
    return make(PyModule_GetState(module), FR_LIMIT_INSTANT, when_ns, args + 1, nargs - 1);
}

int fr_timeout_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->timed_type, &timed_spec, NULL);
}
