#!/usr/bin/env python3
"""libnosigbus(3) for Python: mappings of descriptors whose files others may truncate.

    views = Views()                      # or Views("/run/views")
    mapping = views.map(fd, 4096)
    mapping.sync()
    mapping.data[0]                      # does not fault

Run as a program it shows this with a memfd that is truncated while it is mapped.
"""

import ctypes
import mmap
import os

_library = ctypes.CDLL("libnosigbus.so.0", use_errno=True)


def _check(result, function, _arguments):
    if result in (-1, None):
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}: {os.strerror(number)}")
    return result


def _declare(name, result, *arguments, check=True):
    function = getattr(_library, name)
    function.restype = result
    function.argtypes = arguments
    if check:
        function.errcheck = _check
    return function


_off_t = ctypes.c_int64
_find = _declare("nosigbus_find", ctypes.c_int, ctypes.c_char_p)
_open = _declare("nosigbus_open", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)
_real_size = _declare("nosigbus_real_size", _off_t, ctypes.c_int)
_map = _declare("nosigbus_map", ctypes.c_void_p,
                ctypes.c_int, ctypes.c_int, ctypes.c_int, _off_t, ctypes.c_size_t)
_data = _declare("nosigbus_data", ctypes.c_void_p, ctypes.c_void_p)
_view = _declare("nosigbus_view", ctypes.c_int, ctypes.c_void_p, check=False)
_sync_mapping = _declare("nosigbus_sync_mapping", ctypes.c_int,
                         ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_unmap = _declare("nosigbus_unmap", None, ctypes.c_void_p, check=False)


class Mapping:
    """A mapping, from Views.map. It is unmapped when neither it nor its data is in use."""

    def __init__(self, views, fd, length, offset, writable):
        self._mapping = None
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._mapping = _map(views, fd, protection, offset, length)
        self._length = length
        self._writable = writable

    def __del__(self):
        _unmap(self._mapping)

    def __len__(self):
        return self._length

    @property
    def data(self):
        """The bytes, as a memoryview that keeps the mapping."""
        array = (ctypes.c_ubyte * self._length).from_address(_data(self._mapping))
        array.mapping = self
        data = memoryview(array).cast("B")
        return data if self._writable else data.toreadonly()

    @property
    def view(self):
        """The descriptor of the view; None where the file cannot shrink, and needs none."""
        view = _view(self._mapping)
        return view if view >= 0 else None

    def sync(self, start=0, length=0):
        """Returns when the data shows all that happened to the file before. Length 0: to the end."""
        _sync_mapping(self._mapping, start, length)


class Views:
    """A mount that gives views of descriptors."""

    def __init__(self, mount_point=None):
        self._directory = -1
        self._directory = _find(None if mount_point is None else os.fsencode(mount_point))

    def __del__(self):
        if self._directory >= 0:
            os.close(self._directory)

    def map(self, fd, length, offset=0, writable=False):
        """Maps `length` bytes of the file of the descriptor `fd`, which may be closed afterwards."""
        return Mapping(self._directory, fd, length, offset, writable)

    def open(self, fd, flags=os.O_RDONLY):
        """A view of the descriptor `fd`, as a descriptor."""
        return _open(self._directory, fd, flags)


def real_size(view):
    """The size of the file behind a view."""
    return _real_size(view)


def main():
    fd = os.memfd_create("demo")
    os.write(fd, b"hello" * 1000)
    mapping = Views().map(fd, 5000)
    print("before:", bytes(mapping.data[:5]))
    os.ftruncate(fd, 0)
    mapping.sync()
    print("truncated to", real_size(mapping.view), "bytes:", bytes(mapping.data[:5]))
    print("of", len(mapping), "bytes loaded,", bytes(mapping.data).count(0), "are zero")


if __name__ == "__main__":
    main()
