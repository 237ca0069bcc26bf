/* Proves rt/queue.h: order, overflow, stealing and wrap-around on one thread; then workers that push, pop and steal from
 * each other, where every item must be seen exactly once. */
#include "../rt/queue.h"
#include "calloc_wrap.h"
#include "check.h"

#include <pthread.h>
#include <string.h>

#define CAP FR_QUEUE_CAP

static void *item(uint64_t n)
{
    return (void *)(uintptr_t)(n + 1);
}

static uint64_t item_number(void *p)
{
    return (uint64_t)(uintptr_t)p - 1;
}

/* Indices are u32 and wrap; start shortly before that. */
static void queue_init_at(struct fr_queue *q, uint32_t index)
{
    fr_queue_init(q);
    atomic_store(&q->head, fr_queue_pack(index, index));
    atomic_store(&q->tail, index);
}

static const uint32_t starts[] = {0, 1, UINT32_MAX - CAP - 1, UINT32_MAX - 1, UINT32_MAX};
#define NSTARTS (sizeof(starts) / sizeof(starts[0]))

/* -- one thread ------------------------------------------------------------------------------------------------ */

static void test_fifo(uint32_t start)
{
    struct fr_queue q;
    queue_init_at(&q, start);
    CHECK(fr_queue_pop_owner(&q) == NULL && fr_queue_len(&q) == 0);
    for (int lap = 0; lap < 3; lap++) {
        for (uint64_t n = 0; n < CAP; n++) {
            CHECK_EQ(fr_queue_space_owner(&q), CAP - n);
            CHECK(fr_queue_push_owner(&q, item(n), NULL) == 0);
            CHECK_EQ(fr_queue_len(&q), n + 1);
        }
        for (uint64_t n = 0; n < CAP; n++) {
            CHECK(fr_queue_pop_owner(&q) == item(n));
        }
        CHECK(fr_queue_pop_owner(&q) == NULL);
    }
}

/* One item too many: the first half stays, the second and the item go. */
static void test_overflow(uint32_t start, bool solo)
{
    struct fr_queue q;
    struct fr_inject inject;
    queue_init_at(&q, start);
    CHECK(fr_inject_init(&inject) == 0);
    CHECK(fr_inject_close(&inject)); /* which must not matter */
    for (uint64_t n = 0; n < CAP; n++) {
        CHECK((solo ? fr_queue_push_solo_owner : fr_queue_push_owner)(&q, item(n), &inject) == 0);
    }
    calloc_allow(0);
    CHECK_EQ((solo ? fr_queue_push_solo_owner : fr_queue_push_owner)(&q, item(CAP), &inject), -ENOMEM);
    calloc_allow(INT64_MAX);
    CHECK(fr_queue_len(&q) == CAP && fr_inject_is_empty(&inject));
    CHECK_EQ((solo ? fr_queue_push_solo_owner : fr_queue_push_owner)(&q, item(CAP), &inject), 1);
    CHECK_EQ(fr_queue_len(&q), CAP / 2);
    CHECK_EQ(fr_queue_space_owner(&q), CAP / 2);
    CHECK_EQ(fr_inject_len(&inject), CAP / 2 + 1);
    for (uint64_t n = CAP / 2; n <= CAP; n++) {
        CHECK(fr_inject_pop(&inject) == item(n));
    }
    for (uint64_t n = 0; n < CAP / 2; n++) {
        CHECK((solo ? fr_queue_pop_solo_owner : fr_queue_pop_owner)(&q) == item(n));
    }
    CHECK((solo ? fr_queue_pop_solo_owner : fr_queue_pop_owner)(&q) == NULL);
    fr_inject_destroy(&inject);
}

/* Full, with a thief in the middle of its copy: only the new item goes, and the thief's slots are not touched. */
static void test_overflow_while_stolen_from(uint32_t start)
{
    struct fr_queue q;
    struct fr_inject inject;
    queue_init_at(&q, start);
    CHECK(fr_inject_init(&inject) == 0);
    for (uint64_t n = 0; n < CAP; n++) {
        CHECK(fr_queue_push_owner(&q, item(n), &inject) == 0);
    }
    atomic_store(&q.head, fr_queue_pack(start, start + 1)); /* a claim of one */
    CHECK_EQ(fr_queue_push_owner(&q, item(CAP), &inject), 1);
    CHECK(fr_inject_pop(&inject) == item(CAP) && fr_inject_pop(&inject) == NULL);
    CHECK(fr_queue_pop_owner(&q) == item(1));
    CHECK_EQ(fr_queue_head_steal(atomic_load(&q.head)), start);
    CHECK_EQ(fr_queue_space_owner(&q), 0); /* popped, but not free before the thief is through [Q3] */
    struct fr_queue thief;
    void *first;
    fr_queue_init(&thief);
    CHECK_EQ(fr_queue_steal_into(&q, &thief, &first), 0); /* [Q2] */
    uint32_t real = fr_queue_head_real(atomic_load(&q.head));
    atomic_store(&q.head, fr_queue_pack(real, real));
    CHECK(fr_queue_push_owner(&q, item(CAP), &inject) == 0);
    CHECK_EQ(fr_queue_steal_into(&q, &thief, &first), (CAP - 1) - (CAP - 1) / 2);
    fr_inject_destroy(&inject);
}

