/* idle: a model of the idle/park protocol (rt/idle.h [I2] [I5], rt/park.h [P1]) in all interleavings, for Spin.
 *
 * WORKERS workers and PUSHERS foreign pushers, each of which pushes PUSHES tasks to the injector. Running tasks push
 * CHILDREN more in all, to the ring of the worker that runs them. Rings and injector are counters: what matters is who
 * looks at them when. Every atomic step below is one atomic operation in the code, or one critical section under idle's
 * lock. Memory is sequentially consistent here; what makes this fair is that the code's stores of tail and its accesses
 * of the idle word are seq_cst [Q5] [J5].
 *
 * Properties, checked whenever nothing can move any more (`watch`):
 *   no lost wake-up   all workers sleep => no task is left anywhere
 *   -DSTUCK           besides, any task may block its worker for ever: then, as long as a worker sleeps, no task waits
 *                     in a queue. So a long poll strands nothing.
 * And always: searching <= unparked <= WORKERS [I4].
 *
 * Flags that leave a rule out, each of which must be found out (run.sh):
 *   -DBUG_NO_RECHECK          nobody looks again after parking
 *   -DBUG_TOKIO_RECHECK       (with STUCK) only the last searcher does, as in Tokio; a worker which was refused the
 *                             search does not, though all searchers have found work meanwhile
 *   -DBUG_LOAD_BEFORE_STORE   the pusher looks for sleepers before it pushes
 *   -DBUG_NO_CHAIN            (with STUCK) the last searcher that finds work does not look for more, and wakes nobody
 *   -DBUG_NO_PULL_NOTIFY      (with STUCK) a worker that pulls several tasks from the injector wakes nobody
 *   -DBUG_LOST_UNPARK         the parker forgets a notification that comes before begin
 *   -DBUG_SPIN_NO_RECHECK     (with SPIN) a worker that has spun in vain parks without looking again
 * -DSPURIOUS adds workers that wake by themselves (time-outs, driver events). -DSPIN adds the spin before a worker parks,
 * while a blocking call is under way (py/worker.c, spin_before_park()): whether there is one, how long the spin lasts and
 * what ends it is left open. Tasks that the call's end makes runnable are the pushers'.
 */
#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef PUSHERS
#define PUSHERS 2
#endif
#ifndef PUSHES
#define PUSHES 1
#endif
#ifndef CHILDREN
#define CHILDREN 1
#endif
#ifndef SPURIOUS
#define SPURIOUS 0
#endif

#define NONE 255

byte inject;              /* tasks in the injector */
byte ring[WORKERS];       /* tasks in each worker's ring */
byte held;                /* tasks in workers' hands */
byte children = CHILDREN; /* how many more the running tasks push */
byte spurious = SPURIOUS; /* how many more times a worker wakes by itself */
byte searching;
byte unparked = WORKERS;
bool sleeping[WORKERS]; /* in idle's stack */
bool notified[WORKERS]; /* the parker's NOTIFIED */
bool parked[WORKERS];   /* asleep in the parker */
bool stuck[WORKERS];
bool spinning; /* rt->worker_spins */
byte pushing = PUSHERS;

#define SHOULD_WAKE (searching == 0 && unparked < WORKERS)

inline check_counts()
{
    assert(searching <= unparked && unparked <= WORKERS)
}

/* fr_idle_worker_to_notify(), then fr_park_unpark(). */
inline notify(who)
{
    if
    :: !SHOULD_WAKE -> skip /* fr_idle_should_wake(), without the lock */
    :: SHOULD_WAKE ->
        atomic { /* under idle's lock */
            who = NONE;
            if
            :: SHOULD_WAKE ->
                if /* any sleeper: more than the order of the stack allows */
                :: sleeping[0] -> who = 0
                :: WORKERS > 1 && sleeping[1 % WORKERS] -> who = 1 % WORKERS
                :: WORKERS > 2 && sleeping[2 % WORKERS] -> who = 2 % WORKERS
                :: WORKERS > 3 && sleeping[3 % WORKERS] -> who = 3 % WORKERS
                fi;
                sleeping[who] = false;
                unparked++;
                searching++;
                check_counts()
            :: else -> skip
            fi
        }
        if
        :: who != NONE -> atomic { notified[who] = true; who = NONE }
        :: else -> skip
        fi
    fi
}

