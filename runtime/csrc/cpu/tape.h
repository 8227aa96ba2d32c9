// Tapes: what the operators of a program do for fixed tensors, to be done again without Python, torch's dispatcher or
// an allocation in between. Where a GPU replays a CUDA graph, a CPU plays a tape.
#pragma once

#include <functional>
#include <string>

namespace sparseflow::cpu {

// Whether this thread records a tape.
bool recording();

// Adds to the tape of this thread what it shall do there. `call` holds whatever memory it reads or writes.
void record(std::function<void()> call);

// Notes that what this thread does can't be recorded, and why; for this it is no error. Does nothing unless it records.
void spoil_tape(const std::string& why);

// Makes a call now, and again whenever what this thread records is played.
template <class F>
void perform(const F& call) {
  call();
  if (recording()) record(call);
}

}  // namespace sparseflow::cpu
