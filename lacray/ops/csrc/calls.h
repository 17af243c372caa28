// What the bindings and the engines agree on. No torch in here.
#pragma once

#include <cstdint>

namespace lacray {

enum class GapKind { scalar, shared, own };  // () or (B,), (N, M), (B, N, M)
enum class Minimum { soft, smooth };  // -gamma log sum exp(-u / gamma), or the mean of u weighted by softmax(-u / gamma)

template <class T>
struct SoftSw {
  int64_t B, N, M;
  bool end_to_end;           // alignments start at the first cell and end after the last: the table's own border row and column
  int64_t tile_rows, tile_columns;  // between checkpoints
  bool by_diagonals;         // CPU: threads share a problem's tiles rather than the problems
  const T* similarity;       // (B, N, M), contiguous like everything here
  const T* gap_open;         // (), (B,), (N, M) or (B, N, M)
  const T* gap_extend;       // like gap_open
  GapKind gap_kind;
  int64_t gap_step;          // of scalar gaps: 1 where each problem has its own, (B,); else 0
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
  T* grad_gap_open;          // (B, N, M) of own gaps, else (num_tables,) and the table's shape, to be added up; null: not wanted
  T* grad_gap_extend;
  int64_t num_groups;        // problems are summed within a group in order: bit-identical for any number of threads
};

// Runs task(context, index) for every index in [0, count), on any thread.
using Parallel = void (*)(int64_t count, void (*task)(void*, int64_t), void* context);

#if defined(__CUDACC__)
#define LACRAY_HOST_DEVICE __host__ __device__
#else
#define LACRAY_HOST_DEVICE
#endif
LACRAY_HOST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What the forward pass keeps of a problem for the backward: two values (soft_sw: Z as mantissa and exponent; dtw: the value); the
// row before each row of tiles but the first (`arrays` of M); the column before each column of tiles but the first (`arrays` of N,
// rounded up to whole tiles).
inline int64_t state_size(int64_t N, int64_t M, int64_t tile_rows, int64_t tile_columns, int64_t arrays) {
  const int64_t rows = ceil_div(N, tile_rows), columns = ceil_div(M, tile_columns);
  return 2 + (rows > 1 ? (rows - 1) * arrays * M : 0) + (columns > 1 ? (columns - 1) * arrays * rows * tile_rows : 0);
}
// CPU: where problems share (N, M) gaps, their weights are computed once, and their gradients added up in the order of a sweep.
template <class T>
bool shares_gap_table(const SoftSw<T>& call) {
  return call.gap_kind == GapKind::shared && call.B > 1;
}

constexpr int64_t kSoftSwArrays = 6;  // h, s, y below; h, d, x to the right: mantissa and exponent
inline int64_t dtw_arrays(Minimum minimum) { return minimum == Minimum::soft ? 2 : 1; }

// Dynamic time warping.
template <class T>
struct Dtw {
  int64_t B, N, M;
  int64_t tile_rows, tile_columns;
  bool by_diagonals;
  Minimum minimum;
  int64_t band;              // cells with |i - j| > band are forbidden; negative: none are
  const T* cost;             // (B, N, M)
  const int64_t* lengths;    // (B, 2), or null
  double gamma;
  T* value;                  // (B,)
  T* table;                  // (B, N, M), R; forward only
  T* state;                  // (B, state_size)
  int64_t state_size;
  T* gradient;               // (B, N, M) of the value in C, or null: the forward pass may find it on its way
  // Backward only.
  const T* grad_value;       // (B,), or null: zero
  const T* grad_table;       // (B, N, M), or null: zero
  T* grad_cost;              // (B, N, M)
};

// Alignments drawn from their distribution, or the best one; on the CPU, in double.
struct Walks {
  SoftSw<double> call;
  bool best;                 // the hard limit: one alignment, gamma plays no part
  int64_t num_walks, seed;
  int64_t path_length;       // most matches that a path can have
  int64_t* paths;            // (B, num_walks, path_length, 2), -1 beyond a path's end
};

struct DtwPath {
  int64_t B, N, M;
  int64_t band;
  const double* cost;
  const int64_t* lengths;
  double* value;
  int64_t* paths;            // (B, N + M - 1, 2), -1 beyond a path's end
};

#define LACRAY_DECLARE_ENGINE(isa)                              \
  namespace isa {                                               \
  void forward(const SoftSw<float>& call, Parallel parallel);   \
  void forward(const SoftSw<double>& call, Parallel parallel);  \
  void backward(const SoftSw<float>& call, Parallel parallel);  \
  void backward(const SoftSw<double>& call, Parallel parallel); \
  void forward(const Dtw<float>& call, Parallel parallel);      \
  void forward(const Dtw<double>& call, Parallel parallel);     \
  void backward(const Dtw<float>& call, Parallel parallel);     \
  void backward(const Dtw<double>& call, Parallel parallel);    \
  }
LACRAY_DECLARE_ENGINE(plain)
LACRAY_DECLARE_ENGINE(avx2)
LACRAY_DECLARE_ENGINE(avx512)
#undef LACRAY_DECLARE_ENGINE

namespace plain {
void walk(const Walks& walks, Parallel parallel);
void path(const DtwPath& call, Parallel parallel);
}  // namespace plain

}  // namespace lacray
