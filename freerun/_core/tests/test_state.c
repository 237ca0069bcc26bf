/* Proves rt/state.h: each transition on its own, then many wakers, aborters and dumpers against many pollers. */
#include "../rt/futex.h"
#include "../rt/state.h"
#include "check.h"

#include <pthread.h>

#define IDLE_TASK(s)   fr_state_init(&(s), 2, FR_JOIN_INTEREST)

#define QUEUED_TASK(s) fr_state_init(&(s), 3, FR_RUNNING | FR_JOIN_INTEREST) /* just made, or woken */

/* As whoever takes it out of a queue. */
static uint64_t take(fr_state *s, bool *spare)
{
    bool got;
    uint64_t state = fr_state_take(s, &got);
    if (spare) {
        *spare = got;
    }
    CHECK_EQ(fr_state_load(s), state);
    CHECK_EQ(state & (FR_RUNNING | FR_NOTIFIED | FR_COMPLETE), FR_RUNNING);
    return state;
}

/* Branches and strands, whose queues do not carry RUNNING. */
static void test_lines(void)
{
    fr_state s;
    IDLE_TASK(s);
    CHECK(fr_state_wake(&s));
    CHECK(!fr_state_wake(&s));
    CHECK_EQ(fr_state_start_poll(&s) & 0xff, FR_RUNNING | FR_JOIN_INTEREST);
    CHECK(!fr_state_end_poll(&s));
    CHECK_EQ(fr_state_load(&s) & 0xff, FR_JOIN_INTEREST);
    CHECK(fr_state_wake(&s));
    fr_state_start_poll(&s);
    CHECK(!fr_state_wake(&s));
    CHECK(!fr_state_wake(&s));
    CHECK(fr_state_end_poll(&s));
    CHECK(!fr_state_wake(&s)); /* the poller is about to queue it */
    for (int woken = 0; woken < 2; woken++) {
        CHECK_EQ(fr_state_start_poll(&s) & 0xff, FR_RUNNING | FR_JOIN_INTEREST);
        if (woken) {
            CHECK(!fr_state_wake(&s));
        }
        fr_state_end_poll_yield(&s);
        CHECK_EQ(fr_state_load(&s) & 0xff, FR_NOTIFIED | FR_JOIN_INTEREST);
    }
}

static void test_wake_poll_wait(void)
{
    fr_state s;
    bool spare;
    IDLE_TASK(s);
    CHECK(fr_state_wake_task(&s));
    CHECK_EQ(fr_state_load(&s), (uint64_t)3 << FR_REF_SHIFT | FR_RUNNING | FR_JOIN_INTEREST);
    CHECK_EQ(take(&s, &spare), (uint64_t)3 << FR_REF_SHIFT | FR_RUNNING | FR_JOIN_INTEREST);
    CHECK(!spare); /* it came with the wake */
    CHECK(!fr_state_end_poll_spare(&s, FR_REF_ONE));
    CHECK_EQ(fr_state_load(&s), (uint64_t)2 << FR_REF_SHIFT | FR_JOIN_INTEREST);
    CHECK(fr_state_wake_task(&s));
}

/* Whether it waits there because it was woken, made, or has yielded: the poll that is due answers it. */
static void test_wake_while_queued(void)
{
    fr_state s;
    bool spare;
    QUEUED_TASK(s);
    CHECK(!fr_state_wake_task(&s));
    CHECK(!fr_state_wake_task(&s));
    CHECK_EQ(fr_state_load(&s), (uint64_t)3 << FR_REF_SHIFT | FR_RUNNING | FR_NOTIFIED | FR_JOIN_INTEREST);
    CHECK_EQ(take(&s, &spare), (uint64_t)3 << FR_REF_SHIFT | FR_RUNNING | FR_JOIN_INTEREST);
    CHECK(!spare);
    CHECK(!fr_state_end_poll(&s));
}

static void test_wake_while_running_goes_to_the_poller(void)
{
    fr_state s;
    bool spare;
    QUEUED_TASK(s);
    take(&s, NULL);
    CHECK(!fr_state_wake_task(&s));
    CHECK(!fr_state_wake_task(&s));
    CHECK(fr_state_end_poll_spare(&s, FR_REF_ONE));
    CHECK_EQ(fr_state_load(&s), (uint64_t)2 << FR_REF_SHIFT | FR_NOTIFIED | FR_JOIN_INTEREST);
    CHECK(!fr_state_wake_task(&s)); /* the poller is about to queue it */
    CHECK_EQ(take(&s, &spare), (uint64_t)3 << FR_REF_SHIFT | FR_RUNNING | FR_JOIN_INTEREST);
    CHECK(spare);

    QUEUED_TASK(s); /* it yields with a wake unanswered: its next poll is the answer */
    take(&s, NULL);
    CHECK(!fr_state_wake_task(&s));
    take(&s, NULL);
    CHECK(!fr_state_end_poll(&s));
}

