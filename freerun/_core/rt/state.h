/* state: the task's state word. Who may poll, who must queue, who frees: decided here, by one RMW each.
 *
 * THREADS     start_poll, end_poll*, complete: the poller. Everything else: anyone who holds a reference.
 * STATE       attached thread state: not needed; never blocks.
 * OWNERSHIP   references are counted from bit 16 up. Who holds them: the list of owned tasks (one), each handle, each
 *             registered waker, and the poller, who has one to spare for the first waker that its poll registers; with
 *             RUNNING it travels through the queue. A run queue holds *none* of its own [S1].
 * FIELDS      the word: all RMWs, orders below. Bits 8..15 are free.
 *             RUNNING        somebody holds the right to touch the coroutine (the poll lock): who polls it, or, of a task in
 *                            a queue, whoever will take it out.
 *             COMPLETE       the result is stored; never cleared, and RUNNING is never set again.
 *             NOTIFIED       it is to be polled once more after the poll that RUNNING stands for: its poller must queue it.
 *                            Without RUNNING: it has been queued for that.
 *             CANCELLED      abort was requested. DELIVERED  the exception was thrown in (poller only).
 *             JOIN_INTEREST  a JoinHandle exists. JOIN_WAKER  somebody is in the list of joiners.
 *             OBSERVED       the result was taken.
 * INVARIANTS  S1  In a queue => RUNNING or NOTIFIED, not COMPLETE => the owned-list reference is alive. The argument: a
 *                 task is queued only by who has made it; by the one call that found it idle and took RUNNING
 *                 (wake_task, abort); by the poller that yields, and keeps RUNNING; or by the poller (or dumper) that
 *                 ended its poll with NOTIFIED set. Each of them owns "the queueing" until it has pushed: to all others
 *                 the task is not idle meanwhile. Whoever takes it out has RUNNING, or takes it then
 *                 (fr_state_take()). So a task is in at most one queue, once. Only who holds RUNNING completes a task,
 *                 and only after that drops the owned-list reference; of a task in a queue that is whoever takes it
 *                 out. So whatever is in a queue is alive, and the pop needs no reference of its own until it has
 *                 completed the task.
 *             S2  RUNNING is a lock: acquire in start_poll, take, wake_task, wake_unref, abort and try_lock_idle, release
 *                 in end_poll*. Where it travels through a queue, the queue's own release and acquire hand it over. So
 *                 is a wake: what the waker wrote before is visible to the poll that it causes, or, if one wake finds the
 *                 task queued already, to the poll that was due, or to the one after: the wake is an acq_rel RMW that
 *                 sets NOTIFIED. fr_state_take() sees it, and acquires; or does not, and then the end of that poll does.
 *                 On a task that is NOTIFIED already it continues the release sequence which that poll acquires. This is
 *                 why wake writes even when nothing changes.
 *             S3  After fr_state_end_poll() == false, and after the push that follows == true or a yield, the task
 *                 belongs to whoever polls next: touch it only if you hold a reference.
 *             S4  COMPLETE is set with release; whoever sees it with acquire may read the result. Of a joiner and the
 *                 completer one sees the other: set_join_waker fails if COMPLETE is set, and complete returns
 *                 JOIN_WAKER if it was set before.
 *             S5  Bits are never added to a COMPLETE task except OBSERVED, nor removed except JOIN_INTEREST and
 *                 JOIN_WAKER.
 * LOCKS       none.
 * SHUTDOWN    aborts every owned task; each completes through its poller as ever.
 * PROVED BY   tests/test_state.c
 */
#ifndef FR_RT_STATE_H
#define FR_RT_STATE_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FR_RUNNING       ((uint64_t)1)
#define FR_COMPLETE      ((uint64_t)2)
#define FR_NOTIFIED      ((uint64_t)4)
#define FR_CANCELLED     ((uint64_t)8)
#define FR_DELIVERED     ((uint64_t)16)
#define FR_JOIN_INTEREST ((uint64_t)32)
#define FR_JOIN_WAKER    ((uint64_t)64)
#define FR_OBSERVED      ((uint64_t)128)
#define FR_REF_SHIFT     16
#define FR_REF_ONE       ((uint64_t)1 << FR_REF_SHIFT)

typedef _Atomic uint64_t fr_state;

static inline void fr_state_init(fr_state *s, uint64_t refs, uint64_t bits)
{
    assert(bits < FR_REF_ONE);
    atomic_init(s, refs << FR_REF_SHIFT | bits);
}

/* A snapshot. With acquire: if COMPLETE is in it, the result may be read. */
static inline uint64_t fr_state_load(const fr_state *s)
{
    /* acquire pairs with fr_state_complete() [S4] */
    return atomic_load_explicit(s, memory_order_acquire);
}

