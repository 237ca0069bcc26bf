#include "driver.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"

enum { IO_BLOCK = 64, MAX_EVENTS = 256, MAX_FILES = 2048 }; /* half of the completion queue */
#define TOKEN_EVENTFD   UINT64_C(1)
#define TOKEN_INTERRUPT UINT64_C(2)
#define POINTER_MASK    UINT64_C(0x0000ffffffffffff)
#define GEN_MASK        UINT64_C(0x7fff) /* the highest bit is FR_POLLER_FILE */

struct fr_io_block {
    struct fr_io_block *next;
    struct fr_io items[IO_BLOCK];
};

static void slab_put(struct fr_io_slab *slab)
{
    fr_mutex_lock(&slab->lock);
    bool last = --slab->outstanding == 0 && !slab->poller;
    fr_mutex_unlock(&slab->lock);
    if (!last) {
        return;
    }
    while (slab->blocks) {
        struct fr_io_block *block = slab->blocks;
        slab->blocks = block->next;
        free(block);
    }
    free(slab);
}

static int make(struct fr_driver *driver, enum fr_poller_kind kind)
{
    int err = fr_poller_init(&driver->poller, kind);
    if (err) {
        return err;
    }
    driver->slab = calloc(1, sizeof *driver->slab);
    if (!driver->slab) {
        return -ENOMEM;
    }
    driver->slab->poller = &driver->poller;
    driver->slab->pid = (int)getpid();
    driver->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return driver->evfd < 0 ? -errno : fr_poller_add(&driver->poller, driver->evfd, EPOLLIN, TOKEN_EVENTFD);
}

int fr_driver_init(struct fr_driver *driver, enum fr_poller_kind kind, uint32_t nshards, void (*wake)(void *, void *),
                   uint64_t (*now)(void *), void *ctx)
{
    *driver =
        (struct fr_driver){.poller.epfd = -1, .evfd = -1, .interrupt_fd = -1, .wake = wake, .now = now, .ctx = ctx};
    int err = fr_timers_init(&driver->timers, nshards, now(ctx));
    err = err ? err : make(driver, kind);
    if (err) {
        fr_driver_destroy(driver);
    }
    return err;
}

static void orphan_all(struct fr_io_slab *slab);

void fr_driver_destroy(struct fr_driver *driver)
{
    if (driver->slab) { /* first: whoever closes a stream meanwhile must not use a poller that is gone */
        fr_mutex_lock(&driver->slab->lock);
        driver->slab->poller = NULL;
        driver->slab->outstanding++;
        fr_mutex_unlock(&driver->slab->lock);
        orphan_all(driver->slab);
        slab_put(driver->slab);
        driver->slab = NULL;
    }
    fr_timers_destroy(&driver->timers);
    fr_poller_destroy(&driver->poller);
    if (driver->evfd >= 0) {
        close(driver->evfd);
        driver->evfd = -1;
    }
}

int fr_driver_add_interrupt(struct fr_driver *driver, int fd)
{
    int err = fr_poller_add(&driver->poller, fd, EPOLLIN, TOKEN_INTERRUPT);
    if (!err) {
        driver->interrupt_fd = fd;
    }
    return err;
}

void fr_driver_kick(struct fr_driver *driver)
{
    uint64_t one = 1;
    ssize_t ignored = write(driver->evfd, &one, sizeof one); /* EAGAIN: it is signalled already */
    (void)ignored;
}

/* ---- timers ---- */

bool fr_driver_sleep_arm(struct fr_driver *driver, uint32_t home, struct fr_sleep *sleep, uint64_t deadline_ns,
                         void *task)
{
    bool kick;
    bool armed = fr_timers_arm(&driver->timers, home, sleep, deadline_ns, task, &kick);
    if (kick) {
        fr_driver_kick(driver);
    }
    return armed;
}

static int fire_batch(struct fr_driver *driver, uint32_t shard, uint64_t now_ns)
{
    void *batch[FR_TIMERS_BATCH];
    int n = fr_timers_take(&driver->timers, shard, now_ns, batch);
    for (int i = 0; i < n; i++) {
        driver->wake(driver->ctx, batch[i]);
    }
    return n;
}

