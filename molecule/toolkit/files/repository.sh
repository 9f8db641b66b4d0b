#!/bin/sh
# repository.sh: the toolkit's packages around /srv/nvidia-ctk, an older version, the pinned one and a newer one, in a
# repository that is laid out and signed as NVIDIA's is. It stands after packages.sh.
# shellcheck disable=SC2034 # packages.sh puts them there
repository=/srv/repository/stable/deb/amd64
for version in 1.16.2-1 1.17.8-1 1.99.0-1; do
    program usr/bin/nvidia-ctk </srv/nvidia-ctk
    package nvidia-container-toolkit-base $version
    package libnvidia-container1 $version
    package libnvidia-container-tools $version "libnvidia-container1 (>= $version)"
    package nvidia-container-toolkit $version \
        "nvidia-container-toolkit-base (= $version), libnvidia-container-tools (>= $version)"
done
index
signed /srv/repository/gpgkey
