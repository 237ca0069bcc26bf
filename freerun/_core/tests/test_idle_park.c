/* Proves rt/idle.h, rt/park.h, rt/mutex.h and rt/futex.h: exact cases on one thread; then a miniature scheduler built as
 * the real one is (rings, injector, idle, parkers, one driver) runs random task graphs. It parks without time-outs, so
 * one lost wake-up hangs it, and the watchdog says in which state.
 */
#include "../rt/idle.h"
#include "../rt/inject.h"
#include "../rt/mutex.h"
#include "../rt/park.h"
#include "../rt/queue.h"
#include "../rt/state.h"
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

/* -- mutex ----------------------------------------------------------------------------------------------------- */

struct counter {
    struct fr_mutex lock;
    uint64_t value; /* plain */
    uint32_t rounds;
};

static void *counter_main(void *arg)
{
    struct counter *c = arg;
    for (uint32_t i = 0; i < c->rounds; i++) {
        if (i % 3 != 0 || !fr_mutex_trylock(&c->lock)) {
            fr_mutex_lock(&c->lock);
        }
        CHECK(fr_mutex_is_locked(&c->lock));
        c->value++;
        if (i % 1024 == 0) {
            sched_yield(); /* so that others come to sleep on it */
        }
        fr_mutex_unlock(&c->lock);
    }
    return NULL;
}

static void test_mutex(void)
{
    struct counter c = {FR_MUTEX_INIT, 0, 50000};
    pthread_t threads[4];
    CHECK(!fr_mutex_is_locked(&c.lock));
    CHECK(fr_mutex_trylock(&c.lock));
    CHECK(!fr_mutex_trylock(&c.lock));
    fr_mutex_unlock(&c.lock);
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_create(&threads[i], NULL, counter_main, &c) == 0);
    }
    for (int i = 0; i < 4; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK_EQ(c.value, 4 * (uint64_t)c.rounds);
    CHECK(!fr_mutex_is_locked(&c.lock));
}

/* -- park ------------------------------------------------------------------------------------------------------ */

static void test_park(void)
{
    struct fr_parker p;
    fr_park_init(&p);
    for (int driver = 0; driver < 2; driver++) {
        CHECK_EQ(fr_park_unpark(&p), FR_UNPARK_NONE);
        CHECK_EQ(fr_park_unpark(&p), FR_UNPARK_NONE); /* two make one */
        CHECK_EQ(fr_park_begin(&p, driver), 1);
        CHECK_EQ(fr_park_begin(&p, driver), 0);
        if (driver) {
            CHECK_EQ(fr_park_unpark(&p), FR_UNPARK_DRIVER);
            CHECK_EQ(fr_park_unpark(&p), FR_UNPARK_NONE); /* one kick is enough */
            CHECK(fr_park_end_driver(&p));
            CHECK_EQ(fr_park_begin(&p, true), 0);
            CHECK(!fr_park_end_driver(&p));
        } else {
            CHECK_EQ(fr_park_unpark(&p), FR_UNPARK_NONE);
            CHECK_EQ(fr_park_wait(&p, -1), 0);
            CHECK_EQ(fr_park_begin(&p, false), 0);
            uint64_t start = fr_clock_ns();
            CHECK_EQ(fr_park_wait(&p, 2000000), -ETIMEDOUT);
            CHECK(fr_clock_ns() - start >= 2000000);
            CHECK_EQ(fr_park_begin(&p, false), 0);
            CHECK_EQ(fr_park_wait(&p, 0), -ETIMEDOUT);
        }
    }
    CHECK_EQ(p.word, FR_PARK_EMPTY);
}

/* -- idle ------------------------------------------------------------------------------------------------------ */

