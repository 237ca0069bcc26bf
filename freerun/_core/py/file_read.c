/* file_read: much of a file, in pieces, on a thread of the blocking pool.
 *
 * A kernel that is not preemptible (PREEMPT_NONE) copies a single read of a cached file without a look at who else wants
 * the CPU: 16 MiB take it away from a worker for 4 to 16 ms. Between two pieces there is the way back to user mode, where
 * the scheduler does look.
 *
 * THREADS    any attached thread; blocks it, so one of the pool's.
 * STATE      detached around the system calls.
 * OWNERSHIP  nobody else sees the bytes before they are returned.
 * PROVED BY  tests/fs/test_large.py
 */
#include <errno.h>
#include <unistd.h>

#include "runtime.h"

/* Detached. Reads until `size` bytes are there, the file gives fewer than asked for, or there is an error. */
static Py_ssize_t fill(int fd, char *data, Py_ssize_t size, Py_ssize_t piece)
{
    Py_ssize_t done = 0;
    while (done < size) {
        size_t want = (size_t)Py_MIN(piece, size - done);
        ssize_t n = read(fd, data + done, want);
        if (n < 0) {
            return done ? done : -errno; /* what was read is given out; the next read says what is wrong */
        }
        done += n;
        if ((size_t)n < want) {
            break;
        }
    }
    return done;
}

PyObject *fr_read_in_pieces(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    Py_ssize_t size, piece, done;
    if (!PyArg_ParseTuple(args, "inn:read_in_pieces", &fd, &size, &piece)) {
        return NULL;
    }
    if (size < 0 || piece <= 0) {
        PyErr_SetString(PyExc_ValueError, "argument 'size' must not be below 0, and 'piece' must be above 0");
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (!bytes) {
        return NULL;
    }
    char *data = PyBytes_AS_STRING(bytes);
    do {
        PyThreadState *state = PyEval_SaveThread();
        done = fill(fd, data, size, piece);
        PyEval_RestoreThread(state);
    } while (done == -EINTR && !PyErr_CheckSignals());
    if (done < 0) {
        if (!PyErr_Occurred()) {
            errno = (int)-done;
            PyErr_SetFromErrno(PyExc_OSError);
        }
        Py_DECREF(bytes);
        return NULL;
    }
    if (done < size) {
        _PyBytes_Resize(&bytes, done); /* NULL if there is no memory */
    }
    return bytes;
}
