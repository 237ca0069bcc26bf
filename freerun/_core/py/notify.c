/* notify: freerun.sync.Notify over rt/notify.h.
 *
 * THREADS    any.
 * OWNERSHIP  a Notified holds its Notify.
 * FIELDS     notified->waiter, state   whoever has entered `stepping`; see rt/notify.h
 * INVARIANTS N1 to N3 of rt/notify.h; a Notified that is freed, closed or thrown through gives on what it was told and
 *            has not looked at.
 * PROVED BY  tests/sync/test_notify.py
 */
#include "rt/notify.h"

#include <stddef.h>

#include "acquire.h"

typedef struct {
    PyObject_HEAD
    struct fr_notify notify;
    PyObject *weakrefs;
} NotifyObject;

enum notified_state { MADE, IN_LINE, DONE };

typedef struct {
    PyObject_HEAD
    NotifyObject *notify;
    struct fr_notify_waiter waiter;
    _Atomic bool stepping;
    uint8_t state;
} NotifiedObject;

/* ---- awaiting notified() ---- */

/* Gets into line for `task`, or NULL: in nobody's name. */
static bool enlist(NotifiedObject *self, struct fr_task *task)
{
    self->waiter.waiter = (struct fr_waiter){.task = task};
    if (task) {
        fr_leaf_ref(task);
    }
    if (fr_notify_wait(&self->notify->notify, &self->waiter)) {
        self->state = IN_LINE;
        return true;
    }
    self->state = DONE;
    if (task) {
        fr_task_unref(task);
    }
    return false;
}

/* Whether it was told, being in line. */
static bool was_told(NotifiedObject *self)
{
    bool released;
    if (fr_notify_poll(&self->notify->notify, &self->waiter, &released)) {
        return false;
    }
    if (released && self->waiter.waiter.task) {
        fr_task_unref(self->waiter.waiter.task);
    }
    if (released) {
        self->state = DONE; /* by fr_notify_waiters(): nothing that could be given on */
    }
    return true;
}

static PyObject *notified_step(NotifiedObject *self, struct fr_task *task)
{
    if (self->state == MADE) {
        if (!fr_leaf_spend()) {
            return fr_leaf_yield();
        }
        return enlist(self, task) ? fr_leaf_park() : NULL;
    }
    if (self->state == IN_LINE && !was_told(self)) {
        struct fr_waiter *waiter = &self->waiter.waiter;
        if (waiter->task != task && !fr_leaf_move(&self->notify->notify.lock, waiter, task)) {
            return NULL;
        }
        if (!was_told(self)) {
            return fr_leaf_park();
        }
    }
    if (!fr_leaf_spend()) {
        return fr_leaf_yield(); /* what it was told stays its own until it looks */
    }
    self->state = DONE;
    return NULL; /* None */
}

static PyObject *notified_iternext(PyObject *op)
{
    NotifiedObject *self = (NotifiedObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&self->stepping)) {
        return NULL;
    }
    PyObject *token = notified_step(self, task);
    fr_leaf_exit(&self->stepping);
    return token;
}

static void leave_line(NotifiedObject *self)
{
    if (self->state == IN_LINE) {
        self->state = MADE;
        if (fr_notify_cancel(&self->notify->notify, &self->waiter) && self->waiter.waiter.task) {
            fr_task_unref(self->waiter.waiter.task);
        }
    }
}

static void notified_let_go(PyObject *op)
{
    NotifiedObject *self = (NotifiedObject *)op;
    if (fr_leaf_try_enter(&self->stepping)) { /* else another task steps it: it stays that task's */
        leave_line(self);
        fr_leaf_exit(&self->stepping);
    }
}

static PyObject *notified_enable(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    NotifiedObject *self = (NotifiedObject *)op;
    if (!fr_leaf_enter(&self->stepping)) {
        return NULL;
    }
    bool told = self->state == DONE || (self->state == MADE ? !enlist(self, NULL) : was_told(self));
    if (told) {
        self->state = DONE;
    }
    fr_leaf_exit(&self->stepping);
    return PyBool_FromLong(told);
}

static void notified_dealloc(PyObject *op)
{
    NotifiedObject *self = (NotifiedObject *)op;
    leave_line(self);
    Py_DECREF((PyObject *)self->notify);
    fr_dealloc(op, FR_FREE_NOTIFIED);
}

FR_LEAF_THROW_AND_CLOSE(notified, notified_let_go)

