// Device guard of the simulated devices, with streams and events.
//
// Every operation has finished when its call returns, so streams and events order nothing: they
// keep their identity (a program sees the stream that it set) and events keep their time. What they
// would order is what the detection of races goes by.
#include "device_state.h"
#include "races.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>
#include <chrono>

namespace fxsim {
namespace {

using SteadyClock = std::chrono::steady_clock;

struct SimEvent {
  SteadyClock::time_point time;
  races::Moment moment;
};

SimEvent& event_of(void* event) {
  return *static_cast<SimEvent*>(event);
}

std::atomic<c10::StreamId> last_stream{0};

struct SimGuard final : public c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kSim;
  }

  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device previous = getDevice();
    setDevice(device);
    return previous;
  }

  c10::Device getDevice() const override {
    return c10::Device(kSim, static_cast<c10::DeviceIndex>(current_device()));
  }

  void setDevice(c10::Device device) const override {
    set_current_device(index_or_current(device));
  }

  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index() && device.index() < device_count()) {
      set_current_device(device.index());
    }
  }

  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(device_count());
  }

  c10::Stream getStream(c10::Device device) const override {
    const int index = index_or_current(device);
    return stream(index, current_stream(index));
  }

  c10::Stream getDefaultStream(c10::Device device) const override {
    return stream(index_or_current(device), 0);
  }

  c10::Stream getStreamFromGlobalPool(c10::Device device, bool /*high_priority*/) const override {
    return stream(index_or_current(device), ++last_stream);
  }

  c10::Stream getNewStream(c10::Device device, int /*priority*/) const override {
    return stream(index_or_current(device), ++last_stream);
  }

  c10::Stream exchangeStream(c10::Stream next) const override {
    const int index = index_or_current(next.device());
    return stream(index, exchange_stream(index, next.id()));
  }

  bool queryStream(const c10::Stream& stream) const override {
    races::host_waits(stream);
    return true;
  }

  void synchronizeStream(const c10::Stream& stream) const override {
    races::host_waits(stream);
  }

  void synchronizeDevice(const c10::DeviceIndex index) const override {
    check_device_index(index);
    races::host_waits_for_device(index);
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr) {
      *event = new SimEvent();
    }
    event_of(*event) = {SteadyClock::now(), races::recorded(stream)};
  }

  void block(void* event, const c10::Stream& stream) const override {
    if (event != nullptr) {
      races::waits(stream, event_of(event).moment);
    }
  }

  bool queryEvent(void* event) const override {
    synchronizeEvent(event);
    return true;
  }

  void synchronizeEvent(void* event) const override {
    if (event != nullptr) {
      races::host_waits(event_of(event).moment);
    }
  }

  void destroyEvent(void* event, const c10::DeviceIndex /*index*/) const noexcept override {
    delete static_cast<SimEvent*>(event);
  }

  double elapsedTime(void* start, void* end, const c10::DeviceIndex /*index*/) const override {
    TORCH_CHECK(start != nullptr && end != nullptr, "Both events must be recorded before calculating elapsed time.");
    const auto elapsed = event_of(end).time - event_of(start).time;
    return std::chrono::duration<double, std::milli>(elapsed).count();
  }

 private:
  static c10::Stream stream(int index, c10::StreamId id) {
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(kSim, static_cast<c10::DeviceIndex>(index)), id);
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, SimGuard);

}  // namespace
}  // namespace fxsim
