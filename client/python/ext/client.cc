#include "client/python/ext/client.h"

#include <nanobind/stl/string.h>

#include <new>
#include <utility>

#include "client/python/ext/device.h"
#include "client/python/ext/errors.h"
#include "client/python/ext/fork_epoch.h"
#include "client/python/ext/without_gil.h"

namespace infercache::python {
namespace nb = nanobind;

PyClient::PyClient(ClientOptions options) : fork_epoch_(ForkEpoch()) {
  absl::StatusOr<std::unique_ptr<Client>> client = absl::UnknownError("not called");
  {
    nb::gil_scoped_release nogil;
    client = Client::Connect(std::move(options));
  }
  if (absl::IsResourceExhausted(client.status())) {
    PyErr_SetString(PyExc_MemoryError, std::string(client.status().message()).c_str());
    throw nb::python_error();
  }
  if (!client.ok()) throw nb::value_error(std::string(client.status().message()).c_str());
  shared_ = std::make_shared<Shared>();
  shared_->client = *std::move(client);
}

PyClient::~PyClient() { Close(); }

void PyClient::Close() {
  if (shared_ == nullptr) return;
  std::shared_ptr<Shared> shared = std::move(shared_);
  std::vector<std::shared_ptr<OpenedDevice>> devices;
  for (const auto& device : std::exchange(devices_, {})) {
    if (const auto slot = device.lock()) devices.push_back(std::move(slot->opened));
  }
  nb::gil_scoped_release nogil;
  devices.clear();  // before their client
  shared.reset();   // waits for what is under way, whose threads may want the GIL
}

// The client refers to the memory of its requests until it is gone.
PyClient::Shared::~Shared() {
  {
    // The last call of a client that another thread closed ends here, and has the GIL.
    const WithoutGil nogil;
    client.reset();
  }
  if (memory.empty()) return;
  nb::gil_scoped_acquire gil;
  memory.clear();
}

std::shared_ptr<PyClient::Shared> PyClient::Use() const {
  if (fork_epoch_ != ForkEpoch()) {
    ThrowForked("this client was made before a fork; connect again in the child");
  }
  if (shared_ == nullptr) ThrowClosed("the client is closed");
  return shared_;
}

const char* PyClient::lane() const {
  return Use()->client->lane() == Lane::kLocal ? "local" : "remote";
}

void PyClient::Note(const absl::Status& status) {
  if (status.ok()) return;
  ThrowIfCallersMistake(status);
  last_failure_ = std::make_unique<Failure>(CodeName(status), std::string(status.message()));
  ++failures_;
}

nb::object PyClient::Hit(GetResult& result) {
  if (!result.hit()) {
    Note(result.status);
    return nb::none();
  }
  return nb::cast(View(*std::move(result.object)));
}

nb::tuple PyClient::NotedAnswer(const PutResult& result) {
  if (result.outcome == PutOutcome::kRefused) Note(result.status);
  return PutAnswer(result);
}

// --- Waited for ---

nb::object PyClient::Get(nb::handle key, nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const std::string_view bytes = KeyBytes(key);
  const CallOptions call = CallWith(deadline);
  GetResult result;
  {
    nb::gil_scoped_release nogil;
    result = shared->client->Get(bytes, call);
  }
  return Hit(result);
}

nb::list PyClient::GetMany(nb::handle keys, nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const KeyList list(keys);
  const CallOptions call = CallWith(deadline);
  std::vector<GetResult> results;
  {
    nb::gil_scoped_release nogil;
    results = shared->client->Get(list.keys(), call);
  }
  nb::list views;
  for (GetResult& result : results) views.append(Hit(result));
  return views;
}

nb::list PyClient::GetIntoMany(nb::handle keys, nb::handle buffers, nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const KeyList list(keys);
  const Destinations destinations(buffers);
  if (list.keys().size() != destinations.spans().size()) {
    throw nb::value_error("as many buffers as keys are needed");
  }
  const CallOptions call = CallWith(deadline);
  std::vector<GetIntoResult> results;
  {
    nb::gil_scoped_release nogil;
    results = shared->client->GetInto(list.keys(), destinations.spans(), call);
  }
  nb::list sizes;
  for (const GetIntoResult& result : results) {
    if (!result.hit) Note(result.status);
    sizes.append(result.hit ? nb::object(nb::int_(result.size_bytes)) : nb::none());
  }
  return sizes;
}

nb::list PyClient::PutMany(nb::handle items, nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const PutBatch batch(items);
  const CallOptions call = CallWith(deadline);
  std::vector<PutResult> results;
  {
    nb::gil_scoped_release nogil;
    results = shared->client->Put(batch.items(), call);
  }
  nb::list answers;
  for (const PutResult& result : results) answers.append(NotedAnswer(result));
  return answers;
}

size_t PyClient::Match(nb::handle keys, nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const KeyList list(keys);
  const CallOptions call = CallWith(deadline);
  MatchResult result;
  {
    nb::gil_scoped_release nogil;
    result = shared->client->Match(list.keys(), call);
  }
  Note(result.status);
  return result.status.ok() ? result.prefix_length : 0;
}

nb::list PyClient::Keys(KeysCall which, nb::handle keys, nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const KeyList list(keys);
  const CallOptions call = CallWith(deadline);
  KeysResult result;
  {
    nb::gil_scoped_release nogil;
    Client& client = *shared->client;
    result = which == KeysCall::kExists   ? client.Exists(list.keys(), call)
             : which == KeysCall::kDelete ? client.Delete(list.keys(), call)
                                          : client.Touch(list.keys(), call);
  }
  Note(result.status);
  return FlagList(result, list.keys().size());
}

nb::tuple PyClient::ListKeys(nb::handle prefix, uint32_t page_size, nb::handle token,
                             nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const CallOptions call = CallWith(deadline);
  const std::string_view prefix_bytes = KeyBytes(prefix);
  const std::string_view token_bytes = KeyBytes(token);
  ListResult result;
  {
    nb::gil_scoped_release nogil;
    result = shared->client->List(prefix_bytes, page_size, token_bytes, call);
  }
  ThrowIfCallersMistake(result.status);
  if (!result.status.ok()) ThrowDaemonError(result.status);
  nb::list keys;
  for (const ListedObject& object : result.objects) {
    keys.append(nb::bytes(object.key.data(), object.key.size()));
  }
  return nb::make_tuple(keys,
                        nb::bytes(result.next_page_token.data(), result.next_page_token.size()));
}

void PyClient::Ping(nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const CallOptions call = CallWith(deadline);
  absl::Status status;
  {
    nb::gil_scoped_release nogil;
    status = shared->client->Ping(call);
  }
  if (!status.ok()) ThrowDaemonError(status);
}

// --- Single flight ---

namespace {

// Runs Python's computation for the client, which calls it in the same thread, without the GIL.
class Computation {
 public:
  explicit Computation(nb::handle compute) : compute_(compute) {}

