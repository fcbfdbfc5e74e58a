// Rows too long for one chip, forward, in three passes: N = N1 N2, n = n1 N2 + n2, k = k1 + N1 k2. W: intermediate.cuh.
//   columns_forward  u, pregate -> W: real columns of N1 points at the frequencies k1 - s
//   rows_product     W -> W: for each (h, k1), rows of N2 points at k2 + (k1 - s)/N1, times the filter's spectrum, back
//   columns_inverse  W, postgate -> y: what is left of the twiddles is the fraction n2/N2 of the output index n1 + n2/N2
// The filter's columns are made by columns_forward with IO = 0, PRE = 0. A thread owns COL1 points of one column; COLS columns a block.
// FORWARD_DEEP, INVERSE_DEEP: tiles in shared memory; with 2, the next one arrives while all of this one is at work.
// PART: which kernel, 1 to 3 as they stand here; without it all of them.
#include "intermediate.cuh"
typedef Row<RADIX1, RADIX2, RADIX3, 0, 4, PADDED> Fft;

// The sum of m over WIDTH neighbouring lanes.
template <int WIDTH> FI float lanes_sum(float m) {
  each<log2i(WIDTH)>([&](auto l) { m += __shfl_xor_sync(0xffffffffu, m, 1 << decltype(l)::v); });
  return m;
}
// 2^x, x a multiple of STEP, that keeps what is bounded by m under 2^15, and its inverse. Numbers from 2^-14 to 2^15 have full precision
// in fp16, so bounds may be rough; in steps, all parts of a row mostly have one scale, and then nobody has to multiply.
template <int STEP> FI float step_scale(float m, float* inverse) {
  int e = ((__float_as_int(m) >> 23) + STEP - 1) / STEP * STEP;
  e = e < 16 ? 16 : e;
  *inverse = __int_as_float((e - 14) << 23);
  return __int_as_float((268 - e) << 23);
}
// The inverse of a power of two.
FI float inverse_power(float x) { return __int_as_float((254 << 23) - __float_as_int(x)); }
// Whether COUNT scales in shared memory are the same, and the largest: for each WIDTH neighbouring lanes.
template <int COUNT, int WIDTH> FI bool one_scale(const float* scales, float* largest) {
  const int lane = threadIdx.x % WIDTH;
  bool same = true;
  float first = scales[0], top = first;
  for (int i = lane; i < COUNT; i += WIDTH) {
    const float s = scales[i];
    same &= s == first;
    top = fmaxf(top, s);
  }
  *largest = top;
  if (__all_sync(0xffffffffu, same)) return true;
  *largest = lanes_max<WIDTH>(top);
  return false;
}

// What a thread exchanges with the others of its column, real parts and then imaginary parts: half the shared memory.
template <class Put, class Get> FI void exchange_halves(c2* v, Put place, Get get) {
  each<COL1>([&](auto i) { place(i) = v[decltype(i)::v].x; });
  __syncthreads();
  each<COL1>([&](auto i) { v[decltype(i)::v].x = get(i); });
  __syncthreads();
  each<COL1>([&](auto i) { place(i) = v[decltype(i)::v].y; });
  __syncthreads();
  each<COL1>([&](auto i) { v[decltype(i)::v].y = get(i); });
}

