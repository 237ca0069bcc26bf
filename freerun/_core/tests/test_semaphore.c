/* Proves rt/semaphore.h: every rule on one thread against a model; then threads that acquire, give up and release at
 * random, with a closer. */
#include "../rt/semaphore.h"
#include "check.h"

#include <pthread.h>
#include <string.h>

/* A stand-in for a task: what the callback gets. */
struct sleeper {
    struct fr_event event;
    _Atomic uint64_t wakes; /* counted last: the callback does not touch it after that */
};

static void wake(void *task)
{
    struct sleeper *sleeper = task;
    fr_event_set(&sleeper->event);
    atomic_fetch_add(&sleeper->wakes, 1);
}

static void sleeper_init(struct sleeper *sleeper)
{
    fr_event_init(&sleeper->event, -1);
    atomic_init(&sleeper->wakes, 0);
}

static int acquire(struct fr_sem *sem, struct fr_sem_waiter *waiter, struct sleeper *sleeper, uint64_t n)
{
    sleeper_init(sleeper);
    *waiter = (struct fr_sem_waiter){.waiter = {.task = sleeper}};
    return fr_sem_acquire(sem, waiter, n);
}

/* -- one thread ------------------------------------------------------------------------------------------------ */

static void test_try_acquire(void)
{
    struct fr_sem sem;
    fr_sem_init(&sem, 3, wake);
    CHECK_EQ(fr_sem_available(&sem), 3);
    CHECK(fr_sem_try_acquire(&sem, 0) == 0);
    CHECK(fr_sem_try_acquire(&sem, 2) == 0);
    CHECK(fr_sem_try_acquire(&sem, 2) == -EAGAIN);
    CHECK_EQ(fr_sem_available(&sem), 1);
    CHECK(fr_sem_release(&sem, 2));
    CHECK(fr_sem_try_acquire(&sem, 3) == 0);
    CHECK_EQ(fr_sem_available(&sem), 0);
    CHECK(fr_sem_try_acquire(&sem, 0) == 0);
    fr_sem_close(&sem);
    CHECK(fr_sem_try_acquire(&sem, 0) == -ESHUTDOWN);
    CHECK(fr_sem_release(&sem, 3));
    CHECK(fr_sem_try_acquire(&sem, 1) == -ESHUTDOWN);
    CHECK_EQ(fr_sem_available(&sem), 3);
}

static void test_forget(void)
{
    struct fr_sem sem;
    fr_sem_init(&sem, 5, wake);
    CHECK_EQ(fr_sem_forget(&sem, 2), 2);
    CHECK_EQ(fr_sem_available(&sem), 3);
    CHECK_EQ(fr_sem_forget(&sem, 10), 3);
    CHECK_EQ(fr_sem_forget(&sem, 1), 0);
    CHECK_EQ(fr_sem_available(&sem), 0);
}

static void test_too_many(void)
{
    struct fr_sem sem;
    fr_sem_init(&sem, FR_SEM_MAX, wake);
    CHECK(!fr_sem_release(&sem, 1));
    CHECK(!fr_sem_release(&sem, FR_SEM_MAX));
    CHECK_EQ(fr_sem_available(&sem), FR_SEM_MAX);
    CHECK(fr_sem_try_acquire(&sem, 1) == 0);
    CHECK(fr_sem_release(&sem, 1));
    CHECK(fr_sem_try_acquire(&sem, FR_SEM_MAX) == 0);
    CHECK_EQ(fr_sem_available(&sem), 0);
}

