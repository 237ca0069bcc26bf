/* branch: what is polled by itself within a task: by timeout() and unconstrained(), and, many at once, by join() and
 * select().
 *
 * A branch of many has a waker of its own. To the leaves in it the branch is the task: they make their waiters, scopes
 * and alarms for it. A wake of it queues it in its group and then wakes the task around it, so that only what was woken
 * is polled again. It is a struct fr_task of kind BRANCH, with the state word of one: NOTIFIED says that it is queued in
 * the group or will be by whoever set it, RUNNING that it is being stepped.
 *
 * THREADS    wake: any. Everything else: the thread that polls the owner.
 * STATE      attached; a wake and the last reference may come from a detached thread.
 * OWNERSHIP  all branches of a group and what they share lie in one block. A branch is counted in its state word: one
 *            reference for the group, until it has ended, one for each waiter. The block is counted by the group and by
 *            its branches, and holds a reference to its owner: so who wakes a branch finds everything on its way.
 * FIELDS     set->woken     a stack; pushed by any thread that woke a branch (release), emptied by the poller (acquire)
 *            set->poller    the thread whose turn it is, written by it alone; others only compare it with themselves
 *            set->owner     constant: the task, or the branch of another group, that awaits the group
 *            branch->task   coro, result, scopes, floor, started, yielded, claimed, shielded: the poller, as in task.h;
 *                           next belongs to whoever has it in a queue
 *            cancelling     Cancelled is to be thrown in as soon as it may be. cancelled: it was
 * INVARIANTS B1 only the poller of the owner steps a branch, and takes it out of a queue to do so; while it is queued it
 *               is NOTIFIED and in one queue, once.
 *            B2 a branch that is woken is queued before its owner is woken: the owner's next turn finds it. The poller
 *               itself need not wake the owner: it looks once more before its turn ends.
 *            B3 a branch that is COMPLETE has no coroutine, no claim and no scope left.
 * LOCKS      none.
 * SHUTDOWN   closing the owner's coroutine closes the branches.
 * PROVED BY  tests/task/test_select.py, tests/task/test_join.py, tests/stress/test_branches.py
 */
#ifndef FR_BRANCH_H
#define FR_BRANCH_H

#include "leaf.h"
#include "scope.h"

/* ---- one of them, whoever polls it ---- */

/* From what was given to what can be stepped: its iterator. A coroutine that others have a reference to is claimed, as a
 * task's is; *claimed says so. 0, or -1 with an exception. */
int fr_inner_open(struct fr_module *mod, PyObject **inner, bool *claimed);
/* The second half of that. */
int fr_inner_claim(struct fr_module *mod, PyObject *inner, bool *claimed);

/* The usual case: a coroutine that nobody else has. There is nothing to open, and nothing to claim. */
static inline bool fr_inner_is_own(PyObject *inner)
{
    return PyCoro_CheckExact(inner) && Py_REFCNT(inner) == 1;
}

/* Lets go of it. It may be NULL. */
static inline void fr_inner_drop(PyObject **inner, bool *claimed)
{
    if (*claimed) {
        *claimed = false;
        fr_unclaim(*inner);
    }
    Py_CLEAR(*inner);
}

/* throw() with a throw()'s arguments; the result is as of a send(). */
PySendResult fr_inner_throw(struct fr_module *mod, PyObject *inner, PyObject *const *args, Py_ssize_t nargs,
                            PyObject **result);
/* close(), if it has one: None, or NULL with an exception. */
PyObject *fr_inner_close(struct fr_module *mod, PyObject *inner);
/* It was given, and will never be stepped: a coroutine is closed, so that it does not complain. What else can be awaited is
 * left as it is: the close() of a receiver, for one, means something else. */
void fr_inner_refuse(struct fr_module *mod, PyObject *given);
/* What tp_iternext returns for what am_send did. */
static inline PyObject *fr_inner_next(PySendResult sent, PyObject *result)
{
    return sent == PYGEN_RETURN ? fr_leaf_return(result) : sent == PYGEN_NEXT ? result : NULL;
}

