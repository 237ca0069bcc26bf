/* join_set: see join_set.h for who may do what. */
#include "join_set.h"

#include <stdlib.h>

#include "acquire.h"
#include "scope.h"

enum set_phase { SET_NEW, SET_OPEN, SET_ABORTING, SET_CLOSED };

struct task_set {
    struct fr_mutex lock;
    struct fr_node running;
    struct fr_node ready;
    struct fr_node waiters; /* for a ready one */
    struct fr_node idlers;  /* for the end of all that run */
    size_t nrunning;
    size_t nready;
    size_t users;
    PyObject *scope; /* of a group: what the first failure cancels */
    uint8_t phase;
    bool group;
};

enum where { NOWHERE, IN_RUNNING, IN_READY };

struct fr_member {
    struct fr_node node;
    struct task_set *set;
    struct fr_task *task;
    PyObject *handle;
    PyObject *error;
    uint8_t refs;
    uint8_t where;
};

typedef struct {
    PyObject_HEAD
    struct task_set *set;
    PyObject *core;
} SetObject;

/* ---- memory ---- */

static struct task_set *set_new(bool group)
{
    struct task_set *set = malloc(sizeof *set);
    if (set) {
        *set = (struct task_set){.users = 1, .group = group, .phase = group ? SET_NEW : SET_OPEN};
        fr_mutex_init(&set->lock);
        fr_list_init(&set->running);
        fr_list_init(&set->ready);
        fr_list_init(&set->waiters);
        fr_list_init(&set->idlers);
    }
    return set;
}

/* Nobody knows the set any more. */
static void set_free(struct task_set *set)
{
    Py_XDECREF(set->scope);
    free(set);
}

static void set_leave(struct task_set *set)
{
    fr_mutex_lock(&set->lock);
    bool last = --set->users == 0;
    fr_mutex_unlock(&set->lock);
    if (last) {
        set_free(set);
    }
}

/* A place that is not entered yet, and till then no user of the set. NULL with MemoryError. */
static struct fr_member *member_new(struct task_set *set)
{
    struct fr_member *member = malloc(sizeof *member);
    if (!member) {
        PyErr_NoMemory();
        return NULL;
    }
    *member = (struct fr_member){.set = set, .refs = 2, .where = NOWHERE};
    return member;
}

/* True: it has no references left, and is for the caller to free, out of the lock. */
static bool unref_locked(struct fr_member *member)
{
    bool gone = --member->refs == 0;
    member->set->users -= gone;
    return gone;
}

static void member_free(struct fr_member *member)
{
    Py_XDECREF(member->handle);
    Py_XDECREF(member->error);
    free(member);
}

/* Out of its list, whose reference the caller gives back (or to whom it gives the member). */
static void unlink_locked(struct fr_member *member)
{
    struct task_set *set = member->set;
    if (member->where == IN_RUNNING) {
        set->nrunning--;
    } else {
        set->nready--;
    }
    fr_list_remove(&member->node);
    member->where = NOWHERE;
}

/* ---- waking ---- */

static void take_one_locked(struct fr_wakes *wakes, struct fr_node *waiters)
{
    struct fr_node *first = fr_list_front(waiters);
    if (first && !fr_wakes_full(wakes)) {
        fr_wakes_take_locked(wakes, FR_CONTAINER_OF(first, struct fr_waiter, node));
    }
}

/* Everybody looks again, those who wait for the end and those who wait for the next: nothing runs any more. */
static void wake_all(struct task_set *set)
{
    struct fr_wakes wakes;
    bool more;
    do {
        fr_wakes_init(&wakes);
        fr_mutex_lock(&set->lock);
        while (!fr_list_is_empty(&set->idlers) && !fr_wakes_full(&wakes)) {
            take_one_locked(&wakes, &set->idlers);
        }
        while (!fr_list_is_empty(&set->waiters) && !fr_wakes_full(&wakes)) {
            take_one_locked(&wakes, &set->waiters);
        }
        more = fr_wakes_full(&wakes);
        fr_mutex_unlock(&set->lock);
        fr_wakes_fire(&wakes, fr_acquire_wake);
    } while (more);
}

