/* module: freerun._core._native. */
#include "module.h"

#include <string.h>

#include "isolated.h"
#include "runtime.h"

#ifndef FREERUN_VERSION
#define FREERUN_VERSION "0+unbuilt" /* meson.build gives the real one */
#endif

int fr_module_add_type(struct fr_module *mod, PyTypeObject **slot, PyType_Spec *spec, const char *name)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(mod->module, spec, NULL);
    if (!type) {
        return -1;
    }
    *slot = type;
    fr_immortalise((PyObject *)type);
    return name ? PyModule_AddObjectRef(mod->module, name, (PyObject *)type) : 0;
}

void fr_immortalise(PyObject *object)
{
#ifdef Py_GIL_DISABLED
#if PY_VERSION_HEX >= 0x030F0000
    PyUnstable_SetImmortal(object);
#else
    /* What 3.15's PyUnstable_SetImmortal() does. A type's count is written by every allocation from every thread. */
    object->ob_tid = 0;
    object->ob_ref_local = _Py_IMMORTAL_REFCNT_LOCAL;
    object->ob_ref_shared = 0;
#endif
#else
    (void)object; /* under a GIL a count is no contended line, and an interpreter that ends gets its memory back */
#endif
}

#define FAST(f) (PyCFunction)(void (*)(void))(f)

/* Public as freerun.time.timeout. */
static const char TIMEOUT_DOC[] =
    "timeout(seconds, awaitable=None, /, *args)\n--\n\n"
    "Limit the time that something may take: `await timeout(seconds, awaitable)`, or `async with "
    "timeout(seconds):`.\n\n"
    "`awaitable` is a coroutine, anything else that can be awaited, or an async function to be called with `args`. It\n"
    "is polled in this very task: nothing is spawned. The result is its result. The time (float seconds or a\n"
    "`timedelta`; resolution 1 ms) counts from the await. When it is up, what still waits gets `Cancelled` where it\n"
    "waits, once; its cleanup may await and is waited for. What was ready by then wins. With 0 seconds, what does not\n"
    "have to wait succeeds.\n\n"
    "`async with timeout(seconds) as scope:` does the same to its body: `Cancelled` at the await, `TimeoutError` at "
    "the\n"
    "end of the block. `scope` is a `Timeout`: `reschedule(instant)`, `when()`, `expired()`, `cancel()`. The "
    "innermost\n"
    "`async with` around the await that waited too long catches nothing of an outer one's timeout: the outermost "
    "wins.\n\n"
    "Errors: `TimeoutError`, caused by the `Cancelled`; `ValueError` if `seconds` is negative or NaN, `TypeError` for\n"
    "other wrong arguments; `RuntimeError` if the runtime has no timers, or when a block is entered twice. A body "
    "that\n"
    "swallows `Cancelled` swallows the timeout.\n"
    "Cancel safety: an abort is passed on to what is awaited, and takes the limit away: cleanup then has the time it\n"
    "needs. A block keeps its limit. Thread safety: for tasks; a `Timeout` may be used from any thread. Tokio:\n"
    "`tokio::time::timeout`.\n\n"
    "Example::\n\n"
    "    import freerun\n"
    "    from freerun.time import sleep, timeout\n\n"
    "    async def answer(n: int) -> int:\n"
    "        await sleep(0.001)\n"
    "        return n\n\n"
    "    async def main() -> str:\n"
    "        assert await timeout(10, answer(1)) == 1\n"
    "        assert await timeout(10, answer, 2) == 2\n"
    "        async with timeout(10):\n"
    "            await answer(3)\n"
    "        try:\n"
    "            await timeout(0.01, sleep(3600))\n"
    "        except TimeoutError as error:\n"
    "            return str(error)\n"
    "        return \"\"\n\n"
    "    assert freerun.run(main) == \"not done within 0.01 s\"\n";

