/* mpsc: the ends of a channel from many senders to one receiver, over rt/mpsc.h. Tokio: sync::mpsc.
 *
 * THREADS    any, on both ends.
 * OWNERSHIP  the channel is plain C, shared by its ends (`refs`). A value in the queue belongs to the receiver, which shows
 *            it to the garbage collector and drops it, attached, when it goes. Until then it belongs to the sending leaf.
 *            A leaf or a permit holds its end, so the end outlives what was made of it.
 * FIELDS     channel->senders  open senders; CAS from non-zero to copy, fetch_sub acq_rel to close
 *            channel->weak     relaxed: a statistic
 *            channel->taker    relaxed: a hint, never dereferenced
 *            sender->closed    exchange: who turns it counts down
 *            receiver->receiving  fr_leaf_enter(): one thread at a time takes messages, or steps a leaf that does
 *            send->value       whoever has entered send->acquire.stepping; the collector
 * INVARIANTS MP1 once `senders` is 0 it stays so, and TX_CLOSED follows.
 *            MP2 whoever gives permits of a closed channel back tells the receiver (fr_mpsc_release() of 0), for whom
 *                that may be the end.
 * LOCKS      those of rt/mpsc.h.
 * PROVED BY  tests/sync/test_mpsc.py, tests/sync/test_mpsc_machine.py
 */
#include "rt/mpsc.h"

#include <errno.h>
#include <stdlib.h>

#include "acquire.h"

struct channel {
    struct fr_mpsc q;
    struct fr_module *mod; /* borrowed: the types of the ends keep it */
    _Atomic uint32_t refs;
    _Atomic uint64_t senders, weak;
    _Atomic(const void *) taker; /* fr_this_thread() of the worker that received last, or NULL: a hint */
};

/* A sender, a weak sender, or the receiver. */
typedef struct {
    PyObject_HEAD
    struct channel *channel;
    union {
        _Atomic bool closed;    /* a sender's */
        _Atomic bool receiving; /* the receiver's */
    };
} EndObject;

static struct fr_mpsc *queue_of(EndObject *end)
{
    return &end->channel->q;
}

static struct fr_module *module_of(EndObject *end)
{
    return end->channel->mod;
}

static PyTypeObject *type_of_kind(struct fr_module *mod, enum fr_mpsc_type kind)
{
    return mod->mpsc_types[kind];
}

static bool is_bounded(EndObject *end)
{
    return queue_of(end)->capacity != 0;
}

static void channel_unref(struct channel *channel)
{
    /* acq_rel: every use of the channel comes before the free */
    if (atomic_fetch_sub_explicit(&channel->refs, 1, memory_order_acq_rel) == 1) {
        fr_mpsc_destroy(&channel->q);
        free(channel);
    }
}

static EndObject *end_new(PyTypeObject *type, struct channel *channel)
{
    EndObject *end = (EndObject *)type->tp_alloc(type, 0);
    if (end) {
        end->channel = channel;
        atomic_fetch_add_explicit(&channel->refs, 1, memory_order_relaxed); /* the caller has one */
    }
    return end;
}

static void end_free(EndObject *end)
{
    PyTypeObject *type = Py_TYPE((PyObject *)end);
    channel_unref(end->channel);
    type->tp_free((PyObject *)end);
    Py_DECREF(type);
}

/* ---- errors ---- */

/* `kind` is SendError or one of its subclasses; NULL. */
static PyObject *raise_with_value(PyObject *kind, PyObject *value)
{
    PyObject *error = PyObject_CallOneArg(kind, value);
    if (error) {
        PyErr_SetRaisedException(error);
    }
    return NULL;
}

static PyObject *raise_ended(struct fr_module *mod)
{
    PyErr_SetString(mod->exc_recv, "the channel is closed, and nothing is left in it");
    return NULL;
}

static PyObject *raise_busy(void)
{
    PyErr_SetString(PyExc_RuntimeError,
                    "another task is already waiting for this channel's messages; a receiver serves "
                    "one at a time: give each task a channel of its own, or put a Mutex around it");
    return NULL;
}

/* A worker, else NULL: for what is left to it to free a worker looks even when it has nothing to do (fr_drain()). Receiving
 * tasks move now and then; senders read this for every message. */
static void note_taker(struct channel *channel)
{
    const void *taker = fr_thread.worker ? fr_this_thread() : NULL;
    /* relaxed, both: a hint */
    if (atomic_load_explicit(&channel->taker, memory_order_relaxed) != taker) {
        atomic_store_explicit(&channel->taker, taker, memory_order_relaxed);
    }
}

/* A reference for the receiver. */
static PyObject *ref_to_send(EndObject *sender, PyObject *value)
{
    return fr_ref_to_send(value, atomic_load_explicit(&sender->channel->taker, memory_order_relaxed)); /* a hint */
}

/* Enters the receiver; false with RuntimeError. */
static bool enter_receiver(EndObject *receiver)
{
    if (__builtin_expect(fr_leaf_try_enter(&receiver->receiving), 1)) {
        note_taker(receiver->channel);
        return true;
    }
    raise_busy();
    return false;
}

/* ---- senders that come and go ---- */

/* One sender more, unless there is none any more [MP1]. */
static bool add_sender(struct channel *channel)
{
    uint64_t n = atomic_load_explicit(&channel->senders, memory_order_relaxed); /* a guess, the CAS checks it */
    do {
        if (n == 0) {
            return false;
        }
        /* acquire: pairs with remove_sender() */
    } while (!atomic_compare_exchange_weak_explicit(&channel->senders, &n, n + 1, memory_order_acquire,
                                                    memory_order_relaxed));
    return true;
}

static void remove_sender(struct channel *channel)
{
    /* acq_rel: what the others sent comes before the close; pairs with itself and add_sender() */
    if (atomic_fetch_sub_explicit(&channel->senders, 1, memory_order_acq_rel) == 1) {
        fr_mpsc_close_tx(&channel->q);
    }
}

static bool is_closed_sender(EndObject *sender)
{
    return atomic_load_explicit(&sender->closed, memory_order_relaxed); /* a flag by itself */
}

static void close_sender(EndObject *sender)
{
    if (!atomic_exchange_explicit(&sender->closed, true, memory_order_relaxed)) { /* see is_closed_sender() */
        remove_sender(sender->channel);
    }
}

/* Another sender of the channel, counted; NULL without an exception if every sender is gone. */
static PyObject *sender_new(struct fr_module *mod, struct channel *channel)
{
    if (!add_sender(channel)) {
        return NULL;
    }
    EndObject *sender =
        end_new(type_of_kind(mod, channel->q.capacity ? FR_MPSC_SENDER : FR_MPSC_UNBOUNDED_SENDER), channel);
    if (!sender) {
        remove_sender(channel);
    }
    return (PyObject *)sender;
}

/* ---- what the leaves and permits of senders share ---- */

/* Leaves the line for room, as fr_acquire_let_go(). */
static void leave_line(struct fr_acquire *acquire, struct fr_mpsc *q)
{
    if (acquire->state == FR_ACQUIRE_LINED) {
        fr_acquire_let_go(acquire, &q->room);
        fr_mpsc_release(q, 0); /* [MP2] */
    }
}

/* One step towards room for the leaf's messages. */
static enum fr_acquired step_for_room(struct fr_acquire *acquire, EndObject *sender, struct fr_task *task)
{
    struct fr_mpsc *q = queue_of(sender);
    if (acquire->state == FR_ACQUIRE_NEW) {
        if (is_closed_sender(sender)) {
            return FR_ACQUIRE_CLOSED;
        }
        if (fr_sem_available(&q->room) < acquire->count) {
            fr_mpsc_collect(q);
        }
    }
    enum fr_acquired got = fr_acquire_step(acquire, &q->room, task);
    if (got == FR_ACQUIRE_PARKS) {
        fr_mpsc_stall(q);
    } else if (got == FR_ACQUIRE_CLOSED) {
        fr_mpsc_release(q, 0); /* [MP2] */
    }
    return got;
}

/* Sends `value`, whose reference is the caller's still unless this returns 0. It has room. -1 with an exception: the room
 * was given back. */
