/* worker: the scheduler loop. Tokio's worker.rs, with the differences of docs/design/engine.md:
 *
 * - the driver is looked at every event_interval polls *or* every millisecond, since Python polls are long;
 * - the LIFO slot of a worker that has been in one poll for long (`stuck`, set by the watch) may be stolen;
 * - a push looks at the idle word with a fence and a load, not an RMW, and only where others may have to take part;
 * - nobody is woken for, and nobody steals, what its own worker will have done in a moment: rt/cost.h;
 * - a worker takes some of what a busier one has queued even if it is not idle: balance();
 * - who found work looks before it wakes another, and who goes into a long poll leaves the driver to another: leave_driver();
 * - before it parks, a worker with a brief blocking call under way, or mail due from another interpreter, spins for it: spin_before_park().
 *
 * The LIFO slot: the owner swaps tasks in and out; a thief takes one by exchange when the owner is stuck. A task in it
 * wakes nobody: it runs next on this worker, unless the watch finds the worker stuck.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "leaf.h"
#include "rt/clock.h"
#include "rt/prefetch.h"
#include "rt/slice.h"
#include "runtime.h"

enum { STRIDE_MAX = 16, SHORT_TURN = 64, SHORT_ENOUGH = 32 };
enum { MAX_LIFO_POLLS = 3, PULL_MAX = FR_QUEUE_CAP / 2, GLOBAL_INTERVAL_DEFAULT = 61 };
/* So few that what is prefetched of them is near when they are polled. */
#define SPILL_PULL (PULL_MAX < 32 ? (uint32_t)PULL_MAX : 32u)
_Static_assert(FR_SPILL_CHUNK >= FR_QUEUE_SPLIT, "an overflow is one push, spill.h [SP2]");
/* Of a coroutine with a few variables and of a sleep, on a free-threaded build: what to prefetch of them. */
#define COROUTINE_BYTES 224
#define LEAF_BYTES      112

/* A counter for metrics: the owner is its one writer, so it needs no read-modify-write. */
static void count(_Atomic uint64_t *counter, uint64_t more)
{
    /* relaxed, both: read for people */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}

/* True every `interval` calls. Counting down costs less than a division, and this is asked for every task. */
static bool is_due(uint32_t *left, uint32_t interval)
{
    if (--*left) {
        return false;
    }
    *left = interval;
    return true;
}

/* ---- queues ---- */

static void *lifo_swap(struct fr_worker *worker, void *task)
{
    if (!fr_bias_enter_owner(&worker->bias)) {
        /* acq_rel: pairs with steal_lifo() and with itself; whoever gets the task sees what was written before */
        return atomic_exchange_explicit(&worker->lifo, task, memory_order_acq_rel);
    }
    /* relaxed: thieves visit */
    void *old = atomic_load_explicit(&worker->lifo, memory_order_relaxed);
    /* release: pairs with steal_lifo() */
    atomic_store_explicit(&worker->lifo, task, memory_order_release);
    fr_bias_exit_owner(&worker->bias);
    return old;
}

/* What was in it. An empty slot stays empty until the owner fills it, so then a store will do. */
static void *lifo_put(struct fr_worker *worker, void *task)
{
    if (atomic_load_explicit(&worker->lifo, memory_order_relaxed)) { /* relaxed: as in lifo_take() */
        return lifo_swap(worker, task);
    }
    /* release: pairs with steal_lifo(); whoever gets the task sees what was written before */
    atomic_store_explicit(&worker->lifo, task, memory_order_release);
    return NULL;
}

static void *lifo_take(struct fr_worker *worker)
{
    /* relaxed: only the owner fills the slot, so "empty" is certain and "full" is settled by the swap */
    return atomic_load_explicit(&worker->lifo, memory_order_relaxed) ? lifo_swap(worker, NULL) : NULL;
}

/* A runnable task must get into some queue: out of memory, wait for memory. */
static void inject(struct fr_runtime *rt, void *task)
{
    while (fr_inject_push_force(&rt->inject, task)) {
        sched_yield();
    }
}

/* Half of a full ring, and the task, go to the worker's own spill. As with the injector, out of memory is waited for. */
static void overflow(struct fr_worker *worker, void *task)
{
    void *batch[FR_QUEUE_SPLIT];
    while (fr_spill_reserve_owner(&worker->spill)) {
        sched_yield();
    }
    uint32_t n = fr_queue_overflow_owner(&worker->queue, task, batch);
    if (n) {
        fr_spill_push_owner(&worker->spill, batch, n);
        count(&worker->overflows, 1);
    }
}

static void push_local(struct fr_worker *worker, void *task)
{
    if (__builtin_expect(!fr_queue_push_owner(&worker->queue, task), 0)) {
        overflow(worker, task);
    }
}

static void *pop_local(struct fr_worker *worker)
{
    if (!fr_bias_enter_owner(&worker->bias)) {
        return fr_queue_pop_owner(&worker->queue);
    }
    void *task = fr_queue_pop_alone_owner(&worker->queue);
    fr_bias_exit_owner(&worker->bias);
    return task;
}

void fr_unpark_worker(struct fr_runtime *rt, uint32_t index)
{
    if (fr_park_unpark(&rt->workers[index].parker) == FR_UNPARK_DRIVER) {
        fr_driver_kick(&rt->driver);
    }
}

/* There is work for another worker: wakes one if nobody searches for it already. */
void fr_notify(struct fr_runtime *rt)
{
    int index = fr_idle_worker_to_notify(&rt->idle);
    if (index >= 0) {
        fr_unpark_worker(rt, (uint32_t)index);
    }
}

static void inject_and_notify(struct fr_runtime *rt, void *task)
{
    inject(rt, task);
    fr_notify(rt);
    if (atomic_load_explicit(&rt->all_stuck, memory_order_relaxed)) { /* a hint: the watch looks again anyway */
        fr_stand_in_wake(rt);
    }
}

/* ---- is it worth another worker? rt/cost.h ---- */

/* Where nobody else could take what is queued, nobody asks what it costs. */
static bool has_others(struct fr_runtime *rt)
{
    return rt->nworkers > 1;
}

/* What is queued with it: in its ring and what that has spilled. */
uint32_t fr_worker_depth(struct fr_worker *worker)
{
    return fr_queue_len(&worker->queue) + fr_spill_len(&worker->spill);
}

/* The victim has at least `least` tasks queued, and altogether they take `ns`. Where nobody asks for costs any is a backlog. */
static bool has_backlog(struct fr_worker *victim, uint32_t least, uint32_t ns)
{
    uint32_t len = fr_worker_depth(victim);
    return len >= least && (fr_backlog_is_worth(&victim->backlog, len, ns) || !has_others(victim->rt) ||
                            atomic_load_explicit(&victim->stuck, memory_order_relaxed)); /* a hint of the watch */
}

