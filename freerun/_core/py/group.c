/* group: branches that one task polls together; see group.h. */
#include "group.h"

#include <stdio.h>
#include <stdlib.h>

static struct fr_module *module_of(struct fr_group *group)
{
    return fr_module_of_type(Py_TYPE((PyObject *)group));
}

/* ---- queues [B1] ---- */

static void push(struct fr_group_queue *queue, struct fr_branch *branch)
{
    branch->task.next = NULL;
    if (queue->head) {
        queue->tail->next = &branch->task;
    } else {
        queue->head = &branch->task;
    }
    queue->tail = &branch->task;
}

static void push_front(struct fr_group_queue *queue, struct fr_branch *branch)
{
    branch->task.next = queue->head;
    queue->head = &branch->task;
    if (!branch->task.next) {
        queue->tail = &branch->task;
    }
}

static void push_sorted(struct fr_group_queue *queue, struct fr_branch *branch)
{
    if (!queue->head || fr_branch_of(queue->tail)->index < branch->index) {
        push(queue, branch);
        return;
    }
    struct fr_task **link = &queue->head;
    while (fr_branch_of(*link)->index < branch->index) { /* it ends before the tail */
        link = &(*link)->next;
    }
    branch->task.next = *link;
    *link = &branch->task;
}

static struct fr_branch *pop(struct fr_group_queue *queue)
{
    struct fr_task *task = queue->head;
    if (!task) {
        return NULL;
    }
    queue->head = task->next;
    return fr_branch_of(task);
}

/* It wants another poll: in this turn, after those who are waiting for theirs; or, where the order of the branches
 * counts, in the next one, since one that is woken again and again would be first again and again. */
static void requeue(struct fr_group *group, struct fr_branch *branch)
{
    if (group->biased) {
        push_sorted(&group->later, branch);
    } else {
        push(&group->now, branch);
    }
}

static void collect(struct fr_group *group)
{
    struct fr_branch *branch = fr_branches_take_woken(group->set);
    while (branch) {
        struct fr_task *next = branch->task.next;
        requeue(group, branch);
        branch = next ? fr_branch_of(next) : NULL;
    }
}

/* Between two turns. */
static void shift(struct fr_group *group)
{
    if (!group->later.head) {
        return;
    }
    if (group->now.head) {
        group->now.tail->next = group->later.head;
        group->now.tail = group->later.tail;
    } else {
        group->now = group->later;
    }
    group->later.head = NULL;
}

/* ---- ending ---- */

static bool is_live(const struct fr_branch *branch)
{
    return branch->task.coro != NULL;
}

static void drop_set(struct fr_group *group)
{
    struct fr_branch_set *set = group->set;
    group->set = NULL;
    for (uint32_t i = 0; set && i < set->count; i++) {
        Py_CLEAR(set->branches[i].task.result);
    }
    if (set) {
        fr_branches_drop(set);
    }
}

static void finish(struct fr_group *group)
{
    group->over = true;
    drop_set(group);
    Py_CLEAR(group->names);
    Py_CLEAR(group->value);
    Py_CLEAR(group->error);
    Py_CLEAR(group->thrown);
}

static void close_branch(struct fr_module *mod, struct fr_branch *branch, bool begun)
{
    struct fr_task *outer = fr_thread.task;
    if (!begun) {
        fr_inner_refuse(mod, branch->task.coro);
        return;
    }
    if (outer) {
        fr_thread.task = &branch->task;
    }
    fr_close_quietly(mod, branch->task.coro);
    fr_thread.task = outer;
}

/* Lets go of every branch, wherever it is; `close`: properly. */
static void abandon(struct fr_group *group, bool close)
{
    struct fr_branch_set *set = group->set;
    bool begun = set && set->owner;
    group->over = true;
    for (uint32_t i = 0; set && i < set->count; i++) {
        struct fr_branch *branch = &set->branches[i];
        if (close && is_live(branch)) {
            close_branch(module_of(group), branch, begun);
        }
        if (!is_live(branch)) {
            continue;
        }
        if (begun) {
            fr_branch_end(branch);
        } else {
            fr_inner_drop(&branch->task.coro, &branch->task.claimed);
        }
    }
    group->live = 0;
    finish(group);
}

