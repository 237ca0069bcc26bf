/* room: a model of how senders that wait for room and the receiver that makes it find each other (rt/mpsc.h [Q14]) in all
 * interleavings, for Spin.
 *
 * SENDERS senders send MESSAGES messages each through a channel of capacity CAPACITY. Every atomic step below is one
 * atomic operation in the code, or one critical section under room.lock. Memory is sequentially consistent here; what makes
 * this fair is that the code's accesses of `popped` and `stalled` are seq_cst. The queue itself is a counter.
 *
 * Property: everybody ends (Spin looks for invalid end states), and no more than CAPACITY messages are ever in the queue.
 *
 * Flags that leave a rule out, each of which must be found out (run.sh):
 *   -DBUG_NO_LOOK      a sender sleeps without a look at `popped` after it has set `stalled`
 *   -DBUG_LOOK_FIRST   the receiver looks at `stalled` before it writes `popped`
 *   -DBUG_NO_MARK      the receiver does not set `stalled` again for who is still in line
 *   -DBUG_CLEAR_LAST   the receiver clears `stalled` after it has collected
 */
#ifndef SENDERS
#define SENDERS 2
#endif
#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef CAPACITY
#define CAPACITY 1
#endif

byte free = CAPACITY; /* of `room` */
byte pushed, popped, given;
bool stalled;
bool linked[SENDERS]; /* in line; false after it was granted */
byte line[SENDERS];   /* oldest first */
byte queued;

/* fr_sem_release_up_to(): one critical section. The wakes that follow it are of no interest: a granted sender goes on. */
inline collect()
{
    d_step {
        n = popped - given;
        given = popped;
        do
        :: n > 0 && queued > 0 ->
            linked[line[0]] = false;
            i = 1;
            do
            :: i < queued -> line[i - 1] = line[i]; i++
            :: else -> break
            od;
            queued--;
            n--
        :: else -> break
        od;
        free = free + n;
        n = 0;
        i = 0
    }
}

proctype sender(byte me)
{
    byte sent, n, i;
    bool got;
    do
    :: sent == MESSAGES -> break
    :: else ->
        atomic { got = free > 0; if :: got -> free-- :: else fi }
        if
        :: got
        :: else ->
            if :: popped != given -> collect() :: else fi;
            atomic { /* fr_sem_acquire() */
                if
                :: free > 0 -> free--; got = true
                :: else -> linked[me] = true; line[queued] = me; queued++
                fi
            }
            if
            :: got
            :: else ->
                stalled = true;
#ifndef BUG_NO_LOOK
                if :: popped != given -> collect() :: else fi;
#endif
                !linked[me] /* sleeps */
            fi
        fi;
        atomic { pushed++; assert(pushed - popped <= CAPACITY) }
        sent++
    od
}

proctype receiver()
{
    byte n, i;
    bool serve;
    do
    :: popped == SENDERS * MESSAGES -> break
    :: else ->
        pushed > popped;
#ifdef BUG_LOOK_FIRST
        serve = stalled;
        popped++;
#else
        popped++;
        serve = stalled;
#endif
        if
        :: serve ->
#ifndef BUG_CLEAR_LAST
            stalled = false;
#endif
            collect();
#ifdef BUG_CLEAR_LAST
            serve = queued > 0;
            stalled = false;
            if :: serve -> stalled = true :: else fi
#endif
#if !defined(BUG_NO_MARK) && !defined(BUG_CLEAR_LAST)
            if :: queued > 0 -> stalled = true :: else fi
#endif
        :: else
        fi
    od
}

init
{
    byte k;
    atomic {
        do
        :: k < SENDERS -> run sender(k); k++
        :: else -> break
        od;
        run receiver()
    }
}