static void notify_of_backlog(struct fr_worker *worker, uint32_t least)
{
    /* A lone worker has nobody to wake; the stand-in beside it has, and knows no costs: all is a backlog. */
    bool stands_in = worker->index >= worker->rt->nworkers;
    if ((has_others(worker->rt) || stands_in) && has_backlog(worker, least, FR_COST_WAKE_NS)) {
        fr_notify(worker->rt);
    }
}

/* What a poll of such a task takes, as far as anybody knows. */
static uint32_t known_cost(const struct fr_task *task)
{
    return task->site ? fr_cost_get(&task->site->cost) : FR_COST_UNKNOWN;
}

/* This task is about to be queued here [C3]. */
static void expect(struct fr_worker *worker, struct fr_task *task)
{
    if (has_others(worker->rt)) {
        task->share = fr_cost_share(known_cost(task));
        fr_backlog_add(&worker->backlog, task->share);
    }
}

/* It was queued with that worker, and is the caller's now. */
static void strike(struct fr_worker *worker, struct fr_task *task)
{
    if (task->share) {
        fr_backlog_sub(&worker->backlog, task->share);
        task->share = 0;
    }
}

/* `least`: how many queued tasks are more than this worker gets to at once. A lone task is this worker's next. */
static void push_and_notify(struct fr_worker *worker, struct fr_task *task, uint32_t least)
{
    expect(worker, task);
    push_local(worker, task);
    if (!worker->in_driver) {
        notify_of_backlog(worker, least);
    }
}

/* Not one that is to be cancelled: that is news for it, however much it has to collect. */
static bool gathers(const struct fr_task *task)
{
    return __builtin_expect(fr_task_gathers(task), 0) && !(fr_state_load(&task->state) & FR_CANCELLED);
}

void fr_schedule(struct fr_runtime *rt, struct fr_task *task)
{
    struct fr_worker *worker = fr_own_worker(rt);
    if (!worker) {
        inject_and_notify(rt, task);
    } else if (!worker->lifo_enabled || worker->in_driver || gathers(task)) {
        push_and_notify(worker, task, 2);
    } else {
        void *displaced = lifo_put(worker, task);
        if (displaced) {
            push_and_notify(worker, displaced, 1);
        }
    }
}

void fr_schedule_yield(struct fr_runtime *rt, struct fr_task *task)
{
    struct fr_worker *worker = fr_own_worker(rt);
    if (worker) {
        push_and_notify(worker, task, 2);
    } else {
        inject_and_notify(rt, task);
    }
}

void fr_driver_wake_task(void *rt, void *arg)
{
    struct fr_task *task = arg;
    if (!task) { /* the shutdown's own deadline */
        fr_shutdown_tick(rt);
        return;
    }
    fr_task_wake_unref(task);
}

/* What the polls of these tasks will touch: where there are many, each has left the caches since its last poll. They are this
 * thread's, and alive [S1]; in the ring a thief may take them at any time. */
static void prefetch(void **batch, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        fr_prefetch(batch[i], sizeof(struct fr_task));
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct fr_task *task = batch[i];
        if (task->kind != FR_TASK_CORO) {
            continue; /* it has not begun: there is nothing yet */
        }
        fr_prefetch(task->coro, COROUTINE_BYTES);
        /* Others may put other neighbours beside it meanwhile: whatever is read here, it is only an address. */
        fr_prefetch(__atomic_load_n(&task->owned.prev, __ATOMIC_RELAXED), sizeof(struct fr_node));
        fr_prefetch(__atomic_load_n(&task->owned.next, __ATOMIC_RELAXED), sizeof(struct fr_node));
        const void *leaf = __atomic_load_n(&task->leaf, __ATOMIC_RELAXED);
        if (leaf) {
            fr_prefetch(leaf, LEAF_BYTES);
        }
    }
}

/* A fair share of the injector, at most `most`, out of it into `batch`; how many. They count as queued here. */
static uint32_t take_injected(struct fr_worker *worker, void **batch, uint32_t most)
{
    struct fr_runtime *rt = worker->rt;
    uint64_t share = fr_inject_len(&rt->inject) / rt->nworkers + 1;
    uint32_t want = share > PULL_MAX ? PULL_MAX : (uint32_t)share;
    uint32_t n = fr_inject_pop_batch(&rt->inject, batch, want < most ? want : most);
    prefetch(batch, n);
    for (uint32_t i = 0; i < n; i++) {
        expect(worker, batch[i]);
    }
    return n;
}

/* There is room for them in the ring, and they count as queued here. */
static void push_batch(struct fr_worker *worker, void **batch, uint32_t n)
{
    if (n) {
        fr_queue_push_batch_owner(&worker->queue, batch, n);
        notify_of_backlog(worker, 1); /* between the two places nobody could see them: idle.h [I5], spill.h [SP4] */
    }
}

/* A fair share of the injector, into the local queue; returns the first of them. */
static void *pull_injector(struct fr_worker *worker)
{
    void *batch[PULL_MAX];
    if (fr_inject_is_empty(&worker->rt->inject)) {
        return NULL;
    }
    uint32_t n = take_injected(worker, batch, fr_queue_space_owner(&worker->queue) + 1);
    if (n == 0) {
        return NULL;
    }
    push_batch(worker, batch + 1, n - 1);
    return batch[0];
}

/* Of what this worker's ring has spilled the oldest, at most `most`, into `batch`; how many. */
static uint32_t take_spilled(struct fr_worker *worker, void **batch, uint32_t most)
{
    uint32_t n = fr_spill_take_owner(&worker->spill, batch, most < PULL_MAX ? most : PULL_MAX);
    prefetch(batch, n);
    return n;
}

/* The same, into the ring; returns the first of them. */
static void *pull_spilled(struct fr_worker *worker)
{
    void *batch[PULL_MAX];
    uint32_t room = fr_queue_space_owner(&worker->queue) + 1;
    uint32_t n = take_spilled(worker, batch, room < SPILL_PULL ? room : SPILL_PULL);
    if (n == 0) {
        return NULL;
    }
    push_batch(worker, batch + 1, n - 1);
    return batch[0];
}

/* Behind what is queued here already, so that they wait no longer than if they had come here at once. Without this, a
 * worker that always has something of its own would take one in global_queue_interval polls; and what the driver thread
 * wakes while every worker is in a long poll comes this way. */
static void adopt_injected(struct fr_worker *worker)
{
    void *batch[PULL_MAX];
    uint32_t space = fr_queue_space_owner(&worker->queue);
    if (space && !fr_inject_is_empty(&worker->rt->inject)) {
        push_batch(worker, batch, take_injected(worker, batch, space));
    }
}

/* For the same reason. Half of the room is left for what comes from elsewhere. */
static void adopt_spilled(struct fr_worker *worker)
{
    void *batch[PULL_MAX];
    push_batch(worker, batch, take_spilled(worker, batch, (fr_queue_space_owner(&worker->queue) + 1) / 2));
}

