/* idle: who sleeps, who searches, whom to wake. Tokio's idle.rs.
 *
 * A worker is unparked or parked; an unparked one may be searching, that is, looking for work in other workers'
 * queues. The rules which keep wake-ups rare: whoever makes work wakes a worker only if nobody is searching; a searcher
 * that finds work, and was the last, wakes the next one if there is more; a worker that parks when no searcher is left
 * looks once more. (In Tokio only the last searcher does the latter. A worker that was refused the search then parks in
 * the belief that somebody searches, while all who did have found work; if that work is long, what is queued behind it
 * waits beside a sleeping worker. The model finds this, with -DSTUCK.)
 *
 * THREADS     any, except: to_parked, to_searching, from_searching for a worker's own index, by that worker.
 * STATE       attached thread state: allowed; the lock is held for a few instructions.
 * OWNERSHIP   worker indices only.
 * FIELDS      word      unparked << 16 | searching. All RMWs and loads seq_cst. unparked changes only under lock.
 *             sleepers  stack of parked workers, under lock. place[w]: w's place in it or FR_IDLE_AWAKE, under lock.
 *             nworkers  constant.
 * INVARIANTS  I1  Under lock: number of sleepers == nworkers - unparked; place[] is the inverse of sleepers.
 *             I2  No lost wake-up. Pusher: store tail (queue.h [Q5], spill.h [SP1] or inject.h [J5]), then a fence and a
 *                 load of word, in fr_idle_worker_to_notify(); both seq_cst.
 *                 They do, where Tokio uses fetch_add(0): store and load cannot change places over the fence, and the line
 *                 is only read, so pushers do not fight over it. A push that is nobody else's business needs neither.
 *                 Let the load find no reason to wake: somebody searches, or nobody is parked. Consider the first
 *                 RMW of word after it, in the order of seq_cst, that leaves searching == 0. If it parks a worker,
 *                 that worker looks at every queue after it, hence after the pusher's store, and sees the item. If
 *                 it is a searcher's that found work, that worker looks at every queue after it as well. If the item is
 *                 in none, somebody has taken it; else it calls fr_idle_worker_to_notify(), a load after the store
 *                 again: so it wakes one that searches after the store, or else the argument starts anew from there.
 *                 (Tokio does not look. Then who is woken for a lone task wakes another for nothing.) worker.c also looks
 *                 at the LIFO slots of stuck workers, where the watch has let thieves in; nothing here rests on that.
 *                 It ends, since a worker can park only by an RMW that either leaves searching == 0,
 *                 and then it looks, or leaves another searcher, for whom the same holds.
 *                 As a consequence nothing that was pushed so waits in a queue while a worker sleeps, even if a poll never ends.
 *                 Workers push so only what is worth it: see cost.h [C1] for the rest. To "see the item" is there to
 *                 see a backlog.
 *                 The model of this with all interleavings: tests/model/idle.pml.
 *             I3  fr_idle_worker_to_notify() counts the worker it returns as unparked and searching before that worker
 *                 runs, so a burst of pushes wakes one worker, not all.
 *             I4  searching <= unparked <= nworkers.
 *             I5  The caller's half of I2. After a push that another worker may have to run: worker_to_notify, and
 *                 unpark whom it returns, without fail (it is counted as searching until it says otherwise). After
 *                 fr_idle_to_parked() == true: look at all queues and the injector; if one is not empty, worker_to_notify.
 *                 After fr_idle_from_searching() == true: the same. After moving several items from the injector to the
 *                 own queue: worker_to_notify too, for between the two places they were in nobody's sight. After waking:
 *                 if fr_idle_unpark_by_id() is true the worker is awake and not searching; if it is false it was notified
 *                 and *is* searching.
 * LOCKS       lock; innermost, nothing is called under it.
 * SHUTDOWN    every worker is unparked by its parker regardless of this; destroy after they have been joined.
 * PROVED BY   tests/test_idle_park.c, tests/model/idle.pml
 */
#ifndef FR_RT_IDLE_H
#define FR_RT_IDLE_H

#include "mutex.h"

#define FR_MAX_WORKERS        1024

#define FR_IDLE_AWAKE         UINT16_MAX
#define FR_IDLE_SEARCHING_ONE 1u
#define FR_IDLE_UNPARKED_ONE  (1u << 16)

