/* Proves rt/cost.h: a single outlier makes no kind of task long, several do; it is forgotten again; where nothing changes
 * nothing is written; and a backlog is the sum of what is queued. */
#include "../rt/cost.h"
#include "check.h"

static struct rng rng;

static uint32_t chance(void)
{
    return (uint32_t)rng_next(&rng);
}

static uint32_t after(uint32_t cost, uint64_t measured, int times)
{
    for (int i = 0; i < times; i++) {
        cost = fr_cost_next(cost, measured);
    }
    return cost;
}

static void test_the_first_counts(void)
{
    CHECK(fr_cost_next(FR_COST_UNKNOWN, 1234) == 1234);
    CHECK(fr_cost_next(FR_COST_UNKNOWN, 0) != FR_COST_UNKNOWN); /* measured, not unknown */
    CHECK(fr_cost_next(FR_COST_UNKNOWN, UINT64_MAX) < UINT32_MAX);
}

static void test_an_outlier_makes_none_long(void)
{
    CHECK(fr_cost_next(1000, 3000) == 1250);
    CHECK(fr_cost_share(fr_cost_next(1000, 10000000)) == 0); /* a collection, perhaps */
    CHECK(after(1000, 10000000, 100) > 9000000);             /* no */
    CHECK(after(1, UINT64_MAX, 1000) < UINT32_MAX);
}

static void test_it_falls(void)
{
    CHECK(after(8000, 1000, 24) < 1500); /* an outlier is forgotten */
    CHECK(after(1000000, 1000, 200) < 1010);
    CHECK(after(5, 1, 1000) != FR_COST_UNKNOWN);
}

/* One in ten is long: that counts. */
static void test_a_mixed_kind_is_long(void)
{
    struct fr_cost cost = {FR_COST_UNKNOWN};
    for (uint64_t i = 0; i < 1000; i++) {
        fr_cost_learn(&cost, i % 10 ? 1000 : 1000000, chance());
    }
    CHECK(fr_cost_get(&cost) > 30000);
}

/* Only what another worker could take off; what is unknown or long is a backlog by itself. */
static void test_share(void)
{
    CHECK(FR_COST_STEAL_NS < FR_COST_WAKE_NS);
    CHECK(fr_cost_share(1) == 0);
    CHECK(fr_cost_share(FR_COST_MOVE_NS) == 0);
    CHECK(fr_cost_share(FR_COST_MOVE_NS + 2) == 2);
    CHECK(fr_cost_share(FR_COST_LONG_NS) == FR_COST_LONG_NS - FR_COST_MOVE_NS);
    CHECK(fr_cost_share(FR_COST_LONG_NS + 1) >= FR_COST_WAKE_NS);
    CHECK(fr_cost_share(FR_COST_UNKNOWN) >= FR_COST_WAKE_NS);
}

/* [C3] One long task among many short ones is what it is, and not many long ones; beyond 2^32 too. */
static void test_backlog(void)
{
    struct fr_backlog backlog = {0};
    for (int i = 0; i < 100000; i++) {
        fr_backlog_add(&backlog, fr_cost_share(1000));
    }
    CHECK(!fr_backlog_is_worth(&backlog, 100000, 1));
    fr_backlog_add(&backlog, fr_cost_share(FR_COST_UNKNOWN));
    CHECK(!fr_backlog_is_worth(&backlog, 100001, 1)); /* they are in its way */
    CHECK(fr_backlog_is_worth(&backlog, 1, FR_COST_WAKE_NS));
    CHECK(fr_backlog_is_worth(&backlog, 256, FR_COST_WAKE_NS));
    for (int i = 0; i < 100000; i++) {
        fr_backlog_add(&backlog, fr_cost_share(FR_COST_UNKNOWN));
    }
    CHECK(fr_backlog_is_worth(&backlog, 200001, UINT32_MAX));
    for (int i = 0; i < 100000; i++) {
        fr_backlog_sub(&backlog, fr_cost_share(FR_COST_UNKNOWN));
    }
    fr_backlog_sub(&backlog, fr_cost_share(FR_COST_UNKNOWN));
    CHECK(atomic_load(&backlog.ns) == 0);
}

/* A task that takes 1 us at home takes a thief as long as FR_COST_MOVE_NS more: it stays a short one. */
static void test_moved(void)
{
    CHECK(fr_cost_unmoved(FR_COST_MOVE_NS + 1000) == 1000);
    CHECK(fr_cost_unmoved(FR_COST_MOVE_NS) == 1);
    CHECK(fr_cost_unmoved(0) == 1);
    struct fr_cost cost = {FR_COST_UNKNOWN}; /* of a kind that is never polled but so, and known after the first */
    fr_cost_learn(&cost, fr_cost_unmoved(500), chance());
    CHECK(fr_cost_get(&cost) == 1);
}

/* [C2]: up, down, never unknown again. */
static void test_it_is_written_rarely(void)
{
    struct fr_cost cost = {FR_COST_UNKNOWN};
    fr_cost_learn(&cost, 1000, chance());
    CHECK(fr_cost_get(&cost) == 1000);
    for (uint64_t i = 0; i < 10000; i++) {
        fr_cost_learn(&cost, 600 + i % 1000, chance());
        CHECK(fr_cost_get(&cost) == 1000);
    }
    for (int i = 0; i < 100; i++) {
        fr_cost_learn(&cost, 1000000, chance());
    }
    CHECK(fr_cost_get(&cost) > 400000);
    for (int i = 0; i < 1000; i++) {
        fr_cost_learn(&cost, 0, chance());
        CHECK(fr_cost_get(&cost) != FR_COST_UNKNOWN);
    }
    CHECK(fr_cost_get(&cost) < 10);
}

int main(int argc, char **argv)
{
    rng.x = check_begin(argc, argv).seed;
    test_the_first_counts();
    test_an_outlier_makes_none_long();
    test_it_falls();
    test_a_mixed_kind_is_long();
    test_share();
    test_backlog();
    test_moved();
    test_it_is_written_rarely();
    return check_end();
}