#if PART == 0 || PART == 1
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS, COLMINB) columns_forward(
    const io* u_, const io* g1_, Point* w, float* scales, i64 u_sb, i64 u_sh, i64 g1_sb, i64 g1_sh, int H, int L, int count) {
  SHARED(memory);
  constexpr int HALF = N1 * COLS * 4, SLOT = N1 * COLS * (int)sizeof(io), BOTH = SLOT * (1 + PRE);
  float* exchange = (float*)memory;
  io* slots = (io*)(memory + HALF);
  float* reduced = (float*)(memory + HALF + STAGED * BOTH * FORWARD_DEEP);
  const Tensor3<const io> u{u_, u_sb, u_sh}, g1{g1_, g1_sb, g1_sh};
  const int c = threadIdx.x % COLS, t = threadIdx.x / COLS, tile = blockIdx.x % TILES, n2 = tile * COLS, step = gridDim.x / TILES;
  int place = 0;
  auto fetch = [&](int bh) {
    if (STAGED && bh < count) {
      const i64 left = (i64)(L - n2) * sizeof(io);
      io* su = slots + place * (BOTH / (int)sizeof(io));
      fetch_tile<N1, COLS * (int)sizeof(io), N2 * (int)sizeof(io), COLUMN_THREADS>(su, u.row(bh / H, bh % H) + n2, left);
      if constexpr (PRE)
        fetch_tile<N1, COLS * (int)sizeof(io), N2 * (int)sizeof(io), COLUMN_THREADS>(su + SLOT / sizeof(io), g1.row(bh / H, bh % H) + n2, left);
    }
    copy_commit();
  };
  const int lines = (L - n2 - c + N2 - 1) / N2 - t;  // of this thread's column, from its first on: those that hold samples
  Twiddle<COL3> second;
  second.set(-(t - (float)SN / SD) / COL1);
  // This thread's places, the others lie at fixed distances: of point t of column c, of point t COL3.
  const int at = threadIdx.x;
  float *near = exchange + at, *far = exchange + t * COL3 * COLS + c;
  c2 v[COL1];
  fetch(blockIdx.x / TILES);
  for (int bh = blockIdx.x / TILES; bh < count; bh += step) {
    if constexpr (STAGED) copy_wait<0>();
    __syncthreads();
    const io *pu = u.row(bh / H, bh % H) + n2 + c + t * N2, *p1 = PRE ? g1.row(bh / H, bh % H) + n2 + c + t * N2 : 0;
    const io *su = slots + place * (BOTH / (int)sizeof(io)) + at, *s1 = su + SLOT / sizeof(io);
    if constexpr (FORWARD_DEEP == 2) {
      place ^= 1;
      fetch(bh + step);
    }
    float sum = 0.f;
    each<COL1>([&](auto j) {
      float x, g = 1.f;
      if constexpr (STAGED) {
        x = load(su[decltype(j)::v * COLUMN_THREADS]);
        if constexpr (PRE) g = load(s1[decltype(j)::v * COLUMN_THREADS]);
      } else {
        const bool in = COL3 * decltype(j)::v < lines;
        x = in ? load(pu[(i64)decltype(j)::v * COL3 * N2]) : 0.f;
        if constexpr (PRE) g = in ? load(p1[(i64)decltype(j)::v * COL3 * N2]) : 0.f;
      }
      v[decltype(j)::v].x = x * g;
      if constexpr (!WIDE) sum += fabsf(x * g);
    });
    if constexpr (!WIDE) {
      sum = lanes_max<32>(sum);
      if (threadIdx.x % 32 == 0) reduced[threadIdx.x / 32] = sum;
    }
    dft_real<COL1, -1, -SN, SD>(v);
    exchange_halves(v, [&](auto i) -> float& { return near[decltype(i)::v * COLUMN_THREADS]; },
                    [&](auto i) { return far[(decltype(i)::v / COL3 * COL3 * COL3 + decltype(i)::v % COL3) * COLS]; });
    if constexpr (FORWARD_DEEP == 1) fetch(bh + step);
    second.pin();
    each<COL1 / COL3>([&](auto m) {
      constexpr int M = decltype(m)::v * COL3;
      dft<COL3, -1>(v + M, second.template shifted<-M, COL1>());
    });
    Point* out = w + (i64)bh * (N1 * N2) + t * N2 + n2 + c;
    float scale = 1.f;
#if !WIDE
    float inverse;
    each<COLUMN_THREADS / 32>([&](auto j) { sum = fmaxf(sum, reduced[decltype(j)::v]); });
    scale = step_scale<8>(COL3 * sum, &inverse);
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
#endif

// The rows of columns_inverse that a block takes: channel after channel in the order of time, `together` rows at work on a wave of blocks.
struct Turns {
  int batch, H, first, end, step;
  FI Turns(int count, int channels, int together) : batch(count / channels), H(channels), step(together) {
    const int place = blockIdx.x / TILES, waves = gridDim.x / TILES / together, span = (count + waves - 1) / waves;
    first = place / together * span + place % together;
    end = min(count, (place / together + 1) * span);
  }
  FI int b(int turn) const { return turn % batch; }
  FI int h(int turn) const { return turn / batch; }
  FI i64 row(int turn) const { return (i64)b(turn) * H + h(turn); }
};

#if PART == 0 || PART == 2
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS, COLMINB) columns_inverse(
    const Point* w, const float* scales, const io* g2_, io* y_, i64 g2_sb, i64 g2_sh, i64 y_sb, i64 y_sh, int H, int L, int count,
    int together) {
  SHARED(memory);
  constexpr bool GATED = POST && STAGED;
  constexpr int SLOT = N1 * COLS * (int)sizeof(Point), GATE = GATED ? N1 * COLS * (int)sizeof(io) : 0, ALL = SLOT + N1 * 4 + GATE;
  const Tensor3<const io> g2{g2_, g2_sb, g2_sh};
  const Tensor3<io> y{y_, y_sb, y_sh};
  const int c = threadIdx.x % COLS, t = threadIdx.x / COLS, n2 = blockIdx.x % TILES * COLS;
  const Turns turns(count, H, together);
  unsigned char* place = memory;
  auto fetch = [&](int turn) {
    if (turn < turns.end) {
      const i64 row = turns.row(turn);
      fetch_tile<N1, COLS * (int)sizeof(Point), N2 * (int)sizeof(Point), COLUMN_THREADS>(
          place, w + row * (N1 * N2) + n2, (i64)N1 * N2 * sizeof(Point));
      if constexpr (!WIDE) fetch_line<N1, COLUMN_THREADS>(place + SLOT, scales + row * N1, threadIdx.x);
      if constexpr (GATED)
        fetch_tile<N1, COLS * (int)sizeof(io), N2 * (int)sizeof(io), COLUMN_THREADS>(
            place + SLOT + N1 * 4, g2.row(turns.b(turn), turns.h(turn)) + n2, (i64)(L - n2) * sizeof(io));
    }
    copy_commit();
  };
  const int lines = (L - n2 - c + N2 - 1) / N2 - t;  // of this thread's column, from its first on: those that hold samples
  const bool whole = n2 + COLS + (N1 - 1) * N2 <= L;
  const float fraction = (float)(n2 + c) / N2;
  Twiddle<COL3> first;
  Twiddle<COL1> last;
  c2 phase;
  first.set(fraction);
  last.set((t + fraction) / COL3);
  sincospif(-2.f * SN / SD * (t + fraction) / N1, &phase.y, &phase.x);
  const int at = threadIdx.x;
  c2 v[COL1];
  fetch(turns.first);
  for (int turn = turns.first; turn < turns.end; turn += turns.step) {
    const int b = turns.b(turn), h = turns.h(turn);
    copy_wait<0>();
    __syncthreads();
    unsigned char* here = place;
    if constexpr (INVERSE_DEEP == 2) {
      place = memory + (ALL - (place - memory));
      fetch(turn + turns.step);
    }
    first.pin();
    last.pin();
    PIN(phase);
    const Point* sw = (const Point*)here + at;
    float common = 1.f;
#if WIDE
    each<COL1>([&](auto i) { v[decltype(i)::v] = sw[(decltype(i)::v / COL3 * COL3 + COL1 * (decltype(i)::v % COL3)) * COLS]; });
#else
    const float* row_scale = (const float*)(here + SLOT);
    auto take = [&](auto i, auto scaled) {
      constexpr int K = decltype(i)::v / COL3 * COL3 + COL1 * (decltype(i)::v % COL3);
      c2 p = unpack(sw[K * COLS]);
      if constexpr (decltype(scaled)::v) p = make_float2(p.x * row_scale[t + K], p.y * row_scale[t + K]);
      v[decltype(i)::v] = p;
    };
    if (one_scale<N1, 32>(row_scale, &common)) each<COL1>([&](auto i) { take(i, Int<0>{}); });
    else {
      each<COL1>([&](auto i) { take(i, Int<1>{}); });
      common = 1.f;
    }
#endif
    each<COL1 / COL3>([&](auto m) { dft<COL3, 1>(v + decltype(m)::v * COL3, first); });
    __syncthreads();  // the tile has been read: its place serves the exchange
    float *near = (float*)here + at, *far = (float*)here + t * COL3 * COLS + c;
    exchange_halves(v, [&](auto i) -> float& { return far[(decltype(i)::v / COL3 * COL3 * COL3 + decltype(i)::v % COL3) * COLS]; },
                    [&](auto i) { return near[decltype(i)::v * COLUMN_THREADS]; });
    dft_shifted_real<COL1, SN, SD>(v, last, make_float2(phase.x * common, phase.y * common));
    const io *s2 = (const io*)(here + SLOT + N1 * 4) + at, *p2 = POST ? g2.row(b, h) + n2 + c + t * N2 : 0;
    io* py = y.row(b, h) + n2 + c + t * N2;
    auto finish = [&](auto j) {
      constexpr int J = decltype(j)::v;
      float x = v[J].x;
      if constexpr (SN == 0) x *= common;
      if constexpr (POST) x *= load(GATED ? s2[J * COLUMN_THREADS] : p2[(i64)COL3 * J * N2]);
      py[(i64)COL3 * J * N2] = store(x);
    };
    if (whole) each<COL1>(finish);
    else each<COL1>([&](auto j) { if (COL3 * decltype(j)::v < lines) finish(j); });
    if constexpr (INVERSE_DEEP == 1) {
      __syncthreads();
      fetch(turn + turns.step);
    }
  }
}
#endif

constexpr int E = Fft::E, T = Fft::T;
// The filter's row goes through the same machine code as the others where that is long: half the time of a compiler.
constexpr bool ROLLED = E == 32;
constexpr int ROW_THREADS = T < 32 ? 32 : T, RPG = ROW_THREADS / T;  // rows of a block

#if PART == 0 || PART == 3
// One block: the row k1 of some channels for all of the batch; for each channel the filter's row is transformed first. A wave of blocks
// has `together` channels at work, from the last to the first: the columns after begin with the first ones, which the L2 still holds.
extern "C" __global__ void __launch_bounds__(ROW_THREADS, MINB) rows_product(
    Point* w, const float* tile_scales, float* row_scales, const Point* wk, const float* filter_scales, int B, int H, int per_group,
    int together) {
  SHARED(table);
  constexpr int SLOT = N2 * (int)sizeof(Point);
  const int sub = threadIdx.x / T, t = threadIdx.x % T, k1 = blockIdx.x % N1;
  c2* exchange = (c2*)(table + Fft::TABLE);
  unsigned char* slots = (unsigned char*)(exchange + RPG * Fft::SIZE);
  c2* first = (c2*)slots;
  float* reduced = (float*)(slots + 256);
  unsigned char* slot = slots + 384 + sub * (SLOT + TILES * 4);
  const Point* sw = (const Point*)slot + t;
  const float* scale_of = (const float*)(slot + SLOT);
  auto sync = [&] { group_sync<ROW_THREADS, ROW_THREADS>(0); };
  auto fetch = [&](const Point* row, const float* scales) {
    unsigned char* to = slot + t * 16;
    const char* from = (const char*)row + t * 16;
    each<SLOT / 16 / T>([&](auto i) { copy16(to + decltype(i)::v * T * 16, from + decltype(i)::v * T * 16, 16); });
    if constexpr (!WIDE) fetch_line<TILES, T>(slot + SLOT, scales, t);
  };
  // What follows: a row of channel h, from b on, or the filter of another channel.
  auto fetch_row = [&](int b, int h) {
    if (b + sub < B) fetch(w + (((i64)(b + sub) * H + h) * N1 + k1) * N2, tile_scales + ((i64)(b + sub) * H + h) * TILES);
    copy_commit();
  };
  auto fetch_filter = [&](int h) {
    fetch(wk + ((i64)(h / per_group) * N1 + k1) * N2, filter_scales + (i64)(h / per_group) * TILES);
    copy_commit();
  };
  const float shift = -(k1 - (float)SN / SD) / N1;
  if (threadIdx.x == 0) {
    Twiddle<RADIX1> w1;
    w1.set(shift);
    fill_roots<RADIX1, -1>(first, w1);
  }
  if constexpr (RADIX2 == 1) __syncthreads();
  Fft fft;
  fft.init(t, exchange + sub * Fft::SIZE, (float4*)table, threadIdx.x, ROW_THREADS, shift);
  c2 v[E], ks[E];
  // The spectrum of the row that was fetched; it is that times the result. `next` fetches another.
  auto transform = [&](auto next) {
    float top = 1.f;
    copy_wait<0>();
    sync();
    fft.pin();
#if WIDE
    each<E>([&](auto j) { v[decltype(j)::v] = sw[T * decltype(j)::v]; });
#else
    if (one_scale<TILES, (T < 32 ? T : 32)>(scale_of, &top)) each<E>([&](auto j) { v[decltype(j)::v] = unpack(sw[T * decltype(j)::v]); });
    else {
      const float relative = inverse_power(top);
      each<E>([&](auto j) {
        const float s = scale_of[(t + T * decltype(j)::v) / COLS] * relative;
        c2 p = unpack(sw[T * decltype(j)::v]);
        v[decltype(j)::v] = make_float2(p.x * s, p.y * s);
      });
    }
#endif
    fft.forward(v, first, [&] { sync(), next(); });
    return top;
  };
  const int place = blockIdx.x / N1, wave = place / together, waves = gridDim.x / N1 / together, span = (H + waves - 1) / waves;
  const int last = max(0, H - (wave + 1) * span);
  int h = H - 1 - wave * span - place % together;
  if (h >= last) fetch_filter(h);
  for (; h >= last; h -= together) {
    float unit = 1.f / ((float)N1 * N2), back = 1.f;
    auto keep = [&](float top) {
#if !WIDE
      // Of the sum over k of V K the magnitude is at most |V| |K| (norms), and |V|^2 = N2 |v|^2 <= 2 N2^2 max(v)^2.
      float norm = 0.f;
      each<E>([&](auto j) { norm = fmaf(v[decltype(j)::v].x, v[decltype(j)::v].x, fmaf(v[decltype(j)::v].y, v[decltype(j)::v].y, norm)); });
      norm = lanes_sum<(T < 32 ? T : 32)>(norm);
      if constexpr (T > 32) {
        if (t % 32 == 0) reduced[t / 32] = norm;
        sync();
        norm = 0.f;
        each<T / 32>([&](auto j) { norm += reduced[decltype(j)::v]; });
      }
      // v is under 2^15 here, and shall be under 2^15 again.
      unit *= top * step_scale<4>(sqrtf(2.f * norm) * top * (1.f / N1 * 32768.f), &back);
#endif
      each<E>([&](auto j) { ks[decltype(j)::v] = make_float2(v[decltype(j)::v].x * unit, v[decltype(j)::v].y * unit); });
    };
    int b = -RPG;
    if constexpr (!ROLLED) keep(transform([&] { fetch_row(0, h); })), b = 0;
    for (; b < B; b += RPG) {
      const float top = transform([&] {
        if (b + RPG < B) fetch_row(b + RPG, h);
        else if (h - together >= last) fetch_filter(h - together);
        else copy_commit();
      });
      if constexpr (ROLLED) if (b < 0) {
        keep(top);
        continue;
      }
      each<E>([&](auto j) { v[decltype(j)::v] = cmul(v[decltype(j)::v], ks[decltype(j)::v]); });
      fft.inverse_complex(v, sync);
      if (b + sub < B) {
        const i64 row = ((i64)(b + sub) * H + h) * N1 + k1;
#if WIDE
        each<E>([&](auto j) { w[row * N2 + t + T * decltype(j)::v] = v[decltype(j)::v]; });
#else
        if (t == 0) row_scales[row] = top * back;
        each<E>([&](auto j) { w[row * N2 + t + T * decltype(j)::v] = pack(v[decltype(j)::v]); });
#endif
      }
    }
  }
}
#endif
