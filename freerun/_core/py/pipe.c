/* pipe: a bounded channel between interpreters, under freerun.interp.channel; and how a task waits for a mailbox. See
 * isolated.h. */
#include <errno.h>
#include <stdlib.h>

#include "acquire.h"
#include "isolated.h"

enum { SENDER, RECEIVER };

typedef struct {
    PyObject_HEAD
    struct fr_pipe *pipe;
    int end;
    _Atomic bool closed; /* a sender: it gave its end back */
} PipeEndObject;

enum wait_state { MADE, LINED, OVER };

typedef struct {
    PyObject_HEAD
    PyObject *owner; /* holds the mailbox */
    struct fr_mailbox *box;
    struct fr_mailbox_waiter waiter;
    int64_t load; /* negative: of no account */
    _Atomic bool stepping;
    uint8_t side;
    uint8_t state;
} BoxWaitObject;

/* ---- waiting ---- */

PyObject *fr_box_wait_new(struct fr_module *mod, PyObject *owner, struct fr_mailbox *box, enum fr_mailbox_side side,
                          int64_t load)
{
    BoxWaitObject *self = (BoxWaitObject *)mod->box_wait_type->tp_alloc(mod->box_wait_type, 0);
    if (self) {
        self->owner = Py_NewRef(owner);
        self->box = box;
        self->side = (uint8_t)side;
        self->load = load;
        self->state = MADE;
        atomic_init(&self->stepping, false);
    }
    return (PyObject *)self;
}

static PyObject *wait_first(BoxWaitObject *self, struct fr_task *task)
{
    bool counts = self->load >= 0 && fr_thread.worker;
    self->waiter = (struct fr_mailbox_waiter){
        .waiter = {.task = task},
        .load = counts ? (uint32_t)self->load : 0,
        .busy = counts ? &fr_thread.worker->polls : NULL,
    };
    fr_task_ref(task);
    if (fr_mailbox_wait(self->box, self->side, &self->waiter)) {
        self->state = LINED;
        fr_await_mail(task->rt);
        return fr_leaf_park();
    }
    fr_task_unref(task);
    self->state = OVER;
    return NULL; /* None */
}

static PyObject *wait_step(BoxWaitObject *self, struct fr_task *task)
{
    if (self->state == MADE) {
        return wait_first(self, task);
    }
    struct fr_waiter *waiter = &self->waiter.waiter;
    if (self->state == LINED && fr_waiter_is_linked(waiter)) {
        if (waiter->task != task && !fr_leaf_move(&self->box->lock, waiter, task)) {
            return NULL;
        }
        if (fr_waiter_is_linked(waiter)) {
            return fr_leaf_park();
        }
    }
    self->state = OVER;
    return NULL;
}

static PyObject *wait_iternext(PyObject *op)
{
    BoxWaitObject *self = (BoxWaitObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&self->stepping)) {
        return NULL;
    }
    PyObject *token = wait_step(self, task);
    fr_leaf_exit(&self->stepping);
    return token;
}

static void wait_leave(BoxWaitObject *self)
{
    if (self->state == LINED) {
        self->state = OVER;
        if (fr_mailbox_unwait(self->box, self->side, &self->waiter)) {
            fr_task_unref(self->waiter.waiter.task);
        }
    }
}

static void wait_let_go(PyObject *op)
{
    BoxWaitObject *self = (BoxWaitObject *)op;
    if (fr_leaf_try_enter(&self->stepping)) { /* else another task steps it: it stays that task's */
        wait_leave(self);
        fr_leaf_exit(&self->stepping);
    }
}

