#include "client/arrivals.h"

#include <cmath>

#include "base/check.h"
#include "base/random.h"

namespace nanoflow {
namespace {

constexpr double kTwoPi = 6.283185307179586;

/// Box and Muller 1958.
double normal(SplitMix64& random) {
  const double radius = std::sqrt(-2 * std::log1p(-random.uniform()));
  return radius * std::cos(kTwoPi * random.uniform());
}

/// Marsaglia and Tsang 2000, section 8; shapes below one by the boost of its last section.
double gamma_variate(SplitMix64& random, double shape) {
  if (shape < 1)
    return gamma_variate(random, shape + 1) * std::pow(1 - random.uniform(), 1 / shape);
  const double d = shape - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  while (true) {
    const double x = normal(random);
    const double v = std::pow(1 + c * x, 3);
    if (v <= 0) continue;
    if (std::log1p(-random.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

}  // namespace

std::vector<double> arrival_times(int64_t count, double rate, double burstiness, uint64_t seed) {
  NANO_CHECK(count >= 0 && rate > 0 && burstiness > 0, "{} {} {}", count, rate, burstiness);
  std::vector<double> times(static_cast<size_t>(count), 0.0);
  if (std::isinf(rate) || times.empty()) return times;
  SplitMix64 random(seed);
  double sum = 0;
  for (double& time : times) time = sum += gamma_variate(random, burstiness);
  if (sum <= 0) return times;
  for (double& time : times) time *= static_cast<double>(count) / rate / sum;
  return times;
}

}  // namespace nanoflow
