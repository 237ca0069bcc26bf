/* module: per-interpreter state of freerun._core._native, and what every file of the py layer needs.
 *
 * THREADS    fr_module is written by the module's exec slot only, read by anybody attached to its interpreter.
 * STATE      attached.
 * OWNERSHIP  strong references, dropped when the module is freed; an fr_runtime keeps the module alive.
 */
#ifndef FR_MODULE_H
#define FR_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "rt/mutex.h"

enum fr_free_kind {
    FR_FREE_HANDLE,
    FR_FREE_JOIN,
    FR_FREE_SLEEP,
    FR_FREE_IO_OP,
    FR_FREE_ONESHOT,
    FR_FREE_RECV,
    FR_FREE_RECV_LEAF,
    FR_FREE_TIMED,
    FR_FREE_SCOPE,
    FR_FREE_PERMIT,
    FR_FREE_GUARD,
    FR_FREE_SEND,
    FR_FREE_MPSC_RECV,
    FR_FREE_MPSC_PERMIT,
    FR_FREE_LISTEN,
    FR_FREE_READ_GUARD,
    FR_FREE_WRITE_GUARD,
    FR_FREE_NOTIFIED,
    FR_FREE_GROUP,
    FR_FREE_CANCEL_SCOPE,
    FR_FREE_SET_WAIT,
    FR_FREE_KINDS
};

/* The types of mpsc.c. */
enum fr_mpsc_type {
    FR_MPSC_SENDER,
    FR_MPSC_UNBOUNDED_SENDER,
    FR_MPSC_WEAK_SENDER,
    FR_MPSC_WEAK_UNBOUNDED_SENDER,
    FR_MPSC_RECEIVER,
    FR_MPSC_UNBOUNDED_RECEIVER,
    FR_MPSC_PERMIT,
    FR_MPSC_PERMITS,
    FR_MPSC_SEND,
    FR_MPSC_RECV,
    FR_MPSC_CLOSED,
    FR_MPSC_TYPES
};

struct fr_site;
struct fr_lender;

/* Where spawn() was called: interned, never freed before the module, so that a task holds a plain pointer. */
struct fr_site_table {
    struct fr_mutex lock;
    struct fr_site **slots;
    uint32_t used;
    uint32_t size;
};

struct fr_module {
    PyObject *module; /* borrowed: it owns us */
    PyTypeObject *core_type;
    PyTypeObject *handle_type;
    PyTypeObject *join_type;
    PyTypeObject *abort_type;
    PyTypeObject *yield_type;
    PyTypeObject *park_type;
    PyTypeObject *waker_type;
    PyTypeObject *sleep_type;
    PyTypeObject *timed_type;
    PyTypeObject *scope_type;
    PyTypeObject *io_type;
    PyTypeObject *io_op_type;
    PyTypeObject *file_op_type;
    PyTypeObject *oneshot_sender_type;
    PyTypeObject *oneshot_receiver_type;
    PyTypeObject *recv_type;
    PyTypeObject *oneshot_closed_type;
    PyTypeObject *task_ref_type;
    PyTypeObject *semaphore_type;
    PyTypeObject *permit_type;
    PyTypeObject *mutex_type;
    PyTypeObject *guard_type;
    PyTypeObject *notify_type;
    PyTypeObject *notified_type;
    PyTypeObject *cancel_scope_type;
    PyTypeObject *task_set_type;
    PyTypeObject *set_wait_type;
    PyTypeObject *mpsc_types[FR_MPSC_TYPES];
    PyTypeObject *listeners_type;
    PyTypeObject *listen_type;
    PyTypeObject *watched_type;
    PyTypeObject *watch_receiver_type;
    PyTypeObject *broadcast_ring_type;
    PyTypeObject *broadcast_receiver_type;
    PyTypeObject *signal_listener_type;
    PyTypeObject *rwlock_type;
    PyTypeObject *read_guard_type;
    PyTypeObject *write_guard_type;
    PyTypeObject *group_type;
    PyTypeObject *strand_type;
    PyTypeObject *unconstrained_type;
    PyTypeObject *block_type;
    PyTypeObject *parcel_type;
    PyTypeObject *box_wait_type;
    PyTypeObject *pipe_end_type;
    PyTypeObject *job_queue_type;
    PyTypeObject *job_type;
    PyTypeObject *worker_job_type;
    PyObject *yield_now;      /* the singleton; immortal on free-threaded builds */
    PyObject *consume_budget; /* the same */
    PyObject *ready;          /* the same */
    PyObject *shielded_yield; /* the same */
    PyObject *exc_cancelled;
    PyObject *exc_join;
    PyObject *exc_shutdown;
    PyObject *exc_recv;
    PyObject *exc_send;
    PyObject *exc_would_block;
    PyObject *exc_acquire;
    PyObject *exc_full;   /* TrySendError.Full */
    PyObject *exc_closed; /* TrySendError.Closed */
    PyObject *drain;      /* freerun._core.drain.drain */
    PyObject *pending;    /* freerun._core.pending.PENDING */
    PyObject *str_throw;
    PyObject *str_close;
    struct fr_site_table sites;
    struct fr_lender *lender; /* isolated.h */
};

