// What PyTorch's device-independent code (torch.accelerator, torch.Generator, pin_memory) asks of a backend.
#include "allocator.h"
#include "device_state.h"
#include "generator.h"

#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/alloc_cpu.h>

#include <cstring>
#include <functional>
#include <map>
#include <mutex>

namespace fxsim {
namespace {

// "Pinned" memory is ordinary host memory that is_pinned() recognises.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t num_bytes) override {
    void* memory = num_bytes > 0 ? c10::alloc_cpu(num_bytes) : nullptr;
    if (memory != nullptr) {
      const std::lock_guard<std::mutex> lock(mutex_);
      sizes_[static_cast<char*>(memory)] = num_bytes;
    }
    return {memory, memory, &PinnedAllocator::release, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return &PinnedAllocator::release;
  }

  void copy_data(void* destination, const void* source, std::size_t count) const override {
    std::memcpy(destination, source, count);
  }

  bool owns(const void* pointer) {
    const auto* address = static_cast<const char*>(pointer);
    const std::lock_guard<std::mutex> lock(mutex_);
    auto after = sizes_.upper_bound(address);
    if (after == sizes_.begin()) {
      return false;
    }
    const auto& [begin, num_bytes] = *std::prev(after);
    return std::less<const char*>()(address, begin + num_bytes);
  }

  static PinnedAllocator& instance() {
    static auto* const allocator = new PinnedAllocator();
    return *allocator;
  }

 private:
  static void release(void* memory) {
    if (memory == nullptr) {
      return;
    }
    {
      const std::lock_guard<std::mutex> lock(instance().mutex_);
      instance().sizes_.erase(static_cast<char*>(memory));
    }
    c10::free_cpu(memory);
  }

  std::mutex mutex_;
  std::map<const char*, size_t, std::less<>> sizes_;
};

struct SimHooks final : public at::PrivateUse1HooksInterface {
  bool isBuilt() const override {
    return true;
  }

  bool isAvailable() const override {
    return device_count() > 0;
  }

  bool hasPrimaryContext(c10::DeviceIndex /*index*/) const override {
    return true;
  }

  c10::DeviceIndex deviceCount() const override {
    return static_cast<c10::DeviceIndex>(device_count());
  }

  void setCurrentDevice(c10::DeviceIndex index) const override {
    set_current_device(index);
  }

  c10::DeviceIndex getCurrentDevice() const override {
    return static_cast<c10::DeviceIndex>(current_device());
  }

  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const auto previous = getCurrentDevice();
    set_current_device(index);
    return previous;
  }

  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }

  at::Device getDeviceFromPtr(void* /*data*/) const override {
    return at::Device(kSim, getCurrentDevice());
  }

  bool isPinnedPtr(const void* data) const override {
    return PinnedAllocator::instance().owns(data);
  }

  c10::Allocator* getPinnedMemoryAllocator() const override {
    return &PinnedAllocator::instance();
  }

  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(index < 0 ? current_device() : index);
  }

  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return new_generator(index < 0 ? current_device() : index);
  }

  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t num_bytes) const override {
    resize_storage(storage, num_bytes);
  }
};

const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new SimHooks());
  return true;
}();

}  // namespace
}  // namespace fxsim
