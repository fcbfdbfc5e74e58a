// Rows too long for one chip, backward: between the passes of columns.cuh
//   rows_gradient   for each (h, k1), U and Y the transformed rows of pregate * u and postgate * dy, K of the filter:
//                   WU <- inverse(K U) (where POST), WY <- inverse(conj(K) Y), in place; WD <- inverse(sum over the batch of conj(U) Y)
// The caller makes WU and WY by columns_forward and hands WU, WY, WD to columns_inverse: dpostgate, du and dpregate, dk.
// Two groups of T threads stand side by side, one for U and one for Y; each adds up half of the frequencies over the batch, in order.
// LOW = !WIDE: rows come with 23 bits, and dk is exact to 1e-6.
// HELD: the spectrum of the filter waits in shared memory rather than in registers (T >= 32).
#include "intermediate.cuh"
typedef Stored<FILTER_WIDE>::type FilterPoint;
typedef Row<RADIX1, RADIX2, RADIX3, 0, 4, 1> Fft;
constexpr int E = Fft::E, T = Fft::T, PAIRS = T < 16 ? 16 / T : 1, SIDES = 2 * PAIRS, THREADS = SIDES * T, HALF = E / 2;
constexpr int GROUP = T < 32 ? 32 : T, TRADE = HALF / 2 * T;
constexpr int KEPT = HELD ? N2 * (int)sizeof(c2) : 0;
constexpr int SLOT = N2 * (int)sizeof(Point) + (LOW ? N2 * 2 : 0), LANE = SLOT + (WIDE ? 0 : SCALES * 4);

struct Signal {
  Point* w;
  const unsigned short* low;
  const float* tile_scales;
  float* row_scales;
};

