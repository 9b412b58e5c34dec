#include <nanobind/stl/string.h>

#include "client/python/ext/device.h"

namespace infercache::python {
namespace {

namespace nb = nanobind;
using KeysCall = PyClient::KeysCall;
using Class = nb::class_<PyDevice>;

void DefineKeys(Class& c) {
  const auto define = [&c](const char* name, KeysCall which, const char* signature,
                           const char* doc) {
    c.def(
        name,
        [which](PyDevice& self, nb::handle keys, nb::handle deadline) {
          return self.Keys(which, keys, deadline);
        },
        nb::arg("keys"), nb::arg("deadline") = nb::none(), nb::sig(signature), doc);
  };
  define("exists_many", KeysCall::kExists,
         "def exists_many(self, keys: collections.abc.Iterable[str | bytes], deadline: float | "
         "None = None) -> list[bool]",
         "Whether each key is present in this GPU's memory. Not a use of it: see touch_many.");
  define("delete_many", KeysCall::kDelete,
         "def delete_many(self, keys: collections.abc.Iterable[str | bytes], deadline: float | "
         "None = None) -> list[bool]",
         "Whether each key was there and is deleted. Views of it stay valid.");
  define("touch_many", KeysCall::kTouch,
         "def touch_many(self, keys: collections.abc.Iterable[str | bytes], deadline: float | None "
         "= None) -> list[bool]",
         "Counts as a use of each key that is present; whether it is.");
  c.def("match", &PyDevice::Match, nb::arg("keys"), nb::arg("deadline") = nb::none(),
        nb::sig("def match(self, keys: collections.abc.Iterable[str | bytes], deadline: float | "
                "None = None) -> int"),
        "How many of the first keys are all present in this GPU's memory: the longest cached "
        "prefix.");
  c.def("ping", &PyDevice::Ping, nb::arg("deadline") = nb::none(),
        nb::sig("def ping(self, deadline: float | None = None) -> None"),
        R"(Returns if the daemon answers and the namespace has a tier in this GPU's memory.

DaemonError: `code` NOT_FOUND: it has none; UNIMPLEMENTED: it is off, `reason` says why; or as Client.ping.)");
}

void DefineCopies(Class& c) {
  c.def("_get_many", &PyDevice::GetMany, nb::arg("keys"), nb::arg("stream").none(),
        nb::arg("owner").none(), nb::arg("deadline").none());
  c.def("_borrow_many", &PyDevice::BorrowMany, nb::arg("keys"), nb::arg("stream").none(),
        nb::arg("owner").none(), nb::arg("deadline").none());
  c.def("_get_into", &PyDevice::GetInto, nb::arg("key"), nb::arg("address"), nb::arg("capacity"),
        nb::arg("stream"), nb::arg("deadline").none(),
        nb::sig("def _get_into(self, key: object, address: int, capacity: int, stream: int, "
                "deadline: object | None) -> int | None"));
  c.def(
      "get_into_host", &PyDevice::GetIntoHost, nb::arg("key"), nb::arg("buffer"),
      nb::arg("deadline") = nb::none(),
      nb::sig("def get_into_host(self, key: str | bytes, buffer: _Buffer, deadline: float | None "
              "= None) -> int | None"),
      R"(Copies an object of this GPU into a writable, contiguous buffer; its size in bytes, or None for a miss.

Returns when the bytes are there. What is in host memory alone, as what moved down is, is copied from there.
ValueError: the object is larger than the buffer, into which nothing is written then.)");
  c.def("_put_many", &PyDevice::PutMany, nb::arg("items"), nb::arg("stream"),
        nb::arg("deadline").none());
  c.def("_reserve_many", &PyDevice::ReserveMany, nb::arg("items"), nb::arg("deadline").none());
  c.def("_commit_many", &PyDevice::CommitMany, nb::arg("reservations"), nb::arg("stream").none(),
        nb::arg("deadline").none());
  c.def("_lend_many", &PyDevice::LendMany, nb::arg("items"), nb::arg("stream"),
        nb::arg("deadline").none());
  c.def("_take_back", &PyDevice::TakeBack, nb::arg("key"), nb::arg("deadline").none());
}

}  // namespace

void DefineDevice(nb::module_& m) {
  Class c(m, "_Device", nb::is_weak_referenceable());
  c.def(nb::init<PyClient&, nb::handle, bool>(), nb::arg("client"), nb::arg("gpu").none(),
        nb::arg("register_host_memory") = false);
  c.def("close", &PyDevice::Close, nb::sig("def close(self) -> None"),
        R"(Ends the device: later calls raise ClosedError. Views stay valid. Idempotent.

What is lent is lent no longer, and nobody says when the last reader has let go of it, so that it is kept for the
life of the process: take_back it before.
Closing the client closes its devices.)");
  c.def_prop_ro("closed", &PyDevice::closed, "Whether it, or its client, was closed.");
  c.def_prop_ro(
      "uuid", [](const PyDevice& self) { return self.id().uuid; }, nb::sig("def uuid(self) -> str"),
      "As nvidia-smi -L tells it.");
  c.def_prop_ro(
      "ordinal", [](const PyDevice& self) { return self.id().ordinal; },
      "The GPU's number in this process, as in torch.device('cuda', ordinal).");
  c.def_prop_ro(
      "last_failure", &PyDevice::last_failure, nb::sig("def last_failure(self) -> Failure | None"),
      "Why the latest call of any thread that failed was a miss or refused: (code, reason). "
      "For logs and for people. None: nothing has failed yet.");
  c.def("stats", &PyDevice::Stats, nb::sig("def stats(self) -> dict[str, int]"),
        R"(Totals since the device was opened.

`chunks_mapped`, `mapping_failures`: of the daemon's memory, once a session. `host_to_device_copies`, `..._bytes`:
by get_into, of objects in host memory; `device_to_host_copies`, `..._bytes`: the other way.
`host_chunks_registered`, `host_registration_failures`: see `register_host_memory` of Client.device. `held_for_streams`:
pins that wait for a stream right now. `lent`, `borrowed`: tensors. `lent_as_host_copies`: in place of lending, for want
of memory that can be shared. `lend_host_copies`, `..._bytes`: those, and `host_copy="always"`. `allocations_opened`, `allocation_failures`: of other workers. `borrows_not_opened`: tensors that
borrow found and could not open; `borrows_from_host`, `..._bytes`: of those, host memory has the key, for get_into.)");
  DefineKeys(c);
  DefineCopies(c);
}

}  // namespace infercache::python
