// A spline of every series at its queries, and the gradients: LANES lanes hold the cells of a series and ask its queries.
//
// Options: BACKWARD which kernel; WIDE float64; ORDER r; TIMES the derivative; LEFT, RIGHT whether a slope is given there; STEPS bits of
// a cell's number; LANES a series; HELD cells a lane; REDUCE steps of the reduction; WARPS a block, BLOCKS a multiprocessor; UNROLL
// queries of a lane in flight; POINT_1 to POINT_7 the r - 1 Gauss points of a cell, t = 2 s - 1 from -1 to 1, then zeros.
// Shapes: B series, N cells, Q queries; full (B, size), knots (B or 1, N + 1), x (B or 1, Q), y, g (B, Q), v (B, N + 1).
#ifndef HOST_EMULATION
#define DEVICE __device__ __forceinline__
#define CONSTANT __constant__
#define SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define PIN(word) asm volatile("" : "+r"(word))
#define PREFETCH(address) asm volatile("prefetch.global.L2 [%0];" ::"l"(address))
#endif
#if WIDE
typedef double real;
DEVICE real inverse(real x) { return 1 / x; }
#else
typedef float real;
DEVICE real inverse(real x) {
  const real y = __fdividef(1.f, x);
  return fmaf(y, fmaf(-x, y, 1.f), y);
}
#endif
DEVICE real infinite() { return __int_as_float(0x7f800000); }
constexpr unsigned ALL = 0xffffffff;
constexpr int AT_ONCE = UNROLL;
constexpr int SERIES = 32 / LANES, CELLS = LANES * HELD, TREE = 1 << STEPS, NODES = ORDER + 1;
constexpr int TERMS = NODES - TIMES, SLOPE_TERMS = TERMS - 1;
// Coefficients of a cell that queries read.
constexpr int KEPT = BACKWARD ? SLOPE_TERMS : TERMS;
// Rows of d_full are put together where coefficients were.
constexpr int OUT = BACKWARD ? SERIES * (CELLS * (ORDER - 1) + 2) : 0, TABLE = SERIES * CELLS * KEPT;
// Bits of a cell's number that tell its lane.
constexpr int LOW = TREE < LANES ? STEPS : LANES == 32 ? 5 : LANES == 16 ? 4 : 3;
constexpr real K = ORDER * ORDER - ORDER + 1, S = ORDER % 2 ? -1 : 1;

// cos(pi a / b).
constexpr double cosine(int a, int b) {
  a %= 2 * b;
  if (a > b) a = 2 * b - a;
  if (2 * a > b) return -cosine(b - a, b);
  const double x = 3.14159265358979323846 * a / b;
  double sum = 0;
  for (int k = 24; k; k -= 2) sum = (1 - sum) * x * x / (k * (k - 1));
  return 1 - sum;
}

// From nodal values: Chebyshev coefficients of a cell's polynomial and its derivatives in t, and slopes in s at both ends.
struct Tables {
  real of[TIMES + 2][NODES][NODES] = {}, start[NODES] = {}, end[NODES] = {};

