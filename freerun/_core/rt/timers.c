#include "timers.h"

#include <errno.h>
#include <stdlib.h>

#define TICK_NS UINT64_C(1000000)

int fr_timers_init(struct fr_timers *timers, uint32_t nshards, uint64_t now_ns)
{
    *timers = (struct fr_timers){.nshards = nshards, .epoch_ns = now_ns};
    timers->shards = aligned_alloc(64, nshards * sizeof *timers->shards);
    if (!timers->shards) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < nshards; i++) {
        struct fr_timer_shard *shard = &timers->shards[i];
        fr_mutex_init(&shard->lock);
        fr_list_init(&shard->expired);
        fr_wheel_init(&shard->wheel, 0);
        atomic_init(&shard->next_ns, UINT64_MAX);
        atomic_init(&shard->attended, false);
        atomic_init(&shard->asked_ns, 0);
    }
    return 0;
}

void fr_timers_destroy(struct fr_timers *timers)
{
    free(timers->shards);
    timers->shards = NULL;
    timers->nshards = 0;
}

/* ---- ticks ---- */

static uint64_t tick_floor(const struct fr_timers *timers, uint64_t ns)
{
    return ns <= timers->epoch_ns ? 0 : (ns - timers->epoch_ns) / TICK_NS;
}

/* Rounded up, so that a timer never fires early. */
static uint64_t tick_ceil(const struct fr_timers *timers, uint64_t ns)
{
    return ns <= timers->epoch_ns ? 0 : (ns - timers->epoch_ns + TICK_NS - 1) / TICK_NS;
}

static uint64_t tick_to_ns(const struct fr_timers *timers, uint64_t tick)
{
    return tick > (UINT64_MAX - timers->epoch_ns) / TICK_NS ? UINT64_MAX : timers->epoch_ns + tick * TICK_NS;
}

uint64_t fr_timers_tick_after(const struct fr_timers *timers, uint64_t ns)
{
    return tick_to_ns(timers, tick_ceil(timers, ns));
}

/* ---- arming ---- */

/* True: who sleeps would sleep past it. */
static bool oversleeps(struct fr_timers *timers, uint64_t deadline_ns)
{
    /* seq_cst: pairs with fr_timers_begin_sleep() [TM1] */
    if (atomic_load_explicit(&timers->sleeping_until, memory_order_seq_cst) <= deadline_ns) {
        return false;
    }
    atomic_store_explicit(&timers->sleeping_until, deadline_ns, memory_order_relaxed); /* a kick follows [TM1] */
    return true;
}

bool fr_timers_arm(struct fr_timers *timers, uint32_t home, struct fr_sleep *sleep, uint64_t deadline_ns, void *task,
                   bool *kick)
{
    struct fr_timer_shard *shard = &timers->shards[home];
    uint64_t tick = tick_ceil(timers, deadline_ns), due_ns = tick_to_ns(timers, tick);
    *kick = false;
    sleep->home = (uint16_t)home;
    fr_mutex_lock(&shard->lock);
    atomic_store_explicit(&sleep->fired, false, memory_order_relaxed); /* its owner's: it is in no list yet */
    fr_timer_init(&sleep->timer);
    bool armed = sleep->armed = fr_wheel_insert(&shard->wheel, &sleep->timer, tick);
    sleep->task = task;
    /* relaxed: it changes under this lock only */
    if (armed && due_ns < atomic_load_explicit(&shard->next_ns, memory_order_relaxed)) {
        /* seq_cst: pairs with fr_timers_begin_sleep() [TM1] */
        atomic_store_explicit(&shard->next_ns, due_ns, memory_order_seq_cst);
        *kick = oversleeps(timers, due_ns);
    }
    fr_mutex_unlock(&shard->lock);
    return armed;
}

bool fr_timers_disarm(struct fr_timers *timers, struct fr_sleep *sleep)
{
    struct fr_timer_shard *shard = &timers->shards[sleep->home];
    fr_mutex_lock(&shard->lock);
    bool armed = sleep->armed;
    if (armed) {
        fr_wheel_remove(&shard->wheel, &sleep->timer);
        sleep->armed = false;
    }
    fr_mutex_unlock(&shard->lock); /* next_ns stays: whoever wakes for it finds nothing, and sets it right */
    return armed;
}

/* ---- firing ---- */

/* No timer of the shard is due before. What is left of the list of expired ones was due when next_ns said so, or later: others
 * may help with it. Else of two bounds the later: a slot of a coarse level may begin long before its first timer, and the one
 * that next_ns is of may be disarmed. It never falls here: [TM1] is for who arms. */
