/* futurelock: tasks that were granted a lock or a permit, and do not look at it while others wait in line.
 *
 * A leaf that waits for a semaphore, mutex or rwlock is granted what it waits for, and its task is woken to look. A task
 * that is polled after that, and waits again without having looked, is a suspect: nobody polls the leaf. The watch (see
 * watch.c) looks at suspects now and then, and reports those that have not looked for too long, once; and likewise a
 * task that was granted something and is stuck in one poll. A strand (strand.h) may be left half done, so it is a suspect
 * from the grant on, and stays listed for a while: else each of its grants would wake the watch.
 *
 * THREADS    suspect: the poller, after its poll; for a strand, who grants. look, stuck, drop: the watch.
 * STATE      attached, but for the watch, which attaches to report.
 * OWNERSHIP  a suspect holds a reference to its task.
 * FIELDS     task->unseen  of a task, or a strand: grants that the task was woken for and has not looked at; may be -1 for a moment, while the
 *                          task looks before its giver has counted. Relaxed: the wake that follows orders it
 *            rt->suspects  under suspects_lock; has_suspects says, without it, whether there are any
 * INVARIANTS FL1 whoever adds a suspect sets has_suspects and then nudges the watch, which sets ASLEEP and then looks at
 *                has_suspects (seq_cst, all four): one of them sees the other.
 * LOCKS      suspects_lock is a leaf.
 * SHUTDOWN   fr_teardown() drops what is left.
 * PROVED BY  tests/sync/test_futurelock.py
 */
#ifndef FR_FUTURELOCK_H
#define FR_FUTURELOCK_H

#include "runtime.h"

/* "Too long", unless slow_poll_warning is shorter. */
#define FR_FUTURELOCK_NS UINT64_C(1000000000)

/* A strand was granted something. Any thread, attached or not. */
void fr_futurelock_strand(struct fr_task *strand);

/* A task or strand, or a branch of one, was granted something / has looked at it, or given it back. */
static inline void fr_granted(struct fr_task *root)
{
    atomic_fetch_add_explicit(&root->unseen, 1, memory_order_relaxed);
    if (__builtin_expect(root->kind == FR_TASK_STRAND, 0)) {
        fr_futurelock_strand(root);
    }
}

static inline void fr_grant_seen(struct fr_task *root)
{
    atomic_fetch_sub_explicit(&root->unseen, 1, memory_order_relaxed);
}

static inline bool fr_has_unseen(struct fr_task *root)
{
    return atomic_load_explicit(&root->unseen, memory_order_relaxed) > 0;
}

/* It waits, with something unseen. The caller holds a reference. */
void fr_futurelock_suspect(struct fr_runtime *rt, struct fr_task *task);
/* Detached. */
void fr_futurelock_look(struct fr_runtime *rt, PyThreadState *state);
/* Detached. The task with that id has been in one poll, on that thread, for so long. */
void fr_futurelock_stuck(struct fr_runtime *rt, PyThreadState *state, uint64_t id, unsigned long long thread,
                         uint64_t for_ns);
void fr_futurelock_drop(struct fr_runtime *rt);

static inline bool fr_has_suspects(struct fr_runtime *rt)
{
    return atomic_load(&rt->has_suspects); /* seq_cst: [FL1] */
}

#endif
