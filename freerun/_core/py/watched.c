/* watched: the hot half of sync.watch (freerun/sync/watch.py): the value with its version, and a receiver, which is the
 * version that it has seen. Who sends and who counts the handles is written in Python.
 *
 * THREADS    any.
 * OWNERSHIP  a receiver holds its Watched, that its value and its Listeners. What has gone out is dropped by who has
 *            replaced it, after the lock.
 * FIELDS     value    under `lock`
 *            version  written under `lock`, release; read without it, acquire
 *            ended    set once, release, after the last change; read, acquire, before the version
 *            seen     relaxed: a receiver belongs to one user; whoever shares it gets one of the versions
 *            closed   relaxed: a flag by itself, set before the wake that tells of it
 * INVARIANTS WA1  a version is read only with the value that it counts, or by itself to see whether it is another one. So
 *                 nobody takes a value for seen that he cannot have got.
 *            WA2  `ended` is read before the version: after the end there is no change, so who has seen all of it then
 *                 has seen the last.
 * LOCKS      `lock` is a leaf (see rt/mutex.h): a reference is made under it, none dropped.
 * SHUTDOWN   none. A fork finds the lock free: who holds it is attached, and for a fork the world is stopped.
 * PROVED BY  tests/sync/test_watch.py, tests/sync/test_watch_model.py, tests/stress/test_sync.py
 */
#include "listeners.h"

typedef struct {
    PyObject_HEAD
    struct fr_mutex lock;
    _Atomic int64_t version; /* from 0 on; -1 is never one */
    _Atomic bool ended;
    PyObject *value;
    PyObject *news; /* Listeners */
} WatchedObject;

typedef struct {
    PyObject_HEAD
    WatchedObject *watched;
    _Atomic int64_t seen;
    _Atomic bool closed;
} ReceiverObject;

static int64_t version_of(WatchedObject *self)
{
    return atomic_load_explicit(&self->version, memory_order_acquire); /* pairs with watched_replace() */
}

static bool has_ended(WatchedObject *self)
{
    return atomic_load_explicit(&self->ended, memory_order_acquire); /* pairs with watched_end() [WA2] */
}

/* The value, a new reference, and its version [WA1]. */
static PyObject *load(WatchedObject *self, int64_t *version)
{
    fr_mutex_lock(&self->lock);
    *version = atomic_load_explicit(&self->version, memory_order_relaxed); /* written under this very lock */
    PyObject *value = Py_NewRef(self->value);
    fr_mutex_unlock(&self->lock);
    return value;
}

/* ---- the value ---- */

static PyObject *watched_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "", NULL};
    PyObject *initial, *news;
    struct fr_module *mod = fr_module_of_type(type);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!:Watched", keywords, &initial, mod->listeners_type, &news)) {
        return NULL;
    }
    WatchedObject *self = (WatchedObject *)type->tp_alloc(type, 0);
    if (self) {
        fr_mutex_init(&self->lock);
        atomic_init(&self->version, 0);
        atomic_init(&self->ended, false);
        self->value = fr_ref_to_send(initial, NULL);
        self->news = Py_NewRef(news);
    }
    return (PyObject *)self;
}

static int watched_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((WatchedObject *)op)->value);
    return 0;
}

static int watched_clear(PyObject *op)
{
    Py_XSETREF(((WatchedObject *)op)->value, Py_NewRef(Py_None));
    return 0;
}

static void watched_dealloc(PyObject *op)
{
    WatchedObject *self = (WatchedObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, watched_dealloc)
    Py_XDECREF(self->value);
    Py_XDECREF(self->news);
    type->tp_free(op);
    Py_DECREF(type);
    FR_TRASHCAN_END
}

static PyObject *watched_get(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int64_t version;
    return load((WatchedObject *)op, &version);
}

static PyObject *watched_replace(PyObject *op, PyObject *value)
{
    WatchedObject *self = (WatchedObject *)op;
    PyObject *given = fr_ref_to_send(value, NULL);
    fr_mutex_lock(&self->lock);
    PyObject *before = self->value;
    self->value = given;
    /* relaxed, under the lock; release: pairs with version_of() */
    atomic_store_explicit(&self->version, atomic_load_explicit(&self->version, memory_order_relaxed) + 1,
                          memory_order_release);
    fr_mutex_unlock(&self->lock);
    return before;
}

