// The gradients of y = postgate * conv(pregate * u, k), one launch: with K the spectrum of k, U of pregate * u, V of postgate * dy,
//   x = inverse(conj(K) V), du = pregate x, dpregate = u x; dpostgate = dy inverse(K U); dk = inverse(sum over b of conj(U) V).
// Only the inputs are read: U and V are made again. dk is summed over the rows of a block in registers, in a fixed order, and over
// blocks by the caller: dk (splits, H, Lk). A skip connection is a tap at lag 0 of the spectrum kf, its gradient is that of this tap.
// Options: those of onepass.cuh; PRE and POST say which gates there are. LEAD: the first `lead` taps stand before lag 0. With x^N = i a
// product at lag -m comes out at N - m times -i: their gradients are the imaginary part of what the others are the real part of.
#include "plan.cuh"
// STAGED = 2: three places in shared memory instead of five; both gates pass through one, and dy is waited for.
constexpr int COPIES = STAGED == 2 ? 2 + (PRE || POST) : (STAGED ? 3 + PRE + POST : 0);
constexpr bool LEAN = STAGED == 2;
// How many reads of the spectrum the compiler may gather: registers are full here.
constexpr int FENCE = 2;
constexpr int KEEP = RPG * N;

extern "C" __global__ void __launch_bounds__(THREADS, MINB) backward(
    const io* dy_, const io* u_, const io* g1_, const io* g2_, io* du_, io* d1_, io* d2_, float* dk, const float4* kf,
    i64 dy_sb, i64 dy_sh, i64 u_sb, i64 u_sh, i64 g1_sb, i64 g1_sh, i64 g2_sb, i64 g2_sh, i64 du_sb, i64 du_sh, i64 d1_sb, i64 d1_sh,
    i64 d2_sb, i64 d2_sh, int B, int H, int L, int Lk, int splits, int lead) {
  SHARED(table);
  unsigned char* memory = table + Fft::TABLE;
  const Tensor3<const io> dy{dy_, dy_sb, dy_sh}, u{u_, u_sb, u_sh}, g1{g1_, g1_sb, g1_sh}, g2{g2_, g2_sb, g2_sh};
  const Tensor3<io> du{du_, du_sb, du_sh}, d1{d1_, d1_sb, d1_sh}, d2{d2_, d2_sb, d2_sh};
  const int group = threadIdx.x / GROUP, tid = threadIdx.x % GROUP, sub = tid / T;
  const int h = blockIdx.x / splits, part = blockIdx.x % splits, rows = (B + splits - 1) / splits;
  const int end = min(B, (part + 1) * rows);
  int b = part * rows + group * RPG;
  c2* exchange = (c2*)memory + (group * RPG + sub) * Fft::SIZE;
  c2* kept = (c2*)memory + GROUPS * RPG * Fft::SIZE + group * KEEP + sub * N + tid % T;
  constexpr int STEP = Slot::BYTES / (int)sizeof(io);
  io* slots = (io*)((c2*)memory + GROUPS * (RPG * Fft::SIZE + KEEP)) + group * COPIES * STEP;
  io *su = slots, *sy = slots + STEP, *sy_next = LEAN ? sy : slots + 2 * STEP;
  io *s1 = slots + (LEAN ? 2 : 3) * STEP, *s2 = slots + (COPIES - 1) * STEP;
  auto sync = [&] { group_sync<GROUP, THREADS>(group); };

  if constexpr (STAGED) {
    Slot::fetch(sy, dy, b, end, h, L, tid);
    if constexpr (POST) Slot::fetch(s2, g2, b, end, h, L, tid);
    copy_commit();
    Slot::fetch(su, u, b, end, h, L, tid);
    if constexpr (PRE && !LEAN) Slot::fetch(s1, g1, b, end, h, L, tid);
    copy_commit();
  }
  Fft fft;
  fft.init(tid % T, exchange, (float4*)table, threadIdx.x, THREADS);
  const int t = fft.t;
  const float4* ks = kf + (i64)h * (E / 2) * T + t;
  c2 v[E], sum[E];
  each<E>([&](auto j) { sum[decltype(j)::v] = make_float2(0.f, 0.f); });
  if constexpr (STAGED) copy_wait<1>();
  sync();

  for (; b < end; b += GROUPS * RPG) {
    const bool valid = b + sub < end;
    const int row = valid ? b + sub : end - 1, at = sub * Slot::STRIDE + t, next = b + GROUPS * RPG;
    const io *py = dy.row(row, h), *pu = u.row(row, h), *p1 = PRE ? g1.row(row, h) : 0, *p2 = POST ? g2.row(row, h) : 0;
    fft.pin();
    each<E>([&](auto j) {
      int n = t + T * decltype(j)::v;
      float x = STAGED ? load(sy[at + T * decltype(j)::v]) : (n < L && valid ? load(py[n]) : 0.f);
      if constexpr (POST) x *= STAGED ? load(s2[at + T * decltype(j)::v]) : (n < L ? load(p2[n]) : 0.f);
      v[decltype(j)::v].x = x;
    });
    fft.forward(v, [&] {
      sync();
      if constexpr (STAGED) {
        if constexpr (!LEAN) Slot::fetch(sy_next, dy, next, end, h, L, tid);
        if constexpr (POST && !LEAN) Slot::fetch(s2, g2, next, end, h, L, tid);
        if constexpr (PRE && LEAN) Slot::fetch(s1, g1, b, end, h, L, tid);
        copy_commit();
      }
    });
    with_spectrum<FENCE>(ks, [&](auto j, c2 p) {
      kept[decltype(j)::v * T] = v[decltype(j)::v];
      v[decltype(j)::v] = cmul_conj(v[decltype(j)::v], p);
    });
    fft.inverse(v, [&] {
      if constexpr (STAGED) copy_wait<LEAN ? 0 : 1>();
      sync();
    });
    each<E>([&](auto j) {
      int n = t + T * decltype(j)::v;
      float x = v[decltype(j)::v].x, w = STAGED ? load(su[at + T * decltype(j)::v]) : (n < L && valid ? load(pu[n]) : 0.f), g = 1.f;
      if constexpr (PRE) {
        g = STAGED ? load(s1[at + T * decltype(j)::v]) : (n < L ? load(p1[n]) : 0.f);
        if constexpr (STAGED) s1[at + T * decltype(j)::v] = store(w * x);
        else if (n < L && valid) d1.row(row, h)[n] = store(w * x);
      }
      if constexpr (STAGED) su[at + T * decltype(j)::v] = store(g * x);
      else if (n < L && valid) du.row(row, h)[n] = store(g * x);
      v[decltype(j)::v].x = w * g;
    });
    sync();
    if constexpr (STAGED) {
      Slot::flush(su, du, b, end, h, L, tid);
      Slot::fetch(su, u, next, end, h, L, tid);
      if constexpr (PRE) {
        Slot::flush(s1, d1, b, end, h, L, tid);
        if constexpr (!LEAN) Slot::fetch(s1, g1, next, end, h, L, tid);
      }
      if constexpr (POST && LEAN) Slot::fetch(s2, g2, next, end, h, L, tid);
      copy_commit();
    }
    fft.forward(v, sync);
    with_spectrum<FENCE>(ks, [&](auto j, c2 p) {
      c2 a = kept[decltype(j)::v * T], w = v[decltype(j)::v];
      c2& s = sum[decltype(j)::v];
      s.x = fmaf(a.x, w.x, fmaf(a.y, w.y, s.x));
      s.y = fmaf(a.y, w.x, fmaf(-a.x, w.y, s.y));
      v[decltype(j)::v] = cmul(w, p);
    });
    if constexpr (POST) {
      fft.inverse(v, sync);
      each<E>([&](auto j) {
        int n = t + T * decltype(j)::v;
        io* s = sy + at + T * decltype(j)::v;
        if constexpr (STAGED) *s = store(load(*s) * v[decltype(j)::v].x);
        else if (n < L && valid) d2.row(row, h)[n] = store(load(py[n]) * v[decltype(j)::v].x);
      });
    }
    if constexpr (STAGED) copy_wait<1>();
    sync();
    if constexpr (STAGED) {
      if constexpr (POST) Slot::flush(sy, d2, b, end, h, L, tid);
      if constexpr (LEAN) {
        Slot::fetch(sy, dy, next, end, h, L, tid);
        copy_commit();
        copy_wait<0>();
        sync();
      }
      io* swap = sy;
      sy = sy_next;
      sy_next = swap;
    }
  }
  // taps `shift` + n for n from `first` to `last`, of the inverse of v
  auto leave = [&](int first, int last, int shift) {
    fft.inverse(v, sync);
    sync();
    each<E>([&](auto j) { ((float*)exchange)[t + T * decltype(j)::v] = v[decltype(j)::v].x; });
    __syncthreads();
    for (int n = first + threadIdx.x; n < last; n += THREADS) {
      float x = 0.f;
      for (int r = 0; r < GROUPS * RPG; r++) x += ((const float*)((const c2*)memory + r * Fft::SIZE))[n];
      dk[((i64)part * H + h) * Lk + shift + n] = x * (1.f / N);
    }
  };
  each<E>([&](auto j) { v[decltype(j)::v] = sum[decltype(j)::v]; });
  leave(0, Lk - lead, lead);
#if LEAD
  __syncthreads();
  each<E>([&](auto j) { v[decltype(j)::v] = make_float2(-sum[decltype(j)::v].y, sum[decltype(j)::v].x); });
  leave(N - lead, N, lead - N);
#endif
}
