/* rwlock: freerun.sync.RwLock and its guards: a batch semaphore with a permit for each reader, and a value.
 *
 * A reader takes one permit, a writer all of them. The semaphore's line is fair for many permits as for one, so a waiting
 * writer holds back who comes after it. Tokio: sync::RwLock.
 *
 * THREADS    any.
 * OWNERSHIP  the RwLock owns the value; a guard holds its RwLock. A guard is the leaf that locks as well, see acquire.h.
 * FIELDS     value, lock->max, lock->mod  the value under a critical section of the RwLock: guards may be shared by threads;
 *                              max and mod are constant
 *            guard->acquire, guard->reads  whoever has entered `stepping`
 * INVARIANTS RW1 a writing guard that is HELD has all permits; one that was downgraded (`reads`) has one, like a reader.
 *            RW2 release of the semaphore comes last: what was written under the lock is seen by who locks next.
 * PROVED BY  tests/sync/test_rwlock.py
 */
#include <stddef.h>

#include "acquire.h"

enum { MAX_READERS = (1 << 29) - 1 }; /* Tokio's */

typedef struct {
    PyObject_HEAD
    struct fr_sem sem;
    uint64_t max;
    struct fr_module *mod;
    PyObject *value;
    PyObject *weakrefs;
} RwLockObject;

typedef struct {
    PyObject_HEAD
    RwLockObject *lock;
    struct fr_acquire acquire;
    bool reads;
} GuardObject;

static GuardObject *guard_alloc(RwLockObject *lock, PyTypeObject *type, enum fr_free_kind kind)
{
    GuardObject *guard = (GuardObject *)fr_alloc_gc(type, kind);
    if (guard) {
        guard->lock = (RwLockObject *)Py_NewRef((PyObject *)lock);
        PyObject_GC_Track(guard);
    }
    return guard;
}

/* The last one that was awaited: mostly it is over, and nobody has kept it. */
static GuardObject *guard_again(RwLockObject *lock, PyTypeObject *type)
{
    GuardObject *guard = (GuardObject *)fr_leaf_take_back(type);
    if (guard && (guard->lock != lock || guard->acquire.state != FR_ACQUIRE_OVER)) {
        Py_CLEAR(guard);
    }
    return guard;
}

static GuardObject *guard_new(RwLockObject *lock, bool reads, enum fr_acquire_state state)
{
    PyTypeObject *type = reads ? lock->mod->read_guard_type : lock->mod->write_guard_type;
    GuardObject *guard = guard_again(lock, type);
    guard = guard ? guard : guard_alloc(lock, type, reads ? FR_FREE_READ_GUARD : FR_FREE_WRITE_GUARD);
    if (guard) {
        guard->reads = reads;
        fr_acquire_init(&guard->acquire, reads ? 1 : lock->max, state);
    }
    return guard;
}

/* ---- guards ---- */

static PyObject *guard_step(GuardObject *guard, struct fr_task *task)
{
    if (guard->acquire.state == FR_ACQUIRE_OVER) {
        PyErr_SetString(PyExc_RuntimeError, "this guard has had its turn; call read() or write() again");
        return NULL;
    }
    switch (guard->acquire.state == FR_ACQUIRE_HELD ? FR_ACQUIRED
                                                    : fr_acquire_step(&guard->acquire, &guard->lock->sem, task)) {
    case FR_ACQUIRED:
        return fr_leaf_return(Py_NewRef((PyObject *)guard));
    case FR_ACQUIRE_PARKS:
        return fr_leaf_park();
    case FR_ACQUIRE_YIELDS:
        return fr_leaf_yield();
    default: /* a lock is never closed */
        return NULL;
    }
}

static PyObject *guard_iternext(PyObject *op)
{
    GuardObject *guard = (GuardObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&guard->acquire.stepping)) {
        return NULL;
    }
    PyObject *token = guard_step(guard, task);
    fr_leaf_exit(&guard->acquire.stepping);
    return token;
}

static void guard_let_go(PyObject *op)
{
    GuardObject *guard = (GuardObject *)op;
    if (fr_leaf_try_enter(&guard->acquire.stepping)) { /* else another task steps it: it stays that task's */
        fr_acquire_let_go(&guard->acquire, &guard->lock->sem);
        fr_leaf_exit(&guard->acquire.stepping);
    }
}

