#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a program that cannot have io_uring: its three system calls answer
EPERM, as in a container whose seccomp profile forbids them.

    tests/e2e/no_uring.py PROGRAM [ARGUMENT...]
"""

import ctypes
import errno
import os
import struct
import sys

SETUP, REGISTER = 425, 427  # io_uring_setup, _enter, _register: all machines
LD_NR, RET = 0x20, 0x06  # BPF: load the number, return
GE, GT = 0x35, 0x25
ALLOW, DENY = 0x7fff0000, 0x00050000 | errno.EPERM
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2


def forbid():
    code = b"".join(struct.pack("=HBBI", *i) for i in (
        (LD_NR, 0, 0, 0),
        (GE, 0, 2, SETUP),      # below: allowed
        (GT, 1, 0, REGISTER),   # above: allowed
        (RET, 0, 0, DENY),
        (RET, 0, 0, ALLOW)))
    text = ctypes.create_string_buffer(code)
    prog = struct.pack("@HP", len(code) // 8, ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or \
            libc.prctl(PR_SET_SECCOMP, MODE_FILTER,
                       ctypes.c_char_p(prog), 0, 0):
        sys.exit(f"no_uring: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    forbid()
    os.execvp(sys.argv[1], sys.argv[1:])
