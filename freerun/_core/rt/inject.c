#include "inject.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Index arithmetic: see inject.h, INVARIANTS. */
#define FR_INJECT_LAP      ((uint64_t)FR_INJECT_BLOCK + 1)
#define FR_INJECT_FLAG     ((uint64_t)1)
#define FR_INJECT_HAS_NEXT FR_INJECT_FLAG /* in head */
#define FR_INJECT_CLOSED   FR_INJECT_FLAG /* in tail */
#define FR_INJECT_ONE      ((uint64_t)2)

enum {
    FR_SLOT_WRITE = 1,   /* the item is there */
    FR_SLOT_READ = 2,    /* the item was taken */
    FR_SLOT_DESTROY = 4, /* the popper of this slot goes on with freeing the block */
};

static uint32_t fr_inject_offset(uint64_t index)
{
    return (uint32_t)((index >> 1) % FR_INJECT_LAP);
}

static uint64_t fr_inject_lap(uint64_t index)
{
    return (index >> 1) / FR_INJECT_LAP;
}

/* -- blocks ---------------------------------------------------------------------------------------------------- */

/* An empty block, from the spare place or from malloc. */
static struct fr_inject_block *fr_inject_block_new(struct fr_inject *q)
{
    /* relaxed: only a glance, to leave the line shared while it is empty; the exchange acquires. */
    if (atomic_load_explicit(&q->spare, memory_order_relaxed) != NULL) {
        /* acquire pairs with fr_inject_block_free() [J3] */
        struct fr_inject_block *block = atomic_exchange_explicit(&q->spare, NULL, memory_order_acquire);
        if (block != NULL) {
            memset(block, 0, sizeof(*block));
            return block;
        }
    }
    return calloc(1, sizeof(struct fr_inject_block));
}

static void fr_inject_block_free(struct fr_inject *q, struct fr_inject_block *block)
{
    struct fr_inject_block *none = NULL;
    /* release pairs with fr_inject_block_new() [J3]; relaxed on failure: nothing was published. */
    if (!atomic_compare_exchange_strong_explicit(&q->spare, &none, block, memory_order_release, memory_order_relaxed)) {
        free(block);
    }
}

/* Every slot from `start` on but the last gets READ or DESTROY; whoever finds them all READ frees the block [J3]. The
 * last slot is left out, since its popper is the one that begins. */
static void fr_inject_block_retire(struct fr_inject *q, struct fr_inject_block *block, uint32_t start)
{
    for (uint32_t i = start; i + 1 < FR_INJECT_BLOCK; i++) {
        _Atomic uint32_t *state = &block->slots[i].state;
        /* acquire and acq_rel pair with fr_inject_slot_take() [J3] */
        if (!(atomic_load_explicit(state, memory_order_acquire) & FR_SLOT_READ) &&
            !(atomic_fetch_or_explicit(state, FR_SLOT_DESTROY, memory_order_acq_rel) & FR_SLOT_READ)) {
            return; /* its popper goes on from here */
        }
    }
    fr_inject_block_free(q, block);
}

/* -- push ------------------------------------------------------------------------------------------------------ */

static void fr_inject_slot_put(struct fr_inject_slot *slot, void *item)
{
    assert(item != NULL);
    slot->item = item;
    /* An RMW, because DESTROY may be there already. release pairs with fr_inject_slot_take() [J3] */
    atomic_fetch_or_explicit(&slot->state, FR_SLOT_WRITE, memory_order_release);
}

/* We claimed the last slot of `full`, so the tail is ours [J1]: the reserved block comes after it. */
static void fr_inject_enter_block(struct fr_inject *q, struct fr_inject_block *full, struct fr_inject_block *reserved)
{
    /* Block, then index, then next: head can enter the new block only after tail has [J2].
     * release pairs with fr_inject_push_item() [J2] */
    atomic_store_explicit(&q->tail_block, reserved, memory_order_release);
    /* From the odd place to the first slot. An RMW, because CLOSED may be set at any time. seq_cst pairs with
     * fr_inject_is_empty() [J5] and fr_inject_push_item() */
    atomic_fetch_add_explicit(&q->tail, FR_INJECT_ONE, memory_order_seq_cst);
    /* release pairs with fr_inject_leave_block() [J2] */
    atomic_store_explicit(&full->next, reserved, memory_order_release);
}

