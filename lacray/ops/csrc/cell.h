// One cell of the soft Smith-Waterman recursion, and its adjoint. Shared by the CPU and the CUDA engine.
//
// In the exponential domain (d = exp(D / gamma), and so on) the recursion is linear:
//
//     h = 1 + d + x + y                      everything a match may continue from, itself included
//     d[i,j] = exp(S[i,j]/gamma) h[i-1,j-1]
//     x[i,j] = a d[i,j-1] + b x[i,j-1]       a = exp(-gap_open[i,j]/gamma), b = exp(-gap_extend[i,j]/gamma)
//     y[i,j] = a s[i-1,j] + b y[i-1,j]       s = d + x
//
// A float holds exp(+-88) and scores range over thousands of gamma, so each value carries its own exponent: m * 2^e,
// e an integer kept in a float, m in [1, 2) for h, x and y and within [0.7, 5) for d and s, which follow from them. That
// covers every input: nothing has to fall back to log space, and a product costs no rounding beyond that of m. Zero is m = 1, e =
// kZero, so no mantissa is ever 0 and no quotient 0 / 0.
//
// Alignments from end to end (soft Needleman-Wunsch) are the same recursion without the 1: only the corner starts one, and
// Z is h of the last cell. In the hard limit (V::kHard) an exponent is the value itself, every mantissa 1, and a sum the
// larger of its terms: the first one where they are equal.
//
// The adjoint runs on posteriors (d L / d D = Pd and so on), which are bounded by the incoming gradients, and on the
// transition probabilities that the forward step leaves in Weights: it contains no exponential and cannot overflow.
#pragma once

#if defined(__CUDACC__)
#define LACRAY_INLINE __device__ __forceinline__
#else
#define LACRAY_INLINE inline __attribute__((always_inline))
#endif

