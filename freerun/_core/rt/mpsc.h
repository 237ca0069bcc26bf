/* mpsc: the queue of a channel, from many senders to one receiver, and the waits of both. Tokio: sync/mpsc.
 *
 * A message needs room first, a permit of the semaphore `room`, unless the channel is unbounded; taking the message gives
 * it back. Senders append to a list of blocks under `lock`; the receiver takes from its other end without it.
 *
 * On two cores a message costs what the two ends must tell each other, so they tell it in bulk: the receiver counts what it
 * takes in a line of its own, and who finds no room collects from there for all senders; the receiver looks at the senders'
 * count once it has taken all that it knew of. Only a sender that waits is served at once.
 *
 * THREADS     push, release, the ends of senders and whoever waits for the close: any. pop, wait, the receiver's ends: one
 *             thread at a time, which the caller sees to. len: any.
 * STATE       attached thread state: allowed; never calls Python, never blocks but on `lock`.
 * OWNERSHIP   values are opaque and non-NULL; the queue owns nothing but its blocks. Waiters: see waiter.h.
 * FIELDS      room       the batch semaphore; unbounded channels leave it alone
 *             pushed     under `lock`: store release; read by anybody, acquire
 *             popped     the receiver: store release, seq_cst if bounded [Q14]; read by anybody, acquire
 *             seen       the receiver's: what it knows of `pushed`
 *             given      how far `popped` was given back to `room`, under room.lock; read by anybody, relaxed
 *             stalled    a sender may wait for room: seq_cst, set by who does, cleared by the receiver [Q14]
 *             tail       under `lock`
 *             head       the first pusher, before it publishes `pushed` = 1; after that the receiver
 *             block.next under `lock`, before a message behind it is published
 *             spare      a block for reuse: exchange acq_rel by anybody
 *             flags      under `lock`: fetch_or release; read by anybody, acquire
 *             receiver   a list of at most one: who waits for a message. Under `lock`
 *             leaving    those who wait for the receiver to close. Under `lock`
 * INVARIANTS  Q10 Slots [popped, pushed) hold the messages, in order of the pushes; slot n is in the block that was
 *                 linked n / FR_MPSC_BLOCK-th. The receiver leaves a block when it takes the first message of the next.
 *             Q11 A waiting receiver was put in its list under `lock` with nothing to take and the end not reached; who
 *                 pushes, and who brings the end nearer, looks at that list under `lock` afterwards. So no wake-up is
 *                 lost.
 *             Q12 Nothing is pushed once RX_GONE or TX_CLOSED is set; unbounded: once RX_CLOSED is set. All are set
 *                 under `lock` and never cleared. Bounded: RX_CLOSED closes `room`; what has its permit still gets in.
 *             Q13 The end: TX_CLOSED and empty; or RX_CLOSED, empty, and nobody has a permit that may yet be sent with
 *                 (every permit is back in `room`; who asks collects first, before it takes `lock`).
 *             Q14 Free room is what is free in `room` and popped - given. Nobody says that there is none without having
 *                 collected, and nobody sleeps for it while there is some: a sender links its waiter, sets `stalled`, then
 *                 reads `popped`; the receiver writes `popped`, then reads `stalled`; all seq_cst, so one of them sees the
 *                 other and collects. The receiver clears `stalled` first, collects under room.lock, and sets it again if
 *                 somebody is still in line: a sender whose mark it wiped out had linked before, so it is seen there.
 * LOCKS       `lock` is a leaf; room.lock is not taken under it, nor the other way round.
 * SHUTDOWN    fr_mpsc_destroy() when nobody has the channel any more, after the receiver has taken what is in it.
 * PROVED BY   tests/test_mpsc.c; Q14 there and in tests/model/room.pml
 */
#ifndef FR_RT_MPSC_H
#define FR_RT_MPSC_H

#include "semaphore.h"

#ifndef FR_MPSC_BLOCK
#define FR_MPSC_BLOCK 32
#endif
_Static_assert(FR_MPSC_BLOCK >= 1, "a block has at least one slot");

#define FR_MPSC_TX_CLOSED 1u
#define FR_MPSC_RX_CLOSED 2u
#define FR_MPSC_RX_GONE   4u

struct fr_mpsc_block {
    struct fr_mpsc_block *next;
    void *slots[FR_MPSC_BLOCK];
};

struct fr_mpsc {
    /* the senders write here */
    struct fr_sem room;
    _Atomic uint64_t given;
    _Alignas(FR_CACHE_LINE) struct fr_mutex lock;
    _Atomic uint64_t pushed;
    struct fr_mpsc_block *tail;
    struct fr_node receiver;
    _Atomic(struct fr_mpsc_block *) spare;
    /* seldom written */
    _Alignas(FR_CACHE_LINE) uint64_t capacity; /* 0: unbounded */
    _Atomic uint32_t flags;
    _Atomic bool stalled;
    struct fr_node leaving;
    /* the receiver writes here */
    _Alignas(FR_CACHE_LINE) _Atomic uint64_t popped;
    uint64_t seen;
    struct fr_mpsc_block *head;
};