static int guard_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((GuardObject *)op)->lock);
    return 0;
}

static void drop(GuardObject *guard)
{
    fr_acquire_drop(&guard->acquire, &guard->lock->sem);
    Py_DECREF((PyObject *)guard->lock);
}

static void read_guard_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, read_guard_dealloc)
    drop((GuardObject *)op);
    fr_dealloc(op, FR_FREE_READ_GUARD);
    FR_TRASHCAN_END
}

static void write_guard_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, write_guard_dealloc)
    drop((GuardObject *)op);
    fr_dealloc(op, FR_FREE_WRITE_GUARD);
    FR_TRASHCAN_END
}

/* Enters a guard that has the lock; else an exception that says what it is instead. */
static bool enter_locked(GuardObject *guard)
{
    if (!fr_leaf_enter(&guard->acquire.stepping)) {
        return false;
    }
    if (guard->acquire.state == FR_ACQUIRE_HELD) {
        return true;
    }
    PyErr_SetString(PyExc_RuntimeError, guard->acquire.state == FR_ACQUIRE_OVER
                                            ? "this guard was released; lock again"
                                            : "this guard does not hold its lock yet: await it first");
    fr_leaf_exit(&guard->acquire.stepping);
    return false;
}

/* Unlocks, unless that has been done. 0, or -1 with an exception. */
static int unlock(GuardObject *guard)
{
    if (!fr_leaf_enter(&guard->acquire.stepping)) {
        return -1;
    }
    uint8_t state = guard->acquire.state;
    uint64_t count = guard->acquire.count;
    if (state == FR_ACQUIRE_HELD) {
        guard->acquire.state = FR_ACQUIRE_OVER;
    }
    fr_leaf_exit(&guard->acquire.stepping);
    if (state == FR_ACQUIRE_HELD) {
        fr_sem_release(&guard->lock->sem, count); /* [RW2] */
    } else if (state != FR_ACQUIRE_OVER) {
        PyErr_SetString(PyExc_RuntimeError, "this guard does not hold its lock yet: await it first");
        return -1;
    }
    return 0;
}

static PyObject *guard_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (unlock((GuardObject *)op)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *guard_get_value(PyObject *op, void *Py_UNUSED(closure))
{
    GuardObject *guard = (GuardObject *)op;
    if (!enter_locked(guard)) {
        return NULL;
    }
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(guard->lock);
    value = Py_NewRef(guard->lock->value);
    Py_END_CRITICAL_SECTION();
    fr_leaf_exit(&guard->acquire.stepping);
    return value;
}

static int guard_set_value(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    GuardObject *guard = (GuardObject *)op;
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "the value of a lock cannot be deleted; set it to None");
        return -1;
    }
    if (!enter_locked(guard)) {
        return -1;
    }
    PyObject *before = NULL;
    if (!guard->reads) {
        Py_BEGIN_CRITICAL_SECTION(guard->lock);
        before = guard->lock->value;
        guard->lock->value = Py_NewRef(value);
        Py_END_CRITICAL_SECTION();
    }
    fr_leaf_exit(&guard->acquire.stepping);
    if (!before) {
        PyErr_SetString(PyExc_RuntimeError, "this guard was downgraded: it only reads");
        return -1;
    }
    Py_DECREF(before);
    return 0;
}

static PyObject *guard_get_lock(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)((GuardObject *)op)->lock);
}

static PyObject *guard_downgrade(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GuardObject *guard = (GuardObject *)op;
    if (!enter_locked(guard)) {
        return NULL;
    }
    uint64_t surplus = guard->acquire.count - 1; /* 0 if that has been done, or if there is only one reader at a time */
    guard->acquire.count = 1;
    guard->reads = true; /* [RW1] */
    fr_leaf_exit(&guard->acquire.stepping);
    if (surplus) {
        fr_sem_release(&guard->lock->sem, surplus); /* [RW2] */
    }
    return Py_NewRef(op);
}

static PyObject *guard_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GuardObject *guard = (GuardObject *)op;
    if (!enter_locked(guard)) {
        return NULL;
    }
    fr_leaf_exit(&guard->acquire.stepping);
    return Py_NewRef(op);
}