static PyMethodDef notified_methods[] = {
    {"enable", notified_enable, METH_NOARGS,
     "enable($self, /)\n--\n\nGet into line now, before it is awaited. True: it has been told already, and awaiting it "
     "does not wait.\n\nThread safety: any thread. Tokio: Notified::enable."},
    FR_LEAF_METHOD_ROWS(notified),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot notified_slots[] = {
    {Py_tp_doc, "What Notify.notified() returns: await it, once.\n\n"
                "Cancel safety: its place in line is lost; what notify_one() gave it goes to the next.\n"
                "Thread safety: one task at a time. Tokio: sync::futures::Notified."},
    {Py_tp_dealloc, notified_dealloc},
    {Py_tp_methods, notified_methods},
    FR_LEAF_SLOTS(notified_iternext),
    {0, NULL},
};

static PyType_Spec notified_spec = {
    .name = "freerun.sync.Notified",
    .basicsize = sizeof(NotifiedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = notified_slots,
};

/* ---- Notify ---- */

static PyObject *notify_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Notify", keywords)) {
        return NULL;
    }
    NotifyObject *self = (NotifyObject *)type->tp_alloc(type, 0);
    if (self) {
        fr_notify_init(&self->notify, fr_acquire_wake);
    }
    return (PyObject *)self;
}

static void notify_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (((NotifyObject *)op)->weakrefs) {
        PyObject_ClearWeakRefs(op);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *notify_notified(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    NotifyObject *notify = (NotifyObject *)op;
    struct fr_module *mod = fr_module_of_type(Py_TYPE(op));
    NotifiedObject *self = (NotifiedObject *)fr_alloc(mod->notified_type, FR_FREE_NOTIFIED);
    if (self) {
        self->notify = (NotifyObject *)Py_NewRef(op);
        self->waiter.calls = fr_notify_calls(&notify->notify);
        self->waiter.told = FR_TOLD_NOTHING;
        self->state = MADE;
        atomic_init(&self->waiter.waiter.linked, false);
        atomic_init(&self->stepping, false);
    }
    return (PyObject *)self;
}

static PyObject *notify_notify_one(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_notify_one(&((NotifyObject *)op)->notify);
    Py_RETURN_NONE;
}

static PyObject *notify_notify_last(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_notify_last(&((NotifyObject *)op)->notify);
    Py_RETURN_NONE;
}

static PyObject *notify_notify_waiters(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_notify_waiters(&((NotifyObject *)op)->notify);
    Py_RETURN_NONE;
}

static PyMethodDef notify_methods[] = {
    {"notified", notify_notified, METH_NOARGS,
     "notified($self, /)\n--\n\n"
     "Await it until notify_one() or notify_last() picks this task, or notify_waiters() is called.\n\n"
     "It counts for notify_waiters() from when it is made, for the other two from when it is awaited first, or from\n"
     "enable(). So: make it, look whether there is something to wait for, then await it.\n\n"
     "Cancel safety: its place in line is lost; what notify_one() gave it goes to the next. Thread safety: any task.\n"
     "Tokio: Notify::notified, notified_owned."},
    {"notify_one", notify_notify_one, METH_NOARGS,
     "notify_one($self, /)\n--\n\n"
     "Wake the task that has waited longest. If none waits, that is kept for the next one that comes, once.\n\n"
     "Thread safety: any thread. Tokio: Notify::notify_one."},
    {"notify_last", notify_notify_last, METH_NOARGS,
     "notify_last($self, /)\n--\n\nAs notify_one(), but the task that came last. Tokio: Notify::notify_last."},
    {"notify_waiters", notify_notify_waiters, METH_NOARGS,
     "notify_waiters($self, /)\n--\n\n"
     "Wake every task that waits now, or has made its notified() already. Nothing is kept for who comes later.\n\n"
     "Thread safety: any thread. Tokio: Notify::notify_waiters."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef notify_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(NotifyObject, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot notify_slots[] = {
    {Py_tp_doc, "Notify()\n--\n\n"
                "Tells tasks that something has happened, and nothing else: what, they look up themselves.\n\n"
                "Cancel safety: see notified(). Thread safety: any task of any runtime, and any thread. Tokio: "
                "sync::Notify.\n\n"
                "Example::\n\n"
                "    import freerun\n"
                "    from freerun.sync import Notify\n\n"
                "    async def main() -> str:\n"
                "        notify, found = Notify(), []\n\n"
                "        async def search() -> None:\n"
                "            await freerun.time.sleep(0.001)\n"
                "            found.append(\"it\")\n"
                "            notify.notify_one()\n\n"
                "        freerun.spawn(search)\n"
                "        while not found:\n"
                "            await notify.notified()\n"
                "        return found[0]\n\n"
                "    assert freerun.run(main) == \"it\"\n"},
    {Py_tp_new, notify_new},
    {Py_tp_dealloc, notify_dealloc},
    {Py_tp_methods, notify_methods},
    {Py_tp_members, notify_members},
    {0, NULL},
};

static PyType_Spec notify_spec = {
    .name = "freerun.sync.Notify",
    .basicsize = sizeof(NotifyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = notify_slots,
};

int fr_notify_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->notify_type, &notify_spec, "Notify") ||
                   fr_module_add_type(mod, &mod->notified_type, &notified_spec, "Notified")
               ? -1
               : 0;
}