extern struct PyModuleDef fr_module_def;

static inline struct fr_module *fr_module_of_type(PyTypeObject *type)
{
    return (struct fr_module *)PyType_GetModuleState(type);
}

/* The sentence of the API for calls that need a runtime. */
#define FR_NO_RUNTIME \
    "there is no freerun runtime on this thread; call it from a task, or from inside \"with runtime:\""

/* Each file of the layer adds its types; 0 or -1 with an exception. */
int fr_core_add_types(struct fr_module *mod);
int fr_task_add_types(struct fr_module *mod);
int fr_leaf_add_types(struct fr_module *mod);
int fr_timer_add_types(struct fr_module *mod);
int fr_timeout_add_types(struct fr_module *mod);
int fr_scope_add_types(struct fr_module *mod);
int fr_io_add_types(struct fr_module *mod);
int fr_file_add_types(struct fr_module *mod);
int fr_oneshot_add_types(struct fr_module *mod);
int fr_semaphore_add_types(struct fr_module *mod);
int fr_mutex_add_types(struct fr_module *mod);
int fr_mpsc_add_types(struct fr_module *mod);
int fr_listeners_add_types(struct fr_module *mod);
int fr_rwlock_add_types(struct fr_module *mod);
int fr_watched_add_types(struct fr_module *mod);
int fr_broadcast_add_types(struct fr_module *mod);
int fr_signal_add_types(struct fr_module *mod);
int fr_notify_add_types(struct fr_module *mod);
int fr_group_add_types(struct fr_module *mod);
int fr_strand_add_types(struct fr_module *mod);
int fr_unconstrained_add_types(struct fr_module *mod);
int fr_parcel_add_types(struct fr_module *mod);
int fr_pipe_add_types(struct fr_module *mod);
int fr_job_add_types(struct fr_module *mod);
int fr_cancel_scope_add_types(struct fr_module *mod);
int fr_join_set_add_types(struct fr_module *mod);

/* Module functions, each in the file of its subject. */
PyObject *fr_leaf_yield_now(PyObject *module, PyObject *ignored);
PyObject *fr_leaf_consume_budget(PyObject *module, PyObject *ignored);
PyObject *fr_leaf_shielded_yield(PyObject *module, PyObject *ignored);
PyObject *fr_leaf_new_park(PyObject *module, PyObject *ignored);
PyObject *fr_leaf_refuse_on_worker(PyObject *module, PyObject *args);
PyObject *fr_leaf_current_waker(PyObject *module, PyObject *ignored);
PyObject *fr_task_spawn_here(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *fr_task_spawn_blocking_here(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *fr_task_spawn_file_call(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *fr_file_request(PyObject *module, PyObject *args);
PyObject *fr_read_in_pieces(PyObject *module, PyObject *args);
PyObject *fr_task_current(PyObject *module, PyObject *ignored);
PyObject *fr_block_in_place(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *fr_timer_sleep(PyObject *module, PyObject *seconds);
PyObject *fr_timer_sleep_until(PyObject *module, PyObject *deadline);
PyObject *fr_timeout(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *fr_timeout_at(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *fr_join(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *fr_try_join(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *fr_select(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *fr_unconstrained(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *fr_oneshot_channel(PyObject *module, PyObject *ignored);
PyObject *fr_mpsc_channel(PyObject *module, PyObject *capacity);
PyObject *fr_mpsc_unbounded_channel(PyObject *module, PyObject *ignored);
PyObject *fr_isolated_pipe(PyObject *module, PyObject *capacity);
PyObject *fr_isolated_forget(PyObject *module, PyObject *ignored);
PyObject *fr_isolated_drain(PyObject *module, PyObject *ignored);
void fr_isolated_after_fork(void);
PyObject *fr_core_current(PyObject *module, PyObject *ignored);
PyObject *fr_core_try_current(PyObject *module, PyObject *ignored);
PyObject *fr_core_io_uring_errno(PyObject *module, PyObject *ignored);
PyObject *fr_core_after_fork(PyObject *module, PyObject *ignored);
PyObject *fr_signals_notify_py(PyObject *module, PyObject *number);
PyObject *fr_signals_rearm_py(PyObject *module, PyObject *number);
PyObject *fr_signals_restore_py(PyObject *module, PyObject *ignored);
PyObject *fr_threads_before_fork(PyObject *module, PyObject *ignored);
PyObject *fr_threads_after_fork_in_parent(PyObject *module, PyObject *ignored);

/* Creates a heap type from `spec`; `name` NULL: not exported. */
int fr_module_add_type(struct fr_module *mod, PyTypeObject **slot, PyType_Spec *spec, const char *name);
/* Free-threaded builds: makes a shared object's count untouchable, so that it is no contended line. */
void fr_immortalise(PyObject *object);

#endif
