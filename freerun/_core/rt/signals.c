/* signals: see signals.h. */
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/types.h>
#include <unistd.h>

#include "mutex.h"

struct fr_signal {
    struct fr_signal *next;
    int number;
    uint64_t serial;
    _Atomic int fd;
};

enum { SIGNALS = NSIG };

static struct fr_mutex lock = FR_MUTEX_INIT;
static struct fr_signal *_Atomic heads[SIGNALS];
static struct sigaction old[SIGNALS];
static bool installed[SIGNALS]; /* under the lock */
static uint64_t serials;        /* the same */
static _Atomic int handling;
static _Atomic pid_t owner;

static void ring(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof one); /* full only if it is set already */
    (void)ignored;
}

/* Async-signal-safe. */
static bool tell(int number)
{
    bool heard = false;
    atomic_fetch_add(&handling, 1); /* seq_cst, before any fd is looked at; pairs with fr_signal_unlisten() [S2] */
    /* acquire: pairs with publish() [S1] */
    for (struct fr_signal *slot = atomic_load_explicit(&heads[number], memory_order_acquire); slot; slot = slot->next) {
        int fd = atomic_load(&slot->fd); /* seq_cst [S2] */
        if (fd >= 0) {
            ring(fd);
            heard = true;
        }
    }
    atomic_fetch_sub(&handling, 1); /* seq_cst: the fds are not used any more [S2] */
    return heard;
}

static void handler(int number)
{
    int err = errno;
    /* relaxed: written before this was installed, and in a child after fork() it is its parent's [S5] */
    if (atomic_load_explicit(&owner, memory_order_relaxed) == getpid()) {
        tell(number);
    }
    errno = err;
}

static bool is_ours(const struct sigaction *action)
{
    return !(action->sa_flags & SA_SIGINFO) && action->sa_handler == handler;
}

/* SA_RESTART: nobody's system calls need to be interrupted, since nothing is left to do when the handler is done. */
static int install_locked(int number)
{
    struct sigaction ours = {.sa_handler = handler, .sa_flags = SA_RESTART | SA_ONSTACK}, before;
    sigfillset(&ours.sa_mask);
    atomic_store_explicit(&owner, getpid(), memory_order_relaxed); /* see handler() */
    if (sigaction(number, &ours, &before)) {
        return -errno;
    }
    if (!is_ours(&before)) {
        old[number] = before;
    }
    installed[number] = true;
    return 0;
}

/* Back to what was there; if that is not ours to replace, to what is there now [S3]. */
static void put_back_locked(int number)
{
    struct sigaction current;
    if (installed[number] && sigaction(number, NULL, &current) == 0 && is_ours(&current)) {
        sigaction(number, &old[number], NULL);
    }
    installed[number] = false;
}

static struct fr_signal *first(int number)
{
    return atomic_load_explicit(&heads[number], memory_order_relaxed); /* under the lock, where they are published */
}

static bool anybody_locked(int number)
{
    for (struct fr_signal *slot = first(number); slot; slot = slot->next) {
        if (slot->serial) {
            return true;
        }
    }
    return false;
}

static struct fr_signal *free_locked(int number)
{
    for (struct fr_signal *slot = first(number); slot; slot = slot->next) {
        if (!slot->serial) {
            return slot;
        }
    }
    return NULL;
}

static void publish_locked(struct fr_signal *slot, int number)
{
    slot->number = number;
    slot->next = first(number);
    atomic_init(&slot->fd, -1);
    atomic_store_explicit(&heads[number], slot, memory_order_release); /* pairs with tell() [S1] */
}

/* The descriptor first: whatever comes once the handler is there is heard [S4]. */
static int occupy_locked(struct fr_signal *slot, int fd, struct fr_listener *out)
{
    atomic_store(&slot->fd, fd);
    int err = install_locked(slot->number);
    if (err) {
        atomic_store(&slot->fd, -1);
        return err;
    }
    slot->serial = ++serials;
    *out = (struct fr_listener){slot, slot->serial};
    return 0;
}

