#include <algorithm>
#include <atomic>
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

// The widest instruction set of this machine, or the one asked for; null where the machine has it not.
const Isa* find_isa(const char* wanted) {
  static const Isa table[] = {
#if defined(__x86_64__)
      LACRAY_ISA_ENTRY(avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")),
      LACRAY_ISA_ENTRY(avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")),
#endif
      LACRAY_ISA_ENTRY(plain, true),
  };
  for (const Isa& i : table)
    if (i.supported && (wanted == nullptr || std::strcmp(wanted, i.name) == 0)) return &i;
  return nullptr;
}

std::atomic<const Isa*> chosen_isa{find_isa(nullptr)};
const Isa& isa() { return *chosen_isa.load(); }

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
  template <class T>
  static constexpr int64_t tile_columns() {
    return 256;
  }
  // Each group has gap gradients of its own, so their number bounds memory and, for shared gaps, the threads of use.
  template <class T>
  static int64_t num_groups(const SoftSw<T>& call) {
    return call.gap_kind == GapKind::shared ? std::min<int64_t>(call.B, std::clamp<int64_t>(call.B / 4, 16, 64)) : call.B;
  }
  // A tile is 8192 cells, 20 us; a thread is worth waking for a few of them.
  template <class T>
  static SoftSw<T> planned(SoftSw<T> call) {
    const int64_t threads = torch::stable::get_num_threads();
    call.by_diagonals = threads > 1 && call.B < threads && call.N >= 8 * kTileRows && call.M >= 2 * call.tile_columns;
    return call;
  }
  static void forward(const SoftSw<float>& call, const Tensor&) { isa().forward32(planned(call), parallel); }
  static void forward(const SoftSw<double>& call, const Tensor&) { isa().forward64(planned(call), parallel); }
  static void backward(const SoftSw<float>& call, const Tensor&) { isa().backward32(planned(call), parallel); }
  static void backward(const SoftSw<double>& call, const Tensor&) { isa().backward64(planned(call), parallel); }
};

}  // namespace
}  // namespace lacray

extern "C" __attribute__((visibility("default"))) int lacray_use_isa(const char* name) {
  const lacray::Isa* const found = lacray::find_isa(name);
  if (found != nullptr) lacray::chosen_isa.store(found);
  return found != nullptr;
}

STABLE_TORCH_LIBRARY_IMPL(lacray, CPU, m) {
  m.impl("soft_sw", TORCH_BOX(&lacray::forward_op<lacray::Cpu>));
  m.impl("soft_sw_backward", TORCH_BOX(&lacray::backward_op<lacray::Cpu>));
}
