/* scope: `async with timeout(s)`, and what other scopes are made of: cancel_scope.c. See scope.h for who may do what. */
#include "scope.h"

#include "leaf.h"

uint64_t fr_by_abort; /* its address is what counts */

/* ---- stacks ---- */

static bool is_active(struct fr_scope *scope)
{
    /* relaxed: left by this thread, or, in another task than it belongs to, by somebody who wants nothing of us */
    return atomic_load_explicit(&scope->phase, memory_order_relaxed) == FR_SCOPE_ACTIVE;
}

/* Marks what is inside of `outer`, down from the innermost [C3]. */
static void overtake(struct fr_scope *innermost, struct fr_scope *outer, void *by)
{
    for (struct fr_scope *scope = innermost; scope != outer; scope = scope->parent) {
        scope->overtaken = by;
    }
}

/* The innermost shield of those inside of `outer`, NULL if there is none. */
static struct fr_scope *shield_within(struct fr_task *task, struct fr_scope *outer)
{
    for (struct fr_scope *scope = task->scopes; scope != outer; scope = scope->parent) {
        if (scope->shield && is_active(scope)) {
            return scope;
        }
    }
    return NULL;
}

bool fr_scopes_shield_slow(struct fr_task *task)
{
    struct fr_scope *shield = shield_within(task, task->floor);
    if (shield) {
        shield->held = true;
    }
    return shield != NULL;
}

/* `by`, if that is a scope that the task is in still. It may be long gone: it is only compared. */
static struct fr_scope *find(struct fr_scope *innermost, struct fr_scope *end, void *by)
{
    struct fr_scope *scope = innermost;
    while (scope != end && (void *)scope != by) {
        scope = scope->parent;
    }
    return scope == end ? NULL : scope;
}

static bool is_scope(void *by)
{
    return by && by != FR_BY_ABORT && !((uintptr_t)by & 1);
}

/* As far as one can tell: of two that are no scopes of this task, the first. */
static bool is_outside(struct fr_task *task, void *by, void *of)
{
    if (of == FR_BY_ABORT || !is_scope(of)) {
        return is_scope(by) ? false : of != FR_BY_ABORT;
    }
    struct fr_scope *inner = find(task->scopes, NULL, of);
    return !is_scope(by) || (inner && find(inner->parent, NULL, by));
}

void fr_scopes_owe(struct fr_task *task, void *by)
{
    if (!task->owed || !is_outside(task, task->owed, by)) {
        task->owed = by;
    }
}

/* Whether the line being stepped can pay what it owes. *outer: the scope of its own that wants it, else all are inside. */
static bool take_owed(struct fr_task *task, struct fr_scope **outer)
{
    void *by = task->owed;
    if (is_scope(by) && !find(task->scopes, NULL, by)) {
        task->owed = NULL; /* that was left meanwhile */
        return false;
    }
    struct fr_scope *own = find(task->scopes, task->floor, by);
    *outer = own ? own : task->floor;
    struct fr_scope *shield = shield_within(task, *outer);
    if (shield) {
        shield->held = true;
        return false;
    }
    task->owed = NULL;
    return true;
}

/* The outermost of those due that no shield keeps off, NULL if there is none. */
static struct fr_scope *take_scopes(struct fr_task *task)
{
    struct fr_scope *shield = NULL, *outermost = NULL;
    for (struct fr_scope *scope = task->scopes; scope != task->floor; scope = scope->parent) {
        if (!is_active(scope)) {
            continue;
        }
        if (!scope->delivered && fr_scope_is_due(scope)) {
            if (shield) {
                shield->held = true;
                break;
            }
            scope->delivered = true;
            outermost = scope;
        }
        if (scope->shield && !shield) {
            shield = scope;
        }
    }
    return outermost;
}

bool fr_scopes_take(struct fr_task *task)
{
    struct fr_scope *outer = take_scopes(task);
    void *by = outer;
    if (outer && task->owed) {
        fr_task_wake(task); /* the debt comes next */
    } else if (task->owed) {
        void *owed = task->owed;
        by = take_owed(task, &outer) ? owed : NULL;
    }
    if (by) {
        overtake(task->scopes, outer, by);
        fr_thread.thrown = by;
    }
    return by != NULL;
}

