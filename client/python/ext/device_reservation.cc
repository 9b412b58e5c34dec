#include "client/python/ext/device_reservation.h"

#include <nanobind/stl/string.h>

#include <string>
#include <utility>

#include "client/python/ext/arguments.h"
#include "client/python/ext/device.h"
#include "client/python/ext/errors.h"
#include "client/python/ext/parts.h"

namespace infercache::python {
namespace {

namespace nb = nanobind;

nb::object Helper(const char* name) {
  return nb::module_::import_("infercache._device").attr(name);
}

// Where nobody names a stream: torch's current one of this thread, or the legacy default stream.
DeviceStream StreamOfThread(const DeviceId& device) {
  return ToStream(nb::cast<uint64_t>(Helper("stream_to_wait_for")(device.ordinal)));
}

std::string Repr(const PyDeviceReservation& room) {
  if (!room.open()) return "<infercache.DeviceReservation, over>";
  const SharedPin& pin = room.pin();
  return ReprOf("DeviceReservation", pin->size_bytes(), pin->parts()) + ", " + pin->device().uuid +
         ">";
}

using Class = nb::class_<PyDeviceReservation>;

// What kernels are given.
void DefineMemory(Class& c) {
  c.def("part", &PyDeviceReservation::part, nb::arg("part") = 0,
        nb::sig("def part(self, part: int = 0) -> DeviceTensor"),
        "One part, to be written by libraries that know DLPack or __cuda_array_interface__. "
        "IndexError.")
      .def(
          "torch",
          [](nb::handle self, nb::handle part) {
            return Helper("view_to_torch")(self, part, false);
          },
          nb::arg("part") = 0, nb::sig("def torch(self, part: int = 0) -> _Tensor"),
          R"(One part as a CUDA tensor, to be written in place; what is in it at first is unspecified.

Its use in torch's current stream of this thread is known; if kernels of another stream write it, say
record_stream(stream) of the reservation. It has to be gone when the reservation is committed. ImportError: torch
is not installed. TypeError: this torch lacks the dtype. IndexError: no such part.)");
  DefineDlpack<PyDeviceReservation>(
      c, [](const PyDeviceReservation& self) { return self.only_part(); });
}

void DefineEnd(Class& c) {
  c.def(
       "commit", &PyDeviceReservation::Commit, nb::arg("stream") = nb::none(), nb::kw_only(),
       nb::arg("deadline") = nb::none(),
       nb::sig("def commit(self, stream: typing.Any = None, *, deadline: float | None = None) -> "
               "PutResult"),
       R"(Waits until `stream`, and all streams that were named before, have done what they were given so far; then
everybody finds the object. What became of it is told as put does.

`stream`: in which it was written; None: torch's current stream if torch uses CUDA, else the legacy default one.
BufferError: a tensor or part that was made from the reservation is still there, with which what is committed could
be changed: `del` it first. After that, and after DEADLINE_EXCEEDED, FAILED_PRECONDITION (the stream is being
captured for a graph) and other errors of a stream, the reservation is as before and may be committed again. After
anything else it is over. ValueError: it is over already, or no such stream. ClosedError.)")
      .def(
          "abandon", &PyDeviceReservation::Abandon, nb::sig("def abandon(self) -> None"),
          R"(Gives the room back, without anybody waiting: when all that was made from it is gone and the streams that were
named, and torch's current stream or the legacy default one, have done what they were given by then. Leaving `with`
does the same. Dropping the reservation waits for the streams that were named alone, or the legacy default one if none
was. Idempotent; nothing if it is committed.)")
      .def(
          "__enter__", [](nb::handle self) { return nb::borrow(self); },
          nb::sig("def __enter__(self) -> DeviceReservation"))
      .def(
          "__exit__", [](PyDeviceReservation& self, nb::args) { self.Abandon(); },
          nb::sig("def __exit__(self, *exc_info: object) -> None"))
      .def_prop_ro("open", &PyDeviceReservation::open,
                   "Whether it may be written and committed: False once it is committed or "
                   "abandoned.");
}

void DefineFacts(Class& c) {
  c.def("__repr__", &Repr)
      .def(
          "__reduce_ex__",
          [](nb::handle, nb::handle) -> nb::object {
            throw nb::type_error("a DeviceReservation cannot be pickled: it is this process's");
          },
          nb::sig("def __reduce_ex__(self, protocol: typing.SupportsIndex, /) -> typing.NoReturn"))
      .def_prop_ro(
          "address", [](const PyDeviceReservation& self) { return self.pin()->address(); },
          "In this process, of the first byte, a multiple of 256; the parts lie back to back. Who "
          "gives it to kernels says in which stream: record_stream, or commit.")
      .def_prop_ro(
          "nbytes", [](const PyDeviceReservation& self) { return self.pin()->size_bytes(); },
          "Bytes of all parts.")
      .def_prop_ro(
          "ordinal", [](const PyDeviceReservation& self) { return self.pin()->device().ordinal; },
          "The GPU's number in this process.")
      .def_prop_ro(
          "device_uuid", [](const PyDeviceReservation& self) { return self.pin()->device().uuid; },
          nb::sig("def device_uuid(self) -> str"), "The GPU's UUID.")
      .def_prop_ro(
          "parts", [](const PyDeviceReservation& self) { return PartList(self.pin()->parts()); },
          nb::sig("def parts(self) -> list[Part]"),
          "(dtype, shape, nbytes) of each part; never empty.");
}

}  // namespace

const SharedPin& PyDeviceReservation::pin() const {
  if (state_ == State::kCommitting) {
    throw nb::value_error("another thread commits the reservation");
  }
  if (!open()) throw nb::value_error("the reservation is over: it was committed or abandoned");
  ThrowIfInherited(*pin_);
  return pin_;
}

DeviceTensor PyDeviceReservation::part(Py_ssize_t index) const {
  return DeviceTensor(pin(), PartIndex(pin()->parts(), index));
}

DeviceTensor PyDeviceReservation::only_part() const {
  (void)OnlyPart(pin()->parts());
  return DeviceTensor(pin(), 0);
}

void PyDeviceReservation::CheckCommits(const PyDevice& device) const {
  if (pin().use_count() > 1) {
    throw nb::buffer_error(
        "a tensor or part that was made from the reservation is still there, and could change what "
        "is committed: del it before commit()");
  }
  if (nb::inst_ptr<PyDevice>(device_) != &device) {
    throw nb::value_error("the reservation is another device's");
  }
}

std::vector<PutResult> PyDeviceReservation::CommitAll(PyDevice& device,
                                                      std::span<PyDeviceReservation* const> rooms,
                                                      nb::handle stream, nb::handle deadline) {
  const std::shared_ptr<OpenedDevice> opened = device.Use();
  const CallOptions call = CallWith(deadline);
  nb::object owner = nb::none();
  const DeviceStream also =
      stream.is_none() ? StreamOfThread(device.id()) : StreamOf(stream, &owner);
  for (const PyDeviceReservation* room : rooms) room->CheckCommits(device);
  // Out of the reach of other threads, which have the GIL meanwhile.
  std::vector<SharedPin> pins;
  for (PyDeviceReservation* room : rooms) {
    pins.push_back(std::move(room->pin_));
    room->state_ = State::kCommitting;
  }
  std::vector<PutResult> results = DevicePin::Commit(pins, *opened->device, also, call);
  for (size_t i = 0; i < rooms.size(); ++i) {
    if (pins[i]->committed()) {
      rooms[i]->state_ = State::kOver;
      continue;
    }
    // It is as before, and may be abandoned while the stream still writes.
    if (!absl::IsInvalidArgument(results[i].status)) pins[i]->UsedBy(also, owner);
    rooms[i]->pin_ = std::move(pins[i]);
    rooms[i]->state_ = State::kOpen;
  }
  return results;
}

nb::object PyDeviceReservation::Commit(nb::handle stream, nb::handle deadline) {
  (void)pin();
  auto& device = nb::cast<PyDevice&>(device_);
  PyDeviceReservation* const self = this;
  const nb::tuple answer = device.NotedAnswer(CommitAll(device, {&self, 1}, stream, deadline)[0]);
  return nb::module_::import_("infercache._client").attr("PutResult")(*answer);
}

void PyDeviceReservation::Abandon() {
  if (!open()) return;
  state_ = State::kOver;
  const SharedPin mine = std::move(pin_);
  if (mine->inherited()) return;  // the parent has the room, and CUDA is not to be used here
  mine->UsedBy(StreamOfThread(mine->device()));
}

void DefineDeviceReservation(nb::module_& m) {
  Class c(
      m, "DeviceReservation", nb::is_weak_referenceable(),
      R"(Room in a GPU's memory for an object that nobody sees until it is committed. Made by `Device.reserve`.

    with device.reserve("block/1", (32, 128), "float16") as room:
        torch.matmul(a, b, out=room.torch())     # written where it stays: nothing is copied
        room.commit()

`torch()`, `part()`, DLPack and `address` are the daemon's memory itself, for writing. All tensors made from it have
to be gone when it is committed, since what is committed does not change any more; `Device.get` has it then, for
reading. What is not committed is given back: when the reservation is abandoned or dropped, `with` is left or an
exception ends it, and the tensors are gone; and then when the streams that were named have done what they were
given by then, of which nobody has to wait.

Any thread may use and drop it. After a fork the child's raise ForkedError. A process that ends gives back what it
did not commit. What a CUDA graph writes has to be copied there by a stream: replays are not known to anybody.)");
  DefineMemory(c);
  DefineEnd(c);
  DefineFacts(c);
}

}  // namespace infercache::python
