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

/* Public as freerun.sync.oneshot.channel. */
static const char ONESHOT_DOC[] =
    "oneshot_channel()\n--\n\n"
    "Make a channel for one value: `(sender, receiver)`.\n\n"
    "`sender.send(value)` never waits. `await receiver` gives the value, or raises `RecvError` once the sender was\n"
    "closed or dropped without sending. `send` raises `SendError`, with the value in it, when the receiver is gone,\n"
    "and `RuntimeError` the second time. `receiver.try_recv()` raises `WouldBlock` while there is nothing.\n\n"
    "Cancel safety: an aborted `await receiver` loses nothing; await it again. Thread safety: both ends may be used\n"
    "from any thread. Tokio: `tokio::sync::oneshot::channel`.\n\n"
    "Example::\n\n"
    "    import freerun\n"
    "    from freerun.sync import oneshot\n\n"
    "    async def answer(tx: oneshot.Sender[int]) -> None:\n"
    "        tx.send(42)\n\n"
    "    async def main() -> int:\n"
    "        tx, rx = oneshot.channel()\n"
    "        freerun.spawn(answer, tx)\n"
    "        return await rx\n\n"
    "    assert freerun.run(main) == 42\n";

/* Public as freerun.join, try_join, select and freerun.task.unconstrained. */
static const char JOIN_DOC[] =
    "join(*branches)\n"
    "--\n"
    "\n"
    "Run several awaitables at once, in this very task, and return all that they return: `a, b = await join(x, y)`.\n"
    "\n"
    "A branch is a coroutine, anything else that can be awaited, or an async function without arguments. Nothing is\n"
    "spawned: the branches take turns on this task's worker, in its context, and one that waits does not keep the "
    "others\n"
    "waiting. Only branches that were woken are polled again. Without branches the result is `()`.\n"
    "\n"
    "Errors: every branch runs to its end; then the first exception is raised, and further ones go to the runtime's\n"
    "`unhandled_exception`. `KeyboardInterrupt` and `SystemExit` cancel the other branches and are raised in place of "
    "any\n"
    "other. `ValueError` if two branches are the same awaitable, `TypeError` if one is none: then nothing has run.\n"
    "Cancel safety: each branch that still runs gets `Cancelled` where it waits, its cleanup may await, and when the "
    "last\n"
    "one has ended `Cancelled` is raised, whatever the branches returned; what had been returned before is lost. An\n"
    "exception of a branch's cleanup is raised in its place. Thread safety: for tasks. Tokio: `tokio::join!`.\n"
    "\n"
    "Example::\n"
    "\n"
    "    import freerun\n"
    "\n"
    "    async def square(n: int) -> int:\n"
    "        await freerun.time.sleep(0.001)\n"
    "        return n * n\n"
    "\n"
    "    async def main() -> tuple[int, int]:\n"
    "        return await freerun.join(square(2), square(3))\n"
    "\n"
    "    assert freerun.run(main) == (4, 9)\n";

static const char TRY_JOIN_DOC[] =
    "try_join(*branches)\n"
    "--\n"
    "\n"
    "As `join()`, but the first exception cancels the other branches and is raised once they have ended.\n"
    "\n"
    "Errors: as `join()`. What the cancelled branches raise, other than `Cancelled`, goes to the runtime's\n"
    "`unhandled_exception`.\n"
    "Cancel safety: as `join()`. Thread safety: for tasks. Tokio: `tokio::try_join!`.\n"
    "\n"
    "Example::\n"
    "\n"
    "    import freerun\n"
    "\n"
    "    async def fail() -> int:\n"
    "        raise OSError(\"no\")\n"
    "\n"
    "    async def main() -> str:\n"
    "        try:\n"
    "            await freerun.try_join(fail(), freerun.time.sleep(3600))\n"
    "        except OSError as error:\n"
    "            return str(error)\n"
    "        return \"\"\n"
    "\n"
    "    assert freerun.run(main) == \"no\"\n";

