"""Kernel names as profilers recorded them, each in its kind."""

from __future__ import annotations

import pytest

from sparseflow.profiling.kernel_kinds import kind_of

RECORDED = {
    "GEMM": [
        "nvjet_tst_192x8_64x8_4x1_v_bz_TNT",
        "nvjet_hsh_256x128_64x4_2x1_v_bz_coopA_TNN",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off",
        "sm90_xmma_sparse_gemm_f16f16_f16f32_f32_nt_t_tilesize128x128x64_cgasize2x1x1_stage4_gmmastage2_kernel",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float>(Params)",
        "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8>(Params)",
        "void gemvx::kernel<int, int, __nv_bfloat16, __nv_bfloat16, float>(T13)",
        "void sparseflow::cuda::skinny::multiply<Shape<__nv_bfloat16, 8, 4> >(Product, int)",
        "void sparseflow::cuda::skinny::finish_partials<__nv_bfloat16>(Product, int)",
        "void sparseflow::cuda::(anonymous namespace)::decompress_tiles<unsigned short>(Layout)",
        "triton_tem_fused_addmm_relu_3",
        "aten::addmm",
        "aten::mm",
        "aten::bmm",
        "mkldnn::_linear_pointwise",
        "sparseflow::linear",
    ],
    "attention": [
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4>>(Params)",
        "void pytorch_flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<128, 64, 4>>(Params)",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::bfloat16_t>)",
        "void cutlass::device_kernel<flash::FlashAttnFwdSm90<...>>(Params)",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0",
        "triton_tem_fused_flex_attention_0",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
    ],
    "elementwise": [
        "triton_poi_fused_add_mul_silu_3",
        "triton_red_fused__to_copy_mean_mul_pow_rsqrt_2",
        "triton_per_fused_native_layer_norm_1",
        "triton_poi_fused__scaled_dot_product_flash_attention_clone_mul_4",
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>, ...>",
        "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda(...)>",
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, MeanOps<float>>>(...)",
        "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>(int, float)",
        "void at::native::(anonymous namespace)::CatArrayBatchedCopy<at::native::OpaqueType<2u>, 4, 64, 64>",
        "void sparseflow::cuda::(anonymous namespace)::gate_eights<sparseflow::cuda::skinny::Bf16>(Gated)",
        "void sparseflow::cuda::(anonymous namespace)::quantize<__nv_bfloat16, 256>(Fp8Rows)",
        "void sparseflow::cuda::fp8_rows::quantize_held<skinny::Bf16, 8, Rows>(Rows)",
        "void sparseflow::cuda::(anonymous namespace)::activate_eights<skinny::Bf16>(Activated)",
        "void sparseflow::cuda::(anonymous namespace)::finish<__nv_bfloat16>(Rescaled)",
        "aten::gelu",
        "aten::native_layer_norm",
        "aten::copy_",
        "aten::tanh",
    ],
    "other": [
        "Memcpy DtoD (Device -> Device)",
        "Memcpy HtoD (Pageable -> Device)",
        "Memset (Device)",
        "aten::view",
        "aten::t",
        "aten::as_strided",
        "aten::empty_strided",
        "a_kernel_that_nobody_knows",
    ],
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in RECORDED.items() for name in names]
)
def test_a_recorded_name_has_its_kind(kind, name):
    assert kind_of(name) == kind
