/* branch: what is polled by itself within a task; see branch.h for who may do what. */
#include "branch.h"

#include <stdlib.h>

/* ---- one of them ---- */

bool fr_inner_is_stateless(struct fr_module *mod, PyObject *inner)
{
    return inner == mod->yield_now || inner == mod->consume_budget || inner == mod->ready ||
           inner == mod->shielded_yield;
}

/* Shared with others, a coroutine may be run by them as well: as a task, or by another one's await. */
static int claim(PyObject *inner, bool *claimed)
{
    if (fr_claim(inner)) {
        return -1;
    }
    *claimed = true;
    PyObject *awaited = PyCoro_CheckExact(inner) ? PyObject_GetAttrString(inner, "cr_await") : NULL;
    if (awaited && awaited != Py_None) {
        PyErr_SetString(PyExc_RuntimeError, "argument 'awaitable' is a coroutine that is being awaited already");
    }
    Py_XDECREF(awaited);
    return PyErr_Occurred() ? -1 : 0;
}

int fr_inner_claim(struct fr_module *mod, PyObject *inner, bool *claimed)
{
    bool alone = Py_REFCNT(inner) == 1 || fr_inner_is_stateless(mod, inner);
    return alone ? 0 : claim(inner, claimed);
}

int fr_inner_open(struct fr_module *mod, PyObject **inner, bool *claimed)
{
    if (!PyCoro_CheckExact(*inner) && !PyGen_CheckExact(*inner)) {
        PyObject *iterator = fr_await_iterator(*inner);
        if (!iterator) {
            return -1;
        }
        Py_SETREF(*inner, iterator);
    }
    return fr_inner_claim(mod, *inner, claimed);
}

PySendResult fr_inner_throw(struct fr_module *mod, PyObject *inner, PyObject *const *args, Py_ssize_t nargs,
                            PyObject **result)
{
    PyObject *method = NULL;
    if (PyObject_GetOptionalAttr(inner, mod->str_throw, &method) == 0) {
        fr_leaf_raise(args, nargs); /* a plain iterator: it just ends */
    }
    *result = method ? PyObject_Vectorcall(method, args, (size_t)nargs, NULL) : NULL;
    Py_XDECREF(method);
    return *result ? PYGEN_NEXT : fr_take_stop(result);
}

void fr_inner_refuse(struct fr_module *mod, PyObject *given)
{
    PyTypeObject *type = Py_TYPE(given);
    if (PyCoro_CheckExact(given) || PyGen_CheckExact(given) || type == mod->timed_type || type == mod->group_type ||
        type == mod->unconstrained_type) {
        fr_close_quietly(mod, given);
    }
}

PyObject *fr_inner_thrown(PySendResult sent, PyObject *result)
{
    if (sent != PYGEN_RETURN) {
        return result;
    }
    if (result == Py_None) {
        PyErr_SetNone(PyExc_StopIteration);
    }
    return fr_leaf_return(result);
}

PyObject *fr_inner_close(struct fr_module *mod, PyObject *inner)
{
    PyObject *method = NULL, *done = NULL;
    if (PyObject_GetOptionalAttr(inner, mod->str_close, &method) == 0) {
        done = Py_NewRef(Py_None); /* a plain iterator has nothing to close */
    } else if (method) {
        done = PyObject_CallNoArgs(method);
    }
    Py_XDECREF(method);
    return done;
}

/* ---- many ---- */

struct fr_branch_set *fr_branches_new(uint32_t count)
{
    struct fr_branch_set *set = malloc(sizeof *set + count * sizeof(struct fr_branch));
    if (!set) {
        PyErr_NoMemory();
        return NULL;
    }
    set->count = count;
    set->owner = NULL;
    atomic_init(&set->refs, 1);
    for (uint32_t i = 0; i < count; i++) {
        struct fr_branch *branch = &set->branches[i];
        branch->task.coro = branch->task.result = NULL;
        branch->task.claimed = false;
    }
    return set;
}