static PySendResult raise_error(PyObject **slot)
{
    PyObject *error = *slot;
    *slot = NULL;
    PyErr_SetRaisedException(error);
    return PYGEN_ERROR;
}

/* [G1] */
static PySendResult outcome(struct fr_group *group, PyObject **result)
{
    PySendResult sent = PYGEN_ERROR;
    if (group->error) {
        sent = raise_error(&group->error);
    } else if (group->thrown) {
        sent = raise_error(&group->thrown);
    } else {
        *result = group->kind->result(group);
        sent = *result ? PYGEN_RETURN : PYGEN_ERROR;
    }
    PyObject *error = sent == PYGEN_ERROR ? PyErr_GetRaisedException() : NULL;
    finish(group);
    if (error) {
        PyErr_SetRaisedException(error);
    }
    return sent;
}

/* ---- what a branch ends with ---- */

/* The rest is cancelled, as soon as its turn comes. */
static void cancel_rest(struct fr_group *group)
{
    group->decided = true;
    for (uint32_t i = 0; i < group->set->count; i++) {
        struct fr_branch *branch = &group->set->branches[i];
        if (is_live(branch)) {
            branch->cancelling = true;
            if (fr_state_wake(&branch->task.state)) {
                push(&group->now, branch);
            }
        }
    }
}

static void returned(struct fr_group *group, struct fr_branch *branch, PyObject *value)
{
    if (!group->kind->first_wins) {
        branch->task.result = value;
    } else if (group->decided) {
        Py_DECREF(value);
    } else {
        group->value = value;
        group->winner = branch->index;
        cancel_rest(group);
    }
}

static bool is_fatal(PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt) ||
           PyErr_GivenExceptionMatches(error, PyExc_SystemExit);
}

/* Whether it is what the group will raise, instead of what it would have raised so far. */
static bool is_the_error(struct fr_group *group, PyObject *error)
{
    PyObject *cancelled = module_of(group)->exc_cancelled;
    if (is_fatal(error)) {
        return !group->fatal;
    }
    if (group->error) {
        return PyErr_GivenExceptionMatches(group->error, cancelled) && !PyErr_GivenExceptionMatches(error, cancelled);
    }
    return !group->value || group->thrown; /* after a winner it changes nothing any more */
}

/* [G2] */
static void report(struct fr_group *group, PyObject *error)
{
    if (!PyErr_GivenExceptionMatches(error, module_of(group)->exc_cancelled)) {
        fr_report_unhandled(module_of(group), fr_task_root(group->set->owner), error);
    }
    Py_DECREF(error);
}

static void raised(struct fr_group *group, struct fr_branch *branch, PyObject *error)
{
    if (branch->cancelled && PyErr_GivenExceptionMatches(error, module_of(group)->exc_cancelled)) {
        Py_DECREF(error);
        return;
    }
    PyObject *lost = error;
    if (is_the_error(group, error)) {
        lost = group->error;
        group->error = error;
        group->fatal = is_fatal(error);
        if (!group->decided && (group->fatal || group->kind->fails_fast)) {
            cancel_rest(group);
        }
    }
    if (lost) {
        report(group, lost);
    }
}

static void ended(struct fr_group *group, struct fr_branch *branch, PySendResult sent, PyObject *result)
{
    PyObject *error = sent == PYGEN_ERROR ? PyErr_GetRaisedException() : NULL;
    fr_branch_end(branch);
    group->live--;
    if (error) {
        raised(group, branch, error);
    } else {
        returned(group, branch, result);
    }
}

/* ---- one poll ---- */

static PySendResult throw_cancelled(struct fr_module *mod, struct fr_task *task, PyObject **result)
{
    task->yielded = false;
    PySendResult sent = fr_throw_into(mod, task->coro, PyObject_CallNoArgs(mod->exc_cancelled), result);
    fr_thread.thrown = NULL;
    return sent;
}