static int fr_inject_push_item(struct fr_inject *q, void *item, bool force)
{
    struct fr_inject_block *reserved = NULL;
    int rc = -ESHUTDOWN;
    uint32_t step = 0;
    /* acquire pairs with fr_inject_enter_block() [J2]: the block loaded next is at least this index's. */
    uint64_t tail = atomic_load_explicit(&q->tail, memory_order_acquire);
    while (force || !(tail & FR_INJECT_CLOSED)) {
        uint32_t offset = fr_inject_offset(tail);
        if (offset == FR_INJECT_BLOCK) {
            fr_cpu_backoff(&step);
            /* acquire: as above [J2], fr_inject_enter_block(). */
            tail = atomic_load_explicit(&q->tail, memory_order_acquire);
            continue;
        }
        /* acquire pairs with fr_inject_enter_block() [J2] */
        struct fr_inject_block *block = atomic_load_explicit(&q->tail_block, memory_order_acquire);
        bool last = offset + 1 == FR_INJECT_BLOCK;
        if (last && reserved == NULL && (reserved = fr_inject_block_new(q)) == NULL) {
            return -ENOMEM; /* before the claim [J6] */
        }
        /* seq_cst pairs with fr_inject_is_empty() [J5] and fr_inject_close() [J4]; acquire on failure: as above [J2],
         * fr_inject_enter_block(). */
        if (!atomic_compare_exchange_weak_explicit(&q->tail, &tail, tail + FR_INJECT_ONE, memory_order_seq_cst,
                                                   memory_order_acquire)) {
            fr_cpu_relax();
            continue;
        }
        if (last) {
            fr_inject_enter_block(q, block, reserved);
            reserved = NULL;
        }
        /* The block may be freed as soon as its last slot is written: do not look at it afterwards. */
        fr_inject_slot_put(&block->slots[offset], item);
        rc = 0;
        break;
    }
    if (reserved != NULL) {
        fr_inject_block_free(q, reserved);
    }
    return rc;
}

int fr_inject_push(struct fr_inject *q, void *item)
{
    return fr_inject_push_item(q, item, false);
}

int fr_inject_push_force(struct fr_inject *q, void *item)
{
    return fr_inject_push_item(q, item, true);
}

/* -- pop ------------------------------------------------------------------------------------------------------- */

/* The item of a slot that we claimed, as soon as it is there. */
static inline void *fr_inject_slot_item(struct fr_inject_slot *slot)
{
    uint32_t step = 0;
    /* acquire pairs with fr_inject_slot_put() [J3] */
    while (!(atomic_load_explicit(&slot->state, memory_order_acquire) & FR_SLOT_WRITE)) {
        fr_cpu_backoff(&step);
    }
    return slot->item;
}

/* Takes the items of a block that we claimed from its first slot to its last: no other popper has to do with it, so no
 * slot needs READ [J3]. */
static void fr_inject_block_take(struct fr_inject *q, struct fr_inject_block *block, void **out)
{
    for (uint32_t i = 0; i < FR_INJECT_BLOCK; i++) {
        out[i] = fr_inject_slot_item(&block->slots[i]);
    }
    fr_inject_block_free(q, block);
}

/* Takes the item out of a slot that we claimed, and frees the block if that is our turn. */
static void *fr_inject_slot_take(struct fr_inject *q, struct fr_inject_block *block, uint32_t offset)
{
    struct fr_inject_slot *slot = &block->slots[offset];
    void *item = fr_inject_slot_item(slot);
    if (offset + 1 == FR_INJECT_BLOCK) {
        fr_inject_block_retire(q, block, 0);
        /* acq_rel pairs with fr_inject_block_retire() [J3] */
    } else if (atomic_fetch_or_explicit(&slot->state, FR_SLOT_READ, memory_order_acq_rel) & FR_SLOT_DESTROY) {
        fr_inject_block_retire(q, block, offset + 1);
    }
    return item;
}

/* We claimed the last slot of `block`, so the head is ours [J1]: move it to the next block. `head` is its index now. */
static void fr_inject_leave_block(struct fr_inject *q, struct fr_inject_block *block, uint64_t head)
{
    struct fr_inject_block *next;
    uint32_t step = 0;
    /* acquire pairs with fr_inject_enter_block() [J2] */
    while ((next = atomic_load_explicit(&block->next, memory_order_acquire)) == NULL) {
        fr_cpu_backoff(&step);
    }
    head = (head & ~FR_INJECT_HAS_NEXT) + FR_INJECT_ONE;
    /* relaxed: a hint, see fr_inject_claim() */
    if (atomic_load_explicit(&next->next, memory_order_relaxed) != NULL) {
        head |= FR_INJECT_HAS_NEXT;
    }
    /* Block before index [J2]. Both release, pair with fr_inject_claim() */
    atomic_store_explicit(&q->head_block, next, memory_order_release);
    atomic_store_explicit(&q->head, head, memory_order_release);
}

