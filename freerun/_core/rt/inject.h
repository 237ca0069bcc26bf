/* inject: the runtime's injector, an unbounded multi-producer multi-consumer FIFO with a closed bit.
 *
 * The algorithm is that of crossbeam's SegQueue, with the mark bit of its list channel: a linked list of blocks, a
 * ticket from a CAS on head or tail, and three bits per slot which decide who frees the block. No epochs, no hazards.
 * A popper's CAS claims a run of slots, not just one, so a batch costs little more than one item.
 *
 * THREADS     push, pop, close, len, is_empty: any. init, destroy: alone.
 * STATE       attached thread state: allowed; never calls Python. Not wait-free: a pop which got the ticket of a push
 *             that was preempted in the middle spins (yielding the core) until that push goes on.
 * OWNERSHIP   items are opaque and non-NULL; the queue owns nothing. It frees its blocks.
 * FIELDS      head  poppers: CAS seq_cst to claim; the one that claimed a block's last slot: store release.
 *                   Index << 1 | HAS_NEXT (head's block is not the last, so tail need not be read).
 *             head_block  the popper that claimed a block's last slot: store release.
 *             tail  pushers: CAS seq_cst to claim; the one that claimed a block's last slot: fetch_add seq_cst;
 *                   fr_inject_close(): fetch_or seq_cst. Index << 1 | CLOSED.
 *             tail_block  the pusher that claimed a block's last slot: store release.
 *             spare one unused block: exchange acquire to take, CAS release to put.
 *             slot.item   plain: its pusher before WRITE, its popper after.
 *             slot.state  pusher: fetch_or WRITE release; popper: fetch_or READ; the freeing thread: fetch_or DESTROY.
 *             block.next  the pusher that claimed the block's last slot, once, release.
 * INVARIANTS  An index counts FR_INJECT_BLOCK + 1 places per block (a "lap"); the last place is no slot.
 *             J1  Index at that last place: the end in question is locked by the thread that is changing blocks;
 *                 everybody else waits. It allocated beforehand, so the wait has no malloc in it.
 *             J2  head <= tail, and the block pointer is stored before the index which enters the block: so a CAS
 *                 that succeeds on an index vouches for the block pointer loaded after that index.
 *             J3  A block is freed exactly once, after each of its slots was read: by the reader of the last slot or
 *                 by the slowest reader, to whom DESTROY hands the duty. Who claimed all of its slots in one run is
 *                 both, and marks none of them: the waits for WRITE are the last that pushers have to do with the
 *                 block, and head left it with the claim.
 *             J4  close is a point in tail's modification order: a push that claimed before it was accepted and will
 *                 be popped by whoever drains until empty, one that comes after is refused.
 *             J5  A push is seq_cst on tail before the pusher loads the idle word, and fr_inject_is_empty() loads
 *                 tail seq_cst: this is the Dekker pair of idle.h [I2].
 *             J6  -ENOMEM comes before the claim: nothing was pushed.
 * LOCKS       none.
 * SHUTDOWN    close refuses foreign submitters; workers go on with *_force until they have drained everything;
 *             then destroy, which only frees memory.
 * PROVED BY   tests/test_inject.c
 */
#ifndef FR_RT_INJECT_H
#define FR_RT_INJECT_H

#include "futex.h"

#ifndef FR_INJECT_BLOCK
#define FR_INJECT_BLOCK 63 /* with next, 1 KiB; and a lap of 64 makes the divisions shifts */
#endif
_Static_assert(FR_INJECT_BLOCK >= 1, "a block has at least one slot");

struct fr_inject_slot {
    void *item;
    _Atomic uint32_t state;
};

struct fr_inject_block {
    _Atomic(struct fr_inject_block *) next;
    struct fr_inject_slot slots[FR_INJECT_BLOCK];
};

struct fr_inject {
    _Alignas(FR_CACHE_LINE) _Atomic uint64_t head;
    _Atomic(struct fr_inject_block *) head_block;
    _Alignas(FR_CACHE_LINE) _Atomic uint64_t tail;
    _Atomic(struct fr_inject_block *) tail_block;
    _Alignas(FR_CACHE_LINE) _Atomic(struct fr_inject_block *) spare;
};

/* 0 or -ENOMEM. */
int fr_inject_init(struct fr_inject *q);

/* Frees the blocks; the queue should be empty, since items left in it are forgotten. */
void fr_inject_destroy(struct fr_inject *q);

/* 0, -ESHUTDOWN (closed) or -ENOMEM. For threads that are not workers of this runtime. */
int fr_inject_push(struct fr_inject *q, void *item);

/* 0 or -ENOMEM, closed or not: for workers, who drain the queue after it is closed. */
int fr_inject_push_force(struct fr_inject *q, void *item);

/* The oldest item, or NULL. */
void *fr_inject_pop(struct fr_inject *q);

/* Up to max of the oldest items, in order; returns how many. */
uint32_t fr_inject_pop_batch(struct fr_inject *q, void **out, uint32_t max);

/* True for the first closer. */
bool fr_inject_close(struct fr_inject *q);

bool fr_inject_is_closed(const struct fr_inject *q);

/* Approximate while others push and pop. */
uint64_t fr_inject_len(const struct fr_inject *q);

/* Never says "empty" while an item is there whose push is before this call in the order of seq_cst [J5]. May say
 * "not empty" for a moment after the last pop. */
static inline bool fr_inject_is_empty(const struct fr_inject *q)
{
    /* Head first: head <= tail, so an item that was there all along cannot be missed [J2].
     * Both seq_cst: pair with fr_inject_push() and fr_inject_push_force() [J5]. */
    uint64_t head = atomic_load_explicit(&q->head, memory_order_seq_cst);
    uint64_t tail = atomic_load_explicit(&q->tail, memory_order_seq_cst);
    return head >> 1 == tail >> 1;
}

#endif