/* From outside the branch: what it is due itself is served by it, too. */
static PySendResult cancel(struct fr_module *mod, struct fr_branch *branch, PyObject **result)
{
    branch->cancelling = false;
    branch->cancelled = true;
    if (!branch->task.started) { /* nothing of it has run, and nothing shall */
        fr_close_quietly(mod, branch->task.coro);
        PyErr_SetNone(mod->exc_cancelled);
        return PYGEN_ERROR;
    }
    fr_thread.thrown = FR_BY_LINE(branch);
    fr_scopes_overtake(&branch->task);
    return throw_cancelled(mod, &branch->task, result);
}

static PySendResult step_branch(struct fr_module *mod, struct fr_branch *branch, PyObject **result)
{
    struct fr_task *task = &branch->task;
    fr_thread.wait = FR_WAIT_NONE;
    if (__builtin_expect(!task->shielded, 1)) {
        if (__builtin_expect(branch->cancelling, 0) && !fr_scopes_shield(task)) {
            return cancel(mod, branch, result);
        }
        if (fr_scopes_take_due(task)) {
            return throw_cancelled(mod, task, result);
        }
    }
    task->started = true;
    return PyIter_Send(task->coro, Py_None, result);
}

/* It waits: who polls it next? */
static void suspend(struct fr_group *group, struct fr_branch *branch)
{
    fr_state *state = &branch->task.state;
    if (fr_thread.wait & FR_WAIT_YIELD) {
        fr_state_end_poll_yield(state);
        if (group->biased) {
            push_sorted(&group->later, branch);
        } else {
            push(&group->later, branch);
        }
    } else if (fr_state_end_poll(state) ||
               (branch->cancelling && !fr_scopes_shield(&branch->task) && fr_state_wake(state))) {
        requeue(group, branch);
    }
}

static void poll(struct fr_group *group, struct fr_branch *branch)
{
    struct fr_module *mod = module_of(group);
    struct fr_task *task = &branch->task;
    PyObject *result = NULL;
    fr_state_start_poll(&task->state);
    fr_thread.task = task;
    PySendResult sent = step_branch(mod, branch, &result);
    while (sent == PYGEN_NEXT && __builtin_expect(result != FR_TOKEN || fr_thread.wait == FR_WAIT_NONE, 0)) {
        sent = fr_refuse_foreign(mod, task->coro, &result); /* [L1] */
    }
    fr_thread.task = group->set->owner;
    fr_thread.descends = false;
    if (sent == PYGEN_NEXT) {
        suspend(group, branch);
    } else {
        ended(group, branch, sent, result);
    }
}

/* Whether it is somebody else's turn, before the first poll of this one or after. */
static bool is_turn_over(struct fr_group *group, bool first)
{
    if (!fr_leaf_is_spent()) {
        group->starved &= !first;
        return false;
    }
    if (first && group->starved && fr_leaf_renew_budget()) { /* [G3] */
        return false;
    }
    group->starved = first;
    fr_thread.refused = true;
    return true;
}

/* Polls until nobody is left to be polled, or it is somebody else's turn. */
static void poll_all(struct fr_group *group)
{
    bool first = true;
    collect(group);
    if (!group->now.head) {
        shift(group);
    }
    struct fr_branch *branch;
    while ((branch = pop(&group->now))) {
        if (is_turn_over(group, first)) {
            push_front(&group->now, branch);
            return;
        }
        first = false;
        poll(group, branch);
        if (__builtin_expect(fr_forked(group->set->owner->rt), 0)) {
            return; /* in the child the branch went on to its next await, and no other branch goes on at all */
        }
        collect(group);
    }
}

static PySendResult turn(struct fr_group *group, PyObject **result)
{
    uint8_t asked = fr_thread.wait;
    if (group->set) {
        /* relaxed, twice: [B2] */
        atomic_store_explicit(&group->set->poller, &fr_thread, memory_order_relaxed);
        poll_all(group);
        atomic_store_explicit(&group->set->poller, NULL, memory_order_relaxed);
    }
    if (group->live == 0) {
        return outcome(group, result);
    }
    shift(group);
    fr_thread.wait = asked | (group->now.head ? FR_WAIT_YIELD : FR_WAIT_PARK);
    *result = FR_TOKEN;
    return PYGEN_NEXT;
}

