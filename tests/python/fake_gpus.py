"""The fake driver of tests/fake_cuda for tests in Python: its state file, with faults and counts.

A mirror of the beginning of State in tests/fake_cuda/state.h.
"""

import ctypes
import mmap
import os

from conftest import BUILD

LIBRARY = BUILD / "tests" / "fake_cuda" / "lib" / "libcuda.so.1"
MAGIC = 0x31616475636B6166


FAULTS = (
    "creates_to_fail", "refuse_exports", "refuse_imports", "streams_capture", "global_capture",
    "refuse_registers", "refuse_records", "streams_stuck", "contexts_dead", "same_pid", "lost_streams",
    "refuse_maps", "maps_need_context", "inits_not_ready",
    "opens_answer", "unmaps_stuck",
)  # fmt: skip


class State(ctypes.Structure):
    _fields_ = [
        ("magic", ctypes.c_uint64), ("mutex", ctypes.c_char * 40), ("device_count", ctypes.c_uint32),
        ("device_bytes", ctypes.c_uint64), ("next_allocation", ctypes.c_uint64),
        *((fault, ctypes.c_int32) for fault in FAULTS),
        *((count, ctypes.c_uint64) for count in (
            "creates", "exports", "imports", "maps", "unmaps", "contexts", "registers", "unregisters",
            "ipc_exports", "ipc_opens", "ipc_closes", "freed_while_open", "captures_broken",
            "captures_left_alone", "pageable_copies")),
    ]  # fmt: skip


class FakeGpus:
    """GPUs for this process, which must not have loaded a driver, and those that it starts."""

    def __init__(self, path, devices, device_bytes):
        self.environment = {
            "FAKE_CUDA_STATE": str(path), "FAKE_CUDA_DEVICES": str(devices),
            "FAKE_CUDA_DEVICE_BYTES": str(device_bytes), "LD_LIBRARY_PATH": str(LIBRARY.parent),
        }  # fmt: skip
        os.environ.update(self.environment)
        # This process's loader reads no LD_LIBRARY_PATH any more, but what is loaded it finds by its name.
        library = ctypes.CDLL(str(LIBRARY))
        function = ctypes.c_void_p()
        assert library.cuGetProcAddress_v2(b"cuInit", ctypes.byref(function), 2000, ctypes.c_uint64(0), None) == 0
        assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint)(function.value)(0) == 0
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.state = State.from_buffer(self._map)
        told = (self.state.magic, self.state.device_count, self.state.device_bytes)
        assert told == (MAGIC, devices, device_bytes), "State has changed: tests/fake_cuda/state.h"

    @staticmethod
    def uuid(ordinal):
        text = b"fake-cuda-gpu-\0".hex() + f"{ordinal:02x}"
        return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))

    def clear_faults(self):
        for name in FAULTS:
            setattr(self.state, name, 0)
