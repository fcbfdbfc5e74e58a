// A spline of every series at its queries, and the gradients: LANES lanes hold the cells of a series, all of a warp its queries.
//
// Options: BACKWARD which kernel; ORDER r; LEFT, RIGHT whether a slope is given there; TIMES the derivative; STEPS bits of a cell's number; LANES a series;
// HELD cells a lane; COPIES of the sums over a cell's queries; REDUCE steps of the reduction; WARPS a block, BLOCKS a multiprocessor;
// WIDE float64; POINT_1 to POINT_7 the r - 1 Gauss points of a cell, t = 2 s - 1 from -1 to 1, then zeros.
// Shapes: B series, N cells, Q queries; full (B, size), knots (B or 1, N + 1), x (B or 1, Q), y, g (B, Q), v (B, N + 1).
#ifndef HOST_EMULATION
#define DEVICE __device__ __forceinline__
#define CONSTANT __constant__
#define SHARED(name) extern __shared__ __align__(16) unsigned char name[]
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
// A row of coefficients or sums, read as vectors.
constexpr int ROW = (TERMS + 1) / 2 * 2, VECTOR = ROW % 4 == 0 ? 4 : 2;
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
struct alignas(VECTOR * sizeof(real) < 16 ? VECTOR * sizeof(real) : 16) Vector { real x[VECTOR]; };

// What a warp keeps of its series in shared memory.
struct Kept {
  real knots[SERIES][TREE], scale[SERIES][CELLS], at_knots[SERIES][CELLS + 1];
  alignas(16) real rows[SERIES][CELLS * ROW];
};
// Sums over queries, then rows of d_full, which end with two numbers more than the cells'.
constexpr int SUMS = COPIES * CELLS * ROW;
struct Sums {
  alignas(16) real rows[SERIES * (SUMS + 4)];
};

DEVICE void load_row(real (&to)[ROW], const real* from) {
#pragma unroll
  for (int i = 0; i < ROW; i += VECTOR) {
    const Vector v = *(const Vector*)(from + i);
#pragma unroll
    for (int k = 0; k < VECTOR; k++) to[i + k] = v.x[k];
  }
}

DEVICE void store_row(real* to, const real (&from)[ROW]) {
#pragma unroll
  for (int i = 0; i < ROW; i += VECTOR) {
    Vector v;
#pragma unroll
    for (int k = 0; k < VECTOR; k++) v.x[k] = from[i + k];
    *(Vector*)(to + i) = v;
  }
}

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
  DEVICE void keep(real* starts, real* scale) const {
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e;
      if (i < TREE) starts[i] = i < n ? from[e] : infinite();
      scale[i] = 2 * inverse(width[e]);
    }
    for (int i = lane + CELLS; i < TREE; i += LANES) starts[i] = infinite();
  }
};

// What the queries' loop reads is asked for before the solve waits for its own data.
DEVICE void ask(const real* rows, int count) {
  for (int i = threadIdx.x % 32 * (128 / sizeof(real)); i < count; i += 32 * (128 / sizeof(real))) PREFETCH(rows + i);
}

#if !BACKWARD
// The cell of x, the right one at a knot.
DEVICE int find(const real* starts, real x) {
  int cell = 0;
#pragma unroll
  for (int step = TREE / 2; step; step /= 2)
    if (starts[cell + step] <= x) cell += step;
  return cell;
}

