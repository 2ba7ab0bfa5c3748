// For every position of a canvas: the token it is given, and how sure the model is of it. One block per position reads its
// logits once (twice where a token is drawn) and writes five numbers, where torch writes several tensors of the size of
// the logits. predict.py has the same in torch; there are the arguments and their meaning.
//
// No header is included: NVRTC compiles this without the CUDA toolkit, and g++ compiles it in the tests, where threads and
// barriers are emulated. A bfloat16 is the upper half of a float.

#define THREADS 512

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short bf16;

#define GOLDEN_GAMMA 0x9E3779B97F4A7C15ULL
#define NEVER (-__int_as_float(0x7f800000))

static __device__ __forceinline__ float read(const float* row, int i) { return row[i]; }
static __device__ __forceinline__ float read(const bf16* row, int i) { return __uint_as_float((u32)row[i] << 16); }

// SplitMix64's finalizer, as in sampling.py.
static __device__ __forceinline__ u64 mix(u64 x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

// ln E with E standard exponential: the draw of one token in the stream that `state` begins.
static __device__ __forceinline__ float log_exponential(u64 state, int token) {
    u64 bits = mix(state + (u64)(token + 1) * GOLDEN_GAMMA) >> 33;
    float uniform = fminf(((float)(u32)bits + 0.5f) * 4.656612873077393e-10f, 1.0f - 5.9604644775390625e-08f);
    return logf(-log1pf(-uniform));
}

// What has been seen of a distribution: its largest logit and that one's token (the lowest, where several are equal), the
// second largest, and relative to the largest the sums of exp(x) and x exp(x).
struct Seen {
    float top, second, sum, weighted;
    int token;
};

static __device__ __forceinline__ void see(Seen& seen, float x, int token) {
    if (x > seen.top) {
        float shift = seen.top - x;
        float scale = expf(shift);
        seen.weighted = seen.sum > 0.0f ? (seen.weighted + shift * seen.sum) * scale : 0.0f;
        seen.sum = seen.sum * scale + 1.0f;
        seen.second = seen.top;
        seen.top = x;
        seen.token = token;
    } else if (x > NEVER) {
        float shift = x - seen.top;
        float scale = expf(shift);
        seen.sum += scale;
        seen.weighted += shift * scale;
        seen.second = fmaxf(seen.second, x);
    }
}

static __device__ __forceinline__ void merge(Seen& seen, Seen other) {
    if (other.top > seen.top || (other.top == seen.top && other.token < seen.token)) {
        Seen swapped = seen;
        seen = other;
        other = swapped;
    }
    if (other.sum > 0.0f) {
        float shift = other.top - seen.top;
        float scale = expf(shift);
        seen.weighted += (other.weighted + shift * other.sum) * scale;
        seen.sum += other.sum * scale;
        seen.second = fmaxf(seen.second, other.top);
    }
}

template <typename Logit>
static __device__ __forceinline__ void predict(
    const Logit* logits, const unsigned char* forbidden, const long long* keys, const long long* counters,
    const float* temperatures, const float* min_ps, long long* tokens, float* confidences, float* margins,
    float* entropies, int num_columns, int vocab_size, int num_forbidden
) {
    __shared__ Seen all[THREADS];
    __shared__ float best_values[THREADS];
    __shared__ int best_tokens[THREADS];

    int position = blockIdx.x;
    int row = position / num_columns;
    int thread = threadIdx.x;
    const Logit* own = logits + (long long)position * vocab_size;
    const unsigned char* banned = forbidden + (num_forbidden > 1 ? (long long)row * vocab_size : 0);

    Seen seen = {NEVER, NEVER, 0.0f, 0.0f, 0x7fffffff};
#pragma unroll 4
    for (int i = thread; i < vocab_size; i += blockDim.x) see(seen, banned[i] ? NEVER : read(own, i), i);
    all[thread] = seen;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (thread < half) merge(all[thread], all[thread + half]);
        __syncthreads();
    }
    Seen whole = all[0];
    int token = whole.sum > 0.0f ? whole.token : 0;

    float temperature = temperatures[row];
    if (temperature > 0.0f) {
        // Gumbel-max in log form: argmax of x - T ln E samples softmax(x / T).
        u64 state = mix((u64)keys[row] + (u64)(counters[position] + 1) * GOLDEN_GAMMA);
        float floor = whole.top / temperature + logf(min_ps[row]);
        float best = NEVER;
        int chosen = 0x7fffffff;
        for (int i = thread; i < vocab_size; i += blockDim.x) {
            float x = banned[i] ? NEVER : read(own, i);
            if (x == NEVER || x / temperature < floor) continue;
            float value = x - temperature * log_exponential(state, i);
            if (value > best) {
                best = value;
                chosen = i;
            }
        }
        best_values[thread] = best;
        best_tokens[thread] = chosen;
        __syncthreads();
        for (int half = blockDim.x / 2; half > 0; half /= 2) {
            if (thread < half) {
                float other = best_values[thread + half];
                int its = best_tokens[thread + half];
                if (other > best_values[thread] || (other == best_values[thread] && its < best_tokens[thread])) {
                    best_values[thread] = other;
                    best_tokens[thread] = its;
                }
            }
            __syncthreads();
        }
        token = best_tokens[0];
    }

    if (thread == 0) {
        tokens[position] = token;
        confidences[position] = expf(read(own, token) - whole.top) / whole.sum;
        margins[position] = (1.0f - expf(whole.second - whole.top)) / whole.sum;
        entropies[position] = logf(whole.sum) - whole.weighted / whole.sum;
    }
}

#define ARGUMENTS \
    const unsigned char *forbidden, const long long *keys, const long long *counters, const float *temperatures, \
    const float *min_ps, long long *tokens, float *confidences, float *margins, float *entropies, int num_columns, \
    int vocab_size, int num_forbidden
#define PASSED \
    forbidden, keys, counters, temperatures, min_ps, tokens, confidences, margins, entropies, num_columns, vocab_size, \
    num_forbidden

extern "C" __global__ void __launch_bounds__(THREADS) predict_float32(const float* logits, ARGUMENTS) {
    predict(logits, PASSED);
}

extern "C" __global__ void __launch_bounds__(THREADS) predict_bfloat16(const bf16* logits, ARGUMENTS) {
    predict(logits, PASSED);
}