static void test_idle(void)
{
    struct fr_idle idle;
    CHECK_EQ(fr_idle_init(&idle, 0), -EINVAL);
    CHECK_EQ(fr_idle_init(&idle, FR_MAX_WORKERS + 1), -EINVAL);
    CHECK_EQ(fr_idle_init(&idle, 4), 0);
    CHECK_EQ(fr_idle_worker_to_notify(&idle), -1); /* all awake */

    CHECK(fr_idle_to_searching(&idle));
    CHECK(fr_idle_to_searching(&idle));
    CHECK(!fr_idle_to_searching(&idle)); /* half of them */
    CHECK_EQ(fr_idle_num_searching(&idle), 2);
    CHECK(!fr_idle_to_parked(&idle, 0, true));
    CHECK_EQ(fr_idle_worker_to_notify(&idle), -1); /* one is still searching */
    CHECK(fr_idle_to_parked(&idle, 1, true));      /* the last */
    CHECK(fr_idle_to_parked(&idle, 2, false));     /* nobody searches any more */
    CHECK_EQ(fr_idle_num_parked(&idle), 3);

    CHECK_EQ(fr_idle_worker_to_notify(&idle), 2); /* last in, first out */
    CHECK_EQ(fr_idle_num_searching(&idle), 1);
    CHECK_EQ(fr_idle_num_parked(&idle), 2);
    CHECK(!fr_idle_is_parked(&idle, 2) && fr_idle_is_parked(&idle, 0));
    CHECK_EQ(fr_idle_worker_to_notify(&idle), -1);
    CHECK(!fr_idle_unpark_by_id(&idle, 2)); /* was notified, so it is searching */
    CHECK(fr_idle_from_searching(&idle));

    CHECK(fr_idle_unpark_by_id(&idle, 0)); /* from below the top */
    CHECK_EQ(fr_idle_num_searching(&idle), 0);
    CHECK_EQ(fr_idle_worker_to_notify(&idle), 1);
    CHECK_EQ(fr_idle_num_parked(&idle), 0);
    fr_idle_destroy(&idle);
}

static void test_idle_largest(void)
{
    struct fr_idle idle;
    CHECK_EQ(fr_idle_init(&idle, FR_MAX_WORKERS), 0);
    for (uint32_t i = 0; i < FR_MAX_WORKERS; i++) {
        CHECK(fr_idle_to_parked(&idle, i, false));
    }
    CHECK_EQ(fr_idle_num_parked(&idle), FR_MAX_WORKERS);
    for (uint32_t i = FR_MAX_WORKERS; i-- > 0;) {
        CHECK_EQ(fr_idle_worker_to_notify(&idle), i);
        CHECK(fr_idle_from_searching(&idle));
    }
    CHECK_EQ(fr_idle_worker_to_notify(&idle), -1);
    fr_idle_destroy(&idle);
}

/* -- the Dekker pair ------------------------------------------------------------------------------------------- */

/* Two workers; one pushes, at the same moment the other parks. Either the pusher sees a sleeper or the sleeper sees the
 * item (queue.h [Q5], inject.h [J5], idle.h [I2]). In the scheduler below a failure would cost parallelism only, since the
 * pusher is awake and runs the item itself in the end, so it needs a test of its own. */
struct dekker {
    struct fr_queue queue;
    struct fr_inject inject;
    struct fr_idle idle;
    _Atomic uint32_t turn_a, turn_b;
    uint32_t rounds;
    bool inject_round; /* plain: written between turns */
    bool sleeper_saw;  /* plain: sleeper before turn_b, pusher after */
};

/* Both meet here, then go off within nanoseconds of each other. */
static void dekker_meet(_Atomic uint32_t *mine, _Atomic uint32_t *theirs, uint32_t round)
{
    uint32_t spins = 0;
    atomic_store_explicit(mine, round, memory_order_release);
    while (atomic_load_explicit(theirs, memory_order_acquire) < round) {
        if (++spins % 4096 == 0) {
            sched_yield();
        }
    }
}

static void *dekker_sleeper(void *arg)
{
    struct dekker *d = arg;
    for (uint32_t i = 1; i <= d->rounds; i++) {
        dekker_meet(&d->turn_b, &d->turn_a, 2 * i - 1);
        CHECK(fr_idle_to_parked(&d->idle, 1, false) || fr_idle_num_searching(&d->idle) > 0);
        d->sleeper_saw = fr_queue_len(&d->queue) > 0 || !fr_inject_is_empty(&d->inject);
        dekker_meet(&d->turn_b, &d->turn_a, 2 * i);
    }
    return NULL;
}

