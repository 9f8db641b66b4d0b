#!/bin/sh
# nvidia.sh: the kernel's packages of a Debian 13, and NVIDIA's repository for it, which is signed. It has three branches of
# the driver with nothing in them but what the role asks. As NVIDIA's, they take whatever is new enough, of another branch
# too; only a pin keeps one. Source:
# https://forums.developer.nvidia.com/t/debian-cuda-drivers-580-package-580-105-08-1-improperly-pulls-in-v590-components/353805
kernel=6.12.990+deb13-amd64
package linux-image-amd64 6.12.900-1
package linux-image-amd64 6.12.990-1
package linux-headers-$kernel 6.12.990-1
package linux-headers-amd64 6.12.990-1 linux-headers-$kernel
index

# As an image has it.
dpkg --install /srv/dummies/linux-image-amd64_6.12.990-1_all.deb

repository=/srv/repository/debian13/x86_64
[ "$(uname -m)" != aarch64 ] || repository=/srv/repository/debian13/sbsa
program usr/sbin/dkms <<'PROGRAM'
#!/bin/sh
[ "$1" != status ] || cat /usr/src/nvidia-*/status
PROGRAM
# Newer than Debian's, which brings a compiler.
package dkms 9.9

export FIELDS='Source: nvidia-driver'
for version in 590.48.01 595.58.03 595.71.05 610.57.04; do
    package libcuda1 $version-1
    program usr/bin/nvidia-smi <<PROGRAM
#!/bin/sh
case \$1 in
--list-gpus) echo "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-8f6d2a51-0000-0000-0000-000000000000)" ;;
--query-gpu=*) echo "NVIDIA A100-SXM4-40GB, $version" ;;
*) exit 2 ;;
esac
PROGRAM
    # The last one is in Debian's contrib, from its own mirror.
    package nvidia-driver-cuda $version-1 "libcuda1 (>= $version), nvidia-support"
    program usr/src/nvidia-$version/status <<STATUS
nvidia/$version, $kernel, x86_64: installed
STATUS
    package nvidia-kernel-open-dkms $version-1 "libcuda1 (>= $version), dkms"
done

export FIELDS='Provides: nvidia-driver-pinning
Conflicts: nvidia-driver-pinning
Replaces: nvidia-driver-pinning'
for branch in 590 595 610; do
    program etc/apt/preferences.d/nvidia-driver-pinning-$branch <<PREFERENCES
Package: src:*nvidia*:any src:cuda-drivers:any
Pin: version $branch*
Pin-Priority: 1000
PREFERENCES
    package nvidia-driver-pinning-$branch $branch-1
done
index
signed "$repository/8793F200.pub"
