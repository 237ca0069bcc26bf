/* mutex: freerun.sync.Mutex and its guards: a batch semaphore with one permit, and a value. Tokio: sync::Mutex.
 *
 * THREADS    any.
 * OWNERSHIP  the Mutex owns the value; a guard holds its Mutex. A guard is the leaf that locks as well, see acquire.h.
 *            `async with mutex` gives the lock to the block, not to the guard: nothing ties the end of the block to a
 *            guard, which nobody may have kept. Such a guard is good for as long as `scope` is its own.
 * FIELDS     mod      constant
 *            value    under a critical section of the Mutex: a guard may be shared by threads
 *            scope    who holds the mutex writes: +1 at the begin of a block and +1 at its end, so it is odd inside of
 *                     one; guards of any age read it
 *            guard->acquire  whoever has entered `stepping`
 *            guard->scope    whoever polls it; what mutex->scope was when it locked; 0 for a guard of lock()
 * INVARIANTS MU1 the mutex is locked exactly while its semaphore has no free permit, and then one of these has it: a
 *                guard of lock() that is HELD; a block (`scope` is odd); a guard of `async with` that has not been
 *                awaited yet (EAGER); a waiter that has not looked yet.
 *            MU2 release of the semaphore comes last: what was written under the lock is seen by who locks next.
 * PROVED BY  tests/sync/test_mutex.py
 */
#include <errno.h>
#include <stddef.h>

#include "acquire.h"

typedef struct {
    PyObject_HEAD
    struct fr_sem sem;
    _Atomic uint64_t scope;
    struct fr_module *mod;
    PyObject *value;
    PyObject *weakrefs;
} MutexObject;

enum guard_kind {
    PLAIN, /* lock(): it unlocks itself */
    BLOCK, /* `async with mutex` */
    EAGER, /* the same, locked already, not awaited yet */
};

typedef struct {
    PyObject_HEAD
    MutexObject *mutex;
    struct fr_acquire acquire;
    uint64_t scope;
    uint8_t kind;
} GuardObject;

static GuardObject *guard_alloc(MutexObject *mutex)
{
    GuardObject *guard = (GuardObject *)fr_alloc_gc(mutex->mod->guard_type, FR_FREE_GUARD);
    if (guard) {
        guard->mutex = (MutexObject *)Py_NewRef((PyObject *)mutex);
        PyObject_GC_Track(guard);
    }
    return guard;
}

/* The last one that was awaited: mostly it is over, and nobody has kept it. */
static GuardObject *guard_again(MutexObject *mutex)
{
    GuardObject *guard = (GuardObject *)fr_leaf_take_back(mutex->mod->guard_type);
    if (guard && (guard->mutex != mutex || guard->acquire.state != FR_ACQUIRE_OVER)) {
        Py_CLEAR(guard);
    }
    return guard;
}

static GuardObject *guard_new(MutexObject *mutex, enum guard_kind kind, enum fr_acquire_state state)
{
    GuardObject *guard = guard_again(mutex);
    guard = guard ? guard : guard_alloc(mutex);
    if (guard) {
        guard->scope = 0;
        guard->kind = (uint8_t)kind;
        fr_acquire_init(&guard->acquire, 1, state);
    }
    return guard;
}

/* ---- guards ---- */

/* It has the lock. A block begins, if it is one's. */
static PyObject *guard_got(GuardObject *guard)
{
    if (guard->kind != PLAIN && guard->scope == 0) {
        /* relaxed, twice: who holds the mutex is the only writer, and everybody else only compares */
        guard->scope = atomic_load_explicit(&guard->mutex->scope, memory_order_relaxed) + 1;
        atomic_store_explicit(&guard->mutex->scope, guard->scope, memory_order_relaxed);
        guard->kind = BLOCK;
        guard->acquire.state = FR_ACQUIRE_OVER; /* the block has the permit now [MU1] */
    }
    return fr_leaf_return(Py_NewRef((PyObject *)guard));
}

static PyObject *guard_step(GuardObject *guard, struct fr_task *task)
{
    if (guard->acquire.state == FR_ACQUIRE_HELD) {
        return guard_got(guard);
    }
    if (guard->acquire.state == FR_ACQUIRE_OVER) {
        PyErr_SetString(PyExc_RuntimeError, "this guard has had its turn; call lock() again");
        return NULL;
    }
    switch (fr_acquire_step(&guard->acquire, &guard->mutex->sem, task)) {
    case FR_ACQUIRED:
        return guard_got(guard);
    case FR_ACQUIRE_PARKS:
        return fr_leaf_park();
    case FR_ACQUIRE_YIELDS:
        return fr_leaf_yield();
    default: /* a mutex is never closed */
        return NULL;
    }
}