static PyObject *guard_exit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return guard_release(op, NULL);
}

static PyObject *guard_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op); /* awaited, it locks and returns itself */
}

static PyObject *guard_aexit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    if (unlock((GuardObject *)op)) {
        return NULL;
    }
    return Py_NewRef(((GuardObject *)op)->lock->mod->ready);
}

FR_LEAF_THROW_AND_CLOSE(guard, guard_let_go)

#define FAST(f) (PyCFunction)(void (*)(void))(f)

#define GUARD_METHODS                                                                                           \
    {"release", guard_release, METH_NOARGS,                                                                     \
     "release($self, /)\n--\n\nUnlock; harmless if that has been done. RuntimeError before it was locked.\n\n"  \
     "Thread safety: any thread."},                                                                             \
        {"__enter__", guard_enter, METH_NOARGS, NULL}, {"__exit__", FAST(guard_exit), METH_FASTCALL, NULL},     \
        {"__aenter__", guard_aenter, METH_NOARGS, NULL}, {"__aexit__", FAST(guard_aexit), METH_FASTCALL, NULL}, \
        {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL}, FR_LEAF_METHOD_ROWS(guard)

static PyMethodDef read_guard_methods[] = {
    GUARD_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyMethodDef write_guard_methods[] = {
    {"downgrade", guard_downgrade, METH_NOARGS,
     "downgrade($self, /)\n--\n\n"
     "Become a reading guard, with no writer in between, and let in the readers at the head of the line.\n\n"
     "Returns this guard, which is to be released as before, once. May be called twice. RuntimeError if it does not "
     "hold the\nlock. Thread safety: any thread. Tokio: RwLockWriteGuard::downgrade.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import RwLock\n\n"
     "    async def main() -> None:\n"
     "        lock = RwLock(1)\n"
     "        async with lock.write() as guard:\n"
     "            guard.value = 2\n"
     "            guard.downgrade()\n"
     "            async with lock.read() as other:\n"
     "                assert other.value == guard.value == 2\n\n"
     "    freerun.run(main)\n"},
    GUARD_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef read_guard_getset[] = {
    {"value", guard_get_value, NULL, "What the lock protects. RuntimeError unless the guard holds the lock.", NULL},
    {"lock", guard_get_lock, NULL, "The RwLock it is a guard of.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyGetSetDef write_guard_getset[] = {
    {"value", guard_get_value, guard_set_value,
     "What the lock protects; may be assigned. RuntimeError unless the guard holds the lock, to write.", NULL},
    {"lock", guard_get_lock, NULL, "The RwLock it is a guard of.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot read_guard_slots[] = {
    {Py_tp_doc,
     "Reads what a RwLock protects, for as long as it is locked. What read() returns: await it, or use it in `async "
     "with`.\n\n"
     "Leaving its block, release() and, as a safety net, garbage collection unlock. It may be kept, passed on, and\n"
     "released by another task or thread.\n\n"
     "Cancel safety: a read() that is cancelled gives up its place in line; what it was given goes to the next.\n"
     "Thread safety: any thread. Tokio: sync::RwLockReadGuard, OwnedRwLockReadGuard."},
    {Py_tp_dealloc, read_guard_dealloc},
    {Py_tp_traverse, guard_traverse},
    {Py_tp_methods, read_guard_methods},
    {Py_tp_getset, read_guard_getset},
    FR_LEAF_SLOTS(guard_iternext),
    {0, NULL},
};

static PyType_Slot write_guard_slots[] = {
    {Py_tp_doc,
     "Reads and assigns what a RwLock protects, for as long as it is locked. What write() returns: await it, or use "
     "it in\n`async with`.\n\n"
     "Leaving its block, release() and, as a safety net, garbage collection unlock. It may be kept, passed on, and\n"
     "released by another task or thread.\n\n"
     "Cancel safety: a write() that is cancelled gives up its place in line; what it was given goes to the next.\n"
     "Thread safety: any thread. Tokio: sync::RwLockWriteGuard, OwnedRwLockWriteGuard."},
    {Py_tp_dealloc, write_guard_dealloc},
    {Py_tp_traverse, guard_traverse},
    {Py_tp_methods, write_guard_methods},
    {Py_tp_getset, write_guard_getset},
    FR_LEAF_SLOTS(guard_iternext),
    {0, NULL},
};

static PyType_Spec read_guard_spec = {
    .name = "freerun.sync.RwLockReadGuard",
    .basicsize = sizeof(GuardObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = read_guard_slots,
};

static PyType_Spec write_guard_spec = {
    .name = "freerun.sync.RwLockWriteGuard",
    .basicsize = sizeof(GuardObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = write_guard_slots,
};

/* ---- the lock ---- */

static PyObject *rwlock_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"value", "max_readers", NULL};
    PyObject *value = Py_None, *max_readers = NULL;
    uint64_t max = MAX_READERS;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$O:RwLock", keywords, &value, &max_readers) ||
        (max_readers && fr_parse_count(max_readers, "max_readers", 1, &max))) {
        return NULL;
    }
    if (max > MAX_READERS) {
        PyErr_Format(PyExc_ValueError, "argument 'max_readers' must be at most %d: %R", MAX_READERS, max_readers);
        return NULL;
    }
    RwLockObject *self = (RwLockObject *)type->tp_alloc(type, 0);
    if (self) {
        fr_sem_init(&self->sem, max, fr_acquire_granted);
        self->max = max;
        self->mod = fr_module_of_type(type);
        self->value = Py_NewRef(value);
    }
    return (PyObject *)self;
}

static int rwlock_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((RwLockObject *)op)->value);
    return 0;
}

/* A destructor that still has a guard finds None. */
static int rwlock_clear(PyObject *op)
{
    Py_XSETREF(((RwLockObject *)op)->value, Py_NewRef(Py_None));
    return 0;
}

static void rwlock_dealloc(PyObject *op)
{
    RwLockObject *self = (RwLockObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, rwlock_dealloc)
    if (self->weakrefs) {
        PyObject_ClearWeakRefs(op);
    }
    Py_CLEAR(self->value);
    type->tp_free(op);
    Py_DECREF(type);
    FR_TRASHCAN_END
}

static PyObject *rwlock_read(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)guard_new((RwLockObject *)op, true, FR_ACQUIRE_NEW);
}

