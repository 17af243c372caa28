// Runs the CPU engines on problems from stdin, for a build with the address and undefined-behaviour sanitizers.
// Each problem: a Head, double gamma, lengths, then S, gap_open, gap_extend, or C, then the gradients of the value and of the
// table. For each engine that this machine has, twice: value, table, and the gradients, to stdout.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "calls.h"

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

template <class Call>
struct Engine {
  bool here;
  void (*forward)(const Call&, Parallel);
  void (*backward)(const Call&, Parallel);
};

template <class Call>
std::vector<Engine<Call>> engines() {
  return {
      {true, plain::forward, plain::backward},
#if defined(__x86_64__)
      {__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), avx2::forward, avx2::backward},
      {__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw"),
       avx512::forward, avx512::backward},
#endif
  };
}

constexpr int64_t kTileRows = 32, kTileColumns = 16;  // many tiles from small problems

struct Head {
  int64_t family, B, N, M, variant, limit, has_lengths, is_double;  // variant: kind of gaps, or minimum; limit: end to end, or band
};

template <class Call>
Call shaped(const Head& head, const std::vector<int64_t>& lengths, double gamma) {
  Call call{};
  call.B = head.B;
  call.N = head.N;
  call.M = head.M;
  call.tile_rows = kTileRows;
  call.tile_columns = kTileColumns;
  call.lengths = head.has_lengths ? lengths.data() : nullptr;
  call.gamma = gamma;
  return call;
}

void walk(SoftSw<double> call) {
  std::vector<int64_t> paths(size_t(call.B * 5 * std::min(call.N, call.M) * 2));
  for (const bool best : {false, true}) plain::walk({call, best, 5, 3, std::min(call.N, call.M), paths.data()}, one_by_one);
}
void walk(const SoftSw<float>&) {}

template <class T>
void solve_affine(const Head& head, double gamma) {
  const int64_t cells = head.variant == 0   ? 1
                        : head.variant == 1 ? head.N * head.M
                                            : head.B * head.N * head.M,
                table = head.B * head.N * head.M;
  const auto lengths = read<int64_t>(head.has_lengths ? 2 * head.B : 0);
  const auto s = read<T>(table), go = read<T>(cells), ge = read<T>(cells), grad_score = read<T>(head.B),
             grad_match = read<T>(table);
  for (const auto& engine : engines<SoftSw<T>>()) {
    if (!engine.here) continue;
    for (const bool by_diagonals : {false, true}) {
      SoftSw<T> call = shaped<SoftSw<T>>(head, lengths, gamma);
      call.end_to_end = head.limit != 0;
      call.by_diagonals = by_diagonals;
      call.similarity = s.data();
      call.gap_open = go.data();
      call.gap_extend = ge.data();
      call.gap_kind = GapKind(head.variant);
      call.state_size = state_size(head.N, head.M, kTileRows, kTileColumns, kSoftSwArrays);
      call.num_groups = 1;
      std::vector<T> score(size_t(head.B), 0), match(size_t(table), 0), state(size_t(head.B * call.state_size), 0), gs(match),
          g_open(size_t(cells), 0), g_extend(size_t(cells), 0);
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
      walk(call);
    }
  }
}

template <class T>
void solve_warping(const Head& head, double gamma) {
  const int64_t table = head.B * head.N * head.M;
  const auto lengths = read<int64_t>(head.has_lengths ? 2 * head.B : 0);
  const auto cost = read<T>(table), grad_value = read<T>(head.B), grad_table = read<T>(table);
  for (const auto& engine : engines<Dtw<T>>()) {
    if (!engine.here) continue;
    for (const bool by_diagonals : {false, true}) {
      Dtw<T> call = shaped<Dtw<T>>(head, lengths, gamma);
      call.minimum = Minimum(head.variant);
      call.band = head.limit;
      call.by_diagonals = by_diagonals;
      call.cost = cost.data();
      call.state_size = state_size(head.N, head.M, kTileRows, kTileColumns, dtw_arrays(call.minimum));
      std::vector<T> value(size_t(head.B), 0), r(size_t(table), 0), state(size_t(head.B * call.state_size), 0), grad_cost(r),
          gradient(r);
      call.value = value.data();
      call.table = r.data();
      call.state = state.data();
      call.grad_value = grad_value.data();
      call.grad_table = grad_table.data();
      call.grad_cost = grad_cost.data();
      engine.forward(call, one_by_one);
      engine.backward(call, one_by_one);
      for (const auto* v : {&value, &r, &grad_cost}) write(*v);
      call.gradient = gradient.data();
      call.grad_table = nullptr;
      engine.forward(call, one_by_one);
      engine.backward(call, one_by_one);
      write(grad_cost);
    }
  }
  if constexpr (sizeof(T) == 8) {
    std::vector<double> value(size_t(head.B), 0);
    std::vector<int64_t> paths(size_t(head.B * (head.N + head.M - 1) * 2));
    plain::path(
        {head.B, head.N, head.M, head.limit, cost.data(), head.has_lengths ? lengths.data() : nullptr, value.data(), paths.data()},
        one_by_one);
  }
}

}  // namespace

int main() {
  Head head;
  while (std::fread(&head, sizeof head, 1, stdin) == 1) {
    const double gamma = read<double>(1)[0];
    if (head.family == 0) head.is_double ? solve_affine<double>(head, gamma) : solve_affine<float>(head, gamma);
    else head.is_double ? solve_warping<double>(head, gamma) : solve_warping<float>(head, gamma);
  }
  return 0;
}