static void dekker_pusher_round(struct dekker *d, uint32_t i, struct rng *rng)
{
    d->inject_round = rng_below(rng, 4) == 0;
    dekker_meet(&d->turn_a, &d->turn_b, 2 * i - 1);
    for (uint32_t k = rng_below(rng, 32); k > 0; k--) {
        fr_cpu_relax();
    }
    if (d->inject_round) {
        CHECK(fr_inject_push(&d->inject, d) == 0);
    } else {
        CHECK(fr_queue_push_owner(&d->queue, d));
    }
    int chosen = fr_idle_worker_to_notify(&d->idle);
    dekker_meet(&d->turn_a, &d->turn_b, 2 * i);
    CHECK(chosen == 1 || d->sleeper_saw);
    CHECK((d->inject_round ? fr_inject_pop(&d->inject) : fr_queue_pop_owner(&d->queue)) == d);
    /* Awake again, one way or the other. */
    CHECK(fr_idle_unpark_by_id(&d->idle, 1) == (chosen < 0));
    if (chosen == 1) {
        CHECK(fr_idle_from_searching(&d->idle));
    }
}

static void test_dekker(struct rng *rng, uint64_t ns)
{
    static struct dekker d;
    pthread_t sleeper;
    fr_queue_init(&d.queue);
    CHECK(fr_inject_init(&d.inject) == 0 && fr_idle_init(&d.idle, 2) == 0);
    for (uint64_t end = fr_clock_ns() + ns; fr_clock_ns() < end;) {
        d.rounds = 2000;
        d.turn_a = d.turn_b = 0;
        CHECK(pthread_create(&sleeper, NULL, dekker_sleeper, &d) == 0);
        for (uint32_t i = 1; i <= d.rounds; i++) {
            dekker_pusher_round(&d, i, rng);
        }
        CHECK(pthread_join(sleeper, NULL) == 0);
    }
    fr_inject_destroy(&d.inject);
    fr_idle_destroy(&d.idle);
}

/* -- the miniature scheduler: tasks ---------------------------------------------------------------------------- */

enum { MAX_WORKERS = 8, MAX_TASKS = 400, MAX_CHILDREN = 4, INJECT_EVERY = 7, DRIVER_EVERY = 13 };

/* A task runs `polls` polls once all of its parents have completed, then completes and wakes its children. */
struct task {
    fr_state state;
    _Atomic uint32_t parents; /* not yet complete */
    uint32_t polls;           /* plain: under RUNNING */
    bool spare;               /* the same */
    uint32_t nchildren;
    struct task *children[MAX_CHILDREN];
    bool external; /* woken through the driver by its last parent, as by an I/O event */
};

struct worker {
    _Alignas(FR_CACHE_LINE) struct fr_queue queue;
    struct fr_parker parker;
    struct rt *rt;
    uint32_t id, tick;
    bool searching;
    struct rng rng;
    uint64_t parks, steals;
    pthread_t thread;
};

struct rt {
    struct worker workers[MAX_WORKERS];
    struct fr_idle idle;
    struct fr_inject inject;
    uint32_t nworkers;
    _Atomic uint32_t shutdown;
    /* the driver: who holds driver_lock waits on the eventfd; events are tasks to wake */
    struct fr_mutex driver_lock, events_lock;
    int eventfd;
    struct task *events[MAX_TASKS];
    uint32_t nevents;
    /* the round */
    struct task tasks[MAX_TASKS];
    uint32_t ntasks;
    _Atomic uint32_t complete, frees, done;
};

static _Thread_local struct worker *this_worker;

static void driver_kick(struct rt *rt)
{
    uint64_t one = 1;
    CHECK(write(rt->eventfd, &one, sizeof(one)) == sizeof(one));
}

static void worker_unpark(struct rt *rt, uint32_t id)
{
    if (fr_park_unpark(&rt->workers[id].parker) == FR_UNPARK_DRIVER) {
        driver_kick(rt);
    }
}

static void rt_notify(struct rt *rt)
{
    int id = fr_idle_worker_to_notify(&rt->idle);
    if (id >= 0) {
        worker_unpark(rt, (uint32_t)id);
    }
}