  constexpr Tables() {
    const double points[9] = {-1, POINT_1, POINT_2, POINT_3, POINT_4, POINT_5, POINT_6, POINT_7, 0};
    double at[NODES] = {}, weight[NODES] = {};
    for (int k = 0; k < NODES; k++) at[k] = k < ORDER ? points[k] : 1;
    for (int k = 0; k < NODES; k++) {
      weight[k] = 1;
      for (int j = 0; j < NODES; j++) weight[k] /= j == k ? 1 : at[k] - at[j];
    }
    double rest = 0;
    for (int k = 0; k < NODES; k++) {
      double c[NODES + 1] = {};
      for (int m = 0; m < NODES; m++) {
        const double t = cosine(2 * m + 1, 2 * NODES);
        double value = weight[k];
        for (int j = 0; j < NODES; j++) value *= j == k ? 1 : t - at[j];
        for (int p = 0; p < NODES; p++) c[p] += value * cosine((2 * m + 1) * p, 2 * NODES) * (p ? 2 : 1) / NODES;
      }
      for (int times = 0; times < TIMES + 2; times++) {
        for (int p = 0; p < NODES; p++) of[times][p][k] = c[p];
        double next[NODES + 2] = {};
        for (int p = ORDER - 1; p >= 0; p--) next[p] = (next[p + 2] + 2 * (p + 1) * c[p + 1]) / (p ? 1 : 2);
        for (int p = 0; p < NODES; p++) c[p] = next[p];
      }
      const double slope = k ? 2 * weight[k] / weight[0] / (at[0] - at[k]) : 0;
      start[k] = slope, rest -= slope;
    }
    // Constants have no slope; the points are symmetric.
    start[0] = rest;
    for (int k = 0; k < NODES; k++) end[k] = -start[ORDER - k];
  }
};
CONSTANT constexpr Tables TABLES;
#define VALUE(p, k) TABLES.of[TIMES][p][k]
#define SLOPE(p, k) TABLES.of[TIMES + 1][p][k]
#define START(k) TABLES.start[k]
#define END(k) TABLES.end[k]
// What a warp keeps of its series in shared memory. Number p of cell i of series s: table[(p SERIES + s) CELLS + i].
struct Kept {
  real starts[SERIES][TREE], scale[SERIES][CELLS];
  real at_knots[SERIES][CELLS + 1], table[TABLE > OUT ? TABLE : OUT];
#if BACKWARD
  // Of 32 queries: t, and g where the query stands in a lane's cell e.
  real asked[SERIES][32], given[HELD][SERIES][32];
#endif
};

// Entry j of a series is number j / LANES of lane j % LANES. These read entry j - BY and j + BY, some other one where there is none.
template <int BY> DEVICE void earlier(real (&to)[HELD], const real (&from)[HELD], int lane) {
  if (HELD == 1) {
    to[0] = __shfl_up_sync(ALL, from[0], BY, LANES);
    return;
  }
  constexpr int LONG = BY / LANES, SHORT = BY % LANES;
  real turned[HELD];
#pragma unroll
  for (int e = 0; e < HELD; e++) turned[e] = SHORT ? __shfl_sync(ALL, from[e], lane - SHORT, LANES) : from[e];
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const real same = turned[e >= LONG ? e - LONG : 0], before = turned[e > LONG ? e - LONG - 1 : 0];
    to[e] = lane >= SHORT ? same : before;
  }
}

template <int BY> DEVICE void later(real (&to)[HELD], const real (&from)[HELD], int lane) {
  if (HELD == 1) {
    to[0] = __shfl_down_sync(ALL, from[0], BY, LANES);
    return;
  }
  constexpr int LONG = BY / LANES, SHORT = BY % LANES;
  real turned[HELD];
#pragma unroll
  for (int e = 0; e < HELD; e++) turned[e] = SHORT ? __shfl_sync(ALL, from[e], lane + SHORT, LANES) : from[e];
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const real same = turned[e + LONG < HELD ? e + LONG : HELD - 1];
    const real after = turned[e + LONG + 1 < HELD ? e + LONG + 1 : HELD - 1];
    to[e] = lane + SHORT < LANES ? same : after;
  }
}

// low x_(j-BY) + x_j + up x_(j+BY) = x, solved in place: each step squares the distance of what still couples, and its strength.
template <int BY, int LEFT_STEPS> struct Reduction {
  static DEVICE void run(real (&low)[HELD], real (&up)[HELD], real (&x)[HELD], int lane) {
    real low_a[HELD], up_a[HELD], x_a[HELD], low_b[HELD], up_b[HELD], x_b[HELD];
    earlier<BY>(low_a, low, lane), earlier<BY>(up_a, up, lane), earlier<BY>(x_a, x, lane);
    later<BY>(low_b, low, lane), later<BY>(up_b, up, lane), later<BY>(x_b, x, lane);
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const real scale = inverse(1 - low[e] * up_a[e] - up[e] * low_b[e]);
      x[e] = (x[e] - low[e] * x_a[e] - up[e] * x_b[e]) * scale;
      low[e] *= -low_a[e] * scale, up[e] *= -up_b[e] * scale;
    }
    Reduction<2 * BY, LEFT_STEPS - 1>::run(low, up, x, lane);
  }
};
template <int BY> struct Reduction<BY, 0> {
  static DEVICE void run(real (&)[HELD], real (&)[HELD], real (&)[HELD], int) {}
};