static void test_partial_grants(void)
{
    struct fr_sem sem;
    struct fr_sem_waiter first, second;
    struct sleeper a, b;
    fr_sem_init(&sem, 2, wake);
    CHECK(acquire(&sem, &first, &a, 5) == -EAGAIN);
    CHECK_EQ(fr_sem_available(&sem), 0); /* it has taken the two */
    CHECK(acquire(&sem, &second, &b, 1) == -EAGAIN);
    CHECK(fr_sem_try_acquire(&sem, 1) == -EAGAIN);
    CHECK(fr_sem_release(&sem, 2));
    CHECK_EQ(fr_sem_available(&sem), 0);
    CHECK(fr_sem_poll(&first) == -EAGAIN && fr_sem_poll(&second) == -EAGAIN);
    CHECK(fr_sem_release(&sem, 3)); /* one for the first, one for the second, one left over */
    CHECK(fr_sem_poll(&first) == 0 && fr_sem_poll(&second) == 0);
    CHECK(a.wakes == 1 && b.wakes == 1);
    CHECK_EQ(fr_sem_available(&sem), 1);
    CHECK(fr_sem_try_acquire(&sem, 1) == 0);
}

/* What a waiter has already goes to the next, also if it has all of it and has not looked yet. */
static void test_cancel(void)
{
    for (int granted = 0; granted < 2; granted++) {
        struct fr_sem sem;
        struct fr_sem_waiter first, second, third;
        struct sleeper a, b, c;
        fr_sem_init(&sem, 2, wake);
        CHECK(acquire(&sem, &first, &a, 3) == -EAGAIN);
        CHECK(acquire(&sem, &second, &b, 1) == -EAGAIN);
        CHECK(acquire(&sem, &third, &c, 2) == -EAGAIN);
        if (granted) {
            CHECK(fr_sem_release(&sem, 1));
            CHECK(a.wakes == 1);
        }
        CHECK(fr_sem_cancel(&sem, &first) == !granted);
        CHECK(fr_sem_poll(&second) == 0);
        CHECK(fr_sem_poll(&third) == (granted ? 0 : -EAGAIN));
        CHECK(fr_sem_cancel(&sem, &second) == false);
        CHECK(fr_sem_poll(&third) == 0);
        CHECK_EQ(fr_sem_available(&sem), granted ? 1 : 0);
        CHECK(fr_sem_cancel(&sem, &third) == false);
        CHECK_EQ(fr_sem_available(&sem), granted ? 3 : 2);
    }
}

static void test_close_with_waiters(void)
{
    struct fr_sem sem;
    struct fr_sem_waiter waiters[5];
    struct sleeper sleepers[5];
    fr_sem_init(&sem, 2, wake);
    for (int i = 0; i < 5; i++) {
        CHECK(acquire(&sem, &waiters[i], &sleepers[i], 3) == -EAGAIN);
    }
    fr_sem_close(&sem);
    fr_sem_close(&sem);
    CHECK(fr_sem_is_closed(&sem));
    for (int i = 0; i < 5; i++) {
        CHECK(sleepers[i].wakes == 1);
        CHECK(fr_sem_poll(&waiters[i]) == -ESHUTDOWN);
        CHECK(fr_sem_cancel(&sem, &waiters[i]) == false);
    }
    CHECK_EQ(fr_sem_available(&sem), 2);
    CHECK(acquire(&sem, &waiters[0], &sleepers[0], 1) == -ESHUTDOWN);
}

static void test_retarget(void)
{
    struct fr_sem sem;
    struct fr_sem_waiter waiter;
    struct sleeper a, b;
    fr_sem_init(&sem, 0, wake);
    CHECK(acquire(&sem, &waiter, &a, 1) == -EAGAIN);
    sleeper_init(&b);
    void *task = &b;
    CHECK(fr_waiter_retarget(&sem.lock, &waiter.waiter, &task));
    CHECK(task == &a);
    CHECK(fr_sem_release(&sem, 1));
    CHECK(a.wakes == 0 && b.wakes == 1);
    CHECK(!fr_waiter_retarget(&sem.lock, &waiter.waiter, &task));
}

/* -- a model --------------------------------------------------------------------------------------------------- */

enum { MODEL_WAITERS = 24 };

struct model {
    uint64_t free;
    int line[MODEL_WAITERS]; /* indices of waiters, oldest first */
    int queued;
    uint64_t needed[MODEL_WAITERS], asked[MODEL_WAITERS];
    enum { AWAY, IN_LINE, HAS } where[MODEL_WAITERS];
};