static inline uint64_t fr_state_refs(uint64_t snapshot)
{
    return snapshot >> FR_REF_SHIFT;
}

/* NOTIFIED -> RUNNING. Returns the new state, with CANCELLED and so on. */
static inline uint64_t fr_state_start_poll(fr_state *s)
{
    /* The two bits are known [S1], so one subtraction swaps them: a single xadd where and/xor would be a CAS loop.
     * acquire pairs with fr_state_wake(), fr_state_abort() and fr_state_end_poll() [S2] */
    uint64_t prev = atomic_fetch_sub_explicit(s, FR_NOTIFIED - FR_RUNNING, memory_order_acquire);
    assert((prev & (FR_NOTIFIED | FR_RUNNING | FR_COMPLETE)) == FR_NOTIFIED);
    return prev - (FR_NOTIFIED - FR_RUNNING);
}

/* The same for a task just taken from a queue, which has brought RUNNING along, as a rule: then this is a load. *spare: it has
 * not, and in the RMW that takes RUNNING the caller got one more reference: the poller's *spare*, for the first waiter of the
 * poll. (Who queues a task with RUNNING sees to that as well.) What is left of it the end of the poll gives back. */
static inline uint64_t fr_state_take(fr_state *s, bool *spare)
{
    /* acquire, all three: pairs with fr_state_wake_task(), fr_state_abort() and fr_state_end_poll() [S2] */
    uint64_t cur = atomic_load_explicit(s, memory_order_acquire);
    assert((cur & (FR_NOTIFIED | FR_RUNNING)) && !(cur & FR_COMPLETE));
    *spare = !(cur & FR_RUNNING);
    if (__builtin_expect(*spare, 0)) {
        const uint64_t change = FR_REF_ONE + FR_RUNNING - FR_NOTIFIED;
        return atomic_fetch_add_explicit(s, change, memory_order_acquire) + change;
    }
    if (__builtin_expect((cur & FR_NOTIFIED) != 0, 0)) { /* woken in the queue: this poll is the answer */
        return atomic_fetch_sub_explicit(s, FR_NOTIFIED, memory_order_acquire) - FR_NOTIFIED;
    }
    return cur;
}

/* The poll is over and the task waits. True: it was woken meanwhile, the caller must queue it [S3]. `back`: 0, or
 * FR_REF_ONE to give the spare back; never the last reference, since the task is not complete. */
static inline bool fr_state_end_poll_spare(fr_state *s, uint64_t back)
{
    /* release pairs with who takes RUNNING next: fr_state_wake_task(), fr_state_wake_unref(), fr_state_abort(),
     * fr_state_try_lock_idle(), and where this returns true fr_state_take() or fr_state_start_poll() [S2] */
    uint64_t prev = atomic_fetch_sub_explicit(s, FR_RUNNING + back, memory_order_release);
    assert((prev & (FR_RUNNING | FR_COMPLETE)) == FR_RUNNING && prev - back >= FR_REF_ONE);
    return (prev & FR_NOTIFIED) != 0;
}

static inline bool fr_state_end_poll(fr_state *s)
{
    return fr_state_end_poll_spare(s, 0);
}

/* The poll is over and another turn is wanted: RUNNING -> NOTIFIED. The caller must see to it. (A task that yields keeps
 * RUNNING instead, for whoever takes it out of the queue.) */
static inline void fr_state_end_poll_yield(fr_state *s)
{
    /* relaxed: only a guess, the CAS checks it. */
    uint64_t cur = atomic_load_explicit(s, memory_order_relaxed);
    /* release pairs with fr_state_start_poll() [S2]; relaxed on failure: try again with what is there. */
    do {
        assert((cur & (FR_RUNNING | FR_COMPLETE)) == FR_RUNNING);
    } while (!atomic_compare_exchange_weak_explicit(s, &cur, (cur & ~FR_RUNNING) | FR_NOTIFIED, memory_order_release,
                                                    memory_order_relaxed));
}

/* Whoever sets NOTIFIED, or takes RUNNING, in this state has to queue it. */
static inline bool fr_state_is_idle(uint64_t snapshot)
{
    return (snapshot & (FR_RUNNING | FR_NOTIFIED | FR_COMPLETE)) == 0;
}

