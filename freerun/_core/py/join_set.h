/* join_set: tasks as one: what JoinSet, JoinMap and TaskGroup are made of.
 *
 * A set has a list of members that run and one of those that are ready to be taken. A task that is in a set has a place in
 * it, its `member`; when it ends, it moves that from the one list to the other by itself and wakes one waiter. So a child
 * costs O(1), however many there are. There are two kinds: a *join set* keeps every child until somebody takes its result,
 * a *group* only those that failed: the first one to fail aborts the others and cancels the scope of the group's body.
 *
 * THREADS    enter, withdraw: the spawner. fail, done: who completes the task. The Python object: any attached thread.
 * STATE      attached.
 * OWNERSHIP  the set is plain C, kept by its Python object and by every member (`users`). A member is kept by its task,
 *            till that has ended, and by the lists (`refs`). In a join set it owns the JoinHandle, in a group the exception.
 *            It owns no reference to its task: while it is in `running`, the task has not ended.
 * FIELDS     everything under `lock`, but for
 *            member->set, set->group   constant
 *            member->error             the completer, before done()
 *            object->core              set once by _open(), before anybody can spawn
 * INVARIANTS J1 a member is in `running` from enter() to done(), unless it was taken out (detached, dropped) before.
 *            J2 nothing of Python is called, dropped or woken under the lock.
 *            J3 whoever is woken for a ready member and leaves without it wakes the next.
 *            J4 a set that takes no new tasks (`phase`) refuses them in enter(), under the lock: none is overlooked by who
 *               aborts them all.
 *            J5 a failure in a group is the group's to report, and marked as seen before the task is complete.
 * LOCKS      `lock` is a leaf; taken by fr_task_complete(), with no other lock held.
 * GC         traverse reads the lists without the lock: whoever changes them is attached, and the collector holds the GIL, or
 *            has stopped whoever is attached, in between two of his instructions at most. So it may find a list half
 *            changed unless nobody is stopped with the lock held: no safe point comes under it [J2]. clear runs when the
 *            others run again: it takes the lock, since tasks of a set that is garbage go on, and end.
 * SHUTDOWN   children are tasks like others. A set that is dropped aborts what runs in it, without waiting.
 * PROVED BY  tests/task/test_join_set.py, tests/task/test_task_group.py, tests/task/test_abort.py
 */
#ifndef FR_JOIN_SET_H
#define FR_JOIN_SET_H

#include "module.h"

struct fr_member;
struct fr_task;

/* Before the task is published. False, with RuntimeError: the set takes no new tasks. */
bool fr_member_enter(struct fr_member *member, struct fr_task *task, PyObject *handle);
/* The task was not published after all, entered or not. Keeps the current exception. */
void fr_member_withdraw(struct fr_member *member);
/* The task is about to complete with this exception. True: it is the set's to report [J5]. */
bool fr_member_fail(struct fr_member *member, PyObject *error);
/* The task is complete. The member may be gone afterwards. */
void fr_member_done(struct fr_member *member);

#endif