static int push(struct fr_module *mod, struct fr_mpsc *q, PyObject *value)
{
    int err = fr_mpsc_push(q, value);
    if (!err) {
        return 0;
    }
    if (q->capacity) {
        fr_mpsc_release(q, 1);
    }
    if (err == -ENOMEM) {
        PyErr_NoMemory();
    } else {
        raise_with_value(mod->exc_send, value);
    }
    return -1;
}

/* ---- awaiting send() ---- */

typedef struct {
    PyObject_HEAD
    EndObject *sender; /* NULL: the message was sent, and the leaf let go of it */
    PyObject *value;   /* NULL once it was sent */
    struct fr_acquire acquire;
} SendObject;

static PyObject *send_now(SendObject *send)
{
    struct fr_module *mod = module_of(send->sender);
    PyObject *value = send->value;
    send->value = NULL; /* before anybody can receive it */
    if (push(mod, queue_of(send->sender), value)) {
        send->value = value;
        send->acquire.state = FR_ACQUIRE_NEW;
        return NULL;
    }
    send->acquire.state = FR_ACQUIRE_OVER;
    return NULL; /* None */
}

static PyObject *send_step(SendObject *send, struct fr_task *task)
{
    if (!send->value) {
        PyErr_SetString(PyExc_RuntimeError, "this message has been sent already; call send() again");
        return NULL;
    }
    switch (step_for_room(&send->acquire, send->sender, task)) {
    case FR_ACQUIRED:
        return send_now(send);
    case FR_ACQUIRE_PARKS:
        return fr_leaf_park();
    case FR_ACQUIRE_YIELDS:
        return fr_leaf_yield();
    case FR_ACQUIRE_CLOSED:
        return raise_with_value(module_of(send->sender)->exc_send, send->value);
    default:
        return NULL;
    }
}

/* The way of most messages: nobody else has the leaf, so it needs no entering, and there is room. No Python runs here, so
 * nobody gets hold of it meanwhile. False: nothing has happened; what is the matter is for send_step() to say. */
static bool send_at_once(SendObject *send)
{
    EndObject *sender = send->sender;
    if (!fr_is_unique((PyObject *)send) || send->acquire.state != FR_ACQUIRE_NEW || !send->value ||
        is_closed_sender(sender) || !fr_leaf_may_spend()) {
        return false;
    }
    struct fr_mpsc *q = queue_of(sender);
    if (fr_mpsc_try_reserve(q, 1)) {
        return false;
    }
    if (fr_mpsc_push(q, send->value)) {
        fr_mpsc_release(q, 1);
        return false;
    }
    send->value = NULL;
    send->acquire.state = FR_ACQUIRE_OVER;
    fr_thread.budget--;
    return true;
}

/* The message was sent, and no exception is set. */
static void send_retire(SendObject *send)
{
    if (fr_spare_keep((PyObject *)send, FR_FREE_SEND)) {
        Py_CLEAR(send->sender); /* may be the last, and close the channel */
    }
}

static PyObject *send_iternext(PyObject *op)
{
    SendObject *send = (SendObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (task && send_at_once(send)) {
        send_retire(send);
        return NULL; /* None */
    }
    if (!task || !fr_leaf_enter(&send->acquire.stepping)) {
        return NULL;
    }
    bool had_value = send->value;
    PyObject *token = send_step(send, task);
    fr_leaf_exit(&send->acquire.stepping);
    if (had_value && !send->value) {
        send_retire(send);
    }
    return token;
}

static void send_let_go(PyObject *op)
{
    SendObject *send = (SendObject *)op;
    /* if another task steps it, it stays that task's */
    if (send->sender && fr_leaf_try_enter(&send->acquire.stepping)) {
        leave_line(&send->acquire, queue_of(send->sender));
        fr_leaf_exit(&send->acquire.stepping);
    }
}

static int send_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((SendObject *)op)->value);
    return 0;
}

static int send_clear(PyObject *op)
{
    Py_CLEAR(((SendObject *)op)->value);
    return 0;
}

static void send_dealloc(PyObject *op)
{
    SendObject *send = (SendObject *)op;
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, send_dealloc)
    if (send->sender) {
        leave_line(&send->acquire, queue_of(send->sender));
        Py_DECREF((PyObject *)send->sender);
    }
    Py_XDECREF(send->value);
    fr_dealloc(op, FR_FREE_SEND);
    FR_TRASHCAN_END
}

FR_LEAF_METHODS(send, send_let_go);

static PyType_Slot send_slots[] = {
    {Py_tp_doc, "What Sender.send() returns."},
    {Py_tp_dealloc, send_dealloc},
    {Py_tp_traverse, send_traverse},
    {Py_tp_clear, send_clear},
    {Py_tp_methods, send_methods},
    FR_LEAF_SLOTS(send_iternext),
    {0, NULL},
};

static PyType_Spec send_spec = {
    .name = "freerun._core._native.MpscSend",
    .basicsize = sizeof(SendObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = send_slots,
};

static PyObject *sender_send(PyObject *op, PyObject *value)
{
    struct fr_module *mod = module_of((EndObject *)op);
    SendObject *send = (SendObject *)fr_alloc_leaf(type_of_kind(mod, FR_MPSC_SEND), FR_FREE_SEND);
    if (send) {
        send->sender = (EndObject *)Py_NewRef(op);
        send->value = ref_to_send((EndObject *)op, value);
        fr_acquire_init(&send->acquire, 1, FR_ACQUIRE_NEW);
        if (!PyObject_GC_IsTracked((PyObject *)send)) {
            PyObject_GC_Track(send);
        }
    }
    return (PyObject *)send;
}

/* ---- permits ---- */

/* Awaited, it reserves room. reserve() gives itself: a Permit for one message. reserve_many() gives a PermitIterator. */
typedef struct {
    PyObject_HEAD
    EndObject *sender;
    struct fr_acquire acquire;
    PyObject *many; /* reserve_many()'s, for leaving `async with`; NULL before it was awaited */
    bool is_many;
} PermitObject;

typedef struct {
    PyObject_HEAD
    EndObject *sender;
    _Atomic uint64_t left;
} PermitsObject;

static PermitObject *permit_new(struct fr_module *mod, EndObject *sender, uint64_t n, enum fr_acquire_state state)
{
    PermitObject *permit = (PermitObject *)fr_alloc(type_of_kind(mod, FR_MPSC_PERMIT), FR_FREE_MPSC_PERMIT);
    if (permit) {
        permit->sender = (EndObject *)Py_NewRef((PyObject *)sender);
        permit->many = NULL;
        permit->is_many = false;
        fr_acquire_init(&permit->acquire, n, state);
    }
    return permit;
}

static PyObject *permits_new(struct fr_module *mod, EndObject *sender, uint64_t n)
{
    PyTypeObject *type = type_of_kind(mod, FR_MPSC_PERMITS);
    PermitsObject *permits = (PermitsObject *)type->tp_alloc(type, 0);
    if (permits) {
        permits->sender = (EndObject *)Py_NewRef((PyObject *)sender);
        atomic_init(&permits->left, n);
    }
    return (PyObject *)permits;
}

static PyObject *permit_got(PermitObject *permit)
{
    if (permit->is_many && !permit->many) {
        struct fr_module *mod = module_of(permit->sender);
        permit->many = permits_new(mod, permit->sender, permit->acquire.count);
        if (!permit->many) {
            return NULL; /* it holds them itself still */
        }
        permit->acquire.state = FR_ACQUIRE_OVER;
    }
    return fr_leaf_return(Py_NewRef(permit->is_many ? permit->many : (PyObject *)permit));
}

static PyObject *permit_step(PermitObject *permit, struct fr_task *task)
{
    if (permit->acquire.state == FR_ACQUIRE_HELD) {
        return permit_got(permit);
    }
    if (permit->acquire.state == FR_ACQUIRE_OVER) {
        PyErr_SetString(PyExc_RuntimeError, "this permit has been used or released already; reserve another one");
        return NULL;
    }
    switch (step_for_room(&permit->acquire, permit->sender, task)) {
    case FR_ACQUIRED:
        return permit_got(permit);
    case FR_ACQUIRE_PARKS:
        return fr_leaf_park();
    case FR_ACQUIRE_YIELDS:
        return fr_leaf_yield();
    case FR_ACQUIRE_CLOSED:
        return raise_with_value(module_of(permit->sender)->exc_send, Py_None);
    default:
        return NULL;
    }
}

static PyObject *permit_iternext(PyObject *op)
{
    PermitObject *permit = (PermitObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&permit->acquire.stepping)) {
        return NULL;
    }
    PyObject *token = permit_step(permit, task);
    fr_leaf_exit(&permit->acquire.stepping);
    return token;
}

