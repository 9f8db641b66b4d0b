#!/bin/sh
# nvidia_facts.sh [all [ROOT]]: what this host can say about its NVIDIA GPUs, their driver and its packages; changes
# nothing. A line "@@ NAME" stands before each answer; plugins/module_utils/_nvidia_host.py reads them.
# "all" asks apt what it could install also where nvidia-smi answers. ROOT is where files are looked for (tests).
# What is missing leaves its answer empty: nothing but a shell, coreutils, awk and dpkg must be there.

# By the links of the process that stands in the list of locks: the number of an inode alone repeats elsewhere.
holds_lock() { # FILE
    [ -e "$1" ] || return 1
    awk -v inode="$(stat -c %i "$1")" '{ split($6, place, ":"); if (place[3] == inode) print $5 }' "$root/proc/locks" |
        while read -r process; do
            for link in "$root/proc/$process/fd/"*; do
                if [ "$(readlink "$link")" = "$1" ]; then echo "$process"; fi
            done
        done | grep -q .
}

main() {
    root=${2-}
    kernel=$(uname -r)
    echo "@@ distribution"
    # shellcheck source=/dev/null
    (
        . "$root/etc/os-release"
        case $ID in
        ubuntu) echo "Ubuntu $VERSION_ID" ;;
        debian) echo "Debian $VERSION_ID" ;;
        *) echo "$PRETTY_NAME" ;;
        esac
    )
    echo "@@ architecture"
    uname -m
    echo "@@ container"
    systemd-detect-virt --container
    echo "@@ kernel"
    echo "$kernel"
    # address vendor device class
    echo "@@ pci"
    for device in "$root"/sys/bus/pci/devices/*; do
        [ "$(cat "$device/vendor")" = 0x10de ] || continue
        echo "${device##*/} 0x10de $(cat "$device/device") $(cat "$device/class")"
    done
    # The last byte of the variable, behind four of attributes. Without UEFI there is none.
    echo "@@ secure_boot"
    cat "$root"/sys/firmware/efi/efivars/SecureBoot-* | od -An -tu1 -j4 -N1 | tr -d ' '
    echo "@@ modules"
    awk '$1 == "nvidia" || $1 == "nouveau" { print $1 }' "$root/proc/modules"
    echo "@@ loaded"
    cat "$root/proc/driver/nvidia/version"
    # Version and licence of what the running kernel would load.
    echo "@@ module"
    modinfo -k "$kernel" -F version nvidia && modinfo -k "$kernel" -F license nvidia
    # The exit status, then what was said. A driver that hangs must not make this hang.
    echo "@@ smi"
    said=$(timeout 60 nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>&1)
    status=$?
    printf '%s\n%s\n' "$status" "$said"
    echo "@@ packages"
    # shellcheck disable=SC2016 # dpkg's own fields
    dpkg-query --show --showformat '${db:Status-Abbrev} ${Package} ${Version}\n' \
        '*nvidia*' 'cuda-drivers*' libcuda1 nvlsm 'linux-image*' 'linux-headers*' 'linux-generic*' 'linux-virtual*' \
        'linux-aws*' 'linux-gcp*' 'linux-azure*' 'linux-oracle*' 'linux-ibm*' 'linux-lowlatency*' | grep -v '^un'
    echo "@@ held"
    apt-mark showhold
    echo "@@ dkms"
    dkms status | grep '^nvidia'
    # NVIDIA's own installer leaves its counterpart; no package has one.
    echo "@@ runfile"
    ls "$root/usr/bin/nvidia-uninstall"
    echo "@@ available"
    if [ "${1-}" = all ] || [ "$status" -ne 0 ]; then
        apt-cache search --names-only \
            '^(nvidia-(headless|utils|fabricmanager)-|linux-modules-nvidia-|linux-headers-|linux-image-)' | cut -d ' ' -f 1
    fi
    # How many lists of packages apt has; a fresh image has none.
    echo "@@ lists"
    find "$root/var/lib/apt/lists" -name '*Packages*' | wc -l
    echo "@@ busy"
    for lock in var/lib/dpkg/lock-frontend var/lib/dpkg/lock var/lib/apt/lists/lock var/cache/apt/archives/lock; do
        if holds_lock "$root/$lock"; then echo "/$lock is held"; fi
    done
    # Images that bring their driver at the first boot do it here.
    for unit in google-startup-scripts.service cloud-final.service; do
        [ "$(systemctl is-active "$unit")" != activating ] || echo "$unit is at work"
    done
    # Names of processes are cut after 15 letters.
    for file in "$root"/proc/[0-9]*/comm; do
        read -r name <"$file" || continue
        case $name in
        dkms | cloud-init | nvidia-installe | ubuntu-drivers) echo "$name is at work" ;;
        esac
    done
}

# Whole, and with nothing on its input: it may itself come by the input of the shell.
export LC_ALL=C
main "$@" </dev/null 2>/dev/null
exit 0
