#include "generator.h"

#include "device_state.h"

#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/TensorImpl.h>

#include <mutex>
#include <vector>

namespace fxsim {
namespace {

class SimGenerator final : public c10::GeneratorImpl {
 public:
  SimGenerator(int index, at::Generator host)
      : c10::GeneratorImpl(
            c10::Device(kSim, static_cast<c10::DeviceIndex>(index)),
            c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        host_(std::move(host)) {}

  const at::Generator& host() const {
    return host_;
  }

  void set_current_seed(uint64_t seed) override {
    const auto lock = lock_host();
    host_.set_current_seed(seed);
  }

  void set_offset(uint64_t offset) override {
    host_.set_offset(offset);
  }

  uint64_t get_offset() const override {
    return host_.get_offset();
  }

  uint64_t current_seed() const override {
    return host_.current_seed();
  }

  uint64_t seed() override {
    const auto lock = lock_host();
    return host_.unsafeGetGeneratorImpl()->seed();
  }

  void set_state(const c10::TensorImpl& state) override {
    const auto lock = lock_host();
    host_.unsafeGetGeneratorImpl()->set_state(state);
  }

  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    const auto lock = lock_host();
    return host_.unsafeGetGeneratorImpl()->get_state();
  }

 private:
  SimGenerator* clone_impl() const override {
    return new SimGenerator(device().index(), host_.clone());
  }

  std::unique_lock<std::mutex> lock_host() const {
    return std::unique_lock<std::mutex>(host_.unsafeGetGeneratorImpl()->mutex_);
  }

  at::Generator host_;
};

}  // namespace

at::Generator new_generator(int index) {
  return at::make_generator<SimGenerator>(index, at::detail::createCPUGenerator());
}

const at::Generator& default_generator(int index) {
  static const auto* const generators = [] {
    auto* all = new std::vector<at::Generator>();
    for (int i = 0; i < kMaxDevices; ++i) {
      all->push_back(at::make_generator<SimGenerator>(i, at::detail::getDefaultCPUGenerator()));
    }
    return all;
  }();
  return generators->at(index);
}

at::Generator host_generator(const at::Generator& generator) {
  if (generator.defined() && generator.device().type() == kSim) {
    return static_cast<const SimGenerator*>(generator.unsafeGetGeneratorImpl())->host();
  }
  return generator;
}

}  // namespace fxsim
