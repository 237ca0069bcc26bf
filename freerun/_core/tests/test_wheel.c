/* Proves rt/wheel.h and rt/list.h, and looks at rt/clock.h: exact cases, then random operations against a plain array of
 * deadlines that is searched from end to end.
 */
#include "../rt/clock.h"
#include "../rt/wheel.h"
#include "check.h"

#include <string.h>

/* -- list and clock -------------------------------------------------------------------------------------------- */

static void test_list(void)
{
    struct fr_node list, other, n[4];
    fr_list_init(&list);
    fr_list_init(&other);
    CHECK(fr_list_is_empty(&list) && fr_list_pop_front(&list) == NULL && fr_list_front(&list) == NULL);
    for (int i = 0; i < 4; i++) {
        fr_list_node_init(&n[i]);
        CHECK(!fr_list_is_linked(&n[i]));
    }
    fr_list_push_back(&list, &n[1]);
    fr_list_push_back(&list, &n[2]);
    fr_list_push_front(&list, &n[0]);
    CHECK(fr_list_is_linked(&n[1]) && fr_list_front(&list) == &n[0]);
    fr_list_remove(&n[1]);
    CHECK(!fr_list_is_linked(&n[1]) && list.next == &n[0] && n[0].next == &n[2] && list.prev == &n[2]);
    fr_list_splice(&list, &other); /* nothing */
    fr_list_push_back(&other, &n[3]);
    fr_list_push_back(&other, &n[1]);
    fr_list_splice(&list, &other);
    CHECK(fr_list_is_empty(&other));
    CHECK(fr_list_pop_front(&list) == &n[0] && fr_list_pop_front(&list) == &n[2]);
    fr_list_splice(&other, &list); /* into an empty one */
    CHECK(fr_list_is_empty(&list));
    CHECK(fr_list_pop_front(&other) == &n[3] && fr_list_pop_front(&other) == &n[1] && fr_list_is_empty(&other));
}

static void test_clock(void)
{
    uint64_t ns = fr_clock_ns(), ticks = fr_clock_ticks();
    while (fr_clock_ns() - ns < 1000000) {
    }
    CHECK(fr_clock_ticks() != ticks);
}

/* -- exact cases ----------------------------------------------------------------------------------------------- */

static bool is_empty(const struct fr_wheel *w)
{
    return fr_wheel_next(w) == FR_WHEEL_NEVER;
}

/* Goes from event to event, as an auto-advanced clock does, until `t` expires; returns in how many steps. */
static uint32_t steps_to_expire(struct fr_wheel *w, struct fr_timer *t)
{
    struct fr_node expired;
    fr_list_init(&expired);
    for (uint32_t steps = 1;; steps++) {
        uint64_t next = fr_wheel_next(w);
        CHECK(next > w->elapsed && next <= t->deadline);
        fr_wheel_advance(w, next, &expired);
        CHECK_EQ(w->elapsed, next);
        if (next < t->deadline) {
            CHECK(fr_list_is_empty(&expired));
            continue;
        }
        CHECK(fr_timer_pop_expired(&expired) == t && fr_list_is_empty(&expired));
        CHECK(!fr_timer_is_armed(w, t) && is_empty(w));
        return steps;
    }
}

static void test_one_timer(void)
{
    static const uint64_t starts[] = {0, 1, 63, 64, 4095, 1234567, ((uint64_t)1 << 36) - 1, (uint64_t)1 << 40};
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        for (int bit = 0; bit <= 40; bit++) {
            for (int off = -1; off <= 1; off++) {
                struct fr_wheel w;
                struct fr_timer t;
                uint64_t delta = ((uint64_t)1 << bit) + (uint64_t)off;
                fr_wheel_init(&w, starts[i]);
                fr_timer_init(&t);
                CHECK(is_empty(&w));
                CHECK(!fr_wheel_insert(&w, &t, starts[i]));
                if (delta == 0) {
                    continue;
                }
                CHECK(fr_wheel_insert(&w, &t, starts[i] + delta));
                CHECK(fr_timer_is_armed(&w, &t) && !is_empty(&w));
                /* One step per level, and one for each round of the top level. */
                CHECK(steps_to_expire(&w, &t) <= FR_WHEEL_LEVELS + 1 + (delta >> 36));
            }
        }
    }
}