/* What does not fit into the ring goes to the injector. */
static void worker_push(struct worker *w, struct task *t)
{
    void *out[FR_QUEUE_SPLIT];
    uint32_t n = fr_queue_push_owner(&w->queue, t) ? 0 : fr_queue_overflow_owner(&w->queue, t, out);
    for (uint32_t i = 0; i < n; i++) {
        CHECK(fr_inject_push_force(&w->rt->inject, out[i]) == 0);
    }
}

static void rt_schedule(struct rt *rt, struct task *t)
{
    if (this_worker != NULL) {
        worker_push(this_worker, t);
    } else {
        CHECK(fr_inject_push(&rt->inject, t) == 0);
    }
    rt_notify(rt);
}

static void task_wake(struct rt *rt, struct task *t)
{
    if (fr_state_wake_task(&t->state)) {
        t->spare = true;
        rt_schedule(rt, t);
    }
}

static void task_unref(struct rt *rt, struct task *t)
{
    if (fr_ref_dec(&t->state)) {
        atomic_fetch_add_explicit(&rt->frees, 1, memory_order_relaxed);
    }
}

/* As the kernel would: an event, then the driver's file descriptor. */
static void rt_external_event(struct rt *rt, struct task *t)
{
    fr_ref_inc(&t->state);
    fr_mutex_lock(&rt->events_lock);
    CHECK(rt->nevents < MAX_TASKS);
    rt->events[rt->nevents++] = t;
    fr_mutex_unlock(&rt->events_lock);
    driver_kick(rt);
}

/* As in py/task.h; plain: under RUNNING. */
static uint64_t task_take_spare(struct task *t)
{
    bool spare = t->spare;
    t->spare = false;
    return spare ? FR_REF_ONE : 0;
}

static void task_complete(struct rt *rt, struct task *t)
{
    fr_state_complete_spare(&t->state, task_take_spare(t), 0);
    for (uint32_t i = 0; i < t->nchildren; i++) {
        struct task *child = t->children[i];
        /* relaxed: the wake must carry it to the child's poll (state.h [S2]). */
        bool last = atomic_fetch_sub_explicit(&child->parents, 1, memory_order_relaxed) == 1;
        if (last && child->external) {
            rt_external_event(rt, child);
        } else {
            task_wake(rt, child);
        }
    }
    if (atomic_fetch_add_explicit(&rt->complete, 1, memory_order_acq_rel) + 1 == rt->ntasks) {
        atomic_store_explicit(&rt->done, 1, memory_order_release);
        fr_futex_wake(&rt->done, 1);
    }
    task_unref(rt, t); /* the owned-list reference */
}

static void task_poll(struct worker *w, struct task *t)
{
    struct rt *rt = w->rt;
    bool spare;
    uint64_t snapshot = fr_state_take(&t->state, &spare);
    t->spare |= spare;
    bool ready = atomic_load_explicit(&t->parents, memory_order_relaxed) == 0;
    if (ready && (t->polls == 0 || snapshot & FR_CANCELLED)) {
        task_complete(rt, t);
        return;
    }
    if (ready) {
        t->polls--;
        rt_schedule(rt, t); /* with RUNNING */
    } else if (fr_state_end_poll_spare(&t->state, task_take_spare(t))) {
        rt_schedule(rt, t);
    }
}

/* -- the miniature scheduler: workers -------------------------------------------------------------------------- */

/* The holder of driver_lock takes what has happened; the tasks go to its own ring. Returns how many. */
static uint32_t driver_turn(struct worker *w, int timeout_ms)
{
    struct rt *rt = w->rt;
    struct pollfd fd = {.fd = rt->eventfd, .events = POLLIN};
    uint64_t kicks;
    if (poll(&fd, 1, timeout_ms) == 1) {
        CHECK(read(rt->eventfd, &kicks, sizeof(kicks)) == sizeof(kicks));
    }
    struct task *events[MAX_TASKS];
    uint32_t n, queued = 0;
    fr_mutex_lock(&rt->events_lock);
    n = rt->nevents;
    memcpy(events, rt->events, n * sizeof(events[0]));
    rt->nevents = 0;
    fr_mutex_unlock(&rt->events_lock);
    for (uint32_t i = 0; i < n; i++) {
        if (fr_state_wake_task(&events[i]->state)) {
            events[i]->spare = true;
            worker_push(w, events[i]);
            queued++;
        }
        task_unref(rt, events[i]);
    }
    return queued;
}

