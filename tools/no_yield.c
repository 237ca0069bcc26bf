/* Preloaded into the tests on free-threaded CPython 3.13 (see noxfile.py).
 *
 * It spins before it parks on a lock: 40 times sched_yield(). It does so even when the lock is held by its own thread, as
 * whenever a buffered file is closed or a class is made by a metaclass's mro(): 13,000 calls for one `import freerun`.
 * Beside busy processes each call may cost a time slice. On a machine with two of them per core the import took 17 to
 * 43 s; with this it takes 1 to 2 s, as with the GIL. 3.14 knows that its own thread holds the lock. */
int sched_yield(void);

int sched_yield(void)
{
    return 0;
}
