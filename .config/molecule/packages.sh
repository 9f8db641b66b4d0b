#!/bin/sh
# packages.sh: makes packages, and repositories of them. It stands before the script of a scenario, which says which.
set -eu
repository=/srv/dummies # where they go
work=$(mktemp -d)
FIELDS='' # more of the package that comes next

package() { # NAME VERSION [DEPENDS [POSTINST]]; what stands in $work/tree goes in
    mkdir -p "$work/tree/DEBIAN" "$repository"
    cat >"$work/tree/DEBIAN/control" <<CONTROL
Package: $1
Version: $2
Architecture: all
Maintainer: nobody <nobody@example.com>
Depends: ${3:-dpkg}${FIELDS:+
$FIELDS}
Description: a dummy of $1
CONTROL
    if [ -n "${4-}" ]; then
        printf '#!/bin/sh\n%s\n' "$4" >"$work/tree/DEBIAN/postinst"
        chmod 755 "$work/tree/DEBIAN/postinst"
    fi
    # As debhelper does it.
    (cd "$work/tree" && if [ -d etc ]; then find etc -type f -printf '/%p\n' >DEBIAN/conffiles; fi)
    dpkg-deb --build --root-owner-group -Znone "$work/tree" "$repository/$1_${2}_all.deb" >/dev/null
    rm -r "$work/tree"
}

program() { # PATH; its text is on the input
    mkdir -p "$(dirname "$work/tree/$1")"
    cat >"$work/tree/$1"
    chmod 755 "$work/tree/$1"
}

index() {
    (
        cd "$repository"
        for file in *.deb; do
            dpkg-deb --field "$file"
            echo "Filename: ./$file"
            echo "Size: $(stat -c %s "$file")"
            echo "SHA256: $(sha256sum "$file" | cut -d ' ' -f 1)"
            echo
        done >Packages
    )
}

signed() { # KEY: its index is signed, and this file gets the key
    (
        cd "$repository"
        {
            echo "Date: $(date --utc --rfc-email)"
            echo "SHA256:"
            echo " $(sha256sum Packages | cut -d ' ' -f 1) $(stat -c %s Packages) Packages"
        } >Release
        export GNUPGHOME="$work/keys"
        mkdir -m 700 "$GNUPGHOME"
        gpg --batch --quiet --passphrase '' --quick-generate-key 'A repository of a test <nobody@example.com>' ed25519 sign never
        gpg --batch --armor --export >"$1"
        gpg --batch --quiet --clearsign --output InRelease Release
        gpgconf --kill all
    )
}
