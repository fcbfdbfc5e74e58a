// Rows too long for one chip: N = N1 N2 in three passes; the two over columns, of the
// gradients (rows_gradient of long_backward.cuh).
//   columns_forward   u, pregate -> W: real columns of N1 points at the frequencies k1 - s; n = n1 N2 + n2, k = k1 + N1 k2
//   columns_inverse   W, gate -> y: what is left of the twiddles is the fraction n2/N2 of the output index n1 + n2/N2
//   columns_inverse_pair   W, two gates -> two outputs
// A thread owns COL1 points of one column; COLS columns a block. PRE, POST: whether there is a gate; PAIR: whether the pair is wanted.
// COLMINB: blocks a multiprocessor. PART: which kernel, 1 to 3 as they stand here; without it all of them. W: intermediate.cuh.
#include "intermediate.cuh"
#ifndef PAIR
#define PAIR 0
#endif

#if PART == 0 || PART == 1
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS, COLMINB) columns_forward(
    const io* u_, const io* g1_, Point* w, float* scales,
#if LOW
    unsigned short* low, i64 low_sb, i64 low_sh,
#endif
    i64 u_sb, i64 u_sh, i64 g1_sb, i64 g1_sh, int H, int L, int count) {
  SHARED(memory);
  constexpr int SLOT = N1 * COLS * (int)sizeof(io);
  c2* exchange = (c2*)memory;
  io *su = (io*)(memory + EXCHANGE), *s1 = (io*)(memory + EXCHANGE + SLOT);
  float* reduced = (float*)(memory + EXCHANGE + STAGED * SLOT * (1 + PRE));
  const Tensor3<const io> u{u_, u_sb, u_sh}, g1{g1_, g1_sb, g1_sh};
  const int c = threadIdx.x % COLS, t = threadIdx.x / COLS, tile = blockIdx.x % TILES, n2 = tile * COLS, step = gridDim.x / TILES;
  auto fetch = [&](int bh) {
    if (STAGED && bh < count) {
      const i64 left = (i64)(L - n2) * sizeof(io);
      fetch_tile<N1, COLS * (int)sizeof(io), N2 * (int)sizeof(io), COLUMN_THREADS>(su, u.row(bh / H, bh % H) + n2, left);
      if constexpr (PRE)
        fetch_tile<N1, COLS * (int)sizeof(io), N2 * (int)sizeof(io), COLUMN_THREADS>(s1, g1.row(bh / H, bh % H) + n2, left);
    }
    copy_commit();
  };
  Twiddle<COL3> second;
  second.set(-(t - (float)SN / SD) / COL1);
  c2 v[COL1];
  fetch(blockIdx.x / TILES);
  for (int bh = blockIdx.x / TILES; bh < count; bh += step) {
    if constexpr (STAGED) copy_wait<0>();
    __syncthreads();
    const io *pu = u.row(bh / H, bh % H) + n2 + c, *p1 = PRE ? g1.row(bh / H, bh % H) + n2 + c : 0;
    each<COL1>([&](auto j) {
      const int line = t + COL3 * decltype(j)::v;
      float x, g = 1.f;
      if constexpr (STAGED) {
        x = load(su[line * COLS + c]);
        if constexpr (PRE) g = load(s1[line * COLS + c]);
      } else {
        const bool in = line * N2 + n2 + c < L;
        x = in ? load(pu[line * N2]) : 0.f;
        if constexpr (PRE) g = in ? load(p1[line * N2]) : 0.f;
      }
      v[decltype(j)::v].x = x * g;
    });
    dft_real<COL1, -1, -SN, SD>(v);
    each<COL1>([&](auto j) { exchange[(decltype(j)::v * COL3 + t) * COLS + c] = v[decltype(j)::v]; });
    __syncthreads();
    fetch(bh + step);
    second.pin();
    each<COL1 / COL3>([&](auto m) {
      constexpr int M = decltype(m)::v * COL3;
      each<COL3>([&](auto j) { v[M + decltype(j)::v] = exchange[((t + M) * COL3 + decltype(j)::v) * COLS + c]; });
      dft<COL3, -1>(v + M, second.template shifted<-M, COL1>());
    });
    const i64 at = (i64)bh * (N1 * N2) + t * N2 + n2 + c;
#if LOW
    unsigned short* rest = low + bh / H * low_sb + bh % H * low_sh + t * N2 + n2 + c;
#endif
    float scale = 1.f;
#if !WIDE
    float m = 0.f, inverse;
    each<COL1>([&](auto j) { m = larger(m, v[decltype(j)::v]); });
    m = lanes_max<LOW ? WIDTH : 32>(m);
#if !LOW
    if (threadIdx.x % 32 == 0) reduced[threadIdx.x / 32] = m;
    __syncthreads();
    each<COLUMN_THREADS / 32>([&](auto j) { m = max_nan(m, reduced[decltype(j)::v]); });
#endif
    scale = scale_for<LOW ? 21 : 14>(m, &inverse);
    if constexpr (LOW) {
      // integers hold neither infinity nor NaN: their scale does
      if (__float_as_int(m) >= 0x7f800000) inverse = __int_as_float(0x7fffffff);
      if (c % WIDTH == 0) scales[(bh * COL3 + t) * SCALES + (n2 + c) / WIDTH] = inverse;
    } else if (threadIdx.x == 0) scales[bh * TILES + tile] = inverse;
#endif
    each<COL1>([&](auto i) {
      constexpr int M = decltype(i)::v / COL3 * COL3, K3 = decltype(i)::v % COL3, LINE = (M + COL1 * K3) * N2;
      c2 p = v[decltype(i)::v];
#if WIDE
      w[at + LINE] = p;
#elif LOW
      w[at + LINE] = pack_low(p, scale, rest + LINE);
#else
      w[at + LINE] = pack(make_float2(p.x * scale, p.y * scale));
#endif
    });
  }
}
#endif