// The tridiagonal system of a series: unknown j is the value at knot j + 1 - LEFT.
struct System {
  real low[HELD], up[HELD], left[HELD], right[HELD], share[HELD];

  // left, right: widths beside an unknown's knot; rows are scaled to a unit diagonal.
  DEVICE void build(const real (&width)[HELD], int lane, int n) {
    real moved[HELD];
    LEFT ? earlier<1>(moved, width, lane) : later<1>(moved, width, lane);
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e + 1 - LEFT;
      left[e] = LEFT ? moved[e] : width[e], right[e] = LEFT ? width[e] : moved[e];
      share[e] = inverse(K * (left[e] + right[e]));
      low[e] = S * right[e] * share[e], up[e] = S * left[e] * share[e];
      if (LEFT && i == 0) low[e] = 0, up[e] = S / K;
      if (RIGHT && i == n) low[e] = S / K, up[e] = 0;
    }
  }

  // An error anywhere is one everywhere, as in a substitution.
  DEVICE void solve(real (&x)[HELD], int lane, int n) {
    bool sound = true;
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e + 1 - LEFT;
      if (i <= (LEFT ? 0 : 1)) low[e] = 0;
      if (i >= n - 1 + RIGHT) up[e] = 0;
      if (i >= n + RIGHT) low[e] = x[e] = 0;
      sound = sound && x[e] - x[e] == 0;
    }
    const unsigned unsound = __ballot_sync(ALL, !sound);
    Reduction<1, REDUCE>::run(low, up, x, lane);
    if (unsound >> (threadIdx.x % 32 / LANES * LANES) & (ALL >> (32 - LANES)))
#pragma unroll
      for (int e = 0; e < HELD; e++) x[e] = infinite() - infinite();
  }
};

// The lane's cells of a series.
struct Cells {
  const real *values, *knots;  // of the series
  int lane, n;
  bool live;
  real width[HELD], from[HELD];

  DEVICE Cells(const real* values, const real* knots, int lane, int n, bool live)
      : values(values), knots(knots), lane(lane), n(n), live(live) {
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e;
      from[e] = 0, width[e] = 1;
      if (live && i < n) from[e] = knots[i], width[e] = knots[i + 1] - from[e];
    }
  }
  DEVICE bool has(int e) const { return live && lane + LANES * e < n; }
  // Inner value k of cell e, 1 to r - 1.
  DEVICE real inner(int e, int k) const { return has(e) ? values[(lane + LANES * e) * (ORDER - 1) + k] : real(0); }

  // Starts for the search, infinite from the last cell on; 2 / h.
  DEVICE void keep(Kept& kept, int mine) const {
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e;
      if (i < TREE) kept.starts[mine][i] = i < n ? from[e] : infinite();
      kept.scale[mine][i] = 2 * inverse(width[e]);
    }
    for (int i = lane + CELLS; i < TREE; i += LANES) kept.starts[mine][i] = infinite();
  }
};

// The cell of x, the right one at a knot; every lane's answers, the last first.
template <bool VOTE> DEVICE int find(const Kept& kept, int mine, real x, unsigned (&votes)[STEPS + 1]) {
  int cell = 0;
#pragma unroll
  for (int bit = STEPS - 1; bit >= 0; bit--) {
    const bool right = kept.starts[mine][cell + (1 << bit)] <= x;
    if (VOTE) votes[bit] = __ballot_sync(ALL, right);
    if (right) cell += 1 << bit;
  }
  return cell;
}

#if BACKWARD
#include "spline_backward.cuh"
#else
#include "spline_forward.cuh"
#endif
