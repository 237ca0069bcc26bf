/* calloc_wrap: lets a test run out of memory. Link with -Wl,--wrap=calloc; include in the test's one C file. */
#ifndef FR_TESTS_CALLOC_WRAP_H
#define FR_TESTS_CALLOC_WRAP_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* How many more callocs succeed. */
static _Atomic int64_t calloc_budget = INT64_MAX;

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

void *__wrap_calloc(size_t n, size_t size)
{
    if (atomic_fetch_sub_explicit(&calloc_budget, 1, memory_order_relaxed) <= 0) {
        return NULL;
    }
    return __real_calloc(n, size);
}

static inline void calloc_allow(int64_t n)
{
    atomic_store_explicit(&calloc_budget, n, memory_order_relaxed);
}

#endif