static PyObject *guard_iternext(PyObject *op)
{
    GuardObject *guard = (GuardObject *)op;
    if (guard->kind == EAGER) { /* fresh from mutex_aenter(): nobody else can have it */
        return guard_got(guard);
    }
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
        fr_acquire_let_go(&guard->acquire, &guard->mutex->sem);
        fr_leaf_exit(&guard->acquire.stepping);
    }
}

static int guard_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((GuardObject *)op)->mutex);
    return 0;
}

static void guard_dealloc(PyObject *op)
{
    GuardObject *guard = (GuardObject *)op;
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, guard_dealloc)
    fr_acquire_drop(&guard->acquire, &guard->mutex->sem);
    Py_DECREF((PyObject *)guard->mutex);
    fr_dealloc(op, FR_FREE_GUARD);
    FR_TRASHCAN_END
}

static bool has_lock(GuardObject *guard)
{
    /* relaxed: see guard_got() */
    return guard->acquire.state == FR_ACQUIRE_HELD ||
           (guard->scope && guard->scope == atomic_load_explicit(&guard->mutex->scope, memory_order_relaxed));
}

/* Enters a guard that has the lock; else an exception that says what it is instead. */
static bool enter_locked(GuardObject *guard)
{
    if (!fr_leaf_enter(&guard->acquire.stepping)) {
        return false;
    }
    if (has_lock(guard)) {
        return true;
    }
    PyErr_SetString(PyExc_RuntimeError, guard->acquire.state == FR_ACQUIRE_OVER
                                            ? "this guard does not hold its mutex any more; lock it again"
                                            : "this guard does not hold its mutex yet: await it first");
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
    bool in_block = guard->kind != PLAIN && has_lock(guard);
    if (state == FR_ACQUIRE_HELD) {
        guard->acquire.state = FR_ACQUIRE_OVER;
    }
    fr_leaf_exit(&guard->acquire.stepping);
    if (in_block) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this guard belongs to an 'async with mutex' block, whose end unlocks it; to "
                        "unlock earlier, use 'async with mutex.lock() as guard'");
        return -1;
    }
    if (state == FR_ACQUIRE_HELD) {
        fr_sem_release(&guard->mutex->sem, 1); /* [MU2] */
    } else if (state != FR_ACQUIRE_OVER) {
        PyErr_SetString(PyExc_RuntimeError, "this guard does not hold its mutex yet: await it first");
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

/* For Condvar: unlocks, whatever the kind; awaited, the guard locks again, and a block that it is of goes on. */
static PyObject *guard_pause(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GuardObject *guard = (GuardObject *)op;
    if (!enter_locked(guard)) {
        return NULL;
    }
    if (guard->kind != PLAIN) {
        atomic_store_explicit(&guard->mutex->scope, guard->scope + 1, memory_order_relaxed); /* see guard_got() */
        guard->scope = 0;
    }
    guard->acquire.state = FR_ACQUIRE_NEW;
    fr_leaf_exit(&guard->acquire.stepping);
    fr_sem_release(&guard->mutex->sem, 1); /* [MU2] */
    Py_RETURN_NONE;
}

static PyObject *guard_get_value(PyObject *op, void *Py_UNUSED(closure))
{
    GuardObject *guard = (GuardObject *)op;
    if (!enter_locked(guard)) {
        return NULL;
    }
    PyObject *value;
    Py_BEGIN_CRITICAL_SECTION(guard->mutex);
    value = Py_NewRef(guard->mutex->value);
    Py_END_CRITICAL_SECTION();
    fr_leaf_exit(&guard->acquire.stepping);
    return value;
}

static int guard_set_value(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    GuardObject *guard = (GuardObject *)op;
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "the value of a mutex cannot be deleted; set it to None");
        return -1;
    }
    if (!enter_locked(guard)) {
        return -1;
    }
    PyObject *before;
    Py_BEGIN_CRITICAL_SECTION(guard->mutex);
    before = guard->mutex->value;
    guard->mutex->value = Py_NewRef(value);
    Py_END_CRITICAL_SECTION();
    fr_leaf_exit(&guard->acquire.stepping);
    Py_DECREF(before);
    return 0;
}

static PyObject *guard_get_mutex(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)((GuardObject *)op)->mutex);
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
    return Py_NewRef(((GuardObject *)op)->mutex->mod->ready);
}

FR_LEAF_THROW_AND_CLOSE(guard, guard_let_go)

#define FAST(f) (PyCFunction)(void (*)(void))(f)

