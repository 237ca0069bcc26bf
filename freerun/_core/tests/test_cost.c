/* Proves rt/cost.h: a single outlier makes no kind of task long, several do; it is forgotten again; and where nothing changes
 * nothing is written. */
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
    CHECK(fr_cost_next(1000, 10000000) < 10000); /* a collection, perhaps */
    CHECK(after(1000, 10000000, 100) > 9000000); /* no */
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

/* Of a queue: a long one counts at once, and is forgotten when the next few were short. */
static void test_queued(void)
{
    struct fr_cost queue = {FR_COST_UNKNOWN};
    fr_cost_queued(&queue, 1000);
    CHECK(fr_cost_of(&queue, 256) < FR_COST_STEAL_NS);
    fr_cost_queued(&queue, FR_COST_UNKNOWN);
    CHECK(fr_cost_of(&queue, 1) >= FR_COST_WAKE_NS);
    for (int i = 0; i < 20 * FR_COST_FORGET; i++) {
        fr_cost_queued(&queue, 1000);
    }
    CHECK(fr_cost_of(&queue, 256) < FR_COST_STEAL_NS);
    fr_cost_queued(&queue, FR_COST_LONG_NS + 1);
    CHECK(fr_cost_of(&queue, 1) >= FR_COST_WAKE_NS);
}

static void test_what_is_won(void)
{
    struct fr_cost cost = {FR_COST_UNKNOWN};
    CHECK(fr_cost_of(&cost, 1000) == 0);
    fr_cost_set(&cost, FR_COST_MOVE_NS);
    CHECK(fr_cost_of(&cost, UINT32_MAX) == 0);
    fr_cost_set(&cost, FR_COST_MOVE_NS + 2);
    CHECK(fr_cost_of(&cost, 1000) == 2000);
    fr_cost_set(&cost, UINT32_MAX / 8);
    CHECK(fr_cost_of(&cost, 256) / 256 == UINT32_MAX / 8 - FR_COST_MOVE_NS); /* no overflow */
    CHECK(FR_COST_STEAL_NS < FR_COST_WAKE_NS);
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
    test_queued();
    test_what_is_won();
    test_it_is_written_rarely();
    return check_end();
}
