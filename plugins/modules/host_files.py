#!/usr/bin/python
# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Write several small files of a host in one go
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - What a role writes on a host is often ten files of a few lines. One look at all of them takes as long as a look at
    one with M(ansible.builtin.copy) or M(ansible.builtin.template), and most runs have nothing to change.
  - All files are written beside those that they replace and checked, and then they take their places, each in one step.
    When one of them is not right, nothing is replaced.
  - For templates, use the lookup P(ansible.builtin.template#lookup) as O(files[].content).
  - The contents are arguments of the module. Where one is a secret, set C(no_log) and C(diff) of the task, or write it
    with M(ansible.builtin.copy).
requirements:
  - Python 3.9 or newer on the host
extends_documentation_fragment:
  - gpuops.fleet.attributes
attributes:
  check_mode:
    support: full
    details:
      - What O(files[].validate) says is not asked.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  owner:
    description: Whose it all is, but for what says otherwise.
    type: str
    default: root
  group:
    description: The group whose it all is, but for what says otherwise.
    type: str
    default: root
  directories:
    description:
      - Directories that are there before the first file is written, with those above them.
      - That of a file has to be named only where its mode is another than V(0755).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where it is, as an absolute path.
        type: path
        required: true
      mode:
        description: Who may do what in it.
        type: str
        default: "0755"
      owner:
        description: Whose it is.
        type: str
      group:
        description: The group whose it is.
        type: str
  files:
    description:
      - The files, which take their places in this order. What reads another one comes behind it.
      - A link in the place of a file is replaced, and what it shows is left alone.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where it is, as an absolute path.
        type: path
        required: true
      content:
        description: All of its text. A dictionary or a list is written as JSON.
        type: raw
        required: true
      mode:
        description: Who may do what with it.
        type: str
        default: "0644"
      owner:
        description: Whose it is.
        type: str
      group:
        description: The group whose it is.
        type: str
      validate:
        description: A command that ends with an error when the file is not right; V(%s) stands for the file.
        type: str
"""

EXAMPLES = r"""
- name: Write the program, its settings and its unit
  gpuops.fleet.host_files:
    directories:
      - {path: /etc/watchdog.d, mode: "0700"}
    files:
      - path: /usr/local/libexec/watchdog.py
        content: "{{ lookup('ansible.builtin.file', 'watchdog.py') }}"
      - path: /etc/watchdog.d/settings.json
        content: "{{ watchdog_settings | to_nice_json }}"
        mode: "0600"
        validate: /usr/bin/python3 -m json.tool %s
      - path: /etc/systemd/system/watchdog.service
        content: "{{ lookup('ansible.builtin.template', 'watchdog.service.j2') }}"
  register: watchdog_files

- name: Let systemd read the unit
  ansible.builtin.systemd_service:
    daemon_reload: true
  when: "'/etc/systemd/system/watchdog.service' in watchdog_files.changed_paths"
"""

RETURN = r"""
changed_paths:
  description: What was written or made, or has other attributes now; in check mode, what would.
  returned: success
  type: list
  elements: str
  sample: [/etc/watchdog.d/settings.json]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuops.fleet.plugins.module_utils._host_files import HostFilesError, run_host_files


def _place(mode: str) -> dict[str, dict[str, object]]:
    return {
        "path": {"type": "path", "required": True},
        "mode": {"type": "str", "default": mode},
        "owner": {"type": "str"},
        "group": {"type": "str"},
    }


SPEC = {
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "directories": {"type": "list", "elements": "dict", "default": [], "options": _place("0755")},
    "files": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {**_place("0644"), "content": {"type": "raw", "required": True}, "validate": {"type": "str"}},
    },
}


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    try:
        result = run_host_files(module)
    except HostFilesError as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