int fr_driver_fire_shard(struct fr_driver *driver, uint32_t shard, uint64_t now_ns)
{
    int woken = 0, n = fr_timers_may_be_due(&driver->timers, shard, now_ns) ? FR_TIMERS_BATCH : 0;
    while (n == FR_TIMERS_BATCH) {
        n = fire_batch(driver, shard, now_ns);
        woken += n;
    }
    return woken;
}

int fr_driver_fire_timers(struct fr_driver *driver, uint64_t now_ns)
{
    int woken = 0;
    for (uint32_t i = 0; i < driver->timers.nshards; i++) {
        woken += fr_driver_fire_shard(driver, i, now_ns);
    }
    return woken;
}

/* What nobody attends to. Few of them: they are polled where they are fired, and cheapest where they were armed. */
static int fire_others(struct fr_driver *driver, uint32_t own, uint64_t now_ns)
{
    struct fr_timers *timers = &driver->timers;
    int woken = 0;
    for (uint32_t i = 0; i < timers->nshards; i++) {
        if (i == own || fr_timers_are_left(timers, i, now_ns)) {
            continue;
        }
        int n = fire_batch(driver, i, now_ns);
        if (n == FR_TIMERS_BATCH && driver->more) {
            driver->more(driver->ctx, i);
        }
        woken += n;
    }
    return woken;
}

/* ---- one turn ---- */

/* Real time until the alarm, UINT64_MAX without one. */
static uint64_t until_alarm(struct fr_driver *driver)
{
    uint64_t alarm = atomic_load_explicit(&driver->alarm_ns, memory_order_relaxed); /* set before the turn, or kicked */
    uint64_t now = fr_clock_ns();
    return alarm == 0 ? UINT64_MAX : alarm <= now ? 0 : alarm - now;
}

static void ring_alarm(struct fr_driver *driver)
{
    if (until_alarm(driver) == 0) {
        atomic_store_explicit(&driver->alarm_ns, 0, memory_order_relaxed); /* the owner of the driver only */
        driver->wake(driver->ctx, NULL);
    }
}

/* Publishes until when we sleep [D5]; nanoseconds, -1: for ever. */
static int64_t begin_sleep(struct fr_driver *driver, int64_t timeout_ns)
{
    if (timeout_ns == 0) {
        return 0;
    }
    uint64_t now = driver->now(driver->ctx);
    uint64_t limit = timeout_ns < 0 ? UINT64_MAX : now + (uint64_t)timeout_ns;
    uint64_t wake_at = fr_timers_begin_sleep(&driver->timers, limit);
    /* relaxed: the thread that pauses the clock is the one that drives */
    if (atomic_load_explicit(&driver->frozen, memory_order_relaxed)) {
        wake_at = limit;
    }
    uint64_t left = wake_at == UINT64_MAX ? UINT64_MAX : wake_at <= now ? 0 : wake_at - now;
    uint64_t alarm = until_alarm(driver);
    if (alarm < left) {
        left = alarm;
    }
    return left > INT64_MAX ? -1 : (int64_t)left;
}

static uint32_t ready_bits(uint32_t events)
{
    uint32_t bits = 0;
    if (events & (EPOLLIN | EPOLLPRI)) {
        bits |= FR_READY_READ;
    }
    if (events & EPOLLOUT) {
        bits |= FR_READY_WRITE;
    }
    if (events & (EPOLLRDHUP | EPOLLHUP)) {
        bits |= FR_READY_READ_CLOSED;
    }
    if (events & EPOLLHUP) {
        bits |= FR_READY_WRITE_CLOSED;
    }
    if (events & EPOLLERR) {
        bits |= FR_READY_ERROR;
    }
    return bits;
}

static void *take_waiter_locked(struct fr_io *io, enum fr_direction dir)
{
    struct fr_waiter *waiter = io->waiter[dir];
    if (!waiter) {
        return NULL;
    }
    io->waiter[dir] = NULL;
    void *task = waiter->task;
    /* release: its owner may see this without the lock and free the waiter at once [W1] */
    atomic_store_explicit(&waiter->linked, false, memory_order_release);
    return task;
}