/* Claims up to max items in one block: returns how many, *block and *offset say where. 0: empty. */
static inline __attribute__((always_inline)) uint32_t fr_inject_claim(struct fr_inject *q, uint32_t max,
                                                                      struct fr_inject_block **block, uint32_t *offset)
{
    uint32_t step = 0;
    /* acquire pairs with fr_inject_leave_block() [J2] */
    uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire);
    for (;;) {
        *offset = fr_inject_offset(head);
        if (*offset == FR_INJECT_BLOCK) {
            fr_cpu_backoff(&step);
            /* acquire: as above [J2], fr_inject_leave_block(). */
            head = atomic_load_explicit(&q->head, memory_order_acquire);
            continue;
        }
        /* acquire pairs with fr_inject_leave_block() [J2] */
        *block = atomic_load_explicit(&q->head_block, memory_order_acquire);
        uint64_t flag = head & FR_INJECT_HAS_NEXT;
        uint32_t take = FR_INJECT_BLOCK - *offset;
        if (!flag) {
            /* seq_cst: "empty" must not be an old value; pairs with fr_inject_push() [J5] */
            uint64_t tail = atomic_load_explicit(&q->tail, memory_order_seq_cst);
            if (tail >> 1 == head >> 1) {
                return 0;
            }
            if (fr_inject_lap(tail) != fr_inject_lap(head)) {
                flag = FR_INJECT_HAS_NEXT;
            } else {
                take = (uint32_t)((tail >> 1) - (head >> 1));
            }
        }
        if (take > max) {
            take = max;
        }
        uint64_t next = (head | flag) + take * FR_INJECT_ONE;
        /* seq_cst pairs with fr_inject_is_empty() [J5], and with itself, fr_inject_claim(): who sees head moved also
         * sees the tail that allowed it [J2]. acquire on failure: as above. */
        if (!atomic_compare_exchange_weak_explicit(&q->head, &head, next, memory_order_seq_cst, memory_order_acquire)) {
            fr_cpu_relax();
            continue;
        }
        if (*offset + take == FR_INJECT_BLOCK) {
            fr_inject_leave_block(q, *block, next);
        }
        return take;
    }
}

void *fr_inject_pop(struct fr_inject *q)
{
    struct fr_inject_block *block;
    uint32_t offset;
    return fr_inject_claim(q, 1, &block, &offset) ? fr_inject_slot_take(q, block, offset) : NULL;
}

uint32_t fr_inject_pop_batch(struct fr_inject *q, void **out, uint32_t max)
{
    uint32_t got = 0;
    while (got < max) {
        struct fr_inject_block *block;
        uint32_t offset, n = fr_inject_claim(q, max - got, &block, &offset);
        if (n == 0) {
            break;
        }
        if (n == FR_INJECT_BLOCK) {
            fr_inject_block_take(q, block, out + got);
            got += n;
            continue;
        }
        /* The block lives until the last of our slots is READ [J3]. */
        for (uint32_t i = 0; i < n; i++) {
            out[got++] = fr_inject_slot_take(q, block, offset + i);
        }
    }
    return got;
}

/* -- life ------------------------------------------------------------------------------------------------------ */

int fr_inject_init(struct fr_inject *q)
{
    struct fr_inject_block *block = calloc(1, sizeof(*block));
    if (block == NULL) {
        return -ENOMEM;
    }
    atomic_init(&q->head, 0);
    atomic_init(&q->tail, 0);
    atomic_init(&q->head_block, block);
    atomic_init(&q->tail_block, block);
    atomic_init(&q->spare, NULL);
    return 0;
}

void fr_inject_destroy(struct fr_inject *q)
{
    /* relaxed throughout: the caller is alone. */
    struct fr_inject_block *block = atomic_load_explicit(&q->head_block, memory_order_relaxed);
    while (block != NULL) {
        struct fr_inject_block *next = atomic_load_explicit(&block->next, memory_order_relaxed);
        free(block);
        block = next;
    }
    free(atomic_load_explicit(&q->spare, memory_order_relaxed));
}

bool fr_inject_close(struct fr_inject *q)
{
    /* seq_cst pairs with fr_inject_push() [J4] */
    return !(atomic_fetch_or_explicit(&q->tail, FR_INJECT_CLOSED, memory_order_seq_cst) & FR_INJECT_CLOSED);
}

bool fr_inject_is_closed(const struct fr_inject *q)
{
    /* seq_cst pairs with fr_inject_close() [J4] */
    return atomic_load_explicit(&q->tail, memory_order_seq_cst) & FR_INJECT_CLOSED;
}

/* The items before an index: places minus one per lap. */
static uint64_t fr_inject_ordinal(uint64_t index)
{
    return (index >> 1) - fr_inject_lap(index);
}

uint64_t fr_inject_len(const struct fr_inject *q)
{
    /* acquire: head before tail, so the difference is not negative [J2], fr_inject_claim(). */
    uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire);
    /* relaxed: an estimate. */
    uint64_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
    return fr_inject_ordinal(tail) - fr_inject_ordinal(head);
}