static void test_remove(void)
{
    struct fr_wheel w;
    struct fr_timer a, b, c;
    struct fr_node expired;
    fr_list_init(&expired);
    fr_wheel_init(&w, 10);
    fr_timer_init(&a);
    fr_timer_init(&b);
    fr_timer_init(&c);
    CHECK(!fr_wheel_remove(&w, &a));
    CHECK(fr_wheel_insert(&w, &a, 20) && fr_wheel_insert(&w, &b, 20));
    CHECK(fr_wheel_remove(&w, &a) && !fr_wheel_remove(&w, &a));
    CHECK_EQ(fr_wheel_next(&w), 20); /* b keeps the slot */
    CHECK(fr_wheel_insert(&w, &a, 19));
    fr_wheel_advance(&w, 70, &expired);
    CHECK(is_empty(&w) && !fr_timer_is_armed(&w, &a) && !fr_timer_is_armed(&w, &b));
    CHECK(fr_wheel_insert(&w, &c, 83) && c.slot == a.slot); /* the slot that the expired one still names [W5] */
    CHECK(!fr_wheel_remove(&w, &a)); /* out of the expired list: too late to prevent, but not dangling */
    CHECK(fr_timer_pop_expired(&expired) == &b && fr_list_is_empty(&expired));
    CHECK(!fr_wheel_remove(&w, &b));
    CHECK(fr_timer_is_armed(&w, &c) && fr_wheel_remove(&w, &c));
    CHECK(fr_wheel_insert(&w, &a, 84) && fr_wheel_remove(&w, &a));
    CHECK(is_empty(&w));
}

/* Elapsed's own slot at the top level, one round away, must not hide a nearer one [W3]. */
static void test_far_timer_does_not_hide_a_near_one(void)
{
    struct fr_wheel w;
    struct fr_timer far, near, never;
    struct fr_node expired;
    const uint64_t slot = (uint64_t)1 << 30, start = 5 * slot + 100;
    fr_list_init(&expired);
    fr_wheel_init(&w, start);
    fr_timer_init(&far);
    fr_timer_init(&near);
    fr_timer_init(&never);
    CHECK(fr_wheel_insert(&w, &far, start - 50 + 64 * slot));
    CHECK(fr_wheel_insert(&w, &near, 6 * slot));
    CHECK(fr_wheel_insert(&w, &never, FR_WHEEL_NEVER));
    CHECK_EQ(fr_wheel_next(&w), 6 * slot);
    fr_wheel_advance(&w, 6 * slot, &expired);
    CHECK(fr_timer_pop_expired(&expired) == &near);
    fr_wheel_advance(&w, 200 * slot, &expired);
    CHECK(fr_timer_pop_expired(&expired) == &far && fr_list_is_empty(&expired));
    CHECK(fr_wheel_remove(&w, &never));
}

/* -- against a model ------------------------------------------------------------------------------------------- */

enum { TIMERS = 300 };

struct model {
    struct fr_wheel wheel;
    struct fr_timer timers[TIMERS];
    bool armed[TIMERS];
    uint64_t deadline[TIMERS];
    struct rng rng;
    uint64_t expirations;
};

static uint64_t model_earliest(const struct model *m)
{
    uint64_t min = FR_WHEEL_NEVER;
    for (int i = 0; i < TIMERS; i++) {
        if (m->armed[i] && m->deadline[i] < min) {
            min = m->deadline[i];
        }
    }
    return min;
}

static void model_check(const struct model *m)
{
    uint64_t armed = 0, next = fr_wheel_next(&m->wheel);
    for (int i = 0; i < TIMERS; i++) {
        armed += m->armed[i];
        CHECK(fr_timer_is_armed(&m->wheel, &m->timers[i]) == m->armed[i]);
    }
    CHECK(next > m->wheel.elapsed && next <= model_earliest(m));
    CHECK((next == FR_WHEEL_NEVER) == (armed == 0));
    for (int l = 0; l < FR_WHEEL_LEVELS; l++) {
        for (int s = 0; s < FR_WHEEL_SLOTS; s++) {
            CHECK((m->wheel.levels[l].occupied >> s & 1) == !fr_list_is_empty(&m->wheel.levels[l].slots[s]));
        }
    }
}

