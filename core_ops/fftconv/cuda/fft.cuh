// Register FFTs and the row transform of fftconv. Letters: N = R1*R2*R3 points a row, E = R1 points a thread, T = N/E threads a row.
//
// The right-angle identity asks for the values of a real row at the frequencies k - s (s = 1/4: causal, s = 0: circular).
// Every stage below is "a DFT of radix R at fractional frequency f": out[k] = sum_j v[j] exp(SG 2 pi i j (k + f) / R). The shift s and
// all twiddles live in f, so no weight and no twiddle is ever multiplied on its own: a radix-2 step is a + w b, a - w b in 6 FMA.
#pragma once
#ifndef HOST_EMULATION
#define FI __device__ __forceinline__
#define CX __host__ __device__ constexpr
#define NAMED_BARRIER(id, threads) asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(threads) : "memory")
#define FENCE_READS() asm volatile("" ::: "memory")
// Keeps the compiler from hoisting what it could derive from w out of the batch loop: registers are scarcer than FMAs.
#define PIN(w) asm volatile("" : "+f"(w.x), "+f"(w.y))
#endif
typedef float2 c2;

template <int I> struct Int { static constexpr int v = I; };
template <int I, int N, class F> FI void each_from(F& f) {
  if constexpr (I < N) { f(Int<I>{}); each_from<I + 1, N>(f); }
}
template <int N, class F> FI void each(F f) { each_from<0, N>(f); }

CX int log2i(int n) { int r = 0; while (n > 1) { n >>= 1; r++; } return r; }
CX int bit_reverse(int i, int n) { int r = 0; for (int b = 1; b < n; b <<= 1) { r = 2 * r + (i & 1); i >>= 1; } return r; }
CX double series(double t, int odd) {
  double term = odd ? t : 1.0, sum = term;
  for (int i = 1; i < 18; i++) { term *= -t * t / ((2.0 * i + odd - 1) * (2.0 * i + odd)); sum += term; }
  return sum;
}
CX long long turn(long long num, long long den) { long long r = num % den; if (r < 0) r += den; return 2 * r > den ? r - den : r; }
// exp(2 pi i NUM / DEN), exact at quarter turns.
template <long long NUM, long long DEN> struct Root {
  static constexpr long long r = turn(NUM, DEN);
  static constexpr double angle = 6.283185307179586476925286766559 * r / DEN;
  static constexpr bool quarter = (4 * r) % DEN == 0;
  static constexpr float x = quarter ? (r == 0 ? 1.f : (2 * r == DEN ? -1.f : 0.f)) : (float)series(angle, 0);
  static constexpr float y = quarter ? (4 * r == DEN ? 1.f : (4 * r == -DEN ? -1.f : 0.f)) : (float)series(angle, 1);
};

FI c2 cmul(c2 a, c2 b) { return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }
FI c2 cmul_conj(c2 a, c2 b) { return make_float2(a.x * b.x + a.y * b.y, a.y * b.x - a.x * b.y); }  // a * conj(b)
template <long long NUM, long long DEN> FI c2 rotate(c2 a) {
  constexpr float x = Root<NUM, DEN>::x, y = Root<NUM, DEN>::y;
  if constexpr (x == 1.f) return a;
  else if constexpr (x == -1.f) return make_float2(-a.x, -a.y);
  else if constexpr (y == 1.f) return make_float2(-a.y, a.x);
  else if constexpr (y == -1.f) return make_float2(a.y, -a.x);
  else return make_float2(a.x * x - a.y * y, a.x * y + a.y * x);
}
FI void butterfly(c2& a, c2& b, float wx, float wy) {
  float x = fmaf(-wy, b.y, fmaf(wx, b.x, a.x)), y = fmaf(wy, b.x, fmaf(wx, b.y, a.y));
  b = make_float2(fmaf(2.f, a.x, -x), fmaf(2.f, a.y, -y));
  a = make_float2(x, y);
}
template <long long NUM, long long DEN> FI void butterfly_fixed(c2& a, c2& b) {
  constexpr float x = Root<NUM, DEN>::x, y = Root<NUM, DEN>::y;
  if constexpr (x == 0.f || y == 0.f) {
    c2 r = rotate<NUM, DEN>(b), p = a;
    a = make_float2(p.x + r.x, p.y + r.y);
    b = make_float2(p.x - r.x, p.y - r.y);
  } else butterfly(a, b, x, y);
}

