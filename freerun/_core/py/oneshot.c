/* oneshot: one value from one sender to one receiver. Tokio: sync::oneshot.
 *
 * THREADS    any, on both ends.
 * OWNERSHIP  the channel is plain C, shared by the two ends (`refs`). Whoever moves `slot` away from a value or a waiting
 *            task owns the reference that was in it. A value in the slot belongs to the receiver, which shows it to the
 *            garbage collector.
 * FIELDS     slot         CAS by any thread, seq_cst: everything before a send is seen by who receives; and [O4]
 *            closer       the task that awaits closed(), or 0: CAS and exchange by any thread, seq_cst [O4]
 *            recv->task   the leaf's own: what it put into the slot; compared, never followed
 *            closed->task the leaf's own: what it put into `closer`; compared, never followed
 * INVARIANTS O1 EMPTY <-> WAITING(task) or THREAD(sleeper), written WAITING below; EMPTY, WAITING -> value -> TAKEN; EMPTY, WAITING -> GONE (the sender left);
 *               EMPTY, WAITING, value -> CLOSED (the receiver left). TAKEN, GONE and CLOSED are final.
 *            O2 WAITING holds one reference of its task. It names the task, not the leaf: whoever takes it out needs
 *               nothing that the leaf's owner might free meanwhile.
 *               THREAD holds one of two references of a sleeper: who takes it out sets its event, and may be slower at
 *               that than the thread is at leaving.
 *            O3 a leaf that is resumed finds its task in the slot still (a spurious wake), or something else there.
 *            O4 whoever makes `slot` final looks at `closer` after that; who puts a task into `closer` looks at `slot`
 *               after that. One of them sees the other.
 * LOCKS      none.
 * PROVED BY  tests/sync/test_oneshot.py
 */
#include <stdlib.h>

#include "leaf.h"

/* What `slot` holds, by its low bits: a value (or nothing), a waiting task or thread, or one of the final states. */
enum { EMPTY = 0, WAITING = 1, GONE = 2, THREAD = 3, CLOSED = 6, TAKEN = 10, TAG = 3 };

struct fr_channel {
    _Atomic uintptr_t slot;
    _Atomic uintptr_t closer;
    union {
        _Atomic uint32_t refs;
        struct fr_channel *next_free;
    };
};

typedef struct {
    PyObject_HEAD
    struct fr_channel *channel;
    _Atomic bool sent; /* the sender's: it had its turn */
} EndObject;

typedef struct {
    PyObject_HEAD
    EndObject *receiver; /* NULL: it has ended, and let go of it */
    struct fr_task *task;
} RecvObject;

typedef struct {
    PyObject_HEAD
    EndObject *sender;
    struct fr_task *task;
} ClosedObject;

/* A thread in blocking_recv(). */
struct sleeper {
    struct fr_event event;
    _Atomic uint32_t refs;
};

enum { FREE_CHANNELS_MAX = FR_FREE_KEEP };

static bool is_value(uintptr_t slot)
{
    return slot != EMPTY && (slot & TAG) == 0;
}

/* A task or a thread. */
static bool is_waiting(uintptr_t slot)
{
    return slot & WAITING;
}

static bool is_final(uintptr_t slot)
{
    return (slot & TAG) == GONE;
}

static struct fr_task *task_of(uintptr_t slot)
{
    return (struct fr_task *)(slot & ~(uintptr_t)TAG);
}

static uintptr_t waiting(struct fr_task *task)
{
    return (uintptr_t)task | WAITING;
}

static uintptr_t look(struct fr_channel *channel)
{
    return atomic_load_explicit(&channel->slot, memory_order_acquire); /* pairs with move() */
}

/* seq_cst: what came before the move is seen by who finds it, and the other way round; and it comes before wake_closer()
 * looks [O4] */
static bool move(struct fr_channel *channel, uintptr_t *from, uintptr_t to)
{
    return atomic_compare_exchange_weak_explicit(&channel->slot, from, to, memory_order_seq_cst, memory_order_acquire);
}

static struct fr_channel *channel_new(void)
{
    struct fr_worker *worker = fr_thread.worker;
    struct fr_channel *channel = worker ? worker->free_channels : NULL;
    if (channel) {
        worker->free_channels = channel->next_free;
        worker->free_channel_count--;
    } else {
        channel = malloc(sizeof *channel);
    }
    if (channel) {
        atomic_init(&channel->slot, EMPTY);
        atomic_init(&channel->closer, 0);
        atomic_init(&channel->refs, 2);
    }
    return channel;
}

