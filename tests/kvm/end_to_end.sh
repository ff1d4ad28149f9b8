#!/bin/sh
# The command line on the KVM backend, from end to end. It runs in the reference machine, as a user would
# type it; `cargo xtask test --only kvm` starts it and counts the lines that it prints:
#   ok NAME      or      FAILED NAME and what was printed, indented.
export XDG_RUNTIME_DIR=/run/user
mkdir -p -m 700 $XDG_RUNTIME_DIR

check() {
    name=$1
    if (set -e; $name) >/tmp/output 2>&1 </dev/null; then
        echo "ok $name"
    else
        echo "FAILED $name"
        sed 's/^/  | /' /tmp/output
    fi
}

# Waits until a command succeeds.
eventually() {
    for i in $(seq 600); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "still waiting for: $*"
    return 1
}

printed() { belljar console t | grep -q "$1"; }
clean() { [ -z "$(ls -A $XDG_RUNTIME_DIR)" ]; }

# No process of ours but zombies, which their parent has not waited for.
nobody_is_left() {
    for pid in $(pidof belljar belljar-guard); do
        grep -q "^State:.[^ZX]" /proc/$pid/status && return 1
    done
    true
}

output_and_status_are_the_guests() {
    status=0
    output=$(belljar run shell -- sh -c 'echo $((6*7)); exit 7') || status=$?
    [ "$output" = 42 ]
    [ $status = 7 ]
    clean
}

input_reaches_the_guest_with_its_end() {
    output=$(seq 2000 | belljar run shell -- md5sum)
    [ "$output" = "$(seq 2000 | md5sum)" ]
}

auto_chooses_kvm_and_says_why() {
    belljar run --backend auto shell -- true 2>&1 | grep "backend kvm, because"
}

doctor_finds_kvm() {
    belljar doctor | grep "GICv3, up to"
}

every_cpu_starts() {
    [ "$(belljar run --cpus 4 shell -- nproc)" = 4 ]
}

too_many_cpus_or_no_kernel_are_refused_in_one_line() {
    ! belljar run --kernel /bin/busybox shell -- true 2>/tmp/complaint
    [ "$(wc -l </tmp/complaint)" = 1 ]
}

views_show_a_running_guest() {
    belljar run --detach --name t shell -- sh -c 'sleep 1000 & echo ready; wait'
    eventually printed ready
    belljar ls | grep "kvm"
    belljar ps t | grep sleep
    belljar pstree t | grep sleep
    belljar log t | grep "Bell Jar"
    belljar kill t
    clean
}

a_paused_guest_does_not_notice() {
    belljar run --detach --name t shell -- \
        sh -c 'while true; do cut -d " " -f 1 /proc/uptime; sleep 0.1; done'
    eventually printed .
    belljar pause t
    before=$(belljar console t | wc -l)
    belljar ls | grep paused
    sleep 15
    # It printed nothing meanwhile, and can still be looked at.
    [ "$(belljar console t | wc -l)" = "$before" ]
    belljar ps t | grep sh
    belljar unpause t
    more() { [ "$(belljar console t | wc -l)" -gt $((before + 3)) ]; }
    eventually more
    belljar console t >/tmp/uptimes
    belljar kill t
    # The pause is in no step of the guest's clock.
    awk 'NR > 1 && $1 - last > 10 { print "a step of", $1 - last; bad = 1 } { last = $1 } END { exit bad }' \
        /tmp/uptimes
}

timeout_ends_it_with_124() {
    status=0
    belljar run --timeout 3 shell -- sleep 1000 || status=$?
    [ $status = 124 ]
    clean
}

killed_by_sigkill_nothing_is_left() {
    belljar run --name t shell -- sh -c 'echo ready; sleep 1000' >/tmp/killed &
    eventually grep ready /tmp/killed
    kill -9 $!
    eventually clean
    eventually nobody_is_left
}

for name in $(sed -n 's/^\([a-z_0-9]*\)() {$/\1/p' "$0"); do
    case $name in
        check | eventually | nobody_is_left) ;;
        *) check $name ;;
    esac
done
