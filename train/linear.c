#include <cblas.h>

#include "train/kernels.h"

void train_linear(size_t rows, size_t inputs, size_t outputs, const float in[], const float weight[], float out[],
                  int add)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)outputs, (blasint)inputs, 1.0F,
                in, (blasint)inputs, weight, (blasint)inputs, add ? 1.0F : 0.0F, out, (blasint)outputs);
}

void train_linear_back_input(size_t rows, size_t inputs, size_t outputs, const float d_out[],
                             const float weight[], float d_in[])
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)inputs, (blasint)outputs, 1.0F,
                d_out, (blasint)outputs, weight, (blasint)inputs, 0.0F, d_in, (blasint)inputs);
}

void train_linear_back_weight(size_t rows, size_t inputs, size_t outputs, const float in[], const float d_out[],
                              float d_weight[])
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)outputs, (blasint)inputs, (blasint)rows, 1.0F,
                d_out, (blasint)outputs, in, (blasint)inputs, 1.0F, d_weight, (blasint)inputs);
}