/* ---- a child's life ---- */

static void refuse(bool group, uint8_t phase)
{
    const char *noun = group ? "TaskGroup" : "JoinSet";
    const char *why = phase == SET_NEW        ? "has not been entered; use it in 'async with'"
                      : phase == SET_ABORTING ? "is shutting down and takes no new tasks"
                                              : "is finished and takes no new tasks";
    PyErr_Format(PyExc_RuntimeError, "this %s %s", noun, why);
}

bool fr_member_enter(struct fr_member *member, struct fr_task *task, PyObject *handle)
{
    struct task_set *set = member->set;
    member->task = task;
    member->handle = set->group ? NULL : Py_NewRef(handle);
    fr_mutex_lock(&set->lock);
    uint8_t phase = set->phase;
    if (phase == SET_OPEN) {
        fr_list_push_back(&set->running, &member->node);
        set->nrunning++;
        set->users++;
        member->where = IN_RUNNING;
    } else {
        member->task = NULL; /* never entered */
    }
    fr_mutex_unlock(&set->lock);
    if (phase != SET_OPEN) {
        refuse(set->group, phase); /* [J4] */
    }
    return phase == SET_OPEN;
}

void fr_member_withdraw(struct fr_member *member)
{
    struct task_set *set = member->set; /* its Python object is the spawner's */
    bool idle = false, gone = true;
    fr_mutex_lock(&set->lock);
    if (member->task) { /* it was entered, and may have been taken out again */
        if (member->where != NOWHERE) {
            unlink_locked(member);
            member->refs--;
        }
        gone = unref_locked(member);
        idle = set->nrunning == 0;
    }
    fr_mutex_unlock(&set->lock);
    PyObject *error = PyErr_GetRaisedException();
    if (gone) {
        member_free(member);
    }
    PyErr_SetRaisedException(error);
    if (idle) {
        wake_all(set);
    }
}

bool fr_member_fail(struct fr_member *member, PyObject *error)
{
    struct task_set *set = member->set;
    if (!set->group) {
        return false; /* whoever drops the handle without having looked reports it */
    }
    fr_mutex_lock(&set->lock);
    bool wanted = member->where == IN_RUNNING;
    fr_mutex_unlock(&set->lock);
    if (wanted) {
        member->error = Py_NewRef(error);
    }
    return wanted;
}

/* Moves a member that has ended to where it belongs. True: it is the first one of a group to fail. */
static bool settle_locked(struct task_set *set, struct fr_member *member)
{
    unlink_locked(member);
    if (set->group && !member->error) {
        member->refs--;
        return false;
    }
    fr_list_push_back(&set->ready, &member->node);
    set->nready++;
    member->where = IN_READY;
    bool first = set->group && set->phase == SET_OPEN;
    if (first) {
        set->phase = SET_ABORTING;
    }
    return first;
}

static void abort_all(struct task_set *set);

/* The first failure of a group. The caller has made the set wait for us. */
static void fall(struct task_set *set, PyObject *scope)
{
    if (scope) {
        fr_scope_cancel((struct fr_scope *)scope);
        Py_DECREF(scope);
    }
    abort_all(set);
    set_leave(set);
}