static void model_give(struct model *m, uint64_t n)
{
    while (n > 0 && m->queued > 0) {
        int head = m->line[0];
        uint64_t given = n < m->needed[head] ? n : m->needed[head];
        m->needed[head] -= given;
        n -= given;
        if (m->needed[head] == 0) {
            m->where[head] = HAS;
            memmove(m->line, m->line + 1, (size_t)--m->queued * sizeof m->line[0]);
        }
    }
    m->free += n;
}

static void model_leave(struct model *m, int i)
{
    for (int k = 0; k < m->queued; k++) {
        if (m->line[k] == i) {
            m->queued--;
            memmove(m->line + k, m->line + k + 1, (size_t)(m->queued - k) * sizeof m->line[0]);
            break;
        }
    }
    m->where[i] = AWAY;
    model_give(m, m->asked[i] - m->needed[i]);
}

static void model_compare(struct model *m, struct fr_sem *sem, struct fr_sem_waiter *waiters, struct sleeper *sleepers)
{
    CHECK_EQ(fr_sem_available(sem), m->free);
    for (int i = 0; i < MODEL_WAITERS; i++) {
        if (m->where[i] != AWAY && waiters[i].asked) {
            CHECK(fr_sem_poll(&waiters[i]) == (m->where[i] == HAS ? 0 : -EAGAIN));
            CHECK_EQ(sleepers[i].wakes, m->where[i] == HAS);
        }
    }
}

static void test_against_model(struct rng *rng)
{
    struct fr_sem sem;
    struct model m = {.free = rng_below(rng, 8)};
    struct fr_sem_waiter waiters[MODEL_WAITERS];
    struct sleeper sleepers[MODEL_WAITERS];
    memset(waiters, 0, sizeof waiters);
    fr_sem_init(&sem, m.free, wake);
    for (int step = 0; step < 4000; step++) {
        int i = (int)rng_below(rng, MODEL_WAITERS);
        uint64_t n = rng_below(rng, 7);
        if (m.where[i] == AWAY) { /* acquires */
            int err = acquire(&sem, &waiters[i], &sleepers[i], n);
            CHECK(err == (m.free >= n ? 0 : -EAGAIN));
            m.asked[i] = n;
            uint64_t taken = m.free < n ? m.free : n;
            m.free -= taken;
            m.needed[i] = n - taken;
            m.where[i] = m.needed[i] ? IN_LINE : HAS;
            if (m.needed[i]) {
                m.line[m.queued++] = i;
            }
        } else if (waiters[i].asked == 0 || (m.where[i] == HAS && rng_below(rng, 2))) { /* releases what it holds */
            m.where[i] = AWAY;
            model_give(&m, m.asked[i]);
            CHECK(fr_sem_release(&sem, m.asked[i]));
        } else { /* gives up, before or after it was given all */
            CHECK(fr_sem_cancel(&sem, &waiters[i]) == (m.where[i] == IN_LINE));
            model_leave(&m, i);
        }
        if (rng_below(rng, 20) == 0) {
            uint64_t gone = fr_sem_forget(&sem, n);
            CHECK_EQ(gone, m.free < n ? m.free : n);
            m.free -= gone;
            model_give(&m, n);
            CHECK(fr_sem_release(&sem, n));
        }
        model_compare(&m, &sem, waiters, sleepers);
    }
}

/* -- threads --------------------------------------------------------------------------------------------------- */

enum { THREADS = 4 };

struct stress {
    struct fr_sem sem;
    uint64_t permits;
    uint64_t until_ns;
    _Atomic uint64_t held;
};

struct stress_thread {
    struct stress *stress;
    struct rng rng;
    pthread_t thread;
};

static void hold(struct stress *s, struct rng *rng, uint64_t n)
{
    uint64_t held = atomic_fetch_add(&s->held, n) + n;
    CHECK(held <= s->permits);
    for (uint32_t i = rng_below(rng, 30); i > 0; i--) {
        fr_cpu_relax();
    }
    atomic_fetch_sub(&s->held, n);
    CHECK(fr_sem_release(&s->sem, n));
}