/* ---- beginning ---- */

static int twice(struct fr_group *group, uint32_t first, uint32_t second)
{
    PyObject *names = group->names;
    if (names) {
        PyErr_Format(PyExc_ValueError,
                     "branches %R and %R of %s() are the same awaitable; call the async function again for each branch",
                     PyTuple_GET_ITEM(names, first), PyTuple_GET_ITEM(names, second), group->kind->name);
    } else {
        PyErr_Format(PyExc_ValueError,
                     "branches %u and %u of %s() are the same awaitable; call the async function again for each branch",
                     first, second, group->kind->name);
    }
    return -1;
}

static uint64_t hash(PyObject *object)
{
    return ((uint64_t)(uintptr_t)object >> 4) * UINT64_C(0x9E3779B97F4A7C15);
}

/* 0, or -1 with ValueError. Open addressing: the numbers of branches, plus one. */
static int look_for_twins(struct fr_group *group, uint32_t *slots, uint32_t mask)
{
    struct fr_module *mod = module_of(group);
    struct fr_branch *branches = group->set->branches;
    for (uint32_t i = 0; i < group->set->count; i++) {
        PyObject *inner = branches[i].task.coro;
        uint32_t at = (uint32_t)(hash(inner) >> 32) & mask;
        while (slots[at] && branches[slots[at] - 1].task.coro != inner) {
            at = (at + 1) & mask;
        }
        if (slots[at] && !fr_inner_is_stateless(mod, inner)) {
            return twice(group, slots[at] - 1, i);
        }
        slots[at] = i + 1;
    }
    return 0;
}

static int check_distinct(struct fr_group *group)
{
    uint32_t few[64] = {0}, size = 64;
    if (group->set->count <= size / 2) {
        return look_for_twins(group, few, size - 1);
    }
    while (size < group->set->count * 2) {
        size *= 2;
    }
    uint32_t *slots = calloc(size, sizeof *slots);
    if (!slots) {
        PyErr_NoMemory();
        return -1;
    }
    int result = look_for_twins(group, slots, size - 1);
    free(slots);
    return result;
}

/* From what was given to what can be stepped. Nothing runs before all of them can. */
static int open_all(struct fr_group *group)
{
    struct fr_module *mod = module_of(group);
    for (uint32_t i = 0; i < group->set->count; i++) {
        struct fr_task *task = &group->set->branches[i].task;
        PyObject *given = task->coro;
        if (PyCoro_CheckExact(given) || PyGen_CheckExact(given)) {
            continue;
        }
        PyObject *iterator = fr_await_iterator(given);
        if (!iterator) {
            return -1;
        }
        Py_SETREF(task->coro, iterator);
    }
    if (check_distinct(group)) {
        return -1;
    }
    for (uint32_t i = 0; i < group->set->count; i++) {
        struct fr_task *task = &group->set->branches[i].task;
        if (fr_inner_claim(mod, task->coro, &task->claimed)) {
            return -1;
        }
    }
    return 0;
}

/* Nothing has run: coroutines that nobody else has are closed, so that they do not complain of it. */
static void refuse(struct fr_group *group)
{
    PyObject *error = PyErr_GetRaisedException();
    for (uint32_t i = 0; i < group->set->count; i++) {
        struct fr_task *task = &group->set->branches[i].task;
        if (Py_REFCNT(task->coro) == 1) {
            fr_inner_refuse(module_of(group), task->coro);
        }
    }
    abandon(group, false);
    PyErr_SetRaisedException(error);
}

static uint32_t first_of(struct fr_group *group)
{
    return group->random_start && fr_thread.worker ? fr_random(fr_thread.worker) % group->set->count : 0;
}

static int start(struct fr_group *group, struct fr_task *owner)
{
    group->started = true;
    if (!group->set) {
        return 0;
    }
    if (open_all(group)) {
        refuse(group);
        return -1;
    }
    fr_branches_begin(group->set, owner);
    uint32_t count = group->set->count, first = first_of(group);
    for (uint32_t i = 0; i < count; i++) {
        push(&group->now, &group->set->branches[first + i < count ? first + i : first + i - count]);
    }
    return 0;
}

