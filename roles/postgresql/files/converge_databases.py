"""Brings roles, passwords and databases of the PostgreSQL leader on this host to what standard input asks for.

Input, as JSON: psql (path), sql (statements that may be run any number of times), passwords (by role), check (true:
only say what would be done). Output, as JSON: changes, a list of words without secrets.
The SQL runs when it is not the one that ran last or when what it made looks different from what it left; both are
kept as the comment of the owner role. A password is set when the stored verifier is not one of it; only verifiers
reach the server.
"""

import base64
import hashlib
import hmac
import json
import os
import pwd
import re
import secrets
import subprocess
import sys

OWNER = "trading_user"
ITERATIONS = 4096
VERIFIER = re.compile(r"SCRAM-SHA-256\$(?P<iterations>\d+):(?P<salt>[^$]+)\$(?P<stored>[^:]+):(?P<server>.+)")

# Everything the SQL decides, in one row: attributes, memberships, settings and access rights of our roles and databases.
LOOK = r"""
with ours as (select * from pg_roles where rolname like 'trading\_%'),
facts as (
  select 'role', rolname, array[rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolinherit]::text,
         rolconnlimit::text from ours
  union all select 'member', r.rolname, m.rolname, ''
    from pg_auth_members a join pg_roles r on r.oid = a.roleid join ours m on m.oid = a.member
  union all select 'setting', coalesce(r.rolname, ''), coalesce(d.datname, ''), s.setconfig::text
    from pg_db_role_setting s left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase
  union all select 'database', d.datname, r.rolname, d.datacl::text
    from pg_database d join pg_roles r on r.oid = d.datdba where not datistemplate
)
select json_build_object(
  'fingerprint', (select md5(string_agg(f::text, E'\n' order by f::text)) from facts f),
  'comment', (select shobj_description(oid, 'pg_authid') from pg_roles where rolname = 'trading_user'),
  'verifiers', (select coalesce(json_object_agg(rolname, rolpassword), '{}') from pg_authid where rolname like 'trading\_%'));
"""

QUIET = (
    "set log_statement = 'none'; set log_min_duration_statement = -1; set log_min_error_statement = 'panic';"
    " set synchronous_commit = 'local';\n"
)


def psql(program: str, sql: str) -> str:
    """Runs statements as the superuser through the local socket; exits with the server's words."""
    postgres = pwd.getpwnam("postgres")
    done = subprocess.run(
        [program, "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--dbname=postgres"],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
        user=postgres.pw_uid,
        group=postgres.pw_gid,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PGHOST": "/run/postgresql", "PGAPPNAME": "converge"},
        timeout=120,
    )
    if done.returncode != 0:
        # The statement itself may hold a verifier: only the message is shown.
        messages = [line for line in done.stderr.splitlines() if "ERROR" in line or "FATAL" in line or "error" in line]
        sys.exit("PostgreSQL refused: " + (" ".join(messages) or f"psql exit {done.returncode}"))
    return done.stdout


def keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """(stored key, server key) of RFC 5802."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    return hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", "sha256")


def verifier(password: str) -> str:
    salt = secrets.token_bytes(16)
    stored, server = (base64.b64encode(key).decode() for key in keys(password, salt, ITERATIONS))
    return f"SCRAM-SHA-256${ITERATIONS}:{base64.b64encode(salt).decode()}${stored}:{server}"


def matches(password: str, kept: str | None) -> bool:
    """Whether the stored verifier is one of this password."""
    found = VERIFIER.fullmatch(kept or "")
    if not found:
        return False
    stored, _ = keys(password, base64.b64decode(found["salt"]), int(found["iterations"]))
    return hmac.compare_digest(base64.b64encode(stored).decode(), found["stored"])


def main() -> None:
    asked = json.load(sys.stdin)
    digest = hashlib.sha256(asked["sql"].encode()).hexdigest()[:16]
    seen = json.loads(psql(asked["psql"], LOOK))
    changes = []
    if seen["comment"] != f"converged {digest} {seen['fingerprint']}":
        changes.append("roles and databases")
        if not asked["check"]:
            psql(asked["psql"], QUIET + asked["sql"])
    wrong = sorted(role for role, password in asked["passwords"].items() if not matches(password, seen["verifiers"].get(role)))
    changes += [f"password of {role}" for role in wrong]
    if wrong and not asked["check"]:
        statements = (f"alter role {role} password '{verifier(asked['passwords'][role])}';" for role in wrong)
        psql(asked["psql"], QUIET + "set pg_stat_statements.track_utility = off;\n" + "\n".join(statements))
    if changes and not asked["check"]:
        now = json.loads(psql(asked["psql"], LOOK))
        psql(asked["psql"], f"comment on role {OWNER} is 'converged {digest} {now['fingerprint']}'")
    print(json.dumps({"changes": changes}))


if __name__ == "__main__":
    main()
