// Quotients of power series in the delay z, x / D with D = 1 - sum_j p[j] z^(j+1), one block of threads a row, float64 inside: those of
// given x and p (SERIES), or the taps k[l] = c^T A^l b of companion systems, p[j] = a[d-1-j] and x = N of degree below d, and, with
// SPECTRUM, the taps' spectra in the order of fftconv's kernels.
//
// h = 1 / D begins with 16 terms and doubles: after n terms the past adds r[i] = sum_m p[i+m] h[n-1-m] to the next ones, which are
// h[n+i] = sum_m r[m] h[i-m]. The quotient y comes in blocks of S terms the same way, with r = x + what the past adds. h and the block
// stand in reverse, so that every sum is a correlation sum_m w[m] x[o+m], and so are those of N.
//
// Options: BLOCK (threads), SPLIT (lanes that share the sums of a block: 1, 2, 4 or 8), IN and OUT (1: operands or results are float64), SERIES, SPECTRUM; with that
// RADIX1 RADIX2 RADIX3, PADDED and SHIFT = 1 as in spectrum.cuh.
#define IO 0
#define PRE 0
#define STAGED 0
#define GROUPS 1
#if SPECTRUM
#include "plan.cuh"
#else
#include "io.cuh"
#endif
#if IN
typedef double Operand;
#else
typedef float Operand;
#endif
#if OUT
typedef double Tap;
#else
typedef float Tap;
#endif

// Places of a vector of so many groups of four (a multiple of four of them) and of the zeros behind it: each fourth group is followed by
// two empty places, so that lanes which read neighbouring groups, or every second one, meet no bank twice.
FI int place(int group) { return 4 * group + (group >> 2) * 2; }
FI int places(int groups) { return place(groups + 4); }
// Zero beyond its end.
struct Vector {
  double* at;
  int groups;
  FI double& operator[](int i) const { return at[i + (i >> 4) * 2]; }
  FI void read(double* v, int group) const {
    const double2* p = (const double2*)(at + place(min(group, groups)));
    const double2 x = p[0], y = p[1];
    v[0] = x.x, v[1] = x.y, v[2] = y.x, v[3] = y.y;
  }
};
// A vector from a group on.
struct Part {
  Vector of;
  int first;
};
// Groups that each of S lanes takes of a sum, in whole runs: their starts fall on banks of their own.
template <int S> FI int run(int groups) {
  const int each_lane = (groups + S - 1) / S;
  if (S == 1 || each_lane <= 2) return each_lane;
  return S == 2 ? (each_lane + 7) / 16 * 16 + 8 : (each_lane + 3) / 8 * 8 + 4;
}

