/* Proves rt/queue.h: order, overflow, stealing and wrap-around on one thread; then workers that push, pop, steal from
 * each other and spill what does not fit, where every item must be seen exactly once. */
#include "../rt/bias.h"
#include "../rt/queue.h"
#include "../rt/spill.h"
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
            CHECK(fr_queue_push_owner(&q, item(n)));
            CHECK_EQ(fr_queue_len(&q), n + 1);
        }
        for (uint64_t n = 0; n < CAP; n++) {
            CHECK(fr_queue_pop_owner(&q) == item(n));
        }
        CHECK(fr_queue_pop_owner(&q) == NULL);
    }
}

static void *pop(struct fr_queue *q, bool alone)
{
    return alone ? fr_queue_pop_alone_owner(q) : fr_queue_pop_owner(q);
}

/* As many as fit, and one that does not. */
static void fill(struct fr_queue *q)
{
    for (uint64_t n = 0; n < CAP; n++) {
        CHECK(fr_queue_push_owner(q, item(n)));
    }
    CHECK(!fr_queue_push_owner(q, item(CAP)));
    CHECK_EQ(fr_queue_len(q), CAP);
}

/* The item that has found no room. `out` is NULL behind what was given up, so that too much of it is seen. */
static uint32_t overflow(struct fr_queue *q, void *p, void *out[static CAP])
{
    memset(out, 0, CAP * sizeof(*out));
    return fr_queue_overflow_owner(q, p, out);
}

/* One item too many: the first half stays, the second and the item go, in order. */
static void test_overflow(uint32_t start, bool alone)
{
    struct fr_queue q;
    void *out[CAP];
    queue_init_at(&q, start);
    fill(&q);
    CHECK_EQ(overflow(&q, item(CAP), out), CAP / 2 + 1);
    CHECK_EQ(fr_queue_len(&q), CAP / 2);
    CHECK_EQ(fr_queue_space_owner(&q), CAP / 2);
    for (uint64_t n = CAP / 2; n <= CAP; n++) {
        CHECK(out[n - CAP / 2] == item(n));
    }
    CHECK(FR_QUEUE_SPLIT == CAP || out[FR_QUEUE_SPLIT] == NULL);
    for (uint64_t n = 0; n < CAP / 2; n++) { /* what comes now is behind the half that stayed */
        CHECK(fr_queue_push_owner(&q, item(2000 + n)));
    }
    CHECK(!fr_queue_push_owner(&q, item(0)));
    for (uint64_t n = 0; n < CAP; n++) {
        CHECK(pop(&q, alone) == item(n < CAP / 2 ? n : 2000 + n - CAP / 2));
    }
    CHECK(pop(&q, alone) == NULL);
}

/* Full, with a thief in the middle of its copy: only the new item goes, and the thief's slots are not touched. */
static void test_overflow_while_stolen_from(uint32_t start)
{
    struct fr_queue q;
    void *out[CAP];
    queue_init_at(&q, start);
    fill(&q);
    atomic_store(&q.head, fr_queue_pack(start, start + 1)); /* a claim of one */
    CHECK_EQ(overflow(&q, item(CAP), out), 1);
    CHECK(out[0] == item(CAP) && out[1] == NULL);
    CHECK(fr_queue_pop_owner(&q) == item(1));
    CHECK_EQ(fr_queue_head_steal(atomic_load(&q.head)), start);
    CHECK_EQ(fr_queue_space_owner(&q), 0); /* popped, but not free before the thief is through [Q3] */
    CHECK_EQ(overflow(&q, item(CAP), out), 1);
    void *stolen[CAP];
    CHECK_EQ(fr_queue_steal(&q, stolen, CAP), 0); /* [Q2] */
    uint32_t real = fr_queue_head_real(atomic_load(&q.head));
    atomic_store(&q.head, fr_queue_pack(real, real));
    CHECK(fr_queue_push_owner(&q, item(CAP)));
    CHECK_EQ(fr_queue_steal(&q, stolen, CAP), (CAP - 1) - (CAP - 1) / 2);
}

/* A thief makes room between the push that found none and the overflow: nothing is given up. */
static void test_overflow_after_steal(uint32_t start)
{
    struct fr_queue q;
    void *out[CAP], *stolen[CAP];
    queue_init_at(&q, start);
    fill(&q);
    CHECK_EQ(fr_queue_steal(&q, stolen, CAP), CAP / 2);
    CHECK_EQ(overflow(&q, item(CAP), out), 0);
    CHECK(out[0] == NULL);
    CHECK_EQ(fr_queue_len(&q), CAP / 2 + 1);
    for (uint64_t n = CAP / 2; n <= CAP; n++) {
        CHECK(fr_queue_pop_owner(&q) == item(n));
    }
    CHECK(fr_queue_pop_owner(&q) == NULL);
}

