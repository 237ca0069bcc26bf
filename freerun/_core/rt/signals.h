/* signals: who listens for which signal of the process. Tokio's signal/registry.rs, on sigaction(2).
 *
 * THREADS     listen, unlisten, take, fd, notify, rearm: any. The handler runs on whichever thread the system picks, also
 *             in the middle of any of the others.
 * STATE       may be called attached, except fr_signal_unlisten(), which may wait for a handler to return: detach first.
 * OWNERSHIP   a slot belongs to its listener from listen to unlisten. Slots are recycled, never freed: the handler
 *             walks them without a lock. Each has an eventfd of its own, which unlisten closes; who wants to watch it
 *             takes a duplicate. A listener that is not one any more may still be asked: it has heard nothing.
 * FIELDS      heads     first slot of a signal. listen: release, under the lock. handler: acquire [S1].
 *             next      written before the slot is published; never again.
 *             fd        -1: free. listen, unlisten: seq_cst, under the lock. handler: seq_cst [S2].
 *             serial    which listener it belongs to, 0: none; under the lock.
 *             handling  handlers at work. They: seq_cst. unlisten: seq_cst [S2].
 *             owner     the process that installed the handlers. listen: relaxed, before the first handler is installed.
 *             old       what was installed before ours; under the lock.
 * INVARIANTS  S1  A slot that the handler can reach is whole.
 *             S2  No handler writes to a descriptor that was closed: unlisten takes the fd out, then waits until nobody
 *                 handles, then closes it. Either the handler counted itself first, and is waited for, or it finds -1.
 *             S3  Ours is installed while a signal has listeners, unless somebody else has installed another handler
 *                 since. With the last listener the old one is put back; not over somebody else's.
 *             S4  A signal from listen to unlisten is in the eventfd, once however often it came, for each listener.
 *             S5  A child after fork() that has not run fr_signals_after_fork() yet does not tell its parent's listeners.
 * LOCKS       one, of the file; taken inside of nothing, nothing is taken inside.
 * SHUTDOWN    fr_signals_restore(): every handler of ours goes, the listeners hear nothing any more.
 * PROVED BY   tests/test_signals.c
 */
#ifndef FR_RT_SIGNALS_H
#define FR_RT_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

struct fr_signal;

struct fr_listener {
    struct fr_signal *slot;
    uint64_t serial;
};

/* A listener for the signal from now on; takes the signal back if somebody else's handler has replaced ours. 0 or
 * -errno: EINVAL for what is no signal or cannot be handled. */
int fr_signal_listen(int number, struct fr_listener *out);

/* Whether it was one; may be called twice. */
bool fr_signal_unlisten(struct fr_listener listener);

/* A duplicate of its eventfd, which is the caller's; or -errno, EBADF if it is no listener any more. */
int fr_signal_dup_fd(struct fr_listener listener);

/* Whether the signal came since the last time. */
bool fr_signal_take(struct fr_listener listener);

/* As if the signal had come. Whether anybody listens. */
bool fr_signal_notify(int number);

/* Installs our handler again where somebody listens. */
void fr_signals_rearm(int number);

/* Puts back every handler that ours replaced. */
void fr_signals_restore(void);

/* In the child: the listeners are the parent's, and are none here. */
void fr_signals_after_fork(void);

#endif