extern "C" __global__ void __launch_bounds__(THREADS, MINB) rows_gradient(
    Point* wu, Point* wy, const unsigned short* low_u, const unsigned short* low_y, i64 low_sb, i64 low_sh, const float* tiles_u,
    const float* tiles_y, float* rows_u, float* rows_y, const FilterPoint* wk, const float* filter_scales, c2* wd, int B, int H, int per_group) {
  SHARED(table);
  const int side = threadIdx.x / T, t = threadIdx.x % T, signal = side % 2, group = threadIdx.x / GROUP;
  const int k1 = blockIdx.x % (N1 / PAIRS) * PAIRS + side / 2;
  c2* exchange = (c2*)(table + Fft::TABLE) + side * Fft::SIZE;
  float4* trade = (float4*)((c2*)(table + Fft::TABLE) + SIDES * Fft::SIZE) + t;
  float4* held = trade + 2 * SIDES * TRADE;
  unsigned char* after = (unsigned char*)(held - t) + KEPT;
  float* reduced = (float*)after + group * (GROUP / 32);
  unsigned char* slot = after + 128 + side * LANE;
  const Point* sw = (const Point*)slot;
  const unsigned short* sl = (const unsigned short*)(slot + N2 * sizeof(Point));
  const float* scale_of = (const float*)(slot + SLOT);
  const Signal s = signal ? Signal{wy, low_y, tiles_y, rows_y} : Signal{wu, low_u, tiles_u, rows_u};
  auto sync = [&] { group_sync<GROUP, THREADS>(group); };
  auto sync_both = [&] {
    if constexpr (T < 32) __syncwarp();
    else __syncthreads();
  };
  int h = blockIdx.x / (N1 / PAIRS), turn = 0;
  auto fetch = [&](int b) {
    if (b < B) {
      const i64 bh = (i64)b * H + h, at = (bh * N1 + k1) * N2;
      const unsigned short* rest = s.low + b * low_sb + h * low_sh + k1 * N2;
      for (int i = t; i < N2 * (int)sizeof(Point) / 16; i += T) copy16(slot + i * 16, (const char*)(s.w + at) + i * 16, 16);
      if constexpr (LOW)
        for (int i = t; i < N2 / 8; i += T) copy16((char*)sl + i * 16, (const char*)rest + i * 16, 16);
      if constexpr (!WIDE) fetch_line<SCALES, T>((void*)scale_of, s.tile_scales + (bh * COL3 + k1 % COL3) * SCALES, t);
    }
    copy_commit();
  };
  const float shift = -(k1 - (float)SN / SD) / N1, flip = signal ? -1.f : 1.f;
  constexpr float unit = 1.f / ((float)N1 * N2);
  Fft fft;
  fft.init(t, exchange, (float4*)table, threadIdx.x, THREADS, shift);
  Twiddle<RADIX1> first;
  first.set(shift);
  c2 v[E], kept[HELD ? 1 : E], *ks = HELD ? v : kept, sum[HALF];
  auto send = [&](auto from, const c2* x) {
    float4* to = trade + (turn * SIDES + side) * TRADE;
    each<HALF / 2>([&](auto q) {
      constexpr int Q = decltype(q)::v, J = decltype(from)::v + 2 * Q;
      to[Q * T] = make_float4(x[J].x, x[J].y, x[J + 1].x, x[J + 1].y);
    });
  };
  // f(q, what the other side sent)
  auto receive = [&](auto f) {
    const float4* from = trade + (turn * SIDES + (side ^ 1)) * TRADE;
    each<HALF / 2>([&](auto q) {
      constexpr int Q = decltype(q)::v;
      float4 p = from[Q * T];
      f(Int<2 * Q>{}, make_float2(p.x, p.y));
      f(Int<2 * Q + 1>{}, make_float2(p.z, p.w));
    });
    turn ^= 1;
  };
  // conj(own half) * the other's; for Y the conjugate of what is wanted
  auto add = [&](auto from) {
    receive([&](auto q, c2 p) {
      const c2 a = v[decltype(from)::v + decltype(q)::v];
      c2& r = sum[decltype(q)::v];
      r.x = fmaf(a.x, p.x, fmaf(a.y, p.y, r.x));
      r.y = fmaf(a.x, p.y, fmaf(-a.y, p.x, r.y));
    });
  };
  for (; h < H; h += gridDim.x / (N1 / PAIRS)) {
    sync();
    fetch(0);
    const FilterPoint* filter = wk + ((i64)(h / per_group) * N1 + k1) * N2;
    each<E>([&](auto j) {
      const int n = t + T * decltype(j)::v;
#if FILTER_WIDE
      ks[decltype(j)::v] = filter[n];
#else
      c2 p = unpack(filter[n]);
      const float scale = filter_scales[h / per_group * TILES + n / COLS];
      ks[decltype(j)::v] = make_float2(p.x * scale, p.y * scale);
#endif
    });
    fft.pin();
    first.pin();
    fft.forward(ks, first, sync);
    each<E>([&](auto j) { ks[decltype(j)::v] = make_float2(ks[decltype(j)::v].x * unit, ks[decltype(j)::v].y * unit * (HELD ? 1.f : flip)); });
    if constexpr (HELD) {
      // both sides have the same
      if (!signal) each<HALF>([&](auto q) {
        constexpr int J = 2 * decltype(q)::v;
        held[decltype(q)::v * T] = make_float4(ks[J].x, ks[J].y, ks[J + 1].x, ks[J + 1].y);
      });
      sync_both();
    }
    each<HALF>([&](auto j) { sum[decltype(j)::v] = make_float2(0.f, 0.f); });
    for (int b = 0; b < B; b++) {
      const i64 row = ((i64)b * H + h) * N1 + k1;
      copy_wait<0>();
      sync();
      fft.pin();
      first.pin();
      each<E>([&](auto j) {
        const int n = t + T * decltype(j)::v;
#if WIDE
        v[decltype(j)::v] = sw[n];
#else
        v[decltype(j)::v] = unpack_low(sw[n], sl[n], scale_of[n / WIDTH]);
#endif
      });
      fft.forward(v, first, [&] {
        sync();
        fetch(b + 1);
      });
      if (signal) send(Int<0>{}, v);
      else send(Int<HALF>{}, v);
      sync_both();
      if (signal) add(Int<HALF>{});
      else add(Int<0>{});
      // a warp that holds both sides stays together
      if (POST || signal || T < 32) {
        if constexpr (HELD) each<HALF>([&](auto q) {
          constexpr int J = 2 * decltype(q)::v;
          const float4 p = held[decltype(q)::v * T];
          v[J] = cmul(v[J], make_float2(p.x, p.y * flip));
          v[J + 1] = cmul(v[J + 1], make_float2(p.z, p.w * flip));
        });
        else each<E>([&](auto j) { v[decltype(j)::v] = cmul(v[decltype(j)::v], kept[decltype(j)::v]); });
        fft.inverse_complex(v, sync);
        float scale = 1.f;
#if !WIDE
        float m = 0.f, inverse;
        each<E>([&](auto j) { m = larger(m, v[decltype(j)::v]); });
        m = lanes_max<(T < 32 ? T : 32)>(m);
        if constexpr (T > 32) {
          if (t % 32 == 0) reduced[t / 32] = m;
          sync();
          each<T / 32>([&](auto j) { m = max_nan(m, reduced[decltype(j)::v]); });
        }
        scale = scale_for<14>(m, &inverse);
        if (t == 0) s.row_scales[row] = inverse;
#endif
        each<E>([&](auto j) {
          c2 p = v[decltype(j)::v];
#if WIDE
          s.w[row * N2 + t + T * decltype(j)::v] = p;
#else
          s.w[row * N2 + t + T * decltype(j)::v] = pack(make_float2(p.x * scale, p.y * scale));
#endif
        });
      }
    }
    each<HALF>([&](auto q) { sum[decltype(q)::v] = make_float2(sum[decltype(q)::v].x * unit, sum[decltype(q)::v].y * unit * flip); });
    if (signal) send(Int<0>{}, sum);
    sync_both();
    if (!signal || T < 32) {
      each<HALF>([&](auto q) { v[decltype(q)::v] = sum[decltype(q)::v]; });
      receive([&](auto q, c2 p) { v[HALF + decltype(q)::v] = p; });
      fft.inverse_complex(v, sync);
      if (!signal) each<E>([&](auto j) { wd[((i64)h * N1 + k1) * N2 + t + T * decltype(j)::v] = v[decltype(j)::v]; });
    } else turn ^= 1;
  }
}
