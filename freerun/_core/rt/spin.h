/* spin: whether somebody who has to wait should first look for a few microseconds, awake, at what he waits for.
 *
 * A sleep and a wake are two system calls, and a core that has gone idle takes microseconds more to come back. Two
 * threads that hand one short thing after another to each other spend nearly all their time in that. A short spin saves
 * it, and is a waste of a core in every other case; so it is learnt from the waits before, awake or asleep.
 *
 * THREADS     look: any. learn: any; two at once may lose a lesson, which does no harm.
 * STATE       attached thread state: these functions do not wait. Spin detached.
 * OWNERSHIP   none.
 * FIELDS      score  how often the last waits were short, up to FR_SPIN_SURE; worth a spin from FR_SPIN_WORTH on
 *             debt   what the next vain spin takes from it is twice this
 *             Both relaxed: heuristics, nothing is published.
 * INVARIANTS  W1  Nobody's progress rests on a spin: it has an end, and who finds nothing goes to sleep as ever. Who
 *                 spins is looked at by those with something for him (blocking.c [B5], idle.h [I2]), and he looks once
 *                 more after he is no longer counted.
 *             W2  It costs little where it is in vain. Without short waits there is none: a process that is idle, or whose
 *                 calls are long, is never in here. Where waits are short only because who is waited for gets the CPU
 *                 when we sleep, as on a machine with more to do than CPUs, each vain spin doubles what the next one
 *                 costs, to FR_SPIN_DEBT_MAX short waits between two of them; each hit halves it.
 * LOCKS       none.
 * SHUTDOWN    nothing to do: it is over in FR_SPIN_NS.
 * PROVED BY   tests/test_spin.c; for the spin of workers (W1) tests/model/idle.pml, -DSPIN
 */
#ifndef FR_RT_SPIN_H
#define FR_RT_SPIN_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What it takes to wake a thread on a CPU that sleeps is 25 us on a virtual machine. A spin that ends sooner does not
 * meet whom it waits for where that one has to be woken itself: each would find the other asleep, every time. */
#define FR_SPIN_NS UINT64_C(50000)
/* A wait of this length, asleep, would have been a spin's but for the waking: of both, as a rule. */
#define FR_SPIN_SHORT_NS UINT64_C(100000)

enum { FR_SPIN_WORTH = 8, FR_SPIN_SURE = 16, FR_SPIN_DEBT_MIN = 8, FR_SPIN_DEBT_MAX = 256, FR_SPIN_LOOKS = 8 };

/* How a wait ended. */
enum fr_spin_end {
    FR_SPIN_HIT,   /* during the spin */
    FR_SPIN_VAIN,  /* the spin did, and it went on */
    FR_SPIN_SHORT, /* asleep, so soon that a spin might have been enough */
    FR_SPIN_LONG,  /* asleep, later */
};

struct fr_spin {
    _Atomic int32_t score, debt;
};

static inline bool fr_spin_is_worth(const struct fr_spin *spin)
{
    return atomic_load_explicit(&spin->score, memory_order_relaxed) >= FR_SPIN_WORTH;
}

static inline int32_t fr_spin_next_debt(int32_t debt, enum fr_spin_end end)
{
    if (end == FR_SPIN_HIT) {
        return debt / 2;
    }
    if (end != FR_SPIN_VAIN) {
        return debt;
    }
    return debt < FR_SPIN_DEBT_MIN ? FR_SPIN_DEBT_MIN : debt < FR_SPIN_DEBT_MAX ? debt * 2 : debt;
}

static inline int32_t fr_spin_next_score(int32_t score, int32_t debt, enum fr_spin_end end)
{
    if (end == FR_SPIN_VAIN) {
        return score - debt;
    }
    if (end == FR_SPIN_LONG) {
        return score > 0 ? 0 : score;
    }
    return score < FR_SPIN_SURE ? score + 1 : score;
}

static inline void fr_spin_learn(struct fr_spin *spin, enum fr_spin_end end)
{
    int32_t score = atomic_load_explicit(&spin->score, memory_order_relaxed);
    int32_t debt = atomic_load_explicit(&spin->debt, memory_order_relaxed);
    int32_t new_debt = fr_spin_next_debt(debt, end);
    int32_t new_score = fr_spin_next_score(score, new_debt, end);
    if (new_debt != debt) { /* others read the line: no store without a change */
        atomic_store_explicit(&spin->debt, new_debt, memory_order_relaxed);
    }
    if (new_score != score) {
        atomic_store_explicit(&spin->score, new_score, memory_order_relaxed);
    }
}

static inline enum fr_spin_end fr_spin_slept(uint64_t from, uint64_t to)
{
    return (int64_t)(to - from) < (int64_t)FR_SPIN_SHORT_NS ? FR_SPIN_SHORT : FR_SPIN_LONG;
}

/* Whether this process may run on more than one CPU: on a single one, whom we wait for cannot run while we spin. As of
 * the call; an affinity that changes later makes some spins vain, and those are unlearnt. */
static inline bool fr_spin_has_cpus(void)
{
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof cpus, &cpus) || CPU_COUNT(&cpus) > 1; /* it fails where there are too many */
}

#endif