void fr_scopes_overtake(struct fr_task *task)
{
    void *by = fr_thread.thrown;
    fr_scopes_take_due(task); /* [C2] */
    overtake(task->scopes, task->floor, by ? by : FR_BY_LINE(task->floor));
    fr_thread.thrown = by;
}

/* Takes out what *link points to. Its own reference to its parent, and the stack's to it, change hands. */
static void unlink_at(struct fr_scope **link)
{
    struct fr_scope *scope = *link;
    *link = scope->parent;
    scope->parent = NULL;
    Py_DECREF(scope);
}

/* Scopes on top that were left elsewhere [C4]. */
static void prune(struct fr_task *task)
{
    while (task->scopes != task->floor && !is_active(task->scopes)) {
        unlink_at(&task->scopes);
    }
}

static void push(struct fr_task *task, struct fr_scope *scope)
{
    prune(task);
    scope->parent = task->scopes; /* its reference moves along */
    task->scopes = (struct fr_scope *)Py_NewRef((PyObject *)scope);
}

/* Mostly it is the innermost. In another line's stack it stays, until that is pruned or dropped [C4]. */
static void pop(struct fr_task *task, struct fr_scope *scope)
{
    struct fr_scope **link = &task->scopes;
    while (*link != task->floor && *link != scope) {
        link = &(*link)->parent;
    }
    if (*link != task->floor) {
        unlink_at(link);
        prune(task);
    }
}

/* ---- entering and leaving ---- */

/* The alarm is set, or the scope is due at once: its task looks again before it waits [C1]. */
static void arm(struct fr_scope *scope, struct fr_task *task, uint64_t now)
{
    bool due = scope->when_ns <= now ||
               (scope->when_ns != FR_FOREVER_NS && !fr_alarm_set(&scope->alarm, task, scope->when_ns));
    if (due) {
        atomic_store_explicit(&scope->cancelled, true, memory_order_release); /* pairs with fr_scope_is_due() */
    }
}

static void activate(struct fr_scope *scope, struct fr_task *task)
{
    fr_task_ref(task);
    scope->task = task;
    if (atomic_load_explicit(&scope->cancelled, memory_order_relaxed)) {
        return; /* before it was entered */
    }
    uint64_t now = fr_now_ns(task->rt);
    if (!scope->fixed) {
        scope->fixed = true;
        scope->when_ns = fr_deadline_after(now, fr_delay_ns(scope->seconds));
    }
    arm(scope, task, now);
}

static const char *noun(struct fr_scope *scope)
{
    return scope->plain ? "CancelScope" : "timeout";
}

/* -1 with RuntimeError: it was entered before. */
static int begin(struct fr_scope *scope, struct fr_task *task)
{
    bool first;
    Py_BEGIN_CRITICAL_SECTION(scope);
    first = atomic_load_explicit(&scope->phase, memory_order_relaxed) == FR_SCOPE_NEW;
    if (first) {
        atomic_store_explicit(&scope->phase, FR_SCOPE_ACTIVE, memory_order_relaxed);
        activate(scope, task);
    }
    Py_END_CRITICAL_SECTION();
    if (first) {
        return 0;
    }
    PyErr_Format(PyExc_RuntimeError, "this %s has been entered before; call %s() again for each 'with' block",
                 noun(scope), noun(scope));
    return -1;
}

static bool needs_timers(struct fr_scope *scope)
{
    return !scope->plain || !scope->fixed || scope->when_ns != FR_FOREVER_NS;
}

int fr_scope_enter(struct fr_scope *scope)
{
    struct fr_task *task = fr_leaf_task();
    if (!task || (needs_timers(scope) && !fr_timers_enabled(task->rt)) || begin(scope, task)) {
        return -1;
    }
    push(task, scope);
    if (atomic_load_explicit(&scope->cancelled, memory_order_relaxed)) {
        fr_task_wake(task); /* [C1] */
    }
    return 0;
}

