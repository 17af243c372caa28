// What the binding and the engines agree on. No torch in here.
#pragma once

#include <cstdint>

namespace lacray {

constexpr int kTileRows = 32;  // rows between checkpoints

enum class GapKind { scalar, shared, own };  // (), (N, M), (B, N, M)

template <class T>
struct SoftSw {
  int64_t B, N, M;
  int64_t tile_columns;      // columns between checkpoints
  bool by_diagonals;         // CPU: threads share a problem's tiles rather than the problems
  const T* similarity;       // (B, N, M), contiguous like everything here
  const T* gap_open;         // () or (N, M) or (B, N, M)
  const T* gap_extend;       // like gap_open
  GapKind gap_kind;
  const int64_t* lengths;    // (B, 2), or null: all N x M
  double gamma;
  T* score;                  // (B,)
  T* match;                  // (B, N, M)
  T* state;                  // (B, state_size)
  int64_t state_size;
  // Backward only.
  const T* grad_score;       // (B,), or null: zero
  const T* grad_match;       // (B, N, M), or null: zero
  T* grad_similarity;        // (B, N, M)
  T* grad_gap_open;          // (num_groups,) + shape of the gaps for scalar and shared, else (B, N, M); null: not wanted
  T* grad_gap_extend;
  int64_t num_groups;        // problems are summed within a group in order: bit-identical for any number of threads
};

// Runs task(context, index) for every index in [0, count), on any thread.
using Parallel = void (*)(int64_t count, void (*task)(void*, int64_t), void* context);

#if defined(__CUDACC__)
__host__ __device__
#endif
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Per problem: Z as mantissa and exponent; the row before each row of tiles but the first (6 arrays of M); the column
// before each column of tiles but the first (6 arrays of N, rounded up to whole tiles).
inline int64_t state_size(int64_t N, int64_t M, int64_t tile_columns) {
  const int64_t rows = ceil_div(N, kTileRows), columns = ceil_div(M, tile_columns);
  return 2 + (rows > 1 ? (rows - 1) * 6 * M : 0) + (columns > 1 ? (columns - 1) * 6 * rows * kTileRows : 0);
}

#define LACRAY_DECLARE_ENGINE(isa)                                \
  namespace isa {                                                 \
  void forward(const SoftSw<float>& call, Parallel parallel);     \
  void forward(const SoftSw<double>& call, Parallel parallel);    \
  void backward(const SoftSw<float>& call, Parallel parallel);    \
  void backward(const SoftSw<double>& call, Parallel parallel);   \
  }
LACRAY_DECLARE_ENGINE(plain)
LACRAY_DECLARE_ENGINE(avx2)
LACRAY_DECLARE_ENGINE(avx512)
#undef LACRAY_DECLARE_ENGINE

}  // namespace lacray
