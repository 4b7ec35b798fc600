// Random generators of the simulated devices.
//
// They draw from CPU generators, so that a seed gives the same numbers as on the CPU; the default
// generator of every device is PyTorch's default CPU generator.
#pragma once

#include <ATen/core/Generator.h>

namespace fxsim {

at::Generator new_generator(int index);
const at::Generator& default_generator(int index);

// The CPU generator behind one of a simulated device; any other generator as it is.
at::Generator host_generator(const at::Generator& generator);

}  // namespace fxsim