static PyMethodDef functions[] = {
    {"spawn", FAST(fr_task_spawn_here), METH_FASTCALL | METH_KEYWORDS,
     "spawn(coro, /, *args, name=None)\n--\n\n"
     "Start a task on the current runtime and return its JoinHandle.\n\n"
     "`coro` is a coroutine, or an async function that is called with `args` on the worker that polls it first. "
     "`name`\n"
     "appears in dumps and reports. Raises RuntimeError outside a runtime, TypeError if it is neither, "
     "RuntimeShutdown\n"
     "once the runtime is shutting down. Never waits; any thread inside a runtime. Tokio: tokio::spawn."},
    {"spawn_blocking", FAST(fr_task_spawn_blocking_here), METH_FASTCALL | METH_KEYWORDS,
     "spawn_blocking(fn, /, *args, **kwargs)\n--\n\n"
     "Run an ordinary function on the blocking pool, with the caller's context variables; returns its JoinHandle.\n\n"
     "abort() works until the call has started. Tokio: tokio::task::spawn_blocking."},
    {"block_in_place", FAST(fr_block_in_place), METH_FASTCALL | METH_KEYWORDS,
     "block_in_place(fn, /, *args, **kwargs)\n--\n\n"
     "Call a blocking function right here, after handing this worker's queue to another thread.\n\n"
     "Multi-thread runtimes only; outside a task it just calls. Tokio: tokio::task::block_in_place."},
    {"yield_now", fr_leaf_yield_now, METH_NOARGS,
     "yield_now()\n--\n\nAwait it to let other tasks run. Cancel safe. Tokio: tokio::task::yield_now."},
    {"consume_budget", fr_leaf_consume_budget, METH_NOARGS,
     "consume_budget()\n--\n\nAwait it in a long loop: yields when the task's budget is spent. Tokio: "
     "tokio::task::consume_budget."},
    {"park", fr_leaf_new_park, METH_NOARGS,
     "park()\n--\n\nAwait it to be suspended until the task is woken, by whomever."},
    {"current_waker", fr_leaf_current_waker, METH_NOARGS, "current_waker()\n--\n\nA Waker of the running task."},
    {"current_task", fr_task_current, METH_NOARGS, "current_task()\n--\n\nThe running task; RuntimeError outside one."},
    {"sleep", fr_timer_sleep, METH_O,
     "sleep(seconds, /)\n--\n\n"
     "Await it to wait; never less than `seconds` (float, int or timedelta), rounded up to a millisecond.\n\n"
     "ValueError if negative or NaN. Cancel safe. Tokio: tokio::time::sleep."},
    {"sleep_until_ns", fr_timer_sleep_until, METH_O,
     "sleep_until_ns(deadline_ns, /)\n--\n\nAs sleep(), until the runtime's clock reads `deadline_ns`."},
    {"timeout", FAST(fr_timeout), METH_FASTCALL, TIMEOUT_DOC},
    {"timeout_at_ns", FAST(fr_timeout_at), METH_FASTCALL,
     "timeout_at_ns(deadline_ns, awaitable=None, /, *args)\n--\n\nAs timeout(), until the runtime's clock reads "
     "`deadline_ns`."},
    {"oneshot_channel", fr_oneshot_channel, METH_NOARGS,
     "oneshot_channel()\n--\n\nA (sender, receiver) pair for one value."},
    {"mpsc_channel", fr_mpsc_channel, METH_O,
     "mpsc_channel(capacity, /)\n--\n\nA (sender, receiver) pair of a bounded channel."},
    {"mpsc_unbounded_channel", fr_mpsc_unbounded_channel, METH_NOARGS,
     "mpsc_unbounded_channel()\n--\n\nA (sender, receiver) pair of an unbounded channel."},
    {"current_core", fr_core_current, METH_NOARGS,
     "current_core()\n--\n\nThe runtime of this thread, or RuntimeError."},
    {"try_current_core", fr_core_try_current, METH_NOARGS,
     "try_current_core()\n--\n\nThe runtime of this thread, or None."},
    {"refuse_on_worker", fr_leaf_refuse_on_worker, METH_VARARGS,
     "refuse_on_worker(function, instead, /)\n--\n\nRuntimeError if this thread polls tasks: `function` would block "
     "it; await `instead`."},
    {"isolated_pipe", fr_isolated_pipe, METH_O,
     "isolated_pipe(capacity, /)\n--\n\nA (sender, receiver) pair of PipeEnds."},
    {"drain_lent", fr_isolated_drain, METH_NOARGS,
     "drain_lent()\n--\n\nRelease the buffers that other interpreters are done with."},
    {"forget_interpreters", fr_isolated_forget, METH_NOARGS,
     "forget_interpreters()\n--\n\nAt exit only: CPython shall not take down the others, in which threads are stuck."},
    {"io_uring_errno", fr_core_io_uring_errno, METH_NOARGS,
     "io_uring_errno()\n--\n\nWhy the system refuses io_uring, as an errno; 0: it does not."},
    {"after_fork_in_child", fr_core_after_fork, METH_NOARGS, "after_fork_in_child()\n--\n\nFor os.register_at_fork()."},
    {NULL, NULL, 0, NULL},
};

