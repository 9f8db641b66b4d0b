#!/bin/sh
# dummies.sh: builds the packages of a driver, with nothing in them but what the role asks, into a repository at
# /srv/dummies that apt trusts.
set -eu
repository=/srv/dummies
work=$(mktemp -d)
mkdir -p "$repository"

package() { # NAME VERSION [DEPENDS [POSTINST]]; what stands in $work/root goes in
    mkdir -p "$work/root/DEBIAN"
    cat >"$work/root/DEBIAN/control" <<CONTROL
Package: $1
Version: $2
Architecture: all
Maintainer: nobody <nobody@example.com>
Depends: ${3:-dpkg}
Description: a dummy of $1
CONTROL
    if [ -n "${4-}" ]; then
        printf '#!/bin/sh\n%s\n' "$4" >"$work/root/DEBIAN/postinst"
        chmod 755 "$work/root/DEBIAN/postinst"
    fi
    dpkg-deb --build --root-owner-group "$work/root" "$repository/$1_${2}_all.deb" >/dev/null
    rm -r "$work/root"
}

driver=580.95.05-0ubuntu0.24.04.2
kernel=6.8.0-1015
package linux-image-gcp $kernel.17
package linux-gcp $kernel.17 linux-image-gcp
package linux-headers-$kernel-gcp $kernel.17
package linux-modules-nvidia-580-server-open-$kernel-gcp $kernel.17
package linux-modules-nvidia-580-server-open-gcp $kernel.17 linux-modules-nvidia-580-server-open-$kernel-gcp
package libnvidia-compute-580-server $driver
package nvidia-headless-no-dkms-580-server-open $driver libnvidia-compute-580-server
# Answers like a driver of one L4, unless somebody broke it or upgraded it since the boot; remembers when it was asked to list the GPUs.
mkdir -p "$work/root/usr/bin"
cat >"$work/root/usr/bin/nvidia-smi" <<'PROGRAM'
#!/bin/sh
if [ -e /srv/broken ]; then
    echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    exit 9
fi
if [ -e /run/mismatch ]; then
    echo "Failed to initialize NVML: Driver/library version mismatch"
    exit 18
fi
case $1 in
--list-gpus)
    date +%s.%N >>/srv/asked
    echo "GPU 0: NVIDIA L4 (UUID: GPU-8f6d2a51-0000-0000-0000-000000000000)"
    ;;
--query-gpu=*) echo "NVIDIA L4, 580.95.05" ;;
*) exit 2 ;;
esac
PROGRAM
chmod 755 "$work/root/usr/bin/nvidia-smi"
package nvidia-utils-580-server $driver
# As DKMS, which needs the kernel's headers: without them it can't be configured, and the driver does not work.
# shellcheck disable=SC2016 # for the package's own shell
package nvidia-dkms-580-server-open $driver '' \
    'dpkg-query --show linux-headers-6.8.0-1015-gcp >/dev/null 2>&1 || { touch /srv/broken; exit 10; }; rm -f /srv/broken'

cd "$repository"
for file in *.deb; do
    dpkg-deb --field "$file"
    echo "Filename: ./$file"
    echo "Size: $(stat -c %s "$file")"
    echo "SHA256: $(sha256sum "$file" | cut -d ' ' -f 1)"
    echo
done >Packages