static void permit_let_go(PyObject *op)
{
    PermitObject *permit = (PermitObject *)op;
    if (fr_leaf_try_enter(&permit->acquire.stepping)) { /* else another task steps it: it stays that task's */
        leave_line(&permit->acquire, queue_of(permit->sender));
        fr_leaf_exit(&permit->acquire.stepping);
    }
}

static void permit_dealloc(PyObject *op)
{
    PermitObject *permit = (PermitObject *)op;
    if (permit->acquire.state == FR_ACQUIRE_HELD) {
        fr_mpsc_release(queue_of(permit->sender), permit->acquire.count); /* [AQ2] */
    } else {
        leave_line(&permit->acquire, queue_of(permit->sender));
    }
    Py_XDECREF(permit->many);
    Py_DECREF((PyObject *)permit->sender);
    fr_dealloc(op, FR_FREE_MPSC_PERMIT);
}

/* Turns HELD into OVER: the room is the caller's then. Else what it was; -1 with an exception if another thread is at
 * it. */
static int permit_take(PermitObject *permit)
{
    if (!fr_leaf_enter(&permit->acquire.stepping)) {
        return -1;
    }
    uint8_t state = permit->acquire.state;
    if (state == FR_ACQUIRE_HELD) {
        permit->acquire.state = FR_ACQUIRE_OVER;
    }
    fr_leaf_exit(&permit->acquire.stepping);
    return state;
}

static void raise_not_held(int state)
{
    if (state >= 0) {
        PyErr_SetString(PyExc_RuntimeError, state == FR_ACQUIRE_OVER
                                                ? "this permit has been used or released already; reserve another one"
                                                : "this permit has no room reserved yet: await it first");
    }
}

static PyObject *permit_send(PyObject *op, PyObject *value)
{
    PermitObject *permit = (PermitObject *)op;
    if (permit->is_many) {
        PyErr_SetString(PyExc_RuntimeError, "await reserve_many(): it gives the permits, one for each message");
        return NULL;
    }
    int state = permit_take(permit);
    if (state != FR_ACQUIRE_HELD) {
        raise_not_held(state);
        return NULL;
    }
    if (push(module_of(((PermitObject *)op)->sender), queue_of(permit->sender), ref_to_send(permit->sender, value))) {
        Py_DECREF(value);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *permit_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PermitObject *permit = (PermitObject *)op;
    int state = permit_take(permit);
    if (state == FR_ACQUIRE_HELD) {
        fr_mpsc_release(queue_of(permit->sender), permit->acquire.count); /* [AQ2] */
    } else if (state != FR_ACQUIRE_OVER) {
        raise_not_held(state);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *permit_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PermitObject *permit = (PermitObject *)op;
    if (!fr_leaf_enter(&permit->acquire.stepping)) {
        return NULL;
    }
    uint8_t state = permit->acquire.state;
    fr_leaf_exit(&permit->acquire.stepping);
    if (state != FR_ACQUIRE_HELD) {
        raise_not_held(state);
        return NULL;
    }
    return Py_NewRef(op);
}

static PyObject *permit_exit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return permit_release(op, NULL);
}

static PyObject *permit_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op); /* awaited, it reserves */
}

static PyObject *permits_release(PyObject *op, PyObject *ignored);

static PyObject *permit_aexit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    PyObject *many = ((PermitObject *)op)->many;
    PyObject *done = many ? permits_release(many, NULL) : permit_release(op, NULL);
    if (!done) {
        return NULL;
    }
    Py_DECREF(done);
    return Py_NewRef(module_of(((PermitObject *)op)->sender)->ready);
}

FR_LEAF_THROW_AND_CLOSE(permit, permit_let_go)

#define FAST(f) (PyCFunction)(void (*)(void))(f)

static PyMethodDef permit_methods[] = {
    {"send", permit_send, METH_O,
     "send($self, value, /)\n--\n\nSend the message that there is room for; never waits. SendError, with the value, if "
     "the\nreceiver is gone, RuntimeError the second time."},
    {"release", permit_release, METH_NOARGS,
     "release($self, /)\n--\n\nGive the room back; harmless once it was used or given back."},
    {"__enter__", permit_enter, METH_NOARGS, NULL},
    {"__exit__", FAST(permit_exit), METH_FASTCALL, NULL},
    {"__aenter__", permit_aenter, METH_NOARGS, NULL},
    {"__aexit__", FAST(permit_aexit), METH_FASTCALL, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    FR_LEAF_METHOD_ROWS(permit),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot permit_slots[] = {
    {Py_tp_doc, "Room for one message. What reserve() returns: await it, or use it in `async with`.\n\n"
                "Room that was not used goes back when the block is left, with release(), or when Python frees it.\n\n"
                "Cancel safety: a reserve() that is cancelled gives up its place in line, nothing else. Thread safety: "
                "any thread.\n"
                "Tokio: mpsc::Permit, OwnedPermit."},
    {Py_tp_dealloc, permit_dealloc},
    {Py_tp_methods, permit_methods},
    FR_LEAF_SLOTS(permit_iternext),
    {0, NULL},
};

static PyType_Spec permit_spec = {
    .name = "freerun.sync.mpsc.Permit",
    .basicsize = sizeof(PermitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = permit_slots,
};

/* ---- reserve_many()'s result ---- */

static PyObject *permits_next(PyObject *op)
{
    PermitsObject *permits = (PermitsObject *)op;
    struct fr_module *mod = module_of(permits->sender);
    PermitObject *permit = permit_new(mod, permits->sender, 1, FR_ACQUIRE_OVER);
    if (!permit) {
        return NULL;
    }
    uint64_t left = atomic_load_explicit(&permits->left, memory_order_relaxed); /* a number by itself, here and below */
    do {
        if (left == 0) {
            Py_DECREF((PyObject *)permit);
            return NULL;
        }
    } while (!atomic_compare_exchange_weak_explicit(&permits->left, &left, left - 1, memory_order_relaxed,
                                                    memory_order_relaxed));
    permit->acquire.state = FR_ACQUIRE_HELD;
    return (PyObject *)permit;
}

static void permits_give_back(PermitsObject *permits)
{
    uint64_t left = atomic_exchange_explicit(&permits->left, 0, memory_order_relaxed); /* see permits_next() */
    if (left) {
        fr_mpsc_release(queue_of(permits->sender), left);
    }
}

static PyObject *permits_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    permits_give_back((PermitsObject *)op);
    Py_RETURN_NONE;
}

static Py_ssize_t permits_len(PyObject *op)
{
    uint64_t left = atomic_load_explicit(&((PermitsObject *)op)->left, memory_order_relaxed); /* see permits_next() */
    return left > PY_SSIZE_T_MAX ? PY_SSIZE_T_MAX : (Py_ssize_t)left;
}

static void permits_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    permits_give_back((PermitsObject *)op);
    Py_DECREF((PyObject *)((PermitsObject *)op)->sender);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *end_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op);
}

static PyObject *permits_exit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return permits_release(op, NULL);
}

