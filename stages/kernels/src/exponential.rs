//! 2ˣ by the chip's own instruction: CubeCL's exponential takes nine instructions around it.

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
