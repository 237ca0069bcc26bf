/* semaphore: freerun.sync.Semaphore and its permits, over the batch semaphore of rt/semaphore.h.
 *
 * THREADS    any.
 * OWNERSHIP  a Permit holds its Semaphore. It is the leaf that acquires as well, see acquire.h.
 * FIELDS     permit->acquire  whoever has entered `stepping`; `state` is read without that to see whether it is HELD
 * INVARIANTS AQ1, AQ2 of acquire.h.
 * PROVED BY  tests/sync/test_semaphore.py
 */
#include "acquire.h"

#include <errno.h>
#include <stddef.h>

typedef struct {
    PyObject_HEAD
    struct fr_sem sem;
    struct fr_module *mod; /* constant */
    PyObject *weakrefs;
} SemaphoreObject;

typedef struct {
    PyObject_HEAD
    SemaphoreObject *semaphore;
    struct fr_acquire acquire;
    bool scoped; /* awaited by `async with semaphore`: its end gives the permit back, not this object's */
} PermitObject;

static PyObject *raise_closed(struct fr_module *mod)
{
    PyErr_SetString(mod->exc_acquire, "the semaphore is closed: it gives no permits any more");
    return NULL;
}

/* ---- permits ---- */

static PermitObject *permit_new(struct fr_module *mod, SemaphoreObject *semaphore, uint64_t count,
                                enum fr_acquire_state state)
{
    PermitObject *permit = (PermitObject *)fr_alloc(mod->permit_type, FR_FREE_PERMIT);
    if (permit) {
        permit->semaphore = (SemaphoreObject *)Py_NewRef((PyObject *)semaphore);
        permit->scoped = false;
        fr_acquire_init(&permit->acquire, count, state);
    }
    return permit;
}

static PyObject *permit_got(PermitObject *permit)
{
    if (permit->scoped) {
        permit->acquire.state = FR_ACQUIRE_OVER; /* the block has it now */
        return NULL;
    }
    return fr_leaf_return(Py_NewRef((PyObject *)permit));
}

static PyObject *permit_step(PermitObject *permit, struct fr_task *task)
{
    if (permit->acquire.state == FR_ACQUIRE_HELD) { /* of try_acquire(), say, in `async with` */
        return permit_got(permit);
    }
    if (permit->acquire.state == FR_ACQUIRE_OVER) {
        PyErr_SetString(PyExc_RuntimeError, "this permit has been released already; call acquire() again");
        return NULL;
    }
    switch (fr_acquire_step(&permit->acquire, &permit->semaphore->sem, task)) {
    case FR_ACQUIRED:
        return permit_got(permit);
    case FR_ACQUIRE_PARKS:
        return fr_leaf_park();
    case FR_ACQUIRE_YIELDS:
        return fr_leaf_yield();
    case FR_ACQUIRE_CLOSED:
        return raise_closed(fr_module_of_type(Py_TYPE((PyObject *)permit)));
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
        fr_acquire_let_go(&permit->acquire, &permit->semaphore->sem);
        fr_leaf_exit(&permit->acquire.stepping);
    }
}

static void permit_dealloc(PyObject *op)
{
    PermitObject *permit = (PermitObject *)op;
    fr_acquire_drop(&permit->acquire, &permit->semaphore->sem);
    Py_DECREF((PyObject *)permit->semaphore);
    fr_dealloc(op, FR_FREE_PERMIT);
}

/* Enters a permit that is held; else an exception that says what it is instead. */
static bool enter_held(PermitObject *permit)
{
    if (!fr_leaf_enter(&permit->acquire.stepping)) {
        return false;
    }
    if (permit->acquire.state == FR_ACQUIRE_HELD) {
        return true;
    }
    PyErr_SetString(PyExc_RuntimeError, permit->acquire.state == FR_ACQUIRE_OVER
                                            ? "this permit has been released already"
                                            : "this permit has not been acquired yet: await it first");
    fr_leaf_exit(&permit->acquire.stepping);
    return false;
}

