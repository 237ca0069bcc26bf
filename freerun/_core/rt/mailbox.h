/* mailbox: a queue between interpreters: who has mail to give, who waits for some, who waits for room.
 *
 * The process's own memory: nothing here belongs to an interpreter, and who waits is woken through its own runtime's
 * driver, whichever interpreter that runs in.
 *
 * THREADS     any, for everything but init and destroy. A waiter's functions: its owner's thread.
 * STATE       attached thread state: allowed; never calls Python, never blocks but on `lock`.
 * OWNERSHIP   mail is opaque; what is in the queue is the mailbox's until it is popped. Waiters: see waiter.h.
 * FIELDS      all under `lock`; `length` is read by anybody, relaxed.
 *             waiter.load, busy  the owner's, before it is linked: how much it has to do already, and whether its worker is
 *             in a poll at this moment (odd); NULL: unknown. `*busy` is valid for as long as the waiter is linked.
 * INVARIANTS  MB1 A taker is linked only if the queue was open and empty (or reserved), a giver only if it was full and open; both looked
 *                 under `lock`. A push takes one taker out and wakes it, a pop one giver.
 *             MB2 Who was woken and goes away without having looked wakes the next one in its place (fr_mailbox_unwait()).
 *             MB3 The last `reserved` of what is in the queue is for takers that are on their way and have nothing to do yet: one
 *                 with a load leaves it. When the reserve shrinks somebody is woken, and who pops wakes the next one if
 *                 there is more.
 *             MB4 Nothing is pushed once `closed` is set, which is for ever; what is in the queue can still be popped.
 * LOCKS       `lock` is a leaf.
 * SHUTDOWN    fr_mailbox_close() wakes everybody.
 * PROVED BY   tests/interp/, tests/test_mailbox.c
 */
#ifndef FR_RT_MAILBOX_H
#define FR_RT_MAILBOX_H

#include "wakes.h"

struct fr_mail {
    struct fr_mail *next;
};

struct fr_mailbox_waiter {
    struct fr_waiter waiter;
    uint32_t load;
    const _Atomic uint64_t *busy;
};

enum fr_mailbox_side { FR_MAILBOX_TAKERS, FR_MAILBOX_GIVERS };

struct fr_mailbox {
    struct fr_mutex lock;
    bool closed;
    uint64_t capacity; /* UINT64_MAX: unbounded */
    uint64_t reserved; /* [MB3] */
    _Atomic uint64_t length;
    struct fr_mail *head, *tail;
    struct fr_node line[2]; /* by enum fr_mailbox_side */
    fr_wake wake;
};

void fr_mailbox_init(struct fr_mailbox *box, uint64_t capacity, fr_wake wake);

static inline uint64_t fr_mailbox_len(const struct fr_mailbox *box)
{
    return atomic_load_explicit(&box->length, memory_order_relaxed); /* a number to look at, nothing else */
}

/* Appends mail and wakes the least loaded taker. 0; -EAGAIN: full; -ESHUTDOWN: closed. */
int fr_mailbox_push(struct fr_mailbox *box, struct fr_mail *mail);
/* The oldest mail, or NULL with *err -EAGAIN (there is none now, for one with this load [MB3]) or -ESHUTDOWN (there will be
 * none). Wakes a giver. */
struct fr_mail *fr_mailbox_pop(struct fr_mailbox *box, uint32_t load, int *err);

/* A taker is on its way; it has come, or will not come. */
void fr_mailbox_reserve(struct fr_mailbox *box);
void fr_mailbox_unreserve(struct fr_mailbox *box);

/* Waits for mail, or for room: 0: look now; -EAGAIN: the waiter is linked, its task reference with it. */
int fr_mailbox_wait(struct fr_mailbox *box, enum fr_mailbox_side side, struct fr_mailbox_waiter *waiter);
/* Ends a wait that is given up. True: it was still linked, and its task reference is the caller's again. */
bool fr_mailbox_unwait(struct fr_mailbox *box, enum fr_mailbox_side side, struct fr_mailbox_waiter *waiter);

/* No more mail gets in; everybody who waits looks again. Idempotent. */
void fr_mailbox_close(struct fr_mailbox *box);

#endif