static PyObject *watched_version(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLongLong(version_of((WatchedObject *)op));
}

static PyObject *watched_end(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    /* release: after the last change; pairs with has_ended() [WA2] */
    atomic_store_explicit(&((WatchedObject *)op)->ended, true, memory_order_release);
    Py_RETURN_NONE;
}

static PyObject *watched_has_ended(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(has_ended((WatchedObject *)op));
}

static PyMethodDef watched_methods[] = {
    {"get", watched_get, METH_NOARGS, "get($self, /)\n--\n\nThe value."},
    {"replace", watched_replace, METH_O,
     "replace($self, value, /)\n--\n\nMake it the value, of another version; the one before. Tells nobody."},
    {"version", watched_version, METH_NOARGS, "version($self, /)\n--\n\nHow often the value was replaced."},
    {"end", watched_end, METH_NOARGS, "end($self, /)\n--\n\nThere will be no change any more. Tells nobody."},
    {"has_ended", watched_has_ended, METH_NOARGS, "has_ended($self, /)\n--\n\nWhether end() was called."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot watched_slots[] = {
    {Py_tp_doc, "Watched(initial, news, /)\n--\n\nA value that is replaced, and how often it was. Any thread."},
    {Py_tp_new, watched_new},
    {Py_tp_dealloc, watched_dealloc},
    {Py_tp_traverse, watched_traverse},
    {Py_tp_clear, watched_clear},
    {Py_tp_methods, watched_methods},
    {0, NULL},
};

static PyType_Spec watched_spec = {
    .name = "freerun._core._native.Watched",
    .basicsize = sizeof(WatchedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = watched_slots,
};

/* ---- who watches it ---- */

static int64_t seen_by(ReceiverObject *receiver)
{
    return atomic_load_explicit(&receiver->seen, memory_order_relaxed); /* its user's own */
}

static void set_seen(ReceiverObject *receiver, int64_t version)
{
    atomic_store_explicit(&receiver->seen, version, memory_order_relaxed); /* its user's own */
}

static bool is_closed(ReceiverObject *receiver)
{
    return atomic_load_explicit(&receiver->closed, memory_order_relaxed); /* a flag by itself */
}

static PyObject *receiver_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    PyObject *watched;
    PyObject *module = PyType_GetModuleByDef(type, &fr_module_def); /* a subclass in Python, as a rule */
    struct fr_module *mod = module ? PyModule_GetState(module) : NULL;
    if (!mod) {
        return NULL;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:WatchReceiver", keywords, mod->watched_type, &watched)) {
        return NULL;
    }
    ReceiverObject *receiver = (ReceiverObject *)type->tp_alloc(type, 0);
    if (receiver) {
        receiver->watched = (WatchedObject *)Py_NewRef(watched);
        atomic_init(&receiver->seen, version_of(receiver->watched));
        atomic_init(&receiver->closed, false);
    }
    return (PyObject *)receiver;
}

static int receiver_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ReceiverObject *)op)->watched);
    return 0;
}

static void receiver_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_XDECREF(((ReceiverObject *)op)->watched);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *look_for_change(struct fr_module *mod, PyObject *op)
{
    ReceiverObject *receiver = (ReceiverObject *)op;
    bool ended = has_ended(receiver->watched), closed = is_closed(receiver); /* before the version [WA2] */
    int64_t version = version_of(receiver->watched);
    if (version != seen_by(receiver)) {
        set_seen(receiver, version);
        Py_RETURN_NONE;
    }
    if (closed || ended) {
        PyErr_SetString(mod->exc_recv, closed ? "this receiver is closed" : "every sender is closed");
    }
    return NULL;
}

static PyObject *receiver_changed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return fr_listen(fr_listeners_of(((ReceiverObject *)op)->watched->news), look_for_change, op);
}

static PyObject *receiver_borrow(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int64_t version;
    return load(((ReceiverObject *)op)->watched, &version);
}

static PyObject *receiver_borrow_and_update(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ReceiverObject *receiver = (ReceiverObject *)op;
    int64_t version;
    PyObject *value = load(receiver->watched, &version);
    set_seen(receiver, version);
    return value;
}

