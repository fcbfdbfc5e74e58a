// Rows too long for one chip, forward: columns.cuh, and between its passes, with the product with the filter's spectrum inside,
//   rows_product   W -> W: for each (h, k1), rows of N2 points at k2 + (k1 - s)/N1, times the spectrum, back
// FILTER_WIDE: the filter's columns are fp32 (made by columns_forward with IO = 0, PRE = 0 and WIDE = FILTER_WIDE).
#include "columns.cuh"
typedef Stored<FILTER_WIDE>::type FilterPoint;
typedef Row<RADIX1, RADIX2, RADIX3, 0, 4, PADDED> Fft;
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
        each<GROUP / 32>([&](auto j) { m = max_nan(m, reduced[decltype(j)::v]); });
      }
      scale = scale_for<14>(m, &inverse);
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
