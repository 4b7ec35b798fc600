// Memory of the simulated devices: host memory, charged to a device.
#pragma once

#include "races.h"

#include <c10/core/Allocator.h>
#include <c10/core/Storage.h>

namespace fxsim {

c10::Allocator* allocator();

// Memory of device `index` made of the memory of `host`, which it keeps alive, charged to the device.
c10::DataPtr adopt(const c10::Storage& host, int index);

// An empty resizable storage on device `index` is allocator()'s; this one takes over `host`'s memory.
c10::Storage adopt_storage(const c10::Storage& host, int index);

// What the detection of races knows of the memory of a storage; nullptr where it is not ours.
races::History* history_of(const c10::Storage& storage);

// Changes the size of a storage on a simulated device, keeping its content.
void resize_storage(const c10::Storage& storage, size_t num_bytes);

}  // namespace fxsim