// s[r] += sum over m of w[m] x[4 group + r + m], r < 4 R, of those m that lane `split` of S sums; `lowest`: the warp's least group.
template <int R, int S> FI void add(double* s, Part w, Part x, int reach, int lowest, int group, int split) {
  const int steps = run<S>(min(reach, x.of.groups - x.first - lowest)), q = split * steps;
  double v[4 * R + 4], f[4];
  each<R>([&](auto i) { x.of.read(v + 4 * decltype(i)::v, x.first + group + q + decltype(i)::v); });
#pragma unroll R + 1
  for (int i = 0; i < steps; i++) {
    x.of.read(v + 4 * R, x.first + group + q + i + R);
    w.of.read(f, w.first + q + i);
    each<4>([&](auto j) {
      each<4 * R>([&](auto r) { s[decltype(r)::v] = fma(f[decltype(j)::v], v[decltype(r)::v + decltype(j)::v], s[decltype(r)::v]); });
    });
    each<4 * R>([&](auto j) { v[decltype(j)::v] = v[decltype(j)::v + 4]; });
  }
}
// Sums of n numbers over S lanes, each of which keeps n / S of them, or one: number `split` mod S and every S-th from there.
template <int n, int S, int STEP = 1> FI void share(double* s, int split) {
  if constexpr (STEP < S) {
    const bool odd = split & STEP;
    if constexpr (n > 1) {
      each<n / 2>([&](auto i) {
        constexpr int I = decltype(i)::v;
        const double kept = odd ? s[2 * I + 1] : s[2 * I], sent = odd ? s[2 * I] : s[2 * I + 1];
        s[I] = kept + __shfl_xor_sync(~0u, sent, STEP);
      });
    } else s[0] += __shfl_xor_sync(~0u, s[0], STEP);
    share<(n > 1 ? n / 2 : 1), S, 2 * STEP>(s, split);
  }
}
// out(o, sum) for o in groups [first, end), by whole warps: `sum` adds up R groups of them in a lane, S lanes share them.
template <int R, int S, class Sum, class Out> FI void correlate(int rank, int threads, int first, int end, Sum sum, Out out) {
  constexpr int WARP = 32 / S * R, KEPT = S < 4 * R ? 4 * R / S : 1, APART = 4 * R / KEPT;
  const int lane = rank % 32, split = lane % S;
  for (int lowest = first + rank / 32 * WARP; lowest < end; lowest += threads / 32 * WARP) {
    const int group = lowest + lane / S * R;
    double s[4 * R] = {};
    sum(s, lowest, min(group, end - 1), split);
    share<4 * R, S>(s, split);
    if (split < APART) each<KEPT>([&](auto i) {
      const int o = 4 * group + decltype(i)::v * APART + split;
      if (o < 4 * end) out(o, s[decltype(i)::v]);
    });
  }
}
// What the terms of `past` (in reverse) add to the next: sum_m p[i+m] past[m], i in 4 reach.
template <int S, class Out> FI void from_past(int rank, int threads, Vector p, Part past, int reach, Out out) {
  auto sum = [&](double* s, int lowest, int group, int split) { add<1, S>(s, past, Part{p, 0}, reach, lowest, group, split); };
  correlate<1, S>(rank, threads, 0, reach, sum, out);
}
// h from n to at most 2 n terms.
template <int R, int S> FI void grow(int rank, int threads, Vector h, Vector r, int n, int reach) {
  const int shift = n / 4, end = h.groups - shift, first = max(0, end - shift);
  auto sum = [&](double* s, int lowest, int group, int split) { add<R, S>(s, Part{r, 0}, Part{h, shift}, reach, lowest, group, split); };
  correlate<R, S>(rank, threads, first, end, sum, [&](int o, double v) { h[o] = v; });
}
// h from n to 2 n <= 64 terms by one warp, an output a lane.
template <int n> FI void twice(int lane, Vector p, Vector h, Vector r) {
  const int block = 4 * h.groups, lags = 4 * p.groups, i = min(lane, n - 1);
  if (block <= n) return;
  double s[4] = {}, t[4] = {}, f[4];
  each<n / 4>([&](auto g) {
    constexpr int G = decltype(g)::v;
    h.read(f, h.groups - n / 4 + G);
    each<4>([&](auto j) {
      constexpr int J = decltype(j)::v;
      s[J] = fma(f[J], p[min(i + 4 * G + J, lags)], s[J]);
    });
  });
  if (lane < min(n, lags)) r[lane] = (s[0] + s[1]) + (s[2] + s[3]);
  __syncwarp();
  each<n / 4>([&](auto g) {
    constexpr int G = decltype(g)::v;
    r.read(f, G);
    each<4>([&](auto j) {
      constexpr int J = decltype(j)::v;
      t[J] = fma(f[J], h[min(block - 1 - i + 4 * G + J, block)], t[J]);
    });
  });
  if (lane < min(n, block - n)) h[block - 1 - n - lane] = (t[0] + t[1]) + (t[2] + t[3]);
  __syncwarp();
}

