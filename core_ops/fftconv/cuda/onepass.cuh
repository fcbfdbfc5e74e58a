// y = postgate * (causal or circular conv(pregate * u, k) + skip * pregate * u), one launch, fp32 inside, a row on one chip.
// A block owns channel h and walks over rows of the batch; GROUPS groups of threads each hold RPG rows at a time.
// Options: RADIX1 RADIX2 RADIX3 (N, their product, >= L), PADDED (0 or 1, see Row), SHIFT in quarters (1: causal; 0: circular with
// L = N), IO, PRE, POST, STAGED (rows pass through shared memory in 16-byte pieces, the next row is fetched while this one is
// transformed; needs rows aligned to 16 bytes), KF (spectrum: 0 made here, in registers; 1 made here, in shared memory; 2 read from kf,
// which spectrum.cuh made; 3 the same, kept in registers), GROUPS, MINB.
#include "plan.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, MINB) forward(
    const io* u_, const io* g1_, const io* g2_, io* y_, const float* k, const float4* kf, const float* skip, i64 u_sb, i64 u_sh,
    i64 g1_sb, i64 g1_sh, i64 g2_sb, i64 g2_sh, i64 y_sb, i64 y_sh, i64 k_sh, int B, int H, int L, int Lk, int per_group, int splits) {
  SHARED(table);
  unsigned char* memory = table + Fft::TABLE;
  const Tensor3<const io> u{u_, u_sb, u_sh}, g1{g1_, g1_sb, g1_sh}, g2{g2_, g2_sb, g2_sh};
  const Tensor3<io> y{y_, y_sb, y_sh};
  const int group = threadIdx.x / GROUP, tid = threadIdx.x % GROUP, sub = tid / T;
  const int h = blockIdx.x / splits, part = blockIdx.x % splits, rows = (B + splits - 1) / splits;
  const int end = min(B, (part + 1) * rows);
  int b = part * rows + group * RPG;
  c2* exchange = (c2*)memory + (group * RPG + sub) * Fft::SIZE;
  io* slots = (io*)((c2*)memory + GROUPS * RPG * Fft::SIZE) + group * (SLOTS * Slot::BYTES / (int)sizeof(io));
  io *su = slots, *s1 = slots + Slot::BYTES / sizeof(io), *s2 = slots + (SLOTS - 1) * Slot::BYTES / (int)sizeof(io);
  auto sync = [&] { group_sync<GROUP, THREADS>(group); };

  if constexpr (STAGED) {
    Slot::fetch(su, u, b, end, h, L, tid);
    if constexpr (PRE) Slot::fetch(s1, g1, b, end, h, L, tid);
    copy_commit();
    if constexpr (POST && STAGED) Slot::fetch(s2, g2, b, end, h, L, tid);
    copy_commit();
  }
  Fft fft;
  fft.init(tid % T, exchange, (float4*)table, threadIdx.x, THREADS);
  const int t = fft.t;
  c2 v[E];
#if KF == 0
  c2 ks[E];
  filter_row(ks, k + h / per_group * k_sh, skip ? skip[h] : 0.f, Lk, t);
  fft.forward(ks, sync);
#elif KF == 3
  c2 ks[E];
  with_spectrum<0>(kf + (i64)h * (E / 2) * T + t, [&](auto j, c2 p) { ks[decltype(j)::v] = p; });
#elif KF == 1
  c2* ks = (c2*)(memory + GROUPS * (RPG * Fft::SIZE * 8 + SLOTS * Slot::BYTES));
  if (group == 0) {
    filter_row(v, k + h / per_group * k_sh, skip ? skip[h] : 0.f, Lk, t);
    fft.forward(v, sync);
    if (sub == 0) each<E>([&](auto j) { ks[decltype(j)::v * T + t] = v[decltype(j)::v]; });
  }
  __syncthreads();
#else
  const float4* ks = kf + (i64)h * (E / 2) * T + t;
#endif
  if constexpr (STAGED) copy_wait<0>();
  sync();

  for (; b < end; b += GROUPS * RPG) {
    const int row = b + sub < end ? b + sub : end - 1;
    fft.pin();
    if constexpr (STAGED) {
      each<E>([&](auto j) {
        int n = sub * Slot::STRIDE + t + T * decltype(j)::v;
        float x = load(su[n]);
        if constexpr (PRE) x *= load(s1[n]);
        v[decltype(j)::v].x = x;
      });
    } else {
      const io *pu = u.row(row, h), *p1 = PRE ? g1.row(row, h) : pu;
      each<E>([&](auto j) {
        int n = t + T * decltype(j)::v;
        float x = n < L ? load(pu[n]) : 0.f;
        if constexpr (PRE) x *= n < L ? load(p1[n]) : 0.f;
        v[decltype(j)::v].x = x;
      });
    }
    // The barrier inside also says that everyone has read this row: its place takes the next one.
    fft.forward(v, [&] {
      sync();
      if constexpr (STAGED) {
        Slot::fetch(su, u, b + GROUPS * RPG, end, h, L, tid);
        if constexpr (PRE) Slot::fetch(s1, g1, b + GROUPS * RPG, end, h, L, tid);
        copy_commit();
      }
    });
#if KF == 0 || KF == 3
    each<E>([&](auto j) { v[decltype(j)::v] = cmul(v[decltype(j)::v], ks[decltype(j)::v]); });
#elif KF == 1
    each<E>([&](auto j) { v[decltype(j)::v] = cmul(v[decltype(j)::v], ks[decltype(j)::v * T + t]); });
#else
    with_spectrum<0>(ks, [&](auto j, c2 p) { v[decltype(j)::v] = cmul(v[decltype(j)::v], p); });
#endif
    const io* p2 = POST ? g2.row(row, h) : 0;
    io* py = y.row(row, h);
    io gate[E];
    fft.inverse(v, [&] {
      if constexpr (STAGED && POST) copy_wait<1>();
      if constexpr (!STAGED && POST) each<E>([&](auto j) {
        int n = t + T * decltype(j)::v;
        gate[decltype(j)::v] = p2[n < L ? n : 0];
      });
      sync();
    });
    each<E>([&](auto j) {
      int n = t + T * decltype(j)::v;
      float x = v[decltype(j)::v].x;
      if constexpr (STAGED) {
        io* q = s2 + sub * Slot::STRIDE + n;
        if constexpr (POST) x *= load(*q);
        *q = store(x);
      } else if (n < L && b + sub < end) {
        if constexpr (POST) x *= load(gate[decltype(j)::v]);
        py[n] = store(x);
      }
    });
    if constexpr (STAGED) copy_wait<0>();
    sync();
    if constexpr (STAGED) {
      Slot::flush(s2, y, b, end, h, L, tid);
      if constexpr (POST) Slot::fetch(s2, g2, b + GROUPS * RPG, end, h, L, tid);
      copy_commit();
    }
  }
}
