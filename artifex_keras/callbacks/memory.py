"""How much memory a run takes: on the device, or of the process."""

import os
import sys

from artifex_keras.backend import device_memory

__all__ = ["memory_in_use", "resident_memory"]

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def memory_in_use():
    """Bytes in use on the device, or on a CPU by the process: a dict, empty where unknown."""
    on_device = device_memory()
    if on_device is not None:
        names = ("device_memory_bytes", "device_memory_peak_bytes")
        return dict(zip(names, on_device, strict=True))
    size = _resident_on_linux()
    return {} if size is None else {"host_memory_bytes": size}


def resident_memory():
    """Bytes of this process in main memory: now on Linux, the peak on macOS, None on Windows."""
    size = _resident_on_linux()
    if size is not None:
        return size
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _resident_on_linux():
    """Bytes of this process in main memory; None on other systems."""
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY)  # `open` would take longer
    except OSError:
        return None
    try:
        return int(os.read(file, 99).split()[1]) * PAGE
    finally:
        os.close(file)
