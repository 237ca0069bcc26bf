/* driver: poller and timers of one runtime, driven by exactly one thread at a time.
 *
 * THREADS    fr_driver_acquire/release: any. fr_driver_turn: the owner only. Everything else: any thread.
 * STATE      detached (no Python thread state held) for a turn that may sleep; otherwise either.
 * OWNERSHIP  an fr_io lives in type-stable memory: a stale event finds a valid fr_io whose generation
 *            differs. A waiter's task reference moves to the `wake` callback.
 * FIELDS     owner        CAS by any thread; acquire/release [D1]
 *            last_turn_ns owner writes, relaxed: read by the watch as a heuristic only
 *            io->ready    bits | tick<<8; the driver sets (release), readers clear by CAS with the tick they saw
 *            io->use      CLOSED, ORPHAN, CLAIM_*, and a count of system calls in progress; CAS by any thread
 *            io->waiter   under io->lock
 *            io->gen      under io->lock
 * INVARIANTS D1 whoever runs fr_driver_turn owns `owner`.
 *            D2 readiness is cleared only by a thread that saw "drained" after reading the same tick: an edge that
 *               arrives in between changes the tick and the clear fails, so no edge is lost.
 *            D3 a waiter is stored under io->lock after looking at `ready` under the same lock; the driver sets
 *               `ready` and takes the waiters under it: no wake-up is lost.
 *            D4 the descriptor is closed only when CLOSED is set and no system call is in progress.
 *            D5 a timer that is due before the owner wakes by itself kicks the eventfd, else nobody is woken [TM1].
 *            D7 a file's request is counted in `files` from before it is submitted until its event was seen; `done` is
 *               set before its task is woken, and nothing of the request is touched after `done`.
 *            D8 of another worker's timers a turn fires no more than a batch: they are cheapest where they were armed. If more are
 *               due it says so, and their worker is woken for the rest, if it sleeps.
 * LOCKS      io->lock and slab->lock are leaves: nothing is called while one is held but list and wheel
 *            functions and the poller's add and remove, whose own lock is innermost.
 * SHUTDOWN   fr_driver_destroy when no thread can take a turn any more and none of the runtime's own tasks waits; open
 *            fr_io stay valid (their slab lives on) and may still be closed. They become ORPHAN: nobody would ever wake
 *            who waits for them, so other runtimes' tasks that do are woken, and nothing begins any more.
 * PROVED BY  tests/net/, tests/time/, freerun/_core/tests/test_driver.c
 */
#ifndef FR_DRIVER_H
#define FR_DRIVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "mutex.h"
#include "poller.h"
#include "timers.h"
#include "waiter.h"

enum {
    FR_READY_READ = 1,
    FR_READY_WRITE = 2,
    FR_READY_READ_CLOSED = 4, /* peer sent FIN: reading never blocks again, so this bit is never cleared */
    FR_READY_WRITE_CLOSED = 8,
    FR_READY_ERROR = 16,
    FR_READY_BITS = 0xff,
    FR_READY_TICK = 0x100,
};

enum fr_direction { FR_DIR_READ = 0, FR_DIR_WRITE = 1 };

enum {
    FR_IO_CLOSED = 1,
    FR_IO_CLAIM_READ = 2,
    FR_IO_CLAIM_WRITE = 4,
    FR_IO_ORPHAN = 8,
    FR_IO_USE_ONE = 0x100,
};

struct fr_io {
    _Atomic uint32_t ready;
    _Atomic uint32_t use;
    struct fr_mutex lock;
    uint32_t gen;
    int fd;
    struct fr_waiter *waiter[2];
    struct fr_driver *driver; /* valid while a waiter is stored */
    struct fr_io_slab *slab;
    struct fr_io *next_free;
};

/* Where fr_io live. It outlives the driver for as long as somebody holds an fr_io: a stream may be closed after its
 * runtime. `poller` is NULL from then on. Fields under `lock`, if nothing else is said. */
struct fr_io_slab {
    struct fr_mutex lock;
    int pid; /* in a forked child the poller is still the parent's: nothing is unregistered there */
    struct fr_poller *poller;
    uint64_t outstanding;        /* fr_io that somebody holds, closed ones included */
    _Atomic uint64_t registered; /* those with a descriptor; no lock, relaxed: a hint and a metric */
    struct fr_io *free_io;
    struct fr_io_block *blocks;
};