static void test_abort(void)
{
    fr_state s;
    bool first;
    IDLE_TASK(s);
    CHECK(fr_state_abort(&s, &first) && first);
    CHECK_EQ(fr_state_load(&s), (uint64_t)3 << FR_REF_SHIFT | FR_RUNNING | FR_CANCELLED | FR_JOIN_INTEREST);
    CHECK(!fr_state_abort(&s, &first) && !first);
    CHECK(take(&s, NULL) & FR_CANCELLED);
    CHECK(fr_state_set_delivered(&s));
    CHECK(!fr_state_set_delivered(&s));
    CHECK(!fr_state_abort(&s, &first) && !first);
    CHECK(fr_state_end_poll(&s));

    QUEUED_TASK(s); /* before its first poll */
    CHECK(!fr_state_abort(&s, &first) && first);
    CHECK(take(&s, NULL) & FR_CANCELLED);

    QUEUED_TASK(s);
    take(&s, NULL);
    CHECK(!fr_state_abort(&s, &first) && first);
    CHECK(fr_state_end_poll(&s)); /* so that it is delivered */
    CHECK(take(&s, NULL) & FR_CANCELLED);
    fr_state_complete(&s);

    QUEUED_TASK(s);
    take(&s, NULL);
    fr_state_complete(&s);
    CHECK(!fr_state_abort(&s, &first) && !first);
    CHECK(!(fr_state_load(&s) & (FR_CANCELLED | FR_NOTIFIED)));
}

static void test_complete_and_join(void)
{
    fr_state s;
    QUEUED_TASK(s);
    take(&s, NULL);
    CHECK(fr_state_set_join_waker(&s));
    CHECK(fr_state_clear_join_waker(&s));
    CHECK(fr_state_set_join_waker(&s));
    CHECK(fr_state_set_join_waker(&s)); /* a second joiner */
    CHECK(!fr_state_wake_task(&s));
    uint64_t prev = fr_state_complete(&s);
    CHECK(prev & FR_JOIN_WAKER && prev & FR_JOIN_INTEREST);
    CHECK_EQ(fr_state_load(&s) & 0xff, FR_COMPLETE | FR_JOIN_WAKER | FR_JOIN_INTEREST);
    CHECK(!fr_state_wake_task(&s));
    CHECK(!fr_state_wake(&s));
    CHECK(!fr_state_set_join_waker(&s));
    CHECK(!fr_state_clear_join_waker(&s));
    CHECK(!fr_state_try_lock_idle(&s));
    CHECK(fr_state_set_observed(&s));
    CHECK(!fr_state_set_observed(&s));
    CHECK(fr_state_drop_join_interest(&s));
    CHECK_EQ(fr_state_load(&s) & 0xff, FR_COMPLETE | FR_OBSERVED);

    IDLE_TASK(s);
    CHECK(!fr_state_drop_join_interest(&s));
}

/* The owned list's reference goes along if nobody but a handle is left to look. */
static void test_complete_unref(void)
{
    for (int interest = 0; interest < 2; interest++) {
        for (int joiner = 0; joiner < 2; joiner++) {
            for (uint64_t back = 0; back <= FR_REF_ONE; back += FR_REF_ONE) {
                fr_state s;
                uint64_t bits = (interest ? FR_JOIN_INTEREST : 0) | (joiner ? FR_JOIN_WAKER : 0);
                fr_state_init(&s, 3, FR_RUNNING | bits);
                take(&s, NULL);
                CHECK(!fr_state_wake_task(&s));
                uint64_t prev = fr_state_complete_spare(&s, back, FR_REF_ONE);
                CHECK_EQ(prev & 0xff, FR_RUNNING | FR_NOTIFIED | bits);
                CHECK_EQ(fr_state_is_for_handle(prev), interest && !joiner);
                uint64_t left = 3 - (back != 0) - (interest && !joiner);
                CHECK_EQ(fr_state_load(&s), left << FR_REF_SHIFT | FR_COMPLETE | bits);
            }
        }
    }
}

