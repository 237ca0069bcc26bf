/* strand: an awaitable that is polled by itself within a task, and may stay half done when that task goes on with something
 * else: what streams are made of. A branch (branch.h) ends before its group does; a strand outlives the await that polled
 * it, and another task may go on with it.
 *
 * To the leaves in it the strand is the task, as a branch is: they make their waiters, scopes and alarms for it, and what
 * becomes of them does not depend on who polls. A wake of it wakes whoever has polled it last.
 *
 * THREADS    wake: any. Everything else: the thread that polls the owner.
 * STATE      attached; a wake and the last reference may come from a detached thread.
 * OWNERSHIP  it is counted in its state word: one reference for the Python object, until it has ended, one for each waiter.
 *            It holds a reference to its owner.
 * FIELDS     owner      who has polled it last; written by who polls it, under `lock`, which everybody else takes to read it
 *            task       as a branch's. NOTIFIED: it wants to be polled, and its owner knows, or looks before it waits
 *            generation of task.rt, its low bits: a strand belongs to one runtime, where its timers are
 *            refused    the last poll was not made, since the budget was spent; the poller's
 * INVARIANTS ST1 whoever makes it NOTIFIED wakes the owner that it finds afterwards. Who becomes the owner looks at NOTIFIED
 *                afterwards. So one of them sees the other.
 *            ST2 a poll that leaves it NOTIFIED (it has yielded, or was woken meanwhile, or the budget is spent) makes its
 *                owner's turn one that yields.
 *            ST3 it is refused a poll once, and gets a new budget for the next: what is polled before it in every turn may
 *                spend a turn's.
 * LOCKS      `lock` is a leaf (see rt/mutex.h).
 * SHUTDOWN   closing the coroutine that polls it leaves it as it is; the Python object ends it when it goes.
 * PROVED BY  tests/stream/test_strand.py
 */
#ifndef FR_STRAND_H
#define FR_STRAND_H

#include "branch.h"
#include "rt/mutex.h"

struct fr_strand {
    struct fr_task task;
    struct fr_mutex lock;
    struct fr_task *owner;
    uint16_t generation;
    bool refused;
};

static inline struct fr_strand *fr_strand_of(struct fr_task *task)
{
    return FR_CONTAINER_OF(task, struct fr_strand, task);
}

/* Any thread: who has polled it last, with a reference; NULL: it has ended. */
struct fr_task *fr_strand_owner_ref(struct fr_task *task);
/* Whether the runtime is still the one that it was begun in, and not another one in its place. */
bool fr_strand_is_of(struct fr_task *task, struct fr_runtime *rt);

#endif