static PyMethodDef permits_methods[] = {
    {"release", permits_release, METH_NOARGS,
     "release($self, /)\n--\n\nGive back the room that no permit was taken for; harmless the second time."},
    {"__enter__", end_enter, METH_NOARGS, NULL},
    {"__exit__", FAST(permits_exit), METH_FASTCALL, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot permits_slots[] = {
    {Py_tp_doc,
     "Room for several messages, as reserve_many() gives it: iterate over it for a Permit for each; `len()` says how "
     "many\nare left.\n\nRoom that no permit was taken for goes back when the block is left, with release(), or when "
     "Python frees it.\nThread safety: any thread. Tokio: mpsc::PermitIterator."},
    {Py_tp_dealloc, permits_dealloc},
    {Py_tp_methods, permits_methods},
    {Py_tp_iter, fr_leaf_self},
    {Py_tp_iternext, permits_next},
    {Py_sq_length, permits_len},
    {0, NULL},
};

static PyType_Spec permits_spec = {
    .name = "freerun.sync.mpsc.PermitIterator",
    .basicsize = sizeof(PermitsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = permits_slots,
};

static PyObject *sender_reserve(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)permit_new(module_of((EndObject *)op), (EndObject *)op, 1, FR_ACQUIRE_NEW);
}

/* The `n` of reserve_many(). 0, or -1 with an exception. */
static int parse_n(EndObject *sender, PyObject *value, uint64_t *n)
{
    if (fr_parse_count(value, "n", 0, n)) {
        return -1;
    }
    if (*n > queue_of(sender)->capacity) {
        PyErr_Format(PyExc_ValueError, "argument 'n' must be at most the channel's capacity, %llu: %R",
                     (unsigned long long)queue_of(sender)->capacity, value);
        return -1;
    }
    return 0;
}

static PyObject *sender_reserve_many(PyObject *op, PyObject *value)
{
    uint64_t n;
    if (parse_n((EndObject *)op, value, &n)) {
        return NULL;
    }
    PermitObject *permit = permit_new(module_of((EndObject *)op), (EndObject *)op, n, FR_ACQUIRE_NEW);
    if (permit) {
        permit->is_many = true;
    }
    return (PyObject *)permit;
}

/* 0 with room for n messages, -1 with TrySendError, which carries the value. */
static int try_room(EndObject *sender, uint64_t n, PyObject *value)
{
    struct fr_module *mod = module_of(sender);
    struct fr_mpsc *q = queue_of(sender);
    int err = is_closed_sender(sender) ? -ESHUTDOWN : fr_mpsc_try_reserve(q, n);
    if (err == -EAGAIN) {
        fr_acquire_settle();
        err = fr_mpsc_try_reserve(q, n);
    }
    if (err) {
        raise_with_value(err == -EAGAIN ? mod->exc_full : mod->exc_closed, value);
    }
    return err ? -1 : 0;
}

static PyObject *sender_try_reserve(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EndObject *sender = (EndObject *)op;
    PermitObject *permit = permit_new(module_of((EndObject *)op), sender, 1, FR_ACQUIRE_OVER);
    if (!permit || try_room(sender, 1, Py_None)) {
        Py_XDECREF((PyObject *)permit);
        return NULL;
    }
    permit->acquire.state = FR_ACQUIRE_HELD;
    return (PyObject *)permit;
}

static PyObject *sender_try_reserve_many(PyObject *op, PyObject *value)
{
    uint64_t n;
    if (parse_n((EndObject *)op, value, &n) || try_room((EndObject *)op, n, Py_None)) {
        return NULL;
    }
    PyObject *permits = permits_new(module_of((EndObject *)op), (EndObject *)op, n);
    if (!permits) {
        fr_mpsc_release(queue_of((EndObject *)op), n);
    }
    return permits;
}

/* ---- sending without a leaf ---- */

static PyObject *sender_try_send(PyObject *op, PyObject *value)
{
    EndObject *sender = (EndObject *)op;
    struct fr_mpsc *q = queue_of(sender);
    if (try_room(sender, 1, value)) {
        return NULL;
    }
    int err = fr_mpsc_push(q, ref_to_send(sender, value));
    if (!err) {
        Py_RETURN_NONE;
    }
    fr_mpsc_release(q, 1);
    if (err == -ENOMEM) {
        PyErr_NoMemory();
    } else {
        raise_with_value(module_of((EndObject *)op)->exc_closed, value);
    }
    Py_DECREF(value);
    return NULL;
}

static PyObject *unbounded_send(PyObject *op, PyObject *value)
{
    EndObject *sender = (EndObject *)op;
    struct fr_module *mod = module_of((EndObject *)op);
    if (is_closed_sender(sender)) {
        return raise_with_value(mod->exc_send, value);
    }
    if (push(mod, queue_of(sender), ref_to_send(sender, value))) {
        Py_DECREF(value);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* As fr_acquire_blocking(). */
static int reserve_blocking(struct fr_mpsc *q)
{
    struct fr_event event;
    fr_event_init(&event, -1);
    struct fr_sem_waiter waiter = {.waiter = {.event = &event}};
    int err = fr_mpsc_reserve(q, &waiter, 1);
    return err == -EAGAIN ? fr_acquire_wait_blocking(&q->room, &waiter) : err;
}

static PyObject *sender_blocking_send(PyObject *op, PyObject *value)
{
    EndObject *sender = (EndObject *)op;
    struct fr_module *mod = module_of((EndObject *)op);
    struct fr_mpsc *q = queue_of(sender);
    if (fr_leaf_may_block("blocking_send", "send")) {
        return NULL;
    }
    int err = is_closed_sender(sender) ? -ESHUTDOWN : reserve_blocking(q);
    if (err) {
        fr_mpsc_release(q, 0); /* [MP2] */
        return err == -ESHUTDOWN ? raise_with_value(mod->exc_send, value) : NULL;
    }
    if (push(mod, q, ref_to_send(sender, value))) {
        Py_DECREF(value);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* In Python: a timer and a permit in one task. */
static PyObject *sender_send_timeout(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "send_timeout() takes two arguments, 'value' and 'seconds', not %zd", nargs);
        return NULL;
    }
    PyObject *module = PyImport_ImportModule("freerun.sync._send_timeout");
    PyObject *function = module ? PyObject_GetAttrString(module, "send_timeout") : NULL;
    PyObject *awaitable = function ? PyObject_CallFunctionObjArgs(function, op, args[0], args[1], NULL) : NULL;
    Py_XDECREF(function);
    Py_XDECREF(module);
    return awaitable;
}

/* ---- awaiting closed() ---- */

typedef struct {
    PyObject_HEAD
    EndObject *sender;
    struct fr_waiter waiter;
    _Atomic bool stepping;
} ClosedObject;

static PyObject *closed_step(ClosedObject *closed, struct fr_task *task)
{
    struct fr_mpsc *q = queue_of(closed->sender);
    if (fr_waiter_is_linked(&closed->waiter)) {
        if (closed->waiter.task != task && !fr_leaf_move(&q->lock, &closed->waiter, task)) {
            return NULL;
        }
        if (fr_waiter_is_linked(&closed->waiter)) {
            return fr_leaf_park(); /* spurious, or in another's place */
        }
    }
    if (!fr_leaf_spend()) {
        return fr_leaf_yield();
    }
    closed->waiter = (struct fr_waiter){.task = task};
    fr_task_ref(task);
    if (fr_mpsc_wait_closed(q, &closed->waiter)) {
        return fr_leaf_park();
    }
    fr_task_unref(task);
    return NULL; /* None */
}

static PyObject *closed_iternext(PyObject *op)
{
    ClosedObject *closed = (ClosedObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&closed->stepping)) {
        return NULL;
    }
    PyObject *token = closed_step(closed, task);
    fr_leaf_exit(&closed->stepping);
    return token;
}

/* Under the channel's lock, so that it may come at any time. */
static void let_go_of(struct fr_mpsc *q, struct fr_waiter *waiter)
{
    if (fr_waiter_is_linked(waiter) && fr_mpsc_unwait(q, waiter)) {
        fr_task_unref(waiter->task);
    }
}

static void closed_let_go(PyObject *op)
{
    let_go_of(queue_of(((ClosedObject *)op)->sender), &((ClosedObject *)op)->waiter);
}

static void closed_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    closed_let_go(op);
    Py_DECREF((PyObject *)((ClosedObject *)op)->sender);
    type->tp_free(op);
    Py_DECREF(type);
}

FR_LEAF_METHODS(closed, closed_let_go);

static PyType_Slot closed_slots[] = {
    {Py_tp_doc, "What Sender.closed() returns."},
    {Py_tp_dealloc, closed_dealloc},
    {Py_tp_methods, closed_methods},
    FR_LEAF_SLOTS(closed_iternext),
    {0, NULL},
};

static PyType_Spec closed_spec = {
    .name = "freerun._core._native.MpscClosed",
    .basicsize = sizeof(ClosedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = closed_slots,
};

static PyObject *sender_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyTypeObject *type = type_of_kind(module_of((EndObject *)op), FR_MPSC_CLOSED);
    ClosedObject *closed = (ClosedObject *)type->tp_alloc(type, 0);
    if (closed) {
        closed->sender = (EndObject *)Py_NewRef(op);
    }
    return (PyObject *)closed;
}

/* ---- senders ---- */

static void sender_dealloc(PyObject *op)
{
    close_sender((EndObject *)op);
    end_free((EndObject *)op);
}

static PyObject *sender_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    close_sender((EndObject *)op);
    Py_RETURN_NONE;
}

static PyObject *sender_exit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return sender_close(op, NULL);
}

