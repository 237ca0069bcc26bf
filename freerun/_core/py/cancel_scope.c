/* cancel_scope: freerun.CancelScope, a scope that ends quietly when it is cancelled, and may be a shield. See scope.h.
 *
 * THREADS    cancel, deadline, cancel_called: any. Entering, leaving and `shield` while it is active: its task.
 * OWNERSHIP  as in scope.h.
 * SHUTDOWN   as in scope.h.
 * PROVED BY  tests/task/test_cancel_scope.py
 */
#include "leaf.h"
#include "scope.h"

static const char doc[] =
    "CancelScope(*, deadline=None, shield=False)\n--\n\n"
    "A part of a task that can be cancelled by itself: `async with CancelScope() as scope:`, or plain `with`.\n\n"
    "`scope.cancel()`, from any thread, and the `deadline` give the body `Cancelled` at the await where it waits, "
    "once;\n"
    "its cleanup may await. The block then ends without an error, and `cancelled_caught` says so. `deadline` is an\n"
    "`Instant`, or seconds (float, int or `timedelta`) counted from the entry. What is cancelled is this block in "
    "this\n"
    "task: tasks that it has spawned go on, except those of a `TaskGroup` in it, which it aborts and waits for.\n\n"
    "With `shield=True` the body is kept from what comes from outside: the cancelling of a scope or timeout around it\n"
    "and an abort of the task wait until the block is left, and come at the next await after it. Its own `cancel()`\n"
    "and `deadline` work as ever. A shutdown's deadline is not kept off: what is still shielded then is closed.\n\n"
    "Scopes nest; when several are due, the outermost wins. The relatives: `timeout(s)` is such a block which raises\n"
    "`TimeoutError` instead of ending quietly, and is never a shield.\n\n"
    "Errors: `TypeError` and `ValueError` for bad arguments; `RuntimeError` if it is entered twice, outside a task, "
    "or\n"
    "with a deadline where the runtime has no timers.\n"
    "Cancel safety: a body that swallows `Cancelled` goes on, and is not cancelled again. Thread safety: `cancel()`,\n"
    "`deadline` and `cancel_called` from any thread, the rest in the task. Tokio: none; trio's and anyio's "
    "CancelScope,\n"
    "but edge-triggered.\n\n"
    "Example::\n\n"
    "    import freerun\n"
    "    from freerun.time import sleep\n\n"
    "    async def main() -> tuple[bool, bool]:\n"
    "        with freerun.CancelScope(deadline=0.01) as outer:\n"
    "            try:\n"
    "                await sleep(3600)\n"
    "            finally:\n"
    "                with freerun.CancelScope(shield=True, deadline=5) as cleanup:\n"
    "                    await sleep(0.001)     # say goodbye, but not for longer than 5 s\n"
    "        return outer.cancelled_caught, cleanup.cancelled_caught\n\n"
    "    assert freerun.run(main) == (True, False)\n";

static struct fr_scope *scope_of(PyObject *self)
{
    return (struct fr_scope *)self;
}

/* 0 and either *seconds >= 0 or *seconds FR_LIMIT_INSTANT and *when_ns; -1 with an exception. */
static int parse_deadline(PyObject *value, double *seconds, uint64_t *when_ns)
{
    *seconds = FR_LIMIT_INSTANT;
    *when_ns = FR_FOREVER_NS;
    int found = value == Py_None ? 1 : fr_parse_instant_object(value, when_ns);
    if (found) {
        return found > 0 ? 0 : -1;
    }
    bool number = (PyFloat_Check(value) || PyLong_Check(value)) && !PyBool_Check(value);
    if (number || PyObject_HasAttrString(value, "total_seconds")) {
        return fr_parse_seconds(value, "deadline", seconds);
    }
    PyErr_Format(PyExc_TypeError,
                 "argument 'deadline' must be an Instant, seconds from the entry on (float, int or timedelta) or None, "
                 "not %.200s",
                 Py_TYPE(value)->tp_name);
    return -1;
}

