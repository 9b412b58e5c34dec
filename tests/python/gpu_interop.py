"""Workers and tensors of PyTorch on one GPU, in several processes. Plain Python; tests/run_gpu.sh runs it.

    python gpu_interop.py --daemon PATH/TO/infercached [--fake]
      --fake   on the stand-in for the driver that LD_LIBRARY_PATH names, which PyTorch cannot use: its part is
               played by memory of the driver's own, handed on through DLPack

Exit status: 0 passed; 1 failed; 77 skipped, after a line that says why.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 60  # for anything that is waited for
SHAPE = (64, 1000)
DTYPES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64",
    "float8_e4m3fn", "float8_e5m2", "complex64", "complex128",
)  # fmt: skip


def skip(why):
    print(f"SKIPPED: {why}", flush=True)
    sys.exit(77)


def until(condition, what):
    end = time.monotonic() + LIMIT_S
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.002)
    return result


def bits_of(dtype, itemsize):
    """The bytes of a tensor of SHAPE, the same in every process."""
    import numpy as np

    count = SHAPE[0] * SHAPE[1] * itemsize
    bits = np.random.default_rng(DTYPES.index(dtype)).integers(0, 256, count, np.uint8)
    return bits % 2 if dtype == "bool" else bits


class TorchMemory:
    """Tensors of torch."""

    def __init__(self):
        try:
            import torch  # before infercache: of the two it may need the newer libstdc++
        except ImportError as error:
            skip(f"no PyTorch in {sys.executable}: {error}")
        if not torch.cuda.is_available():
            skip(f"PyTorch {torch.__version__} finds no GPU")
        self.torch = torch
        self.dtypes = [dtype for dtype in DTYPES if hasattr(torch, dtype)]
        self.name = f"PyTorch {torch.__version__}, {torch.cuda.get_device_name(0)}, {len(self.dtypes)} dtypes"

    def _bits(self, dtype):
        return bits_of(dtype, self.torch.empty(0, dtype=getattr(self.torch, dtype)).element_size())

    def bits(self, dtype):
        return self._bits(dtype).tobytes()

    def make(self, dtype):
        return self.torch.from_numpy(self._bits(dtype)).cuda().view(getattr(self.torch, dtype)).view(SHAPE)

    def read(self, view, part=0):
        """(address, bytes) of what torch makes of it, which takes no memory of its own."""
        before = self.torch.cuda.memory_allocated()
        tensor = view.torch(part)
        assert self.torch.cuda.memory_allocated() == before, "a copy was made"
        assert tuple(tensor.shape) == view.parts[part].shape == SHAPE
        assert str(tensor.dtype) == "torch." + {"float8_e4m3": "float8_e4m3fn"}.get(
            view.parts[part].dtype, view.parts[part].dtype
        )
        return tensor.data_ptr(), tensor.view(-1).view(self.torch.uint8).cpu().numpy().tobytes()

    def write(self, room, dtype):
        room.torch().copy_(self.make(dtype))

    def bytes_of(self, tensor):
        return tensor.view(-1).view(self.torch.uint8).cpu().numpy().tobytes()


class PlainMemory:
    """Memory of the driver's, through DLPack."""

    name = "no PyTorch: memory of the driver's own"

    def __init__(self):
        from gpu_memory import Driver

        self.driver = Driver()
        self.dtypes = [dtype for dtype in DTYPES if "bfloat" not in dtype and "float8" not in dtype]

    def _array(self, dtype):
        import numpy as np

        return bits_of(dtype, np.dtype(dtype).itemsize).view(dtype).reshape(SHAPE)

    def bits(self, dtype):
        return self._array(dtype).tobytes()

    def make(self, dtype):
        from gpu_memory import DlpackArray

        return DlpackArray(self.driver, self._array(dtype))

    def read(self, view, part=0):
        from gpu_memory import Consumer, read

        consumer = Consumer(view.part(part).__dlpack__())
        assert consumer.shape == SHAPE
        address = consumer.tensor.data
        bits = read(self.driver, address, view.parts[part].nbytes).tobytes()
        consumer.let_go(with_gil=False)
        return address, bits

    def write(self, room, dtype):
        from gpu_memory import write

        write(self.driver, room.address, self._array(dtype))

    def bytes_of(self, tensor):
        return tensor.numpy().tobytes()


