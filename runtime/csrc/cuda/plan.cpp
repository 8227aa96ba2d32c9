#include "plan.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "driver.h"

namespace sparseflow::cuda {
namespace {

bool one_byte(ScalarType t) { return t == ScalarType::Char || t == ScalarType::Float8_e4m3fn; }

bool pairs(ScalarType in, ScalarType out) {
  using enum ScalarType;
  switch (in) {
    case BFloat16:
    case Half: return out == in;
    case Char: return out == Char || out == Half || out == BFloat16 || out == Int;
    case Float8_e4m3fn: return out == Float8_e4m3fn || out == BFloat16 || out == Half || out == Float;
    default: return false;
  }
}

bool has_gelu(ScalarType in, ScalarType out) {
  using enum ScalarType;
  return (in == Char && out == Char) || (in == Float8_e4m3fn && (out == BFloat16 || out == Float8_e4m3fn));
}

std::string name(ScalarType t) { return torch::headeronly::toString(t); }

std::atomic<bool> lifted{false};

// No bucket adds more rows, however many there are: an eighth of 16 thousand rows took all that 2:4 gained. It is the
// library's largest tile of rows, so that less would save nothing.
constexpr int64_t kMostAdded = 256;

}  // namespace

size_t ProblemHash::operator()(const Problem& p) const {
  const uint64_t parts[] = {
      uint64_t(p.n), uint64_t(p.k), uint64_t(p.m), uint64_t(uint32_t(p.algorithm)) << 32 | uint32_t(p.split_k),
      uint64_t(uint32_t(p.device)) << 32 | uint64_t(p.in) << 24 | uint64_t(p.out) << 16 | uint64_t(p.activation) << 2 |
          uint64_t(p.bias) << 1 | uint64_t(p.scaled)};
  uint64_t h = 0;
  for (uint64_t part : parts) h = (std::rotl(h, 23) ^ part) * 0x9e3779b97f4a7c15ULL;
  return h ^ h >> 32;
}

int type_code(ScalarType t) {
  switch (t) {
    case ScalarType::Float: return 0;
    case ScalarType::Half: return 2;
    case ScalarType::Char: return 3;
    case ScalarType::Int: return 10;
    case ScalarType::BFloat16: return 14;
    case ScalarType::Float8_e4m3fn: return 28;
    default: return -1;
  }
}

int64_t m_unit(ScalarType in) { return one_byte(in) ? 16 : 8; }

int64_t bucket_of(int64_t m, ScalarType in) {
  const int64_t unit = m_unit(in);
  int64_t step = unit;
  if (m > 64) step = std::clamp(static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(m - 1)) / 8), unit, kMostAdded);
  else if (m > 16) step = 16;  // below 64 rows, the time depends on the weight's bytes, not on the rows
  return (m + step - 1) / step * step;
}

ScalarType bias_dtype(ScalarType in, ScalarType out) {
  if (in == ScalarType::Char && (out == ScalarType::Char || out == ScalarType::Int)) return ScalarType::Float;
  return residual_dtype(out);
}

// C must not be e4m3; it isn't read if beta is 0.
ScalarType residual_dtype(ScalarType out) { return out == ScalarType::Float8_e4m3fn ? ScalarType::BFloat16 : out; }

void lift_refusals(bool on) { lifted = on; }

std::string refusal(const Problem& p) {
  if (!pairs(p.in, p.out)) return "has no product of " + name(p.in) + " giving " + name(p.out);
  if (p.n == 0 || p.k == 0) return "has no product of empty matrices";
  if (p.activation == Activation::gelu && !has_gelu(p.in, p.out))
    return "has no GELU for " + name(p.in) + " giving " + name(p.out);
  if (p.scaled && (p.in != ScalarType::Char || p.out == ScalarType::Char))
    return "scales by a vector only int8 giving float16, bfloat16 or int32";
  if (p.in == ScalarType::Half && !lifted && cusparselt().version < 1000)
    return "before 0.10 raises illegal instructions in fp16 on Hopper; install nvidia-cusparselt-cu13>=0.10";
  return "";
}

Plan::Plan(const Problem& problem) : problem_(problem), api_(cusparselt()), handle_(handle_of(problem.device)) {
  if (const std::string why = refusal(problem); !why.empty()) throw std::runtime_error("cuSPARSELt " + why);
  try {
    describe();
    choose();
  } catch (...) {
    release();
    throw;
  }
}

Plan::~Plan() { release(); }

