#!/bin/sh
# host_memory.sh [ROOT]: prints the memory in MiB that this host may use: what the kernel has, or what its control group
# is limited to. ROOT is where /proc and /sys are looked for (tests).
set -eu
root=${1-}
total=$(awk '/^MemTotal:/ {print int($2 / 1024)}' "$root/proc/meminfo")

lower_to() {
    case $1 in
    '' | max | *[!0-9]*) ;;
    *) total=$(awk -v limit="$1" -v total="$total" 'BEGIN {mib = int(limit / 1048576); print (mib < total ? mib : total)}') ;;
    esac
}

# Version 1 knows the lowest limit on the way up by itself, version 2 does not.
group=$(sed -n 's/^[0-9]*:memory://p' "$root/proc/self/cgroup")
lower_to "$(awk '/^hierarchical_memory_limit/ {print $2}' "$root/sys/fs/cgroup/memory$group/memory.stat" 2>/dev/null || true)"
group=$(sed -n 's/^0:://p' "$root/proc/self/cgroup")
while [ -n "$group" ]; do
    lower_to "$(cat "$root/sys/fs/cgroup$group/memory.max" 2>/dev/null || true)"
    group=${group%/*}
done
# Only a container sees a limit up there: its own.
lower_to "$(cat "$root/sys/fs/cgroup/memory.max" 2>/dev/null || true)"
echo "$total"
