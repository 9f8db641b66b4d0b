#!/bin/sh
# strangers.sh NAME [ROOT]: prints a sentence for each thing that has a name which the service NAME needs and that this
# collection did not make: a unit, a drain hook, files in /opt/NAME, a Compose project. Nothing is changed. ROOT is where files are
# looked for (tests).
set -eu
name=$1
root=${2-}
directory=/opt/$name
written='^# Written by the role gpuops\.fleet\.service\.$'
advice="Move it away, or deploy $name to another host."

is_ours() {
    [ -f "$1" ] && head -n 2 "$1" | grep -q "$written"
}

for unit in "$name.service" "$name-env-refresh.service"; do
    # What stands in the first one hides the others, so where it is ours they no longer matter.
    is_ours "$root/etc/systemd/system/$unit" && continue
    for path in /etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system; do
        if [ -e "$root$path/$unit" ] || [ -L "$root$path/$unit" ]; then
            echo "$path/$unit is a unit that gpuops.fleet did not write, and would be replaced. $advice"
        fi
    done
done
if [ -e "$root/etc/init.d/$name" ]; then
    echo "/etc/init.d/$name starts a service that gpuops.fleet did not install, and would be replaced. $advice"
fi

# NN-NAME is ours there; what somebody else wants to run has any other name.
for hook in "$root/etc/gpuops-fleet/drain.d/"[0-9][0-9]-"$name"; do
    if [ -e "$hook" ] && ! is_ours "$hook"; then
        echo "${hook#"$root"} is a drain hook that gpuops.fleet did not write, and would be replaced. Give it another name."
    fi
done

# service.json is the first file that the role writes there. Directories alone may be a disk that was mounted beforehand.
if ! is_ours "$root/etc/systemd/system/$name.service" &&
    ! grep -qs '"address_metadata"' "$root$directory/service.json"; then
    found=$(find -H "$root$directory" -mindepth 1 ! -type d -print -quit 2>/dev/null || true)
    if [ -n "$found" ]; then
        echo "$directory holds files that gpuops.fleet did not write, such as ${found#"$root"}. $advice"
    fi
fi

# Compose names a project after its folder and knows it by that name alone: it would take these containers for ours.
tab=$(printf '\t')
own=$(readlink -f "$root$directory" || true)
docker ps --all --filter "label=com.docker.compose.project=$name" \
    --format '{{.Names}}{{"\t"}}{{.Label "com.docker.compose.project.working_dir"}}' 2>/dev/null |
    while IFS="$tab" read -r container home; do
        case ${home%/} in '' | "$directory" | "$own") continue ;; esac
        echo "The container $container belongs to another Compose project that is named $name too, in $home. Remove it" \
            "(docker compose --project-directory $home down) or give that project another name."
    done
