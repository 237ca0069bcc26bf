/* unconstrained: `await unconstrained(aw)`, without a cooperative budget. Tokio: task::unconstrained.
 *
 * THREADS    one steps it at a time (`stepping`); whichever drops it.
 * OWNERSHIP  the object owns what it awaits until that has ended.
 * FIELDS     inner     from the first step on the iterator that is stepped; NULL: it has ended
 * PROVED BY  tests/task/test_budget.py
 */
#include "branch.h"

typedef struct {
    PyObject_HEAD
    PyObject *inner;
    _Atomic bool stepping;
    bool started;
    bool claimed;
} UnconstrainedObject;

static struct fr_module *module_of(UnconstrainedObject *self)
{
    return fr_module_of_type(Py_TYPE((PyObject *)self));
}

struct limits {
    uint64_t turn_ends;
    uint32_t budget;
};

/* More than any turn spends. */
static struct limits lift(void)
{
    struct limits limits = {fr_thread.turn_ends, fr_thread.budget};
    fr_thread.budget = UINT32_MAX;
    fr_thread.turn_ends = fr_clock_ticks() + INT64_MAX / 2;
    fr_thread.descends = false; /* no group shall set an end */
    return limits;
}

static void restore(struct limits limits)
{
    fr_thread.budget = limits.budget;
    fr_thread.turn_ends = limits.turn_ends;
}

static PySendResult step(UnconstrainedObject *self, PyObject **result)
{
    if (!self->started) {
        self->started = true;
        if (fr_inner_open(module_of(self), &self->inner, &self->claimed)) {
            return PYGEN_ERROR;
        }
    }
    if (!self->inner) {
        PyErr_SetString(PyExc_RuntimeError, "this unconstrained() has been awaited already; call it again");
        return PYGEN_ERROR;
    }
    struct limits limits = lift();
    PySendResult sent = PyIter_Send(self->inner, Py_None, result);
    restore(limits);
    return sent;
}

static PySendResult throw_in(UnconstrainedObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject **result)
{
    if (!self->started || !self->inner) {
        if (self->inner) {
            fr_inner_refuse(module_of(self), self->inner);
        }
        self->started = true;
        fr_leaf_raise(args, nargs);
        return PYGEN_ERROR;
    }
    struct limits limits = lift();
    PySendResult sent = fr_inner_throw(module_of(self), self->inner, args, nargs, result);
    restore(limits);
    return sent;
}

/* `sent` as it is; what has ended is let go. */
static PySendResult settle(UnconstrainedObject *self, PySendResult sent)
{
    if (sent != PYGEN_NEXT) {
        fr_inner_drop(&self->inner, &self->claimed);
    }
    return sent;
}

static PySendResult unconstrained_send(PyObject *op, PyObject *Py_UNUSED(value), PyObject **result)
{
    UnconstrainedObject *self = (UnconstrainedObject *)op;
    bool shared;
    *result = NULL;
    if (!fr_leaf_task() || !fr_inner_enter(op, &self->stepping, &shared)) {
        return PYGEN_ERROR;
    }
    PySendResult sent = PYGEN_ERROR;
    if (Py_EnterRecursiveCall(" in unconstrained()") == 0) {
        sent = settle(self, step(self, result));
        Py_LeaveRecursiveCall();
    }
    fr_inner_leave(&self->stepping, shared);
    return sent;
}

static PyObject *unconstrained_iternext(PyObject *op)
{
    PyObject *result;
    PySendResult sent = unconstrained_send(op, Py_None, &result);
    return fr_inner_next(sent, result);
}

static PyObject *unconstrained_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    UnconstrainedObject *self = (UnconstrainedObject *)op;
    bool shared;
    if (!fr_inner_enter(op, &self->stepping, &shared)) {
        return NULL;
    }
    PyObject *result = NULL;
    PySendResult sent = settle(self, throw_in(self, args, nargs, &result));
    fr_inner_leave(&self->stepping, shared);
    return fr_inner_thrown(sent, result);
}

static PyObject *unconstrained_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    UnconstrainedObject *self = (UnconstrainedObject *)op;
    bool shared;
    if (!fr_inner_enter(op, &self->stepping, &shared)) {
        return NULL;
    }
    PyObject *done = self->started && self->inner ? fr_inner_close(module_of(self), self->inner) : Py_NewRef(Py_None);
    if (!self->started) {
        fr_inner_refuse(module_of(self), self->inner);
    }
    self->started = true;
    fr_inner_drop(&self->inner, &self->claimed);
    fr_inner_leave(&self->stepping, shared);
    return done;
}

static int unconstrained_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((UnconstrainedObject *)op)->inner);
    return 0;
}

static int unconstrained_clear(PyObject *op)
{
    UnconstrainedObject *self = (UnconstrainedObject *)op;
    fr_inner_drop(&self->inner, &self->claimed);
    return 0;
}

static void unconstrained_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, unconstrained_dealloc)
    unconstrained_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    FR_TRASHCAN_END
}

static PyObject *unconstrained_get_coro(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *inner = ((UnconstrainedObject *)op)->inner;
    return Py_NewRef(inner ? inner : Py_None);
}

static PyMethodDef unconstrained_methods[] = {
    {"throw", (PyCFunction)(void (*)(void))unconstrained_throw, METH_FASTCALL, NULL},
    {"close", unconstrained_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef unconstrained_getset[] = {
    {"_coro", unconstrained_get_coro, NULL, "What is awaited, for dumps; the task must not run.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot unconstrained_slots[] = {
    {Py_tp_doc, "What unconstrained() returns."},
    {Py_tp_dealloc, unconstrained_dealloc},
    {Py_tp_traverse, unconstrained_traverse},
    {Py_tp_clear, unconstrained_clear},
    {Py_tp_methods, unconstrained_methods},
    {Py_tp_getset, unconstrained_getset},
    {Py_tp_iter, fr_leaf_self},
    {Py_tp_iternext, unconstrained_iternext},
    {Py_am_await, fr_leaf_self},
    {Py_am_send, unconstrained_send},
    {0, NULL},
};

static PyType_Spec unconstrained_spec = {
    .name = "freerun._core._native.Unconstrained",
    .basicsize = sizeof(UnconstrainedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = unconstrained_slots,
};

PyObject *fr_unconstrained(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    struct fr_module *mod = PyModule_GetState(module);
    if (fr_task_need_one(nargs, "unconstrained", "awaitable")) {
        return NULL;
    }
    PyObject *inner = fr_awaitable(args[0], args + 1, nargs - 1, "awaitable");
    if (!inner) {
        return NULL;
    }
    /* The allocator tracks it at once; what it has is NULL until it is set. */
    UnconstrainedObject *self = (UnconstrainedObject *)mod->unconstrained_type->tp_alloc(mod->unconstrained_type, 0);
    if (!self) {
        Py_DECREF(inner);
        return NULL;
    }
    atomic_init(&self->stepping, false);
    self->inner = inner;
    return (PyObject *)self;
}

int fr_unconstrained_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->unconstrained_type, &unconstrained_spec, NULL);
}
