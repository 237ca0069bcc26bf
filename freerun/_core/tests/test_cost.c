/* Proves rt/cost.h: a single outlier makes no kind of task long, several do; it is forgotten, slowly; and where nothing
 * changes nothing is written. */
#include "../rt/cost.h"
#include "check.h"

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

static void test_it_rises_fast_but_not_at_once(void)
{
    CHECK(fr_cost_next(1000, 3000) == 3000);
    CHECK(fr_cost_next(1000, 10000000) == 1000 * FR_COST_RISE); /* a collection, perhaps */
    CHECK(after(1000, 10000000, 7) == 10000000);                /* no */
    CHECK(after(1, UINT64_MAX, 100) < UINT32_MAX);
}

static void test_it_falls_slowly(void)
{
    CHECK(after(1000000, 1000, FR_COST_FALL / 2) > 500000);
    CHECK(after(1000000, 1000, FR_COST_FALL * 10) < 10000);
    CHECK(after(5, 1, 1000000) != FR_COST_UNKNOWN);
}

/* One in ten is long: that counts. */
static void test_a_mixed_kind_is_long(void)
{
    uint32_t cost = 1000;
    for (int i = 0; i < 1000; i++) {
        cost = fr_cost_next(cost, i % 10 ? 1000 : 1000000);
    }
    CHECK(cost > 500000);
}

/* [C2], and on a shared one as well: up, down, never unknown again. */
static void test_a_shared_one_is_written_rarely(void)
{
    struct fr_cost cost = {0};
    fr_cost_learn_shared(&cost, 1000, 1);
    CHECK(fr_cost_get(&cost) == 1000);
    for (uint64_t i = 0; i < 10000; i++) {
        fr_cost_learn_shared(&cost, 600 + i % 600, i);
        CHECK(fr_cost_get(&cost) == 1000);
    }
    for (uint64_t i = 0; i < 10; i++) {
        fr_cost_learn_shared(&cost, 1000000, i);
    }
    CHECK(fr_cost_get(&cost) == 1000000);
    for (uint64_t i = 0; i < FR_COST_FALL * 64; i++) {
        fr_cost_learn_shared(&cost, 0, i);
        CHECK(fr_cost_get(&cost) != FR_COST_UNKNOWN);
    }
    CHECK(fr_cost_get(&cost) < 10);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    test_the_first_counts();
    test_it_rises_fast_but_not_at_once();
    test_it_falls_slowly();
    test_a_mixed_kind_is_long();
    test_a_shared_one_is_written_rarely();
    return check_end();
}
