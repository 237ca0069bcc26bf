#include "bias.h"

#include <linux/membarrier.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool call(int command)
{
    return syscall(SYS_membarrier, command, 0, 0) == 0;
}

/* Asks for barrier_all() in this process. False: the system has none. */
static bool register_barrier(void)
{
#ifdef FR_NO_MEMBARRIER
    return false;
#else
    return call(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) && call(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
#endif
}

bool fr_bias_prepare(void)
{
    enum { UNKNOWN, YES, NO };
    static _Atomic int known;
    /* relaxed, both: whoever asks gets the same answer */
    if (atomic_load_explicit(&known, memory_order_relaxed) == UNKNOWN) {
        atomic_store_explicit(&known, register_barrier() ? YES : NO, memory_order_relaxed);
    }
    return atomic_load_explicit(&known, memory_order_relaxed) == YES;
}

/* A full barrier in every thread of the process that runs, and so in every thread: who does not run has had one. */
static void barrier_all(void)
{
    while (!call(MEMBARRIER_CMD_PRIVATE_EXPEDITED)) {
        if (errno == ENOMEM) { /* it comes again */
            sched_yield();
        } else if (!register_barrier()) { /* a child of fork() may have to ask anew */
            /* It worked in fr_bias_init(), and owners rely on it. */
            fprintf(stderr,
                    "freerun: membarrier(2) has stopped working in this process: %s. Forbid it before freerun is "
                    "imported, or not at all\n",
                    strerror(errno));
            abort();
        }
    }
}

void fr_bias_init(struct fr_bias *bias)
{
    /* One visitor that never leaves [B5] */
    atomic_init(&bias->word, fr_bias_prepare() ? 0 : FR_BIAS_READY + FR_BIAS_VISITOR);
    atomic_init(&bias->inside, 0);
    atomic_init(&bias->visits, 0);
    bias->seen = bias->calm = 0;
}

static bool is_calm(struct fr_bias *bias)
{
    /* relaxed: a heuristic; the CAS decides */
    uint32_t visits = atomic_load_explicit(&bias->visits, memory_order_relaxed);
    if (visits != bias->seen) {
        bias->seen = visits;
        bias->calm = 0;
        return false;
    }
    return ++bias->calm >= FR_BIAS_CALM;
}

bool fr_bias_enter_beside_owner(struct fr_bias *bias)
{
    fr_bias_exit_owner(bias);
    if (!is_calm(bias)) {
        return false;
    }
    bias->calm = 0;
    uint32_t nobody = FR_BIAS_READY;
    /* acquire pairs with fr_bias_leave() [B4]; relaxed on failure: nothing was gained */
    return atomic_compare_exchange_strong_explicit(&bias->word, &nobody, 0, memory_order_acquire,
                                                   memory_order_relaxed) &&
           fr_bias_enter_owner(bias); /* somebody may come even now */
}

/* It is out in no time, unless it was preempted inside. */
static void wait_until_outside(struct fr_bias *bias)
{
    enum { PATIENT = 1000 };
    static const struct timespec pause = {.tv_nsec = 50000};
    uint32_t step = 0;
    /* acquire pairs with fr_bias_exit_owner() [B3] */
    for (int i = 0; atomic_load_explicit(&bias->inside, memory_order_acquire); i++) {
        if (i < PATIENT) {
            fr_cpu_backoff(&step);
        } else { /* to yield to it does not help, where this thread is of a higher class */
            nanosleep(&pause, NULL);
        }
    }
}

void fr_bias_visit(struct fr_bias *bias)
{
    /* relaxed, both: as in is_calm() */
    uint32_t visits = atomic_load_explicit(&bias->visits, memory_order_relaxed);
    atomic_store_explicit(&bias->visits, visits + 1, memory_order_relaxed);
    /* acquire pairs with the fetch_or below, of whom has set READY [B2] [B3] */
    if (atomic_fetch_add_explicit(&bias->word, FR_BIAS_VISITOR, memory_order_acquire) & FR_BIAS_READY) {
        return;
    }
    barrier_all(); /* [B1] */
    wait_until_outside(bias);
    /* release pairs with the fetch_add above, of other visitors [B3] */
    atomic_fetch_or_explicit(&bias->word, FR_BIAS_READY, memory_order_release);
}
