/* Proves rt/spill.h: order over the borders of chunks, running out of memory and the owner's spare on one thread; then
 * an owner and thieves, where every item must be seen exactly once and each of them in order. */
#include "../rt/spill.h"
#include "calloc_wrap.h"
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define CHUNK FR_SPILL_CHUNK
#define MOST  (3 * CHUNK + 2) /* more than any take of these tests wants */

enum { OWNER = true, ANY = false };

static void *item(uint64_t n)
{
    return (void *)(uintptr_t)(n + 1);
}

static uint64_t item_number(void *p)
{
    return (uint64_t)(uintptr_t)p - 1;
}

/* -- one thread ------------------------------------------------------------------------------------------------ */

/* A spill and what it must hold: the numbers out .. in-1. */
struct plain {
    struct fr_spill spill;
    uint64_t in, out;
};

static void plain_init(struct plain *p)
{
    fr_spill_init(&p->spill);
    p->in = p->out = 0;
    CHECK_EQ(fr_spill_len(&p->spill), 0);
}

/* The next n items, 0 or -ENOMEM; which must leave all as it was. */
static int plain_try_push(struct plain *p, uint32_t n)
{
    void *items[CHUNK];
    for (uint32_t k = 0; k < n; k++) {
        items[k] = item(p->in + k);
    }
    int rc = fr_spill_reserve_owner(&p->spill);
    if (rc == 0) {
        fr_spill_push_owner(&p->spill, items, n);
    }
    CHECK(rc == 0 || rc == -ENOMEM);
    p->in += rc == 0 ? n : 0;
    CHECK_EQ(fr_spill_len(&p->spill), p->in - p->out);
    return rc;
}

static void plain_push(struct plain *p, uint32_t n)
{
    CHECK(plain_try_push(p, n) == 0);
}

static void plain_take(struct plain *p, uint32_t most, bool owner)
{
    void *items[MOST + 1];
    uint64_t have = p->in - p->out;
    memset(items, 0, sizeof(items));
    uint32_t n = (owner ? fr_spill_take_owner : fr_spill_take)(&p->spill, items, most);
    CHECK_EQ(n, have < most ? have : most);
    for (uint32_t k = 0; k < n; k++) {
        CHECK(items[k] == item(p->out++));
    }
    CHECK(items[n] == NULL); /* not written beyond what it says */
    CHECK_EQ(fr_spill_len(&p->spill), p->in - p->out);
}

static void plain_take_all(struct plain *p, bool owner)
{
    while (p->in != p->out) {
        plain_take(p, MOST, owner);
    }
    plain_take(p, MOST, owner);
}

static const uint32_t push_sizes[] = {1, 2, CHUNK / 2 + 1, CHUNK - 1, CHUNK};
static const uint32_t take_sizes[] = {0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1, MOST};
#define NPUSH (sizeof(push_sizes) / sizeof(push_sizes[0]))
#define NTAKE (sizeof(take_sizes) / sizeof(take_sizes[0]))

/* Pushes of one size, all taken in another; twice, as the second time finds chunks that were emptied. */
static void test_sizes(uint32_t push, uint32_t take, bool owner)
{
    struct plain p;
    plain_init(&p);
    for (int lap = 0; lap < 2; lap++) {
        plain_take(&p, take, owner); /* of nothing */
        while (p.in - p.out <= 3 * CHUNK) {
            plain_push(&p, push);
        }
        for (uint64_t i = 0; i <= 4 * CHUNK; i += take + 1) {
            plain_take(&p, take, owner);
        }
        plain_take_all(&p, owner);
    }
    fr_spill_destroy(&p.spill);
}

static void test_all_sizes(void)
{
    for (uint32_t i = 0; i < NPUSH * NTAKE; i++) {
        test_sizes(push_sizes[i % NPUSH], take_sizes[i / NPUSH], OWNER);
        test_sizes(push_sizes[i % NPUSH], take_sizes[i / NPUSH], ANY);
    }
}

/* Random sizes on both sides against the plain sequence. Takes are the larger ones: it runs dry now and then. */
static void test_random(struct rng *rng)
{
    struct plain p;
    uint32_t dry = 0;
    plain_init(&p);
    for (int i = 0; i < 50000; i++) {
        bool owner = rng_below(rng, 2), small = rng_below(rng, 2);
        if (rng_below(rng, 2)) {
            plain_push(&p, 1 + rng_below(rng, small && CHUNK > 4 ? 4 : CHUNK));
        } else {
            plain_take(&p, rng_below(rng, small ? 4 : MOST + 1), owner);
        }
        dry += p.in == p.out;
    }
    CHECK(dry > 0);
    fr_spill_destroy(&p.spill); /* frees what is left: the address sanitizer looks */
}