static void wait_dealloc(PyObject *op)
{
    BoxWaitObject *self = (BoxWaitObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    wait_leave(self);
    Py_DECREF(self->owner);
    type->tp_free(op);
    Py_DECREF(type);
}

FR_LEAF_METHODS(wait, wait_let_go);

static PyType_Slot wait_slots[] = {
    {Py_tp_doc, "Await it until there is something to look at."},
    {Py_tp_dealloc, wait_dealloc},
    {Py_tp_methods, wait_methods},
    FR_LEAF_SLOTS(wait_iternext),
    {0, NULL},
};

static PyType_Spec wait_spec = {
    .name = "freerun._core._native.BoxWait",
    .basicsize = sizeof(BoxWaitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = wait_slots,
};

/* ---- pipes ---- */

static void pipe_empty(struct fr_pipe *pipe)
{
    int err;
    struct fr_mail *mail;
    while ((mail = fr_mailbox_pop(&pipe->box, 0, &err))) {
        fr_parcel_free(FR_CONTAINER_OF(mail, struct fr_parcel, mail));
    }
}

static void pipe_unref(struct fr_pipe *pipe)
{
    if (atomic_fetch_sub_explicit(&pipe->refs, 1, memory_order_acq_rel) == 1) { /* pairs with itself */
        pipe_empty(pipe);
        free(pipe);
    }
}

void fr_pipe_hold(struct fr_pipe *pipe, int end)
{
    atomic_fetch_add_explicit(&pipe->ends[end], 1,
                              memory_order_acq_rel); /* the caller has one of these, so it is not 0 */
    atomic_fetch_add_explicit(&pipe->refs, 1, memory_order_relaxed);
}

static void pipe_leave(struct fr_pipe *pipe, int end)
{
    if (atomic_fetch_sub_explicit(&pipe->ends[end], 1, memory_order_acq_rel) == 1) { /* pairs with itself */
        fr_mailbox_close(&pipe->box);
        if (end == RECEIVER) {
            pipe_empty(pipe);
        }
    }
}

void fr_pipe_drop(struct fr_pipe *pipe, int end)
{
    pipe_leave(pipe, end);
    pipe_unref(pipe);
}

/* The end object takes over the one end, and reference, that its caller holds. */
static PyObject *end_object(struct fr_module *mod, struct fr_pipe *pipe, int end)
{
    PipeEndObject *self = (PipeEndObject *)mod->pipe_end_type->tp_alloc(mod->pipe_end_type, 0);
    if (!self) {
        fr_pipe_drop(pipe, end);
        return NULL;
    }
    self->pipe = pipe;
    self->end = end;
    atomic_init(&self->closed, false);
    return (PyObject *)self;
}

PyObject *fr_pipe_end_object(struct fr_module *mod, struct fr_pipe *pipe, int end)
{
    fr_pipe_hold(pipe, end);
    return end_object(mod, pipe, end);
}

static bool is_closed(PipeEndObject *self)
{
    return atomic_load_explicit(&self->closed, memory_order_acquire); /* pairs with end_close() */
}

struct fr_pipe *fr_pipe_of(struct fr_module *mod, PyObject *object, int *end)
{
    PipeEndObject *self = (PipeEndObject *)object;
    if (is_closed(self)) {
        PyErr_SetString(PyExc_ValueError, "it is closed");
        return NULL;
    }
    *end = self->end;
    return self->pipe;
}

PyObject *fr_isolated_pipe(PyObject *module, PyObject *capacity)
{
    struct fr_module *mod = PyModule_GetState(module);
    unsigned long long room = PyLong_AsUnsignedLongLong(capacity);
    struct fr_pipe *pipe = PyErr_Occurred() ? NULL : malloc(sizeof *pipe);
    if (!pipe) {
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    atomic_init(&pipe->refs, 2);
    atomic_init(&pipe->ends[SENDER], 1);
    atomic_init(&pipe->ends[RECEIVER], 1);
    fr_mailbox_init(&pipe->box, room, fr_acquire_wake);
    PyObject *sender = end_object(mod, pipe, SENDER);
    PyObject *receiver = end_object(mod, pipe, RECEIVER);
    PyObject *pair = sender && receiver ? PyTuple_Pack(2, sender, receiver) : NULL;
    Py_XDECREF(sender);
    Py_XDECREF(receiver);
    return pair;
}

/* A receiver in its own pipe could be the last one: nobody could take it out, and nothing would ever be freed. */
static bool holds_own_receiver(const struct fr_pipe *pipe, const struct fr_parcel *parcel)
{
    for (Py_ssize_t i = 0; i < parcel->count; i++) {
        if (parcel->items[i].kind == FR_ITEM_RECEIVER && parcel->items[i].pipe == pipe) {
            return true;
        }
    }
    return false;
}

static PyObject *end_push(PyObject *op, PyObject *object)
{
    PipeEndObject *self = (PipeEndObject *)op;
    struct fr_module *mod = fr_module_of_type(Py_TYPE(op));
    struct fr_parcel *parcel = is_closed(self) ? NULL : fr_parcel_take(mod, object);
    if (!parcel) {
        if (!PyErr_Occurred()) {
            PyErr_SetNone(mod->exc_send);
        }
        return NULL;
    }
    if (holds_own_receiver(self->pipe, parcel)) {
        fr_parcel_free(parcel);
        PyErr_SetString(PyExc_TypeError,
                        "argument 'value' has a Receiver of this very channel in it, which nobody might "
                        "be left to receive; send it through another channel");
        return NULL;
    }
    int err = fr_mailbox_push(&self->pipe->box, &parcel->mail);
    if (!err) {
        Py_RETURN_TRUE;
    }
    fr_parcel_free(parcel);
    if (err == -EAGAIN) {
        Py_RETURN_FALSE;
    }
    PyErr_SetNone(mod->exc_send);
    return NULL;
}

static PyObject *end_pop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PipeEndObject *self = (PipeEndObject *)op;
    struct fr_module *mod = fr_module_of_type(Py_TYPE(op));
    int err;
    struct fr_mail *mail = fr_mailbox_pop(&self->pipe->box, 0, &err);
    if (mail) {
        return fr_parcel_object(mod, FR_CONTAINER_OF(mail, struct fr_parcel, mail));
    }
    if (err == -EAGAIN) {
        Py_RETURN_NONE;
    }
    PyErr_SetString(mod->exc_recv, "every sender is closed, and everything was received");
    return NULL;
}

static PyObject *end_wait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PipeEndObject *self = (PipeEndObject *)op;
    return fr_box_wait_new(fr_module_of_type(Py_TYPE(op)), op, &self->pipe->box,
                           self->end == SENDER ? FR_MAILBOX_GIVERS : FR_MAILBOX_TAKERS, -1);
}

static PyObject *end_blocking_wait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PipeEndObject *self = (PipeEndObject *)op;
    enum fr_mailbox_side side = self->end == SENDER ? FR_MAILBOX_GIVERS : FR_MAILBOX_TAKERS;
    if (fr_leaf_may_block("the blocking call", "the one without blocking_")) {
        return NULL;
    }
    struct fr_event event;
    fr_event_init(&event, -1);
    struct fr_mailbox_waiter waiter = {.waiter = {.event = &event}};
    int failed = 0;
    if (fr_mailbox_wait(&self->pipe->box, side, &waiter)) {
        failed = fr_leaf_wait_event(&event, -1);
        if (failed || fr_waiter_is_linked(&waiter.waiter)) {
            fr_mailbox_unwait(&self->pipe->box, side, &waiter);
        } else {
            fr_mutex_lock(&self->pipe->box.lock); /* who set the event is done with it after this */
            fr_mutex_unlock(&self->pipe->box.lock);
        }
    }
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *end_clone(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PipeEndObject *self = (PipeEndObject *)op;
    struct fr_module *mod = fr_module_of_type(Py_TYPE(op));
    int end;
    struct fr_pipe *pipe = fr_pipe_of(mod, op, &end);
    return pipe ? fr_pipe_end_object(mod, pipe, self->end) : NULL;
}

/* A sender gives its end back; a receiver closes the pipe and may take what is left in it. */
static void end_over(PipeEndObject *self)
{
    /* acq_rel: one closer; pairs with itself and is_closed() */
    if (self->end == RECEIVER) {
        fr_mailbox_close(&self->pipe->box);
    } else if (!atomic_exchange_explicit(&self->closed, true, memory_order_acq_rel)) {
        pipe_leave(self->pipe, SENDER);
    }
}

static PyObject *end_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    end_over((PipeEndObject *)op);
    Py_RETURN_NONE;
}