/* Gives back what is held; nothing if it was given back before. 0, or -1 with an exception. */
static int give_back(PermitObject *permit)
{
    if (!fr_leaf_enter(&permit->acquire.stepping)) {
        return -1;
    }
    uint8_t state = permit->acquire.state;
    if (state == FR_ACQUIRE_HELD) {
        permit->acquire.state = FR_ACQUIRE_OVER;
    }
    fr_leaf_exit(&permit->acquire.stepping);
    if (state == FR_ACQUIRE_HELD) {
        fr_sem_release(&permit->semaphore->sem, permit->acquire.count); /* [AQ2] */
    } else if (state != FR_ACQUIRE_OVER) {
        PyErr_SetString(PyExc_RuntimeError, "this permit has not been acquired yet: await it first");
        return -1;
    }
    return 0;
}

static PyObject *permit_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (give_back((PermitObject *)op)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *permit_forget(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PermitObject *permit = (PermitObject *)op;
    if (!enter_held(permit)) {
        return NULL;
    }
    permit->acquire.state = FR_ACQUIRE_OVER;
    fr_leaf_exit(&permit->acquire.stepping);
    Py_RETURN_NONE;
}

static PyObject *permit_split(PyObject *op, PyObject *value)
{
    PermitObject *permit = (PermitObject *)op;
    uint64_t n;
    if (fr_parse_count(value, "k", 0, &n)) {
        return NULL;
    }
    PermitObject *other = permit_new(fr_module_of_type(Py_TYPE(op)), permit->semaphore, n, FR_ACQUIRE_OVER);
    if (!other || !enter_held(permit)) {
        Py_XDECREF((PyObject *)other);
        return NULL;
    }
    uint64_t held = permit->acquire.count;
    if (n <= held) {
        permit->acquire.count = held - n;
        other->acquire.state = FR_ACQUIRE_HELD;
    }
    fr_leaf_exit(&permit->acquire.stepping);
    if (n > held) {
        Py_DECREF((PyObject *)other);
        PyErr_Format(PyExc_ValueError, "argument 'k' must be at most %llu, which is what this permit holds: %R",
                     (unsigned long long)held, value);
        return NULL;
    }
    return (PyObject *)other;
}

static PyObject *permit_merge(PyObject *op, PyObject *value)
{
    PermitObject *permit = (PermitObject *)op, *other = (PermitObject *)value;
    if (Py_TYPE(value) != Py_TYPE(op)) {
        PyErr_Format(PyExc_TypeError, "argument 'other' must be a Permit, not %.200s", Py_TYPE(value)->tp_name);
        return NULL;
    }
    if (permit == other || permit->semaphore != other->semaphore) {
        PyErr_SetString(PyExc_ValueError, permit == other ? "argument 'other' is this very permit"
                                                          : "argument 'other' is a permit of another semaphore");
        return NULL;
    }
    if (!enter_held(other)) {
        return NULL;
    }
    if (!enter_held(permit)) {
        fr_leaf_exit(&other->acquire.stepping);
        return NULL;
    }
    other->acquire.state = FR_ACQUIRE_OVER;
    permit->acquire.count += other->acquire.count;
    fr_leaf_exit(&permit->acquire.stepping);
    fr_leaf_exit(&other->acquire.stepping);
    Py_RETURN_NONE;
}

static PyObject *permit_num_permits(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PermitObject *permit = (PermitObject *)op;
    if (!fr_leaf_enter(&permit->acquire.stepping)) {
        return NULL;
    }
    uint64_t held = permit->acquire.state == FR_ACQUIRE_HELD ? permit->acquire.count : 0;
    fr_leaf_exit(&permit->acquire.stepping);
    return PyLong_FromUnsignedLongLong(held);
}

static PyObject *permit_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    if (!enter_held((PermitObject *)op)) {
        return NULL;
    }
    fr_leaf_exit(&((PermitObject *)op)->acquire.stepping);
    return Py_NewRef(op);
}

static PyObject *permit_exit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return permit_release(op, NULL);
}

static PyObject *permit_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op); /* awaited, it acquires and returns itself */
}

static PyObject *permit_aexit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    if (give_back((PermitObject *)op)) {
        return NULL;
    }
    return Py_NewRef(((PermitObject *)op)->semaphore->mod->ready);
}

FR_LEAF_THROW_AND_CLOSE(permit, permit_let_go)

#define FAST(f) (PyCFunction)(void (*)(void))(f)

