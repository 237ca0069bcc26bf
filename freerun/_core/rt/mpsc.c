#include "mpsc.h"

#include <stdlib.h>

void fr_mpsc_init(struct fr_mpsc *q, uint64_t capacity, fr_wake wake)
{
    fr_sem_init(&q->room, capacity, wake);
    q->capacity = capacity;
    fr_mutex_init(&q->lock);
    atomic_init(&q->flags, 0);
    atomic_init(&q->pushed, 0);
    atomic_init(&q->popped, 0);
    atomic_init(&q->spare, NULL);
    atomic_init(&q->given, 0);
    atomic_init(&q->stalled, false);
    q->seen = 0;
    q->head = q->tail = NULL;
    fr_list_init(&q->receiver);
    fr_list_init(&q->leaving);
}

void fr_mpsc_destroy(struct fr_mpsc *q)
{
    while (q->head) {
        struct fr_mpsc_block *block = q->head;
        q->head = block->next;
        free(block);
    }
    free(atomic_load_explicit(&q->spare, memory_order_acquire)); /* pairs with put_spare() */
}

static struct fr_mpsc_block *take_spare(struct fr_mpsc *q)
{
    /* relaxed: only whether it is worth the exchange. acquire: its last user is done with it; pairs with put_spare() */
    return atomic_load_explicit(&q->spare, memory_order_relaxed)
               ? atomic_exchange_explicit(&q->spare, NULL, memory_order_acquire)
               : NULL;
}

static void put_spare(struct fr_mpsc *q, struct fr_mpsc_block *block)
{
    /* acq_rel: release hands the block over, acquire takes the one that was there; pairs with take_spare() */
    free(atomic_exchange_explicit(&q->spare, block, memory_order_acq_rel));
}

/* Takes the waiting receiver out of its list, if there is one: to be woken outside of the lock. */
static void take_receiver_locked(struct fr_mpsc *q, struct fr_wakes *wakes)
{
    assert(fr_mutex_is_locked(&q->lock));
    struct fr_node *node = fr_list_front(&q->receiver);
    if (node) {
        fr_wakes_take_locked(wakes, FR_CONTAINER_OF(node, struct fr_waiter, node));
    }
}

/* ---- senders ---- */

void fr_mpsc_collect_slow(struct fr_mpsc *q)
{
    fr_sem_release_up_to(&q->room, &q->popped, &q->given);
}

void fr_mpsc_stall(struct fr_mpsc *q)
{
    /* seq_cst, both: pairs with fr_mpsc_pop_many() [Q14] */
    atomic_store_explicit(&q->stalled, true, memory_order_seq_cst);
    if (atomic_load_explicit(&q->popped, memory_order_seq_cst) !=
        atomic_load_explicit(&q->given, memory_order_relaxed)) { /* relaxed: see fr_mpsc_collect() */
        fr_mpsc_collect_slow(q);
    }
}

int fr_mpsc_reserve(struct fr_mpsc *q, struct fr_sem_waiter *waiter, uint64_t n)
{
    int err = fr_mpsc_try_reserve(q, n);
    if (err == -EAGAIN && (err = fr_sem_acquire(&q->room, waiter, n)) == -EAGAIN) {
        fr_mpsc_stall(q);
    }
    return err;
}

uint64_t fr_mpsc_available(struct fr_mpsc *q)
{
    fr_mpsc_collect(q);
    return fr_sem_available(&q->room);
}

/* Nobody gets room any more, and what comes back of it decides on the end [Q13]. */
static bool collect_for_end(struct fr_mpsc *q)
{
    bool closed = fr_sem_is_closed(&q->room);
    if (closed) {
        fr_mpsc_collect(q);
    }
    return closed;
}

static bool ended_locked(struct fr_mpsc *q)
{
    uint32_t flags = atomic_load_explicit(&q->flags, memory_order_relaxed); /* written under this very lock */
    if (flags & (FR_MPSC_TX_CLOSED | FR_MPSC_RX_GONE)) {
        return true;
    }
    return flags & FR_MPSC_RX_CLOSED && (!q->capacity || fr_sem_available(&q->room) == q->capacity); /* [Q13] */
}

static bool refuses_locked(struct fr_mpsc *q)
{
    uint32_t refusing = FR_MPSC_TX_CLOSED | FR_MPSC_RX_GONE | (q->capacity ? 0 : FR_MPSC_RX_CLOSED); /* [Q12] */
    return atomic_load_explicit(&q->flags, memory_order_relaxed) & refusing; /* written under this very lock */
}

/* Appends an empty block. `n` messages were pushed so far. */
static void append_locked(struct fr_mpsc *q, struct fr_mpsc_block *block)
{
    block->next = NULL;
    if (q->tail) {
        q->tail->next = block;
    } else {
        q->head = block;
    }
    q->tail = block;
}

/* Locks, with room for one message in the last block. 0, -ENOMEM or -ESHUTDOWN; not locked then. *unused: a block that
 * turned out not to be needed, to be put away outside of the lock. */