/* Ends it: nothing fires any more. The task's reference goes to the caller; NULL: it was not active. */
static struct fr_task *end(struct fr_scope *scope)
{
    struct fr_task *task = NULL;
    Py_BEGIN_CRITICAL_SECTION(scope);
    if (atomic_load_explicit(&scope->phase, memory_order_relaxed) == FR_SCOPE_ACTIVE) {
        atomic_store_explicit(&scope->phase, FR_SCOPE_DONE, memory_order_relaxed);
        fr_alarm_clear(&scope->alarm);
        task = scope->task;
        scope->task = NULL;
    }
    Py_END_CRITICAL_SECTION();
    return task;
}

void fr_scopes_drop_slow(struct fr_line *line)
{
    struct fr_task *debtor = fr_thread.task;
    if (line->owed && line->owed != FR_BY_LINE(line) && debtor && line->debtor == debtor) {
        debtor->owed = debtor->owed ? debtor->owed : line->owed;
        fr_task_wake(debtor); /* [C5] */
    }
    line->owed = NULL;
    if (!line->scopes) {
        return;
    }
    while (line->scopes != line->floor) {
        struct fr_task *task = end(line->scopes);
        if (task) {
            fr_task_unref(task);
        }
        unlink_at(&line->scopes);
    }
    Py_XDECREF(line->floor); /* held by the outermost of them, for the stack */
    line->scopes = line->floor = NULL;
}

/* A scope around this one is due and has not been delivered: then the Cancelled that is on its way is that one's [C3]. */
static bool yields_to_outer(struct fr_scope *scope)
{
    bool shielded = scope->shield;
    for (struct fr_scope *outer = scope->parent; outer && !shielded; outer = outer->parent) {
        if (is_active(outer) && !outer->delivered && fr_scope_is_due(outer)) {
            outer->delivered = true;
            overtake(scope, outer, outer);
            return true;
        }
        shielded = outer->shield && is_active(outer);
    }
    return false;
}

static bool is_cancelled(struct fr_module *mod, PyObject *error)
{
    return error != Py_None && PyErr_GivenExceptionMatches(error, mod->exc_cancelled);
}

/* Whether the Cancelled that ends the body is this scope's own doing. */
static bool is_own(struct fr_scope *scope)
{
    return fr_scope_is_due(scope) && !scope->overtaken && !yields_to_outer(scope);
}

static PyObject *timeout_message(double seconds)
{
    if (seconds < 0) {
        return PyUnicode_FromString(seconds == FR_LIMIT_CUT ? "ended by cancel()" : "the deadline has passed");
    }
    char *number = PyOS_double_to_string(seconds, 'g', 12, 0, NULL);
    PyObject *message = number ? PyUnicode_FromFormat("not done within %s s", number) : NULL;
    PyMem_Free(number);
    return message;
}

PyObject *fr_timeout_error(double seconds, PyObject *cancelled)
{
    PyObject *message = timeout_message(seconds);
    PyObject *error = message ? PyObject_CallOneArg(PyExc_TimeoutError, message) : NULL;
    Py_XDECREF(message);
    if (error) {
        fr_error_set_cause(error, cancelled);
    }
    return error;
}

/* The task that leaves is not the one that entered. Its stack is its own to clear up [C4]. */
static int left_elsewhere(struct fr_scope *scope, PyObject *kind)
{
    if (!fr_thread.task || kind == PyExc_GeneratorExit) {
        return 0; /* the garbage collector's doing, or somebody else's who closes a generator */
    }
    PyErr_Format(PyExc_RuntimeError, "this %s is left in another task than the one that entered it", noun(scope));
    return -1;
}

/* It was cancelled too late to do anything: for expired(). */
static void forget(struct fr_scope *scope)
{
    atomic_store_explicit(&scope->cancelled, false, memory_order_relaxed);
    fr_alarm_forget(&scope->alarm);
}

/* It is its task that leaves. */
static int leave(struct fr_module *mod, struct fr_scope *scope, struct fr_task *task, PyObject *error)
{
    bool shield = scope->shield;
    bool own = is_cancelled(mod, error) && is_own(scope);
    if (!own && !scope->delivered && !scope->plain) {
        forget(scope);
    }
    scope->caught = own;
    if (task->owed == (void *)scope) {
        task->owed = NULL;
    }
    pop(task, scope);
    if (shield && scope->held) {
        fr_task_wake(task); /* [C5] */
    }
    return own;
}

