/* check: what the C tests share: assertions that stay on with NDEBUG, a seeded generator, a time bound, a watchdog.
 *
 * Usage of every test:  test_x [seed [seconds]].  The environment's FR_STRESS_SECONDS sets the seconds when no
 * argument does. The seed is printed first, so a failure can be run again.
 */
#ifndef FR_TESTS_CHECK_H
#define FR_TESTS_CHECK_H

#include "../rt/clock.h"
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CHECK(cond)                                \
    do {                                           \
        if (!(cond))                               \
            check_fail(__FILE__, __LINE__, #cond); \
    } while (0)

#define CHECK_EQ(a, b)                                                         \
    do {                                                                       \
        uint64_t check_a = (uint64_t)(a), check_b = (uint64_t)(b);             \
        if (check_a != check_b) {                                              \
            fprintf(stderr, "%" PRIu64 " != %" PRIu64 "\n", check_a, check_b); \
            check_fail(__FILE__, __LINE__, #a " == " #b);                      \
        }                                                                      \
    } while (0)

struct check_env {
    uint64_t seed;
    uint64_t stress_ns;
};

_Noreturn static inline void check_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: check failed: %s\n", file, line, what);
    abort();
}

static inline struct check_env check_begin(int argc, char **argv)
{
    struct check_env env;
    const char *seconds = argc > 2 ? argv[2] : getenv("FR_STRESS_SECONDS");
    env.seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (fr_clock_ns() ^ (uint64_t)getpid() << 32) % 1000000007u;
    env.stress_ns = (uint64_t)((seconds != NULL ? strtod(seconds, NULL) : 2.0) * 1e9);
    printf("%s: seed %" PRIu64 "\n", argv[0], env.seed);
    fflush(stdout);
    return env;
}

static inline int check_end(void)
{
    puts("ok");
    return 0;
}

/* splitmix64: every seed is a good one, and each thread has its own. */
struct rng {
    uint64_t x;
};

static inline uint64_t rng_next(struct rng *r)
{
    uint64_t z = (r->x += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* 0 .. n-1 */
static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)(rng_next(r) % n);
}

static inline struct rng rng_fork(struct rng *r)
{
    return (struct rng){rng_next(r)};
}

#endif