static int lock_with_slot(struct fr_mpsc *q, struct fr_mpsc_block **unused)
{
    struct fr_mpsc_block *block = NULL;
    int err;
    for (;;) {
        fr_mutex_lock(&q->lock);
        err = refuses_locked(q) ? -ESHUTDOWN : 0;
        /* relaxed: written under this very lock */
        if (err || atomic_load_explicit(&q->pushed, memory_order_relaxed) % FR_MPSC_BLOCK != 0) {
            break;
        }
        if (block || (block = take_spare(q))) {
            append_locked(q, block);
            block = NULL;
            break;
        }
        fr_mutex_unlock(&q->lock);
        if (!(block = malloc(sizeof *block))) { /* never under the lock */
            return -ENOMEM;
        }
    }
    if (err) {
        fr_mutex_unlock(&q->lock);
    }
    *unused = block;
    return err;
}

int fr_mpsc_push(struct fr_mpsc *q, void *value)
{
    struct fr_mpsc_block *unused = NULL;
    int err = lock_with_slot(q, &unused);
    if (!err) {
        struct fr_wakes wakes;
        fr_wakes_init(&wakes);
        uint64_t n = atomic_load_explicit(&q->pushed, memory_order_relaxed); /* written under this very lock */
        q->tail->slots[n % FR_MPSC_BLOCK] = value;
        atomic_store_explicit(&q->pushed, n + 1, memory_order_release); /* pairs with fr_mpsc_pop_many() [Q10] */
        take_receiver_locked(q, &wakes);                                /* [Q11] */
        fr_mutex_unlock(&q->lock);
        fr_wakes_fire(&wakes, q->room.wake);
    }
    if (unused) {
        put_spare(q, unused);
    }
    return err;
}

void fr_mpsc_release(struct fr_mpsc *q, uint64_t n)
{
    if (n) {
        fr_sem_release(&q->room, n);
    }
    if (!collect_for_end(q)) {
        return;
    }
    struct fr_wakes wakes;
    fr_wakes_init(&wakes);
    fr_mutex_lock(&q->lock); /* after the release: of several who release, the last one here sees all of it [Q11] */
    if (ended_locked(q)) {
        take_receiver_locked(q, &wakes);
    }
    fr_mutex_unlock(&q->lock);
    fr_wakes_fire(&wakes, q->room.wake);
}

void fr_mpsc_close_tx(struct fr_mpsc *q)
{
    struct fr_wakes wakes;
    fr_wakes_init(&wakes);
    fr_mutex_lock(&q->lock);
    atomic_fetch_or_explicit(&q->flags, FR_MPSC_TX_CLOSED, memory_order_release); /* pairs with fr_mpsc_flags() */
    take_receiver_locked(q, &wakes);                                              /* [Q11] */
    fr_mutex_unlock(&q->lock);
    fr_wakes_fire(&wakes, q->room.wake);
    fr_sem_close(&q->room); /* whoever waits for room on a sender that somebody closed */
}

int fr_mpsc_wait_closed(struct fr_mpsc *q, struct fr_waiter *waiter)
{
    fr_mutex_lock(&q->lock);
    /* relaxed: written under this very lock */
    bool closed = atomic_load_explicit(&q->flags, memory_order_relaxed) & FR_MPSC_RX_CLOSED;
    if (!closed) {
        fr_waiter_link_locked(&q->leaving, waiter);
    }
    fr_mutex_unlock(&q->lock);
    return closed ? 0 : -EAGAIN;
}

bool fr_mpsc_unwait(struct fr_mpsc *q, struct fr_waiter *waiter)
{
    fr_mutex_lock(&q->lock);
    bool linked = fr_waiter_unlink_locked(waiter);
    fr_mutex_unlock(&q->lock);
    return linked;
}

/* ---- the receiver ---- */

/* The block of message n, which has been pushed: leaves the one before it if n is its first [Q10]. */
static struct fr_mpsc_block *block_of(struct fr_mpsc *q, uint64_t n)
{
    if (n % FR_MPSC_BLOCK == 0 && n > 0) {
        struct fr_mpsc_block *done = q->head;
        q->head = done->next;
        put_spare(q, done);
    }
    return q->head;
}

/* Senders wait: they get at once what is taken from now on, one by one if need be. */
static void serve_stalled(struct fr_mpsc *q)
{
    /* seq_cst, both: pairs with fr_mpsc_stall() [Q14] */
    atomic_store_explicit(&q->stalled, false, memory_order_seq_cst);
    fr_mpsc_collect_slow(q);
    if (fr_sem_is_queued(&q->room)) {
        atomic_store_explicit(&q->stalled, true, memory_order_seq_cst);
    }
}

/* `popped` says so from now on, and who waits for the room gets it. */
static void set_popped(struct fr_mpsc *q, uint64_t popped)
{
    if (!q->capacity) {
        atomic_store_explicit(&q->popped, popped, memory_order_release); /* pairs with fr_mpsc_len() */
        return;
    }
    /* seq_cst, both: pairs with fr_mpsc_stall() [Q14] */
    atomic_store_explicit(&q->popped, popped, memory_order_seq_cst);
    if (__builtin_expect(atomic_load_explicit(&q->stalled, memory_order_seq_cst), 0)) {
        serve_stalled(q);
    }
}

