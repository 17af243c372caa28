#define LACRAY_ISA plain
#include "simd_plain.h"

#include "dtw_engine.h"
#include "soft_sw_engine.h"
#include "walk.h"

namespace lacray::plain {
void forward(const SoftSw<float>& call, Parallel parallel) { run_forward<Plain<float>>(call, parallel); }
void forward(const SoftSw<double>& call, Parallel parallel) { run_forward<Plain<double>>(call, parallel); }
void backward(const SoftSw<float>& call, Parallel parallel) { run_backward<Plain<float>>(call, parallel); }
void backward(const SoftSw<double>& call, Parallel parallel) { run_backward<Plain<double>>(call, parallel); }
void forward(const Dtw<float>& call, Parallel parallel) { run_dtw<Plain<float>>(call, false, parallel); }
void forward(const Dtw<double>& call, Parallel parallel) { run_dtw<Plain<double>>(call, false, parallel); }
void backward(const Dtw<float>& call, Parallel parallel) { run_dtw<Plain<float>>(call, true, parallel); }
void backward(const Dtw<double>& call, Parallel parallel) { run_dtw<Plain<double>>(call, true, parallel); }
void walk(const Walks& walks, Parallel parallel) {
  if (walks.best) run_walks<Plain<double, true>>(walks, parallel);
  else run_walks<Plain<double>>(walks, parallel);
}
void path(const DtwPath& call, Parallel parallel) {
  parallel(call.B, [](void* c, int64_t b) { dtw_path(*static_cast<const DtwPath*>(c), b); }, const_cast<DtwPath*>(&call));
}
}  // namespace lacray::plain