static const char SELECT_DOC[] =
    "select(*branches, biased=False, **named_branches)\n"
    "--\n"
    "\n"
    "Wait for whichever of several awaitables returns first: `which, value = await select(a, b)`.\n"
    "\n"
    "Returns its number and its result; with keywords, `select(name=a, other=b)`, its name and its result. A branch is "
    "a\n"
    "coroutine, anything else that can be awaited, or an async function without arguments, and is polled in this very\n"
    "task, in its context: nothing is spawned. Which branch is polled first is random, so that none is favoured;\n"
    "`biased=True` polls in the order given, so of several that are ready the first one wins.\n"
    "\n"
    "The other branches get `Cancelled` where they wait, once, and `select` returns only when they have ended: their\n"
    "cleanup may await. One that swallows `Cancelled` is waited for as long as it likes, and what it returns is "
    "dropped.\n"
    "What is awaited in a loop and must lose nothing, such as `receiver.recv()`, is cancel safe: "
    "docs/cancel-safety.md.\n"
    "\n"
    "Errors: an exception counts as the first result: it cancels the others and is raised. What a cancelled branch "
    "raises\n"
    "in its cleanup goes to the runtime's `unhandled_exception`; `KeyboardInterrupt` and `SystemExit` are raised in "
    "place\n"
    "of any result. `ValueError` without branches, or if two of them are the same awaitable; `TypeError` if one cannot "
    "be\n"
    "awaited: then nothing has run.\n"
    "Cancel safety: each branch that still runs gets `Cancelled`, and when the last one has ended `Cancelled` is "
    "raised; a\n"
    "result that was there already is lost. An exception of a branch's cleanup is raised in its place.\n"
    "Thread safety: for tasks. Tokio: `tokio::select!`.\n"
    "\n"
    "Example::\n"
    "\n"
    "    import freerun\n"
    "    from freerun.sync import oneshot\n"
    "    from freerun.time import sleep\n"
    "\n"
    "    async def main() -> tuple[str, str]:\n"
    "        tx, rx = oneshot.channel()\n"
    "        tx.send(\"answer\")\n"
    "        assert await freerun.select(sleep(3600), sleep(0.001)) == (1, None)\n"
    "        return await freerun.select(reply=rx, late=sleep(3600))\n"
    "\n"
    "    assert freerun.run(main) == (\"reply\", \"answer\")\n";

static const char UNCONSTRAINED_DOC[] =
    "unconstrained(awaitable, /, *args)\n"
    "--\n"
    "\n"
    "Await something without a cooperative budget: what is always ready keeps the worker as long as it likes.\n"
    "\n"
    "`awaitable` is a coroutine, anything else that can be awaited, or an async function to be called with `args`; it "
    "is\n"
    "polled in this very task, and its result is the result. Other tasks of the worker wait meanwhile.\n"
    "\n"
    "Errors: those of what is awaited; `TypeError` if it cannot be awaited.\n"
    "Cancel safety: an abort is passed on to what is awaited. Thread safety: for tasks. Tokio:\n"
    "`tokio::task::coop::unconstrained`.\n"
    "\n"
    "Example::\n"
    "\n"
    "    import freerun\n"
    "    from freerun.sync import mpsc\n"
    "\n"
    "    async def drain(rx: mpsc.Receiver[int]) -> int:\n"
    "        return sum([value async for value in rx])\n"
    "\n"
    "    async def main() -> int:\n"
    "        tx, rx = mpsc.channel(1000)\n"
    "        with tx:\n"
    "            for n in range(1000):\n"
    "                tx.try_send(n)\n"
    "        return await freerun.task.unconstrained(drain, rx)\n"
    "\n"
    "    assert freerun.run(main) == 499500\n";