static struct task *worker_pull_inject(struct worker *w)
{
    void *items[FR_QUEUE_CAP / 2 + 1];
    uint32_t space = fr_queue_space_owner(&w->queue), max = 1 + (space < FR_QUEUE_CAP / 2 ? space : FR_QUEUE_CAP / 2);
    uint32_t n = fr_inject_pop_batch(&w->rt->inject, items, max);
    if (n == 0) {
        return NULL;
    }
    CHECK_EQ(fr_queue_push_batch_owner(&w->queue, items + 1, n - 1), n - 1);
    if (n > 1) {
        rt_notify(w->rt);
    }
    return items[0];
}

static struct task *worker_next_task(struct worker *w)
{
    struct task *t;
    if (w->tick++ % INJECT_EVERY == 0 && (t = fr_inject_pop(&w->rt->inject)) != NULL) {
        return t;
    }
    t = fr_queue_pop_owner(&w->queue);
    return t != NULL ? t : worker_pull_inject(w);
}

static struct task *worker_steal(struct worker *w)
{
    struct rt *rt = w->rt;
    if (!w->searching) {
        w->searching = fr_idle_to_searching(&rt->idle);
    }
    if (!w->searching) {
        return NULL;
    }
    uint32_t start = rng_below(&w->rng, rt->nworkers);
    for (uint32_t i = 0; i < rt->nworkers; i++) {
        struct worker *victim = &rt->workers[(start + i) % rt->nworkers];
        void *stolen[FR_QUEUE_CAP];
        uint32_t n = victim != w ? fr_queue_steal(&victim->queue, stolen, fr_queue_space_owner(&w->queue)) : 0;
        if (n > 0) {
            w->steals++;
            fr_queue_push_batch_owner(&w->queue, stolen + 1, n - 1);
            return stolen[0];
        }
    }
    return fr_inject_pop(&rt->inject);
}

static bool rt_has_work(struct rt *rt)
{
    for (uint32_t i = 0; i < rt->nworkers; i++) {
        if (fr_queue_len(&rt->workers[i].queue) > 0) {
            return true;
        }
    }
    return !fr_inject_is_empty(&rt->inject);
}

/* Sleeps once. Returns how many events it brought back from the driver. */
static uint32_t worker_sleep(struct worker *w)
{
    struct rt *rt = w->rt;
    bool driver = fr_mutex_trylock(&rt->driver_lock);
    uint32_t events = 0;
    w->parks++;
    if (fr_park_begin(&w->parker, driver) == 0) {
        if (driver) {
            events = driver_turn(w, -1);
            fr_park_end_driver(&w->parker);
        } else {
            /* Now and then with a time-out, which must be as harmless as a spurious wake-up. */
            int64_t timeout = rng_below(&w->rng, 16) == 0 ? (int64_t)rng_below(&w->rng, 50000) : -1;
            fr_park_wait(&w->parker, timeout);
        }
    }
    if (driver) {
        fr_mutex_unlock(&rt->driver_lock);
    }
    return events;
}

static void worker_park(struct worker *w)
{
    struct rt *rt = w->rt;
    bool last = fr_idle_to_parked(&rt->idle, w->id, w->searching);
    w->searching = false;
    if (last && rt_has_work(rt)) {
        rt_notify(rt);
    }
    while (!atomic_load_explicit(&rt->shutdown, memory_order_acquire)) {
        uint32_t events = worker_sleep(w);
        if (events > 0) {
            /* Events of its own do not make it a searcher; being notified meanwhile does. */
            w->searching = !fr_idle_unpark_by_id(&rt->idle, w->id);
            if (events > 1) {
                rt_notify(rt);
            }
            return;
        }
        if (!fr_idle_is_parked(&rt->idle, w->id)) {
            w->searching = true;
            return;
        }
    }
}