void fr_member_done(struct fr_member *member)
{
    struct task_set *set = member->set;
    struct fr_wakes wakes;
    PyObject *scope = NULL;
    bool first = false, idle = false;
    fr_wakes_init(&wakes);
    fr_mutex_lock(&set->lock);
    if (member->where == IN_RUNNING) {
        first = settle_locked(set, member);
        scope = first ? Py_XNewRef(set->scope) : NULL;
        set->users += first;
        idle = set->nrunning == 0;
        take_one_locked(&wakes, &set->waiters);
        while (idle && !fr_list_is_empty(&set->idlers) && !fr_wakes_full(&wakes)) {
            take_one_locked(&wakes, &set->idlers);
        }
    }
    bool again = fr_wakes_full(&wakes);
    set->users += again;
    bool gone = unref_locked(member);
    bool last = set->users == 0;
    fr_mutex_unlock(&set->lock);
    if (first) { /* before the group's body can go on: it finds the others aborted */
        fall(set, scope);
    }
    fr_wakes_fire(&wakes, fr_acquire_wake);
    if (gone) {
        member_free(member);
    }
    if (again) {
        wake_all(set);
        set_leave(set);
    }
    if (last) {
        set_free(set);
    }
}

/* ---- all of them ---- */

/* Every running task, with references; NULL: out of memory, or none. */
static struct fr_task **snapshot(struct task_set *set, size_t *n)
{
    struct fr_task **tasks = NULL;
    fr_mutex_lock(&set->lock);
    for (size_t room = 0; room < set->nrunning;) { /* the list may grow while we allocate outside the lock */
        room = set->nrunning + set->nrunning / 8 + 8;
        fr_mutex_unlock(&set->lock);
        free(tasks);
        tasks = malloc(room * sizeof(struct fr_task *));
        fr_mutex_lock(&set->lock);
        if (!tasks) {
            break;
        }
    }
    *n = 0;
    for (struct fr_node *node = set->running.next; tasks && node != &set->running; node = node->next) {
        tasks[*n] = FR_CONTAINER_OF(node, struct fr_member, node)->task;
        fr_task_ref(tasks[(*n)++]);
    }
    fr_mutex_unlock(&set->lock);
    return tasks;
}

static void abort_all(struct task_set *set)
{
    size_t n;
    struct fr_task **tasks = snapshot(set, &n);
    for (size_t i = 0; i < n; i++) {
        fr_task_abort(tasks[i]);
        fr_task_unref(tasks[i]);
    }
    free(tasks);
}

/* Takes one out of the lists, ready ones first; false: there is none. `task`: it runs, with a reference. */
static bool take_any(struct task_set *set, struct fr_member **gone, PyObject **handle, struct fr_task **task)
{
    fr_mutex_lock(&set->lock);
    struct fr_node *node = fr_list_front(&set->ready);
    node = node ? node : fr_list_front(&set->running);
    struct fr_member *member = node ? FR_CONTAINER_OF(node, struct fr_member, node) : NULL;
    *task = NULL;
    *gone = NULL;
    *handle = NULL;
    if (member) {
        if (member->where == IN_RUNNING) {
            *task = member->task;
            fr_task_ref(*task);
        }
        unlink_locked(member);
        *handle = member->handle;
        member->handle = NULL;
        *gone = unref_locked(member) ? member : NULL;
    }
    fr_mutex_unlock(&set->lock);
    return member != NULL;
}

/* Lets go of all; those that run go on, unless they are aborted. */
static void let_go(struct task_set *set, bool aborted)
{
    struct fr_member *gone;
    PyObject *handle;
    struct fr_task *task;
    while (take_any(set, &gone, &handle, &task)) {
        if (task) {
            if (aborted) {
                fr_task_abort(task);
            }
            fr_task_unref(task);
        }
        Py_XDECREF(handle);
        if (gone) {
            member_free(gone);
        }
    }
    wake_all(set);
}

/* ---- waiting ---- */

enum wait_mode { WAIT_NEXT, WAIT_ITERATE, WAIT_WITH_ID, WAIT_HANDLE, WAIT_IDLE, WAIT_CLOSE };

typedef struct {
    PyObject_HEAD
    SetObject *owner;
    struct fr_waiter waiter;
    _Atomic bool stepping;
    bool lined; /* was put into a list, and has not let go */
    uint8_t mode;
} WaitObject;