proctype pusher()
{
    byte n = PUSHES, who = NONE;
    do
    :: n > 0 ->
#ifdef BUG_LOAD_BEFORE_STORE
        if
        :: !SHOULD_WAKE -> inject++
        :: SHOULD_WAKE -> inject++; notify(who)
        fi;
#else
        inject++;
        notify(who);
#endif
        n--
    :: else -> break
    od;
    pushing--
}

/* Takes everything from the injector: one in the hand, the others (`rest`) to the ring a moment later, as a batch pull
 * does; nobody sees them in between. */
inline pull(rest, found)
{
    atomic {
        rest = 0;
        if
        :: inject > 0 -> rest = inject - 1; inject = 0; held++; found = true
        :: else -> skip
        fi
    }
    if
    :: rest > 0 ->
        ring[me] = ring[me] + rest;
#ifndef BUG_NO_PULL_NOTIFY
        notify(who);
#endif
        rest = 0
    :: else -> skip
    fi
}

/* fr_work_anywhere() */
inline look_everywhere()
{
    i = 0;
    found = false;
    do
    :: i < WORKERS && !found -> atomic { found = (ring[i] > 0); i++ }
    :: else -> i = 0; break
    od;
    if
    :: !found -> found = (inject > 0)
    :: else -> skip
    fi
}