static void test_steal(uint32_t start)
{
    for (uint32_t have = 0; have <= CAP; have++) {
        for (uint32_t mine = 0; mine <= CAP; mine += CAP / 4 + 1) {
            struct fr_queue src, dst;
            void *first = NULL;
            queue_init_at(&src, start);
            queue_init_at(&dst, start + 7);
            for (uint64_t n = 0; n < have; n++) {
                CHECK(fr_queue_push_owner(&src, item(n), NULL) == 0);
            }
            for (uint64_t n = 0; n < mine; n++) {
                CHECK(fr_queue_push_owner(&dst, item(1000 + n), NULL) == 0);
            }
            uint32_t got = fr_queue_steal_into(&src, &dst, &first);
            CHECK_EQ(got, mine > CAP / 2 ? 0 : have - have / 2);
            CHECK_EQ(fr_queue_len(&src), have - got);
            CHECK_EQ(fr_queue_len(&dst), mine + got - (got > 0));
            if (got > 0) {
                CHECK(first == item(got - 1));
            }
            for (uint64_t n = 0; n < mine; n++) {
                CHECK(fr_queue_pop_owner(&dst) == item(1000 + n));
            }
            for (uint64_t n = 0; n + 1 < got; n++) {
                CHECK(fr_queue_pop_owner(&dst) == item(n));
            }
            for (uint64_t n = got; n < have; n++) {
                CHECK(fr_queue_pop_owner(&src) == item(n));
            }
            CHECK(fr_queue_pop_owner(&src) == NULL && fr_queue_pop_owner(&dst) == NULL);
        }
    }
}

static void test_push_batch(uint32_t start)
{
    struct fr_queue q;
    void *items[CAP + 3];
    queue_init_at(&q, start);
    for (uint64_t n = 0; n < CAP + 3; n++) {
        items[n] = item(n);
    }
    CHECK_EQ(fr_queue_push_batch_owner(&q, items, 0), 0);
    CHECK_EQ(fr_queue_push_batch_owner(&q, items, CAP - 1), CAP - 1);
    CHECK_EQ(fr_queue_push_batch_owner(&q, items + CAP - 1, 4), 1);
    CHECK_EQ(fr_queue_push_batch_owner(&q, items, 1), 0);
    for (uint64_t n = 0; n < CAP; n++) {
        CHECK(fr_queue_pop_owner(&q) == item(n));
    }
}

/* Solo against the plain sequence, at random, with overflow pulled back in order. */
static void test_solo(struct rng *rng)
{
    struct fr_queue q;
    struct fr_inject inject;
    uint64_t in = 0, out = 0;
    queue_init_at(&q, UINT32_MAX - 100);
    CHECK(fr_inject_init(&inject) == 0);
    for (int i = 0; i < 100000; i++) {
        if (rng_below(rng, 100) < 50 + (uint32_t)(i / 1000 % 2)) {
            in += 1;
            CHECK(fr_queue_push_solo_owner(&q, item(in), &inject) >= 0);
        } else {
            void *p = fr_queue_pop_solo_owner(&q);
            out += (p != NULL || (p = fr_inject_pop(&inject)) != NULL);
        }
        CHECK_EQ(fr_queue_len(&q) + fr_inject_len(&inject), in - out);
    }
    fr_inject_destroy(&inject);
}

/* -- stress ---------------------------------------------------------------------------------------------------- */

enum { MAX_WORKERS = 5, MAX_ITEMS = 60000 };

struct arena {
    struct fr_queue queues[MAX_WORKERS];
    struct fr_inject inject;
    uint32_t nworkers, nitems;
    _Atomic uint32_t next;  /* the number of the next item to make */
    _Atomic uint32_t taken; /* items that were seen */
    _Atomic uint8_t seen[MAX_ITEMS];
    uint32_t payload[MAX_ITEMS]; /* plain: maker before the push, taker after */
    _Atomic uint64_t steals, overflows;
};

struct actor {
    struct arena *arena;
    uint32_t id;
    struct rng rng;
};

static void take(struct arena *arena, void *p)
{
    uint64_t n = item_number(p);
    CHECK(n < arena->nitems);
    CHECK_EQ(arena->payload[n], n * 3);
    CHECK_EQ(atomic_fetch_add_explicit(&arena->seen[n], 1, memory_order_relaxed), 0);
    atomic_fetch_add_explicit(&arena->taken, 1, memory_order_relaxed);
}

static void *make(struct arena *arena)
{
    uint32_t n = atomic_fetch_add_explicit(&arena->next, 1, memory_order_relaxed);
    if (n >= arena->nitems) {
        return NULL;
    }
    arena->payload[n] = n * 3;
    return item(n);
}