static void test_refs(void)
{
    fr_state s;
    fr_state_init(&s, 1, FR_NOTIFIED);
    fr_ref_inc(&s);
    CHECK_EQ(fr_state_refs(fr_state_load(&s)), 2);
    CHECK(!fr_ref_dec(&s));
    CHECK_EQ(fr_state_refs(fr_state_load(&s)), 1);
    CHECK(fr_ref_dec(&s)); /* the caller frees it: what the word says now is nobody's business */
}

static void test_wake_unref(void)
{
    fr_state s;
    bool last;
    fr_state_init(&s, 3, FR_JOIN_INTEREST);
    CHECK(fr_state_wake_unref(&s, &last) && !last);
    CHECK_EQ(fr_state_refs(fr_state_load(&s)), 3); /* the waker's is the poller's spare */
    CHECK_EQ(fr_state_load(&s) & 0xff, FR_RUNNING | FR_JOIN_INTEREST);
    CHECK(!fr_state_wake_unref(&s, &last) && !last); /* queued already */
    CHECK_EQ(fr_state_refs(fr_state_load(&s)), 2);
    fr_ref_inc(&s);
    take(&s, NULL);
    CHECK(!fr_state_wake_unref(&s, &last) && !last);
    CHECK_EQ(fr_state_refs(fr_state_load(&s)), 2);
    CHECK(fr_state_end_poll(&s)); /* it was a wake all the same */
    take(&s, NULL);
    fr_state_complete(&s);
    CHECK_EQ(fr_state_refs(fr_state_load(&s)), 3);
    CHECK(!fr_state_wake_unref(&s, &last) && !last);
    CHECK(!fr_state_wake_unref(&s, &last) && !last);
    CHECK(!fr_state_wake_unref(&s, &last) && last); /* too late for a wake, and the last reference */
    CHECK(!(fr_state_load(&s) & FR_NOTIFIED));
}

/* The reference that comes with a poll: taken by a waiter, or given back by whatever ends the poll. */
static void test_spare(void)
{
    for (uint64_t back = 0; back <= FR_REF_ONE; back += FR_REF_ONE) {
        uint64_t left = back ? 2 : 3;
        fr_state s;
        QUEUED_TASK(s);
        take(&s, NULL);
        CHECK(!fr_state_end_poll_spare(&s, back));
        CHECK_EQ(fr_state_load(&s), left << FR_REF_SHIFT | FR_JOIN_INTEREST);

        QUEUED_TASK(s);
        take(&s, NULL);
        CHECK(!fr_state_wake_task(&s));
        CHECK(fr_state_end_poll_spare(&s, back)); /* a wake is not lost */
        CHECK_EQ(fr_state_load(&s), left << FR_REF_SHIFT | FR_NOTIFIED | FR_JOIN_INTEREST);

        fr_state_init(&s, 3, FR_RUNNING);
        take(&s, NULL);
        CHECK_EQ(fr_state_complete_spare(&s, back, 0) & 0xff, FR_RUNNING);
        CHECK_EQ(fr_state_load(&s), left << FR_REF_SHIFT | FR_COMPLETE);
    }
}

static void test_try_lock_idle(void)
{
    fr_state s;
    QUEUED_TASK(s);
    CHECK(!fr_state_try_lock_idle(&s));
    IDLE_TASK(s);
    CHECK(fr_state_try_lock_idle(&s));
    CHECK(!fr_state_try_lock_idle(&s));
    CHECK(!fr_state_wake_task(&s));
    CHECK(fr_state_end_poll(&s)); /* the dumper queues it */
    CHECK(!fr_state_try_lock_idle(&s));
    take(&s, NULL);
    CHECK(!fr_state_try_lock_idle(&s));
}

/* -- stress ---------------------------------------------------------------------------------------------------- */

enum { WAKERS = 3, POLLERS = 2, MAX_THREADS = WAKERS + POLLERS + 1, MOST_EVENTS = 300 };

/* A task and a "queue" that only counts: 1 when the task is in it. `spare`: as the task's, plain, under RUNNING. */
struct life {
    fr_state state;
    _Atomic uint32_t queued, events, wakers_done, joined;
    uint32_t seen; /* plain: under RUNNING, which the thread sanitizer verifies */
    bool spare;
    uint64_t result; /* plain: before COMPLETE */
    uint64_t polls, dumps;
    _Atomic uint32_t frees;
    uint32_t events_per_waker;
    /* Plain: each waker's before the wake, the poller's once that wake has been made, which `told` says without ordering
     * anything. So the thread sanitizer sees whether wake and poll do [S2]. */
    uint32_t notes[WAKERS][MOST_EVENTS];
    _Atomic uint32_t told[WAKERS];
    uint32_t read[WAKERS]; /* plain: under RUNNING */
};