static uint64_t bound_locked(const struct fr_timers *timers, const struct fr_timer_shard *shard)
{
    uint64_t hint = atomic_load_explicit(&shard->next_ns, memory_order_relaxed); /* it changes under the lock only */
    if (!fr_list_is_empty(&shard->expired)) {
        return hint;
    }
    uint64_t tick = fr_wheel_next(&shard->wheel), next = tick == UINT64_MAX ? UINT64_MAX : tick_to_ns(timers, tick);
    return next > hint ? next : hint;
}

/* Moves due timers' tasks into `batch`; the fr_sleep belongs to its leaf again afterwards. */
static int take_expired_locked(struct fr_timer_shard *shard, void **batch)
{
    int n = 0;
    struct fr_timer *timer;
    while (n < FR_TIMERS_BATCH && (timer = fr_timer_pop_expired(&shard->expired))) {
        struct fr_sleep *sleep = (struct fr_sleep *)timer; /* its first member */
        sleep->armed = false;
        fr_prefetch(sleep->task, 1); /* it is woken when the batch is complete */
        batch[n++] = sleep->task;
        /* release, and last: pairs with fr_sleep_fired() [TM2] */
        atomic_store_explicit(&sleep->fired, true, memory_order_release);
    }
    return n;
}

int fr_timers_take(struct fr_timers *timers, uint32_t index, uint64_t now_ns, void **batch)
{
    struct fr_timer_shard *shard = &timers->shards[index];
    fr_mutex_lock(&shard->lock);
    if (fr_list_is_empty(&shard->expired)) {
        fr_wheel_advance(&shard->wheel, tick_floor(timers, now_ns), &shard->expired);
    }
    int n = take_expired_locked(shard, batch);
    /* relaxed: no earlier than it was, so nobody has to be told */
    atomic_store_explicit(&shard->next_ns, bound_locked(timers, shard), memory_order_relaxed);
    fr_mutex_unlock(&shard->lock);
    return n;
}

static bool is_attended(const struct fr_timer_shard *shard)
{
    return atomic_load_explicit(&shard->attended, memory_order_relaxed); /* a hint */
}

/* Until when what is due then is left to the shard's worker [TM3]. */
static uint64_t left_until(const struct fr_timer_shard *shard, uint64_t due_ns)
{
    if (due_ns == UINT64_MAX || !is_attended(shard)) {
        return due_ns;
    }
    uint64_t asked = atomic_load_explicit(&shard->asked_ns, memory_order_relaxed); /* a hint */
    return (due_ns > asked ? due_ns : asked) + FR_GRACE_NS;
}

bool fr_timers_are_left(const struct fr_timers *timers, uint32_t index, uint64_t now_ns)
{
    const struct fr_timer_shard *shard = &timers->shards[index];
    uint64_t next = atomic_load_explicit(&shard->next_ns, memory_order_relaxed); /* looked at again under the lock */
    return left_until(shard, next) > now_ns;
}

/* ---- sleeping ---- */

/* No timer is due before; *wake_ns: nor has anybody to see to one. */
static uint64_t first_due(const struct fr_timers *timers, uint64_t *wake_ns)
{
    uint64_t first = UINT64_MAX;
    *wake_ns = UINT64_MAX;
    for (uint32_t i = 0; i < timers->nshards; i++) {
        const struct fr_timer_shard *shard = &timers->shards[i];
        /* seq_cst: pairs with fr_timers_arm() [TM1] */
        uint64_t next = atomic_load_explicit(&shard->next_ns, memory_order_seq_cst);
        uint64_t left = left_until(shard, next);
        first = next < first ? next : first;
        *wake_ns = left < *wake_ns ? left : *wake_ns;
    }
    return first;
}

uint64_t fr_timers_begin_sleep(struct fr_timers *timers, uint64_t limit_ns)
{
    uint64_t wake_ns, until, first = first_due(timers, &wake_ns);
    do {
        until = first;
        /* seq_cst, and then look again: pairs with fr_timers_arm() [TM1] */
        atomic_store_explicit(&timers->sleeping_until, until < limit_ns ? until : limit_ns, memory_order_seq_cst);
        first = first_due(timers, &wake_ns);
    } while (first != until); /* later, too: who arms for a time in between has been told that it need not kick */
    return wake_ns < limit_ns ? wake_ns : limit_ns;
}

uint64_t fr_timers_next(struct fr_timers *timers)
{
    uint64_t first = UINT64_MAX;
    for (uint32_t i = 0; i < timers->nshards; i++) {
        struct fr_timer_shard *shard = &timers->shards[i];
        fr_mutex_lock(&shard->lock);
        uint64_t next = bound_locked(timers, shard);
        fr_mutex_unlock(&shard->lock);
        first = next < first ? next : first;
    }
    return first;
}