/* Its place in line is gone, and the callback will not come any more: the sleeper lives on this thread's stack. */
static void settle(struct sleeper *sleeper, bool as_task, bool still_linked)
{
    while (as_task && !still_linked && atomic_load(&sleeper->wakes) == 0) {
        fr_cpu_relax();
    }
}

/* After it was put in line: waits, perhaps not to the end. What fr_sem_poll() says then; -EAGAIN: it gave up. */
static int wait_in_line(struct stress *s, struct rng *rng, struct fr_sem_waiter *waiter, struct sleeper *sleeper,
                        bool as_task)
{
    int64_t patience = rng_below(rng, 3) == 0 ? (int64_t)rng_below(rng, 20000) : -1;
    while (fr_event_wait(&sleeper->event, patience) == -EINTR) {
    }
    int err = as_task ? fr_sem_poll(waiter) : fr_sem_settle(&s->sem, waiter);
    if (err == 0 && rng_below(rng, 4) != 0) {
        settle(sleeper, as_task, false);
        return 0;
    }
    settle(sleeper, as_task, fr_sem_cancel(&s->sem, waiter));
    return err == -ESHUTDOWN ? err : -EAGAIN;
}

/* Waits as a task does (woken through the callback) or as a thread (its event in the waiter). False: closed. */
static bool one_turn(struct stress *s, struct rng *rng)
{
    struct sleeper sleeper;
    struct fr_sem_waiter waiter = {.waiter = {.task = NULL}};
    uint64_t n = 1 + rng_below(rng, (uint32_t)s->permits);
    bool as_task = rng_below(rng, 2);
    sleeper_init(&sleeper);
    if (as_task) {
        waiter.waiter.task = &sleeper;
    } else {
        waiter.waiter.event = &sleeper.event;
    }
    int err = fr_sem_acquire(&s->sem, &waiter, n);
    if (err == -EAGAIN) {
        err = wait_in_line(s, rng, &waiter, &sleeper, as_task);
    }
    if (err == 0) {
        hold(s, rng, n);
    }
    return err != -ESHUTDOWN;
}

static void *stress_main(void *arg)
{
    struct stress_thread *self = arg;
    while (one_turn(self->stress, &self->rng) && fr_clock_ns() < self->stress->until_ns) {
    }
    return NULL;
}

/* Nothing is lost, nothing is made, nobody is forgotten; who waits when it is closed is told. */
static void test_stress(struct rng *rng, uint64_t ns, bool closes)
{
    struct stress s = {.permits = 1 + rng_below(rng, 4), .until_ns = fr_clock_ns() + ns};
    struct stress_thread threads[THREADS];
    fr_sem_init(&s.sem, s.permits, wake);
    for (int i = 0; i < THREADS; i++) {
        threads[i] = (struct stress_thread){.stress = &s, .rng = rng_fork(rng)};
        CHECK(pthread_create(&threads[i].thread, NULL, stress_main, &threads[i]) == 0);
    }
    if (closes) {
        usleep(rng_below(rng, 2000));
        fr_sem_close(&s.sem);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i].thread, NULL) == 0);
    }
    CHECK_EQ(s.held, 0);
    CHECK_EQ(fr_sem_available(&s.sem), s.permits);
    CHECK(fr_list_is_empty(&s.sem.line));
    CHECK(!(atomic_load(&s.sem.word) & FR_SEM_QUEUED));
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    test_try_acquire();
    test_forget();
    test_too_many();
    test_partial_grants();
    test_cancel();
    test_close_with_waiters();
    test_retarget();
    for (int i = 0; i < 20; i++) {
        test_against_model(&rng);
    }
    uint64_t end = fr_clock_ns() + env.stress_ns;
    while (fr_clock_ns() < end) {
        test_stress(&rng, env.stress_ns / 10, false);
        test_stress(&rng, 1000000000, true);
    }
    return check_end();
}