/* Neither the injector nor what was spilled waits for the ring to be empty, or for the other of the two. */
static void *next_of_others(struct fr_worker *worker)
{
    void *task = NULL;
    worker->spilled_first = !worker->spilled_first;
    if (worker->spilled_first) {
        fr_spill_take_owner(&worker->spill, &task, 1);
    }
    if (!task) {
        task = fr_inject_pop(&worker->rt->inject);
    }
    if (!task) {
        fr_spill_take_owner(&worker->spill, &task, 1);
    }
    return task;
}

void *fr_next_queued(struct fr_worker *worker)
{
    void *task = NULL;
    if (is_due(&worker->until_inject, worker->rt->global_interval)) {
        task = next_of_others(worker);
    }
    if (!task) {
        task = lifo_take(worker);
    }
    if (!task) {
        task = pop_local(worker);
    }
    if (!task) {
        task = pull_spilled(worker);
    }
    if (!task) {
        task = pull_injector(worker);
    }
    if (task) {
        strike(worker, task);
    }
    return task;
}

/* ---- stealing ---- */

uint32_t fr_random(struct fr_worker *worker)
{
    worker->rng ^= worker->rng << 13; /* xorshift64 */
    worker->rng ^= worker->rng >> 7;
    worker->rng ^= worker->rng << 17;
    return (uint32_t)(worker->rng >> 16);
}

/* relaxed: a hint of the watch; the exchange in steal_lifo() settles who gets the task */
static bool has_stuck_lifo(struct fr_worker *victim)
{
    return atomic_load_explicit(&victim->stuck, memory_order_relaxed) &&
           atomic_load_explicit(&victim->lifo, memory_order_relaxed);
}

static void *steal_lifo(struct fr_worker *victim)
{
    if (!has_stuck_lifo(victim)) {
        return NULL;
    }
    fr_bias_visit(&victim->bias);
    /* acq_rel: pairs with lifo_swap() */
    void *task = atomic_exchange_explicit(&victim->lifo, NULL, memory_order_acq_rel);
    fr_bias_leave(&victim->bias);
    return task;
}

/* They were queued with the victim, and will be here. */
static void recount(struct fr_worker *worker, struct fr_worker *victim, void **batch, uint32_t n)
{
    uint64_t theirs = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct fr_task *task = batch[i];
        theirs += task->share;
        expect(worker, task);
    }
    fr_backlog_sub(&victim->backlog, theirs);
}

static uint32_t steal_ring(struct fr_worker *victim, void **batch, uint32_t most)
{
    if (!most || !fr_queue_len(&victim->queue)) {
        return 0; /* not worth a visit */
    }
    fr_bias_visit(&victim->bias);
    uint32_t n = fr_queue_steal(&victim->queue, batch, most);
    fr_bias_leave(&victim->bias);
    return n;
}

/* Half of what the victim has spilled, which is the oldest it has, else half of its ring, at most `most` and as far as there is
 * room for it; how many. They count as queued here. */
static uint32_t steal_from(struct fr_worker *worker, struct fr_worker *victim, void **batch, uint32_t most)
{
    uint32_t space = fr_queue_space_owner(&worker->queue), room = space < PULL_MAX ? space : PULL_MAX;
    most = most < room ? most : room;
    uint32_t half = fr_spill_len(&victim->spill) / 2 + 1;
    uint32_t n = fr_spill_take(&victim->spill, batch, half < most ? half : most);
    if (!n) {
        n = steal_ring(victim, batch, most);
    }
    prefetch(batch, n);
    recount(worker, victim, batch, n);
    count(&worker->steals, n);
    return n;
}

/* To run now: the first is returned, the others are queued. NULL: it has none, or no backlog. */
static void *steal_backlog(struct fr_worker *worker, struct fr_worker *victim)
{
    void *batch[PULL_MAX];
    uint32_t n = has_backlog(victim, 1, FR_COST_STEAL_NS) ? steal_from(worker, victim, batch, PULL_MAX) : 0;
    if (!n) {
        return NULL;
    }
    worker->moved = n;
    push_batch(worker, batch + 1, n - 1);
    strike(worker, batch[0]);
    return batch[0];
}

/* From the other cores, beginning anywhere. */
static void *steal_from_others(struct fr_worker *worker)
{
    struct fr_runtime *rt = worker->rt;
    count(&worker->steal_tries, 1);
    uint32_t start = fr_random(worker) % rt->nqueues;
    for (uint32_t i = 0; i < rt->nqueues; i++) {
        struct fr_worker *victim = &rt->workers[(start + i) % rt->nqueues];
        if (victim == worker) {
            continue;
        }
        void *task = steal_backlog(worker, victim);
        if (task) {
            return task;
        }
        if ((task = steal_lifo(victim))) {
            count(&worker->steals, 1);
            return task;
        }
    }
    return NULL;
}

/* Where every worker always has something of its own, none ever searches, and who is queued with the busiest waits the
 * longest. So with each look at the driver a worker compares itself with another, and takes half of what that has more, behind
 * its own. */
static void balance(struct fr_worker *worker)
{
    struct fr_runtime *rt = worker->rt;
    if (!has_others(rt)) {
        return;
    }
    struct fr_worker *victim = &rt->workers[fr_random(worker) % rt->nqueues];
    uint32_t mine = fr_worker_depth(worker), clearly_more = mine + mine / 4 + 2;
    if (victim != worker && has_backlog(victim, clearly_more, FR_COST_STEAL_NS)) {
        void *batch[PULL_MAX];
        uint32_t theirs = fr_worker_depth(victim), more = theirs > mine ? theirs - mine : 0; /* it goes on meanwhile */
        push_batch(worker, batch, steal_from(worker, victim, batch, more / 2));
    }
}

static void *steal(struct fr_worker *worker)
{
    struct fr_runtime *rt = worker->rt;
    /* A lone worker has only the stand-in to steal from, which hands back by itself what it has when it is done. */
    if (rt->solo || (rt->nworkers == 1 && !fr_stand_in_is_awake(rt))) {
        return NULL;
    }
    if (!worker->searching && !(worker->searching = fr_idle_to_searching(&rt->idle))) {
        return NULL;
    }
    void *task = steal_from_others(worker);
    if (!task && (task = pull_injector(worker))) {
        strike(worker, task);
    }
    return task;
}

void *fr_worker_find(struct fr_worker *worker)
{
    void *task = fr_next_queued(worker);
    return task ? task : steal_from_others(worker);
}

void fr_worker_hand_back(struct fr_worker *worker)
{
    void *task;
    bool some = false;
    while ((task = lifo_take(worker)) || (task = pop_local(worker)) || (task = pull_spilled(worker))) {
        strike(worker, task);
        inject(worker->rt, task);
        some = true;
    }
    if (some) {
        fr_notify(worker->rt);
    }
}

/* ---- clock and driver ---- */