namespace lacray {
namespace LACRAY_ISA {

constexpr float kZero = -1e30f;       // exponent of zero; sums of a few stay far from float's range
constexpr float kForbidden = -1e29f;  // exponents below this are zero

template <class V>
struct Ext {
  typename V::R m, e;
};

template <class V>
LACRAY_INLINE Ext<V> constant(typename V::T m, typename V::T e) {
  return {V::set1(m), V::set1(e)};
}

template <class V>
LACRAY_INLINE Ext<V> times(Ext<V> p, Ext<V> q) {
  return {V::mul(p.m, q.m), V::add(p.e, q.e)};
}

template <class V>
LACRAY_INLINE Ext<V> times(typename V::R p, Ext<V> q) {
  return {V::mul(p, q.m), q.e};
}

template <class V>
LACRAY_INLINE Ext<V> normal(typename V::R m, typename V::R e) {
  return {V::mantissa(m), V::add(e, V::exponent(m))};
}

// 2^(value * scale). The whole part is taken off the product before it is rounded: at |value| / gamma = 1e6 the rounding would
// otherwise be worth 5 % of the result in float32. That of `scale` is another gamma, by half a unit in the last place.
template <class V>
LACRAY_INLINE Ext<V> power(typename V::R value, typename V::R scale) {
  using R = typename V::R;
  const R t = V::mul(value, scale);
  if constexpr (V::kHard) return {V::set1(1), V::max(V::set1(kZero), t)};
  // max(constant, t) is t where t is NaN, so a NaN survives; -inf becomes zero.
  const R k = V::round(V::max(V::set1(kZero), t));
  const R f = V::mul_sub(value, scale, k);
  // Of a zero f may be anything; its mantissa must be finite.
  return {V::exp2(V::select(V::less(k, V::set1(kForbidden)), V::set1(0), f)), k};
}

template <class V>
struct Scale {
  typename V::R up;    // log2(e) / gamma
  typename V::R down;  // its negative
  typename V::R gamma_log_2;     // gamma log(2)
};

template <class V>
struct Cell {
  Ext<V> d, x, y, s, h;
};

// The terms of p + q as multiples of 2^e.
template <class V>
LACRAY_INLINE void terms(Ext<V> p, Ext<V> q, typename V::R& e, typename V::R& first, typename V::R& second) {
  e = V::max(p.e, q.e);
  if constexpr (V::kHard) {
    first = V::select(V::less(p.e, e), V::set1(0), V::set1(1));
    second = V::sub(V::set1(1), first);
  } else {
    first = V::scale(p.m, V::sub(p.e, e));
    second = V::scale(q.m, V::sub(q.e, e));
  }
}

// Transition probabilities of one cell.
template <class V>
struct Weights {
  typename V::R pd, px, py;  // shares of d, x, y in h
  typename V::R sd;          // share of d in s; that of x is the rest
  typename V::R qd;          // share of d, on the left, in x
  typename V::R rs;          // share of s, above, in y
  typename V::R pz;          // d / Z
};
constexpr int kNumWeights = 7;

// exp(-gap_open / gamma) and exp(-gap_extend / gamma), as Ext or as plain numbers.
template <class Number>
struct GapWeights {
  Number open, extend;
};

// The cell at which `similarity` is read: left, above and diagonal are its neighbours, `gap` its gap weights; 2^start is
// the 1 of h, or zero where alignments start at the corner only.
template <class V, bool kWeights, class Number>
LACRAY_INLINE void step(Ext<V> w, const GapWeights<Number>& gap, const Cell<V>& left, Ext<V> above_s, Ext<V> above_y,
                        Ext<V> diagonal_h, typename V::R start, Ext<V> inverse_z, Cell<V>& out, Weights<V>& p) {
  using R = typename V::R;
  out.d = times<V>(w, diagonal_h);

  R xe, x1, x2;
  terms<V>(times<V>(gap.open, left.d), times<V>(gap.extend, left.x), xe, x1, x2);
  const R xm = V::add(x1, x2);
  out.x = normal<V>(xm, xe);

  R ye, y1, y2;
  terms<V>(times<V>(gap.open, above_s), times<V>(gap.extend, above_y), ye, y1, y2);
  const R ym = V::add(y1, y2);
  out.y = normal<V>(ym, ye);

  R se, s1, s2;
  terms<V>(out.d, out.x, se, s1, s2);
  const R sm = V::add(s1, s2);
  out.s = {sm, se};

  const R he = V::max(V::max(start, se), out.y.e);
  const R to_h = V::sub(se, he);
  R h0, h3;
  if constexpr (V::kHard) {
    h0 = V::select(V::less(start, he), V::set1(0), V::set1(1));
    h3 = V::mul(V::sub(V::set1(1), h0), V::select(V::less(se, he), V::set1(1), V::set1(0)));
    const R hs = V::sub(V::sub(V::set1(1), h0), h3);
    out.h = {V::set1(1), he};
    p = {V::mul(s1, hs), V::mul(s2, hs), h3, s1, x1, y1, V::set1(0)};
    return;
  } else {
    h0 = V::scale(V::set1(1), V::sub(start, he));
    h3 = V::scale(out.y.m, V::sub(out.y.e, he));
  }
  const R hm = V::add(V::add(h0, V::scale(sm, to_h)), h3);
  out.h = normal<V>(hm, he);

  if constexpr (kWeights) {
    const R ih = V::reciprocal(hm), is = V::reciprocal(sm), ix = V::reciprocal(xm), iy = V::reciprocal(ym);
    p.pd = V::mul(V::scale(s1, to_h), ih);
    p.px = V::mul(V::scale(s2, to_h), ih);
    p.py = V::mul(h3, ih);
    p.sd = V::mul(s1, is);
    p.qd = V::mul(x1, ix);
    p.rs = V::mul(y1, iy);
    p.pz = V::mul(V::scale(out.d.m, V::add(out.d.e, inverse_z.e)), inverse_z.m);
  }
}

// D = S + gamma log h[i-1,j-1]: one logarithm, and D is S exactly where nothing came before (h = 1).
template <class V>
LACRAY_INLINE typename V::R match_value(typename V::R similarity, Ext<V> diagonal_h, typename V::R gamma_log_2) {
  return V::fma(gamma_log_2, V::add(diagonal_h.e, V::log2(diagonal_h.m)), similarity);
}

// Running sum of d.
template <class V>
LACRAY_INLINE void accumulate(Ext<V>& total, Ext<V> d) {
  using R = typename V::R;
  const R e = V::max(total.e, d.e);
  total.m = V::add(V::scale(total.m, V::sub(total.e, e)), V::scale(d.m, V::sub(d.e, e)));
  total.e = e;
}

// What flows into a cell from the three cells that read it, and what it passes on.
template <class V>
struct Adjoint {
  typename V::R pd;      // d L / d D, which is also the gradient of S
  typename V::R xd, xx;  // to d and x of the cell on the left
  typename V::R ys, yy;  // to s and y of the cell above
};

template <class V>
LACRAY_INLINE Adjoint<V> adjoint_step(const Weights<V>& p, typename V::R grad_match, typename V::R grad_score,
                                      const Adjoint<V>& right, typename V::R below_ys, typename V::R below_yy,
                                      typename V::R diagonal_pd) {
  using R = typename V::R;
  Adjoint<V> out;
  const R direct = V::fma(grad_score, p.pz, grad_match), to_d = V::mul(p.sd, below_ys);
  out.pd = V::add(V::fma(p.pd, diagonal_pd, V::add(to_d, direct)), right.xd);
  const R px = V::add(V::fma(p.px, diagonal_pd, V::sub(below_ys, to_d)), right.xx);
  const R py = V::fma(p.py, diagonal_pd, below_yy);
  out.xd = V::mul(p.qd, px);
  out.xx = V::sub(px, out.xd);
  out.ys = V::mul(p.rs, py);
  out.yy = V::sub(py, out.ys);
  return out;
}

}  // namespace LACRAY_ISA
}  // namespace lacray