/* With `used` items in it and no memory: a reserve fails, and leaves all as it was. */
static void test_no_memory(uint32_t used)
{
    struct plain p;
    plain_init(&p);
    if (used > 0) {
        plain_push(&p, used);
    }
    calloc_allow(0);
    CHECK(plain_try_push(&p, 1) == -ENOMEM);
    CHECK(plain_try_push(&p, CHUNK) == -ENOMEM);
    plain_take(&p, used / 2, ANY);
    calloc_allow(INT64_MAX);
    plain_push(&p, CHUNK);
    plain_push(&p, 1);
    plain_take_all(&p, ANY);
    fr_spill_destroy(&p.spill);
}

/* A push after a reserve needs no memory, whatever others have taken in between [SP2]. */
static void test_reserved(uint32_t used, bool taken)
{
    struct plain p;
    plain_init(&p);
    if (used > 0) {
        plain_push(&p, used);
    }
    CHECK(fr_spill_reserve_owner(&p.spill) == 0);
    if (taken) {
        plain_take_all(&p, ANY);
    }
    calloc_allow(0);
    CHECK(fr_spill_reserve_owner(&p.spill) == 0); /* has it already */
    plain_push(&p, CHUNK);
    calloc_allow(INT64_MAX);
    plain_take_all(&p, ANY);
    fr_spill_destroy(&p.spill);
}

/* The chunk that the owner empties is its next spare: it goes on without memory. A thief frees what it empties. */
static void test_spare(void)
{
    struct plain p;
    plain_init(&p);
    plain_push(&p, CHUNK);
    calloc_allow(0);
    for (uint32_t i = 0; i < 100; i++) {
        CHECK(p.spill.spare == NULL);
        plain_take(&p, MOST, OWNER);
        CHECK(p.spill.spare != NULL);
        plain_push(&p, 1 + i % CHUNK);
    }
    plain_take(&p, MOST, ANY);
    CHECK(plain_try_push(&p, 1) == -ENOMEM);
    calloc_allow(INT64_MAX);
    fr_spill_destroy(&p.spill);
}

/* Of the chunks that it empties at once the owner keeps one, and none if it has a spare. */
static void test_one_spare(void)
{
    struct plain p;
    plain_init(&p);
    for (int lap = 0; lap < 2; lap++) {
        for (int i = 0; i < 3; i++) {
            plain_push(&p, CHUNK);
        }
        if (lap == 1) {
            CHECK(fr_spill_reserve_owner(&p.spill) == 0);
        }
        plain_take(&p, MOST, OWNER);
        calloc_allow(0);
        plain_push(&p, CHUNK - 1);
        CHECK_EQ(fr_spill_reserve_owner(&p.spill), -ENOMEM);
        calloc_allow(1);
        plain_push(&p, 1); /* fits: the spare that it has reserved stays */
        CHECK(fr_spill_reserve_owner(&p.spill) == 0);
        calloc_allow(INT64_MAX);
        plain_take_all(&p, ANY);
    }
    fr_spill_destroy(&p.spill);
}

/* Items left are forgotten, their chunks and the spare freed: the address sanitizer looks. */
static void test_destroy(uint32_t left, uint32_t taken, bool spare)
{
    struct plain p;
    plain_init(&p);
    for (uint32_t n = 0; n < left; n++) {
        plain_push(&p, 1);
    }
    plain_take(&p, taken, ANY);
    CHECK(!spare || fr_spill_reserve_owner(&p.spill) == 0);
    fr_spill_destroy(&p.spill);
    CHECK_EQ(fr_spill_len(&p.spill), 0);
}

static void test_all_places(void)
{
    for (uint32_t n = 0; n <= CHUNK; n++) {
        test_no_memory(n);
        test_reserved(n, false);
        test_reserved(n, true);
    }
    for (uint32_t i = 0; i < NTAKE * NTAKE; i++) {
        test_destroy(take_sizes[i % NTAKE], take_sizes[i / NTAKE], false);
        test_destroy(take_sizes[i % NTAKE], take_sizes[i / NTAKE], true);
    }
}

/* -- stress ---------------------------------------------------------------------------------------------------- */

enum { MAX_THIEVES = 4, ITEMS = 18000 };

struct arena {
    struct fr_spill spill;
    uint32_t nthieves, maxbatch;
    _Atomic bool pushing;
    _Atomic uint64_t thefts; /* of all rounds: items that another than the owner took */
    _Atomic uint8_t seen[ITEMS];
    uint32_t payload[ITEMS]; /* plain: owner before the push, taker after the take */
};

