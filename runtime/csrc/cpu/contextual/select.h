// The rules that select neurons by a row of scores.
#pragma once

#include <cstdint>
#include <string>

namespace sparseflow::cpu::contextual {

struct Rule {
  enum { threshold, top_k, statistical } kind;
  double parameter;
};

// Returns a rule by name; throws if there is none, or it can't have that parameter.
Rule rule_of(const char* op, const std::string& name, double parameter);

// Sets selected[i] to 1 if the rule selects scores[i], and for every NaN; other entries are unchanged.
void mark(const float* scores, int64_t n, const Rule& rule, uint8_t* selected);

}  // namespace sparseflow::cpu::contextual