static PyObject *sender_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EndObject *sender = (EndObject *)op;
    return PyBool_FromLong(is_closed_sender(sender) || fr_mpsc_flags(queue_of(sender)) & FR_MPSC_RX_CLOSED);
}

static PyObject *sender_clone(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EndObject *sender = (EndObject *)op;
    PyObject *clone = is_closed_sender(sender) ? NULL : sender_new(module_of((EndObject *)op), sender->channel);
    if (!clone && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_RuntimeError, "this sender has been closed; clone it before that");
    }
    return clone;
}

static PyObject *weak_new(struct fr_module *mod, struct channel *channel)
{
    EndObject *weak =
        end_new(type_of_kind(mod, channel->q.capacity ? FR_MPSC_WEAK_SENDER : FR_MPSC_WEAK_UNBOUNDED_SENDER), channel);
    if (weak) {
        atomic_fetch_add_explicit(&channel->weak, 1, memory_order_relaxed); /* a statistic */
    }
    return (PyObject *)weak;
}

/* downgrade() of a sender, clone() of a weak one */
static PyObject *end_downgrade(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return weak_new(module_of((EndObject *)op), ((EndObject *)op)->channel);
}

static PyObject *weak_upgrade(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct fr_module *mod = module_of((EndObject *)op);
    PyObject *sender = sender_new(mod, ((EndObject *)op)->channel);
    return sender || PyErr_Occurred() ? sender : raise_with_value(mod->exc_send, Py_None);
}

static void weak_dealloc(PyObject *op)
{
    atomic_fetch_sub_explicit(&((EndObject *)op)->channel->weak, 1, memory_order_relaxed); /* a statistic */
    end_free((EndObject *)op);
}

static PyObject *end_strong_count(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    /* relaxed, here and below: a statistic */
    return PyLong_FromUnsignedLongLong(
        atomic_load_explicit(&((EndObject *)op)->channel->senders, memory_order_relaxed));
}

static PyObject *end_weak_count(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(atomic_load_explicit(&((EndObject *)op)->channel->weak, memory_order_relaxed));
}

static PyObject *end_capacity(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_acquire_settle();
    return PyLong_FromUnsignedLongLong(fr_mpsc_available(queue_of((EndObject *)op)));
}

static PyObject *end_max_capacity(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLongLong(queue_of((EndObject *)op)->capacity);
}

static PyObject *sender_same_channel(PyObject *op, PyObject *other)
{
    if (Py_TYPE(other) != Py_TYPE(op)) {
        PyErr_Format(PyExc_TypeError, "argument 'other' must be a %.200s, not %.200s", Py_TYPE(op)->tp_name,
                     Py_TYPE(other)->tp_name);
        return NULL;
    }
    return PyBool_FromLong(((EndObject *)op)->channel == ((EndObject *)other)->channel);
}

static PyObject *end_repr(PyObject *op)
{
    EndObject *end = (EndObject *)op;
    struct fr_mpsc *q = queue_of(end);
    const char *name = Py_TYPE(op)->tp_name;
    const char *closed = fr_mpsc_flags(q) ? " closed" : "";
    unsigned long long len = fr_mpsc_len(q);
    return is_bounded(end)
               ? PyUnicode_FromFormat("<%s len=%llu of %llu%s>", name, len, (unsigned long long)q->capacity, closed)
               : PyUnicode_FromFormat("<%s len=%llu%s>", name, len, closed);
}