static void make_and_push(struct actor *a)
{
    void *p = make(a->arena);
    if (p == NULL) {
        return;
    }
    int rc = fr_queue_push_owner(&a->arena->queues[a->id], p, &a->arena->inject);
    CHECK(rc == 0 || rc == 1);
    if (rc == 1) {
        atomic_fetch_add_explicit(&a->arena->overflows, 1, memory_order_relaxed);
    }
}

static void make_and_push_batch(struct actor *a)
{
    struct fr_queue *q = &a->arena->queues[a->id];
    void *items[CAP];
    uint32_t n = 0, max = rng_below(&a->rng, CAP) + 1;
    if (max > fr_queue_space_owner(q)) {
        max = fr_queue_space_owner(q); /* it only grows while we look away */
    }
    while (n < max && (items[n] = make(a->arena)) != NULL) {
        n++;
    }
    CHECK_EQ(fr_queue_push_batch_owner(q, items, n), n);
}

static void pull_from_inject(struct actor *a)
{
    struct fr_queue *q = &a->arena->queues[a->id];
    void *items[CAP];
    uint32_t n = fr_inject_pop_batch(&a->arena->inject, items, fr_queue_space_owner(q));
    CHECK_EQ(fr_queue_push_batch_owner(q, items, n), n);
}

static void steal(struct actor *a)
{
    struct arena *arena = a->arena;
    uint32_t victim = rng_below(&a->rng, arena->nworkers);
    void *first = NULL;
    CHECK(fr_queue_len(&arena->queues[victim]) <= CAP);
    if (victim == a->id || fr_queue_steal_into(&arena->queues[victim], &arena->queues[a->id], &first) == 0) {
        return;
    }
    atomic_fetch_add_explicit(&arena->steals, 1, memory_order_relaxed);
    take(arena, first);
}

static void *worker_main(void *arg)
{
    struct actor *a = arg;
    struct arena *arena = a->arena;
    uint32_t pushy = rng_below(&a->rng, 60); /* some make, some mostly steal */
    /* relaxed: a counter */
    while (atomic_load_explicit(&arena->taken, memory_order_relaxed) < arena->nitems) {
        uint32_t dice = rng_below(&a->rng, 100);
        if (dice < pushy) {
            make_and_push(a);
        } else if (dice < pushy + 2) {
            make_and_push_batch(a);
        } else if (dice < pushy + 4) {
            pull_from_inject(a);
        } else if (dice < 80) {
            void *p = fr_queue_pop_owner(&arena->queues[a->id]);
            if (p != NULL) {
                take(arena, p);
            }
        } else {
            steal(a);
        }
        if (rng_below(&a->rng, 256) == 0) {
            sched_yield();
        }
    }
    return NULL;
}

static void stress_round(struct arena *arena, struct rng *rng)
{
    pthread_t threads[MAX_WORKERS];
    struct actor actors[MAX_WORKERS];
    memset(arena->seen, 0, sizeof(arena->seen));
    arena->nworkers = 2 + rng_below(rng, MAX_WORKERS - 1);
    arena->nitems = 1 + rng_below(rng, MAX_ITEMS);
    arena->next = arena->taken = 0;
    CHECK(fr_inject_init(&arena->inject) == 0);
    for (uint32_t i = 0; i < arena->nworkers; i++) {
        queue_init_at(&arena->queues[i], starts[rng_below(rng, NSTARTS)]);
        actors[i] = (struct actor){arena, i, rng_fork(rng)};
    }
    for (uint32_t i = 0; i < arena->nworkers; i++) { /* only now: they steal from all */
        CHECK(pthread_create(&threads[i], NULL, worker_main, &actors[i]) == 0);
    }
    for (uint32_t i = 0; i < arena->nworkers; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    for (uint32_t i = 0; i < arena->nworkers; i++) {
        uint64_t head = atomic_load(&arena->queues[i].head);
        CHECK_EQ(fr_queue_head_steal(head), fr_queue_head_real(head));
        CHECK_EQ(fr_queue_len(&arena->queues[i]), 0);
    }
    CHECK(fr_inject_is_empty(&arena->inject));
    fr_inject_destroy(&arena->inject);
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    static struct arena arena;
    uint64_t rounds = 0;
    for (uint32_t i = 0; i < NSTARTS; i++) {
        test_fifo(starts[i]);
        test_overflow(starts[i], false);
        test_overflow(starts[i], true);
        test_overflow_while_stolen_from(starts[i]);
        test_steal(starts[i]);
        test_push_batch(starts[i]);
    }
    test_solo(&rng);
    for (uint64_t end = fr_clock_ns() + env.stress_ns; fr_clock_ns() < end; rounds++) {
        stress_round(&arena, &rng);
    }
    printf("%" PRIu64 " rounds, %" PRIu64 " steals, %" PRIu64 " overflows\n", rounds, arena.steals, arena.overflows);
    return check_end();
}
