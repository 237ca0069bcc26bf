#include "mutex.h"

/* Long enough for a critical section of a few dozen instructions on another core, far below the price of two
 * system calls. */
#define FR_MUTEX_SPINS 64

static bool fr_mutex_spin(struct fr_mutex *m)
{
    for (int i = 0; i < FR_MUTEX_SPINS; i++) {
        /* relaxed: only a hint; fr_mutex_trylock() acquires. */
        uint32_t word = atomic_load_explicit(&m->word, memory_order_relaxed);
        if (word == 0 && fr_mutex_trylock(m)) {
            return true;
        }
        if (word == 2) {
            return false; /* others already sleep: do not overtake them by spinning */
        }
        fr_cpu_relax();
    }
    return false;
}

void fr_mutex_lock_slow(struct fr_mutex *m)
{
    if (fr_mutex_spin(m)) {
        return;
    }
    /* acquire pairs with fr_mutex_unlock() [M1] [M2] */
    while (atomic_exchange_explicit(&m->word, 2, memory_order_acquire) != 0) {
        fr_futex_wait(&m->word, 2, -1);
    }
}
