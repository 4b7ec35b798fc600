// Finds uses of device memory that streams and events do not put in order.
//
// The simulated devices finish every operation before its call returns, so a program that forgets a
// wait gives right results here and wrong ones on real devices. While detection is on, every stream
// has a vector clock: of every stream, how many operations have ended, whatever the timing, before
// the next one of this stream begins. Events carry clocks, waits join them. Two uses of one
// allocation, one of which writes, are a race where the clock of the second has not counted the first.
//
// Memory belongs to the stream that was current when it was allocated. When it is dropped, anything
// that is allocated in that stream later may get it, unless the allocator was told (record_stream)
// of a stream that uses it. A use that the new owner does not come after is a race.
//
// The host has one clock for all its threads: how they wait for each other is not known. What the
// host does to its own memory is not seen; but what is copied into pinned memory without blocking
// arrives there only when the host, or the stream that reads it, has waited.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fxsim::races {

using StreamKey = std::pair<int, c10::StreamId>;  // device index, id
using Clock = std::map<StreamKey, int64_t>;

// One use of memory by an operation: the count-th of its stream.
struct Use {
  StreamKey stream;
  int64_t count;
  std::string operation;
};

// What is known of one allocation. Of no meaning in another session of detection than its own.
struct History {
  int64_t session = 0;
  StreamKey owner;
  std::vector<StreamKey> lent_to;
  std::optional<Use> write;
  std::vector<Use> reads;
  std::vector<Use> earlier;  // uses of memory that this may have taken over
};

// What an event holds.
struct Moment {
  int64_t session = 0;
  Clock clock;
};

bool is_on();
bool start();                     // false where it is on already
std::vector<std::string> stop();  // the races that were found

// An operation in the current stream of a device, from its first use of memory on.
class Operation {
 public:
  explicit Operation(std::string_view name) : name_(name) {}

  void uses(const c10::Storage& storage, bool is_write);
  // Begins in the current stream of a device, after what another stream had to do, if one is given.
  void begin(int device, std::optional<StreamKey> after = std::nullopt);
  // What comes later in `stream` comes after it.
  void ends_before(StreamKey stream) const;
  void wait_on_host() const;
  // It fills pinned memory, which the host may not read before it has waited.
  void delivers_later(const at::Tensor& destination) const;
  // It reads memory of the host, which an earlier copy may not have filled.
  void reads_host(const at::Tensor& source) const;

 private:
  std::string_view name_;
  std::optional<Use> use_;
};

StreamKey current(int device);
StreamKey key(const c10::Stream& stream);

void allocated(History& history, int device);
void dropped(const History& history) noexcept;
void lent(History& history, const c10::Stream& stream);

Moment recorded(const c10::Stream& stream);
void waits(const c10::Stream& stream, const Moment& moment);
void host_waits(const Moment& moment);
void host_waits(const c10::Stream& stream);
void host_waits_for_device(int device);

}  // namespace fxsim::races