static int listen_with(int number, int fd, struct fr_listener *out)
{
    struct fr_signal *fresh = calloc(1, sizeof *fresh); /* here: nothing is allocated under the lock */
    if (!fresh) {
        return -ENOMEM;
    }
    fr_mutex_lock(&lock);
    struct fr_signal *slot = free_locked(number);
    if (!slot) {
        publish_locked(slot = fresh, number);
        fresh = NULL;
    }
    int err = occupy_locked(slot, fd, out);
    fr_mutex_unlock(&lock);
    free(fresh);
    return err;
}

static void wait_for_handlers(void)
{
    while (atomic_load(&handling) > 0) { /* seq_cst [S2] */
        sched_yield();
    }
}

int fr_signal_listen(int number, struct fr_listener *out)
{
    if (number < 1 || number >= SIGNALS) {
        return -EINVAL;
    }
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        return -errno;
    }
    int err = listen_with(number, fd, out);
    if (err) {
        wait_for_handlers();
        close(fd);
    }
    return err;
}

bool fr_signal_unlisten(struct fr_listener listener)
{
    struct fr_signal *slot = listener.slot;
    int fd = -1;
    fr_mutex_lock(&lock);
    if (slot->serial == listener.serial) {
        fd = atomic_load(&slot->fd);
        atomic_store(&slot->fd, -1); /* seq_cst, before `handling` is looked at; pairs with tell() [S2] */
        slot->serial = 0;
        if (!anybody_locked(slot->number)) {
            put_back_locked(slot->number);
        }
    }
    fr_mutex_unlock(&lock);
    if (fd >= 0) {
        wait_for_handlers();
        close(fd);
    }
    return fd >= 0;
}

int fr_signal_dup_fd(struct fr_listener listener)
{
    int fd = -1, err = EBADF;
    fr_mutex_lock(&lock); /* it is not closed meanwhile */
    if (listener.slot->serial == listener.serial) {
        fd = fcntl(atomic_load(&listener.slot->fd), F_DUPFD_CLOEXEC, 0);
        err = errno;
    }
    fr_mutex_unlock(&lock);
    return fd < 0 ? -err : fd;
}

bool fr_signal_take(struct fr_listener listener)
{
    uint64_t count;
    bool came = false;
    fr_mutex_lock(&lock); /* it is not closed meanwhile */
    if (listener.slot->serial == listener.serial) {
        came = read(atomic_load(&listener.slot->fd), &count, sizeof count) == sizeof count;
    }
    fr_mutex_unlock(&lock);
    return came;
}

bool fr_signal_notify(int number)
{
    return number >= 1 && number < SIGNALS && tell(number);
}

void fr_signals_rearm(int number)
{
    fr_mutex_lock(&lock);
    if (number >= 1 && number < SIGNALS && installed[number]) {
        install_locked(number); /* it went well before */
    }
    fr_mutex_unlock(&lock);
}

void fr_signals_restore(void)
{
    fr_mutex_lock(&lock);
    for (int number = 1; number < SIGNALS; number++) {
        put_back_locked(number);
    }
    fr_mutex_unlock(&lock);
}

/* Another thread may have held the lock, or been in a handler. The slots are leaked: objects still point to them. */
void fr_signals_after_fork(void)
{
    lock = (struct fr_mutex)FR_MUTEX_INIT;
    atomic_store(&handling, 0);
    for (int number = 1; number < SIGNALS; number++) {
        for (struct fr_signal *slot = first(number); slot; slot = slot->next) {
            int fd = atomic_load(&slot->fd);
            atomic_store(&slot->fd, -1);
            slot->serial = 0;
            if (fd >= 0) {
                close(fd);
            }
        }
        atomic_store(&heads[number], NULL);
        put_back_locked(number);
    }
}
