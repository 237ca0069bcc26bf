/* strand: half-done awaitables; see strand.h for who may do what. */
#include "strand.h"

#include <stdlib.h>

typedef struct {
    PyObject_HEAD
    struct fr_strand *strand; /* NULL: not begun, or over */
    PyObject *given;          /* until it is begun */
    PyObject *pending;        /* to be thrown in when it may be: it was shielded */
    PyObject *value, *error;  /* what it has ended with */
    bool over;
    _Atomic bool stepping;
} StrandObject;

static struct fr_module *module_of(StrandObject *self)
{
    return fr_module_of_type(Py_TYPE((PyObject *)self));
}

/* ---- whom it wakes ---- */

struct fr_task *fr_strand_owner_ref(struct fr_task *task)
{
    struct fr_strand *strand = fr_strand_of(task);
    fr_mutex_lock(&strand->lock);
    struct fr_task *owner = strand->owner;
    if (owner) {
        fr_task_ref(owner);
    }
    fr_mutex_unlock(&strand->lock);
    return owner;
}

void fr_strand_woken(struct fr_task *task)
{
    struct fr_task *owner = fr_strand_owner_ref(task);
    if (owner) {
        fr_task_wake_unref(owner); /* [ST1] */
    }
}

static void set_owner(struct fr_strand *strand, struct fr_task *owner)
{
    if (owner) {
        fr_task_ref(owner);
    }
    fr_mutex_lock(&strand->lock);
    struct fr_task *before = strand->owner;
    strand->owner = owner;
    fr_mutex_unlock(&strand->lock);
    if (before) {
        fr_task_unref(before);
    }
}

struct fr_task *fr_strand_owner(struct fr_task *task)
{
    return fr_strand_of(task)->owner;
}

void fr_strand_free(struct fr_task *task)
{
    free(fr_strand_of(task)); /* it has ended, so it has no owner */
}

/* ---- beginning and ending ---- */

static uint16_t generation_of(struct fr_runtime *rt)
{
    return (uint16_t)atomic_load(&rt->generation);
}

bool fr_strand_is_of(struct fr_task *task, struct fr_runtime *rt)
{
    return task->rt == rt && fr_strand_of(task)->generation == generation_of(rt);
}

/* -1 with an exception: it has nothing to be stepped. */
static int begin(StrandObject *self, struct fr_task *owner)
{
    struct fr_strand *strand = malloc(sizeof *strand);
    if (!strand) {
        PyErr_NoMemory();
        return -1;
    }
    strand->task.coro = self->given;
    strand->task.claimed = false;
    self->given = NULL;
    if (fr_inner_open(module_of(self), &strand->task.coro, &strand->task.claimed)) {
        fr_inner_drop(&strand->task.coro, &strand->task.claimed);
        free(strand);
        return -1;
    }
    fr_branch_task_init(&strand->task, FR_TASK_STRAND, owner->rt, NULL);
    strand->task.result = NULL;
    strand->lock = (struct fr_mutex)FR_MUTEX_INIT;
    strand->owner = NULL;
    strand->generation = generation_of(owner->rt);
    strand->refused = false;
    self->strand = strand;
    return 0;
}

/* Whatever its state word says: nobody steps it. */
static void end(StrandObject *self)
{
    struct fr_strand *strand = self->strand;
    self->over = true;
    self->strand = NULL;
    Py_CLEAR(self->given);
    Py_CLEAR(self->pending);
    if (!strand) {
        return;
    }
    if (!(fr_state_load(&strand->task.state) & FR_RUNNING)) {
        fr_state_wake(&strand->task.state); /* it is in no queue, so NOTIFIED is ours to set and to take */
        fr_state_start_poll(&strand->task.state);
    }
    fr_branch_drop_scopes(&strand->task);
    fr_inner_drop(&strand->task.coro, &strand->task.claimed);
    set_owner(strand, NULL);
    fr_state_complete(&strand->task.state);
    fr_task_unref(&strand->task);
}

static void ended(StrandObject *self, PySendResult sent, PyObject *result)
{
    PyObject *error = sent == PYGEN_ERROR ? PyErr_GetRaisedException() : NULL;
    end(self);
    Py_XSETREF(self->value, error ? NULL : result);
    Py_XSETREF(self->error, error);
}

/* ---- one step ---- */

/* This task polls it from now on. -1 with RuntimeError: it belongs to another runtime. */
static int adopt(struct fr_strand *strand, struct fr_task *task)
{
    if (strand->owner == task) {
        return 0;
    }
    if (!fr_strand_is_of(&strand->task, task->rt)) {
        PyErr_SetString(PyExc_RuntimeError, "this was begun in another runtime, and can go on only there; of a stream, "
                                            "pass the items on through a channel");
        return -1;
    }
    set_owner(strand, task);
    return 0;
}

static bool is_cancelled(struct fr_module *mod, PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, mod->exc_cancelled);
}

