#include "poller.h"

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "uring.h"

enum { MAX_EVENTS = 256 };

int fr_poller_init(struct fr_poller *poller, enum fr_poller_kind kind)
{
    *poller = (struct fr_poller){.epfd = -1};
    if (kind == FR_POLLER_IO_URING) {
        return fr_uring_new(&poller->ring);
    }
    poller->epfd = epoll_create1(EPOLL_CLOEXEC);
    return poller->epfd < 0 ? -errno : 0;
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

int fr_poller_add(struct fr_poller *poller, int fd, uint32_t events, uint64_t token)
{
    if (poller->ring) {
        return fr_uring_poll_add(poller->ring, fd, events, token);
    }
    struct epoll_event event = {.events = events, .data.u64 = token};
    return epoll_ctl(poller->epfd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

void fr_poller_remove(struct fr_poller *poller, int fd, uint64_t token)
{
    if (poller->ring) {
        fr_uring_poll_remove(poller->ring, token);
    } else if (poller->epfd >= 0) {
        epoll_ctl(poller->epfd, EPOLL_CTL_DEL, fd, NULL);
    }
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

int fr_poller_wait(struct fr_poller *poller, struct fr_poller_event *out, int max, int64_t timeout_ns)
{
    if (poller->ring) {
        return fr_uring_wait(poller->ring, out, max, timeout_ns);
    }
    struct epoll_event events[MAX_EVENTS];
    int n = epoll_wait(poller->epfd, events, max < MAX_EVENTS ? max : MAX_EVENTS, milliseconds(timeout_ns));
    for (int i = 0; i < n; i++) {
        out[i] = (struct fr_poller_event){.token = events[i].data.u64, .events = events[i].events};
    }
    return n < 0 ? -errno : n;
}
