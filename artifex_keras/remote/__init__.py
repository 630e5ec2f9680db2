"""Folders elsewhere: addresses such as "gs://bucket/run", and the files behind them."""

from artifex_keras.remote.address import is_address, is_mangled, local_path
from artifex_keras.remote.path import RemoteError, RemotePath

__all__ = ["RemoteError", "RemotePath", "is_address", "is_mangled", "local_path"]