/* What both kinds of senders have. */
#define SENDER_ROWS                                                                                                   \
    {"close", sender_close, METH_NOARGS,                                                                              \
     "close($self, /)\n--\n\nDo not send any more with this sender. Idempotent.\n\nOnce every sender is closed, the " \
     "receiver gets what is in the channel, and then RecvError. Leaving `with` closes,\ntoo, and so does garbage "    \
     "collection, as a safety net."},                                                                                 \
        {"is_closed", sender_is_closed, METH_NOARGS,                                                                  \
         "is_closed($self, /)\n--\n\nWhether nothing can be sent any more: the receiver is closed or gone, or this "  \
         "sender is closed."},                                                                                        \
        {"closed", sender_closed, METH_NOARGS,                                                                        \
         "closed($self, /)\n--\n\nAwait it until the receiver is closed or gone.\n\nCancel safe. Thread safety: any " \
         "task. Tokio: Sender::closed."},                                                                             \
        {"clone", sender_clone, METH_NOARGS,                                                                          \
         "clone($self, /)\n--\n\nAnother sender of the same channel. RuntimeError once this one is closed."},         \
        {"downgrade", end_downgrade, METH_NOARGS,                                                                     \
         "downgrade($self, /)\n--\n\nA weak sender: it does not keep the channel open, and becomes a sender by "      \
         "upgrade()."},                                                                                               \
        {"strong_count", end_strong_count, METH_NOARGS, "strong_count($self, /)\n--\n\nHow many senders are open."},  \
        {"weak_count", end_weak_count, METH_NOARGS, "weak_count($self, /)\n--\n\nHow many weak senders there are."},  \
        {"same_channel", sender_same_channel, METH_O,                                                                 \
         "same_channel($self, other, /)\n--\n\nWhether another sender sends to the same receiver."},                  \
        {"__enter__", end_enter, METH_NOARGS, NULL}, {"__exit__", FAST(sender_exit), METH_FASTCALL, NULL},            \
    {                                                                                                                 \
        "__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL                                               \
    }

static PyMethodDef sender_methods[] = {
    {"send", sender_send, METH_O,
     "send($self, value, /)\n--\n\n"
     "Await it to send a value; waits while the channel is full. Who waits is served in order.\n\n"
     "SendError, with the value in it, once the receiver is closed or gone, or this sender is closed.\n\n"
     "Cancel safety: what is cancelled was not sent; its place in line is lost. Thread safety: any task.\n"
     "Tokio: Sender::send."},
    {"try_send", sender_try_send, METH_O,
     "try_send($self, value, /)\n--\n\n"
     "Send a value without waiting. TrySendError.Full, which is a WouldBlock, or TrySendError.Closed, with the "
     "value.\n\n"
     "Thread safety: any thread. Tokio: Sender::try_send."},
    {"send_timeout", FAST(sender_send_timeout), METH_FASTCALL,
     "send_timeout($self, value, seconds, /)\n--\n\n"
     "Await it to send a value if there is room within `seconds` (float, int or timedelta).\n\n"
     "SendTimeoutError, which is a TimeoutError, or SendError once the channel is closed; both carry the value.\n\n"
     "Cancel safety: as send(). Thread safety: any task. Tokio: Sender::send_timeout."},
    {"blocking_send", sender_blocking_send, METH_O,
     "blocking_send($self, value, /)\n--\n\n"
     "As send(), on a plain thread, which sleeps meanwhile. RuntimeError inside a task, SendError if closed.\n\n"
     "Thread safety: any thread that runs no tasks. Tokio: Sender::blocking_send."},
    {"reserve", sender_reserve, METH_NOARGS,
     "reserve($self, /)\n--\n\n"
     "Await it to get room for one message: a Permit, whose send() does not wait. SendError if closed.\n\n"
     "Cancel safety: the place in line is lost, nothing else. Thread safety: any task.\n"
     "Tokio: Sender::reserve, reserve_owned.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import mpsc\n\n"
     "    async def main() -> str:\n"
     "        tx, rx = mpsc.channel(1)\n"
     "        async with tx.reserve() as permit:\n"
     "            permit.send(\"made only when there is room for it\")\n"
     "        return await rx.recv()\n\n"
     "    assert freerun.run(main).startswith(\"made\")\n"},
    {"reserve_many", sender_reserve_many, METH_O,
     "reserve_many($self, n, /)\n--\n\n"
     "Await it to get room for `n` messages: a PermitIterator. ValueError if the channel has not that capacity.\n\n"
     "SendError if closed. Cancel safety: as reserve(). Thread safety: any task. Tokio: Sender::reserve_many."},
    {"try_reserve", sender_try_reserve, METH_NOARGS,
     "try_reserve($self, /)\n--\n\nA Permit, without waiting; TrySendError.Full or TrySendError.Closed."},
    {"try_reserve_many", sender_try_reserve_many, METH_O,
     "try_reserve_many($self, n, /)\n--\n\nA PermitIterator, without waiting; TrySendError.Full or "
     "TrySendError.Closed."},
    {"capacity", end_capacity, METH_NOARGS,
     "capacity($self, /)\n--\n\nFor how many messages there is room now that nobody has reserved."},
    {"max_capacity", end_max_capacity, METH_NOARGS,
     "max_capacity($self, /)\n--\n\nThe capacity that the channel was made with."},
    SENDER_ROWS,
    {NULL, NULL, 0, NULL},
};

static PyMethodDef unbounded_sender_methods[] = {
    {"send", unbounded_send, METH_O,
     "send($self, value, /)\n--\n\n"
     "Send a value; never waits. SendError, with the value in it, once the receiver is closed or gone, or this sender "
     "is\nclosed.\n\nThread safety: any thread. Tokio: UnboundedSender::send."},
    SENDER_ROWS,
    {NULL, NULL, 0, NULL},
};

static PyMethodDef weak_methods[] = {
    {"upgrade", weak_upgrade, METH_NOARGS,
     "upgrade($self, /)\n--\n\nA sender of the channel; SendError if there is no open one any more."},
    {"clone", end_downgrade, METH_NOARGS, "clone($self, /)\n--\n\nAnother weak sender of the same channel."},
    {"strong_count", end_strong_count, METH_NOARGS, "strong_count($self, /)\n--\n\nHow many senders are open."},
    {"weak_count", end_weak_count, METH_NOARGS, "weak_count($self, /)\n--\n\nHow many weak senders there are."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

#define END_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Slot sender_slots[] = {
    {Py_tp_doc,
     "The sending end of a channel. clone() makes more of them. A context manager: leaving `with` closes it.\n\n"
     "Thread safety: any thread. Tokio: sync::mpsc::Sender."},
    {Py_tp_dealloc, sender_dealloc},
    {Py_tp_methods, sender_methods},
    {Py_tp_repr, end_repr},
    {0, NULL},
};

static PyType_Slot unbounded_sender_slots[] = {
    {Py_tp_doc,
     "The sending end of an unbounded channel: send() never waits. clone() makes more of them. A context "
     "manager:\nleaving `with` closes it.\n\nThread safety: any thread. Tokio: sync::mpsc::UnboundedSender."},
    {Py_tp_dealloc, sender_dealloc},
    {Py_tp_methods, unbounded_sender_methods},
    {Py_tp_repr, end_repr},
    {0, NULL},
};

static PyType_Slot weak_slots[] = {
    {Py_tp_doc, "A sender that does not keep its channel open: upgrade() makes a real one, while there is one.\n\n"
                "Thread safety: any thread. Tokio: sync::mpsc::WeakSender, WeakUnboundedSender."},
    {Py_tp_dealloc, weak_dealloc},
    {Py_tp_methods, weak_methods},
    {Py_tp_repr, end_repr},
    {0, NULL},
};

static PyType_Spec sender_spec = {
    .name = "freerun.sync.mpsc.Sender", .basicsize = sizeof(EndObject), .flags = END_FLAGS, .slots = sender_slots};
static PyType_Spec unbounded_sender_spec = {.name = "freerun.sync.mpsc.UnboundedSender",
                                            .basicsize = sizeof(EndObject),
                                            .flags = END_FLAGS,
                                            .slots = unbounded_sender_slots};
static PyType_Spec weak_spec = {
    .name = "freerun.sync.mpsc.WeakSender", .basicsize = sizeof(EndObject), .flags = END_FLAGS, .slots = weak_slots};
static PyType_Spec weak_unbounded_spec = {.name = "freerun.sync.mpsc.WeakUnboundedSender",
                                          .basicsize = sizeof(EndObject),
                                          .flags = END_FLAGS,
                                          .slots = weak_slots};

/* ---- awaiting recv(), recv_many() and __anext__() ---- */

enum recv_kind { RECV, RECV_MANY, RECV_NEXT };

typedef struct {
    PyObject_HEAD
    EndObject *receiver; /* NULL: it has ended, and let go of it */
    struct fr_waiter waiter;
    uint64_t limit;
    uint8_t kind;
} RecvObject;

/* A list of up to `limit` messages; NULL if there are none, or with an exception. */
static PyObject *take_many(struct fr_mpsc *q, uint64_t limit)
{
    uint64_t len = fr_mpsc_len(q); /* we are the one who takes: it can only grow */
    uint64_t n = len < limit ? len : limit;
    PyObject *list = n || !limit ? PyList_New((Py_ssize_t)n) : NULL;
    if (list && n) {
        fr_mpsc_pop_many(q, (void **)((PyListObject *)list)->ob_item, n);
    }
    return list;
}

/* What there is for the leaf: one message or a list of them; NULL: nothing, or an exception. */
static PyObject *take(RecvObject *recv, struct fr_mpsc *q)
{
    return recv->kind == RECV_MANY ? take_many(q, recv->limit) : fr_mpsc_pop(q);
}

/* One task may change its mind and wait with another leaf; what a task that is over left behind is in nobody's way. */
static bool may_replace(void *waiting, void *task)
{
    return waiting == task || fr_state_load(&((struct fr_task *)waiting)->state) & FR_COMPLETE;
}

static PyObject *recv_ended(RecvObject *recv)
{
    if (recv->kind == RECV_NEXT) {
        PyErr_SetNone(PyExc_StopAsyncIteration);
        return NULL;
    }
    return raise_ended(module_of(recv->receiver));
}

/* fr_mpsc_wait() for the task. */
static int recv_wait(RecvObject *recv, struct fr_mpsc *q, struct fr_task *task)
{
    void *replaced;
    recv->waiter = (struct fr_waiter){.task = task};
    fr_leaf_ref(task);
    int err = fr_mpsc_wait(q, &recv->waiter, may_replace, &replaced);
    if (err != -EAGAIN) {
        fr_task_unref(task);
    }
    if (replaced) {
        fr_task_unref(replaced);
    }
    return err;
}

/* The message, or NULL and *token is what to return. */
static PyObject *recv_step(RecvObject *recv, struct fr_task *task, PyObject **token)
{
    struct fr_mpsc *q = queue_of(recv->receiver);
    if (fr_waiter_is_linked(&recv->waiter)) {
        if (recv->waiter.task != task && !fr_leaf_move(&q->lock, &recv->waiter, task)) {
            return NULL;
        }
        if (fr_waiter_is_linked(&recv->waiter)) {
            *token = fr_leaf_park(); /* spurious, or in another's place */
            return NULL;
        }
    }
    if (!fr_leaf_spend()) {
        *token = fr_leaf_yield();
        return NULL;
    }
    for (;;) {
        PyObject *value = take(recv, q);
        if (value || PyErr_Occurred()) {
            return value;
        }
        switch (recv_wait(recv, q, task)) {
        case -EAGAIN:
            *token = fr_leaf_park();
            return NULL;
        case -ESHUTDOWN:
            return recv_ended(recv);
        case -EBUSY:
            return raise_busy();
        default:
            break; /* something came meanwhile */
        }
    }
}

/* A message was taken, so it waits nowhere, and no exception is set. */
static void recv_retire(RecvObject *recv)
{
    if (fr_spare_keep((PyObject *)recv, FR_FREE_MPSC_RECV)) {
        Py_CLEAR(recv->receiver); /* may be the last, and drop what it has not received */
    }
}

static bool is_fresh(EndObject *receiver)
{
    if (!receiver) {
        PyErr_SetString(PyExc_RuntimeError, "this has received its message already; call recv() again");
    }
    return receiver;
}

static PyObject *recv_iternext(PyObject *op)
{
    RecvObject *recv = (RecvObject *)op;
    EndObject *receiver = recv->receiver;
    struct fr_task *task = fr_leaf_task();
    if (!task || !is_fresh(receiver) || !enter_receiver(receiver)) {
        return NULL;
    }
    PyObject *token = NULL, *value = recv_step(recv, task, &token);
    fr_leaf_exit(&receiver->receiving);
    if (!value) {
        return token;
    }
    recv_retire(recv);
    return fr_leaf_return(value);
}

static void recv_let_go(PyObject *op)
{
    RecvObject *recv = (RecvObject *)op;
    if (recv->receiver) {
        let_go_of(queue_of(recv->receiver), &recv->waiter);
    }
}

FR_LEAF_METHODS(recv, recv_let_go);

static int recv_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((RecvObject *)op)->receiver);
    return 0;
}

