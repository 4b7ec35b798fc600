#pragma once

namespace fxsim {

// Gives autograd a thread for each simulated device where it has already started its threads.
void ensure_autograd_threads();

// Returns when those threads have let go of the tensors of the last backward. backward() itself
// returns a little earlier. Call it without the GIL, which they may need for that.
void wait_for_autograd_threads();

}  // namespace fxsim