// ya = x, or ga x with a gate; with two, yb = gb x besides. Gates pass through the place of the exchange.
template <int GATES> FI void inverse_columns(
    unsigned char* memory, const Point* w, const float* scales, Tensor3<const io> ga, Tensor3<const io> gb, Tensor3<io> ya,
    Tensor3<io> yb, int H, int L, int count) {
  constexpr int SLOT = N1 * COLS * (int)sizeof(Point), ITEM = (int)sizeof(io);
  c2* exchange = (c2*)memory;
  Point* sw = (Point*)(memory + EXCHANGE);
  float* row_scale = (float*)(memory + EXCHANGE + SLOT);
  const io *sa = (const io*)memory, *sb = sa + N1 * COLS;
  const int c = threadIdx.x % COLS, t = threadIdx.x / COLS, n2 = blockIdx.x % TILES * COLS, step = gridDim.x / TILES;
  auto fetch = [&](int bh) {
    if (bh < count) {
      fetch_tile<N1, COLS * (int)sizeof(Point), N2 * (int)sizeof(Point), COLUMN_THREADS>(
          sw, w + (i64)bh * (N1 * N2) + n2, (i64)N1 * N2 * sizeof(Point));
      if constexpr (!WIDE) fetch_line<N1, COLUMN_THREADS>(row_scale, scales + (i64)bh * N1, threadIdx.x);
    }
    copy_commit();
  };
  auto fetch_gates = [&](int bh) {
    const i64 left = (i64)(L - n2) * ITEM;
    fetch_tile<N1, COLS * ITEM, N2 * ITEM, COLUMN_THREADS>((void*)sa, ga.row(bh / H, bh % H) + n2, left);
    if constexpr (GATES == 2) fetch_tile<N1, COLS * ITEM, N2 * ITEM, COLUMN_THREADS>((void*)sb, gb.row(bh / H, bh % H) + n2, left);
    copy_commit();
  };
  const float fraction = (float)(n2 + c) / N2;
  Twiddle<COL3> first;
  Twiddle<COL1> last;
  c2 phase;
  first.set(fraction);
  last.set((t + fraction) / COL3);
  sincospif(-2.f * SN / SD * (t + fraction) / N1, &phase.y, &phase.x);
  c2 v[COL1];
  fetch(blockIdx.x / TILES);
  for (int bh = blockIdx.x / TILES; bh < count; bh += step) {
    copy_wait<0>();
    __syncthreads();
    first.pin();
    last.pin();
    PIN(phase);
    each<COL1 / COL3>([&](auto m) {
      constexpr int M = decltype(m)::v * COL3;
      each<COL3>([&](auto j) {
        const int k = t + M + COL1 * decltype(j)::v;
#if WIDE
        v[M + decltype(j)::v] = sw[k * COLS + c];
#else
        c2 p = unpack(sw[k * COLS + c]);
        v[M + decltype(j)::v] = make_float2(p.x * row_scale[k], p.y * row_scale[k]);
#endif
      });
      dft<COL3, 1>(v + M, first);
      each<COL3>([&](auto j) { exchange[((t + M) * COL3 + decltype(j)::v) * COLS + c] = v[M + decltype(j)::v]; });
    });
    __syncthreads();
    if constexpr (!GATES || !STAGED) fetch(bh + step);
    each<COL1>([&](auto j) { v[decltype(j)::v] = exchange[(decltype(j)::v * COL3 + t) * COLS + c]; });
    if constexpr (GATES && STAGED) {
      __syncthreads();
      fetch_gates(bh);
      fetch(bh + step);
    }
    dft_shifted_real<COL1, SN, SD>(v, last, phase);
    if constexpr (GATES && STAGED) {
      copy_wait<1>();
      __syncthreads();
    }
    const i64 at = n2 + c;
    const io *pa = GATES ? ga.row(bh / H, bh % H) + at : 0, *pb = GATES == 2 ? gb.row(bh / H, bh % H) + at : 0;
    io *qa = ya.row(bh / H, bh % H) + at, *qb = GATES == 2 ? yb.row(bh / H, bh % H) + at : 0;
    // From global memory, loads go before stores: the compiler must not think that one waits for the other.
    constexpr int STEP = GATES == 2 && !STAGED && COL1 > 8 ? COL1 / 4 : COL1;
    each<COL1 / STEP>([&](auto part) {
      io a[STEP], b[STEP];
      if constexpr (GATES && !STAGED) {
        FENCE_READS();
        each<STEP>([&](auto j) {
          const int line = t + COL3 * (decltype(part)::v * STEP + decltype(j)::v);
          const bool in = line * N2 + n2 + c < L;
          a[decltype(j)::v] = in ? pa[line * N2] : io{};
          if constexpr (GATES == 2) b[decltype(j)::v] = in ? pb[line * N2] : io{};
        });
      }
      each<STEP>([&](auto j) {
        constexpr int J = decltype(j)::v, I = decltype(part)::v * STEP + J;
        const int line = t + COL3 * I;
        if (line * N2 + n2 + c < L) {
          const float x = v[I].x;
          if constexpr (!GATES) qa[line * N2] = store(x);
          else if constexpr (STAGED) qa[line * N2] = store(x * load(sa[line * COLS + c]));
          else qa[line * N2] = store(x * load(a[J]));
          if constexpr (GATES == 2 && STAGED) qb[line * N2] = store(x * load(sb[line * COLS + c]));
          else if constexpr (GATES == 2) qb[line * N2] = store(x * load(b[J]));
        }
      });
    });
  }
}