struct fr_driver {
    _Alignas(64) _Atomic uint32_t owner;
    _Atomic uint64_t last_turn_ns;
    struct fr_poller poller;
    int evfd;
    int interrupt_fd;                        /* drained by a turn, so that it interrupts once; -1: none */
    bool interrupted;                        /* a turn has drained it; owner, who sets it back */
    void (*wake)(void *ctx, void *task);     /* takes over the reference; never called under a lock */
    void (*more)(void *ctx, uint32_t shard); /* more is due there than was fired [D8]; may be NULL */
    uint64_t (*now)(void *ctx);              /* the runtime's clock, which may be paused */
    _Atomic uint64_t alarm_ns; /* fr_clock_ns() at which wake(ctx, NULL) is called; 0: none; paused or not */
    _Atomic bool frozen;       /* the clock is paused: timers do not limit a sleep; relaxed */
    void *ctx;
    struct fr_timers timers;

    struct fr_io_slab *slab;
    _Atomic uint32_t files; /* requests of files under way; no lock, relaxed: a hint, and a limit [D7] */
};

/* A request of a file: its owner makes it, the driver says what came of it. */
struct fr_file_op {
    void *task; /* one reference from the submission until `done` */
    int32_t result;
    _Atomic bool done; /* the driver sets it (release) */
};

/* 0 or -errno; the kernel may refuse io_uring, and then only that. `nshards` of timers, see timers.h. */
int fr_driver_init(struct fr_driver *driver, enum fr_poller_kind kind, uint32_t nshards, void (*wake)(void *, void *),
                   uint64_t (*now)(void *), void *ctx);
void fr_driver_destroy(struct fr_driver *driver);

/* A hint. */
static inline bool fr_driver_is_taken(struct fr_driver *driver)
{
    return atomic_load_explicit(&driver->owner, memory_order_relaxed) != 0;
}

/* pairs with fr_driver_release() [D1] */
static inline bool fr_driver_try_acquire(struct fr_driver *driver)
{
    uint32_t expected = 0;
    /* the first look only saves a failing RMW on a shared line */
    return !fr_driver_is_taken(driver) && atomic_compare_exchange_strong_explicit(
                                              &driver->owner, &expected, 1, memory_order_acquire, memory_order_relaxed);
}

/* pairs with fr_driver_try_acquire() [D1] */
static inline void fr_driver_release(struct fr_driver *driver)
{
    atomic_store_explicit(&driver->owner, 0, memory_order_release);
}

/* One turn: what the poller has, then timers that are due: all of the shard `own`, and a batch of each other that is not left to
 * its worker [D8]. timeout_ns 0: do not sleep; < 0: until something happens. Returns how many tasks were woken, or -errno
 * (-EINTR included). */
int fr_driver_turn(struct fr_driver *driver, uint32_t own, int64_t timeout_ns);
void fr_driver_kick(struct fr_driver *driver);
/* Adds a pipe that only interrupts a sleep (the signal pipe); a turn empties it. */
int fr_driver_add_interrupt(struct fr_driver *driver, int fd);

/* Timers. `now`/deadlines are absolute ns of the clock given to fr_driver_init(). As in timers.h, and kicks who sleeps. */
bool fr_driver_sleep_arm(struct fr_driver *driver, uint32_t home, struct fr_sleep *sleep, uint64_t deadline_ns,
                         void *task);
/* Fires what is due at `now_ns` in that shard; how many. Any thread. */
int fr_driver_fire_shard(struct fr_driver *driver, uint32_t shard, uint64_t now_ns);
/* The same in all of them. */
int fr_driver_fire_timers(struct fr_driver *driver, uint64_t now_ns);

/* Whether no descriptor is registered: the poller then has nothing to say. A hint. */
static inline bool fr_driver_has_no_io(struct fr_driver *driver)
{
    return atomic_load_explicit(&driver->slab->registered, memory_order_relaxed) == 0 && /* hints */
           atomic_load_explicit(&driver->files, memory_order_relaxed) == 0;
}

/* io_uring only: asks for it, and wakes op->task when it is done. 0 or -errno: then nothing was asked for, and the
 * reference is still the caller's. -EAGAIN if too many are under way, but for `again`, whose half is done: nobody else could
 * take it over. Detached: one system call. */
int fr_driver_submit_file(struct fr_driver *driver, struct fr_file_op *op, const struct fr_file_request *request);
/* It ends soon, done or not. Not after `done`. */
void fr_driver_cancel_file(struct fr_driver *driver, struct fr_file_op *op);
static inline bool fr_file_is_done(struct fr_file_op *op)
{
    return atomic_load_explicit(&op->done, memory_order_acquire); /* pairs with finish_file() [D7] */
}

/* Registers fd edge-triggered for both directions; `ready` is what it is assumed to be ready for until a system call or
 * epoll says otherwise. 0 or -errno. */
