#include "queue.h"

#define FR_QUEUE_HALF ((uint32_t)FR_QUEUE_CAP / 2)

void fr_queue_init(struct fr_queue *q)
{
    atomic_init(&q->head, 0);
    atomic_init(&q->tail, 0);
    for (uint32_t i = 0; i < FR_QUEUE_CAP; i++) {
        atomic_init(&q->slots[i], NULL);
    }
}

/* The ring is full and wholly ours, items [real, real + CAP): the first half stays, the second is given up with the new item
 * behind it. The second, because what comes back from an overflow is pulled into the first half: so nothing goes back and
 * forth before it has run. The half that stays need not be moved: its indices grow by CAP, its slots are the same. */
static void split_owner(struct fr_queue *q, uint32_t real, void *item, void **out)
{
    for (uint32_t i = 0; i < FR_QUEUE_HALF; i++) {
        out[i] = fr_queue_slot_get(q, real + FR_QUEUE_HALF + i);
    }
    out[FR_QUEUE_HALF] = item;
    /* release pairs with fr_queue_steal() [Q4] and, by the fence that follows, with fr_queue_len() [Q5] */
    atomic_store_explicit(&q->tail, real + FR_QUEUE_CAP + FR_QUEUE_HALF, memory_order_release);
}

uint32_t fr_queue_overflow_owner(struct fr_queue *q, void *item, void **out)
{
    if (fr_queue_push_owner(q, item)) {
        return 0; /* a thief has just made room */
    }
    /* acquire pairs with fr_queue_steal() [Q3] */
    uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire);
    uint32_t steal = fr_queue_head_steal(head), real = fr_queue_head_real(head);
    /* Claim everything, unless a thief is making room; one that loaded the old head fails its CAS [Q4].
     * release: pairs with fr_queue_steal(), which must not see this head with an older tail. relaxed on failure: the
     * head is not looked at again. */
    if (steal == real && fr_queue_tail_owner(q) - real == FR_QUEUE_CAP &&
        atomic_compare_exchange_strong_explicit(&q->head, &head,
                                                fr_queue_pack(real + FR_QUEUE_CAP, real + FR_QUEUE_CAP),
                                                memory_order_release, memory_order_relaxed)) {
        split_owner(q, real, item, out);
        return FR_QUEUE_SPLIT;
    }
    if (fr_queue_push_owner(q, item)) {
        return 0;
    }
    out[0] = item;
    return 1;
}

/* Claims half of src, `most` at the most. Returns how many (0: nothing to be had), the first at index *from; src's head then is
 * (*from, *from + n) until fr_queue_unclaim_steal(). */
static uint32_t fr_queue_claim_steal(struct fr_queue *src, uint32_t most, uint32_t *from)
{
    /* acquire pairs with fr_queue_overflow_owner() and fr_queue_pop_owner() [Q1]: tail is not older than head. */
    uint64_t head = atomic_load_explicit(&src->head, memory_order_acquire);
    for (;;) {
        uint32_t steal = fr_queue_head_steal(head), real = fr_queue_head_real(head);
        if (steal != real) {
            return 0; /* [Q2] */
        }
        /* acquire pairs with fr_queue_push_owner() [Q4] */
        uint32_t avail = atomic_load_explicit(&src->tail, memory_order_acquire) - real, n = avail - avail / 2;
        if (n > most) {
            n = most;
        }
        if (n == 0) {
            return 0;
        }
        /* acq_rel/acquire pair with fr_queue_pop_owner() [Q2] [Q4] */
        if (atomic_compare_exchange_weak_explicit(&src->head, &head, fr_queue_pack(steal, real + n),
                                                  memory_order_acq_rel, memory_order_acquire)) {
            /* Head had not moved, so neither had the owner overflowed between our two loads. */
            assert(n <= FR_QUEUE_CAP - FR_QUEUE_HALF);
            *from = real;
            return n;
        }
    }
}

/* The copy is made: gives the slots back to the owner, which may have popped on beyond our claim. */
static void fr_queue_unclaim_steal(struct fr_queue *src)
{
    /* relaxed: only a guess, the CAS checks it. */
    uint64_t head = atomic_load_explicit(&src->head, memory_order_relaxed);
    uint64_t next;
    do {
        uint32_t real = fr_queue_head_real(head);
        assert(fr_queue_head_steal(head) != real);
        next = fr_queue_pack(real, real);
        /* acq_rel pairs with fr_queue_space_owner() [Q3] and fr_queue_pop_owner() [Q2]; relaxed on failure: nothing
         * was given back. */
    } while (
        !atomic_compare_exchange_weak_explicit(&src->head, &head, next, memory_order_acq_rel, memory_order_relaxed));
}

uint32_t fr_queue_steal(struct fr_queue *src, void **out, uint32_t most)
{
    uint32_t from, n = fr_queue_claim_steal(src, most, &from);
    if (n) {
        for (uint32_t i = 0; i < n; i++) {
            out[i] = fr_queue_slot_get(src, from + i);
        }
        fr_queue_unclaim_steal(src);
    }
    return n;
}
