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

#if !BACKWARD
// v, and S at the queries.
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) spline_forward(
    const real* __restrict__ full, const real* __restrict__ knots, const real* __restrict__ x, real* __restrict__ y,
    real* __restrict__ v, int series, int n, int queries, int size, int knots_stride, int x_stride) {
  SHARED(memory);
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32, mine = thread / LANES, lane = thread % LANES;
  const int first = (blockIdx.x * WARPS + warp) * SERIES, b = first + mine;
  if (first >= series) return;
  Kept& kept = ((Kept*)memory)[warp];
  const bool live = b < series;
  {
    const long long row = (long long)b * size;
    const Cells cells(full + row, knots + (long long)b * knots_stride, lane, n, live);
    cells.keep(kept, mine);
    real inner[HELD][ORDER - 1], at_start[HELD], at_end[HELD], moved[HELD], d[HELD];
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      at_start[e] = at_end[e] = 0;
#pragma unroll
      for (int k = 1; k < ORDER; k++) {
        inner[e][k - 1] = cells.inner(e, k);
        at_start[e] += START(k) * inner[e][k - 1], at_end[e] += END(k) * inner[e][k - 1];
      }
    }
    const real given_left = live ? full[row] : real(0), given_right = live ? full[row + size - 1] : real(0);
    System system;
    system.build(cells.width, lane, n);
    LEFT ? earlier<1>(moved, at_end, lane) : later<1>(moved, at_start, lane);
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e + 1 - LEFT;
      const real start = LEFT ? at_start[e] : moved[e], end = LEFT ? moved[e] : at_end[e];
      d[e] = (start * system.left[e] - end * system.right[e]) * system.share[e];
      if (LEFT && i == 0) d[e] = (start - given_left * system.right[e]) / K;
      if (RIGHT && i == n) d[e] = (given_right * system.left[e] - end) / K;
      if (!LEFT && i == 1) d[e] -= system.low[e] * given_left;
      if (!RIGHT && i == n - 1) d[e] -= system.up[e] * given_right;
    }
    system.solve(d, lane, n);
    real* at_knots = kept.at_knots[mine];
    real* out = v + (long long)b * (n + 1);
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e + 1 - LEFT;
      if (i < n + RIGHT) {
        at_knots[i] = d[e];
        if (live) out[i] = d[e];
      }
    }
    if (!LEFT && lane == 0) {
      at_knots[0] = given_left;
      if (live) out[0] = given_left;
    }
    if (!RIGHT && lane == LANES - 1) {
      at_knots[n] = given_right;
      if (live) out[n] = given_right;
    }
    __syncwarp();
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e;
      if (i >= n) continue;
      const real before = at_knots[i], after = at_knots[i + 1];
      real by = 1;
#pragma unroll
      for (int k = 0; k < TIMES; k++) by *= kept.scale[mine][i];
#pragma unroll
      for (int p = 0; p < TERMS; p++) {
        real c = VALUE(p, 0) * before + VALUE(p, ORDER) * after;
#pragma unroll
        for (int k = 1; k < ORDER; k++) c += VALUE(p, k) * inner[e][k - 1];
        kept.table[(p * SERIES + mine) * CELLS + i] = c * by;
      }
    }
    __syncwarp();
  }
  if (!live) return;
  const real* places = x + (long long)b * x_stride;
  real* out = y + (long long)b * queries;
#pragma unroll AT_ONCE
  for (int j = lane; j < queries; j += LANES) {
    const real place = places[j];
    unsigned none[STEPS + 1];
    const int cell = find<false>(kept, mine, place, none);
    const real t = (place - kept.starts[mine][cell]) * kept.scale[mine][cell] - 1;
    const real* c = kept.table + mine * CELLS + cell;
    real sum = c[0], now = t, before = 1;
#pragma unroll
    for (int p = 1; p < TERMS; p++) {
      sum += c[p * SERIES * CELLS] * now;
      const real next = 2 * t * now - before;
      before = now, now = next;
    }
    out[j] = sum;
  }
}

#else
// What the queries' loop reads is asked for before the solve waits for its own data.
DEVICE void ask(const real* rows, int count) {
#pragma unroll 1
  for (int i = threadIdx.x % 32 * (128 / sizeof(real)); i < count; i += 32 * (128 / sizeof(real))) PREFETCH(rows + i);
}