static PyMethodDef functions[] = {
    {"spawn", FAST(fr_task_spawn_here), METH_FASTCALL | METH_KEYWORDS,
     "spawn(coro, /, *args, name=None, context=None)\n--\n\n"
     "Start a task on the current runtime and return its JoinHandle.\n\n"
     "`coro` is a coroutine, or an async function that is called with `args` on the worker that polls it first. "
     "`name`\n"
     "appears in dumps and reports. It runs in a copy of the caller's context variables, or in `context` itself, "
     "where\n"
     "tasks take turns; that fails with RuntimeError in the task if other code has entered it. Raises RuntimeError\n"
     "outside a runtime, TypeError if it is neither, RuntimeShutdown once the runtime is shutting down. Never waits; "
     "any\n"
     "thread inside a runtime. Tokio: tokio::spawn."},
    {"spawn_blocking", FAST(fr_task_spawn_blocking_here), METH_FASTCALL | METH_KEYWORDS,
     "spawn_blocking(fn, /, *args, **kwargs)\n--\n\n"
     "Run an ordinary function on the blocking pool, with the caller's context variables; returns its JoinHandle.\n\n"
     "abort() works until the call has started. Tokio: tokio::task::spawn_blocking."},
    {"spawn_file_call", FAST(fr_task_spawn_file_call), METH_FASTCALL,
     "spawn_file_call(must, fn, /, *args)\n--\n\n"
     "For freerun.fs: as spawn_blocking(), also while a shutdown cancels the tasks. `must`: it is run in any case."},
    {"file_request", fr_file_request, METH_VARARGS,
     "file_request(must, kind, fd, data, offset, flags, mode, name, wrap, done, /)\n--\n\n"
     "For freerun.fs: the JoinHandle of a request to io_uring, or None where the runtime has none."},
    {"read_in_pieces", fr_read_in_pieces, METH_VARARGS,
     "read_in_pieces(fd, size, piece, /)\n--\n\n"
     "For freerun.fs: up to `size` bytes, by reads of `piece` bytes each, until one gives fewer."},
    {"block_in_place", FAST(fr_block_in_place), METH_FASTCALL | METH_KEYWORDS,
     "block_in_place(fn, /, *args, **kwargs)\n--\n\n"
     "Call a blocking function right here, after handing this worker's queue to another thread.\n\n"
     "Multi-thread runtimes only; outside a task it just calls. Tokio: tokio::task::block_in_place."},
    {"yield_now", fr_leaf_yield_now, METH_NOARGS,
     "yield_now()\n--\n\nAwait it to let other tasks run. Cancel safe. Tokio: tokio::task::yield_now."},
    {"consume_budget", fr_leaf_consume_budget, METH_NOARGS,
     "consume_budget()\n--\n\n"
     "Await it in a long loop: it gives way to other tasks, and sibling branches, when the budget of this turn is "
     "spent.\n\n"
     "It costs one of the 128 awaits that a turn has, and next to nothing otherwise; yield_now() always gives way.\n"
     "Errors: RuntimeError outside a task. Cancel safe. Thread safety: for tasks. Tokio: "
     "tokio::task::consume_budget.\n\n"
     "Example::\n\n"
     "    import freerun\n\n"
     "    async def sum_up(numbers: range) -> int:\n"
     "        total = 0\n"
     "        for n in numbers:\n"
     "            total += n\n"
     "            await freerun.task.consume_budget()\n"
     "        return total\n\n"
     "    assert freerun.run(sum_up, range(1000)) == 499500"},
    {"shielded_yield", fr_leaf_shielded_yield, METH_NOARGS,
     "shielded_yield()\n--\n\nAs yield_now(), but nothing is thrown in: what is due comes at the next suspension."},
    {"park", fr_leaf_new_park, METH_NOARGS,
     "park()\n--\n\nAwait it to be suspended until the task is woken, by whomever. Cancel safe."},
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
    {"join", FAST(fr_join), METH_FASTCALL, JOIN_DOC},
    {"try_join", FAST(fr_try_join), METH_FASTCALL, TRY_JOIN_DOC},
    {"select", FAST(fr_select), METH_FASTCALL | METH_KEYWORDS, SELECT_DOC},
    {"unconstrained", FAST(fr_unconstrained), METH_FASTCALL, UNCONSTRAINED_DOC},
    {"oneshot_channel", fr_oneshot_channel, METH_NOARGS, ONESHOT_DOC},
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
    {"signal_notify", fr_signals_notify_py, METH_O,
     "signal_notify(number, /)\n--\n\nTell the listeners of a signal as if it had come; whether there are any."},
    {"signals_rearm", fr_signals_rearm_py, METH_O,
     "signals_rearm(number, /)\n--\n\nInstall the engine's handler again, if that signal has listeners."},
    {"signals_restore", fr_signals_restore_py, METH_NOARGS,
     "signals_restore()\n--\n\nAt the main interpreter's exit: put back every handler that was replaced."},
    {"before_fork", fr_threads_before_fork, METH_NOARGS, "before_fork()\n--\n\nFor os.register_at_fork()."},
    {"after_fork_in_parent", fr_threads_after_fork_in_parent, METH_NOARGS,
     "after_fork_in_parent()\n--\n\nFor os.register_at_fork()."},
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

static int (*const add_types[])(struct fr_module *mod) = {
    fr_task_add_types,          fr_leaf_add_types,    fr_timer_add_types,        fr_timeout_add_types,
    fr_scope_add_types,         fr_io_add_types,      fr_oneshot_add_types,      fr_semaphore_add_types,
    fr_mutex_add_types,         fr_mpsc_add_types,    fr_notify_add_types,       fr_listeners_add_types,
    fr_rwlock_add_types,        fr_watched_add_types, fr_broadcast_add_types,    fr_group_add_types,
    fr_unconstrained_add_types, fr_strand_add_types,  fr_signal_add_types,       fr_parcel_add_types,
    fr_pipe_add_types,          fr_job_add_types,     fr_cancel_scope_add_types, fr_join_set_add_types,
    fr_file_add_types,          fr_core_add_types,
};

static int module_exec(PyObject *module)
{
    struct fr_module *mod = PyModule_GetState(module);
    memset(mod, 0, sizeof *mod);
    mod->module = module;
    fr_bias_prepare(); /* now, as there are no other threads perhaps */
    mod->str_throw = PyUnicode_InternFromString("throw");
    mod->str_close = PyUnicode_InternFromString("close");
    if (!mod->str_throw || !mod->str_close || import_errors(mod) || import_drain(mod) || import_pending(mod)) {
        return -1;
    }
    for (size_t i = 0; i < sizeof add_types / sizeof *add_types; i++) {
        if (add_types[i](mod)) {
            return -1;
        }
    }
    return PyModule_AddStringConstant(module, "__version__", FREERUN_VERSION);
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
                       (PyObject *)mod->file_op_type,
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
                       (PyObject *)mod->watched_type,
                       (PyObject *)mod->watch_receiver_type,
                       (PyObject *)mod->broadcast_ring_type,
                       (PyObject *)mod->broadcast_receiver_type,
                       (PyObject *)mod->signal_listener_type,
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
                       (PyObject *)mod->group_type,
                       (PyObject *)mod->strand_type,
                       (PyObject *)mod->unconstrained_type,
                       (PyObject *)mod->cancel_scope_type,
                       (PyObject *)mod->task_set_type,
                       (PyObject *)mod->set_wait_type,
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
    /* The singletons are no GC objects, so nobody else reports the reference that each has to its type: unreported, it
     * keeps the type, with it this module, and with them most of what an interpreter that ends has imported. */
    PyObject *singletons[] = {mod->yield_now, mod->consume_budget, mod->ready, mod->shielded_yield};
    for (size_t i = 0; i < sizeof singletons / sizeof *singletons; i++) {
        if (singletons[i]) {
            Py_VISIT(Py_TYPE(singletons[i]));
        }
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
    Py_CLEAR(mod->shielded_yield);
    Py_CLEAR(mod->yield_type);
    Py_CLEAR(mod->park_type);
    Py_CLEAR(mod->waker_type);
    Py_CLEAR(mod->sleep_type);
    Py_CLEAR(mod->timed_type);
    Py_CLEAR(mod->scope_type);
    Py_CLEAR(mod->io_type);
    Py_CLEAR(mod->io_op_type);
    Py_CLEAR(mod->file_op_type);
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
    Py_CLEAR(mod->watched_type);
    Py_CLEAR(mod->watch_receiver_type);
    Py_CLEAR(mod->broadcast_ring_type);
    Py_CLEAR(mod->broadcast_receiver_type);
    Py_CLEAR(mod->signal_listener_type);
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
    Py_CLEAR(mod->group_type);
    Py_CLEAR(mod->strand_type);
    Py_CLEAR(mod->unconstrained_type);
    Py_CLEAR(mod->cancel_scope_type);
    Py_CLEAR(mod->task_set_type);
    Py_CLEAR(mod->set_wait_type);
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
