// spline.cuh on the host: each lane of a warp is a fibre that waits where CUDA's warp would. Shared memory starts as NaN.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#define HOST_EMULATION
#define DEVICE inline
#define CONSTANT
#define PREFETCH(address)
#define PIN(word)
#define SHARED(name) unsigned char* name = shared_memory
#define __global__
#define __launch_bounds__(...)
struct Index { unsigned x = 0; };
static Index threadIdx, blockIdx;
static unsigned char* shared_memory;

// The warp that runs: who waits for the others, and what all lanes gave.
static ucontext_t home, lanes[32];
static std::vector<unsigned char> stacks[32];
static int running, arrived, round_number, alive;
static double given[2][32];
static bool left_early[32];

static void pass_on() {
  const int from = running;
  do running = (running + 1) % 32; while (left_early[running]);
  threadIdx.x = threadIdx.x / 32 * 32 + running;
  if (running != from) swapcontext(&lanes[from], &lanes[running]);
}
static void meet() {
  const int now = round_number;
  if (++arrived == alive) arrived = 0, round_number++;
  while (round_number == now) pass_on();
}
static double (&exchange(double mine))[32] {
  // Two rounds' values are apart: a lane may give the next before another has read this one.
  double (&all)[32] = given[round_number % 2];
  all[running] = mine;
  meet();
  return all;
}
static void __syncwarp() { meet(); }
template <class T> T __shfl_sync(unsigned, T v, int from, int width) {
  const int here = running;
  return exchange(v)[here / width * width + (from & (width - 1))];
}
template <class T> T __shfl_up_sync(unsigned, T v, int by, int width) {
  const int here = running;
  return exchange(v)[here % width >= by ? here - by : here];
}
template <class T> T __shfl_down_sync(unsigned, T v, int by, int width) {
  const int here = running;
  return exchange(v)[here % width + by < width ? here + by : here];
}
static unsigned __ballot_sync(unsigned, bool mine) {
  double all[32];
  std::memcpy(all, exchange(mine), sizeof all);
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (unsigned)(all[i] != 0) << i;
  return r;
}
static int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
static float __fdividef(float a, float b) { return a / b; }
static float __int_as_float(int i) { float f; std::memcpy(&f, &i, 4); return f; }
#include "spline.cuh"

static void (*work)(void*);
static void* arguments;
static void lane_main() {
  work(arguments);
  // A kernel ends for all lanes of a warp at once.
  left_early[running] = true;
  if (--alive == 0) setcontext(&home);
  const int from = running;
  do running = (running + 1) % 32; while (left_early[running]);
  threadIdx.x = threadIdx.x / 32 * 32 + running;
  swapcontext(&lanes[from], &lanes[running]);
}
template <class F> void launch(int grid, size_t bytes, F kernel) {
  work = [](void* f) { (*(F*)f)(); };
  arguments = &kernel;
  std::vector<unsigned char> memory(bytes + 16);
  for (auto& s : stacks) s.resize(1 << 18);
  for (int block = 0; block < grid; block++) {
    memory.assign(bytes + 16, 0xff);
    shared_memory = (unsigned char*)(((uintptr_t)memory.data() + 15) / 16 * 16);
    for (int warp = 0; warp < WARPS; warp++) {
      blockIdx.x = block, running = arrived = round_number = 0, alive = 32;
      for (int i = 0; i < 32; i++) {
        left_early[i] = false;
        getcontext(&lanes[i]);
        lanes[i].uc_stack.ss_sp = stacks[i].data(), lanes[i].uc_stack.ss_size = stacks[i].size();
        makecontext(&lanes[i], lane_main, 0);
      }
      threadIdx.x = 32 * warp;
      swapcontext(&home, &lanes[0]);
    }
  }
}

extern "C" void emulate(int grid, int bytes, const real** in, real** out, const int* n) {
#if BACKWARD
  launch(grid, bytes, [&] {
    spline_backward(in[0], in[1], in[2], in[3], in[4], out[0], out[1], out[2], n[0], n[1], n[2], n[3], n[4], n[5]);
  });
#else
  launch(grid, bytes, [&] { spline_forward(in[0], in[1], in[2], out[0], out[1], n[0], n[1], n[2], n[3], n[4], n[5]); });
#endif
}
extern "C" int shared_bytes() { return WARPS * sizeof(Kept); }
