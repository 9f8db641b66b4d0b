#!/bin/sh
# ubuntu.sh: the packages of Ubuntu's server branch, with nothing in them but what the role asks.
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
program usr/bin/nvidia-smi <<'PROGRAM'
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
package nvidia-utils-580-server $driver
# As DKMS, which needs the kernel's headers: without them it can't be configured, and the driver does not work.
# shellcheck disable=SC2016 # for the package's own shell
package nvidia-dkms-580-server-open $driver '' \
    'dpkg-query --show linux-headers-6.8.0-1015-gcp >/dev/null 2>&1 || { touch /srv/broken; exit 10; }; rm -f /srv/broken'
index

# As a cloud image has them.
dpkg --install /srv/dummies/linux-image-gcp_*.deb /srv/dummies/linux-gcp_*.deb
