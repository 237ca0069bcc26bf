/* queue: a worker's run queue, a bounded ring with one owner and many thieves. Tokio's queue.rs, but for the overflow, which
 * goes where the caller says.
 *
 * THREADS     *_owner: the owning worker only. fr_queue_steal(): any but the owner.
 *             fr_queue_len(), fr_queue_pushed(): any, racy.
 * STATE       attached thread state: not needed; never calls Python, never blocks.
 * OWNERSHIP   items are opaque, non-NULL, and hold no reference (state.h [S1]).
 * FIELDS      head  (steal << 32 | real). Owner and thieves: CAS acq_rel. Owner alone: store release [Q6].
 *                   real is the next item to pop; [steal, real) is what a thief has claimed and is still copying.
 *             tail  owner only: store release. Thieves: load acquire. Who parks: load seq_cst [Q5].
 *             slots relaxed atomics: the owner writes, owner and thieves read. A thief's read may lose the race for
 *                   the claim in no case: it reads only after its CAS, and the owner writes it again only after [Q3].
 * INVARIANTS  All indices are free-running u32; slot = index mod CAP.
 *             Q1  0 <= tail - steal <= CAP, and steal <= real <= tail, modulo 2^32.
 *             Q2  steal == real <=> no thief is at work. One thief at a time; others give up.
 *             Q3  The owner writes a slot only when tail - steal < CAP, with steal read acquire: the last reader of
 *                 that slot has finished.
 *             Q4  A slot is read by the one whose CAS moved real over it, and by nobody else.
 *             Q5  Dekker with idle.h [I2]: a pusher stores tail; if another worker may have to run what it pushed, it then
 *                 calls fr_idle_worker_to_notify(): a fence and a load of the idle word, both seq_cst. A parking worker RMWs
 *                 the idle word (seq_cst), then loads every tail (seq_cst, fr_queue_len()). In the single order of seq_cst
 *                 the fence or the load of tail comes first, so either the pusher sees the parked worker
 *                 and wakes it or the parking worker sees the item. fr_queue_len() reads head before tail, which errs only
 *                 upwards.
 *                 While the owner overflows the ring looks empty for a moment; the owner is awake then and its
 *                 store of tail at the end starts the argument anew.
 *             Q6  Alone: no thief is in fr_queue_steal(), nor comes in meanwhile; bias.h sees to that, or there is none. Then
 *                 steal == real [Q2], and the owner pops without an RMW.
 *             Q7  Nothing is lost on overflow: whoever calls fr_queue_overflow_owner() has reserved room for what it gives up.
 * LOCKS       none.
 * SHUTDOWN    its owner pops until it is empty.
 * PROVED BY   tests/test_queue.c, with bias.h
 */
#ifndef FR_RT_QUEUE_H
#define FR_RT_QUEUE_H

#include "futex.h"
#include <assert.h>

#ifndef FR_QUEUE_CAP
#define FR_QUEUE_CAP 256
#endif
_Static_assert(FR_QUEUE_CAP >= 2 && (FR_QUEUE_CAP & (FR_QUEUE_CAP - 1)) == 0, "capacity: a power of two");

#define FR_QUEUE_MASK  ((uint32_t)FR_QUEUE_CAP - 1)
#define FR_QUEUE_SPLIT ((uint32_t)FR_QUEUE_CAP / 2 + 1) /* what an overflow gives up at the most */

struct fr_queue {
    _Alignas(FR_CACHE_LINE) _Atomic uint64_t head;
    _Alignas(FR_CACHE_LINE) _Atomic uint32_t tail;
    _Alignas(FR_CACHE_LINE) _Atomic(void *) slots[FR_QUEUE_CAP];
};

void fr_queue_init(struct fr_queue *q);

/* Takes the older half of another's queue (rounded up), at most `most`, into `out`. Returns how many; 0 when it is empty, or
 * another thief is at it. */
uint32_t fr_queue_steal(struct fr_queue *src, void **out, uint32_t most);

/* After a push that found no room. 0: pushed, as a thief has made room. Else this many items, the new one the last of them, are
 * in `out` (of FR_QUEUE_SPLIT) and the caller's: half of the ring and the new one or, if a thief is at work, only that. */
uint32_t fr_queue_overflow_owner(struct fr_queue *q, void *item, void **out);

static inline uint64_t fr_queue_pack(uint32_t steal, uint32_t real)
{
    return (uint64_t)steal << 32 | real;
}

static inline uint32_t fr_queue_head_steal(uint64_t head)
{
    return (uint32_t)(head >> 32);
}

static inline uint32_t fr_queue_head_real(uint64_t head)
{
    return (uint32_t)head;
}

static inline void fr_queue_slot_set(struct fr_queue *q, uint32_t index, void *item)
{
    /* relaxed: published by the store of tail that follows [Q3]. */
    atomic_store_explicit(&q->slots[index & FR_QUEUE_MASK], item, memory_order_relaxed);
}