static bool for_the_end(const WaitObject *wait)
{
    return wait->mode >= WAIT_IDLE;
}

static PyObject *wait_new(PyObject *owner, enum wait_mode mode)
{
    struct fr_module *mod = PyModule_GetState(PyType_GetModuleByDef(Py_TYPE(owner), &fr_module_def));
    WaitObject *wait = (WaitObject *)fr_alloc(mod->set_wait_type, FR_FREE_SET_WAIT);
    if (wait) {
        wait->owner = (SetObject *)Py_NewRef(owner);
        wait->waiter = (struct fr_waiter){.task = NULL};
        atomic_init(&wait->stepping, false);
        wait->lined = false;
        wait->mode = (uint8_t)mode;
    }
    return (PyObject *)wait;
}

/* Leaves the list; true: its task reference is the caller's. If it had been woken, that goes to the next [J3]. */
static bool leave_locked(struct task_set *set, WaitObject *wait, struct fr_wakes *wakes)
{
    if (!wait->lined) {
        return false;
    }
    wait->lined = false;
    bool linked = fr_waiter_unlink_locked(&wait->waiter);
    if (!linked && set->nready > 0 && !for_the_end(wait)) {
        take_one_locked(wakes, &set->waiters);
    }
    return linked;
}

static void wait_let_go(PyObject *self)
{
    WaitObject *wait = (WaitObject *)self;
    struct fr_wakes wakes;
    if (!wait->lined) {
        return;
    }
    fr_wakes_init(&wakes);
    fr_mutex_lock(&wait->owner->set->lock);
    bool linked = leave_locked(wait->owner->set, wait, &wakes);
    fr_mutex_unlock(&wait->owner->set->lock);
    if (linked) {
        fr_task_unref(wait->waiter.task);
    }
    fr_wakes_fire(&wakes, fr_acquire_wake);
}

/* What a look at the set says. */
enum look { LOOK_WAIT, LOOK_YIELD, LOOK_EMPTY, LOOK_END, LOOK_READY };

static enum look look_locked(struct task_set *set, WaitObject *wait)
{
    enum look look = for_the_end(wait) ? (set->nrunning ? LOOK_WAIT : LOOK_END)
                     : set->nready     ? LOOK_READY
                     : set->nrunning   ? LOOK_WAIT
                                       : LOOK_EMPTY;
    return look != LOOK_WAIT && !fr_leaf_spend() ? LOOK_YIELD : look;
}

/* The handle of the first ready one, whose result has not been looked at. */
static PyObject *take_ready_locked(struct task_set *set, struct fr_member **gone)
{
    struct fr_member *member = FR_CONTAINER_OF(fr_list_front(&set->ready), struct fr_member, node);
    unlink_locked(member);
    PyObject *handle = member->handle;
    member->handle = NULL;
    *gone = unref_locked(member) ? member : NULL;
    return handle;
}

static PyObject *raise_empty(void)
{
    PyErr_SetString(PyExc_IndexError, "this JoinSet is empty: there is no task to wait for");
    return NULL;
}

/* Steals `handle`. A new reference, or NULL with what the task raised. */
static PyObject *result_of(struct fr_module *mod, PyObject *handle, uint8_t mode)
{
    if (mode == WAIT_HANDLE) {
        return handle;
    }
    struct fr_task *task = fr_handle_task(handle);
    PyObject *result = fr_task_take_result(mod, task);
    if (result && mode == WAIT_WITH_ID) {
        result = Py_BuildValue("KN", (unsigned long long)task->id, result);
    }
    Py_DECREF(handle);
    return result;
}