int fr_scope_leave(struct fr_module *mod, struct fr_scope *scope, PyObject *kind, PyObject *error)
{
    struct fr_task *task = end(scope);
    if (!task) {
        if (atomic_load_explicit(&scope->phase, memory_order_relaxed) == FR_SCOPE_NEW) {
            PyErr_Format(PyExc_RuntimeError, "this %s has not been entered", noun(scope));
            return -1;
        }
        return 0; /* its task had ended */
    }
    int result = task == fr_thread.task ? leave(mod, scope, task, error) : left_elsewhere(scope, kind);
    fr_task_unref(task);
    return result;
}

void fr_scope_cancel_again(struct fr_scope *scope)
{
    struct fr_task *task = fr_thread.task;
    if (task && scope->overtaken && !task->owed) {
        task->owed = scope->overtaken;
        fr_task_wake(task);
    }
}

void fr_scope_cancel(struct fr_scope *scope)
{
    struct fr_task *task = NULL;
    Py_BEGIN_CRITICAL_SECTION(scope);
    uint8_t phase = atomic_load_explicit(&scope->phase, memory_order_relaxed);
    if (phase != FR_SCOPE_DONE) {
        atomic_store_explicit(&scope->asked, true, memory_order_relaxed); /* for those who ask */
    }
    if (phase != FR_SCOPE_DONE && !fr_scope_is_due(scope)) {
        /* release: pairs with fr_scope_is_due() */
        atomic_store_explicit(&scope->cancelled, true, memory_order_release);
        scope->seconds = FR_LIMIT_CUT;
        if (phase == FR_SCOPE_ACTIVE) {
            task = scope->task;
            fr_task_ref(task);
        }
    }
    Py_END_CRITICAL_SECTION();
    if (task) { /* [C1] */
        fr_task_wake_unref(task);
    }
}

/* ---- the Python object ---- */

static PyObject *scope_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return fr_scope_enter((struct fr_scope *)self) ? NULL : Py_NewRef(self);
}

/* What `await scope.__aenter__()` iterates over is the scope: it is there at once. */
static PyObject *scope_iternext(PyObject *self)
{
    if (is_active((struct fr_scope *)self)) {
        return fr_leaf_return(Py_NewRef(self));
    }
    PyErr_SetString(PyExc_TypeError, "timeout(seconds) without an awaitable is for 'async with'; await "
                                     "timeout(seconds, awaitable), or sleep(seconds)");
    return NULL;
}

static PyObject *scope_exit(PyObject *self, PyTypeObject *cls, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *Py_UNUSED(kwnames))
{
    struct fr_module *mod = fr_module_of_type(cls);
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "__aexit__() takes 3 arguments");
        return NULL;
    }
    struct fr_scope *scope = (struct fr_scope *)self;
    int own = fr_scope_leave(mod, scope, args[0], args[1]);
    PyObject *timeout = own > 0 ? fr_timeout_error(scope->seconds, args[1]) : NULL;
    if (timeout) {
        PyErr_SetRaisedException(timeout);
    }
    return own ? NULL : Py_NewRef(mod->ready);
}

static PyObject *scope_cancel(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    fr_scope_cancel((struct fr_scope *)self);
    Py_RETURN_NONE;
}

static PyObject *scope_expired(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(fr_scope_is_due((struct fr_scope *)self));
}

static PyObject *instant_type(void)
{
    PyObject *module = PyImport_ImportModule("freerun.time.instant");
    PyObject *type = module ? PyObject_GetAttrString(module, "Instant") : NULL;
    Py_XDECREF(module);
    return type;
}

PyObject *fr_scope_deadline(struct fr_scope *scope)
{
    uint64_t when;
    Py_BEGIN_CRITICAL_SECTION(scope);
    when = scope->fixed ? scope->when_ns : FR_FOREVER_NS;
    Py_END_CRITICAL_SECTION();
    if (when == FR_FOREVER_NS) {
        Py_RETURN_NONE;
    }
    PyObject *type = instant_type();
    PyObject *ns = type ? PyLong_FromUnsignedLongLong(when) : NULL;
    PyObject *instant = ns ? PyObject_CallOneArg(type, ns) : NULL;
    Py_XDECREF(ns);
    Py_XDECREF(type);
    return instant;
}

