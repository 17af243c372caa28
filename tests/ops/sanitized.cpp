// Runs the CPU engines on problems from stdin, for a build with the address and undefined-behaviour sanitizers.
// Each problem: int64 B, N, M, kind, has_lengths, is_double; double gamma; lengths; S, gap_open, gap_extend, grad_score,
// grad_match. For each engine that this machine has: score, match, and the three gradients, to stdout.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "soft_sw.h"

namespace {

using namespace lacray;

void one_by_one(int64_t count, void (*task)(void*, int64_t), void* context) {
  for (int64_t k = 0; k < count; ++k) task(context, k);
}

// Exact sizes on the heap: the address sanitizer sees a read or a write one element beyond.
template <class T>
std::vector<T> read(int64_t count) {
  std::vector<T> v(static_cast<size_t>(count));
  if (count > 0 && std::fread(v.data(), sizeof(T), v.size(), stdin) != v.size()) std::exit(3);
  return v;
}

template <class T>
void write(const std::vector<T>& v) {
  if (std::fwrite(v.data(), sizeof(T), v.size(), stdout) != v.size()) std::exit(4);
}

template <class T>
void solve(const std::vector<int64_t>& head, double gamma) {
  const int64_t B = head[0], N = head[1], M = head[2], kind = head[3];
  const int64_t cells = kind == 0 ? 1 : kind == 1 ? N * M : B * N * M;
  const auto lengths = read<int64_t>(head[4] ? 2 * B : 0);
  const auto s = read<T>(B * N * M), go = read<T>(cells), ge = read<T>(cells), grad_score = read<T>(B), grad_match = read<T>(B * N * M);
  struct {
    bool here;
    void (*forward)(const SoftSw<T>&, Parallel);
    void (*backward)(const SoftSw<T>&, Parallel);
  } engines[] = {
      {true, plain::forward, plain::backward},
#if defined(__x86_64__)
      {bool(__builtin_cpu_supports("avx2")) && bool(__builtin_cpu_supports("fma")), avx2::forward, avx2::backward},
      {bool(__builtin_cpu_supports("avx512f")) && bool(__builtin_cpu_supports("avx512dq")) && bool(__builtin_cpu_supports("avx512vl")) &&
           bool(__builtin_cpu_supports("avx512bw")),
       avx512::forward, avx512::backward},
#endif
  };
  for (const auto& engine : engines) {
    if (!engine.here) continue;
    for (const bool by_diagonals : {false, true}) {
      SoftSw<T> call{};
      call.B = B;
      call.N = N;
      call.M = M;
      call.tile_columns = 16;  // many tiles from small problems
      call.by_diagonals = by_diagonals;
      call.similarity = s.data();
      call.gap_open = go.data();
      call.gap_extend = ge.data();
      call.gap_kind = GapKind(kind);
      call.lengths = head[4] ? lengths.data() : nullptr;
      call.gamma = gamma;
      call.state_size = state_size(N, M, call.tile_columns);
      call.num_groups = 1;
      std::vector<T> score(size_t(B), 0), match(size_t(B * N * M), 0), state(size_t(B * call.state_size), 0), gs(match), g_open(size_t(cells), 0),
          g_extend(size_t(cells), 0);
      call.score = score.data();
      call.match = match.data();
      call.state = state.data();
      call.grad_score = grad_score.data();
      call.grad_match = grad_match.data();
      call.grad_similarity = gs.data();
      call.grad_gap_open = g_open.data();
      call.grad_gap_extend = g_extend.data();
      engine.forward(call, one_by_one);
      engine.backward(call, one_by_one);
      for (const auto* v : {&score, &match, &gs, &g_open, &g_extend}) write(*v);
    }
  }
}

}  // namespace

int main() {
  std::vector<int64_t> head(6);
  while (std::fread(head.data(), sizeof(int64_t), head.size(), stdin) == head.size()) {
    const double gamma = read<double>(1)[0];
    if (head[5]) solve<double>(head, gamma);
    else solve<float>(head, gamma);
  }
  return 0;
}