/* The older half, in order, and no more than asked for. */
static void test_steal(uint32_t start)
{
    for (uint32_t have = 0; have <= CAP; have++) {
        for (uint32_t most = 0; most <= CAP; most += CAP / 4 + 1) {
            struct fr_queue q;
            void *stolen[CAP] = {NULL};
            queue_init_at(&q, start);
            for (uint64_t n = 0; n < have; n++) {
                CHECK(fr_queue_push_owner(&q, item(n)));
            }
            uint32_t half = have - have / 2, got = fr_queue_steal(&q, stolen, most);
            CHECK_EQ(got, half < most ? half : most);
            CHECK_EQ(fr_queue_len(&q), have - got);
            CHECK_EQ(fr_queue_space_owner(&q), CAP - (have - got)); /* given back [Q3] */
            for (uint64_t n = 0; n < CAP; n++) {
                CHECK(stolen[n] == (n < got ? item(n) : NULL));
            }
            for (uint64_t n = got; n < have; n++) {
                CHECK(fr_queue_pop_owner(&q) == item(n));
            }
            CHECK(fr_queue_pop_owner(&q) == NULL);
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

/* What a ring must hold. */
struct sequence {
    void *items[CAP];
    uint32_t n;
};

/* To the ring or, with the second half of it, to the spill. Whether it overflowed. */
static bool plain_push(struct fr_queue *q, struct fr_spill *spill, struct sequence *plain, void *p)
{
    void *out[CAP];
    if (plain->n < CAP) {
        plain->items[plain->n++] = p;
        CHECK(fr_queue_push_owner(q, p));
        return false;
    }
    CHECK(!fr_queue_push_owner(q, p));
    CHECK(fr_spill_reserve_owner(spill) == 0);
    CHECK_EQ(overflow(q, p, out), FR_QUEUE_SPLIT);
    plain->n = CAP / 2;
    CHECK(memcmp(out, plain->items + CAP / 2, CAP / 2 * sizeof(*out)) == 0 && out[CAP / 2] == p);
    fr_spill_push_owner(spill, out, FR_QUEUE_SPLIT);
    return true;
}

/* The ring is empty. What was spilled comes back in order and, as it goes to the ring's first half, is never spilled
 * again: so all that ever comes out of the spill is in order. */
static void plain_pull(struct fr_queue *q, struct fr_spill *spill, struct sequence *plain, uint64_t *last)
{
    plain->n = fr_spill_take_owner(spill, plain->items, CAP / 2);
    for (uint32_t i = 0; i < plain->n; i++) {
        CHECK(item_number(plain->items[i]) > *last);
        *last = item_number(plain->items[i]);
    }
    CHECK_EQ(fr_queue_push_batch_owner(q, plain->items, plain->n), plain->n);
}

static void *plain_pop(struct fr_queue *q, struct sequence *plain, bool alone)
{
    void *p = pop(q, alone);
    CHECK(p == (plain->n > 0 ? plain->items[0] : NULL));
    if (p != NULL) {
        memmove(plain->items, plain->items + 1, --plain->n * sizeof(p));
    }
    return p;
}

/* One thread against the plain sequence, at random, with overflow pulled back in order. It mostly grows and mostly shrinks by
 * turns, so that it overflows and runs dry whatever the seed. */
static void test_plain(struct rng *rng)
{
    struct fr_queue q;
    struct fr_spill spill;
    struct sequence plain = {.n = 0};
    uint64_t in = 0, out = 0, spilled = 0, last = 0;
    queue_init_at(&q, UINT32_MAX - 100);
    fr_spill_init(&spill);
    for (int i = 0; i < 100000; i++) {
        if (rng_below(rng, 100) < (i / 2000 % 2 ? 35 : 65)) {
            spilled += plain_push(&q, &spill, &plain, item(++in));
        } else if (plain_pop(&q, &plain, rng_below(rng, 2)) != NULL) {
            out++;
        } else {
            plain_pull(&q, &spill, &plain, &last);
        }
        CHECK_EQ(fr_queue_len(&q), plain.n);
        CHECK_EQ(plain.n + fr_spill_len(&spill), in - out);
    }
    CHECK(spilled > 0 && last > 0);
    fr_spill_destroy(&spill);
}

/* -- stress ---------------------------------------------------------------------------------------------------- */

enum { MAX_WORKERS = 5, MAX_ITEMS = 60000 };

struct arena {
    struct fr_queue queues[MAX_WORKERS];
    struct fr_spill spills[MAX_WORKERS];
    struct fr_bias biases[MAX_WORKERS];
    uint32_t nworkers, nitems;
    _Atomic uint32_t next;  /* the number of the next item to make */
    _Atomic uint32_t taken; /* items that were seen */
    _Atomic uint8_t seen[MAX_ITEMS];
    uint32_t payload[MAX_ITEMS]; /* plain: maker before the push, taker after */
    _Atomic uint64_t steals;
    uint64_t pops[2];
    _Atomic uint64_t overflows[3]; /* that split, gave up the new item only, found room after all */
};

struct actor {
    struct arena *arena;
    uint32_t id;
    struct rng rng;
    uint64_t pops[2]; /* beside others, alone */
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

static void spill(struct actor *a, void *p)
{
    struct arena *arena = a->arena;
    struct fr_spill *mine = &arena->spills[a->id];
    void *out[CAP];
    CHECK(fr_spill_reserve_owner(mine) == 0);
    uint32_t n = overflow(&arena->queues[a->id], p, out);
    CHECK(n == 0 || n == 1 || n == FR_QUEUE_SPLIT);
    if (n > 0) {
        CHECK(out[n - 1] == p);
        fr_spill_push_owner(mine, out, n);
    }
    atomic_fetch_add_explicit(&arena->overflows[n == FR_QUEUE_SPLIT ? 0 : 2 - n], 1, memory_order_relaxed);
}

static void make_and_push(struct actor *a)
{
    void *p = make(a->arena);
    if (p != NULL && !fr_queue_push_owner(&a->arena->queues[a->id], p)) {
        spill(a, p);
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

/* From what it has spilled itself or another has. */
static void pull_from_spill(struct actor *a)
{
    struct fr_queue *q = &a->arena->queues[a->id];
    uint32_t victim = rng_below(&a->rng, 2) ? a->id : rng_below(&a->rng, a->arena->nworkers);
    struct fr_spill *from = &a->arena->spills[victim];
    void *items[CAP];
    uint32_t n = (victim == a->id ? fr_spill_take_owner : fr_spill_take)(from, items, fr_queue_space_owner(q));
    CHECK_EQ(fr_queue_push_batch_owner(q, items, n), n);
}

static void steal(struct actor *a)
{
    struct arena *arena = a->arena;
    uint32_t victim = rng_below(&a->rng, arena->nworkers);
    struct fr_queue *mine = &arena->queues[a->id];
    void *stolen[CAP];
    CHECK(fr_queue_len(&arena->queues[victim]) <= CAP);
    uint32_t most = rng_below(&a->rng, fr_queue_space_owner(mine) + 1); /* the room only grows while we look away */
    if (victim == a->id) {
        return;
    }
    fr_bias_visit(&arena->biases[victim]);
    uint32_t n = fr_queue_steal(&arena->queues[victim], stolen, most);
    fr_bias_leave(&arena->biases[victim]);
    if (n == 0) {
        return;
    }
    atomic_fetch_add_explicit(&arena->steals, 1, memory_order_relaxed);
    take(arena, stolen[0]);
    CHECK_EQ(fr_queue_push_batch_owner(mine, stolen + 1, n - 1), n - 1);
}

static void *pop_biased(struct actor *a)
{
    struct fr_queue *q = &a->arena->queues[a->id];
    struct fr_bias *bias = &a->arena->biases[a->id];
    bool alone = fr_bias_enter_owner(bias);
    void *p = pop(q, alone);
    if (alone) {
        fr_bias_exit_owner(bias);
    }
    a->pops[alone]++;
    return p;
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
            pull_from_spill(a);
        } else if (dice < 80) {
            void *p = pop_biased(a);
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
    for (uint32_t i = 0; i < arena->nworkers; i++) {
        fr_spill_init(&arena->spills[i]);
        fr_bias_init(&arena->biases[i]);
        queue_init_at(&arena->queues[i], starts[rng_below(rng, NSTARTS)]);
        actors[i] = (struct actor){arena, i, rng_fork(rng), {0, 0}};
    }
    for (uint32_t i = 0; i < arena->nworkers; i++) { /* only now: they steal from all */
        CHECK(pthread_create(&threads[i], NULL, worker_main, &actors[i]) == 0);
    }
    for (uint32_t i = 0; i < arena->nworkers; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        arena->pops[0] += actors[i].pops[0];
        arena->pops[1] += actors[i].pops[1];
    }
    for (uint32_t i = 0; i < arena->nworkers; i++) {
        uint64_t head = atomic_load(&arena->queues[i].head);
        CHECK_EQ(fr_queue_head_steal(head), fr_queue_head_real(head));
        CHECK_EQ(fr_queue_len(&arena->queues[i]), 0);
        CHECK_EQ(fr_spill_len(&arena->spills[i]), 0);
        fr_spill_destroy(&arena->spills[i]);
    }
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
        test_overflow_after_steal(starts[i]);
        test_steal(starts[i]);
        test_push_batch(starts[i]);
    }
    test_plain(&rng);
    for (uint64_t end = fr_clock_ns() + env.stress_ns; fr_clock_ns() < end; rounds++) {
        stress_round(&arena, &rng);
    }
    CHECK(arena.pops[0] > 0);
    printf("pops: %" PRIu64 " alone, %" PRIu64 " not; ", arena.pops[1], arena.pops[0]);
    printf("%" PRIu64 " rounds, %" PRIu64 " steals, overflows: %" PRIu64 " split, %" PRIu64 " one, %" PRIu64 " none\n",
           rounds, arena.steals, arena.overflows[0], arena.overflows[1], arena.overflows[2]);
    return check_end();
}