static PyMethodDef guard_methods[] = {
    {"release", guard_release, METH_NOARGS,
     "release($self, /)\n--\n\nUnlock; harmless if that has been done. RuntimeError before it was locked, and for the "
     "guard of\nan `async with mutex` block, which unlocks at its end."},
    {"_pause", guard_pause, METH_NOARGS, NULL},
    {"__enter__", guard_enter, METH_NOARGS, NULL},
    {"__exit__", FAST(guard_exit), METH_FASTCALL, NULL},
    {"__aenter__", guard_aenter, METH_NOARGS, NULL},
    {"__aexit__", FAST(guard_aexit), METH_FASTCALL, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    FR_LEAF_METHOD_ROWS(guard),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef guard_getset[] = {
    {"value", guard_get_value, guard_set_value,
     "What the mutex protects. RuntimeError unless the guard holds the mutex.", NULL},
    {"mutex", guard_get_mutex, NULL, "The Mutex it is a guard of.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot guard_slots[] = {
    {Py_tp_doc,
     "Access to what a Mutex protects, for as long as it is locked. What lock() returns: await it, or use it "
     "in `async with`.\n\n"
     "Leaving its block, release() and, as a safety net, garbage collection unlock.\n\n"
     "Cancel safety: a lock() that is cancelled gives up its place in line; a lock that it was given goes to "
     "the next.\nThread safety: any thread. Tokio: sync::MutexGuard, OwnedMutexGuard."},
    {Py_tp_dealloc, guard_dealloc},
    {Py_tp_traverse, guard_traverse},
    {Py_tp_methods, guard_methods},
    {Py_tp_getset, guard_getset},
    FR_LEAF_SLOTS(guard_iternext),
    {0, NULL},
};

static PyType_Spec guard_spec = {
    .name = "freerun.sync.MutexGuard",
    .basicsize = sizeof(GuardObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = guard_slots,
};

/* ---- the mutex ---- */

static PyObject *mutex_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"value", NULL};
    PyObject *value = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:Mutex", keywords, &value)) {
        return NULL;
    }
    MutexObject *self = (MutexObject *)type->tp_alloc(type, 0);
    if (self) {
        fr_sem_init(&self->sem, 1, fr_acquire_granted);
        atomic_init(&self->scope, 0);
        self->mod = fr_module_of_type(type);
        self->value = Py_NewRef(value);
    }
    return (PyObject *)self;
}

static int mutex_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((MutexObject *)op)->value);
    return 0;
}

/* A destructor that still has a guard finds None. */
static int mutex_clear(PyObject *op)
{
    Py_XSETREF(((MutexObject *)op)->value, Py_NewRef(Py_None));
    return 0;
}

static void mutex_dealloc(PyObject *op)
{
    MutexObject *self = (MutexObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, mutex_dealloc)
    if (self->weakrefs) {
        PyObject_ClearWeakRefs(op);
    }
    Py_CLEAR(self->value);
    type->tp_free(op);
    Py_DECREF(type);
    FR_TRASHCAN_END
}

static PyObject *mutex_lock(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)guard_new((MutexObject *)op, PLAIN, FR_ACQUIRE_NEW);
}

static PyObject *mutex_try_lock(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    MutexObject *self = (MutexObject *)op;
    if (fr_sem_try_acquire(&self->sem, 1)) {
        fr_acquire_settle();
        if (fr_sem_try_acquire(&self->sem, 1)) {
            PyErr_SetString(self->mod->exc_would_block, "the mutex is locked");
            return NULL;
        }
    }
    GuardObject *guard = guard_new(self, PLAIN, FR_ACQUIRE_HELD);
    if (!guard) {
        fr_sem_release(&self->sem, 1);
    }
    return (PyObject *)guard;
}

static PyObject *mutex_blocking_lock(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    MutexObject *self = (MutexObject *)op;
    if (fr_leaf_may_block("blocking_lock", "lock") || fr_acquire_blocking(&self->sem, 1)) {
        return NULL;
    }
    GuardObject *guard = guard_new(self, PLAIN, FR_ACQUIRE_HELD);
    if (!guard) {
        fr_sem_release(&self->sem, 1);
    }
    return (PyObject *)guard;
}

static PyObject *mutex_is_locked(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_acquire_settle();
    return PyBool_FromLong(fr_sem_available(&((MutexObject *)op)->sem) == 0);
}

/* If it is free it is locked here: the guard only has to be handed over. */
static PyObject *mutex_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    MutexObject *self = (MutexObject *)op;
    if (!fr_thread.task || !fr_leaf_spend() || fr_sem_try_acquire(&self->sem, 1)) {
        return (PyObject *)guard_new(self, BLOCK, FR_ACQUIRE_NEW);
    }
    GuardObject *guard = guard_new(self, EAGER, FR_ACQUIRE_HELD);
    if (!guard) {
        fr_sem_release(&self->sem, 1);
    }
    return (PyObject *)guard;
}