struct actor {
    struct arena *arena;
    uint32_t id; /* 0: the owner */
    uint32_t pushed;
    int64_t last; /* what it took last */
    struct rng rng;
};

static void push_some(struct actor *a)
{
    struct arena *arena = a->arena;
    void *items[CHUNK];
    uint32_t left = ITEMS - a->pushed, n = 1 + rng_below(&a->rng, arena->maxbatch);
    n = n < left ? n : left;
    for (uint32_t k = 0; k < n; k++, a->pushed++) {
        arena->payload[a->pushed] = ~a->pushed;
        items[k] = item(a->pushed);
    }
    CHECK(fr_spill_reserve_owner(&arena->spill) == 0);
    fr_spill_push_owner(&arena->spill, items, n);
    if (a->pushed == ITEMS) { /* release: who sees it sees our pushes as well. */
        atomic_store_explicit(&arena->pushing, false, memory_order_release);
    }
}

static void see(struct actor *a, uint64_t number)
{
    struct arena *arena = a->arena;
    CHECK(number < ITEMS);
    CHECK((int64_t)number > a->last); /* FIFO, as each taker sees it */
    a->last = (int64_t)number;
    CHECK_EQ(arena->payload[number], ~(uint32_t)number);
    CHECK_EQ(atomic_fetch_add_explicit(&arena->seen[number], 1, memory_order_relaxed), 0);
}

static uint32_t take_some(struct actor *a)
{
    struct arena *arena = a->arena;
    void *items[MOST];
    uint32_t most = 1 + rng_below(&a->rng, rng_below(&a->rng, 2) ? 4 : MOST);
    uint32_t n = (a->id == 0 ? fr_spill_take_owner : fr_spill_take)(&arena->spill, items, most);
    CHECK(n <= most);
    for (uint32_t k = 0; k < n; k++) {
        see(a, item_number(items[k]));
    }
    if (a->id != 0) {
        atomic_fetch_add_explicit(&arena->thefts, n, memory_order_relaxed);
    }
    return n;
}

static void *actor_main(void *arg)
{
    struct actor *a = arg;
    struct arena *arena = a->arena;
    for (;;) {
        bool over = !atomic_load_explicit(&arena->pushing, memory_order_acquire);
        CHECK(fr_spill_len(&arena->spill) <= ITEMS);
        if (a->id == 0 && a->pushed < ITEMS && rng_below(&a->rng, 2)) {
            push_some(a);
        } else if (take_some(a) == 0) {
            if (over) {
                return NULL;
            }
            sched_yield();
        }
        if (rng_below(&a->rng, 64) == 0) {
            sched_yield();
        }
    }
}

static void arena_begin(struct arena *arena, struct rng *rng)
{
    memset(arena->seen, 0, sizeof(arena->seen));
    memset(arena->payload, 0, sizeof(arena->payload));
    fr_spill_init(&arena->spill);
    arena->nthieves = 1 + rng_below(rng, MAX_THIEVES);
    arena->maxbatch = 1 + rng_below(rng, CHUNK);
    arena->pushing = true;
}

static void arena_end(struct arena *arena)
{
    CHECK_EQ(fr_spill_len(&arena->spill), 0);
    fr_spill_destroy(&arena->spill);
    for (uint32_t i = 0; i < ITEMS; i++) {
        CHECK_EQ(arena->seen[i], 1);
    }
}

static void stress_round(struct arena *arena, struct rng *rng)
{
    pthread_t threads[1 + MAX_THIEVES];
    struct actor actors[1 + MAX_THIEVES];
    arena_begin(arena, rng);
    uint32_t n = 1 + arena->nthieves;
    for (uint32_t i = 0; i < n; i++) {
        actors[i] = (struct actor){.arena = arena, .id = i, .last = -1, .rng = rng_fork(rng)};
        CHECK(pthread_create(&threads[i], NULL, actor_main, &actors[i]) == 0);
    }
    for (uint32_t i = 0; i < n; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    arena_end(arena);
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    static struct arena arena;
    uint64_t rounds = 0;
    test_all_sizes();
    test_random(&rng);
    test_all_places();
    test_spare();
    test_one_spare();
    for (uint64_t end = fr_clock_ns() + env.stress_ns; fr_clock_ns() < end; rounds++) {
        stress_round(&arena, &rng);
    }
    printf("%" PRIu64 " rounds, %" PRIu64 " items taken by thieves\n", rounds, arena.thefts);
    return check_end();
}