static inline void *fr_queue_slot_get(const struct fr_queue *q, uint32_t index)
{
    /* relaxed: the owner reads what it wrote; a thief has loaded tail acquire [Q4]. */
    return atomic_load_explicit(&q->slots[index & FR_QUEUE_MASK], memory_order_relaxed);
}

static inline uint32_t fr_queue_tail_owner(const struct fr_queue *q)
{
    /* relaxed: only the owner writes it. */
    return atomic_load_explicit(&q->tail, memory_order_relaxed);
}

/* How many items fit before a push overflows. At least that many: thieves only make room. */
static inline uint32_t fr_queue_space_owner(const struct fr_queue *q)
{
    /* acquire pairs with fr_queue_steal() [Q3] */
    uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire);
    return FR_QUEUE_CAP - (fr_queue_tail_owner(q) - fr_queue_head_steal(head));
}

/* False: there is no room. */
static inline bool fr_queue_push_owner(struct fr_queue *q, void *item)
{
    if (__builtin_expect(fr_queue_space_owner(q) == 0, 0)) {
        return false;
    }
    uint32_t tail = fr_queue_tail_owner(q);
    fr_queue_slot_set(q, tail, item);
    /* release pairs with fr_queue_steal() [Q4] and, by the fence that follows, with fr_queue_len() [Q5] */
    atomic_store_explicit(&q->tail, tail + 1, memory_order_release);
    return true;
}

/* Pushes as many of the n items, in order, as fit; returns how many. Never overflows. */
static inline uint32_t fr_queue_push_batch_owner(struct fr_queue *q, void *const *items, uint32_t n)
{
    uint32_t space = fr_queue_space_owner(q), tail = fr_queue_tail_owner(q);
    if (n > space) {
        n = space;
    }
    if (n == 0) {
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        fr_queue_slot_set(q, tail + i, items[i]);
    }
    /* release pairs with fr_queue_steal() [Q4] and, by the fence that follows, with fr_queue_len() [Q5] */
    atomic_store_explicit(&q->tail, tail + n, memory_order_release);
    return n;
}

/* The oldest item, or NULL. */
static inline void *fr_queue_pop_owner(struct fr_queue *q)
{
    uint32_t tail = fr_queue_tail_owner(q);
    /* acquire pairs with fr_queue_steal() [Q2]: when it has made steal == real, its reads are over. */
    uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire);
    for (;;) {
        uint32_t steal = fr_queue_head_steal(head), real = fr_queue_head_real(head);
        if (real == tail) {
            return NULL;
        }
        /* A thief at work keeps its claim [steal, real); otherwise both move [Q2]. */
        uint64_t next = fr_queue_pack(steal == real ? real + 1 : steal, real + 1);
        /* acq_rel/acquire pair with fr_queue_steal() [Q2] [Q4] */
        if (atomic_compare_exchange_weak_explicit(&q->head, &head, next, memory_order_acq_rel, memory_order_acquire)) {
            return fr_queue_slot_get(q, real);
        }
    }
}

/* As fr_queue_pop_owner(), alone [Q6]. */
static inline void *fr_queue_pop_alone_owner(struct fr_queue *q)
{
    /* relaxed: nobody else writes head meanwhile, and whoever did before has been waited for [Q6]. */
    uint32_t real = fr_queue_head_real(atomic_load_explicit(&q->head, memory_order_relaxed));
    if (real == fr_queue_tail_owner(q)) {
        return NULL;
    }
    void *item = fr_queue_slot_get(q, real);
    /* release pairs with fr_queue_len(), which must not see this head with an older tail. */
    atomic_store_explicit(&q->head, fr_queue_pack(real + 1, real + 1), memory_order_release);
    return item;
}

/* How many items may be popped or stolen; racy for anyone but the owner, where it may err upwards [Q5]. */
static inline uint32_t fr_queue_len(const struct fr_queue *q)
{
    /* acquire: head before tail [Q5]; pairs with fr_queue_pop_owner(). */
    uint32_t real = fr_queue_head_real(atomic_load_explicit(&q->head, memory_order_acquire));
    /* seq_cst pairs with fr_queue_push_owner() [Q5] */
    uint32_t len = atomic_load_explicit(&q->tail, memory_order_seq_cst) - real;
    return len > FR_QUEUE_CAP ? FR_QUEUE_CAP : len;
}

/* Grows with every push, by one or, on overflow, by more; modulo 2^32. For a look from outside whether the owner uses it. */
static inline uint32_t fr_queue_pushed(const struct fr_queue *q)
{
    /* relaxed: a heuristic; nothing is read through it. */
    return atomic_load_explicit(&q->tail, memory_order_relaxed);
}

#endif
