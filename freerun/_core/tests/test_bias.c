/* Proves rt/bias.h: who is alone when, on one thread; then an owner and visitors that change what only one at a time may.
 * Built with FR_NO_MEMBARRIER the owner is never alone, and all else holds. */
#include "../rt/bias.h"
#include "../rt/mutex.h"
#include "check.h"

#include <pthread.h>

#ifdef FR_NO_MEMBARRIER
enum { HAS_BARRIER = false };
#else
enum { HAS_BARRIER = true };
#endif

/* -- one thread ------------------------------------------------------------------------------------------------ */

/* Enters and leaves. Whether it was alone. */
static bool pass(struct fr_bias *bias)
{
    bool alone = fr_bias_enter_owner(bias);
    CHECK_EQ(atomic_load(&bias->inside), alone);
    if (alone) {
        fr_bias_exit_owner(bias);
    }
    CHECK_EQ(atomic_load(&bias->inside), 0);
    return alone;
}

static void pass_beside_others(struct fr_bias *bias, uint32_t times)
{
    for (uint32_t i = 0; i < times; i++) {
        CHECK(!pass(bias));
    }
}

/* Alone from the beginning, and for as long as nobody comes. */
static void test_alone(void)
{
    struct fr_bias bias;
    fr_bias_init(&bias);
    for (uint32_t i = 0; i < 2 * FR_BIAS_CALM; i++) {
        CHECK_EQ(pass(&bias), HAS_BARRIER);
    }
}

/* After a visit it passes so many sections beside others [B4], and one that finds out about the visit. */
static void test_regain(void)
{
    struct fr_bias bias;
    fr_bias_init(&bias);
    pass(&bias);
    for (int lap = 0; lap < 3; lap++) {
        fr_bias_visit(&bias);
        fr_bias_leave(&bias);
        pass_beside_others(&bias, FR_BIAS_CALM);
        CHECK_EQ(pass(&bias), HAS_BARRIER);
        CHECK_EQ(pass(&bias), HAS_BARRIER);
    }
}

/* Not while somebody is there, however long, nor with the count of before. */
static void test_no_regain(void)
{
    struct fr_bias bias;
    fr_bias_init(&bias);
    fr_bias_visit(&bias);
    fr_bias_visit(&bias);
    pass_beside_others(&bias, 3 * FR_BIAS_CALM);
    fr_bias_leave(&bias);
    pass_beside_others(&bias, 3 * FR_BIAS_CALM);
    fr_bias_leave(&bias);
    fr_bias_visit(&bias);
    fr_bias_leave(&bias);
    pass_beside_others(&bias, FR_BIAS_CALM);
    CHECK_EQ(pass(&bias), HAS_BARRIER);
}

/* -- stress ---------------------------------------------------------------------------------------------------- */

enum { MAX_VISITORS = 3, SECTIONS = 100000 };

struct arena {
    struct fr_bias bias;
    struct fr_mutex lock;
    uint64_t one, two; /* plain, and equal outside of a section */
    _Atomic bool done;
    uint64_t alone, beside; /* the owner's sections */
};

struct visitor {
    struct arena *arena;
    struct rng rng;
    uint32_t pause; /* about so long between visits; 0: none */
    uint64_t visits;
};

static void change(struct arena *arena)
{
    CHECK_EQ(arena->one, arena->two);
    arena->one++;
    atomic_signal_fence(memory_order_seq_cst); /* two stores, far enough apart for somebody to come between */
    arena->two++;
}

static void *owner_main(void *arg)
{
    struct arena *arena = arg;
    for (uint32_t i = 0; i < SECTIONS; i++) {
        if (fr_bias_enter_owner(&arena->bias)) {
            change(arena);
            fr_bias_exit_owner(&arena->bias);
            arena->alone++;
        } else {
            fr_mutex_lock(&arena->lock);
            change(arena);
            fr_mutex_unlock(&arena->lock);
            arena->beside++;
        }
    }
    atomic_store(&arena->done, true);
    return NULL;
}

static void *visitor_main(void *arg)
{
    struct visitor *visitor = arg;
    struct arena *arena = visitor->arena;
    do {
        fr_bias_visit(&arena->bias);
        for (uint32_t i = rng_below(&visitor->rng, 3); i > 0; i--) {
            fr_mutex_lock(&arena->lock);
            change(arena);
            fr_mutex_unlock(&arena->lock);
            visitor->visits++;
        }
        fr_bias_leave(&arena->bias);
        for (uint32_t i = rng_below(&visitor->rng, visitor->pause + 1); i > 0; i--) {
            fr_cpu_relax();
        }
    } while (!atomic_load_explicit(&arena->done, memory_order_relaxed));
    return NULL;
}

/* Owners come one after the other; visitors stay. */
static void stress_round(struct arena *arena, struct rng *rng)
{
    static const uint32_t pauses[] = {0, 100, 10000};
    pthread_t threads[MAX_VISITORS], owner;
    struct visitor visitors[MAX_VISITORS];
    uint32_t n = 1 + rng_below(rng, MAX_VISITORS), pause = pauses[rng_below(rng, 3)];
    uint64_t changes = 0;
    *arena = (struct arena){.one = 0, .alone = arena->alone, .beside = arena->beside};
    fr_bias_init(&arena->bias);
    for (uint32_t i = 0; i < n; i++) {
        visitors[i] = (struct visitor){arena, rng_fork(rng), pause, 0};
        CHECK(pthread_create(&threads[i], NULL, visitor_main, &visitors[i]) == 0);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&owner, NULL, owner_main, arena) == 0);
        CHECK(pthread_join(owner, NULL) == 0);
        changes += SECTIONS;
    }
    for (uint32_t i = 0; i < n; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        changes += visitors[i].visits;
    }
    CHECK_EQ(arena->one, changes);
    CHECK_EQ(arena->two, changes);
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    static struct arena arena;
    uint64_t rounds = 0;
    test_alone();
    test_regain();
    test_no_regain();
    for (uint64_t end = fr_clock_ns() + env.stress_ns; fr_clock_ns() < end; rounds++) {
        stress_round(&arena, &rng);
    }
    CHECK(!HAS_BARRIER || arena.alone > 0);
    CHECK(arena.beside > 0);
    printf("%" PRIu64 " rounds, sections: %" PRIu64 " alone, %" PRIu64 " beside others\n", rounds, arena.alone,
           arena.beside);
    return check_end();
}
