"""Memory of a GPU as its driver gives it, for tests: what torch or CuPy would have. Any driver will do."""

import ctypes

import numpy as np

POINTER = ctypes.c_uint64


class Driver:
    """The libcuda.so.1 that is loaded, or that LD_LIBRARY_PATH names, with a GPU's primary context."""

    def __init__(self, ordinal=0):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.ordinal = ordinal
        self.call("cuInit", 2000, ctypes.c_uint(0))
        self.context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", 7000, ctypes.byref(self.context), ctypes.c_int(ordinal))

    def call(self, name, version, *arguments):
        function = ctypes.c_void_p()
        found = self.library.cuGetProcAddress_v2(
            name.encode(), ctypes.byref(function), ctypes.c_int(version), ctypes.c_uint64(0), None
        )
        assert found == 0, f"{name}: {found}"
        result = ctypes.CFUNCTYPE(ctypes.c_int)(function.value)
        result.argtypes = [type(argument) if isinstance(argument, ctypes._SimpleCData) else ctypes.c_void_p
                           for argument in arguments]  # fmt: skip
        code = result(*arguments)
        assert code == 0, f"{name}: {code}"

    def in_context(self, name, version, *arguments):
        self.call("cuCtxPushCurrent", 4000, self.context)
        try:
            self.call(name, version, *arguments)
        finally:
            self.call("cuCtxPopCurrent", 4000, ctypes.byref(ctypes.c_void_p()))

    def stream(self):
        handle = ctypes.c_void_p()
        self.in_context("cuStreamCreate", 2000, ctypes.byref(handle), ctypes.c_uint(1))
        return handle.value

    def destroy(self, stream):
        self.in_context("cuStreamDestroy", 4000, ctypes.c_void_p(stream))

    def synchronize(self, stream=None):
        self.in_context("cuStreamSynchronize", 2000, ctypes.c_void_p(stream))


class GpuArray:
    """A copy of a numpy array in memory of cuMemAlloc, as `__cuda_array_interface__` knows it."""

    def __init__(self, driver, array, stream=None):
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        self.driver, self.dtype, self.shape, self.nbytes = driver, array.dtype, array.shape, array.nbytes
        self.strides, self.stream, self.readonly = None, stream, False
        pointer = POINTER()
        driver.in_context("cuMemAlloc", 3020, ctypes.byref(pointer), ctypes.c_size_t(max(1, array.nbytes)))
        self.address = pointer.value
        if array.nbytes:
            driver.in_context("cuMemcpyHtoDAsync", 3020, POINTER(self.address),
                              ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes),
                              ctypes.c_void_p(None))  # fmt: skip
        driver.synchronize()

    def __del__(self):
        self.driver.in_context("cuMemFree", 3020, POINTER(self.address))

    @property
    def __cuda_array_interface__(self):
        return {"version": 3, "typestr": self.dtype.str, "shape": self.shape, "strides": self.strides,
                "data": (self.address, self.readonly), "stream": self.stream}  # fmt: skip

    def numpy(self):
        self.driver.synchronize()
        return read(self.driver, self.address, self.nbytes).view(self.dtype).reshape(self.shape)


def read(driver, address, size):
    """The bytes at an address of the GPU."""
    copy = np.empty(size, np.uint8)
    if size:
        driver.in_context("cuMemcpyDtoHAsync", 3020, ctypes.c_void_p(copy.ctypes.data), POINTER(address),
                          ctypes.c_size_t(size), ctypes.c_void_p(None))  # fmt: skip
        driver.synchronize()
    return copy


def write(driver, address, array):
    """The bytes of an array to an address of the GPU: as a kernel does."""
    array = np.ascontiguousarray(array)
    driver.in_context("cuMemcpyHtoDAsync", 3020, POINTER(address), ctypes.c_void_p(array.ctypes.data),
                      ctypes.c_size_t(array.nbytes), ctypes.c_void_p(None))  # fmt: skip
    driver.synchronize()


# --- DLPack, from the other side of it ---


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("rank", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class DLManaged(ctypes.Structure):
    _fields_ = [("tensor", DLTensor), ("owner", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class DLManagedVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("owner", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", DLTensor),
    ]  # fmt: skip


_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)
_CODES = {"bfloat16": 4, "float8_e4m3fn": 10, "float8_e5m2": 12, "bool": 6}
_KINDS = {"i": 0, "u": 1, "f": 2, "c": 5}


class DlpackArray(GpuArray):
    """The same as DLPack knows it; `device` and `strides` may tell lies."""

    __cuda_array_interface__ = property()  # has none

    def __init__(self, driver, array, device=None, strides=None):
        super().__init__(driver, array)
        self.device = (2, driver.ordinal) if device is None else device
        self.asked = []
        rank = len(self.shape)
        self._shape = (ctypes.c_int64 * rank)(*self.shape)
        self._strides = None if strides is None else (ctypes.c_int64 * rank)(*strides)
        code = _CODES.get(self.dtype.name, _KINDS.get(self.dtype.kind, 0))
        self._managed = DLManaged(DLTensor(
            self.address, *self.device, rank, code, 8 * self.dtype.itemsize, 1, self._shape, self._strides, 0
        ))  # fmt: skip

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None):
        self.asked.append(stream)
        return _new_capsule(ctypes.addressof(self._managed), b"dltensor", None)


class VersionedArray(DlpackArray):
    """The same of a library of DLPack 1.0."""

    def __init__(self, driver, array, major=1, flags=0):
        super().__init__(driver, array)
        self._versioned = DLManagedVersioned(major, 0, None, None, flags, self._managed.tensor)

    def __dlpack__(self, stream=None, max_version=None):
        self.asked.append((stream, max_version))
        if max_version is None:
            return super().__dlpack__(stream=stream)
        return _new_capsule(ctypes.addressof(self._versioned), b"dltensor_versioned", None)


class Consumer:
    """Takes a capsule over, as a library does that makes a tensor of it."""

    def __init__(self, capsule):
        self.versioned = b"dltensor_versioned" in repr(capsule).encode()
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        self._used = b"used_" + name
        self.managed = (DLManagedVersioned if self.versioned else DLManaged).from_address(
            _pointer_of(capsule, name)
        )
        _rename(capsule, self._used)
        self.tensor = self.managed.tensor
        self.shape = tuple(self.tensor.shape[i] for i in range(self.tensor.rank))

    def let_go(self, with_gil):
        kind = ctypes.PYFUNCTYPE if with_gil else ctypes.CFUNCTYPE
        kind(None, ctypes.c_void_p)(self.managed.deleter)(ctypes.addressof(self.managed))
