// Compiled for avx2 whatever the build machine; binding_cpu.cpp calls it only where the processor has it.
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
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define LACRAY_ISA avx2
#include "simd_avx2.h"

#include "dtw_engine.h"
#include "soft_sw_engine.h"

namespace lacray::avx2 {
void forward(const SoftSw<float>& call, Parallel parallel) { run_forward<Avx2Float>(call, parallel); }
void forward(const SoftSw<double>& call, Parallel parallel) { run_forward<Avx2Double>(call, parallel); }
void backward(const SoftSw<float>& call, Parallel parallel) { run_backward<Avx2Float>(call, parallel); }
void backward(const SoftSw<double>& call, Parallel parallel) { run_backward<Avx2Double>(call, parallel); }
void forward(const Dtw<float>& call, Parallel parallel) { run_dtw<Avx2Float>(call, false, parallel); }
void forward(const Dtw<double>& call, Parallel parallel) { run_dtw<Avx2Double>(call, false, parallel); }
void backward(const Dtw<float>& call, Parallel parallel) { run_dtw<Avx2Float>(call, true, parallel); }
void backward(const Dtw<double>& call, Parallel parallel) { run_dtw<Avx2Double>(call, true, parallel); }
}  // namespace lacray::avx2

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