# --- The other processes ---


def tell(what):
    print(json.dumps(what), flush=True)


def own(memory, device):
    """Lends a tensor until it is told to take it back."""
    tensor = memory.make("float32")
    tell(device.lend("lent", tensor).lent)
    del tensor  # the device has it
    sys.stdin.readline()
    tell(device.take_back("lent", deadline=LIMIT_S))


def write(memory, device):
    """Puts tensors, and waits to be killed."""
    outcomes = {device.put(dtype, memory.make(dtype)).outcome for dtype in memory.dtypes}
    outcomes.add(device.put("parts", [memory.make("int8"), memory.make("float32")]).outcome)
    tell(sorted(outcomes))
    sys.stdin.readline()


class Worker:
    def __init__(self, role, options):
        command = [sys.executable, __file__, "--role", role, "--endpoint", options.endpoint]
        self.process = subprocess.Popen(
            command + ["--fake"] * options.fake, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self):
        line = self.process.stdout.readline()
        assert line, f"a worker ended with {self.process.wait(LIMIT_S)}"
        return json.loads(line)


# --- What is tested ---


def in_one_allocation(address, size):
    """Whether the driver knows a mapping that holds it."""
    import ctypes

    from gpu_memory import POINTER, Driver

    base, length = POINTER(), ctypes.c_size_t()
    Driver().in_context(
        "cuMemGetAddressRange", 3020, ctypes.byref(base), ctypes.byref(length), POINTER(address)
    )
    return base.value <= address and address + size <= base.value + length.value


def a_lent_tensor_is_read_in_another_process_without_a_copy(memory, device, options):
    owner = Worker("own", options)
    assert owner.answer() is True
    view = device.borrow("lent")
    assert view is not None, device.last_failure
    address, bits = memory.read(view)
    assert address == view.address and in_one_allocation(address, view.nbytes)
    assert bits == memory.bits("float32"), "other bytes"
    view.release()
    owner.process.stdin.write("\n")
    owner.process.stdin.flush()
    assert owner.answer() is True, "it did not come back"
    assert owner.process.wait(LIMIT_S) == 0


def what_a_killed_worker_put_is_there_bit_for_bit(memory, device, options):
    writer = Worker("write", options)
    assert writer.answer() == ["stored"]
    writer.process.send_signal(signal.SIGKILL)
    assert writer.process.wait(LIMIT_S) == -signal.SIGKILL
    for dtype in memory.dtypes:
        view = device.get(dtype)
        assert view is not None, device.last_failure
        address, bits = memory.read(view)
        assert address == view.address and in_one_allocation(address, view.nbytes)
        assert bits == memory.bits(dtype), f"other bytes: {dtype}"
    with device.get("parts") as view:
        address, bits = memory.read(view, 1)
        assert bits == memory.bits("float32")
    stats = device.stats()
    assert stats["host_to_device_copies"] == stats["device_to_host_copies"] == 0


def an_object_is_copied_into_a_tensor(memory, device, _):
    device.put("source", memory.make("float32"))
    target = memory.make("int32")
    assert device.get_into("source", target) == len(memory.bits("float32")), device.last_failure
    assert memory.bytes_of(target) == memory.bits("float32")


def what_is_written_in_place_is_read_bit_for_bit(memory, device, _):
    for dtype in memory.dtypes:
        with device.reserve(f"in place/{dtype}", SHAPE, dtype) as room:
            memory.write(room, dtype)
            assert room.commit().outcome == "stored", device.last_failure
        _, bits = memory.read(device.get(f"in place/{dtype}"))
        assert bits == memory.bits(dtype), f"other bytes: {dtype}"


