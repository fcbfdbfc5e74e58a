// What the CUDA sources need of a device, on host threads: one thread a CUDA thread, barriers for blocks, warps and groups.
#pragma once
#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>
#define HOST_EMULATION
#define FI inline
#define CX constexpr
#define PIN(w)
#define FENCE_READS()
#define NAMED_BARRIER(id, threads) pthread_barrier_wait(&group_barriers[id])
#define SHARED(name) unsigned char* name = shared_memory
#define __global__
#define __launch_bounds__(...)
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct Index { unsigned x = 0; };
inline thread_local Index threadIdx, blockIdx;
inline Index gridDim;
// Of the two blocks of a cluster; a block on its own is the first.
inline thread_local int rank_in_cluster = 0;
inline unsigned char* shared_memories[2];
inline pthread_barrier_t block_barriers[2], cluster_barrier;
inline std::vector<pthread_barrier_t> warp_barriers[2], group_barriers;
#define shared_memory shared_memories[rank_in_cluster]
#define CLUSTER
using std::max;
using std::min;
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline void sincospif(float x, float* s, float* c) { *s = (float)std::sin(M_PI * (double)x), *c = (float)std::cos(M_PI * (double)x); }
inline int __float_as_int(float f) { int i; std::memcpy(&i, &f, 4); return i; }
inline float __int_as_float(int i) { float f; std::memcpy(&f, &i, 4); return f; }
inline void __syncthreads() { pthread_barrier_wait(&block_barriers[rank_in_cluster]); }
inline void __syncwarp() { pthread_barrier_wait(&warp_barriers[rank_in_cluster][threadIdx.x / 32]); }
template <class T> T __ldg(const T* p) { return *p; }
inline float all_lanes[2][1024];
inline float __shfl_xor_sync(unsigned, float v, int mask) {
  float* lanes = all_lanes[rank_in_cluster];
  lanes[threadIdx.x] = v;
  __syncwarp();
  float r = lanes[threadIdx.x ^ mask];
  __syncwarp();
  return r;
}
inline void copy16(void* to, const void* from, int bytes) { std::memset(to, 0, 16); std::memcpy(to, from, bytes); }
inline void copy_commit() {}
template <int LEFT> void copy_wait() {}
typedef float io;
inline float load(io x) { return x; }
inline io store(float x) { return x; }
inline float2 unpack(unsigned x) { _Float16 h[2]; std::memcpy(h, &x, 4); return {(float)h[0], (float)h[1]}; }
inline unsigned bytes_of(unsigned a, unsigned b, unsigned which) {
  const uint64_t both = (uint64_t)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= (unsigned)(both >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
  return r;
}
inline float max_nan(float a, float b) { return std::isnan(a) || a > b ? a : b; }
inline unsigned pack(float2 v) { _Float16 h[2] = {(_Float16)v.x, (_Float16)v.y}; unsigned x; std::memcpy(&x, h, 4); return x; }

inline int cluster_rank() { return rank_in_cluster; }
inline void cluster_arrive() {}
inline void cluster_wait() { pthread_barrier_wait(&cluster_barrier); }
struct Other {
  long long distance;
  Other(const void*, int rank) : distance(shared_memories[rank ^ 1] - shared_memories[rank]) {}
  float4 read(const float4* here) const { return *(const float4*)((const char*)here + distance); }
};
inline void prefetch(const void*) {}

// Shared memory starts as NaN. cluster: blocks that run together, 1 or 2.
template <class F> void launch(int grid, int threads, int group, size_t bytes, F kernel, int cluster = 1) {
  std::vector<unsigned char> memory[2];
  gridDim.x = grid;
  for (int b = 0; b < grid; b += cluster) {
    pthread_barrier_init(&cluster_barrier, nullptr, cluster * threads);
    group_barriers.resize(threads / group + 1);
    for (auto& w : group_barriers) pthread_barrier_init(&w, nullptr, group);
    std::vector<std::thread> all;
    for (int r = 0; r < cluster; r++) {
      memory[r].assign(bytes + 128, 0xff);
      shared_memories[r] = (unsigned char*)(((uintptr_t)memory[r].data() + 127) / 128 * 128);
      pthread_barrier_init(&block_barriers[r], nullptr, threads);
      warp_barriers[r].resize((threads + 31) / 32);
      for (auto& w : warp_barriers[r]) pthread_barrier_init(&w, nullptr, 32);
    }
    for (int r = 0; r < cluster; r++)
      for (int t = 0; t < threads; t++)
        all.emplace_back([&, r, t] { rank_in_cluster = r, threadIdx.x = t, blockIdx.x = b + r, kernel(); });
    for (auto& t : all) t.join();
  }
}

inline std::vector<float> normal(size_t n) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> draw;
  std::vector<float> v(n + 16);
  for (auto& x : v) x = draw(generator);
  return v;
}
// Relative L2 errors, summed up and printed one a line.
struct Error {
  double off = 0, all = 0;
  void add(double got, double want) { off += (got - want) * (got - want), all += want * want; }
  ~Error() { std::printf("%g\n", std::sqrt(off / all)); }
};
