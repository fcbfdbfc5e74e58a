// Rows too long for one chip: N = N1 N2 in three passes, the product with the filter's spectrum inside the middle one.
//   columns_forward  u, pregate -> W: real columns of N1 = COL1 COL3 points at the frequencies k1 - s; n = n1 N2 + n2, k = k1 + N1 k2
//   rows_product     W -> W: for each (h, k1), rows of N2 = RADIX1 RADIX2 RADIX3 points at k2 + (k1 - s)/N1, times the spectrum, back
//   columns_inverse  W, postgate -> y: what is left of the twiddles is the fraction n2/N2 of the output index n1 + n2/N2
// W (B H, N1, N2) holds 4 bytes a point, two fp16 with a power-of-two scale for a tile (from columns) or a row (from rows); WIDE: fp32,
// FILTER_WIDE: the same for the filter's columns (made by columns_forward with IO = 0, PRE = 0 and WIDE = FILTER_WIDE).
// BLOCK_BYTES: shared memory of a block on this device.
// A thread of the column passes owns COL1 points of one column; COLS columns a block.
#include "io.cuh"
template <int W> struct Stored { typedef unsigned type; };
template <> struct Stored<1> { typedef float2 type; };
typedef Stored<WIDE>::type Point;
typedef Stored<FILTER_WIDE>::type FilterPoint;
typedef Row<RADIX1, RADIX2, RADIX3, 0, 4, PADDED> Fft;
constexpr int SN = SHIFT, SD = 4, N1 = COL1 * COL3, N2 = Fft::N, TILES = N2 / COLS;
constexpr int COLUMN_THREADS = COLS * COL3, EXCHANGE = N1 * COLS * (int)sizeof(c2);

// A tile of LINES lines of BYTES bytes, STEP bytes apart in memory, packed in shared memory; only the first `left` bytes from `from`
// on exist, the rest is zero.
template <int LINES, int BYTES, i64 STEP, int THREADS> FI void fetch_tile(void* to, const void* from, i64 left) {
  constexpr int LANES = BYTES / 16, EACH = LINES * LANES / THREADS;
  static_assert(EACH * THREADS == LINES * LANES, "a tile is a whole number of pieces for each thread");
  const i64 at = threadIdx.x / LANES * STEP + threadIdx.x % LANES * 16;
  const char* p = (const char*)from + at;
  char* q = (char*)to + threadIdx.x * 16;
  if (left >= (LINES - 1) * STEP + BYTES)
    each<EACH>([&](auto i) { copy16(q + decltype(i)::v * THREADS * 16, p + decltype(i)::v * (THREADS / LANES) * STEP, 16); });
  else
    for (int i = 0; i < EACH; i++) {
      i64 rest = left - at - i * (THREADS / LANES) * STEP;
      const char* piece = rest > 0 ? p + i * (THREADS / LANES) * STEP : (const char*)from;
      copy16(q + i * THREADS * 16, piece, rest >= 16 ? 16 : (rest > 0 ? (int)rest : 0));
    }
}
template <int COUNT, int THREADS> FI void fetch_line(void* to, const float* from, int thread) {
  for (int i = thread; i < COUNT / 4; i += THREADS) copy16((char*)to + i * 16, from + i * 4, 16);
}