// The gradients of full, of the knots and of x, for every series.
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) spline_backward(
    const real* __restrict__ g, const real* __restrict__ full, const real* __restrict__ knots,
    const real* __restrict__ x, const real* __restrict__ v, real* __restrict__ d_full, real* __restrict__ d_knots,
    real* __restrict__ d_x, int series, int n, int queries, int size, int knots_stride, int x_stride) {
  SHARED(memory);
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32, mine = thread / LANES, lane = thread % LANES;
  const int first = (blockIdx.x * WARPS + warp) * SERIES, b = first + mine;
  if (first >= series) return;
  Kept& kept = ((Kept*)memory)[warp];
  const int rows = series - first < SERIES ? series - first : SERIES;
  ask(x + (long long)first * x_stride, (x_stride ? rows : 1) * queries);
  ask(g + (long long)first * queries, rows * queries);
  const bool live = b < series;
  const Cells cells(full + (long long)b * size, knots + (long long)b * knots_stride, lane, n, live);
  const real* at_knots = v + (long long)b * (n + 1);
  cells.keep(kept, mine);
  // Slopes at a cell's start and end, and the derivative's slope as coefficients.
  real at_start[HELD], at_end[HELD];
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const int i = lane + LANES * e;
    real u[NODES];
#pragma unroll
    for (int k = 1; k < ORDER; k++) u[k] = cells.inner(e, k);
    u[0] = cells.has(e) ? at_knots[i] : real(0), u[ORDER] = cells.has(e) ? at_knots[i + 1] : real(0);
    at_start[e] = at_end[e] = 0;
#pragma unroll
    for (int k = 0; k < NODES; k++) at_start[e] += START(k) * u[k], at_end[e] += END(k) * u[k];
    real by = kept.scale[mine][i];
#pragma unroll
    for (int k = 0; k < TIMES; k++) by *= kept.scale[mine][i];
#pragma unroll
    for (int p = 0; p < SLOPE_TERMS; p++) {
      real c = 0;
#pragma unroll
      for (int k = 0; k < NODES; k++) c += SLOPE(p, k) * u[k];
      kept.table[(p * SERIES + mine) * CELLS + i] = c * by;
    }
  }
  __syncwarp();
  // Sums over a cell's queries of g T_p(t).
  real m[HELD][TERMS] = {};
  {
    const real *places = x + (long long)b * x_stride + lane, *given = g + (long long)b * queries + lane;
    real* out = d_x + (long long)b * queries + lane;
    const int count = live ? queries - lane : 0;
    // Whether a bit of the number of the lane's cells is 0.
    unsigned zero[LOW + 1];
#pragma unroll
    for (int bit = 0; bit < LOW; bit++) {
      zero[bit] = (lane >> bit & 1) - 1u;
      PIN(zero[bit]);
    }
    for (int base = 0; base < queries; base += 32 * AT_ONCE) {
      real place[AT_ONCE][SERIES], dy[AT_ONCE][SERIES];
#pragma unroll
      for (int j = 0; j < 32 * AT_ONCE; j += LANES) {
        const bool asked = base + j < count;
        place[j / 32][j % 32 / LANES] = asked ? places[base + j] : real(0);
        dy[j / 32][j % 32 / LANES] = asked ? given[base + j] : real(0);
      }
#pragma unroll
      for (int chunk = 0; chunk < AT_ONCE; chunk++) {
        // The series' 32 queries of this chunk that stand in the lane's cells.
        unsigned left = 0;
        if (chunk && base + 32 * chunk >= queries) break;
#pragma unroll
        for (int s = 0; s < SERIES; s++) {
          const int j = base + 32 * chunk + LANES * s;
          unsigned votes[STEPS + 1];
          const int cell = find<true>(kept, mine, place[chunk][s], votes);
          const real t = (place[chunk][s] - kept.starts[mine][cell]) * kept.scale[mine][cell] - 1;
          const real* c = kept.table + mine * CELLS + cell;
          real slope = SLOPE_TERMS ? c[0] : real(0), now = t, before = 1;
#pragma unroll
          for (int p = 1; p < SLOPE_TERMS; p++) {
            slope += c[p * SERIES * CELLS] * now;
            const real next = 2 * t * now - before;
            before = now, now = next;
          }
          if (j < count) out[j] = SLOPE_TERMS ? dy[chunk][s] * slope : real(0);
          unsigned in = __ballot_sync(ALL, j < count);
#pragma unroll
          for (int bit = 0; bit < LOW; bit++) in &= votes[bit] ^ zero[bit];
          left |= (in >> mine * LANES & ALL >> (32 - LANES)) << LANES * s;
          kept.asked[mine][LANES * s + lane] = t;
#pragma unroll
          for (int e = 0; e < HELD; e++)
            kept.given[e][mine][LANES * s + lane] = HELD == 1 || cell / LANES == e ? dy[chunk][s] : real(0);
        }
        if (TREE < LANES && lane >= TREE) left = 0;
        __syncwarp();
        // Each lane takes what is asked in its cells: no conflicts, and always in one order.
        while (left) {
          const int from = 31 - __clz(left);
          left ^= 1u << from;
          const real t = kept.asked[mine][from];
          real now = t, before = 1;
#pragma unroll
          for (int e = 0; e < HELD; e++) m[e][0] += kept.given[e][mine][from];
#pragma unroll
          for (int p = 1; p < TERMS; p++) {
#pragma unroll
            for (int e = 0; e < HELD; e++) m[e][p] += kept.given[e][mine][from] * now;
            const real next = 2 * t * now - before;
            before = now, now = next;
          }
        }
        __syncwarp();
      }
    }
  }
  real nodal[HELD][NODES], to_start[HELD], to_end[HELD], d[HELD], moved[HELD];
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const int i = lane + LANES * e;
    real whole = 0, turned = 0, by = 1;
