// Which neurons a row of scores selects.
#pragma once

#include <cstdint>
#include <string>

namespace sparseflow::cpu::contextual {

struct Rule {
  enum { threshold, top_k, statistical } kind;
  double parameter;
};

// Throws where there is no such rule, or it can't have that parameter.
Rule rule_of(const char* op, const std::string& name, double parameter);

// Sets selected[i] to 1 where the rule selects scores[i], a NaN always; the others stay as they are.
void mark(const float* scores, int64_t n, const Rule& rule, uint8_t* selected);

}  // namespace sparseflow::cpu::contextual
