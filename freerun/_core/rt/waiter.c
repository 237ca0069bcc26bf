#include "waiter.h"

#include <errno.h>
#include <unistd.h>

#include "futex.h"

void fr_event_init(struct fr_event *event, int fd)
{
    atomic_init(&event->set, 0);
    event->fd = fd;
}

void fr_event_set(struct fr_event *event)
{
    /* release: pairs with fr_event_wait(), so the sleeper sees what was done before */
    atomic_store_explicit(&event->set, 1, memory_order_release);
    fr_futex_wake(&event->set, 1);
    if (event->fd >= 0) {
        uint64_t one = 1;
        ssize_t ignored = write(event->fd, &one, sizeof one); /* full only if it is set already */
        (void)ignored;
    }
}

int fr_event_wait(struct fr_event *event, int64_t timeout_ns)
{
    /* acquire: pairs with fr_event_set() */
    while (!atomic_load_explicit(&event->set, memory_order_acquire)) {
        int err = fr_futex_wait(&event->set, 0, timeout_ns);
        if (err == -ETIMEDOUT || err == -EINTR) {
            return atomic_load_explicit(&event->set, memory_order_acquire) ? 0 : err;
        }
        if (timeout_ns >= 0 && err == 0) {
            /* woken: either it is set, or a stray wake; the caller recomputes its deadline */
            return atomic_load_explicit(&event->set, memory_order_acquire) ? 0 : -EINTR;
        }
    }
    return 0;
}