static void recv_dealloc(PyObject *op)
{
    RecvObject *recv = (RecvObject *)op;
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, recv_dealloc)
    recv_let_go(op);
    Py_XDECREF((PyObject *)recv->receiver);
    fr_dealloc(op, FR_FREE_MPSC_RECV);
    FR_TRASHCAN_END
}

static PyType_Slot recv_slots[] = {
    {Py_tp_doc, "What Receiver.recv() and its kin return."},
    {Py_tp_dealloc, recv_dealloc},
    {Py_tp_traverse, recv_traverse},
    {Py_tp_methods, recv_methods},
    FR_LEAF_SLOTS(recv_iternext),
    {0, NULL},
};

static PyType_Spec recv_spec = {
    .name = "freerun._core._native.MpscRecv",
    .basicsize = sizeof(RecvObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = recv_slots,
};

static PyObject *recv_new(PyObject *op, enum recv_kind kind, uint64_t limit)
{
    struct fr_module *mod = module_of((EndObject *)op);
    RecvObject *recv = (RecvObject *)fr_alloc_leaf(type_of_kind(mod, FR_MPSC_RECV), FR_FREE_MPSC_RECV);
    if (recv) {
        recv->receiver = (EndObject *)Py_NewRef(op);
        atomic_init(&recv->waiter.linked, false);
        recv->kind = (uint8_t)kind;
        recv->limit = limit;
        if (!PyObject_GC_IsTracked((PyObject *)recv)) {
            PyObject_GC_Track(recv);
        }
    }
    return (PyObject *)recv;
}

static PyObject *receiver_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return recv_new(op, RECV, 1);
}

static PyObject *receiver_anext(PyObject *op)
{
    return recv_new(op, RECV_NEXT, 1);
}

static PyObject *receiver_recv_many(PyObject *op, PyObject *value)
{
    uint64_t limit;
    return fr_parse_count(value, "limit", 0, &limit) ? NULL : recv_new(op, RECV_MANY, limit);
}

/* ---- receiving without a leaf ---- */

static PyObject *receiver_try_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EndObject *receiver = (EndObject *)op;
    struct fr_mpsc *q = queue_of(receiver);
    struct fr_module *mod = module_of((EndObject *)op);
    if (!enter_receiver(receiver)) {
        return NULL;
    }
    PyObject *value = fr_mpsc_pop(q);
    int ended = 0;
    if (!value) {
        fr_acquire_settle(); /* what a dropped permit holds up may be the end */
    }
    while (!value && !(ended = fr_mpsc_end(q)) && fr_mpsc_len(q)) {
        value = fr_mpsc_pop(q);
    }
    fr_leaf_exit(&receiver->receiving);
    if (ended) {
        return raise_ended(mod);
    }
    if (!value) {
        PyErr_SetString(mod->exc_would_block, "the channel is empty");
    }
    return value;
}

/* A message, or a list of up to `limit`, on a plain thread. */
static PyObject *receive_blocking(EndObject *receiver, bool many, uint64_t limit)
{
    struct fr_mpsc *q = queue_of(receiver);
    for (;;) {
        void *replaced;
        struct fr_event event;
        fr_event_init(&event, -1);
        struct fr_waiter waiter = {.event = &event};
        if (!enter_receiver(receiver)) {
            return NULL;
        }
        PyObject *value = many ? take_many(q, limit) : fr_mpsc_pop(q);
        int err = value || PyErr_Occurred() ? 0 : fr_mpsc_wait(q, &waiter, may_replace, &replaced);
        fr_leaf_exit(&receiver->receiving); /* a task that comes now finds our waiter */
        if (value || PyErr_Occurred()) {
            return value;
        }
        if (err == -EAGAIN) {
            int failed = fr_leaf_wait_event(&event, -1);
            fr_mpsc_unwait(q, &waiter); /* also waits for who is setting the event right now */
            if (failed) {
                return NULL;
            }
        } else if (err) {
            return err == -EBUSY ? raise_busy() : raise_ended(module_of(receiver));
        }
    }
}

static PyObject *receiver_blocking_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return fr_leaf_may_block("blocking_recv", "recv") ? NULL : receive_blocking((EndObject *)op, false, 1);
}

static PyObject *receiver_blocking_recv_many(PyObject *op, PyObject *value)
{
    uint64_t limit;
    if (fr_leaf_may_block("blocking_recv_many", "recv_many") || fr_parse_count(value, "limit", 0, &limit)) {
        return NULL;
    }
    return receive_blocking((EndObject *)op, true, limit);
}

/* ---- the receiver ---- */

/* What is left is dropped here, attached, a batch at a time: a destructor may use the channel, and send to itself. */
static void drop_messages(EndObject *receiver)
{
    void *values[32];
    uint64_t n;
    do {
        n = 0;
        if (fr_leaf_try_enter(&receiver->receiving)) { /* else somebody receives right now; they are not lost */
            n = fr_mpsc_pop_many(queue_of(receiver), values, sizeof values / sizeof *values);
            fr_leaf_exit(&receiver->receiving);
        }
        for (uint64_t i = 0; i < n; i++) {
            Py_DECREF((PyObject *)values[i]);
        }
    } while (n);
}

static void receiver_leave(EndObject *receiver)
{
    fr_mpsc_leave_rx(queue_of(receiver));
    drop_messages(receiver);
}

static PyObject *receiver_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_mpsc_close_rx(queue_of((EndObject *)op));
    Py_RETURN_NONE;
}

static PyObject *receiver_exit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    receiver_leave((EndObject *)op);
    Py_RETURN_NONE;
}

struct visitor {
    visitproc visit;
    void *arg;
};

static int visit_value(void *value, void *arg)
{
    struct visitor *visitor = arg;
    return visitor->visit(value, visitor->arg);
}

/* The collector has stopped every other thread at a place where it is in no function of rt. */
static int receiver_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct visitor visitor = {visit, arg};
    Py_VISIT(Py_TYPE(op));
    return ((EndObject *)op)->channel ? fr_mpsc_visit(queue_of((EndObject *)op), visit_value, &visitor) : 0;
}

static int receiver_clear(PyObject *op)
{
    if (((EndObject *)op)->channel) {
        receiver_leave((EndObject *)op);
    }
    return 0;
}

static void receiver_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, receiver_dealloc)
    receiver_leave((EndObject *)op);
    end_free((EndObject *)op);
    FR_TRASHCAN_END
}

static PyObject *receiver_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(fr_mpsc_flags(queue_of((EndObject *)op)) != 0);
}

static Py_ssize_t receiver_len(PyObject *op)
{
    return (Py_ssize_t)fr_mpsc_len(queue_of((EndObject *)op));
}

static PyObject *receiver_is_empty(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(receiver_len(op) == 0);
}

static int receiver_bool(PyObject *Py_UNUSED(op))
{
    return 1;
}