static PyMethodDef permit_methods[] = {
    {"release", permit_release, METH_NOARGS,
     "release($self, /)\n--\n\nGive the permits back; harmless if that has been done. RuntimeError before they were "
     "acquired."},
    {"forget", permit_forget, METH_NOARGS,
     "forget($self, /)\n--\n\nDo not give the permits back: the semaphore has that many less from now on."},
    {"split", permit_split, METH_O,
     "split($self, k, /)\n--\n\nTake `k` permits out of this one: a Permit of its own. ValueError if it holds fewer."},
    {"merge", permit_merge, METH_O,
     "merge($self, other, /)\n--\n\nTake over all permits of another Permit of the same semaphore; ValueError if it is "
     "of another one."},
    {"num_permits", permit_num_permits, METH_NOARGS,
     "num_permits($self, /)\n--\n\nHow many permits it holds: 0 once they were released."},
    {"__enter__", permit_enter, METH_NOARGS, NULL},
    {"__exit__", FAST(permit_exit), METH_FASTCALL, NULL},
    {"__aenter__", permit_aenter, METH_NOARGS, NULL},
    {"__aexit__", FAST(permit_aexit), METH_FASTCALL, NULL},
    FR_LEAF_METHOD_ROWS(permit),
    {NULL, NULL, 0, NULL},
};

static PyObject *permit_get_semaphore(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)((PermitObject *)op)->semaphore);
}

static PyGetSetDef permit_getset[] = {
    {"semaphore", permit_get_semaphore, NULL, "The Semaphore it is a permit of.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot permit_slots[] = {
    {Py_tp_doc,
     "One permit of a Semaphore, or several. What acquire() returns: await it, or use it in `async with`.\n\n"
     "Leaving its block, release() and, as a safety net, garbage collection give the permits back.\n\n"
     "Cancel safety: an acquire() that is cancelled gives up its place in line, and what it had been given goes to "
     "the\nnext. Thread safety: any thread. Tokio: sync::SemaphorePermit, OwnedSemaphorePermit."},
    {Py_tp_dealloc, permit_dealloc},
    {Py_tp_methods, permit_methods},
    {Py_tp_getset, permit_getset},
    FR_LEAF_SLOTS(permit_iternext),
    {0, NULL},
};

static PyType_Spec permit_spec = {
    .name = "freerun.sync.Permit",
    .basicsize = sizeof(PermitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = permit_slots,
};

/* ---- the semaphore ---- */

static PyObject *semaphore_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"permits", NULL};
    PyObject *value;
    uint64_t permits;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Semaphore", keywords, &value) ||
        fr_parse_count(value, "permits", 0, &permits)) {
        return NULL;
    }
    SemaphoreObject *self = (SemaphoreObject *)type->tp_alloc(type, 0);
    if (self) {
        fr_sem_init(&self->sem, permits, fr_acquire_granted);
        self->mod = fr_module_of_type(type);
    }
    return (PyObject *)self;
}

