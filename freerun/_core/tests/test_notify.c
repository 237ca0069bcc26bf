/* Proves rt/notify.h: Tokio's cases on one thread, a model, then threads that hand out work by it, some of which give up. */
#include "../rt/notify.h"
#include "check.h"

#include <errno.h>
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

struct notified {
    struct fr_notify_waiter waiter;
    struct sleeper sleeper;
};

static void make(struct fr_notify *n, struct notified *notified)
{
    fr_event_init(&notified->sleeper.event, -1);
    atomic_init(&notified->sleeper.wakes, 0);
    notified->waiter = (struct fr_notify_waiter){.waiter = {.task = &notified->sleeper}, .calls = fr_notify_calls(n)};
}

static int start(struct fr_notify *n, struct notified *notified)
{
    make(n, notified);
    return fr_notify_wait(n, &notified->waiter);
}

static bool is_told(struct fr_notify *n, struct notified *notified)
{
    bool released;
    int err = fr_notify_poll(n, &notified->waiter, &released);
    CHECK(!released);
    CHECK(err == 0 || err == -EAGAIN);
    return err == 0;
}

/* -- one thread ------------------------------------------------------------------------------------------------ */

static void test_stored(void)
{
    struct fr_notify n;
    struct notified a, b;
    fr_notify_init(&n, wake);
    fr_notify_one(&n);
    fr_notify_last(&n);
    CHECK(start(&n, &a) == 0); /* one is stored, not two */
    CHECK(start(&n, &b) == -EAGAIN);
    fr_notify_one(&n);
    CHECK(is_told(&n, &b) && b.sleeper.wakes == 1);
    CHECK(start(&n, &b) == -EAGAIN);
    CHECK(fr_notify_cancel(&n, &b.waiter));
    fr_notify_one(&n);
    CHECK(start(&n, &b) == 0);
}

static void test_order(void)
{
    struct fr_notify n;
    struct notified w[4];
    fr_notify_init(&n, wake);
    for (int i = 0; i < 4; i++) {
        CHECK(start(&n, &w[i]) == -EAGAIN);
    }
    fr_notify_one(&n);
    CHECK(is_told(&n, &w[0]) && !is_told(&n, &w[1]));
    fr_notify_last(&n);
    CHECK(is_told(&n, &w[3]) && !is_told(&n, &w[2]));
    /* Neither of them looks: what they were given goes on, by the same rule. */
    CHECK(!fr_notify_cancel(&n, &w[3].waiter));
    CHECK(is_told(&n, &w[2]) && !is_told(&n, &w[1]));
    CHECK(!fr_notify_cancel(&n, &w[0].waiter));
    CHECK(is_told(&n, &w[1]));
    CHECK(!fr_notify_cancel(&n, &w[1].waiter)); /* nobody is left: stored */
    CHECK(start(&n, &w[0]) == 0);
}

static void test_waiters(void)
{
    struct fr_notify n;
    struct notified w[5], made, later;
    fr_notify_init(&n, wake);
    for (int i = 0; i < 5; i++) {
        CHECK(start(&n, &w[i]) == -EAGAIN);
    }
    make(&n, &made);
    fr_notify_waiters(&n);
    for (int i = 0; i < 5; i++) {
        CHECK(is_told(&n, &w[i]) && w[i].sleeper.wakes == 1);
        CHECK(!fr_notify_cancel(&n, &w[i].waiter)); /* for all: nothing goes on */
    }
    CHECK(start(&n, &later) == -EAGAIN); /* nothing was stored */
    CHECK(fr_notify_cancel(&n, &later.waiter));
    fr_notify_one(&n);
    CHECK(fr_notify_wait(&n, &made.waiter) == 0); /* by the call: what is stored is for somebody else */
    CHECK(start(&n, &later) == 0);
}

/* -- a model --------------------------------------------------------------------------------------------------- */

enum { MODEL_WAITERS = 12 };

