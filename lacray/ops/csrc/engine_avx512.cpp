// Compiled for avx512 whatever the build machine; binding_cpu.cpp calls it only where the processor has it.
#if defined(__x86_64__)
// Standard headers come before the pragma, so that no inline function of theirs is compiled for this instruction set.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#endif

#define LACRAY_ISA avx512
#include "simd_avx512.h"

#include "dtw_engine.h"
#include "soft_sw_engine.h"

namespace lacray::avx512 {
void forward(const SoftSw<float>& call, Parallel parallel) { run_forward<Avx512Float>(call, parallel); }
void forward(const SoftSw<double>& call, Parallel parallel) { run_forward<Avx512Double>(call, parallel); }
void backward(const SoftSw<float>& call, Parallel parallel) { run_backward<Avx512Float>(call, parallel); }
void backward(const SoftSw<double>& call, Parallel parallel) { run_backward<Avx512Double>(call, parallel); }
void forward(const Dtw<float>& call, Parallel parallel) { run_dtw<Avx512Float>(call, false, parallel); }
void forward(const Dtw<double>& call, Parallel parallel) { run_dtw<Avx512Double>(call, false, parallel); }
void backward(const Dtw<float>& call, Parallel parallel) { run_dtw<Avx512Float>(call, true, parallel); }
void backward(const Dtw<double>& call, Parallel parallel) { run_dtw<Avx512Double>(call, true, parallel); }
}  // namespace lacray::avx512

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
