/* mailbox: see mailbox.h. */
#include "mailbox.h"

#include <errno.h>

void fr_mailbox_init(struct fr_mailbox *box, uint64_t capacity, fr_wake wake)
{
    fr_mutex_init(&box->lock);
    box->closed = false;
    box->capacity = capacity;
    box->reserved = 0;
    atomic_init(&box->length, 0);
    box->head = box->tail = NULL;
    fr_list_init(&box->line[FR_MAILBOX_TAKERS]);
    fr_list_init(&box->line[FR_MAILBOX_GIVERS]);
    box->wake = wake;
}

static struct fr_mailbox_waiter *waiter_of(struct fr_node *node)
{
    return FR_CONTAINER_OF(FR_CONTAINER_OF(node, struct fr_waiter, node), struct fr_mailbox_waiter, waiter);
}

/* How badly a waiter is placed: one whose worker is in a poll will look late. */
static uint64_t burden(const struct fr_mailbox_waiter *waiter)
{
    /* relaxed: a guess, which costs time if it is wrong */
    bool busy = waiter->busy && (atomic_load_explicit(waiter->busy, memory_order_relaxed) & 1);
    return ((uint64_t)busy << 32) + waiter->load;
}

/* The oldest of those with the least to do. */
static void take_least_locked(struct fr_mailbox *box, enum fr_mailbox_side side, struct fr_wakes *wakes)
{
    struct fr_mailbox_waiter *least = NULL;
    for (struct fr_node *node = box->line[side].next; node != &box->line[side]; node = node->next) {
        struct fr_mailbox_waiter *waiter = waiter_of(node);
        if (!least || burden(waiter) < burden(least)) {
            least = waiter;
        }
    }
    if (least) {
        fr_wakes_take_locked(wakes, &least->waiter);
    }
}

static uint64_t length_locked(const struct fr_mailbox *box)
{
    return atomic_load_explicit(&box->length, memory_order_relaxed); /* written under `lock` */
}

int fr_mailbox_push(struct fr_mailbox *box, struct fr_mail *mail)
{
    struct fr_wakes wakes;
    fr_wakes_init(&wakes);
    mail->next = NULL;
    fr_mutex_lock(&box->lock);
    uint64_t length = length_locked(box);
    int err = box->closed ? -ESHUTDOWN : length >= box->capacity ? -EAGAIN : 0;
    if (!err) {
        if (box->tail) {
            box->tail->next = mail;
        } else {
            box->head = mail;
        }
        box->tail = mail;
        atomic_store_explicit(&box->length, length + 1, memory_order_relaxed); /* under `lock` */
        take_least_locked(box, FR_MAILBOX_TAKERS, &wakes);
    }
    fr_mutex_unlock(&box->lock);
    fr_wakes_fire(&wakes, box->wake);
    return err;
}

/* Whether there is mail for a taker with this load [MB3]. */
static bool mail_locked(const struct fr_mailbox *box, uint32_t load)
{
    return box->head && (load == 0 || box->closed || length_locked(box) > box->reserved);
}

struct fr_mail *fr_mailbox_pop(struct fr_mailbox *box, uint32_t load, int *err)
{
    struct fr_wakes wakes;
    fr_wakes_init(&wakes);
    fr_mutex_lock(&box->lock);
    struct fr_mail *mail = mail_locked(box, load) ? box->head : NULL;
    *err = mail ? 0 : box->closed ? -ESHUTDOWN : -EAGAIN;
    if (mail) {
        box->head = mail->next;
        if (!box->head) {
            box->tail = NULL;
        }
        atomic_store_explicit(&box->length, length_locked(box) - 1, memory_order_relaxed); /* under `lock` */
        take_least_locked(box, FR_MAILBOX_GIVERS, &wakes);
        if (mail_locked(box, 1)) {
            take_least_locked(box, FR_MAILBOX_TAKERS, &wakes);
        }
    }
    fr_mutex_unlock(&box->lock);
    fr_wakes_fire(&wakes, box->wake);
    return mail;
}

void fr_mailbox_reserve(struct fr_mailbox *box)
{
    fr_mutex_lock(&box->lock);
    box->reserved++;
    fr_mutex_unlock(&box->lock);
}

void fr_mailbox_unreserve(struct fr_mailbox *box)
{
    struct fr_wakes wakes;
    fr_wakes_init(&wakes);
    fr_mutex_lock(&box->lock);
    box->reserved--;
    if (mail_locked(box, 1)) {
        take_least_locked(box, FR_MAILBOX_TAKERS, &wakes);
    }
    fr_mutex_unlock(&box->lock);
    fr_wakes_fire(&wakes, box->wake);
}

/* Whether who waits on this side has something to look at. */
static bool ready_locked(const struct fr_mailbox *box, enum fr_mailbox_side side, uint32_t load)
{
    return box->closed || (side == FR_MAILBOX_TAKERS ? mail_locked(box, load) : length_locked(box) < box->capacity);
}

int fr_mailbox_wait(struct fr_mailbox *box, enum fr_mailbox_side side, struct fr_mailbox_waiter *waiter)
{
    fr_mutex_lock(&box->lock);
    bool ready = ready_locked(box, side, waiter->load);
    if (!ready) {
        fr_waiter_link_locked(&box->line[side], &waiter->waiter);
    }
    fr_mutex_unlock(&box->lock);
    return ready ? 0 : -EAGAIN;
}

bool fr_mailbox_unwait(struct fr_mailbox *box, enum fr_mailbox_side side, struct fr_mailbox_waiter *waiter)
{
    struct fr_wakes wakes;
    fr_wakes_init(&wakes);
    fr_mutex_lock(&box->lock);
    bool linked = fr_waiter_unlink_locked(&waiter->waiter);
    if (!linked && ready_locked(box, side, waiter->load)) { /* [MB2] */
        take_least_locked(box, side, &wakes);
    }
    fr_mutex_unlock(&box->lock);
    fr_wakes_fire(&wakes, box->wake);
    return linked;
}

void fr_mailbox_close(struct fr_mailbox *box)
{
    struct fr_wakes wakes;
    bool full;
    do {
        fr_wakes_init(&wakes);
        fr_mutex_lock(&box->lock);
        box->closed = true;
        for (int side = 0; side < 2; side++) {
            while (!fr_wakes_full(&wakes) && !fr_list_is_empty(&box->line[side])) {
                fr_wakes_take_locked(&wakes, &waiter_of(fr_list_front(&box->line[side]))->waiter);
            }
        }
        full = fr_wakes_full(&wakes);
        fr_mutex_unlock(&box->lock);
        fr_wakes_fire(&wakes, box->wake);
    } while (full);
}
