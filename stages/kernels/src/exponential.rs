//! 2ˣ and 1/(1 + e⁻ˣ) by the chip's own instructions: CubeCL's exponential takes nine instructions around it, and its division is exact.

use cubecl::prelude::*;
use cubecl_ir::interfaces::TriviallyUnrollable;
use cubecl_ir::prelude::*;
use cubecl_ir::{CanMaterialize, PropagatesUniformity, Pure};
use cubecl_llvm::shared::to_llvm::{ToLLVMDialect, prelude::call_intrinsic};

/// An operation of CubeCL's intermediate language: `ex2.approx.ftz.f32` of PTX.
#[cube_op(name = "sd3pipe.exp2")]
#[result_ty(same_as = input)]
#[op_interfaces(SameOperandsType, SameOperandsAndResultType, TriviallyUnrollable)]
#[op_traits(CanMaterialize, Pure, PropagatesUniformity)]
struct Exp2Op {
    input: Value,
}

#[op_interface_impl]
impl ToLLVMDialect for Exp2Op {
    fn rewrite(&self, ctx: &mut Context, rewriter: &mut DialectConversionRewriter, _: &OperandsInfo) -> Result<()> {
        let input = self.input(ctx);
        let result = input.get_type(ctx);
        let value = call_intrinsic(ctx, rewriter, "llvm.nvvm.ex2.approx.ftz.f", result, vec![input]);
        rewriter.replace_operation_with_values(ctx, self.get_operation(), vec![value]);
        Ok(())
    }
}

/// An operation of CubeCL's intermediate language: `rcp.approx.ftz.f32` of PTX.
#[cube_op(name = "sd3pipe.reciprocal")]
#[result_ty(same_as = input)]
#[op_interfaces(SameOperandsType, SameOperandsAndResultType, TriviallyUnrollable)]
#[op_traits(CanMaterialize, Pure, PropagatesUniformity)]
struct ReciprocalOp {
    input: Value,
}

#[op_interface_impl]
impl ToLLVMDialect for ReciprocalOp {
    fn rewrite(&self, ctx: &mut Context, rewriter: &mut DialectConversionRewriter, _: &OperandsInfo) -> Result<()> {
        let input = self.input(ctx);
        let result = input.get_type(ctx);
        let value = call_intrinsic(ctx, rewriter, "llvm.nvvm.rcp.approx.ftz.f", result, vec![input]);
        rewriter.replace_operation_with_values(ctx, self.get_operation(), vec![value]);
        Ok(())
    }
}

/// 2ˣ: within two units in the last place, and 0 where it would be smaller than a normal number.
#[cube]
#[allow(unused_variables, reason = "it is read by the code that the kernel is expanded from")]
pub(crate) fn exp2(x: f32) -> f32 {
    intrinsic!(|scope| {
        let input = x.read_value(scope);
        let op = Exp2Op::new(scope.ctx_mut(), input);
        scope.register_with_result(&op).into()
    })
}

/// 1/x: within one unit in the last place.
#[cube]
#[allow(unused_variables, reason = "it is read by the code that the kernel is expanded from")]
fn reciprocal(x: f32) -> f32 {
    intrinsic!(|scope| {
        let input = x.read_value(scope);
        let op = ReciprocalOp::new(scope.ctx_mut(), input);
        scope.register_with_result(&op).into()
    })
}

/// 1/(1 + e⁻ˣ): within a few units in the last place.
#[cube]
pub(crate) fn sigmoid(x: f32) -> f32 {
    reciprocal(exp2(x * comptime![-std::f32::consts::LOG2_E]) + 1f32)
}
