# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What Google's guest agent runs on a machine as root: at each boot, and when it is taken back."""

from __future__ import annotations

import shlex

DRAIN_HOOKS_PATH = "/etc/gpuops-fleet/drain.d"

# Images let root in with a key, or not at all, or with a word that only says no. The name comes after that of the role
# hardening's file, which this would otherwise write over at each boot: sshd takes the first value that it reads.
_STARTUP = """\
#!/bin/sh
set -eu
mkdir -p /root/.ssh /etc/ssh/sshd_config.d @HOOKS@
echo @KEY@ > /root/.ssh/authorized_keys
chmod 700 /root/.ssh
chmod 600 /root/.ssh/authorized_keys
echo 'PermitRootLogin prohibit-password' > /etc/ssh/sshd_config.d/01-gpuops-fleet-root.conf
systemctl reload ssh.service || systemctl reload sshd.service
"""

_SHUTDOWN = """\
#!/bin/sh
# Google runs this at each shutdown. When it takes a spot machine back, there are 30 seconds for what stands in @HOOKS@.
set -u
metadata=${GPUFLEET_METADATA:-http://metadata.google.internal}
hooks=${GPUFLEET_DRAIN_HOOKS:-@HOOKS@}
taken=$(curl -sf -m 2 -H 'Metadata-Flavor: Google' "$metadata/computeMetadata/v1/instance/preempted") || exit 0
[ "$taken" = TRUE ] || exit 0
echo "Google takes this machine back"
[ ! -d "$hooks" ] || run-parts --verbose "$hooks"
"""


def startup_script(ssh_public_key: str) -> str:
    """Only the type and the key of it, not its comment."""
    key = " ".join(ssh_public_key.split()[:2])
    return _STARTUP.replace("@KEY@", shlex.quote(key)).replace("@HOOKS@", DRAIN_HOOKS_PATH)


def shutdown_script() -> str:
    return _SHUTDOWN.replace("@HOOKS@", DRAIN_HOOKS_PATH)