static int import_errors(struct fr_module *mod)
{
    PyObject *errors = PyImport_ImportModule("freerun._errors");
    if (!errors) {
        return -1;
    }
    struct {
        PyObject **slot;
        const char *name;
    } wanted[] = {
        {&mod->exc_cancelled, "Cancelled"},  {&mod->exc_join, "JoinError"},   {&mod->exc_shutdown, "RuntimeShutdown"},
        {&mod->exc_recv, "RecvError"},       {&mod->exc_send, "SendError"},   {&mod->exc_would_block, "WouldBlock"},
        {&mod->exc_acquire, "AcquireError"}, {&mod->exc_full, "TrySendFull"}, {&mod->exc_closed, "TrySendClosed"},
    };
    int result = 0;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !result; i++) {
        *wanted[i].slot = PyObject_GetAttrString(errors, wanted[i].name);
        result = *wanted[i].slot ? 0 : -1;
    }
    Py_DECREF(errors);
    return result;
}

static int import_pending(struct fr_module *mod)
{
    PyObject *module = PyImport_ImportModule("freerun._core.pending");
    mod->pending = module ? PyObject_GetAttrString(module, "PENDING") : NULL;
    Py_XDECREF(module);
    return mod->pending ? 0 : -1;
}

static int import_drain(struct fr_module *mod)
{
    PyObject *module = PyImport_ImportModule("freerun._core.drain");
    mod->drain = module ? PyObject_GetAttrString(module, "drain") : NULL;
    Py_XDECREF(module);
    return mod->drain ? 0 : -1;
}

static int module_exec(PyObject *module)
{
    struct fr_module *mod = PyModule_GetState(module);
    memset(mod, 0, sizeof *mod);
    mod->module = module;
    mod->str_throw = PyUnicode_InternFromString("throw");
    mod->str_close = PyUnicode_InternFromString("close");
    if (!mod->str_throw || !mod->str_close || import_errors(mod) || import_drain(mod) || import_pending(mod) ||
        fr_task_add_types(mod) || fr_leaf_add_types(mod) || fr_timer_add_types(mod) || fr_timeout_add_types(mod) ||
        fr_scope_add_types(mod) || fr_io_add_types(mod) || fr_oneshot_add_types(mod) || fr_semaphore_add_types(mod) ||
        fr_mutex_add_types(mod) || fr_mpsc_add_types(mod) || fr_notify_add_types(mod) || fr_listeners_add_types(mod) ||
        fr_rwlock_add_types(mod) || fr_countdown_add_types(mod) || fr_parcel_add_types(mod) || fr_pipe_add_types(mod) ||
        fr_job_add_types(mod) || fr_core_add_types(mod) ||
        PyModule_AddStringConstant(module, "__version__", FREERUN_VERSION)) {
        return -1;
    }
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct fr_module *mod = PyModule_GetState(module);
    PyObject *all[] = {(PyObject *)mod->core_type,
                       (PyObject *)mod->handle_type,
                       (PyObject *)mod->join_type,
                       (PyObject *)mod->abort_type,
                       (PyObject *)mod->yield_type,
                       (PyObject *)mod->park_type,
                       (PyObject *)mod->waker_type,
                       (PyObject *)mod->sleep_type,
                       (PyObject *)mod->timed_type,
                       (PyObject *)mod->scope_type,
                       (PyObject *)mod->io_type,
                       (PyObject *)mod->io_op_type,
                       (PyObject *)mod->oneshot_sender_type,
                       (PyObject *)mod->oneshot_receiver_type,
                       (PyObject *)mod->recv_type,
                       (PyObject *)mod->oneshot_closed_type,
                       (PyObject *)mod->task_ref_type,
                       (PyObject *)mod->semaphore_type,
                       (PyObject *)mod->permit_type,
                       (PyObject *)mod->mutex_type,
                       (PyObject *)mod->guard_type,
                       (PyObject *)mod->listeners_type,
                       (PyObject *)mod->listen_type,
                       (PyObject *)mod->countdown_type,
                       (PyObject *)mod->rwlock_type,
                       (PyObject *)mod->read_guard_type,
                       (PyObject *)mod->write_guard_type,
                       (PyObject *)mod->block_type,
                       (PyObject *)mod->parcel_type,
                       (PyObject *)mod->box_wait_type,
                       (PyObject *)mod->pipe_end_type,
                       (PyObject *)mod->job_queue_type,
                       (PyObject *)mod->job_type,
                       (PyObject *)mod->worker_job_type,
                       (PyObject *)mod->notify_type,
                       (PyObject *)mod->notified_type,
                       mod->exc_cancelled,
                       mod->exc_join,
                       mod->exc_shutdown,
                       mod->exc_recv,
                       mod->exc_send,
                       mod->exc_would_block,
                       mod->exc_acquire,
                       mod->exc_full,
                       mod->exc_closed,
                       mod->drain,
                       mod->pending};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        Py_VISIT(all[i]);
    }
    for (size_t i = 0; i < FR_MPSC_TYPES; i++) {
        Py_VISIT(mod->mpsc_types[i]);
    }
    return 0;
}

