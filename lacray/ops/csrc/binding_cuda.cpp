#include "binding.h"
#include "engine_cuda.h"

namespace lacray {
namespace {

// torch's own macro for this has changed its name between the supported releases.
void check(AOTITorchError status, const char* what) { STD_TORCH_CHECK(status == 0, "lacray: ", what); }

struct Cuda {
  static constexpr bool kGradientOfDtw = false;
  template <class T>
  static constexpr Tiles tiles() {
    return {cuda::kTileRows, cuda::tile_columns<T>()};
  }
  // Scalar gaps: one partial sum per tile. Shared gaps: one table per problem. Summed in a fixed order afterwards.
  template <class T>
  static int64_t num_groups(const SoftSw<T>& call) {
    return call.gap_kind == GapKind::scalar ? call.B * cuda::num_tiles(call) : call.B;
  }

  // Of gap gradients, to be added up; own gaps have one.
  template <class T>
  static int64_t num_tables(const SoftSw<T>& call) {
    return call.gap_kind == GapKind::own ? 1 : num_groups(call);
  }

  template <template <class> class Call, class T>
  static void run(const char* (*engine)(const Call<T>&, cuda::Scratch<T>, void*), const Call<T>& call, const Tensor& like,
                  int64_t num_values) {
    const int32_t device = like.get_device_index();
    CUDAGuardHandle guard = nullptr;
    check(aoti_torch_create_cuda_guard(device, &guard), "no guard for the device");
    const char* error = nullptr;
    {
      Tensor counters = torch::stable::new_zeros(like, std::vector<int64_t>{cuda::num_counters(call)}, ScalarType::Int);
      Tensor values = empty(like, {num_values});
      void* stream = nullptr;
      check(aoti_torch_get_current_cuda_stream(device, &stream), "no current stream");
      error = engine(call, {data<int>(counters), data<T>(values)}, stream);
    }
    check(aoti_torch_delete_cuda_guard(guard), "the device's guard stays");
    STD_TORCH_CHECK(error == nullptr, "lacray: the CUDA kernel was not launched: ", error);
  }
  template <template <class> class Call, class T>
  static void forward(const Call<T>& call, const Tensor& like) {
    run<Call, T>(&cuda::forward<T>, call, like, cuda::num_forward_values(call));
  }
  template <template <class> class Call, class T>
  static void backward(const Call<T>& call, const Tensor& like) {
    run<Call, T>(&cuda::backward<T>, call, like, cuda::num_backward_values(call));
  }
};

}  // namespace
}  // namespace lacray

STABLE_TORCH_LIBRARY_IMPL(lacray, CUDA, m) {
  m.impl("soft_sw", TORCH_BOX(&lacray::forward_op<lacray::Cuda>));
  m.impl("soft_sw_backward", TORCH_BOX(&lacray::backward_op<lacray::Cuda>));
  m.impl("dtw", TORCH_BOX(&lacray::dtw_op<lacray::Cuda>));
  m.impl("dtw_backward", TORCH_BOX(&lacray::dtw_backward_op<lacray::Cuda>));
}