static PyObject *finish(WaitObject *wait, enum look look, PyObject *handle)
{
    switch (look) {
    case LOOK_WAIT:
        return fr_leaf_park_join();
    case LOOK_YIELD:
        return fr_leaf_yield();
    case LOOK_EMPTY:
        if (wait->mode == WAIT_ITERATE) {
            PyErr_SetNone(PyExc_StopAsyncIteration);
            return NULL;
        }
        return raise_empty();
    case LOOK_READY: {
        fr_thread.joined++;
        PyObject *result = result_of(fr_module_of_type(Py_TYPE(wait)), handle, wait->mode);
        return result ? fr_leaf_return(result) : NULL;
    }
    case LOOK_END:
    default:
        return NULL;
    }
}

/* The last one was taken: those who wait for another learn that there is none. */
static bool is_last_locked(struct task_set *set)
{
    return set->nready == 0 && set->nrunning == 0 && !fr_list_is_empty(&set->waiters);
}

static PyObject *wait_step(WaitObject *wait, struct fr_task *me)
{
    struct task_set *set = wait->owner->set;
    struct fr_member *gone = NULL;
    struct fr_wakes wakes;
    PyObject *handle = NULL, *scope = NULL;
    bool unlinked = false, last = false;
    if (wait->lined && wait->waiter.task != me && !fr_leaf_move(&set->lock, &wait->waiter, me)) {
        return NULL;
    }
    fr_wakes_init(&wakes);
    fr_mutex_lock(&set->lock);
    enum look look = look_locked(set, wait);
    if (look == LOOK_WAIT) {
        if (!wait->lined || !fr_waiter_is_linked(&wait->waiter)) {
            wait->waiter.task = me;
            fr_leaf_ref(me);
            fr_waiter_link_locked(for_the_end(wait) ? &set->idlers : &set->waiters, &wait->waiter);
            wait->lined = true;
        }
    } else if (look != LOOK_YIELD) {
        if (look == LOOK_READY) {
            handle = take_ready_locked(set, &gone);
            last = is_last_locked(set);
        }
        if (wait->mode == WAIT_CLOSE) {
            set->phase = SET_CLOSED;
            scope = set->scope;
            set->scope = NULL;
        }
        unlinked = leave_locked(set, wait, &wakes);
    }
    fr_mutex_unlock(&set->lock);
    if (unlinked) {
        fr_task_unref(wait->waiter.task);
    }
    fr_wakes_fire(&wakes, fr_acquire_wake);
    if (gone) {
        member_free(gone);
    }
    Py_XDECREF(scope);
    if (last) {
        wake_all(set);
    }
    return finish(wait, look, handle);
}

static PyObject *wait_iternext(PyObject *self)
{
    WaitObject *wait = (WaitObject *)self;
    struct fr_task *me = fr_leaf_task();
    if (!me || !fr_leaf_enter(&wait->stepping)) {
        return NULL;
    }
    PyObject *token = wait_step(wait, me);
    fr_leaf_exit(&wait->stepping);
    return token;
}

FR_LEAF_METHODS(wait, wait_let_go);

static void wait_dealloc(PyObject *self)
{
    wait_let_go(self);
    Py_DECREF((PyObject *)((WaitObject *)self)->owner);
    fr_dealloc(self, FR_FREE_SET_WAIT);
}

static PyType_Slot wait_slots[] = {
    {Py_tp_doc, "What waiting for tasks of a set iterates over."},
    {Py_tp_dealloc, wait_dealloc},
    {Py_tp_methods, wait_methods},
    FR_LEAF_SLOTS(wait_iternext),
    {0, NULL},
};

static PyType_Spec wait_spec = {
    .name = "freerun._core._native.SetWait",
    .basicsize = sizeof(WaitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = wait_slots,
};

/* ---- the Python object ---- */

static struct task_set *set_of(PyObject *self)
{
    return ((SetObject *)self)->set;
}

static PyObject *set_py_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"group", NULL};
    int group = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p", keywords, &group)) {
        return NULL;
    }
    SetObject *self = (SetObject *)type->tp_alloc(type, 0);
    if (!self) {
        return NULL;
    }
    self->set = set_new(group != 0);
    if (!self->set) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

