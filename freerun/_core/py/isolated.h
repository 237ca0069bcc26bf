/* isolated: what passes between interpreters: parcels, jobs and their queue, pipes. None of it belongs to one of them.
 *
 * FILES      parcel.c bytes, lent buffers, descriptors; job.c a call in another interpreter; pipe.c freerun.interp.channel;
 *            fork.c a fork with other interpreters about.
 * THREADS    any thread of any interpreter, for everything that is counted (`refs`).
 * STATE      attached where Python objects are touched, which are the calling interpreter's own without exception.
 * OWNERSHIP  counted C memory. The one thing of Python's in it is the Py_buffer of a lent block: it is the lender's, and
 *            whoever drops the last reference sends it back to the lender's list, from which the lender's own interpreter
 *            releases it (fr_lender_drain()). A lender whose interpreter has ended keeps what is still out for ever.
 * FIELDS     refs             fetch_add relaxed, fetch_sub acq_rel: the last one sees what all others did
 *            lender->returned, dead  under its lock
 *            parcel->*        constant once made, but for the descriptors: exchange by whoever takes one
 *            job->*           under its lock
 *            pipe->ends       fetch_add, fetch_sub, acq_rel: who brings one to 0 closes the mailbox
 * INVARIANTS IS1 a job is QUEUED, then RUNNING, then DONE; or QUEUED, then DONE (aborted before it began). Each change has
 *                one author, and DONE comes with a reply, LOST or CANCELLED if nothing else.
 *            IS2 who aborts a job that is RUNNING aborts its runner, a task of the other interpreter's runtime. Waking and
 *                aborting are plain C, so that is nobody's business but the engine's. If the runner is not known yet, bind()
 *                finds the flag.
 *            IS3 an object that is dropped without having done its part does it then: a WorkerJob replies, a Job aborts.
 * LOCKS      job->lock, lender->lock, queues_lock: leaves; no wake, no abort and no Python under them.
 * SHUTDOWN   see freerun/interp/_pool.py: jobs are aborted and awaited, then the queue is closed, then the interpreters end.
 * PROVED BY  tests/interp/
 */
#ifndef FR_ISOLATED_H
#define FR_ISOLATED_H

#include "leaf.h"
#include "rt/mailbox.h"

/* ---- parcel.c ---- */

/* Where lent buffers go back to: one per interpreter that has the module. */
struct fr_lender {
    _Atomic uint32_t refs;
    struct fr_mutex lock;
    struct fr_block *returned;
    bool dead;
};

/* Bytes that several interpreters may look at. */
struct fr_block {
    _Atomic uint32_t refs;
    bool readonly;
    char *bytes;
    Py_ssize_t size;
    struct fr_lender *lender; /* NULL: the bytes follow the struct */
    struct fr_block *next;    /* in lender->returned */
    Py_buffer view;           /* the lender's */
};

enum fr_item_kind { FR_ITEM_BLOCK, FR_ITEM_FD, FR_ITEM_SENDER, FR_ITEM_RECEIVER };

struct fr_item {
    enum fr_item_kind kind;
    union {
        struct fr_block *block;
        struct fr_pipe *pipe;
        _Atomic int fd; /* -1: taken */
    };
};

struct fr_parcel {
    struct fr_mail mail; /* while it is in a pipe */
    struct fr_block *data;
    Py_ssize_t count;
    struct fr_item items[];
};

void fr_parcel_free(struct fr_parcel *parcel); /* may be NULL; any thread, any interpreter */
/* The object's parcel, which becomes the caller's; NULL with ValueError if it was taken already, or TypeError. */
struct fr_parcel *fr_parcel_take(struct fr_module *mod, PyObject *object);
/* An object over a parcel, which it takes over, also on failure. NULL: None. */
PyObject *fr_parcel_object(struct fr_module *mod, struct fr_parcel *parcel);
/* Releases what has come back to this interpreter. */
void fr_lender_drain(struct fr_module *mod);
struct fr_lender *fr_lender_new(void);
void fr_lender_end(struct fr_lender *lender); /* the module goes */

/* ---- fork.c ---- */

/* From now on the process may fork although there are other interpreters. */
void fr_isolated_allow_fork(void);

/* ---- pipe.c ---- */

struct fr_pipe {
    _Atomic uint32_t refs;
    _Atomic uint32_t ends[2]; /* senders, receivers */
    struct fr_mailbox box;
};

void fr_pipe_hold(struct fr_pipe *pipe, int end); /* one more end, and reference */
void fr_pipe_drop(struct fr_pipe *pipe, int end);
PyObject *fr_pipe_end_object(struct fr_module *mod, struct fr_pipe *pipe, int end); /* holds it once more */
/* The pipe of a PipeEnd that is open, or NULL with an exception. */
struct fr_pipe *fr_pipe_of(struct fr_module *mod, PyObject *object, int *end);
/* A leaf that ends when there is something to look at. `owner` holds the mailbox. */
PyObject *fr_box_wait_new(struct fr_module *mod, PyObject *owner, struct fr_mailbox *box, enum fr_mailbox_side side,
                          int64_t load);
/* A task of this runtime has begun to wait for another interpreter, so its worker may spin: worker.c, waits_briefly(). */
static inline void fr_await_mail(struct fr_runtime *rt)
{
    if (!atomic_load_explicit(&rt->mail_awaited, memory_order_relaxed)) { /* relaxed, both: a hint */
        atomic_store_explicit(&rt->mail_awaited, true, memory_order_relaxed);
    }
}

#endif
