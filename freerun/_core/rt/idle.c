#include "idle.h"

#include <assert.h>
#include <stdlib.h>

int fr_idle_init(struct fr_idle *idle, uint32_t nworkers)
{
    if (nworkers == 0 || nworkers > FR_MAX_WORKERS) {
        return -EINVAL;
    }
    idle->sleepers = malloc(2 * (size_t)nworkers * sizeof(uint16_t));
    if (idle->sleepers == NULL) {
        return -ENOMEM;
    }
    idle->place = idle->sleepers + nworkers;
    for (uint32_t i = 0; i < nworkers; i++) {
        idle->place[i] = FR_IDLE_AWAKE;
    }
    idle->nsleepers = 0;
    idle->nworkers = nworkers;
    fr_mutex_init(&idle->lock);
    atomic_init(&idle->word, nworkers * FR_IDLE_UNPARKED_ONE);
    return 0;
}

void fr_idle_destroy(struct fr_idle *idle)
{
    free(idle->sleepers);
    idle->sleepers = NULL;
}

/* -- the stack of sleepers ------------------------------------------------------------------------------------- */

static void fr_idle_push_sleeper_locked(struct fr_idle *idle, uint32_t worker)
{
    assert(fr_mutex_is_locked(&idle->lock) && worker < idle->nworkers && idle->place[worker] == FR_IDLE_AWAKE);
    idle->place[worker] = (uint16_t)idle->nsleepers;
    idle->sleepers[idle->nsleepers++] = (uint16_t)worker;
}

/* Fills the gap with the top of the stack. */
static void fr_idle_drop_sleeper_locked(struct fr_idle *idle, uint32_t worker)
{
    assert(fr_mutex_is_locked(&idle->lock) && idle->place[worker] < idle->nsleepers);
    uint16_t top = idle->sleepers[--idle->nsleepers];
    idle->sleepers[idle->place[worker]] = top;
    idle->place[top] = idle->place[worker];
    idle->place[worker] = FR_IDLE_AWAKE;
}

/* -- transitions ----------------------------------------------------------------------------------------------- */

int fr_idle_worker_to_notify_slow(struct fr_idle *idle)
{
    fr_mutex_lock(&idle->lock);
    if (!fr_idle_should_wake(idle)) { /* somebody else was faster */
        fr_mutex_unlock(&idle->lock);
        return -1;
    }
    assert(idle->nsleepers > 0); /* [I1] */
    uint32_t worker = idle->sleepers[idle->nsleepers - 1];
    fr_idle_drop_sleeper_locked(idle, worker);
    /* On its behalf, before it runs [I3]. seq_cst pairs with fr_idle_should_wake() [I2] */
    atomic_fetch_add_explicit(&idle->word, FR_IDLE_UNPARKED_ONE + FR_IDLE_SEARCHING_ONE, memory_order_seq_cst);
    fr_mutex_unlock(&idle->lock);
    return (int)worker;
}

bool fr_idle_to_parked(struct fr_idle *idle, uint32_t worker, bool is_searching)
{
    uint32_t step = FR_IDLE_UNPARKED_ONE + (is_searching ? FR_IDLE_SEARCHING_ONE : 0);
    fr_mutex_lock(&idle->lock);
    fr_idle_push_sleeper_locked(idle, worker);
    /* seq_cst pairs with fr_idle_should_wake() [I2] */
    uint32_t prev = atomic_fetch_sub_explicit(&idle->word, step, memory_order_seq_cst);
    fr_mutex_unlock(&idle->lock);
    return fr_idle_word_searching(prev - step) == 0;
}

bool fr_idle_unpark_by_id(struct fr_idle *idle, uint32_t worker)
{
    fr_mutex_lock(&idle->lock);
    bool parked = idle->place[worker] != FR_IDLE_AWAKE;
    if (parked) {
        fr_idle_drop_sleeper_locked(idle, worker);
        /* seq_cst pairs with fr_idle_should_wake() [I2] */
        atomic_fetch_add_explicit(&idle->word, FR_IDLE_UNPARKED_ONE, memory_order_seq_cst);
    }
    fr_mutex_unlock(&idle->lock);
    return parked;
}

bool fr_idle_is_parked(struct fr_idle *idle, uint32_t worker)
{
    fr_mutex_lock(&idle->lock);
    bool parked = idle->place[worker] != FR_IDLE_AWAKE;
    fr_mutex_unlock(&idle->lock);
    return parked;
}