uint64_t fr_now_ns(struct fr_runtime *rt)
{
    /* relaxed, all three: one thread runs a current-thread runtime; for others the clock is never paused */
    if (atomic_load_explicit(&rt->paused, memory_order_relaxed)) {
        return atomic_load_explicit(&rt->paused_now, memory_order_relaxed);
    }
    return fr_clock_ns() + (uint64_t)atomic_load_explicit(&rt->clock_offset, memory_order_relaxed);
}

/* Learns how many cycles a millisecond has from the driver's own clock reads; a heuristic. */
static void calibrate(struct fr_worker *worker)
{
    uint64_t ticks = fr_clock_ticks(), ns = fr_clock_ns();
    uint64_t elapsed = ns - worker->last_turn_ns;
    if (worker->last_turn_ns && elapsed > 100000) {
        worker->ticks_per_ms = (uint64_t)((double)(ticks - worker->last_turn_ticks) * 1e6 / (double)elapsed) | 1;
        worker->ns_per_tick = (uint64_t)(1e6 * 65536 / (double)worker->ticks_per_ms);
    }
    if (elapsed > 100000) {
        worker->last_turn_ns = ns;
        worker->last_turn_ticks = ticks;
    }
    worker->turn_at_ticks = ticks + worker->ticks_per_ms;
}

/* Somebody has fired some of the timers that a worker has armed. That shall wake, and see to the rest itself. */
void fr_driver_more_timers(void *arg, uint32_t index)
{
    struct fr_runtime *rt = arg;
    if (index < rt->nworkers && fr_idle_is_parked(&rt->idle, index)) {
        fr_timers_ask(&rt->driver.timers, index, fr_now_ns(rt));
        fr_unpark_worker(rt, index);
    }
}

int fr_turn(struct fr_runtime *rt, uint32_t shard, int64_t timeout_ns)
{
    int woken = fr_driver_turn(&rt->driver, shard, timeout_ns);
    if (rt->driver.interrupted) { /* the pipe is empty now, and its thread may be in wait_nudged() */
        rt->driver.interrupted = false;
        fr_nudge_blockers(rt);
    }
    return woken;
}

/* What this worker has armed, whoever has the driver. */
static int fire_own_timers(struct fr_worker *worker)
{
    worker->in_driver = true;
    int woken = fr_driver_fire_shard(&worker->rt->driver, worker->index, fr_now_ns(worker->rt));
    worker->in_driver = false;
    return woken;
}

/* The caller owns the driver. */
static int turn(struct fr_worker *worker, int64_t timeout_ns)
{
    worker->in_driver = true;
    int woken = fr_turn(worker->rt, worker->index, timeout_ns);
    worker->in_driver = false;
    count(&worker->turns, 1);
    return woken;
}

/* The watch drives although a worker could: ask for the driver back. */
static void reclaim_driver(struct fr_worker *worker)
{
    struct fr_runtime *rt = worker->rt;
    /* acquire: pairs with drive() in watch.c */
    if (atomic_load_explicit(&rt->watch_drives, memory_order_acquire)) {
        /* release: pairs with drive() in watch.c */
        atomic_store_explicit(&rt->watch_release, worker->index + 1, memory_order_release);
        fr_driver_kick(&rt->driver);
    }
}

static void look_at_driver(struct fr_worker *worker)
{
    struct fr_driver *driver = &worker->rt->driver;
    int woken = 0;
    if (fr_driver_try_acquire(driver)) {
        woken = turn(worker, 0);
        fr_driver_release(driver);
    } else {
        reclaim_driver(worker);
        woken = fire_own_timers(worker);
    }
    adopt_spilled(worker);
    adopt_injected(worker);
    balance(worker);
    calibrate(worker);
    if (woken > 1) {
        notify_of_backlog(worker, 1);
    }
}

static bool is_set(struct fr_event *event)
{
    /* acquire: pairs with fr_event_set() */
    return event && atomic_load_explicit(&event->set, memory_order_acquire);
}

/* ---- running ---- */

static void leave_search(struct fr_worker *worker)
{
    if (worker->searching) {
        worker->searching = false;
        /* It looks before it wakes somebody [I5]: else each wake for a lone task would be two. */
        if (fr_idle_from_searching(&worker->rt->idle) && fr_work_anywhere(worker->rt)) {
            fr_notify(worker->rt);
        }
    }
}

/* A task has called fork() and come back to the scheduler in the child, where the other threads do not exist. On a
 * current-thread runtime block_on raises; a worker thread has nobody to raise to. */
bool fr_forked(struct fr_runtime *rt)
{
    /* relaxed: it changed on this very thread, or not at all */
    if (atomic_load_explicit(&fr_fork_generation, memory_order_relaxed) == rt->fork_generation) {
        return false;
    }
    if (!rt->current_thread) {
        fputs("freerun: a task called fork() and its child went on to the next await, where there is no runtime; "
              "call os._exit() or an exec function in the child\n",
              stderr);
        _exit(70); /* EX_SOFTWARE */
    }
    return true;
}

static int raise_forked(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this freerun runtime was made before fork(): it cannot go on in the child "
                                        "process; call os._exit() or an exec function there");
    return -1;
}

/* False: the core was given away during the poll; this thread has no worker any more. */
static bool poll_one(struct fr_worker *worker, struct fr_task *task)
{
    struct fr_runtime *rt = worker->rt;
    /* relaxed, all: read by the watch as a heuristic */
    atomic_store_explicit(&worker->current_id, task->id, memory_order_relaxed);
    uint64_t polls = atomic_load_explicit(&worker->polls, memory_order_relaxed);
    atomic_store_explicit(&worker->polls, polls + 1, memory_order_relaxed);
    if (fr_task_poll(task) == FR_POLL_REQUEUE) {
        fr_schedule_yield(rt, task);
    }
    fr_thread.core = (CoreObject *)rt->core; /* a task may have entered another runtime; that ends with its poll */
    if (__builtin_expect(fr_forked(rt) || fr_thread.worker != worker, 0)) {
        return false;
    }
    if (worker->returned) {
        fr_leaf_forget(worker);
    }
    atomic_store_explicit(&worker->polls, polls + 2, memory_order_relaxed);
    return true;
}

static uint64_t to_ns(struct fr_worker *worker, uint64_t ticks)
{
    return (ticks < UINT32_MAX ? ticks : UINT32_MAX) * worker->ns_per_tick >> 16;
}

/* As poll_one(), and takes the time. */
static bool poll_timed(struct fr_worker *worker, struct fr_task *task, bool moved, uint64_t *now)
{
    uint64_t began = *now;
    struct fr_site *site = task->site; /* the task may be gone after its poll */
    bool has_core = poll_one(worker, task);
    *now = fr_clock_ticks();
    if (site && has_core && has_others(worker->rt)) {
        uint64_t took = to_ns(worker, *now - began);
        uint32_t chance = (uint32_t)*now * UINT32_C(0x9E3779B9); /* the clock follows no pattern of theirs */
        fr_cost_learn(&site->cost, moved ? fr_cost_unmoved(took) : took, chance);
    }
    return has_core;
}