/* Without the lock: nothing that changes the lists runs while the collector looks. */
static int set_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct task_set *set = set_of(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((SetObject *)self)->core);
    if (!set) {
        return 0;
    }
    Py_VISIT(set->scope);
    struct fr_node *lists[] = {&set->ready, &set->running};
    for (int i = 0; i < 2; i++) {
        for (struct fr_node *node = lists[i]->next; node != lists[i]; node = node->next) {
            struct fr_member *member = FR_CONTAINER_OF(node, struct fr_member, node);
            Py_VISIT(member->handle);
            if (member->where == IN_READY) {
                Py_VISIT(member->error);
            }
        }
    }
    return 0;
}

static int set_clear(PyObject *self)
{
    if (set_of(self)) {
        let_go(set_of(self), true);
    }
    Py_CLEAR(((SetObject *)self)->core);
    return 0;
}

static void set_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    set_clear(self);
    if (set_of(self)) {
        set_leave(set_of(self));
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *set_count(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct task_set *set = set_of(self);
    fr_mutex_lock(&set->lock);
    size_t n = set->nrunning + set->nready;
    fr_mutex_unlock(&set->lock);
    return PyLong_FromSize_t(n);
}

/* The runtime that this set's tasks go to: a group's own, else the thread's. */
static bool visit(PyObject *self, struct fr_module *mod, struct fr_visit *visit)
{
    PyObject *core = ((SetObject *)self)->core;
    return core ? fr_visit_core((CoreObject *)core, visit) : fr_visit_current(mod, visit);
}

static PyObject *set_spawn(PyObject *self, PyTypeObject *cls, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames)
{
    struct fr_module *mod = fr_module_of_type(cls);
    struct fr_spawn_as as = {NULL, NULL};
    struct fr_visit here;
    if (fr_task_need_one(nargs, "spawn", "coro") || (kwnames && fr_task_parse_as(args + nargs, kwnames, &as))) {
        return NULL;
    }
    if (!visit(self, mod, &here)) {
        fr_task_refused(mod, args[0]);
        return NULL;
    }
    struct fr_member *member = member_new(set_of(self));
    PyObject *handle = member ? fr_task_spawn_member(here.rt, args[0], args + 1, nargs - 1, as, member) : NULL;
    fr_visit_end(&here);
    return handle;
}

static PyObject *set_spawn_blocking(PyObject *self, PyTypeObject *cls, PyObject *const *args, Py_ssize_t nargs,
                                    PyObject *kwnames)
{
    struct fr_visit here;
    if (fr_task_need_one(nargs, "spawn_blocking", "fn") || !visit(self, fr_module_of_type(cls), &here)) {
        return NULL;
    }
    struct fr_member *member = member_new(set_of(self));
    PyObject *handle =
        member ? fr_task_spawn_blocking_member(here.rt, args[0], args + 1, nargs - 1, kwnames, member) : NULL;
    fr_visit_end(&here);
    return handle;
}

static PyObject *set_join_next(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return wait_new(self, WAIT_NEXT);
}

static PyObject *set_join_next_with_id(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return wait_new(self, WAIT_WITH_ID);
}

static PyObject *set_join_next_handle(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return wait_new(self, WAIT_HANDLE);
}

static PyObject *set_anext(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return wait_new(self, WAIT_ITERATE);
}

static PyObject *set_idle(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return wait_new(self, WAIT_IDLE);
}

static PyObject *set_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return wait_new(self, WAIT_CLOSE);
}

/* A new reference, or NULL with WouldBlock or IndexError. */
static PyObject *try_take(PyObject *self, struct fr_module *mod)
{
    struct task_set *set = set_of(self);
    struct fr_member *gone = NULL;
    fr_mutex_lock(&set->lock);
    bool empty = set->nready == 0 && set->nrunning == 0;
    PyObject *handle = set->nready ? take_ready_locked(set, &gone) : NULL;
    bool last = handle && is_last_locked(set);
    fr_mutex_unlock(&set->lock);
    if (gone) {
        member_free(gone);
    }
    if (last) {
        wake_all(set);
    }
    if (empty) {
        return raise_empty();
    }
    if (!handle) {
        PyErr_SetString(mod->exc_would_block, "no task of this JoinSet has finished yet");
    }
    return handle;
}

