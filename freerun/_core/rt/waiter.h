/* waiter: one entry of a wait list: "when this happens, wake that task (or that thread)".
 *
 * THREADS    the fields belong to whoever holds the lock of the list the waiter is linked in; while it is not
 *            linked they belong to the leaf that embeds it.
 * STATE      no Python; `task` is opaque here.
 * OWNERSHIP  while linked the waiter owns one reference of `task` (NULL: a plain thread waits on `event`).
 *            Whoever unlinks it takes that reference over.
 * INVARIANTS W1 a waiter is in at most one list; `linked` says so and is written under the list's
 *               lock; its owner may look without it: a task that was woken through the list sees false.
 *            W2 a waiter is unlinked when its leaf is resumed or dropped; nothing is left to the collector.
 * PROVED BY  tests/runtime/, freerun/_core/tests/test_idle_park.c (the events)
 */
#ifndef FR_WAITER_H
#define FR_WAITER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "list.h"

/* What a plain thread sleeps on. `fd` >= 0: an eventfd that is written as well (block_on polls it). */
struct fr_event {
    _Atomic uint32_t set;
    int fd;
};

struct fr_waiter {
    struct fr_node node;
    void *task;
    struct fr_event *event;
    _Atomic bool linked;
};

void fr_event_init(struct fr_event *event, int fd);
/* May be called under a list lock: it never blocks, and the sleeper re-takes that lock before `event` goes away. */
void fr_event_set(struct fr_event *event);
/* Detached threads only. 0, -ETIMEDOUT, or -EINTR. */
int fr_event_wait(struct fr_event *event, int64_t timeout_ns);

#endif