static PyObject *scope_when(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return fr_scope_deadline((struct fr_scope *)self);
}

int fr_parse_instant_object(PyObject *value, uint64_t *when_ns)
{
    PyObject *type = instant_type();
    int is_instant = type ? PyObject_IsInstance(value, type) : -1;
    Py_XDECREF(type);
    if (is_instant <= 0) {
        return is_instant;
    }
    PyObject *ns = PyObject_GetAttrString(value, "ns");
    int result = ns ? fr_parse_instant(ns, when_ns) : -1;
    Py_XDECREF(ns);
    return result ? -1 : 1;
}

/* An Instant or None. 0 or -1 with TypeError. */
static int parse_when(PyObject *value, uint64_t *when_ns)
{
    *when_ns = FR_FOREVER_NS;
    int found = value == Py_None ? 1 : fr_parse_instant_object(value, when_ns);
    if (found == 0) {
        PyErr_Format(PyExc_TypeError,
                     "argument 'when' must be a freerun.time.Instant or None, not %.200s; "
                     "Instant.now() + seconds gives one",
                     Py_TYPE(value)->tp_name);
    }
    return found > 0 ? 0 : -1;
}

enum moved { MOVED, MOVED_DUE, TOO_LATE, NO_TIMERS };

/* In the critical section. */
static enum moved move(struct fr_scope *scope, double seconds, uint64_t when_ns)
{
    uint8_t phase = atomic_load_explicit(&scope->phase, memory_order_relaxed);
    if (phase == FR_SCOPE_DONE || fr_scope_is_due(scope)) {
        return TOO_LATE;
    }
    if (phase == FR_SCOPE_ACTIVE && !scope->task->rt->time && (seconds >= 0 || when_ns != FR_FOREVER_NS)) {
        return NO_TIMERS;
    }
    fr_alarm_clear(&scope->alarm);
    if (fr_alarm_fired(&scope->alarm)) {
        return TOO_LATE;
    }
    if (phase == FR_SCOPE_ACTIVE && seconds >= 0) { /* from now on */
        when_ns = fr_deadline_after(fr_now_ns(scope->task->rt), fr_delay_ns(seconds));
    }
    scope->when_ns = when_ns;
    scope->fixed = phase == FR_SCOPE_ACTIVE || seconds < 0;
    scope->seconds = scope->fixed ? FR_LIMIT_INSTANT : seconds;
    if (phase == FR_SCOPE_ACTIVE) {
        arm(scope, scope->task, fr_now_ns(scope->task->rt));
    }
    return fr_scope_is_due(scope) ? MOVED_DUE : MOVED;
}

int fr_scope_move(struct fr_scope *scope, double seconds, uint64_t when_ns)
{
    struct fr_task *task = NULL;
    enum moved moved;
    Py_BEGIN_CRITICAL_SECTION(scope);
    moved = move(scope, seconds, when_ns);
    if (moved == MOVED_DUE && scope->task) {
        task = scope->task;
        fr_task_ref(task);
    }
    Py_END_CRITICAL_SECTION();
    if (task) { /* [C1] */
        fr_task_wake_unref(task);
    }
    if (moved == NO_TIMERS) {
        fr_no_timers();
    } else if (moved == TOO_LATE) {
        PyErr_Format(PyExc_RuntimeError, "this %s is over, or %s: it cannot be rescheduled", noun(scope),
                     scope->plain ? "has been cancelled" : "has expired");
    }
    return moved == TOO_LATE || moved == NO_TIMERS ? -1 : 0;
}