void fr_branches_drop(struct fr_branch_set *set)
{
    /* acq_rel: everybody's use of the block comes before the free; pairs with itself, fr_branches_drop() */
    if (atomic_fetch_sub_explicit(&set->refs, 1, memory_order_acq_rel) == 1) {
        if (set->owner) {
            fr_task_unref(set->owner);
        }
        free(set);
    }
}

void fr_branch_free(struct fr_task *task)
{
    fr_branches_drop(fr_branch_of(task)->set);
}

void fr_branch_task_init(struct fr_task *task, enum fr_task_kind kind, struct fr_runtime *rt, struct fr_scope *scopes)
{
    fr_state_init(&task->state, 1, FR_NOTIFIED);
    task->kind = kind;
    task->rt = rt;
    task->next = NULL;
    task->owed = NULL;
    task->member = NULL;
    task->scopes = (struct fr_scope *)Py_XNewRef((PyObject *)scopes);
    task->floor = scopes;
    task->started = task->yielded = task->shielded = task->spare = false;
    atomic_init(&task->unseen, 0); /* a strand's, see futurelock.h */
}

static void begin(struct fr_branch *branch, struct fr_branch_set *set, uint32_t index)
{
    fr_branch_task_init(&branch->task, FR_TASK_BRANCH, set->owner->rt, set->owner->scopes);
    branch->set = set;
    branch->index = index;
    branch->cancelling = branch->cancelled = false;
}

void fr_branches_begin(struct fr_branch_set *set, struct fr_task *owner)
{
    fr_task_ref(owner);
    set->owner = owner;
    atomic_init(&set->woken, NULL);
    atomic_init(&set->poller, NULL);
    atomic_store_explicit(&set->refs, set->count + 1, memory_order_relaxed); /* nobody else knows it yet */
    for (uint32_t i = 0; i < set->count; i++) {
        begin(&set->branches[i], set, i);
    }
}

struct fr_task *fr_branch_woken(struct fr_task *task)
{
    struct fr_branch *branch = fr_branch_of(task);
    struct fr_branch_set *set = branch->set;
    /* relaxed: a guess, the CAS checks it */
    struct fr_branch *top = atomic_load_explicit(&set->woken, memory_order_relaxed);
    do {
        branch->task.next = top ? &top->task : NULL;
        /* release: pairs with fr_branches_take_woken() */
    } while (
        !atomic_compare_exchange_weak_explicit(&set->woken, &top, branch, memory_order_release, memory_order_relaxed));
    /* relaxed: equal only if this thread wrote it, and then it is its turn [B2] */
    return atomic_load_explicit(&set->poller, memory_order_relaxed) == &fr_thread ? NULL : set->owner;
}

struct fr_branch *fr_branches_take_woken(struct fr_branch_set *set)
{
    if (!atomic_load_explicit(&set->woken, memory_order_relaxed)) { /* who pushes now wakes the owner, too */
        return NULL;
    }
    /* acquire: pairs with fr_branch_woken() */
    struct fr_branch *branch = atomic_exchange_explicit(&set->woken, NULL, memory_order_acquire), *oldest = NULL;
    while (branch) {
        struct fr_task *older = branch->task.next;
        branch->task.next = oldest ? &oldest->task : NULL;
        oldest = branch;
        branch = older ? fr_branch_of(older) : NULL;
    }
    return oldest;
}

void fr_branch_drop_scopes(struct fr_task *task)
{
    struct fr_line line = {.scopes = task->scopes, .floor = task->floor};
    task->scopes = task->floor = NULL;
    fr_scopes_drop(&line);
}

void fr_branch_end(struct fr_branch *branch)
{
    struct fr_task *task = &branch->task;
    uint64_t state = fr_state_load(&task->state);
    if (!(state & FR_RUNNING)) { /* thrown out: it is queued, by us or by whoever set NOTIFIED, and nobody will look */
        fr_state_wake(&task->state);
        fr_state_start_poll(&task->state);
    }
    fr_branch_drop_scopes(task);
    fr_inner_drop(&task->coro, &task->claimed);
    fr_state_complete(&task->state);
    fr_task_unref(task);
}
