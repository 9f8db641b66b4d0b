# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What cloud-init sets up at the first boot of a machine at EC2. Who is on the machine can read it: no secret is there.

The lifetime ends by a timer of systemd with an absolute time: it survives reboots and needs no controller. Before it
powers the machine off, which ends the rental, it reads the expiry in the machine's own tag, where it may be later now.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from ansible_collections.gpuops.fleet.plugins.module_utils import _marker
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Marker

MARKER_TAG = "gpuops-fleet"  # the machine reads it, too
EXPIRY_SCRIPT_PATH = "/usr/local/sbin/gpuops-fleet-expiry"
DRAIN_SCRIPT_PATH = "/usr/local/sbin/gpuops-fleet-drain"
DRAIN_HOOKS_PATH = "/etc/gpuops-fleet/drain.d"

# Asks the metadata service by its second version; fails for what isn't there.
_ASK = """\
ask() {
    token=$(curl -sf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") &&
        curl -sf -m 5 -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/$1"
}
"""

_EXPIRY_SCRIPT = """\
#!/bin/bash
# Ends this rented machine when its lifetime is over: what powers itself off is terminated.
# The expiry stands in its own tag, and may have been put off since; without an answer the latest that is known holds:
# the one at the start, or the one of the drop-in that an earlier run wrote.
set -u
metadata=${GPUFLEET_METADATA:-http://169.254.169.254}
pause=${GPUFLEET_PAUSE:-30}
units=${GPUFLEET_UNITS:-/etc/systemd/system}
identity=@IDENTITY@
expires=@EXPIRES@
file=$units/gpuops-fleet-expiry.timer.d/expiry.conf
if [[ -r $file ]] && read -r _ known < "$file" && [[ $known =~ ^[1-9][0-9]{0,11}$ ]] && ((known > expires)); then
    expires=$known
fi
@ASK@
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    if marker=$(ask tags/instance/@TAG@); then
        hours=${marker#"$identity--"}
        if [[ $hours =~ ^[0-9a-z]{4}$ ]]; then
            expires=$((36#$hours * 3600))
        fi
        ((expires)) || exit 0 # it lives until somebody destroys it
        break
    fi
    sleep "$pause"
done
if ((expires > $(date +%s))); then
    at=$(date -u -d "@$expires" '+%Y-%m-%d %H:%M:%S UTC')
    # An empty OnCalendar= clears OnBootSec=, too (systemd.timer(5)), so both are said anew.
    timer=$(printf '# %s\\n[Timer]\\nOnCalendar=\\nOnCalendar=%s\\nOnBootSec=2min' "$expires" "$at")
    # Only where it differs: a timer that is started again runs this again, because its OnBootSec has passed.
    if [[ $(cat "$file" 2> /dev/null) != "$timer" ]]; then
        mkdir -p "${file%/*}"
        printf '%s\\n' "$timer" > "$file"
        systemctl daemon-reload
        systemctl --no-block restart gpuops-fleet-expiry.timer
    fi
    exit
fi
systemctl poweroff
"""

_DRAIN_SCRIPT = """\
#!/bin/bash
# Runs what stands in @HOOKS@ once, when EC2 announces that it takes this spot machine back in two minutes.
set -u
metadata=${GPUFLEET_METADATA:-http://169.254.169.254}
pause=${GPUFLEET_PAUSE:-5}
hooks=${GPUFLEET_DRAIN_HOOKS:-@HOOKS@}
@ASK@
until notice=$(ask spot/instance-action); do
    sleep "$pause"
done
echo "EC2 takes this machine back: $notice"
run-parts --verbose "$hooks"
"""

_EXPIRY_TIMER = """\
[Unit]
Description=The end of this rental

[Timer]
OnCalendar=@AT@
OnBootSec=2min
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
"""

_EXPIRY_SERVICE = f"""\
[Unit]
Description=Ends this rented machine when its lifetime is over

[Service]
Type=oneshot
ExecStart={EXPIRY_SCRIPT_PATH}
"""

_DRAIN_SERVICE = f"""\
[Unit]
Description=Drains this machine when EC2 takes it back

[Service]
ExecStart={DRAIN_SCRIPT_PATH}
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def user_data(marker: Marker, *, interruptible: bool) -> str:
    """A cloud-config; as JSON, which is YAML too."""
    files: list[dict[str, str]] = []
    commands: list[list[str]] = [["systemctl", "daemon-reload"]]
    if marker.expiry_epoch_hours:
        files += [
            _file(EXPIRY_SCRIPT_PATH, expiry_script(marker), "0755"),
            _file("/etc/systemd/system/gpuops-fleet-expiry.service", _EXPIRY_SERVICE),
            _file(
                "/etc/systemd/system/gpuops-fleet-expiry.timer",
                _EXPIRY_TIMER.replace("@AT@", _at(marker.expiry_epoch_hours)),
            ),
        ]
        commands.append(["systemctl", "enable", "--now", "gpuops-fleet-expiry.timer"])
    if interruptible:
        files += [
            _file(DRAIN_SCRIPT_PATH, drain_script(), "0755"),
            _file("/etc/systemd/system/gpuops-fleet-drain.service", _DRAIN_SERVICE),
        ]
        commands.append(["mkdir", "-p", DRAIN_HOOKS_PATH])
        commands.append(["systemctl", "enable", "--now", "gpuops-fleet-drain.service"])
    # The key pair's key is root's, too, as at every other provider.
    config = {"disable_root": False, "write_files": files, "runcmd": commands if files else []}
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"


def expiry_script(marker: Marker) -> str:
    return (
        _EXPIRY_SCRIPT.replace("@ASK@", _ASK)
        .replace("@IDENTITY@", _marker.identity(marker))
        .replace("@EXPIRES@", str(marker.expiry_epoch_hours * 3600))
        .replace("@TAG@", MARKER_TAG)
    )


def drain_script() -> str:
    return _DRAIN_SCRIPT.replace("@ASK@", _ASK).replace("@HOOKS@", DRAIN_HOOKS_PATH)


def _file(path: str, content: str, permissions: str = "0644") -> dict[str, str]:
    return {"path": path, "permissions": permissions, "content": content}


def _at(epoch_hours: int) -> str:
    """As systemd reads it."""
    return datetime.fromtimestamp(epoch_hours * 3600, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