// W is the structured operand A, row-major. x [m, k] is B as column-major [k, m], and y [m, n] is D as column-major
// [n, m]; in torch's terms both are row-major, so nothing is transposed or copied.
void Plan::describe() {
  const auto& [device, n, k, m, in, out, activation, bias, scaled, algorithm, split] = problem_;
  const Opaque* h = handle_;
  api_.check(api_.structured(h, &weight_, n, k, k, lt::kAlignment, type_code(in), lt::row_major, 0),
             "StructuredDescriptorInit");
  made_ = 1;
  api_.check(api_.dense(h, &x_, k, m, k, lt::kAlignment, type_code(in), lt::column_major), "DenseDescriptorInit");
  made_ = 2;
  api_.check(api_.dense(h, &c_, n, m, n, lt::kAlignment, type_code(residual_dtype(out)), lt::column_major),
             "DenseDescriptorInit");
  made_ = 3;
  api_.check(api_.dense(h, &y_, n, m, n, lt::kAlignment, type_code(out), lt::column_major), "DenseDescriptorInit");
  made_ = 4;
  const int compute = in == ScalarType::Char ? lt::compute_i32 : lt::compute_f32;
  api_.check(api_.describe(h, &description_, lt::transpose_none, lt::transpose_none, &weight_, &x_, &c_, &y_, compute),
             "MatmulDescriptorInit");
  const int on = 1;
  auto set = [&](int attribute, const auto& value) {
    api_.check(api_.set(h, &description_, attribute, &value, sizeof value), "MatmulDescSetAttribute");
  };
  if (activation == Activation::relu) set(lt::activation_relu, on);
  if (activation == Activation::gelu) set(lt::activation_gelu, on);
  if (scaled) set(lt::alpha_vector, on);
  // Any pointer makes this a plan with a bias; run() sets the real one.
  if (bias) set(lt::bias_pointer, bias_ = this);
}

void Plan::choose() {
  const Opaque* h = handle_;
  api_.check(api_.select(h, &selection_, &description_, 0), "MatmulAlgSelectionInit");
  made_ = 5;
  api_.check(api_.get_algorithm(h, &selection_, lt::config_max_id, &algorithms_, sizeof algorithms_),
             "MatmulAlgGetAttribute");
  if (problem_.algorithm < 0 || problem_.algorithm >= algorithms_)
    throw std::runtime_error("cuSPARSELt: algorithm " + std::to_string(problem_.algorithm) + " is not below " +
                             std::to_string(algorithms_));
  auto set = [&](int attribute, int value) {
    api_.check(api_.set_algorithm(h, &selection_, attribute, &value, sizeof value), "MatmulAlgSetAttribute");
  };
  set(lt::config_id, problem_.algorithm);
  if (problem_.split_k) set(lt::split_k, problem_.split_k);
  api_.check(api_.plan(h, &plan_, &description_, &selection_), "MatmulPlanInit");
  made_ = 6;
  api_.check(api_.workspace(h, &plan_, &workspace_), "MatmulGetWorkspace");
}

void Plan::release() {
  if (abandoned_) return;
  const Relaxed relaxed;
  for (const auto& [stream, event] : launches_) driver().destroy_event(event);
  if (made_ >= 6) api_.destroy_plan(&plan_);
  if (made_ >= 5) api_.destroy_selection(&selection_);
  Opaque* matrices[] = {&weight_, &x_, &c_, &y_};
  for (int i = 0; i < std::min(made_, 4); ++i) api_.destroy_matrix(matrices[i]);
  made_ = 0;
}

bool Plan::idle() {
  if (!tracked || pinned) return false;
  const Relaxed relaxed;
  std::lock_guard lock(mutex_);
  return !lost_ && std::all_of(launches_.begin(), launches_.end(),
                               [](const auto& launch) { return driver().query_event(launch.second) == 0; });
}

// Must not be called for a stream under capture: the plan is then pinned, and the event would belong to the graph.
void Plan::record(void* stream) {
  auto at = std::find_if(launches_.begin(), launches_.end(), [&](const auto& l) { return l.first == stream; });
  if (at == launches_.end()) {
    const Relaxed relaxed;
    void* event = nullptr;
    constexpr unsigned no_timing = 2;
    if (driver().create_event(&event, no_timing) != 0) {
      lost_ = true;
      return;
    }
    at = launches_.emplace(launches_.end(), stream, event);
  }
  if (driver().record_event(at->second, stream) != 0) lost_ = true;
}

void Plan::run(const Arguments& a) {
  const void* alpha = problem_.scaled ? static_cast<const void*>(a.scale) : &a.alpha;
  void* stream = a.stream;
  std::lock_guard lock(mutex_);
  if (problem_.bias && a.bias != bias_) {
    api_.check(api_.set(handle_, &description_, lt::bias_pointer, &a.bias, sizeof a.bias), "MatmulDescSetAttribute");
    bias_ = a.bias;
  }
  api_.check(api_.matmul(handle_, &plan_, alpha, a.weight, a.x, &a.beta, a.c, a.y, a.workspace, &stream, 1), "Matmul");
  if (tracked && !pinned) record(stream);
}

}  // namespace sparseflow::cuda