def a_commit_waits_for_the_kernel_that_writes(memory, device, _):
    torch = memory.torch
    ones = torch.ones(1 << 20, dtype=torch.float32, device="cuda")
    busy = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), device.reserve("sum", 1 << 20, torch.float32) as room:
        for _ in range(50):
            busy = torch.tanh(busy @ busy)
        torch.add(ones, ones, out=room.torch())
        assert not stream.query(), "the stream was done too soon: this shows nothing"
        assert room.commit(), device.last_failure
        assert stream.query(), "it was committed before it was written"
    assert device.get("sum").torch().sum().item() == 2 << 20


def a_view_may_be_dropped_while_its_stream_still_reads_it(memory, device, _):
    torch = memory.torch
    ones = torch.ones(1 << 20, dtype=torch.float32, device="cuda")
    device.put("read", ones)
    busy = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(50):
            busy = torch.tanh(busy @ busy)
        total = device.get("read").torch().sum()
    held = device.stats()["held_for_streams"]
    device.delete("read")
    for i in range(64):  # more than the tier holds
        assert device.put(f"filler/{i}", torch.zeros(1 << 20, device="cuda")), device.last_failure
    assert held >= 1, "the stream was done too soon: this shows nothing"
    stream.synchronize()
    assert total.item() == 1 << 20, "its bytes were used again"
    print(f"  {held} pins waited for the stream when the view was gone")


TESTS = (
    a_lent_tensor_is_read_in_another_process_without_a_copy,
    what_a_killed_worker_put_is_there_bit_for_bit,
    an_object_is_copied_into_a_tensor,
    what_is_written_in_place_is_read_bit_for_bit,
)
TESTS_OF_KERNELS = (
    a_commit_waits_for_the_kernel_that_writes,
    a_view_may_be_dropped_while_its_stream_still_reads_it,
)


def start_daemon(options, directory, uuid):
    ready, log = directory / "ready.json", directory / "log"
    with open(log, "wb") as output:
        daemon = subprocess.Popen(
            [options.daemon, "--capacity", "256MiB", "--default-quota", "64MiB", "--socket", directory / "s",
             "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--ready-file", ready,
             f"--default-devices={uuid}=64MiB"],
            stdout=output, stderr=output,
        )  # fmt: skip
    until(lambda: daemon.poll() is not None or ready.exists(), "the daemon's ready file")
    assert daemon.poll() is None, log.read_text()
    return daemon


def run(memory, options):
    import infercache

    print(memory.name, flush=True)
    with tempfile.TemporaryDirectory() as directory:
        options.endpoint = f"unix:{directory}/s"
        with infercache.connect(options.endpoint, deadline=LIMIT_S) as client:
            device = client.device(0)
            daemon = start_daemon(options, Path(directory), device.uuid)
            try:
                device.ping()
                for test in TESTS + (() if options.fake else TESTS_OF_KERNELS):
                    test(memory, device, options)
                    print(f"ok {test.__name__.replace('_', ' ')}", flush=True)
                until(lambda: device.stats()["held_for_streams"] == 0, "nothing waits for a stream")
            finally:
                daemon.terminate()
                daemon.wait(LIMIT_S)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--daemon")
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--role", choices=("own", "write"))
    parser.add_argument("--endpoint")
    options = parser.parse_args()
    state = tempfile.NamedTemporaryFile() if options.fake and options.role is None else None
    if state is not None:
        os.environ["FAKE_CUDA_STATE"] = state.name
    try:
        import numpy  # noqa: F401

        memory = PlainMemory() if options.fake else TorchMemory()
    except ImportError as error:
        skip(error)
    import infercache

    if options.role is None:
        run(memory, options)
        return
    with infercache.connect(options.endpoint, deadline=LIMIT_S) as client:
        {"own": own, "write": write}[options.role](memory, client.device(0))


if __name__ == "__main__":
    main()
