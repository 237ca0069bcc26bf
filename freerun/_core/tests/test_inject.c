/* Proves rt/inject.h: order, batches, closing and running out of memory on one thread; then producers, consumers and a
 * closer at random. */
#include "../rt/inject.h"
#include "calloc_wrap.h"
#include "check.h"

#include <pthread.h>
#include <string.h>

static void *item(uint64_t n)
{
    return (void *)(uintptr_t)(n + 1);
}

static uint64_t item_number(void *p)
{
    return (uint64_t)(uintptr_t)p - 1;
}

/* -- one thread ------------------------------------------------------------------------------------------------ */

static void test_fifo(void)
{
    struct fr_inject q;
    CHECK(fr_inject_init(&q) == 0);
    CHECK(fr_inject_is_empty(&q) && fr_inject_pop(&q) == NULL);
    for (uint64_t n = 0; n < 1000; n++) {
        CHECK(fr_inject_push(&q, item(n)) == 0);
        CHECK(!fr_inject_is_empty(&q));
        CHECK_EQ(fr_inject_len(&q), n + 1);
    }
    for (uint64_t n = 0; n < 1000; n++) {
        CHECK_EQ(fr_inject_len(&q), 1000 - n);
        CHECK(fr_inject_pop(&q) == item(n));
    }
    CHECK(fr_inject_is_empty(&q) && fr_inject_pop(&q) == NULL);
    fr_inject_destroy(&q);
}

/* Random runs on both sides against the plain sequence 0, 1, 2, ... */
static void test_batches(struct rng *rng)
{
    struct fr_inject q;
    void *buf[5 * FR_INJECT_BLOCK + 10];
    const uint32_t max = sizeof(buf) / sizeof(buf[0]);
    uint64_t in = 0, out = 0;
    CHECK(fr_inject_init(&q) == 0);
    for (int i = 0; i < 20000; i++) {
        uint32_t n = rng_below(rng, rng_below(rng, 2) ? 4 : max + 1);
        if (rng_below(rng, 2)) {
            for (uint32_t k = 0; k < n; k++) {
                CHECK(fr_inject_push_force(&q, item(in++)) == 0);
            }
        } else {
            uint32_t got = fr_inject_pop_batch(&q, buf, n);
            CHECK_EQ(got, n < in - out ? n : in - out);
            for (uint32_t k = 0; k < got; k++) {
                CHECK(buf[k] == item(out++));
            }
        }
        CHECK_EQ(fr_inject_len(&q), in - out);
        CHECK(fr_inject_is_empty(&q) == (in == out));
    }
    fr_inject_destroy(&q); /* frees what is left: the address sanitizer looks */
}

static void test_close(void)
{
    struct fr_inject q;
    CHECK(fr_inject_init(&q) == 0);
    CHECK(fr_inject_push(&q, item(0)) == 0);
    CHECK(!fr_inject_is_closed(&q));
    CHECK(fr_inject_close(&q));
    CHECK(!fr_inject_close(&q));
    CHECK(fr_inject_is_closed(&q));
    CHECK_EQ(fr_inject_push(&q, item(1)), -ESHUTDOWN);
    CHECK_EQ(fr_inject_len(&q), 1);
    for (uint64_t n = 1; n < 300; n++) { /* the bit survives changes of block */
        CHECK(fr_inject_push_force(&q, item(n)) == 0);
        CHECK(fr_inject_is_closed(&q));
    }
    for (uint64_t n = 0; n < 300; n++) {
        CHECK(fr_inject_pop(&q) == item(n));
    }
    CHECK(fr_inject_is_empty(&q) && fr_inject_pop(&q) == NULL);
    CHECK_EQ(fr_inject_push(&q, item(1)), -ESHUTDOWN);
    fr_inject_destroy(&q);
}

/* -ENOMEM leaves the queue as it was, whatever the number of callocs that succeed before [J6]. */
static void test_no_memory(void)
{
    struct fr_inject q;
    uint64_t in = 0, out = 0, refused = 0;
    CHECK(fr_inject_init(&q) == 0);
    for (int i = 0; i < 10 * FR_INJECT_BLOCK + 100; i++) {
        calloc_allow(i % 4 == 3);
        int rc = i % 2 ? fr_inject_push(&q, item(in)) : fr_inject_push_force(&q, item(in));
        calloc_allow(INT64_MAX);
        CHECK(rc == 0 || rc == -ENOMEM);
        in += rc == 0;
        refused += rc != 0;
        CHECK_EQ(fr_inject_len(&q), in - out);
        if (i % 3 == 0 && in != out) {
            CHECK(fr_inject_pop(&q) == item(out++));
        }
    }
    CHECK(refused > 0 && in > 0);
    while (out < in) {
        CHECK(fr_inject_pop(&q) == item(out++));
    }
    CHECK(fr_inject_pop(&q) == NULL);
    fr_inject_destroy(&q);
    calloc_allow(0);
    CHECK_EQ(fr_inject_init(&q), -ENOMEM);
    calloc_allow(INT64_MAX);
}

/* -- stress ---------------------------------------------------------------------------------------------------- */

enum { MAX_PRODUCERS = 4, MAX_CONSUMERS = 3, PER_PRODUCER = 4000 };

