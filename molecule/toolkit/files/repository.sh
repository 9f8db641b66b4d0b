#!/bin/sh
# repository.sh: the toolkit's packages around /srv/nvidia-ctk, an older version, the pinned one and a newer one, in a
# repository that is laid out and signed as NVIDIA's is.
set -eu
work=$(mktemp -d)
packages=/srv/repository/stable/deb/amd64
mkdir -p "$packages"

package() { # NAME VERSION DEPENDS; what stands in $work/root goes in
    mkdir -p "$work/root/DEBIAN"
    cat >"$work/root/DEBIAN/control" <<CONTROL
Package: $1
Version: $2
Architecture: amd64
Maintainer: nobody <nobody@example.com>
Depends: $3
Description: $1 of a test
CONTROL
    dpkg-deb --build --root-owner-group -Znone "$work/root" "$packages/$1_${2}_amd64.deb" >/dev/null
    rm -r "$work/root"
}

for version in 1.16.2-1 1.17.8-1 1.99.0-1; do
    mkdir -p "$work/root/usr/bin"
    install -m 755 /srv/nvidia-ctk "$work/root/usr/bin/nvidia-ctk"
    package nvidia-container-toolkit-base "$version" dpkg
    package libnvidia-container1 "$version" dpkg
    package libnvidia-container-tools "$version" "libnvidia-container1 (>= $version)"
    package nvidia-container-toolkit "$version" \
        "nvidia-container-toolkit-base (= $version), libnvidia-container-tools (>= $version)"
done

cd "$packages"
for file in *.deb; do
    dpkg-deb --field "$file"
    echo "Filename: ./$file"
    echo "Size: $(stat -c %s "$file")"
    echo "SHA256: $(sha256sum "$file" | cut -d ' ' -f 1)"
    echo
done >Packages
{
    echo "Date: $(date --utc --rfc-email)"
    echo "SHA256:"
    echo " $(sha256sum Packages | cut -d ' ' -f 1) $(stat -c %s Packages) Packages"
} >Release
export GNUPGHOME="$work/keys"
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key 'A repository of a test <nobody@example.com>' ed25519 sign never
gpg --batch --armor --export >/srv/repository/gpgkey
gpg --batch --quiet --clearsign --output InRelease Release
gpgconf --kill all
