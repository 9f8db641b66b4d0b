#!/bin/sh
# Prints the memory in MiB that this host may use: what the kernel has, or what its control group is limited to.
set -eu
total=$(awk '/^MemTotal:/ {print int($2 / 1024)}' /proc/meminfo)

lower_to() {
    case $1 in
    '' | max | *[!0-9]*) ;;
    *) total=$(awk -v limit="$1" -v total="$total" 'BEGIN {mib = int(limit / 1048576); print (mib < total ? mib : total)}') ;;
    esac
}

# Version 1 knows the lowest limit on the way up by itself, version 2 does not.
group=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
lower_to "$(awk '/^hierarchical_memory_limit/ {print $2}' "/sys/fs/cgroup/memory$group/memory.stat" 2>/dev/null || true)"
group=$(sed -n 's/^0:://p' /proc/self/cgroup)
while [ -n "$group" ]; do
    lower_to "$(cat "/sys/fs/cgroup$group/memory.max" 2>/dev/null || true)"
    group=${group%/*}
done
echo "$total"