int fr_io_open(struct fr_driver *driver, int fd, uint32_t ready, struct fr_io **out);
/* Sets CLOSED, wakes both waiters, closes the descriptor as soon as no system call uses it. Idempotent. */
void fr_io_close(struct fr_io *io);
/* Like close, but the descriptor is handed back instead (-1 if it was closed or is in use). */
int fr_io_detach(struct fr_io *io);

/* Gives the memory back once closed and no longer referenced by anybody but stale events. */
void fr_io_release(struct fr_io *io);

/* Begins a system call: 0, -EBADF (closed), -ESHUTDOWN (orphaned), -EBUSY (`claim` is held by another operation). Pass
 * claim 0 when the operation holds it already. pairs with fr_io_end() and fr_io_close() [D4] */
static inline int fr_io_begin(struct fr_io *io, uint32_t claim)
{
    uint32_t use = atomic_load_explicit(&io->use, memory_order_relaxed); /* the CAS below validates it */
    do {
        if (use & FR_IO_CLOSED) {
            return -9; /* EBADF */
        }
        if (use & FR_IO_ORPHAN) {
            return -108; /* ESHUTDOWN */
        }
        if (use & claim) {
            return -16; /* EBUSY */
        }
    } while (!atomic_compare_exchange_weak_explicit(&io->use, &use, (use | claim) + FR_IO_USE_ONE, memory_order_acq_rel,
                                                    memory_order_relaxed));
    return 0;
}

/* Keeps the descriptor open for a call that needs no readiness: 0 or -EBADF. Unlike fr_io_begin() it works when the
 * runtime is gone. pairs with fr_io_end() and fr_io_close() [D4] */
static inline int fr_io_hold(struct fr_io *io)
{
    uint32_t use = atomic_load_explicit(&io->use, memory_order_relaxed); /* the CAS below validates it */
    do {
        if (use & FR_IO_CLOSED) {
            return -9; /* EBADF */
        }
    } while (!atomic_compare_exchange_weak_explicit(&io->use, &use, use + FR_IO_USE_ONE, memory_order_acq_rel,
                                                    memory_order_relaxed));
    return 0;
}

void fr_io_end(struct fr_io *io, uint32_t release_claim);
/* Gives a claim back when no system call is in progress by this operation. */
void fr_io_unclaim(struct fr_io *io, uint32_t claim);

/* acquire: pairs with fr_io_dispatch() [D2] */
static inline uint32_t fr_io_ready(struct fr_io *io)
{
    return atomic_load_explicit(&io->ready, memory_order_acquire);
}

static inline bool fr_io_is_ready(uint32_t ready, enum fr_direction dir)
{
    uint32_t mask = dir == FR_DIR_READ ? (FR_READY_READ | FR_READY_READ_CLOSED | FR_READY_ERROR)
                                       : (FR_READY_WRITE | FR_READY_WRITE_CLOSED | FR_READY_ERROR);
    return (ready & mask) != 0;
}

/* "Drained" after having seen `seen`; fails silently if an edge came since. pairs with fr_io_dispatch() [D2] */
static inline void fr_io_clear(struct fr_io *io, uint32_t seen, enum fr_direction dir)
{
    uint32_t bit = dir == FR_DIR_READ ? FR_READY_READ : FR_READY_WRITE;
    atomic_compare_exchange_strong_explicit(&io->ready, &seen, seen & ~bit, memory_order_acq_rel, memory_order_relaxed);
}

/* The same after EAGAIN: nothing is ready whatever epoll said before, FIN and errors included. */
static inline void fr_io_clear_all(struct fr_io *io, uint32_t seen, enum fr_direction dir)
{
    uint32_t bits = dir == FR_DIR_READ ? (FR_READY_READ | FR_READY_READ_CLOSED | FR_READY_ERROR)
                                       : (FR_READY_WRITE | FR_READY_WRITE_CLOSED | FR_READY_ERROR);
    /* pairs with fr_io_dispatch() [D2] */
    atomic_compare_exchange_strong_explicit(&io->ready, &seen, seen & ~bits, memory_order_acq_rel,
                                            memory_order_relaxed);
}

/* Stores the waiter (which owns a task reference) unless the direction is ready or the fr_io is closed or orphaned.
 * True: stored. False: look again. */
bool fr_io_wait(struct fr_io *io, enum fr_direction dir, struct fr_waiter *waiter);
/* True if it was still stored: the caller owns the task reference again. */
bool fr_io_unwait(struct fr_io *io, enum fr_direction dir, struct fr_waiter *waiter);

#endif