/* Of what is no task, see branch.h, and is stepped by fr_state_start_poll(). True: the caller must queue it. */
static inline bool fr_state_wake(fr_state *s)
{
    /* relaxed: only a guess, the CAS checks it; and a COMPLETE task has nothing to be told. */
    uint64_t cur = atomic_load_explicit(s, memory_order_relaxed);
    do {
        if (cur & FR_COMPLETE) {
            return false;
        }
        /* acq_rel, also when NOTIFIED is set already [S2]: pairs with fr_state_start_poll() */
    } while (
        !atomic_compare_exchange_weak_explicit(s, &cur, cur | FR_NOTIFIED, memory_order_acq_rel, memory_order_relaxed));
    return fr_state_is_idle(cur);
}

/* True: the task was idle. The caller has RUNNING, and a reference, the poller's spare, and must queue it with both [S1]. */
static inline bool fr_state_wake_task(fr_state *s)
{
    /* relaxed: only a guess, the CAS checks it; and a COMPLETE task has nothing to be told. */
    uint64_t cur = atomic_load_explicit(s, memory_order_relaxed);
    uint64_t next;
    do {
        if (cur & FR_COMPLETE) {
            return false;
        }
        next = fr_state_is_idle(cur) ? cur + FR_RUNNING + FR_REF_ONE : cur | FR_NOTIFIED;
        /* acq_rel, also when NOTIFIED is set already [S2]: pairs with fr_state_take() and fr_state_end_poll() */
    } while (!atomic_compare_exchange_weak_explicit(s, &cur, next, memory_order_acq_rel, memory_order_relaxed));
    return fr_state_is_idle(cur);
}

/* The same, and one reference less, which was the caller's: one RMW where two would be. True: that reference is the poller's
 * spare now. *last: it was the last reference, the caller frees the task. Never both. */
static inline bool fr_state_wake_unref(fr_state *s, bool *last)
{
    /* relaxed: only a guess, the CAS checks it. */
    uint64_t cur = atomic_load_explicit(s, memory_order_relaxed);
    uint64_t next;
    do {
        assert(fr_state_refs(cur) > 0);
        next = fr_state_is_idle(cur) ? cur + FR_RUNNING : (cur & FR_COMPLETE ? cur : cur | FR_NOTIFIED) - FR_REF_ONE;
        /* acq_rel: as fr_state_wake_task() [S2] and as fr_ref_dec(); pairs with fr_state_take(), fr_state_end_poll(), and
         * fr_ref_dec() of the others. */
    } while (!atomic_compare_exchange_weak_explicit(s, &cur, next, memory_order_acq_rel, memory_order_relaxed));
    *last = fr_state_refs(next) == 0;
    return fr_state_is_idle(cur);
}

/* Requests cancellation and wakes. True: as fr_state_wake_task(). *first: this call was the first request, and the task had
 * not completed. */
static inline bool fr_state_abort(fr_state *s, bool *first)
{
    /* relaxed: only a guess, the CAS checks it. */
    uint64_t cur = atomic_load_explicit(s, memory_order_relaxed);
    uint64_t next;
    do {
        *first = !(cur & (FR_CANCELLED | FR_COMPLETE));
        if (cur & FR_COMPLETE) {
            return false;
        }
        next = (fr_state_is_idle(cur) ? cur + FR_RUNNING + FR_REF_ONE : cur | FR_NOTIFIED) | FR_CANCELLED;
        /* acq_rel pairs with fr_state_take() and fr_state_end_poll() [S2] */
    } while (!atomic_compare_exchange_weak_explicit(s, &cur, next, memory_order_acq_rel, memory_order_relaxed));
    return fr_state_is_idle(cur);
}

/* The poller has thrown the exception in. Returns false if it had been thrown before. */
static inline bool fr_state_set_delivered(fr_state *s)
{
    /* relaxed: only the poller reads and writes this bit, under RUNNING [S2]. */
    return !(atomic_fetch_or_explicit(s, FR_DELIVERED, memory_order_relaxed) & FR_DELIVERED);
}

/* Completed so, a task concerns nobody but its handle, which will look: there is one, and no joiner to wake. */
static inline bool fr_state_is_for_handle(uint64_t snapshot)
{
    return (snapshot & (FR_JOIN_INTEREST | FR_JOIN_WAKER)) == FR_JOIN_INTEREST;
}

/* The result is stored: RUNNING -> COMPLETE. Returns the previous state: its JOIN_WAKER says whether to wake the joiners,
 * its JOIN_INTEREST whether anybody will ever want the result. `back`: as above. `owned`: 0, and the owned-list reference is
 * still held; or FR_REF_ONE, and it is given back in this step if fr_state_is_for_handle() what is returned: the task is the
 * handle's then, and may be gone. It is never the last one, since the handle has one as long as JOIN_INTEREST is set. */
