#include "backend/cuda/gemm.h"

#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "backend/cuda/cuda.h"
#include "base/check.h"

namespace nanoflow::cuda {
namespace {

constexpr uint32_t kAlignment = 16;

void lt_check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw CudaError(fmt::format("cuBLASLt: {} failed: {}", what, cublasLtGetStatusString(status)));
}

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::kBF16: return CUDA_R_16BF;
    case DType::kF16: return CUDA_R_16F;
    default: return CUDA_R_32F;
  }
}

/// Handles of the library are created and destroyed by functions; this pairs them.
template <typename Handle, cublasStatus_t (*kDestroy)(Handle)>
class LtHandle {
 public:
  LtHandle() = default;
  ~LtHandle() {
    if (handle_ != nullptr) (void)kDestroy(handle_);
  }
  LtHandle(const LtHandle&) = delete;
  LtHandle& operator=(const LtHandle&) = delete;
  Handle* out() { return &handle_; }
  [[nodiscard]] Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Descriptor = LtHandle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = LtHandle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = LtHandle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <typename T>
void set(const Descriptor& d, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  lt_check(cublasLtMatmulDescSetAttribute(d.get(), attribute, &value, sizeof(value)),
           "describing a product");
}

template <typename T>
void set(const Preference& p, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  lt_check(cublasLtMatmulPreferenceSetAttribute(p.get(), attribute, &value, sizeof(value)),
           "describing a product");
}

bool aligned(const TensorView& view) {
  const auto address = reinterpret_cast<uintptr_t>(view.data());
  return address % kAlignment == 0 &&
         view.row_stride() * dtype_size(view.dtype()) % int64_t{kAlignment} == 0;
}

}  // namespace

/// The library multiplies column-major matrices: out^T [n, rows] = weight [n, k] * a^T [k, rows].
struct Gemm::Prepared {
  Descriptor product;
  Layout weight, a, out;
  GemmAlgorithm algorithm;
  bool chosen = false;
};

Gemm::Gemm(const DeviceLimits& device, const std::vector<GemmTable>& tables) : device_(device) {
  for (const GemmTable& table : tables)
    if (table.applies(device.name, cublasLtGetVersion())) tables_.push_back(table);
  lt_check(cublasLtCreate(&handle_), "starting");
}

Gemm::~Gemm() {
  (void)cublasLtDestroy(handle_);
}

GemmShape Gemm::shape_of(const GemmArgs& args, int sms) {
  return {.rows = args.out.rows(),
          .n = args.weight.n,
          .k = args.weight.k,
          .a_stride = args.a.row_stride(),
          .out_stride = args.out.row_stride(),
          .dtype = args.a.dtype(),
          .out_dtype = args.out.dtype(),
          .bias = !args.bias.empty(),
          .sms = sms};
}

bool Gemm::supports(const GemmArgs& args) {
  const DType dtype = args.a.dtype();
  return (dtype == DType::kBF16 || dtype == DType::kF16) && args.weight.layout == 0 &&
         args.weight.data.dtype() == dtype &&
         (args.out.dtype() == dtype || (args.out.dtype() == DType::kF32 && args.bias.empty())) &&
         aligned(args.a) && aligned(args.out) && aligned(args.weight.data);
}

std::unique_ptr<Gemm::Prepared> Gemm::describe(const GemmShape& s) const {
  auto p = std::make_unique<Prepared>();
  const cudaDataType_t in = cuda_type(s.dtype);
  lt_check(cublasLtMatmulDescCreate(p->product.out(), CUBLAS_COMPUTE_32F, CUDA_R_32F),
           "describing a product");
  set(p->product, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (s.bias) {
    set(p->product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(p->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, in);
  }
  if (s.sms < device_.num_sms)
    set(p->product, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, static_cast<int32_t>(s.sms));
  const auto layout = [](Layout& l, cudaDataType_t type, int64_t rows, int64_t cols, int64_t ld) {
    lt_check(cublasLtMatrixLayoutCreate(l.out(), type, static_cast<uint64_t>(rows),
                                        static_cast<uint64_t>(cols), ld),
             "describing a matrix");
  };
  layout(p->weight, in, s.k, s.n, s.k);
  layout(p->a, in, s.k, s.rows, s.a_stride);
  layout(p->out, cuda_type(s.out_dtype), s.n, s.rows, s.out_stride);
  return p;
}

std::vector<GemmAlgorithm> Gemm::candidates(const GemmShape& shape, int count) {
  const std::unique_ptr<Prepared> p = describe(shape);
  Preference preference;
  lt_check(cublasLtMatmulPreferenceCreate(preference.out()), "describing a product");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      static_cast<uint64_t>(kMaxWorkspaceBytes));
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set(preference, attribute, kAlignment);
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(count));
  int num_found = 0;
  lt_check(cublasLtMatmulAlgoGetHeuristic(handle_, p->product.get(), p->weight.get(), p->a.get(),
                                          p->out.get(), p->out.get(), preference.get(), count,
                                          found.data(), &num_found),
           "choosing an algorithm");
  std::vector<GemmAlgorithm> algorithms;
  for (int i = 0; i < num_found; ++i) {
    const auto& result = found[static_cast<size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS)
      algorithms.push_back({result.algo, static_cast<int64_t>(result.workspaceSize)});
  }
  return algorithms;
}

