"""Holding an experiment for one run: by a lock of the kernel, and by a lease where other machines cannot see that."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from langsearch.experiment.fence import fenced
from langsearch.experiment.lease import RemoteLease
from langsearch.experiment.lock import LEASES, hold
from langsearch.experiment.mounts import network_type
from langsearch.experiment.object_store import StorageError
from langsearch.experiment.remote import Remote
from langsearch.experiment.working_copy import WorkingCopy


@contextmanager
def hold_experiment(path: Path, copy: WorkingCopy | None) -> Iterator[RemoteLease | None]:
    """Holds an experiment for this process; inside the context nothing is written once the lease is lost.

    A folder of this machine needs the lock alone. On a file system of the network the lock may be known to this
    machine alone (NFS: local_lock, nolock), so a lease is held as well, as in an object store.

    Args:
        path: The experiment's folder on this machine.
        copy: Of a remote experiment: that it is the copy of.

    Yields:
        The lease, if there is one.

    Raises:
        InputError: If another run holds it, or its file system knows no locks.
        StorageError: If the store cannot be read or written.
    """
    with ExitStack() as stack:
        lease = None
        if copy is not None:
            try:
                lease = stack.enter_context(RemoteLease(copy.remote))
            except OSError as error:
                raise StorageError(f"The lease on {copy.remote.url} could not be taken: {error}") from error
        stack.enter_context(hold(path))
        if copy is None and network_type(path) is not None:
            lease = stack.enter_context(RemoteLease(Remote(path.absolute().as_uri()), folder=LEASES))
        if lease is not None:
            stack.enter_context(fenced(path, lease.check))
        yield lease
