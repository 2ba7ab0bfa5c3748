// Enough of CUDA for g++ to compile a kernel and run it on threads of the processor: the blocks of a grid one after the
// other, the threads of a block at once, with a real barrier. It shows that a kernel's logic is right, races included
// where the threads happen to meet them; it says nothing about speed.
#pragma once

#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(most)
#define __shared__ static  // one block runs at a time

struct Index { unsigned x; };
static thread_local Index threadIdx;
static Index blockIdx, blockDim;
static std::unique_ptr<std::barrier<>> barrier_of_block;

static void __syncthreads() { barrier_of_block->arrive_and_wait(); }
static float __uint_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }
static float __int_as_float(int bits) { float value; std::memcpy(&value, &bits, 4); return value; }

template <typename Kernel>
static void run(unsigned grid, unsigned block, Kernel kernel) {
    blockDim.x = block;
    for (unsigned index = 0; index < grid; index++) {
        blockIdx.x = index;
        barrier_of_block = std::make_unique<std::barrier<>>(block);
        std::vector<std::thread> threads;
        for (unsigned thread = 0; thread < block; thread++)
            threads.emplace_back([=] { threadIdx.x = thread; kernel(); });
        for (std::thread& thread : threads) thread.join();
    }
}