std::optional<GemmAlgorithm> Gemm::measured(const GemmShape& s, const Prepared& p) const {
  if (s.sms != device_.num_sms) return std::nullopt;  // tables are of the whole GPU
  for (auto table = tables_.rbegin(); table != tables_.rend(); ++table) {
    const GemmEntry* entry = table->find(s.rows, s.n, s.k, s.dtype, s.out_dtype);
    if (entry == nullptr) continue;
    cublasLtMatmulAlgo_t algo;
    static_assert(sizeof(algo.data) == sizeof(entry->algorithm));
    std::memcpy(algo.data, entry->algorithm.data(), sizeof(algo.data));
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle_, p.product.get(), p.weight.get(), p.a.get(), p.out.get(),
                                p.out.get(), &algo, &result);
    if (status == CUBLAS_STATUS_SUCCESS &&
        static_cast<int64_t>(result.workspaceSize) <= kMaxWorkspaceBytes)
      return GemmAlgorithm{algo, static_cast<int64_t>(result.workspaceSize)};
  }
  return std::nullopt;
}

Gemm::Prepared& Gemm::prepare(const GemmShape& shape) {
  std::unique_ptr<Prepared>& slot = prepared_[shape];
  if (!slot) slot = describe(shape);
  if (slot->chosen) return *slot;
  if (const std::optional<GemmAlgorithm> algorithm = measured(shape, *slot)) {
    slot->algorithm = *algorithm;
  } else {
    const std::vector<GemmAlgorithm> algorithms = candidates(shape, 1);
    if (algorithms.empty())
      throw CudaError(
          fmt::format("cuBLASLt has no algorithm for {} x {} x {}", shape.rows, shape.n, shape.k));
    slot->algorithm = algorithms.front();
  }
  slot->chosen = true;
  return *slot;
}

void Gemm::choose(const GemmShape& shape, const GemmAlgorithm& algorithm) {
  std::unique_ptr<Prepared>& slot = prepared_[shape];
  if (!slot) slot = describe(shape);
  slot->algorithm = algorithm;
  slot->chosen = true;
}

int64_t Gemm::workspace_bytes(const GemmArgs& args, int sms) {
  return prepare(shape_of(args, sms)).algorithm.workspace_bytes;
}

void Gemm::run(const GemmArgs& args, const Launch& launch) {
  if (args.out.rows() == 0) return;  // the library would launch an empty grid, which fails
  const Prepared& p = prepare(shape_of(args, launch.sms));
  NANO_CHECK(launch.workspace.size_bytes() >= p.algorithm.workspace_bytes,
             "{} bytes of workspace, {} needed", launch.workspace.size_bytes(),
             p.algorithm.workspace_bytes);
  if (!args.bias.empty())
    set(p.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(args.bias.data()));
  const float one = 1, zero = 0;
  const cublasStatus_t status =
      cublasLtMatmul(handle_, p.product.get(), &one, args.weight.data.data(), p.weight.get(),
                     args.a.data(), p.a.get(), &zero, args.out.data(), p.out.get(), args.out.data(),
                     p.out.get(), &p.algorithm.algo, launch.workspace.data(),
                     static_cast<size_t>(p.algorithm.workspace_bytes), launch.stream);
  if (status != CUBLAS_STATUS_SUCCESS) {
    const GemmShape s = shape_of(args, launch.sms);
    lt_check(status, fmt::format("a product of {} [{}, {}] by [{}, {}] into {}{} on {} SMs",
                                 dtype_name(s.dtype), s.rows, s.k, s.n, s.k,
                                 dtype_name(s.out_dtype), s.bias ? " with a bias" : "", s.sms)
                         .c_str());
  }
}

}  // namespace nanoflow::cuda
