"""On what kind of file system a path lies: on one of the network a lock may be known to this machine alone."""

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")

_NETWORK = {
    *("nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs"),
    *("beegfs_nodev", "orangefs", "pvfs2", "ocfs2", "gfs2", "9p", "virtiofs", "wekafs", "panfs", "fuse"),
}
"""Their names in mountinfo; beside them all that begin with "fuse.", such as fuse.sshfs."""


def network_type(path: Path) -> str | None:
    """Returns the type of the network's file system that a path is on, such as "nfs4"; None: of none, or not known.

    Args:
        path: It need not be there yet.
    """
    kind = _type_of(path.resolve())
    return kind if kind is not None and (kind in _NETWORK or kind.startswith("fuse.")) else None


def _type_of(path: Path) -> str | None:
    """Returns the type of the mount that a resolved path lies in, by proc(5); None where the system does not say."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    found: tuple[int, str] | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) < 5:
            continue
        # Blanks and the like stand there as three octal digits.
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        # Of two on one point the later one hides the earlier.
        if (path == point or point in path.parents) and (found is None or len(point.parts) >= found[0]):
            found = len(point.parts), kinds[0]
    return None if found is None else found[1]