static PyObject *mutex_aexit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    MutexObject *self = (MutexObject *)op;
    uint64_t scope = atomic_load_explicit(&self->scope, memory_order_relaxed); /* see guard_got() */
    if (scope % 2 == 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this is the end of no 'async with mutex' block: the mutex is not locked by "
                        "one");
        return NULL;
    }
    atomic_store_explicit(&self->scope, scope + 1, memory_order_relaxed); /* see guard_got() */
    fr_sem_release(&self->sem, 1);                                        /* [MU2] */
    return Py_NewRef(self->mod->ready);
}

static PyObject *mutex_repr(PyObject *op)
{
    bool locked = fr_sem_available(&((MutexObject *)op)->sem) == 0;
    return PyUnicode_FromFormat("<freerun.sync.Mutex %s>", locked ? "locked" : "unlocked");
}

static PyMethodDef mutex_methods[] = {
    {"lock", mutex_lock, METH_NOARGS,
     "lock($self, /)\n--\n\n"
     "Await it to lock the mutex: a MutexGuard. First come, first served. It is an async context manager, too.\n\n"
     "Cancel safety: the place in line is lost, nothing else. Thread safety: any task.\n"
     "Tokio: Mutex::lock, lock_owned.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import Mutex\n\n"
     "    async def main() -> list[int]:\n"
     "        mutex = Mutex([1])\n"
     "        guard = await mutex.lock()\n"
     "        guard.value.append(2)\n"
     "        guard.release()\n"
     "        async with mutex.lock() as guard:\n"
     "            return guard.value\n\n"
     "    assert freerun.run(main) == [1, 2]\n"},
    {"try_lock", mutex_try_lock, METH_NOARGS,
     "try_lock($self, /)\n--\n\nA MutexGuard, without waiting; WouldBlock if it is locked.\n\n"
     "Thread safety: any thread. Tokio: Mutex::try_lock."},
    {"blocking_lock", mutex_blocking_lock, METH_NOARGS,
     "blocking_lock($self, /)\n--\n\n"
     "As lock(), on a plain thread, which sleeps meanwhile: a MutexGuard, for `with`. RuntimeError inside a task.\n\n"
     "A signal handler that raises ends the wait. Thread safety: any thread that runs no tasks.\n"
     "Tokio: Mutex::blocking_lock."},
    {"is_locked", mutex_is_locked, METH_NOARGS, "is_locked($self, /)\n--\n\nWhether somebody has it locked now."},
    {"__aenter__", mutex_aenter, METH_NOARGS, NULL},
    {"__aexit__", FAST(mutex_aexit), METH_FASTCALL, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef mutex_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(MutexObject, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot mutex_slots[] = {
    {Py_tp_doc,
     "Mutex(value=None)\n--\n\n"
     "A lock that tasks wait for without holding up their worker, and the value it protects.\n\n"
     "`async with mutex as guard:` locks it for the length of the block; `guard.value` is the value, to read and to\n"
     "replace. Whoever waits is served in order. It is not reentrant, and a failure inside does not poison it.\n\n"
     "Cancel safety: who is cancelled while waiting loses the place in line, nothing else. Thread safety: any task of "
     "any\nruntime, and any thread. Tokio: sync::Mutex.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import Mutex\n\n"
     "    async def count(mutex: Mutex[int]) -> None:\n"
     "        async with mutex as guard:\n"
     "            seen = guard.value\n"
     "            await freerun.yield_now()    # others wait meanwhile\n"
     "            guard.value = seen + 1\n\n"
     "    async def main() -> int:\n"
     "        mutex = Mutex(0)\n"
     "        tasks = [freerun.spawn(count, mutex) for _ in range(10)]\n"
     "        for task in tasks:\n"
     "            await task\n"
     "        async with mutex as guard:\n"
     "            return guard.value\n\n"
     "    assert freerun.run(main) == 10\n"},
    {Py_tp_new, mutex_new},
    {Py_tp_dealloc, mutex_dealloc},
    {Py_tp_traverse, mutex_traverse},
    {Py_tp_clear, mutex_clear},
    {Py_tp_repr, mutex_repr},
    {Py_tp_methods, mutex_methods},
    {Py_tp_members, mutex_members},
    {0, NULL},
};

static PyType_Spec mutex_spec = {
    .name = "freerun.sync.Mutex",
    .basicsize = sizeof(MutexObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = mutex_slots,
};

int fr_mutex_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->mutex_type, &mutex_spec, "Mutex") ||
                   fr_module_add_type(mod, &mod->guard_type, &guard_spec, "MutexGuard")
               ? -1
               : 0;
}
