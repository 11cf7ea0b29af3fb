"""Rights taken away from this process by the kernel, for good: what a decoder that a stranger has taken over cannot do.

Two layers, each where the kernel has it. Landlock (Linux 5.13): files can be read and nothing else: none is written,
made, removed, renamed, truncated or executed. seccomp: no program, process or socket is begun, no signal is sent, no
file opened for writing or changed by name. Both hold for threads and whatever comes after, and need no rights.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Mapping

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_THREAD = 0x10000000, 0x40000000, 0x00010000
_MOST_DESCRIPTORS = 24

# linux/landlock.h: three system calls with the same numbers on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_READ = 0b1100  # READ_FILE, READ_DIR
#: Version -> how many rights on files it knows, from bit 0.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_RIGHTS = 0b11  # bind and connect of TCP, from version 4
_SCOPES = 0b11  # abstract sockets and signals, from version 6

# linux/seccomp.h, linux/bpf_common.h, linux/audit.h
_FILTER, _ALLOW, _ERRNO = 2, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _SET, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EPERM, _ENOSYS = 1, 38

#: Architecture -> (its AUDIT_ARCH, numbers of the calls that are denied, clone, clone3, openat, openat2, open).
_CALLS: Mapping[str, tuple[int, tuple[int, ...], int, int, int, int, int | None]] = {
    # fork vfork execve execveat kill ptrace socket socketpair, rename* unlink* link* symlink* mkdir* rmdir mknod* creat
    # truncate, chmod* chown* utime* setxattr*, mount, bpf, unshare, setns, process_vm_writev, pidfd_*, io_uring_setup
    "x86_64": (
        0xC000003E,
        (
            *(57, 58, 59, 322, 62, 101, 41, 53, 82, 264, 316, 87, 263, 86, 265, 88, 266, 83, 258, 84, 133, 259, 85, 76),
            90,
            91,
            268,
            452,
            92,
            93,
            94,
            260,
            132,
            235,
            261,
            280,
            188,
            189,
            190,
            165,
            321,
            272,
            308,
            311,
            434,
            425,
        ),
        56,
        435,
        257,
        437,
        2,
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(221, 281, 129, 117, 198, 199, 38, 276, 35, 37, 36, 34, 33, 45),
            52,
            53,
            452,
            54,
            55,
            88,
            5,
            6,
            7,
            40,
            280,
            97,
            268,
            271,
            434,
            425,
        ),
        220,
        435,
        56,
        437,
        None,
    ),
}


def confine(parent: int) -> dict[str, str]:
    """Leave the network, tie this process to its parent and take all rights away that decoding does not need.

    Returns what holds: ``network`` is ``none`` or ``shared`` (which is tried, not believed), ``files`` names the
    version of Landlock or is ``limits only``, ``calls`` is ``seccomp`` or ``any``.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)  # it died before the line above
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # The network namespace first, as seccomp forbids more of them; either is enough.
    _ = libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0 or libc.unshare(_CLONE_NEWNET) == 0
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _MOST_DESCRIPTORS),
        (resource.RLIMIT_NPROC, 0),  # holds where seccomp does not, unless the user is root
    ):
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to handle
    version = _only_reading(libc)
    calls = _without_calls(libc)
    return {
        "network": "shared" if _reaches_network() else "none",
        "files": f"Landlock {version}" if version else "limits only",
        "calls": "seccomp" if calls else "any",
    }


def _only_reading(libc: ctypes.CDLL) -> int:
    """Landlock: of files only reading is left. Returns the kernel's version of it, 0 where it has none."""
    version = int(libc.syscall(_CREATE_RULESET, None, 0, _VERSION))
    if version < 1:
        return 0
    rights = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    fields = (rights, *((_NET_RIGHTS,) if version >= 4 else ()), *((_SCOPES,) if version >= 6 else ()))
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = int(libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0))
    if ruleset < 0:
        return 0
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        added = libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", _READ, root), 0) == 0
        return version if added and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(root)
        os.close(ruleset)


def _without_calls(libc: ctypes.CDLL) -> bool:
    """seccomp: whether the filter is in force."""
    known = _CALLS.get(platform.machine())
    if known is None:
        return False
    program = b"".join(_program(*known))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(Program(len(program) // 8, program)), 0, 0) == 0)


def _program(
    architecture: int,
    denied: tuple[int, ...],
    clone: int,
    clone3: int,
    openat: int,
    openat2: int,
    open_: int | None,
) -> Iterator[bytes]:
    """The filter, in BPF: each call that is denied gives an error, as a file that one has no rights to does."""

    def step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_so, if_not, value)

    def fails(errno: int) -> bytes:
        return step(_RETURN, _ERRNO | errno)

    def where(call: int, argument: int, bits: int, if_set: bytes, if_not: bytes) -> bytes:
        """``if_set`` or ``if_not``, as one of ``bits`` is set in the call's argument of that number or none is."""
        return (
            step(_EQUAL, call, 0, 4) + step(_LOAD, _ARGUMENTS + 8 * argument) + step(_SET, bits, 0, 1) + if_set + if_not
        )

    allowed = step(_RETURN, _ALLOW)
    yield step(_LOAD, _ARCHITECTURE) + step(_EQUAL, architecture, 1, 0) + fails(_EPERM)
    yield step(_LOAD, _NUMBER)
    yield step(_AT_LEAST, 0x40000000, 0, 1) + fails(_EPERM)  # x32 has numbers of its own
    for call in denied:
        yield step(_EQUAL, call, 0, 1) + fails(_EPERM)
    for call in (clone3, openat2):  # their arguments cannot be looked at; whoever calls them knows the older ones
        yield step(_EQUAL, call, 0, 1) + fails(_ENOSYS)
    yield where(clone, 0, _CLONE_THREAD, allowed, fails(_EPERM))
    yield where(openat, 2, _WRITING, fails(_EPERM), allowed)
    if open_ is not None:
        yield where(open_, 1, _WRITING, fails(_EPERM), allowed)
    yield allowed


def _reaches_network() -> bool:
    """Whether even this machine itself can be reached; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("127.0.0.1", 9))
    except OSError:
        return False
    return True