struct fr_idle {
    _Alignas(FR_CACHE_LINE) _Atomic uint32_t word;
    uint32_t nworkers;
    _Alignas(FR_CACHE_LINE) struct fr_mutex lock;
    uint32_t nsleepers;
    uint16_t *sleepers; /* nworkers entries, followed by place's */
    uint16_t *place;
};

/* All workers start unparked and not searching. 0, -EINVAL (0 or more than FR_MAX_WORKERS workers), -ENOMEM. */
int fr_idle_init(struct fr_idle *idle, uint32_t nworkers);
void fr_idle_destroy(struct fr_idle *idle);

int fr_idle_worker_to_notify_slow(struct fr_idle *idle);

static inline uint32_t fr_idle_word_searching(uint32_t word)
{
    return word & 0xffff;
}

static inline uint32_t fr_idle_word_unparked(uint32_t word)
{
    return word >> 16;
}

/* What was pushed before comes before what is read of the word now. */
static inline void fr_idle_fence(struct fr_idle *idle)
{
#ifdef __SANITIZE_THREAD__ /* which knows of no fences */
    atomic_fetch_add_explicit(&idle->word, 0, memory_order_seq_cst);
#else
    (void)idle;
    atomic_thread_fence(memory_order_seq_cst); /* pairs with fr_idle_to_parked() and fr_idle_from_searching() [I2] */
#endif
}

static inline bool fr_idle_should_wake(const struct fr_idle *idle)
{
    /* seq_cst pairs with fr_idle_to_parked() and fr_idle_from_searching() [I2] */
    uint32_t word = atomic_load_explicit(&idle->word, memory_order_seq_cst);
    return fr_idle_word_searching(word) == 0 && fr_idle_word_unparked(word) < idle->nworkers;
}

/* The worker to unpark, now counted as unparked and searching [I3], or -1. */
static inline int fr_idle_worker_to_notify(struct fr_idle *idle)
{
    fr_idle_fence(idle);
    if (__builtin_expect(!fr_idle_should_wake(idle), 1)) {
        return -1;
    }
    return fr_idle_worker_to_notify_slow(idle);
}

/* The worker is about to park. True if no searcher is left: it must look at every queue once more [I5]. */
bool fr_idle_to_parked(struct fr_idle *idle, uint32_t worker, bool is_searching);

/* Removes a worker that woke by itself (driver event, timeout) from the sleepers; it is then unparked, not searching.
 * False: it was not there, so somebody notified it, and it is searching. */
bool fr_idle_unpark_by_id(struct fr_idle *idle, uint32_t worker);

bool fr_idle_is_parked(struct fr_idle *idle, uint32_t worker);

/* May the worker search? At most about half of the workers do at a time. The limit is soft: two may pass at once. */
static inline bool fr_idle_to_searching(struct fr_idle *idle)
{
    /* seq_cst: a worker that is refused parks without looking again, relying on a searcher it saw here; pairs with
     * fr_idle_from_searching() and fr_idle_to_parked() [I2] */
    uint32_t word = atomic_load_explicit(&idle->word, memory_order_seq_cst);
    if (2 * fr_idle_word_searching(word) >= idle->nworkers) {
        return false;
    }
    /* seq_cst pairs with fr_idle_should_wake() [I2] */
    atomic_fetch_add_explicit(&idle->word, FR_IDLE_SEARCHING_ONE, memory_order_seq_cst);
    return true;
}

/* The worker found work. True if it was the last searcher: it must look at every queue once more [I5]. */
static inline bool fr_idle_from_searching(struct fr_idle *idle)
{
    /* seq_cst pairs with fr_idle_should_wake() [I2] */
    uint32_t prev = atomic_fetch_sub_explicit(&idle->word, FR_IDLE_SEARCHING_ONE, memory_order_seq_cst);
    return fr_idle_word_searching(prev) == 1;
}

static inline uint32_t fr_idle_num_parked(const struct fr_idle *idle)
{
    /* relaxed: for metrics and heuristics; correctness goes through fr_idle_should_wake(). */
    return idle->nworkers - fr_idle_word_unparked(atomic_load_explicit(&idle->word, memory_order_relaxed));
}

static inline uint32_t fr_idle_num_searching(const struct fr_idle *idle)
{
    /* relaxed: for metrics and heuristics; correctness goes through fr_idle_should_wake(). */
    return fr_idle_word_searching(atomic_load_explicit(&idle->word, memory_order_relaxed));
}

#endif