static void worker_maintenance(struct worker *w)
{
    if (w->tick % DRIVER_EVERY == 0 && fr_mutex_trylock(&w->rt->driver_lock)) {
        uint32_t events = driver_turn(w, 0);
        fr_mutex_unlock(&w->rt->driver_lock);
        if (events > 0) {
            rt_notify(w->rt);
        }
    }
}

static void *worker_main(void *arg)
{
    struct worker *w = this_worker = arg;
    while (!atomic_load_explicit(&w->rt->shutdown, memory_order_acquire)) {
        struct task *t = worker_next_task(w);
        if (t == NULL) {
            t = worker_steal(w);
        }
        if (t == NULL) {
            worker_park(w);
            continue;
        }
        if (w->searching) {
            w->searching = false;
            if (fr_idle_from_searching(&w->rt->idle) && rt_has_work(w->rt)) {
                rt_notify(w->rt);
            }
        }
        task_poll(w, t);
        worker_maintenance(w);
    }
    return NULL;
}

/* -- the miniature scheduler: rounds --------------------------------------------------------------------------- */

static void rt_start(struct rt *rt, uint32_t nworkers, struct rng *rng)
{
    memset(rt, 0, sizeof(*rt));
    rt->nworkers = nworkers;
    CHECK(fr_idle_init(&rt->idle, nworkers) == 0);
    CHECK(fr_inject_init(&rt->inject) == 0);
    rt->eventfd = eventfd(0, EFD_CLOEXEC);
    CHECK(rt->eventfd >= 0);
    for (uint32_t i = 0; i < nworkers; i++) {
        struct worker *w = &rt->workers[i];
        w->rt = rt;
        w->id = i;
        w->rng = rng_fork(rng);
        fr_queue_init(&w->queue);
        fr_park_init(&w->parker);
    }
    for (uint32_t i = 0; i < nworkers; i++) {
        CHECK(pthread_create(&rt->workers[i].thread, NULL, worker_main, &rt->workers[i]) == 0);
    }
}

static void rt_stop(struct rt *rt)
{
    CHECK(fr_inject_close(&rt->inject));
    atomic_store_explicit(&rt->shutdown, 1, memory_order_release);
    for (uint32_t i = 0; i < rt->nworkers; i++) {
        worker_unpark(rt, i);
    }
    for (uint32_t i = 0; i < rt->nworkers; i++) {
        CHECK(pthread_join(rt->workers[i].thread, NULL) == 0);
    }
    CHECK(!rt_has_work(rt));
    close(rt->eventfd);
    fr_inject_destroy(&rt->inject);
    fr_idle_destroy(&rt->idle);
}

_Noreturn static void rt_hangs(struct rt *rt)
{
    fprintf(stderr, "%u of %u tasks complete; idle word %08x; inject %" PRIu64 "; %u events\n", rt->complete,
            rt->ntasks, rt->idle.word, fr_inject_len(&rt->inject), rt->nevents);
    for (uint32_t i = 0; i < rt->nworkers; i++) {
        fprintf(stderr, "worker %u: parker %u, place %u, queue %u\n", i, rt->workers[i].parker.word, rt->idle.place[i],
                fr_queue_len(&rt->workers[i].queue));
    }
    check_fail(__FILE__, __LINE__, "the graph terminates (lost wake-up)");
}

/* A random acyclic graph: edges go from lower to higher numbers. Three references: the owned list, the spawner, and one
 * that the parents' edges share (released by main at the end). */
static void rt_make_graph(struct rt *rt, struct rng *rng)
{
    rt->ntasks = 1 + rng_below(rng, rng_below(rng, 2) ? 5 : MAX_TASKS);
    rt->complete = rt->frees = rt->done = 0;
    uint32_t span = 1 + rng_below(rng, 30), edges = rng_below(rng, MAX_CHILDREN + 1);
    for (uint32_t i = 0; i < rt->ntasks; i++) {
        rt->tasks[i].parents = rt->tasks[i].nchildren = 0;
    }
    for (uint32_t i = 0; i < rt->ntasks; i++) {
        struct task *t = &rt->tasks[i];
        fr_state_init(&t->state, 2, 0);
        t->polls = rng_below(rng, 4);
        t->external = rng_below(rng, 8) == 0;
        for (uint32_t k = 0; k < edges; k++) {
            uint32_t child = i + 1 + rng_below(rng, span);
            if (child < rt->ntasks) {
                t->children[t->nchildren++] = &rt->tasks[child];
                rt->tasks[child].parents++;
            }
        }
    }
}