static PyObject *rwlock_write(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)guard_new((RwLockObject *)op, false, FR_ACQUIRE_NEW);
}

/* The guard of permits that were just taken. */
static PyObject *guard_of(RwLockObject *self, bool reads)
{
    GuardObject *guard = guard_new(self, reads, FR_ACQUIRE_HELD);
    if (!guard) {
        fr_sem_release(&self->sem, reads ? 1 : self->max);
    }
    return (PyObject *)guard;
}

static PyObject *try_to(RwLockObject *self, bool reads)
{
    uint64_t permits = reads ? 1 : self->max;
    if (fr_sem_try_acquire(&self->sem, permits)) {
        fr_acquire_settle();
        if (fr_sem_try_acquire(&self->sem, permits)) {
            PyErr_SetString(self->mod->exc_would_block,
                            reads ? "a writer has the lock, or waits for it, or too many readers have it"
                                  : "somebody has the lock, or waits for it");
            return NULL;
        }
    }
    return guard_of(self, reads);
}

static PyObject *rwlock_try_read(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return try_to((RwLockObject *)op, true);
}

static PyObject *rwlock_try_write(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return try_to((RwLockObject *)op, false);
}

static PyObject *rwlock_blocking_read(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RwLockObject *self = (RwLockObject *)op;
    if (fr_leaf_may_block("blocking_read", "read") || fr_acquire_blocking(&self->sem, 1)) {
        return NULL;
    }
    return guard_of(self, true);
}

static PyObject *rwlock_blocking_write(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RwLockObject *self = (RwLockObject *)op;
    if (fr_leaf_may_block("blocking_write", "write") || fr_acquire_blocking(&self->sem, self->max)) {
        return NULL;
    }
    return guard_of(self, false);
}

static PyObject *rwlock_repr(PyObject *op)
{
    RwLockObject *self = (RwLockObject *)op;
    bool is_free = fr_sem_available(&self->sem) == self->max;
    return PyUnicode_FromFormat("<freerun.sync.RwLock %s>", is_free ? "unlocked" : "locked");
}

