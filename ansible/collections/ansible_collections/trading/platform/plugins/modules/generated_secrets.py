#!/usr/bin/python
"""Documentation of the action of the same name; all of it runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: generated_secrets
short_description: Generate the secrets that an inventory's vault file lacks
description:
  - Adds every wanted secret that is missing to a YAML file encrypted with the configured vault password. What is there
    is kept, byte for byte.
  - The file is replaced by rename, mode 0600. No secret is returned, except in check mode, where throwaway values stand
    for those that a real run would have generated.
options:
  path:
    description: The vault file on the control node.
    type: path
    required: true
  secrets:
    description:
      - What is wanted, by variable name.
      - C(kind) is one of V(password) (C(length) letters and digits), V(base64) (C(bytes) random bytes),
        V(ed25519_private_key), V(p384_private_key), V(public_key) (C(of) a private key's name) or V(ca_certificate)
        (self-signed; C(of) a private key's name, C(common_name), C(days)).
    type: dict
    required: true
attributes:
  check_mode:
    support: full
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Generate what lacks
  trading.platform.generated_secrets:
    path: inventory/lab_single/group_vars/all/vault.yml
    secrets:
      vault_redis_app_password: {kind: password, length: 40}
"""

RETURN = r"""
made:
  description: Names of the secrets that were generated.
  type: list
  elements: str
  returned: always
throwaway:
  description: In check mode, values that stand for the secrets in O(made), good for nothing else.
  type: dict
  returned: check mode
"""
