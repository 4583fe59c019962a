#include "train/ref/ref.h"

#include <math.h>
#include <string.h>

void ref_embed(size_t rows, size_t width, const uint8_t tokens[], const double table[], double out[])
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < width; i++) {
            out[r * width + i] = 0;
            for (size_t back = 0; back < TRAIN_EMBED_SPAN && back <= r; back++)
                out[r * width + i] += table[(back * TRAIN_VOCABULARY + tokens[r - back]) * width + i];
        }
}

void ref_embed_back(size_t rows, size_t width, const uint8_t tokens[], const double d_out[], double d_table[])
{
    for (size_t r = 0; r < rows; r++)
        for (size_t back = 0; back < TRAIN_EMBED_SPAN && back <= r; back++)
            for (size_t i = 0; i < width; i++)
                d_table[(back * TRAIN_VOCABULARY + tokens[r - back]) * width + i] += d_out[r * width + i];
}

/* Mean and 1 / standard deviation of one row. */
static void moments(size_t width, const double x[], double *mean, double *inverse)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < width; i++)
        sum += x[i];
    *mean = sum / (double)width;
    for (size_t i = 0; i < width; i++)
        squares += (x[i] - *mean) * (x[i] - *mean);
    *inverse = 1 / sqrt(squares / (double)width + 1e-5);
}

void ref_norm(size_t rows, size_t width, const double in[], const double gain[], const double bias[],
              double out[])
{
    for (size_t r = 0; r < rows; r++) {
        const double *x = in + r * width;
        double mean, inverse;
        moments(width, x, &mean, &inverse);
        for (size_t i = 0; i < width; i++)
            out[r * width + i] = (x[i] - mean) * inverse * gain[i] + bias[i];
    }
}

/* With h = (x - mean) / deviation and g = d_out * gain:
 * d_x = (g - average(g) - h * average(g h)) / deviation. */
void ref_norm_back(size_t rows, size_t width, const double in[], const double gain[], const double d_out[],
                   double d_in[], double d_gain[], double d_bias[])
{
    for (size_t r = 0; r < rows; r++) {
        const double *x = in + r * width;
        const double *d = d_out + r * width;
        double mean, inverse, sum = 0, sum_h = 0;
        moments(width, x, &mean, &inverse);
        for (size_t i = 0; i < width; i++) {
            double h = (x[i] - mean) * inverse;
            sum += d[i] * gain[i];
            sum_h += d[i] * gain[i] * h;
            d_gain[i] += d[i] * h;
            d_bias[i] += d[i];
        }
        for (size_t i = 0; i < width; i++) {
            double h = (x[i] - mean) * inverse;
            d_in[r * width + i] = (d[i] * gain[i] - (sum + h * sum_h) / (double)width) * inverse;
        }
    }
}

void ref_linear(size_t rows, size_t inputs, size_t outputs, const double in[], const double weight[],
                double out[])
{
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < outputs; o++) {
            double sum = 0;
            for (size_t i = 0; i < inputs; i++)
                sum += in[r * inputs + i] * weight[o * inputs + i];
            out[r * outputs + o] = sum;
        }
}

void ref_linear_back(size_t rows, size_t inputs, size_t outputs, const double in[], const double weight[],
                     const double d_out[], double d_in[], double d_weight[])
{
    memset(d_in, 0, rows * inputs * sizeof *d_in);
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < outputs; o++)
            for (size_t i = 0; i < inputs; i++) {
                d_in[r * inputs + i] += d_out[r * outputs + o] * weight[o * inputs + i];
                d_weight[o * inputs + i] += d_out[r * outputs + o] * in[r * inputs + i];
            }
}

static const double GELU_INNER = 0.79788456080286535588; /* sqrt(2 / pi) */
static const double GELU_CUBE = 0.044715;

void ref_gelu(size_t count, const double in[], double out[])
{
    for (size_t i = 0; i < count; i++) {
        double x = in[i];
        out[i] = 0.5 * x * (1 + tanh(GELU_INNER * (x + GELU_CUBE * x * x * x)));
    }
}

void ref_gelu_back(size_t count, const double in[], const double d_out[], double d_in[])
{
    for (size_t i = 0; i < count; i++) {
        double x = in[i];
        double t = tanh(GELU_INNER * (x + GELU_CUBE * x * x * x));
        double slope = GELU_INNER * (1 + 3 * GELU_CUBE * x * x);
        d_in[i] = d_out[i] * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope);
    }
}

double ref_loss(size_t rows, const double logits[], const uint8_t targets[], double scale, double d_logits[])
{
    double loss = 0;
    for (size_t r = 0; r < rows; r++) {
        const double *row = logits + r * TRAIN_VOCABULARY;
        double top = row[0], sum = 0;
        for (size_t i = 1; i < TRAIN_VOCABULARY; i++)
            top = row[i] > top ? row[i] : top;
        for (size_t i = 0; i < TRAIN_VOCABULARY; i++)
            sum += exp(row[i] - top);
        loss += log(sum) + top - row[targets[r]];
        if (d_logits == NULL)
            continue;
        for (size_t i = 0; i < TRAIN_VOCABULARY; i++) {
            double probability = exp(row[i] - top) / sum;
            d_logits[r * TRAIN_VOCABULARY + i] = (probability - (i == targets[r] ? 1 : 0)) * scale;
        }
    }
    return loss;
}

void ref_adamw_step(const struct ref_adamw *how, unsigned step, double gradient, double *value, double *first,
                    double *second)
{
    *first = how->beta1 * *first + (1 - how->beta1) * gradient;
    *second = how->beta2 * *second + (1 - how->beta2) * gradient * gradient;
    double mean = *first / (1 - pow(how->beta1, step));
    double square = *second / (1 - pow(how->beta2, step));
    *value -= how->rate * (mean / (sqrt(square) + how->epsilon) + how->decay * *value);
}
