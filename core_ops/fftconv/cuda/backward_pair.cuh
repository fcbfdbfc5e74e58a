// The gradients of y = postgate * conv(pregate * u, k) where a row fills a multiprocessor: two of them, a cluster, share the rows of a
// channel. With K the spectrum of k, U of pregate * u, Y of postgate * dy: rank 0 transforms U, dpostgate = dy inverse(K U); rank 1
// transforms Y, x = inverse(conj(K) Y), du = pregate x, dpregate = u x. Each hands half of its spectrum to the other and adds up the
// half of conj(U) Y that it keeps, over its rows, in order; dk (splits, H, Lk) is the inverse of the sum, added over splits by the
// caller. A skip connection is a tap at lag 0 of the spectrum kf, its gradient is that of this tap. LEAD, lead: see backward.cuh.
// Options: those of onepass.cuh with STAGED = 0, GROUPS = 1, MINB: blocks a multiprocessor; PRE and POST say which gates there are. Compute capability 9.0 on.
#include "plan.cuh"
constexpr int HALF = E / 2, LINE = Fft::W / RADIX2;
static_assert(Fft::B3 == 2 && RPG == 1 && GROUPS == 1, "a thread holds two lines of a row, and sends one");
#ifndef HOST_EMULATION
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define CLUSTER __cluster_dims__(2, 1, 1)
FI int cluster_rank() {
  int r;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
FI void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
FI void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// The other block's shared memory, by the address of the same place here.
struct Other {
  unsigned distance;
  FI Other(const void* here, int rank) {
    unsigned a = (unsigned)__cvta_generic_to_shared(here), b;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(b) : "r"(a), "r"(rank ^ 1));
    distance = b - a;
  }
  FI float4 read(const float4* here) const {
    float4 r;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(r.x), "=f"(r.y), "=f"(r.z), "=f"(r.w)
                 : "r"((unsigned)__cvta_generic_to_shared(here) + distance)
                 : "memory");
    return r;
  }
};
#else
// compiles, and is never chosen: see gradient_plan.py
#define CLUSTER
FI int cluster_rank() { return 0; }
FI void cluster_arrive() {}
FI void cluster_wait() {}
struct Other {
  FI Other(const void*, int) {}
  FI float4 read(const float4* here) const { return *here; }
};
#endif
FI void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
#endif

