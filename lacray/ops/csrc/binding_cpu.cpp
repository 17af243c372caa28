#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

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
  void (*dtw_forward32)(const Dtw<float>&, Parallel);
  void (*dtw_forward64)(const Dtw<double>&, Parallel);
  void (*dtw_backward32)(const Dtw<float>&, Parallel);
  void (*dtw_backward64)(const Dtw<double>&, Parallel);
};

#define LACRAY_ISA_ENTRY(name, supported)                                        \
  {#name,          supported,     name::forward, name::forward,  name::backward, \
   name::backward, name::forward, name::forward, name::backward, name::backward}

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

// Each thread takes the indices of its own part, then what is left of the others': problems differ in length, and those of a
// part stay in one core's cache from the forward pass to the backward.
void parallel(int64_t count, void (*task)(void*, int64_t), void* context) {
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  if (threads <= 1) {
    for (int64_t k = 0; k < count; ++k) task(context, k);
    return;
  }
  struct alignas(64) Part {
    std::atomic<int64_t> next;
    int64_t end;
  };
  std::vector<Part> parts(static_cast<size_t>(threads));
  for (int64_t part = 0; part < threads; ++part) {
    parts[size_t(part)].next = count * part / threads;
    parts[size_t(part)].end = count * (part + 1) / threads;
  }
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t turn = 0; turn < threads; ++turn) {
        Part& part = parts[size_t((worker + turn) % threads)];
        for (int64_t k = part.next.fetch_add(1); k < part.end; k = part.next.fetch_add(1)) task(context, k);
      }
    }
  });
}

struct Cpu {
  static constexpr bool kGradientOfDtw = true;
  // What a tile's backward pass keeps stays in a core's cache.
  template <class T>
  static constexpr Tiles tiles() {
    return {sizeof(T) == 4 ? 64 : 32, 256};
  }
  // Each group has gap gradients of its own: shared gaps want few groups, which bounds the threads of use. The number must not
  // depend on the threads, or results would.
  template <class T>
  static int64_t num_groups(const SoftSw<T>& call) {
    return call.gap_kind == GapKind::shared ? std::min<int64_t>(call.B, std::clamp<int64_t>(call.B / 4, 8, 64)) : call.B;
  }
  template <class T>
  static int64_t num_tables(const SoftSw<T>& call) {
    return call.gap_kind == GapKind::scalar ? num_groups(call) : 1;
  }
  // A tile is 16384 cells, 40 us; a thread is worth waking for a few of them.
  template <class Call>
  static Call planned(Call call) {
    const int64_t threads = torch::stable::get_num_threads();
    call.by_diagonals = threads > 1 && call.B < threads && call.N >= 256 && call.M >= 2 * call.tile_columns;
    return call;
  }
  static void forward(const SoftSw<float>& call, const Tensor&) { isa().forward32(planned(call), parallel); }
  static void forward(const SoftSw<double>& call, const Tensor&) { isa().forward64(planned(call), parallel); }
  static void backward(const SoftSw<float>& call, const Tensor&) { isa().backward32(planned(call), parallel); }
  static void backward(const SoftSw<double>& call, const Tensor&) { isa().backward64(planned(call), parallel); }
  static void forward(const Dtw<float>& call, const Tensor&) { isa().dtw_forward32(planned(call), parallel); }
  static void forward(const Dtw<double>& call, const Tensor&) { isa().dtw_forward64(planned(call), parallel); }
  static void backward(const Dtw<float>& call, const Tensor&) { isa().dtw_backward32(planned(call), parallel); }
  static void backward(const Dtw<double>& call, const Tensor&) { isa().dtw_backward64(planned(call), parallel); }
};

// Score (B,) and paths (B, num_walks, min(N, M), 2) of the best alignment, or of num_walks drawn ones.
std::tuple<Tensor, Tensor> walks_op(Tensor similarity, Tensor gap_open, Tensor gap_extend, std::optional<Tensor> lengths,
                                    double gamma, bool end_to_end, bool best, int64_t num_walks, int64_t seed) {
  STD_TORCH_CHECK(similarity.scalar_type() == ScalarType::Double, "similarity must be float64");
  const Inputs in(similarity, gap_open, gap_extend, lengths);
  Walks walks{in.call<double>(gamma, end_to_end, Cpu::tiles<double>()), best, num_walks, seed, 0, nullptr};
  SoftSw<double>& call = walks.call;
  walks.path_length = std::min(call.N, call.M);
  Tensor score = empty(similarity, {call.B}), match = empty(similarity, {call.B, call.N, call.M});
  Tensor state = new_state(similarity, true, call.state_size);
  const std::vector<int64_t> shape{call.B, num_walks, walks.path_length, 2};
  Tensor paths = torch::stable::new_empty(similarity, shape, ScalarType::Long);
  call.score = data<double>(score);
  call.match = data<double>(match);
  call.state = data<double>(state);
  walks.paths = data<int64_t>(paths);
  if (similarity.numel() > 0) plain::walk(walks, parallel);
  else torch::stable::fill_(score, -std::numeric_limits<double>::infinity());
  return {score, paths};
}

// Value (B,) and path (B, N + M - 1, 2) of the best warping.
std::tuple<Tensor, Tensor> dtw_path_op(Tensor cost, std::optional<Tensor> lengths, int64_t band) {
  STD_TORCH_CHECK(cost.scalar_type() == ScalarType::Double, "cost must be float64");
  const DtwInputs in(cost, lengths);
  const Dtw<double> shape = in.call<double>(1, band, false, Cpu::tiles<double>());
  Tensor value = empty(cost, {shape.B});
  const std::vector<int64_t> size{shape.B, std::max<int64_t>(shape.N + shape.M - 1, 0), 2};
  Tensor paths = torch::stable::new_empty(cost, size, ScalarType::Long);
  if (cost.numel() > 0) {
    plain::path({shape.B, shape.N, shape.M, band, shape.cost, shape.lengths, data<double>(value), data<int64_t>(paths)}, parallel);
  } else {
    torch::stable::fill_(value, std::numeric_limits<double>::infinity());
    torch::stable::fill_(paths, -1.0);
  }
  return {value, paths};
}

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
  m.impl("dtw", TORCH_BOX(&lacray::dtw_op<lacray::Cpu>));
  m.impl("dtw_backward", TORCH_BOX(&lacray::dtw_backward_op<lacray::Cpu>));
  m.impl("soft_sw_walks", TORCH_BOX(&lacray::walks_op));
  m.impl("dtw_path", TORCH_BOX(&lacray::dtw_path_op));
}
