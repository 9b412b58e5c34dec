// infercache._core.Client: the C++ client under Python's rules. infercache.Client and AsyncClient
// are thin over it.
//
// Every method that may wait or copy does so without the GIL. A call holds the client that it uses,
// so that close() from another thread ends calls but takes nothing from under them.

#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "client/python/ext/arguments.h"
#include "client/python/ext/failures.h"
#include "client/python/ext/view.h"
#include "infercache/client.h"

namespace infercache::python {

struct DeviceSlot;

class PyClient {
 public:
  // ValueError: options that can never work. MemoryError: out of descriptors or threads.
  explicit PyClient(ClientOptions options);
  ~PyClient();
  PyClient(const PyClient&) = delete;
  PyClient& operator=(const PyClient&) = delete;

  void Close();
  bool closed() const { return shared_ == nullptr; }
  const char* lane() const;
  nanobind::object last_failure() const { return FailureObject(last_failure_.get()); }
  uint64_t failures() const { return failures_; }

  // device.cc. It is closed with the client. DeviceError: there is no such GPU here.
  std::shared_ptr<DeviceSlot> OpenDevice(const std::string& gpu, const DeviceOptions& options);

  // --- Waited for ---
  nanobind::object Get(nanobind::handle key, nanobind::handle deadline);
  nanobind::list GetMany(nanobind::handle keys, nanobind::handle deadline);
  nanobind::list GetIntoMany(nanobind::handle keys, nanobind::handle buffers,
                             nanobind::handle deadline);
  nanobind::list PutMany(nanobind::handle items, nanobind::handle deadline);
  size_t Match(nanobind::handle keys, nanobind::handle deadline);
  enum class KeysCall { kExists, kDelete, kTouch };
  nanobind::list Keys(KeysCall call, nanobind::handle keys, nanobind::handle deadline);
  // `compute(i)` returns (parts, info) for keys[i]. The first exception of it goes through, when
  // the claims of the other keys are given up.
  nanobind::list GetOrCompute(nanobind::handle keys, nanobind::handle compute,
                              nanobind::handle deadline, double claim_time_s);
  nanobind::tuple ListKeys(nanobind::handle prefix, uint32_t page_size, nanobind::handle token,
                           nanobind::handle deadline);
  void Ping(nanobind::handle deadline);

  // --- Not waited for: an id, and later a tuple (id, more, result) from Drain ---
  int event_fd() const;
  uint64_t SubmitGet(nanobind::handle keys, nanobind::handle deadline);
  uint64_t SubmitGetInto(nanobind::handle keys, nanobind::handle buffers,
                         nanobind::handle deadline);
  uint64_t SubmitPut(nanobind::handle items, nanobind::handle deadline);
  uint64_t SubmitMatch(nanobind::handle keys, nanobind::handle deadline);
  uint64_t SubmitKeys(KeysCall call, nanobind::handle keys, nanobind::handle deadline);
  uint64_t SubmitGetOrReserve(nanobind::handle keys, nanobind::handle deadline,
                              double claim_time_s);
  nanobind::list Drain();

 private:
  // Memory that a request names, until its completion is drained.
  using Memory = std::variant<std::unique_ptr<Destinations>, std::unique_ptr<PutBatch>>;

  struct Shared {
    std::unique_ptr<Client> client;
    // Taken without the GIL. Guards `memory`; held while a request is made, so that nobody drains
    // its completion before its memory is here.
    std::mutex mu;
    std::unordered_map<RequestId, Memory> memory;

    ~Shared();
  };

  std::shared_ptr<Shared> Use() const;  // ClosedError, ForkedError
  template <typename Submit>
  uint64_t SubmitWith(Memory memory, const Submit& submit);
  void Note(const absl::Status& status);  // raises what is the caller's mistake
  nanobind::object Hit(GetResult& result);
  nanobind::tuple NotedAnswer(const PutResult& result);
  nanobind::object ResultOf(Completion& completion);

  std::shared_ptr<Shared> shared_;  // null once closed
  std::vector<std::weak_ptr<DeviceSlot>> devices_;
  uint64_t fork_epoch_;
  std::unique_ptr<Failure> last_failure_;
  uint64_t failures_ = 0;
};

void DefineClient(nanobind::module_& m);

}  // namespace infercache::python
