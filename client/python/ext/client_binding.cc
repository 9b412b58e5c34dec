#include <optional>

#include "client/python/ext/client.h"

namespace infercache::python {
namespace {

namespace nb = nanobind;
using KeysCall = PyClient::KeysCall;

std::string Text(nb::handle text) { return std::string(KeyBytes(text)); }

FingerprintEntries Fingerprint(nb::handle entries) {
  FingerprintEntries result;
  if (entries.is_none()) return result;
  for (const auto& [name, value] : nb::cast<nb::dict>(entries)) {
    result.emplace_back(Text(name), Text(value));
  }
  return result;
}

std::optional<TlsOptions> Tls(nb::handle ca, nb::handle certificate, nb::handle key) {
  if (ca.is_none() && certificate.is_none() && key.is_none()) return std::nullopt;
  const auto text = [](nb::handle pem) { return pem.is_none() ? std::string() : Text(pem); };
  return TlsOptions{
      .ca_pem = text(ca), .certificate_pem = text(certificate), .private_key_pem = text(key)};
}

void Construct(PyClient* self, nb::handle endpoint, nb::handle namespace_name,
               nb::handle fingerprint, double deadline, nb::handle token, nb::handle ca,
               nb::handle certificate, nb::handle key) {
  ClientOptions options;
  if (!endpoint.is_none()) options.endpoint = Text(endpoint);
  options.namespace_name = Text(namespace_name);
  options.fingerprint = Fingerprint(fingerprint);
  options.deadline = absl::Seconds(deadline);
  if (!token.is_none()) options.bearer_token = Text(token);
  options.tls = Tls(ca, certificate, key);
  new (self) PyClient(std::move(options));
}

using Class = nb::class_<PyClient>;

void DefineReads(Class& c) {
  c.def("get", &PyClient::Get, nb::arg("key"), nb::arg("deadline") = nb::none(),
        nb::sig("def get(self, key: str | bytes, deadline: float | None = None) -> View | None"),
        R"(The object under `key` as a View, or None.

On the local lane a hit is a read of the daemon's memory: no system call, no copy. None is a miss,
and also what a daemon that is dead, slow or refusing makes of a get; `last_failure` says why. Waits
at most `deadline` seconds (None: the client's). ValueError: a key of 0 or more than 1024 bytes.)");
  c.def(
      "get_many", &PyClient::GetMany, nb::arg("keys"), nb::arg("deadline") = nb::none(),
      nb::sig(
          "def get_many(self, keys: collections.abc.Iterable[str | bytes], deadline: float | None "
          "= None) -> list[View | None]"),
      "`get` of many keys, in their order, in one call.");
  c.def("get_into_many", &PyClient::GetIntoMany, nb::arg("keys"), nb::arg("buffers"),
        nb::arg("deadline") = nb::none(),
        nb::sig("def get_into_many(self, keys: collections.abc.Iterable[str | bytes], buffers: "
                "collections.abc.Iterable[_Buffer], deadline: float | None = None) -> "
                "list[int | None]"),
        R"(Copies each hit into the buffer at its place, without the GIL.

A buffer is writable and contiguous: a numpy array, bytearray, memoryview. Returns the bytes of each
object, None for a miss. ValueError: an object is larger than its buffer, into which nothing is
written then; or not as many buffers as keys.)");
  c.def("match", &PyClient::Match, nb::arg("keys"), nb::arg("deadline") = nb::none(),
        nb::sig(
            "def match(self, keys: collections.abc.Iterable[str | bytes], deadline: float | None = "
            "None) -> int"),
        "How many of the first keys are all present: the longest cached prefix of a chain.");
  c.def(
      "exists_many",
      [](PyClient& self, nb::handle keys, nb::handle deadline) {
        return self.Keys(KeysCall::kExists, keys, deadline);
      },
      nb::arg("keys"), nb::arg("deadline") = nb::none(),
      nb::sig(
          "def exists_many(self, keys: collections.abc.Iterable[str | bytes], deadline: float | "
          "None = None) -> list[bool]"),
      "Whether each key is present. Not a use of it: see touch_many.");
}

void DefineWrites(Class& c) {
  c.def("_put_many", &PyClient::PutMany, nb::arg("items"), nb::arg("deadline").none());
  c.def(
      "delete_many",
      [](PyClient& self, nb::handle keys, nb::handle deadline) {
        return self.Keys(KeysCall::kDelete, keys, deadline);
      },
      nb::arg("keys"), nb::arg("deadline") = nb::none(),
      nb::sig(
          "def delete_many(self, keys: collections.abc.Iterable[str | bytes], deadline: float | "
          "None = None) -> list[bool]"),
      "Whether each key was there and is deleted. Views of it stay valid.");
  c.def(
      "touch_many",
      [](PyClient& self, nb::handle keys, nb::handle deadline) {
        return self.Keys(KeysCall::kTouch, keys, deadline);
      },
      nb::arg("keys"), nb::arg("deadline") = nb::none(),
      nb::sig("def touch_many(self, keys: collections.abc.Iterable[str | bytes], deadline: float | "
              "None "
              "= None) -> list[bool]"),
      "Counts as a use of each key that is present; whether it is.");
  c.def("_get_or_compute", &PyClient::GetOrCompute, nb::arg("keys"), nb::arg("compute"),
        nb::arg("deadline").none(), nb::arg("claim_time"));
  c.def("_list", &PyClient::ListKeys, nb::arg("prefix"), nb::arg("page_size"), nb::arg("token"),
        nb::arg("deadline").none());
  c.def("ping", &PyClient::Ping, nb::arg("deadline") = nb::none(),
        nb::sig("def ping(self, deadline: float | None = None) -> None"),
        R"(Returns if the daemon answers and serves this client.

DaemonError: it does not, or refuses (unknown namespace, contradicting fingerprint, bad token); `code`
and `reason` say which. The one call that raises where the others answer with misses.)");
}

void DefineSubmits(Class& c) {
  c.def("event_fd", &PyClient::event_fd, nb::sig("def event_fd(self) -> int"),
        "A descriptor that is readable while submitted requests have completed. Owned by the "
        "client.");
  c.def("_submit_get", &PyClient::SubmitGet, nb::arg("keys"), nb::arg("deadline").none());
  c.def("_submit_get_into", &PyClient::SubmitGetInto, nb::arg("keys"), nb::arg("buffers"),
        nb::arg("deadline").none());
  c.def("_submit_put", &PyClient::SubmitPut, nb::arg("items"), nb::arg("deadline").none());
  c.def("_submit_match", &PyClient::SubmitMatch, nb::arg("keys"), nb::arg("deadline").none());
  const auto submit = [&c](const char* name, KeysCall which) {
    c.def(
        name,
        [which](PyClient& self, nb::handle keys, nb::handle deadline) {
          return self.SubmitKeys(which, keys, deadline);
        },
        nb::arg("keys"), nb::arg("deadline").none());
  };
  submit("_submit_exists", KeysCall::kExists);
  submit("_submit_delete", KeysCall::kDelete);
  submit("_submit_touch", KeysCall::kTouch);
  c.def("_submit_get_or_reserve", &PyClient::SubmitGetOrReserve, nb::arg("keys"),
        nb::arg("deadline").none(), nb::arg("claim_time"));
  c.def("_drain", &PyClient::Drain);
}

}  // namespace

void DefineClient(nb::module_& m) {
  nb::class_<Claim>(m, "_Claim",
                    "The right to compute a key, until it is dropped or the key is put.")
      .def(
          "give_up", [](Claim& self) { self = Claim(); },
          "Passes it on to whoever waits. Nothing if the key was put.");

  Class c(m, "_Client", nb::is_weak_referenceable());
  c.def("__init__", &Construct, nb::arg("endpoint").none(), nb::arg("namespace").none(),
        nb::arg("fingerprint").none(), nb::arg("deadline"), nb::arg("token").none(),
        nb::arg("ca_pem").none(), nb::arg("certificate_pem").none(),
        nb::arg("private_key_pem").none());
  c.def("close", &PyClient::Close, nb::sig("def close(self) -> None"),
        "Ends the client: calls under way finish, later ones raise ClosedError. Views stay valid. "
        "Idempotent.");
  c.def_prop_ro("closed", &PyClient::closed, "Whether close() was called.");
  c.def_prop_ro("lane", &PyClient::lane, nb::sig("def lane(self) -> str"),
                "'local' (shared memory, this host) or 'remote' (gRPC).");
  c.def_prop_ro(
      "last_failure", &PyClient::last_failure, nb::sig("def last_failure(self) -> Failure | None"),
      "Why the latest call of any thread that failed was a miss or refused: (code, reason). "
      "For logs and for people. None: nothing has failed yet.");
  c.def_prop_ro("failures", &PyClient::failures, nb::sig("def failures(self) -> int"),
                "How many calls of any thread have failed so.");
  DefineReads(c);
  DefineWrites(c);
  DefineSubmits(c);
}

}  // namespace infercache::python