static inline uint64_t fr_state_complete_spare(fr_state *s, uint64_t back, uint64_t owned)
{
    /* relaxed: only a guess, the CAS checks it. */
    uint64_t cur = atomic_load_explicit(s, memory_order_relaxed);
    uint64_t next;
    do {
        assert((cur & (FR_RUNNING | FR_COMPLETE)) == FR_RUNNING);
        next = ((cur & ~(FR_RUNNING | FR_NOTIFIED)) | FR_COMPLETE) - back - (fr_state_is_for_handle(cur) ? owned : 0);
        /* acq_rel: release pairs with fr_state_load() and fr_state_drop_join_interest(), acquire with
         * fr_state_set_join_waker() [S4]; and as fr_ref_dec() */
    } while (!atomic_compare_exchange_weak_explicit(s, &cur, next, memory_order_acq_rel, memory_order_relaxed));
    assert(fr_state_refs(next) > 0);
    return cur;
}

static inline uint64_t fr_state_complete(fr_state *s)
{
    return fr_state_complete_spare(s, 0, 0);
}

/* The last JoinHandle goes away; once. True: the task was COMPLETE already, the result is the caller's to drop. */
static inline bool fr_state_drop_join_interest(fr_state *s)
{
    /* The bit is known to be set, so a subtraction clears it.
     * acq_rel pairs with fr_state_complete() [S4] */
    uint64_t prev = atomic_fetch_sub_explicit(s, FR_JOIN_INTEREST, memory_order_acq_rel);
    assert(prev & FR_JOIN_INTEREST);
    return (prev & FR_COMPLETE) != 0;
}

/* After the joiner has put itself in the list. False: the task is COMPLETE, nobody will wake it: take the result. */
static inline bool fr_state_set_join_waker(fr_state *s)
{
    /* acquire: on COMPLETE the caller reads the result; pairs with fr_state_complete() [S4] */
    uint64_t cur = atomic_load_explicit(s, memory_order_acquire);
    do {
        if (cur & FR_COMPLETE) {
            return false;
        }
        /* acq_rel/acquire pair with fr_state_complete() [S4] */
    } while (!atomic_compare_exchange_weak_explicit(s, &cur, cur | FR_JOIN_WAKER, memory_order_acq_rel,
                                                    memory_order_acquire));
    return true;
}

/* The list of joiners became empty. Call it under that list's lock. False: the task is COMPLETE (and its completer, if
 * it saw the bit, comes to look at the list). */
static inline bool fr_state_clear_join_waker(fr_state *s)
{
    /* acq_rel pairs with fr_state_complete() [S4] */
    return !(atomic_fetch_and_explicit(s, ~FR_JOIN_WAKER, memory_order_acq_rel) & FR_COMPLETE);
}

/* True for the first caller. */
static inline bool fr_state_set_observed(fr_state *s)
{
    /* acq_rel: the first observer may take the result out; the others come after it. Pairs with itself, that is
     * fr_state_set_observed(), and with fr_state_complete() [S4] */
    return !(atomic_fetch_or_explicit(s, FR_OBSERVED, memory_order_acq_rel) & FR_OBSERVED);
}

/* Takes RUNNING from a task that waits, to look at its coroutine (a dump). Give it back with fr_state_end_poll(), and
 * queue the task if that says so. The caller holds a reference. */
static inline bool fr_state_try_lock_idle(fr_state *s)
{
    /* relaxed: only a guess, the CAS checks it. */
    uint64_t cur = atomic_load_explicit(s, memory_order_relaxed);
    do {
        if (!fr_state_is_idle(cur)) {
            return false;
        }
        /* acquire pairs with fr_state_end_poll() [S2]; relaxed on failure: nothing was taken. */
    } while (
        !atomic_compare_exchange_weak_explicit(s, &cur, cur | FR_RUNNING, memory_order_acquire, memory_order_relaxed));
    return true;
}

static inline void fr_ref_inc(fr_state *s)
{
    /* relaxed: who has a reference to copy is already synchronised with the object's life. */
    uint64_t prev = atomic_fetch_add_explicit(s, FR_REF_ONE, memory_order_relaxed);
    assert(fr_state_refs(prev) > 0);
    (void)prev;
}

/* True: it was the last, the caller frees the task. */
static inline bool fr_ref_dec(fr_state *s)
{
    /* The only one left: nobody can make another out of none. acquire pairs with fr_ref_dec() of the others. */
    if (fr_state_refs(atomic_load_explicit(s, memory_order_acquire)) == 1) {
        return true;
    }
    /* acq_rel: everybody's use of the task comes before the free; pairs with fr_ref_dec() of the others. */
    uint64_t prev = atomic_fetch_sub_explicit(s, FR_REF_ONE, memory_order_acq_rel);
    assert(fr_state_refs(prev) > 0);
    return fr_state_refs(prev) == 1;
}

#endif