static int parse_shield(PyObject *value, bool *shield)
{
    if (!PyBool_Check(value)) {
        PyErr_Format(PyExc_TypeError, "argument 'shield' must be True or False, not %.200s", Py_TYPE(value)->tp_name);
        return -1;
    }
    *shield = value == Py_True;
    return 0;
}

static PyObject *cancel_scope_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"deadline", "shield", NULL};
    PyObject *deadline = Py_None, *shielded = Py_False;
    double seconds;
    uint64_t when_ns;
    bool shield;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OO:CancelScope", keywords, &deadline, &shielded) ||
        parse_deadline(deadline, &seconds, &when_ns) || parse_shield(shielded, &shield)) {
        return NULL;
    }
    struct fr_scope *scope = (struct fr_scope *)fr_alloc(type, FR_FREE_CANCEL_SCOPE);
    if (scope) {
        fr_scope_init(scope, seconds, when_ns);
        scope->plain = true;
        scope->shield = shield;
    }
    return (PyObject *)scope;
}

static void cancel_scope_dealloc(PyObject *self)
{
    fr_dealloc(self, FR_FREE_CANCEL_SCOPE);
}

/* ---- the block ---- */

static PyObject *cancel_scope_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return fr_scope_enter(scope_of(self)) ? NULL : Py_NewRef(self);
}

/* 1: the body's exception ends here; 0; -1 with an exception. */
static int leave(PyTypeObject *cls, PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "__exit__() takes 3 arguments");
        return -1;
    }
    return fr_scope_leave(fr_module_of_type(cls), scope_of(self), args[0], args[1]);
}

static PyObject *cancel_scope_exit(PyObject *self, PyTypeObject *cls, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *Py_UNUSED(kwnames))
{
    int own = leave(cls, self, args, nargs);
    return own < 0 ? NULL : PyBool_FromLong(own);
}

static PyObject *cancel_scope_aexit(PyObject *self, PyTypeObject *cls, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *Py_UNUSED(kwnames))
{
    return leave(cls, self, args, nargs) < 0 ? NULL : Py_NewRef(self);
}

/* What `await scope.__aenter__()` and `await scope.__aexit__()` iterate over is the scope: neither waits. */
static PyObject *cancel_scope_iternext(PyObject *self)
{
    struct fr_scope *scope = scope_of(self);
    switch (atomic_load_explicit(&scope->phase, memory_order_relaxed)) { /* the task's own doing */
    case FR_SCOPE_ACTIVE:
        return fr_leaf_return(Py_NewRef(self));
    case FR_SCOPE_DONE:
        return fr_leaf_return(PyBool_FromLong(scope->caught));
    default:
        PyErr_SetString(PyExc_TypeError, "a CancelScope is not awaited: use it in 'with' or 'async with'");
        return NULL;
    }
}

/* ---- from anywhere ---- */

static PyObject *cancel_scope_cancel(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    fr_scope_cancel(scope_of(self));
    Py_RETURN_NONE;
}

static PyObject *cancel_scope_cancel_again(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    fr_scope_cancel_again(scope_of(self));
    Py_RETURN_NONE;
}

static PyObject *get_cancel_called(PyObject *self, void *Py_UNUSED(closure))
{
    struct fr_scope *scope = scope_of(self);
    bool asked = atomic_load_explicit(&scope->asked, memory_order_relaxed); /* whoever calls cancel() sees it itself */
    return PyBool_FromLong(asked || fr_scope_is_due(scope));
}

static PyObject *get_cancelled_caught(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(scope_of(self)->caught);
}

static PyObject *get_deadline(PyObject *self, void *Py_UNUSED(closure))
{
    return fr_scope_deadline(scope_of(self));
}

static int set_deadline(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    double seconds;
    uint64_t when_ns;
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "a CancelScope's deadline cannot be deleted; set it to None");
        return -1;
    }
    return parse_deadline(value, &seconds, &when_ns) ? -1 : fr_scope_move(scope_of(self), seconds, when_ns);
}