struct actor {
    struct life *life;
    struct rng rng;
    int id;
};

static void life_queue(struct life *l)
{
    /* release, as every run queue's */
    CHECK_EQ(atomic_fetch_add_explicit(&l->queued, 1, memory_order_release), 0); /* [S1]: never twice */
}

static void life_queue_woken(struct life *l)
{
    CHECK(!l->spare);
    l->spare = true;
    life_queue(l);
}

static void life_unref(struct life *l)
{
    if (fr_ref_dec(&l->state)) {
        atomic_fetch_add_explicit(&l->frees, 1, memory_order_relaxed);
    }
}

/* The caller's reference goes with it. */
static void life_wake_unref(struct life *l)
{
    bool last;
    if (fr_state_wake_unref(&l->state, &last)) {
        CHECK(!last);
        CHECK_EQ(atomic_load_explicit(&l->frees, memory_order_relaxed), 0); /* alive until it is queued [S1] */
        life_queue_woken(l);
    } else if (last) {
        atomic_fetch_add_explicit(&l->frees, 1, memory_order_relaxed);
    }
}

static void life_wake(struct life *l, struct rng *rng)
{
    if (rng_below(rng, 2) == 0) { /* with a reference of its own, as a waiter has */
        fr_ref_inc(&l->state);
        life_wake_unref(l);
    } else if (fr_state_wake_task(&l->state)) {
        life_queue_woken(l);
    }
}

static void *waker_main(void *arg)
{
    struct actor *a = arg;
    struct life *l = a->life;
    for (uint32_t i = 0; i < l->events_per_waker; i++) {
        /* relaxed: the wake alone must make it visible to the poll that follows [S2]. */
        atomic_fetch_add_explicit(&l->events, 1, memory_order_relaxed);
        l->notes[a->id][i] = i + 1;
        life_wake(l, &a->rng);
        atomic_store_explicit(&l->told[a->id], i + 1, memory_order_relaxed);
        if (rng_below(&a->rng, 16) == 0 && fr_state_try_lock_idle(&l->state)) {
            l->dumps += l->seen + 1;
            if (fr_state_end_poll(&l->state)) {
                life_queue(l);
            }
        }
        if (rng_below(&a->rng, 8) == 0) {
            sched_yield();
        }
    }
    /* The last one asks it to finish. */
    if (atomic_fetch_add_explicit(&l->wakers_done, 1, memory_order_acq_rel) == WAKERS - 1) {
        bool first;
        if (fr_state_abort(&l->state, &first)) {
            life_queue_woken(l);
        }
        CHECK(first);
    }
    life_wake_unref(l); /* whether it is over or not */
    return NULL;
}

/* What a waiter does with the reference that it took from the poll. */
static void life_waiter_ends(struct life *l, struct rng *rng)
{
    if (rng_below(rng, 2) == 0) {
        life_wake_unref(l);
    } else {
        life_unref(l);
    }
}

/* And gives back the owned list's reference, at once or after it has told the joiner. */
static void life_complete(struct life *l, struct rng *rng, uint64_t back)
{
    bool at_once = rng_below(rng, 2) == 0;
    uint64_t prev = fr_state_complete_spare(&l->state, back, at_once ? FR_REF_ONE : 0);
    if (prev & FR_JOIN_WAKER) {
        atomic_store_explicit(&l->joined, 1, memory_order_release);
    }
    if (!at_once || !fr_state_is_for_handle(prev)) {
        life_unref(l);
    }
}

/* For a waiter: what came with the poll, or, where a turn before has used that up, one more. */
static void life_ref(struct life *l)
{
    if (l->spare) {
        l->spare = false;
    } else {
        fr_ref_inc(&l->state);
    }
}

static uint64_t life_take_spare(struct life *l)
{
    bool spare = l->spare;
    l->spare = false;
    return spare ? FR_REF_ONE : 0;
}

