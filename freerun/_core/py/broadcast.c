/* broadcast: the hot half of sync.broadcast (freerun/sync/broadcast.py): the values that are kept, and a receiver, which is
 * the position that it reads next. Who sends, and the counts of senders, are written in Python.
 *
 * A slot counts the receivers that have yet to pass it; the last one takes it out, so a value is released as soon as the
 * slowest receiver has it. Only what is kept takes memory: slots come in blocks, as somebody lags behind.
 *
 * THREADS    any.
 * OWNERSHIP  a receiver holds its Ring, that its Listeners and the values that are kept. A value that goes out is dropped,
 *            or handed out, by who has taken it out, after the lock; so is the memory of a block.
 * FIELDS     ring->lock    guards the ring, and where its receivers are
 *            head, tail    the positions [head, tail) are kept. tail: written under the lock, release; read without it,
 *                          acquire, to see whether there is something at all
 *            ended         the same
 *            first, last   the blocks of head and of the newest position; there is always one
 *            next, closed  a receiver's, written under its ring's lock; read without it, relaxed, for a look or a length
 *            block, number where it has read last; under the lock
 * INVARIANTS BR1  receivers pass positions in order, each once. Who has yet to pass a position has yet to pass all that
 *                 come after it; so the slot that nobody waits for any more is the oldest. Only behind what a receiver that
 *                 leaves has yet to pass may be slots that nobody waits for, since they do not count it; it takes them
 *                 out when it is through [BR4].
 *            BR2  a receiver behind the head has missed all up to there by overwriting: else the head would wait for it.
 *            BR3  nothing comes in once `ended` is set: who finds it set, and then nothing to read, has read everything.
 *            BR4  a receiver that is closed counts for nothing that is sent from then on; what it has yet to pass it
 *                 passes in pieces, and nobody else reads in its name.
 *            BR5  a receiver's next position is in the block after `block` or in that itself, which may be gone only if
 *                 the position is in `first`.
 * LOCKS      `lock` is a leaf (see rt/mutex.h): under it references are made, none are dropped; no memory comes or goes.
 * SHUTDOWN   none. A fork finds the lock free: who holds it is attached, and for a fork the world is stopped.
 * PROVED BY  tests/sync/test_broadcast.py, tests/sync/test_broadcast_model.py, tests/stress/test_sync.py
 */
#include <assert.h>
#include <stdlib.h>

#include "listeners.h"

#ifndef FR_BROADCAST_BLOCK
#define FR_BROADCAST_BLOCK 32
#endif
enum { BLOCK = FR_BROADCAST_BLOCK };

struct slot {
    PyObject *value;
    size_t left; /* receivers that have not passed it yet */
};

struct block {
    struct block *next;
    uint64_t number; /* of its first position, in blocks */
    struct slot slots[BLOCK];
};

typedef struct {
    PyObject_HEAD
    struct fr_mutex lock;
    _Atomic bool ended;
    size_t receivers;
    uint64_t head;
    _Atomic uint64_t tail;
    uint64_t capacity;
    struct block *first, *last;
    struct block *spare;
    PyObject *news;   /* Listeners */
    PyObject *lagged; /* the exception */
} RingObject;

typedef struct {
    PyObject_HEAD
    RingObject *ring;
    _Atomic uint64_t next;
    struct block *block;
    uint64_t number;
    _Atomic bool closed;
} ReceiverObject;

/* ---- the ring ---- */

static uint64_t tail_of(RingObject *ring)
{
    return atomic_load_explicit(&ring->tail, memory_order_acquire); /* pairs with push_locked() */
}

static bool has_ended(RingObject *ring)
{
    return atomic_load_explicit(&ring->ended, memory_order_acquire); /* pairs with ring_end() [BR3] */
}

/* What was taken out under the lock, to be dropped after it. */
struct taken {
    size_t n;
    PyObject *values[BLOCK];
    struct block *blocks; /* hang together by next */
};