static void end_dealloc(PyObject *op)
{
    PipeEndObject *self = (PipeEndObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->end == RECEIVER) {
        pipe_leave(self->pipe, RECEIVER);
    } else {
        end_over(self);
    }
    pipe_unref(self->pipe);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *end_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PipeEndObject *self = (PipeEndObject *)op;
    fr_mutex_lock(&self->pipe->box.lock);
    bool closed = self->pipe->box.closed;
    fr_mutex_unlock(&self->pipe->box.lock);
    return PyBool_FromLong(closed || is_closed(self));
}

static Py_ssize_t end_len(PyObject *op)
{
    return (Py_ssize_t)fr_mailbox_len(&((PipeEndObject *)op)->pipe->box);
}

static PyObject *end_capacity(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((PipeEndObject *)op)->pipe->box.capacity);
}

static PyMethodDef end_methods[] = {
    {"push", end_push, METH_O,
     "push($self, parcel, /)\n--\n\nTrue: sent. False: there is no room, and the parcel is gone. SendError: closed."},
    {"pop", end_pop, METH_NOARGS,
     "pop($self, /)\n--\n\nThe oldest Parcel, None if there is none, RecvError at the end."},
    {"wait", end_wait, METH_NOARGS, "wait($self, /)\n--\n\nAwait it until there may be room (a sender), or mail."},
    {"blocking_wait", end_blocking_wait, METH_NOARGS, "blocking_wait($self, /)\n--\n\nThe same for plain threads."},
    {"clone", end_clone, METH_NOARGS, "clone($self, /)\n--\n\nOne more end of the same kind."},
    {"close", end_close, METH_NOARGS,
     "close($self, /)\n--\n\nA sender is one no more; a receiver lets nothing in any more."},
    {"is_closed", end_is_closed, METH_NOARGS, "is_closed($self, /)\n--\n\nWhether nothing can be sent any more."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef end_getset[] = {
    {"capacity", end_capacity, NULL, "How many parcels may be in it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot end_slots[] = {
    {Py_tp_doc, "A sender or a receiver of a pipe between interpreters. Any thread."},
    {Py_tp_dealloc, end_dealloc},
    {Py_tp_methods, end_methods},
    {Py_tp_getset, end_getset},
    {Py_sq_length, end_len},
    {0, NULL},
};

static PyType_Spec end_spec = {
    .name = "freerun._core._native.PipeEnd",
    .basicsize = sizeof(PipeEndObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = end_slots,
};

int fr_pipe_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->box_wait_type, &wait_spec, NULL) ||
                   fr_module_add_type(mod, &mod->pipe_end_type, &end_spec, "PipeEnd")
               ? -1
               : 0;
}
