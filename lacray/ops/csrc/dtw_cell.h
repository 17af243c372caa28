// One cell of dynamic time warping by a differentiable minimum, and its adjoint. Shared by the CPU and the CUDA engine.
//
//     R[i,j] = C[i,j] + min(R[i-1,j-1], R[i-1,j], R[i,j-1])        R[-1,-1] = 0, else infinite beyond the table
//
// Either minimum needs R of the three neighbours and gives R of the cell, in a representation of its own (Value, kArrays
// numbers), and its derivatives in the three: both recursions are one sweep (dtw_strip.h).
#pragma once

#include <limits>

#include "cell.h"

namespace lacray {
namespace LACRAY_ISA {

// Derivatives of R in its three neighbours. Those of a cell that cannot be reached are finite and mean nothing but that: no
// gradient arrives there from other cells, as its share in them is zero.
template <class V>
struct Shares {
  typename V::R diagonal, above, left;
};
constexpr int kNumShares = 3;
constexpr float kNoPath = 1e30f;  // `left` of such a cell; no derivative is as large

// What arrives at R itself, unless it is infinite whatever C does: what arrives there, often NaN, is dropped.
template <class V>
LACRAY_INLINE typename V::R if_reached(typename V::R left_share, typename V::R grad) {
  return V::select(V::less(V::set1(kNoPath / 2), left_share), V::set1(0), grad);
}

// -gamma log sum exp(-u / gamma). As in cell.h: r = exp(-R / gamma) is a sum, and carries its own exponent.
template <class V>
struct SoftMinimum {
  using R = typename V::R;
  using T = typename V::T;
  static constexpr int kArrays = 2;
  struct Value {
    R a[2];  // mantissa, exponent
  };
  LACRAY_INLINE static T unreached(int array) { return array == 0 ? T(1) : T(kZero); }
  LACRAY_INLINE static T origin(int array) { return array == 0 ? T(1) : T(0); }

  template <bool kTable, bool kShares>
  LACRAY_INLINE static Value step(const Scale<V>& c, R cost, const Value& diagonal, const Value& above, const Value& left, R& table,
                                  Shares<V>& p) {
    // What comes from above is there last, and what follows from it is what the next step waits for.
    const R e = V::max(V::max(diagonal.a[1], left.a[1]), above.a[1]);
    const R d = V::scale(diagonal.a[0], V::sub(diagonal.a[1], e)), u = V::scale(above.a[0], V::sub(above.a[1], e)),
            l = V::scale(left.a[0], V::sub(left.a[1], e));
    const R sum = V::add(V::add(d, l), u);
    const Ext<V> w = power<V>(cost, c.down);
    const R m = V::mantissa(sum), exponent = V::exponent(sum);
    const Ext<V> here{V::mul(w.m, m), V::add(V::add(w.e, e), exponent)};
    if constexpr (kShares) {
      const R inverse = V::reciprocal(sum);
      p = {V::mul(d, inverse), V::mul(u, inverse), V::mul(l, inverse)};
      p.left = V::select(V::less(here.e, V::set1(kForbidden)), V::set1(kNoPath), p.left);
    }
    if constexpr (kTable) {
      const R minimum = V::mul(c.gamma_log_2, V::add(V::add(e, exponent), V::log2(m)));
      table = V::select(V::less(here.e, V::set1(kForbidden)), V::set1(std::numeric_limits<T>::infinity()), V::sub(cost, minimum));
    }
    return {{here.m, here.e}};  // of a path of k forbidden cells, e is k times -1e30: far from a float's range
  }
};

// The mean of u weighted by softmax(-u / gamma) (GTA's). Kept as -R, so that the least of R is the largest.
template <class V>
struct SmoothMinimum {
  using R = typename V::R;
  using T = typename V::T;
  static constexpr int kArrays = 1;
  struct Value {
    R a[1];
  };
  LACRAY_INLINE static T unreached(int) { return T(kZero); }
  LACRAY_INLINE static T origin(int) { return T(0); }

  template <bool kTable, bool kShares>
  LACRAY_INLINE static Value step(const Scale<V>& c, R cost, const Value& diagonal, const Value& above, const Value& left, R& table,
                                  Shares<V>& p) {
    const R top = V::max(V::max(diagonal.a[0], above.a[0]), left.a[0]);
    // In units of gamma, base 2. Beyond -1100 a weight is zero in double too, and zero times its distance must be zero.
    const R floor = V::set1(-1100);
    const R d = V::max(floor, V::mul(V::sub(diagonal.a[0], top), c.up)), u = V::max(floor, V::mul(V::sub(above.a[0], top), c.up)),
            l = V::max(floor, V::mul(V::sub(left.a[0], top), c.up));
    const R wd = weight(d), wu = weight(u), wl = weight(l);
    const R inverse = V::reciprocal(V::add(V::add(wd, wu), wl));
    const R mean = V::mul(V::fma(wd, d, V::fma(wu, u, V::mul(wl, l))), inverse);
    const R here = V::sub(V::fma(mean, c.gamma_log_2, top), cost);
    if constexpr (kShares) {
      const R one = V::set1(1), log_2 = V::set1(T(0.693147180559945309417));
      auto share = [&](R w, R x) { return V::mul(V::mul(w, inverse), V::fma(V::sub(x, mean), log_2, one)); };
      p = {share(wd, d), share(wu, u), share(wl, l)};
      p.left = V::select(V::less(here, V::set1(kForbidden)), V::set1(kNoPath), p.left);
    }
    if constexpr (kTable) {
      table = V::select(V::less(here, V::set1(kForbidden)), V::set1(std::numeric_limits<T>::infinity()), V::sub(V::set1(0), here));
    }
    return {{V::max(V::set1(kZero), here)}};
  }

 private:
  LACRAY_INLINE static R weight(R x) {
    const R k = V::round(x);
    return V::scale(V::exp2(V::sub(x, k)), k);
  }
};

// What flows into a cell, and what it passes on.
template <class V>
struct Flow {
  typename V::R cell;  // d L / d R, which is also the gradient of C
  typename V::R diagonal, above, left;
};

template <class V>
LACRAY_INLINE Flow<V> flow_step(const Shares<V>& p, typename V::R grad_table, typename V::R from_right, typename V::R from_below,
                                typename V::R from_diagonal) {
  const typename V::R cell = V::add(V::add(grad_table, from_diagonal), V::add(from_right, from_below));
  return {cell, V::mul(cell, p.diagonal), V::mul(cell, p.above), V::mul(cell, p.left)};
}

}  // namespace LACRAY_ISA
}  // namespace lacray
