/* uring: one io_uring instance, as far as a poller and files need it. Raw system calls: the few that are needed are stable, and
 * no library for them is on every machine.
 *
 * THREADS    poll_add, poll_remove, file: any, one system call each, as epoll_ctl is. wait: the owner of the driver.
 * FIELDS     (uring.c) the submission side under `lock`; the completion side belongs to the owner of the driver.
 * INVARIANTS U1 an entry is submitted before the lock is released, so the queue is empty whenever it is free.
 *            U2 the kernel posts a request's completions from the thread that submitted it, which it interrupts for
 *               that wherever it is, and cancels the request when that thread exits: the event then says `ended`.
 *            U3 a poll request holds its file open: closing the descriptor alone would not close the connection.
 * LOCKS      `lock` is a leaf.
 * FORK       the child does not get the rings' memory (MADV_DONTFORK); nothing here is called there.
 * PROVED BY  tests/test_poller.c
 */
#ifndef FR_URING_H
#define FR_URING_H

#include "poller.h"

/* 0 or -errno: -ENOSYS without kernel or header support, -EPERM where it is forbidden, -EOPNOTSUPP if it is too old. */
int fr_uring_new(struct fr_uring **out);
void fr_uring_free(struct fr_uring *ring);
int fr_uring_poll_add(struct fr_uring *ring, int fd, uint32_t events, uint64_t token);
void fr_uring_poll_remove(struct fr_uring *ring, uint64_t token); /* any request */
/* See poller.h. The request is not polled: one event, with its result. */
int fr_uring_file(struct fr_uring *ring, const struct fr_file_request *request, uint64_t token);
int fr_uring_wait(struct fr_uring *ring, struct fr_poller_event *out, int max, int64_t timeout_ns);

#endif