static int module_clear(PyObject *module)
{
    struct fr_module *mod = PyModule_GetState(module);
    Py_CLEAR(mod->core_type);
    Py_CLEAR(mod->handle_type);
    Py_CLEAR(mod->join_type);
    Py_CLEAR(mod->abort_type);
    Py_CLEAR(mod->yield_now);
    Py_CLEAR(mod->consume_budget);
    Py_CLEAR(mod->ready);
    Py_CLEAR(mod->yield_type);
    Py_CLEAR(mod->park_type);
    Py_CLEAR(mod->waker_type);
    Py_CLEAR(mod->sleep_type);
    Py_CLEAR(mod->timed_type);
    Py_CLEAR(mod->scope_type);
    Py_CLEAR(mod->io_type);
    Py_CLEAR(mod->io_op_type);
    Py_CLEAR(mod->oneshot_sender_type);
    Py_CLEAR(mod->oneshot_receiver_type);
    Py_CLEAR(mod->recv_type);
    Py_CLEAR(mod->oneshot_closed_type);
    Py_CLEAR(mod->task_ref_type);
    Py_CLEAR(mod->semaphore_type);
    Py_CLEAR(mod->permit_type);
    Py_CLEAR(mod->mutex_type);
    Py_CLEAR(mod->guard_type);
    Py_CLEAR(mod->listeners_type);
    Py_CLEAR(mod->listen_type);
    Py_CLEAR(mod->countdown_type);
    Py_CLEAR(mod->rwlock_type);
    Py_CLEAR(mod->read_guard_type);
    Py_CLEAR(mod->write_guard_type);
    Py_CLEAR(mod->block_type);
    Py_CLEAR(mod->parcel_type);
    Py_CLEAR(mod->box_wait_type);
    Py_CLEAR(mod->pipe_end_type);
    Py_CLEAR(mod->job_queue_type);
    Py_CLEAR(mod->job_type);
    Py_CLEAR(mod->worker_job_type);
    Py_CLEAR(mod->notify_type);
    Py_CLEAR(mod->notified_type);
    Py_CLEAR(mod->exc_cancelled);
    Py_CLEAR(mod->exc_join);
    Py_CLEAR(mod->exc_shutdown);
    Py_CLEAR(mod->exc_recv);
    Py_CLEAR(mod->exc_send);
    Py_CLEAR(mod->exc_would_block);
    Py_CLEAR(mod->exc_acquire);
    Py_CLEAR(mod->exc_full);
    Py_CLEAR(mod->exc_closed);
    for (size_t i = 0; i < FR_MPSC_TYPES; i++) {
        Py_CLEAR(mod->mpsc_types[i]);
    }
    Py_CLEAR(mod->drain);
    Py_CLEAR(mod->pending);
    Py_CLEAR(mod->str_throw);
    Py_CLEAR(mod->str_close);
    fr_sites_free(mod);
    fr_lender_end(mod->lender);
    mod->lender = NULL;
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
    {0, NULL},
};

struct PyModuleDef fr_module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The engine of freerun: scheduler, driver, tasks. Typed face: _native.pyi.",
    .m_size = sizeof(struct fr_module),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__native(void); /* no header declares it */

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&fr_module_def);
}