static PyObject *get_shield(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(scope_of(self)->shield);
}

static int set_shield(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    struct fr_scope *scope = scope_of(self);
    bool shield;
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "a CancelScope's shield cannot be deleted; set it to False");
        return -1;
    }
    if (parse_shield(value, &shield)) {
        return -1;
    }
    struct fr_task *me = fr_thread.task;
    /* relaxed: if it is this task's, this task has written it */
    if (atomic_load_explicit(&scope->phase, memory_order_relaxed) == FR_SCOPE_ACTIVE && scope->task != me) {
        PyErr_SetString(PyExc_RuntimeError, "the shield of a CancelScope is set by the task that is in it");
        return -1;
    }
    scope->shield = shield;
    if (!shield && scope->held && me) {
        scope->held = false;
        fr_task_wake(me); /* [C5] */
    }
    return 0;
}

/* ---- the Python object ---- */

static PyObject *cancel_scope_repr(PyObject *self)
{
    static const char *const names[] = {"created", "active", "finished"};
    struct fr_scope *scope = scope_of(self);
    uint8_t phase = atomic_load_explicit(&scope->phase, memory_order_relaxed); /* for people */
    return PyUnicode_FromFormat("<CancelScope %s%s%s>", names[phase], scope->shield ? " shield" : "",
                                scope->caught            ? " cancelled"
                                : fr_scope_is_due(scope) ? " cancel called"
                                                         : "");
}

#define LEAVER(function) (PyCFunction)(void (*)(void))(function), METH_METHOD | METH_FASTCALL | METH_KEYWORDS

static PyMethodDef cancel_scope_methods[] = {
    {"__enter__", cancel_scope_enter, METH_NOARGS, NULL},
    {"__exit__", LEAVER(cancel_scope_exit), NULL},
    {"__aenter__", cancel_scope_enter, METH_NOARGS, NULL},
    {"__aexit__", LEAVER(cancel_scope_aexit), NULL},
    {"cancel", cancel_scope_cancel, METH_NOARGS,
     "cancel($self, /)\n--\n\n"
     "Cancel the body where it waits, once. Before the block is entered: at its first await.\n\n"
     "Nothing if it is over, or cancelled already. Thread safety: any thread. Cancel safety: does not wait."},
    {"_cancel_again", cancel_scope_cancel_again, METH_NOARGS,
     "_cancel_again($self, /)\n--\n\n"
     "For TaskGroup: what cancelled the task from outside while it was in here does so again."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef cancel_scope_getset[] = {
    {"cancel_called", get_cancel_called, NULL, "Whether cancel() was called, or the deadline passed in time.", NULL},
    {"cancelled_caught", get_cancelled_caught, NULL, "Whether the block was ended by this scope's cancelling.", NULL},
    {"deadline", get_deadline, set_deadline,
     "The Instant at which it is cancelled, or None. May be set, to seconds from now too, from any thread; "
     "RuntimeError "
     "if it has been cancelled or is over.",
     NULL},
    {"shield", get_shield, set_shield,
     "Whether it keeps off what comes from outside. May be set by its task; what was held back then comes at the next "
     "await.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot cancel_scope_slots[] = {
    {Py_tp_doc, (void *)doc},
    {Py_tp_new, cancel_scope_new},
    {Py_tp_dealloc, cancel_scope_dealloc},
    {Py_tp_repr, cancel_scope_repr},
    {Py_tp_methods, cancel_scope_methods},
    {Py_tp_getset, cancel_scope_getset},
    {Py_tp_iter, fr_leaf_self},
    {Py_tp_iternext, cancel_scope_iternext},
    {Py_am_await, fr_leaf_self},
    {Py_am_send, fr_leaf_send},
    {0, NULL},
};

static PyType_Spec cancel_scope_spec = {
    .name = "freerun.CancelScope",
    .basicsize = sizeof(struct fr_scope),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = cancel_scope_slots,
};

int fr_cancel_scope_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->cancel_scope_type, &cancel_scope_spec, "CancelScope");
}
