// The CUDA engine run on the CPU: a warp's 32 threads are fibers, which change places at every warp-wide instruction.
// It shows that the kernels compute the right thing, not that they are free of races or fast: that takes a GPU.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define __align__(n) __attribute__((aligned(n)))

namespace {

struct Index {
  unsigned x;
} threadIdx;

ucontext_t fibers[32], scheduler;
int current;
unsigned char slots[32][8];

void barrier() { swapcontext(&fibers[current], &scheduler); }

template <class T>
T exchange(T value, int source) {
  std::memcpy(slots[current], &value, sizeof value);
  barrier();
  T result;
  std::memcpy(&result, slots[source], sizeof result);
  barrier();
  return result;
}

}  // namespace

template <class T>
T __shfl_up_sync(unsigned, T v, int by) {
  return exchange(v, current >= by ? current - by : current);
}
template <class T>
T __shfl_down_sync(unsigned, T v, int by) {
  return exchange(v, current + by < 32 ? current + by : current);
}
template <class T>
T __shfl_xor_sync(unsigned, T v, int mask) {
  return exchange(v, current ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T v, int source) {
  return exchange(v, source);
}
inline void __syncwarp() { barrier(); }
inline void __threadfence() {}
// Only a missing dependency comes here: one warp runs, tile after tile.
inline void __nanosleep(unsigned) { std::abort(); }
inline int atomicAdd(int* p, int by) {
  const int old = *p;
  *p += by;
  return old;
}
template <class To, class From>
To as_bits(From a) {
  To b;
  std::memcpy(&b, &a, sizeof b);
  return b;
}
inline float __int_as_float(int a) { return as_bits<float>(a); }
inline int __float_as_int(float a) { return as_bits<int>(a); }
inline double __longlong_as_double(long long a) { return as_bits<double>(a); }
inline long long __double_as_longlong(double a) { return as_bits<long long>(a); }
inline float __frcp_rn(float a) { return 1 / a; }
using std::isnan;
using std::rint;

namespace lacray::cuda_warp {
alignas(16) char memory[256 * 1024];

template <class Kernel, class Call, class Scratch>
const char* launch(Kernel kernel, const Call& call, Scratch scratch, size_t shared, void*);
}  // namespace lacray::cuda_warp

using cudaStream_t = void*;
#include "dtw_cuda.cu"
#include "soft_sw_cuda.cu"

namespace lacray::cuda_warp {
namespace {
std::function<void()> body;
bool finished[32];
void enter() {
  body();
  finished[current] = true;
  swapcontext(&fibers[current], &scheduler);
}
}  // namespace

template <class Kernel, class Call, class Scratch>
const char* launch(Kernel kernel, const Call& call, Scratch scratch, size_t shared, void*) {
  if (shared > sizeof memory) return "too much shared memory";
  std::memset(memory, 0xff, sizeof memory);  // NaN: nothing may depend on what was there
  body = [&] { kernel(call, scratch); };
  constexpr size_t kStack = 256 * 1024;
  std::vector<char> stacks(32 * kStack);
  for (int l = 0; l < 32; ++l) {
    finished[l] = false;
    getcontext(&fibers[l]);
    fibers[l].uc_stack.ss_sp = stacks.data() + l * kStack;
    fibers[l].uc_stack.ss_size = kStack;
    fibers[l].uc_link = nullptr;
    makecontext(&fibers[l], enter, 0);
  }
  for (bool running = true; running;) {
    running = false;
    for (current = 0; current < 32; ++current) {
      if (finished[current]) continue;
      threadIdx.x = unsigned(current);
      swapcontext(&scheduler, &fibers[current]);
      running = running || !finished[current];
    }
  }
  return nullptr;
}
}  // namespace lacray::cuda_warp

using namespace lacray;

// Both passes, as the binding runs them, with scratch memory that is NaN until it is written.
template <template <class> class Call, class T>
int run_passes(const Call<T>& call) {
  std::vector<int> counters(size_t(cuda::num_counters(call)), 0);
  std::vector<T> values(size_t(cuda::num_forward_values(call)), T(NAN));
  if (cuda::forward<T>(call, {counters.data(), values.data()}, nullptr)) return 1;
  counters.assign(counters.size(), 0);
  values.assign(size_t(cuda::num_backward_values(call)), T(NAN));
  return cuda::backward<T>(call, {counters.data(), values.data()}, nullptr) ? 2 : 0;
}

template <class T>
int soft_sw(int64_t B, int64_t N, int64_t M, const T* s, const T* go, const T* ge, int kind, const int64_t* lengths, double gamma,
            int end_to_end, const T* grad_score, const T* grad_match, T* score, T* match, T* gs, T* g_open, T* g_extend) {
  SoftSw<T> call{};
  call.B = B;
  call.N = N;
  call.M = M;
  call.end_to_end = end_to_end != 0;
  call.tile_rows = cuda::kTileRows;
  call.tile_columns = cuda::tile_columns<T>();
  call.similarity = s;
  call.gap_open = go;
  call.gap_extend = ge;
  const bool each = kind == 3;  // scalar gaps, of each problem its own
  call.gap_kind = each ? GapKind::scalar : GapKind(kind);
  call.gap_step = each ? 1 : 0;
  call.lengths = lengths;
  call.gamma = gamma;
  call.score = score;
  call.match = match;
  call.state_size = state_size(N, M, call.tile_rows, call.tile_columns, kSoftSwArrays);
  std::vector<T> state(size_t(B * call.state_size), T(NAN));
  call.state = state.data();
  call.grad_score = grad_score;
  call.grad_match = grad_match;
  call.grad_similarity = gs;
  const bool scalar = call.gap_kind == GapKind::scalar;
  const int64_t groups = scalar ? B * cuda::num_tiles(call) : B, cells = scalar ? 1 : N * M, sums = each ? B : 1;
  std::vector<T> open(size_t(groups * cells), T(NAN)), extend(open);
  call.grad_gap_open = open.data();
  call.grad_gap_extend = extend.data();
  if (const int status = run_passes(call)) return status;
  // Shared and scalar gaps: the sum that the binding takes, over all problems or of each.
  if (kind == 2) {
    std::memcpy(g_open, open.data(), open.size() * sizeof(T));
    std::memcpy(g_extend, extend.data(), extend.size() * sizeof(T));
  } else {
    for (int64_t s = 0; s < sums; ++s)
      for (int64_t q = 0; q < cells; ++q) {
        double o = 0, e = 0;
        for (int64_t g = groups / sums * s; g < groups / sums * (s + 1); ++g) {
          o += open[size_t(g * cells + q)];
          e += extend[size_t(g * cells + q)];
        }
        g_open[s * cells + q] = T(o);
        g_extend[s * cells + q] = T(e);
      }
  }
  return 0;
}

template <class T>
int dtw(int64_t B, int64_t N, int64_t M, const T* cost, int smooth, int64_t band, const int64_t* lengths, double gamma,
        const T* grad_value, const T* grad_table, T* value, T* table, T* grad_cost) {
  Dtw<T> call{};
  call.B = B;
  call.N = N;
  call.M = M;
  call.tile_rows = cuda::kTileRows;
  call.tile_columns = cuda::tile_columns<T>();
  call.minimum = smooth ? Minimum::smooth : Minimum::soft;
  call.band = band;
  call.cost = cost;
  call.lengths = lengths;
  call.gamma = gamma;
  call.value = value;
  call.table = table;
  call.state_size = state_size(N, M, call.tile_rows, call.tile_columns, dtw_arrays(call.minimum));
  std::vector<T> state(size_t(B * call.state_size), T(NAN));
  call.state = state.data();
  call.grad_value = grad_value;
  call.grad_table = grad_table;
  call.grad_cost = grad_cost;
  return run_passes(call);
}

#define EXPORT(T)                                                                                                             \
  extern "C" int soft_sw_##T(int64_t B, int64_t N, int64_t M, const T* s, const T* go, const T* ge, int kind,                 \
                             const int64_t* lengths, double gamma, int end_to_end, const T* grad_score, const T* grad_match,  \
                             T* score, T* match, T* gs, T* g_open, T* g_extend) {                                             \
    return soft_sw<T>(B, N, M, s, go, ge, kind, lengths, gamma, end_to_end, grad_score, grad_match, score, match, gs, g_open, \
                      g_extend);                                                                                              \
  }                                                                                                                           \
  extern "C" int dtw_##T(int64_t B, int64_t N, int64_t M, const T* cost, int smooth, int64_t band, const int64_t* lengths,    \
                         double gamma, const T* grad_value, const T* grad_table, T* value, T* table, T* grad_cost) {          \
    return dtw<T>(B, N, M, cost, smooth, band, lengths, gamma, grad_value, grad_table, value, table, grad_cost);              \
  }
EXPORT(float)
EXPORT(double)