#if PART == 0 || PART == 2
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS, COLMINB) columns_inverse(
    const Point* w, const float* scales, const io* g2, io* y, i64 g2_sb, i64 g2_sh, i64 y_sb, i64 y_sh, int H, int L, int count) {
  SHARED(memory);
  const Tensor3<const io> gate{g2, g2_sb, g2_sh};
  const Tensor3<io> out{y, y_sb, y_sh};
  inverse_columns<POST>(memory, w, scales, gate, gate, out, out, H, L, count);
}
#endif

#if PAIR && (PART == 0 || PART == 3)
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS, COLMINB) columns_inverse_pair(
    const Point* w, const float* scales, const io* ga, const io* gb, io* ya, io* yb, i64 ga_sb, i64 ga_sh, i64 gb_sb, i64 gb_sh, i64 ya_sb,
    i64 ya_sh, i64 yb_sb, i64 yb_sh, int H, int L, int count) {
  SHARED(memory);
  inverse_columns<2>(
      memory, w, scales, Tensor3<const io>{ga, ga_sb, ga_sh}, Tensor3<const io>{gb, gb_sb, gb_sh}, Tensor3<io>{ya, ya_sb, ya_sh},
      Tensor3<io>{yb, yb_sb, yb_sh}, H, L, count);
}
#endif
