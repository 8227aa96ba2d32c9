// cuSPARSELt, loaded by path at run time. The declarations follow its C API, whose opaque structures and enumerations
// are the same from 0.8 to 0.10, so that NVIDIA's header isn't needed for building.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace sparseflow::cuda {

// A handle, descriptor, algorithm selection or plan. It must not move: plans keep the addresses of what they use.
struct alignas(16) Opaque {
  unsigned char data[512];
};

namespace lt {
enum Operation { transpose_none = 0 };
enum Order { column_major = 1, row_major = 2 };
enum Compute { compute_i32 = 0, compute_f32 = 2 };
enum DescriptorAttribute { activation_relu = 0, activation_gelu = 3, alpha_vector = 5, bias_pointer = 8 };
enum AlgorithmAttribute { config_id = 0, config_max_id = 1, split_k = 3 };
constexpr unsigned kAlignment = 16;  // bytes, of every matrix
}  // namespace lt

struct Api {
  int (*init)(Opaque*);
  int (*property)(int which, int* value);
  const char* (*error_string)(int);
  int (*dense)(const Opaque*, Opaque*, int64_t rows, int64_t cols, int64_t ld, uint32_t alignment, int type, int order);
  int (*structured)(const Opaque*, Opaque*, int64_t rows, int64_t cols, int64_t ld, uint32_t alignment, int type,
                    int order, int sparsity);
  int (*destroy_matrix)(const Opaque*);
  int (*describe)(const Opaque*, Opaque*, int op_a, int op_b, const Opaque* a, const Opaque* b, const Opaque* c,
                  const Opaque* d, int compute);
  int (*set)(const Opaque*, Opaque* description, int attribute, const void*, size_t);
  int (*select)(const Opaque*, Opaque* selection, const Opaque* description, int algorithm);
  int (*destroy_selection)(const Opaque*);
  int (*set_algorithm)(const Opaque*, Opaque* selection, int attribute, const void*, size_t);
  int (*get_algorithm)(const Opaque*, const Opaque* selection, int attribute, void*, size_t);
  int (*plan)(const Opaque*, Opaque* plan, const Opaque* description, const Opaque* selection);
  int (*destroy_plan)(const Opaque*);
  int (*workspace)(const Opaque*, const Opaque* plan, size_t*);
  int (*matmul)(const Opaque*, const Opaque* plan, const void* alpha, const void* a, const void* b, const void* beta,
                const void* c, void* d, void* workspace, void** streams, int32_t count);
  int (*compressed_size)(const Opaque*, const Opaque* matrix, size_t* size, size_t* scratch);
  int (*compress)(const Opaque*, const Opaque* matrix, int is_a, int op, const void* dense, void* compressed,
                  void* scratch, void* stream);

  int version;  // 10000 · major + 100 · minor + patch

  // Throws std::runtime_error naming `call` unless `status` is success.
  void check(int status, const char* call) const;
};

// Loads the library; returns "" if it is usable, else why not. Once a library is loaded, calls with another path change
// nothing. An empty path only asks for the state.
std::string load_cusparselt(const std::string& path);

// The loaded library; throws std::runtime_error with the reason if there is none.
const Api& cusparselt();

// The library's handle for a device, made on first use. The device must be current.
const Opaque* handle_of(int device);

// Forgets all handles, whose devices were reset.
void forget_handles();

}  // namespace sparseflow::cuda
