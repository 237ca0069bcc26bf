/* kinds: what the tests of poller and driver share: each runs with every kind of poller that this system has. */
#ifndef FR_TESTS_KINDS_H
#define FR_TESTS_KINDS_H

#include <stdio.h>
#include <string.h>

#include "../rt/poller.h"
#include "check.h"

static enum fr_poller_kind kind;

static inline void each_kind(struct check_env *env, void (*test)(struct check_env *env))
{
    struct fr_poller probe;
    kind = FR_POLLER_EPOLL;
    test(env);
    kind = FR_POLLER_IO_URING;
    int refused = fr_poller_init(&probe, kind);
    if (refused) {
        printf("no io_uring here: %s\n", strerror(-refused));
        return;
    }
    fr_poller_destroy(&probe);
    test(env);
}

#endif
