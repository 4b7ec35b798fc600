// What Python sees of the simulated devices.
#include "autograd_threads.h"
#include "device_state.h"
#include "races.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <vector>

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.attr("MAX_DEVICES") = fxsim::kMaxDevices;
  m.def("device_count", &fxsim::device_count);
  m.def("set_device_count", [](int count) {
    fxsim::set_device_count(count);
    pybind11::gil_scoped_release release;  // the threads of autograd take the GIL when they start
    fxsim::ensure_autograd_threads();
  });
  m.def(
      "wait_for_autograd_threads",
      &fxsim::wait_for_autograd_threads,
      pybind11::call_guard<pybind11::gil_scoped_release>());
  m.def("current_device", &fxsim::current_device);
  m.def("set_current_device", &fxsim::set_current_device);
  m.def("num_operations", &fxsim::num_operations);
  m.def("copies", [] {
    std::vector<std::tuple<int, int, int64_t, int64_t>> rows;
    for (const auto& copy : fxsim::copies()) {
      rows.emplace_back(copy.source, copy.destination, copy.count, copy.num_bytes);
    }
    return rows;
  });
  m.def("reset_counts", &fxsim::reset_counts);
  m.def("start_race_detection", &fxsim::races::start);
  m.def("stop_race_detection", &fxsim::races::stop);
  m.def("synchronize", &fxsim::races::host_waits_for_device);
  m.def("set_corrupts", &fxsim::set_corrupts);
  m.def("corrupts", &fxsim::corrupts);
  m.def("allocated_bytes", &fxsim::allocated_bytes);
  m.def("peak_allocated_bytes", &fxsim::peak_allocated_bytes);
  m.def("reset_peak_allocated_bytes", &fxsim::reset_peak_allocated_bytes);
  m.def("capacity_bytes", &fxsim::capacity_bytes);
  m.def("set_limit", &fxsim::set_limit);
}