/* Sets readiness and takes the waiters it concerns; the number of tasks in `out`. */
static int fr_io_dispatch(struct fr_io *io, uint32_t gen, uint32_t bits, void **out)
{
    int n = 0;
    fr_mutex_lock(&io->lock);
    if ((io->gen & GEN_MASK) == gen) {
        uint32_t old = atomic_load_explicit(&io->ready, memory_order_relaxed), new; /* validated by the CAS */
        do {
            new = (old | bits) + FR_READY_TICK;
        } while (!atomic_compare_exchange_weak_explicit(&io->ready, &old, new,
                                                        memory_order_acq_rel, /* pairs with fr_io_ready() [D2] */
                                                        memory_order_relaxed));
        for (int dir = FR_DIR_READ; dir <= FR_DIR_WRITE; dir++) {
            if (fr_io_is_ready(bits, dir) && (out[n] = take_waiter_locked(io, dir))) {
                n++;
            }
        }
    }
    fr_mutex_unlock(&io->lock);
    return n;
}

/* It is level-triggered: left full, every later sleep would end at once. */
static void drain_interrupt(struct fr_driver *driver)
{
    char buffer[64];
    while (read(driver->interrupt_fd, buffer, sizeof buffer) > 0) {
    }
    driver->interrupted = true;
}

static void drain_eventfd(struct fr_driver *driver)
{
    uint64_t count;
    ssize_t ignored = read(driver->evfd, &count, sizeof count); /* EAGAIN: another drained it */
    (void)ignored;
}

static uint64_t token_of(const struct fr_io *io)
{
    return (uint64_t)(uintptr_t)io | (io->gen & GEN_MASK) << 48;
}

enum { IO_EVENTS = EPOLLIN | EPOLLOUT | EPOLLRDHUP };

/* io_uring has ended a registration that is still wanted: make it again. What became ready in between is reported. */
static void renew(struct fr_driver *driver, uint64_t token)
{
    if (token == TOKEN_EVENTFD) {
        fr_poller_add(&driver->poller, driver->evfd, EPOLLIN, token);
    } else if (token == TOKEN_INTERRUPT) {
        fr_poller_add(&driver->poller, driver->interrupt_fd, EPOLLIN, token);
    } else {
        struct fr_io *io = (struct fr_io *)(uintptr_t)(token & POINTER_MASK);
        fr_mutex_lock(&io->lock); /* io_finish() makes the token old before it unregisters: never after it */
        if (token_of(io) == token && io->fd >= 0) {
            fr_poller_add(&driver->poller, io->fd, IO_EVENTS | EPOLLET, token);
        }
        fr_mutex_unlock(&io->lock);
    }
}

static int dispatch_io(struct fr_driver *driver, const struct fr_poller_event *event)
{
    void *tasks[2];
    struct fr_io *io = (struct fr_io *)(uintptr_t)(event->token & POINTER_MASK);
    int n = fr_io_dispatch(io, (uint32_t)(event->token >> 48), ready_bits(event->events), tasks);
    for (int i = 0; i < n; i++) {
        driver->wake(driver->ctx, tasks[i]);
    }
    return n;
}

/* ---- files ---- */

static uint64_t token_of_file(const struct fr_file_op *op)
{
    return (uint64_t)(uintptr_t)op | FR_POLLER_FILE;
}

int fr_driver_submit_file(struct fr_driver *driver, struct fr_file_op *op, const struct fr_file_request *request)
{
    int err = -EAGAIN;
    /* relaxed: a limit that may be overstepped by a few, and a hint for the next turn [D7] */
    if (atomic_fetch_add_explicit(&driver->files, 1, memory_order_relaxed) < MAX_FILES || request->again) {
        err = fr_poller_file(&driver->poller, request, token_of_file(op));
    }
    if (err) {
        atomic_fetch_sub_explicit(&driver->files, 1, memory_order_relaxed); /* the same */
    }
    return err;
}

void fr_driver_cancel_file(struct fr_driver *driver, struct fr_file_op *op)
{
    fr_poller_file_cancel(&driver->poller, token_of_file(op));
}

static void finish_file(struct fr_driver *driver, const struct fr_poller_event *event)
{
    struct fr_file_op *op = (struct fr_file_op *)(uintptr_t)(event->token & ~FR_POLLER_FILE);
    void *task = op->task;
    op->result = event->result;
    /* release, and last: pairs with fr_file_is_done() [D7] */
    atomic_store_explicit(&op->done, true, memory_order_release);
    atomic_fetch_sub_explicit(&driver->files, 1, memory_order_relaxed); /* a hint */
    driver->wake(driver->ctx, task);
}

