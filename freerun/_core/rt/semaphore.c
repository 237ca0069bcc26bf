#include "semaphore.h"

void fr_sem_init(struct fr_sem *sem, uint64_t permits, fr_wake wake)
{
    assert(permits <= FR_SEM_MAX);
    atomic_init(&sem->word, permits * FR_SEM_ONE);
    fr_mutex_init(&sem->lock);
    fr_list_init(&sem->line);
    sem->wake = wake;
}

static struct fr_sem_waiter *head_locked(struct fr_sem *sem)
{
    assert(fr_mutex_is_locked(&sem->lock));
    struct fr_node *node = fr_list_front(&sem->line);
    return node ? FR_CONTAINER_OF(node, struct fr_sem_waiter, waiter.node) : NULL;
}

/* The line has become empty [SE1]. The word's permits are 0 and stay so until this clears QUEUED [SE2]. */
static void unqueue_locked(struct fr_sem *sem)
{
    /* relaxed: it gives nothing away, and who took permits out of the word before did so with acquire */
    atomic_fetch_and_explicit(&sem->word, ~FR_SEM_QUEUED, memory_order_relaxed);
}

/* Adds permits that nobody waits for. */
static bool add_free_locked(struct fr_sem *sem, uint64_t n)
{
    uint64_t word = atomic_load_explicit(&sem->word, memory_order_relaxed), sum; /* a guess, the CAS checks it */
    do {
        sum = word / FR_SEM_ONE + n;
        sum = sum > FR_SEM_MAX ? FR_SEM_MAX : sum; /* n <= FR_SEM_MAX, so it cannot wrap */
        /* release: pairs with fr_sem_try_acquire() and fr_sem_available() */
    } while (!atomic_compare_exchange_weak_explicit(&sem->word, &word, sum * FR_SEM_ONE + word % FR_SEM_ONE,
                                                    memory_order_release, memory_order_relaxed));
    return word / FR_SEM_ONE + n <= FR_SEM_MAX;
}

/* Hands out n permits from the head of the line on, and leaves when the batch is full; what is left of n. */
static uint64_t assign_locked(struct fr_sem *sem, uint64_t n, struct fr_wakes *wakes)
{
    struct fr_sem_waiter *head;
    while (n > 0 && !fr_wakes_full(wakes) && (head = head_locked(sem))) {
        uint64_t given = n < head->needed ? n : head->needed;
        head->needed -= given;
        n -= given;
        if (head->needed == 0) {
            fr_wakes_take_locked(wakes, &head->waiter);
        }
    }
    return n;
}

/* Gives n permits, unlocks, and wakes who has got all that it asked for. */
static bool give_and_unlock(struct fr_sem *sem, uint64_t n)
{
    struct fr_wakes wakes;
    bool fits = true;
    fr_wakes_init(&wakes);
    for (;;) {
        bool queued = !fr_list_is_empty(&sem->line);
        n = assign_locked(sem, n, &wakes);
        bool more = n > 0 && !fr_list_is_empty(&sem->line);
        if (queued && fr_list_is_empty(&sem->line)) {
            unqueue_locked(sem);
        }
        if (n > 0 && !more) {
            fits = add_free_locked(sem, n);
        }
        fr_mutex_unlock(&sem->lock);
        fr_wakes_fire(&wakes, sem->wake);
        if (!more) {
            return fits;
        }
        fr_mutex_lock(&sem->lock);
    }
}

bool fr_sem_release_slow(struct fr_sem *sem, uint64_t n)
{
    assert(n <= FR_SEM_MAX);
    fr_mutex_lock(&sem->lock);
    return give_and_unlock(sem, n);
}