static void test_against_model(struct rng *rng)
{
    struct fr_notify n;
    struct notified w[MODEL_WAITERS];
    enum { AWAY, MADE, IN_LINE, TOLD_ONE, TOLD_LAST, TOLD_ALL } is[MODEL_WAITERS] = {AWAY};
    int line[MODEL_WAITERS], queued = 0;
    bool stored = false;
    fr_notify_init(&n, wake);
    for (int step = 0; step < 4000; step++) {
        int i = (int)rng_below(rng, MODEL_WAITERS);
        uint32_t what = rng_below(rng, 12);
        int give = 0; /* 1: to the oldest, 2: to the newest */
        if (what < 2) {
            give = 1 + (int)what;
            what == 0 ? fr_notify_one(&n) : fr_notify_last(&n);
        } else if (what == 2) {
            fr_notify_waiters(&n);
            for (int k = 0; k < MODEL_WAITERS; k++) {
                is[k] = is[k] == MADE || is[k] == IN_LINE ? TOLD_ALL : is[k];
            }
            queued = 0;
        } else if (is[i] == AWAY) {
            make(&n, &w[i]);
            is[i] = MADE;
        } else if (is[i] == MADE ||
                   (is[i] == TOLD_ALL && !fr_waiter_is_linked(&w[i].waiter.waiter) && w[i].sleeper.wakes == 0)) {
            int err = fr_notify_wait(&n, &w[i].waiter);
            CHECK(err == (is[i] == TOLD_ALL || stored ? 0 : -EAGAIN));
            if (err) {
                is[i] = IN_LINE;
                line[queued++] = i;
            } else {
                stored = stored && is[i] == TOLD_ALL;
                is[i] = AWAY;
            }
        } else if (is_told(&n, &w[i]) && what < 8) { /* it looks */
            CHECK(is[i] != IN_LINE);
            is[i] = AWAY;
        } else { /* it never looks, or gives up */
            CHECK(fr_notify_cancel(&n, &w[i].waiter) == (is[i] == IN_LINE));
            give = is[i] == TOLD_ONE ? 1 : is[i] == TOLD_LAST ? 2 : 0;
            for (int k = 0; k < queued; k++) {
                if (line[k] == i) {
                    queued--;
                    memmove(line + k, line + k + 1, (size_t)(queued - k) * sizeof line[0]);
                }
            }
            is[i] = AWAY;
        }
        if (give && queued == 0) {
            stored = true;
        } else if (give) {
            int to = give == 1 ? line[0] : line[queued - 1];
            is[to] = give == 1 ? TOLD_ONE : TOLD_LAST;
            queued--;
            if (give == 1) {
                memmove(line, line + 1, (size_t)queued * sizeof line[0]);
            }
        }
        for (int k = 0; k < MODEL_WAITERS; k++) {
            CHECK((is[k] == IN_LINE) == fr_waiter_is_linked(&w[k].waiter.waiter) || is[k] == AWAY);
        }
    }
}

/* -- threads --------------------------------------------------------------------------------------------------- */

enum { TAKERS = 3 };

/* Work that is announced with a notification each; who takes it looks before it waits. */
struct stress {
    struct fr_notify n;
    _Atomic uint64_t work, taken;
    _Atomic bool over;
};

struct stress_thread {
    struct stress *stress;
    struct rng rng;
    pthread_t thread;
};

static bool take_work(struct stress *s)
{
    uint64_t work = atomic_load(&s->work);
    while (work > 0) {
        if (atomic_compare_exchange_weak(&s->work, &work, work - 1)) {
            atomic_fetch_add(&s->taken, 1);
            return true;
        }
    }
    return false;
}

static void wait_for_work(struct stress *s, struct rng *rng, struct notified *notified)
{
    if (fr_notify_wait(&s->n, &notified->waiter) == 0) {
        return;
    }
    bool released;
    bool gives_up = rng_below(rng, 3) == 0;
    int64_t patience = gives_up ? (int64_t)rng_below(rng, 20000) : -1;
    while (fr_event_wait(&notified->sleeper.event, patience) == -EINTR) {
    }
    if (gives_up || fr_notify_poll(&s->n, &notified->waiter, &released)) {
        released = fr_notify_cancel(&s->n, &notified->waiter);
    }
    while (!released && atomic_load(&notified->sleeper.wakes) == 0) { /* the callback has the sleeper still */
        fr_cpu_relax();
    }
}

static void *taker_main(void *arg)
{
    struct stress_thread *self = arg;
    struct stress *s = self->stress;
    struct notified notified;
    for (;;) {
        make(&s->n, &notified);
        bool over = atomic_load(&s->over);
        if (take_work(s)) {
            continue;
        }
        if (over) {
            return NULL;
        }
        wait_for_work(s, &self->rng, &notified);
    }
}

static void test_stress(struct rng *rng, uint64_t ns)
{
    static struct stress s;
    struct stress_thread threads[TAKERS];
    memset(&s, 0, sizeof s);
    uint64_t until = fr_clock_ns() + ns, given = 0;
    fr_notify_init(&s.n, wake);
    for (int i = 0; i < TAKERS; i++) {
        threads[i] = (struct stress_thread){.stress = &s, .rng = rng_fork(rng)};
        CHECK(pthread_create(&threads[i].thread, NULL, taker_main, &threads[i]) == 0);
    }
    while (fr_clock_ns() < until) {
        uint32_t many = 1 + rng_below(rng, 3);
        atomic_fetch_add(&s.work, many);
        given += many;
        if (rng_below(rng, 8) == 0) {
            fr_notify_waiters(&s.n);
            fr_notify_one(&s.n); /* for who has not come to wait yet */
        } else {
            for (uint32_t i = 0; i < many; i++) {
                rng_below(rng, 2) ? fr_notify_one(&s.n) : fr_notify_last(&s.n);
            }
        }
        if (rng_below(rng, 2)) { /* all of it is taken, or somebody sleeps who was told */
            while (atomic_load(&s.work) > 0) {
                usleep(1);
            }
        }
    }
    atomic_store(&s.over, true);
    fr_notify_waiters(&s.n);
    for (int i = 0; i < TAKERS; i++) {
        CHECK(pthread_join(threads[i].thread, NULL) == 0);
    }
    CHECK_EQ(s.taken, given);
    CHECK(fr_list_is_empty(&s.n.line));
    CHECK(!(atomic_load(&s.n.word) & FR_NOTIFY_WAITING));
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    test_stored();
    test_order();
    test_waiters();
    for (int i = 0; i < 20; i++) {
        test_against_model(&rng);
    }
    uint64_t end = fr_clock_ns() + env.stress_ns;
    while (fr_clock_ns() < end) {
        test_stress(&rng, env.stress_ns / 10);
    }
    return check_end();
}
