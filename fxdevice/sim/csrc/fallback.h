// The boxed fallback: any operator, run by its CPU kernel on the memory of one simulated device.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <initializer_list>
#include <utility>

namespace fxsim {

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack);

using NamedTensor = std::pair<const char*, const at::Tensor&>;

// Device index that all defined `tensors` are on; throws PyTorch's device error where they differ.
int common_device(const char* method, std::initializer_list<NamedTensor> tensors);

}  // namespace fxsim