// a, b, c: the system; with SERIES a is p and b is x, of `given` terms.
extern "C" __global__ void __launch_bounds__(BLOCK) recurrence(
    const Operand* a_, const Operand* b_, const Operand* c_, i64 a_row, i64 b_row, i64 c_row, Tap* out, float4* kf, const float* skip,
    int per_group, int d, int given, int length, int block) {
  SHARED(memory);
  const int tid = threadIdx.x, warp = tid / 32;
  const i64 row = blockIdx.x;
  const int lags = (d + 15) / 16 * 4, terms = block / 4, small = places(lags), wide = places(terms);
  double* next = (double*)memory;
  auto take = [&](int groups) {
    Vector v{next, groups};
    next += places(groups);
    return v;
  };
  const Vector p = take(lags), r = take(SERIES ? max(lags, terms) : lags), h = take(terms);
  a_ += row * a_row, b_ += row * b_row;
  double fa = 0, fb = 0, fc = 0;
#if SERIES
  if (tid < d) fa = a_[tid];
  double* const used = next + wide;
  const Vector y = take(terms);
#else
  c_ += row * c_row;
  if (tid < d) fa = a_[tid], fb = b_[tid], fc = c_[tid];
  const Vector n = take(lags), y{next, terms};
  double* const used = next + max(5 * small, wide);
  const Vector a = take(lags), b = take(lags), c = take(lags), cb = take(lags), ca = take(lags);
#endif
  for (double* z = (double*)memory + tid; z < used; z += BLOCK) *z = 0;
  __syncthreads();
  for (int i = tid; i < d; i += BLOCK) {
#if SERIES
    p[i] = i < BLOCK ? fa : a_[i];
#else
    if (i >= BLOCK) fa = a_[i], fb = b_[i], fc = c_[i];
    p[d - 1 - i] = a[i] = fa, b[i] = fb, c[i] = fc;
#endif
  }
  __syncthreads();

  // The first warp makes the first 64 terms of h, the others N: N[j] = cb[j] + sum_{i<j} ca[i] b[d-j+i] - cb[i] a[d-j+i], where
  // cb[j] = sum_m c[j+m] b[m], ca likewise of a.
  if (warp == 0) {
    double f[16], g[16];
    each<4>([&](auto i) { p.read(f + 4 * decltype(i)::v, decltype(i)::v); });
    g[0] = 1;
    each<15>([&](auto t) {
      constexpr int I = decltype(t)::v + 1;
      double v = 0;
      each<I>([&](auto j) { v = fma(f[I - 1 - decltype(j)::v], g[decltype(j)::v], v); });
      g[I] = v;
    });
    if (tid == 0) each<16>([&](auto j) { h[block - 1 - decltype(j)::v] = g[decltype(j)::v]; });
    __syncwarp();
    twice<16>(tid, p, h, r);
  }
#if !SERIES
  if (warp > 0) {
    // cb, then ca: as one vector of twice the groups.
    auto sum = [&](double* s, int lowest, int group, int split) {
      const int least = lowest >= lags ? lowest - lags : lowest + 8 > lags ? 0 : lowest;
      add<2, 8>(s, Part{group < lags ? b : a, 0}, Part{c, 0}, lags, least, group < lags ? group : group - lags, split);
    };
    correlate<2, 8>(tid - 32, BLOCK - 32, 0, 2 * lags, sum, [&](int o, double v) { (o < 4 * lags ? cb[o] : ca[o - 4 * lags]) = v; });
  }
#endif
  __syncthreads();
  if (warp == 0) twice<32>(tid, p, h, r);
#if !SERIES
  if (warp > 0) {
    // Eight lanes take cb and a, eight ca and b.
    auto sum = [&](double* s, int lowest, int group, int split) {
      const bool high = split & 8;
      add<2, 8>(s, Part{high ? ca : cb, 0}, Part{high ? b : a, 0}, lags, lowest, group, split & 7);
      each<8>([&](auto j) { s[decltype(j)::v] = high ? s[decltype(j)::v] : -s[decltype(j)::v]; });
    };
    correlate<2, 16>(tid - 32, BLOCK - 32, 0, lags + 1, sum, [&](int o, double v) { if (o > 0 && o <= d) n[d - o] = cb[d - o] + v; });
  }
#endif
  __syncthreads();
  for (int m = 64; m < block; m *= 2) {
    const int reach = min(lags, m / 4);
    from_past<16>(tid, BLOCK, p, Part{h, terms - m / 4}, reach, [&](int o, double v) { r[o] = v; });
    __syncthreads();
    if (SPLIT == 8 || m < 512) grow<2, 8>(tid, BLOCK, h, r, m, reach);
    else grow<2, SPLIT>(tid, BLOCK, h, r, m, reach);
    __syncthreads();
  }

#if SPECTRUM
  // Behind what the transform takes.
  const int before = max((int)((unsigned char*)used - memory), Fft::TABLE + RPG * Fft::SIZE * (int)sizeof(c2));
  float* const taps = (float*)(memory + before);
#endif
#if !SERIES
  if (tid < 4) y[block + tid] = 0;
#endif
  // Lanes that keep one output, or two, write whole lines of them; others leave that to a pass over the block.
  constexpr bool AT_ONCE = SPLIT >= 4;
  out += row * length;
  auto give = [&](int t, double v) {
    out[t] = (Tap)v;
#if SPECTRUM
    taps[t] = (float)v;
#endif
  };
  for (int t0 = 0;; t0 += block) {
    if (!AT_ONCE && t0) for (int i = tid; i < min(block, length - t0 + block); i += BLOCK) give(t0 - block + i, y[block - 1 - i]);
    if (t0 >= length) break;
#if SERIES
    const Vector w = r;
    const int reach = max(t0 ? lags : 0, min(terms, (given - t0 + 3) / 4));
    for (int i = tid; i < 4 * max(lags, terms); i += BLOCK) r[i] = i < block && t0 + i < given ? b_[t0 + i] : 0;
    __syncthreads();
#else
    const Vector w = t0 ? r : n;
    const int reach = lags;
#endif
    if (t0) {
      from_past<16>(tid, BLOCK, p, Part{y, 0}, lags, [&](int o, double v) { r[o] = SERIES ? r[o] + v : v; });
      __syncthreads();
    }
    auto sum = [&](double* s, int lowest, int group, int split) { add<2, SPLIT>(s, Part{w, 0}, Part{h, 0}, reach, lowest, group, split); };
    const int first = max(0, (block - (length - t0)) / 4);
    const int last = t0 + block - 1;
    correlate<2, SPLIT>(tid, BLOCK, first, terms, sum, [&](int o, double v) {
      y[o] = v;
      if (AT_ONCE && last - o < length) give(last - o, v);
    });
    __syncthreads();
  }
#if SPECTRUM
  __syncthreads();
  Fft fft;
  c2 v[E];
  fft.init(tid % T, (c2*)(memory + Fft::TABLE) + tid / T % RPG * Fft::SIZE, (float4*)memory, tid, BLOCK);
  if (tid >= GROUP) return;
  auto sync = [] { group_sync<GROUP, BLOCK>(0); };
  for (i64 channel = row * per_group; channel < (row + 1) * per_group; channel++) {
    filter_row(v, taps, skip ? skip[channel] : 0.f, length, fft.t);
    fft.forward(v, sync);
    if (tid < T) each<E / 2>([&](auto j) {
      constexpr int J = decltype(j)::v;
      kf[(channel * (E / 2) + J) * T + fft.t] = make_float4(v[2 * J].x, v[2 * J].y, v[2 * J + 1].x, v[2 * J + 1].y);
    });
    sync();
  }
#endif
}