static void channel_unref(struct fr_channel *channel)
{
    /* acquire, and acq_rel: every use of the channel comes before the free. The last one needs no subtraction: nobody can
     * make another reference out of none. */
    if (atomic_load_explicit(&channel->refs, memory_order_acquire) != 1 &&
        atomic_fetch_sub_explicit(&channel->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    struct fr_worker *worker = fr_thread.worker;
    if (worker && worker->free_channel_count < FREE_CHANNELS_MAX) {
        channel->next_free = worker->free_channels;
        worker->free_channels = channel;
        worker->free_channel_count++;
    } else {
        free(channel);
    }
}

void fr_oneshot_free_channels(struct fr_worker *worker)
{
    while (worker->free_channels) {
        struct fr_channel *channel = worker->free_channels;
        worker->free_channels = channel->next_free;
        free(channel);
    }
    worker->free_channel_count = 0;
}

static void sleeper_unref(struct sleeper *sleeper)
{
    /* acq_rel: every use of it comes before the free; pairs with itself */
    if (atomic_fetch_sub_explicit(&sleeper->refs, 1, memory_order_acq_rel) == 1) {
        free(sleeper);
    }
}

/* Wakes the task or thread that was taken out of the slot, if it was one. */
static void wake_taken(uintptr_t slot)
{
    if ((slot & TAG) == WAITING) {
        fr_task_wake_unref(task_of(slot));
    } else if ((slot & TAG) == THREAD) {
        struct sleeper *sleeper = (struct sleeper *)(slot & ~(uintptr_t)TAG);
        fr_event_set(&sleeper->event);
        sleeper_unref(sleeper);
    }
}

/* The slot is final now: wakes who awaits that. */
static void wake_closer(struct fr_channel *channel)
{
    /* seq_cst, twice: after the slot [O4]; pairs with wait_closed() */
    if (__builtin_expect(atomic_load_explicit(&channel->closer, memory_order_seq_cst) != 0, 0)) {
        wake_taken(atomic_exchange_explicit(&channel->closer, 0, memory_order_seq_cst));
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

static PyObject *refuse_send(EndObject *self, uintptr_t slot, PyObject *value)
{
    /* relaxed: two threads that use one sender at once must both expect either answer */
    if (slot == CLOSED && !atomic_load_explicit(&self->sent, memory_order_relaxed)) {
        return raise_send_error((PyObject *)self, value);
    }
    PyErr_SetString(PyExc_RuntimeError, "this oneshot sender has been used or closed: it sends one value");
    return NULL;
}

static PyObject *sender_send(PyObject *op, PyObject *value)
{
    EndObject *self = (EndObject *)op;
    struct fr_channel *channel = self->channel;
    uintptr_t slot = look(channel);
    Py_INCREF(value);
    do {
        if (slot != EMPTY && !is_waiting(slot)) {
            Py_DECREF(value);
            return refuse_send(self, slot, value);
        }
    } while (!move(channel, &slot, (uintptr_t)value));
    atomic_store_explicit(&self->sent, true, memory_order_relaxed); /* see refuse_send() */
    wake_taken(slot);
    Py_RETURN_NONE;
}

static void sender_leave(struct fr_channel *channel)
{
    uintptr_t slot = look(channel);
    do {
        if (slot != EMPTY && !is_waiting(slot)) {
            return;
        }
    } while (!move(channel, &slot, GONE));
    wake_taken(slot);
    wake_closer(channel);
}

static PyObject *sender_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    sender_leave(((EndObject *)self)->channel);
    Py_RETURN_NONE;
}

static PyObject *sender_is_closed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    uintptr_t slot = look(((EndObject *)self)->channel);
    return PyBool_FromLong(slot == CLOSED || slot == TAKEN);
}

static void sender_dealloc(PyObject *self)
{
    struct fr_channel *channel = ((EndObject *)self)->channel;
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

static PyObject *sender_closed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyTypeObject *type = fr_module_of_type(Py_TYPE(self))->oneshot_closed_type;
    ClosedObject *closed = (ClosedObject *)type->tp_alloc(type, 0);
    if (closed) {
        closed->sender = (EndObject *)Py_NewRef(self);
    }
    return (PyObject *)closed;
}

static PyMethodDef sender_methods[] = {
    {"send", sender_send, METH_O,
     "send($self, value, /)\n--\n\nSend the one value; never waits. SendError, with the value, if the receiver is "
     "gone."},
    {"close", sender_close, METH_NOARGS, "close($self)\n--\n\nLeave without sending: the receiver gets RecvError."},
    {"is_closed", sender_is_closed, METH_NOARGS,
     "is_closed($self)\n--\n\nWhether nothing more can be received: the receiver is gone or closed, or has the "
     "value."},
    {"closed", sender_closed, METH_NOARGS,
     "closed($self)\n--\n\nAwait it until nothing can come of sending any more: the receiver is gone or closed, or has "
     "the\nvalue, or this sender was closed.\n\nCancel safe. Thread safety: one task at a time. Tokio: "
     "Sender::closed.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import oneshot\n\n"
     "    async def main() -> str:\n"
     "        tx, rx = oneshot.channel()\n\n"
     "        async def give_up() -> None:\n"
     "            rx.close()\n\n"
     "        freerun.spawn(give_up)\n"
     "        await tx.closed()    # nobody wants the answer: stop working on it\n"
     "        return \"stopped\"\n\n"
     "    assert freerun.run(main) == \"stopped\"\n"},
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

/* ---- awaiting closed() ---- */

static void closed_let_go(PyObject *self)
{
    ClosedObject *closed = (ClosedObject *)self;
    struct fr_task *task = closed->task;
    uintptr_t mine = waiting(task);
    closed->task = NULL;
    /* seq_cst: as all of `closer` [O4]; pairs with wake_closer() */
    if (task && atomic_compare_exchange_strong_explicit(&closed->sender->channel->closer, &mine, 0,
                                                        memory_order_seq_cst, memory_order_relaxed)) {
        fr_task_unref(task);
    }
}

/* Puts `task` into `closer`; false: somebody else is there. */
static bool wait_closed(ClosedObject *closed, struct fr_task *task)
{
    closed_let_go((PyObject *)closed); /* the task for which this leaf waited before */
    uintptr_t nobody = 0;
    fr_leaf_ref(task);
    /* seq_cst: before the caller looks at the slot [O4]; pairs with wake_closer() */
    if (!atomic_compare_exchange_strong_explicit(&closed->sender->channel->closer, &nobody, waiting(task),
                                                 memory_order_seq_cst, memory_order_relaxed)) {
        fr_task_unref(task);
        PyErr_SetString(PyExc_RuntimeError, "another task is already awaiting closed() of this oneshot sender");
        return false;
    }
    closed->task = task;
    return true;
}

static PyObject *closed_iternext(PyObject *self)
{
    ClosedObject *closed = (ClosedObject *)self;
    struct fr_channel *channel = closed->sender->channel;
    struct fr_task *task = fr_leaf_task();
    if (!task) {
        return NULL;
    }
    if (!is_final(look(channel))) {
        /* relaxed: our own task is in there or it is not */
        bool spurious =
            closed->task == task && atomic_load_explicit(&channel->closer, memory_order_relaxed) == waiting(task);
        if (!spurious && !wait_closed(closed, task)) {
            return NULL;
        }
        /* seq_cst: after `closer` [O4]; pairs with move() */
        if (!is_final(atomic_load_explicit(&channel->slot, memory_order_seq_cst))) {
            return fr_leaf_park();
        }
    }
    if (!fr_leaf_spend()) {
        return fr_leaf_yield();
    }
    closed_let_go(self);
    return NULL; /* None */
}

static void closed_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    closed_let_go(self);
    Py_DECREF((PyObject *)((ClosedObject *)self)->sender);
    type->tp_free(self);
    Py_DECREF(type);
}

FR_LEAF_METHODS(closed, closed_let_go);

static PyType_Slot closed_slots[] = {
    {Py_tp_doc, "What awaiting closed() of a oneshot sender iterates over."},
    {Py_tp_dealloc, closed_dealloc},
    {Py_tp_methods, closed_methods},
    FR_LEAF_SLOTS(closed_iternext),
    {0, NULL},
};

static PyType_Spec closed_spec = {
    .name = "freerun._core._native.OneshotClosed",
    .basicsize = sizeof(ClosedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = closed_slots,
};

/* ---- receiver ---- */

static PyObject *raise_recv_error(struct fr_module *mod, uintptr_t slot)
{
    PyErr_SetString(mod->exc_recv, slot == TAKEN    ? "the value of this oneshot channel was received already"
                                   : slot == CLOSED ? "this oneshot receiver is closed"
                                                    : "the sender went away without sending");
    return NULL;
}

/* The value, if there is one; *slot is what there was instead. */
static PyObject *take(struct fr_channel *channel, uintptr_t *slot)
{
    while (is_value(*slot)) {
        if (move(channel, slot, TAKEN)) {
            wake_closer(channel);
            return (PyObject *)*slot;
        }
    }
    return NULL;
}

static PyObject *receiver_try_recv(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_module *mod = fr_module_of_type(Py_TYPE(self));
    struct fr_channel *channel = ((EndObject *)self)->channel;
    uintptr_t slot = look(channel);
    PyObject *value = take(channel, &slot);
    if (value) {
        return value;
    }
    if (slot == EMPTY || is_waiting(slot)) {
        PyErr_SetString(mod->exc_would_block, "nothing has been sent yet");
        return NULL;
    }
    return raise_recv_error(mod, slot);
}

static PyObject *raise_second(void)
{
    PyErr_SetString(PyExc_RuntimeError, "another task is already awaiting this oneshot receiver");
    return NULL;
}

/* Sleeps until what is in the empty slot has changed. 0, or -1 with a signal handler's exception. */
static int sleep_for(struct fr_channel *channel, uintptr_t *slot)
{
    struct sleeper *sleeper = malloc(sizeof *sleeper);
    if (!sleeper) {
        PyErr_NoMemory();
        return -1;
    }
    fr_event_init(&sleeper->event, -1);
    atomic_init(&sleeper->refs, 2);
    uintptr_t mine = (uintptr_t)sleeper | THREAD;
    if (!move(channel, slot, mine)) {
        free(sleeper);
        return 0;
    }
    int failed = fr_leaf_wait_event(&sleeper->event, -1);
    *slot = mine;
    while (failed && *slot == mine) {
        if (move(channel, slot, EMPTY)) {
            sleeper_unref(sleeper); /* the slot's */
            break;
        }
    }
    sleeper_unref(sleeper);
    *slot = look(channel);
    return failed ? -1 : 0;
}

static PyObject *receiver_blocking_recv(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_channel *channel = ((EndObject *)self)->channel;
    if (fr_thread.worker) {
        PyErr_SetString(PyExc_RuntimeError, "blocking_recv() would block a worker: inside a task, await the receiver");
        return NULL;
    }
    uintptr_t slot = look(channel);
    for (;;) {
        PyObject *value = take(channel, &slot);
        if (value) {
            return value;
        }
        if (is_final(slot)) {
            return raise_recv_error(fr_module_of_type(Py_TYPE(self)), slot);
        }
        if (is_waiting(slot)) {
            return raise_second();
        }
        if (sleep_for(channel, &slot)) {
            return NULL;
        }
    }
}

/* A value that nobody will take any more is dropped here, attached. */
static void receiver_leave(struct fr_channel *channel)
{
    uintptr_t slot = look(channel);
    do {
        if (is_final(slot)) {
            return;
        }
    } while (!move(channel, &slot, CLOSED));
    wake_taken(slot);
    wake_closer(channel);
    if (is_value(slot)) {
        Py_DECREF((PyObject *)slot);
    }
}

/* What was sent before may still be received. */
static PyObject *receiver_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_channel *channel = ((EndObject *)self)->channel;
    uintptr_t slot = look(channel);
    do {
        if (slot != EMPTY && !is_waiting(slot)) {
            Py_RETURN_NONE;
        }
    } while (!move(channel, &slot, CLOSED));
    wake_taken(slot);
    wake_closer(channel);
    Py_RETURN_NONE;
}

static PyObject *receiver_exit(PyObject *self, PyObject *Py_UNUSED(args))
{
    receiver_leave(((EndObject *)self)->channel);
    Py_RETURN_NONE;
}

static int receiver_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    struct fr_channel *channel = ((EndObject *)self)->channel;
    uintptr_t slot = channel ? look(channel) : EMPTY;
    if (is_value(slot)) {
        Py_VISIT((PyObject *)slot);
    }
    return 0;
}

static int receiver_clear(PyObject *self)
{
    struct fr_channel *channel = ((EndObject *)self)->channel;
    if (channel) {
        receiver_leave(channel);
    }
    return 0;
}

static void receiver_dealloc(PyObject *self)
{
    struct fr_channel *channel = ((EndObject *)self)->channel;
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
    RecvObject *recv = (RecvObject *)fr_alloc_leaf(mod->recv_type, FR_FREE_RECV_LEAF);
    if (recv) {
        recv->receiver = (EndObject *)Py_NewRef(self);
        recv->task = NULL;
    }
    return (PyObject *)recv;
}

static PyMethodDef receiver_methods[] = {
    {"try_recv", receiver_try_recv, METH_NOARGS,
     "try_recv($self)\n--\n\nThe value, without waiting; WouldBlock if none yet, RecvError if none will come."},
    {"blocking_recv", receiver_blocking_recv, METH_NOARGS,
     "blocking_recv($self)\n--\n\nThe value, on a plain thread, which sleeps until it is there; RecvError if none will "
     "come, RuntimeError\ninside a task. Tokio: Receiver::blocking_recv."},
    {"close", receiver_close, METH_NOARGS,
     "close($self)\n--\n\nRefuse the value: a later send() raises SendError. One that was sent before can still be "
     "received."},
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

/* Puts `task` into the slot, where there is nothing, or the task that this leaf waited for before it moved to another. */
static bool register_for(RecvObject *recv, struct fr_task *task, uintptr_t *slot)
{
    fr_leaf_ref(task);
    if (!move(recv->receiver->channel, slot, waiting(task))) {
        fr_task_unref(task);
        return false;
    }
    recv->task = task;
    if (is_waiting(*slot)) {
        fr_task_unref(task_of(*slot));
    }
    return true;
}

/* It has its value, and no exception is set. */
static void recv_retire(RecvObject *recv)
{
    if (fr_spare_keep((PyObject *)recv, FR_FREE_RECV_LEAF)) {
        Py_CLEAR(recv->receiver);
    }
}

static PyObject *receive(RecvObject *recv, uintptr_t slot)
{
    recv->task = NULL; /* whoever sent took it out: there is nothing to let go of */
    if (!fr_leaf_spend()) {
        return fr_leaf_yield();
    }
    PyObject *value = take(recv->receiver->channel, &slot);
    if (!value) {
        return raise_recv_error(fr_module_of_type(Py_TYPE((PyObject *)recv)), slot);
    }
    recv_retire(recv);
    return fr_leaf_return(value);
}

static bool is_fresh(RecvObject *recv)
{
    if (!recv->receiver) {
        PyErr_SetString(PyExc_RuntimeError, "this await has ended already; await the receiver again");
    }
    return recv->receiver;
}

static PyObject *recv_iternext(PyObject *self)
{
    RecvObject *recv = (RecvObject *)self;
    struct fr_task *task = fr_leaf_task();
    if (!task || !is_fresh(recv)) {
        return NULL;
    }
    uintptr_t slot = look(recv->receiver->channel);
    for (;;) {
        if (slot != EMPTY && !is_waiting(slot)) {
            return receive(recv, slot);
        }
        if (slot != EMPTY && recv->task == task && slot == waiting(task)) {
            return fr_leaf_park(); /* spurious [O3] */
        }
        if (slot != EMPTY && (!recv->task || slot != waiting(recv->task))) {
            return raise_second();
        }
        if (register_for(recv, task, &slot)) {
            return fr_leaf_park();
        }
    }
}

static void recv_let_go(PyObject *self)
{
    RecvObject *recv = (RecvObject *)self;
    struct fr_task *task = recv->task;
    if (!task) {
        return;
    }
    recv->task = NULL;
    uintptr_t slot = waiting(task);
    struct fr_channel *channel = recv->receiver->channel;
    while (slot == waiting(task)) {
        if (move(channel, &slot, EMPTY)) {
            fr_task_unref(task);
            return;
        }
    }
}

FR_LEAF_METHODS(recv, recv_let_go);

static void recv_dealloc(PyObject *self)
{
    RecvObject *recv = (RecvObject *)self;
    recv_let_go(self);
    Py_XDECREF(recv->receiver);
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

static PyObject *end_new(PyTypeObject *type, enum fr_free_kind kind, struct fr_channel *channel)
{
    EndObject *end = (EndObject *)fr_alloc(type, kind);
    if (!end) {
        channel_unref(channel);
        return NULL;
    }
    end->channel = channel;
    atomic_init(&end->sent, false);
    if (PyType_IS_GC(type) && !PyObject_GC_IsTracked((PyObject *)end)) {
        PyObject_GC_Track(end);
    }
    return (PyObject *)end;
}

PyObject *fr_oneshot_channel(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    struct fr_module *mod = PyModule_GetState(module);
    struct fr_channel *channel = channel_new();
    if (!channel) {
        return PyErr_NoMemory();
    }
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
                   fr_module_add_type(mod, &mod->recv_type, &recv_spec, NULL) ||
                   fr_module_add_type(mod, &mod->oneshot_closed_type, &closed_spec, NULL)
               ? -1
               : 0;
}
