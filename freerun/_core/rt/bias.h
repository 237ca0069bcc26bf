/* bias: an owner passes short sections without an atomic read-modify-write, as long as nobody else wants to. Who does pays
 * for both: a barrier in every running thread of the process (membarrier(2), some microseconds). For what its owner does a
 * million times, and others now and then.
 *
 * THREADS     *_owner: one thread at a time, that which owns what is guarded. fr_bias_visit(), fr_bias_leave(): any, the owner
 *             outside of its sections, too. fr_bias_init(): alone.
 * STATE       attached thread state: allowed. A visitor waits for an owner that is inside a section: so, as with mutex.h, a
 *             section is a few dozen instructions, never blocks, never calls Python and never drops a reference.
 * OWNERSHIP   none.
 * FIELDS      word    visitors << 1 | READY. Visitors: RMWs; the owner: one CAS, READY -> 0. 0: the owner is alone.
 *             inside  owner: 1 in a section that it passes alone; store relaxed, 0 release. Visitors: load acquire.
 *             visits  visitors: grows by one each, or two at once: it is only seen to change; owner: reads.
 *             seen, calm   owner only
 * INVARIANTS  B1  The owner is in a section alone, or a visitor is between visit and leave; never both. The owner stores
 *                 inside, then loads word; a visitor changes word, then loads inside until that is 0. Of two such pairs one
 *                 sees the other if both have a full barrier between the two. The owner has none but one for the compiler:
 *                 barrier_all() is executed by the visitor on behalf of both, at some point of the owner's program. If
 *                 that lies before its store, the load comes later, too, and sees the word; else the visitor sees the store.
 *             B2  READY: since the owner was last alone some visitor has waited for it, and the word has not been 0 since. So
 *                 who comes next need not wait: a section that begins after that barrier sees the word.
 *             B3  Where word is not 0, the owner and visitors keep each other out by another way: a lock, an atomic RMW. They
 *                 come to it with what the other has done alone: release by inside and word, acquire by who reads these.
 *             B4  The owner is alone again after FR_BIAS_CALM sections without a visit, if no visitor is there at that
 *                 moment: one CAS. What visitors did it acquires with that.
 *             B5  Where the system has no such barrier, word is never 0.
 * LOCKS       none. A visitor may hold others, and take others: the owner takes none inside.
 * SHUTDOWN    nothing to destroy.
 * PROVED BY   tests/test_bias.c
 */
#ifndef FR_RT_BIAS_H
#define FR_RT_BIAS_H

#include "futex.h"

/* A visit costs as much as some three hundred sections save, and disturbs every running thread. */
#ifndef FR_BIAS_CALM
#define FR_BIAS_CALM 16384
#endif

enum { FR_BIAS_READY = 1, FR_BIAS_VISITOR = 2 };

struct fr_bias {
    _Atomic uint32_t inside;
    uint32_t seen, calm;
    /* Written rarely: not on the line that the owner writes all the time. */
    _Alignas(FR_CACHE_LINE) _Atomic uint32_t word;
    _Atomic uint32_t visits;
};

/* Asks the system for the barrier, once for the process: that takes 12 ms where there are other threads. False: there is none.
 * Else fr_bias_init() does. */
bool fr_bias_prepare(void);
void fr_bias_init(struct fr_bias *bias);

/* Others are, or have been, there: the owner goes out again, unless it can be alone from now on. */
bool fr_bias_enter_beside_owner(struct fr_bias *bias);

/* From now on the owner is in no section that it passes alone. */
void fr_bias_visit(struct fr_bias *bias);

/* True: the owner is inside, alone, until fr_bias_exit_owner(). False: it is not; others may be, see [B3]. */
static inline bool fr_bias_enter_owner(struct fr_bias *bias)
{
    /* relaxed: fr_bias_visit() sees to the order of the two [B1]; the fence keeps the compiler from changing it. */
    atomic_store_explicit(&bias->inside, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    /* relaxed: of 0 there is nothing to acquire, the owner has stored it itself */
    if (__builtin_expect(atomic_load_explicit(&bias->word, memory_order_relaxed) == 0, 1)) {
        return true;
    }
    return fr_bias_enter_beside_owner(bias);
}

static inline void fr_bias_exit_owner(struct fr_bias *bias)
{
    /* release pairs with fr_bias_visit() [B3] */
    atomic_store_explicit(&bias->inside, 0, memory_order_release);
}

static inline void fr_bias_leave(struct fr_bias *bias)
{
    /* release pairs with fr_bias_enter_beside_owner() [B4] */
    atomic_fetch_sub_explicit(&bias->word, FR_BIAS_VISITOR, memory_order_release);
}

#endif
