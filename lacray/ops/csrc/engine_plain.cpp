#define LACRAY_ISA plain
#include "simd_plain.h"

#include "engine.h"

namespace lacray::plain {
void forward(const SoftSw<float>& call, Parallel parallel) { run_forward<Plain<float, 4>>(call, parallel); }
void forward(const SoftSw<double>& call, Parallel parallel) { run_forward<Plain<double, 2>>(call, parallel); }
void backward(const SoftSw<float>& call, Parallel parallel) { run_backward<Plain<float, 4>>(call, parallel); }
void backward(const SoftSw<double>& call, Parallel parallel) { run_backward<Plain<double, 2>>(call, parallel); }
}  // namespace lacray::plain