uint64_t fr_mpsc_pop_many(struct fr_mpsc *q, void **out, uint64_t max)
{
    uint64_t n = atomic_load_explicit(&q->popped, memory_order_relaxed); /* written by the receiver, that is here */
    if (q->seen - n < max) {
        q->seen = atomic_load_explicit(&q->pushed, memory_order_acquire); /* pairs with fr_mpsc_push() [Q10] */
    }
    uint64_t taken = q->seen - n < max ? q->seen - n : max;
    for (uint64_t i = 0; i < taken; i++) {
        out[i] = block_of(q, n + i)->slots[(n + i) % FR_MPSC_BLOCK];
    }
    if (taken) {
        set_popped(q, n + taken);
    }
    return taken;
}

void *fr_mpsc_pop(struct fr_mpsc *q)
{
    void *value;
    return fr_mpsc_pop_many(q, &value, 1) ? value : NULL;
}

int fr_mpsc_end(struct fr_mpsc *q)
{
    collect_for_end(q);
    fr_mutex_lock(&q->lock);
    bool ended = fr_mpsc_len(q) == 0 && ended_locked(q);
    fr_mutex_unlock(&q->lock);
    return ended ? -ESHUTDOWN : 0;
}

/* Makes way for the one waiter. *replaced: see fr_mpsc_wait(). */
static bool make_way_locked(struct fr_mpsc *q, struct fr_waiter *waiter, bool (*may_replace)(void *waiting, void *task),
                            void **replaced)
{
    struct fr_node *node = fr_list_front(&q->receiver);
    if (!node) {
        return true;
    }
    struct fr_waiter *other = FR_CONTAINER_OF(node, struct fr_waiter, node);
    if (!other->task || !waiter->task || !may_replace(other->task, waiter->task)) {
        return false;
    }
    *replaced = other->task;
    return fr_waiter_unlink_locked(other);
}

int fr_mpsc_wait(struct fr_mpsc *q, struct fr_waiter *waiter, bool (*may_replace)(void *waiting, void *task),
                 void **replaced)
{
    int err = 0;
    *replaced = NULL;
    collect_for_end(q);
    fr_mutex_lock(&q->lock);
    if (!make_way_locked(q, waiter, may_replace, replaced)) {
        err = -EBUSY;
    } else if (fr_mpsc_len(q) == 0 && ended_locked(q)) {
        err = -ESHUTDOWN;
    } else if (fr_mpsc_len(q) == 0) {
        fr_waiter_link_locked(&q->receiver, waiter); /* [Q11] */
        err = -EAGAIN;
    }
    fr_mutex_unlock(&q->lock);
    return err;
}

/* Sets the flags and wakes who waits for the receiver to close, and the receiver itself. */
static void leave(struct fr_mpsc *q, uint32_t flags)
{
    struct fr_wakes wakes;
    bool more;
    fr_sem_close(&q->room); /* first: whoever finds the flags set relies on it that nobody gets a new permit [Q13] */
    fr_wakes_init(&wakes);
    do {
        struct fr_node *node;
        fr_mutex_lock(&q->lock);
        atomic_fetch_or_explicit(&q->flags, flags, memory_order_release); /* pairs with fr_mpsc_flags() */
        take_receiver_locked(q, &wakes);
        while (!fr_wakes_full(&wakes) && (node = fr_list_front(&q->leaving))) {
            fr_wakes_take_locked(&wakes, FR_CONTAINER_OF(node, struct fr_waiter, node));
        }
        more = !fr_list_is_empty(&q->leaving);
        fr_mutex_unlock(&q->lock);
        fr_wakes_fire(&wakes, q->room.wake);
    } while (more);
}

void fr_mpsc_close_rx(struct fr_mpsc *q)
{
    leave(q, FR_MPSC_RX_CLOSED);
}

void fr_mpsc_leave_rx(struct fr_mpsc *q)
{
    leave(q, FR_MPSC_RX_CLOSED | FR_MPSC_RX_GONE);
}

int fr_mpsc_visit(struct fr_mpsc *q, int (*visit)(void *value, void *arg), void *arg)
{
    /* relaxed, twice: nobody writes them now */
    uint64_t pushed = atomic_load_explicit(&q->pushed, memory_order_relaxed);
    struct fr_mpsc_block *block = q->head;
    uint64_t first = atomic_load_explicit(&q->popped, memory_order_relaxed);
    int result = 0;
    for (uint64_t n = first; n < pushed && !result; n++) {
        if (n % FR_MPSC_BLOCK == 0 && n > 0) { /* as in block_of(): `head` is the block before still */
            block = block->next;
        }
        result = visit(block->slots[n % FR_MPSC_BLOCK], arg);
    }
    return result;
}
