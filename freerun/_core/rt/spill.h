/* spill: what did not fit into a worker's ring, a FIFO of any length. It stays the worker's: no other takes from it but a thief
 * that has decided to (rt/cost.h). Tokio puts such tasks into the injector, where whoever is idle takes them; with tasks of a
 * microsecond that costs more than it helps.
 *
 * THREADS     *_owner: the owning worker only. take: any. fr_spill_len(): any, racy.
 * STATE       attached thread state: allowed; the lock is held for a copy of some hundred pointers at the most.
 * OWNERSHIP   items are opaque, non-NULL, and hold no reference (state.h [S1]). The spill owns its chunks.
 * FIELDS      head, tail, the chunks   under lock
 *             spare  the owner's alone
 *             len    written under lock, release; read by any, seq_cst by who parks [SP1]
 * INVARIANTS  SP1 The half of Dekker's argument that is queue.h [Q5]: a pusher stores len, then loads the idle word; a parking
 *                 worker changes the idle word, then loads every len; all seq_cst.
 *             SP2 A push cannot fail: its memory was reserved before the ring gave anything away. One chunk is enough for it.
 *             SP3 An item is taken by the one who moved `begin` over it, under the lock.
 *             SP4 What its owner moves between the ring and here is in nobody's sight meanwhile. The owner is awake then, and
 *                 looks at the idle word again when it is done.
 * LOCKS       lock is a leaf; chunks are freed outside of it.
 * SHUTDOWN    the owner drains it as it drains its ring; then destroy, which only frees memory.
 * PROVED BY   tests/test_spill.c
 */
#ifndef FR_RT_SPILL_H
#define FR_RT_SPILL_H

#include "mutex.h"

#ifndef FR_SPILL_CHUNK
#define FR_SPILL_CHUNK 254 /* 2 KiB */
#endif

struct fr_spill_chunk;

struct fr_spill {
    _Alignas(FR_CACHE_LINE) struct fr_mutex lock;
    _Atomic uint32_t len;
    struct fr_spill_chunk *head, *tail;
    struct fr_spill_chunk *spare;
};

void fr_spill_init(struct fr_spill *spill);

/* Items left in it are forgotten. */
void fr_spill_destroy(struct fr_spill *spill);

/* Makes sure that the next push succeeds. 0 or -ENOMEM. */
int fr_spill_reserve_owner(struct fr_spill *spill);

/* After a reserve. 1 <= n <= FR_SPILL_CHUNK. */
void fr_spill_push_owner(struct fr_spill *spill, void *const *items, uint32_t n);

/* The oldest items, `most` at the most; how many. */
uint32_t fr_spill_take_owner(struct fr_spill *spill, void **items, uint32_t most);
uint32_t fr_spill_take(struct fr_spill *spill, void **items, uint32_t most);

static inline uint32_t fr_spill_len(const struct fr_spill *spill)
{
    /* seq_cst: [SP1] */
    return atomic_load_explicit(&spill->len, memory_order_seq_cst);
}

#endif
