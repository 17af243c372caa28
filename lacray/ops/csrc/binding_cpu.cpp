#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "binding.h"

namespace lacray {
namespace {

struct Isa {
  const char* name;
  bool supported;
  void (*forward32)(const SoftSw<float>&, Parallel);
  void (*forward64)(const SoftSw<double>&, Parallel);
  void (*backward32)(const SoftSw<float>&, Parallel);
  void (*backward64)(const SoftSw<double>&, Parallel);
};

#define LACRAY_ISA_ENTRY(name, supported) \
  { #name, supported, name::forward, name::forward, name::backward, name::backward }

// The widest instruction set of this machine, or the one that LACRAY_OPS_ISA names.
const Isa& isa() {
  static const Isa chosen = [] {
    const Isa table[] = {
#if defined(__x86_64__)
        LACRAY_ISA_ENTRY(avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")),
        LACRAY_ISA_ENTRY(avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")),
#endif
        LACRAY_ISA_ENTRY(plain, true),
    };
    const char* const wanted = std::getenv("LACRAY_OPS_ISA");
    for (const Isa& i : table)
      if (i.supported && (wanted == nullptr || *wanted == '\0' || std::strcmp(wanted, i.name) == 0)) return i;
    STD_TORCH_CHECK(false, "LACRAY_OPS_ISA: must be plain, avx2 or avx512 and supported by this machine, got ", wanted);
  }();
  return chosen;
}

// Threads take the next index when they are free: problems differ in length.
void parallel(int64_t count, void (*task)(void*, int64_t), void* context) {
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (threads <= 1) {
    for (int64_t k = 0; k < count; ++k) task(context, k);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t k = next.fetch_add(1); k < count; k = next.fetch_add(1)) task(context, k);
  });
}

struct Cpu {
  static constexpr int64_t tile_columns = 256;
  // Each group has gap gradients of its own, so their number bounds memory and, for shared gaps, the threads of use.
  static int64_t num_groups(int64_t B, GapKind kind) { return kind == GapKind::shared ? std::min<int64_t>(B, 32) : B; }
  static void forward(const SoftSw<float>& call, const Tensor&) { isa().forward32(call, parallel); }
  static void forward(const SoftSw<double>& call, const Tensor&) { isa().forward64(call, parallel); }
  static void backward(const SoftSw<float>& call, const Tensor&) { isa().backward32(call, parallel); }
  static void backward(const SoftSw<double>& call, const Tensor&) { isa().backward64(call, parallel); }
};

}  // namespace
}  // namespace lacray

extern "C" const char* lacray_isa() { return lacray::isa().name; }

STABLE_TORCH_LIBRARY_IMPL(lacray, CPU, m) {
  m.impl("soft_sw", TORCH_BOX(&lacray::forward_op<lacray::Cpu>));
  m.impl("soft_sw_backward", TORCH_BOX(&lacray::backward_op<lacray::Cpu>));
}
