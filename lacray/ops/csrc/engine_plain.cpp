#define LACRAY_ISA plain
#include "simd_plain.h"

#include "engine.h"

namespace lacray::plain {
void forward(const SoftSw<float>& call, Parallel parallel) { run_forward<Plain<float>>(call, parallel); }
void forward(const SoftSw<double>& call, Parallel parallel) { run_forward<Plain<double>>(call, parallel); }
void backward(const SoftSw<float>& call, Parallel parallel) { run_backward<Plain<float>>(call, parallel); }
void backward(const SoftSw<double>& call, Parallel parallel) { run_backward<Plain<double>>(call, parallel); }
}  // namespace lacray::plain
