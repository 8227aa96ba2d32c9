#include "cusparselt.h"

#include <dlfcn.h>
#include <elf.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "driver.h"

namespace sparseflow::cuda {
namespace {

constexpr int kOldest = 800;  // 0.8.0; the opaque structures of earlier versions have other sizes

std::mutex mutex;
Api api;
bool loaded = false;
std::string reason = "no path to libcusparseLt.so was given";
std::map<int, std::unique_ptr<Opaque>> handles;

std::string dotted(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." +
         std::to_string(version % 100);
}

// Resolves every function; returns the first that is missing, or "".
std::string resolve(void* library, Api& to) {
  struct Symbol {
    const char* name;
    void** to;
  };
  const std::array symbols{
      Symbol{"Init", reinterpret_cast<void**>(&to.init)},
      Symbol{"GetProperty", reinterpret_cast<void**>(&to.property)},
      Symbol{"GetErrorString", reinterpret_cast<void**>(&to.error_string)},
      Symbol{"DenseDescriptorInit", reinterpret_cast<void**>(&to.dense)},
      Symbol{"StructuredDescriptorInit", reinterpret_cast<void**>(&to.structured)},
      Symbol{"MatDescriptorDestroy", reinterpret_cast<void**>(&to.destroy_matrix)},
      Symbol{"MatmulDescriptorInit", reinterpret_cast<void**>(&to.describe)},
      Symbol{"MatmulDescSetAttribute", reinterpret_cast<void**>(&to.set)},
      Symbol{"MatmulAlgSelectionInit", reinterpret_cast<void**>(&to.select)},
      Symbol{"MatmulAlgSelectionDestroy", reinterpret_cast<void**>(&to.destroy_selection)},
      Symbol{"MatmulAlgSetAttribute", reinterpret_cast<void**>(&to.set_algorithm)},
      Symbol{"MatmulAlgGetAttribute", reinterpret_cast<void**>(&to.get_algorithm)},
      Symbol{"MatmulPlanInit", reinterpret_cast<void**>(&to.plan)},
      Symbol{"MatmulPlanDestroy", reinterpret_cast<void**>(&to.destroy_plan)},
      Symbol{"MatmulGetWorkspace", reinterpret_cast<void**>(&to.workspace)},
      Symbol{"Matmul", reinterpret_cast<void**>(&to.matmul)},
      Symbol{"SpMMACompressedSize2", reinterpret_cast<void**>(&to.compressed_size)},
      Symbol{"SpMMACompress2", reinterpret_cast<void**>(&to.compress)}};
  for (const Symbol& symbol : symbols) {
    const std::string name = std::string("cusparseLt") + symbol.name;
    if (!(*symbol.to = dlsym(library, name.c_str()))) return name;
  }
  return "";
}

int version_of(const Api& a) {
  int part[3] = {0, 0, 0};
  for (int i = 0; i < 3; ++i) a.property(i, &part[i]);
  return 10000 * part[0] + 100 * part[1] + part[2];
}

// Returns why a file isn't a complete library for this processor, or "". dlopen reports a library for another processor
// as a missing file, and dies by a signal on a truncated one, such as an interrupted download.
std::string unfit(const std::string& path) {
#if defined(__aarch64__)
  constexpr int machine = EM_AARCH64;
#else
  constexpr int machine = EM_X86_64;
#endif
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return ": " + std::string(std::strerror(errno));
  const auto size = static_cast<uint64_t>(file.tellg());
  Elf64_Ehdr header{};
  file.seekg(0).read(reinterpret_cast<char*>(&header), sizeof header);
  if (!file || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return " is not a library";
  if (header.e_machine != machine) return " is a library for another processor";
  file.seekg(static_cast<std::streamoff>(header.e_phoff));
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr part{};
    if (!file.read(reinterpret_cast<char*>(&part), sizeof part) || part.p_offset + part.p_filesz > size)
      return " is cut short: " + std::to_string(size) + " bytes are not all of it";
  }
  return "";
}

std::string open(const std::string& path) {
  if (const std::string why = unfit(path); !why.empty()) return "cuSPARSELt does not load: " + path + why;
  // RTLD_LOCAL and an absolute path: torch may have loaded another version under the same soname.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return "cuSPARSELt does not load: " + std::string(dlerror());
  Api candidate{};
  if (const std::string missing = resolve(library, candidate); !missing.empty())
    return path + " is not a usable cuSPARSELt: it lacks " + missing;
  candidate.version = version_of(candidate);
  if (candidate.version < kOldest)
    return path + " is cuSPARSELt " + dotted(candidate.version) + ", too old: " + dotted(kOldest) + " or newer is needed";
  api = candidate;
  loaded = true;
  return "";
}

}  // namespace

std::string load_cusparselt(const std::string& path) {
  std::lock_guard lock(mutex);
  if (!loaded && !path.empty()) reason = path[0] == '/' ? open(path) : "not an absolute path: " + path;
  if (loaded && !driver().missing.empty()) return driver().missing;
  return reason;
}

const Api& cusparselt() {
  if (const std::string why = load_cusparselt(""); !why.empty()) throw std::runtime_error("cuSPARSELt: " + why);
  return api;
}

void Api::check(int status, const char* call) const {
  if (status == 0) return;
  throw std::runtime_error("cuSPARSELt " + dotted(version) + ": cusparseLt" + call + " failed: " + error_string(status));
}

const Opaque* handle_of(int device) {
  const Api& a = cusparselt();
  std::lock_guard lock(mutex);
  std::unique_ptr<Opaque>& handle = handles[device];  // one for each device, as the library ties it to the device
  if (!handle) {
    auto made = std::make_unique<Opaque>();
    a.check(a.init(made.get()), "Init");
    handle = std::move(made);
  }
  return handle.get();
}

void forget_handles() {
  std::lock_guard lock(mutex);
  handles.clear();
}

}  // namespace sparseflow::cuda