static int dispatch_events(struct fr_driver *driver, const struct fr_poller_event *events, int n)
{
    int woken = 0;
    for (int i = 0; i < n; i++) {
        if (fr_poller_is_file(events[i].token)) {
            finish_file(driver, &events[i]);
            woken++;
        } else if (events[i].token == TOKEN_EVENTFD) {
            drain_eventfd(driver);
        } else if (events[i].token == TOKEN_INTERRUPT) {
            drain_interrupt(driver);
        } else if (events[i].events) {
            woken += dispatch_io(driver, &events[i]);
        }
        if (events[i].ended) {
            renew(driver, events[i].token);
        }
    }
    return woken;
}

int fr_driver_turn(struct fr_driver *driver, uint32_t own, int64_t timeout_ns)
{
    struct fr_poller_event events[MAX_EVENTS];
    int n = 0;
    if (timeout_ns != 0 || !fr_driver_has_no_io(driver)) { /* a system call per look is dear when nobody does I/O */
        n = fr_poller_wait(&driver->poller, events, MAX_EVENTS, begin_sleep(driver, timeout_ns));
        if (timeout_ns != 0) {
            fr_timers_end_sleep(&driver->timers);
        }
    }
    ring_alarm(driver);
    /* relaxed: a heuristic for the watch */
    atomic_store_explicit(&driver->last_turn_ns, fr_clock_ns(), memory_order_relaxed);
    int woken = dispatch_events(driver, events, n);
    uint64_t now = driver->now(driver->ctx);
    woken += fr_driver_fire_shard(driver, own, now);
    woken += fire_others(driver, own, now);
    return n < 0 ? n : woken;
}

/* ---- descriptors ---- */

static struct fr_io *io_alloc(struct fr_io_slab *slab)
{
    fr_mutex_lock(&slab->lock);
    struct fr_io *io = slab->free_io;
    if (io) {
        slab->free_io = io->next_free;
        slab->outstanding++;
    }
    fr_mutex_unlock(&slab->lock);
    if (io) {
        return io;
    }
    struct fr_io_block *block = calloc(1, sizeof *block);
    if (!block) {
        return NULL;
    }
    fr_mutex_lock(&slab->lock);
    block->next = slab->blocks;
    slab->blocks = block;
    slab->outstanding++;
    for (int i = 1; i < IO_BLOCK; i++) {
        block->items[i].next_free = slab->free_io;
        slab->free_io = &block->items[i];
    }
    fr_mutex_unlock(&slab->lock);
    return &block->items[0];
}

static bool in_forked_child(const struct fr_io *io)
{
    return io->slab->pid != (int)getpid();
}

void fr_io_release(struct fr_io *io)
{
    struct fr_io_slab *slab = io->slab;
    if (in_forked_child(io)) {
        return; /* the child's copy of the slab is left behind */
    }
    fr_mutex_lock(&slab->lock);
    io->next_free = slab->free_io;
    slab->free_io = io;
    fr_mutex_unlock(&slab->lock);
    slab_put(slab);
}

int fr_io_open(struct fr_driver *driver, int fd, uint32_t ready, struct fr_io **out)
{
    struct fr_io *io = io_alloc(driver->slab);
    if (!io) {
        return -ENOMEM;
    }
    io->driver = driver;
    io->slab = driver->slab;
    io->fd = fd;
    atomic_store_explicit(&io->ready, ready, memory_order_relaxed); /* not yet shared */
    atomic_store_explicit(&io->use, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&io->slab->registered, 1, memory_order_relaxed); /* before there can be an event */
    int err = fr_poller_add(&driver->poller, fd, IO_EVENTS | EPOLLET, token_of(io));
    if (err) {
        atomic_fetch_sub_explicit(&io->slab->registered, 1, memory_order_relaxed); /* a hint */
        fr_io_release(io);
        return err;
    }
    *out = io;
    return 0;
}

/* The last user after CLOSED: nobody else touches io->fd any more [D4]. */
static int io_finish(struct fr_io *io, bool keep_fd)
{
    int fd = io->fd;
    if (in_forked_child(io)) { /* its locks may be held by threads that do not exist here */
        io->fd = -1;
        if (!keep_fd) {
            close(fd);
        }
        return fd;
    }
    fr_mutex_lock(&io->lock);
    uint64_t token = token_of(io);
    io->gen++; /* events of the old registration no longer match, and nobody renews it */
    io->fd = -1;
    fr_mutex_unlock(&io->lock);
    fr_mutex_lock(&io->slab->lock);
    if (io->slab->poller) {
        fr_poller_remove(io->slab->poller, fd, token);
    }
    atomic_fetch_sub_explicit(&io->slab->registered, 1, memory_order_relaxed); /* a hint */
    fr_mutex_unlock(&io->slab->lock);
    if (!keep_fd) {
        close(fd);
    }
    return fd;
}