static PyObject *try_join_next(PyObject *self, PyTypeObject *cls, uint8_t mode)
{
    struct fr_module *mod = fr_module_of_type(cls);
    PyObject *handle = try_take(self, mod);
    return handle ? result_of(mod, handle, mode) : NULL;
}

static PyObject *set_try_join_next(PyObject *self, PyTypeObject *cls, PyObject *const *Py_UNUSED(args),
                                   Py_ssize_t Py_UNUSED(nargs), PyObject *Py_UNUSED(kwnames))
{
    return try_join_next(self, cls, WAIT_NEXT);
}

static PyObject *set_try_join_next_with_id(PyObject *self, PyTypeObject *cls, PyObject *const *Py_UNUSED(args),
                                           Py_ssize_t Py_UNUSED(nargs), PyObject *Py_UNUSED(kwnames))
{
    return try_join_next(self, cls, WAIT_WITH_ID);
}

static PyObject *set_try_join_next_handle(PyObject *self, PyTypeObject *cls, PyObject *const *Py_UNUSED(args),
                                          Py_ssize_t Py_UNUSED(nargs), PyObject *Py_UNUSED(kwnames))
{
    return try_join_next(self, cls, WAIT_HANDLE);
}

static PyObject *set_abort_all(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    abort_all(set_of(self));
    Py_RETURN_NONE;
}

static PyObject *set_detach_all(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    let_go(set_of(self), false);
    Py_RETURN_NONE;
}

/* ---- for the Python classes on top ---- */

static void set_phase(struct task_set *set, uint8_t from, uint8_t phase)
{
    fr_mutex_lock(&set->lock);
    if (set->phase == from) {
        set->phase = phase;
    }
    fr_mutex_unlock(&set->lock);
}

static PyObject *set_refuse_and_abort(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    set_phase(set_of(self), SET_OPEN, SET_ABORTING);
    abort_all(set_of(self));
    Py_RETURN_NONE;
}

static PyObject *set_reopen(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    set_phase(set_of(self), SET_ABORTING, SET_OPEN);
    Py_RETURN_NONE;
}

static PyObject *set_open(PyObject *self, PyObject *scope)
{
    struct task_set *set = set_of(self);
    struct fr_task *task = fr_leaf_task();
    if (!task) {
        return NULL;
    }
    fr_mutex_lock(&set->lock);
    bool first = set->phase == SET_NEW;
    if (first) {
        set->phase = SET_ABORTING; /* nobody spawns before it is complete */
        set->scope = Py_NewRef(scope);
    }
    fr_mutex_unlock(&set->lock);
    if (!first) {
        PyErr_SetString(PyExc_RuntimeError, "this TaskGroup has been entered before; make one for each 'async with'");
        return NULL;
    }
    ((SetObject *)self)->core = Py_NewRef(task->rt->core);
    set_phase(set, SET_ABORTING, SET_OPEN);
    Py_RETURN_NONE;
}

/* The failures, in order; they are the caller's now. */
static PyObject *set_take_errors(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct task_set *set = set_of(self);
    PyObject *errors = PyList_New(0);
    bool failed = !errors;
    while (!failed) {
        fr_mutex_lock(&set->lock);
        struct fr_node *node = fr_list_front(&set->ready);
        struct fr_member *member = node ? FR_CONTAINER_OF(node, struct fr_member, node) : NULL;
        if (member) {
            unlink_locked(member);
        }
        bool gone = member && unref_locked(member);
        PyObject *error = member ? member->error : NULL;
        if (member) {
            member->error = NULL;
        }
        fr_mutex_unlock(&set->lock);
        if (gone) {
            member_free(member);
        }
        if (!error) {
            break;
        }
        failed = PyList_Append(errors, error) != 0;
        Py_DECREF(error);
    }
    if (failed) {
        Py_CLEAR(errors);
    }
    return errors;
}

