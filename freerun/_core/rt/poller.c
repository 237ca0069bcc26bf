#include "poller.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "uring.h"

enum { MAX_EVENTS = 256 };
#define TOKEN_EPOLL FR_POLLER_EPOLL_TOKEN /* the ring's: the epoll instance has something */

int fr_poller_init(struct fr_poller *poller, enum fr_poller_kind kind)
{
    *poller = (struct fr_poller){.epfd = epoll_create1(EPOLL_CLOEXEC)};
    int err = poller->epfd < 0 ? -errno : 0;
    if (!err && kind == FR_POLLER_IO_URING) {
        err = fr_uring_new(&poller->ring);
        err = err ? err : fr_uring_poll_add(poller->ring, poller->epfd, EPOLLIN, TOKEN_EPOLL);
    }
    if (err) {
        fr_poller_destroy(poller);
    }
    return err;
}

void fr_poller_destroy(struct fr_poller *poller)
{
    if (poller->ring) {
        fr_uring_free(poller->ring);
        poller->ring = NULL;
    }
    if (poller->epfd >= 0) {
        close(poller->epfd);
        poller->epfd = -1;
    }
}

static bool is_listener(int fd)
{
    int listens = 0;
    socklen_t size = sizeof listens;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens;
}

int fr_poller_add(struct fr_poller *poller, int fd, uint32_t events, uint64_t token)
{
    if (poller->ring && !is_listener(fd)) {
        return fr_uring_poll_add(poller->ring, fd, events, token);
    }
    struct epoll_event event = {.events = events, .data.u64 = token};
    return epoll_ctl(poller->epfd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

void fr_poller_remove(struct fr_poller *poller, int fd, uint64_t token)
{
    bool elsewhere = epoll_ctl(poller->epfd, EPOLL_CTL_DEL, fd, NULL) && errno == ENOENT;
    if (elsewhere && poller->ring) {
        fr_uring_poll_remove(poller->ring, token);
    }
}

int fr_poller_file(struct fr_poller *poller, const struct fr_file_request *request, uint64_t token)
{
    return poller->ring ? fr_uring_file(poller->ring, request, token) : -ENOSYS;
}

void fr_poller_file_cancel(struct fr_poller *poller, uint64_t token)
{
    fr_uring_poll_remove(poller->ring, token);
}

/* Rounded up: a timer must not find itself a fraction of a millisecond early, again and again. */
static int milliseconds(int64_t ns)
{
    if (ns <= 0) {
        return ns < 0 ? -1 : 0;
    }
    int64_t ms = ns / 1000000 + (ns % 1000000 != 0);
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

/* With nanoseconds where the kernel takes them (Linux 5.11): rounded up to milliseconds, a timer may be late by another
 * one. A seccomp filter that does not know the call says EPERM. Thread sanitizers know epoll_wait() only. */
static int sleep_in_epoll(struct fr_poller *poller, struct epoll_event *events, int max, int64_t timeout_ns)
{
#if defined(SYS_epoll_pwait2) && __SIZEOF_LONG__ == 8 && !defined(__SANITIZE_THREAD__)
    static _Atomic bool refused; /* relaxed: whoever does not see it asks again */
    if (timeout_ns > 0 && !atomic_load_explicit(&refused, memory_order_relaxed)) {
        struct timespec limit = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
        int n = (int)syscall(SYS_epoll_pwait2, poller->epfd, events, max, &limit, NULL, (size_t)0);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM)) {
            return n;
        }
        atomic_store_explicit(&refused, true, memory_order_relaxed);
    }
#endif
    return epoll_wait(poller->epfd, events, max, milliseconds(timeout_ns));
}

static int wait_epoll(struct fr_poller *poller, struct fr_poller_event *out, int max, int64_t timeout_ns)
{
    struct epoll_event events[MAX_EVENTS];
    int n = sleep_in_epoll(poller, events, max < MAX_EVENTS ? max : MAX_EVENTS, timeout_ns);
    for (int i = 0; i < n; i++) {
        out[i] = (struct fr_poller_event){.token = events[i].data.u64, .events = events[i].events};
    }
    return n < 0 ? -errno : n;
}

/* Takes the ring's word about the epoll instance out of the events. True if it was there. */
static bool take_epoll(struct fr_poller *poller, struct fr_poller_event *events, int *n)
{
    bool found = false;
    for (int i = 0; i < *n; i++) {
        if (events[i].token != TOKEN_EPOLL) {
            continue;
        }
        found = true;
        if (events[i].ended) {
            fr_uring_poll_add(poller->ring, poller->epfd, EPOLLIN, TOKEN_EPOLL);
        }
        events[i--] = events[--*n];
    }
    return found;
}

int fr_poller_wait(struct fr_poller *poller, struct fr_poller_event *out, int max, int64_t timeout_ns)
{
    if (!poller->ring) {
        return wait_epoll(poller, out, max, timeout_ns);
    }
    int n = fr_uring_wait(poller->ring, out, max - 1, poller->epoll_has_more ? 0 : timeout_ns);
    if (n < 0 || (!take_epoll(poller, out, &n) && !poller->epoll_has_more)) {
        return n;
    }
    int more = wait_epoll(poller, out + n, max - n, 0);
    poller->epoll_has_more = more == max - n;
    return more > 0 ? n + more : n;
}