static void drop(struct taken *taken)
{
    while (taken->blocks) {
        struct block *block = taken->blocks;
        taken->blocks = block->next;
        free(block);
    }
    for (size_t i = 0; i < taken->n; i++) {
        Py_DECREF(taken->values[i]);
    }
    taken->n = 0;
}

static void block_is_over_locked(RingObject *ring, struct block *block, struct block **over)
{
    if (!ring->spare) {
        ring->spare = block;
        return;
    }
    block->next = *over;
    *over = block;
}

/* Takes the oldest value out. */
static PyObject *pop_locked(RingObject *ring, struct block **over)
{
    assert(fr_mutex_is_locked(&ring->lock));
    struct block *first = ring->first;
    PyObject *value = first->slots[ring->head++ % BLOCK].value;
    if (ring->head % BLOCK == 0 && first != ring->last) {
        ring->first = first->next;
        block_is_over_locked(ring, first, over);
    }
    return value;
}

/* One more block, which the caller gives. */
static void append_locked(RingObject *ring, struct block *block, struct block **over)
{
    struct block *last = ring->last;
    block->next = NULL;
    block->number = last->number + 1;
    last->next = block;
    ring->last = block;
    if (ring->head / BLOCK == block->number) { /* nothing was left in the others: in the one other */
        ring->first = block;
        block_is_over_locked(ring, last, over);
    }
}

static bool is_full_locked(RingObject *ring)
{
    return tail_of(ring) / BLOCK > ring->last->number;
}

/* There is room. What is overwritten goes to `taken`. */
static void push_locked(RingObject *ring, PyObject *value, struct taken *taken)
{
    uint64_t tail = tail_of(ring);
    ring->last->slots[tail % BLOCK] = (struct slot){.value = value, .left = ring->receivers};
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release); /* pairs with tail_of() */
    if (tail + 1 - ring->head > ring->capacity) {
        taken->values[taken->n++] = pop_locked(ring, &taken->blocks);
    }
}

/* Sends `value`, whose reference it takes over: to how many. 0: there is no receiver, or the end has come [BR3]. -1 with
 * MemoryError. */
static Py_ssize_t push(RingObject *ring, PyObject *value)
{
    struct taken taken = {0};
    struct block *fresh = NULL;
    fr_mutex_lock(&ring->lock);
    size_t receivers;
    while ((receivers = has_ended(ring) ? 0 : ring->receivers) && is_full_locked(ring)) {
        if (!fresh) {
            fresh = ring->spare;
            ring->spare = NULL;
        }
        if (fresh) {
            append_locked(ring, fresh, &taken.blocks);
            fresh = NULL;
            continue;
        }
        fr_mutex_unlock(&ring->lock);
        fresh = malloc(sizeof *fresh);
        if (!fresh) {
            Py_DECREF(value);
            PyErr_NoMemory();
            return -1;
        }
        fr_mutex_lock(&ring->lock);
    }
    if (receivers) {
        push_locked(ring, value, &taken);
    } else {
        taken.values[taken.n++] = value;
    }
    fr_mutex_unlock(&ring->lock);
    free(fresh); /* somebody else was faster */
    drop(&taken);
    return (Py_ssize_t)receivers;
}

/* Takes everything out. */
static void empty(RingObject *ring)
{
    struct taken taken = {0};
    bool more;
    do {
        fr_mutex_lock(&ring->lock);
        while ((more = ring->head != tail_of(ring)) && taken.n < BLOCK) {
            taken.values[taken.n++] = pop_locked(ring, &taken.blocks);
        }
        fr_mutex_unlock(&ring->lock);
        drop(&taken);
    } while (more);
}

