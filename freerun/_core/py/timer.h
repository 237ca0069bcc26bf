/* timer: what everything that waits for an instant embeds: a wheel entry and who armed it.
 *
 * THREADS    the one that polls the task that it is armed for; clear: whoever owns the memory.
 * STATE      attached.
 * OWNERSHIP  while armed the wheel holds a reference to the task; the driver takes it along when it fires.
 * FIELDS     sleep       see rt/timers.h
 *            rt          where it was armed, NULL: nowhere. `generation` is that runtime's: it may be over by now
 *            sleep.task  for whom; only compared. Look at it through a reference that fr_alarm_take() got back
 * INVARIANTS A1 an alarm is cleared before its memory goes, or moves to another task.
 * LOCKS      a shard's of rt/timers.h, inside.
 * SHUTDOWN   an alarm may outlive its runtime: clearing it is then nothing.
 * PROVED BY  tests/time/
 */
#ifndef FR_TIMER_H
#define FR_TIMER_H

#include "runtime.h"

struct fr_alarm {
    struct fr_sleep sleep;
    struct fr_runtime *rt;
    uint64_t generation;
};

/* Instants are ns of the runtime's clock. FOREVER: the end of time, which needs no timer. */
#define FR_FOREVER_NS ((uint64_t)INT64_MAX)

static inline void fr_alarm_init(struct fr_alarm *alarm)
{
    alarm->sleep = (struct fr_sleep){.task = NULL};
    alarm->rt = NULL;
}

/* Set for that task, in this life of its runtime: fired or not, there is nothing to set. */
static inline bool fr_alarm_is_for(const struct fr_alarm *alarm, const struct fr_task *task)
{
    return alarm->rt == task->rt && alarm->sleep.task == task && alarm->generation == task->rt->generation;
}

static inline bool fr_alarm_fired(struct fr_alarm *alarm)
{
    return fr_sleep_fired(&alarm->sleep);
}

/* What fired came too late to matter. Only once it is cleared. */
static inline void fr_alarm_forget(struct fr_alarm *alarm)
{
    atomic_store_explicit(&alarm->sleep.fired, false, memory_order_relaxed); /* the driver is done with it [TM2] */
}

/* Wakes `task` at that time. False: it is due already, nothing was set. The alarm is not set yet. */
bool fr_alarm_set(struct fr_alarm *alarm, struct fr_task *task, uint64_t when_ns);
void fr_alarm_clear_slow(struct fr_alarm *alarm);

/* Takes it out of the wheel if it is there. `fired` stays what it was. */
static inline void fr_alarm_clear(struct fr_alarm *alarm)
{
    if (alarm->rt) {
        fr_alarm_clear_slow(alarm);
    }
}

/* The same on behalf of a task that has not set it. False, with RuntimeError: the one that has still runs and waits. */
bool fr_alarm_take(struct fr_alarm *alarm, struct fr_task *task, uint64_t when_ns);

/* A number of seconds in ns, rounded up: the least whose quotient by 1e9 is not below it. */
uint64_t fr_delay_ns(double seconds);

static inline uint64_t fr_deadline_after(uint64_t now, uint64_t delay)
{
    return delay >= FR_FOREVER_NS - now ? FR_FOREVER_NS : now + delay;
}

/* Nanoseconds of a Python int; beyond the end of time is for ever, before its beginning is 0. 0 or -1. */
int fr_parse_instant(PyObject *value, uint64_t *when_ns);
void fr_no_timers(void);

/* False, with RuntimeError: the runtime was built without timers. */
static inline bool fr_timers_enabled(struct fr_runtime *rt)
{
    if (__builtin_expect(!rt->time, 0)) {
        fr_no_timers();
    }
    return rt->time;
}

#endif
