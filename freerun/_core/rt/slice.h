/* slice: how much CPU time in a row the calling thread asks the kernel for, where it has to share a CPU.
 *
 * The kernel (EEVDF, since Linux 6.12) lets who asked for less begin earlier, and take a CPU from who asked for more. Nobody's
 * share grows. A worker that a timer or a socket wakes has little to do and somebody waits for it; the threads of the pool
 * that share its CPU, each with the whole default slice, would otherwise come first, and with a tick of 4 ms that is 6 to
 * 10 ms.
 *
 * THREADS    the calling thread, its own.
 * INVARIANTS SL1 neither policy nor niceness nor anything else changes, and a thread under a real-time or a deadline
 *                policy is left alone.
 *            SL2 a new thread has its parent's slice, hence fr_slice_usual() in those of the pool. So has a process that a
 *                task starts by itself: not one of freerun.process, which the pool starts.
 * SHUTDOWN   nothing is kept.
 * PROVED BY  tests/runtime/test_slices.py
 */
#ifndef FR_SLICE_H
#define FR_SLICE_H

#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FR_SLICE_LEAST_NS UINT64_C(100000) /* the kernel knows none shorter */

/* struct sched_attr of sched_setattr(2), its first version: no header of the C library has it everywhere. */
struct fr_slice_attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* A kernel that is older, or forbids it, changes nothing: it was a wish. */
static inline void fr_slice_set(uint64_t ns)
{
    enum { KEEP_POLICY = 8 };
    struct fr_slice_attr attr = {.size = sizeof attr};
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0 &&
        (attr.policy == SCHED_OTHER || attr.policy == SCHED_BATCH)) { /* [SL1] */
        attr.size = sizeof attr;
        attr.flags = KEEP_POLICY;
        attr.runtime = ns;
        syscall(SYS_sched_setattr, 0, &attr, 0);
    }
}

static inline void fr_slice_short(void)
{
    fr_slice_set(FR_SLICE_LEAST_NS);
}

static inline void fr_slice_usual(void)
{
    fr_slice_set(0);
}

#endif