/* capacity 0: unbounded. */
void fr_mpsc_init(struct fr_mpsc *q, uint64_t capacity, fr_wake wake);

/* Frees the blocks; the queue should be empty, since values left in it are forgotten. */
void fr_mpsc_destroy(struct fr_mpsc *q);

static inline uint32_t fr_mpsc_flags(const struct fr_mpsc *q)
{
    return atomic_load_explicit(&q->flags, memory_order_acquire); /* pairs with fr_mpsc_close_rx() and its kin */
}

static inline uint64_t fr_mpsc_len(const struct fr_mpsc *q)
{
    /* acquire, and popped first: it never passes `pushed`, so the difference is not negative; pairs with fr_mpsc_push()
     * and fr_mpsc_pop() */
    uint64_t popped = atomic_load_explicit(&q->popped, memory_order_acquire);
    return atomic_load_explicit(&q->pushed, memory_order_acquire) - popped;
}

/* ---- senders ---- */

void fr_mpsc_collect_slow(struct fr_mpsc *q);

/* Gives the room of what was taken to `room`, and so to who waits for it [Q14]. */
static inline void fr_mpsc_collect(struct fr_mpsc *q)
{
    /* acquire: pairs with fr_mpsc_pop_many(). relaxed: it never passes `popped`, so if it is equal all was given */
    if (atomic_load_explicit(&q->popped, memory_order_acquire) !=
        atomic_load_explicit(&q->given, memory_order_relaxed)) {
        fr_mpsc_collect_slow(q);
    }
}

/* Permits of `room` for n messages: 0, -EAGAIN (not enough) or -ESHUTDOWN (closed). */
static inline int fr_mpsc_try_reserve(struct fr_mpsc *q, uint64_t n)
{
    int err = fr_sem_try_acquire(&q->room, n);
    if (__builtin_expect(err == -EAGAIN, 0)) {
        fr_mpsc_collect(q);
        err = fr_sem_try_acquire(&q->room, n);
    }
    return err;
}

/* To be called by who has put a waiter in the line of `room`, before it sleeps [Q14]. */
void fr_mpsc_stall(struct fr_mpsc *q);

/* As fr_mpsc_try_reserve(), but with -EAGAIN the waiter is in line. */
int fr_mpsc_reserve(struct fr_mpsc *q, struct fr_sem_waiter *waiter, uint64_t n);

/* For how many messages there is room. */
uint64_t fr_mpsc_available(struct fr_mpsc *q);

/* Appends a value and wakes the receiver. A bounded channel's caller has a permit of `room`, and keeps it on failure:
 * -ESHUTDOWN (nobody will receive it [Q12]) or -ENOMEM. */
int fr_mpsc_push(struct fr_mpsc *q, void *value);

/* Gives room back that no message has used. Also to be called with 0, by who has given permits back by itself (a waiter
 * that was cancelled, or found the channel closed): the receiver of a closed channel may have reached the end. */
void fr_mpsc_release(struct fr_mpsc *q, uint64_t n);

/* The last sender is gone: TX_CLOSED. */
void fr_mpsc_close_tx(struct fr_mpsc *q);

/* Waits for RX_CLOSED: 0 it is set; -EAGAIN: the waiter is linked. */
int fr_mpsc_wait_closed(struct fr_mpsc *q, struct fr_waiter *waiter);
/* Ends that wait. True: it was still linked, its task reference is the caller's again. */
bool fr_mpsc_unwait(struct fr_mpsc *q, struct fr_waiter *waiter);

/* ---- the receiver ---- */

/* The oldest value, whose room it gives back; NULL if there is none. */
void *fr_mpsc_pop(struct fr_mpsc *q);
/* Up to `max` of them. */
uint64_t fr_mpsc_pop_many(struct fr_mpsc *q, void **out, uint64_t max);

/* -ESHUTDOWN: the queue is empty and nothing will come any more. 0: something is there, or may come yet. */
int fr_mpsc_end(struct fr_mpsc *q);

/* Waits for a message: 0: there is one; -ESHUTDOWN: there will be none; -EAGAIN: the waiter is linked; -EBUSY: somebody
 * else waits, and may_replace(its task, this waiter's task) was false, or it is a thread. Else that one was taken out,
 * and *replaced is its task reference. */
int fr_mpsc_wait(struct fr_mpsc *q, struct fr_waiter *waiter, bool (*may_replace)(void *waiting, void *task),
                 void **replaced);

/* No more messages but those which have their room already: RX_CLOSED. Idempotent. */
void fr_mpsc_close_rx(struct fr_mpsc *q);
/* No more messages at all: RX_GONE as well. The caller then pops what is left. */
void fr_mpsc_leave_rx(struct fr_mpsc *q);

/* Calls visit(value, arg) on everything in the queue until it returns non-zero, which is then returned. Only while no
 * thread is inside of any of these functions: the garbage collector's. */
int fr_mpsc_visit(struct fr_mpsc *q, int (*visit)(void *value, void *arg), void *arg);

#endif