// v, and S at the queries.
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) spline_forward(
    const real* __restrict__ full, const real* __restrict__ knots, const real* __restrict__ x, real* __restrict__ y,
    real* __restrict__ v, int series, int n, int queries, int size, int knots_stride, int x_stride) {
  SHARED(memory);
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32, mine = thread / LANES, lane = thread % LANES;
  const int first = (blockIdx.x * WARPS + warp) * SERIES, b = first + mine;
  if (first >= series) return;
  Kept& kept = ((Kept*)memory)[warp];
  const int rows = series - first < SERIES ? series - first : SERIES;
  if (AHEAD) ask(x + (long long)first * x_stride, (x_stride ? rows : 1) * queries);
  {
    const bool live = b < series;
    const long long row = (long long)b * size;
    const Cells cells(full + row, knots + (long long)b * knots_stride, lane, n, live);
    cells.keep(kept.knots[mine], kept.scale[mine]);
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
      real c[ROW];
      const real before = at_knots[i], after = at_knots[i + 1];
      real by = 1;
#pragma unroll
      for (int k = 0; k < TIMES; k++) by *= kept.scale[mine][i];
#pragma unroll
      for (int p = 0; p < ROW; p++) {
        c[p] = 0;
        if (p >= TERMS) continue;
        c[p] = VALUE(p, 0) * before + VALUE(p, ORDER) * after;
#pragma unroll
        for (int k = 1; k < ORDER; k++) c[p] += VALUE(p, k) * inner[e][k - 1];
        c[p] *= by;
      }
      store_row(kept.rows[mine] + i * ROW, c);
    }
    __syncwarp();
  }
#pragma unroll
  for (int s = 0; s < SERIES; s++) {
    if (s >= rows) break;
    const real* at = x + (long long)(first + s) * x_stride;
    real* out = y + (long long)(first + s) * queries;
#pragma unroll AT_ONCE
    for (int j = thread; j < queries; j += 32) {
      const real place = at[j];
      const int cell = find(kept.knots[s], place);
      const real t = (place - kept.knots[s][cell]) * kept.scale[s][cell] - 1;
      real c[ROW], sum, now = t, before = 1;
      load_row(c, kept.rows[s] + cell * ROW);
      sum = c[0];
#pragma unroll
      for (int p = 1; p < TERMS; p++) {
        sum += c[p] * now;
        const real next = 2 * t * now - before;
        before = now, now = next;
      }
      out[j] = sum;
    }
  }
}

#else
// The cell of x, the right one at a knot, and which lanes of the warp look into the same one.
DEVICE int find(const real* starts, real x, unsigned& peers) {
  int cell = 0;
#pragma unroll
  for (int step = TREE / 2; step; step /= 2) {
    const bool right = starts[cell + step] <= x;
    const unsigned all = __ballot_sync(ALL, right);
    peers &= right ? all : ~all;
    if (right) cell += step;
  }
  return cell;
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
  Sums& sums = ((Sums*)((Kept*)memory + WARPS))[warp];
  const int rows = series - first < SERIES ? series - first : SERIES;
  if (AHEAD) {
    ask(x + (long long)first * x_stride, (x_stride ? rows : 1) * queries);
    ask(g + (long long)first * queries, rows * queries);
  }
  const bool live = b < series;
  const Cells cells(full + (long long)b * size, knots + (long long)b * knots_stride, lane, n, live);
  const real* at_knots = v + (long long)b * (n + 1);
  cells.keep(kept.knots[mine], kept.scale[mine]);
  // Slopes at a cell's start and end, and the derivative's slope as coefficients.
  real at_start[HELD], at_end[HELD];
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const int i = lane + LANES * e;
    real u[NODES], c[ROW];
#pragma unroll
    for (int k = 1; k < ORDER; k++) u[k] = cells.inner(e, k);
    u[0] = cells.has(e) ? at_knots[i] : real(0), u[ORDER] = cells.has(e) ? at_knots[i + 1] : real(0);
    at_start[e] = at_end[e] = 0;
#pragma unroll
    for (int k = 0; k < NODES; k++)
      at_start[e] += START(k) * u[k], at_end[e] += END(k) * u[k];
    real by = kept.scale[mine][i];
#pragma unroll
    for (int k = 0; k < TIMES; k++) by *= kept.scale[mine][i];
#pragma unroll
    for (int p = 0; p < ROW; p++) {
      c[p] = 0;
      if (p >= SLOPE_TERMS) continue;
#pragma unroll
      for (int k = 0; k < NODES; k++) c[p] += SLOPE(p, k) * u[k];
      c[p] *= by;
    }
    store_row(kept.rows[mine] + i * ROW, c);
  }
  {
    const real nothing[ROW] = {};
    for (int i = thread; i < SERIES * COPIES * CELLS; i += 32) store_row(sums.rows + i * ROW, nothing);
  }
  __syncwarp();
  constexpr unsigned EVERY = COPIES == 1 ? ALL : COPIES == 2 ? 0x55555555 : COPIES == 4 ? 0x11111111 : 0x01010101;