void fr_io_end(struct fr_io *io, uint32_t release_claim)
{
    /* acq_rel: pairs with fr_io_begin() and fr_io_close() [D4]; the claim bit is ours, so subtracting clears it */
    uint32_t old = atomic_fetch_sub_explicit(&io->use, FR_IO_USE_ONE + release_claim, memory_order_acq_rel);
    uint32_t now = old - FR_IO_USE_ONE - release_claim;
    if ((now & FR_IO_CLOSED) && now < FR_IO_USE_ONE) {
        io_finish(io, false);
    }
}

void fr_io_unclaim(struct fr_io *io, uint32_t claim)
{
    /* release: pairs with fr_io_begin() */
    atomic_fetch_and_explicit(&io->use, ~claim, memory_order_release);
}

static void wake_all(struct fr_io *io)
{
    void *tasks[2];
    int n = 0;
    fr_mutex_lock(&io->lock);
    for (int dir = FR_DIR_READ; dir <= FR_DIR_WRITE; dir++) {
        if ((tasks[n] = take_waiter_locked(io, dir))) {
            n++;
        }
    }
    fr_mutex_unlock(&io->lock);
    for (int i = 0; i < n; i++) {
        io->driver->wake(io->driver->ctx, tasks[i]);
    }
}

/* Nobody opens any more, so the blocks stay as they are; free ones and those being closed do not mind the bit. */
static void orphan_all(struct fr_io_slab *slab)
{
    for (struct fr_io_block *block = slab->blocks; block; block = block->next) {
        for (int i = 0; i < IO_BLOCK; i++) {
            /* release: pairs with fr_io_wait() [D3] */
            atomic_fetch_or_explicit(&block->items[i].use, FR_IO_ORPHAN, memory_order_release);
            wake_all(&block->items[i]);
        }
    }
}

void fr_io_close(struct fr_io *io)
{
    /* acq_rel: pairs with fr_io_begin() and fr_io_end() [D4] */
    uint32_t old = atomic_fetch_or_explicit(&io->use, FR_IO_CLOSED, memory_order_acq_rel);
    if (old & FR_IO_CLOSED) {
        return;
    }
    if (!in_forked_child(io)) {
        wake_all(io);
    }
    if (old < FR_IO_USE_ONE) {
        io_finish(io, false);
    }
}

int fr_io_detach(struct fr_io *io)
{
    uint32_t use = atomic_load_explicit(&io->use, memory_order_relaxed); /* the CAS below validates it */
    do {
        if (use & ~(uint32_t)FR_IO_ORPHAN) {
            return -1; /* only an idle descriptor can be handed back */
        }
    } while (!atomic_compare_exchange_weak_explicit(&io->use, &use, use | FR_IO_CLOSED,
                                                    memory_order_acq_rel, /* pairs with fr_io_begin() [D4] */
                                                    memory_order_relaxed));
    return io_finish(io, true);
}

bool fr_io_wait(struct fr_io *io, enum fr_direction dir, struct fr_waiter *waiter)
{
    fr_mutex_lock(&io->lock);
    /* acquire: pairs with fr_io_close() and orphan_all(), which set their bit before they take the lock to wake [D3] */
    bool closed = atomic_load_explicit(&io->use, memory_order_acquire) & (FR_IO_CLOSED | FR_IO_ORPHAN);
    bool stored = !closed && !fr_io_is_ready(fr_io_ready(io), dir);
    if (stored) {
        io->waiter[dir] = waiter;
        waiter->linked = true;
    }
    fr_mutex_unlock(&io->lock);
    return stored;
}

bool fr_io_unwait(struct fr_io *io, enum fr_direction dir, struct fr_waiter *waiter)
{
    fr_mutex_lock(&io->lock);
    bool stored = io->waiter[dir] == waiter;
    if (stored) {
        io->waiter[dir] = NULL;
        waiter->linked = false;
    }
    fr_mutex_unlock(&io->lock);
    return stored;
}