void fr_sem_release_up_to(struct fr_sem *sem, const _Atomic uint64_t *total, _Atomic uint64_t *given)
{
    fr_mutex_lock(&sem->lock);
    uint64_t now = atomic_load_explicit(total, memory_order_acquire);     /* as if its writer had released them */
    uint64_t n = now - atomic_load_explicit(given, memory_order_relaxed); /* written under this very lock */
    if (n == 0) {
        fr_mutex_unlock(&sem->lock);
        return;
    }
    atomic_store_explicit(given, now, memory_order_relaxed);
    give_and_unlock(sem, n);
}

/* Takes up to n of the free permits, and sets QUEUED if that is not all. -ESHUTDOWN, or how many are missing. */
static int64_t take_or_queue_locked(struct fr_sem *sem, uint64_t n)
{
    uint64_t word = atomic_load_explicit(&sem->word, memory_order_relaxed), taken, queued; /* a guess */
    do {
        if (word & FR_SEM_CLOSED) {
            return -ESHUTDOWN;
        }
        taken = word / FR_SEM_ONE < n ? word / FR_SEM_ONE : n;
        queued = taken < n ? FR_SEM_QUEUED : 0;
        /* acquire: pairs with fr_sem_release() */
    } while (!atomic_compare_exchange_weak_explicit(&sem->word, &word, (word - taken * FR_SEM_ONE) | queued,
                                                    memory_order_acquire, memory_order_relaxed));
    return (int64_t)(n - taken);
}

int fr_sem_acquire_slow(struct fr_sem *sem, struct fr_sem_waiter *waiter, uint64_t n)
{
    assert(n <= FR_SEM_MAX);
    fr_mutex_lock(&sem->lock);
    int64_t missing = take_or_queue_locked(sem, n);
    if (missing > 0) {
        waiter->asked = n;
        waiter->needed = (uint64_t)missing;
        fr_waiter_link_locked(&sem->line, &waiter->waiter);
    }
    fr_mutex_unlock(&sem->lock);
    return missing > 0 ? -EAGAIN : (int)missing;
}

bool fr_sem_cancel(struct fr_sem *sem, struct fr_sem_waiter *waiter)
{
    fr_mutex_lock(&sem->lock);
    bool linked = fr_waiter_unlink_locked(&waiter->waiter);
    if (linked && fr_list_is_empty(&sem->line)) {
        unqueue_locked(sem);
    }
    uint64_t held = waiter->asked - waiter->needed;
    waiter->asked = waiter->needed = 0;
    if (held > 0) {
        give_and_unlock(sem, held);
    } else {
        fr_mutex_unlock(&sem->lock);
    }
    return linked;
}

uint64_t fr_sem_forget(struct fr_sem *sem, uint64_t n)
{
    uint64_t word = atomic_load_explicit(&sem->word, memory_order_relaxed), taken; /* a guess, the CAS checks it */
    do {
        taken = word / FR_SEM_ONE < n ? word / FR_SEM_ONE : n;
        /* acquire: as if they had been acquired and never released; pairs with fr_sem_release() */
    } while (!atomic_compare_exchange_weak_explicit(&sem->word, &word, word - taken * FR_SEM_ONE, memory_order_acquire,
                                                    memory_order_relaxed));
    return taken;
}

void fr_sem_close(struct fr_sem *sem)
{
    struct fr_wakes wakes;
    bool more;
    fr_wakes_init(&wakes);
    fr_mutex_lock(&sem->lock);
    /* release: what came before the close is seen by who finds it closed; pairs with fr_sem_is_closed() */
    atomic_fetch_or_explicit(&sem->word, FR_SEM_CLOSED, memory_order_release);
    do {
        struct fr_sem_waiter *head;
        while (!fr_wakes_full(&wakes) && (head = head_locked(sem))) {
            fr_wakes_take_locked(&wakes, &head->waiter); /* with needed > 0 [SE3] */
        }
        more = !fr_list_is_empty(&sem->line);
        if (!more) {
            unqueue_locked(sem);
        }
        fr_mutex_unlock(&sem->lock);
        fr_wakes_fire(&wakes, sem->wake);
        if (more) {
            fr_mutex_lock(&sem->lock);
        }
    } while (more);
}