proctype worker(byte me)
{
    byte i, rest, who = NONE;
    bool last, search, found, vain;

again: /* own ring, then the injector */
    atomic {
        found = false;
        last = false;
        if
        :: ring[me] > 0 -> ring[me]--; held++; found = true
        :: else -> skip
        fi
    }
    if
    :: !found -> pull(rest, found)
    :: else -> skip
    fi;
    if
    :: found -> goto got_task
    :: else -> skip
    fi;

    /* One pass of stealing, if allowed: fr_idle_to_searching(), a load and then an add. */
    if
    :: search -> skip
    :: !search && 2 * searching < WORKERS -> atomic { searching++; search = true; check_counts() }
    :: !search && 2 * searching >= WORKERS -> goto spin
    fi;
    i = 0;
    do
    :: i < WORKERS && !found ->
        atomic {
            if
            :: i != me && ring[i] > 0 -> /* half, rounded up: one in the hand, the others to the own ring */
                ring[me] = ring[me] + (ring[i] - ring[i] / 2) - 1;
                ring[i] = ring[i] / 2;
                held++;
                found = true
            :: else -> skip
            fi;
            i++
        }
    :: else -> i = 0; break
    od;
    if
    :: !found -> pull(rest, found)
    :: else -> skip
    fi;
    if
    :: found -> goto got_task
    :: else -> goto spin
    fi;

got_task: /* leave_search() */
    if
    :: search ->
        atomic { /* fr_idle_from_searching() */
            last = (searching == 1);
            search = false;
            searching--;
            check_counts()
        }
#ifndef BUG_NO_CHAIN
        if
        :: last ->
            look_everywhere();
            if
            :: found -> notify(who)
            :: else -> skip
            fi
        :: else -> skip
        fi;
#endif
        skip /* there is a statement, whatever is left out */
    :: else -> skip
    fi;
    atomic { /* the task runs, and may push another one here */
        found = false;
        if
        :: children > 0 -> children--; ring[me]++; found = true
        :: true -> skip
        fi
    }
    if
    :: found -> notify(who)
    :: else -> skip
    fi;
#ifdef STUCK
    if
    :: true -> skip
    :: true -> stuck[me] = true;
end_stuck:
        false
    fi;
#endif
    held--;
    goto again;

spin: /* spin_before_park() */
#ifdef SPIN
    if
    :: true -> goto park /* no brief call is under way, or a spin is not worth it */
    :: true -> skip
    fi;
#if WORKERS > 1
    if /* counted as searching, or no spin */
    :: search -> skip
    :: !search && 2 * searching < WORKERS -> atomic { searching++; search = true; check_counts() }
    :: !search && 2 * searching >= WORKERS -> goto park
    fi;
    atomic {
        if
        :: spinning -> goto park
        :: else -> spinning = true
        fi
    }
#endif
    if /* whatever it saw may be gone when it looks for it, and it may give up at any time */
    :: inject > 0 -> found = true
    :: me != 0 && ring[0] > 1 -> found = true
    :: WORKERS > 1 && me != 1 % WORKERS && ring[1 % WORKERS] > 1 -> found = true
    :: WORKERS > 2 && me != 2 % WORKERS && ring[2 % WORKERS] > 1 -> found = true
    :: WORKERS > 3 && me != 3 % WORKERS && ring[3 % WORKERS] > 1 -> found = true
    :: true -> found = false
    fi;
#if WORKERS > 1
    spinning = false;
#endif
    if
    :: found -> goto again
    :: else -> vain = true; goto park
    fi;
#endif
park:
    atomic { /* fr_idle_to_parked(): under idle's lock */
        sleeping[me] = true;
#ifdef BUG_TOKIO_RECHECK
        last = (search && searching == 1);
#else
        last = (searching == search); /* none is left */
#endif
        searching = searching - search;
        unparked--;
        search = false;
        check_counts()
    }
#ifdef BUG_SPIN_NO_RECHECK
    last = last && !vain;
#endif
    vain = false;
#ifndef BUG_NO_RECHECK
    if
    :: last ->
        look_everywhere();
        if
        :: found -> notify(who)
        :: else -> skip
        fi
    :: else -> skip
    fi;
#endif
sleep:
    atomic { /* fr_park_begin() */
        last = false;
        found = false;
#ifdef BUG_LOST_UNPARK
        notified[me] = false;
#endif
        if
        :: notified[me] -> notified[me] = false; goto woken
        :: else -> parked[me] = true
        fi
    }
end_parked:
    if
    :: atomic { notified[me] -> notified[me] = false; parked[me] = false } /* fr_park_wait() */
    :: atomic { spurious > 0 -> spurious--; notified[me] = false; parked[me] = false }
        atomic { /* fr_idle_unpark_by_id() */
            if
            :: sleeping[me] -> sleeping[me] = false; unparked++
            :: else -> search = true
            fi
        }
        goto again
    fi;
woken:
    if /* fr_idle_is_parked(): a stale notification */
    :: sleeping[me] -> goto sleep
    :: !sleeping[me] -> search = true
    fi;
    goto again
}

#define RESTS(w) (stuck[w] || (parked[w] && !notified[w]))
#define ALL_REST (pushing == 0 && RESTS(0) && RESTS(1 % WORKERS) && RESTS(2 % WORKERS) && RESTS(3 % WORKERS))
#define SOME_SLEEP (parked[0] || parked[1 % WORKERS] || parked[2 % WORKERS] || parked[3 % WORKERS])
#define QUEUED (inject > 0 || ring[0] > 0 || ring[1 % WORKERS] > 0 || ring[2 % WORKERS] > 0 || ring[3 % WORKERS] > 0)

active proctype watch()
{
end_watch:
    atomic { ALL_REST -> assert(!(QUEUED && SOME_SLEEP)); assert(searching == 0) }
}

init {
    byte k = 0;
    atomic {
        do
        :: k < WORKERS -> run worker(k); k++
        :: else -> break
        od;
        k = 0;
        do
        :: k < PUSHERS -> run pusher(); k++
        :: else -> break
        od
    }
}
