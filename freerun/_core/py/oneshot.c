/* oneshot: one value from one sender to one receiver. Tokio: sync::oneshot.
 *
 * THREADS    any, on both ends.
 * OWNERSHIP  the channel is plain C, shared by the two ends (`refs`). A value that was sent and not taken belongs to
 *            the receiver, which shows it to the garbage collector.
 * FIELDS     everything but `refs` under `lock`
 * INVARIANTS O1 `sent` and `value` are set together, once. O2 the waiter is stored only while neither sent nor closed.
 * LOCKS      `lock` is a leaf; wakes and reference drops happen after it is released.
 */
#include <stdlib.h>

#include "leaf.h"

struct channel {
    struct fr_mutex lock;
    _Atomic uint32_t refs;
    bool sent, sender_gone, receiver_gone;
    PyObject *value;
    struct fr_waiter *waiter;
};

typedef struct {
    PyObject_HEAD
    struct channel *channel;
} EndObject;

typedef struct {
    PyObject_HEAD
    EndObject *receiver;
    struct fr_waiter waiter;
} RecvObject;

static void channel_unref(struct channel *channel)
{
    /* acq_rel: every use of the channel comes before the free */
    if (atomic_fetch_sub_explicit(&channel->refs, 1, memory_order_acq_rel) == 1) {
        free(channel);
    }
}

static struct fr_task *take_waiter_locked(struct channel *channel)
{
    struct fr_waiter *waiter = channel->waiter;
    if (!waiter) {
        return NULL;
    }
    channel->waiter = NULL;
    struct fr_task *task = waiter->task;
    /* release: its owner may see this without the lock and free the waiter at once; pairs with recv_dealloc() */
    atomic_store_explicit(&waiter->linked, false, memory_order_release);
    return task;
}

static void wake_and_drop(struct fr_task *task)
{
    if (task) {
        fr_task_wake(task);
        fr_task_unref(task);
    }
}

/* ---- sender ---- */

static PyObject *raise_send_error(PyObject *self, PyObject *value)
{
    PyObject *error = PyObject_CallOneArg(fr_module_of_type(Py_TYPE(self))->exc_send, value);
    if (error) {
        PyErr_SetRaisedException(error);
    }
    return NULL;
}

static PyObject *sender_send(PyObject *self, PyObject *value)
{
    struct channel *channel = ((EndObject *)self)->channel;
    fr_mutex_lock(&channel->lock);
    bool again = channel->sent || channel->sender_gone;
    bool gone = channel->receiver_gone;
    struct fr_task *task = NULL;
    if (!again && !gone) {
        channel->sent = true;
        channel->value = Py_NewRef(value);
        task = take_waiter_locked(channel);
    }
    fr_mutex_unlock(&channel->lock);
    if (again) {
        PyErr_SetString(PyExc_RuntimeError, "this oneshot sender has been used or closed: it sends one value");
        return NULL;
    }
    if (gone) {
        return raise_send_error(self, value);
    }
    wake_and_drop(task);
    Py_RETURN_NONE;
}

static void sender_leave(struct channel *channel)
{
    fr_mutex_lock(&channel->lock);
    channel->sender_gone = true;
    struct fr_task *task = take_waiter_locked(channel);
    fr_mutex_unlock(&channel->lock);
    wake_and_drop(task);
}

static PyObject *sender_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    sender_leave(((EndObject *)self)->channel);
    Py_RETURN_NONE;
}

static PyObject *sender_is_closed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct channel *channel = ((EndObject *)self)->channel;
    fr_mutex_lock(&channel->lock);
    bool gone = channel->receiver_gone;
    fr_mutex_unlock(&channel->lock);
    return PyBool_FromLong(gone);
}

static void sender_dealloc(PyObject *self)
{
    struct channel *channel = ((EndObject *)self)->channel;
    sender_leave(channel);
    channel_unref(channel);
    fr_dealloc(self, FR_FREE_ONESHOT);
}

static PyObject *end_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self);
}

static PyObject *sender_exit(PyObject *self, PyObject *Py_UNUSED(args))
{
    return sender_close(self, NULL);
}