  absl::Status Run(ComputeSlot& slot) {
    nb::gil_scoped_acquire gil;
    if (error_ != nullptr) return absl::CancelledError("an earlier computation raised");
    try {
      return Fill(slot);
    } catch (const std::exception&) {
      // Of Python's, and of what it returned. It must not cross the client; it goes on in Rethrow.
      error_ = std::current_exception();
      return absl::AbortedError("the computation raised");
    }
  }

  void Rethrow() const {
    if (error_ != nullptr) std::rethrow_exception(error_);
  }

 private:
  absl::Status Fill(ComputeSlot& slot) {
    const nb::object made = compute_(slot.index());
    const Value value(made[0]);
    ObjectInfo info = InfoFrom(nb::object(made[1]));
    absl::StatusOr<std::span<std::byte>> room =
        slot.Allocate(value.size_bytes(), std::move(info), value.parts());
    ThrowIfCallersMistake(room.status());
    if (!room.ok()) return room.status();
    nb::gil_scoped_release nogil;
    std::byte* to = room->data();
    for (const std::span<const std::byte> piece : value.pieces()) {
      to = std::copy(piece.begin(), piece.end(), to);
    }
    return absl::OkStatus();
  }

  nb::handle compute_;
  std::exception_ptr error_;
};

ComputeOptions ComputeWith(nb::handle deadline, double claim_time_s) {
  if (!(claim_time_s > 0)) throw nb::value_error("claim_time must be positive (seconds)");
  return {.deadline = CallWith(deadline).deadline, .claim_time = absl::Seconds(claim_time_s)};
}

}  // namespace

nb::list PyClient::GetOrCompute(nb::handle keys, nb::handle compute, nb::handle deadline,
                                double claim_time_s) {
  const std::shared_ptr<Shared> shared = Use();
  const KeyList list(keys);
  const ComputeOptions options = ComputeWith(deadline, claim_time_s);
  Computation computation(compute);
  std::vector<ComputeResult> results;
  {
    nb::gil_scoped_release nogil;
    results = shared->client->GetOrCompute(
        list.keys(), [&computation](ComputeSlot& slot) { return computation.Run(slot); }, options);
  }
  computation.Rethrow();
  nb::list answers;
  for (ComputeResult& result : results) {
    ThrowIfCallersMistake(result.status);
    if (!result.object.has_value()) ThrowDaemonError(result.status);
    Note(result.stored);
    answers.append(nb::make_tuple(View(*std::move(result.object)), result.computed));
  }
  return answers;
}

// --- Not waited for ---

int PyClient::event_fd() const { return Use()->client->event_fd(); }

template <typename Submit>
uint64_t PyClient::SubmitWith(Memory memory, const Submit& submit) {
  const std::shared_ptr<Shared> shared = Use();
  nb::gil_scoped_release nogil;
  const std::lock_guard lock(shared->mu);
  const RequestId id = submit(*shared->client);
  shared->memory.emplace(id, std::move(memory));
  return id;
}

uint64_t PyClient::SubmitGet(nb::handle keys, nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const KeyList list(keys);
  const CallOptions call = CallWith(deadline);
  nb::gil_scoped_release nogil;
  return shared->client->SubmitGet(list.keys(), call);
}

uint64_t PyClient::SubmitGetInto(nb::handle keys, nb::handle buffers, nb::handle deadline) {
  const KeyList list(keys);
  auto destinations = std::make_unique<Destinations>(buffers);
  const std::span<const std::span<std::byte>> spans = destinations->spans();
  if (list.keys().size() != spans.size()) {
    throw nb::value_error("as many buffers as keys are needed");
  }
  const CallOptions call = CallWith(deadline);
  return SubmitWith(std::move(destinations),
                    [&](Client& client) { return client.SubmitGetInto(list.keys(), spans, call); });
}

uint64_t PyClient::SubmitPut(nb::handle items, nb::handle deadline) {
  auto batch = std::make_unique<PutBatch>(items);
  const std::span<const PutItem> puts = batch->items();
  const CallOptions call = CallWith(deadline);
  return SubmitWith(std::move(batch), [&](Client& client) { return client.SubmitPut(puts, call); });
}

uint64_t PyClient::SubmitMatch(nb::handle keys, nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const KeyList list(keys);
  const CallOptions call = CallWith(deadline);
  nb::gil_scoped_release nogil;
  return shared->client->SubmitMatch(list.keys(), call);
}

uint64_t PyClient::SubmitKeys(KeysCall which, nb::handle keys, nb::handle deadline) {
  const std::shared_ptr<Shared> shared = Use();
  const KeyList list(keys);
  const CallOptions call = CallWith(deadline);
  nb::gil_scoped_release nogil;
  Client& client = *shared->client;
  return which == KeysCall::kExists   ? client.SubmitExists(list.keys(), call)
         : which == KeysCall::kDelete ? client.SubmitDelete(list.keys(), call)
                                      : client.SubmitTouch(list.keys(), call);
}

uint64_t PyClient::SubmitGetOrReserve(nb::handle keys, nb::handle deadline, double claim_time_s) {
  const std::shared_ptr<Shared> shared = Use();
  const KeyList list(keys);
  const ComputeOptions options = ComputeWith(deadline, claim_time_s);
  nb::gil_scoped_release nogil;
  return shared->client->SubmitGetOrReserve(list.keys(), options);
}

// (status code, reason, result): per key for gets and puts, which fail key by key.
nb::object PyClient::ResultOf(Completion& completion) {
  nb::list results;
  if (completion.match.has_value()) {
    Note(completion.match->status);
    return nb::int_(completion.match->prefix_length);
  }
  if (completion.keys.has_value()) {
    Note(completion.keys->status);
    for (const bool flag : completion.keys->flags) results.append(nb::bool_(flag));
    return completion.keys->status.ok() ? nb::object(results) : nb::none();
  }
  for (GetResult& result : completion.get) results.append(Hit(result));
  for (const GetIntoResult& result : completion.get_into) {
    if (!result.hit) Note(result.status);
    results.append(result.hit ? nb::object(nb::int_(result.size_bytes)) : nb::none());
  }
  for (const PutResult& result : completion.put) results.append(NotedAnswer(result));
  for (GetOrReservePiece& piece : completion.get_or_reserve) {
    GetResult got{.status = std::move(piece.result.status),
                  .object = std::move(piece.result.object)};
    nb::object claim = piece.result.claim.has_value() ? nb::cast(*std::move(piece.result.claim))
                                                      : nb::object(nb::none());
    results.append(nb::make_tuple(piece.index, Hit(got), claim));
  }
  return results;
}

// What is the caller's mistake is part of the answer here, since the caller is elsewhere.
nb::list PyClient::Drain() {
  const std::shared_ptr<Shared> shared = Use();
  std::vector<Completion> completions;
  std::vector<Memory> done;
  {
    nb::gil_scoped_release nogil;
    const std::lock_guard lock(shared->mu);
    completions = shared->client->Drain();
    for (const Completion& completion : completions) {
      if (completion.more) continue;
      if (auto node = shared->memory.extract(completion.id))
        done.push_back(std::move(node.mapped()));
    }
  }
  nb::list answers;
  for (Completion& completion : completions) {
    nb::object result;
    nb::object error = nb::none();
    try {
      result = ResultOf(completion);
    } catch (const nb::builtin_exception& mistake) {
      result = nb::none();
      error = nb::module_::import_("builtins").attr("ValueError")(mistake.what());
    }
    answers.append(nb::make_tuple(completion.id, completion.more, result, error));
  }
  return answers;
}

}  // namespace infercache::python