// The power of two that brings a largest magnitude m near 2^14, and its inverse.
FI float scale_for(float m, float* inverse) {
  int e = __float_as_int(m) >> 23;
  e = e < 15 ? 15 : e;
  *inverse = __int_as_float((e - 14) << 23);
  return __int_as_float((268 - e) << 23);
}
FI float larger(float m, c2 v) { return fmaxf(m, fmaxf(fabsf(v.x), fabsf(v.y))); }
// The largest m over WIDTH neighbouring lanes.
template <int WIDTH> FI float lanes_max(float m) {
  each<log2i(WIDTH)>([&](auto l) { m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1 << decltype(l)::v)); });
  return m;
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS, COLMINB) columns_forward(
    const io* u_, const io* g1_, Point* w, float* scales, i64 u_sb, i64 u_sh, i64 g1_sb, i64 g1_sh, int H, int L, int count) {
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
    Point* out = w + (i64)bh * (N1 * N2) + t * N2 + n2 + c;
    float scale = 1.f;
#if !WIDE
    float m = 0.f, inverse;
    each<COL1>([&](auto j) { m = larger(m, v[decltype(j)::v]); });
    m = lanes_max<32>(m);
    if (threadIdx.x % 32 == 0) reduced[threadIdx.x / 32] = m;
    __syncthreads();
    each<COLUMN_THREADS / 32>([&](auto j) { m = fmaxf(m, reduced[decltype(j)::v]); });
    scale = scale_for(m, &inverse);
    if (threadIdx.x == 0) scales[bh * TILES + tile] = inverse;
#endif
    each<COL1>([&](auto i) {
      constexpr int M = decltype(i)::v / COL3 * COL3, K3 = decltype(i)::v % COL3;
      c2 p = v[decltype(i)::v];
#if WIDE
      out[(M + COL1 * K3) * N2] = p;
#else
      out[(M + COL1 * K3) * N2] = pack(make_float2(p.x * scale, p.y * scale));
#endif
    });
  }
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS, COLMINB) columns_inverse(
    const Point* w, const float* scales, const io* g2_, io* y_, i64 g2_sb, i64 g2_sh, i64 y_sb, i64 y_sh, int H, int L, int count) {
  SHARED(memory);
  constexpr int SLOT = N1 * COLS * (int)sizeof(Point);
  c2* exchange = (c2*)memory;
  Point* sw = (Point*)(memory + EXCHANGE);
  float* row_scale = (float*)(memory + EXCHANGE + SLOT);
  io* s2 = (io*)(memory + EXCHANGE + SLOT + N1 * 4);
  constexpr bool GATED = POST && STAGED && EXCHANGE + SLOT + N1 * 4 + N1 * COLS * (int)sizeof(io) <= BLOCK_BYTES;
  const Tensor3<const io> g2{g2_, g2_sb, g2_sh};
  const Tensor3<io> y{y_, y_sb, y_sh};
  const int c = threadIdx.x % COLS, t = threadIdx.x / COLS, n2 = blockIdx.x % TILES * COLS, step = gridDim.x / TILES;
  auto fetch = [&](int bh) {
    if (bh < count) {
      fetch_tile<N1, COLS * (int)sizeof(Point), N2 * (int)sizeof(Point), COLUMN_THREADS>(
          sw, w + (i64)bh * (N1 * N2) + n2, (i64)N1 * N2 * sizeof(Point));
      if constexpr (!WIDE) fetch_line<N1, COLUMN_THREADS>(row_scale, scales + (i64)bh * N1, threadIdx.x);
    }
    copy_commit();
  };
  auto fetch_gate = [&](int bh) {
    if (GATED && bh < count)
      fetch_tile<N1, COLS * (int)sizeof(io), N2 * (int)sizeof(io), COLUMN_THREADS>(
          s2, g2.row(bh / H, bh % H) + n2, (i64)(L - n2) * sizeof(io));
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
  fetch_gate(blockIdx.x / TILES);
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
    fetch(bh + step);
    each<COL1>([&](auto j) { v[decltype(j)::v] = exchange[(decltype(j)::v * COL3 + t) * COLS + c]; });
    dft_shifted_real<COL1, SN, SD>(v, last, phase);
    const io* p2 = POST ? g2.row(bh / H, bh % H) + n2 + c : 0;
    io* py = y.row(bh / H, bh % H) + n2 + c;
    each<COL1>([&](auto j) {
      const int line = t + COL3 * decltype(j)::v;
      if (line * N2 + n2 + c < L) {
        float x = v[decltype(j)::v].x;
        if constexpr (POST) x *= load(GATED ? s2[line * COLS + c] : p2[line * N2]);
        py[line * N2] = store(x);
      }
    });
    if constexpr (GATED) {
      __syncthreads();
      fetch_gate(bh + step);
    }
  }
}

constexpr int E = Fft::E, T = Fft::T;
constexpr int GROUP = T < 32 ? 32 : T, RPG = GROUP / T, ROW_THREADS = GROUP * GROUPS;

