"""Which file system a folder is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from fractale.store.filesystem import FileSystem, file_system

MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
23 22 0:20 / /proc rw,nosuid - proc proc rw
30 22 0:41 / /home rw,relatime shared:5 - nfs4 filer:/home rw,vers=4.2,local_lock=none
31 30 0:42 / /home/anna/local rw - xfs /dev/sdb rw
32 22 0:43 / /scratch rw - lustre mds@tcp:/scratch rw,flock
33 22 0:44 / /remote rw - fuse.sshfs anna@node:/ rw
34 22 0:45 / /with\\040blank rw - beegfs beegfs_nodev rw
35 22 0:46 / /over rw - ext4 /dev/sdc rw
36 22 0:47 / /over rw master:1 - gpfs gpfs0 rw
37 22 0:48 / /old rw - nfs filer:/old rw,vers=3,nolock
38 22 0:49 / /image ro - fuse.squashfuse_ll image ro
a line that nobody understands
"""

PLACES = {
    "/srv/state": ("ext4", False),
    "/home/anna/.fractale/c.sqlite": ("nfs4", True),
    "/home/anna/local/c.sqlite": ("xfs", False),
    "/homes/anna": ("ext4", False),
    "/scratch": ("lustre", True),
    "/remote/x": ("fuse.sshfs", True),
    "/with blank/x": ("beegfs", True),
    "/over/x": ("gpfs", True),
    "/image/x": ("fuse.squashfuse_ll", False),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_nearest_and_latest_mount_counts(place):
    found = file_system(Path(place), MOUNTS)
    assert (found.kind, found.network) == PLACES[place]


@pytest.mark.parametrize("kind", ["nfs", "nfs3", "9p", "cifs", "ceph", "afs", "fuse.glusterfs"])
def test_what_comes_from_far_is_known(kind):
    assert FileSystem(kind).network


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuseblk"])
def test_what_is_here_is_known(kind):
    assert not FileSystem(kind).network


def test_locks_that_stay_on_one_machine_are_known():
    assert file_system(Path("/home"), MOUNTS).locks_everywhere
    assert file_system(Path("/scratch"), MOUNTS).locks_everywhere
    assert not file_system(Path("/old"), MOUNTS).locks_everywhere


def test_without_anything_known_it_is_taken_to_be_here(tmp_path):
    assert file_system(tmp_path, "") == FileSystem("unknown")
    assert not FileSystem("unknown").network


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("/home/anna")
    assert file_system(tmp_path / "link" / "x", MOUNTS).kind == "nfs4"


def test_this_machine_is_read(tmp_path):
    assert file_system(tmp_path).kind
