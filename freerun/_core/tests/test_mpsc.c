/* Proves rt/mpsc.h: order, blocks, closing and waiting on one thread; then senders, of which some give up, and a receiver
 * at random: nothing lost, nothing doubled, each sender's messages in order, nobody forgotten. */
#include "../rt/mpsc.h"
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

static void *item(uint64_t n)
{
    return (void *)(uintptr_t)(n + 1);
}

static uint64_t item_number(void *p)
{
    return (uint64_t)(uintptr_t)p - 1;
}

static bool never(void *waiting, void *task)
{
    (void)waiting, (void)task;
    return false;
}

static bool always(void *waiting, void *task)
{
    return waiting && task;
}

static int send(struct fr_mpsc *q, void *value)
{
    int err = q->capacity ? fr_mpsc_try_reserve(q, 1) : 0;
    if (!err && (err = fr_mpsc_push(q, value)) && q->capacity) {
        fr_mpsc_release(q, 1);
    }
    return err;
}

static int wait_for(struct fr_mpsc *q, struct fr_waiter *waiter, struct sleeper *sleeper)
{
    void *replaced;
    sleeper_init(sleeper);
    *waiter = (struct fr_waiter){.task = sleeper};
    return fr_mpsc_wait(q, waiter, never, &replaced);
}

/* -- one thread ------------------------------------------------------------------------------------------------ */

static int add_up(void *value, void *arg)
{
    *(uint64_t *)arg += item_number(value);
    return 0;
}

static void test_order(struct rng *rng)
{
    struct fr_mpsc q;
    void *out[100];
    uint64_t in = 0, got = 0;
    fr_mpsc_init(&q, 0, wake);
    CHECK(fr_mpsc_pop(&q) == NULL);
    for (int i = 0; i < 20000; i++) {
        uint32_t n = rng_below(rng, rng_below(rng, 10) ? 4 : 100);
        if (rng_below(rng, 2)) {
            while (n-- > 0) {
                CHECK(send(&q, item(in++)) == 0);
            }
        } else {
            uint64_t taken = fr_mpsc_pop_many(&q, out, n);
            CHECK_EQ(taken, n < in - got ? n : in - got);
            for (uint64_t k = 0; k < taken; k++) {
                CHECK(out[k] == item(got++));
            }
        }
        CHECK_EQ(fr_mpsc_len(&q), in - got);
        if (i % 64 == 0) {
            uint64_t sum = 0, wanted = 0;
            for (uint64_t k = got; k < in; k++) {
                wanted += k;
            }
            CHECK(fr_mpsc_visit(&q, add_up, &sum) == 0);
            CHECK_EQ(sum, wanted);
        }
    }
    fr_mpsc_destroy(&q); /* frees what is left: the address sanitizer looks */
}

static void test_capacity(void)
{
    struct fr_mpsc q;
    fr_mpsc_init(&q, 3, wake);
    for (uint64_t round = 0; round < 50; round++) {
        for (uint64_t i = 0; i < 3; i++) {
            CHECK(send(&q, item(i)) == 0);
        }
        CHECK(send(&q, item(3)) == -EAGAIN);
        for (uint64_t i = 0; i < 3; i++) {
            CHECK(fr_mpsc_pop(&q) == item(i));
            CHECK_EQ(fr_mpsc_available(&q), i + 1);
        }
    }
    fr_mpsc_destroy(&q);
}