#define RECEIVER_ROWS                                                                                                \
    {"recv", receiver_recv, METH_NOARGS,                                                                             \
     "recv($self, /)\n--\n\n"                                                                                        \
     "Await it to get the oldest message; RecvError when the channel is closed and nothing is left in it.\n\n"       \
     "RuntimeError if another task is waiting for the messages already.\n\n"                                         \
     "Cancel safety: nothing is lost. Thread safety: one task at a time. Tokio: Receiver::recv."},                   \
        {"recv_many", receiver_recv_many, METH_O,                                                                    \
         "recv_many($self, limit, /)\n--\n\n"                                                                        \
         "Await it to get a list of up to `limit` messages, at least one of them; RecvError as with recv().\n\n"     \
         "It takes what is there, and waits only if that is nothing. With 0 the list is empty.\n\n"                  \
         "Cancel safety: nothing is lost. Thread safety: one task at a time. Tokio: Receiver::recv_many."},          \
        {"try_recv", receiver_try_recv, METH_NOARGS,                                                                 \
         "try_recv($self, /)\n--\n\nThe oldest message, without waiting. WouldBlock if there is none, RecvError if " \
         "there will be none."},                                                                                     \
        {"blocking_recv", receiver_blocking_recv, METH_NOARGS,                                                       \
         "blocking_recv($self, /)\n--\n\n"                                                                           \
         "As recv(), on a plain thread, which sleeps meanwhile. RuntimeError inside a task.\n\n"                     \
         "Thread safety: any thread that runs no tasks. Tokio: Receiver::blocking_recv."},                           \
        {"blocking_recv_many", receiver_blocking_recv_many, METH_O,                                                  \
         "blocking_recv_many($self, limit, /)\n--\n\nAs recv_many(), on a plain thread, which sleeps meanwhile."},   \
        {"close", receiver_close, METH_NOARGS,                                                                       \
         "close($self, /)\n--\n\nRefuse further messages; what was sent or reserved before can still be received. "  \
         "Idempotent.\n\nSenders get SendError. Leaving `with` closes as well, and drops what is left."},            \
        {"is_closed", receiver_is_closed, METH_NOARGS,                                                               \
         "is_closed($self, /)\n--\n\nWhether close() was called or every sender is closed. There may be messages "   \
         "left."},                                                                                                   \
        {"is_empty", receiver_is_empty, METH_NOARGS, "is_empty($self, /)\n--\n\nWhether there is no message now."},  \
        {"sender_strong_count", end_strong_count, METH_NOARGS,                                                       \
         "sender_strong_count($self, /)\n--\n\nHow many senders are open."},                                         \
        {"sender_weak_count", end_weak_count, METH_NOARGS,                                                           \
         "sender_weak_count($self, /)\n--\n\nHow many weak senders there are."},                                     \
        {"__enter__", end_enter, METH_NOARGS, NULL}, {"__exit__", FAST(receiver_exit), METH_FASTCALL, NULL},         \
    {                                                                                                                \
        "__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL                                              \
    }

static PyMethodDef receiver_methods[] = {
    RECEIVER_ROWS,
    {"capacity", end_capacity, METH_NOARGS,
     "capacity($self, /)\n--\n\nFor how many messages there is room now that nobody has reserved."},
    {"max_capacity", end_max_capacity, METH_NOARGS,
     "max_capacity($self, /)\n--\n\nThe capacity that the channel was made with."},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef unbounded_receiver_methods[] = {RECEIVER_ROWS, {NULL, NULL, 0, NULL}};

#define RECEIVER_SLOTS(methods)                                                                                      \
    {Py_tp_doc,                                                                                                      \
     "The receiving end of a channel. `async for` iterates over its messages until every sender is closed.\n\n"      \
     "A context manager: leaving `with` closes it and drops what is left. `len()` is the number of messages in "     \
     "it.\n\n"                                                                                                       \
     "Thread safety: any thread, one task at a time. Tokio: sync::mpsc::Receiver, UnboundedReceiver."},              \
        {Py_tp_dealloc, receiver_dealloc}, {Py_tp_traverse, receiver_traverse}, {Py_tp_clear, receiver_clear},       \
        {Py_tp_methods, methods}, {Py_tp_repr, end_repr}, {Py_sq_length, receiver_len}, {Py_nb_bool, receiver_bool}, \
        {Py_am_aiter, fr_leaf_self}, {Py_am_anext, receiver_anext},                                                  \
    {                                                                                                                \
        0, NULL                                                                                                      \
    }

static PyType_Slot receiver_slots[] = {RECEIVER_SLOTS(receiver_methods)};
static PyType_Slot unbounded_receiver_slots[] = {RECEIVER_SLOTS(unbounded_receiver_methods)};

static PyType_Spec receiver_spec = {.name = "freerun.sync.mpsc.Receiver",
                                    .basicsize = sizeof(EndObject),
                                    .flags = END_FLAGS | Py_TPFLAGS_HAVE_GC,
                                    .slots = receiver_slots};
static PyType_Spec unbounded_receiver_spec = {.name = "freerun.sync.mpsc.UnboundedReceiver",
                                              .basicsize = sizeof(EndObject),
                                              .flags = END_FLAGS | Py_TPFLAGS_HAVE_GC,
                                              .slots = unbounded_receiver_slots};

/* ---- the channel ---- */

/* (sender, receiver) */
static PyObject *channel_new(struct fr_module *mod, uint64_t capacity)
{
    struct channel *channel = aligned_alloc(_Alignof(struct channel), sizeof(struct channel));
    if (!channel) {
        return PyErr_NoMemory();
    }
    fr_mpsc_init(&channel->q, capacity, fr_acquire_wake);
    channel->mod = mod;
    atomic_init(&channel->refs, 1);
    atomic_init(&channel->senders, 1); /* ours, until there is a sender object */
    atomic_init(&channel->weak, 0);
    atomic_init(&channel->taker, NULL);
    PyObject *sender = sender_new(mod, channel);
    PyObject *receiver =
        sender
            ? (PyObject *)end_new(type_of_kind(mod, capacity ? FR_MPSC_RECEIVER : FR_MPSC_UNBOUNDED_RECEIVER), channel)
            : NULL;
    PyObject *pair = receiver ? PyTuple_Pack(2, sender, receiver) : NULL;
    remove_sender(channel);
    Py_XDECREF(sender);
    Py_XDECREF(receiver);
    channel_unref(channel);
    return pair;
}

PyObject *fr_mpsc_channel(PyObject *module, PyObject *value)
{
    uint64_t capacity;
    return fr_parse_count(value, "capacity", 1, &capacity) ? NULL : channel_new(PyModule_GetState(module), capacity);
}

PyObject *fr_mpsc_unbounded_channel(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    return channel_new(PyModule_GetState(module), 0);
}

int fr_mpsc_add_types(struct fr_module *mod)
{
    struct {
        enum fr_mpsc_type kind;
        PyType_Spec *spec;
        const char *name;
    } all[] = {
        {FR_MPSC_SENDER, &sender_spec, "MpscSender"},
        {FR_MPSC_UNBOUNDED_SENDER, &unbounded_sender_spec, "MpscUnboundedSender"},
        {FR_MPSC_WEAK_SENDER, &weak_spec, "MpscWeakSender"},
        {FR_MPSC_WEAK_UNBOUNDED_SENDER, &weak_unbounded_spec, "MpscWeakUnboundedSender"},
        {FR_MPSC_RECEIVER, &receiver_spec, "MpscReceiver"},
        {FR_MPSC_UNBOUNDED_RECEIVER, &unbounded_receiver_spec, "MpscUnboundedReceiver"},
        {FR_MPSC_PERMIT, &permit_spec, "MpscPermit"},
        {FR_MPSC_PERMITS, &permits_spec, "MpscPermitIterator"},
        {FR_MPSC_SEND, &send_spec, NULL},
        {FR_MPSC_RECV, &recv_spec, NULL},
        {FR_MPSC_CLOSED, &closed_spec, NULL},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (fr_module_add_type(mod, &mod->mpsc_types[all[i].kind], all[i].spec, all[i].name)) {
            return -1;
        }
    }
    return 0;
}
