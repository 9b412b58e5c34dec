"""The client of infercached, a cache daemon that runs beside inference workers.

    import infercache

    with infercache.connect(fingerprint={"model": "llama-3-8b", "dtype": "bfloat16"}) as client:
        if (view := client.get("block/42")) is not None:
            use(view.torch())
        else:
            client.put("block/42", compute())

`infercache.torch`, `.hf`, `.lmcache`, `.vllm` and `.sglang` are imported by name; this package needs
nothing but numpy.
"""

from ._arrays import Part
from ._async import AsyncClient
from ._client import Client, Put, PutResult, connect
from ._core import DeviceReservation, DeviceTensor, DeviceView, View
from ._device import Device, Lend, LendResult, Reserve
from ._errors import ClosedError, DaemonError, DeviceError, Error, Failure, ForkedError
from ._memoize import memoize

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Client",
    "ClosedError",
    "DaemonError",
    "Device",
    "DeviceError",
    "DeviceReservation",
    "DeviceTensor",
    "DeviceView",
    "Error",
    "Failure",
    "ForkedError",
    "Lend",
    "LendResult",
    "Part",
    "Put",
    "PutResult",
    "Reserve",
    "View",
    "connect",
    "memoize",
]