/* Nobody needs to know what it costs: alone, or it is so little that it does not matter where it is polled. */
static bool costs_nothing(struct fr_worker *worker, const struct fr_task *task)
{
    if (!has_others(worker->rt)) {
        return true;
    }
    return fr_cost_share(known_cost(task)) == 0;
}

/* Whether to read the clock in this turn. To read it costs a tenth of a short poll (17 ns on a virtual machine). Once
 * SHORT_ENOUGH turns in a row were short, less than a SHORT_TURNth of a millisecond, only every second, fourth, up to every
 * STRIDE_MAXth is timed, on average: at random, as tasks may come in a fixed order, of which the same one would be timed
 * always. Should a turn between take long after all, the watch notices with its next tick, after 2 ms or, while it drives, 5;
 * then the clock is read when that turn ends, and in every turn after it. */
static bool is_timed(struct fr_worker *worker, const struct fr_task *task)
{
    if (worker->unlooked && costs_nothing(worker, task) && worker->rt->has_watch) {
        worker->unlooked--;
        return false;
    }
    return true;
}

static void read_clock(struct fr_worker *worker, uint64_t *now)
{
    *now = fr_clock_ticks();
    worker->behind = false;
    atomic_store_explicit(&worker->look, false, memory_order_relaxed); /* a hint */
}

static void begin_turn(struct fr_worker *worker, bool timed, uint64_t *now)
{
    if (!timed) {
        worker->behind = true;
        fr_leaf_begin_untimed_turn();
        return;
    }
    if (worker->behind) {
        read_clock(worker, now);
    }
    fr_leaf_begin_turn(*now, *now + worker->ticks_per_ms);
}

void fr_worker_set_attends(struct fr_worker *worker, bool attends)
{
    if (worker->index < worker->rt->nworkers) { /* a stand-in has no timers */
        fr_timers_set_attended(&worker->rt->driver.timers, worker->index, attends);
    }
}

static void time_every_turn(struct fr_worker *worker)
{
    worker->stride = 1;
    worker->unlooked = worker->short_turns = 0;
}

static void end_timed_turn(struct fr_worker *worker, uint64_t took)
{
    if (took >= worker->ticks_per_ms / SHORT_TURN) {
        time_every_turn(worker);
        fr_worker_set_attends(worker, false);
    } else if (worker->short_turns < SHORT_ENOUGH) {
        worker->short_turns++;
    } else {
        fr_worker_set_attends(worker, true);
        worker->stride = worker->stride < STRIDE_MAX ? worker->stride * 2 : STRIDE_MAX;
        worker->unlooked = fr_random(worker) % (2 * worker->stride - 1);
    }
}

static void end_untimed_turn(struct fr_worker *worker, uint64_t *now)
{
    if (atomic_load_explicit(&worker->look, memory_order_relaxed)) { /* a hint */
        read_clock(worker, now);
        time_every_turn(worker);
    }
}

/* Nobody drives, perhaps because this worker has just come from there, and the poll that comes now is long, or may be: if
 * another worker sleeps, it is woken, finds nothing to do, and sleeps in the driver. Not before a poll that is known to be
 * short, which is over by then; nor before one of a task without a site: of its kind nothing is ever known. */
static void leave_driver(struct fr_worker *worker, const struct fr_task *task, uint64_t *now)
{
    struct fr_runtime *rt = worker->rt;
    if (has_others(rt) && task->site && fr_cost_is_long(fr_cost_get(&task->site->cost)) &&
        !fr_driver_is_taken(&rt->driver)) {
        fr_notify(rt);
        *now = fr_clock_ticks(); /* the wake is no part of the poll */
    }
}

/* Runs a task, then what it put into the LIFO slot, within one budget and at most MAX_LIFO_POLLS times. What comes from that
 * slot is not timed by itself: it was in nobody's queue. */
bool fr_worker_run_task(struct fr_worker *worker, struct fr_task *task, uint64_t *now)
{
    bool timed = is_timed(worker, task), moved = worker->moved > 0;
    worker->moved -= moved;
    leave_search(worker);
    if (timed) { /* as every task of a kind that is long, or unknown */
        leave_driver(worker, task, now);
    }
    begin_turn(worker, timed, now);
    uint64_t began = *now;
    fr_thread.descends = true;
    uint32_t lifo_polls = 0;
    if (!(timed ? poll_timed(worker, task, moved, now) : poll_one(worker, task))) {
        return false;
    }
    while ((task = lifo_take(worker))) {
        if (!fr_leaf_may_spend()) {
            push_and_notify(worker, task, 2);
            break;
        }
        fr_thread.budget--;                        /* or the clock would not be looked at again before the next leaf */
        fr_thread.look_at -= !fr_thread.turn_ends; /* so few of them need no look */
        fr_thread.descends = false;                /* this one shares the turn */
        count(&worker->lifo_hits, 1);
        if (++lifo_polls >= MAX_LIFO_POLLS) {
            worker->lifo_enabled = false;
        }
        if (!poll_one(worker, task)) {
            return false;
        }
    }
    worker->lifo_enabled = worker->rt->lifo_slot;
    if (timed) {
        if (lifo_polls) {
            *now = fr_clock_ticks();
        }
        end_timed_turn(worker, *now - began);
    } else {
        end_untimed_turn(worker, now);
    }
    notify_of_backlog(worker, 1); /* it was away, and cannot know who went to sleep meanwhile */
    return true;
}

/* ---- parking ---- */

bool fr_work_anywhere(struct fr_runtime *rt)
{
    if (!fr_inject_is_empty(&rt->inject)) {
        return true;
    }
    for (uint32_t i = 0; i < rt->nqueues; i++) {
        if (has_backlog(&rt->workers[i], 1, FR_COST_WAKE_NS) || has_stuck_lifo(&rt->workers[i])) {
            return true;
        }
    }
    return false;
}

/* Sleeps once, in the driver if it is free, else on the futex. Detached. Returns -EINTR if a signal came. */
static int sleep_once(struct fr_worker *worker, int *woken, bool *notified)
{
    struct fr_runtime *rt = worker->rt;
    int err = 0;
    if (fr_driver_try_acquire(&rt->driver)) {
        if (fr_park_begin(&worker->parker, true)) {
            *notified = true;
        } else {
            err = turn(worker, -1);
            *woken = err > 0 ? err : 0;
            *notified = fr_park_end_driver(&worker->parker);
        }
        fr_driver_release(&rt->driver);
        return err < 0 ? err : 0;
    }
    reclaim_driver(worker);
    if (fr_park_begin(&worker->parker, false)) {
        *notified = true;
        return 0;
    }
    err = fr_park_wait(&worker->parker, -1);
    *notified = err == 0;
    return err;
}

/* Destructors, hooks and signal handlers that ran while we were counted as parked may have left us work. */
static bool has_own_work(struct fr_worker *worker)
{
    /* relaxed: only the owner fills the slot */
    return atomic_load_explicit(&worker->lifo, memory_order_relaxed) || fr_worker_depth(worker) > 0;
}