/* Takes it, and reads what was written before the wakes that had been made by then. */
static uint64_t life_take(struct life *l, bool *spare)
{
    uint32_t told[WAKERS];
    for (int i = 0; i < WAKERS; i++) {
        told[i] = atomic_load_explicit(&l->told[i], memory_order_relaxed);
    }
    uint64_t snapshot = fr_state_take(&l->state, spare);
#ifdef __x86_64__ /* elsewhere `told` may be seen before the wake is */
    for (int i = 0; i < WAKERS; i++) {
        for (; l->read[i] < told[i]; l->read[i]++) {
            CHECK_EQ(l->notes[i][l->read[i]], l->read[i] + 1);
        }
    }
#else
    (void)told;
#endif
    return snapshot;
}

static bool life_poll(struct life *l, struct rng *rng)
{
    bool taken = rng_below(rng, 2) == 0; /* by a waiter, which may be done with it before the poll ends, or after */
    bool early = taken && rng_below(rng, 2) == 0, spare;
    uint64_t snapshot = life_take(l, &spare);
    CHECK(!(spare && l->spare));
    l->spare |= spare;
    l->polls++;
    if (taken) {
        life_ref(l);
    }
    if (early) {
        life_waiter_ends(l, rng);
    }
    l->seen = atomic_load_explicit(&l->events, memory_order_relaxed);
    if (snapshot & FR_CANCELLED && fr_state_set_delivered(&l->state)) {
        l->result = l->seen;
        life_complete(l, rng, life_take_spare(l));
    } else if (rng_below(rng, 4) == 0 || fr_state_end_poll_spare(&l->state, life_take_spare(l))) {
        life_queue(l); /* it yields, and keeps RUNNING, or was woken */
    }
    if (taken && !early) {
        life_waiter_ends(l, rng);
    }
    return (snapshot & FR_CANCELLED) != 0;
}

static void *poller_main(void *arg)
{
    struct actor *a = arg;
    struct life *l = a->life;
    while (!(fr_state_load(&l->state) & FR_COMPLETE)) {
        uint32_t one = 1;
        /* acquire, as every run queue's; relaxed on failure: nothing was taken */
        if (atomic_compare_exchange_strong_explicit(&l->queued, &one, 0, memory_order_acquire, memory_order_relaxed)) {
            if (life_poll(l, &a->rng)) {
                break;
            }
        } else {
            sched_yield();
        }
    }
    life_unref(l);
    return NULL;
}

static void *joiner_main(void *arg)
{
    struct actor *a = arg;
    struct life *l = a->life;
    for (uint32_t i = rng_below(&a->rng, 64); i > 0; i--) {
        sched_yield();
    }
    if (fr_state_set_join_waker(&l->state)) {
        while (!atomic_load_explicit(&l->joined, memory_order_acquire)) { /* hangs if the completer missed us [S4] */
            sched_yield();
        }
    }
    CHECK(fr_state_load(&l->state) & FR_COMPLETE);
    CHECK_EQ(l->result, WAKERS * l->events_per_waker);
    CHECK(fr_state_set_observed(&l->state));
    CHECK(fr_state_drop_join_interest(&l->state));
    life_unref(l);
    return NULL;
}

static void stress_one_life(struct rng *rng)
{
    struct life life = {.events_per_waker = 1 + rng_below(rng, MOST_EVENTS)};
    struct actor actors[MAX_THREADS];
    pthread_t threads[MAX_THREADS];
    fr_state_init(&life.state, 1 + MAX_THREADS, FR_JOIN_INTEREST);
    for (int i = 0; i < MAX_THREADS; i++) {
        actors[i] = (struct actor){&life, rng_fork(rng), i};
        void *(*body)(void *) = i < WAKERS ? waker_main : i < WAKERS + POLLERS ? poller_main : joiner_main;
        CHECK(pthread_create(&threads[i], NULL, body, &actors[i]) == 0);
    }
    for (int i = 0; i < MAX_THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK_EQ(life.queued, 0);
    CHECK_EQ(life.frees, 1);
    CHECK_EQ(fr_state_load(&life.state) & (FR_RUNNING | FR_NOTIFIED | FR_COMPLETE), FR_COMPLETE);
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    test_lines();
    test_wake_poll_wait();
    test_wake_while_queued();
    test_wake_while_running_goes_to_the_poller();
    test_abort();
    test_complete_and_join();
    test_complete_unref();
    test_refs();
    test_wake_unref();
    test_spare();
    test_try_lock_idle();
    for (uint64_t end = fr_clock_ns() + env.stress_ns; fr_clock_ns() < end;) {
        stress_one_life(&rng);
    }
    return check_end();
}
