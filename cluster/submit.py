"""Hands its arguments to langsearch on the head of a cluster that Ray's launcher has started.

ray submit cluster/onprem.yaml cluster/submit.py -- run search_spaces/flores12.yaml
"""

import os
import sys
from pathlib import Path

ON_THE_CLUSTER = ("run", "doctor")
"""The commands that use all nodes; the others run on the head alone."""


def command(arguments: list[str]) -> list[str]:
    """Returns the command line that runs on the head."""
    given = arguments[1:] if arguments[:1] == ["--"] else arguments
    has_address = any(argument.split("=")[0] == "--address" for argument in given)
    address = ["--address", "auto"] if given[:1] and given[0] in ON_THE_CLUSTER and not has_address else []
    return ["langsearch", *given, *address]


if __name__ == "__main__":
    folder = Path.home() / "langsearch"  # where the launcher's files put the spaces
    if folder.is_dir():
        os.chdir(folder)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    line = command(sys.argv[1:])
    try:
        os.execvp(line[0], line)
    except FileNotFoundError:
        sys.exit("langsearch must be on the head's PATH, but is not. Install it there, on the PATH of a login shell.")