static void semaphore_dealloc(PyObject *op)
{
    SemaphoreObject *self = (SemaphoreObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->weakrefs) {
        PyObject_ClearWeakRefs(op);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

/* The `k` of acquire() and its kin. 0, or -1 with an exception. */
static int parse_k(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, const char *function, uint64_t *k)
{
    PyObject *value;
    *k = 1;
    if (fr_parse_optional(args, nargs, kwnames, function, "k", &value)) {
        return -1;
    }
    return value ? fr_parse_count(value, "k", 0, k) : 0;
}

static PyObject *semaphore_acquire(PyObject *op, PyTypeObject *cls, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames)
{
    uint64_t k;
    if (parse_k(args, nargs, kwnames, "acquire", &k)) {
        return NULL;
    }
    return (PyObject *)permit_new(fr_module_of_type(cls), (SemaphoreObject *)op, k, FR_ACQUIRE_NEW);
}

static PyObject *semaphore_try_acquire(PyObject *op, PyTypeObject *cls, PyObject *const *args, Py_ssize_t nargs,
                                       PyObject *kwnames)
{
    SemaphoreObject *self = (SemaphoreObject *)op;
    struct fr_module *mod = fr_module_of_type(cls);
    uint64_t k;
    if (parse_k(args, nargs, kwnames, "try_acquire", &k)) {
        return NULL;
    }
    PermitObject *permit = permit_new(mod, self, k, FR_ACQUIRE_OVER);
    int err = permit ? fr_sem_try_acquire(&self->sem, k) : 0;
    if (err == -EAGAIN) {
        fr_acquire_settle();
        err = fr_sem_try_acquire(&self->sem, k);
    }
    if (permit && !err) {
        permit->acquire.state = FR_ACQUIRE_HELD;
        return (PyObject *)permit;
    }
    Py_XDECREF((PyObject *)permit);
    if (err == -EAGAIN) {
        PyErr_Format(mod->exc_would_block, "%llu permit%s wanted, %llu free", (unsigned long long)k, k == 1 ? "" : "s",
                     (unsigned long long)fr_sem_available(&self->sem));
    } else if (err) {
        raise_closed(mod);
    }
    return NULL;
}

static PyObject *semaphore_blocking_acquire(PyObject *op, PyTypeObject *cls, PyObject *const *args, Py_ssize_t nargs,
                                            PyObject *kwnames)
{
    SemaphoreObject *self = (SemaphoreObject *)op;
    struct fr_module *mod = fr_module_of_type(cls);
    uint64_t k;
    if (parse_k(args, nargs, kwnames, "blocking_acquire", &k) || fr_leaf_may_block("blocking_acquire", "acquire")) {
        return NULL;
    }
    PermitObject *permit = permit_new(mod, self, k, FR_ACQUIRE_OVER);
    int err = permit ? fr_acquire_blocking(&self->sem, k) : 0;
    if (permit && !err) {
        permit->acquire.state = FR_ACQUIRE_HELD;
        return (PyObject *)permit;
    }
    Py_XDECREF((PyObject *)permit);
    return err == -ESHUTDOWN ? raise_closed(mod) : NULL;
}

static PyObject *semaphore_add_permits(PyObject *op, PyObject *value)
{
    uint64_t k;
    if (fr_parse_count(value, "k", 0, &k)) {
        return NULL;
    }
    if (k && !fr_sem_release(&((SemaphoreObject *)op)->sem, k)) {
        PyErr_Format(PyExc_ValueError, "argument 'k' is too large: a semaphore has at most 2**61 - 1 permits: %R",
                     value);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *semaphore_forget_permits(PyObject *op, PyObject *value)
{
    uint64_t k;
    if (fr_parse_count(value, "k", 0, &k)) {
        return NULL;
    }
    fr_acquire_settle();
    return PyLong_FromUnsignedLongLong(fr_sem_forget(&((SemaphoreObject *)op)->sem, k));
}

static PyObject *semaphore_available(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_acquire_settle();
    return PyLong_FromUnsignedLongLong(fr_sem_available(&((SemaphoreObject *)op)->sem));
}

static PyObject *semaphore_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_sem_close(&((SemaphoreObject *)op)->sem);
    Py_RETURN_NONE;
}

static PyObject *semaphore_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(fr_sem_is_closed(&((SemaphoreObject *)op)->sem));
}

/* If there is a free permit it is taken here, and nothing needs to be made that waits for it. */
static PyObject *semaphore_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SemaphoreObject *self = (SemaphoreObject *)op;
    if (fr_thread.task && fr_leaf_spend() && fr_sem_try_acquire(&self->sem, 1) == 0) {
        return Py_NewRef(self->mod->ready);
    }
    PermitObject *permit = permit_new(self->mod, self, 1, FR_ACQUIRE_NEW);
    if (permit) {
        permit->scoped = true;
    }
    return (PyObject *)permit;
}

static PyObject *semaphore_aexit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    SemaphoreObject *self = (SemaphoreObject *)op;
    fr_sem_release(&self->sem, 1);
    return Py_NewRef(self->mod->ready);
}

static PyObject *semaphore_repr(PyObject *op)
{
    struct fr_sem *sem = &((SemaphoreObject *)op)->sem;
    return PyUnicode_FromFormat("<freerun.sync.Semaphore available=%llu%s>", (unsigned long long)fr_sem_available(sem),
                                fr_sem_is_closed(sem) ? " closed" : "");
}