/* From outside: what it is due itself is served by it, too. Steals `error`. */
static PySendResult throw_in(struct fr_module *mod, struct fr_task *task, PyObject *error, PyObject **result)
{
    if (!task->started) { /* nothing of it has run, and nothing shall */
        fr_inner_refuse(mod, task->coro);
        PyErr_SetRaisedException(error);
        return PYGEN_ERROR;
    }
    task->yielded = false;
    if (is_cancelled(mod, error)) {
        fr_thread.thrown = FR_BY_LINE(task);
        fr_scopes_overtake(task);
    }
    PySendResult sent = fr_throw_into(mod, task->coro, error, result);
    fr_thread.thrown = NULL;
    return sent;
}

static PySendResult step_inner(StrandObject *self, PyObject **result)
{
    struct fr_module *mod = module_of(self);
    struct fr_task *task = &self->strand->task;
    if (!task->shielded) {
        /* A shield that it is in holds Cancelled back, and wakes it when that is left. */
        if (self->pending && !(is_cancelled(mod, self->pending) && fr_scopes_shield(task))) {
            PyObject *pending = self->pending;
            self->pending = NULL;
            return throw_in(mod, task, pending, result);
        }
        if (fr_scopes_take_due(task)) {
            task->yielded = false;
            PySendResult sent = fr_throw_into(mod, task->coro, PyObject_CallNoArgs(mod->exc_cancelled), result);
            fr_thread.thrown = NULL;
            return sent;
        }
    }
    task->started = true;
    return PyIter_Send(task->coro, Py_None, result);
}

/* It waits. How its owner's turn is to end [ST2]. */
static uint8_t suspend(struct fr_strand *strand)
{
    if (fr_thread.wait & FR_WAIT_YIELD) {
        fr_state_end_poll_yield(&strand->task.state);
        return FR_WAIT_YIELD;
    }
    return fr_state_end_poll(&strand->task.state) ? FR_WAIT_YIELD : FR_WAIT_PARK;
}

/* The holder of RUNNING. Whether it is over. */
static bool run(StrandObject *self, struct fr_task *owner)
{
    struct fr_strand *strand = self->strand;
    uint8_t asked = fr_thread.wait;
    PyObject *result = NULL;
    fr_thread.task = &strand->task;
    fr_thread.wait = FR_WAIT_NONE;
    PySendResult sent = step_inner(self, &result);
    while (sent == PYGEN_NEXT && __builtin_expect(result != FR_TOKEN || fr_thread.wait == FR_WAIT_NONE, 0)) {
        sent = fr_refuse_foreign(module_of(self), strand->task.coro, &result); /* [L1] */
    }
    fr_thread.task = owner;
    fr_thread.descends = false;
    if (sent == PYGEN_NEXT) {
        fr_thread.wait = asked | suspend(strand);
        return false;
    }
    fr_thread.wait = asked;
    ended(self, sent, result);
    return true;
}

/* The budget is spent, and it can wait for the next turn [ST3]. The first poll always: Python complains of an unused
 * asend(). */
static bool is_refused(struct fr_strand *strand)
{
    bool spent = strand->task.started && fr_leaf_is_spent();
    strand->refused = spent && !(strand->refused && fr_leaf_renew_budget());
    return strand->refused;
}

/* Whether it may be stepped now; how its owner's turn is to end if not. */
static bool wants_poll(struct fr_strand *strand)
{
    if (!(fr_state_load(&strand->task.state) & FR_NOTIFIED)) { /* after adopt() [ST1] */
        fr_thread.wait |= FR_WAIT_PARK;
        return false;
    }
    if (is_refused(strand)) {
        fr_thread.refused = true;
        fr_thread.wait |= FR_WAIT_YIELD;
        return false;
    }
    return true;
}

/* 1: it is over, 0: it waits, -1: an exception that is none of its own. `thrown` is borrowed, or NULL. `asked`: woken or
 * not. */
static int step(StrandObject *self, struct fr_task *task, PyObject *thrown, bool asked)
{
    if (self->over) {
        return 1;
    }
    if (!self->strand && begin(self, task)) {
        ended(self, PYGEN_ERROR, NULL);
        return 1;
    }
    if (adopt(self->strand, task)) {
        return -1;
    }
    fr_state *state = &self->strand->task.state;
    if (thrown) {
        Py_XSETREF(self->pending, Py_NewRef(thrown));
    }
    if (thrown || asked) {
        fr_state_wake(state); /* for ourselves: it is in no queue */
    } else if (!wants_poll(self->strand)) {
        return 0;
    }
    fr_state_start_poll(state);
    return run(self, task);
}

static PyObject *step_method(PyObject *op, PyObject *thrown, bool asked)
{
    StrandObject *self = (StrandObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&self->stepping)) {
        return NULL;
    }
    int over = -1;
    if (Py_EnterRecursiveCall(" in what is polled by itself") == 0) {
        over = step(self, task, thrown, asked);
        Py_LeaveRecursiveCall();
    }
    fr_leaf_exit(&self->stepping);
    return over < 0 ? NULL : PyBool_FromLong(over);
}

/* ---- the Python object ---- */

static PyObject *strand_poll(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return step_method(op, NULL, false);
}

static PyObject *strand_poll_asked(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return step_method(op, NULL, true);
}

