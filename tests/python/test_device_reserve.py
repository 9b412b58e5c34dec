"""Room in a GPU's memory that is written in place, committed or given back. On a fake driver."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import infercache
from conftest import LIMIT_S, until
from device_worker import VALUE
from gpu_memory import Consumer, write
from gpus import MIB


def reserved(gpu):
    """Bytes of the tier that are being written."""
    return gpu.daemon.metric("infercache_used_bytes", tier=gpu.gpus.uuid(0), state="reserved")


@pytest.fixture
def nothing_reserved(gpu):
    until(lambda: reserved(gpu) == 0, "nothing of another test is reserved")
    yield
    gpu.gpus.clear_faults()
    gc.collect()
    until(lambda: reserved(gpu) == 0, "all room is given back")


pytestmark = pytest.mark.usefixtures("nothing_reserved")


# --- Written and found ---


def test_what_is_written_in_place_is_found_once_it_is_committed(device, gpu):
    with device.reserve("key", (3, 1000), "float32", kind="kv", compute_cost_ms=5, ttl=60) as room:
        assert room.open and room.nbytes == VALUE.nbytes and room.address % 256 == 0
        assert (room.ordinal, room.device_uuid) == (0, gpu.gpus.uuid(0))
        assert room.parts == [("float32", (3, 1000), VALUE.nbytes)]
        taken = Consumer(room.__dlpack__(max_version=(1, 0)))
        assert taken.managed.flags == 0, "it may be written"
        assert (taken.shape, taken.tensor.data) == ((3, 1000), room.address)
        write(gpu.driver, taken.tensor.data, VALUE)
        taken.let_go(with_gil=True)
        assert not device.exists("key") and device.get("key") is None
        result = room.commit()
        assert result == ("stored", "OK", "") and isinstance(result, infercache.PutResult)
        assert not room.open
    with device.get("key") as view:
        assert (view.numpy() == VALUE).all() and view.dtype == "float32" and view.shape == (3, 1000)
        assert (view.kind, view.compute_cost_ms) == ("kv", 5) and 0 < view.ttl < 61
        assert view.part().read_only


def test_another_process_finds_what_a_killed_worker_wrote_in_place(device, gpu, worker):
    writer = worker("reserve", "written in place")
    assert writer.said == "stored"
    writer.kill()
    other = infercache.connect(gpu.daemon.endpoint).device(0)
    assert (other.get("written in place").numpy() == VALUE).all()


def test_a_killed_worker_gives_its_room_back(device, gpu, worker):
    writer = worker("hold", "not committed")
    assert writer.said == "reserved" and reserved(gpu) > 0
    writer.kill()
    until(lambda: reserved(gpu) == 0, "the daemon has it back")
    assert not infercache.connect(gpu.daemon.endpoint).device(0).exists("not committed")


def test_parts_are_written_through_what_each_protocol_hands_out(device, gpu):
    values = [np.arange(4, dtype=np.int64), np.zeros((0, 4), np.float64), np.arange(6, dtype=np.int16).reshape(2, 3)]
    room = device.reserve("parts", parts=[(4, np.int64), ((0, 4), "float64"), ((2, 3), np.dtype("int16"))])
    assert [part.shape for part in room.parts] == [(4,), (0, 4), (2, 3)]
    part = room.part(-1)
    interface = part.__cuda_array_interface__
    assert interface["data"] == (room.address + 32, False) and not part.read_only
    write(gpu.driver, interface["data"][0], values[2])
    device.put("source", gpu.array(values[0]))
    assert device.get_into("source", room.part(0)) == 32, "a part is a tensor that objects are copied into"
    for use in (lambda: room.__dlpack__(), lambda: room.part(3)):
        with pytest.raises((ValueError, IndexError), match="3 parts"):
            use()
    assert not hasattr(room, "__cuda_array_interface__"), "its consumer would keep the room and nobody would know"
    del part
    assert room.commit()
    view = device.get("parts")
    assert all((view.numpy(i) == value).all() for i, value in enumerate(values))


@pytest.mark.parametrize("how", ["tensor", "part", "interface", "capsule"])
def test_nothing_is_committed_while_somebody_could_still_write_it(device, gpu, how):
    room = device.reserve("key", 4, "int64")
    keeper = {
        "tensor": lambda: Consumer(room.__dlpack__()),
        "part": room.part,
        "interface": lambda: (lambda part: (part, part.__cuda_array_interface__))(room.part()),
        "capsule": room.__dlpack__,
    }[how]()
    with pytest.raises(BufferError, match="del it before commit"):
        room.commit()
    assert room.open and not device.exists("key")
    if how == "tensor":
        keeper.let_go(with_gil=False)
    del keeper
    assert room.commit().outcome == "stored"


# --- Not committed ---


class Failed(Exception):
    pass


@pytest.mark.parametrize("how", ["exception", "with", "abandon", "drop"])
def test_what_is_not_committed_is_given_back(device, gpu, how):
    room = device.reserve("key", (MIB,), "uint8")
    assert reserved(gpu) >= MIB
    if how == "exception":
        with pytest.raises(Failed), room:
            raise Failed
    elif how == "with":
        with room:
            pass
    elif how == "abandon":
        room.abandon()
        room.abandon()
    if how == "drop":
        del room
    else:
        assert not room.open and repr(room) == "<infercache.DeviceReservation, over>"
        for use in (room.commit, lambda: room.address, room.part, room.__dlpack__, lambda: room.record_stream(0)):
            with pytest.raises(ValueError, match="the reservation is over"):
                use()
    until(lambda: reserved(gpu) == 0, "the room is given back")
    assert not device.exists("key")


def test_a_tensor_keeps_the_room_of_an_abandoned_reservation(device, gpu):
    with device.reserve("key", 4, "int64") as room:
        taken = Consumer(room.__dlpack__())
    device.ping()  # the daemon would have heard of it before this
    assert reserved(gpu) > 0
    write(gpu.driver, taken.tensor.data, np.arange(4))
    taken.let_go(with_gil=False)
    until(lambda: reserved(gpu) == 0, "the room is given back")


@pytest.mark.parametrize("how", ["abandon", "record_stream", "consumer", "commit"])
def test_room_is_given_back_when_its_streams_are_done(device, gpu, how):
    stream = gpu.driver.stream()
    room = device.reserve("key", 4, "int64")
    gpu.state.streams_stuck = 1
    if how == "record_stream":
        room.record_stream(stream)
    elif how == "consumer":
        Consumer(room.__dlpack__(stream=stream)).let_go(with_gil=True)
    elif how == "commit":
        assert room.commit(stream, deadline=0.05).code == "DEADLINE_EXCEEDED"
    room.abandon()
    assert device.stats()["held_for_streams"] == (1 if how == "abandon" else 2)
    device.ping()
    assert reserved(gpu) > 0, "the GPU may still write there"
    gpu.state.streams_stuck = 0
    until(lambda: reserved(gpu) == 0, "the room is given back")


def test_room_that_is_dropped_while_streams_are_captured_goes_later(device, gpu):
    room = device.reserve("key", 4, "int64")
    gpu.state.streams_capture = 1
    with pytest.raises(Failed), room:
        raise Failed  # and not what the stream says
    device.ping()
    assert reserved(gpu) > 0
    gpu.state.streams_capture = 0
    device.reserve("other", 4, "int64").abandon()
    until(lambda: reserved(gpu) == 0, "the next release tries it again")


# --- Commits ---


def test_a_commit_waits_for_its_stream_within_its_deadline(device, gpu):
    room = device.reserve("key", 4, "int64")
    gpu.state.streams_stuck = 1
    result = room.commit(gpu.driver.stream(), deadline=0.05)
    assert (result.outcome, result.code) == ("refused", "DEADLINE_EXCEEDED") and not result
    assert device.last_failure.code == "DEADLINE_EXCEEDED" and room.open
    assert room.part().address == room.address, "it is as before"
    gpu.state.streams_stuck = 0
    assert room.commit() and device.exists("key")


def test_a_stream_that_is_none_commits_nothing(device, gpu):
    room = device.reserve("key", 4, "int64")
    with pytest.raises(ValueError, match="INVALID_HANDLE"):
        room.commit(4096)
    for wrong in (-1, "stream", True, 2):
        with pytest.raises((TypeError, ValueError), match="stream"):
            room.commit(wrong)
    assert room.open and not device.exists("key")
    assert room.commit(), "what was no stream is not asked again"


@pytest.mark.parametrize("named", ["room.record_stream(stream)", "room.__dlpack__(stream=stream)"])
def test_a_stream_that_is_no_more_is_not_committed_after_and_keeps_the_room(device, gpu, named):
    """That every stream that was named is asked shows by one that is gone: all others the fake driver sticks at once."""
    program = f"""
