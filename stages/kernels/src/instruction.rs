//! Functions by the chip's own instructions: CubeCL's are exact to the last bit, or nearly, and take many.

use cubecl::prelude::*;
use cubecl_ir::interfaces::TriviallyUnrollable;
use cubecl_ir::prelude::*;
use cubecl_ir::{CanMaterialize, PropagatesUniformity, Pure};
use cubecl_llvm::shared::to_llvm::{ToLLVMDialect, prelude::call_intrinsic};

/// An operation of CubeCL's intermediate language, and the function that kernels call.
macro_rules! instruction {
    ($(#[$comment:meta])* $function:ident, $op:ident, $name:literal, $intrinsic:literal) => {
        #[cube_op(name = $name)]
        #[result_ty(same_as = input)]
        #[op_interfaces(SameOperandsType, SameOperandsAndResultType, TriviallyUnrollable)]
        #[op_traits(CanMaterialize, Pure, PropagatesUniformity)]
        struct $op {
            input: Value,
        }

        #[op_interface_impl]
        impl ToLLVMDialect for $op {
            fn rewrite(
                &self,
                ctx: &mut Context,
                rewriter: &mut DialectConversionRewriter,
                _: &OperandsInfo,
            ) -> Result<()> {
                let input = self.input(ctx);
                let result = input.get_type(ctx);
                let value = call_intrinsic(ctx, rewriter, $intrinsic, result, vec![input]);
                rewriter.replace_operation_with_values(ctx, self.get_operation(), vec![value]);
                Ok(())
            }
        }

        $(#[$comment])*
        #[cube]
        #[allow(unused_variables, reason = "it is read by the code that the kernel is expanded from")]
        pub(crate) fn $function(x: f32) -> f32 {
            intrinsic!(|scope| {
                let input = x.read_value(scope);
                let op = $op::new(scope.ctx_mut(), input);
                scope.register_with_result(&op).into()
            })
        }
    };
}

instruction! {
    /// 2ˣ: within two units in the last place, and 0 where it would be smaller than a normal number.
    exp2, Exp2Op, "sd3pipe.exp2", "llvm.nvvm.ex2.approx.ftz.f"
}

instruction! {
    /// 1/x: within one unit in the last place; what is smaller than a normal number counts as 0.
    reciprocal, ReciprocalOp, "sd3pipe.reciprocal", "llvm.nvvm.rcp.approx.ftz.f"
}

instruction! {
    /// √x: within two units in the last place; what is smaller than a normal number counts as 0.
    root, RootOp, "sd3pipe.root", "llvm.nvvm.sqrt.approx.ftz.f"
}

/// 1/(1 + e⁻ˣ): within a few units in the last place.
#[cube]
pub(crate) fn sigmoid(x: f32) -> f32 {
    reciprocal(exp2(x * comptime![-std::f32::consts::LOG2_E]) + 1f32)
}
