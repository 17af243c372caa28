// One lane: the portable engine, and the one that the sanitizers run. A strip is then a row.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "polynomials.h"

namespace lacray {
namespace LACRAY_ISA {

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using I = int32_t;
  static constexpr int kFraction = 23, kBias = 127;
};
template <>
struct Bits<double> {
  using I = int64_t;
  static constexpr int kFraction = 52, kBias = 1023;
};

struct NoFlush {};

// kHard: the hard limit (cell.h).
template <class T_, bool kHard_ = false>
struct Plain {
  using T = T_;
  using R = T;
  using K = bool;
  using I = typename Bits<T>::I;
  using Flush = NoFlush;
  static constexpr bool kHard = kHard_;
  static constexpr int W = 1;

  LACRAY_INLINE static R set1(T a) { return a; }
  LACRAY_INLINE static R load(const T* p) { return *p; }
  LACRAY_INLINE static R load_rows(const T* p) { return *p; }
  LACRAY_INLINE static void store(T* p, R a) { *p = a; }
  LACRAY_INLINE static R add(R a, R b) { return a + b; }
  LACRAY_INLINE static R sub(R a, R b) { return a - b; }
  LACRAY_INLINE static R mul(R a, R b) { return a * b; }
  LACRAY_INLINE static R fma(R a, R b, R c) { return a * b + c; }
  // Rounded once.
  LACRAY_INLINE static R mul_sub(R a, R b, R c) {
    if constexpr (sizeof(T) == 4) return T(double(a) * double(b) - double(c));
    else return std::fma(a, b, -c);
  }
  // b where the two do not compare, as the vector instructions have it.
  LACRAY_INLINE static R max(R a, R b) { return a > b ? a : b; }
  // To the nearest integer: in [2^23, 2^24) floats are the integers. Beyond that a is one already. Faster than a call.
  LACRAY_INLINE static R round(R a) {
    constexpr T kIntegers = T(I(1) << Bits<T>::kFraction);
    const T size = std::fabs(a);
    return size < kIntegers ? std::copysign((size + kIntegers) - kIntegers, a) : a;
  }
  LACRAY_INLINE static K less(R a, R b) { return a < b; }
  LACRAY_INLINE static R select(K k, R a, R b) { return k ? a : b; }
  LACRAY_INLINE static int lane(int row) { return row; }
  LACRAY_INLINE static K rows(int first, int last) { return first <= 0 && last >= 0; }
  LACRAY_INLINE static R reciprocal(R a) { return T(1) / a; }
  // For normal positive values: a = mantissa * 2^exponent with mantissa in [1, 2). A NaN stays one.
  LACRAY_INLINE static R mantissa(R a) {
    const I bits = (as_bits(a) & ((I(1) << Bits<T>::kFraction) - 1)) | (I(Bits<T>::kBias) << Bits<T>::kFraction);
    return a == a ? from_bits(bits) : a;
  }
  LACRAY_INLINE static R exponent(R a) { return T((as_bits(a) >> Bits<T>::kFraction) - Bits<T>::kBias); }
  // m * 2^e for e <= 127 (1023); 0 where 2^e is not a normal number.
  LACRAY_INLINE static R scale(R m, R e) {
    constexpr T kLimit = T(Bits<T>::kBias);
    const T clamped = e > -kLimit ? (e < kLimit ? e : kLimit) : -kLimit;  // -kLimit for NaN: m is NaN then
    return m * from_bits((I(clamped) + Bits<T>::kBias) << Bits<T>::kFraction);
  }
  LACRAY_INLINE static R exp2(R a) { return exp2_series<Plain>(a); }
  LACRAY_INLINE static R log2(R a) { return log2_series<Plain>(a); }

  // Each row takes the row above, the first row *first; there is no other row here.
  LACRAY_INLINE static R up(R, const T* first) { return *first; }
  LACRAY_INLINE static R down(R, const T* last) { return *last; }
  LACRAY_INLINE static void store_first(T* p, R a) { *p = a; }
  LACRAY_INLINE static void store_last(T* p, R a) { *p = a; }
  LACRAY_INLINE static void store_row(T* p, int row, R a) { p[row] = a; }
  LACRAY_INLINE static T sum(R a) { return a; }
  static constexpr bool kTransposes = false;

 private:
  LACRAY_INLINE static I as_bits(T a) {
    I i;
    std::memcpy(&i, &a, sizeof i);
    return i;
  }
  LACRAY_INLINE static T from_bits(I i) {
    T a;
    std::memcpy(&a, &i, sizeof a);
    return a;
  }
};

}  // namespace LACRAY_ISA
}  // namespace lacray