#define WITH_CLASS(function) (PyCFunction)(void (*)(void))(function), METH_METHOD | METH_FASTCALL | METH_KEYWORDS

static PyMethodDef set_methods[] = {
    {"spawn", WITH_CLASS(set_spawn),
     "spawn($self, coro, /, *args, name=None, context=None)\n--\n\n"
     "Start a task in here, as `freerun.spawn()` does, and return its JoinHandle.\n\n"
     "Errors: as `freerun.spawn()`; `RuntimeError` if this takes no tasks any more.\n"
     "Cancel safety: does not wait. Thread safety: any thread. Tokio: `JoinSet::spawn`."},
    {"spawn_blocking", WITH_CLASS(set_spawn_blocking),
     "spawn_blocking($self, fn, /, *args, **kwargs)\n--\n\n"
     "Call an ordinary function on the blocking pool, as `freerun.spawn_blocking()` does, as a task in here.\n\n"
     "Aborting it works until the call has begun; after that it is waited for.\n"
     "Errors: as `freerun.spawn_blocking()`; `RuntimeError` if this takes no tasks any more.\n"
     "Cancel safety: does not wait. Thread safety: any thread. Tokio: `JoinSet::spawn_blocking`."},
    {"abort_all", set_abort_all, METH_NOARGS,
     "abort_all($self, /)\n--\n\n"
     "Abort every task in here. They stay, until they have ended and were waited for.\n\n"
     "Cancel safety: does not wait. Thread safety: any thread. Tokio: `JoinSet::abort_all`."},
    {"_join_next", set_join_next, METH_NOARGS, NULL},
    {"_join_next_with_id", set_join_next_with_id, METH_NOARGS, NULL},
    {"_join_next_handle", set_join_next_handle, METH_NOARGS, NULL},
    {"_iterate", set_anext, METH_NOARGS, NULL},
    {"_count", set_count, METH_NOARGS, NULL},
    {"_try_join_next", WITH_CLASS(set_try_join_next), NULL},
    {"_try_join_next_with_id", WITH_CLASS(set_try_join_next_with_id), NULL},
    {"_try_join_next_handle", WITH_CLASS(set_try_join_next_handle), NULL},
    {"_detach_all", set_detach_all, METH_NOARGS, NULL},
    {"_idle", set_idle, METH_NOARGS, "_idle($self, /)\n--\n\nWait until none runs."},
    {"_close", set_close, METH_NOARGS, "_close($self, /)\n--\n\nWait until none runs, and take no more from then on."},
    {"_open", set_open, METH_O, NULL},
    {"_refuse_and_abort", set_refuse_and_abort, METH_NOARGS, NULL},
    {"_reopen", set_reopen, METH_NOARGS, NULL},
    {"_take_errors", set_take_errors, METH_NOARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot set_slots[] = {
    {Py_tp_doc, "TaskSet(group=False)\n--\n\nTasks as one; what JoinSet and TaskGroup are made of."},
    {Py_tp_new, set_py_new},
    {Py_tp_dealloc, set_dealloc},
    {Py_tp_traverse, set_traverse},
    {Py_tp_clear, set_clear},
    {Py_tp_methods, set_methods},
    {0, NULL},
};

static PyType_Spec set_spec = {
    .name = "freerun._core._native.TaskSet",
    .basicsize = sizeof(SetObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = set_slots,
};

int fr_join_set_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->task_set_type, &set_spec, "TaskSet") ||
                   fr_module_add_type(mod, &mod->set_wait_type, &wait_spec, NULL)
               ? -1
               : 0;
}
