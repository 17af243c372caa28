// What the CUDA binding and the CUDA engine agree on.
#pragma once

#include "calls.h"

namespace lacray {
namespace cuda {

constexpr int64_t kTileRows = 32;  // a warp's lanes

// Columns of a tile: what a warp's share of shared memory holds in the backward pass on every supported GPU.
template <class T>
constexpr int64_t tile_columns() {
  return sizeof(T) == 4 ? 32 : 8;
}

template <template <class> class Call, class T>
int64_t num_tiles(const Call<T>& call) {
  return ceil_div(call.N, kTileRows) * ceil_div(call.M, tile_columns<T>());
}

// Scratch in device memory. `counters` must be zero.
template <class T>
struct Scratch {
  int* counters;  // the next ticket, then one flag per problem and tile
  T* values;
};

template <class Call>
int64_t num_counters(const Call& call) {
  return 1 + call.B * num_tiles(call);
}
// Forward: Z of each tile. Backward: what a row (of M) and each column of tiles (of N) pass on, 3 or 2 arrays.
template <class T>
int64_t num_forward_values(const SoftSw<T>& call) {
  return 2 * call.B * num_tiles(call);
}
template <class T>
int64_t num_border_values(int64_t B, int64_t N, int64_t M, int64_t arrays) {
  return B * arrays * (M + ceil_div(M, tile_columns<T>()) * ceil_div(N, kTileRows) * kTileRows);
}
template <class T>
int64_t num_backward_values(const SoftSw<T>& call) {
  return num_border_values<T>(call.B, call.N, call.M, 3);
}
template <class T>
int64_t num_forward_values(const Dtw<T>&) {
  return 0;
}
template <class T>
int64_t num_backward_values(const Dtw<T>& call) {
  return num_border_values<T>(call.B, call.N, call.M, 2);
}

// Null, or what CUDA says is wrong.
template <class T>
const char* forward(const SoftSw<T>& call, Scratch<T> scratch, void* stream);
template <class T>
const char* backward(const SoftSw<T>& call, Scratch<T> scratch, void* stream);
template <class T>
const char* forward(const Dtw<T>& call, Scratch<T> scratch, void* stream);
template <class T>
const char* backward(const Dtw<T>& call, Scratch<T> scratch, void* stream);

}  // namespace cuda
}  // namespace lacray
