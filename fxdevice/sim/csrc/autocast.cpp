// Automatic mixed precision, torch.autocast("fxsim"): PyTorch's own lists of operators and casts.
#include "device_state.h"

#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include <vector>

namespace fxsim {
namespace {

using at::autocast::cached_cast;

enum class Policy { kLowerPrecision, kFloat32, kFloat32Result, kWidest };

bool is_eligible(const at::Tensor& tensor) {
  return at::autocast::is_eligible(tensor, kSim);
}

template <typename Visit>
void for_each_tensor(c10::IValue& value, const Visit& visit) {
  if (value.isTensor()) {
    value = visit(value.toTensor());
  } else if (value.isTensorList()) {
    std::vector<at::Tensor> visited;
    for (const at::Tensor& tensor : value.toTensorVector()) {
      visited.push_back(visit(tensor));
    }
    value = c10::IValue(std::move(visited));
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> visited;
    for (const auto& tensor : value.toOptionalTensorVector()) {
      visited.push_back(tensor.has_value() ? std::make_optional(visit(*tensor)) : std::nullopt);
    }
    value = c10::IValue(std::move(visited));
  }
}

c10::ScalarType widest_type(torch::jit::Stack& stack, size_t begin) {
  auto widest = at::autocast::get_autocast_dtype(kSim);
  for (size_t i = begin; i < stack.size(); ++i) {
    for_each_tensor(stack[i], [&widest](const at::Tensor& tensor) {
      if (is_eligible(tensor)) {
        widest = at::autocast::prioritize(widest, tensor, kSim);
      }
      return tensor;
    });
  }
  return widest;
}

void cast_arguments(torch::jit::Stack& stack, size_t begin, c10::ScalarType dtype) {
  for (size_t i = begin; i < stack.size(); ++i) {
    for_each_tensor(stack[i], [dtype](const at::Tensor& tensor) { return cached_cast(dtype, tensor, kSim); });
  }
}

// Asks for a float32 result of a half-precision input, unless the caller asked for a type.
void request_float32(const c10::OperatorHandle& op, torch::jit::Stack& stack, size_t begin) {
  const auto dtype_index = op.schema().argumentIndexWithName("dtype");
  TORCH_INTERNAL_ASSERT(dtype_index.has_value());
  auto& dtype = stack[begin + *dtype_index];
  if (dtype.isNone() && stack[begin].isTensor() && is_eligible(stack[begin].toTensor())) {
    dtype = c10::IValue(static_cast<int64_t>(c10::kFloat));
  }
}

template <Policy policy>
void autocast_kernel(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastPrivateUse1);
  const size_t begin = stack->size() - op.schema().arguments().size();
  if constexpr (policy == Policy::kLowerPrecision) {
    cast_arguments(*stack, begin, at::autocast::get_autocast_dtype(kSim));
  } else if constexpr (policy == Policy::kFloat32) {
    cast_arguments(*stack, begin, c10::kFloat);
  } else if constexpr (policy == Policy::kFloat32Result) {
    request_float32(op, *stack, begin);
  } else {
    cast_arguments(*stack, begin, widest_type(*stack, begin));
  }
  op.callBoxed(stack);
}

template <Policy policy>
torch::CppFunction kernel() {
  return torch::CppFunction::makeFromBoxedFunction<&autocast_kernel<policy>>();
}

}  // namespace

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFallthrough());
}

// PyTorch's lists name an operator by one token, or by two where it has an overload.
#define FXSIM_NAME1(op) #op
#define FXSIM_NAME2(op, overload) #op "." #overload
#define FXSIM_SELECT(_1, _2, name, ...) name
#define FXSIM_NAME(...) FXSIM_SELECT(__VA_ARGS__, FXSIM_NAME2, FXSIM_NAME1)(__VA_ARGS__)
#define FXSIM_LOWER_PRECISION(...) m.impl(FXSIM_NAME(__VA_ARGS__), kernel<Policy::kLowerPrecision>());
#define FXSIM_FLOAT32(...) m.impl(FXSIM_NAME(__VA_ARGS__), kernel<Policy::kFloat32>());
#define FXSIM_FLOAT32_RESULT(...) m.impl(FXSIM_NAME(__VA_ARGS__), kernel<Policy::kFloat32Result>());
#define FXSIM_WIDEST(...) m.impl(FXSIM_NAME(__VA_ARGS__), kernel<Policy::kWidest>());
// The norms change to an overload with a dtype there; a float32 input gives the same result.
#define FXSIM_OTHER_SIGNATURE(function, name, ...) m.impl(name, kernel<Policy::kFloat32>());

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(FXSIM_LOWER_PRECISION)
  AT_FORALL_FP32(FXSIM_FLOAT32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FXSIM_FLOAT32_RESULT)
  AT_FORALL_PROMOTE(FXSIM_WIDEST)
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(FXSIM_OTHER_SIGNATURE)
}

}  // namespace fxsim