/* From outside the runtime: spurious wakes, aborts, dumps, spurious unparks. None may break or lose anything. */
static void rt_chaos(struct rt *rt, struct rng *rng)
{
    struct task *t = &rt->tasks[rng_below(rng, rt->ntasks)];
    bool first;
    switch (rng_below(rng, 6)) {
    case 0:
        task_wake(rt, t);
        break;
    case 1:
        if (fr_state_abort(&t->state, &first)) {
            t->spare = true;
            rt_schedule(rt, t);
        }
        break;
    case 2:
        if (fr_state_try_lock_idle(&t->state)) {
            t->polls++; /* plain: what a dump reads; RUNNING protects it */
            if (fr_state_end_poll(&t->state)) {
                rt_schedule(rt, t);
            }
        }
        break;
    case 3:
        worker_unpark(rt, rng_below(rng, rt->nworkers));
        break;
    case 4:
        driver_kick(rt);
        break;
    default:
        sched_yield();
    }
}

static void rt_wait_done(struct rt *rt)
{
    uint64_t end = fr_clock_ns() + 30000000000u;
    while (!atomic_load_explicit(&rt->done, memory_order_acquire)) {
        if (fr_clock_ns() > end) {
            rt_hangs(rt);
        }
        fr_futex_wait(&rt->done, 0, 1000000000);
    }
}

static void rt_round(struct rt *rt, struct rng *rng)
{
    rt_make_graph(rt, rng);
    bool chaos = rng_below(rng, 3) == 0;
    /* The roots; and some others, which will find that they have to wait. */
    for (uint32_t i = 0; i < rt->ntasks; i++) {
        if (rt->tasks[i].parents == 0 || rng_below(rng, 4) == 0) {
            task_wake(rt, &rt->tasks[i]);
        }
        if (chaos && rng_below(rng, 8) == 0) {
            rt_chaos(rt, rng);
        }
    }
    while (chaos && !atomic_load_explicit(&rt->done, memory_order_acquire)) {
        rt_chaos(rt, rng);
        chaos = rng_below(rng, 64) != 0; /* stop, so that chaos cannot repair a lost wake-up */
    }
    rt_wait_done(rt);
    for (uint32_t i = 0; i < rt->ntasks; i++) {
        /* Completion may be seen before the poller has dropped its reference. */
        while (fr_state_refs(fr_state_load(&rt->tasks[i].state)) > 1) {
            sched_yield();
        }
        CHECK(fr_state_load(&rt->tasks[i].state) & FR_COMPLETE);
        task_unref(rt, &rt->tasks[i]);
    }
    CHECK_EQ(rt->frees, rt->ntasks);
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    static struct rt rt;
    uint64_t rounds = 0, parks = 0, steals = 0;
    test_mutex();
    test_park();
    test_idle();
    test_idle_largest();
    test_dekker(&rng, env.stress_ns / 8);
    for (uint64_t end = fr_clock_ns() + env.stress_ns; fr_clock_ns() < end;) {
        rt_start(&rt, 1 + rng_below(&rng, MAX_WORKERS), &rng);
        for (uint32_t n = 1 + rng_below(&rng, 100); n > 0 && fr_clock_ns() < end; n--, rounds++) {
            rt_round(&rt, &rng);
        }
        rt_stop(&rt);
        for (uint32_t i = 0; i < rt.nworkers; i++) {
            parks += rt.workers[i].parks;
            steals += rt.workers[i].steals;
        }
    }
    printf("%" PRIu64 " rounds, %" PRIu64 " parks, %" PRIu64 " steals\n", rounds, parks, steals);
    return check_end();
}