static PyMethodDef rwlock_methods[] = {
    {"read", rwlock_read, METH_NOARGS,
     "read($self, /)\n--\n\n"
     "Await it to read the value: a RwLockReadGuard. It is an async context manager, too.\n\n"
     "Waits while a writer has the lock, or came first. Cancel safety: the place in line is lost, nothing else. "
     "Thread\n"
     "safety: any task. Tokio: RwLock::read, read_owned."},
    {"write", rwlock_write, METH_NOARGS,
     "write($self, /)\n--\n\n"
     "Await it to read and assign the value, alone: a RwLockWriteGuard. It is an async context manager, too.\n\n"
     "Waits while anybody has the lock, or came first. Cancel safety: the place in line is lost, nothing else. Thread\n"
     "safety: any task. Tokio: RwLock::write, write_owned."},
    {"try_read", rwlock_try_read, METH_NOARGS,
     "try_read($self, /)\n--\n\nA RwLockReadGuard, without waiting, for `with`; WouldBlock if a writer has the lock or "
     "waits for it.\n\nThread safety: any thread. Tokio: RwLock::try_read."},
    {"try_write", rwlock_try_write, METH_NOARGS,
     "try_write($self, /)\n--\n\nA RwLockWriteGuard, without waiting, for `with`; WouldBlock if anybody has the lock."
     "\n\nThread safety: any thread. Tokio: RwLock::try_write."},
    {"blocking_read", rwlock_blocking_read, METH_NOARGS,
     "blocking_read($self, /)\n--\n\n"
     "As read(), on a plain thread, which sleeps meanwhile: a RwLockReadGuard, for `with`. RuntimeError inside a task."
     "\n\nA signal handler that raises ends the wait. Thread safety: any thread that runs no tasks.\n"
     "Tokio: RwLock::blocking_read."},
    {"blocking_write", rwlock_blocking_write, METH_NOARGS,
     "blocking_write($self, /)\n--\n\n"
     "As write(), on a plain thread, which sleeps meanwhile: a RwLockWriteGuard, for `with`. RuntimeError inside a "
     "task.\n\nA signal handler that raises ends the wait. Thread safety: any thread that runs no tasks.\n"
     "Tokio: RwLock::blocking_write."},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef rwlock_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(RwLockObject, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot rwlock_slots[] = {
    {Py_tp_doc,
     "RwLock(value=None, *, max_readers=536870911)\n--\n\n"
     "A lock for any number of readers at a time, or one writer, and the value it protects.\n\n"
     "`async with lock.read() as guard:` reads `guard.value`; `async with lock.write() as guard:` may assign it, too.\n"
     "It is fair: whoever waits goes in in the order of coming, and a waiting writer holds back new readers. So a task "
     "that\nhas a guard must not wait for a second one. `max_readers` limits the readers at a time.\n\n"
     "Cancel safety: who is cancelled while waiting loses the place in line, nothing else. Thread safety: any task of "
     "any\nruntime, and any thread. Tokio: sync::RwLock.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import RwLock\n\n"
     "    async def main() -> None:\n"
     "        prices = RwLock({\"tea\": 3})\n"
     "        async with prices.write() as guard:\n"
     "            guard.value[\"coffee\"] = 4\n"
     "        async with prices.read() as one, prices.read() as another:\n"
     "            assert one.value is another.value\n"
     "            assert one.value == {\"tea\": 3, \"coffee\": 4}\n\n"
     "    freerun.run(main)\n"},
    {Py_tp_new, rwlock_new},
    {Py_tp_dealloc, rwlock_dealloc},
    {Py_tp_traverse, rwlock_traverse},
    {Py_tp_clear, rwlock_clear},
    {Py_tp_repr, rwlock_repr},
    {Py_tp_methods, rwlock_methods},
    {Py_tp_members, rwlock_members},
    {0, NULL},
};

static PyType_Spec rwlock_spec = {
    .name = "freerun.sync.RwLock",
    .basicsize = sizeof(RwLockObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = rwlock_slots,
};

int fr_rwlock_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->rwlock_type, &rwlock_spec, "RwLock") ||
                   fr_module_add_type(mod, &mod->read_guard_type, &read_guard_spec, "RwLockReadGuard") ||
                   fr_module_add_type(mod, &mod->write_guard_type, &write_guard_spec, "RwLockWriteGuard")
               ? -1
               : 0;
}
