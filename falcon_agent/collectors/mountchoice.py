"""Which mounts of a container are worth a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from typing import TypeAlias

    from falcon_agent.procfs.mountinfo import Mount

    Identity: TypeAlias = tuple[str, str, str]

MAX_MOUNTS = 64
"""Mounts of one container that are looked at, the shortest mount points first; it may make very many."""

_LOCAL = frozenset((
    *("bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs"),
    *("ntfs3", "overlay", "reiserfs", "tmpfs", "vfat", "xfs", "zfs"),
))  # fmt: skip
"""No server has to answer for these."""
_PSEUDO = frozenset((
    *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
    *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rpc_pipefs"),
    *("securityfs", "selinuxfs", "sysfs", "tracefs"),
))  # fmt: skip
"""They hold no files of anybody; and looking into an autofs would mount something."""
_IMAGES = frozenset(("cramfs", "erofs", "iso9660", "squashfs"))
"""Always full."""
_RUNTIMES_OWN = ("/dev", "/proc", "/sys", "/run/secrets", "/var/run/secrets")
_SHM = "/dev/shm"  # noqa: S108  a mount point, not a file
_SHM_DEFAULT = "65536k"


def choose(mounts: Sequence[Mount]) -> list[Mount]:
    """The mounts that hold files of the container's own, the shortest mount point first, `MAX_MOUNTS` at most.

    Not yet left out are single files that are mounted: mountinfo does not tell them from directories.
    """
    on_top = {mount.mount_point: mount for mount in mounts}
    wanted = [mount for mount in on_top.values() if _is_wanted(mount)]
    return sorted(wanted, key=lambda mount: (len(mount.mount_point), mount.mount_point))[:MAX_MOUNTS]


def identities(mounts: Iterable[Mount]) -> frozenset[Identity]:
    """What tells mounts apart in whichever mount namespace they are seen."""
    return frozenset(map(_identity, mounts))


def without_hosts(mounts: Sequence[Mount], theirs: Collection[Identity]) -> list[Mount]:
    """The mounts without those that are the host's; all of them where the root directory is the container's own.

    A unit or a sandbox may live in the host's directory tree. What is mounted there is the host's affair; a volume that
    happens to be mounted at the same place in a container with a root of its own is the container's.

    Args:
        mounts: of a container.
        theirs: those of the host.
    """
    root = next((mount for mount in reversed(mounts) if mount.mount_point == "/"), None)
    if root is None or _identity(root) not in theirs:
        return list(mounts)
    return [mount for mount in mounts if _identity(mount) not in theirs]


def _identity(mount: Mount) -> Identity:
    return mount.device, mount.root, mount.mount_point


def is_remote(mount: Mount) -> bool:
    """Whether a server, or some other program, may have to answer for it."""
    return mount.fstype not in _LOCAL


def behind_fuse(mounts: Sequence[Mount]) -> frozenset[int]:
    """The mount IDs of FUSE file systems, and of what is mounted below them: their servers answer for the way there."""
    on_top = {mount.mount_point: mount for mount in mounts}
    servers = tuple(f"{where.rstrip('/')}/" for where, mount in on_top.items() if _is_fuse(mount))
    return frozenset(
        mount.mount_id for mount in mounts if _is_fuse(mount) or mount.mount_point.startswith(servers)
    )


def _is_fuse(mount: Mount) -> bool:
    return mount.fstype.startswith(("fuse.", "fuseblk")) or mount.fstype == "fuse"


def _is_wanted(mount: Mount) -> bool:
    where = mount.mount_point
    if mount.fstype in _PSEUDO or mount.fstype in _IMAGES:
        return False
    if where == _SHM:
        return mount.super_option("size") != _SHM_DEFAULT
    if any(where == own or where.startswith(f"{own}/") for own in _RUNTIMES_OWN):
        return False
    # An overlay elsewhere is the root of a container inside the container, or of one of the host's.
    return mount.fstype != "overlay" or where == "/"