/* 0 for "as good as without a limit", -1 with an exception. */
static int parse_capacity(PyObject *number, uint64_t *capacity)
{
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (n == -1 && PyErr_Occurred()) {
        return -1;
    }
    *capacity = overflow ? UINT64_MAX : (uint64_t)n;
    return 0;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "", "", NULL};
    struct fr_module *mod = fr_module_of_type(type);
    PyObject *number, *news, *lagged;
    uint64_t capacity;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O!O:BroadcastRing", keywords, &PyLong_Type, &number,
                                     mod->listeners_type, &news, &lagged) ||
        parse_capacity(number, &capacity)) {
        return NULL;
    }
    struct block *block = calloc(1, sizeof *block);
    RingObject *ring = block ? (RingObject *)type->tp_alloc(type, 0) : NULL;
    if (!ring) {
        free(block);
        return block ? NULL : PyErr_NoMemory();
    }
    fr_mutex_init(&ring->lock);
    atomic_init(&ring->ended, false);
    atomic_init(&ring->tail, 0);
    ring->capacity = capacity;
    ring->first = ring->last = block;
    ring->news = Py_NewRef(news);
    ring->lagged = Py_NewRef(lagged);
    return (PyObject *)ring;
}

static int ring_traverse(PyObject *op, visitproc visit, void *arg)
{
    RingObject *ring = (RingObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(ring->lagged);
    struct block *block = ring->first;
    for (uint64_t position = ring->head; block && position != tail_of(ring); position++) {
        if (position / BLOCK != block->number) {
            block = block->next;
        }
        Py_VISIT(block->slots[position % BLOCK].value);
    }
    return 0;
}

static int ring_clear(PyObject *op)
{
    empty((RingObject *)op);
    return 0;
}

static void ring_dealloc(PyObject *op)
{
    RingObject *ring = (RingObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, ring_dealloc)
    empty(ring);
    free(ring->first);
    free(ring->spare);
    Py_DECREF(ring->news);
    Py_DECREF(ring->lagged);
    type->tp_free(op);
    Py_DECREF(type);
    FR_TRASHCAN_END
}

static PyObject *ring_push(PyObject *op, PyObject *value)
{
    Py_ssize_t receivers = push((RingObject *)op, fr_ref_to_send(value, NULL));
    return receivers < 0 ? NULL : PyLong_FromSsize_t(receivers);
}

static PyObject *ring_end(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RingObject *ring = (RingObject *)op;
    fr_mutex_lock(&ring->lock); /* so that no push() is in the middle of it [BR3] */
    atomic_store_explicit(&ring->ended, true, memory_order_release); /* pairs with has_ended() */
    fr_mutex_unlock(&ring->lock);
    Py_RETURN_NONE;
}

static PyObject *ring_has_ended(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(has_ended((RingObject *)op));
}

static PyObject *ring_receivers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RingObject *ring = (RingObject *)op;
    fr_mutex_lock(&ring->lock);
    size_t receivers = ring->receivers;
    fr_mutex_unlock(&ring->lock);
    return PyLong_FromSize_t(receivers);
}

static Py_ssize_t ring_len(PyObject *op)
{
    RingObject *ring = (RingObject *)op;
    fr_mutex_lock(&ring->lock);
    uint64_t len = tail_of(ring) - ring->head;
    fr_mutex_unlock(&ring->lock);
    return (Py_ssize_t)len;
}

static PyMethodDef ring_methods[] = {
    {"push", ring_push, METH_O,
     "push($self, value, /)\n--\n\nKeep it for every receiver, and say how many there are. 0: none, or the end has "
     "come; "
     "then it is not kept. Tells nobody."},
    {"end", ring_end, METH_NOARGS, "end($self, /)\n--\n\nNothing comes in any more. Tells nobody."},
    {"has_ended", ring_has_ended, METH_NOARGS, "has_ended($self, /)\n--\n\nWhether end() was called."},
    {"receivers", ring_receivers, METH_NOARGS, "receivers($self, /)\n--\n\nHow many receivers are open."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_doc,
     "BroadcastRing(capacity, news, lagged, /)\n--\n\nThe newest values, for receivers that have not read them. "
     "Any thread."},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_traverse, ring_traverse},
    {Py_tp_clear, ring_clear},
    {Py_tp_methods, ring_methods},
    {Py_sq_length, ring_len},
    {0, NULL},
};