static PyMethodDef sender_methods[] = {
    {"send", sender_send, METH_O,
     "send($self, value, /)\n--\n\nSend the one value; never waits. SendError, with the value, if the receiver is "
     "gone."},
    {"close", sender_close, METH_NOARGS, "close($self)\n--\n\nLeave without sending: the receiver gets RecvError."},
    {"is_closed", sender_is_closed, METH_NOARGS, "is_closed($self)\n--\n\nWhether the receiver is gone."},
    {"__enter__", end_enter, METH_NOARGS, NULL},
    {"__exit__", sender_exit, METH_VARARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sender_slots[] = {
    {Py_tp_doc, "The sending end of a oneshot channel. Any thread may use it. Tokio: sync::oneshot::Sender."},
    {Py_tp_dealloc, sender_dealloc},
    {Py_tp_methods, sender_methods},
    {0, NULL},
};

static PyType_Spec sender_spec = {
    .name = "freerun.sync.oneshot.Sender",
    .basicsize = sizeof(EndObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = sender_slots,
};

/* ---- receiver ---- */

enum taken { TAKEN_VALUE, TAKEN_NOTHING, TAKEN_CLOSED };

static enum taken take_locked(struct channel *channel, PyObject **value)
{
    if (channel->value) {
        *value = channel->value;
        channel->value = NULL;
        return TAKEN_VALUE;
    }
    return channel->sent || channel->sender_gone || channel->receiver_gone ? TAKEN_CLOSED : TAKEN_NOTHING;
}

static PyObject *raise_recv_error(struct fr_module *mod, struct channel *channel)
{
    PyErr_SetString(mod->exc_recv, channel->sent            ? "the value of this oneshot channel was received already"
                                   : channel->receiver_gone ? "this oneshot receiver is closed"
                                                            : "the sender went away without sending");
    return NULL;
}

static PyObject *receiver_try_recv(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_module *mod = fr_module_of_type(Py_TYPE(self));
    struct channel *channel = ((EndObject *)self)->channel;
    PyObject *value = NULL;
    fr_mutex_lock(&channel->lock);
    enum taken taken = take_locked(channel, &value);
    fr_mutex_unlock(&channel->lock);
    if (taken == TAKEN_NOTHING) {
        PyErr_SetString(mod->exc_would_block, "nothing has been sent yet");
    } else if (taken == TAKEN_CLOSED) {
        raise_recv_error(mod, channel);
    }
    return value;
}

/* A value that nobody will take any more is dropped here, attached and outside the lock. */
static void receiver_leave(struct channel *channel)
{
    fr_mutex_lock(&channel->lock);
    channel->receiver_gone = true;
    PyObject *value = channel->value;
    channel->value = NULL;
    struct fr_task *task = take_waiter_locked(channel);
    fr_mutex_unlock(&channel->lock);
    Py_XDECREF(value);
    wake_and_drop(task);
}

static PyObject *receiver_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    receiver_leave(((EndObject *)self)->channel);
    Py_RETURN_NONE;
}

static PyObject *receiver_exit(PyObject *self, PyObject *Py_UNUSED(args))
{
    return receiver_close(self, NULL);
}

static int receiver_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    struct channel *channel = ((EndObject *)self)->channel;
    if (channel) {
        Py_VISIT(channel->value);
    }
    return 0;
}

static int receiver_clear(PyObject *self)
{
    struct channel *channel = ((EndObject *)self)->channel;
    if (channel) {
        receiver_leave(channel);
    }
    return 0;
}

static void receiver_dealloc(PyObject *self)
{
    struct channel *channel = ((EndObject *)self)->channel;
    PyObject_GC_UnTrack(self);
    FR_TRASHCAN_BEGIN(self, receiver_dealloc)
    if (channel) {
        receiver_leave(channel);
        channel_unref(channel);
    }
    fr_dealloc(self, FR_FREE_RECV);
    FR_TRASHCAN_END
}

static PyObject *receiver_await(PyObject *self)
{
    struct fr_module *mod = fr_module_of_type(Py_TYPE(self));
    RecvObject *recv = (RecvObject *)fr_alloc(mod->recv_type, FR_FREE_RECV_LEAF);
    if (recv) {
        recv->receiver = (EndObject *)Py_NewRef(self);
        recv->waiter = (struct fr_waiter){.task = NULL};
    }
    return (PyObject *)recv;
}

static PyMethodDef receiver_methods[] = {
    {"try_recv", receiver_try_recv, METH_NOARGS,
     "try_recv($self)\n--\n\nThe value, without waiting; WouldBlock if none yet, RecvError if none will come."},
    {"close", receiver_close, METH_NOARGS, "close($self)\n--\n\nRefuse the value: a later send() raises SendError."},
    {"__enter__", end_enter, METH_NOARGS, NULL},
    {"__exit__", receiver_exit, METH_VARARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot receiver_slots[] = {
    {Py_tp_doc, "The receiving end of a oneshot channel: await it. Cancel safe: a value that has arrived stays in it. "
                "Tokio: sync::oneshot::Receiver."},
    {Py_tp_dealloc, receiver_dealloc},
    {Py_tp_traverse, receiver_traverse},
    {Py_tp_clear, receiver_clear},
    {Py_tp_methods, receiver_methods},
    {Py_am_await, receiver_await},
    {0, NULL},
};

static PyType_Spec receiver_spec = {
    .name = "freerun.sync.oneshot.Receiver",
    .basicsize = sizeof(EndObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = receiver_slots,
};

/* ---- awaiting the receiver ---- */

/* Takes the value, or stores the waiter. One task at a time: *busy says that another one waits. */
static enum taken take_or_wait(RecvObject *recv, struct fr_task *task, PyObject **value, bool *busy)
{
    struct channel *channel = recv->receiver->channel;
    struct fr_task *old = NULL;
    fr_mutex_lock(&channel->lock);
    if (channel->waiter == &recv->waiter) { /* woken by something else: start anew */
        old = take_waiter_locked(channel);
    }
    enum taken taken = take_locked(channel, value);
    *busy = taken == TAKEN_NOTHING && channel->waiter;
    if (taken == TAKEN_NOTHING && !*busy) {
        fr_task_ref(task);
        recv->waiter.task = task;
        recv->waiter.linked = true;
        channel->waiter = &recv->waiter;
    }
    fr_mutex_unlock(&channel->lock);
    if (old) {
        fr_task_unref(old);
    }
    return taken;
}

static PyObject *recv_iternext(PyObject *self)
{
    RecvObject *recv = (RecvObject *)self;
    struct fr_task *task = fr_leaf_task();
    if (!task) {
        return NULL;
    }
    if (!fr_leaf_spend()) {
        return fr_leaf_yield();
    }
    PyObject *value = NULL;
    bool busy;
    switch (take_or_wait(recv, task, &value, &busy)) {
    case TAKEN_VALUE:
        return fr_leaf_return(value);
    case TAKEN_CLOSED:
        return raise_recv_error(fr_module_of_type(Py_TYPE(self)), recv->receiver->channel);
    default:
        break;
    }
    if (busy) {
        PyErr_SetString(PyExc_RuntimeError, "another task is already awaiting this oneshot receiver");
        return NULL;
    }
    return fr_leaf_park();
}

static void recv_let_go(PyObject *self)
{
    RecvObject *recv = (RecvObject *)self;
    /* acquire: false means that nobody reads the waiter any more; pairs with take_waiter_locked() [W1] */
    if (atomic_load_explicit(&recv->waiter.linked, memory_order_acquire)) {
        struct channel *channel = recv->receiver->channel;
        struct fr_task *task = NULL;
        fr_mutex_lock(&channel->lock);
        if (channel->waiter == &recv->waiter) {
            task = take_waiter_locked(channel);
        }
        fr_mutex_unlock(&channel->lock);
        if (task) {
            fr_task_unref(task);
        }
    }
}

FR_LEAF_METHODS(recv, recv_let_go);

static void recv_dealloc(PyObject *self)
{
    RecvObject *recv = (RecvObject *)self;
    recv_let_go(self);
    Py_DECREF(recv->receiver);
    fr_dealloc(self, FR_FREE_RECV_LEAF);
}

static PyType_Slot recv_slots[] = {
    {Py_tp_doc, "What awaiting a oneshot receiver iterates over."},
    {Py_tp_dealloc, recv_dealloc},
    {Py_tp_methods, recv_methods},
    FR_LEAF_SLOTS(recv_iternext),
    {0, NULL},
};

static PyType_Spec recv_spec = {
    .name = "freerun._core._native.OneshotRecv",
    .basicsize = sizeof(RecvObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = recv_slots,
};

/* ---- the channel ---- */

static PyObject *end_new(PyTypeObject *type, enum fr_free_kind kind, struct channel *channel)
{
    EndObject *end = (EndObject *)fr_alloc(type, kind);
    if (!end) {
        channel_unref(channel);
        return NULL;
    }
    end->channel = channel;
    if (PyType_IS_GC(type) && !PyObject_GC_IsTracked((PyObject *)end)) {
        PyObject_GC_Track(end);
    }
    return (PyObject *)end;
}

PyObject *fr_oneshot_channel(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct fr_module *mod = PyModule_GetState(module);
    struct channel *channel = calloc(1, sizeof *channel);
    if (!channel) {
        return PyErr_NoMemory();
    }
    atomic_init(&channel->refs, 2);
    PyObject *sender = end_new(mod->oneshot_sender_type, FR_FREE_ONESHOT, channel);
    PyObject *receiver = end_new(mod->oneshot_receiver_type, FR_FREE_RECV, channel);
    PyObject *pair = sender && receiver ? PyTuple_New(2) : NULL;
    if (!pair) {
        Py_XDECREF(sender);
        Py_XDECREF(receiver);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, sender);
    PyTuple_SET_ITEM(pair, 1, receiver);
    return pair;
}

int fr_oneshot_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->oneshot_sender_type, &sender_spec, "OneshotSender") ||
                   fr_module_add_type(mod, &mod->oneshot_receiver_type, &receiver_spec, "OneshotReceiver") ||
                   fr_module_add_type(mod, &mod->recv_type, &recv_spec, NULL)
               ? -1
               : 0;
}
