#!/bin/sh
# Checks idle.pml and room.pml with Spin: the protocol holds, and each left-out rule is found out. Needs spin and a C
# compiler.
# Half a minute with two workers; `run.sh full` adds three workers and spurious wake-ups: fifteen minutes, 12 GiB.
set -eu
models=$(cd "$(dirname "$0")" && pwd)
model=$models/idle.pml
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# check ERRORS FLAG...: runs the model with these flags and expects that many errors (0 or 1: Spin stops at the first).
check() {
    expected=$1
    shift
    spin "$@" -a "$model" >spin.log || { cat spin.log; exit 1; }
    cc -O2 -w -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -o pan pan.c
    ./pan -m4000000 >pan.log || true
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.log)
    states=$(sed -n 's/ *\([0-9.e+]*\) states, stored.*/\1/p' pan.log)
    if grep -q 'max search depth too small' pan.log; then echo "depth too small: $*"; exit 1; fi
    if [ "$expected" = 0 ] && grep -q 'Search not completed' pan.log; then cat pan.log; exit 1; fi
    echo "$*: $states states, $errors errors, $expected expected"
    [ "$errors" = "$expected" ] || { cat pan.log; exit 1; }
}

check 0 -DWORKERS=1 -DPUSHERS=2 -DPUSHES=2
check 0 -DWORKERS=2 -DPUSHERS=2 -DPUSHES=1 -DCHILDREN=2
check 0 -DWORKERS=2 -DPUSHERS=1 -DPUSHES=3 -DCHILDREN=1 -DSTUCK
check 0 -DWORKERS=1 -DPUSHERS=2 -DPUSHES=2 -DSPIN
check 0 -DWORKERS=2 -DPUSHERS=2 -DPUSHES=1 -DCHILDREN=1 -DSPIN
check 0 -DWORKERS=2 -DPUSHERS=1 -DPUSHES=2 -DCHILDREN=1 -DSTUCK -DSPIN
check 1 -DBUG_NO_RECHECK
check 1 -DBUG_TOKIO_RECHECK -DSTUCK
check 1 -DBUG_LOAD_BEFORE_STORE
check 1 -DBUG_LOST_UNPARK
check 1 -DBUG_NO_CHAIN -DSTUCK -DPUSHES=2
check 1 -DBUG_NO_CHAIN -DSTUCK -DSPIN -DPUSHES=2
check 1 -DBUG_NO_PULL_NOTIFY -DSTUCK -DPUSHES=2
check 1 -DBUG_SPIN_NO_RECHECK -DSPIN
if [ "${1:-}" = full ]; then
    check 0 -DWORKERS=2 -DPUSHERS=2 -DPUSHES=1 -DCHILDREN=1 -DSTUCK -DSPURIOUS=2
    check 0 -DWORKERS=2 -DPUSHERS=2 -DPUSHES=1 -DCHILDREN=2 -DSPIN
    check 0 -DWORKERS=2 -DPUSHERS=1 -DPUSHES=3 -DCHILDREN=1 -DSTUCK -DSPIN
    check 0 -DWORKERS=3 -DPUSHERS=1 -DPUSHES=2 -DCHILDREN=1
    check 0 -DWORKERS=3 -DPUSHERS=1 -DPUSHES=2 -DCHILDREN=1 -DSTUCK
    check 0 -DWORKERS=3 -DPUSHERS=2 -DPUSHES=1 -DCHILDREN=0 -DSTUCK
fi
model=$models/room.pml
check 0
check 0 -DSENDERS=3
check 0 -DSENDERS=3 -DCAPACITY=2
check 1 -DBUG_NO_LOOK
check 1 -DBUG_LOOK_FIRST
check 1 -DBUG_NO_MARK
check 1 -DBUG_CLEAR_LAST -DSENDERS=3
echo ok
