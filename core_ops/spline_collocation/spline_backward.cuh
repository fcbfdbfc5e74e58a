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
