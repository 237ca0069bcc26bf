/* The driver: timers against the clock, readiness without lost edges, close against use, waiters against both. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "../rt/driver.h"
#include "check.h"
#include "kinds.h"

enum { ASSUMED = FR_READY_READ | FR_READY_WRITE };

/* Who drives here owns the first of them. */
enum { OWN, OTHERS, SHARDS };

/* A "task" here is an integer that counts its wake-ups. */
typedef _Atomic uint32_t woken;

static void wake(void *ctx, void *task)
{
    (void)ctx;
    if (task) {
        atomic_fetch_add((woken *)task, 1);
    }
}

static uint64_t now(void *ctx)
{
    (void)ctx;
    return fr_clock_ns();
}

static void start(struct fr_driver *driver)
{
    CHECK_EQ(fr_driver_init(driver, kind, SHARDS, wake, now, NULL), 0);
    CHECK(fr_driver_try_acquire(driver));
    CHECK(!fr_driver_try_acquire(driver));
}

static void stop(struct fr_driver *driver)
{
    fr_driver_release(driver);
    fr_driver_destroy(driver);
}

static int turn(struct fr_driver *driver, int64_t timeout_ns)
{
    return fr_driver_turn(driver, OWN, timeout_ns);
}

static void make_pair(int fds[2])
{
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

/* ---- timers ---- */

static void test_timer_never_early(void)
{
    struct fr_driver driver;
    struct fr_sleep sleep = {.task = NULL};
    woken count = 0;
    start(&driver);
    for (uint32_t ms = 1; ms <= 8; ms++) {
        uint64_t deadline = fr_clock_ns() + (uint64_t)ms * 1000000;
        CHECK(fr_driver_sleep_arm(&driver, ms % SHARDS, &sleep, deadline, &count));
        while (!fr_sleep_fired(&sleep)) {
            CHECK(turn(&driver, -1) >= 0);
        }
        CHECK(fr_clock_ns() >= deadline);
        CHECK_EQ(count, ms);
        CHECK(!fr_timers_disarm(&driver.timers, &sleep));
    }
    stop(&driver);
}

static void test_disarmed_timer_does_not_fire(void)
{
    struct fr_driver driver;
    struct fr_sleep early = {.task = NULL}, late = {.task = NULL};
    woken first = 0, second = 0;
    start(&driver);
    CHECK(!fr_driver_sleep_arm(&driver, OWN, &early, fr_clock_ns() - 5000000, &first)); /* due already */
    CHECK(fr_driver_sleep_arm(&driver, OWN, &early, fr_clock_ns() + 2000000, &first));
    CHECK(fr_timers_disarm(&driver.timers, &early));
    CHECK(fr_timers_next(&driver.timers) == UINT64_MAX);
    CHECK(fr_driver_sleep_arm(&driver, OWN, &early, fr_clock_ns() + 2000000, &first));
    CHECK(fr_driver_sleep_arm(&driver, OWN, &late, fr_clock_ns() + 6000000, &second));
    CHECK(fr_timers_disarm(&driver.timers, &early));
    CHECK(!fr_timers_disarm(&driver.timers, &early));
    while (!fr_sleep_fired(&late)) {
        CHECK(turn(&driver, -1) >= 0);
    }
    CHECK_EQ(first, 0);
    CHECK_EQ(second, 1);
    CHECK(fr_timers_next(&driver.timers) == UINT64_MAX);
    stop(&driver);
}

struct armer {
    struct fr_driver *driver;
    struct fr_sleep *sleep;
    woken *count;
};

static void *arm_from_elsewhere(void *arg)
{
    struct armer *armer = arg;
    usleep(2000);
    CHECK(fr_driver_sleep_arm(armer->driver, OTHERS, armer->sleep, fr_clock_ns() + 1000000, armer->count));
    return NULL;
}

/* [D5] an earlier deadline ends a sleep that was to last for ever. */
static void test_earlier_deadline_wakes_the_sleeper(void)
{
    struct fr_driver driver;
    struct fr_sleep sleep = {.task = NULL};
    woken count = 0;
    pthread_t thread;
    start(&driver);
    struct armer armer = {&driver, &sleep, &count};
    CHECK_EQ(pthread_create(&thread, NULL, arm_from_elsewhere, &armer), 0);
    while (count == 0) {
        CHECK(turn(&driver, -1) >= 0); /* hangs (and alarm() ends it) if the kick is lost */
    }
    pthread_join(thread, NULL);
    stop(&driver);
}

static uint64_t set_time;

static uint64_t time_that_was_set(void *ctx)
{
    (void)ctx;
    return set_time;
}

/* A timer in each shard, at the time that is returned; the clock stands before it. */
static uint64_t arm_both(struct fr_driver *driver, struct fr_sleep sleeps[SHARDS], woken counts[SHARDS])
{
    driver->now = time_that_was_set;
    uint64_t later = fr_clock_ns() + 1000000000; /* than any time that a test has set before */
    set_time = later > set_time ? later : set_time + 1000000000;
    uint64_t deadline = fr_timers_tick_after(&driver->timers, set_time + 1000000);
    for (uint32_t i = 0; i < SHARDS; i++) {
        counts[i] = 0;
        CHECK(fr_driver_sleep_arm(driver, i, &sleeps[i], deadline, &counts[i]));
    }
    return deadline;
}

/* [TM3] what nobody attends to is fired by who drives; else a grace passes first, counted from when its worker was woken. */
static void test_grace(void)
{
    struct fr_driver driver;
    struct fr_sleep sleeps[SHARDS] = {{.task = NULL}, {.task = NULL}};
    woken counts[SHARDS];
    start(&driver);
    set_time = arm_both(&driver, sleeps, counts);
    CHECK_EQ(turn(&driver, 0), SHARDS);

    uint64_t deadline = arm_both(&driver, sleeps, counts);
    fr_timers_set_attended(&driver.timers, OWN, true); /* the caller's own is the caller's, whatever that says */
    fr_timers_set_attended(&driver.timers, OTHERS, true);
    set_time = deadline - 1;
    CHECK_EQ(turn(&driver, 0), 0);
    set_time = deadline;
    CHECK_EQ(turn(&driver, 0), 1);
    CHECK_EQ(counts[OWN], 1);
    set_time = deadline + FR_GRACE_NS - 1;
    CHECK_EQ(turn(&driver, 0), 0);
    fr_timers_ask(&driver.timers, OTHERS, deadline + 10 * FR_GRACE_NS);
    set_time = deadline + 11 * FR_GRACE_NS - 1;
    CHECK_EQ(turn(&driver, 0), 0);
    CHECK_EQ(counts[OTHERS], 0);
    set_time++;
    CHECK_EQ(turn(&driver, 0), 1);
    CHECK_EQ(counts[OTHERS], 1);
    stop(&driver);
}

/* Who sleeps wakes for another's timers, too, at once or after their grace: hangs (and alarm() ends it) if not. */
static void test_a_sleep_ends_for_others(void)
{
    struct fr_driver driver;
    struct fr_sleep sleep = {.task = NULL};
    woken count = 0;
    start(&driver);
    for (uint32_t round = 1; round <= 4; round++) {
        fr_timers_set_attended(&driver.timers, OTHERS, round % 2);
        uint64_t deadline = fr_clock_ns() + 1000000;
        CHECK(fr_driver_sleep_arm(&driver, OTHERS, &sleep, deadline, &count));
        while (count < round) {
            CHECK(turn(&driver, -1) >= 0);
        }
        CHECK(fr_clock_ns() >= deadline + (round % 2 ? FR_GRACE_NS : 0));
    }
    stop(&driver);
}

/* Its worker fires what is in its shard while somebody goes to sleep, and arms again [TM1]: between two looks at more than a
 * thousand shards there is time for that. */
enum { CROWD = 1025, LAST = CROWD - 1, ROUND_NS = 10000000 };

struct firer {
    struct fr_timers timers;
    _Atomic uint64_t round, fired;
};

static void *fire_meanwhile(void *arg)
{
    struct firer *self = arg;
    void *batch[FR_TIMERS_BATCH];
    for (uint64_t last = 0;;) {
        uint64_t round = self->round;
        if (round == UINT64_MAX) {
            return NULL;
        }
        if (round != last) {
            for (uint64_t spins = round * 7 % 400; spins; spins--) {
                atomic_signal_fence(memory_order_seq_cst);
            }
            CHECK_EQ(fr_timers_take(&self->timers, LAST, round * ROUND_NS + ROUND_NS / 2, batch), 1);
            self->fired = last = round;
        } else {
            sched_yield();
        }
    }
}

static void test_who_goes_to_sleep_hears_of_what_follows(struct check_env *env)
{
    static struct firer self;
    pthread_t thread;
    uint64_t until = fr_clock_ns() + env->stress_ns / 4;
    self.round = self.fired = 0;
    CHECK_EQ(fr_timers_init(&self.timers, CROWD, 0), 0);
    CHECK_EQ(pthread_create(&thread, NULL, fire_meanwhile, &self), 0);
    for (uint64_t round = 1; fr_clock_ns() < until; round++) {
        struct fr_sleep first = {.task = NULL}, second = {.task = NULL};
        uint64_t start = round * ROUND_NS, later = start + ROUND_NS / 2 + 2000000;
        bool kick;
        CHECK(fr_timers_arm(&self.timers, LAST, &first, start + ROUND_NS / 2, &first, &kick));
        self.round = round;
        uint64_t wake = fr_timers_begin_sleep(&self.timers, UINT64_MAX);
        while (self.fired != round) {
            sched_yield();
        }
        CHECK(fr_timers_arm(&self.timers, LAST, &second, later, &second, &kick));
        CHECK(kick || wake <= later);
        fr_timers_end_sleep(&self.timers);
        CHECK(fr_timers_disarm(&self.timers, &second));
    }
    self.round = UINT64_MAX;
    pthread_join(thread, NULL);
    fr_timers_destroy(&self.timers);
}

static uint32_t more_in;

static void note_more(void *ctx, uint32_t shard)
{
    (void)ctx;
    more_in = shard;
}

/* Of a shard that is another's no more than a batch, and that is said. */
static void test_no_more_than_a_batch_of_others(void)
{
    enum { MANY = 2 * FR_TIMERS_BATCH + 1 };
    static struct fr_sleep sleeps[SHARDS][MANY];
    struct fr_driver driver;
    woken count = 0;
    start(&driver);
    driver.now = time_that_was_set;
    driver.more = note_more;
    set_time = fr_clock_ns();
    for (uint32_t i = 0; i < MANY; i++) {
        CHECK(fr_driver_sleep_arm(&driver, OWN, &sleeps[OWN][i], set_time + 1000000, &count));
        CHECK(fr_driver_sleep_arm(&driver, OTHERS, &sleeps[OTHERS][i], set_time + 1000000, &count));
    }
    set_time += 2000000;
    for (int turns = 0; turns < 3; turns++) {
        more_in = SHARDS;
        CHECK_EQ(turn(&driver, 0), turns == 0 ? MANY + FR_TIMERS_BATCH : turns == 1 ? FR_TIMERS_BATCH : 1);
        CHECK_EQ(more_in, turns < 2 ? OTHERS : SHARDS);
    }
    CHECK_EQ(count, 2 * MANY);
    stop(&driver);
}

/* A paused clock jumps to where the next timer says: there must be something to fire, however coarse the slot that it is in. */
static void test_next_is_never_before_something_fires(struct check_env *env)
{
    struct fr_driver driver;
    struct fr_sleep sleep = {.task = NULL}, other = {.task = NULL};
    struct rng rng = {env->seed};
    woken count = 0, never = 0;
    start(&driver);
    set_time = fr_clock_ns();
    for (uint32_t round = 1; round <= 2000; round++) {
        set_time += rng_below(&rng, UINT32_MAX) * (uint64_t)rng_below(&rng, 1000); /* up to 70 minutes */
        uint64_t deadline = set_time + 1000000 + rng_below(&rng, UINT32_MAX) * (uint64_t)(1 + rng_below(&rng, 10));
        CHECK(fr_driver_sleep_arm(&driver, round % SHARDS, &sleep, deadline, &count));
        if (rng_below(&rng, 2)) { /* an earlier one that comes to nothing */
            CHECK(fr_driver_sleep_arm(&driver, round % SHARDS, &other, deadline - 1000000, &never));
            CHECK(fr_timers_disarm(&driver.timers, &other));
        }
        for (int jumps = 0; count < round; jumps++) {
            uint64_t next = fr_timers_next(&driver.timers);
            CHECK(next <= deadline + 1000000);
            set_time = next > set_time ? next : set_time;
            fr_driver_fire_timers(&driver, next);
            CHECK(jumps < 10);
        }
        CHECK(set_time >= deadline);
    }
    CHECK_EQ(never, 0);
    stop(&driver);
}

/* Threads arm, disarm and fire at random while one drives: every timer either fired once or was taken back. */
struct timer_thread {
    struct fr_driver *driver;
    struct rng rng;
    uint64_t until;
    uint64_t armed, fired, taken_back;
};

static void *timer_stress(void *arg)
{
    struct timer_thread *self = arg;
    while (fr_clock_ns() < self->until) {
        struct fr_sleep sleep = {.task = NULL};
        woken count = 0;
        uint32_t shard = rng_below(&self->rng, SHARDS);
        uint64_t deadline = fr_clock_ns() + rng_below(&self->rng, 3000000);
        if (!fr_driver_sleep_arm(self->driver, shard, &sleep, deadline, &count)) {
            continue;
        }
        self->armed++;
        uint64_t patience = rng_below(&self->rng, 4000);
        for (uint64_t i = 0; i < patience && !fr_sleep_fired(&sleep); i++) {
            sched_yield();
        }
        if (rng_below(&self->rng, 4) == 0) {
            fr_driver_fire_shard(self->driver, rng_below(&self->rng, SHARDS), fr_clock_ns());
        }
        if (fr_timers_disarm(&self->driver->timers, &sleep)) {
            self->taken_back++;
            CHECK_EQ(count, 0);
        } else {
            while (count == 0) { /* fired is set before the wake */
                sched_yield();
            }
            CHECK_EQ(count, 1);
            self->fired++;
        }
    }
    return NULL;
}

static void test_timer_stress(struct check_env *env)
{
    enum { THREADS = 3 };
    struct fr_driver driver;
    struct timer_thread threads[THREADS];
    pthread_t ids[THREADS];
    struct rng rng = {env->seed};
    uint64_t until = fr_clock_ns() + env->stress_ns / 4;
    start(&driver);
    for (int i = 0; i < THREADS; i++) {
        threads[i] = (struct timer_thread){.driver = &driver, .rng = {env->seed + 1 + (uint64_t)i}, .until = until};
        CHECK_EQ(pthread_create(&ids[i], NULL, timer_stress, &threads[i]), 0);
    }
    while (fr_clock_ns() < until + 20000000) {
        fr_timers_set_attended(&driver.timers, OTHERS, rng_below(&rng, 2) == 0);
        CHECK(turn(&driver, 1000000) >= 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
        CHECK_EQ(threads[i].armed, threads[i].fired + threads[i].taken_back);
        CHECK(threads[i].armed > 0);
    }
    stop(&driver);
}

/* Each timer is earlier than the last, and none is due: who sleeps sleeps until the last one, or is about to be told [TM1]. */
struct lone_armer {
    struct fr_driver *driver;
    struct rng rng;
    uint64_t until;
    _Atomic bool done;
};

static void *arm_alone(void *arg)
{
    struct lone_armer *self = arg;
    struct fr_timers *timers = &self->driver->timers;
    uint64_t deadline = fr_timers_tick_after(timers, fr_clock_ns() + UINT64_C(31536000000000000));
    woken never = 0;
    for (uint32_t rounds = 0; fr_clock_ns() < self->until; rounds++) {
        struct fr_sleep sleep = {.task = NULL};
        for (uint32_t spins = rng_below(&self->rng, 3000); spins; spins--) {
            atomic_signal_fence(memory_order_seq_cst); /* it is on its way back to sleep: meet it anywhere */
        }
        deadline -= 1000000;
        CHECK(fr_driver_sleep_arm(self->driver, rounds % SHARDS, &sleep, deadline, &never));
        uint64_t sleeping_until;
        while (!(sleeping_until = timers->sleeping_until) || sleeping_until > deadline) {
            sched_yield(); /* hangs (and alarm() ends it) if it was not told */
        }
        CHECK(fr_timers_disarm(timers, &sleep));
    }
    self->done = true;
    fr_driver_kick(self->driver);
    CHECK_EQ(never, 0);
    return NULL;
}

static void test_who_sleeps_knows_of_the_first_timer(struct check_env *env)
{
    struct fr_driver driver;
    struct lone_armer armer = {.driver = &driver, .rng = {env->seed}, .until = fr_clock_ns() + env->stress_ns / 4};
    pthread_t thread;
    start(&driver);
    CHECK_EQ(pthread_create(&thread, NULL, arm_alone, &armer), 0);
    while (!armer.done) {
        CHECK_EQ(turn(&driver, -1), 0);
    }
    pthread_join(thread, NULL);
    stop(&driver);
}

/* ---- descriptors ---- */

static void test_readiness(void)
{
    struct fr_driver driver;
    struct fr_io *io;
    struct fr_waiter waiter = {.task = NULL};
    woken count = 0;
    int fds[2];
    char byte;
    start(&driver);
    make_pair(fds);
    CHECK_EQ(fr_io_open(&driver, fds[0], ASSUMED, &io), 0);
    uint32_t seen = fr_io_ready(io);
    CHECK(fr_io_is_ready(seen, FR_DIR_READ)); /* assumed until a system call says otherwise */
    CHECK_EQ(recv(fds[0], &byte, 1, 0), -1);
    fr_io_clear_all(io, seen, FR_DIR_READ);
    while (fr_io_is_ready(fr_io_ready(io), FR_DIR_READ)) { /* the first edge of the registration may come in between */
        turn(&driver, 0);
        fr_io_clear_all(io, fr_io_ready(io), FR_DIR_READ);
    }
    waiter.task = &count;
    CHECK(fr_io_wait(io, FR_DIR_READ, &waiter));
    CHECK_EQ(send(fds[1], "x", 1, 0), 1);
    while (count == 0) {
        CHECK(turn(&driver, -1) >= 0);
    }
    CHECK(!waiter.linked);
    CHECK(!fr_io_unwait(io, FR_DIR_READ, &waiter));
    CHECK(!fr_io_wait(io, FR_DIR_READ, &waiter)); /* ready: look again instead */
    fr_io_close(io);
    fr_io_release(io);
    close(fds[1]);
    stop(&driver);
}

/* [D2] "drained" said after an older look must not undo a newer edge. */
static void test_clear_loses_to_an_edge(void)
{
    struct fr_driver driver;
    struct fr_io *io;
    int fds[2];
    start(&driver);
    make_pair(fds);
    CHECK_EQ(fr_io_open(&driver, fds[0], ASSUMED, &io), 0);
    uint32_t seen = fr_io_ready(io);
    CHECK_EQ(send(fds[1], "x", 1, 0), 1);
    CHECK(turn(&driver, 0) >= 0);
    fr_io_clear(io, seen, FR_DIR_READ);
    CHECK(fr_io_is_ready(fr_io_ready(io), FR_DIR_READ));
    fr_io_close(io);
    fr_io_release(io);
    close(fds[1]);
    stop(&driver);
}

/* [D4] close during a system call waits for its end; claims exclude each other; a closed one refuses. */
static void test_close_and_claims(void)
{
    struct fr_driver driver;
    struct fr_io *io;
    int fds[2];
    start(&driver);
    make_pair(fds);
    CHECK_EQ(fr_io_open(&driver, fds[0], ASSUMED, &io), 0);
    CHECK_EQ(fr_io_begin(io, FR_IO_CLAIM_READ), 0);
    CHECK(fr_io_begin(io, FR_IO_CLAIM_READ) == -EBUSY);
    CHECK_EQ(fr_io_begin(io, FR_IO_CLAIM_WRITE), 0);
    fr_io_close(io);
    CHECK(fcntl(fds[0], F_GETFD) >= 0); /* still open: two calls are in progress */
    fr_io_end(io, FR_IO_CLAIM_READ);
    CHECK(fcntl(fds[0], F_GETFD) >= 0);
    fr_io_end(io, FR_IO_CLAIM_WRITE);
    CHECK(fcntl(fds[0], F_GETFD) < 0 && errno == EBADF);
    CHECK(fr_io_begin(io, FR_IO_CLAIM_READ) == -EBADF);
    fr_io_close(io); /* idempotent */
    fr_io_release(io);
    close(fds[1]);
    stop(&driver);
}

/* [D4] Who holds it without a claim keeps the descriptor open as well, also when the driver is gone. */
static void test_hold(void)
{
    struct fr_driver driver;
    struct fr_io *io;
    int fds[2];
    start(&driver);
    make_pair(fds);
    CHECK_EQ(fr_io_open(&driver, fds[0], ASSUMED, &io), 0);
    CHECK_EQ(fr_io_begin(io, FR_IO_CLAIM_READ), 0);
    CHECK_EQ(fr_io_hold(io), 0); /* beside a claim */
    fr_io_end(io, FR_IO_CLAIM_READ);
    CHECK(fr_io_detach(io) < 0); /* in use */
    stop(&driver);
    CHECK(fr_io_begin(io, FR_IO_CLAIM_READ) == -ESHUTDOWN);
    CHECK_EQ(fr_io_hold(io), 0);
    fr_io_end(io, 0);
    fr_io_close(io);
    CHECK(fr_io_hold(io) == -EBADF);
    CHECK(fcntl(fds[0], F_GETFD) >= 0);
    fr_io_end(io, 0);
    CHECK(fcntl(fds[0], F_GETFD) < 0 && errno == EBADF);
    fr_io_release(io);
    close(fds[1]);
}

/* Nothing assumed: the first edge of the registration says what there is. */
static void test_nothing_assumed(void)
{
    struct fr_driver driver;
    struct fr_io *io;
    int fds[2];
    start(&driver);
    make_pair(fds);
    CHECK_EQ(fr_io_open(&driver, fds[0], 0, &io), 0);
    CHECK(!fr_io_is_ready(fr_io_ready(io), FR_DIR_READ));
    CHECK(!fr_io_is_ready(fr_io_ready(io), FR_DIR_WRITE));
    CHECK(turn(&driver, 0) >= 0);
    CHECK(fr_io_is_ready(fr_io_ready(io), FR_DIR_WRITE));
    CHECK(!fr_io_is_ready(fr_io_ready(io), FR_DIR_READ));
    CHECK_EQ(send(fds[1], "x", 1, 0), 1);
    CHECK(turn(&driver, 0) >= 0);
    CHECK(fr_io_is_ready(fr_io_ready(io), FR_DIR_READ));
    fr_io_close(io);
    fr_io_release(io);
    close(fds[1]);
    stop(&driver);
}

/* An fr_io may be closed after its driver: a stream outlives its runtime. */
static void test_io_outlives_driver(void)
{
    struct fr_driver driver;
    struct fr_io *io;
    int fds[2];
    start(&driver);
    make_pair(fds);
    CHECK_EQ(fr_io_open(&driver, fds[0], ASSUMED, &io), 0);
    stop(&driver);
    fr_io_close(io);
    CHECK(fcntl(fds[0], F_GETFD) < 0);
    fr_io_release(io);
    close(fds[1]);
}

/* The driver goes while somebody waits: who waits is woken, nothing begins any more, and the descriptor can still be
 * closed, or taken back. */
static void test_orphans(void)
{
    struct fr_driver driver;
    struct fr_io *io[3];
    struct fr_waiter waiter[3][2];
    woken count[3][2] = {{0}};
    int fds[3][2];
    start(&driver);
    for (int i = 0; i < 3; i++) {
        make_pair(fds[i]);
        CHECK_EQ(fr_io_open(&driver, fds[i][0], ASSUMED, &io[i]), 0);
        for (int dir = 0; dir < 2; dir++) {
            fr_io_clear_all(io[i], fr_io_ready(io[i]), dir);
            waiter[i][dir] = (struct fr_waiter){.task = &count[i][dir]};
            CHECK(fr_io_wait(io[i], dir, &waiter[i][dir]));
        }
    }
    CHECK(fr_io_unwait(io[0], FR_DIR_READ, &waiter[0][FR_DIR_READ]));
    CHECK_EQ(fr_io_begin(io[1], FR_IO_CLAIM_READ), 0); /* a system call in progress while the driver goes */
    stop(&driver);
    for (int i = 0; i < 3; i++) {
        for (int dir = 0; dir < 2; dir++) {
            CHECK_EQ(count[i][dir], !(i == 0 && dir == FR_DIR_READ));
            CHECK(!waiter[i][dir].linked);
            CHECK(!fr_io_wait(io[i], dir, &waiter[i][dir]));
        }
        CHECK_EQ(fr_io_begin(io[i], 0), -ESHUTDOWN);
    }
    fr_io_close(io[0]);
    CHECK(fcntl(fds[0][0], F_GETFD) < 0);
    fr_io_close(io[1]);
    CHECK(fcntl(fds[1][0], F_GETFD) >= 0); /* still in use [D4] */
    fr_io_end(io[1], FR_IO_CLAIM_READ);
    CHECK(fcntl(fds[1][0], F_GETFD) < 0);
    CHECK_EQ(fr_io_detach(io[2]), fds[2][0]);
    CHECK_EQ(fr_io_begin(io[2], 0), -EBADF);
    for (int i = 0; i < 3; i++) {
        fr_io_release(io[i]); /* the last one frees the slab: the leak checker tells */
        close(fds[i][1]);
    }
    close(fds[2][0]);
}

/* One thread drives; one writes single bytes; one reads them by syscall-first, wait-on-EAGAIN: none is lost. */
struct reader {
    struct fr_io *io;
    int fd;
    uint64_t want, got;
};

static void *read_all(void *arg)
{
    struct reader *self = arg;
    woken count = 0;
    struct fr_waiter waiter = {.task = &count};
    char buffer[16];
    while (self->got < self->want) {
        uint32_t seen = fr_io_ready(self->io);
        ssize_t n = fr_io_is_ready(seen, FR_DIR_READ) ? recv(self->fd, buffer, sizeof buffer, 0) : -1;
        if (n > 0) {
            self->got += (uint64_t)n;
            if (n < (ssize_t)sizeof buffer) {
                fr_io_clear(self->io, seen, FR_DIR_READ); /* a short read counts as drained */
            }
            continue;
        }
        fr_io_clear_all(self->io, seen, FR_DIR_READ);
        uint32_t before = count;
        if (fr_io_wait(self->io, FR_DIR_READ, &waiter)) {
            while (count == before) {
                sched_yield();
            }
        }
    }
    return NULL;
}

struct drive {
    struct fr_driver *driver;
    _Atomic bool stop;
};

static void *drive(void *arg)
{
    struct drive *self = arg;
    while (!self->stop) {
        CHECK(turn(self->driver, 5000000) >= 0);
    }
    return NULL;
}

static void test_no_edge_is_lost(struct check_env *env)
{
    struct fr_driver driver;
    struct reader reader = {.want = 100 + env->stress_ns / 40000};
    struct drive driving = {.driver = &driver, .stop = false};
    pthread_t reading, turning;
    struct rng rng = {env->seed};
    int fds[2];
    start(&driver);
    make_pair(fds);
    CHECK_EQ(fr_io_open(&driver, fds[0], ASSUMED, &reader.io), 0);
    reader.fd = fds[0];
    CHECK_EQ(pthread_create(&turning, NULL, drive, &driving), 0);
    CHECK_EQ(pthread_create(&reading, NULL, read_all, &reader), 0);
    for (uint64_t sent = 0; sent < reader.want;) {
        uint64_t n = 1 + rng_below(&rng, 3);
        n = n < reader.want - sent ? n : reader.want - sent;
        ssize_t wrote = send(fds[1], "abc", n, 0);
        if (wrote > 0) {
            sent += (uint64_t)wrote;
        }
        if (rng_below(&rng, 4) == 0) {
            sched_yield();
        }
    }
    pthread_join(reading, NULL);
    CHECK_EQ(reader.got, reader.want);
    driving.stop = true;
    fr_driver_kick(&driver);
    pthread_join(turning, NULL);
    fr_io_close(reader.io);
    fr_io_release(reader.io);
    close(fds[1]);
    stop(&driver);
}

static void test_all(struct check_env *env)
{
    test_timer_never_early();
    test_disarmed_timer_does_not_fire();
    test_earlier_deadline_wakes_the_sleeper();
    test_grace();
    test_a_sleep_ends_for_others();
    test_no_more_than_a_batch_of_others();
    test_next_is_never_before_something_fires(env);
    test_readiness();
    test_clear_loses_to_an_edge();
    test_close_and_claims();
    test_hold();
    test_nothing_assumed();
    test_io_outlives_driver();
    test_orphans();
    test_timer_stress(env);
    test_who_sleeps_knows_of_the_first_timer(env);
    test_who_goes_to_sleep_hears_of_what_follows(env);
    test_no_edge_is_lost(env);
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    alarm(100); /* a lost wake-up shows as a hang */
    each_kind(&env, test_all);
    return check_end();
}
