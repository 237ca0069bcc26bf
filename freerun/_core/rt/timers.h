/* timers: the sleeps of one runtime, in a wheel for each worker and one for everybody else. Tokio's runtime/time_alt.
 *
 * A sleep is in the wheel of the worker that armed it, which looks at that every moment while its polls are short: what it
 * armed it also polls, which on free-threaded Python makes every object of that task cheaper, and its lock is nobody else's
 * as a rule. For a wheel that nobody attends to, as its worker sleeps, or is in a long poll, or is none, whoever drives does it.
 *
 * THREADS     init, destroy: alone. fr_timers_begin_sleep(), fr_timers_end_sleep(): who owns the driver. Everything else: any.
 * STATE       attached or detached; never blocks but for the locks.
 * OWNERSHIP   an armed sleep has a reference to its task; fr_timers_take() hands it to its caller.
 * FIELDS      wheel, expired   under the shard's lock
 *             next_ns          written under the shard's lock, read by all. No timer of this wheel is due before
 *             attended         a hint, relaxed: its worker looks at it all the time, or is about to. That worker; false: the watch,
 *                              too; true: who wakes it to look
 *             asked_ns         a hint, relaxed: when it was woken to look
 *             sleeping_until   who owns the driver sleeps, and wakes by itself then, or a grace later [TM3]; 0: nobody sleeps
 *             sleep->home      its owner, who is the one that arms and disarms it
 *             sleep->armed     under the lock of the shard `home`
 * INVARIANTS  TM1 who arms a timer that is the wheel's first writes next_ns, then looks at sleeping_until; who goes to sleep
 *                 writes sleeping_until, then looks at every next_ns again; all four seq_cst. So one of them sees the other:
 *                 the sleeper wakes then, or a grace later, or is kicked. Who kicks has lowered sleeping_until first, so that
 *                 one kick does for later deadlines; whoever finds it lowered may rely on a kick that is on its way.
 *             TM2 `fired` is the last thing written into a sleep, and before its task is woken: whoever sees it owns the
 *                 memory, and a task that was woken by it sees it.
 *             TM3 a timer in a wheel that is attended is left to that worker for FR_GRACE_NS after it is due, or after that worker
 *                 was woken for it. Others that are due in that time may wait as long. Never early.
 * LOCKS       shard->lock is a leaf.
 * SHUTDOWN    destroy when nobody arms or disarms any more; what is armed then is forgotten.
 * PROVED BY   tests/test_driver.c, tests/time/
 */
#ifndef FR_TIMERS_H
#define FR_TIMERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "mutex.h"
#include "wheel.h"

#define FR_GRACE_NS 500000

enum { FR_TIMERS_BATCH = 64 };

/* A pending sleep: `timer` is first so that the wheel's list leads back here. */
struct fr_sleep {
    struct fr_timer timer;
    void *task; /* for whom it was armed last; one reference while it is */
    bool armed;
    _Atomic bool fired;    /* set last: from then on the driver no longer knows this sleep [TM2] */
    _Atomic bool stepping; /* the leaf's own, in what would be padding */
    uint16_t home;         /* the shard that it was armed in last */
};

struct fr_timer_shard {
    _Alignas(64) struct fr_mutex lock;
    struct fr_node expired; /* taken from the wheel, not yet woken */
    struct fr_wheel wheel;
    _Alignas(64) _Atomic uint64_t next_ns; /* not on the lock's line: who drives looks at all of them */
    _Atomic bool attended;
    _Atomic uint64_t asked_ns;
};

struct fr_timers {
    struct fr_timer_shard *shards;
    uint32_t nshards;
    uint64_t epoch_ns;
    _Alignas(64) _Atomic uint64_t sleeping_until;
};

/* 0 or -ENOMEM. `now_ns`: the clock's, as in all that follows. */
int fr_timers_init(struct fr_timers *timers, uint32_t nshards, uint64_t now_ns);
void fr_timers_destroy(struct fr_timers *timers);

/* False: it is due already, and not armed. *kick: somebody sleeps for too long now [TM1]. */
bool fr_timers_arm(struct fr_timers *timers, uint32_t home, struct fr_sleep *sleep, uint64_t deadline_ns, void *task,
                   bool *kick);
/* True if it was armed: the caller then owns the task reference again. */
bool fr_timers_disarm(struct fr_timers *timers, struct fr_sleep *sleep);

/* Takes the tasks of what is due in that shard, at most FR_TIMERS_BATCH; how many. As many: there may be more. */
int fr_timers_take(struct fr_timers *timers, uint32_t shard, uint64_t now_ns, void **batch);

/* Whether something may be due there. No lock. */
static inline bool fr_timers_may_be_due(const struct fr_timers *timers, uint32_t shard, uint64_t now_ns)
{
    return atomic_load_explicit(&timers->shards[shard].next_ns, memory_order_relaxed) <= now_ns; /* looked at again */
}

/* Nothing is due there that the caller is to fire, whose shard it is not: what is attended is left to its worker for a while
 * [TM3]. */
bool fr_timers_are_left(const struct fr_timers *timers, uint32_t shard, uint64_t now_ns);

/* [TM3] */
static inline void fr_timers_set_attended(struct fr_timers *timers, uint32_t shard, bool attended)
{
    _Atomic bool *old = &timers->shards[shard].attended;
    /* relaxed, both: a hint */
    if (atomic_load_explicit(old, memory_order_relaxed) != attended) {
        atomic_store_explicit(old, attended, memory_order_relaxed);
    }
}

/* Its worker is woken to look. */
static inline void fr_timers_ask(struct fr_timers *timers, uint32_t shard, uint64_t now_ns)
{
    atomic_store_explicit(&timers->shards[shard].asked_ns, now_ns, memory_order_relaxed); /* a hint */
    fr_timers_set_attended(timers, shard, true);
}

/* Publishes that the caller sleeps until `limit_ns` or until a timer is due [TM1]; returns when it is to wake: then, or a
 * grace later [TM3]. */
uint64_t fr_timers_begin_sleep(struct fr_timers *timers, uint64_t limit_ns);
static inline void fr_timers_end_sleep(struct fr_timers *timers)
{
    /* relaxed: who reads an older value kicks for nothing; the next sleeper's is seq_cst [TM1] */
    atomic_store_explicit(&timers->sleeping_until, 0, memory_order_relaxed);
}

/* The first tick of the wheels that is not before `ns`, in ns. */
uint64_t fr_timers_tick_after(const struct fr_timers *timers, uint64_t ns);
/* Next deadline in ns, UINT64_MAX if none. */
uint64_t fr_timers_next(struct fr_timers *timers);

/* Whether its time has come. Needs no lock: who was woken by it sees it, and may free it then [TM2]. */
static inline bool fr_sleep_fired(struct fr_sleep *sleep)
{
    return atomic_load_explicit(&sleep->fired, memory_order_acquire); /* pairs with fr_timers_take() */
}

#endif
