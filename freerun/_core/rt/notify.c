#include "notify.h"

#include <errno.h>

void fr_notify_init(struct fr_notify *n, fr_wake wake)
{
    atomic_init(&n->word, 0);
    fr_mutex_init(&n->lock);
    fr_list_init(&n->line);
    n->wake = wake;
}

static uint64_t look(struct fr_notify *n)
{
    return atomic_load_explicit(&n->word, memory_order_acquire); /* pairs with move() */
}

/* acq_rel: what was done before a notification is seen by who is told, and the other way round; pairs with itself */
static bool move(struct fr_notify *n, uint64_t *from, uint64_t to)
{
    return atomic_compare_exchange_weak_explicit(&n->word, from, to, memory_order_acq_rel, memory_order_acquire);
}

/* Uses up what is stored, or finds out that it was told by a call since it was made. */
static bool was_told(struct fr_notify *n, struct fr_notify_waiter *waiter)
{
    uint64_t word = look(n);
    do {
        if (word / FR_NOTIFY_CALL != waiter->calls) {
            return true; /* and what is stored is for somebody else */
        }
        if (!(word & FR_NOTIFY_STORED)) {
            return false;
        }
    } while (!move(n, &word, word & ~FR_NOTIFY_STORED));
    return true;
}

int fr_notify_wait(struct fr_notify *n, struct fr_notify_waiter *waiter)
{
    if (was_told(n, waiter)) {
        return 0;
    }
    int err = -EAGAIN;
    fr_mutex_lock(&n->lock);
    uint64_t word = look(n);
    /* Told between the two looks, or WAITING [N1]: after that nobody stores any more without the lock. */
    while (err && !(word & FR_NOTIFY_WAITING)) {
        if (was_told(n, waiter)) {
            err = 0;
        } else {
            word &= ~FR_NOTIFY_STORED;
            move(n, &word, word | FR_NOTIFY_WAITING);
            word = look(n);
        }
    }
    if (err && word / FR_NOTIFY_CALL != waiter->calls) {
        err = 0;
    } else if (err) {
        waiter->told = FR_TOLD_NOTHING;
        fr_waiter_link_locked(&n->line, &waiter->waiter);
    }
    fr_mutex_unlock(&n->lock);
    return err;
}

static void not_waiting_locked(struct fr_notify *n)
{
    if (fr_list_is_empty(&n->line)) {                                                  /* [N1] */
        atomic_fetch_and_explicit(&n->word, ~FR_NOTIFY_WAITING, memory_order_acq_rel); /* pairs with move() */
    }
}

int fr_notify_poll(struct fr_notify *n, struct fr_notify_waiter *waiter, bool *released)
{
    *released = false;
    if (!fr_waiter_is_linked(&waiter->waiter)) {
        return 0;
    }
    if (fr_notify_calls(n) == waiter->calls) {
        return -EAGAIN;
    }
    fr_mutex_lock(&n->lock); /* somebody is about to wake it [N2]: it need not wait for that */
    *released = fr_waiter_unlink_locked(&waiter->waiter);
    fr_mutex_unlock(&n->lock);
    return 0;
}

/* Tells one of the line, which is not empty. */
static void tell_locked(struct fr_notify *n, enum fr_told how, struct fr_wakes *wakes)
{
    assert(fr_mutex_is_locked(&n->lock));
    struct fr_node *node = how == FR_TOLD_LAST ? n->line.prev : n->line.next;
    struct fr_notify_waiter *waiter = FR_CONTAINER_OF(node, struct fr_notify_waiter, waiter.node);
    waiter->told = how;
    fr_wakes_take_locked(wakes, &waiter->waiter);
    not_waiting_locked(n);
}

/* Tells one or stores it, and unlocks. */
static void tell_and_unlock(struct fr_notify *n, enum fr_told how)
{
    struct fr_wakes wakes;
    fr_wakes_init(&wakes);
    if (!fr_list_is_empty(&n->line)) {
        tell_locked(n, how, &wakes);
    } else {
        atomic_fetch_or_explicit(&n->word, FR_NOTIFY_STORED, memory_order_acq_rel); /* pairs with move() */
    }
    fr_mutex_unlock(&n->lock);
    fr_wakes_fire(&wakes, n->wake);
}

static void notify(struct fr_notify *n, enum fr_told how)
{
    uint64_t word = look(n);
    while (!(word & FR_NOTIFY_WAITING)) {
        if (move(n, &word, word | FR_NOTIFY_STORED)) { /* also if it is stored: what was done before must be seen */
            return;
        }
    }
    fr_mutex_lock(&n->lock);
    tell_and_unlock(n, how);
}

void fr_notify_one(struct fr_notify *n)
{
    notify(n, FR_TOLD_ONE);
}

void fr_notify_last(struct fr_notify *n)
{
    notify(n, FR_TOLD_LAST);
}

bool fr_notify_cancel(struct fr_notify *n, struct fr_notify_waiter *waiter)
{
    fr_mutex_lock(&n->lock);
    bool linked = fr_waiter_unlink_locked(&waiter->waiter);
    if (linked) {
        not_waiting_locked(n); /* it may have been in the list of fr_notify_waiters() instead: no harm */
    }
    enum fr_told told = linked ? FR_TOLD_NOTHING : waiter->told;
    waiter->told = FR_TOLD_NOTHING;
    if (told == FR_TOLD_ONE || told == FR_TOLD_LAST) {
        tell_and_unlock(n, told); /* [N3] */
    } else {
        fr_mutex_unlock(&n->lock);
    }
    return linked;
}

void fr_notify_waiters(struct fr_notify *n)
{
    struct fr_wakes wakes;
    struct fr_node told;
    bool more;
    fr_list_init(&told);
    fr_wakes_init(&wakes);
    fr_mutex_lock(&n->lock);
    atomic_fetch_add_explicit(&n->word, FR_NOTIFY_CALL, memory_order_acq_rel); /* pairs with move() [N2] */
    fr_list_splice(&told, &n->line);
    not_waiting_locked(n);
    do {
        struct fr_node *node;
        while (!fr_wakes_full(&wakes) && (node = fr_list_front(&told))) {
            struct fr_notify_waiter *waiter = FR_CONTAINER_OF(node, struct fr_notify_waiter, waiter.node);
            waiter->told = FR_TOLD_ALL;
            fr_wakes_take_locked(&wakes, &waiter->waiter);
        }
        more = !fr_list_is_empty(&told);
        fr_mutex_unlock(&n->lock);
        fr_wakes_fire(&wakes, n->wake);
        if (more) {
            fr_mutex_lock(&n->lock);
        }
    } while (more);
}