/* Where a paused clock would jump to, UINT64_MAX if it may not. */
static uint64_t next_jump(struct fr_runtime *rt)
{
    /* relaxed: see fr_now_ns(); blocking work inhibits the jump, and its end kicks the driver */
    if (!atomic_load_explicit(&rt->paused, memory_order_relaxed) ||
        atomic_load_explicit(&rt->blocking_running, memory_order_acquire)) { /* pairs with pool_run_one() */
        return UINT64_MAX;
    }
    return fr_timers_next(&rt->driver.timers);
}

/* Takes the driver, if need be from the watch: that gives it back as soon as somebody asks. */
static void acquire_driver(struct fr_worker *worker)
{
    struct fr_driver *driver = &worker->rt->driver;
    if (fr_driver_try_acquire(driver)) {
        return;
    }
    PyThreadState *state = PyEval_SaveThread();
    do {
        reclaim_driver(worker);
        sched_yield();
    } while (!fr_driver_try_acquire(driver));
    PyEval_RestoreThread(state);
}

/* A paused clock jumps to the next timer instead of sleeping, unless a descriptor is ready: that comes first, as it
 * would in a time that passes. True: look again. */
static bool jump_clock(struct fr_worker *worker)
{
    struct fr_runtime *rt = worker->rt;
    uint64_t next = next_jump(rt);
    if (next == UINT64_MAX) {
        return false;
    }
    acquire_driver(worker); /* who drives meanwhile may have seen what is ready, and not woken anybody yet */
    int woken = turn(worker, 0);
    fr_driver_release(&rt->driver);
    if (woken > 0 || has_own_work(worker) || !fr_inject_is_empty(&rt->inject) || next_jump(rt) != next) {
        return true; /* also where somebody has resumed the clock, or set another timer, meanwhile */
    }
    if (next > atomic_load_explicit(&rt->paused_now, memory_order_relaxed)) {
        atomic_store_explicit(&rt->paused_now, next, memory_order_relaxed);
    }
    worker->in_driver = true;
    fr_driver_fire_timers(&rt->driver, next);
    worker->in_driver = false;
    return true;
}