// The twiddles of one radix-R stage: b[log2 h] = exp(SG 2 pi i f / 2h); the others are these times fixed roots of unity.
template <int R> struct Twiddle {
  c2 b[log2i(R)];
  FI void set(float sign_f) {
    each<log2i(R)>([&](auto l) {
      float s, c;
      sincospif(sign_f / (float)(1 << decltype(l)::v), &s, &c);
      b[decltype(l)::v] = make_float2(c, s);
    });
  }
  FI void pin() { each<log2i(R)>([&](auto l) { PIN(b[decltype(l)::v]); }); }
  // The same stage at f + NUM/DEN.
  template <long long NUM, long long DEN> FI Twiddle shifted() const {
    Twiddle t;
    each<log2i(R)>([&](auto l) { t.b[decltype(l)::v] = rotate<NUM, DEN * (2 << decltype(l)::v)>(b[decltype(l)::v]); });
    return t;
  }
};

template <int R, int SG, int H2> FI void levels(c2* a, const Twiddle<R>& w) {
  if constexpr (H2 < R) {
    each<(H2 > 1 ? H2 / 2 : 1)>([&](auto q) {
      constexpr int k = decltype(q)::v;
      c2 p = rotate<SG * k, 2 * H2>(w.b[log2i(H2)]);
      each<R / (2 * H2)>([&](auto g) {
        constexpr int lo = decltype(g)::v * 2 * H2 + k;
        butterfly(a[lo], a[lo + H2], p.x, p.y);
        if constexpr (H2 > 1) butterfly(a[lo + H2 / 2], a[lo + H2 / 2 + H2], -SG * p.y, SG * p.x);
      });
    });
    levels<R, SG, 2 * H2>(a, w);
  }
}
// The twiddles of a radix-R stage and what `levels` would make of them, in shared memory: R / 2 points.
template <int R, int SG> FI void fill_roots(c2* table, const Twiddle<R>& w) {
  table[0] = w.b[0];
  each<R / 2 - 1>([&](auto i) {
    constexpr int I = decltype(i)::v + 1, TOP = 1 << log2i(I);
    table[I] = rotate<SG * (I - TOP), 4 * TOP>(w.b[log2i(2 * TOP)]);
  });
}
template <int R, int SG, int H2> FI void levels(c2* a, const c2* table) {
  if constexpr (H2 < R) {
    each<(H2 > 2 ? H2 / 4 : 1)>([&](auto q) {
      constexpr int K = decltype(q)::v * 2, TOP = H2 > 2 ? 2 : 1;
      c2 p[2];
      if constexpr (H2 > 2) {
        float4 f = *(const float4*)(table + H2 / 2 + K);
        p[0] = make_float2(f.x, f.y), p[1] = make_float2(f.z, f.w);
      } else p[0] = table[H2 / 2];
      each<TOP>([&](auto e) {
        constexpr int k = K + decltype(e)::v;
        const c2 w = p[decltype(e)::v];
        each<R / (2 * H2)>([&](auto g) {
          constexpr int lo = decltype(g)::v * 2 * H2 + k;
          butterfly(a[lo], a[lo + H2], w.x, w.y);
          if constexpr (H2 > 1) butterfly(a[lo + H2 / 2], a[lo + H2 / 2 + H2], -SG * w.y, SG * w.x);
        });
      });
    });
    levels<R, SG, 2 * H2>(a, table);
  }
}
template <int R, int SG, int H2, long long NUM, long long DEN> FI void levels_fixed(c2* a) {
  if constexpr (H2 < R) {
    each<R / 2>([&](auto i) {
      constexpr int g = decltype(i)::v / H2, k = decltype(i)::v % H2;
      butterfly_fixed<SG*(k * DEN + NUM), 2 * H2 * DEN>(a[g * 2 * H2 + k], a[g * 2 * H2 + k + H2]);
    });
    levels_fixed<R, SG, 2 * H2, NUM, DEN>(a);
  }
}
template <int R> FI void reorder(c2* v) {
  c2 a[R];
  each<R>([&](auto i) { a[bit_reverse(decltype(i)::v, R)] = v[decltype(i)::v]; });
  each<R>([&](auto i) { v[decltype(i)::v] = a[decltype(i)::v]; });
}
template <int R, int SG> FI void dft(c2* v, const Twiddle<R>& w) { reorder<R>(v); levels<R, SG, 1>(v, w); }
template <int R, int SG> FI void dft(c2* v, const c2* table) { reorder<R>(v); levels<R, SG, 1>(v, table); }
template <int R, int SG, long long NUM, long long DEN> FI void dft_fixed(c2* v) { reorder<R>(v); levels_fixed<R, SG, 1, NUM, DEN>(v); }
// Real input in v[].x; f = NUM/DEN.
template <int R, int SG, long long NUM, long long DEN> FI void dft_real(c2* v) {
  reorder<R>(v);
  constexpr float x = Root<SG * NUM, 2 * DEN>::x, y = Root<SG * NUM, 2 * DEN>::y;
  each<R / 2>([&](auto i) {
    c2 &a = v[2 * decltype(i)::v], &b = v[2 * decltype(i)::v + 1];
    float p = a.x, q = b.x;
    a = make_float2(fmaf(x, q, p), y * q);
    b = make_float2(fmaf(-x, q, p), -y * q);
  });
  levels_fixed<R, SG, 2, NUM, DEN>(v);
}