// One block: the row k1 of some channels for all of the batch; for each channel the filter's row is transformed first.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, MINB) rows_product(
    Point* w, const float* tile_scales, float* row_scales, const FilterPoint* wk, const float* filter_scales, int B, int H, int per_group) {
  SHARED(table);
  constexpr int SLOT = N2 * (int)sizeof(Point), LANES = RPG * (SLOT + TILES * 4);
  const int group = threadIdx.x / GROUP, tid = threadIdx.x % GROUP, sub = tid / T;
  const int k1 = blockIdx.x % N1;
  c2* exchange = (c2*)(table + Fft::TABLE) + (group * RPG + sub) * Fft::SIZE;
  unsigned char* slots = (unsigned char*)((c2*)(table + Fft::TABLE) + GROUPS * RPG * Fft::SIZE);
  float* reduced = (float*)slots + group * (GROUP / 32);
  slots += 128 + group * LANES + sub * (SLOT + TILES * 4);
  const Point* sw = (const Point*)slots;
  const float* scale_of = (const float*)(slots + SLOT);
  auto sync = [&] { group_sync<GROUP, ROW_THREADS>(group); };
  int h = blockIdx.x / N1;
  const int t = tid % T;
  auto fetch = [&](int first) {
    if (first + sub < B) {
      const i64 bh = (i64)(first + sub) * H + h;
      for (int i = t; i < SLOT / 16; i += T) copy16(slots + i * 16, (const char*)(w + (bh * N1 + k1) * N2) + i * 16, 16);
      if constexpr (!WIDE) fetch_line<TILES, T>(slots + SLOT, tile_scales + bh * TILES, t);
    }
    copy_commit();
  };
  const float shift = -(k1 - (float)SN / SD) / N1;
  Fft fft;
  fft.init(t, exchange, (float4*)table, threadIdx.x, ROW_THREADS, shift);
  Twiddle<RADIX1> first;
  first.set(shift);
  c2 v[E], ks[E];
  for (; h < H; h += gridDim.x / N1) {
    int b = group * RPG;
    sync();
    fetch(b);
    const FilterPoint* filter = wk + ((i64)(h / per_group) * N1 + k1) * N2;
    each<E>([&](auto j) {
      const int n = t + T * decltype(j)::v;
#if FILTER_WIDE
      ks[decltype(j)::v] = filter[n];
#else
      c2 p = unpack(filter[n]);
      float scale = filter_scales[h / per_group * TILES + n / COLS];
      ks[decltype(j)::v] = make_float2(p.x * scale, p.y * scale);
#endif
    });
    fft.pin();
    first.pin();
    fft.forward(ks, first, sync);
    constexpr float unit = 1.f / ((float)N1 * N2);
    each<E>([&](auto j) { ks[decltype(j)::v] = make_float2(ks[decltype(j)::v].x * unit, ks[decltype(j)::v].y * unit); });
    for (; b < B; b += GROUPS * RPG) {
      const bool valid = b + sub < B;
      const i64 row = ((i64)(valid ? b + sub : B - 1) * H + h) * N1 + k1;
      copy_wait<0>();
      sync();
      fft.pin();
      first.pin();
      each<E>([&](auto j) {
        const int n = t + T * decltype(j)::v;
#if WIDE
        v[decltype(j)::v] = sw[n];
#else
        c2 p = unpack(sw[n]);
        v[decltype(j)::v] = make_float2(p.x * scale_of[n / COLS], p.y * scale_of[n / COLS]);
#endif
      });
      fft.forward(v, first, [&] {
        sync();
        fetch(b + GROUPS * RPG);
      });
      each<E>([&](auto j) { v[decltype(j)::v] = cmul(v[decltype(j)::v], ks[decltype(j)::v]); });
      fft.inverse_complex(v, sync);
      float scale = 1.f;
#if !WIDE
      float m = 0.f, inverse;
      each<E>([&](auto j) { m = larger(m, v[decltype(j)::v]); });
      m = lanes_max<(T < 32 ? T : 32)>(m);
      if constexpr (T > 32) {
        if (tid % 32 == 0) reduced[tid / 32] = m;
        sync();
        each<GROUP / 32>([&](auto j) { m = fmaxf(m, reduced[decltype(j)::v]); });
      }
      scale = scale_for(m, &inverse);
      if (t == 0 && valid) row_scales[row] = inverse;
#endif
      if (valid) each<E>([&](auto j) {
        c2 p = v[decltype(j)::v];
#if WIDE
        w[row * N2 + t + T * decltype(j)::v] = p;
#else
        w[row * N2 + t + T * decltype(j)::v] = pack(make_float2(p.x * scale, p.y * scale));
#endif
      });
    }
  }
}