/* ---- the Python object ---- */

static PySendResult step(struct fr_group *group, struct fr_task *owner, PyObject **result)
{
    if (group->started) {
        fr_leaf_descend();
    } else if (start(group, owner)) {
        return PYGEN_ERROR;
    }
    if (group->over) {
        PyErr_Format(PyExc_RuntimeError, "this %s() has been awaited already; call it again", group->kind->name);
        return PYGEN_ERROR;
    }
    if (group->set && group->set->owner != owner) {
        fr_leaf_shared();
        return PYGEN_ERROR;
    }
    return turn(group, result);
}

static PySendResult group_send(PyObject *op, PyObject *Py_UNUSED(value), PyObject **result)
{
    struct fr_group *group = (struct fr_group *)op;
    struct fr_task *owner = fr_leaf_task();
    bool shared;
    *result = NULL;
    if (!owner || !fr_inner_enter(op, &group->stepping, &shared)) {
        return PYGEN_ERROR;
    }
    PySendResult sent = PYGEN_ERROR;
    if (Py_EnterRecursiveCall(" in join() or select()") == 0) {
        sent = step(group, owner, result);
        Py_LeaveRecursiveCall();
    }
    fr_inner_leave(&group->stepping, shared);
    return sent;
}

static PyObject *group_iternext(PyObject *op)
{
    PyObject *result;
    PySendResult sent = group_send(op, Py_None, &result);
    return fr_inner_next(sent, result);
}

/* Whoever throws into it is the task that awaits it, or somebody who cannot wait for what it cleans up. */
static PySendResult throw_in(struct fr_group *group, PyObject *const *args, Py_ssize_t nargs, PyObject **result)
{
    if (!group->started || group->over || !group->set || fr_thread.task != group->set->owner) {
        group->started = true;
        abandon(group, true);
        fr_leaf_raise(args, nargs);
        return PYGEN_ERROR;
    }
    fr_leaf_raise(args, nargs);
    Py_XSETREF(group->thrown, PyErr_GetRaisedException());
    if (group->error &&
        !group->fatal) { /* as what an 'except' block is interrupted by takes the place of the failure */
        PyObject *lost = group->error;
        group->error = NULL;
        report(group, lost);
    }
    cancel_rest(group);
    return turn(group, result);
}

static PyObject *group_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    struct fr_group *group = (struct fr_group *)op;
    bool shared;
    if (!fr_inner_enter(op, &group->stepping, &shared)) {
        return NULL;
    }
    PyObject *result = NULL;
    PySendResult sent = PYGEN_ERROR;
    if (Py_EnterRecursiveCall(" in join() or select()") == 0) {
        sent = throw_in(group, args, nargs, &result);
        Py_LeaveRecursiveCall();
    }
    fr_inner_leave(&group->stepping, shared);
    return fr_inner_thrown(sent, result);
}

static PyObject *group_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct fr_group *group = (struct fr_group *)op;
    bool shared;
    if (!fr_inner_enter(op, &group->stepping, &shared)) {
        return NULL;
    }
    group->started = true;
    abandon(group, true);
    fr_inner_leave(&group->stepping, shared);
    Py_RETURN_NONE;
}

static int group_traverse(PyObject *op, visitproc visit, void *arg)
{
    struct fr_group *group = (struct fr_group *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(group->names);
    Py_VISIT(group->value);
    Py_VISIT(group->error);
    Py_VISIT(group->thrown);
    for (uint32_t i = 0; group->set && i < group->set->count; i++) {
        Py_VISIT(group->set->branches[i].task.coro);
        Py_VISIT(group->set->branches[i].task.result);
    }
    return 0;
}

static int group_clear(PyObject *op)
{
    abandon((struct fr_group *)op, false);
    return 0;
}

static void group_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    FR_TRASHCAN_BEGIN(op, group_dealloc)
    abandon((struct fr_group *)op, false);
    fr_dealloc(op, FR_FREE_GROUP);
    FR_TRASHCAN_END
}