static PyType_Spec ring_spec = {
    .name = "freerun._core._native.BroadcastRing",
    .basicsize = sizeof(RingObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ring_slots,
};

/* ---- who receives ---- */

static uint64_t next_of(ReceiverObject *receiver)
{
    return atomic_load_explicit(&receiver->next, memory_order_relaxed); /* who decides by it has the lock */
}

static void set_next_locked(ReceiverObject *receiver, uint64_t next)
{
    atomic_store_explicit(&receiver->next, next, memory_order_relaxed); /* see next_of() */
}

static bool is_closed(ReceiverObject *receiver)
{
    return atomic_load_explicit(&receiver->closed, memory_order_relaxed); /* who decides by it has the lock */
}

/* The block of its next position, which is kept [BR5]. */
static struct block *block_locked(ReceiverObject *receiver)
{
    RingObject *ring = receiver->ring;
    uint64_t number = next_of(receiver) / BLOCK;
    struct block *block = number == ring->first->number ? ring->first
                          : number == receiver->number  ? receiver->block
                                                        : receiver->block->next;
    receiver->block = block;
    receiver->number = number;
    return block;
}

/* Passes its next position, which is kept. A new reference to the value, or the ring's own, if it was the last and none
 * is before it [BR1]. */
static PyObject *pass_locked(ReceiverObject *receiver, struct block **over)
{
    RingObject *ring = receiver->ring;
    uint64_t position = next_of(receiver);
    struct slot *slot = &block_locked(receiver)->slots[position % BLOCK];
    set_next_locked(receiver, position + 1);
    if (--slot->left || position != ring->head) {
        return Py_NewRef(slot->value);
    }
    return pop_locked(ring, over);
}

/* Whether there is certainly nothing for it; without the lock, and half of all looks end here. */
static bool has_nothing(ReceiverObject *receiver)
{
    return next_of(receiver) == tail_of(receiver->ring) && !has_ended(receiver->ring) && !is_closed(receiver);
}

enum took { TOOK, NOTHING, ENDED, CLOSED, LAGGED };

/* `value`: the one taken; `missed`: how many were overwritten. */
static enum took take(ReceiverObject *receiver, PyObject **value, uint64_t *missed)
{
    RingObject *ring = receiver->ring;
    struct block *over = NULL;
    enum took took = TOOK;
    fr_mutex_lock(&ring->lock);
    uint64_t next = next_of(receiver);
    if (is_closed(receiver)) {
        took = CLOSED;
    } else if (next == tail_of(ring)) {
        took = has_ended(ring) ? ENDED : NOTHING;
    } else if (next < ring->head) { /* [BR2] */
        took = LAGGED;
        *missed = ring->head - next;
        set_next_locked(receiver, ring->head);
    } else {
        *value = pass_locked(receiver, &over);
    }
    fr_mutex_unlock(&ring->lock);
    if (__builtin_expect(over != NULL, 0)) {
        free(over); /* one position, one block at the most */
    }
    return took;
}

static void raise_lagged(RingObject *ring, uint64_t missed)
{
    PyObject *error = PyObject_CallFunction(ring->lagged, "K", (unsigned long long)missed);
    if (error) {
        PyErr_SetRaisedException(error);
    }
}

/* The next value. NULL: it raised, or there is nothing yet (no exception). `iterates`: the end is one of an iteration. */
static PyObject *look(struct fr_module *mod, PyObject *op, bool iterates)
{
    ReceiverObject *receiver = (ReceiverObject *)op;
    PyObject *value = NULL;
    uint64_t missed = 0;
    if (has_nothing(receiver)) {
        return NULL;
    }
    enum took took = take(receiver, &value, &missed);
    if (took == TOOK) {
        return value;
    }
    if (took == LAGGED) {
        raise_lagged(receiver->ring, missed);
    } else if (took != NOTHING && iterates) {
        PyErr_SetNone(PyExc_StopAsyncIteration);
    } else if (took != NOTHING) {
        PyErr_SetString(mod->exc_recv,
                        took == CLOSED ? "this receiver is closed" : "every sender is closed, and everything was read");
    }
    return NULL;
}

static PyObject *look_for_value(struct fr_module *mod, PyObject *op)
{
    return look(mod, op, false);
}

static PyObject *look_for_next(struct fr_module *mod, PyObject *op)
{
    return look(mod, op, true);
}

/* The oldest that is kept is one that nobody waits for [BR1]. */
static bool head_is_over_locked(RingObject *ring)
{
    return ring->head != tail_of(ring) && ring->first->slots[ring->head % BLOCK].left == 0;
}

/* Passes all that it has yet to pass before `end`, or a part of that. True: there is more to do. */
static bool pass_some_locked(ReceiverObject *receiver, uint64_t end, struct taken *taken)
{
    RingObject *ring = receiver->ring;
    if (next_of(receiver) < ring->head) { /* overwritten, perhaps meanwhile */
        set_next_locked(receiver, ring->head);
    }
    while (next_of(receiver) < end && taken->n < BLOCK) {
        taken->values[taken->n++] = pass_locked(receiver, &taken->blocks);
    }
    if (next_of(receiver) < end) {
        return true;
    }
    while (head_is_over_locked(ring) && taken->n < BLOCK) {
        taken->values[taken->n++] = pop_locked(ring, &taken->blocks);
    }
    return head_is_over_locked(ring);
}

/* False: it was closed before. `left`: how many receivers there are then. */
static bool leave(ReceiverObject *receiver, size_t *left)
{
    RingObject *ring = receiver->ring;
    struct taken taken = {0};
    fr_mutex_lock(&ring->lock);
    bool was_open = !is_closed(receiver);
    if (was_open) {
        atomic_store_explicit(&receiver->closed, true, memory_order_relaxed); /* see is_closed() */
        ring->receivers--;
    }
    *left = ring->receivers;
    uint64_t end = tail_of(ring); /* what comes after that does not count this one [BR4] */
    for (bool more = was_open; more;) {
        more = pass_some_locked(receiver, end, &taken);
        fr_mutex_unlock(&ring->lock);
        drop(&taken);
        fr_mutex_lock(&ring->lock);
    }
    fr_mutex_unlock(&ring->lock);
    return was_open;
}

static PyObject *receiver_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    PyObject *module = PyType_GetModuleByDef(type, &fr_module_def); /* a subclass in Python, as a rule */
    struct fr_module *mod = module ? PyModule_GetState(module) : NULL;
    PyObject *of;
    if (!mod ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "O!:BroadcastReceiver", keywords, mod->broadcast_ring_type, &of)) {
        return NULL;
    }
    ReceiverObject *receiver = (ReceiverObject *)type->tp_alloc(type, 0);
    if (receiver) {
        RingObject *ring = receiver->ring = (RingObject *)Py_NewRef(of);
        atomic_init(&receiver->closed, false);
        fr_mutex_lock(&ring->lock);
        ring->receivers++;
        atomic_init(&receiver->next, tail_of(ring));
        receiver->block = ring->last;
        receiver->number = ring->last->number;
        fr_mutex_unlock(&ring->lock);
    }
    return (PyObject *)receiver;
}