extern "C" __global__ void CLUSTER __launch_bounds__(THREADS, MINB) backward_pair(
    const io* dy_, const io* u_, const io* g1_, const io* g2_, io* du_, io* d1_, io* d2_, float* dk, const float4* kf, i64 dy_sb, i64 dy_sh,
    i64 u_sb, i64 u_sh, i64 g1_sb, i64 g1_sh, i64 g2_sb, i64 g2_sh, i64 du_sb, i64 du_sh, i64 d1_sb, i64 d1_sh, i64 d2_sb, i64 d2_sh, int B,
    int H, int L, int Lk, int splits, int lead) {
  SHARED(table);
  c2* exchange = (c2*)(table + Fft::TABLE);
  const Tensor3<const io> dy{dy_, dy_sb, dy_sh}, u{u_, u_sb, u_sh}, g1{g1_, g1_sb, g1_sh}, g2{g2_, g2_sb, g2_sh};
  const Tensor3<io> du{du_, du_sb, du_sh}, d1{d1_, d1_sb, d1_sh}, d2{d2_, d2_sb, d2_sh};
  const int rank = cluster_rank(), h = blockIdx.x / 2 / splits, part = blockIdx.x / 2 % splits, rows = (B + splits - 1) / splits;
  const int end = min(B, (part + 1) * rows);
  const bool gated = rank ? POST : PRE;
  const float flip = rank ? -1.f : 1.f;
  const Other other(exchange, rank);
  auto sync = [] { __syncthreads(); };
  Fft fft;
  fft.init(threadIdx.x, exchange, (float4*)table, threadIdx.x, THREADS);
  const int t = fft.t;
  const float4* ks = kf + (i64)h * (E / 2) * T + t;
  float4* sums = (float4*)(exchange + Fft::SIZE) + t;
  c2 v[E];
  each<HALF / 2>([&](auto q) { sums[decltype(q)::v * T] = make_float4(0.f, 0.f, 0.f, 0.f); });
  auto send = [&](auto m) {
    constexpr int M = decltype(m)::v;
    each<HALF / 2>([&](auto j) {
      const c2 a = v[M * HALF + 2 * decltype(j)::v], b = v[M * HALF + 2 * decltype(j)::v + 1];
      fft.template at3<decltype(j)::v, M * LINE>() = make_float4(a.x, a.y, b.x, b.y);
    });
  };
  // conj(own half) * the other's; for Y the conjugate of what is wanted
  auto add = [&](auto m) {
    constexpr int M = decltype(m)::v;
    each<HALF / 2>([&](auto j) {
      constexpr int J = decltype(j)::v;
      const float4 p = other.read(&fft.template at3<J, M * LINE>());
      const c2 a = v[M * HALF + 2 * J], b = v[M * HALF + 2 * J + 1];
      float4 s = sums[J * T];
      s.x = fmaf(a.x, p.x, fmaf(a.y, p.y, s.x));
      s.y = fmaf(a.x, p.y, fmaf(-a.y, p.x, s.y));
      s.z = fmaf(b.x, p.z, fmaf(b.y, p.w, s.z));
      s.w = fmaf(b.x, p.w, fmaf(-b.y, p.z, s.w));
      sums[J * T] = s;
    });
  };
  // y = (pb or pa) x, and with two gates z = pa x. Loads go before stores: the compiler must not think that one waits for the other.
  auto leave = [&](const io* pa, const io* pb, io* y, io* z, auto gate, auto two) {
    constexpr int STEP = decltype(two)::v ? E / 4 : E / 2;
    each<E / STEP>([&](auto part) {
      io a[STEP], b[STEP];
      FENCE_READS();
      each<STEP>([&](auto j) {
        const int n = t + T * (decltype(part)::v * STEP + decltype(j)::v);
        if constexpr (decltype(gate)::v) a[decltype(j)::v] = n < L ? pa[n] : io{};
        if constexpr (decltype(two)::v) b[decltype(j)::v] = n < L ? pb[n] : io{};
      });
      each<STEP>([&](auto j) {
        constexpr int J = decltype(j)::v, I = decltype(part)::v * STEP + J;
        const int n = t + T * I;
        const float x = v[I].x;
        if (n < L) {
          if constexpr (decltype(two)::v) y[n] = store(load(b[J]) * x), z[n] = store(load(a[J]) * x);
          else if constexpr (decltype(gate)::v) y[n] = store(load(a[J]) * x);
          else y[n] = store(x);
        }
      });
    });
  };
  for (int b = part * rows; b < end; b++) {
    const io *px = rank ? dy.row(b, h) : u.row(b, h), *pg = gated ? (rank ? g2.row(b, h) : g1.row(b, h)) : 0;
    fft.pin();
    each<E>([&](auto j) {
      const int n = t + T * decltype(j)::v;
      v[decltype(j)::v].x = n < L ? load(px[n]) : 0.f;
    });
    if (gated) each<E>([&](auto j) {
      const int n = t + T * decltype(j)::v;
      v[decltype(j)::v].x *= n < L ? load(pg[n]) : 0.f;
    });
    fft.forward(v, sync);
    if (rank) send(Int<0>{});
    else send(Int<1>{});
    cluster_arrive();
    if (b + 1 < end)
      for (int n = t * 64; n < L; n += T * 64) {
        prefetch((rank ? dy.row(b + 1, h) : u.row(b + 1, h)) + n);
        if (gated) prefetch((rank ? g2.row(b + 1, h) : g1.row(b + 1, h)) + n);
      }
    cluster_wait();
    if (rank) add(Int<1>{});
    else add(Int<0>{});
    cluster_arrive();
    if (POST || rank) with_spectrum<4>(ks, [&](auto j, c2 p) {
      p.y *= flip;
      v[decltype(j)::v] = cmul(v[decltype(j)::v], p);
    });
    cluster_wait();
    if (rank) {
      fft.inverse(v, sync);
      leave(u.row(b, h), PRE ? g1.row(b, h) : 0, du.row(b, h), PRE ? d1.row(b, h) : 0, Int<PRE>{}, Int<PRE>{});
    } else if (POST) {
      fft.inverse(v, sync);
      leave(dy.row(b, h), 0, d2.row(b, h), 0, Int<1>{}, Int<0>{});
    }
  }
  cluster_arrive();
  cluster_wait();
  if (rank == 0) each<1 + LEAD>([&](auto turned) {
    each<HALF / 2>([&](auto j) {
      constexpr int J = decltype(j)::v;
      const float4 a = sums[J * T], p = other.read(sums + J * T);
      v[2 * J] = make_float2(a.x, a.y);
      v[2 * J + 1] = make_float2(a.z, a.w);
      v[HALF + 2 * J] = make_float2(p.x, -p.y);
      v[HALF + 2 * J + 1] = make_float2(p.z, -p.w);
    });
    if constexpr (decltype(turned)::v) each<E>([&](auto j) { v[decltype(j)::v] = make_float2(-v[decltype(j)::v].y, v[decltype(j)::v].x); });
    fft.inverse(v, sync);
    float* out = dk + ((i64)part * H + h) * Lk + lead;
    each<E>([&](auto j) {
      const int n = t + T * decltype(j)::v - (decltype(turned)::v ? N : 0);
      if (decltype(turned)::v ? n >= -lead : n < Lk - lead) out[n] = v[decltype(j)::v].x * (1.f / N);
    });
    __syncthreads();
  });
  cluster_arrive();
  cluster_wait();
}