/* For dumps: what has not ended, as (number or name, what is awaited). */
static PyObject *group_get_branches(PyObject *op, void *Py_UNUSED(closure))
{
    struct fr_group *group = (struct fr_group *)op;
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list && group->set && i < group->set->count; i++) {
        struct fr_branch *branch = &group->set->branches[i];
        if (!is_live(branch)) {
            continue;
        }
        PyObject *label = group->names ? Py_NewRef(PyTuple_GET_ITEM(group->names, i)) : PyLong_FromUnsignedLong(i);
        PyObject *pair = label ? PyTuple_Pack(2, label, branch->task.coro) : NULL;
        if (!pair || PyList_Append(list, pair)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(label);
        Py_XDECREF(pair);
    }
    return list;
}

static PyMethodDef group_methods[] = {
    {"throw", (PyCFunction)(void (*)(void))group_throw, METH_FASTCALL, NULL},
    {"close", group_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef group_getset[] = {
    {"_branches", group_get_branches, NULL, "What has not ended, for dumps; the task must not run.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot group_slots[] = {
    {Py_tp_doc, "What join(), try_join() and select() return."},
    {Py_tp_dealloc, group_dealloc},
    {Py_tp_traverse, group_traverse},
    {Py_tp_clear, group_clear},
    {Py_tp_methods, group_methods},
    {Py_tp_getset, group_getset},
    {Py_tp_iter, fr_leaf_self},
    {Py_tp_iternext, group_iternext},
    {Py_am_await, fr_leaf_self},
    {Py_am_send, group_send},
    {0, NULL},
};

static PyType_Spec group_spec = {
    .name = "freerun._core._native.Group",
    .basicsize = sizeof(struct fr_group),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = group_slots,
};

/* What was given for branch i, as an awaitable. A new reference, or NULL with an exception that names it. */
static PyObject *awaitable_of(struct fr_group *group, PyObject *const *awaitables, uint32_t i)
{
    PyObject *given = awaitables[i];
    if (PyCoro_CheckExact(given)) {
        return Py_NewRef(given);
    }
    char argument[80];
    const char *name = group->names ? PyUnicode_AsUTF8(PyTuple_GET_ITEM(group->names, i)) : NULL;
    if (name) {
        snprintf(argument, sizeof argument, "%s", name);
    } else {
        snprintf(argument, sizeof argument, "branch %u", i);
    }
    return fr_awaitable(given, NULL, 0, argument);
}

/* 0, or -1 with an exception. */
static int fill(struct fr_group *group, PyObject *const *awaitables, uint32_t count)
{
    group->set = count ? fr_branches_new(count) : NULL;
    if (count && !group->set) {
        return -1;
    }
    group->live = count;
    for (uint32_t i = 0; i < count; i++) {
        group->set->branches[i].task.coro = awaitable_of(group, awaitables, i);
        if (!group->set->branches[i].task.coro) {
            return -1;
        }
    }
    return 0;
}

struct fr_group *fr_group_new(struct fr_module *mod, const struct fr_group_kind *kind, PyObject *const *awaitables,
                              Py_ssize_t count, PyObject *names)
{
    struct fr_group *group = (struct fr_group *)fr_alloc(mod->group_type, FR_FREE_GROUP);
    if (!group) {
        return NULL;
    }
    group->kind = kind;
    group->set = NULL;
    group->names = Py_XNewRef(names);
    group->now.head = group->later.head = NULL;
    group->winner = 0;
    group->value = group->error = group->thrown = NULL;
    atomic_init(&group->stepping, false);
    group->biased = group->random_start = group->started = group->decided = group->starved = false;
    group->fatal = group->over = false;
    if (fill(group, awaitables, (uint32_t)count)) {
        Py_CLEAR(group);
    }
    if (group && !PyObject_GC_IsTracked((PyObject *)group)) {
        PyObject_GC_Track(group);
    }
    return group;
}

int fr_group_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->group_type, &group_spec, NULL);
}
