#!/bin/sh
# replace_cuda_libraries.sh SITE_PACKAGES
# The package index has PyTorch for x86_64 only with CUDA, and the dynamic loader insists on 2.7 GB of NVIDIA libraries
# that a host without a GPU never calls. This links stand-ins of a few kilobytes: each defines, with its version, every
# function that PyTorch wants from one absent library. Nothing calls them, because the CUDA runtime is the real one and
# reports that there is no GPU; a call would end in a trap, not in a wrong number.
set -eu

libraries=$1/torch/lib
work=$(mktemp -d)

# libcuda.so.1 is the driver's; where it is absent, PyTorch must see that it is.
ldd "$libraries"/*.so | awk '/=> not found/ && $1 != "libcuda.so.1" {print $1}' | sort -u >"$work/absent"

for library in "$libraries"/*.so; do
    readelf --wide --dyn-syms "$library" | awk '$7 == "UND" && $4 == "FUNC" && $5 == "GLOBAL" {print $8}'
done | sort -u >"$work/wanted"

while read -r name; do
    case $name in
    libnvshmem_host.*) version=NVSHMEM ;;
    *) version=$name ;;
    esac
    if grep -q "@$version\$" "$work/wanted"; then
        grep "@$version\$" "$work/wanted" | cut -d @ -f 1 >"$work/symbols"
        { echo "$version {"; sed 's/$/;/' "$work/symbols"; echo '};'; } >"$work/versions"
    else
        # NCCL, cuRAND and others have no versions, so nothing says which of them a function belongs to.
        grep -E '^(nccl|curand|cusparseLt|cusolver|cuFile)[A-Za-z0-9_]*$' "$work/wanted" >"$work/symbols"
        echo '{ global: *; };' >"$work/versions"
    fi
    sed 's/.*/void &(void) { __builtin_trap(); }/' "$work/symbols" >"$work/functions.c"
    gcc -shared -fPIC -nostdlib -w -Wl,-soname,"$name" -Wl,--version-script="$work/versions" \
        -o "$libraries/$name" "$work/functions.c"
done <"$work/absent"
rm -rf "$work"