struct arena {
    struct fr_inject q;
    uint32_t nproducers, nconsumers, maxbatch;
    _Atomic uint32_t producing;
    _Atomic uint8_t seen[MAX_PRODUCERS][PER_PRODUCER];
    uint8_t accepted[MAX_PRODUCERS][PER_PRODUCER]; /* plain: its producer, then main after the join */
    uint32_t payload[MAX_PRODUCERS][PER_PRODUCER]; /* plain: producer before the push, consumer after the pop */
};

struct actor {
    struct arena *arena;
    uint32_t id;
    struct rng rng;
};

static int produce(struct actor *a, uint32_t number)
{
    a->arena->payload[a->id][number] = ~number;
    void *pushed = item((uint64_t)a->id << 32 | number);
    return rng_below(&a->rng, 2) ? fr_inject_push(&a->arena->q, pushed) : fr_inject_push_force(&a->arena->q, pushed);
}

static void *producer_main(void *arg)
{
    struct actor *a = arg;
    for (uint32_t at = 0; at < PER_PRODUCER; at++) {
        int rc = produce(a, at);
        CHECK(rc == 0 || rc == -ESHUTDOWN);
        a->arena->accepted[a->id][at] = rc == 0;
        if (rng_below(&a->rng, 64) == 0) {
            sched_yield();
        }
    }
    /* release: a consumer that sees 0 sees our pushes as well. */
    atomic_fetch_sub_explicit(&a->arena->producing, 1, memory_order_release);
    return NULL;
}

static void *consumer_main(void *arg)
{
    struct actor *a = arg;
    struct arena *arena = a->arena;
    int64_t last[MAX_PRODUCERS];
    void *batch[64];
    memset(last, -1, sizeof(last));
    for (;;) {
        bool over = atomic_load_explicit(&arena->producing, memory_order_acquire) == 0;
        uint32_t n = 1;
        if (rng_below(&a->rng, 2)) {
            n = fr_inject_pop_batch(&arena->q, batch, 1 + rng_below(&a->rng, arena->maxbatch));
        } else if ((batch[0] = fr_inject_pop(&arena->q)) == NULL) {
            n = 0;
        }
        if (n == 0 && over) {
            return NULL;
        }
        for (uint32_t k = 0; k < n; k++) {
            uint32_t who = (uint32_t)(item_number(batch[k]) >> 32), seq = (uint32_t)item_number(batch[k]);
            CHECK((int64_t)seq > last[who]); /* FIFO for each producer, as each consumer sees it */
            last[who] = seq;
            CHECK_EQ(arena->payload[who][seq], ~seq & UINT32_MAX);
            CHECK_EQ(atomic_fetch_add_explicit(&arena->seen[who][seq], 1, memory_order_relaxed), 0);
        }
        if (n == 0 || rng_below(&a->rng, 64) == 0) {
            sched_yield();
        }
    }
}

static void *closer_main(void *arg)
{
    struct actor *a = arg;
    for (uint32_t i = rng_below(&a->rng, 300); i > 0; i--) {
        (void)fr_inject_len(&a->arena->q);
        (void)fr_inject_is_empty(&a->arena->q);
        sched_yield();
    }
    CHECK(fr_inject_close(&a->arena->q));
    return NULL;
}

static uint64_t stress_round(struct arena *arena, struct rng *rng)
{
    pthread_t threads[MAX_PRODUCERS + MAX_CONSUMERS + 1];
    struct actor actors[MAX_PRODUCERS + MAX_CONSUMERS + 1];
    memset(arena, 0, sizeof(*arena));
    CHECK(fr_inject_init(&arena->q) == 0);
    arena->nproducers = 1 + rng_below(rng, MAX_PRODUCERS);
    arena->nconsumers = 1 + rng_below(rng, MAX_CONSUMERS);
    arena->maxbatch = 1 + rng_below(rng, 64);
    arena->producing = arena->nproducers;
    uint32_t n = arena->nproducers + arena->nconsumers + 1;
    for (uint32_t i = 0; i < n; i++) {
        actors[i] = (struct actor){arena, i, rng_fork(rng)};
        CHECK(pthread_create(&threads[i], NULL,
                             i < arena->nproducers ? producer_main
                             : i + 1 < n           ? consumer_main
                                                   : closer_main,
                             &actors[i]) == 0);
    }
    for (uint32_t i = 0; i < n; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(fr_inject_is_empty(&arena->q) && fr_inject_pop(&arena->q) == NULL);
    CHECK_EQ(fr_inject_len(&arena->q), 0);
    fr_inject_destroy(&arena->q);
    uint64_t refused = 0;
    for (uint32_t p = 0; p < arena->nproducers; p++) {
        for (uint32_t i = 0; i < PER_PRODUCER; i++) {
            CHECK_EQ(arena->seen[p][i], arena->accepted[p][i]); /* [J4] */
            refused += !arena->accepted[p][i];
        }
    }
    return refused;
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    static struct arena arena;
    uint64_t rounds = 0, refused = 0;
    test_fifo();
    test_batches(&rng);
    test_close();
    test_no_memory();
    for (uint64_t end = fr_clock_ns() + env.stress_ns; fr_clock_ns() < end; rounds++) {
        refused += stress_round(&arena, &rng);
    }
    printf("%" PRIu64 " rounds, %" PRIu64 " pushes refused\n", rounds, refused);
    return check_end();
}