import sys, infercache
from gpu_memory import Driver
client = infercache.connect({gpu.daemon.endpoint!r}, fingerprint={device.client.fingerprint!r})
device, driver = client.device(0), Driver()
room, stream = device.reserve("key", 4, "int64"), driver.stream()
{named}
driver.destroy(stream)
try:
    room.commit()
except ValueError as error:
    print("INVALID_HANDLE" in str(error) and room.open, flush=True)
del room
print("dropped", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "True\n" and process.stdout.readline() == "dropped\n"
        # Nobody can say what that stream still writes. What another reservation had goes meanwhile.
        one = reserved(gpu)
        assert one > 0
        room = device.reserve("other", 4, "int64")
        assert reserved(gpu) > one
        room.abandon()
        until(lambda: reserved(gpu) == one, "the other's room is given back")
        process.stdin.close()
        assert process.wait(60) == 0
    until(lambda: reserved(gpu) == 0, "the daemon has it back")


def test_a_commit_is_once(device, gpu):
    room = device.reserve("key", 4, "int64")
    assert room.commit().outcome == "stored"
    for use in (room.commit, lambda: room.address, room.part, lambda: room.record_stream(0)):
        with pytest.raises(ValueError, match="the reservation is over"):
            use()
    room.abandon()
    with room:
        pass
    assert device.exists("key"), "nothing of it is undone"


def test_a_stream_that_is_captured_is_refused(device, gpu):
    room = device.reserve("key", 4, "int64")
    gpu.state.streams_capture = 1
    for use in (room.record_stream, room.part().record_stream, lambda s: room.__dlpack__(stream=s)):
        with pytest.raises(infercache.DeviceError, match="FAILED_PRECONDITION.*captured"):
            use(1)
    result = room.commit()
    assert (result.outcome, result.code) == ("refused", "FAILED_PRECONDITION") and "captured" in result.reason
    assert room.open
    gpu.state.streams_capture = 0
    assert room.commit().outcome == "stored"


def test_of_two_that_write_one_key_the_first_to_commit_is_found(device, gpu):
    first, second = (device.reserve("key", 4, "int64") for _ in range(2))
    write(gpu.driver, first.address, np.arange(4))
    assert first.commit().outcome == "stored" and second.commit().outcome == "exists"
    assert (device.get("key").numpy() == np.arange(4)).all()
    assert device.reserve("key", 4, "int64") is None
    assert device.last_failure.code == "ALREADY_EXISTS"
    other = device.reserve("key", 2, "int64", overwrite=True)
    write(gpu.driver, other.address, np.arange(2))
    assert other.commit().outcome == "stored" and device.get("key").shape == (2,)


def test_other_threads_run_while_a_commit_waits_for_its_stream(device, gpu):
    room = device.reserve("key", 4, "int64")
    gpu.state.streams_stuck = 1
    done, begun = [], threading.Event()

    def run():
        begun.set()
        done.append(room.commit(deadline=LIMIT_S).outcome)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(LIMIT_S)
    until(lambda: not room.open, "the commit is under way")
    for use in (room.commit, lambda: room.address):
        with pytest.raises(ValueError, match="another thread commits"):
            use()
    room.abandon()
    assert not done
    gpu.state.streams_stuck = 0
    thread.join()
    assert done == ["stored"] and device.exists("key")


# --- What cannot be reserved ---


def test_shapes_and_dtypes_that_can_never_work(device):
    for wrong, error, match in (
        ({}, TypeError, "a shape and a dtype, or parts"),
        ({"shape": (3,)}, TypeError, "a shape and a dtype, or parts"),
        ({"dtype": "float32"}, TypeError, "a shape and a dtype, or parts"),
        ({"shape": 3, "dtype": "float32", "parts": [(3, "float32")]}, TypeError, "a shape and a dtype, or parts"),
        ({"dtype": "float32", "parts": [(3, "float32")]}, TypeError, "a shape and a dtype, or parts"),
        ({"shape": (3,), "dtype": "float7"}, TypeError, "part 0: objects have no dtype float7"),
        ({"shape": (3,), "dtype": "bytes"}, TypeError, "part 0: plain bytes have no shape"),
        ({"shape": (3,), "dtype": object}, TypeError, "part 0: objects have no dtype object"),
        ({"shape": (3,), "dtype": 7}, TypeError, "part 0: a dtype is one of torch or numpy, or its name; not 7"),
        ({"shape": (3,), "dtype": np.dtype(">f4")}, TypeError, "part 0: .* byte order"),
        ({"shape": (3, 2.5), "dtype": "int8"}, TypeError, r"part 0: a shape is an int, or ints; not \(3, 2.5\)"),
        ({"shape": 2.5, "dtype": "int8"}, TypeError, "part 0: a shape is an int, or ints; not 2.5"),
        ({"shape": (3, -1), "dtype": "int8"}, ValueError, r"part 0: a shape has no negative length: \(3, -1\)"),
        ({"shape": (3, 0), "dtype": "int8"}, ValueError, "at least one byte"),
        ({"shape": (1 << 41,), "dtype": "int8"}, ValueError, "bytes"),
        ({"shape": (1 << 40, 1 << 40), "dtype": "int8"}, ValueError, f"no object has {1 << 80} bytes"),
        ({"shape": 0, "dtype": "int8"}, ValueError, "at least one byte"),
        ({"parts": []}, ValueError, "at least one byte"),
        ({"parts": [(3, "int8"), (4, "float32")]}, ValueError, r"part 1 \(float32\) would begin at byte 3"),
        ({"parts": [(3, "int8"), 4]}, TypeError, r"part 1 is to be a tuple \(shape, dtype\); not 4"),
        ({"parts": [(3, "int8"), (4, None)]}, TypeError, "part 1: a dtype is"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            device.reserve("key", **wrong)
    for wrong, match in (({"kind": "tensor"}, "kind"), ({"class_id": 16}, "class_id"), ({"ttl": 0}, "ttl"),
                         ({"deadline": 0}, "deadline")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            device.reserve("key", 3, "int8", **wrong)
    for key in ("", b"", "x" * 1025):
        with pytest.raises(ValueError, match="key"):
            device.reserve(key, 3, "int8")


def test_scalars_and_every_dtype_by_its_names(device, gpu):
    names = ("bool", "uint8", "int16", "float16", "bfloat16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2",
             "complex128")  # fmt: skip
    for name in names:
        with device.reserve("key", (2, 3), name) as room:
            (part,) = room.parts
            assert (part.dtype, part.nbytes) == (name.removesuffix("fn"), room.nbytes)
            assert room.part().dtype == part.dtype
    with device.reserve("scalar", (), np.float64) as room:
        write(gpu.driver, room.address, np.float64(2.5))
        assert room.commit()
    assert device.get("scalar").numpy() == 2.5


def test_what_finds_no_room_is_none_and_says_why(device, gpu, gpu_client):
    assert device.reserve("key", (1 << 28,), "uint8") is None
    assert device.last_failure.code == "RESOURCE_EXHAUSTED"
    elsewhere = gpu_client.device(1)
    assert elsewhere.reserve("key", 4, "int64") is None
    assert elsewhere.last_failure.code == "NOT_FOUND"


# --- Its process, and its device ---


def test_a_reservation_keeps_its_device_and_says_that_it_is_closed(device, gpu, gpu_client):
    room = gpu_client.device(0).reserve("key", 4, "int64")
    gc.collect()
    assert room.commit().outcome == "stored", "its device was dropped, and not closed"
    room = device.reserve("other", 4, "int64")
    gpu_client.close()
    with pytest.raises(infercache.ClosedError):
        room.commit()
    with pytest.raises(infercache.ClosedError):
        device.reserve("key", 4, "int64")
    assert room.open
    room.abandon()
    until(lambda: reserved(gpu) == 0, "the room is given back")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_told_that_it_has_no_reservation(device, gpu):
    room = device.reserve("key", 4, "int64")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for use in (room.commit, lambda: room.address, room.part, lambda: device.reserve("other", 4, "int64")):
                with pytest.raises(infercache.ForkedError, match="fork"):
                    use()
            with room:
                pass
            del room
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert room.commit().outcome == "stored", "the child took nothing from the parent"


@pytest.mark.parametrize("stuck", [0, 1])
def test_a_process_ends_with_all_that_it_has_reserved(device, gpu, stuck):
    program = f"""
import infercache
client = infercache.connect({gpu.daemon.endpoint!r}, fingerprint={device.client.fingerprint!r})
device = client.device(0)
rooms = [device.reserve(f"key/{{i}}", 4, "int64") for i in range(4)]
kept = rooms[0].part(), rooms[1].__dlpack__()
rooms[2].abandon()
print("ending")
"""
    gpu.state.streams_stuck = stuck
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ending\n", "")
    gpu.state.streams_stuck = 0
    until(lambda: reserved(gpu) == 0, "the daemon has it back")


def test_it_is_not_to_be_pickled(device):
    import pickle

    with device.reserve("key", (2, 3), "int8") as room:
        assert repr(room).startswith("<infercache.DeviceReservation of 6 bytes, int8, GPU-")
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(room)


def test_many_are_reserved_and_committed_at_once_each_for_itself(device, gpu):
    device.put("b", gpu.array(np.arange(3)))
    wanted = [infercache.Reserve("a", 4, "int64"), infercache.Reserve("b", 4, "int64"),
              infercache.Reserve("c", parts=[(4, "int64"), (2, "int8")], kind="kv", overwrite=True)]  # fmt: skip
    rooms = device.reserve_many(wanted)
    assert [room is not None for room in rooms] == [True, False, True]
    assert device.last_failure.code == "ALREADY_EXISTS"
    rooms = [room for room in rooms if room]
    for value, room in enumerate(rooms):
        write(gpu.driver, room.address, np.full(4, value))
    assert [result.outcome for result in device.commit_many(iter(rooms), gpu.driver.stream())] == ["stored"] * 2
    assert not any(room.open for room in rooms)
    assert (device.get("a").numpy() == 0).all()
    view = device.get("c")
    assert view.kind == "kv" and (view.numpy(0) == 1).all()
    assert device.reserve_many([]) == device.commit_many([]) == []
    with pytest.raises(TypeError, match="shape and a dtype, or parts"):
        device.reserve_many([infercache.Reserve("d", 4, "int64"), infercache.Reserve("e")])
    assert reserved(gpu) == 0


def test_of_many_none_is_committed_if_one_cannot_be(device, gpu):
    rooms = device.reserve_many([infercache.Reserve(key, 4, "int64") for key in "abc"])
    part = rooms[1].part()
    with pytest.raises(BufferError, match="still there"):
        device.commit_many(rooms)
    del part
    other = device.client.device(device.uuid)
    with pytest.raises(ValueError, match="another device's"):
        other.commit_many(rooms)
    for wrong, error in (([*rooms, rooms[0]], ValueError), ([*rooms, None], TypeError), ([*rooms, "c"], TypeError)):
        with pytest.raises(error):
            device.commit_many(wrong)
    with pytest.raises(ValueError, match="INVALID_HANDLE"):
        device.commit_many(rooms, 4096)
    gpu.state.streams_stuck = 1
    results = device.commit_many(rooms, deadline=0.05)
    assert [(result.outcome, result.code) for result in results] == [("refused", "DEADLINE_EXCEEDED")] * 3
    gpu.state.streams_stuck = 0
    assert all(room.open for room in rooms) and not device.exists("a")
    rooms[0].abandon()
    with pytest.raises(ValueError, match="is over"):
        device.commit_many(rooms)
    assert all(device.commit_many(rooms[1:])) and device.exists("c") and not device.exists("a")
    other.close()


def test_the_stub_tells_of_all_that_it_has():
    """What is checked by type and completed by editors is what is there."""
    import ast

    path = Path(infercache._core.__file__).with_name("_core.pyi")
    if not path.exists():
        pytest.skip("this build has no stub: a sanitized extension")
    stub = ast.parse(path.read_text())
    (told,) = (node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == "DeviceReservation")
    signatures = {node.name: ast.unparse(node.args) for node in told.body if isinstance(node, ast.FunctionDef)}
    returns = {node.name: ast.unparse(node.returns) for node in told.body if isinstance(node, ast.FunctionDef)}
    has = {name for name in dir(infercache.DeviceReservation) if not name.startswith("_")}
    assert has == {name for name in signatures if not name.startswith("_")}
    assert signatures["commit"] == "self, stream: Any=None, *, deadline: float | None=None"
    assert (returns["commit"], returns["part"], returns["torch"]) == ("PutResult", "DeviceTensor", "_Tensor")