static PyObject *scope_reschedule(PyObject *self, PyObject *value)
{
    uint64_t when_ns;
    if (parse_when(value, &when_ns) || fr_scope_move((struct fr_scope *)self, FR_LIMIT_INSTANT, when_ns)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *scope_repr(PyObject *self)
{
    static const char *const names[] = {"created", "active", "finished"};
    struct fr_scope *scope = (struct fr_scope *)self;
    uint8_t phase = atomic_load_explicit(&scope->phase, memory_order_relaxed); /* for people */
    return PyUnicode_FromFormat("<Timeout %s>", fr_scope_is_due(scope) ? "expired" : names[phase]);
}

/* Nobody waits in it: whoever is in a scope holds it in the stack. */
static void scope_dealloc(PyObject *self)
{
    fr_dealloc(self, FR_FREE_SCOPE);
}

static PyMethodDef scope_methods[] = {
    {"__aenter__", scope_enter, METH_NOARGS, NULL},
    {"__aexit__", (PyCFunction)(void (*)(void))scope_exit, METH_METHOD | METH_FASTCALL | METH_KEYWORDS, NULL},
    {"cancel", scope_cancel, METH_NOARGS,
     "cancel($self, /)\n--\n\n"
     "Let the time be up now: the body is cancelled where it waits, and `TimeoutError` raised.\n\n"
     "Does nothing if it is up already, or the body is over. Before it is entered: it expires on entry.\n"
     "Thread safety: any thread. Cancel safety: does not wait. Tokio: none."},
    {"expired", scope_expired, METH_NOARGS,
     "expired($self, /)\n--\n\nWhether the time was up before the body was over."},
    {"when", scope_when, METH_NOARGS,
     "when($self, /)\n--\n\n"
     "The deadline, an `Instant`; None if there is none, or if it is counted from an entry that is still to come."},
    {"reschedule", scope_reschedule, METH_O,
     "reschedule($self, when, /)\n--\n\n"
     "Move the deadline: to an `Instant`, or to never (None). One that has passed ends the body at its next await.\n\n"
     "Errors: `RuntimeError` when the time is up or the body over, `TypeError` for anything but an Instant or None.\n"
     "Thread safety: any thread. Tokio: `Sleep::reset`."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot scope_slots[] = {
    {Py_tp_doc, "What `timeout(seconds)` and `timeout_at(deadline)` return: `async with` it, once.\n\n"
                "The body gets `Cancelled` at the await where it waits when the time is up, once; that becomes\n"
                "`TimeoutError` at the end of the block. A time that is up after the body is over does nothing.\n"
                "Thread safety: the methods may be called from any thread. Tokio: none; `asyncio.Timeout`.\n\n"
                "Example::\n\n"
                "    import freerun\n"
                "    from freerun.time import Instant, sleep, timeout\n\n"
                "    async def main() -> bool:\n"
                "        try:\n"
                "            async with timeout(3600) as scope:\n"
                "                scope.reschedule(Instant.now() + 0.01)\n"
                "                await sleep(3600)\n"
                "        except TimeoutError:\n"
                "            return scope.expired()\n"
                "        return False\n\n"
                "    assert freerun.run(main)\n"},
    {Py_tp_dealloc, scope_dealloc},
    {Py_tp_repr, scope_repr},
    {Py_tp_methods, scope_methods},
    {Py_tp_iter, fr_leaf_self},
    {Py_tp_iternext, scope_iternext},
    {Py_am_await, fr_leaf_self},
    {Py_am_send, fr_leaf_send},
    {0, NULL},
};

static PyType_Spec scope_spec = {
    .name = "freerun.time.Timeout",
    .basicsize = sizeof(struct fr_scope),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = scope_slots,
};

void fr_scope_init(struct fr_scope *scope, double seconds, uint64_t when_ns)
{
    fr_alarm_init(&scope->alarm);
    scope->parent = NULL;
    scope->task = NULL;
    scope->when_ns = when_ns;
    scope->seconds = seconds;
    atomic_init(&scope->phase, FR_SCOPE_NEW);
    atomic_init(&scope->cancelled, false);
    atomic_init(&scope->asked, false);
    scope->fixed = seconds < 0;
    scope->delivered = scope->plain = scope->shield = scope->held = scope->caught = false;
    scope->overtaken = NULL;
}

PyObject *fr_scope_new(struct fr_module *mod, double seconds, uint64_t when_ns)
{
    struct fr_scope *scope = (struct fr_scope *)fr_alloc(mod->scope_type, FR_FREE_SCOPE);
    if (scope) {
        fr_scope_init(scope, seconds, when_ns);
    }
    return (PyObject *)scope;
}

int fr_scope_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->scope_type, &scope_spec, "Timeout");
}
