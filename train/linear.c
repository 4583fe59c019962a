#include "train/gemm.h"
#include "train/kernels.h"

void train_linear(size_t rows, size_t inputs, size_t outputs, const float in[], const float weight[],
                  float out[], bool add, float scratch[])
{
    struct train_factor left = {in, inputs, false}, right = {weight, inputs, true};
    train_gemm(rows, outputs, inputs, left, right, add, out, outputs, scratch);
}

void train_linear_back_input(size_t rows, size_t inputs, size_t outputs, const float d_out[],
                             const float weight[], float d_in[], float scratch[])
{
    struct train_factor left = {d_out, outputs, false}, right = {weight, inputs, false};
    train_gemm(rows, inputs, outputs, left, right, false, d_in, inputs, scratch);
}

void train_linear_back_weight(size_t rows, size_t inputs, size_t outputs, const float in[],
                              const float d_out[], float d_weight[], float scratch[])
{
    struct train_factor left = {d_out, outputs, true}, right = {in, inputs, false};
    train_gemm(outputs, inputs, rows, left, right, true, d_weight, inputs, scratch);
}
