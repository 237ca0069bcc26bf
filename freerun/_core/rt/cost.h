/* cost: what a task's polls take, and so whether what is queued with a worker is a backlog that is worth another worker.
 *
 * What is queued with a worker it will run by itself in about as long as that takes, and best there: beside what is local to
 * it, on a free-threaded Python the objects that its thread owns. To wake a worker takes tens of microseconds until it
 * runs. With tasks of a microsecond two workers that steal them from each other are slower than one. So pushers wake
 * somebody only where what is queued would take longer than FR_COST_WAKE_NS, and who is awake steals only what would take
 * longer than FR_COST_STEAL_NS; until then it is nobody else's. Of each task only what it takes beyond FR_COST_MOVE_NS counts:
 * there is no more to win. The limits are that wide because they must not move with what they decide: tasks that two workers
 * share contend, and take twice as long, which looks like twice the backlog.
 *
 * Two numbers, in nanoseconds as rt/clock.h's ticks tell them. For each place that spawns an estimate, of the polls of its tasks:
 * a single outlier, which is a collection or another process as often as not, makes none long, and one of a microsecond not
 * even for the moment that it takes to be forgotten: after a collection there is more to queue than ever. And for each worker
 * the sum of what is queued with it: a task is counted with what was known of it when it was queued, and remembers that. What
 * is unknown, or has been long, is a backlog by itself.
 *
 * THREADS     fr_cost_get(), fr_backlog_is_worth(): any. fr_cost_learn(): any; two at once may lose a lesson. fr_backlog_*(): who owns
 *             the tasks, before it queues them and after it has taken them.
 * STATE       attached thread state: not needed.
 * OWNERSHIP   none.
 * FIELDS      fr_cost.ns     relaxed: an estimate, nothing is published with it
 *             fr_backlog.ns  RMWs relaxed, as each task's share is added by one who has it and taken off by the next who has it;
 *                            who parks loads it seq_cst, as it does the queue's length [queue.h Q5]
 * INVARIANTS  C1  Nobody's progress rests on it. What is queued lies with a worker that is awake, and that looks at its
 *                 backlog again after every turn. Should it be in a poll that is longer than all before, the watch
 *                 (watch.c) finds it stuck there, within two ticks of its own; then everything that is queued
 *                 with it is a backlog. What other threads put into the injector wakes always.
 *                 A kind is learned from the turns that are timed; those that go untimed are picked at random (is_timed() in
 *                 worker.c), so that no order of polls can hide one.
 *             C2  It is written rarely where nothing changes, since several workers poll tasks of the same place: not for
 *                 what differs by less than a factor of two, and downwards with one poll in FR_COST_SAMPLE.
 *             C3  A backlog is the sum of the shares of what is queued, or more while something is on its way; never less, so
 *                 never below 0.
 * LOCKS       none.
 * SHUTDOWN    nothing to do.
 * PROVED BY   tests/test_cost.c, tests/runtime/test_backlog.py
 */
#ifndef FR_RT_COST_H
#define FR_RT_COST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FR_COST_WAKE_NS  400000u
#define FR_COST_STEAL_NS (FR_COST_WAKE_NS / 4 * 3) /* less, or it would come and go where there is about as much */
#define FR_COST_LONG_NS  (FR_COST_WAKE_NS / 2)     /* one of these is a backlog by itself */
#define FR_COST_MOVE_NS  3000u                     /* what it takes from both workers to have a task polled elsewhere */
#define FR_COST_UNKNOWN  0u

enum { FR_COST_WEIGHT = 8, FR_COST_CLIP = 16, FR_COST_SAMPLE = 4 };

struct fr_cost {
    _Atomic uint32_t ns;
};

/* What is queued with a worker. */
struct fr_backlog {
    _Atomic uint64_t ns;
};

static inline uint32_t fr_cost_get(const struct fr_cost *cost)
{
    return atomic_load_explicit(&cost->ns, memory_order_relaxed);
}

static inline void fr_cost_set(struct fr_cost *cost, uint32_t ns)
{
    atomic_store_explicit(&cost->ns, ns, memory_order_relaxed);
}

static inline bool fr_cost_is_long(uint32_t cost)
{
    return cost == FR_COST_UNKNOWN || cost > FR_COST_LONG_NS;
}

/* What a task of that cost adds to a backlog: as much of it as another worker could take off. */
static inline uint32_t fr_cost_share(uint32_t cost)
{
    if (fr_cost_is_long(cost)) {
        return FR_COST_WAKE_NS + FR_COST_LONG_NS;
    }
    return cost > FR_COST_MOVE_NS ? cost - FR_COST_MOVE_NS : 0;
}

/* What a poll would have taken where the task was, given what it took the worker that had it moved there. */
static inline uint64_t fr_cost_unmoved(uint64_t measured)
{
    return measured > FR_COST_MOVE_NS ? measured - FR_COST_MOVE_NS : 1;
}

/* The estimate after a poll that took so long: a moving average, in which an outlier counts for FR_COST_CLIP times as much at
 * the most. Never 0, which is unknown. */
static inline uint32_t fr_cost_next(uint32_t cost, uint64_t measured)
{
    uint32_t most = UINT32_MAX / FR_COST_CLIP;
    uint32_t ns = measured < 1 ? 1 : measured > most ? most : (uint32_t)measured;
    if (cost == FR_COST_UNKNOWN) {
        return ns;
    }
    if (ns <= cost) {
        return cost - (cost - ns) / FR_COST_WEIGHT;
    }
    return cost + ((ns / FR_COST_CLIP < cost ? ns : cost * FR_COST_CLIP) - cost) / FR_COST_WEIGHT;
}

/* A poll of that kind has taken so long. `chance` is a number without a pattern, of which the upper bits count: by a count of
 * polls a worker whose turns are all alike would learn at each of them, or at none, and a kind that was long once stay so. [C2] */
static inline void fr_cost_learn(struct fr_cost *cost, uint64_t measured, uint32_t chance)
{
    uint32_t old = fr_cost_get(cost);
    bool usual = old != FR_COST_UNKNOWN && measured / 2 <= old && measured >= old / 2;
    if (usual || (old > measured && chance > UINT32_MAX / FR_COST_SAMPLE)) {
        return;
    }
    fr_cost_set(cost, fr_cost_next(old, measured));
}

static inline void fr_backlog_add(struct fr_backlog *backlog, uint64_t share)
{
    if (share) {                                                              /* what is short pays nothing for it */
        atomic_fetch_add_explicit(&backlog->ns, share, memory_order_relaxed); /* [C3] */
    }
}

static inline void fr_backlog_sub(struct fr_backlog *backlog, uint64_t share)
{
    if (share) {
        atomic_fetch_sub_explicit(&backlog->ns, share, memory_order_relaxed); /* [C3] */
    }
}

/* Whether what is queued, so many tasks, is worth `ns`. A thief takes the oldest, whichever those are: a long one behind many that
 * are short waits until these are done, which is soon, instead of having them moved first. */
static inline bool fr_backlog_is_worth(const struct fr_backlog *backlog, uint32_t len, uint32_t ns)
{
    uint64_t shares =
        atomic_load_explicit(&backlog->ns, memory_order_seq_cst); /* pairs with the pusher's fence [queue.h Q5] */
    return shares >= ns + (uint64_t)len * (FR_COST_MOVE_NS / 4);
}

#endif
