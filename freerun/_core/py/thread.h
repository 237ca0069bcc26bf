/* thread: what the engine knows about the calling thread.
 *
 * THREADS    thread-local: only the thread itself touches it.
 * FIELDS     worker  the core this thread runs; NULL off-worker and after block_in_place gave it away
 *            core    the runtime that spawn() uses (a worker's own, or one entered with Handle.enter: until leave(),
 *                    on a worker until the poll ends at the latest); borrowed: a worker thread and enter() hold it
 *            task    the task being polled, or the branch of it (branch.h): whom its leaves wake. NULL between polls
 *            budget  what is left of the cooperative budget of this turn
 *            turn_ends  cycle count at which the turn has lasted a millisecond and the budget counts as spent; 0: it is not
 *                    timed yet, see fr_leaf_begin_untimed_turn()
 *            look_at, looked, stride  the clock is read next when the budget is down to look_at; when it was read last, and
 *                    how many leaves apart, see fr_leaf_may_spend()
 *            wait    how the leaves of this step asked to wait, FR_WAIT_*; cleared before every step. Several of them, where
 *                    one task polls several awaitables: that one parks does not undo that another one yields
 *            joined  how many other tasks' ends the task has awaited in this poll; see fr_task_gathers()
 *            thrown  who throws the Cancelled that is on its way down into the task, as scope.h says; NULL: nobody
 *            descends  nothing but the way down to what the task waits in has been gone in this turn: no branch was polled
 *            refused a leaf that was ready found the budget spent; cleared by who wants to know
 *            pool_thread  what a thread of a blocking pool knows of itself, see blocking.c
 */
#ifndef FR_THREAD_H
#define FR_THREAD_H

#include <stdbool.h>
#include <stdint.h>

struct CoreObject;
struct fr_pool_thread;
struct fr_runtime;
struct fr_visit;
struct fr_worker;
struct fr_task;

/* JOIN, beside PARK: for the end of another task. */
enum fr_wait { FR_WAIT_NONE, FR_WAIT_PARK = 1, FR_WAIT_YIELD = 2, FR_WAIT_JOIN = 4 };

struct fr_thread {
    struct fr_worker *worker;
    struct CoreObject *core;
    struct fr_task *task;
    struct fr_visit *visits; /* foreign visits in progress on this thread, innermost first */
    void *thrown;
    struct fr_runtime *pool; /* this is a thread of that runtime's blocking pool */
    struct fr_pool_thread *pool_thread;
    uint64_t turn_ends;
    uint64_t looked;
    uint32_t budget;
    uint32_t look_at;
    uint32_t stride;
    uint8_t wait;
    uint16_t joined;
    bool refused;
    bool descends;
};

#define FR_BUDGET 128

extern _Thread_local struct fr_thread fr_thread __attribute__((tls_model("initial-exec")));

#endif