#pragma unroll
    for (int p = 0; p < SLOPE_TERMS; p++) {
      const real c = kept.table[(p * SERIES + mine) * CELLS + i];
      whole += c * m[e][p], turned += c * (p ? (m[e][p + 1] + m[e][p - 1]) / 2 : m[e][1]);
    }
#pragma unroll
    for (int k = 0; k < TIMES; k++) by *= kept.scale[mine][i];
#pragma unroll
    for (int k = 0; k < NODES; k++) {
      nodal[e][k] = 0;
#pragma unroll
      for (int p = 0; p < TERMS; p++) nodal[e][k] += VALUE(p, k) * m[e][p];
      nodal[e][k] *= by;
    }
    to_start[e] = (turned - whole) / 2, to_end[e] = (-turned - whole) / 2;
    if (TIMES && cells.has(e)) {
      real stretch = at_knots[i] * nodal[e][0] + at_knots[i + 1] * nodal[e][ORDER];
#pragma unroll
      for (int k = 1; k < ORDER; k++) stretch += cells.inner(e, k) * nodal[e][k];
      stretch *= TIMES * kept.scale[mine][i] / 2;
      to_start[e] += stretch, to_end[e] -= stretch;
    }
  }
  // The transposed system is the same one before its rows are scaled.
  System system;
  system.build(cells.width, lane, n);
  real near[HELD];
#pragma unroll
  for (int e = 0; e < HELD; e++) near[e] = LEFT ? nodal[e][ORDER] : nodal[e][0];
  LEFT ? earlier<1>(moved, near, lane) : later<1>(moved, near, lane);
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const int i = lane + LANES * e + 1 - LEFT;
    const real start = LEFT ? nodal[e][0] : moved[e], end = LEFT ? moved[e] : nodal[e][ORDER];
    d[e] = (start + end) * system.left[e] * system.right[e] * system.share[e];
    if (LEFT && i == 0) d[e] = start * system.right[e] / K;
    if (RIGHT && i == n) d[e] = end * system.left[e] / K;
  }
  system.solve(d, lane, n);
  real* multipliers = kept.at_knots[mine];
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const int i = lane + LANES * e + 1 - LEFT;
    if (i < n + RIGHT) multipliers[i] = d[e];
  }
  if (!LEFT && lane == 0) multipliers[0] = 0;
  if (!RIGHT && lane == LANES - 1) multipliers[n] = 0;
  __syncwarp();
  real* staged = kept.table + mine * size;
  real* out_knots = d_knots + (long long)b * (n + 1);
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const int i = lane + LANES * e;
    if (i < n) {
      const real before = multipliers[i], after = multipliers[i + 1], inverted = kept.scale[mine][i] / 2;
#pragma unroll
      for (int k = 1; k < ORDER; k++)
        staged[i * (ORDER - 1) + k] =
            nodal[e][k] + inverted * (START(k) * before - END(k) * after);
      if (i == 0) staged[0] = LEFT ? -before : nodal[e][0] - S * inverted * after;
      if (i == n - 1) staged[size - 1] = RIGHT ? after : nodal[e][ORDER] - S * inverted * before;
      const real width = inverted * inverted * (after * at_end[e] - before * at_start[e]);
      to_start[e] -= width, to_end[e] += width;
      if (live && i == n - 1) out_knots[n] = to_end[e];
    }
  }
  earlier<1>(moved, to_end, lane);
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const int i = lane + LANES * e;
    if (live && i < n) out_knots[i] = i ? to_start[e] + moved[e] : to_start[e];
  }
  __syncwarp();
  real* out = d_full + (long long)first * size;
  const int count = rows * size;
  for (int i = thread; i < count; i += 32) out[i] = kept.table[i];
}
#endif