/* Of random size, from one tick to beyond the wheel. */
static uint64_t model_delta(struct model *m)
{
    return rng_next(&m->rng) >> (24 + rng_below(&m->rng, 40));
}

static void model_insert(struct model *m, int i)
{
    uint64_t deadline = m->wheel.elapsed + model_delta(m);
    if (rng_below(&m->rng, 16) == 0) {
        deadline = m->deadline[rng_below(&m->rng, TIMERS)]; /* perhaps past, perhaps the same slot */
    }
    if (m->armed[i]) {
        CHECK(fr_wheel_remove(&m->wheel, &m->timers[i]));
    }
    m->armed[i] = fr_wheel_insert(&m->wheel, &m->timers[i], deadline);
    CHECK(m->armed[i] == (deadline > m->wheel.elapsed));
    m->deadline[i] = deadline;
}

static void model_advance(struct model *m)
{
    struct fr_node expired;
    struct fr_timer *t;
    uint64_t now = m->wheel.elapsed + model_delta(m), last = m->wheel.elapsed, due = 0;
    switch (rng_below(&m->rng, 4)) {
    case 0:
        now = fr_wheel_next(&m->wheel) - rng_below(&m->rng, 2);
        break;
    case 1:
        now = model_earliest(m) - rng_below(&m->rng, 2);
        break;
    }
    if (now >= (uint64_t)1 << 62) {
        return; /* nothing armed */
    }
    for (int i = 0; i < TIMERS; i++) {
        due += m->armed[i] && m->deadline[i] <= now;
    }
    fr_list_init(&expired);
    fr_wheel_advance(&m->wheel, now, &expired);
    CHECK_EQ(m->wheel.elapsed, now);
    m->expirations += due;
    int late = (int)rng_below(&m->rng, TIMERS);
    if (m->armed[late] && m->deadline[late] <= now) {
        CHECK(!fr_wheel_remove(&m->wheel, &m->timers[late])); /* out of the expired */
        m->armed[late] = false;
        due--;
    }
    while ((t = fr_timer_pop_expired(&expired)) != NULL) {
        int i = (int)(t - m->timers);
        CHECK(m->armed[i] && t->deadline == m->deadline[i]);
        CHECK(t->deadline <= now && t->deadline >= last); /* never early, and in order [W2] */
        last = t->deadline;
        m->armed[i] = false;
        due--;
    }
    CHECK_EQ(due, 0); /* never late [W2] */
}

static void model_run(struct model *m, struct rng rng)
{
    m->rng = rng;
    memset(m->armed, 0, sizeof(m->armed));
    fr_wheel_init(&m->wheel, rng_below(&m->rng, 2) ? 0 : model_delta(m));
    for (int i = 0; i < TIMERS; i++) {
        fr_timer_init(&m->timers[i]);
        m->deadline[i] = 0;
    }
    uint32_t ops = 2000, inserts = 1 + rng_below(&m->rng, 80);
    while (ops-- > 0) {
        int i = (int)rng_below(&m->rng, TIMERS);
        uint32_t dice = rng_below(&m->rng, 100);
        if (dice < inserts) {
            model_insert(m, i);
        } else if (dice < inserts + 10) {
            CHECK(fr_wheel_remove(&m->wheel, &m->timers[i]) == m->armed[i]);
            m->armed[i] = false;
        } else {
            model_advance(m);
        }
        model_check(m);
    }
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    static struct model model;
    uint64_t runs = 0;
    test_list();
    test_clock();
    test_one_timer();
    test_remove();
    test_far_timer_does_not_hide_a_near_one();
    for (uint64_t end = fr_clock_ns() + env.stress_ns; fr_clock_ns() < end; runs++) {
        model_run(&model, rng_fork(&rng));
    }
    printf("%" PRIu64 " runs, %" PRIu64 " expirations\n", runs, model.expirations);
    return check_end();
}
