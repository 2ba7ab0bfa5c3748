// Which of a block's masked positions are revealed, and writing them into the canvas: one block of threads per row.
// reveal.py has the same in torch; there are the arguments and their meaning. No header is included, see predict.cu.

#define THREADS 256
#define MOST_COLUMNS 4096

extern "C" __global__ void __launch_bounds__(THREADS) reveal(
    long long* canvas, const long long* tokens, const float* confidences, const long long* columns,
    const unsigned char* eligible, const long long* counts, float threshold, int is_leftmost, int num_columns,
    long long stride
) {
    // -1 where a position is not eligible: no confidence is below 0.
    __shared__ float shared[MOST_COLUMNS];

    long long start = (long long)blockIdx.x * num_columns;
    for (int i = threadIdx.x; i < num_columns; i += blockDim.x)
        shared[i] = eligible[start + i] ? confidences[start + i] : -1.0f;
    __syncthreads();

    long long count = counts[blockIdx.x];
    for (int i = threadIdx.x; i < num_columns; i += blockDim.x) {
        float own = shared[i];
        if (own < 0.0f) continue;
        int num_before = 0;  // how many eligible positions come first: the more confident, or the left one of equals
        int num_left = 0;
        for (int other = 0; other < num_columns; other++) {
            float its = shared[other];
            num_before += its > own || (its == own && other < i);
            num_left += its >= 0.0f && other < i;
        }
        if (own >= threshold || num_before < count || (is_leftmost && num_left == 0))
            canvas[blockIdx.x * stride + columns[start + i]] = tokens[start + i];
    }
}
