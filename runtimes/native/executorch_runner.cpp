// ExecuTorch's C++ runtime behind six C functions, for a Python that has no torch.
//
// edgekit.runtimes.sessions.executorch_native calls them through ctypes, and
// edgekit.devices.native_runner compiles this file against the headers and libraries of
// ExecuTorch's own wheel. A handle serves one thread at a time. Nothing here throws or prints: a
// call that fails writes its reason to `why`.

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

// The wheel ships this class's library without its header.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
} // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Result;

constexpr const char* kMethod = "forward";
constexpr size_t kMostDimensions = 16;

// What the runtime logged as errors since the last call began: its error codes are numbers alone.
thread_local std::string logged;

void keep_log(
    et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
    size_t length) {
  if (level == et_pal_log_level_t::kError || level == et_pal_log_level_t::kFatal) {
    logged.append(message, length).push_back('\n');
  }
}

// Once, and before anything else: even the thread pool logs when it is made.
void start() {
  static const bool ready = [] {
    const bool taken = executorch::runtime::register_pal(
        executorch::runtime::PalImpl::create(keep_log, __FILE__));
    executorch::runtime::runtime_init();
    return taken;
  }();
  (void)ready;
}

// Kept in one place: every function that can fail ends here.
int fail(const std::string& what, char* why, size_t room) {
  std::snprintf(why, room, "%s\n%s", logged.c_str(), what.c_str());
  return -1;
}

std::string numbered(const char* what, Error error) {
  return std::string(what) + ": error " + std::to_string(static_cast<uint32_t>(error));
}

struct Program {
  std::unique_ptr<Module> module;
  std::vector<EValue> outputs;
  size_t inputs = 0;
};

} // namespace

extern "C" {

// A tensor in the caller's memory (of an input) or in the program's (of an output, until it runs
// again). `type` is ExecuTorch's number of a scalar type.
struct edgekit_tensor {
  void* data;
  int64_t bytes;
  int32_t type;
  int32_t rank;
  int32_t sizes[kMostDimensions];
  int32_t strides[kMostDimensions]; // in elements; of outputs alone
};

// The size of the process's one thread pool; a positive `wanted` changes it first.
int edgekit_threads(int wanted) {
  start();
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool == nullptr) {
    return 0;
  }
  if (wanted > 0 && pool->get_thread_count() != static_cast<size_t>(wanted)) {
    pool->_unsafe_reset_threadpool(static_cast<uint32_t>(wanted));
  }
  return static_cast<int>(pool->get_thread_count());
}

// Loads a .pte file, with a .ptd file of weights unless `table` is empty. Null if it cannot.
void* edgekit_load(const char* path, const char* table, char* why, size_t room) {
  start();
  logged.clear();
  auto made = std::make_unique<Program>();
  const auto mode = Module::LoadMode::Mmap;
  made->module = *table ? std::make_unique<Module>(std::string(path), std::string(table), mode)
                        : std::make_unique<Module>(std::string(path), mode);
  if (const Error error = made->module->load(); error != Error::Ok) {
    fail(numbered("it is no program", error), why, room);
    return nullptr;
  }
  if (auto names = made->module->method_names(); !names.ok() || !names->count(kMethod)) {
    fail("no method 'forward'", why, room);
    return nullptr;
  }
  if (const Error error = made->module->load_method(kMethod); error != Error::Ok) {
    fail(numbered("its method cannot be loaded", error), why, room);
    return nullptr;
  }
  auto meta = made->module->method_meta(kMethod);
  if (!meta.ok()) {
    fail(numbered("its method cannot be described", meta.error()), why, room);
    return nullptr;
  }
  made->inputs = meta->num_inputs();
  made->outputs.resize(meta->num_outputs());
  return made.release();
}

// How many inputs (0) or outputs (1) the method has.
int edgekit_count(const void* handle, int outputs) {
  const auto* program = static_cast<const Program*>(handle);
  return static_cast<int>(outputs ? program->outputs.size() : program->inputs);
}

// Runs the method once. The inputs' memory is read in place and must stay until this returns.
int edgekit_run(void* handle, const edgekit_tensor* inputs, int count, char* why, size_t room) {
  auto* program = static_cast<Program*>(handle);
  logged.clear();
  std::vector<TensorPtr> held;
  std::vector<EValue> values;
  for (int i = 0; i < count; ++i) {
    const auto& given = inputs[i];
    std::vector<SizesType> sizes(given.sizes, given.sizes + given.rank);
    held.push_back(executorch::extension::from_blob(
        given.data, std::move(sizes), static_cast<ScalarType>(given.type)));
    values.emplace_back(*held.back());
  }
  Result<std::vector<EValue>> results = program->module->execute(kMethod, values);
  if (!results.ok()) {
    return fail(numbered("it could not run", results.error()), why, room);
  }
  program->outputs = std::move(*results);
  return 0;
}

// The output `index` of the last run.
int edgekit_output(const void* handle, int index, edgekit_tensor* found, char* why, size_t room) {
  const auto* program = static_cast<const Program*>(handle);
  const EValue& value = program->outputs[index];
  if (!value.isTensor()) {
    return fail("an output is no tensor", why, room);
  }
  const auto& tensor = value.toTensor();
  if (tensor.dim() > static_cast<ssize_t>(kMostDimensions)) {
    return fail("an output has more than 16 dimensions", why, room);
  }
  found->data = const_cast<void*>(tensor.const_data_ptr());
  found->bytes = static_cast<int64_t>(tensor.nbytes());
  found->type = static_cast<int32_t>(tensor.scalar_type());
  found->rank = static_cast<int32_t>(tensor.dim());
  for (ssize_t i = 0; i < tensor.dim(); ++i) {
    found->sizes[i] = static_cast<int32_t>(tensor.size(i));
    found->strides[i] = static_cast<int32_t>(tensor.strides()[i]);
  }
  return 0;
}

void edgekit_free(void* handle) {
  delete static_cast<Program*>(handle);
}

} // extern "C"
