/* cost: what a task's polls take, and so whether what is queued with a worker is a backlog that is worth another worker.
 *
 * What is queued with a worker it will run by itself in about as long as that takes, and best there: beside what is local to
 * it, on a free-threaded Python the objects that its thread owns. To wake a worker takes tens of microseconds until it
 * runs. With tasks of a microsecond two workers that steal them from each other are slower than one. So pushers wake
 * somebody only where what is queued would take longer than FR_COST_WAKE_NS, and who is awake steals only what would take
 * longer than FR_COST_STEAL_NS; until then it is nobody else's. A full queue of tasks of less than a microsecond is less.
 *
 * Two estimates, in nanoseconds as rt/clock.h's ticks tell them. One for each place that spawns: what is unknown, or has
 * been long, is a backlog as soon as it is queued. One for each worker, of its turns, which a queued task of a longer kind
 * raises at once. Both rise fast, though not with a single outlier, which is a collection or another process as often as
 * not; and fall slowly.
 *
 * THREADS     look: any. fr_cost_learn(): any; two at once may lose a lesson.
 * STATE       attached thread state: not needed.
 * OWNERSHIP   none.
 * FIELDS      ns  relaxed: an estimate, nothing is published with it
 * INVARIANTS  C1  Nobody's progress rests on it. What is queued lies with a worker that is awake, and that looks at its
 *                 backlog again after every turn. Should it be in a poll that is longer than all before, the watch
 *                 (watch.c) finds it stuck there, within two ticks of its own; then everything that is queued
 *                 with it, or has overflowed into the injector, is a backlog. What other threads put there wakes always.
 *             C2  It is written rarely where nothing changes: several workers poll tasks of the same place.
 * LOCKS       none.
 * SHUTDOWN    nothing to do.
 * PROVED BY   tests/test_cost.c, tests/runtime/test_backlog.py
 */
#ifndef FR_RT_COST_H
#define FR_RT_COST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#ifndef FR_COST_WAKE_NS
#define FR_COST_WAKE_NS 200000u
#endif
#define FR_COST_STEAL_NS (FR_COST_WAKE_NS / 2) /* less, or it would come and go where there is about as much as that */
#define FR_COST_UNKNOWN  0u

enum { FR_COST_RISE = 4, FR_COST_FALL = 64 };

struct fr_cost {
    _Atomic uint32_t ns;
};

static inline uint32_t fr_cost_get(const struct fr_cost *cost)
{
    return atomic_load_explicit(&cost->ns, memory_order_relaxed);
}

static inline void fr_cost_set(struct fr_cost *cost, uint32_t ns)
{
    atomic_store_explicit(&cost->ns, ns, memory_order_relaxed);
}

/* One that took so long was measured; never 0, which is unknown. */
static inline uint32_t fr_cost_next(uint32_t cost, uint64_t measured)
{
    uint32_t ns = measured < 1 ? 1 : measured > UINT32_MAX / 8 ? UINT32_MAX / 8 : (uint32_t)measured;
    if (cost == FR_COST_UNKNOWN) {
        return ns;
    }
    if (ns <= cost) {
        return cost - (cost - ns) / FR_COST_FALL;
    }
    return ns / FR_COST_RISE < cost ? ns : cost * FR_COST_RISE;
}

static inline void fr_cost_learn(struct fr_cost *cost, uint64_t measured)
{
    uint32_t old = fr_cost_get(cost), ns = fr_cost_next(old, measured);
    if (ns != old) {
        fr_cost_set(cost, ns);
    }
}

/* The same for one that several threads learn: it is not written for less than a quarter up, and on the way down only with
 * every `FR_COST_FALL`th lesson, by a half [C2]. */
static inline void fr_cost_learn_shared(struct fr_cost *cost, uint64_t measured, uint64_t count)
{
    uint32_t old = fr_cost_get(cost);
    if (__builtin_expect(measured > old + old / 4, 0)) {
        fr_cost_set(cost, fr_cost_next(old, measured));
    } else if (__builtin_expect(measured < old / 2 && count % FR_COST_FALL == 0, 0)) {
        fr_cost_set(cost, old / 2);
    }
}

#endif