static PyMethodDef semaphore_methods[] = {
    {"acquire", FAST(semaphore_acquire), METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, /, k=1)\n--\n\n"
     "Await it to get `k` permits: a Permit, which gives them back. First come, first served.\n\n"
     "Who asks for many takes what is free and waits for the rest: it cannot starve behind those who ask for few.\n"
     "AcquireError once the semaphore is closed, ValueError or TypeError if `k` is no count.\n\n"
     "Cancel safety: the place in line is lost, and what was given already goes to the next. Thread safety: any task.\n"
     "Tokio: Semaphore::acquire, acquire_many, acquire_owned.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import Semaphore\n\n"
     "    async def main() -> int:\n"
     "        semaphore = Semaphore(5)\n"
     "        async with semaphore.acquire(3) as permit:\n"
     "            assert permit.num_permits() == 3\n"
     "            return semaphore.available_permits()\n\n"
     "    assert freerun.run(main) == 2\n"},
    {"try_acquire", FAST(semaphore_try_acquire), METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "try_acquire($self, /, k=1)\n--\n\n"
     "A Permit for `k` permits, without waiting. WouldBlock if there are not that many, AcquireError if closed.\n\n"
     "Thread safety: any thread. Tokio: Semaphore::try_acquire, try_acquire_many."},
    {"blocking_acquire", FAST(semaphore_blocking_acquire), METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     "blocking_acquire($self, /, k=1)\n--\n\n"
     "As acquire(), on a plain thread, which sleeps meanwhile. RuntimeError inside a task, AcquireError if closed.\n\n"
     "A signal handler that raises ends the wait. Thread safety: any thread that runs no tasks."},
    {"add_permits", semaphore_add_permits, METH_O,
     "add_permits($self, k, /)\n--\n\nAdd `k` permits; those who wait get them first. ValueError above 2**61 - 1."},
    {"forget_permits", semaphore_forget_permits, METH_O,
     "forget_permits($self, k, /)\n--\n\nTake up to `k` free permits away for good; how many there were."},
    {"available_permits", semaphore_available, METH_NOARGS,
     "available_permits($self, /)\n--\n\nHow many permits are free now."},
    {"close", semaphore_close, METH_NOARGS,
     "close($self, /)\n--\n\nGive no permits any more: who waits, and whoever comes, gets AcquireError. Idempotent.\n\n"
     "Permits that are held may be released as before."},
    {"is_closed", semaphore_is_closed, METH_NOARGS, "is_closed($self, /)\n--\n\nWhether close() was called."},
    {"__aenter__", semaphore_aenter, METH_NOARGS, NULL},
    {"__aexit__", FAST(semaphore_aexit), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef semaphore_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(SemaphoreObject, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot semaphore_slots[] = {
    {Py_tp_doc,
     "Semaphore(permits)\n--\n\n"
     "A number of permits, and a fair line of those who wait for one.\n\n"
     "`async with semaphore:` holds one permit for the length of the block; acquire() gives a Permit to keep. "
     "`permits`\nis 0 to 2**61 - 1.\n\n"
     "Cancel safety: see acquire(). Thread safety: any task of any runtime, and any thread. Tokio: sync::Semaphore.\n\n"
     "Example::\n\n"
     "    import freerun\n"
     "    from freerun.sync import Semaphore\n\n"
     "    async def fetch(limit: Semaphore, n: int) -> int:\n"
     "        async with limit:    # three at a time\n"
     "            await freerun.time.sleep(0.001)\n"
     "            return n\n\n"
     "    async def main() -> int:\n"
     "        limit = Semaphore(3)\n"
     "        tasks = [freerun.spawn(fetch, limit, n) for n in range(10)]\n"
     "        return sum([await task for task in tasks])\n\n"
     "    assert freerun.run(main) == 45\n"},
    {Py_tp_new, semaphore_new},
    {Py_tp_dealloc, semaphore_dealloc},
    {Py_tp_repr, semaphore_repr},
    {Py_tp_methods, semaphore_methods},
    {Py_tp_members, semaphore_members},
    {0, NULL},
};

static PyType_Spec semaphore_spec = {
    .name = "freerun.sync.Semaphore",
    .basicsize = sizeof(SemaphoreObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = semaphore_slots,
};

int fr_semaphore_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->semaphore_type, &semaphore_spec, "Semaphore") ||
                   fr_module_add_type(mod, &mod->permit_type, &permit_spec, "Permit")
               ? -1
               : 0;
}