/* Room is given back in bulk, but to who waits for it at once, and nobody is told that there is none. */
static void test_room(void)
{
    struct fr_mpsc q;
    struct sleeper a, b;
    fr_mpsc_init(&q, 2, wake);
    for (uint64_t round = 0; round < 50; round++) {
        sleeper_init(&a);
        sleeper_init(&b);
        struct fr_sem_waiter first = {.waiter = {.task = &a}}, second = {.waiter = {.task = &b}};
        CHECK(fr_mpsc_reserve(&q, &first, 2) == 0);
        CHECK(fr_mpsc_push(&q, item(1)) == 0 && fr_mpsc_push(&q, item(2)) == 0);
        CHECK(fr_mpsc_reserve(&q, &first, 1) == -EAGAIN && fr_mpsc_reserve(&q, &second, 1) == -EAGAIN);
        CHECK(fr_mpsc_pop(&q) == item(1));
        CHECK(a.wakes == 1 && b.wakes == 0 && fr_sem_poll(&first) == 0);
        CHECK(fr_mpsc_try_reserve(&q, 1) == -EAGAIN); /* the second is next */
        CHECK(fr_mpsc_pop(&q) == item(2));
        CHECK(b.wakes == 1 && fr_sem_poll(&second) == 0);
        CHECK(fr_mpsc_push(&q, item(3)) == 0 && fr_mpsc_push(&q, item(4)) == 0);
        CHECK(fr_mpsc_pop(&q) == item(3) && fr_mpsc_pop(&q) == item(4));
        CHECK_EQ(fr_mpsc_available(&q), 2);
    }
    fr_mpsc_destroy(&q);
}

static void test_receiver_waits(void)
{
    struct fr_mpsc q;
    struct fr_waiter waiter, other;
    struct sleeper a, b;
    void *replaced;
    fr_mpsc_init(&q, 1, wake);
    CHECK(wait_for(&q, &waiter, &a) == -EAGAIN);
    CHECK(wait_for(&q, &other, &b) == -EBUSY);
    CHECK(fr_mpsc_wait(&q, &other, always, &replaced) == -EAGAIN);
    CHECK(replaced == &a && !fr_waiter_is_linked(&waiter));
    CHECK(send(&q, item(7)) == 0);
    CHECK(a.wakes == 0 && b.wakes == 1);
    CHECK(wait_for(&q, &waiter, &a) == 0);
    CHECK(fr_mpsc_pop(&q) == item(7));
    CHECK(wait_for(&q, &waiter, &a) == -EAGAIN);
    CHECK(fr_mpsc_unwait(&q, &waiter) && !fr_mpsc_unwait(&q, &waiter));
    CHECK(send(&q, item(8)) == 0);
    CHECK(a.wakes == 0);
    CHECK(fr_mpsc_pop(&q) == item(8));
    fr_mpsc_destroy(&q);
}

static void test_senders_leave(void)
{
    struct fr_mpsc q;
    struct fr_waiter waiter;
    struct sleeper a;
    fr_mpsc_init(&q, 4, wake);
    CHECK(wait_for(&q, &waiter, &a) == -EAGAIN);
    CHECK(send(&q, item(1)) == 0);
    fr_mpsc_close_tx(&q);
    CHECK(send(&q, item(2)) == -ESHUTDOWN);
    CHECK(fr_mpsc_push(&q, item(2)) == -ESHUTDOWN);
    CHECK(fr_mpsc_end(&q) == 0);
    CHECK(fr_mpsc_pop(&q) == item(1));
    CHECK(fr_mpsc_end(&q) == -ESHUTDOWN);
    CHECK(wait_for(&q, &waiter, &a) == -ESHUTDOWN);
    fr_mpsc_destroy(&q);

    fr_mpsc_init(&q, 0, wake);
    CHECK(wait_for(&q, &waiter, &a) == -EAGAIN);
    fr_mpsc_close_tx(&q);
    CHECK(a.wakes == 1);
    fr_mpsc_destroy(&q);
}

/* A message whose room was reserved before the close gets through; the end comes when no such room is left. */
static void test_receiver_closes(void)
{
    for (int sends = 0; sends < 2; sends++) {
        struct fr_mpsc q;
        struct fr_waiter waiter, leaving;
        struct sleeper a, b;
        fr_mpsc_init(&q, 4, wake);
        CHECK(send(&q, item(1)) == 0);
        CHECK(fr_sem_try_acquire(&q.room, 1) == 0); /* a permit */
        sleeper_init(&b);
        leaving = (struct fr_waiter){.task = &b};
        CHECK(fr_mpsc_wait_closed(&q, &leaving) == -EAGAIN);
        fr_mpsc_close_rx(&q);
        fr_mpsc_close_rx(&q);
        CHECK(b.wakes == 1 && fr_mpsc_wait_closed(&q, &leaving) == 0);
        CHECK(send(&q, item(2)) == -ESHUTDOWN);
        CHECK(fr_mpsc_pop(&q) == item(1));
        CHECK(wait_for(&q, &waiter, &a) == -EAGAIN);
        if (sends) {
            CHECK(fr_mpsc_push(&q, item(3)) == 0);
            CHECK(a.wakes == 1 && fr_mpsc_pop(&q) == item(3));
        } else {
            fr_mpsc_release(&q, 1);
            CHECK(a.wakes == 1);
        }
        CHECK(wait_for(&q, &waiter, &a) == -ESHUTDOWN);
        fr_mpsc_destroy(&q);
    }
}