/* What a throw() method returns for that. */
PyObject *fr_inner_thrown(PySendResult sent, PyObject *result);
/* Whether any number of awaits may share the object: the singletons of the engine. */
bool fr_inner_is_stateless(struct fr_module *mod, PyObject *inner);

/* One thread at a time steps the object. Nobody but its awaiter knows it, mostly: then there is nobody to be kept away,
 * and no atomic to be paid for. *shared is for fr_inner_leave(); false with RuntimeError. */
static inline bool fr_inner_enter(PyObject *object, _Atomic bool *stepping, bool *shared)
{
    *shared = Py_REFCNT(object) > 1;
    return !*shared || fr_leaf_enter(stepping);
}

static inline void fr_inner_leave(_Atomic bool *stepping, bool shared)
{
    if (shared) {
        fr_leaf_exit(stepping);
    }
}

/* ---- many ---- */

struct fr_branch_set;

struct fr_branch {
    struct fr_task task;
    struct fr_branch_set *set;
    uint32_t index;
    bool cancelling;
    bool cancelled;
};

struct fr_branch_set {
    _Atomic(struct fr_branch *) woken;
    _Atomic(void *) poller;
    struct fr_task *owner; /* NULL until the first step */
    _Atomic uint32_t refs;
    uint32_t count;
    struct fr_branch branches[];
};

static inline struct fr_branch *fr_branch_of(struct fr_task *task)
{
    return FR_CONTAINER_OF(task, struct fr_branch, task);
}

/* `count` branches that have nothing to poll yet. NULL with MemoryError. */
struct fr_branch_set *fr_branches_new(uint32_t count);
/* Drops the group's reference. The branches have ended, or were not begun and have nothing to poll; no results. */
void fr_branches_drop(struct fr_branch_set *set);
/* Makes them ready to be polled within `owner`: NOTIFIED, and in no queue. */
void fr_branches_begin(struct fr_branch_set *set, struct fr_task *owner);
/* Takes what was woken, oldest first, linked by task.next; NULL: none. */
struct fr_branch *fr_branches_take_woken(struct fr_branch_set *set);
/* The poller has thrown out what it polled, or that has ended, whatever the state word says [B3]. Drops the group's
 * reference. */
void fr_branch_end(struct fr_branch *branch);

/* The state of what is no task but is woken like one: NOTIFIED, one reference, in the scopes of `scopes`. */
void fr_branch_task_init(struct fr_task *task, enum fr_task_kind kind, struct fr_runtime *rt, struct fr_scope *scopes);
/* Leaves what is still in its stack. */
void fr_branch_drop_scopes(struct fr_task *task);

/* For fr_task_wake(): a branch has become NOTIFIED. Queues it; who is to be woken now, or NULL [B2]. */
struct fr_task *fr_branch_woken(struct fr_task *task);
/* For the last reference. */
void fr_branch_free(struct fr_task *task);

/* The same for a strand, see strand.h. The owner, for the thread that polls it. */
void fr_strand_woken(struct fr_task *task);
void fr_strand_free(struct fr_task *task);
struct fr_task *fr_strand_owner(struct fr_task *task);

/* What is around however many branches: a task, or a strand. Any thread with a reference; it is always the same. */
static inline struct fr_task *fr_task_trunk(struct fr_task *task)
{
    while (__builtin_expect(task->kind == FR_TASK_BRANCH, 0)) {
        task = fr_branch_of(task)->set->owner;
    }
    return task;
}

/* The task around that, which is another one when another one polls the strand: for the thread that polls it. */
static inline struct fr_task *fr_task_root(struct fr_task *task)
{
    while (__builtin_expect((task = fr_task_trunk(task))->kind == FR_TASK_STRAND, 0)) {
        task = fr_strand_owner(task);
    }
    return task;
}

#endif
