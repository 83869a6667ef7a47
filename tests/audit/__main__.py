"""`make audit`: licences and known vulnerabilities of every dependency.

    python -m tests.audit [--licences]

exits with 0 if there is nothing to complain about, with 1 if there is, and with 3 if the database of vulnerabilities
could not be reached: then nothing is known of them. `--licences` leaves them out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.audit.licences import EXCEPTIONS, judge, locked
from tests.audit.vulnerabilities import UnreachableError, known

ROOT = Path(__file__).resolve().parents[2]
LOCKS = tuple(ROOT / name for name in ("requirements.lock", "requirements-dev.lock"))


def main(arguments: list[str]) -> int:
    """Print what was found; the exit code."""
    packages = locked(*LOCKS)
    findings = list(judge(packages))
    n_exceptions = len(set(packages) & EXCEPTIONS.keys())
    for finding in findings:
        print(f"licence: {finding.package}: {finding.licence or 'it states none'}")
    print(f"licences: {len(packages)} packages, {len(findings)} not allowed, {n_exceptions} by stated exception")
    if "--licences" in arguments:
        return 1 if findings else 0
    try:
        found = known(LOCKS[-1])  # it holds everything that the other does, at the same versions
    except UnreachableError as error:
        print(f"vulnerabilities: not known, the database did not answer: {error}")
        print("Run it where api.osv.dev can be reached; `python -m tests.audit --licences` needs no network.")
        return 3
    for each in found:
        fixed = f", fixed in {', '.join(each.fixed_in)}" if each.fixed_in else ""
        print(f"vulnerability: {each.package} {each.version}: {each.identifier}{fixed}")
    print(f"vulnerabilities: {len(found)} known")
    return 1 if findings or found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