static int receiver_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ReceiverObject *)op)->ring);
    return 0;
}

static void receiver_dealloc(PyObject *op)
{
    ReceiverObject *receiver = (ReceiverObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    size_t left;
    PyObject_GC_UnTrack(op);
    leave(receiver, &left); /* close() did, as a rule; not of one whose __init__ or __del__ failed */
    Py_DECREF(receiver->ring);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *receiver_recv(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return fr_listen(fr_listeners_of(((ReceiverObject *)op)->ring->news), look_for_value, op);
}

static PyObject *receiver_anext(PyObject *op)
{
    return fr_listen(fr_listeners_of(((ReceiverObject *)op)->ring->news), look_for_next, op);
}

static PyObject *receiver_take(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct fr_module *mod = fr_module_of_type(Py_TYPE((PyObject *)((ReceiverObject *)op)->ring));
    PyObject *value = look(mod, op, false);
    return value || PyErr_Occurred() ? value : Py_NewRef(mod->pending);
}

static PyObject *receiver_leave(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    size_t left;
    return leave((ReceiverObject *)op, &left) ? PyLong_FromSize_t(left) : Py_NewRef(Py_None);
}

static Py_ssize_t receiver_len(PyObject *op)
{
    ReceiverObject *receiver = (ReceiverObject *)op;
    /* acquire: before the tail, which only rises */
    uint64_t next = atomic_load_explicit(&receiver->next, memory_order_acquire);
    return is_closed(receiver) ? 0 : (Py_ssize_t)(tail_of(receiver->ring) - next);
}

static PyObject *receiver_get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(is_closed((ReceiverObject *)op));
}

static PyMethodDef receiver_methods[] = {
    {"recv", receiver_recv, METH_NOARGS,
     "recv($self, /)\n--\n\n"
     "Wait for the next value.\n\n"
     "Errors: `Lagged(n)` if `n` values were overwritten before this receiver read them; the next call gives the\n"
     "oldest value kept. `RecvError` when every sender is closed and everything was read, or this receiver is "
     "closed.\n\n"
     "Cancel safe: a cancelled `recv` has taken nothing. Thread safety: inside a task. Tokio: `Receiver::recv`.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import Lagged, broadcast\n\n"
     "    async def main() -> None:\n"
     "        tx, rx = broadcast.channel(2)\n"
     "        for number in range(5):\n"
     "            tx.send(number)\n"
     "        try:\n"
     "            await rx.recv()\n"
     "        except Lagged as lagged:\n"
     "            assert lagged.n == 3\n"
     "        assert [await rx.recv(), await rx.recv()] == [3, 4]\n\n"
     "    freerun.run(main)\n"},
    {"_take", receiver_take, METH_NOARGS, "_take($self, /)\n--\n\nAs recv(), but PENDING if there is nothing yet."},
    {"_leave", receiver_leave, METH_NOARGS,
     "_leave($self, /)\n--\n\nClose it; how many receivers are left. None: it was closed before. Tells nobody."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef receiver_getset[] = {
    {"_closed", receiver_get_closed, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot receiver_slots[] = {
    {Py_tp_doc,
     "BroadcastReceiver(ring, /)\n--\n\nWhat broadcast.Receiver is made of; it gets what is pushed from now on."},
    {Py_tp_new, receiver_new},
    {Py_tp_dealloc, receiver_dealloc},
    {Py_tp_traverse, receiver_traverse},
    {Py_tp_methods, receiver_methods},
    {Py_tp_getset, receiver_getset},
    {Py_sq_length, receiver_len},
    {Py_am_aiter, fr_leaf_self},
    {Py_am_anext, receiver_anext},
    {0, NULL},
};

static PyType_Spec receiver_spec = {
    .name = "freerun._core._native.BroadcastReceiver",
    .basicsize = sizeof(ReceiverObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = receiver_slots,
};

int fr_broadcast_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->broadcast_ring_type, &ring_spec, "BroadcastRing") ||
                   fr_module_add_type(mod, &mod->broadcast_receiver_type, &receiver_spec, "BroadcastReceiver")
               ? -1
               : 0;
}