static PyObject *strand_throw(PyObject *op, PyObject *error)
{
    if (!PyExceptionInstance_Check(error)) {
        PyErr_Format(PyExc_TypeError, "argument 'error' must be an exception, not %.200s", Py_TYPE(error)->tp_name);
        return NULL;
    }
    return step_method(op, error, false);
}

static PyObject *strand_take(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StrandObject *self = (StrandObject *)op;
    if (!fr_leaf_enter(&self->stepping)) {
        return NULL;
    }
    PyObject *value = self->value, *error = self->error;
    bool over = self->over;
    self->value = self->error = NULL;
    fr_leaf_exit(&self->stepping);
    if (error) {
        PyErr_SetRaisedException(error);
    } else if (!value) {
        PyErr_SetString(PyExc_RuntimeError, over ? "its result was taken already" : "it has not ended");
    }
    return value;
}

static PyObject *strand_is_woken(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StrandObject *self = (StrandObject *)op;
    if (!fr_leaf_enter(&self->stepping)) {
        return NULL;
    }
    bool woken = self->strand && fr_state_load(&self->strand->task.state) & FR_NOTIFIED;
    fr_leaf_exit(&self->stepping);
    return PyBool_FromLong(woken);
}

static PyObject *strand_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StrandObject *self = (StrandObject *)op;
    struct fr_task *outer = fr_thread.task;
    if (!fr_leaf_enter(&self->stepping)) {
        return NULL;
    }
    if (self->strand) {
        if (outer) {
            fr_thread.task = &self->strand->task;
        }
        fr_close_quietly(module_of(self), self->strand->task.coro);
        fr_thread.task = outer;
    } else if (self->given) {
        fr_inner_refuse(module_of(self), self->given);
    }
    end(self);
    fr_leaf_exit(&self->stepping);
    Py_RETURN_NONE;
}

static PyObject *strand_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    PyObject *given;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Strand", keywords, &given)) {
        return NULL;
    }
    PyObject *awaitable = fr_awaitable(given, NULL, 0, "awaitable");
    StrandObject *self = awaitable ? (StrandObject *)type->tp_alloc(type, 0) : NULL;
    if (!self) {
        Py_XDECREF(awaitable);
        return NULL;
    }
    self->given = awaitable;
    atomic_init(&self->stepping, false);
    return (PyObject *)self;
}

static int strand_traverse(PyObject *op, visitproc visit, void *arg)
{
    StrandObject *self = (StrandObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->given);
    Py_VISIT(self->pending);
    Py_VISIT(self->value);
    Py_VISIT(self->error);
    if (self->strand) {
        Py_VISIT(self->strand->task.coro);
    }
    return 0;
}

static int strand_clear(PyObject *op)
{
    StrandObject *self = (StrandObject *)op;
    end(self);
    Py_CLEAR(self->value);
    Py_CLEAR(self->error);
    return 0;
}

static void strand_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, strand_dealloc)
    strand_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
    FR_TRASHCAN_END
}

static PyObject *strand_get_done(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((StrandObject *)op)->over);
}

static PyObject *strand_get_coro(PyObject *op, void *Py_UNUSED(closure))
{
    struct fr_strand *strand = ((StrandObject *)op)->strand;
    return Py_NewRef(strand ? strand->task.coro : Py_None);
}

static PyMethodDef strand_methods[] = {
    {"poll", strand_poll, METH_NOARGS,
     "poll($self, /)\n--\n\nGo on, if it was woken; whether it is over. If not, its task is to yield `...` next."},
    {"poll_asked", strand_poll_asked, METH_NOARGS,
     "poll_asked($self, /)\n--\n\nGo on, woken or not, whatever is left of the budget; as poll()."},
    {"is_woken", strand_is_woken, METH_NOARGS,
     "is_woken($self, /)\n--\n\nWhether it was woken since the last poll, or that one yielded."},
    {"throw", strand_throw, METH_O, "throw($self, error, /)\n--\n\nGo on with an exception; as poll()."},
    {"take", strand_take, METH_NOARGS, "take($self, /)\n--\n\nIts result, or what it raised; once."},
    {"close", strand_close, METH_NOARGS, "close($self, /)\n--\n\nEnd it at once, for when nobody can await any more."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef strand_getset[] = {
    {"is_done", strand_get_done, NULL, "Whether it is over.", NULL},
    {"_coro", strand_get_coro, NULL, "What is awaited, for dumps; the task must not run.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot strand_slots[] = {
    {Py_tp_doc, "Strand(awaitable, /)\n--\n\nAn awaitable that may stay half done from one poll to a much later one."},
    {Py_tp_new, strand_new},
    {Py_tp_dealloc, strand_dealloc},
    {Py_tp_traverse, strand_traverse},
    {Py_tp_clear, strand_clear},
    {Py_tp_methods, strand_methods},
    {Py_tp_getset, strand_getset},
    {0, NULL},
};

static PyType_Spec strand_spec = {
    .name = "freerun._core._native.Strand",
    .basicsize = sizeof(StrandObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = strand_slots,
};

int fr_strand_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->strand_type, &strand_spec, "Strand");
}