// Re(phase exp(-2 pi i k SN / SD R) out[k]) in v[].x, out as of dft<R, 1>.
template <int R, int SN, int SD> FI void dft_shifted_real(c2* v, const Twiddle<R>& w, c2 phase) {
  reorder<R>(v);
  if constexpr (SN != 0) {
    c2 first = cmul(phase, w.b[0]);
    each<R / 2>([&](auto i) {
      v[2 * decltype(i)::v] = cmul(v[2 * decltype(i)::v], phase);
      butterfly(v[2 * decltype(i)::v], v[2 * decltype(i)::v + 1], first.x, first.y);
    });
  } else each<R / 2>([&](auto i) { butterfly(v[2 * decltype(i)::v], v[2 * decltype(i)::v + 1], w.b[0].x, w.b[0].y); });
  levels<R, 1, 2>(v, w);
  each<R>([&](auto j) {
    constexpr int J = decltype(j)::v;
    constexpr float x = Root<-SN * J, SD * R>::x, y = Root<-SN * J, SD * R>::y;
    if constexpr (y != 0.f) v[J].x = x * v[J].x - y * v[J].y;
  });
}

template <int GROUP, int THREADS> FI void group_sync(int group) {
  if constexpr (GROUP <= 32) __syncwarp();
  else if constexpr (GROUP == THREADS) __syncthreads();
  else NAMED_BARRIER(group + 1, GROUP);
}