int fr_drain(struct fr_runtime *rt, uint32_t *seen)
{
    uint32_t epoch = atomic_load_explicit(&rt->drain_epoch, memory_order_relaxed); /* a hint that comes with a wake */
    if (epoch == *seen) {
        return 0;
    }
    *seen = epoch;
    PyObject *done = PyObject_CallNoArgs(rt->mod->drain);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* What a signal handler raises ends block_on; worker threads run no handlers. */
static int check_signals(struct fr_worker *worker)
{
    return worker->rt->current_thread ? PyErr_CheckSignals() : 0;
}

/* ---- memory kept for reuse, see FR_FREE_KEEP ---- */

void fr_worker_more_room(struct fr_worker *worker, struct fr_room *room)
{
    _Atomic int32_t *left = &worker->rt->free_pieces;
    room->missed = 0;
    if (worker->index >= worker->rt->nworkers) {
        return; /* a stand-in is gone when it is idle, and nobody trims what it leaves */
    }
    /* relaxed, all: a budget */
    if (atomic_load_explicit(left, memory_order_relaxed) <= 0) {
        return;
    }
    if (atomic_fetch_sub_explicit(left, 1, memory_order_relaxed) <= 0) {
        atomic_fetch_add_explicit(left, 1, memory_order_relaxed);
        return;
    }
    room->most += FR_FREE_PIECE;
}

/* No more than it has, and `keep`. */
static void less_room(struct fr_worker *worker, struct fr_room *room, uint32_t keep)
{
    uint32_t pieces = (room->count + FR_FREE_PIECE - 1) / FR_FREE_PIECE, least = keep / FR_FREE_PIECE;
    uint32_t most = (pieces > least ? pieces : least) * FR_FREE_PIECE;
    if (most < room->most) {
        /* relaxed: a budget */
        atomic_fetch_add_explicit(&worker->rt->free_pieces, (int32_t)((room->most - most) / FR_FREE_PIECE),
                                  memory_order_relaxed);
        room->most = most;
    }
}

/* All but `keep`, at most `most` of them; how many. */
static uint32_t free_objects(struct fr_free_list *list, uint32_t keep, uint32_t most)
{
    uint32_t n = 0;
    while (list->room.count > keep && n < most) {
        PyObject *object = list->head;
        list->head = *fr_free_link(object);
        list->room.count--;
        list->type->tp_free(object);
        Py_DECREF(list->type);
        n++;
    }
    return n;
}

static uint32_t free_tasks(struct fr_worker *worker, uint32_t keep, uint32_t most)
{
    uint32_t n = 0;
    while (worker->free_task_room.count > keep && n < most) {
        struct fr_task *task = worker->free_tasks;
        worker->free_tasks = task->next;
        worker->free_task_room.count--;
        free(task);
        n++;
    }
    return n;
}

/* It sleeps: what it does not need is given back, some at a time, as somebody may wake it. */
static void trim(struct fr_worker *worker)
{
    enum { AT_ONCE = 4096 };
    uint32_t left = AT_ONCE;
    for (int kind = 0; kind < FR_FREE_KINDS; kind++) {
        left -= free_objects(&worker->free[kind], FR_FREE_KEEP, left);
        less_room(worker, &worker->free[kind].room, FR_FREE_KEEP);
    }
    left -= free_tasks(worker, FR_FREE_TASKS_KEEP, left);
    less_room(worker, &worker->free_task_room, FR_FREE_TASKS_KEEP);
    if (!left) {
        atomic_fetch_add(&worker->trims, 1); /* seq_cst: pairs with activity(), as a park does [watch.c V1] */
        fr_watch_nudge(worker->rt);
    }
}

static int drain(struct fr_worker *worker)
{
    uint32_t drained = worker->drained;
    int err = fr_drain(worker->rt, &worker->drained);
    if (worker->drained != drained) {
        trim(worker);
    }
    if (!err) {
        return 0;
    }
    if (worker->rt->current_thread) {
        return -1;
    }
    PyErr_WriteUnraisable(NULL);
    return 0;
}

/* ---- spinning for what is over soon, rt/spin.h ---- */

/* One is under way that is over soon: the last one was brief, and a thread was awake to take it. Were it to be woken, it
 * might be on this very CPU, to run when we sleep. A hint, so relaxed; the first load is all that a worker without
 * blocking calls pays. */
static bool has_brief_call(struct fr_runtime *rt)
{
    return atomic_load_explicit(&rt->blocking_running, memory_order_relaxed) && rt->pool.may_spin &&
           atomic_load_explicit(&rt->pool.awake, memory_order_relaxed) &&
           atomic_load_explicit(&rt->pool.brief, memory_order_relaxed);
}

/* Worth a spin, if those before were: a brief call, or what comes from another interpreter, where nobody knows how long it
 * takes (relaxed: a hint). */
static bool waits_briefly(struct fr_runtime *rt)
{
    return has_brief_call(rt) || (atomic_load_explicit(&rt->mail_awaited, memory_order_relaxed) && rt->pool.may_spin);
}

/* Something this worker would have been woken for; a lone task in another's queue is that one's next. */
static bool has_surplus(struct fr_worker *worker)
{
    struct fr_runtime *rt = worker->rt;
    for (uint32_t i = 0; i < rt->nqueues; i++) {
        if (&rt->workers[i] != worker && has_backlog(&rt->workers[i], 2, FR_COST_WAKE_NS)) {
            return true;
        }
    }
    return false;
}

/* Detached. True: there is something to do. False: go to sleep, or see what the parker says. */
static bool spin(struct fr_worker *worker, struct fr_event *until)
{
    struct fr_runtime *rt = worker->rt;
    uint64_t end = fr_clock_ns() + FR_SPIN_NS;
    do {
        for (int i = 0; i < FR_SPIN_LOOKS; i++) {
            if (!fr_inject_is_empty(&rt->inject)) {
                fr_spin_learn(&worker->spin, FR_SPIN_HIT);
                return true;
            }
            fr_cpu_relax();
        }
        if (is_set(until) || has_surplus(worker)) {
            return true;
        }
        if (fr_park_is_notified(&worker->parker) || !waits_briefly(rt)) {
            return false;
        }
    } while (fr_clock_ns() < end);
    fr_spin_learn(&worker->spin, FR_SPIN_VAIN);
    return false;
}

/* What is woken meanwhile comes through the injector, as the pool's threads and other interpreters' are no workers here. The spinner is awake in the
 * idle word, and where there are others counted as searching: who pushes then wakes nobody, and it owes a look at all
 * queues when it is no longer counted, in leave_search() or park() [I2]. At most one worker at a time. True: look again. */
static bool spin_before_park(struct fr_worker *worker, struct fr_event *until)
{
    struct fr_runtime *rt = worker->rt;
    if (!waits_briefly(rt) || !fr_spin_is_worth(&worker->spin)) {
        return false;
    }
    bool others = rt->nworkers > 1;
    if (others && !worker->searching && !(worker->searching = fr_idle_to_searching(&rt->idle))) {
        return false;
    }
    /* relaxed, as the store below: it guards no memory */
    if (others && atomic_exchange_explicit(&rt->worker_spins, true, memory_order_relaxed)) {
        return false;
    }
    PyThreadState *state = PyEval_SaveThread();
    bool found = spin(worker, until);
    if (others) {
        atomic_store_explicit(&rt->worker_spins, false, memory_order_relaxed);
    }
    PyEval_RestoreThread(state);
    return found;
}

static void learn_from_park(struct fr_worker *worker, uint64_t parked_at)
{
    enum fr_spin_end end = fr_spin_slept(parked_at, fr_clock_ns());
    fr_spin_learn(&worker->spin, end);
    if (end == FR_SPIN_LONG) {
        atomic_store_explicit(&worker->rt->mail_awaited, false, memory_order_relaxed);
    }
}

/* 0, or -1 with an exception from a signal handler. */
static int park(struct fr_worker *worker, struct fr_event *until)
{
    struct fr_runtime *rt = worker->rt;
    fr_worker_set_attends(worker, false);
    fr_call_hook(rt, rt->hooks.thread_park, NULL);
    bool last = fr_idle_to_parked(&rt->idle, worker->index, worker->searching);
    worker->searching = false;
    if ((last || rt->solo) && fr_work_anywhere(rt)) {
        fr_notify(rt); /* may well choose us */
    }
    count(&worker->parks, 1);
    int result = 0;
    for (;;) {
        int woken = 0;
        bool notified = false;
        int err = 0;
        /* Whoever asked before we were counted as parked has not woken us; and a turn that did not sleep may have emptied the
         * signal pipe. */
        result = drain(worker) ? -1 : check_signals(worker);
        woken = result ? 0 : fire_own_timers(worker); /* somebody may have woken us to look */
        if (!result && !woken && !has_own_work(worker) && !is_set(until)) {
            fr_worker_set_attends(worker, false); /* in vain: another was first */
            PyThreadState *state = PyEval_SaveThread();
            err = sleep_once(worker, &woken, &notified);
            PyEval_RestoreThread(state);
            result = drain(worker) ? -1 : check_signals(worker);
        }
        bool leave = woken || result || err == -EINTR || has_own_work(worker) || fr_stopped(rt) || is_set(until) ||
                     next_jump(rt) != UINT64_MAX;
        if (leave) {
            /* False: somebody chose us meanwhile, so we are counted as searching [I5]. */
            worker->searching = !fr_idle_unpark_by_id(&rt->idle, worker->index);
        } else if (!fr_idle_is_parked(&rt->idle, worker->index)) {
            worker->searching = true;
            leave = true;
        }
        if (leave) {
            fr_watch_nudge(rt);
            if (woken > 1) {
                notify_of_backlog(worker, 1);
            }
            break;
        }
    }
    fr_call_hook(rt, rt->hooks.thread_unpark, NULL);
    return result;
}

/* It was stuck in a poll meanwhile, perhaps. */
void fr_worker_close_queued(struct fr_worker *worker)
{
    struct fr_task *task;
    while ((task = fr_next_queued(worker))) {
        fr_task_poll(task);
    }
}

int fr_worker_run(struct fr_worker *worker, struct fr_event *until)
{
    struct fr_runtime *rt = worker->rt;
    if (fr_forked(rt)) {
        return raise_forked();
    }
    calibrate(worker);
    uint64_t now = fr_clock_ticks();
    while (!is_set(until)) {
        if (is_due(&worker->until_turn, rt->event_interval) || (int64_t)(now - worker->turn_at_ticks) >= 0) {
            look_at_driver(worker);
            now = fr_clock_ticks();
            if (fr_stopped(rt)) {
                break;
            }
        }
        struct fr_task *task = fr_next_queued(worker);
        if (!task) {
            task = steal(worker);
        }
        if (task) {
            if (!fr_worker_run_task(worker, task, &now)) {
                return fr_forked(rt) ? raise_forked() : 0;
            }
            continue;
        }
        if (!jump_clock(worker) && !spin_before_park(worker, until)) {
            bool briefly = waits_briefly(rt);
            uint64_t parked_at = briefly ? fr_clock_ns() : 0;
            if (park(worker, until)) {
                return -1;
            }
            if (briefly) {
                learn_from_park(worker, parked_at);
            }
            if (fr_stopped(rt)) {
                break;
            }
            calibrate(worker);
        }
        now = fr_clock_ticks();
    }
    leave_search(worker);
    if (fr_stopped(rt)) {
        fr_worker_close_queued(worker);
    }
    return 0;
}

/* ---- set-up and threads ---- */

void fr_worker_init(struct fr_worker *worker, struct fr_runtime *rt, uint32_t index)
{
    struct fr_module *mod = rt->mod;
    fr_queue_init(&worker->queue);
    fr_bias_init(&worker->bias);
    fr_spill_init(&worker->spill);
    atomic_init(&worker->lifo, NULL);
    fr_park_init(&worker->parker);
    worker->rt = rt;
    worker->index = index;
    worker->lifo_enabled = rt->lifo_slot;
    worker->stride = 1;
    worker->until_turn = rt->event_interval;
    worker->until_inject = rt->global_interval;
    atomic_init(&worker->spin.score, FR_SPIN_WORTH); /* a pool thread that is awake has been right already */
    worker->ns_per_tick = 1 << 16;
    worker->ticks_per_ms = 1000000; /* 1 GHz, till calibrate() knows better: too often is harmless */
    worker->rng = rt->seed + (index + 1) * UINT64_C(0x9E3779B97F4A7C15);
    worker->rng |= worker->rng == 0;
    for (int kind = 0; kind < FR_FREE_KINDS; kind++) {
        worker->free[kind].room.most = FR_FREE_KEEP;
    }
    worker->free_task_room.most = FR_FREE_TASKS_KEEP;
    worker->free[FR_FREE_HANDLE].type = mod->handle_type;
    worker->free[FR_FREE_JOIN].type = mod->join_type;
    worker->free[FR_FREE_SLEEP].type = mod->sleep_type;
    worker->free[FR_FREE_TIMED].type = mod->timed_type;
    worker->free[FR_FREE_SCOPE].type = mod->scope_type;
    worker->free[FR_FREE_IO_OP].type = mod->io_op_type;
    worker->free[FR_FREE_ONESHOT].type = mod->oneshot_sender_type;
    worker->free[FR_FREE_RECV].type = mod->oneshot_receiver_type;
    worker->free[FR_FREE_RECV_LEAF].type = mod->recv_type;
    worker->free[FR_FREE_PERMIT].type = mod->permit_type;
    worker->free[FR_FREE_GUARD].type = mod->guard_type;
    worker->free[FR_FREE_NOTIFIED].type = mod->notified_type;
    worker->free[FR_FREE_GROUP].type = mod->group_type;
    worker->free[FR_FREE_CANCEL_SCOPE].type = mod->cancel_scope_type;
    worker->free[FR_FREE_SET_WAIT].type = mod->set_wait_type;
    worker->free[FR_FREE_SEND].type = mod->mpsc_types[FR_MPSC_SEND];
    worker->free[FR_FREE_MPSC_RECV].type = mod->mpsc_types[FR_MPSC_RECV];
    worker->free[FR_FREE_MPSC_PERMIT].type = mod->mpsc_types[FR_MPSC_PERMIT];
    worker->free[FR_FREE_LISTEN].type = mod->listen_type;
    worker->free[FR_FREE_READ_GUARD].type = mod->read_guard_type;
    worker->free[FR_FREE_WRITE_GUARD].type = mod->write_guard_type;
}

void fr_worker_clear(struct fr_worker *worker)
{
    for (int kind = 0; kind < FR_FREE_KINDS; kind++) {
        Py_CLEAR(worker->free[kind].spare);
        free_objects(&worker->free[kind], 0, UINT32_MAX);
    }
    fr_spill_destroy(&worker->spill);
    free_tasks(worker, 0, UINT32_MAX);
    fr_oneshot_free_channels(worker);
    Py_CLEAR(worker->stop_iteration);
}

static void set_asyncgen_hooks(struct fr_runtime *rt)
{
    if (fr_set_asyncgen_hooks(rt->hooks.agen_first, rt->hooks.agen_final)) {
        PyErr_WriteUnraisable(NULL);
    }
}

void fr_worker_enter(struct fr_worker *worker)
{
    struct fr_runtime *rt = worker->rt;
    fr_slice_short(); /* before the hook, which may wish otherwise */
    fr_thread.worker = worker;
    fr_thread.core = (CoreObject *)rt->core;
    atomic_store_explicit(&worker->thread_ident, PyThread_get_thread_ident(), memory_order_relaxed); /* for reports */
    set_asyncgen_hooks(rt);
    fr_call_hook(rt, rt->hooks.thread_start, NULL);
}

void fr_worker_leave(struct fr_runtime *rt)
{
    fr_call_hook(rt, rt->hooks.thread_stop, NULL);
    if (fr_set_asyncgen_hooks(Py_None, Py_None)) {
        PyErr_Clear();
    }
    fr_thread = (struct fr_thread){.worker = NULL};
}

static void worker_main(struct fr_runtime *rt, void *arg)
{
    fr_worker_enter(arg);
    if (fr_worker_run(arg, NULL)) {
        PyErr_WriteUnraisable(NULL);
    }
    fr_worker_leave(rt);
}

int fr_worker_start(struct fr_worker *worker)
{
    bool stands_in = worker->index >= worker->rt->nworkers;
    return fr_thread_spawn(worker->rt, stands_in ? "stand-in" : "worker", stands_in ? 0 : worker->index,
                           stands_in ? fr_stand_in_main : worker_main, worker);
}

/* block_in_place: another thread goes on with this core [R4]; the caller finishes its poll without one. */
int fr_give_core_away(struct fr_worker *worker)
{
    /* What could run next must not wait for us. */
    void *next = lifo_take(worker);
    if (next) {
        expect(worker, next);
        push_local(worker, next);
    }
    fr_thread.worker = NULL;
    fr_worker_set_attends(worker, false); /* till the other thread runs */
    /* relaxed: the watch's heuristic; the poll is no longer this core's */
    atomic_store_explicit(&worker->polls, (atomic_load_explicit(&worker->polls, memory_order_relaxed) | 1) + 1,
                          memory_order_relaxed);
    worker->lifo_enabled = worker->rt->lifo_slot;
    int err = fr_worker_start(worker);
    if (err) {
        fr_thread.worker = worker;
    }
    return err;
}

PyObject *fr_block_in_place(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (fr_task_need_one(nargs, "block_in_place", "fn")) {
        return NULL;
    }
    if (!PyCallable_Check(args[0])) {
        PyErr_Format(PyExc_TypeError, "argument 'fn' must be callable, not %.200s", Py_TYPE(args[0])->tp_name);
        return NULL;
    }
    struct fr_worker *worker = fr_thread.worker;
    if (worker && fr_thread.task) {
        if (worker->rt->current_thread) {
            PyErr_SetString(PyExc_RuntimeError, "block_in_place() needs a multi-thread runtime: a current-thread one "
                                                "has no other thread to go on with; use spawn_blocking()");
            return NULL;
        }
        int err = fr_give_core_away(worker);
        if (err) {
            PyErr_Format(PyExc_RuntimeError, "block_in_place() cannot start a thread to go on with: %s",
                         strerror(-err));
            return NULL;
        }
    }
    return PyObject_Vectorcall(args[0], args + 1, (size_t)(nargs - 1), kwnames);
}