#pragma unroll
  for (int s = 0; s < SERIES; s++) {
    if (s >= rows) break;
    const real* at = x + (long long)(first + s) * x_stride;
    const real* given = g + (long long)(first + s) * queries;
    real* out = d_x + (long long)(first + s) * queries;
#pragma unroll AT_ONCE
    for (int base = 0; base < queries; base += 32) {
      const int j = base + thread;
      const bool asked = j < queries;
      const real place = asked ? at[j] : real(0), dy = asked ? given[j] : real(0);
      unsigned peers = EVERY << thread % COPIES;
      const int cell = find(kept.knots[s], place, peers);
      const real t = (place - kept.knots[s][cell]) * kept.scale[s][cell] - 1;
      real c[ROW], part[ROW], now = t, before = 1, slope;
      load_row(c, kept.rows[s] + cell * ROW);
      part[0] = dy, slope = c[0], part[ROW - 1] = 0;
#pragma unroll
      for (int p = 1; p < TERMS; p++) {
        part[p] = dy * now;
        if (p < SLOPE_TERMS) slope += c[p] * now;
        const real next = 2 * t * now - before;
        before = now, now = next;
      }
      if (asked) out[j] = SLOPE_TERMS ? dy * slope : real(0);
      // Lanes of one cell take turns, in order; different cells go together.
      const int turn = asked ? __popc(peers & ((1u << thread) - 1)) : -1;
      const int last = __reduce_max_sync(ALL, turn);
      real* sum = sums.rows + s * SUMS + (thread % COPIES * CELLS + cell) * ROW;
      for (int k = 0; k <= last; k++) {
        if (k == turn) {
          real total[ROW];
          load_row(total, sum);
#pragma unroll
          for (int p = 0; p < ROW; p++) total[p] += part[p];
          store_row(sum, total);
        }
        __syncwarp();
      }
    }
  }
  __syncwarp();
  real nodal[HELD][NODES], to_start[HELD], to_end[HELD], d[HELD], moved[HELD];
#pragma unroll
  for (int e = 0; e < HELD; e++) {
    const int i = lane + LANES * e;
    real m[ROW], c[ROW];
    load_row(m, sums.rows + mine * SUMS + i * ROW);
#pragma unroll
    for (int k = 1; k < COPIES; k++) {
      real more[ROW];
      load_row(more, sums.rows + mine * SUMS + (k * CELLS + i) * ROW);
#pragma unroll
      for (int p = 0; p < ROW; p++) m[p] += more[p];
    }
    load_row(c, kept.rows[mine] + i * ROW);
    real whole = 0, turned = 0, by = 1;
#pragma unroll
    for (int p = 0; p < SLOPE_TERMS; p++)
      whole += c[p] * m[p], turned += c[p] * (p ? (m[p + 1] + m[p - 1]) / 2 : m[1]);
#pragma unroll
    for (int k = 0; k < TIMES; k++) by *= kept.scale[mine][i];
#pragma unroll
    for (int k = 0; k < NODES; k++) {
      nodal[e][k] = 0;
#pragma unroll
      for (int p = 0; p < TERMS; p++) nodal[e][k] += VALUE(p, k) * m[p];
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
  // Rows of d_full are put together where the sums were.
  real* staged = sums.rows + mine * size;
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
  for (int i = thread; i < count; i += 32) out[i] = sums.rows[i];
}
#endif