static void test_receiver_leaves(void)
{
    for (uint64_t capacity = 0; capacity < 3; capacity += 2) {
        struct fr_mpsc q;
        fr_mpsc_init(&q, capacity, wake);
        CHECK(send(&q, item(1)) == 0);
        CHECK(!capacity || fr_sem_try_acquire(&q.room, 1) == 0);
        fr_mpsc_leave_rx(&q);
        CHECK(fr_mpsc_push(&q, item(2)) == -ESHUTDOWN);
        CHECK(fr_mpsc_flags(&q) == (FR_MPSC_RX_CLOSED | FR_MPSC_RX_GONE));
        CHECK(fr_mpsc_pop(&q) == item(1));
        CHECK(fr_mpsc_end(&q) == -ESHUTDOWN);
        fr_mpsc_destroy(&q);
    }
}

static void test_unbounded_close(void)
{
    struct fr_mpsc q;
    fr_mpsc_init(&q, 0, wake);
    CHECK(send(&q, item(1)) == 0);
    fr_mpsc_close_rx(&q);
    CHECK(send(&q, item(2)) == -ESHUTDOWN);
    CHECK(fr_mpsc_end(&q) == 0);
    CHECK(fr_mpsc_pop(&q) == item(1));
    CHECK(fr_mpsc_end(&q) == -ESHUTDOWN);
    fr_mpsc_destroy(&q);
}

/* -- threads --------------------------------------------------------------------------------------------------- */

enum { SENDERS = 3 };

struct stress {
    struct fr_mpsc q;
    _Atomic uint32_t senders;
    uint64_t until_ns;
    uint64_t sent[SENDERS]; /* each its own, read after the join */
    uint64_t closes_after;  /* messages; the receiver then closes */
};

struct stress_thread {
    struct stress *stress;
    struct rng rng;
    uint64_t index;
    pthread_t thread;
};

/* The callback may have the sleeper, which lives on this thread's stack: waits until it is done with it. */
static void settle(struct sleeper *sleeper, bool still_linked)
{
    while (!still_linked && atomic_load(&sleeper->wakes) == 0) {
        fr_cpu_relax();
    }
}

/* Room for n messages, unless it gives up waiting (-EAGAIN) or the channel closes (-ESHUTDOWN). */
static int reserve(struct stress *s, struct rng *rng, uint64_t n)
{
    struct sleeper sleeper;
    sleeper_init(&sleeper);
    struct fr_sem_waiter waiter = {.waiter = {.task = &sleeper}};
    int err = fr_mpsc_reserve(&s->q, &waiter, n);
    if (err != -EAGAIN) {
        return err;
    }
    int64_t patience = rng_below(rng, 3) == 0 ? (int64_t)rng_below(rng, 20000) : -1;
    while (fr_event_wait(&sleeper.event, patience) == -EINTR) {
    }
    err = fr_sem_poll(&waiter);
    if (err == 0 && rng_below(rng, 4)) {
        settle(&sleeper, false);
        return 0;
    }
    settle(&sleeper, fr_sem_cancel(&s->q.room, &waiter));
    fr_mpsc_release(&s->q, 0); /* it may be the end now */
    return err == -ESHUTDOWN ? err : -EAGAIN;
}

