#include "autograd_threads.h"

#include "device_state.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <vector>

namespace fxsim {
namespace {

using torch::autograd::Engine;
using torch::autograd::ReadyQueue;

// Autograd counts the devices at the first backward of the process and makes one thread each. The
// devices enabled after that would have none, and a backward over them would fail an assertion. The
// engine's parts that make threads are protected, hence this class, which is never instantiated.
struct EngineParts : Engine {
  static void start_threads(Engine& engine) {
    (engine.*(&EngineParts::start_device_threads))();
  }

  static bool has_started(Engine& engine) {
    return engine.*(&EngineParts::thread_pool_shared_) != nullptr;
  }

  static std::vector<std::shared_ptr<ReadyQueue>>& queues(Engine& engine) {
    return engine.*(&EngineParts::device_ready_queues_);
  }
};

// Returns when the thread of a device has let go of everything it had to do before. It is given a
// task of its own: tensors that Python does not know, so that nobody waits for the GIL here, and
// empty ones, so that no memory limit stands in the way.
void wait_for_thread(int index) {
  const c10::InferenceMode no_inference_mode(false);
  const c10::AutoGradMode grad_mode(true);
  const auto options = at::TensorOptions().device(c10::Device(kSim, static_cast<c10::DeviceIndex>(index)));
  const auto x = at::ones({0}, options).requires_grad_(true);
  torch::autograd::grad({x.mul(2)}, {x}, {at::ones({0}, options)});
}

}  // namespace

void ensure_autograd_threads() {
  auto& engine = Engine::get_default_engine();
  if (!EngineParts::has_started(engine)) {
    return;  // the first backward will count the simulated devices
  }
  auto& queues = EngineParts::queues(engine);
  if (queues.empty()) {
    EngineParts::start_threads(engine);
    return;
  }
  while (static_cast<int>(queues.size()) < device_count()) {
    const int index = static_cast<int>(queues.size());
    queues.push_back(std::make_shared<ReadyQueue>());
    std::thread(&Engine::thread_init, &engine, index, queues.back(), true).detach();
  }
}

void wait_for_autograd_threads() {
  auto& engine = Engine::get_default_engine();
  if (!EngineParts::has_started(engine)) {
    return;
  }
  const int num_threads = static_cast<int>(EngineParts::queues(engine).size());
  for (int index = 0; index < std::min(num_threads, device_count()); ++index) {
    wait_for_thread(index);
  }
}

}  // namespace fxsim
