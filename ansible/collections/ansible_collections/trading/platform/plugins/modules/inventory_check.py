#!/usr/bin/python
"""Documentation of the action of this name, which does the work on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inventory_check
short_description: Refuse an inventory with mistakes before any host is touched
description:
  - Reads the inventory's files and variables on the control node, without a connection, and fails with every problem at
    once. Each names file, line, variable, value and remedy.
  - Variables are judged by the roles' argument specifications; a name that nothing reads is refused.
options:
  roles:
    description: Directory of the roles whose variables are known.
    type: path
    required: true
  group_vars:
    description: Files whose variables are derived and not for the inventory to set.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Refuse an inventory with mistakes
  trading.platform.inventory_check:
    roles: "{{ playbook_dir }}/../roles"
    group_vars: ["{{ playbook_dir }}/group_vars/all.yml"]
"""

RETURN = r"""
problems:
  description: Every problem, one sentence each.
  type: list
  elements: str
  returned: always
"""
