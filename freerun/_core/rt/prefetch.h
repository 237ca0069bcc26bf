/* prefetch: asks for memory before it is needed.
 *
 * THREADS     any.
 * STATE       attached thread state: not needed.
 * OWNERSHIP   none: the address may be anything, also of memory that is gone. Nothing is read.
 * FIELDS      none.
 * INVARIANTS  none. It pays where many objects are about to be touched that have left the caches: the processor then
 *             waits for them at the same time instead of for one after the other. NULL costs as much as a miss.
 * LOCKS       none.
 * SHUTDOWN    nothing.
 * PROVED BY   benchmarks/run.py --only sleepers
 */
#ifndef FR_RT_PREFETCH_H
#define FR_RT_PREFETCH_H

#include "futex.h"

/* Every cache line of `size` bytes, to be written. A constant size costs no loop. */
static inline __attribute__((always_inline)) void fr_prefetch(const void *start, uintptr_t size)
{
    uintptr_t line = (uintptr_t)start & ~(uintptr_t)(FR_CACHE_LINE - 1), end = (uintptr_t)start + size;
    for (; line < end; line += FR_CACHE_LINE) {
        __builtin_prefetch((const void *)line, 1);
    }
    __asm__ volatile(""); /* else GCC leaves out calls of a function that does nothing but this: it has no effect */
}

#endif
