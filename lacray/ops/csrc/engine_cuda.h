// What the CUDA binding and the CUDA engine agree on.
#pragma once

#include "soft_sw.h"

namespace lacray {
namespace cuda {

// Columns of a tile: what a warp's share of shared memory holds in the backward pass on every supported GPU.
template <class T>
constexpr int64_t tile_columns() {
  return sizeof(T) == 4 ? 32 : 8;
}

template <class T>
int64_t num_tiles(const SoftSw<T>& call) {
  return ceil_div(call.N, kTileRows) * ceil_div(call.M, tile_columns<T>());
}

// Scratch in device memory. `counters` must be zero.
template <class T>
struct Scratch {
  int* counters;  // the next ticket, then one flag per problem and tile
  T* values;
};

template <class T>
int64_t num_counters(const SoftSw<T>& call) {
  return 1 + call.B * num_tiles(call);
}
// Forward: Z of each tile. Backward: the adjoint's row (3 of M) and column borders (3 of N for each column of tiles).
template <class T>
int64_t num_forward_values(const SoftSw<T>& call) {
  return 2 * call.B * num_tiles(call);
}
template <class T>
int64_t num_backward_values(const SoftSw<T>& call) {
  return call.B * 3 * (call.M + ceil_div(call.M, tile_columns<T>()) * ceil_div(call.N, kTileRows) * kTileRows);
}

// Null, or what CUDA says is wrong.
template <class T>
const char* forward(const SoftSw<T>& call, Scratch<T> scratch, void* stream);
template <class T>
const char* backward(const SoftSw<T>& call, Scratch<T> scratch, void* stream);

}  // namespace cuda
}  // namespace lacray