// One row in the registers of T threads and R1*KS points of shared memory. Shift s = SN/SD.
// P = 1: lines of R3 points are 16 bytes apart from a multiple of their length, or (P = 0, R3 = 16) lines are packed and swizzled.
template <int R1, int R2, int R3, int SN, int SD, int P> struct Row {
  static constexpr int N = R1 * R2 * R3, E = R1, T = N / E, W = T < 32 ? T : 32;
  static constexpr int B2 = E / R2, B3 = E / R3;           // butterflies a thread in stages 2 and 3
  static constexpr int RS = R3 + 2 * P, KS = R2 * RS;
  static constexpr int SIZE = R1 * KS + (R3 == 8 ? 8 : 0);
  // Stage 2 reads its twiddles from a table of R1 + R3 columns that the block shares; those of the other stages stay in registers.
  // A column holds every second one (and the last): the others are their squares.
  static constexpr int LOG2 = log2i(R2), STORED = (LOG2 + 1) / 2, QUADS = (STORED + 1) / 2;
  static constexpr int TABLE = QUADS * (R1 + R3) * (int)sizeof(float4);
  static CX int stored(int i) { return 2 * i + 1 < LOG2 ? 2 * i + 1 : LOG2 - 1; }
  int t;
  c2 *shared, *column;
  int line2, line3;
  const float4 *f2, *i2;
  Twiddle<R3> f3;
  Twiddle<R1> i1;
  c2 phase;
  FI static Twiddle<R2> read(const float4* column) {
    Twiddle<R2> w;
    each<QUADS>([&](auto q) {
      constexpr int Q = decltype(q)::v;
      float4 p = column[Q * (R1 + R3)];
      w.b[stored(2 * Q)] = make_float2(p.x, p.y);
      if constexpr (2 * Q + 1 < STORED) w.b[stored(2 * Q + 1)] = make_float2(p.z, p.w);
    });
    each<LOG2 / 2>([&](auto l) {
      c2 p = w.b[2 * decltype(l)::v + 1];
      w.b[2 * decltype(l)::v] = make_float2(fmaf(p.x, p.x, -p.y * p.y), 2.f * p.x * p.y);
    });
    return w;
  }
  FI static void fill(float4* table, int thread, int threads, float shift) {
    for (int i = thread; i < R1 + R3; i += threads) {
      Twiddle<R2> w;
      w.set(i < R1 ? -(i - shift) / R1 : (float)(i - R1) / R3);
      each<QUADS>([&](auto q) {
        c2 a = w.b[stored(2 * decltype(q)::v)], b = w.b[stored(2 * decltype(q)::v + 1)];
        table[decltype(q)::v * (R1 + R3) + i] = make_float4(a.x, a.y, b.x, b.y);
      });
    }
  }
  // All threads of the block, with T row-threads numbered t_, before the first transform.
  FI void init(int t_, c2* s, float4* table, int thread, int threads, float shift = (float)SN / SD) {
    t = t_;
    int item2 = t / W * W * B2 + t % W, item3 = t / W * W * B3 + t % W, n3 = item2 % R3;
    shared = s;
    column = s + t / R3 * RS + (P ? t % R3 : t % R3 ^ t / R3 % 8 * 2);
    line2 = item2 / R3 * KS + n3;
    line3 = item3 / R2 * KS + item3 % R2 * RS + (P ? 0 : item3 % R2 % 8 * 2);
    if constexpr (R2 > 1) {
      fill(table, thread, threads, shift);
      f2 = table + item2 / R3;
      i2 = table + R1 + n3;
      __syncthreads();
    }
    f3.set(-(item3 / R2 + R1 * (item3 % R2) - shift) / (R1 * R2));
    i1.set((float)t / T);
    sincospif(-2.f * shift * t / N, &phase.y, &phase.x);
  }
  FI void pin() {
    f3.pin(); i1.pin();
    PIN(phase);
  }
  // Point J of this thread's butterfly in stage 2, pair J in stage 3; D: which first digit, from the thread's first.
  template <int J, int D> FI c2& at2() { return shared[(P ? line2 : line2 ^ J % 8 * 2) + J * RS + D * KS]; }
  template <int J, int D> FI float4& at3() { return *(float4*)(shared + (P ? line3 + 2 * J : line3 ^ 2 * J) + D * KS); }
  // v[j].x = row[t + T j], in; v[m R3 + k3] = spectrum of this thread, out.
  template <class Sync> FI void forward(c2* v, Sync sync) {
    dft_real<R1, -1, -SN, SD>(v);
    forward_rest(v, sync);
  }
  // The same for complex points and a shift known at run time only: first is the twiddle of stage 1, set(shift).
  template <class Sync> FI void forward(c2* v, const Twiddle<R1>& first, Sync sync) {
    dft<R1, -1>(v, first);
    forward_rest(v, sync);
  }
  template <class Sync> FI void forward(c2* v, const c2* first, Sync sync) {
    dft<R1, -1>(v, first);
    forward_rest(v, sync);
  }
  template <class Sync> FI void forward_rest(c2* v, Sync sync) {
    each<R1>([&](auto j) { column[decltype(j)::v * KS] = v[decltype(j)::v]; });
    sync();
    if constexpr (R2 > 1) {
      each<B2>([&](auto m) {
        constexpr int M = decltype(m)::v, D = M * (W / R3);
        each<R2>([&](auto j) { v[M * R2 + decltype(j)::v] = at2<decltype(j)::v, D>(); });
        dft<R2, -1>(v + M * R2, read(f2 + D));
        each<R2>([&](auto j) { at2<decltype(j)::v, D>() = v[M * R2 + decltype(j)::v]; });
      });
      __syncwarp();
    }
    each<B3>([&](auto m) {
      constexpr int M = decltype(m)::v, D = M * (W / R2);
      each<R3 / 2>([&](auto j) {
        float4 p = at3<decltype(j)::v, D>();
        v[M * R3 + 2 * decltype(j)::v] = make_float2(p.x, p.y);
        v[M * R3 + 2 * decltype(j)::v + 1] = make_float2(p.z, p.w);
      });
      if constexpr (M == 0) dft<R3, -1>(v, f3);
      else dft<R3, -1>(v + M * R3, f3.template shifted<-D, R1 * R2>());
    });
  }
  // The inverse, unscaled, without shift: v[j] = point t + T j, out.
  template <class Sync> FI void inverse_complex(c2* v, Sync sync) {
    inverse_start(v, sync);
    dft<R1, 1>(v, i1);
  }
  template <class Sync> FI void inverse_start(c2* v, Sync sync) {
    each<B3>([&](auto m) {
      constexpr int M = decltype(m)::v, D = M * (W / R2);
      dft_fixed<R3, 1, 0, 1>(v + M * R3);
      each<R3 / 2>([&](auto j) {
        c2 a = v[M * R3 + 2 * decltype(j)::v], b = v[M * R3 + 2 * decltype(j)::v + 1];
        at3<decltype(j)::v, D>() = make_float4(a.x, a.y, b.x, b.y);
      });
    });
    if constexpr (R2 > 1) {
      __syncwarp();
      each<B2>([&](auto m) {
        constexpr int M = decltype(m)::v, D = M * (W / R3);
        each<R2>([&](auto j) { v[M * R2 + decltype(j)::v] = at2<decltype(j)::v, D>(); });
        dft<R2, 1>(v + M * R2, read(i2));
        each<R2>([&](auto j) { at2<decltype(j)::v, D>() = v[M * R2 + decltype(j)::v]; });
      });
    }
    sync();
    each<R1>([&](auto j) { v[decltype(j)::v] = column[decltype(j)::v * KS]; });
  }
  // The inverse, unscaled, of the spectrum at k - s: real outputs in v[].x.
  template <class Sync> FI void inverse(c2* v, Sync sync) {
    inverse_start(v, sync);
    dft_shifted_real<R1, SN, SD>(v, i1, phase);
  }
};