static PyObject *receiver_has_changed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ReceiverObject *receiver = (ReceiverObject *)op;
    if (has_ended(receiver->watched)) {
        struct fr_module *mod = fr_module_of_type(Py_TYPE((PyObject *)receiver->watched));
        PyErr_SetString(mod->exc_recv, "every sender is closed");
        return NULL;
    }
    return PyBool_FromLong(version_of(receiver->watched) != seen_by(receiver));
}

static PyObject *receiver_get_seen(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(seen_by((ReceiverObject *)op));
}

static int receiver_set_seen(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    long long version = value ? PyLong_AsLongLong(value) : -1;
    if (version == -1 && PyErr_Occurred()) {
        return -1;
    }
    set_seen((ReceiverObject *)op, version);
    return 0;
}

static PyObject *receiver_get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(is_closed((ReceiverObject *)op));
}

static int receiver_set_closed(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    atomic_store_explicit(&((ReceiverObject *)op)->closed, value == Py_True,
                          memory_order_relaxed); /* see is_closed() */
    return 0;
}

static PyMethodDef receiver_methods[] = {
    {"changed", receiver_changed, METH_NOARGS,
     "changed($self, /)\n--\n\n"
     "Wait for a value that was not seen, and count it as seen; `borrow()` tells it.\n\n"
     "Errors: `RecvError` if every sender is closed and the last value was seen, or this receiver is closed. Cancel\n"
     "safe: then nothing counts as seen. Thread safety: inside a task. Tokio: `Receiver::changed`.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import RecvError, watch\n\n"
     "    async def main() -> list[int]:\n"
     "        tx, rx = watch.channel(0)\n\n"
     "        async def count() -> None:\n"
     "            with tx:\n"
     "                for number in range(1, 4):\n"
     "                    tx.send(number)\n"
     "                    await freerun.yield_now()\n\n"
     "        freerun.spawn(count)\n"
     "        seen = []\n"
     "        try:\n"
     "            while True:\n"
     "                await rx.changed()\n"
     "                seen.append(rx.borrow_and_update())\n"
     "        except RecvError:\n"
     "            return seen\n\n"
     "    assert freerun.run(main)[-1] == 3\n"},
    {"borrow", receiver_borrow, METH_NOARGS,
     "borrow($self, /)\n--\n\n"
     "The latest value. It does not count as seen by that. Thread safety: any thread. Tokio: `Receiver::borrow`."},
    {"borrow_and_update", receiver_borrow_and_update, METH_NOARGS,
     "borrow_and_update($self, /)\n--\n\n"
     "The latest value, which counts as seen from now on: the next `changed()` waits for another one.\n\n"
     "Thread safety: any thread. Tokio: `Receiver::borrow_and_update`."},
    {"has_changed", receiver_has_changed, METH_NOARGS,
     "has_changed($self, /)\n--\n\n"
     "Whether there is a value that was not seen.\n\n"
     "Errors: `RecvError` if every sender is closed, seen or not: `changed()` and `borrow()` tell the last value.\n"
     "Thread safety: any thread. Tokio: `Receiver::has_changed`."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef receiver_getset[] = {
    {"_seen", receiver_get_seen, receiver_set_seen, "The version that counts as seen; -1: none.", NULL},
    {"_closed", receiver_get_closed, receiver_set_closed, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot receiver_slots[] = {
    {Py_tp_doc, "WatchReceiver(watched, /)\n--\n\nWhat watch.Receiver is made of; it has seen the present version."},
    {Py_tp_new, receiver_new},
    {Py_tp_dealloc, receiver_dealloc},
    {Py_tp_traverse, receiver_traverse},
    {Py_tp_methods, receiver_methods},
    {Py_tp_getset, receiver_getset},
    {0, NULL},
};

static PyType_Spec receiver_spec = {
    .name = "freerun._core._native.WatchReceiver",
    .basicsize = sizeof(ReceiverObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = receiver_slots,
};

int fr_watched_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->watched_type, &watched_spec, "Watched") ||
                   fr_module_add_type(mod, &mod->watch_receiver_type, &receiver_spec, "WatchReceiver")
               ? -1
               : 0;
}