static void *sender_main(void *arg)
{
    struct stress_thread *self = arg;
    struct stress *s = self->stress;
    int err = 0;
    while (fr_clock_ns() < s->until_ns && err != -ESHUTDOWN) {
        uint64_t n = 1 + (s->q.capacity ? rng_below(&self->rng, (uint32_t)s->q.capacity) : 0);
        err = s->q.capacity ? reserve(s, &self->rng, n) : 0;
        if (err) {
            continue;
        }
        if (s->q.capacity && rng_below(&self->rng, 4) == 0) { /* a permit that is not used */
            fr_mpsc_release(&s->q, 1);
            n--;
        }
        for (; n > 0; n--) {
            err = fr_mpsc_push(&s->q, item(self->index << 40 | s->sent[self->index]));
            CHECK(err == 0 || !s->q.capacity);
            s->sent[self->index] += err == 0;
        }
    }
    if (atomic_fetch_sub(&s->senders, 1) == 1) {
        fr_mpsc_close_tx(&s->q);
    }
    return NULL;
}

/* Waits as a task or as a thread, perhaps not to the end. False: the channel has ended. */
static bool wait_for_message(struct fr_mpsc *q, struct rng *rng)
{
    struct sleeper sleeper;
    struct fr_waiter waiter = {.task = NULL};
    void *replaced;
    bool as_task = rng_below(rng, 2);
    sleeper_init(&sleeper);
    if (as_task) {
        waiter.task = &sleeper;
    } else {
        waiter.event = &sleeper.event;
    }
    int err = fr_mpsc_wait(q, &waiter, never, &replaced);
    if (err == -EAGAIN) {
        int64_t patience = rng_below(rng, 3) == 0 ? (int64_t)rng_below(rng, 20000) : -1;
        while (fr_event_wait(&sleeper.event, patience) == -EINTR) {
        }
        settle(&sleeper, fr_mpsc_unwait(q, &waiter) || !as_task);
    }
    return err != -ESHUTDOWN;
}

static uint64_t receive_all(struct stress *s, struct rng *rng, uint64_t *next)
{
    void *out[8];
    uint64_t total = 0;
    do {
        uint64_t n;
        while ((n = fr_mpsc_pop_many(&s->q, out, 1 + rng_below(rng, 8)))) {
            for (uint64_t i = 0; i < n; i++) {
                uint64_t number = item_number(out[i]);
                CHECK(number >> 40 < SENDERS);
                CHECK_EQ(number & 0xffffffffff, next[number >> 40]); /* each sender's in order: none lost or doubled */
                next[number >> 40]++;
            }
            total += n;
            if (total >= s->closes_after) {
                fr_mpsc_close_rx(&s->q);
            }
            if (rng_below(rng, 3) == 0) {
                break;
            }
        }
    } while (wait_for_message(&s->q, rng));
    return total;
}

static void test_stress(struct rng *rng, uint64_t capacity, uint64_t ns)
{
    struct stress s = {.until_ns = fr_clock_ns() + ns};
    struct stress_thread threads[SENDERS];
    uint64_t next[SENDERS] = {0};
    fr_mpsc_init(&s.q, capacity, wake);
    atomic_init(&s.senders, SENDERS);
    s.closes_after = rng_below(rng, 2) ? UINT64_MAX : rng_below(rng, 5000);
    for (uint64_t i = 0; i < SENDERS; i++) {
        threads[i] = (struct stress_thread){.stress = &s, .rng = rng_fork(rng), .index = i};
        CHECK(pthread_create(&threads[i].thread, NULL, sender_main, &threads[i]) == 0);
    }
    receive_all(&s, rng, next);
    for (int i = 0; i < SENDERS; i++) {
        CHECK(pthread_join(threads[i].thread, NULL) == 0);
        CHECK_EQ(next[i], s.sent[i]);
    }
    CHECK_EQ(fr_mpsc_len(&s.q), 0);
    CHECK(!capacity || fr_mpsc_available(&s.q) == capacity);
    fr_mpsc_destroy(&s.q);
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    struct rng rng = {env.seed};
    test_order(&rng);
    test_capacity();
    test_room();
    test_receiver_waits();
    test_senders_leave();
    test_receiver_closes();
    test_receiver_leaves();
    test_unbounded_close();
    uint64_t end = fr_clock_ns() + env.stress_ns;
    while (fr_clock_ns() < end) {
        test_stress(&rng, 1, env.stress_ns / 40);
        test_stress(&rng, 1 + rng_below(&rng, 8), env.stress_ns / 40);
        test_stress(&rng, 0, env.stress_ns / 40);
    }
    return check_end();
}
